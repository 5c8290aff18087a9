package batch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
)

// spliceOf lays what a config says over minutes [from, to) after t0.
func spliceOf(c *tenant.Config, from, to int64) *tenant.Config {
	s := *c
	s.HasFrom, s.From, s.HasTo, s.To = true, t0+from*minute, true, t0+to*minute
	return &s
}

// visitsAt are the records of one session at minutes after t0, the first with an assignment.
func visitsAt(point string, experiments string, minutes ...int64) (records []oracle.Record) {
	for k, m := range minutes {
		ts, x := t0+m*minute, ""
		if k == 0 {
			x = experiments
		}
		records = append(records, oracle.Record{Ingest: ts, Payload: fmt.Appendf(nil, `{"id":"e%d","tenant":"shop","session":"s","ts":%d,"point":"%s"%s}`, k, ts, point, x)})
	}
	return records
}

// Splices one after another, each backfilled: what stands is what the whole chain says.
func TestBackfillOfSplicesOverSplices(t *testing.T) {
	plain := "session_ttl: 2h\npoints: {order: {}}\n"
	more := "session_ttl: 2h\npoints: {order: {}, item: {}}\n"
	ends := "session_ttl: 2h\npoints: {order: {}}\nexperiments: {color: {variations: [control, red], start: " + at(0) + ", end: %s}}\n"
	type lay struct {
		what     int // of the texts
		from, to int64
	}
	red := `,"experiments":{"color":"red"}`
	for name, x := range map[string]struct {
		texts   []string
		splices []lay
		records []oracle.Record
	}{
		"the head of one is undone within a window": {[]string{plain, more}, []lay{{1, 5, 20}, {0, 5, 10}}, visitsAt("item", "", 6, 7, 15, 16)},
		"its tail is": {[]string{plain, more}, []lay{{1, 5, 20}, {0, 10, 20}}, visitsAt("item", "", 6, 7, 15, 16)},
		"an experiment no longer ends where a splice does": {[]string{fmt.Sprintf(ends, at(400)), fmt.Sprintf(ends, at(75))},
			[]lay{{1, 30, 90}, {0, 60, 90}}, visitsAt("order", red, 50, 95, 96)},
		"a visit that began before the end of an experiment": {[]string{fmt.Sprintf(ends, at(60)), fmt.Sprintf(ends, at(400))},
			[]lay{{1, 50, 120}}, visitsAt("order", red, 10, 75, 95, 115, 135, 155, 175, 195, 215, 235, 255, 275, 295)},
		"visits that ended hours later": {[]string{plain, "visit_gap: 6h\nsession_ttl: 6h\npoints: {order: {}}\n"},
			[]lay{{1, 0, 30}, {0, 0, 30}}, visitsAt("order", "", 10)},
		"visits that end hours later": {[]string{"visit_gap: 6h\nsession_ttl: 6h\npoints: {order: {}}\n", plain},
			[]lay{{1, -600, 600}, {0, -600, 600}}, visitsAt("order", "", 10)},
	} {
		t.Run(name, func(t *testing.T) {
			before := load(t, x.texts[0])
			j, st := covered(t, before, x.records)
			after := before
			for _, l := range x.splices {
				was := outcomeOf(t, j, st).rows
				after = append(slices.Clone(after), spliceOf(load(t, x.texts[l.what])[0], l.from, l.to))
				j.Chain = chainOf(t, after)
				backfill(t, j, everything())
				rows, _ := wanted(t, worlds.Flat(after), x.records, false)
				sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
				if slices.Equal(was, rows) {
					t.Error("the splice changes nothing")
				}
				quiet(t, "after it", j, everything())
			}
		})
	}
}

// A window in which nothing can happen any more by the config in force, and whose run a new window would read.
func TestANewWindowAfterOneThatIsNoMore(t *testing.T) {
	before := load(t, "session_ttl: 2h\npoints: {order: {}}\n")
	long := spliceOf(load(t, "visit_gap: 6h\nsession_ttl: 6h\npoints: {order: {}}\n")[0], 0, 30)
	records := visitsAt("order", "", 10)
	j, st := covered(t, append(slices.Clone(before), long), records)
	after := append(slices.Clone(before), long, spliceOf(before[0], 0, 30))
	j.Chain = chainOf(t, after)
	more := visitsAt("order", "", 400)
	add(t, j.Blobs, j.Chain, 0, parse(j.Chain, more)[0], t0+50*60*minute)
	add(t, j.Blobs, j.Chain, 1, parse(j.Chain, more)[1], t0+50*60*minute)
	run(t, j)
	backfill(t, j, everything())
	rows, _ := wanted(t, worlds.Flat(after), append(records, more...), false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	quiet(t, "after it", j, everything())
}

// A backfill that begins after a window whose run cannot be read any more says where to begin.
func TestBackfillAfterAnotherSplicesWindow(t *testing.T) {
	before := load(t, "session_ttl: 2h\npoints: {order: {}}\n")
	other := load(t, "session_ttl: 2h\npoints: {order: {}, item: {}}\n")[0]
	records := visitsAt("item", "", 10, 35, 40, 65)
	j, st := covered(t, append(slices.Clone(before), spliceOf(other, 5, 25)), records)
	after := append(slices.Clone(before), spliceOf(other, 5, 25), spliceOf(other, 5, 55))
	j.Chain = chainOf(t, after)
	b := &Backfill{From: t0 + WindowMS, To: t0 + 3*WindowMS}
	if _, err := j.Forecast(context.Background(), b); err == nil || !strings.Contains(err.Error(), "cannot be read from window 2026-01-01T00:00:00Z before it") {
		t.Errorf("forecast: %v", err)
	}
	b.From = t0
	backfill(t, j, b)
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
}
