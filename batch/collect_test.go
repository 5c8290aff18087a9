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

	"github.com/cespare/xxhash/v2"

	"tandem/core/oracle"
	"tandem/core/session"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

const hour = 60 * minute

// generations are those of the pieces that there are, by window; those of the store's rows as well.
func generations(t *testing.T, j *Job, st store.Store) (pieces map[int64][]int64, rows map[int64]int) {
	t.Helper()
	made, err := j.pieces()
	if err != nil {
		t.Fatal(err)
	}
	pieces, rows = map[int64][]int64{}, map[int64]int{}
	for p := range made {
		pieces[p.Window] = append(pieces[p.Window], p.Generation)
	}
	for _, g := range pieces {
		slices.Sort(g)
	}
	var all []store.Series
	if err := st.Catalog(context.Background(), j.Chain.Tenant, func(s store.Series) error { all = append(all, s); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		var g int64
		if _, err := fmt.Sscanf(s.Layer, "batch.%d", &g); err != nil {
			t.Fatal(err)
		}
		err := st.Rows(context.Background(), s, 0, store.MaxMinute, func(int64, int64, []byte) error { rows[g]++; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	return pieces, rows
}

func clock(now int64) func() int64 { return func() int64 { return now } }

func collect(t *testing.T, j *Job, st store.Store, now int64) *Collected {
	t.Helper()
	c, err := j.Collect(context.Background(), st, clock(now))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// collectRig is a store in which all is covered twice: by generation 1, and what late records changed by later ones.
func collectRig(t *testing.T) (j *Job, st store.Store, late func()) {
	t.Helper()
	chain, _ := compiled(t)
	records := traffic(30)
	isLate := func(r oracle.Record) bool { return xxhash.Sum64(r.Payload)%3 == 0 }
	blobs := blob.NewMem()
	put(t, blobs, chain, slices.DeleteFunc(slices.Clone(records), isLate), 1)
	j, st = job(t, chain, blobs, 2)
	run(t, j)
	return j, st, func() {
		put(t, blobs, chain, slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return !isLate(r) }), 1)
	}
}

// What newer coverage has replaced goes an hour after it was first seen, from storage and store, and what stands stays.
func TestCollectAfterAnHour(t *testing.T) {
	j, st, late := collectRig(t)
	now := int64(1_800_000_000_000)
	if c := collect(t, j, st, now); *c != (Collected{}) {
		t.Errorf("with nothing to collect: %+v", c)
	}
	if names, _ := j.Blobs.List(j.folder() + "collect/"); len(names) > 0 {
		t.Errorf("and it has something to remember: %v", names)
	}
	late()
	run(t, j)
	before, _ := generations(t, j, st)
	first := len(before[t0])
	want := outcomeOf(t, j, st)
	c := collect(t, j, st, now)
	if c.Deleted != 0 || c.Waiting == 0 || first < 2 {
		t.Fatalf("first seen: %+v; window 0 has generations %v", c, before[t0])
	}
	if again := collect(t, j, st, now+CollectGrace-1); *again != *c {
		t.Errorf("before the hour is over: %+v, want %+v", again, c)
	}
	last := collect(t, j, st, now+CollectGrace)
	if last.Deleted != c.Waiting || last.Waiting != 0 || last.Objects == 0 {
		t.Errorf("an hour after: %+v, %d had waited", last, c.Waiting)
	}
	covered, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	pieces, rows := generations(t, j, st)
	standing := map[int64]bool{}
	for w, gs := range pieces {
		if !slices.Equal(gs, []int64{covered[w].Generation}) {
			t.Errorf("window %d has generations %v, coverage names %d", w, gs, covered[w].Generation)
		}
		standing[covered[w].Generation] = true
	}
	for g := range rows {
		if !standing[g] {
			t.Errorf("the store has %d rows of generation %d", rows[g], g)
		}
	}
	got := outcomeOf(t, j, st)
	got.same(t, "after a collection", want)
	collect(t, j, st, now+2*CollectGrace) // forgets what is gone
	if again := collect(t, j, st, now+3*CollectGrace); *again != (Collected{}) {
		t.Errorf("all is collected: %+v", again)
	}
}

// What a collector that is held up for an hour before it reads coverage finds replaced may have been so for a moment only.
func TestCollectorThatIsHeldUp(t *testing.T) {
	j, st, late := collectRig(t)
	now := int64(1_800_000_000_000)
	slow := *j
	slow.Store = &meanwhile{Store: j.Store, do: func() {
		now += CollectGrace
		late()
		run(t, j)
	}}
	c, err := slow.Collect(context.Background(), st, func() int64 { return now })
	if err != nil || c.Waiting == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	now += CollectGrace - 1
	if again := collect(t, j, st, now); again.Deleted > 0 {
		t.Errorf("before the hour is over: %+v", again)
	}
}

// A run that standing coverage names as input stays, though its own window has a newer one.
func TestCollectKeepsInputs(t *testing.T) {
	j, st, late := collectRig(t)
	ctx, stop := context.WithCancel(context.Background())
	late()
	j.Done = func(c *Covered) { stop() } // after one window, so that the next ones stand on the run before
	if err := j.Run(ctx); err == nil {
		t.Fatal("the batch was not stopped")
	}
	j.Done = nil
	p, err := j.Standing()
	if err != nil || p == nil {
		t.Fatal(err)
	}
	must(t, j.Blobs.Create(j.voidName(p.Generation), nil)) // so that nothing is kept for the plan
	covered, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	inputs := map[piece]bool{}
	for _, c := range covered {
		for _, r := range c.Inputs.Runs {
			if covered[r.Window].Generation != r.Generation {
				inputs[piece{r.Generation, r.Window}] = true
			}
		}
	}
	if len(inputs) == 0 {
		t.Fatal("no coverage names a run that was replaced")
	}
	for i := range int64(4) {
		collect(t, j, st, 1_800_000_000_000+i*CollectGrace)
	}
	made, err := j.pieces()
	if err != nil {
		t.Fatal(err)
	}
	for p := range inputs {
		if len(made[p]) == 0 {
			t.Errorf("the run of window %d in generation %d is gone", p.Window, p.Generation)
		}
	}
	run(t, j)
	for i := range int64(4) {
		collect(t, j, st, 1_900_000_000_000+i*CollectGrace)
	}
	if made, err = j.pieces(); err != nil {
		t.Fatal(err)
	}
	for p := range inputs {
		if len(made[p]) > 0 {
			t.Errorf("the run of window %d in generation %d is still there when nothing names it", p.Window, p.Generation)
		}
	}
}

// What a plan in progress makes and reads stays, whatever has been claimed since; that of a void plan goes.
func TestCollectKeepsPlansInProgress(t *testing.T) {
	j, st, late := collectRig(t)
	ctx := context.Background()
	late()
	p, a := planOf(t, j)
	must(t, j.MapPart(ctx, p, a, 0, 2))
	other := *j
	other.Ranges = 3 // another claims, and ends
	run(t, &other)
	replaced := func() (n int) {
		t.Helper()
		made, err := j.pieces()
		if err != nil {
			t.Fatal(err)
		}
		for q := range made {
			if q.Generation == p.Generation {
				n++
			}
		}
		return n
	}
	if replaced() == 0 {
		t.Fatal("the plan has made nothing")
	}
	for i := range int64(4) {
		collect(t, j, st, 1_800_000_000_000+i*CollectGrace)
	}
	if replaced() != 0 {
		t.Error("what a plan has made that can cover nothing any more is kept")
	}

	j, st, late = collectRig(t)
	late()
	p, a = planOf(t, j)
	must(t, j.MapPart(ctx, p, a, 0, 2))
	n := replaced()
	for i := range int64(4) {
		collect(t, j, st, 1_800_000_000_000+i*CollectGrace)
	}
	if replaced() != n || n == 0 {
		t.Fatalf("of a plan in progress %d pieces are left of %d", replaced(), n)
	}
	must(t, j.MapAll(ctx, p, a))
	for i := range p.Windows {
		must(t, j.ReduceWindow(ctx, p, p.Windows[i].Window))
	}

	j, st, late = collectRig(t)
	late()
	p, a = planOf(t, j)
	must(t, j.MapPart(ctx, p, a, 0, 2))
	if err := j.voided(p, blob.ErrNotFound); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
	for i := range int64(4) {
		collect(t, j, st, 1_800_000_000_000+i*CollectGrace)
	}
	if replaced() != 0 {
		t.Error("what a void plan has made is kept")
	}
}

// fleeting fails from a number of Deletes on.
type fleeting struct {
	blob.Store
	left int
}

func (f *fleeting) Delete(name string) error {
	if f.left--; f.left < 0 {
		return errKilled
	}
	return f.Store.Delete(name)
}

// Stopped anywhere, the next collection ends what was begun.
func TestCollectKilled(t *testing.T) {
	for n := 0; ; n += 7 {
		j, st, late := collectRig(t)
		late()
		run(t, j)
		want := outcomeOf(t, j, st)
		now := int64(1_800_000_000_000)
		collect(t, j, st, now)
		blobs := j.Blobs
		j.Blobs = &fleeting{blobs, n}
		_, err := j.Collect(context.Background(), st, clock(now+CollectGrace))
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		j.Blobs = blobs
		collect(t, j, st, now+CollectGrace+1)
		pieces, rows := generations(t, j, st)
		for w, gs := range pieces {
			if len(gs) != 1 {
				t.Errorf("killed after %d deletes: window %d has generations %v", n, w, gs)
			}
		}
		got := outcomeOf(t, j, st)
		got.same(t, fmt.Sprintf("killed after %d deletes", n), want)
		if len(rows) == 0 {
			t.Error("no rows are left")
		}
		if err == nil {
			if n < 7 {
				t.Errorf("only %d deletes", n)
			}
			return
		}
	}
}

// Of two collectors that saw the same one remembers, and a clock that was ahead does not let anything go early.
func TestCollectorsAndClocks(t *testing.T) {
	j, st, late := collectRig(t)
	late()
	run(t, j)
	now := int64(1_800_000_000_000)
	taken := &taken{Store: j.Blobs}
	other := *j
	other.Blobs = taken
	if c, err := other.Collect(context.Background(), st, clock(now)); err != nil || *c != (Collected{}) {
		t.Errorf("a collector that was overtaken: %+v, %v", c, err)
	}
	c := collect(t, j, st, now+10*hour) // a clock that is ten hours ahead
	if c.Waiting == 0 {
		t.Fatalf("%+v", c)
	}
	collect(t, j, st, now) // and then one that is right
	if c := collect(t, j, st, now+CollectGrace-1); c.Deleted != 0 {
		t.Errorf("deleted early: %+v", c)
	}
	if c := collect(t, j, st, now+CollectGrace); c.Deleted == 0 {
		t.Errorf("not deleted: %+v", c)
	}
}

// taken says of each object of a collector that another was first.
type taken struct{ blob.Store }

func (t *taken) Create(name string, data []byte) error {
	if strings.Contains(name, "/collect/") {
		return fmt.Errorf("%s: %w", name, blob.ErrExists)
	}
	return t.Store.Create(name, data)
}

// Whenever it collects, whatever comes late, the batch comes to what the oracle says.
func TestCollectAtAnyTime(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	rows, _ := wanted(t, configs, records, false)
	deleted := 0
	for seed := range uint64(devstack.Count(2, 10)) {
		rng := rand.New(rand.NewPCG(seed, 5))
		blobs := blob.NewMem()
		j, st := job(t, chain, blobs, 0)
		now := int64(1_800_000_000_000)
		for rest := records; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(25))
			putUntil(t, blobs, chain, rest[:n], 1, rest[n-1].Ingest)
			rest = rest[n:]
			switch rng.IntN(4) {
			case 0:
				run(t, j)
			case 1: // stopped somewhere
				interrupted(t, j, 1+rng.IntN(3))
			}
			for range rng.IntN(3) {
				now += rng.Int64N(hour)
				deleted += collect(t, j, st, now).Deleted
			}
		}
		putUntil(t, blobs, chain, nil, 1, session.MaxTS)
		run(t, j)
		sameLines(t, fmt.Sprint("seed ", seed), outcomeOf(t, j, st).rows, rows)
		collect(t, j, st, now)
		collect(t, j, st, now+CollectGrace)
		sameLines(t, fmt.Sprint("collected, seed ", seed), outcomeOf(t, j, st).rows, rows)
	}
	if deleted == 0 {
		t.Error("nothing was ever deleted in between")
	}
}

// interrupted runs a job until it has covered a window, with so many hash ranges from now on.
func interrupted(t *testing.T, j *Job, ranges int) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	j.Ranges, j.Done = ranges, func(*Covered) { stop() }
	if err := j.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	j.Done = nil
}

