// Package metric holds the sums that sessions contribute to: pages of cells by minute, scope, variation and tag set,
// and the sketch of distinct visitors.
package metric

import (
	"math/bits"
	"slices"
)

// Key names a page of cells within a minute: the metrics of one group (tenant.Group) for one scope, variation and tag
// set. Keys sort by scope and group first, so that the pages of one row stand together.
type Key uint64

const (
	tagBits   = 20
	varBits   = 12
	groupBits = 15
)

// NewKey packs a key; tenant.Compile keeps every part within its bits.
func NewKey(scope, group, variation int, tags uint32) Key {
	return Key(scope)<<(groupBits+varBits+tagBits) | Key(group)<<(varBits+tagBits) | Key(variation)<<tagBits | Key(tags)
}

// Scope is the key's scope id.
func (k Key) Scope() int { return int(k >> (groupBits + varBits + tagBits)) }

// Group is the key's metric group.
func (k Key) Group() int { return int(k>>(varBits+tagBits)) & (1<<groupBits - 1) }

// Variation is the key's variation id.
func (k Key) Variation() int { return int(k>>tagBits) & (1<<varBits - 1) }

// Tags is the key's tag set id.
func (k Key) Tags() uint32 { return uint32(k) & (1<<tagBits - 1) }

// Row is the part of the key that names a run of rows: scope and group.
func (k Key) Row() Key { return k >> (varBits + tagBits) }

// Sums are the open minutes of a shard, or the minutes of a batch window. They form a group under addition: what was
// added can be taken back by adding its negative, and the order does not matter. The zero value is empty.
type Sums struct {
	minutes []*Minute // by minute
	last    *Minute   // the one used last: beacons come nearly in order
	free    []*Minute
}

// Minute holds the pages of one minute: an open-addressing table from key to a page in cells. Neither holds pointers.
type Minute struct {
	Minute int64 // minutes since the epoch
	// Touched says that a page or a sketch of this minute was touched since the last Untouch.
	Touched bool

	keys  []uint64 // key + 1; 0 is free
	refs  []uint32 // page's place in cells
	n     int
	cells []int64  // pages one after another: a mask of the cells touched, then the cells
	order []uint64 // keys in order, valid while it has n of them
	seen  map[Key]*Sketch
	fresh map[Key]bool // sketches touched since the last Untouch
}

// At returns the minute, made if it is not there.
func (s *Sums) At(minute int64) *Minute {
	if s.last != nil && s.last.Minute == minute {
		return s.last
	}
	i, ok := slices.BinarySearchFunc(s.minutes, minute, func(m *Minute, t int64) int {
		switch {
		case m.Minute < t:
			return -1
		case m.Minute > t:
			return 1
		}
		return 0
	})
	if !ok {
		m := &Minute{}
		if n := len(s.free); n > 0 {
			m, s.free = s.free[n-1], s.free[:n-1]
		}
		m.Minute = minute
		s.minutes = slices.Insert(s.minutes, i, m)
	}
	s.last = s.minutes[i]
	return s.last
}

// Minutes returns the minutes that there are, in order. The slice is valid until the next call that changes Sums.
func (s *Sums) Minutes() []*Minute { return s.minutes }

// DropBefore forgets all minutes before the given one and keeps their memory for later ones.
func (s *Sums) DropBefore(minute int64) {
	n := 0
	for n < len(s.minutes) && s.minutes[n].Minute < minute {
		m := s.minutes[n]
		m.reset()
		if len(s.free) < 4 {
			s.free = append(s.free, m)
		}
		n++
	}
	s.minutes = slices.Delete(s.minutes, 0, n)
	s.last = nil
}

func (m *Minute) reset() {
	clear(m.keys)
	m.n, m.cells, m.order, m.Touched = 0, m.cells[:0], m.order[:0], false
	m.seen, m.fresh = nil, nil
}

const mix = 0x9e3779b97f4a7c15

// Page returns the page of the key: a mask of cells touched since the last Untouch, then n cells. It is valid until the
// next call of Page. The caller adds to cells and sets their bits; n is always the same for a group.
func (m *Minute) Page(k Key, n int) []int64 {
	m.Touched = true
	if 4*m.n >= 3*len(m.keys) {
		m.grow()
	}
	mask := uint64(len(m.keys) - 1)
	want := uint64(k) + 1
	for i := (want * mix) >> 32 & mask; ; i = (i + 1) & mask {
		switch m.keys[i] {
		case want:
			at := m.refs[i]
			return m.cells[at : int(at)+n+1]
		case 0:
			at := len(m.cells)
			m.keys[i], m.refs[i] = want, uint32(at)
			m.n++
			m.cells = append(m.cells, zeros[:n+1]...)
			return m.cells[at : at+n+1]
		}
	}
}

