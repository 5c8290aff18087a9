package batch

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/staterun"
)

// cellKey is a value of a row by the chain's ids.
type cellKey struct {
	minute int64
	page   metric.Key
	cell   int
}

// windowFaults are by how much the values of a window are off, in the stream and in the batch.
type windowFaults [2]map[cellKey]int64

// key finds the ids of a value; false: the config knows no such value, so no session has a part in it.
func (r *auditing) key(n rowName, at cellName) (cellKey, bool) {
	chain := r.Job.Chain
	scopeName, name, _ := strings.Cut(n.metric, ".")
	scope, variation := 0, 0
	if n.experiment != "" {
		x := slices.IndexFunc(chain.XNames, func(x tenant.XName) bool { return x.Name == n.experiment })
		if x < 0 {
			return cellKey{}, false
		}
		if variation = slices.Index(chain.XNames[x].Variations, at.variation); variation < 0 {
			return cellKey{}, false
		}
		if scope = tenant.AssignedScope(x); scopeName == "fm" {
			scope = tenant.FmScope(x)
		}
	}
	tags := slices.Index(chain.Tags, at.tags)
	for g := range chain.Groups {
		if c := slices.Index(chain.Groups[g].Names, name); c >= 0 && tags >= 0 {
			return cellKey{n.minute, metric.NewKey(scope, g, variation, uint32(tags)), c}, true
		}
	}
	return cellKey{}, false
}

// name looks for the sessions behind the differences: of the first maxNamed windows that have any, those with faults first,
// each session is folded once as it is and once without its late beacons.
func (r *auditing) name(ctx context.Context) error {
	windows := slices.Sorted(maps.Keys(r.faults))
	for _, w := range slices.Sorted(maps.Keys(r.drifts)) {
		if r.faults[w] == nil {
			windows = append(windows, w)
		}
	}
	r.report.Unnamed = max(len(windows)-maxNamed, 0)
	windows = windows[:min(len(windows), maxNamed)]
	found := &behinds{all: map[[2]string]*Behind{}}
	for i, w := range windows {
		r.told("naming sessions", i+1, len(windows))
		if err := r.nameWindow(ctx, w, found); err != nil {
			return err
		}
	}
	r.report.Sessions = found.most(maxBehind)
	return nil
}

