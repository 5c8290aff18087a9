package batch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
)

// Backfill brings the windows of a range to what the archive and the config say now (DESIGN 6). It is done when nothing of the
// range is due, so one that was ended anywhere is gone on with by the next, and one after it writes nothing.
type Backfill struct {
	From, To int64 // ms, full windows
	// Cold begins without what coverage says of windows before From, as if nobody had been there then.
	Cold bool
	// Approximate takes a start whose state is not known; coverage then tells it.
	Approximate bool
	// Reparse is for windows whose payloads were not all parsed again; it needs Job.Reparse.
	Reparse bool
	// Live is the chain that dispatch read by, without splices: what it did not list is not in the archive, unless it was brought
	// there (FromRaw).
	Live *tenant.Chain
}

// whyReader is why a backfill runs a window again that no input of has changed.
const (
	whyReader = "another version of the code"
	whyGone   = "its run is gone"
)

// ErrUntold is wrapped when a backfill asks what the archive cannot tell.
var ErrUntold = errors.New("the archive cannot tell")

// Forecast is what a backfill would do.
type Forecast struct {
	Windows     int
	First, Last int64          // windows, ms
	Records     int64          // of the archive, in these windows
	Why         map[string]int // windows by why they are due
	Approximate int            // windows that would be approximate, or are and stay so
	New         int            // windows beside the range that are not covered: they are the batch's, and go first
	Took        time.Duration  // at the speed of the last runs; 0: not known
	// Beside: the range has nothing in common with [HoldsFrom, HoldsTo), ms, the windows that the archive has records of.
	Beside             bool
	HoldsFrom, HoldsTo int64
	plans              []WindowPlan
	known              map[int64]*Covered // what it goes by: Job.known, without what lies before a cold start
}

// Forecast says what there is to do. Its error wraps ErrUntold for what must not be done.
func (j *Job) Forecast(ctx context.Context, b *Backfill) (*Forecast, error) {
	a, covered, err := j.lookWhole(ctx)
	if err != nil {
		return nil, err
	}
	return j.forecast(b, a, covered)
}

func (j *Job) forecast(b *Backfill, a Archive, covered map[int64]*Covered) (*Forecast, error) {
	if b.From < 0 || b.To <= b.From || b.From%WindowMS != 0 || b.To%WindowMS != 0 {
		return nil, fmt.Errorf("backfill of %s: [%d, %d) ms is no range of full windows of %d minutes", j.Chain.Tenant, b.From, b.To, WindowMS/60000)
	}
	left := covered
	if b.Cold {
		left = maps.Clone(covered)
		maps.DeleteFunc(left, func(w int64, _ *Covered) bool { return w < b.From })
	}
	known, err := j.known(b, left)
	if err != nil {
		return nil, err
	}
	f := &Forecast{Why: map[string]int{}, known: known}
	var due []int64
	all := candidates(j.Chain, a, left)
	for _, w := range settled(j.Chain, a, left) {
		reason := j.whyBackfill(b, a, known, all, w)
		if covered[w] != nil && known[w] == nil && reason != "" {
			reason = whyGone
		}
		switch {
		case reason == "":
		case w < b.From || w >= b.To && known[w] == nil:
			if reason == whyNew && w >= a.From {
				f.New++
			}
		case w >= b.To && reason != whyState && reason != whyRevisions:
		case w < a.From:
			return nil, fmt.Errorf("backfill of %s: %w: event files of windows before %s are retired; begin there or later", j.Chain.Tenant, ErrUntold, windowName(a.From))
		default:
			due = append(due, w)
			f.Why[reason]++
			f.Records += a.Records[w]
		}
	}
	if f.HoldsTo = a.End(); len(a.Spans) > 0 {
		f.HoldsFrom = slices.Min(slices.Collect(maps.Keys(a.Spans)))
		f.Beside = b.To <= f.HoldsFrom || b.From >= f.HoldsTo
	}
	f.plans = plans(j.Chain, a, known, due)
	if f.Windows = len(due); f.Windows == 0 {
		return f, nil
	}
	f.First, f.Last = due[0], due[len(due)-1]
	for i := range f.plans {
		if f.plans[i].Unknown > f.plans[i].Window {
			f.Approximate++
		}
	}
	if err := j.refuse(b, known, all, f); err != nil {
		return nil, err
	}
	speed, err := j.Speed()
	if err != nil {
		return nil, err
	}
	if speed > 0 {
		f.Took = time.Duration(float64(f.Records) / speed * 100 / float64(j.throttle()) * float64(time.Second))
	}
	return f, nil
}

