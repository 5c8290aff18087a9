package batch

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// rowsAtOnce bounds the rows that wait to be written.
const rowsAtOnce = 20_000

// rollupMS is how long rollups are kept: an experiment longer than the retention keeps its totals (DESIGN 7).
const rollupMS = 400 * 24 * 3600 * 1000

// visitorsMS is how long `visitors` is known by the minute; after that only by the window.
const visitorsMS = 48 * 3600 * 1000

// write writes the rows of a window and its rollup, the sum (of visitors: the union) of its minutes.
func (j *Job) write(ctx context.Context, c *Covered, sums *metric.Sums, pace *pace) error {
	w := writer{job: j, pace: pace, layer: Layer(c.Generation), put: j.Store.PutRows}
	var total metric.Sums
	rollup := total.At(c.Window / 60000)
	for _, m := range sums.Minutes() {
		if m.Minute < c.Window/60000 || m.Minute >= (c.Window+WindowMS)/60000 {
			return fmt.Errorf("BUG: window %d holds rows of minute %d", c.Window, m.Minute)
		}
		if err := w.minute(ctx, m, m.Minute, false); err != nil {
			return err
		}
		rollup.Merge(m, j.cells)
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	c.Rows = w.n
	w.put = j.Store.PutRollups
	if err := w.minute(ctx, rollup, c.Window/60000, true); err != nil {
		return err
	}
	return w.flush(ctx)
}

type writer struct {
	job   *Job
	pace  *pace
	layer string
	put   func(ctx context.Context, rows []store.Row) error
	rows  []store.Row
	cells []row.Cell
	n     int64
}

func (w *writer) minute(ctx context.Context, m *metric.Minute, at int64, rollup bool) error {
	chain := w.job.Chain
	return m.Rows(w.job.cells, func(scope, group, cell int, cells []metric.Cell) error {
		s, x := chain.ScopeName(scope)
		kind, keep := row.Sums, w.retention()
		if group == tenant.GroupSeen {
			kind, keep = row.Sketches, min(keep, visitorsMS)
		}
		if rollup {
			keep = rollupMS
		}
		w.cells = w.cells[:0]
		for i := range cells {
			rc := row.Cell{Tags: chain.Tags[cells[i].Tags], Value: cells[i].Value}
			if scope > 0 {
				rc.Variation = chain.XNames[(scope-1)/2].Variations[cells[i].Variation]
			}
			if kind == row.Sketches {
				rc.Sketch = cells[i].Sketch.AppendBinary(nil)
			}
			w.cells = append(w.cells, rc)
		}
		slices.SortFunc(w.cells, func(a, b row.Cell) int {
			if c := strings.Compare(a.Variation, b.Variation); c != 0 {
				return c
			}
			return strings.Compare(a.Tags, b.Tags)
		})
		value, err := row.Append(nil, kind, w.cells)
		if err != nil {
			return fmt.Errorf("%s %s.%s minute %d: %w", x, s, chain.Groups[group].Names[cell], at, err)
		}
		w.rows = append(w.rows, store.Row{
			Series:  store.Series{Tenant: chain.Tenant, Experiment: x, Metric: s + "." + chain.Groups[group].Names[cell], Layer: w.layer},
			Minute:  at,
			Expires: (at+1)*60000 + keep,
			Value:   value,
		})
		w.n++
		if len(w.rows) >= w.job.rowsAtOnce() {
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
	w.rows = w.rows[:0]
	return nil
}
