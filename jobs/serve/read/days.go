package read

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/row"
	"tandem/schemas/store"
)

// DayMinutes is the length of a day, which begins at midnight UTC.
const DayMinutes = 24 * 60

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
		from, end := first.from, first.from+DayMinutes
		if !first.rollup || from%DayMinutes != 0 || (from-p.from)/p.part != (end-1-p.from)/p.part {
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

// scanDays is how many days are summed in one scan of the store.
const scanDays = 32

// wholeDays gives the rows of days, of which pieces begins with one: as many as are held or are read together, at least one.
func (f *fetch) wholeDays(ctx context.Context, name string, pieces []piece) ([][]byte, error) {
	key := func(c *piece) dayKey { return dayKey{f.x.Chain.Tenant, f.q.Experiment, name, c.from, c.layers} }
	if value, ok := f.x.r.days.get(key(&pieces[0])); ok {
		return [][]byte{value}, nil
	}
	n := 1
	for ; n < min(len(pieces), scanDays) && pieces[n].windows != nil && pieces[n].from == pieces[n-1].to; n++ {
		if _, ok := f.x.r.days.get(key(&pieces[n])); ok {
			break
		}
	}
	sums, err := f.sumDays(ctx, name, pieces[:n])
	if err != nil {
		return nil, err
	}
	values := make([][]byte, n)
	for i := range values {
		if values[i], err = sums.row(i); err != nil {
			return nil, err
		}
		f.x.r.days.put(key(&pieces[i]), values[i])
	}
	return values, nil
}

// daySums are sums and unions of some days by variation and tags.
type daySums struct {
	gathered // by key; a part is a day
	keys     [][2]string
	index    map[[2]string]int
}

// sumDays reads the windows of days that follow each other: runs of one layer in one scan.
func (f *fetch) sumDays(ctx context.Context, name string, days []piece) (*daySums, error) {
	d := &daySums{index: map[[2]string]int{}}
	d.gathered = gathered{parts: len(days), places: newPlaces(func(variation, tags string) (int, error) {
		at := [2]string{variation, tags}
		i, known := d.index[at]
		if !known {
			i = len(d.keys)
			d.index[at] = i
			d.keys = append(d.keys, at)
		}
		return i, nil
	})}
	var runs []piece
	for i := range days {
		for _, w := range days[i].windows {
			if n := len(runs); n > 0 && runs[n-1].layer == w.layer && runs[n-1].to == w.from {
				runs[n-1].to = w.to
			} else {
				runs = append(runs, w)
			}
		}
	}
	for _, run := range runs {
		s := store.Series{Tenant: f.x.Chain.Tenant, Experiment: f.q.Experiment, Metric: name, Layer: run.layer}
		err := f.x.r.store.Rollups(ctx, s, run.from, run.to, func(minute, _ int64, value []byte) error {
			if err := f.count(len(value)); err != nil {
				return err
			}
			if err := d.add(int((minute-days[0].from)/DayMinutes), value); err != nil {
				return fmt.Errorf("%s, window of minute %d: %w", s, minute, err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// row is a day's row.
func (d *daySums) row(day int) ([]byte, error) {
	var cells []row.Cell
	kind := row.Sums
	for i, have := range d.at {
		cell := row.Cell{Variation: d.keys[i][0], Tags: d.keys[i][1]}
		if have.seen == nil {
			cell.Value = have.sums[day]
		} else if kind = row.Sketches; have.seen.all()[day] != nil {
			cell.Sketch = have.seen.all()[day].AppendBinary(nil)
		}
		if cell.Value != 0 || cell.Sketch != nil {
			cells = append(cells, cell)
		}
	}
	slices.SortFunc(cells, func(a, b row.Cell) int {
		return cmp.Or(strings.Compare(a.Variation, b.Variation), strings.Compare(a.Tags, b.Tags))
	})
	return row.Append(nil, kind, cells)
}
