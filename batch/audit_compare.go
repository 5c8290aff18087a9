package batch

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// cellName is a value of a row.
type cellName struct{ variation, tags string }

// auditCell is what layers have for a value; of visitors the sketch as it stands, and the estimate.
type auditCell struct {
	n      [3]int64
	sketch [3][]byte
}

// What is compared.
const (
	ofStream = iota
	ofBatch
	ofFold // what either must be
)

// same says whether two have the same value: absent is 0.
func (c *auditCell) same(x, y int) bool {
	return c.n[x] == c.n[y] && bytes.Equal(c.sketch[x], c.sketch[y])
}

func (c *auditCell) has(x int) bool { return c.n[x] != 0 || len(c.sketch[x]) > 0 }

func isVisitors(metric string) bool { return strings.HasSuffix(metric, ".visitors") }

// cells decodes a row.
func (r *auditing) cells(into map[cellName]*auditCell, of int, n rowName, value []byte) error {
	if value == nil {
		return nil
	}
	_, err := row.Decode(value, func(c row.Cell) error {
		if c.Value == 0 && c.Sketch == nil {
			return nil
		}
		at := into[cellName{c.Variation, c.Tags}]
		if at == nil {
			at = &auditCell{}
			into[cellName{c.Variation, c.Tags}] = at
		}
		at.n[of] = c.Value
		if c.Sketch != nil {
			var sk metric.Sketch
			if err := sk.UnmarshalBinary(c.Sketch); err != nil {
				return err
			}
			at.sketch[of], at.n[of] = bytes.Clone(c.Sketch), sk.Estimate()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s of experiment %q, minute %d, %s: %w", n.metric, n.experiment, n.minute, [...]string{"the stream's row", "the batch's row", "recomputed row"}[of], err)
	}
	return nil
}

// seriesOf are the series of a window: those in the catalog, and those of its rows.
func (r *auditing) seriesOf(rows windowRows) []seriesName {
	fresh := map[seriesName]bool{}
	for n := range rows {
		if !r.known[n.seriesName] {
			fresh[n.seriesName] = true
		}
	}
	if len(fresh) == 0 {
		return r.series
	}
	all := slices.Clone(r.series)
	for n := range fresh {
		all = append(all, n)
	}
	slices.SortFunc(all, compareSeries)
	return all
}

// eachRow calls fn for each row of a window that some layer or the recomputation has, with what each of them holds.
func (r *auditing) eachRow(ctx context.Context, window int64, layers [2]string, rows windowRows, fn func(n rowName, values [3][]byte) error) error {
	from, to := r.clamp(window, window+WindowMS)
	for _, s := range r.seriesOf(rows) {
		found := map[int64]*[3][]byte{}
		at := func(minute int64) *[3][]byte {
			v := found[minute]
			if v == nil {
				v = &[3][]byte{}
				found[minute] = v
			}
			return v
		}
		for of, layer := range layers {
			if layer == "" {
				continue
			}
			series := store.Series{Tenant: r.report.Tenant, Experiment: s.experiment, Metric: s.metric, Layer: layer}
			err := r.Store.Rows(ctx, series, from, to, func(minute, _ int64, value []byte) error {
				at(minute)[of] = bytes.Clone(value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		for minute := from; minute < to; minute++ {
			n := rowName{s, minute}
			if v := rows[n]; v != nil {
				at(minute)[ofFold] = v
			}
			if v := found[minute]; v != nil && !r.expired(s, minute) {
				if err := fn(n, *v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// clamp turns ms to minutes of the range.
func (r *auditing) clamp(from, to int64) (int64, int64) {
	return max(from/60000, r.report.From), min(to/60000, r.report.To)
}

// nothing compares the stream's rows with what they must be between windows, [from, to) ms: there must be none.
func (r *auditing) nothing(ctx context.Context, from, to int64) error {
	if from, to = r.clamp(from, to); from >= to {
		return nil
	}
	cells := map[cellName]*auditCell{}
	for _, s := range r.series {
		series := store.Series{Tenant: r.report.Tenant, Experiment: s.experiment, Metric: s.metric, Layer: r.Layer}
		err := r.Store.Rows(ctx, series, from, to, func(minute, _ int64, value []byte) error {
			clear(cells)
			n := rowName{s, minute}
			if r.expired(s, minute) {
				return nil
			}
			if err := r.cells(cells, ofStream, n, value); err != nil {
				return err
			}
			for at, x := range cells {
				r.report.Checked++
				r.outcome(s).Unexplained++
				r.fault(windowOf(minute*60000), r.Layer, n, at, x.n[ofStream], 0)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *auditing) outcome(n seriesName) *Outcome {
	o := r.metrics[n]
	if o == nil {
		o = &Outcome{}
		r.metrics[n] = o
	}
	return o
}

// compare compares the layers of a window with each other, and the stream's rows with what they must be.
func (r *auditing) compare(ctx context.Context, window int64, rows windowRows) error {
	layers := [2]string{r.Layer}
	c := r.covered[window]
	if c != nil {
		layers[ofBatch] = Layer(c.Generation)
	}
	var cells map[cellName]*auditCell
	return r.eachRow(ctx, window, layers, rows, func(n rowName, v [3][]byte) error {
		if cells == nil {
			cells = map[cellName]*auditCell{}
		}
		clear(cells)
		for of := range v {
			if err := r.cells(cells, of, n, v[of]); err != nil {
				return err
			}
		}
		o := r.outcome(n.seriesName)
		for at, x := range cells {
			r.report.Checked++
			right := x.same(ofStream, ofFold)
			if !right {
				o.Unexplained++
				r.fault(window, r.Layer, n, at, x.n[ofStream], x.n[ofFold])
			}
			if c == nil {
				continue
			}
			if !x.same(ofBatch, ofFold) {
				r.drifts[window] = true
			}
			o.add(x)
		}
		return nil
	})
}

func (o *Outcome) add(x *auditCell) {
	switch {
	case x.same(ofStream, ofBatch):
		if x.has(ofStream) {
			o.Equal++
		}
		return
	case !x.has(ofStream):
		o.Missing++
	case !x.has(ofBatch):
		o.Extra++
	default:
		o.Mismatch++
	}
	s, b := float64(x.n[ofStream]), float64(x.n[ofBatch])
	if s != b {
		o.apart += 200 * math.Abs(s-b) / (math.Abs(s) + math.Abs(b))
	}
}

// compareBatch compares the batch's rows of a window with what its inputs come to.
func (r *auditing) compareBatch(ctx context.Context, window int64, rows windowRows) error {
	layer := Layer(r.covered[window].Generation)
	cells := map[cellName]*auditCell{}
	return r.eachRow(ctx, window, [2]string{ofBatch: layer}, rows, func(n rowName, v [3][]byte) error {
		clear(cells)
		for of := range v {
			if err := r.cells(cells, of, n, v[of]); err != nil {
				return err
			}
		}
		for at, x := range cells {
			if !x.same(ofBatch, ofFold) {
				r.outcome(n.seriesName).Unexplained++
				r.fault(window, layer, n, at, x.n[ofBatch], x.n[ofFold])
			}
		}
		return nil
	})
}

// fault notes a value that is not what it must be.
func (r *auditing) fault(window int64, layer string, n rowName, at cellName, got, want int64) {
	r.report.Faults++
	if len(r.report.FirstFaults) < maxFaults {
		r.report.FirstFaults = append(r.report.FirstFaults, Fault{layer, n.experiment, n.metric, at.variation, at.tags, n.minute, got, want})
	}
	f := r.faults[window]
	if f == nil {
		f = &windowFaults{}
		r.faults[window] = f
	}
	of := ofStream
	if layer != r.Layer {
		of = ofBatch
	}
	if k, ok := r.key(n, at); ok && len(f[of]) < maxCells {
		if f[of] == nil {
			f[of] = map[cellKey]int64{}
		}
		f[of][k] = got - want
	}
}
