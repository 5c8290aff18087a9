package tables

import "fmt"

// Rows writes the rows table of a window: a line for each metric value, zeros left out. Its columns:
//
//	window_start  TIMESTAMP  start of the window, UTC
//	generation    BIGINT     of the batch
//	minute        TIMESTAMP  start of the minute, UTC
//	experiment    VARCHAR    '' for the site
//	scope         VARCHAR    site, assigned or fm
//	variation     VARCHAR    '' for the site
//	metric        VARCHAR    as SPEC 6 names it, e.g. home_page.beta
//	tags          VARCHAR    name=value,... by name
//	value         BIGINT     the sum; of visitors the estimated number of this minute, which does not add
type Rows struct {
	w                  *writer
	window, generation int64
	starts, generations, minutes, experiments, scopes, variations,
	metrics, tags, values *column
}

// NewRows returns a writer of such tables.
func NewRows() *Rows {
	r := &Rows{
		starts: &column{name: "window_start", kind: instant}, generations: &column{name: "generation"}, minutes: &column{name: "minute", kind: instant},
		experiments: &column{name: "experiment", kind: text}, scopes: &column{name: "scope", kind: text}, variations: &column{name: "variation", kind: text},
		metrics: &column{name: "metric", kind: text}, tags: &column{name: "tags", kind: text}, values: &column{name: "value"}}
	r.w = newWriter(r.starts, r.generations, r.minutes, r.experiments, r.scopes, r.variations, r.metrics, r.tags, r.values)
	return r
}

// Start begins the table of a window (ms since the epoch) in a generation. It takes the memory of the table before, whose bytes
// are of no use any more.
func (r *Rows) Start(window, generation int64) {
	r.window, r.generation = window, generation
	r.w.reset()
}

// Row is a row of the store: a metric of a scope in a minute.
type Row struct {
	Minute                    int64 // since the epoch
	Experiment, Scope, Metric string
}

// Cell is one value of a row.
type Cell struct {
	Variation, Tags string
	Value           int64
}

// Add adds the lines of a row, one for each cell.
func (r *Rows) Add(x *Row, cells []Cell) error {
	for n := 0; len(cells) > 0; cells = cells[n:] {
		n = min(len(cells), groupRows-r.w.rows)
		r.starts.repeatInt(r.window, n)
		r.generations.repeatInt(r.generation, n)
		r.minutes.repeatInt(x.Minute*60000, n)
		r.experiments.repeat(x.Experiment, n)
		r.scopes.repeat(x.Scope, n)
		r.metrics.repeat(x.Metric, n)
		for i := range cells[:n] {
			r.variations.text(cells[i].Variation)
			r.tags.text(cells[i].Tags)
			r.values.ints = append(r.values.ints, cells[i].Value)
		}
		if err := r.w.added(n); err != nil {
			return fmt.Errorf("rows table: %w", err)
		}
	}
	return nil
}

// Finish returns the file.
func (r *Rows) Finish() ([]byte, error) {
	data, err := r.w.finish()
	if err != nil {
		return nil, fmt.Errorf("rows table: %w", err)
	}
	return data, nil
}

// Coverage is the one line of a window's coverage table: what the batch says of it. Columns have these names:
//
//	window_start TIMESTAMP, generation, beacons, late, duplicates, sessions, rows BIGINT
type Coverage struct {
	Window     int64 // ms since the epoch
	Generation int64
	Beacons    int64 // archived records
	Late       int64 // of these, those that the stream leaves out
	Duplicates int64
	Sessions   int64 // that the window changed: rows of its state run
	Rows       int64 // of the store: a metric and a minute each
}

// Encode returns the file.
func (c *Coverage) Encode() ([]byte, error) {
	var columns []*column
	for _, x := range []struct {
		name  string
		value int64
	}{{"window_start", c.Window}, {"generation", c.Generation}, {"beacons", c.Beacons}, {"late", c.Late}, {"duplicates", c.Duplicates},
		{"sessions", c.Sessions}, {"rows", c.Rows}} {
		columns = append(columns, &column{name: x.name, ints: []int64{x.value}})
	}
	columns[0].kind = instant
	w := newWriter(columns...)
	w.rows = 1
	data, err := w.finish()
	if err != nil {
		return nil, fmt.Errorf("coverage table: %w", err)
	}
	return data, nil
}
