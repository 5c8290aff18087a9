package simulate

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/storetest"
)

// metrics is the metric store that all data centres share. A call writes its rows in pieces; one that fails may have written
// any of them, and may still write the others later. On the way in it checks what must hold at every moment.
type metrics struct {
	s        *sim
	rows     map[store.Series]map[int64]held
	rollups  map[store.Series]map[int64]held
	progress map[progressKey]store.Progress
	coverage map[windowKey]store.Coverage
	active   map[string]store.Active // by tenant
	series   map[store.Series]bool
	names    []store.Series // those, in order

	versions map[versionKey][]byte
	place    map[placeKey]int32    // of a stream's row: the metrics partition that it came by
	layers   map[string]int        // of streams: partitions of the metrics topic
	leftOut  map[placedMinute]bool // minutes that were covered when they were closed: a standby leaves them out, and its next owner may write them
	covered  func(c store.Coverage)
	untold   func(tenant, layer string, minute int64) bool
}

type rowKey struct {
	store.Series
	minute int64
}

type versionKey struct {
	rowKey
	version int64
	rollup  bool
}

// placeKey names a row of whatever minute.
type placeKey struct{ tenant, layer, experiment, metric string }

// placedMinute is a minute of a layer in a metrics partition.
type placedMinute struct {
	progressKey
	minute int64
}

type windowKey struct {
	tenant string
	window int64 // minutes
}

type held struct {
	version int64
	value   []byte
}

type progressKey struct {
	tenant, layer string
	partition     int32
}

func newMetrics(s *sim) *metrics {
	return &metrics{s: s, rows: map[store.Series]map[int64]held{}, rollups: map[store.Series]map[int64]held{}, progress: map[progressKey]store.Progress{},
		coverage: map[windowKey]store.Coverage{}, active: map[string]store.Active{}, series: map[store.Series]bool{}, versions: map[versionKey][]byte{}, place: map[placeKey]int32{}, layers: map[string]int{},
		leftOut: map[placedMinute]bool{}}
}

// write does one write, or fails with or without it having been done, now or later.
func (m *metrics) write(kind string, do func()) error {
	s := m.s
	if err := s.step(kind); err != nil {
		if err == errKilled && !s.quiet && s.r.IntN(4) == 0 {
			s.at(s.now+s.r.Int64N(2*s.opt.TickMS+1), do) // it was on its way
		}
		return err
	}
	if !s.fault("store", .01) {
		do()
		return nil
	}
	switch s.r.IntN(3) {
	case 0:
		s.tell("timed out, not written: %s", kind)
	case 1:
		s.tell("timed out, written: %s", kind)
		do()
	default:
		s.tell("timed out, written later: %s", kind)
		s.at(s.now+s.r.Int64N(2*s.opt.TickMS+1), do)
	}
	return fmt.Errorf("%s: timed out: %w", kind, errInjected)
}

func (m *metrics) read(kind string) error {
	if err := m.s.step(kind); err != nil {
		return err
	}
	if m.s.fault("store read", .003) {
		return fmt.Errorf("%s: timed out: %w", kind, errInjected)
	}
	return nil
}

// PutRows implements store.Store.
func (m *metrics) PutRows(_ context.Context, rows []store.Row) error { return m.put(rows, false) }

// PutRollups implements store.Store.
func (m *metrics) PutRollups(_ context.Context, rows []store.Row) error { return m.put(rows, true) }