var zeros [65]int64

func (m *Minute) grow() {
	keys, refs := m.keys, m.refs
	size := max(64, 2*len(keys))
	m.keys, m.refs = make([]uint64, size), make([]uint32, size)
	mask := uint64(size - 1)
	for j, k := range keys {
		if k == 0 {
			continue
		}
		i := (k * mix) >> 32 & mask
		for m.keys[i] != 0 {
			i = (i + 1) & mask
		}
		m.keys[i], m.refs[i] = k, refs[j]
	}
}

// Seen adds a visitor to the sketch of the key.
func (m *Minute) Seen(k Key, visitor uint64) {
	s := m.seen[k]
	if s == nil {
		if m.seen == nil {
			m.seen = map[Key]*Sketch{}
		}
		s = &Sketch{}
		m.seen[k] = s
	}
	if s.Add(visitor) {
		m.touchSeen(k)
	}
}

func (m *Minute) touchSeen(k Key) {
	if m.fresh == nil {
		m.fresh = map[Key]bool{}
	}
	m.fresh[k] = true
	m.Touched = true
}

// ForgetSeen empties all sketches of the minute and touches them: they are about to be formed anew.
func (m *Minute) ForgetSeen() {
	for k, s := range m.seen {
		s.Reset()
		m.touchSeen(k)
	}
}

// Untouch forgets what was touched.
func (m *Minute) Untouch() {
	if !m.Touched {
		return
	}
	for i, k := range m.keys {
		if k != 0 {
			m.cells[m.refs[i]] = 0
		}
	}
	clear(m.fresh)
	m.Touched = false
}

// Touch touches every cell that there is (the first tick of a generation publishes every open row).
func (m *Minute) Touch(cells func(group int) int) {
	for i, k := range m.keys {
		if k != 0 {
			m.cells[m.refs[i]] = 1<<cells(Key(k-1).Group()) - 1
		}
	}
	for k := range m.seen {
		m.touchSeen(k)
	}
	m.Touched = true
}

// Cell is one value of a row: the sum, or for visitors the sketch, of a variation and a tag set.
type Cell struct {
	Variation int
	Tags      uint32
	Value     int64
	Sketch    *Sketch
}

// Rows calls fn for each row of the minute that has a touched cell (all: for each row), in order of scope, group and
// cell. Cells are in order of variation and tag set, zeros (and empty sketches) left out; a row all of whose cells
// are zero has none, and still says something: what was there is gone. The cells are valid during the call.
func (m *Minute) Rows(all bool, cells func(group int) int, fn func(scope, group, cell int, row []Cell) error) error {
	if len(m.order) != m.n {
		m.order = m.order[:0]
		for _, k := range m.keys {
			if k != 0 {
				m.order = append(m.order, k)
			}
		}
		slices.Sort(m.order)
	}
	var row []Cell
	var pages [][]int64
	for i := 0; i < len(m.order); {
		first := Key(m.order[i] - 1)
		n := cells(first.Group())
		pages = pages[:0]
		var touched uint64
		j := i
		for ; j < len(m.order) && Key(m.order[j]-1).Row() == first.Row(); j++ {
			p := m.Page(Key(m.order[j]-1), n)
			pages = append(pages, p)
			touched |= uint64(p[0])
		}
		if all {
			touched = 1<<n - 1
		}
		for ; touched != 0; touched &= touched - 1 {
			c := bits.TrailingZeros64(touched)
			row = row[:0]
			for x, p := range pages {
				if v := p[1+c]; v != 0 {
					k := Key(m.order[i+x] - 1)
					row = append(row, Cell{Variation: k.Variation(), Tags: k.Tags(), Value: v})
				}
			}
			if err := fn(first.Scope(), first.Group(), c, row); err != nil {
				return err
			}
		}
		i = j
	}
	return m.seenRows(all, fn)
}

func (m *Minute) seenRows(all bool, fn func(scope, group, cell int, row []Cell) error) error {
	rows := map[Key]bool{}
	for k := range m.seen {
		if all || m.fresh[k] {
			rows[k.Row()] = true
		}
	}
	var order []Key
	for k := range m.seen {
		if rows[k.Row()] {
			order = append(order, k)
		}
	}
	slices.Sort(order)
	var row []Cell
	for i := 0; i < len(order); {
		first := order[i]
		row = row[:0]
		j := i
		for ; j < len(order) && order[j].Row() == first.Row(); j++ {
			if s := m.seen[order[j]]; !s.Empty() {
				row = append(row, Cell{Variation: order[j].Variation(), Tags: order[j].Tags(), Sketch: s})
			}
		}
		if err := fn(first.Scope(), first.Group(), 0, row); err != nil {
			return err
		}
		i = j
	}
	return nil
}
