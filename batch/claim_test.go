package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

func planOf(t *testing.T, j *Job) (*Plan, Archive) {
	t.Helper()
	p, a, err := j.Plan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if p == nil {
		t.Fatal("nothing is due")
	}
	return p, a
}

// A plan is gone on with while what it has left is due as it says, and by nobody else.
func TestPlanGoesOn(t *testing.T) {
	chain, configs := compiled(t)
	ctx := context.Background()
	records := traffic(30)
	rows, _ := wanted(t, configs, records, false)
	early := func(r oracle.Record) bool { return len(r.Payload)%7 > 0 }
	open := func() (*Job, func() []string) {
		blobs := blob.NewMem()
		put(t, blobs, chain, slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return !early(r) }), 1)
		j, st := job(t, chain, blobs, 0)
		return j, func() []string { o := outcomeOf(t, j, st); return o.rows }
	}
	late := func(j *Job) {
		put(t, j.Blobs, chain, slices.DeleteFunc(slices.Clone(records), early), 1)
	}
	for _, c := range []struct {
		name  string
		after func(j *Job, p *Plan, a Archive)
		goes  bool
	}{
		{"nothing", func(*Job, *Plan, Archive) {}, true},
		{"maps have run", func(j *Job, p *Plan, a Archive) { must(t, j.MapPart(ctx, p, a, 1, 2)) }, true},
		{"some windows are covered", func(j *Job, p *Plan, a Archive) {
			must(t, j.MapAll(ctx, p, a))
			must(t, j.ReduceWindow(ctx, p, p.Windows[0].Window))
			must(t, j.ReduceWindow(ctx, p, p.Windows[1].Window))
			must(t, j.ReduceWindow(ctx, p, p.Windows[1].Window)) // again, which changes nothing
		}, true},
		{"it is void", func(j *Job, p *Plan, _ Archive) {
			if err := j.voided(p, fmt.Errorf("gone: %w", blob.ErrNotFound)); !errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "void") {
				t.Error(err)
			}
		}, false},
		{"storage fails for once", func(j *Job, p *Plan, _ Archive) {
			if err := j.voided(p, errKilled); !errors.Is(err, errKilled) {
				t.Error(err)
			}
		}, true},
		{"records have come", func(j *Job, p *Plan, a Archive) { late(j) }, false},
		{"some windows are covered, and records have come", func(j *Job, p *Plan, a Archive) {
			must(t, j.MapAll(ctx, p, a))
			must(t, j.ReduceWindow(ctx, p, p.Windows[0].Window))
			late(j)
		}, false},
		{"another number of ranges is asked for", func(j *Job, _ *Plan, _ Archive) { j.Ranges = 3 }, false},
		{"another has taken a window over", func(j *Job, p *Plan, a Archive) {
			other := *j
			other.Ranges = 2
			q, b := planOf(t, &other)
			must(t, other.MapAll(ctx, q, b))
			must(t, other.ReduceWindow(ctx, q, q.Windows[0].Window))
			must(t, j.Blobs.Delete(j.planName(q.Generation)))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, seen := open()
			p, a := planOf(t, j)
			c.after(j, p, a)
			if q, _ := planOf(t, j); (q.Generation == p.Generation) != c.goes {
				t.Errorf("plan %d after plan %d", q.Generation, p.Generation)
			}
			run(t, j)
			late(j)
			run(t, j)
			sameLines(t, "rows", seen(), rows)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Two schedulers at once, each with a plan of its own: what the later plan has covered is reduced for the earlier one too, whose next
// windows read its own run.
func TestReduceBesideALaterPlan(t *testing.T) {
	chain, configs := compiled(t)
	ctx := context.Background()
	records := traffic(30)
	rows, _ := wanted(t, configs, records, false)
	blobs := blob.NewMem()
	put(t, blobs, chain, records, 1)
	j, st := job(t, chain, blobs, 3)
	p, a := planOf(t, j)
	must(t, j.MapAll(ctx, p, a))
	other := *j
	other.Ranges = 2
	q, b := planOf(t, &other)
	if q.Generation == p.Generation {
		t.Fatal("one plan for both")
	}
	must(t, other.MapAll(ctx, q, b))
	must(t, other.ReduceWindow(ctx, q, q.Windows[0].Window))
	if err := j.ReduceWindow(ctx, p, p.Windows[1].Window); err == nil || !strings.Contains(err.Error(), "reduce that one first") {
		t.Errorf("the second window first: %v", err)
	}
	for i := range p.Windows {
		must(t, j.ReduceWindow(ctx, p, p.Windows[i].Window))
	}
	for i := range q.Windows {
		must(t, other.ReduceWindow(ctx, q, q.Windows[i].Window))
	}
	names, err := blobs.List(fmt.Sprintf("%sout/%012d/", j.folder(), p.Generation))
	must(t, err)
	for _, name := range names { // as the collector may do by now
		must(t, blobs.Delete(name))
	}
	must(t, j.ReduceWindow(ctx, p, p.Windows[1].Window)) // nobody needs it any more
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	covered, err := j.Covered(ctx)
	must(t, err)
	if len(names) < len(p.Windows) {
		t.Errorf("the earlier plan had made %d objects", len(names))
	}
	for _, c := range covered {
		if c.Generation != q.Generation {
			t.Errorf("window %s is covered by generation %d, not %d", windowName(c.Window), c.Generation, q.Generation)
		}
	}
}

// The steps of a scheduler come to what one run comes to, in any order that is allowed, and refuse the others.
func TestParts(t *testing.T) {
	chain, _ := compiled(t)
	ctx := context.Background()
	archived := blob.NewMem()
	put(t, archived, chain, traffic(30), 2)
	objects := copyOf(t, archived)
	alone, st := job(t, chain, objects(), 7)
	run(t, alone)
	want := outcomeOf(t, alone, st)
	j, st := job(t, chain, objects(), 7)
	p, a := planOf(t, j)
	mapper := *j
	mapper.Store = nil
	must(t, mapper.MapPart(ctx, p, a, 2, 3))
	must(t, mapper.MapPart(ctx, p, a, 0, 3))
	first := p.Windows[0].Window
	must(t, j.Blobs.Create(j.voidName(p.Generation), nil))
	if err := j.ReduceWindow(ctx, p, first); err == nil || !strings.Contains(err.Error(), "void") {
		t.Errorf("reduce of a void plan: %v", err)
	}
	must(t, j.Blobs.Delete(j.voidName(p.Generation)))
	if err := j.ReduceWindow(ctx, p, first); err == nil || !strings.Contains(err.Error(), "not all of its ranges are mapped") {
		t.Errorf("reduce before all is mapped: %v", err)
	}
	must(t, mapper.MapPart(ctx, p, a, 1, 3))
	if err := j.ReduceWindow(ctx, p, p.Windows[1].Window); err == nil || !strings.Contains(err.Error(), "reduce that one first") {
		t.Errorf("reduce of the second window first: %v", err)
	}
	for _, bad := range [][2]int{{-1, 3}, {3, 3}, {0, 0}} {
		if err := mapper.MapPart(ctx, p, a, bad[0], bad[1]); err == nil {
			t.Errorf("part %d of %d was taken", bad[0], bad[1])
		}
	}
	if err := j.ReduceWindow(ctx, p, first-WindowMS); err == nil {
		t.Error("a window that is not in the plan was reduced")
	}
	if r, err := j.Reports(10); err != nil || len(r) != 0 {
		t.Errorf("%d reports before the end, %v", len(r), err)
	}
	for i := range p.Windows {
		must(t, j.ReduceWindow(ctx, p, p.Windows[i].Window))
	}
	got := outcomeOf(t, j, st)
	got.same(t, "parts", want)

	reports, err := j.Reports(10)
	of, err2 := alone.Reports(10)
	if err != nil || err2 != nil || len(reports) != 1 || len(of) != 1 {
		t.Fatalf("%d and %d reports, %v, %v", len(reports), len(of), err, err2)
	}
	for _, r := range []*Report{reports[0], of[0]} {
		if r.Tenant != "shop" || r.Generation != 1 || r.Ranges != 7 || r.Windows != len(p.Windows) || r.First != first || r.Last != p.Windows[len(p.Windows)-1].Window ||
			r.Beacons != want.counts["records"] || r.Counts.Late != want.counts["late"] || r.Rows == 0 || r.Rows != of[0].Rows || r.Sessions == 0 || r.Sessions != of[0].Sessions {
			t.Errorf("report %+v", r)
		}
	}
	if s := of[0].Slowest; s == nil || s.From != p.Bounds[s.Range] || s.Beacons == 0 {
		t.Errorf("the slowest range is %+v", s)
	}
}

// unlisted is storage that lists no plan but the first.
type unlisted struct{ *blob.Mem }

func (u unlisted) List(prefix string) ([]string, error) {
	names, err := u.Mem.List(prefix)
	if strings.HasSuffix(prefix, "plans/") {
		names = names[:min(len(names), 1)]
	}
	return names, err
}

// Two plans never share a generation, also where listing is behind.
func TestClaimsPassOverWhatIsTaken(t *testing.T) {
	chain, _ := compiled(t)
	j, _ := job(t, chain, unlisted{blob.NewMem()}, 1)
	for want := range int64(4) {
		p, err := j.claim(nil, uniform(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		if p.Generation != want+1 {
			t.Errorf("generation %d, want %d", p.Generation, want+1)
		}
	}
}

// uncovered is a store that takes coverage of so many windows.
type uncovered struct {
	Store
	left int
}

func (u *uncovered) PutCoverage(ctx context.Context, c store.Coverage) error {
	if u.left--; u.left < 0 {
		return errKilled
	}
	return u.Store.PutCoverage(ctx, c)
}

// A run that had its map results in memory is stopped: another one, or the steps of a scheduler, go on with its plan, and come
// to the same.
func TestResultsThatAreGone(t *testing.T) {
	chain, _ := compiled(t)
	ctx := context.Background()
	archived := blob.NewMem()
	put(t, archived, chain, traffic(30), 2)
	objects := copyOf(t, archived)
	alone, st := job(t, chain, objects(), 3)
	run(t, alone)
	want := outcomeOf(t, alone, st)
	for i := range 6 {
		covered, steps := i/2, i%2 == 0
		j, st := job(t, chain, objects(), 3)
		p, a := planOf(t, j)
		stopped := *j
		stopped.Store = &uncovered{j.Store, covered}
		if _, err := stopped.run(ctx, p, a, time.Now()); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		names, err := j.Blobs.List(j.outFolder(p.Generation, p.Windows[0].Window))
		if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".sums") }) {
			t.Fatalf("%q, %v: this test is of results in memory", names, err)
		}
		if steps {
			must(t, j.MapPart(ctx, p, a, 0, 1))
			for i := range p.Windows {
				must(t, j.ReduceWindow(ctx, p, p.Windows[i].Window))
			}
		} else if _, err := j.run(ctx, p, a, time.Now()); err != nil {
			t.Fatal(err)
		}
		got := outcomeOf(t, j, st)
		got.same(t, fmt.Sprintf("gone on with after %d windows, by steps %t", covered, steps), want)
	}
}