func (r *auditing) nameWindow(ctx context.Context, window int64, found *behinds) error {
	x := r.onTime
	at, ok := slices.BinarySearchFunc(x.plan.Windows, window, func(w WindowPlan, ms int64) int { return cmp.Compare(w.Window, ms) })
	if !ok {
		return nil // no session can do anything in it
	}
	// What the batch has of the window: as its coverage says, or, of one that it has not covered or has to cover again,
	// nothing to compare with.
	var all *WindowPlan
	if c := r.covered[window]; c != nil && !r.stale(window) {
		all = &WindowPlan{Window: window, Spans: c.Inputs.Spans, Revisions: c.Inputs.Revisions, Before: c.Inputs.Runs, Unknown: c.Unknown}
	}
	base := x.job.open() // of the rerun's job, since its runs are in the overlay
	defer base.close()
	real := r.Job.open()
	defer real.close()
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int32
	for range x.job.parallel() {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(x.plan.Bounds) || ctx.Err() != nil {
					return ctx.Err()
				}
				if err := r.nameRange(&x.plan.Windows[at], all, i, base, real, found); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// side folds the sessions of a window and a hash range one by one.
type side struct {
	m     *mapper
	rows  one[beacons]
	state one[states]
	parts map[cellKey]int64 // what the session at hand contributes
}

// nameRange looks at the sessions of a hash range. all is nil where there is no batch to compare with.
func (r *auditing) nameRange(onTime, all *WindowPlan, i int, base, real *openFiles, found *behinds) error {
	bounds := r.onTime.plan.Bounds
	lo, hi := uint64(bounds[i]), last(bounds, i)
	var sides []*side
	for k, w := range []*WindowPlan{onTime, all} {
		if w == nil {
			continue
		}
		j, files := r.onTime.job, base
		if k == 1 {
			j, files = r.Job, real
		}
		in, release, err := files.beacons(w, r.archive, lo, hi, archive.Columns{Event: true})
		if err != nil {
			return err
		}
		defer release()
		st, closeRuns, err := j.states(w, i, files, lo, hi)
		if err != nil {
			return err
		}
		defer closeRuns()
		s := newSide(j, w.Window, in, st)
		s.m.onTime = k == 0
		sides = append(sides, s)
	}
	faults := r.faults[onTime.Window]
	for {
		hash, id, ok := least(sides)
		if !ok {
			return nil
		}
		late := int64(0)
		for _, s := range sides {
			before := s.m.counts.Late
			if err := s.session(hash, id); err != nil {
				return err
			}
			late = s.m.counts.Late - before
		}
		parts := [2]map[cellKey]int64{ofStream: sides[0].parts, ofBatch: sides[len(sides)-1].parts}
		r.account(id, late, onTime.Window, parts, faults, found)
	}
}

// least is the session that comes next on any side.
func least(sides []*side) (hash uint64, id string, ok bool) {
	take := func(h uint64, session []byte) {
		if !ok || h < hash || h == hash && string(session) < id {
			hash, id, ok = h, string(session), true
		}
	}
	for _, s := range sides {
		if s.rows.more {
			take(s.rows.in.Row().Hash, s.rows.in.Row().Session)
		}
		if s.state.more {
			take(s.state.in.Hash(), s.state.in.Session())
		}
	}
	return hash, id, ok
}

func newSide(j *Job, window int64, in beacons, st states) *side {
	s := &side{m: newMapper(j.Chain, window, j.Digest, &metric.Sums{}, noSessions{}), parts: map[cellKey]int64{}}
	s.rows, s.state = one[beacons]{in: in}, one[states]{in: st}
	s.rows.more, s.state.more = in.Next(), st.Next()
	return s
}

// session folds one session and leaves what it contributes in parts.
func (s *side) session(hash uint64, id string) error {
	if err := s.fold(hash, id); err != nil {
		return err
	}
	clear(s.parts)
	return s.m.contributed(func(k cellKey, v int64, _ *metric.Sketch) { s.parts[k] = v })
}

// fold folds one session.
func (s *side) fold(hash uint64, id string) error {
	rows := oneSession{one: &s.rows, same: func() bool {
		r := s.rows.in.Row()
		return r.Hash == hash && string(r.Session) == id
	}}
	state := oneState{one: &s.state, same: func() bool {
		return s.state.in.Hash() == hash && string(s.state.in.Session()) == id
	}}
	return s.m.join(&rows, &state)
}

// one is an iterator of which one session's rows are taken at a time.
type one[I interface {
	Next() bool
	Err() error
}] struct {
	in    I
	more  bool // a row is at hand
	given bool // and was taken
}

func (o *one[I]) next(same func() bool) bool {
	if o.given {
		o.more = o.in.Next()
	}
	o.given = o.more && same()
	return o.given
}

type oneSession struct {
	*one[beacons]
	same func() bool
}

func (o *oneSession) Next() bool        { return o.next(o.same) }
func (o *oneSession) Row() *archive.Row { return o.in.Row() }
func (o *oneSession) Payload() error    { return o.in.Payload() }
func (o *oneSession) Err() error        { return o.in.Err() }

type oneState struct {
	*one[states]
	same func() bool
}

func (o *oneState) Next() bool      { return o.next(o.same) }
func (o *oneState) Hash() uint64    { return o.in.Hash() }
func (o *oneState) Session() []byte { return o.in.Session() }
func (o *oneState) Due() int64      { return o.in.Due() }
func (o *oneState) State() []byte   { return o.in.State() }
func (o *oneState) Err() error      { return o.in.Err() }

// noSessions takes states and keeps none.
type noSessions struct{}

func (noSessions) Add(uint64, []byte, int64, int64, int64, []byte, *staterun.About) error {
	return nil
}

// account notes what a session has a part in.
func (r *auditing) account(id string, late, window int64, parts [2]map[cellKey]int64, faults *windowFaults, found *behinds) {
	inRange := func(k cellKey) bool { return k.minute >= r.report.From && k.minute < r.report.To }
	drift := map[cellKey]int64{}
	for k, v := range parts[ofBatch] {
		if d := v - parts[ofStream][k]; d != 0 && inRange(k) {
			drift[k] = d
		}
	}
	for k, v := range parts[ofStream] {
		if _, ok := parts[ofBatch][k]; !ok && inRange(k) {
			drift[k] = -v
		}
	}
	if len(drift) > 0 {
		found.add(Behind{Session: id, Why: "late", Late: late, Values: len(drift), Window: window})
	}
	if faults == nil {
		return
	}
	for of, off := range faults {
		b := Behind{Session: id, Why: r.Layer, Late: late, Window: window}
		if of == ofBatch {
			b.Why = "batch"
		}
		for k, by := range off {
			v, part := parts[of][k]
			d, moved := drift[k]
			switch {
			case part && (by == v || by == -v), of == ofStream && moved && by == d:
				b.Exact++
				b.Values++
			case part || moved:
				b.Values++
			}
		}
		if b.Values > 0 {
			found.add(b)
		}
	}
}

// behinds gathers sessions, from several goroutines.
type behinds struct {
	mu  sync.Mutex // guards all
	all map[[2]string]*Behind
}

func (f *behinds) add(b Behind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := [2]string{b.Why, b.Session}
	if old := f.all[k]; old != nil {
		old.Late, old.Values, old.Exact, old.Window = old.Late+b.Late, old.Values+b.Values, old.Exact+b.Exact, min(old.Window, b.Window)
		return
	}
	f.all[k] = &b
	if len(f.all) > 8*maxBehind { // those that account for least are forgotten
		kept := map[[2]string]*Behind{}
		for _, b := range f.sorted() {
			if len(kept) < 4*maxBehind {
				kept[[2]string{b.Why, b.Session}] = b
			}
		}
		f.all = kept
	}
}

// sorted has those of faults first.
func (f *behinds) sorted() []*Behind {
	late := func(b *Behind) int {
		if b.Why == "late" {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Values(f.all), func(a, b *Behind) int {
		return cmp.Or(cmp.Compare(late(a), late(b)), -cmp.Compare(a.Exact, b.Exact), -cmp.Compare(a.Values, b.Values),
			cmp.Compare(a.Why, b.Why), cmp.Compare(a.Session, b.Session))
	})
}

func (f *behinds) most(n int) []Behind {
	var out []Behind
	for _, b := range f.sorted() {
		if len(out) < n {
			out = append(out, *b)
		}
	}
	return out
}