// known is coverage without what names a run that is there no more.
func (j *Job) known(b *Backfill, covered map[int64]*Covered) (map[int64]*Covered, error) {
	names, err := j.made()
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, name := range names {
		listed[name] = true
	}
	known := maps.Clone(covered)
	for w, c := range covered {
		if c.Run.Digest.empty() || w < b.From-back(j.Chain, b.From) || w >= b.To {
			continue
		}
		gone, err := j.gone(c, listed)
		if err != nil {
			return nil, fmt.Errorf("state run: %w", err)
		}
		if gone {
			delete(known, w)
		}
	}
	return known, nil
}

// gone says whether an object of a window's run is there no more. What is not listed may be so new that it is not yet.
func (j *Job) gone(c *Covered, listed map[string]bool) (bool, error) {
	names := []string{j.runName(c.Run.Generation, c.Window)}
	for _, f := range c.Files {
		if f.Rows > 0 {
			names = append(names, f.Name)
		}
	}
	for _, name := range names {
		if listed[name] {
			continue
		}
		if _, err := j.Blobs.Created(name); errors.Is(err, blob.ErrNotFound) {
			return true, nil
		} else if err != nil {
			return false, err
		}
	}
	return false, nil
}

// whyBackfill says why a window is due in a backfill, "" if it is not. all are the candidates.
func (j *Job) whyBackfill(b *Backfill, a Archive, known map[int64]*Covered, all []int64, w int64) string {
	if reason := why(j.Chain, a, known, w); reason != "" {
		return reason
	}
	if c := known[w]; w >= b.From && w < b.To && (c.Fold != FoldVersion || c.Parser != j.Parser || b.Reparse && !c.Reparsed) {
		return whyReader
	}
	if c := known[w]; c.Unknown > 0 && unknown(j.Chain, all, known, nil, w) == 0 {
		return whyState
	}
	return ""
}

