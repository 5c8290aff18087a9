package batch

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

// A session of thirty hours, in 50 of 60 windows: each is covered by a plan of its own, so its state goes from run to run. Some windows
// have no beacon of anybody, and its visits end in those; late ones reach back over dozens of windows at the end. What is
// covered is what the oracle says, before and after that.
func TestASessionOverManyWindows(t *testing.T) {
	devstack.AtLength(t)
	text := strings.Replace(config, "session_ttl: 1h", "session_ttl: 12h", 1)
	configs := load(t, text)
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(50, 1))
	beacon := func(session string, ts, delay int64, rest string) oracle.Record {
		return oracle.Record{Ingest: ts + delay, Payload: fmt.Appendf(nil, `{"id":"%s-%d","tenant":"shop","session":"%s","visitor":"v","ts":%d,"device":"mobile"%s}`, session, ts, session, ts, rest)}
	}
	const windows = 60
	empty := func(w int) bool { return w%12 == 5 || w%12 == 6 }
	var all []oracle.Record
	at := func(w int) []oracle.Record { // of the window, all on time and in it
		if empty(w) {
			return nil
		}
		var recs []oracle.Record
		begin := t0 + int64(w)*WindowMS
		for _, k := range []int64{rng.Int64N(9), 10 + rng.Int64N(10), 28} {
			rest := fmt.Sprintf(`,"point":"%s"`, []string{"home", "elsewhere"}[rng.IntN(2)])
			if rng.IntN(3) == 0 {
				rest = fmt.Sprintf(`,"point":"order","values":{"revenue":%d.25}`, rng.IntN(40))
			}
			if w == 2 {
				rest += `,"experiments":{"color":"red"}`
			}
			recs = append(recs, beacon("long", begin+k*minute, rng.Int64N(minute), rest))
		}
		if w%5 == 0 {
			recs = append(recs, beacon(fmt.Sprintf("short%d", w), begin+rng.Int64N(25*minute), 0, `,"point":"home","experiments":{"color":"control"}`))
		}
		slices.SortStableFunc(recs, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
		return recs
	}
	for _, ranges := range []int{1, 3} {
		all = all[:0]
		blobs := blob.NewMem()
		j, st := job(t, chain, blobs, ranges)
		for w := range windows {
			recs := at(w)
			all = append(all, recs...)
			putUntil(t, blobs, chain, recs, 1, t0+int64(w+1)*WindowMS+11*minute)
			run(t, j)
		}
		rows, _ := wanted(t, configs, all, false)
		soFar := (t0 + windows*WindowMS) / minute // an end after the last window is not told yet
		rows = slices.DeleteFunc(rows, func(line string) bool { return minuteOf(t, line) >= soFar })
		sameLines(t, fmt.Sprintf("%d ranges, one window after the other", ranges), outcomeOf(t, j, st).rows, rows)
		if plans := len(mustReports(t, j)); plans < min(windows, maxReports) {
			t.Errorf("%d plans for %d windows", plans, windows)
		}
		late := []oracle.Record{
			beacon("long", t0+minute, 48*hour, `,"point":"home","experiments":{"color":"control"}`), // before the assignment there was
			beacon("long", t0+17*WindowMS+minute, 40*hour, `,"point":"order","values":{"revenue":45.5}`),
			beacon("long", t0+50*WindowMS+2*minute, 14*hour, ``),
		}
		all = append(all, late...)
		putUntil(t, blobs, chain, late, 2, t0+(windows+40)*WindowMS)
		run(t, j)
		putUntil(t, blobs, chain, nil, 1, t0+(windows+100)*WindowMS)
		run(t, j)
		rows, _ = wanted(t, configs, all, false)
		sameLines(t, fmt.Sprintf("%d ranges, with late beacons", ranges), outcomeOf(t, j, st).rows, rows)
		if p, _, err := j.Plan(t.Context()); err != nil || p != nil {
			t.Errorf("afterwards plan %+v, %v", p, err)
		}
	}
}

// minuteOf is the minute that a line of a rows file tells of.
func minuteOf(t *testing.T, line string) int64 {
	t.Helper()
	m, err := strconv.ParseInt(strings.Split(line, "\t")[2], 10, 64)
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return m
}
