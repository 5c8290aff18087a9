package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/tables"
	"tandem/scripts/devstack"
)

// Files are kept for retention + max_age.
const (
	shortLived = "retention: 3h\nmax_age: 2h\n"
	keptFor    = 5 * hour
)

// whole checks that all that coverage of windows from the retention on names is there, and that no table tells of rows that are
// not; and returns what there is.
func whole(t *testing.T, what string, j *Job) []string {
	t.Helper()
	kept, err := j.keptFrom()
	if err != nil {
		t.Fatal(err)
	}
	covered, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	all, err := j.Blobs.List("")
	if err != nil {
		t.Fatal(err)
	}
	there := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if _, ok := slices.BinarySearch(all, name); !ok {
				t.Fatalf("%s: %s is gone, and named", what, name)
			}
		}
	}
	for w, c := range covered {
		if w < kept {
			continue
		}
		there(j.runName(c.Generation, w), tables.RowsName(j.Chain.Tenant, w, c.Generation), tables.CoverageName(j.Chain.Tenant, w, c.Generation))
		for _, f := range c.Files {
			there(f.Name)
		}
		for _, r := range c.Inputs.Runs {
			there(j.runName(r.Generation, r.Window))
		}
	}
	for _, name := range all {
		if rest, ok := strings.CutPrefix(name, "coverage/"); ok {
			there("rows/" + rest)
		}
		if strings.HasSuffix(name, "/run.json") {
			var g, w int64
			if _, err := fmt.Sscanf(strings.TrimPrefix(name, j.folder()+"out/"), "%d/%d/", &g, &w); err != nil {
				t.Fatal(err)
			}
			run, err := j.readRun(runKey{g, w, wholeRun})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range run.Files {
				there(f.Name)
			}
		}
	}
	return all
}

// keptOnly checks that nothing is left of windows behind the retention but what coverage of later ones names.
func keptOnly(t *testing.T, what string, j *Job) {
	t.Helper()
	kept, err := j.keptFrom()
	if err != nil {
		t.Fatal(err)
	}
	made, err := j.pieces()
	if err != nil {
		t.Fatal(err)
	}
	covered, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	inputs := map[piece]bool{}
	for w, c := range covered {
		for _, r := range c.Inputs.Runs {
			inputs[piece{r.Generation, r.Window}] = w >= kept || inputs[piece{r.Generation, r.Window}]
		}
	}
	names := map[string]bool{}
	for p := range made {
		if p.Window < kept && !inputs[p] {
			t.Errorf("%s: generation %d of window %s is left, before %s", what, p.Generation, windowName(p.Window), windowName(kept))
		}
		for _, name := range j.tablesOf(p) {
			names[name] = true
		}
	}
	for _, folder := range []string{"rows/", "coverage/"} {
		all, err := j.Blobs.List(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			if !names[name] {
				t.Errorf("%s: table %s is left of what is gone", what, name)
			}
		}
	}
}

func retentionRig(t *testing.T, seed uint64) (rng *rand.Rand, chain *tenant.Chain, records []oracle.Record, rows []string) {
	t.Helper()
	configs := load(t, shortLived+config)
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	rng = rand.New(rand.NewPCG(seed, 9))
	records = trafficOver(rng, 120, 14*hour)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	rows, _ = wanted(t, configs, records, false)
	return rng, chain, records, rows
}

// Whenever files, runs and tables go for their age, the batch comes to what the oracle says, and so does a backfill of all that
// is kept.
func TestRetentionAtAnyTime(t *testing.T) {
	for seed := range uint64(devstack.Count(1, 20)) {
		rng, chain, records, rows := retentionRig(t, seed)
		blobs := blob.NewMem()
		j, st := job(t, chain, blobs, 0)
		now := int64(1_800_000_000_000)
		gone, backfills, progress := 0, 0, int64(0)
		for rest := records; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(30))
			progress = rest[n-1].Ingest
			putUntil(t, blobs, chain, rest[:n], 1, progress)
			rest = rest[n:]
			switch rng.IntN(5) {
			case 0:
				run(t, j)
			case 1: // stopped somewhere
				interrupted(t, j, 1+rng.IntN(3))
				j.Ranges = 0
			case 2: // a window is covered hours before its files go
				run(t, j)
				retire(t, blobs, (progress-keptFor)/WindowMS*WindowMS)
			case 3:
				a, err := j.Archived()
				if err != nil {
					t.Fatal(err)
				}
				b := &Backfill{From: max(a.From, t0/WindowMS*WindowMS), Reparse: true}
				if b.To = progress / WindowMS * WindowMS; b.From < b.To && rng.IntN(2) == 0 {
					again := *j
					again.Reparse, again.Parser = true, backfills+1
					if err := again.Backfill(context.Background(), b, nil); err != nil {
						t.Fatalf("seed %d: backfill from %s: %v", seed, windowName(b.From), err)
					}
					j.Parser = again.Parser
					backfills++
				}
			}
			for range rng.IntN(3) {
				now += rng.Int64N(hour)
				before, _ := blobs.List(j.folder() + "out/")
				collect(t, j, st, now)
				after := whole(t, fmt.Sprint("seed ", seed), j)
				gone += len(before) - len(slices.DeleteFunc(after, func(n string) bool { return !strings.HasPrefix(n, j.folder()+"out/") }))
			}
		}
		putUntil(t, blobs, chain, nil, 1, progress+3*hour)
		run(t, j)
		retire(t, blobs, (progress+3*hour-keptFor)/WindowMS*WindowMS)
		sameLines(t, fmt.Sprint("seed ", seed), outcomeOf(t, j, st).rows, rows)
		_, old, err := j.Removable(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		collect(t, j, st, now)
		if c := collect(t, j, st, now+CollectGrace); c.Deleted == 0 && old.Windows > 0 {
			t.Errorf("seed %d: %+v; to be removed were %+v", seed, c, old)
		}
		whole(t, "collected", j)
		keptOnly(t, fmt.Sprint("seed ", seed), j)
		sameLines(t, fmt.Sprint("collected, seed ", seed), outcomeOf(t, j, st).rows, rows)
		if p, _, err := j.Plan(context.Background()); p != nil || err != nil {
			t.Errorf("seed %d: after it windows are due: %v, %v", seed, p, err)
		}
		if gone == 0 {
			t.Errorf("seed %d: nothing ever went in between", seed)
		}
	}
}

