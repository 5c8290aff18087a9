package main

import (
	"context"
	"fmt"
	"math"
	"slices"

	"tandem/batch"
	"tandem/core/beacon"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// demoValues reads what the table shows, and compares the layers. What is final is read once.
type demoValues struct {
	pipeline *embedded.Pipeline
	onTime   store.Store
	layer    string // of the stream

	experiments []demoExperiment // names only; without a name: the whole site
	metrics     []demoMetric

	closed  int64 // minutes before it are final in the stream, and in before
	before  demoTotals
	covered map[int64]*demoWindow // by minute of its start

	fresh        bool  // the last compare found something new
	rows, differ int64 // of the stream against the batch without late beacons
	byLate       int64 // rows of the stream against those of the batch that differ
	late         int64 // records in covered windows that the stream left out
	examples     []string
	batches      map[int64]bool // generations seen
}

// demoMetric is a metric that the table shows, of scope assigned, or where the config has no experiment of the site.
type demoMetric struct {
	name string
	of   func(*demoSums) *int64
}

type demoSide struct{ experiment, variation string }

// demoTotals are sums by experiment and variation.
type demoTotals map[demoSide]*demoSums

func (t demoTotals) at(k demoSide) *demoSums {
	s := t[k]
	if s == nil {
		s = &demoSums{}
		t[k] = s
	}
	return s
}

func (t demoTotals) add(o demoTotals) {
	for k, s := range o {
		t.at(k).add(s)
	}
}

// demoWindow is a covered window.
type demoWindow struct {
	generation           int64
	stream, batch        demoTotals
	rows, differ, byLate int64
	late                 int64
	examples             []string
}

func newDemoValues(p *embedded.Pipeline, onTime store.Store, layer string) *demoValues {
	v := &demoValues{pipeline: p, onTime: onTime, layer: layer, before: demoTotals{}, covered: map[int64]*demoWindow{}, batches: map[int64]bool{}}
	v.metrics = []demoMetric{
		{"visit", func(s *demoSums) *int64 { return &s.visits }},
		{"visit.beta", func(s *demoSums) *int64 { return &s.sessions }},
		{"order.beta", func(s *demoSums) *int64 { return &s.orders }}, // a session's only one, as is order.hit where there are stats
		{"order.revenue", func(s *demoSums) *int64 { return &s.revenue }},
		{"error.beta", func(s *demoSums) *int64 { return &s.errors }},
	}
	revs := p.Chain.Revs
	for i := range p.Chain.XNames {
		x := &p.Chain.XNames[i]
		e := demoExperiment{name: x.Name}
		control := ""
		for k := range revs {
			for _, c := range revs[k].Config.Experiments {
				if c.Name == x.Name {
					control = c.Control
				}
			}
		}
		for _, name := range x.Variations {
			if e.variations = append(e.variations, demoVariation{name: name}); name == control {
				last := len(e.variations) - 1
				e.variations[0], e.variations[last] = e.variations[last], e.variations[0]
			}
		}
		v.experiments = append(v.experiments, e)
	}
	if len(v.experiments) == 0 {
		v.experiments = []demoExperiment{{variations: []demoVariation{{name: "all"}}}}
	}
	return v
}

// shape says which columns a chain fills.
func (f *demoFrame) shape(chain *tenant.Chain) {
	f.tenant = chain.Tenant
	for i := range chain.Revs {
		for _, p := range chain.Revs[i].Config.Points {
			f.hasOrder = f.hasOrder || p.Name == "order"
			f.hasError = f.hasError || p.Name == "error"
			for _, x := range p.Values {
				if p.Name == "order" && x.Name == "revenue" {
					f.hasRevenue, f.decimals = true, x.Decimals
				}
			}
		}
	}
}

// sum adds the values of a layer in minutes [from, to) to the totals.
func (v *demoValues) sum(ctx context.Context, layer string, from, to int64, into demoTotals) error {
	for i := range v.experiments {
		x, scope := v.experiments[i].name, "assigned."
		if x == "" {
			scope = "site."
		}
		for _, m := range v.metrics {
			series := store.Series{Tenant: v.pipeline.Chain.Tenant, Experiment: x, Metric: scope + m.name, Layer: layer}
			err := v.pipeline.Store.Rows(ctx, series, from, to, func(minute, _ int64, value []byte) error {
				_, err := row.Decode(value, func(c row.Cell) error {
					side := demoSide{x, c.Variation}
					if x == "" {
						side.variation = "all"
					}
					*m.of(into.at(side)) += c.Value
					return nil
				})
				if err != nil {
					return fmt.Errorf("%s, minute %d: %w", series, minute, err)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// read fills what a frame shows of the store and of the counts.
func (v *demoValues) read(ctx context.Context, f *demoFrame) error {
	f.shape(v.pipeline.Chain)
	closed, err := v.complete(ctx)
	if err != nil {
		return err
	}
	if closed > v.closed {
		if err := v.sum(ctx, v.layer, v.closed, closed, v.before); err != nil {
			return err
		}
		v.closed = closed
	}
	soFar, stream, batched := demoTotals{}, demoTotals{}, demoTotals{}
	soFar.add(v.before)
	if err := v.sum(ctx, v.layer, v.closed, store.MaxMinute+1, soFar); err != nil {
		return err
	}
	for _, w := range v.covered {
		stream.add(w.stream)
		batched.add(w.batch)
	}
	f.experiments = f.experiments[:0]
	for _, x := range v.experiments {
		x.variations = slices.Clone(x.variations)
		for i := range x.variations {
			k := demoSide{x.name, x.variations[i].name}
			x.variations[i].soFar, x.variations[i].stream, x.variations[i].batch = *soFar.at(k), *stream.at(k), *batched.at(k)
		}
		f.experiments = append(f.experiments, x)
	}
	f.watermark, f.windows, f.minutes = closed, len(v.covered), int64(len(v.covered))*(batch.WindowMS/60_000)
	f.rows, f.differ, f.byLate, f.lateCovered = v.rows, v.differ, v.byLate, v.late

	counts := v.pipeline.StreamCounts()
	f.late = counts["late"] + counts["late.clock"]
	f.counts, f.rejected = f.counts[:0], f.rejected[:0]
	for _, c := range []demoCount{{"unused", counts["unused"]}, {"sent twice", counts["duplicate"]}, {"overflow", counts["overflow"]}} {
		if c.n > 0 {
			f.counts = append(f.counts, c)
		}
	}
	for _, r := range beacon.Reasons() {
		if n := counts["rejected."+r.String()]; n > 0 {
			f.rejected = append(f.rejected, demoCount{r.String(), n})
		}
	}
	return nil
}

// complete is the minute before which the store has all of the stream, 0 if that is not known yet.
func (v *demoValues) complete(ctx context.Context) (int64, error) {
	all, err := v.pipeline.Store.Progress(ctx, v.layer, v.pipeline.Chain.Tenant)
	if err != nil || len(all) < int(embedded.Defaults().Metrics) {
		return 0, err
	}
	least := int64(math.MaxInt64)
	for _, p := range all {
		least = min(least, p.ClosedBefore)
	}
	return least, nil
}

// compare compares the layers in the windows whose coverage is new.
func (v *demoValues) compare(ctx context.Context) error {
	v.fresh = false
	covered, err := v.pipeline.Job().Covered(ctx)
	if err != nil {
		return err
	}
	for ms, c := range covered {
		minute := ms / 60_000
		v.batches[c.Generation] = true
		if w := v.covered[minute]; w != nil && w.generation == c.Generation {
			continue
		}
		w, err := v.window(ctx, minute, c.Generation)
		if err != nil {
			return err
		}
		w.late = c.Counts.Late
		v.covered[minute] = w
		v.fresh = true
	}
	v.rows, v.differ, v.byLate, v.late, v.examples = 0, 0, 0, 0, nil
	for _, w := range v.covered {
		v.rows += w.rows
		v.differ += w.differ
		v.byLate += w.byLate
		v.late += w.late
		v.examples = append(v.examples, w.examples...)
	}
	slices.Sort(v.examples)
	v.examples = v.examples[:min(len(v.examples), demoExamples)]
	return nil
}

// demoExamples are shown of rows that should be equal and are not.
const demoExamples = 10

func (v *demoValues) generations() int64 { return int64(len(v.batches)) }

// window compares a covered window. The on-time batch has covered it as well: both are due by the same progress.
func (v *demoValues) window(ctx context.Context, minute, generation int64) (*demoWindow, error) {
	to := minute + batch.WindowMS/60_000
	w := &demoWindow{generation: generation, stream: demoTotals{}, batch: demoTotals{}}
	layer := batch.Layer(generation)
	if err := v.sum(ctx, v.layer, minute, to, w.stream); err != nil {
		return nil, err
	}
	if err := v.sum(ctx, layer, minute, to, w.batch); err != nil {
		return nil, err
	}
	stream, err := v.all(ctx, v.pipeline.Store, minute, to, v.layer)
	if err != nil {
		return nil, err
	}
	batched, err := v.all(ctx, v.pipeline.Store, minute, to, layer)
	if err != nil {
		return nil, err
	}
	_, w.byLate = demoCompare(stream, batched, func(embedded.Value) {})

	view, err := embedded.Resolve(ctx, v.onTime, v.pipeline.Chain.Tenant)
	if err != nil {
		return nil, err
	}
	layer, ok := view.Layer(minute)
	if !ok {
		return nil, fmt.Errorf("window %d is covered by the batch, and not by the one without late beacons", minute)
	}
	if batched, err = v.all(ctx, v.onTime, minute, to, layer); err != nil {
		return nil, err
	}
	w.rows, w.differ = demoCompare(stream, batched, func(k embedded.Value) {
		if len(w.examples) < demoExamples {
			w.examples = append(w.examples, fmt.Sprintf("%s %s minute %d: stream %d, batch %d",
				k.Name(v.pipeline.Chain.Tenant), k.Tags, k.Minute, stream[k], batched[k]))
		}
	})
	return w, nil
}

// all reads every value that is not 0 of a layer; keys have a Value of 0.
func (v *demoValues) all(ctx context.Context, st store.Store, from, to int64, layer string) (map[embedded.Value]int64, error) {
	all := map[embedded.Value]int64{}
	err := embedded.Values(ctx, st, v.pipeline.Chain.Tenant, from, to,
		func(l string, _ int64) bool { return l == layer },
		func(x *embedded.Value) error {
			if x.Value != 0 {
				k := *x
				k.Value = 0
				all[k] = x.Value
			}
			return nil
		})
	return all, err
}

// demoCompare counts the keys of both, and those whose values differ, a missing one being 0.
func demoCompare(a, b map[embedded.Value]int64, told func(embedded.Value)) (all, differ int64) {
	all = int64(len(a))
	for k, x := range a {
		if b[k] != x {
			differ++
			told(k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			all++
			differ++
			told(k)
		}
	}
	return all, differ
}
