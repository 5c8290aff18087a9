package batch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/tables"
)

// rowsAtOnce and bytesAtOnce bound the rows that wait to be written: then they are.
const (
	rowsAtOnce  = 20_000
	bytesAtOnce = 16 << 20
)

// RollupMS is for how many ms rollups are kept: an experiment longer than the retention keeps its totals (DESIGN 7).
const RollupMS = 400 * 24 * 3600 * 1000

// VisitorsMS is how long `visitors` is known by the minute; after that only by the window.
const VisitorsMS = 48 * 3600 * 1000

// write writes the rows of a window and its rollup, the sum (of visitors: the union) of its minutes.
func (j *Job) write(ctx context.Context, c *Covered, results []*rangeResult, pace *pace) error {
	w := j.writer(Layer(c.Generation), pace)
	t, err := j.tables(c)
	if err != nil {
		return err
	}
	var total metric.Sums
	rollup := total.At(c.Window / 60000)
	err = j.eachMinute(ctx, c.Window, results, func(m *metric.Minute) error {
		rollup.Merge(m, j.cells)
		return w.minute(ctx, m, m.Minute, t)
	})
	if err == nil {
		err = w.flush(ctx)
	}
	if err != nil {
		return err
	}
	c.Rows = w.n
	if err := t.keep(c); err != nil {
		return err
	}
	w.put = j.Store.PutRollups
	if err := w.minute(ctx, rollup, c.Window/60000, nil); err != nil {
		return err
	}
	return w.flush(ctx)
}

type writer struct {
	job     *Job
	pace    *pace
	layer   string
	put     func(ctx context.Context, rows []store.Row) error
	rows    []store.Row
	cells   []row.Cell
	values  []byte // of rows, one after another
	sketch  []byte // of the row at hand
	metrics map[metricKey]string
	tags    []int32 // by tag set: its place in the order of their texts
	n       int64
}

// metricKey names a metric within a scope of a kind.
type metricKey struct {
	scope       string
	group, cell int
}

func (j *Job) writer(layer string, pace *pace) *writer {
	w := &writer{job: j, pace: pace, layer: layer, put: j.Store.PutRows, metrics: map[metricKey]string{}, tags: make([]int32, len(j.Chain.Tags))}
	order := make([]int32, len(j.Chain.Tags))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(j.Chain.Tags[a], j.Chain.Tags[b]) })
	for place, tags := range order {
		w.tags[tags] = int32(place)
	}
	return w
}

// metric is the name of a metric in a scope: "fm.item_page.beta".
func (w *writer) metric(scope string, group, cell int) string {
	k := metricKey{scope, group, cell}
	name, known := w.metrics[k]
	if !known {
		name = scope + "." + w.job.Chain.Groups[group].Names[cell]
		w.metrics[k] = name
	}
	return name
}

// minute writes the rows of a minute, and the lines of their table; without a table it is a rollup.
func (w *writer) minute(ctx context.Context, m *metric.Minute, at int64, t *tableWriter) error {
	chain := w.job.Chain
	return m.Rows(w.job.cells, func(scope, group, cell int, cells []metric.Cell) error {
		s, x := chain.ScopeName(scope)
		kind, keep := row.Sums, w.retention()
		if group == tenant.GroupSeen {
			kind, keep = row.Sketches, min(keep, VisitorsMS)
		}
		if t == nil {
			keep = RollupMS
		}
		var variations []string
		if scope > 0 {
			variations = chain.XNames[(scope-1)/2].Variations
			slices.SortFunc(cells, func(a, b metric.Cell) int {
				if a.Variation != b.Variation {
					return strings.Compare(variations[a.Variation], variations[b.Variation])
				}
				return cmp.Compare(w.tags[a.Tags], w.tags[b.Tags])
			})
		} else {
			slices.SortFunc(cells, func(a, b metric.Cell) int { return cmp.Compare(w.tags[a.Tags], w.tags[b.Tags]) })
		}
		w.cells, w.sketch = w.cells[:0], w.sketch[:0]
		for i := range cells {
			rc := row.Cell{Tags: chain.Tags[cells[i].Tags], Value: cells[i].Value}
			if scope > 0 {
				rc.Variation = variations[cells[i].Variation]
			}
			if kind == row.Sketches {
				from := len(w.sketch)
				w.sketch = cells[i].Sketch.AppendBinary(w.sketch)
				rc.Sketch = w.sketch[from:]
			}
			w.cells = append(w.cells, rc)
		}
		from := len(w.values)
		values, err := row.Append(w.values, kind, w.cells)
		if err != nil {
			return fmt.Errorf("%s %s.%s minute %d: %w", x, s, chain.Groups[group].Names[cell], at, err)
		}
		w.values = values
		w.rows = append(w.rows, store.Row{
			Series:  store.Series{Tenant: chain.Tenant, Experiment: x, Metric: w.metric(s, group, cell), Layer: w.layer},
			Minute:  at,
			Expires: (at+1)*60000 + keep,
			Value:   values[from:len(values):len(values)],
		})
		w.n++
		if t != nil {
			line := tables.Row{Minute: at, Experiment: x, Scope: s, Metric: chain.Groups[group].Names[cell]}
			if err := t.row(&line, variations, cells); err != nil {
				return err
			}
		}
		if len(w.rows) >= w.job.rowsAtOnce() || len(w.values) >= bytesAtOnce {
			return w.flush(ctx)
		}
		return nil
	})
}

// retention is that of the newest revision: it changes nothing that is counted.
func (w *writer) retention() int64 {
	revs := w.job.Chain.Revs
	return revs[len(revs)-1].Config.Retention
}

func (w *writer) flush(ctx context.Context) error {
	for part := range slices.Chunk(w.rows, w.job.rowsAtOnce()) {
		if err := w.put(ctx, part); err != nil {
			return fmt.Errorf("write rows of %s: %w", w.layer, err)
		}
		if err := w.pace.rest(ctx); err != nil {
			return err
		}
	}
	w.rows, w.values = w.rows[:0], w.values[:0]
	return nil
}
