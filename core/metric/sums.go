// Package metric holds the sums that sessions contribute to: pages of cells by minute, scope, variation and tag set,
// and the sketch of distinct visitors.
package metric

import (
	"cmp"
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

	slots []slot
	n     int
	cells []int64 // pages one after another: a mask of the cells touched, then the cells
	order []slot  // the pages by key, but for those in fresh
	fresh []slot  // pages made since order was put in order

	// The one cell of a page of visitors is a place + 1 in sketches.
	sketches []*Sketch
	spare    []*Sketch // for the next minute that this memory serves
}

type slot struct {
	key uint64 // Key + 1; 0 is free
	ref uint32 // the page's place in cells
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
	clear(m.slots)
	for _, s := range m.sketches {
		s.Reset()
	}
	m.spare = append(m.spare, m.sketches...)
	m.n, m.cells, m.order, m.fresh, m.sketches, m.Touched = 0, m.cells[:0], m.order[:0], m.fresh[:0], m.sketches[:0], false
}

const mix = 0x9e3779b97f4a7c15

// Ref returns the place of the key's page, made if it is not there: n cells, always as many for a group. It is valid
// until the minute is dropped.
func (m *Minute) Ref(k Key, n int) uint32 {
	m.Touched = true
	if 4*m.n >= 3*len(m.slots) {
		m.grow()
	}
	mask := uint64(len(m.slots) - 1)
	want := uint64(k) + 1
	for i := (want * mix) >> 32 & mask; ; i = (i + 1) & mask {
		s := &m.slots[i]
		switch s.key {
		case want:
			return s.ref
		case 0:
			at := uint32(len(m.cells))
			*s = slot{want, at}
			m.fresh = append(m.fresh, *s)
			m.n++
			m.cells = append(m.cells, zeros[:n+1]...)
			return at
		}
	}
}

// Add adds to a cell of a page and marks it as touched.
func (m *Minute) Add(ref uint32, cell int, v int64) {
	m.cells[ref] |= 1 << cell
	m.cells[int(ref)+1+cell] += v
}

// Page returns the page of the key: a mask of cells touched since the last Untouch, then n cells. It is valid until the
// next call of Ref or Page.
func (m *Minute) Page(k Key, n int) []int64 {
	ref := m.Ref(k, n)
	return m.cells[ref : int(ref)+n+1]
}

// MaxCells is the most cells that a page has: one for each bit of its mask but the sign.
const MaxCells = 63

var zeros [MaxCells + 1]int64

func (m *Minute) grow() {
	old := m.slots
	m.slots = make([]slot, max(64, 2*len(old)))
	mask := uint64(len(m.slots) - 1)
	for _, s := range old {
		if s.key == 0 {
			continue
		}
		i := (s.key * mix) >> 32 & mask
		for m.slots[i].key != 0 {
			i = (i + 1) & mask
		}
		m.slots[i] = s
	}
}

// sketch returns the sketch of the key and its page.
func (m *Minute) sketch(k Key) (*Sketch, []int64) {
	page := m.Page(k, 1)
	if page[1] == 0 {
		if n := len(m.spare); n > 0 {
			m.sketches = append(m.sketches, m.spare[n-1])
			m.spare = m.spare[:n-1]
		} else {
			m.sketches = append(m.sketches, &Sketch{})
		}
		page[1] = int64(len(m.sketches))
	}
	return m.sketches[page[1]-1], page
}

// Seen adds a visitor to the sketch of the key.
func (m *Minute) Seen(k Key, visitor uint64) {
	s, page := m.sketch(k)
	if s.Add(visitor) {
		page[0] = 1
	}
}

// Unite makes the sketch of the key the union of both.
func (m *Minute) Unite(k Key, o *Sketch) {
	s, page := m.sketch(k)
	s.Merge(o)
	page[0] = 1
}

// ForgetSeen empties all sketches of the minute and touches them: they are about to be formed anew. One that is empty
// is left as it is, as if it had never been there, so that what is touched does not depend on what once was.
func (m *Minute) ForgetSeen() {
	m.each(func(k Key, page []int64) {
		if k.Group() == GroupSeen && !m.sketches[page[1]-1].Empty() {
			m.sketches[page[1]-1].Reset()
			page[0] = 1
			m.Touched = true
		}
	})
}

// GroupSeen is the group of `visitors` in every chain, the one whose cell is a sketch.
const GroupSeen = 1

// each calls fn for each page, in no order; of the page only the mask and the first cell are given.
func (m *Minute) each(fn func(k Key, page []int64)) {
	for i := range m.slots {
		if s := &m.slots[i]; s.key != 0 {
			fn(Key(s.key-1), m.cells[s.ref:s.ref+2])
		}
	}
}

// Untouch forgets what was touched.
func (m *Minute) Untouch() {
	if !m.Touched {
		return
	}
	m.each(func(_ Key, page []int64) { page[0] = 0 })
	m.Touched = false
}

// Touch touches every cell that there is (the first tick of a generation publishes every open row).
func (m *Minute) Touch(cells func(group int) int) {
	m.each(func(k Key, page []int64) { page[0] = 1<<cells(k.Group()) - 1 })
	m.Touched = true
}

// sorted returns the pages by key.
func (m *Minute) sorted() []slot {
	if len(m.fresh) == 0 {
		return m.order
	}
	slices.SortFunc(m.fresh, func(a, b slot) int { return cmp.Compare(a.key, b.key) })
	// Merge from the back, in place.
	a, b := len(m.order)-1, len(m.fresh)-1
	m.order = append(m.order, m.fresh...)
	for to := len(m.order) - 1; b >= 0; to-- {
		if a >= 0 && m.order[a].key > m.fresh[b].key {
			m.order[to] = m.order[a]
			a--
		} else {
			m.order[to] = m.fresh[b]
			b--
		}
	}
	m.fresh = m.fresh[:0]
	return m.order
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
	order := m.sorted()
	var row []Cell
	for i := 0; i < len(order); {
		first := Key(order[i].key - 1)
		var touched uint64
		j := i
		for ; j < len(order) && Key(order[j].key-1).Row() == first.Row(); j++ {
			touched |= uint64(m.cells[order[j].ref])
		}
		if all {
			touched = 1<<cells(first.Group()) - 1
		}
		for ; touched != 0; touched &= touched - 1 {
			c := bits.TrailingZeros64(touched)
			row = row[:0]
			for x := range order[i:j] {
				s := &order[i+x]
				v := m.cells[int(s.ref)+1+c]
				if v == 0 {
					continue
				}
				k := Key(s.key - 1)
				cell := Cell{Variation: k.Variation(), Tags: k.Tags(), Value: v}
				if first.Group() == GroupSeen {
					if cell.Sketch, cell.Value = m.sketches[v-1], 0; cell.Sketch.Empty() {
						continue
					}
				}
				row = append(row, cell)
			}
			if err := fn(first.Scope(), first.Group(), c, row); err != nil {
				return err
			}
		}
		i = j
	}
	return nil
}

// Merge adds all cells of o and unites its sketches.
func (m *Minute) Merge(o *Minute, cells func(group int) int) {
	for _, s := range o.sorted() {
		k := Key(s.key - 1)
		n := cells(k.Group())
		from := o.cells[s.ref : int(s.ref)+n+1]
		if k.Group() == GroupSeen {
			m.Unite(k, o.sketches[from[1]-1])
			continue
		}
		to := m.Page(k, n)
		for c := 1; c <= n; c++ {
			to[c] += from[c]
		}
	}
}

// FloorDiv is a / b rounded down, for b above 0: the minute, window or tick that a time lies in.
func FloorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
