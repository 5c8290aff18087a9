package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/store"
)

// Store is the part of the metric store that the batch writes to.
type Store interface {
	PutRows(ctx context.Context, rows []store.Row) error
	PutRollups(ctx context.Context, rows []store.Row) error
	PutCoverage(ctx context.Context, c store.Coverage) error
	Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error
}

// Job is the batch of one tenant.
type Job struct {
	Chain *tenant.Chain
	// Renew, if set, brings Chain to what the storage holds now. Whoever plans asks for it after the archive: what is in force over
	// a window that has settled was in storage before that (DESIGN 9), but not when a run of hours, or one that waited, began.
	Renew  func() error
	Topics []Topic
	Blobs  blob.Store
	Store  Store // nil for a job that only maps
	Digest ParseDigest
	Parser int // version of the parser, for coverage to tell
	Ranges int // hash ranges of a plan, 1 to Buckets; 0: by what there is to do
	// Portion is how many records a plan of windows that were covered before has at most, or it has one window; 0: all that
	// are due.
	Portion int64
	// Throttle is how much of the time it works, in percent, 1 to 99: it rests every few ms, and writes rows in small pieces;
	// 0: all.
	Throttle int
	// Parallel is how many tasks run side by side, each folding a range or writing a window; 0: one a core.
	Parallel int
	// OnTime leaves out records that are late, as the stream does (SPEC 8): what the stream must come to. Its plans and
	// runs have a folder of their own; Store must be another than that of the batch proper.
	OnTime bool
	// Reparse has the plans that it claims parse every payload again, also where the parse digest is the one in force: for a
	// parser whose change the digest does not tell. A plan that was claimed so stays so, whoever goes on with it.
	Reparse bool
	// LateEvery is how long beacons that come after their window was covered wait for their pass (Archive.LateEvery).
	LateEvery time.Duration
	// Holds, if set, is told before a plan's tasks begin about how many bytes each of them holds of the files that it reads: a piece
	// of every one.
	Holds    func(bytes int64)
	noTables bool // of an audit
	// Done, if set, is told of each window that is covered, one at a time.
	Done func(*Covered)
	// Step, if set, is told how far a plan is after each of its tasks, one at a time.
	Step func(Step)
}

// Step is how far a plan is.
type Step struct {
	Tenant              string
	Generation          int64
	Tasks, AllTasks     int // maps
	Windows, AllWindows int // covered
	Records             int64
}

// Layer is the layer of a generation.
func Layer(generation int64) string { return fmt.Sprintf("batch.%d", generation) }

// Run runs what is due until nothing is. It may be ended anywhere, and started again.
func (j *Job) Run(ctx context.Context) error {
	for {
		if report, err := j.RunOnce(ctx); err != nil || report == nil {
			return err
		}
	}
}

// RunOnce runs one plan and keeps its report; nil if nothing is due.
func (j *Job) RunOnce(ctx context.Context) (*Report, error) {
	began := time.Now()
	p, a, err := j.Plan(ctx)
	if err != nil || p == nil {
		return nil, err
	}
	return j.run(ctx, p, a, began)
}

// run runs what a plan has left.
func (j *Job) run(ctx context.Context, p *Plan, a Archive, began time.Time) (*Report, error) {
	covered, err := j.coveredOf(ctx, p)
	if err != nil {
		return nil, err
	}
	var windows []int
	for i := range p.Windows {
		if !p.done(i, covered) {
			windows = append(windows, i)
		}
	}
	l := j.line(p, a, windows, everyRange(p))
	l.reduces = true
	planned := time.Since(began)
	if err := l.run(ctx); err != nil {
		return nil, j.voided(p, err)
	}
	return j.keepReport(ctx, p, l, began, planned)
}

// MapAll runs the map tasks of a plan and nothing else.
func (j *Job) MapAll(ctx context.Context, p *Plan, a Archive) error {
	return j.MapPart(ctx, p, a, 0, 1)
}

