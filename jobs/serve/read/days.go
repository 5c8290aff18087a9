package read

import (
	"cmp"
	"container/list"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// dayMinutes is the length of a day, which begins at midnight UTC.
const dayMinutes = 24 * 60

// daysBytes bounds the memory of the days that are held: some 100,000 rows of usual size.
const daysBytes = 64 << 20

// days holds the sums (of visitors the unions) of whole covered days as rows, so that a month is not read window by
// window each time. What a day comes to is a function of the generations of its windows, which are part of the key, so
// nothing held is ever wrong; what is not asked for goes.
type days struct {
	mu    sync.Mutex
	of    map[dayKey]*list.Element
	order *list.List // of *dayRow, the last asked for in front
	bytes int
}

type dayKey struct {
	tenant, experiment, metric string
	day                        int64  // minute that it begins at
	layers                     uint64 // digest of the generations of its windows
}

type dayRow struct {
	dayKey
	value []byte
}

// rowOverhead is about what a held row takes beside its value.
const rowOverhead = 256

func newDays() *days { return &days{of: map[dayKey]*list.Element{}, order: list.New()} }

func (d *days) get(k dayKey) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[k]
	if e == nil {
		return nil, false
	}
	d.order.MoveToFront(e)
	return e.Value.(*dayRow).value, true
}

func (d *days) put(k dayKey, value []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of[k] != nil {
		return
	}
	d.of[k] = d.order.PushFront(&dayRow{k, value})
	d.bytes += len(value) + rowOverhead
	for d.bytes > daysBytes {
		last := d.order.Remove(d.order.Back()).(*dayRow)
		delete(d.of, last.dayKey)
		d.bytes -= len(last.value) + rowOverhead
	}
}

// joinDays makes one piece of the windows of a day, where a part holds all of them.
func (p *plan) joinDays() {
	var out []piece
	for i := 0; i < len(p.pieces); {
		first := &p.pieces[i]
		from, end := first.from, first.from+dayMinutes
		if !first.rollup || from%dayMinutes != 0 || (from-p.from)/p.part != (end-1-p.from)/p.part {
			out = append(out, *first)
			i++
			continue
		}
		j, at := i, from
		digest := xxhash.New()
		for j < len(p.pieces) && p.pieces[j].rollup && p.pieces[j].from == at && at < end {
			at = p.pieces[j].to
			digest.WriteString(p.pieces[j].layer)
			digest.Write([]byte{0, byte((at - from) / WindowMinutes)})
			j++
		}
		if at != end { // a gap, or a run of windows of one generation that goes on beyond midnight
			out = append(out, p.pieces[i])
			i++
			continue
		}
		out = append(out, piece{from: from, to: end, rollup: true, windows: p.pieces[i:j], layers: digest.Sum64()})
		i = j
	}
	p.pieces = out
}

// day gives a day's row, from what is held or from its windows.
func (f *fetch) day(ctx context.Context, name string, c *piece) ([]byte, error) {
	k := dayKey{f.x.Chain.Tenant, f.q.Experiment, name, c.from, c.layers}
	if value, ok := f.x.r.days.get(k); ok {
		return value, nil
	}
	sums, sketches := map[[2]string]int64{}, map[[2]string]*metric.Sketch{}
	var one metric.Sketch
	for _, w := range c.windows {
		s := store.Series{Tenant: k.tenant, Experiment: k.experiment, Metric: name, Layer: w.layer}
		err := f.x.r.store.Rollups(ctx, s, w.from, w.to, func(_, _ int64, value []byte) error {
			if err := f.count(len(value)); err != nil {
				return err
			}
			_, err := row.Decode(value, func(c row.Cell) error {
				at := [2]string{c.Variation, c.Tags}
				if c.Sketch == nil {
					sums[at] += c.Value
					return nil
				}
				if err := one.UnmarshalBinary(c.Sketch); err != nil {
					return err
				}
				if sketches[at] == nil {
					sketches[at] = &metric.Sketch{}
				}
				sketches[at].Merge(&one)
				return nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	kind, cells := row.Sums, make([]row.Cell, 0, len(sums)+len(sketches))
	for at, v := range sums {
		cells = append(cells, row.Cell{Variation: at[0], Tags: at[1], Value: v})
	}
	for at, s := range sketches {
		kind = row.Sketches
		cells = append(cells, row.Cell{Variation: at[0], Tags: at[1], Sketch: s.AppendBinary(nil)})
	}
	slices.SortFunc(cells, func(a, b row.Cell) int {
		return cmp.Or(strings.Compare(a.Variation, b.Variation), strings.Compare(a.Tags, b.Tags))
	})
	value, err := row.Append(nil, kind, cells)
	if err == nil {
		f.x.r.days.put(k, value)
	}
	return value, err
}
