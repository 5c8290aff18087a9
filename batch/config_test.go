package batch

import (
	"context"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/schemas/blob"
)

// A run that began before a revision was appended, and covers windows that it is in force over.
func TestAConfigThatChangesWhileARunGoesOn(t *testing.T) {
	first := "points: {home: {}}\n"
	before, after := load(t, first), load(t, first, "from: "+at(62)+"\npoints: {home: {}, order: {}}\n")
	records := traffic(200)
	chain, grown := chainOf(t, before), chainOf(t, after)
	end := t0 + 2*WindowMS
	early := slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest >= end })
	rest := slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest < end })
	want, _ := wanted(t, after, records, false)
	for name, do := range map[string]func(j *Job) error{
		"a batch":    func(j *Job) error { return j.Run(context.Background()) },
		"a backfill": func(j *Job) error { return j.Backfill(context.Background(), everything(), nil) },
	} {
		blobs := blob.NewMem()
		putUntil(t, blobs, chain, early, 1, end+10*minute)
		j, st := job(t, chain, blobs, 2)
		stored := chain
		j.Renew = func() error { j.Chain = stored; return nil }
		j.Done = func(c *Covered) {
			if stored == chain {
				stored = grown
				put(t, blobs, grown, rest, 1)
			}
		}
		if err := do(j); err != nil {
			t.Fatal(err)
		}
		sameLines(t, name, outcomeOf(t, j, st).rows, want)
	}
}

// A task of a plan that was made by another config: what it came to would be taken for what that config says.
func TestATaskUnderAnotherConfig(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(40)
	old, spliced := chainOf(t, before), chainOf(t, after)
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "by another config than this process") {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx := context.Background()
	blobs := blob.NewMem()
	put(t, blobs, old, records, 2)
	j, st := job(t, spliced, blobs, 2)
	p, a := planOf(t, j)
	slow := *j
	slow.Chain = old
	refused("map", slow.MapPart(ctx, p, a, 0, 1))
	must(t, j.MapAll(ctx, p, a))
	refused("reduce", slow.ReduceWindow(ctx, p, p.Windows[0].Window))
	other := *j
	other.Parser++
	for what, err := range map[string]error{"map": other.MapPart(ctx, p, a, 0, 1), "reduce": other.ReduceWindow(ctx, p, p.Windows[0].Window)} {
		if err == nil || !strings.Contains(err.Error(), "was made by another release") {
			t.Errorf("%s by another parser: %v", what, err)
		}
	}
	for _, w := range p.Windows {
		must(t, j.ReduceWindow(ctx, p, w.Window))
	}
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
}
