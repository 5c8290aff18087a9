package batch

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

// days draws records of sessions that begin somewhere in so many days, on time.
func days(sessions, n int) []oracle.Record {
	rng := rand.New(rand.NewPCG(6, 7))
	var out []oracle.Record
	for s := range sessions {
		ts := t0 + rng.Int64N(int64(n)*24*hour-hour)
		for k := range 1 + rng.IntN(6) {
			out = append(out, oracle.Record{Ingest: ts + rng.Int64N(minute), Payload: fmt.Appendf(nil,
				`{"id":"e%d","tenant":"shop","session":"s%d","visitor":"v%d","ts":%d,"point":"home","device":"mobile","experiments":{"color":"red"}}`, k, s, s, ts)})
			ts += rng.Int64N(20 * minute)
		}
	}
	slices.SortStableFunc(out, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	return out
}

// A thousand beacons come two days late: they wait until the pass, which runs their windows, and what follows from these, and
// ends; in between new windows are covered as ever.
func TestAThousandTwoDaysLate(t *testing.T) {
	devstack.AtLength(t)
	chain, configs := compiled(t)
	ctx := context.Background()
	all := days(1500, 3)
	late := make([]oracle.Record, 1000) // over two hours, some of sessions that are there
	for i := range late {
		ts := t0 + 3*hour + int64(i)*7200
		late[i] = oracle.Record{Ingest: ts + 47*hour, Payload: fmt.Appendf(nil,
			`{"id":"late%d","tenant":"shop","session":"s%d","visitor":"v","ts":%d,"point":"home","device":"mobile"}`, i, i*2, ts)}
	}
	blobs := blob.NewMem()
	j, st := job(t, chain, blobs, 0)
	j.LateEvery = 24 * time.Hour
	upTo := func(h int) {
		t.Helper()
		end := t0 + int64(h)*hour
		n, _ := slices.BinarySearchFunc(all, end, func(r oracle.Record, ms int64) int { return cmp.Compare(r.Ingest, ms) })
		putUntil(t, blobs, chain, all[:n], 1, end)
		all = all[n:]
	}
	for h := 1; h <= 50; h++ {
		if h%10 == 0 {
			upTo(h)
			run(t, j)
		}
	}
	records := slices.Clone(days(1500, 3))
	putUntil(t, blobs, chain, late, 4, t0+50*hour)
	records = append(records, late...)
	before := len(mustReports(t, j))
	for h := 53; h < 72; h += 3 {
		upTo(h)
		run(t, j)
	}
	w, _, err := j.Waiting(ctx)
	if err != nil || w.Beacons != 1000 || w.Windows != 4 || w.First != t0+3*hour || w.Due != t0+72*hour {
		t.Fatalf("what waits is %+v, %v", w, err)
	}
	for _, r := range mustReports(t, j)[before:] {
		if len(r.Again) > 0 {
			t.Errorf("before the pass plan %d ran again %+v", r.Generation, r.Again)
		}
	}
	before = len(mustReports(t, j))
	upTo(72)
	began := time.Now()
	run(t, j)
	took := time.Since(began)
	if w, _, err := j.Waiting(ctx); err != nil || w.Windows != 0 {
		t.Errorf("after the pass %+v waits, %v", w, err)
	}
	windows, beacons, ended, came := 0, int64(0), 0, int64(0)
	for _, r := range mustReports(t, j)[before:] {
		for _, a := range r.Again {
			windows += int((a.Last-a.First)/WindowMS) + 1
			came += a.Late
			if a.Next == 0 {
				ended++
			}
			t.Logf("plan %d, %d beacons: %s to %s, %d late, next %d", r.Generation, r.Beacons, windowName(a.First), windowName(a.Last), a.Late, a.Next)
		}
		if len(r.Again) > 0 {
			beacons += r.Beacons
		}
	}
	t.Logf("the pass ran %d windows with %d beacons in %v", windows, beacons, took)
	if came != 1000 || ended != 1 || windows < 4 || windows > 12 { // session_ttl is an hour
		t.Errorf("the pass ran %d windows for %d beacons, %d ranges ended", windows, came, ended)
	}
	if p, _, err := j.Plan(ctx); err != nil || p != nil {
		t.Errorf("after the pass plan %+v, %v", p, err)
	}
	putUntil(t, blobs, chain, nil, 1, t0+100*hour)
	run(t, j)
	rows, _ := wanted(t, configs, records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
}

// mustReports are all reports, the oldest first.
func mustReports(t *testing.T, j *Job) []*Report {
	t.Helper()
	all, err := j.Reports(maxReports)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(all)
	return all
}

// Where coverage ends, sessions with late beacons may count in both layers: coverage tells how many there are in each window.
func TestSessionsWithLateBeaconsAreCounted(t *testing.T) {
	chain, _ := compiled(t)
	beacon := func(session, id int, ts, delay int64) oracle.Record {
		return oracle.Record{Ingest: ts + delay, Payload: fmt.Appendf(nil, `{"id":"e%d","tenant":"shop","session":"s%d","ts":%d,"point":"home"}`, id, session, ts)}
	}
	records := []oracle.Record{
		beacon(1, 1, t0, 0), beacon(1, 2, t0+minute, 11*minute), beacon(1, 3, t0+2*minute, 11*minute), // one session, two late ones
		beacon(2, 1, t0+minute, 20*minute), beacon(3, 1, t0+minute, 10*minute),
		beacon(3, 2, t0+WindowMS, 11*minute), // in the next window
	}
	blobs := blob.NewMem()
	put(t, blobs, chain, records, 1)
	j, _ := job(t, chain, blobs, 2)
	run(t, j)
	covered, err := j.Covered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for w, want := range map[int64][2]int64{t0: {3, 2}, t0 + WindowMS: {1, 1}} {
		if got := covered[w].Counts; got.Late != want[0] || got.LateSessions != want[1] {
			t.Errorf("window %s: %d late beacons of %d sessions, want %v", windowName(w), got.Late, got.LateSessions, want)
		}
	}
}
