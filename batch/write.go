package batch

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/tables"
)

// rowsAtOnce and bytesAtOnce bound the rows that wait to be written: then they are.
const (
	rowsAtOnce  = 20_000
	bytesAtOnce = 16 << 20
)

// maxShapes is how many shapes of rows are kept; beyond, all are forgotten.
const maxShapes = 16 << 10

// RollupMS is for how many ms rollups are kept: an experiment longer than the retention keeps its totals (DESIGN 7).
const RollupMS = 400 * 24 * 3600 * 1000

// VisitorsMS is how long `visitors` is known by the minute; after that only by the window.
const VisitorsMS = 48 * 3600 * 1000

// write writes the rows of a window and its rollup, the sum (of visitors: the union) of its minutes.
func (j *Job) write(ctx context.Context, c *Covered, results []*rangeResult, files *openFiles, pace *pace) error {
	w := reuse(files, &files.writers)
	if w == nil {
		w = j.writer()
	}
	w.start(c, pace)
	err := eachPages(ctx, c.Window, j.sources(c.Window, results, files), func(p *metric.Pages) error { return w.pages(ctx, p) })
	if err == nil {
		err = w.end(ctx)
	}
	if err != nil {
		return err
	}
	c.Rows = w.n
	if err := w.table.keep(c); err != nil {
		return err
	}
	// After a large one it would be held through the maps of the next one, beside which getting it again is nothing.
	if c.Counts.Records <= largeWindow {
		give(files, &files.writers, w)
	}
	return nil
}

// writer makes rows of the sums of a window, and rollups. Rows of one scope and group are written with the minutes of a metric
// side by side, as stores keep them.
type writer struct {
	job    *Job
	pace   *pace
	layer  string
	window int64 // in minutes since the epoch
	table  tableWriter
	n      int64 // rows, without rollups

	rows, rollups written
	rollup        metric.Pages
	// Of the scope and group at hand.
	row        metric.Key
	scope, x   string
	names      []string // of the cells
	metrics    []string // the same with the scope's name: "fm.item_page.beta"
	variations []string
	byCell     [][]store.Row

	keys   []metric.Key // of the pages that places are of
	places []place
	cells  [metric.MaxCells]cellsOf
	shapes map[string]*row.Shape
	shape  []byte     // scratch: a key of shapes
	full   []row.Cell // scratch: cells with names
	sketch []byte     // scratch: sketches of a row
	value  []byte     // scratch: a row

	tags       []int32 // by tag set: its place in the order of their texts
	allMetrics map[string][]string
	ranks      map[string]uint32 // of the variations: their places in order
}

// place is where a page stands in a row: rows are in order of the texts of variations and tags.
type place struct {
	order uint64
	page  int
}

// cellsOf are the cells of a row.
type cellsOf struct {
	pages  []int // in order of place
	values []int64
}

// written are rows that wait to be written.
type written struct {
	put    func(ctx context.Context, rows []store.Row) error
	rows   []store.Row
	values slabs // of rows
}

// slabs hold the values of rows one after another, in pieces that are never moved: one that grew would be there twice, and its
// former places for as long as rows point to them.
type slabs struct {
	all   [][]byte // the first used of them are full, the next one is being filled
	used  int
	bytes int // of all values
}

const slabBytes = 1 << 20 // or one value

// keep copies a value, which is good until reset.
func (s *slabs) keep(v []byte) []byte {
	for s.used < len(s.all) && cap(s.all[s.used])-len(s.all[s.used]) < len(v) {
		s.used++
	}
	if s.used == len(s.all) {
		s.all = append(s.all, make([]byte, 0, max(slabBytes, len(v))))
	}
	to := &s.all[s.used]
	from := len(*to)
	*to = append(*to, v...)
	s.bytes += len(v)
	return (*to)[from:len(*to):len(*to)]
}

func (s *slabs) reset() {
	for i := range s.all {
		s.all[i] = s.all[i][:0]
	}
	s.used, s.bytes = 0, 0
}

