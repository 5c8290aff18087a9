package batch

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

// windowRows are the rows of a window as Reduce writes them.
type windowRows map[rowName][]byte

type rowName struct {
	seriesName
	minute int64
}

// digest is a sum over the rows, 0 without any.
func (w windowRows) digest() (sum uint64) {
	for n, value := range w {
		var d xxhash.Digest
		d.Reset()
		fmt.Fprintf(&d, "%q %q %d %x", n.experiment, n.metric, n.minute, value)
		sum += d.Sum64()
	}
	return sum
}

// rerun is a plan that an audit runs for itself: nothing of it comes to the store, or to the batch's objects.
type rerun struct {
	job     *Job
	plan    *Plan
	archive Archive
}

// rerun makes one of windows, over the records that are not late by a chain, or, without one, over all by the batch's. done is
// told of each, in order, with its rows.
func (r *auditing) rerun(onTime *tenant.Chain, generation int64, windows []WindowPlan, done func(context.Context, *Covered, windowRows) error) *rerun {
	job := *r.Job
	job.Done, job.Step, job.noTables, job.Throttle = nil, nil, true, 0
	if onTime != nil {
		job.OnTime, job.Chain = true, onTime
	}
	kept := &auditStore{from: r.report.From, to: r.report.To, rows: windowRows{}}
	job.Store = kept
	for i := range windows {
		for k := range windows[i].Before {
			if b := &windows[i].Before[k]; !b.Digest.known {
				b.Generation = generation
			}
		}
	}
	p := &Plan{Tenant: job.Chain.Tenant, Generation: generation, Fold: FoldVersion, Parser: job.Parser, Windows: windows}
	if onTime == nil {
		p.Reparse = slices.ContainsFunc(windows, func(w WindowPlan) bool { return r.covered[w.Window].Reparsed })
	}
	own := job.folder()
	if onTime == nil {
		own = fmt.Sprintf("%sout/%012d/", job.folder(), p.Generation)
	}
	job.Blobs = &overlay{Store: r.Job.Blobs, temp: r.Temp, own: own}
	kept.covered = func(ctx context.Context, c store.Coverage) error {
		d, err := readCovered(c)
		if err == nil {
			err = done(ctx, d, kept.rows)
		}
		clear(kept.rows)
		return err
	}
	return &rerun{&job, p, r.archive}
}

func (x *rerun) run(ctx context.Context) (err error) {
	if len(x.plan.Windows) == 0 {
		return nil
	}
	if x.plan.Bounds == nil {
		if x.plan.Bounds, err = x.job.bounds(x.plan.Windows, x.archive); err != nil {
			return err
		}
	}
	all := make([]int, len(x.plan.Windows))
	for i := range all {
		all[i] = i
	}
	l := x.job.line(x.plan, x.archive, all, everyRange(x.plan))
	l.reduces = true
	return l.run(ctx)
}

// auditStore takes what a rerun writes: the rows of the window at hand in the range of an audit. A reduce is the only one that
// writes, one window after another.
type auditStore struct {
	from, to int64
	rows     windowRows
	covered  func(context.Context, store.Coverage) error
}

func (s *auditStore) PutRows(_ context.Context, rows []store.Row) error {
	for i := range rows {
		if r := &rows[i]; r.Minute >= s.from && r.Minute < s.to {
			s.rows[rowName{seriesName{r.Experiment, r.Metric}, r.Minute}] = bytes.Clone(r.Value)
		}
	}
	return nil
}

func (s *auditStore) PutRollups(context.Context, []store.Row) error { return nil }

func (s *auditStore) PutCoverage(ctx context.Context, c store.Coverage) error {
	return s.covered(ctx, c)
}

func (s *auditStore) Coverage(context.Context, string, int64, int64, func(store.Coverage) error) error {
	return nil
}

// overlay is blob storage that is only read, but for names that begin with own, which live in temp.
type overlay struct {
	blob.Store
	temp blob.Store
	own  string
}

func (o *overlay) of(name string) blob.Store {
	if strings.HasPrefix(name, o.own) {
		return o.temp
	}
	return o.Store
}

func (o *overlay) Create(name string, data []byte) error {
	if s := o.of(name); s == o.temp {
		return s.Create(name, data)
	}
	return fmt.Errorf("%s: %w", name, errReadOnly)
}

func (o *overlay) Get(name string) ([]byte, error)       { return o.of(name).Get(name) }
func (o *overlay) Open(name string) (blob.Reader, error) { return o.of(name).Open(name) }
func (o *overlay) List(prefix string) ([]string, error)  { return o.of(prefix).List(prefix) }
func (o *overlay) Delete(name string) error              { return fmt.Errorf("%s: %w", name, errReadOnly) }
func compareSeries(a, b seriesName) int {
	return slices.Compare([]string{a.experiment, a.metric}, []string{b.experiment, b.metric})
}
