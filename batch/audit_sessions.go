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
	if err := r.readAsBatch(ctx, windows); err != nil {
		return err
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

// readAsBatch runs what is not late once more, by the batch's chain, if that is another up to the last of the windows: what that
// comes to lies between the layers, a splice away from the stream and the late records away from the batch.
func (r *auditing) readAsBatch(ctx context.Context, windows []int64) error {
	if len(windows) == 0 {
		return nil
	}
	end := slices.Max(windows)
	if !slices.ContainsFunc(r.onTime.plan.Windows, func(w WindowPlan) bool { return w.Window <= end && r.apart(w.Window) }) {
		return nil
	}
	a := r.archive
	a.From = max(a.From, r.report.Start)
	due := Due(r.Job.Chain, a, nil)
	due = slices.DeleteFunc(due, func(w WindowPlan) bool { return w.Window > end })
	done := 0
	r.spliced = r.rerun(r.Job.Chain, auditGeneration+1, due, func(_ context.Context, c *Covered, rows windowRows) error {
		done++
		if r.covered[c.Window] != nil && r.digests[c.Window] != rows.digest() {
			r.report.Spliced++
		}
		r.told("reading as the batch does", done, len(due))
		return nil
	})
	r.spliced.plan.Bounds = r.onTime.plan.Bounds // so that a session is in the same range of both
	return r.spliced.run(ctx)
}

// of finds a window of the plan, nil if it has none: no session can do anything in it.
func (p *Plan) of(window int64) *WindowPlan {
	at, ok := slices.BinarySearchFunc(p.Windows, window, func(w WindowPlan, ms int64) int { return cmp.Compare(w.Window, ms) })
	if !ok {
		return nil
	}
	return &p.Windows[at]
}

func (r *auditing) nameWindow(ctx context.Context, window int64, found *behinds) error {
	onTime := r.onTime.plan.of(window)
	if onTime == nil {
		return nil
	}
	// Of the reruns' jobs, since their runs are in the overlay. What the batch has of the window is what its coverage says; of one
	// that it has not covered or has to cover again there is nothing to compare with.
	var from [3]*source
	open := func(of int, j *Job, w *WindowPlan) func() {
		from[of] = &source{j, j.open(), w}
		return from[of].files.close
	}
	defer open(ofStream, r.onTime.job, onTime)()
	if c := r.covered[window]; c != nil && !r.stale(window) {
		defer open(ofBatch, r.Job, c.standing(r.covered))()
		if r.spliced != nil {
			if w := r.spliced.plan.of(window); w != nil {
				defer open(ofFold, r.spliced.job, w)()
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int32
	for range r.Job.parallel() {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(r.onTime.plan.Bounds) || ctx.Err() != nil {
					return ctx.Err()
				}
				if err := r.nameRange(window, from, i, found); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// source is what a side folds.
type source struct {
	job    *Job
	files  *openFiles
	window *WindowPlan
}

// side folds the sessions of a window and a hash range one by one.
type side struct {
	m     *mapper
	rows  one[beacons]
	state one[states]
	parts map[cellKey]int64 // what the session at hand contributes
}

// nameRange looks at the sessions of a hash range: as the stream folds them, as the batch does, if there is anything of it to
// compare with, and between the two (readAsBatch), if that is not what the stream does.
func (r *auditing) nameRange(window int64, from [3]*source, i int, found *behinds) error {
	bounds := r.onTime.plan.Bounds
	lo, hi := uint64(bounds[i]), last(bounds, i)
	var of [3]*side
	var sides []*side
	for k, f := range from {
		if f == nil {
			continue
		}
		in, release, err := f.files.beacons(f.window, r.archive, lo, hi, archive.Columns{Event: true})
		if err != nil {
			return err
		}
		defer release()
		st, closeRuns, err := f.job.states(f.window, i, f.files, lo, hi)
		if err != nil {
			return err
		}
		defer closeRuns()
		of[k] = newSide(f.job, window, in, st)
		of[k].m.onTime = k != ofBatch
		sides = append(sides, of[k])
	}
	if of[ofBatch] == nil {
		of[ofBatch] = of[ofStream]
	}
	switch {
	case of[ofFold] != nil:
	case r.spliced == nil || from[ofBatch] == nil:
		of[ofFold] = of[ofStream]
	default:
		of[ofFold] = &side{} // by that chain no session does anything in the window
	}
	for {
		hash, id, ok := least(sides)
		if !ok {
			return nil
		}
		before := of[ofBatch].m.counts.Late
		for _, s := range sides {
			if err := s.session(hash, id); err != nil {
				return err
			}
		}
		late := of[ofBatch].m.counts.Late - before
		r.account(id, late, window, [3]map[cellKey]int64{of[ofStream].parts, of[ofBatch].parts, of[ofFold].parts}, found)
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

// account notes what a session has a part in: parts are those in the stream, in the batch, and in between.
func (r *auditing) account(id string, late, window int64, parts [3]map[cellKey]int64, found *behinds) {
	apart := func(x, y int) map[cellKey]int64 {
		by := map[cellKey]int64{}
		for k, v := range parts[y] {
			by[k] = v
		}
		for k, v := range parts[x] {
			by[k] -= v
		}
		maps.DeleteFunc(by, func(k cellKey, d int64) bool {
			return d == 0 || k.minute < r.report.From || k.minute >= r.report.To
		})
		return by
	}
	if n := len(apart(ofStream, ofFold)); n > 0 {
		found.add(Behind{Session: id, Why: "splice", Late: late, Values: n, Window: window})
	}
	if n := len(apart(ofFold, ofBatch)); n > 0 {
		found.add(Behind{Session: id, Why: "late", Late: late, Values: n, Window: window})
	}
	faults := r.faults[window]
	if faults == nil {
		return
	}
	drift := apart(ofStream, ofBatch)
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
		if b.Why == "late" || b.Why == "splice" {
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