// writer makes one, for any number of windows.
func (j *Job) writer() *writer {
	chain := j.Chain
	w := &writer{job: j, rows: written{put: j.Store.PutRows}, rollups: written{put: j.Store.PutRollups}, shapes: map[string]*row.Shape{}, tags: make([]int32, len(chain.Tags)),
		allMetrics: map[string][]string{}, ranks: map[string]uint32{"": 0}}
	order := make([]int32, len(chain.Tags))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(chain.Tags[a], chain.Tags[b]) })
	for place, tags := range order {
		w.tags[tags] = int32(place)
	}
	var variations []string
	for i := range chain.XNames {
		variations = append(variations, chain.XNames[i].Variations...)
	}
	slices.Sort(variations)
	for i, v := range slices.Compact(variations) {
		w.ranks[v] = uint32(i + 1)
	}
	return w
}

// start begins with a window.
func (w *writer) start(c *Covered, pace *pace) {
	w.pace, w.layer, w.window, w.n = pace, Layer(c.Generation), c.Window/60000, 0
	w.job.tables(&w.table, c)
}

// pages makes the rows of a scope and group in a minute.
func (w *writer) pages(ctx context.Context, p *metric.Pages) error {
	if len(w.rollup.Keys) > 0 && p.Row() != w.row {
		if err := w.endRow(ctx); err != nil {
			return err
		}
	}
	if len(w.rollup.Keys) == 0 {
		w.begin(p)
	}
	w.rollup.Minute = w.window
	w.rollup.Add(p)
	return w.make(p, &w.rows, true)
}

// begin begins with a scope and group.
func (w *writer) begin(p *metric.Pages) {
	chain := w.job.Chain
	w.row = p.Row()
	scope, group := p.Keys[0].Scope(), p.Keys[0].Group()
	w.scope, w.x = chain.ScopeName(scope)
	w.names, w.variations = chain.Groups[group].Names, nil
	if scope > 0 {
		w.variations = chain.XNames[(scope-1)/2].Variations
	}
	key := fmt.Sprint(w.scope, group)
	if w.metrics = w.allMetrics[key]; w.metrics == nil {
		for _, name := range w.names {
			w.metrics = append(w.metrics, w.scope+"."+name)
		}
		w.allMetrics[key] = w.metrics
	}
	w.keys = w.keys[:0]
	for len(w.byCell) < len(w.names) {
		w.byCell = append(w.byCell, nil)
	}
}

// endRow writes what there is of a scope and group.
func (w *writer) endRow(ctx context.Context) error {
	if err := w.gather(ctx, &w.rows); err != nil {
		return err
	}
	if err := w.make(&w.rollup, &w.rollups, false); err != nil {
		return err
	}
	w.rollup.Reset()
	return w.gather(ctx, &w.rollups)
}

// end writes all that is left.
func (w *writer) end(ctx context.Context) error {
	if len(w.rollup.Keys) > 0 {
		if err := w.endRow(ctx); err != nil {
			return err
		}
	}
	if err := w.flush(ctx, &w.rows); err != nil {
		return err
	}
	return w.flush(ctx, &w.rollups)
}

// make makes the rows of pages, by cell, and the lines of their table; the minute of a rollup is its window, and it has no lines.
func (w *writer) make(p *metric.Pages, to *written, lines bool) error {
	w.arrange(p)
	seen := len(p.Sketches) > 0
	n := len(w.names)
	for c := range n {
		w.cells[c].pages, w.cells[c].values = w.cells[c].pages[:0], w.cells[c].values[:0]
	}
	for _, at := range w.places {
		if seen {
			w.cells[0].pages = append(w.cells[0].pages, at.page)
			continue
		}
		for c, v := range p.Cells[at.page*n : at.page*n+n] {
			if v != 0 {
				cells := &w.cells[c]
				cells.pages, cells.values = append(cells.pages, at.page), append(cells.values, v)
			}
		}
	}
	keep := w.retention()
	if seen {
		keep = min(keep, VisitorsMS)
	}
	if !lines {
		keep = RollupMS
	}
	for c := range n {
		cells := &w.cells[c]
		if len(cells.pages) == 0 {
			continue
		}
		var err error
		if seen {
			w.value, err = w.sketches(w.value[:0], p)
		} else {
			w.value, err = w.sums(w.value[:0], p, cells)
		}
		if err != nil {
			return fmt.Errorf("%s %s minute %d: %w", w.x, w.metrics[c], p.Minute, err)
		}
		w.byCell[c] = append(w.byCell[c], store.Row{
			Series:  store.Series{Tenant: w.job.Chain.Tenant, Experiment: w.x, Metric: w.metrics[c], Layer: w.layer},
			Minute:  p.Minute,
			Expires: (p.Minute+1)*60000 + keep,
			Value:   to.values.keep(w.value),
		})
		if lines {
			w.n++
			if err := w.lines(p, c, cells); err != nil {
				return err
			}
		}
	}
	return nil
}

