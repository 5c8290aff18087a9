package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

// Audit compares the stream's layer of a tenant with the batch's, minute by minute, and both with what they must be (SPEC 8):
// the stream's values with a recomputation over the archived records that are not late, the batch's with a recomputation
// from the inputs that its coverage names. It changes nothing but what it puts into Temp. Its memory is that of a batch run
// and the rows of one window.
type Audit struct {
	Job    *Job // of the batch proper; its Store is not used
	Store  AuditStore
	Temp   blob.Store // for runs of its own: empty, and of no use afterwards
	Layer  string     // of the stream
	Closed int64      // minutes before it are closed in that layer
	From   int64      // minutes since the epoch, [From, To)
	To     int64
	// Back is how far before From beginnings of sessions are looked for, in ms.
	Back int64
	Now  int64 // ms since the epoch: rows that have expired, or do within an hour, are not compared
	// Step, if set, is told how far it is, one at a time.
	Step func(AuditStep)
	// Live is the chain that the stream reads by, without the splices that are the batch's only. Job.Renew, if set, brings it up to date too.
	Live *tenant.Chain
}

// AuditStore is the part of the metric store that an audit reads.
type AuditStore interface {
	Rows(ctx context.Context, s store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error
	Catalog(ctx context.Context, tenant string, fn func(store.Series) error) error
	Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error
}

// AuditStep is how far an audit is.
type AuditStep struct {
	Phase    string
	Done, Of int
}

// Outcome counts values as a rows file has them: one a metric, variation, tag set and minute, zeros left out (SPEC 11).
type Outcome struct {
	Equal    int64 `json:"equal"`
	Mismatch int64 `json:"mismatch"`
	Missing  int64 `json:"missing"` // the batch has them, the stream has not
	Extra    int64 `json:"extra"`   // the stream has them, the batch has not
	// SMAPE is the mean of 200 |s - b| / (|s| + |b|) over all of them, in percent, 0 to 200.
	SMAPE float64 `json:"smape"`
	// Unexplained are those in which the stream is not what the records that are not late come to, or the batch not
	// what its inputs come to.
	Unexplained int64 `json:"unexplained"`

	apart float64 // sum of what SMAPE is the mean of
}

// Compared are the values that either layer has.
func (o *Outcome) Compared() int64 { return o.Equal + o.Mismatch + o.Missing + o.Extra }

func (o *Outcome) end() {
	if n := o.Compared(); n > 0 {
		o.SMAPE = o.apart / float64(n)
	}
}

// MetricOutcome is the outcome of a metric of an experiment, all variations together.
type MetricOutcome struct {
	Experiment string `json:"experiment,omitempty"`
	Metric     string `json:"metric"` // with its scope, as in store.Series
	Outcome
}

// Fault is a value that is not what it must be.
type Fault struct {
	Layer      string `json:"layer"`
	Experiment string `json:"experiment,omitempty"`
	Metric     string `json:"metric"`
	Variation  string `json:"variation,omitempty"`
	Tags       string `json:"tags,omitempty"`
	Minute     int64  `json:"minute"` // since the epoch
	Got        int64  `json:"got"`    // of visitors the estimate
	Want       int64  `json:"want"`
}

// Behind is a session that accounts for differences.
type Behind struct {
	Session string `json:"session"`
	// Why is late: its late beacons are in the batch only; or splice: the batch reads it by a config that the stream did not
	// have; or the layer whose faults it may account for.
	Why    string `json:"why"`
	Late   int64  `json:"late"`   // late beacons of it, in the windows that were looked at
	Values int    `json:"values"` // that it changes by being late, or of the faults those that it has a part in
	Exact  int    `json:"exact"`  // of the faults, those that are what it would be to lose, or have twice, all of its part
	Window int64  `json:"window"` // the first in which it does, ms
}

// AuditReport is what an audit comes to.
type AuditReport struct {
	Tenant string   `json:"tenant"`
	Layer  string   `json:"layer"`
	From   int64    `json:"from"` // minutes that were compared, [From, To)
	To     int64    `json:"to"`
	Less   []string `json:"less"` // why these are less than what was asked for
	// Start, in ms, is where the recomputation began. If it is not Exact, some session of the range began before it, and
	// what it counts from its beginning on may differ for that reason alone; Before is how many, at most.
	Start       int64           `json:"start"`
	Exact       bool            `json:"exact"`
	Before      int64           `json:"before"`
	Windows     int             `json:"windows"`   // with anything in them
	Covered     int             `json:"covered"`   // of these
	Due         int             `json:"due"`       // covered, and due again for a config or a run that changed: their batch cannot be checked
	Unchecked   int             `json:"unchecked"` // of Due: whose batch differs from what is not late, nobody knows why
	Spliced     int             `json:"spliced"`   // in which splices, which the stream does not read by, make a difference
	Records     int64           `json:"records"`   // archived, of the windows
	Late        int64           `json:"late"`      // of these
	Checked     int64           `json:"checked"`   // values of the stream compared with what they must be
	Rerun       int             `json:"rerun"`     // windows of the batch that were run again
	Total       Outcome         `json:"total"`     // where the batch has covered
	Metrics     []MetricOutcome `json:"metrics"`   // of Total
	Faults      int64           `json:"faults"`    // values of either layer
	FirstFaults []Fault         `json:"first"`     // at most maxFaults
	Sessions    []Behind        `json:"sessions"`  // those that account for most first, at most maxBehind
	Unnamed     int             `json:"unnamed"`   // windows with differences whose sessions were not looked for
}

const (
	// maxFaults and maxBehind bound what a report lists, maxCells how many faults of a window sessions are looked for.
	maxFaults = 1000
	maxBehind = 1000
	maxCells  = 100_000
	// maxNamed is in how many windows sessions are looked for, those with faults first: each is folded twice more.
	maxNamed = 96
	// auditGeneration is beyond all generations that are ever claimed, so its objects have names of their own.
	auditGeneration = 1 << 39
	expiryMargin    = 3600 * 1000 // ms
)

// auditing is an audit that is running.
type auditing struct {
	*Audit
	report  *AuditReport
	archive Archive
	covered map[int64]*Covered
	series  []seriesName // that some layer has, in order
	known   map[seriesName]bool
	metrics map[seriesName]*Outcome
	onTime  *rerun
	inputs  *rerun
	digests map[int64]uint64 // of what onTime has of a window
	spliced *rerun           // onTime by the batch's chain; nil where the stream's says the same, or nothing differs
	// by window: those in which the batch is not what the records that are not late come to; and all with differences
	drifts map[int64]bool
	faults map[int64]*windowFaults
}

type seriesName struct{ experiment, metric string }

// Run does the audit. The report says whether anything is unexplained: Faults.
func (a *Audit) Run(ctx context.Context) (*AuditReport, error) {
	r := &auditing{Audit: a, report: &AuditReport{Tenant: a.Job.Chain.Tenant, Layer: a.Layer, From: a.From, To: a.To},
		known: map[seriesName]bool{}, metrics: map[seriesName]*Outcome{}, drifts: map[int64]bool{}, faults: map[int64]*windowFaults{}, digests: map[int64]uint64{}}
	for _, phase := range []func(context.Context) error{r.open, r.begin, r.law, r.again, r.name, r.moved} {
		if err := phase(ctx); err != nil {
			return nil, fmt.Errorf("audit of %s: %w", r.report.Tenant, err)
		}
	}
	r.end()
	return r.report, nil
}

// open reads what there is, and cuts the range to what can be compared.
func (r *auditing) open(ctx context.Context) (err error) {
	j := r.Job
	if r.covered, err = r.standing(ctx); err != nil {
		return err
	}
	if r.archive, err = j.Archived(); err != nil { // after coverage, which so is of no more than it has
		return err
	}
	if j.Renew != nil {
		if err := j.Renew(); err != nil {
			return err
		}
	}
	if r.archive.Progress == math.MinInt64 {
		return errors.New("the archive does not know the progress of all sources yet: nothing can be recomputed")
	}
	rep := r.report
	least := func(to int64, why string) {
		if to < rep.To {
			rep.To = to
			rep.Less = append(rep.Less, why)
		}
	}
	least(r.Closed, "the stream has closed no minute from the range's new end on")
	for settled := metric.FloorDiv(r.archive.Progress, WindowMS) * WindowMS; ; settled -= WindowMS {
		if r.archive.Progress >= settled+max(lateness(j.Chain, settled-WindowMS), lateness(r.Live, settled-WindowMS)) {
			least(settled/60000, "the archive may still get records of the window at the range's new end")
			break
		}
	}
	if kept := metric.FloorDiv(r.Now-j.retention()+expiryMargin, 60000); kept > rep.From {
		rep.From = kept
		rep.Less = append(rep.Less, "rows before the range's new start have expired")
	}
	if r.archive.From/60000 > rep.From {
		rep.From = r.archive.From / 60000
		rep.Less = append(rep.Less, "the event files before the range's new start are retired")
	}
	if rep.From >= rep.To {
		return fmt.Errorf("nothing of the range can be compared, of which the new start is %s and the new end %s: %s", windowName(rep.From*60_000), windowName(rep.To*60_000), strings.Join(rep.Less, ", and "))
	}
	err = r.Store.Catalog(ctx, j.Chain.Tenant, func(s store.Series) error {
		r.known[seriesName{s.Experiment, s.Metric}] = true
		return nil
	})
	r.series = slices.SortedFunc(maps.Keys(r.known), compareSeries)
	return err
}

// reading is a Store of which only coverage is read.
type reading struct{ AuditStore }

func (reading) PutRows(context.Context, []store.Row) error        { return errReadOnly }
func (reading) PutRollups(context.Context, []store.Row) error     { return errReadOnly }
func (reading) PutCoverage(context.Context, store.Coverage) error { return errReadOnly }

var errReadOnly = errors.New("BUG: an audit writes nothing")

func windowOf(ms int64) int64 { return metric.FloorDiv(ms, WindowMS) * WindowMS }

// law runs the windows of the range, and those before it that it needs, over the records that are not late, and compares.
func (r *auditing) law(ctx context.Context) error {
	a := r.archive
	a.From = max(a.From, r.report.Start)
	due := Due(r.Live, a, nil)
	due = slices.DeleteFunc(due, func(w WindowPlan) bool { return w.Window >= r.report.To*60000 })
	inside := 0
	r.onTime = r.rerun(r.Live, auditGeneration, due, func(ctx context.Context, c *Covered, rows windowRows) error {
		if c.Window+WindowMS <= r.report.From*60000 {
			return nil
		}
		inside++
		r.digests[c.Window] = rows.digest()
		r.told("comparing", inside, int((r.report.To*60000-r.report.From*60000+WindowMS-1)/WindowMS))
		r.report.Records += c.Counts.Records
		r.report.Late += c.Counts.Late
		return r.compare(ctx, c.Window, rows)
	})
	if err := r.onTime.run(ctx); err != nil {
		return err
	}
	planned := map[int64]bool{}
	for i := range due {
		planned[due[i].Window] = true
	}
	// Between the windows that were run nothing may be.
	at := windowOf(r.report.From * 60000)
	for _, w := range r.inRange(planned) {
		if err := r.nothing(ctx, at, w); err != nil {
			return err
		}
		at = w + WindowMS
		if planned[w] {
			r.report.Windows++
		} else if err := r.compare(ctx, w, nil); err != nil {
			return err
		}
		if r.covered[w] != nil {
			r.report.Covered++
			if r.stale(w) {
				r.report.Due++
			}
		}
	}
	return r.nothing(ctx, at, r.report.To*60000)
}

// inRange are the windows of the range that are planned or covered, in order.
func (r *auditing) inRange(planned map[int64]bool) []int64 {
	var all []int64
	for w := range planned {
		all = append(all, w)
	}
	for w := range r.covered {
		all = append(all, w)
	}
	slices.Sort(all)
	all = slices.DeleteFunc(all, func(w int64) bool { return w+WindowMS <= r.report.From*60000 || w >= r.report.To*60000 })
	return slices.Compact(all)
}

// stale says that a covered window is due again for another reason than late records, which wait.
func (r *auditing) stale(w int64) bool {
	c := r.covered[w]
	in := inputs(r.Job.Chain, r.archive, r.covered, w)
	in.Spans = c.Inputs.Spans
	return !c.Inputs.equal(&in)
}

// apart says that the batch reads a window, or what it goes on from, by other revisions than the stream did.
func (r *auditing) apart(w int64) bool {
	spliced, live := inputs(r.Job.Chain, Archive{}, nil, w), inputs(r.Live, Archive{}, nil, w)
	return !spliced.sameConfig(&live)
}

// again runs the covered windows in which the batch differs from what is not late from the inputs of their coverage.
func (r *auditing) again(ctx context.Context) error {
	var plans []WindowPlan
	for _, w := range slices.Sorted(maps.Keys(r.drifts)) {
		if c := r.covered[w]; !r.stale(w) {
			plans = append(plans, *c.standing(r.covered))
		} else {
			r.report.Unchecked++
		}
	}
	r.report.Rerun = len(plans)
	done := 0
	r.inputs = r.rerun(nil, auditGeneration, plans, func(ctx context.Context, c *Covered, rows windowRows) error {
		done++
		r.told("running again", done, len(plans))
		return r.compareBatch(ctx, c.Window, rows)
	})
	return r.inputs.run(ctx)
}

// standing is the coverage that stands.
func (r *auditing) standing(ctx context.Context) (map[int64]*Covered, error) {
	return (&Job{Chain: r.Job.Chain, Store: reading{r.Store}}).Covered(ctx)
}

// moved tells of windows whose batch is wrong and that were covered anew since the audit began: the rows that they had then are kept for
// CollectGrace only.
func (r *auditing) moved(ctx context.Context) error {
	var found []int64
	for w, f := range r.faults {
		if len(f[ofBatch]) > 0 {
			found = append(found, w)
		}
	}
	if len(found) == 0 {
		return nil
	}
	now, err := r.standing(ctx)
	if err != nil {
		return err
	}
	slices.Sort(found)
	for _, w := range found {
		if c := r.covered[w]; c != nil && (now[w] == nil || now[w].Generation != c.Generation) {
			r.report.Less = append(r.report.Less, "window "+windowName(w)+" was covered anew while it was compared, and what it had before may be gone: audit it again")
		}
	}
	return nil
}

func (r *auditing) told(phase string, n, of int) {
	if r.Step != nil {
		r.Step(AuditStep{phase, n, of})
	}
}

func (r *auditing) end() {
	for _, n := range slices.SortedFunc(maps.Keys(r.metrics), compareSeries) {
		o := r.metrics[n]
		o.end()
		t := &r.report.Total
		t.Equal, t.Mismatch, t.Missing, t.Extra = t.Equal+o.Equal, t.Mismatch+o.Mismatch, t.Missing+o.Missing, t.Extra+o.Extra
		t.Unexplained += o.Unexplained
		t.apart += o.apart
		r.report.Metrics = append(r.report.Metrics, MetricOutcome{n.experiment, n.metric, *o})
	}
	r.report.Total.end()
	slices.SortStableFunc(r.report.FirstFaults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Minute, b.Minute), strings.Compare(a.Experiment, b.Experiment),
			strings.Compare(a.Metric, b.Metric), strings.Compare(a.Variation, b.Variation), strings.Compare(a.Tags, b.Tags))
	})
}