func (m *metrics) put(rows []store.Row, rollup bool) error {
	if err := store.CheckRows(rows); err != nil {
		return err
	}
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].Value = bytes.Clone(rows[i].Value)
	}
	slices.SortFunc(rows, func(a, b store.Row) int {
		return cmp.Or(a.Series.Compare(b.Series), cmp.Compare(a.Minute, b.Minute), cmp.Compare(a.Version, b.Version))
	})
	m.s.r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	for len(rows) > 0 {
		n := len(rows)
		if m.s.r.IntN(3) == 0 {
			n = 1 + m.s.r.IntN(n)
		}
		some := rows[:n]
		rows = rows[n:]
		err := m.write("put rows", func() {
			for i := range some {
				m.apply(&some[i], rollup)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// apply writes a row: the greatest version stands.
func (m *metrics) apply(r *store.Row, rollup bool) {
	s := m.s
	k := rowKey{r.Series, r.Minute}
	v := versionKey{k, r.Version, rollup}
	if was, ok := m.versions[v]; ok && !bytes.Equal(was, r.Value) {
		s.found("versions: %s, minute %s: version %d stands for two values: %s and %s", r.Series, minuteText(r.Minute), r.Version, cells(was), cells(r.Value))
	}
	m.versions[v] = r.Value
	table := m.rows
	if rollup {
		table = m.rollups
	}
	if table[r.Series] == nil {
		table[r.Series] = map[int64]held{}
	}
	was, had := table[r.Series][r.Minute]
	if had && was.version > r.Version {
		return
	}
	if s.telling {
		s.tell("row %s %s %s minute %s version %d: %s", r.Layer, r.Experiment, r.Metric, minuteText(r.Minute), r.Version, cells(r.Value))
	}
	s.note("row", r.Layer, r.Experiment, r.Metric, string(r.Value))
	table[r.Series][r.Minute] = held{r.Version, r.Value}
	if !m.series[r.Series] {
		m.series[r.Series] = true
		i, _ := slices.BinarySearchFunc(m.names, r.Series, store.Series.Compare)
		m.names = slices.Insert(m.names, i, r.Series)
	}
	if rollup || same(was.value, r.Value) {
		return
	}
	if n := m.layers[r.Layer]; n > 0 {
		if p, ok := m.place[placeKey{r.Tenant, r.Layer, r.Experiment, r.Metric}]; ok {
			k := progressKey{r.Tenant, r.Layer, p}
			closed := m.progress[k].ClosedBefore
			if r.Minute < closed && !m.leftOut[placedMinute{k, r.Minute}] && !m.untold(r.Tenant, r.Layer, r.Minute) {
				s.found("closed minutes: %s, minute %s changes from %s to %s though partition %d is closed before %s", r.Series, minuteText(r.Minute),
					cells(was.value), cells(r.Value), p, minuteText(closed))
			}
		}
		return
	}
	window := r.Minute - r.Minute%30
	if c, ok := m.coverage[windowKey{r.Tenant, window}]; ok && batchLayer(c.Generation) == r.Layer {
		s.found("coverage: window %s is covered by generation %d, and %s, minute %s, changes from %s to %s after it", minuteText(window), c.Generation,
			r.Series, minuteText(r.Minute), cells(was.value), cells(r.Value))
	}
}

func batchLayer(generation int64) string { return fmt.Sprint("batch.", generation) }

// same says whether readers see the same in two values: a row without cells and no row are both zero.
func same(a, b []byte) bool { return bytes.Equal(a, b) || cells(a) == cells(b) }

// cells shows a row's value.
func cells(value []byte) string {
	if value == nil {
		return "{}"
	}
	var b strings.Builder
	b.WriteByte('{')
	_, err := row.Decode(value, func(c row.Cell) error {
		if b.Len() > 1 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s/%s=", c.Variation, c.Tags)
		if c.Sketch != nil {
			fmt.Fprintf(&b, "%x", c.Sketch)
		} else {
			fmt.Fprint(&b, c.Value)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return b.String() + "}"
}

// Rows implements store.Store.
func (m *metrics) Rows(_ context.Context, x store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	if err := m.read("rows"); err != nil {
		return err
	}
	return m.scan(m.rows, x, from, to, fn)
}

// Rollups implements store.Store.
func (m *metrics) Rollups(_ context.Context, x store.Series, from, to int64, fn func(window, version int64, value []byte) error) error {
	if err := m.read("rollups"); err != nil {
		return err
	}
	return m.scan(m.rollups, x, from, to, fn)
}

func (m *metrics) scan(table map[store.Series]map[int64]held, x store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	var minutes []int64
	for minute := range table[x] {
		if minute >= from && minute < to {
			minutes = append(minutes, minute)
		}
	}
	slices.Sort(minutes)
	for _, minute := range minutes {
		h := table[x][minute]
		if err := fn(minute, h.version, h.value); err != nil {
			return err
		}
	}
	return nil
}

// Catalog implements store.Store.
func (m *metrics) Catalog(_ context.Context, tenant string, fn func(store.Series) error) error {
	if err := m.read("catalog"); err != nil {
		return err
	}
	for _, x := range slices.Clone(m.names) {
		if x.Tenant != tenant {
			continue
		}
		if err := fn(x); err != nil {
			return err
		}
	}
	return nil
}

// Metrics implements store.Store.
func (m *metrics) Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error {
	return storetest.Metrics(ctx, m.Catalog, tenant, experiment, prefix, fn)
}

// oneLayer is the store as checkers read it: at once, and nothing but one layer.
type oneLayer struct {
	*metrics
	layer string
}

func (m oneLayer) Catalog(_ context.Context, tenant string, fn func(store.Series) error) error {
	for _, x := range m.names {
		if x.Tenant == tenant && x.Layer == m.layer {
			if err := fn(x); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m oneLayer) Rows(_ context.Context, x store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	return m.scan(m.rows, x, from, to, fn)
}

// PutProgress implements store.Store.
func (m *metrics) PutProgress(_ context.Context, p store.Progress) error {
	if err := p.Check(); err != nil {
		return err
	}
	return m.write("put progress", func() {
		k := progressKey{p.Tenant, p.Layer, p.Partition}
		if is, ok := m.progress[k]; ok && cmp.Or(cmp.Compare(is.ClosedBefore, p.ClosedBefore), cmp.Compare(is.Version, p.Version)) >= 0 {
			return
		}
		for w := range m.coverage {
			if w.tenant != p.Tenant {
				continue
			}
			for minute := max(w.window, m.progress[k].ClosedBefore); minute < min(w.window+30, p.ClosedBefore); minute++ {
				m.leftOut[placedMinute{k, minute}] = true
			}
		}
		m.progress[k] = p
		m.s.note("progress", p.Tenant, p.Layer, fmt.Sprint(p.ClosedBefore))
		m.s.tell("progress of %s in %s, partition %d: closed before %s, version %d", p.Tenant, p.Layer, p.Partition, minuteText(p.ClosedBefore), p.Version)
	})
}

// Progress implements store.Store.
func (m *metrics) Progress(_ context.Context, layer, tenant string) ([]store.Progress, error) {
	if err := m.read("progress"); err != nil {
		return nil, err
	}
	return m.progressOf(tenant, layer), nil
}

func (m *metrics) progressOf(tenant, layer string) (all []store.Progress) {
	for k, p := range m.progress {
		if k.tenant == tenant && k.layer == layer {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b store.Progress) int { return int(a.Partition - b.Partition) })
	return all
}

// complete is the minute before which all partitions of a layer are closed for a tenant.
func (m *metrics) complete(tenant, layer string) int64 {
	all := m.progressOf(tenant, layer)
	if len(all) < m.layers[layer] {
		return 0
	}
	least := all[0].ClosedBefore
	for _, p := range all {
		least = min(least, p.ClosedBefore)
	}
	return least
}

// PutCoverage implements store.Store.
func (m *metrics) PutCoverage(_ context.Context, c store.Coverage) error {
	if err := c.Check(); err != nil {
		return err
	}
	c.Data = bytes.Clone(c.Data)
	return m.write("put coverage", func() {
		k := windowKey{c.Tenant, c.Window}
		if is, ok := m.coverage[k]; ok && is.Generation >= c.Generation {
			if is.Generation == c.Generation && !bytes.Equal(is.Data, c.Data) {
				m.s.found("versions: coverage of window %s, generation %d, stands for two: %s and %s", minuteText(c.Window), c.Generation, is.Data, c.Data)
			}
			return
		}
		m.coverage[k] = c
		m.s.note("coverage", c.Tenant, fmt.Sprint(c.Window, c.Generation))
		m.s.tell("window %s of %s is covered by generation %d", minuteText(c.Window), c.Tenant, c.Generation)
		if m.covered != nil {
			m.covered(c)
		}
	})
}

// Coverage implements store.Store.
func (m *metrics) Coverage(_ context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	if err := m.read("coverage"); err != nil {
		return err
	}
	var windows []int64
	for k := range m.coverage {
		if k.tenant == tenant && k.window >= from && k.window < to {
			windows = append(windows, k.window)
		}
	}
	slices.Sort(windows)
	for _, w := range windows {
		if err := fn(m.coverage[windowKey{tenant, w}]); err != nil {
			return err
		}
	}
	return nil
}

// Generations implements store.Store.
func (m *metrics) Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error {
	return m.Coverage(ctx, tenant, from, to, func(c store.Coverage) error { return fn(c.Window, c.Generation) })
}

// PutActive implements store.Store.
func (m *metrics) PutActive(_ context.Context, a store.Active) error {
	if err := a.Check(); err != nil {
		return err
	}
	return m.write("put active", func() {
		if a.Seq > m.active[a.Tenant].Seq {
			m.active[a.Tenant] = a
			m.s.note("active", a.Tenant, a.Layer)
			m.s.tell("%s is the active layer of %s, sequence %d", a.Layer, a.Tenant, a.Seq)
		}
	})
}

// Active implements store.Store.
func (m *metrics) Active(_ context.Context, tenant string) (store.Active, bool, error) {
	if err := m.read("active"); err != nil {
		return store.Active{}, false, err
	}
	a, ok := m.active[tenant]
	return a, ok, nil
}

// DeleteLayerWindow implements store.Store.
func (m *metrics) DeleteLayerWindow(_ context.Context, layer, tenant string, from, to int64) error {
	return m.write("delete rows", func() {
		if c, ok := m.coverage[windowKey{tenant, from}]; ok && batchLayer(c.Generation) == layer {
			m.s.found("collector: rows of window %s of %s in %s are deleted, and it is covered by them", minuteText(from), tenant, layer)
		}
		m.s.met["windows collected"]++
		m.s.tell("deleted window %s of %s in %s", minuteText(from), tenant, layer)
		m.names = slices.DeleteFunc(m.names, func(x store.Series) bool {
			if x.Tenant != tenant || x.Layer != layer {
				return false
			}
			for _, table := range []map[store.Series]map[int64]held{m.rows, m.rollups} {
				maps.DeleteFunc(table[x], func(minute int64, _ held) bool { return minute >= from && minute < to })
			}
			gone := len(m.rows[x]) == 0 && len(m.rollups[x]) == 0
			if gone {
				delete(m.series, x)
			}
			return gone
		})
	})
}

// Close implements store.Store.
func (m *metrics) Close() error { return nil }