// arrange puts the pages in the order of rows.
func (w *writer) arrange(p *metric.Pages) {
	if slices.Equal(w.keys, p.Keys) {
		return
	}
	w.keys = append(w.keys[:0], p.Keys...)
	w.places = w.places[:0]
	for i, k := range p.Keys {
		w.places = append(w.places, place{uint64(w.ranks[w.variation(k)])<<32 | uint64(w.tags[k.Tags()]), i})
	}
	slices.SortFunc(w.places, func(a, b place) int { return cmp.Compare(a.order, b.order) })
}

func (w *writer) variation(k metric.Key) string {
	if w.variations == nil {
		return ""
	}
	return w.variations[k.Variation()]
}

func (w *writer) cell(k metric.Key) row.Cell {
	return row.Cell{Variation: w.variation(k), Tags: w.job.Chain.Tags[k.Tags()]}
}

// sums appends a row of sums.
func (w *writer) sums(b []byte, p *metric.Pages, cells *cellsOf) ([]byte, error) {
	w.shape = w.shape[:0]
	for _, i := range cells.pages {
		k := p.Keys[i]
		w.shape = binary.LittleEndian.AppendUint64(w.shape, uint64(w.ranks[w.variation(k)])<<32|uint64(k.Tags()))
	}
	shape, known := w.shapes[string(w.shape)]
	if !known {
		w.full = w.full[:0]
		for _, i := range cells.pages {
			w.full = append(w.full, w.cell(p.Keys[i]))
		}
		made, err := row.NewShape(w.full)
		if err != nil {
			return b, err
		}
		if len(w.shapes) >= maxShapes {
			clear(w.shapes)
		}
		shape = &made
		w.shapes[string(w.shape)] = shape
	}
	return shape.AppendSums(b, cells.values)
}

// sketches appends a row of sketches.
func (w *writer) sketches(b []byte, p *metric.Pages) ([]byte, error) {
	w.full, w.sketch = w.full[:0], w.sketch[:0]
	for _, at := range w.places {
		c, from := w.cell(p.Keys[at.page]), len(w.sketch)
		w.sketch = p.Sketches[at.page].AppendBinary(w.sketch)
		c.Sketch = w.sketch[from:]
		w.full = append(w.full, c)
	}
	return row.Append(b, row.Sketches, w.full)
}

// lines adds the lines of a row to the table: one for each of its cells.
func (w *writer) lines(p *metric.Pages, c int, cells *cellsOf) error {
	if w.table.rows == nil {
		return nil
	}
	w.table.cells = w.table.cells[:0]
	for n, i := range cells.pages {
		k := p.Keys[i]
		line := tables.Cell{Variation: w.variation(k), Tags: w.job.Chain.Tags[k.Tags()]}
		if len(p.Sketches) > 0 {
			line.Value = p.Sketches[i].Estimate()
		} else {
			line.Value = cells.values[n]
		}
		w.table.cells = append(w.table.cells, line)
	}
	return w.table.rows.Add(&tables.Row{Minute: p.Minute, Experiment: w.x, Scope: w.scope, Metric: w.names[c]}, w.table.cells)
}

// gather has the rows of the scope and group at hand wait with the others.
func (w *writer) gather(ctx context.Context, to *written) error {
	for c := range w.names {
		to.rows = append(to.rows, w.byCell[c]...)
		w.byCell[c] = w.byCell[c][:0]
	}
	if len(to.rows) >= w.job.rowsAtOnce() || to.values.bytes >= bytesAtOnce {
		return w.flush(ctx, to)
	}
	return nil
}

// retention is that of the newest revision: it changes nothing that is counted.
func (w *writer) retention() int64 {
	revs := w.job.Chain.Revs
	return revs[len(revs)-1].Config.Retention
}

func (w *writer) flush(ctx context.Context, of *written) error {
	for part := range slices.Chunk(of.rows, w.job.rowsAtOnce()) {
		if err := of.put(ctx, part); err != nil {
			return fmt.Errorf("write rows of %s: %w", w.layer, err)
		}
		if err := w.pace.rest(ctx); err != nil {
			return err
		}
	}
	of.rows = of.rows[:0]
	of.values.reset()
	return nil
}