// Plans go once they are old and no coverage can come of them, and what stands goes on as it was.
func TestCollectForgetsPlans(t *testing.T) {
	j, st, late := collectRig(t)
	first, err := j.ReadPlan(1)
	must(t, err)
	want := outcomeOf(t, j, st)
	var last *Plan
	for range keepPlans + 2 {
		covered, err := j.Covered(t.Context())
		must(t, err)
		last, err = j.claim(slices.Clone(first.Windows[:1]), first.Bounds, covered)
		must(t, err)
	}
	if c := collect(t, j, st, 0); c.Plans != 1 { // that of generation 1 is done with
		t.Errorf("%d plans are deleted while each of the others may cover a window", c.Plans)
	}
	a, err := j.Archived()
	must(t, err)
	must(t, j.MapAll(t.Context(), last, a))
	must(t, j.ReduceWindow(t.Context(), last, last.Windows[0].Window))
	if c := collect(t, j, st, 0); c.Plans != 2 {
		t.Errorf("%d plans are deleted", c.Plans)
	}
	names, err := j.Blobs.List(j.folder() + "plans/")
	must(t, err)
	if len(names) != keepPlans || names[0] != j.planName(4) {
		t.Errorf("%d plans are left, from %s on", len(names), names[0])
	}
	got := outcomeOf(t, j, st)
	sameLines(t, "rows", got.rows, want.rows)
	late()
	run(t, j)
	if g, err := j.lastClaim(); err != nil || g <= last.Generation {
		t.Errorf("generation %d after %d, %v", g, last.Generation, err)
	}
}
