package main

import (
	"bytes"
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
	var err error
	if _, w.byLate, err = v.differences(ctx, minute, v.pipeline.Store, layer, nil); err != nil {
		return nil, err
	}
	view, err := batch.View(ctx, v.onTime, v.pipeline.Chain.Tenant)
	if err != nil {
		return nil, err
	}
	layer, ok := view.Layer(minute)
	if !ok {
		return nil, fmt.Errorf("window %d is covered by the batch, and not by the one without late beacons", minute)
	}
	w.rows, w.differ, err = v.differences(ctx, minute, v.onTime, layer, func(example string) {
		if len(w.examples) < demoExamples {
			w.examples = append(w.examples, example)
		}
	})
	return w, err
}

// differences compares every value of the stream in the window that begins at a minute with that of a layer of a store,
// absent being zero. It returns how many there are, and how many differ, which it tells about if told is not nil.
func (v *demoValues) differences(ctx context.Context, minute int64, st store.Store, layer string, told func(string)) (all, differ int64, err error) {
	names := map[store.Series]bool{} // without their layer
	for _, side := range []demoLayer{{v.pipeline.Store, v.layer}, {st, layer}} {
		err := side.store.Catalog(ctx, v.pipeline.Chain.Tenant, func(s store.Series) error {
			if s.Layer == side.layer {
				s.Layer = ""
				names[s] = true
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	var r row.Reader
	for s := range names {
		a, err := demoLayer{v.pipeline.Store, v.layer}.rows(ctx, s, minute)
		if err != nil {
			return 0, 0, err
		}
		b, err := demoLayer{st, layer}.rows(ctx, s, minute)
		if err != nil {
			return 0, 0, err
		}
		for i := range a {
			// Rows are canonical: equal values, equal bytes.
			if bytes.Equal(a[i], b[i]) {
				if a[i] != nil {
					if err := r.Reset(a[i]); err != nil {
						return 0, 0, fmt.Errorf("%s, minute %d: %w", s, minute+int64(i), err)
					}
					all += int64(r.Len())
				}
				continue
			}
			x, err := demoCells(a[i])
			if err != nil {
				return 0, 0, fmt.Errorf("%s, minute %d: %w", s, minute+int64(i), err)
			}
			y, err := demoCells(b[i])
			if err != nil {
				return 0, 0, fmt.Errorf("%s, minute %d: %w", s, minute+int64(i), err)
			}
			for k := range y {
				if _, ok := x[k]; !ok {
					x[k] = demoCell{}
				}
			}
			for k, c := range x {
				all++
				if c == y[k] {
					continue
				}
				if differ++; told != nil {
					told(fmt.Sprintf("%s %s, variation %q, %s, minute %d: stream %d, batch %d", s.Experiment, s.Metric, k.variation, k.tags,
						minute+int64(i), c.value, y[k].value))
				}
			}
		}
	}
	return all, differ, nil
}

// demoLayer is a layer of a store.
type demoLayer struct {
	store store.Store
	layer string
}

// rows reads the rows of a series in the window that begins at a minute; nil where there is none.
func (l demoLayer) rows(ctx context.Context, s store.Series, minute int64) (rows [batch.WindowMS / 60_000][]byte, err error) {
	s.Layer = l.layer
	err = l.store.Rows(ctx, s, minute, minute+int64(len(rows)), func(m, _ int64, value []byte) error {
		rows[m-minute] = bytes.Clone(value)
		return nil
	})
	return rows, err
}

type demoCellKey struct{ variation, tags string }

type demoCell struct {
	value  int64
	sketch string
}

// demoCells decodes a row, zeros left out; nil is an empty one.
func demoCells(value []byte) (map[demoCellKey]demoCell, error) {
	cells := map[demoCellKey]demoCell{}
	if value == nil {
		return cells, nil
	}
	_, err := row.Decode(value, func(c row.Cell) error {
		if x := (demoCell{c.Value, string(c.Sketch)}); x != (demoCell{}) {
			cells[demoCellKey{c.Variation, c.Tags}] = x
		}
		return nil
	})
	return cells, err
}