// MapPart runs part i of n of the maps of a plan: a run of its ranges, of all its windows. It is idempotent, needs no Store, and
// no part waits for another.
func (j *Job) MapPart(ctx context.Context, p *Plan, a Archive, i, n int) error {
	if i < 0 || i >= n {
		return fmt.Errorf("batch of %s: there is no part %d of %d: the first is 0", j.Chain.Tenant, i, n)
	}
	var ranges, windows []int
	for r := i * len(p.Bounds) / n; r < (i+1)*len(p.Bounds)/n; r++ {
		ranges = append(ranges, r)
	}
	for w := range p.Windows {
		windows = append(windows, w)
	}
	if err := j.reads(p); err != nil {
		return err
	}
	return j.voided(p, j.line(p, a, windows, ranges).run(ctx))
}

// reads refuses a plan whose windows the job would read by other configs, or another version of the code, than the plan names, as its
// maker's were others: coverage would say that they were read by these.
func (j *Job) reads(p *Plan) error {
	if p.Fold != FoldVersion || p.Parser != j.Parser {
		return fmt.Errorf("plan %d of %s was made by another release, which folds or parses otherwise: run this by that one, or plan anew by this one", p.Generation, p.Tenant)
	}
	for i := range p.Windows {
		w := &p.Windows[i]
		own, of := inputs(j.Chain, Archive{}, nil, w.Window), Inputs{Revisions: w.Revisions, Edges: w.Edges}
		if !own.sameConfig(&of) {
			return fmt.Errorf("plan %d of %s reads window %s by another config than this process: it has changed in between; run this again, and if that says the same, plan anew",
				p.Generation, p.Tenant, windowName(w.Window))
		}
	}
	return nil
}

// ReduceWindow covers one window of a plan, whose maps have run and whose earlier windows are reduced. What is reduced already
// is left, and so is a window that a later plan has covered with all that come after it: nobody reads their runs any more. The one
// that covers the last window of the plan keeps its report.
func (j *Job) ReduceWindow(ctx context.Context, p *Plan, window int64) error {
	began := time.Now()
	covered, err := j.coveredOf(ctx, p)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(p.Windows, func(w WindowPlan) bool { return w.Window == window })
	if at < 0 {
		return fmt.Errorf("plan %d of %s has no window %s", p.Generation, p.Tenant, windowName(window))
	}
	if !mayCover(p.Windows[at:], p.Generation, covered) {
		return nil
	}
	if err := j.reads(p); err != nil {
		return err
	}
	if void, err := j.isVoid(p.Generation); err != nil {
		return err
	} else if void {
		return fmt.Errorf("plan %d of %s is void, and what it has made may go: run what is due by a new one", p.Generation, p.Tenant)
	}
	for i := range p.Windows[:at+1] {
		done, err := j.reduced(p, i, covered)
		if err != nil {
			return j.voided(p, err)
		}
		if i == at && done {
			return nil
		}
		if i < at && !done {
			return fmt.Errorf("window %s of plan %d comes after that of %s, which is not reduced: reduce that one first",
				windowName(window), p.Generation, windowName(p.Windows[i].Window))
		}
	}
	l := j.line(p, Archive{}, []int{at}, nil)
	l.reduces = true
	if err := l.run(ctx); err != nil {
		if errors.Is(err, blob.ErrNotFound) {
			return fmt.Errorf("window %s of plan %d: not all of its ranges are mapped: %w", windowName(window), p.Generation, err)
		}
		return j.voided(p, err)
	}
	if at < len(p.Windows)-1 {
		return nil
	}
	_, err = j.keepReport(ctx, p, l, began, 0)
	return err
}