// refuse says what the archive cannot tell of what a backfill asks. all are the candidates.
func (j *Job) refuse(b *Backfill, known map[int64]*Covered, all []int64, f *Forecast) error {
	for i := range f.plans {
		w := f.plans[i].Window
		k, _ := slices.BinarySearch(all, w-back(j.Chain, w))
		for ; k < len(all) && all[k] < w; k++ {
			c := known[all[k]]
			switch own := slices.ContainsFunc(f.plans[:i], func(p WindowPlan) bool { return p.Window == all[k] }); {
			case own:
			case c == nil && !b.Approximate:
				return fmt.Errorf("backfill of %s: %w how the sessions go on that are open at %s: window %s before it holds beacons and is not covered%s; begin with that one, or take --approximate",
					j.Chain.Tenant, ErrUntold, windowName(w), windowName(all[k]), map[bool]string{true: " (or left out by --cold)"}[b.Cold])
			case c != nil && unreadable(j.Chain, c):
				return fmt.Errorf("backfill of %s: how the sessions go on that are open at %s cannot be read from window %s before it: it was covered under a config that is no longer in force; begin with that one, or before",
					j.Chain.Tenant, windowName(w), windowName(all[k]))
			}
		}
	}
	if b.Live == nil {
		return nil
	}
	gaps, err := j.Untold(b.Live, math.MinInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	for _, g := range gaps {
		for i := range f.plans {
			if w := f.plans[i].Window; w < g.To && w+WindowMS > g.From {
				return fmt.Errorf("backfill of %s: %w of %s from %s to %s: the revision in force then%s does not have it, and dispatch went by that; --from-raw reads the raw topics",
					j.Chain.Tenant, ErrUntold, g.What, windowName(g.From), windowName(g.To), since(g.Revision))
			}
		}
	}
	return nil
}

func since(ms int64) string {
	if ms == math.MinInt64 {
		return ", the first,"
	}
	return ", from " + windowName(ms) + ","
}

// Backfill does it, until nothing is due. Of each plan that was run on the way, also of new windows beside the range, which go
// first, told, if set, is told.
func (j *Job) Backfill(ctx context.Context, b *Backfill, told func(*Report)) error {
	// What was not covered beside the range when it began is left to the batch: it may be a whole archive.
	left := map[int64]bool{}
	for first := true; ; first = false {
		began := time.Now()
		a, covered, err := j.lookWhole(ctx)
		if err != nil {
			return err
		}
		f, err := j.forecast(b, a, covered)
		if err != nil {
			return err
		}
		fresh := Due(j.Chain, a, covered)
		fresh = slices.DeleteFunc(fresh, func(p WindowPlan) bool { return covered[p.Window] != nil || p.Window >= b.From && p.Window < b.To })
		if first {
			for _, p := range fresh {
				left[p.Window] = true
			}
		}
		run, due, known := *j, f.plans, f.known
		if len(fresh) > 0 && len(left) == 0 {
			due, known, run.Throttle, run.Reparse = fresh, covered, 0, false
		}
		p, err := run.planOf(due, known, covered, a)
		if err != nil || p == nil {
			return err
		}
		r, err := run.run(ctx, p, a, began)
		if err != nil {
			return err
		}
		if told != nil {
			told(r)
		}
	}
}

// PlanBackfill claims what a backfill would do next, for Map and Reduce elsewhere; nil if nothing is left. Windows after the range that
// come to other state are due once it is done: the next call claims them.
func (j *Job) PlanBackfill(ctx context.Context, b *Backfill) (*Plan, Archive, error) {
	a, covered, err := j.lookWhole(ctx)
	if err != nil {
		return nil, a, err
	}
	f, err := j.forecast(b, a, covered)
	if err != nil {
		return nil, a, err
	}
	p, err := j.planOf(f.plans, f.known, covered, a)
	return p, a, err
}

// Approximate counts the windows of minutes [from, to) whose coverage says that it is approximate.
func Approximate(ctx context.Context, st Store, name string, from, to int64) (n int, err error) {
	j := &Job{Chain: &tenant.Chain{Tenant: name}, Store: st}
	covered, err := j.Covered(ctx)
	for w, c := range covered {
		if c.Unknown > 0 && w/60000 < to && w/60000+WindowMS/60000 > from {
			n++
		}
	}
	return n, err
}

// speedReports is how many of the last plans tell the speed, and speedBeacons how many beacons these must have had in all.
const (
	speedReports = 20
	speedBeacons = 1000
)

// Speed is how many archived records a second the last plans have got through, by the clock, with what they had of the
// machine; 0: not known.
func (j *Job) Speed() (float64, error) {
	reports, err := j.Reports(speedReports)
	if err != nil {
		return 0, err
	}
	beacons, ms := int64(0), int64(0)
	for _, r := range reports {
		if r.Throttle == 0 {
			beacons, ms = beacons+r.Beacons, ms+r.TookMS
		}
	}
	if beacons < speedBeacons || ms == 0 {
		return 0, nil
	}
	return float64(beacons) / float64(ms) * 1000, nil
}

func (j *Job) throttle() int {
	if j.Throttle == 0 {
		return 100
	}
	return j.Throttle
}

// pacedRows is how many rows a throttled job writes at once, what a reader may have to wait for: those of a window and two metrics,
// since a store takes a batch of each side by side, and every one of them is at work on its cores beside what reads.
const pacedRows = 64

func (j *Job) rowsAtOnce() int {
	if j.Throttle > 0 {
		return pacedRows
	}
	return rowsAtOnce
}

// pace has a throttled job rest in between: often, so that whoever shares its cores finds one free. Not safe for concurrent use.
type pace struct {
	percent int
	since   time.Time // when it last began to work
}

// workAtOnce is how long a throttled job works before it rests.
const workAtOnce = 2 * time.Millisecond

func (j *Job) pace() *pace { return &pace{j.Throttle, time.Now()} }

// rest waits as long as what was done since the last rest asks for.
func (p *pace) rest(ctx context.Context) error {
	if p.percent == 0 {
		return nil
	}
	worked := time.Since(p.since)
	if worked < workAtOnce {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(worked * time.Duration(100-p.percent) / time.Duration(p.percent)):
	}
	p.since = time.Now()
	return nil
}