// aged is a store whose first hours are behind the retention, not yet collected.
func aged(t *testing.T) (*Job, store.Store, []string) {
	t.Helper()
	_, chain, records, rows := retentionRig(t, 1)
	blobs := blob.NewMem()
	for part := range slices.Chunk(records, 30) {
		putUntil(t, blobs, chain, part, 1, part[len(part)-1].Ingest)
	}
	j, st := job(t, chain, blobs, 2)
	end := records[len(records)-1].Ingest + 3*hour
	putUntil(t, blobs, chain, nil, 1, end)
	run(t, j)
	if retire(t, blobs, (end-keptFor)/WindowMS*WindowMS) == 0 {
		t.Fatal("nothing is retired")
	}
	return j, st, rows
}

// Killed at any delete nothing that is named is gone, and the next one ends what was begun. Readers of the store see no difference.
func TestRetentionKilled(t *testing.T) {
	now := int64(1_800_000_000_000)
	var want []string
	for n := -1; ; n++ {
		j, st, rows := aged(t)
		collect(t, j, st, now)
		blobs := j.Blobs
		var err error
		if n >= 0 {
			j.Blobs = &fleeting{blobs, n}
			if _, err = j.Collect(context.Background(), st, clock(now+CollectGrace)); err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			j.Blobs = blobs
			whole(t, fmt.Sprintf("killed after %d deletes", n), j)
		}
		collect(t, j, st, now+CollectGrace+1)
		collect(t, j, st, now+2*CollectGrace) // forgets what is gone
		left := slices.DeleteFunc(whole(t, "gone on with", j), func(name string) bool { return strings.Contains(name, "/collect/") })
		sameLines(t, fmt.Sprintf("killed after %d deletes", n), outcomeOf(t, j, st).rows, rows)
		keptOnly(t, "gone on with", j)
		if n < 0 {
			want = left
		} else if !slices.Equal(left, want) {
			t.Errorf("killed after %d deletes: %d objects are left, want %d", n, len(left), len(want))
		}
		if n >= 0 && err == nil {
			if n < 20 {
				t.Errorf("only %d deletes", n)
			}
			return
		}
		n += devstack.Count(40, 0)
	}
}

// What a plan reads that was claimed before files went stays for as long as it can bring coverage.
func TestRetentionKeepsPlansInProgress(t *testing.T) {
	j, st, _ := aged(t)
	a, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	covered, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := j.keptFrom()
	if err != nil {
		t.Fatal(err)
	}
	old := slices.DeleteFunc(candidates(j.Chain, a, nil), func(w int64) bool {
		return w >= kept || covered[w] == nil || len(inputs(j.Chain, a, covered, w).Runs) == 0
	})
	p, err := j.claim(plans(j.Chain, a, covered, old[len(old)-1:]), uniform(1), covered)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(4) {
		collect(t, j, st, 1_800_000_000_000+i*CollectGrace)
	}
	for _, r := range p.Windows[0].Before {
		if _, err := j.Blobs.Get(j.runName(r.Generation, r.Window)); err != nil {
			t.Errorf("a run that plan %d reads: %v", p.Generation, err)
		}
	}
	must(t, j.Blobs.Create(j.voidName(p.Generation), nil))
	for i := range int64(2) {
		collect(t, j, st, 1_900_000_000_000+i*CollectGrace)
	}
	keptOnly(t, "after the plan", j)
}
