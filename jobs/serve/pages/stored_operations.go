package pages

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"tandem/batch"
	"tandem/core/view"
	"tandem/jobs/serve"
	"tandem/schemas/row"
	"tandem/schemas/sealed"
	"tandem/schemas/store"
)

const (
	shownTicks   = 100
	shownRuns    = 20
	shownWindows = 48
	// driftWindows is how many of the newest covered windows the stream is compared with.
	driftWindows = 8
)

// Operations is part of Source.
func (s *Stored) Operations(ctx context.Context, name string) (*Operations, error) {
	q, err := asked(ctx, name)
	if err != nil {
		return nil, err
	}
	o := &Operations{Services: []Service{}, Layers: []Layer{}, Ticks: []Tick{}, Runs: []Run{}, Drift: []Drift{}, Missing: []string{},
		MayPromote: s.Promoter != nil && q.Who.Role == serve.RoleAdmin, Coverage: Coverage{Windows: []Window{}}}
	st := q.Reader.Store()
	x, err := q.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	_, to := x.Span()
	if o.Now = to * 60000; s.Now != nil {
		o.Now = s.Now().UnixMilli()
	}
	if err := s.layers(ctx, st, name, x.View.Active, o); err != nil {
		return nil, err
	}
	if err := coverage(ctx, st, name, x.View.Windows, o); err != nil {
		return nil, err
	}
	if err := drift(ctx, st, name, x.View.Active, o); err != nil {
		return nil, err
	}
	s.askServices(o)
	if s.Ticks != nil {
		o.Ticks = append(o.Ticks, s.Ticks()...)
	}
	slices.SortFunc(o.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(o.Ticks, func(a, b Tick) int { return cmp.Compare(b.At, a.At) })
	o.Ticks = o.Ticks[:min(len(o.Ticks), shownTicks)]
	if s.Batch == nil {
		o.Missing = append(o.Missing, "This service has no archive, so it knows of no batch runs, nor of late beacons that wait.")
		return o, nil
	}
	j, err := s.Batch(name)
	if err == nil {
		err = runs(ctx, j, st, o)
	}
	if err != nil {
		o.Missing = append(o.Missing, fmt.Sprintf("The batch's reports cannot be read: %v", err))
	}
	return o, nil
}

func (s *Stored) layers(ctx context.Context, st store.Store, name, active string, o *Operations) error {
	names := slices.Clone(s.Layers)
	if active != "" && !slices.Contains(names, active) {
		names = append(names, active)
	}
	slices.Sort(names)
	for _, l := range names {
		all, err := st.Progress(ctx, l, name)
		if err != nil {
			return err
		}
		layer := Layer{Name: l, Active: l == active, Partitions: []Partition{}}
		var holds []int32
		for i, p := range all {
			at := p.ClosedBefore * 60000
			layer.Partitions = append(layer.Partitions, Partition{p.Partition, at})
			if i == 0 || at < layer.Complete {
				layer.Complete, holds = at, nil
			}
			if at == layer.Complete {
				holds = append(holds, p.Partition)
			}
		}
		if len(holds) > 0 && len(holds) < len(all) {
			layer.HeldBy = fmt.Sprintf("metrics partitions %v", holds)
		}
		o.Layers = append(o.Layers, layer)
	}
	return nil
}

// coverage tells of the newest windows of those that the view has.
func coverage(ctx context.Context, st store.Store, name string, known []view.Window, o *Operations) error {
	from := int64(0)
	if n := len(known); n > shownWindows {
		from = known[n-shownWindows].From
	}
	err := st.Coverage(ctx, name, from, store.MaxMinute+1, func(c store.Coverage) error {
		var done batch.Covered
		if _, err := sealed.Unmarshal(c.Data, &done); err != nil {
			return fmt.Errorf("coverage of %s, window %d: %w", name, c.Window, err)
		}
		from := c.Window * 60000
		o.Coverage.Windows = append(o.Coverage.Windows, Window{From: from, To: from + batch.WindowMS, Generation: c.Generation, Records: done.Counts.Records,
			Late: done.Counts.Late, Conflicts: done.Counts.Conflict, Approximate: done.Unknown > 0})
		if from+batch.WindowMS > o.Coverage.Before {
			o.Coverage.Before, o.Coverage.Twice = from+batch.WindowMS, done.Counts.LateSessions
		}
		return nil
	})
	slices.Reverse(o.Coverage.Windows)
	o.Coverage.Windows = o.Coverage.Windows[:min(len(o.Coverage.Windows), shownWindows)]
	return err
}

// drift compares a few sums of the site, the stream's with the batch's.
func drift(ctx context.Context, st store.Store, name, active string, o *Operations) error {
	if active == "" {
		return nil
	}
	for _, metric := range []string{"visit", "visit.beta", "visit.end", "bounce"} {
		d := Drift{Metric: metric}
		for _, w := range o.Coverage.Windows[:min(len(o.Coverage.Windows), driftWindows)] {
			for _, side := range []struct {
				layer string
				to    *int64
			}{{active, &d.Stream}, {batch.Layer(w.Generation), &d.Batch}} {
				err := st.Rows(ctx, store.Series{Tenant: name, Metric: "site." + metric, Layer: side.layer}, w.From/60000, w.To/60000, func(_, _ int64, value []byte) error {
					_, err := row.Decode(value, func(c row.Cell) error {
						*side.to += c.Value
						return nil
					})
					return err
				})
				if err != nil {
					return err
				}
			}
		}
		if d.Stream != 0 || d.Batch != 0 {
			o.Drift = append(o.Drift, d)
		}
	}
	return nil
}

func runs(ctx context.Context, j *batch.Job, st store.Store, o *Operations) error {
	reports, err := j.Reports(shownRuns)
	if err != nil {
		return err
	}
	for _, r := range reports {
		run := Run{Generation: r.Generation, Began: r.Began, Took: r.TookMS, Windows: r.Windows, First: r.First, Last: r.Last, Beacons: r.Beacons, Sessions: r.Sessions,
			Late: r.Counts.Late, Conflicts: r.Counts.Conflict, Plan: r.Phases.Plan, Map: r.Phases.Map, Reduce: r.Phases.Reduce}
		if w := r.Slowest; w != nil {
			run.Slowest = fmt.Sprintf("%d of %d: %.1f s, %d %% of map", w.Range, r.Ranges, float64(w.TookMS)/1000, 100*w.TookMS/max(r.Phases.Map, 1))
		}
		o.Runs = append(o.Runs, run)
	}
	asked := *j
	asked.Store = st
	late, _, err := asked.Waiting(ctx)
	if err != nil {
		return err
	}
	if late.Windows > 0 {
		o.Coverage.Waiting, o.Coverage.WaitingIn, o.Coverage.Since, o.Coverage.Due = late.Beacons, late.Windows, late.Since, late.Due
	}
	return nil
}
