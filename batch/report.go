package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// Report tells of a plan that was run. What it counts is of the whole plan; times are of the process that ended it, and
// leave out tasks that others ran.
type Report struct {
	Tenant      string
	Generation  int64
	Began       int64 // ms since the epoch, by the clock of the process
	TookMS      int64
	Parallel    int
	Ranges      int
	Windows     int
	First, Last int64 // windows, ms of event time
	Beacons     int64 // records of the archive
	Sessions    int64 // rows of state runs: sessions that a window changed, of each window
	Rows        int64 // metric rows
	Counts      Counts
	Phases      Phases
	Slowest     *SlowRange // nil if no range was mapped
	Again       []Again    `json:",omitempty"` // ranges that had been covered before
	Throttle    int        `json:",omitempty"` // Job.Throttle
	Approximate int        `json:",omitempty"` // windows whose sessions at the start are not known
}

// Phases are times of a run in ms. Those of map and reduce are sums over tasks, of which up to Parallel run at once.
type Phases struct{ Plan, Map, Reduce int64 }

// SlowRange is the hash range that took longest, over all windows.
type SlowRange struct {
	Range   int
	From    Hash // first hash
	TookMS  int64
	Beacons int64
}

// maxReports is how many reports of a tenant are kept.
const maxReports = 1000

// keepReport writes the report of a plan that has come to its end. The first who ends it writes it.
func (j *Job) keepReport(ctx context.Context, p *Plan, l *line, began time.Time, planned time.Duration) (*Report, error) {
	covered, err := j.coveredOf(ctx, p)
	if err != nil {
		return nil, err
	}
	r := &Report{Tenant: p.Tenant, Generation: p.Generation, Began: began.UnixMilli(), Parallel: j.parallel(), Throttle: j.Throttle, Ranges: len(p.Bounds),
		First: p.Windows[0].Window, Last: p.Windows[len(p.Windows)-1].Window,
		Phases: Phases{Plan: planned.Milliseconds(), Reduce: l.inReduces.Milliseconds()}}
	for i := range p.Windows {
		if !p.done(i, covered) {
			continue // a newer generation has it
		}
		c := covered[p.Windows[i].Window]
		r.Windows++
		if c.Unknown > 0 {
			r.Approximate++
		}
		r.Beacons += c.Counts.Records
		r.Rows += c.Rows
		r.Counts.add(&c.Counts)
		for _, f := range c.Files {
			r.Sessions += f.Rows
		}
	}
	if slices.ContainsFunc(p.Windows, func(w WindowPlan) bool { return w.Again }) {
		later, err := j.coveredIn(ctx, r.First/60000, (r.Last+back(j.Chain, r.Last)+2*WindowMS)/60000)
		if err != nil {
			return nil, err
		}
		r.Again = p.again(j.Chain, later)
	}
	slowest, all := -1, time.Duration(0)
	for i, d := range l.mapped {
		all += d
		if slowest < 0 || d > l.mapped[slowest] {
			slowest = i
		}
	}
	r.Phases.Map = all.Milliseconds()
	if slowest >= 0 {
		r.Slowest = &SlowRange{Range: l.ranges[slowest], From: p.Bounds[l.ranges[slowest]],
			TookMS: l.mapped[slowest].Milliseconds(), Beacons: l.records[slowest]}
	}
	r.TookMS = time.Since(began).Milliseconds()
	data, err := sealed.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	if err := j.Blobs.Create(j.reportName(p.Generation), data); err != nil && !errors.Is(err, blob.ErrExists) {
		return nil, fmt.Errorf("report: %w", err)
	}
	return r, j.forgetReports()
}

func (j *Job) reportName(g int64) string { return fmt.Sprintf("%sreports/%012d.json", j.folder(), g) }

func (j *Job) forgetReports() error {
	names, err := j.Blobs.List(j.folder() + "reports/")
	if err != nil {
		return fmt.Errorf("list reports: %w", err)
	}
	for _, name := range names[:max(len(names)-maxReports, 0)] {
		if err := j.Blobs.Delete(name); err != nil {
			return fmt.Errorf("forget report: %w", err)
		}
	}
	return nil
}

// Reports returns the last n reports, the newest first.
func (j *Job) Reports(n int) ([]*Report, error) {
	names, err := j.Blobs.List(j.folder() + "reports/")
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	var out []*Report
	for i := len(names) - 1; i >= max(len(names)-n, 0); i-- {
		data, err := j.Blobs.Get(names[i])
		if errors.Is(err, blob.ErrNotFound) {
			continue // forgotten meanwhile
		}
		r := &Report{}
		if err == nil {
			_, err = sealed.Unmarshal(data, r)
		}
		if err != nil {
			return nil, fmt.Errorf("report %s: %w", names[i], err)
		}
		out = append(out, r)
	}
	return out, nil
}