// reduced says whether window i of a plan is reduced: by the plan itself. That a plan claimed later has covered it is not enough,
// for the plan's next windows read the plan's own run.
func (j *Job) reduced(p *Plan, i int, covered map[int64]*Covered) (bool, error) {
	if p.done(i, covered) {
		return true, nil
	}
	if mayCover(p.Windows[i:i+1], p.Generation, covered) {
		return false, nil
	}
	_, err := j.readRun(runKey{p.Generation, p.Windows[i].Window, wholeRun})
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func windowName(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// Covered returns the standing coverage of every window.
func (j *Job) Covered(ctx context.Context) (map[int64]*Covered, error) {
	return j.coveredIn(ctx, 0, store.MaxMinute)
}

// coveredOf returns the standing coverage of a plan's windows, and of those between them.
func (j *Job) coveredOf(ctx context.Context, p *Plan) (map[int64]*Covered, error) {
	return j.coveredIn(ctx, p.Windows[0].Window/60000, (p.Windows[len(p.Windows)-1].Window+WindowMS)/60000)
}

func (j *Job) coveredIn(ctx context.Context, from, to int64) (map[int64]*Covered, error) {
	covered := map[int64]*Covered{}
	err := j.Store.Coverage(ctx, j.Chain.Tenant, from, to, func(c store.Coverage) error {
		d, err := readCovered(c)
		if err == nil {
			covered[d.Window] = d
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	return covered, nil
}

func readCovered(c store.Coverage) (*Covered, error) {
	d := &Covered{}
	_, err := sealed.Unmarshal(c.Data, d)
	if err == nil && (d.Window != c.Window*60000 || d.Generation != c.Generation) {
		err = fmt.Errorf("it is that of window %d, generation %d", d.Window/60000, d.Generation)
	}
	if err != nil {
		return nil, fmt.Errorf("coverage of %s, window %d, generation %d: %w: %w", c.Tenant, c.Window, c.Generation, ErrCorrupt, err)
	}
	return d, nil
}

// maxAhead is how many windows a range may be ahead of the one that is covered next: results and event files of so many are
// at hand.
const maxAhead = 16

// line runs the tasks of a plan: the windows of a range one after another, since state flows forward, the ranges side by
// side, and the reduce of each window once all of its ranges are there, in the order of windows.
type line struct {
	job     *Job
	plan    *Plan
	archive Archive
	files   *openFiles
	windows []int // of the plan, in order
	ranges  []int // of the plan
	reduces bool

	mu        sync.Mutex // guards what follows
	changed   sync.Cond
	next      []int // by range: the window to map next
	busy      []bool
	left      []int // by window: ranges to be mapped
	reduced   int   // windows that are reduced
	reducing  bool
	err       error
	step      Step
	mapped    []time.Duration // by range: time spent
	records   []int64         // by range
	inReduces time.Duration
}

func everyRange(p *Plan) []int {
	all := make([]int, len(p.Bounds))
	for r := range all {
		all[r] = r
	}
	return all
}

func (j *Job) line(p *Plan, a Archive, windows, ranges []int) *line {
	l := &line{job: j, plan: p, archive: a, files: j.open(), windows: windows, ranges: ranges,
		next: make([]int, len(ranges)), busy: make([]bool, len(ranges)), left: make([]int, len(windows)),
		mapped: make([]time.Duration, len(ranges)), records: make([]int64, len(ranges)),
		step: Step{Tenant: p.Tenant, Generation: p.Generation, AllTasks: len(windows) * len(ranges), AllWindows: len(windows)}}
	l.changed.L = &l.mu
	for i := range l.left {
		l.left[i] = len(ranges)
	}
	return l
}

func (j *Job) parallel() int {
	if j.Parallel > 0 {
		return j.Parallel
	}
	return runtime.GOMAXPROCS(0)
}

// holds is about how many bytes a task holds of the files that it reads, of the window with most of them.
func (l *line) holds() (most int64) {
	for _, w := range l.windows {
		bytes := int64(0)
		for _, f := range filesOf(&l.plan.Windows[w], l.archive) {
			bytes += f.Held()
		}
		most = max(most, bytes)
	}
	return most
}

func (l *line) run(ctx context.Context) error {
	defer l.files.close()
	if l.job.Holds != nil {
		l.job.Holds(l.holds())
	}
	if l.reduces {
		l.files.forSums = int64(l.job.parallel()) * taskSums
	}
	stop := context.AfterFunc(ctx, func() { l.fail(ctx.Err()) })
	defer stop()
	var wg sync.WaitGroup
	for range l.job.parallel() {
		wg.Go(func() {
			for {
				window, r := l.take()
				switch {
				case window < 0:
					return
				case r < 0:
					l.reduce(ctx, window)
				default:
					l.mapRange(ctx, window, r)
				}
			}
		})
	}
	wg.Wait()
	l.mu.Lock() // the context's end may be failing it right now
	defer l.mu.Unlock()
	return l.err
}

// take waits for a task: a window to reduce with r -1, or a range of it to map; window -1: there is none any more. A
// reduce goes first, then a range of those that are furthest behind.
func (l *line) take() (window, r int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.err != nil {
			return -1, -1
		}
		if l.reduces && !l.reducing && l.reduced < len(l.windows) && l.left[l.reduced] == 0 {
			l.reducing = true
			return l.reduced, -1
		}
		behind, ready := len(l.windows), len(l.windows) // the window that is furthest behind: of all ranges, of those not busy
		for i := range l.ranges {
			behind = min(behind, l.next[i])
			if !l.busy[i] {
				ready = min(ready, l.next[i])
			}
		}
		if l.reduces {
			behind = l.reduced
		}
		if ready < len(l.windows) && ready < behind+maxAhead {
			r := l.choose(ready)
			l.busy[r] = true
			return ready, r
		}
		if behind == len(l.windows) {
			return -1, -1
		}
		l.changed.Wait()
	}
}

// choose chooses a range of a window that has one to map: one at which a reader has stopped, else of the longest run of ranges
// that nobody is at the first, or the middle, if somebody is about to come to the first.
func (l *line) choose(window int) int {
	longest, from := 0, 0
	for i, n := 0, 0; i < len(l.ranges); i++ {
		if l.busy[i] || l.next[i] != window {
			n = 0
			continue
		}
		if l.files.stopped(cursorKey{l.plan.Windows[l.windows[window]].Window, uint64(l.plan.Bounds[l.ranges[i]])}) {
			return i
		}
		if n++; n > longest {
			longest, from = n, i-n+1
		}
	}
	if from > 0 && l.busy[from-1] && l.next[from-1] == window {
		from += longest / 2
	}
	return from
}

func (l *line) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.changed.Broadcast()
}

func (l *line) mapRange(ctx context.Context, window, r int) {
	began := time.Now()
	counts, err := l.job.Map(ctx, l.plan, l.windows[window], l.ranges[r], l.archive, l.files)
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[r] = false
	l.next[r]++
	l.left[window]--
	l.mapped[r] += time.Since(began)
	l.records[r] += counts.Records
	if n := r + 1; n < len(l.ranges) && (l.busy[n] || l.next[n] != window) {
		l.files.forget(cursorKey{l.plan.Windows[l.windows[window]].Window, uint64(l.plan.Bounds[l.ranges[n]])})
	}
	l.step.Tasks++
	l.step.Records += counts.Records
	l.told()
}

func (l *line) reduce(ctx context.Context, window int) {
	began := time.Now()
	c, err := l.job.Reduce(ctx, l.plan, l.windows[window], l.files)
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reducing = false
	l.reduced++
	l.inReduces += time.Since(began)
	l.step.Windows++
	if l.job.Done != nil {
		l.job.Done(c)
	}
	l.told()
}

// told tells of a task that is done; under the lock.
func (l *line) told() {
	if l.job.Step != nil {
		l.job.Step(l.step)
	}
	l.changed.Broadcast()
}
