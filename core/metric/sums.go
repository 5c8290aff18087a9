// Package metric holds the sums that sessions contribute to: pages of cells by minute, scope, variation and tag set,
// and the sketch of distinct visitors.
package metric

import (
	"cmp"
	"slices"
	"sort"
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

// withGroup is the key of another group of the same scope, variation and tag set.
func (k Key) withGroup(group int) Key {
	return k&^((1<<groupBits-1)<<(varBits+tagBits)) | Key(group)<<(varBits+tagBits)
}

// NextScope is the same key of the scope after it.
func (k Key) NextScope() Key { return k + 1<<(groupBits+varBits+tagBits) }

// Row is the part of the key that names a run of rows: scope and group.
func (k Key) Row() Key { return k >> (varBits + tagBits) }

// Sums are the open minutes of a shard, or the minutes of a batch window. They form a group under addition: what was
// added can be taken back by adding its negative, and the order does not matter. The zero value is empty.
type Sums struct {
	minutes []*Minute // by minute
	last    *Minute   // the one used last: beacons come nearly in order
	free    []*Minute

	visitors []uint64 // scratch of Minute.introduce: the log's visitors, page by page; logMost at most
}

// Minute holds the pages of one minute.
type Minute struct {
	Minute int64 // minutes since the epoch
	// Touched says that a page or a sketch of this minute was touched since the last Untouch, or is about to be by what
	// is in the journal.
	Touched bool

	journal []uint64 // contributions that are not in the pages yet (journal.go)
	refs    []uint32 // scratch of post: the pages of an entry
	tables  [2]table
	order   []slot // the pages by key, but for those in fresh

	sketches []*Sketch  // of the pages of visitors
	spare    []*Sketch  // for the next minute that this memory serves
	seen     []seenPage // the pages of visitors
	log      []uint32   // visitors that are not in the sketches yet (visitors.go)
	met      []uint32   // scratch of introduce: the ids of pages that the log speaks of
	sums     *Sums      // whose minute it is, for its scratch
}

// The tables of a minute.
const (
	own    = 0 // pages of a scope
	shared = 1 // what a scope and the one after it got alike since the last settle, by the first of them; zeros else
)

// table is an open-addressing table from key to a page in cells. Neither holds pointers. It has places only, and the key is in the
// page, which is about to be used: so the table stays small in the caches.
type table struct {
	slots   []uint32 // places of pages + 1; 0: free
	n       int
	cells   []int64 // pages one after another, each with a head
	fresh   []slot  // pages made since Minute.order was put in order
	touched []slot  // the pages touched since the last Untouch, or the last settle
}

type slot struct {
	key Key
	ref uint32 // the page's place in cells
}

// The head of a page: a mask of the cells touched; its key; how many cells follow, and the id + 1 of the page of visitors of the
// same scope, variation and tag set; of a shared page the places + 1 of those of the two scopes. Two in a word are 32 bits each,
// the first in the high ones; of an id and a place 0 says that it is not known yet.
const (
	pageKey    = 1
	pageBeside = 2
	pageOwn    = 3
	pageHead   = 4
)

// At returns the minute, made if it is not there.
func (s *Sums) At(minute int64) *Minute {
	if s.last != nil && s.last.Minute == minute {
		return s.last
	}
	i, ok := s.place(minute)
	if !ok {
		m := &Minute{sums: s}
		if n := len(s.free); n > 0 {
			m, s.free = s.free[n-1], s.free[:n-1]
		}
		m.Minute = minute
		s.minutes = slices.Insert(s.minutes, i, m)
	}
	s.last = s.minutes[i]
	return s.last
}

// place is where the minute is, or where it would be.
func (s *Sums) place(minute int64) (i int, ok bool) {
	if len(s.minutes) > 0 { // as a rule there is one for each minute from the first on
		if i := minute - s.minutes[0].Minute; i >= 0 && i < int64(len(s.minutes)) && s.minutes[i].Minute == minute {
			return int(i), true
		}
	}
	return slices.BinarySearchFunc(s.minutes, minute, func(m *Minute, t int64) int { return cmp.Compare(m.Minute, t) })
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

// Reset forgets all minutes and keeps their memory, for a batch window as large.
func (s *Sums) Reset() {
	for _, m := range s.minutes {
		m.reset()
	}
	s.free = append(s.free, s.minutes...)
	s.minutes, s.last = s.minutes[:0], nil
}

// Bytes is about how much memory what was added takes, once it is in the pages of each scope, where it is brought.
func (s *Sums) Bytes() int64 {
	n := 8 * cap(s.visitors)
	for _, m := range s.minutes {
		m.settle()
		n += 8*cap(m.journal) + 16*cap(m.order) + 16*cap(m.seen) + 4*(cap(m.log)+cap(m.met))
		for i := range m.tables {
			t := &m.tables[i]
			n += 8*cap(t.cells) + 4*len(t.slots) + 16*(cap(t.fresh)+cap(t.touched))
		}
		for _, x := range m.sketches {
			n += 8*cap(x.exact) + 4*cap(x.list) + len(x.regs)
		}
	}
	return int64(n)
}

func (m *Minute) reset() {
	for i := range m.tables {
		t := &m.tables[i]
		clear(t.slots)
		t.n, t.cells, t.fresh, t.touched = 0, t.cells[:0], t.fresh[:0], t.touched[:0]
	}
	for _, s := range m.sketches {
		s.Reset()
	}
	m.spare = append(m.spare, m.sketches...)
	m.journal, m.order, m.sketches, m.seen, m.log, m.Touched = m.journal[:0], m.order[:0], m.sketches[:0], m.seen[:0], m.log[:0], false
}

const mix = 0x9e3779b97f4a7c15

// hash spreads keys over its low bits: each depends on every part of the key, the scope above all, which is in the highest bits.
func (k Key) hash() uint64 {
	h := uint64(k) * mix
	return (h ^ h>>32) * mix >> 32
}

// ref returns the place of the key's page, made if it is not there: n cells, always as many for a group. It is valid
// until the minute is dropped.
func (t *table) ref(k Key, n int) uint32 {
	if 2*t.n >= len(t.slots) {
		t.grow()
	}
	mask := uint64(len(t.slots) - 1)
	for i := k.hash() & mask; ; i = (i + 1) & mask {
		at := t.slots[i]
		if at == 0 {
			ref := uint32(len(t.cells))
			t.slots[i] = ref + 1
			t.fresh = append(t.fresh, slot{k, ref})
			t.n++
			t.cells = append(t.cells, zeros[:pageHead+n]...)
			t.cells[ref+pageKey], t.cells[ref+pageBeside] = int64(k), int64(n)<<32
			return ref
		}
		if ref := at - 1; t.cells[ref+pageKey] == int64(k) {
			return ref
		}
	}
}

// touch marks cells of a page as touched, by the bits of the mask.
func (t *table) touch(ref uint32, mask uint64) {
	if t.cells[ref] == 0 {
		t.touched = append(t.touched, slot{Key(t.cells[ref+pageKey]), ref})
	}
	t.cells[ref] |= int64(mask)
}

// MaxCells is the most cells that a page has: each is a bit of its mask, whose sign is spare.
const MaxCells = 63

var zeros [pageHead + MaxCells]int64

func (t *table) grow() {
	old := t.slots
	t.slots = make([]uint32, max(64, 2*len(old)))
	mask := uint64(len(t.slots) - 1)
	for _, at := range old {
		if at == 0 {
			continue
		}
		i := Key(t.cells[at-1+pageKey]).hash() & mask
		for t.slots[i] != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = at
	}
}

// sketch returns the sketch of a scope's page of visitors.
func (m *Minute) sketch(ref uint32) *Sketch {
	at := &m.tables[own].cells[ref+pageHead+seenSketch]
	if *at == 0 {
		if n := len(m.spare); n > 0 {
			m.sketches = append(m.sketches, m.spare[n-1])
			m.spare = m.spare[:n-1]
		} else {
			m.sketches = append(m.sketches, &Sketch{})
		}
		*at = int64(len(m.sketches))
	}
	return m.sketches[*at-1]
}

// ForgetSeen empties all sketches of the minute and touches them: they are about to be formed anew. One that is empty
// is left as it is, as if it had never been there, so that what is touched does not depend on what once was.
func (m *Minute) ForgetSeen() {
	t := &m.tables[own]
	m.each(func(s slot) {
		if s.key.Group() != GroupSeen {
			return
		}
		if sketch := m.sketch(s.ref); !sketch.Empty() {
			sketch.Reset()
			t.touch(s.ref, 1)
			m.Touched = true
		}
	})
}

// GroupSeen is the group of `visitors` in every chain, the one whose cell is a sketch.
const GroupSeen = 1

// each calls fn for each page, in no order.
func (m *Minute) each(fn func(s slot)) {
	m.settle()
	t := &m.tables[own]
	for _, at := range t.slots {
		if at != 0 {
			fn(slot{Key(t.cells[at-1+pageKey]), at - 1})
		}
	}
}

// Untouch forgets what was touched.
func (m *Minute) Untouch() {
	m.settle()
	t := &m.tables[own]
	for _, s := range t.touched {
		t.cells[s.ref] = 0
	}
	t.touched, m.Touched = t.touched[:0], false
}

// Touch touches every cell that there is (the first tick of a generation publishes every open row).
func (m *Minute) Touch(cells func(group int) int) {
	m.each(func(s slot) {
		m.tables[own].touch(s.ref, 1<<cells(s.key.Group())-1)
		m.Touched = true
	})
}

func byKey(a, b slot) int { return cmp.Compare(a.key, b.key) }

// sorted returns the pages by key.
func (m *Minute) sorted() []slot {
	m.settle()
	t := &m.tables[own]
	if len(t.fresh) == 0 {
		return m.order
	}
	slices.SortFunc(t.fresh, byKey)
	// Merge from the back, in place.
	a, b := len(m.order)-1, len(t.fresh)-1
	m.order = append(m.order, t.fresh...)
	for to := len(m.order) - 1; b >= 0; to-- {
		if a >= 0 && m.order[a].key > t.fresh[b].key {
			m.order[to] = m.order[a]
			a--
		} else {
			m.order[to] = t.fresh[b]
			b--
		}
	}
	t.fresh = t.fresh[:0]
	return m.order
}

// Run is the pages of one scope and group, by variation and tag set: its rows side by side. It is valid during a call.
type Run struct {
	Scope, Group int
	Touched      uint64 // bit i: some page's cell i was touched
	Pages        int

	m     *Minute
	pages []slot
}

// Page returns the variation and the tag set of the i-th page.
func (r *Run) Page(i int) (variation int, tags uint32) {
	k := r.pages[i].key
	return k.Variation(), k.Tags()
}

// Value returns a cell of the i-th page. In a run of visitors it only says, by not being 0, that Sketch is not nil.
func (r *Run) Value(i, cell int) int64 {
	return r.m.tables[own].cells[int(r.pages[i].ref)+pageHead+cell]
}

// Sketch returns the sketch of the i-th page of a run of visitors, nil if there is none.
func (r *Run) Sketch(i int) *Sketch {
	if v := r.Value(i, 0); v != 0 {
		return r.m.sketches[v-1]
	}
	return nil
}

// Runs calls fn for each run that has a touched cell, in order of scope and group.
func (m *Minute) Runs(fn func(r *Run) error) error {
	order := m.sorted()
	touched, cells := m.tables[own].touched, m.tables[own].cells
	slices.SortFunc(touched, byKey)
	r := Run{m: m}
	for t, i := 0, 0; t < len(touched); {
		row := touched[t].key.Row()
		r.Touched = 0
		for ; t < len(touched) && touched[t].key.Row() == row; t++ {
			r.Touched |= uint64(cells[touched[t].ref])
		}
		i += beforeRow(order[i:], row)
		r.set(order[i:])
		i += r.Pages
		if err := fn(&r); err != nil {
			return err
		}
	}
	return nil
}

// set makes it the run that begins the list of pages.
func (r *Run) set(order []slot) {
	k := order[0].key
	n := 1
	for n < len(order) && order[n].key.Row() == k.Row() {
		n++
	}
	r.Scope, r.Group, r.Pages, r.pages = k.Scope(), k.Group(), n, order[:n]
}

// beforeRow returns how many pages of the list, by key, come before the row's. They are few as a rule, or it is a minute
// that a few late beacons touched.
func beforeRow(order []slot, row Key) int {
	hi := 1
	for hi < len(order) && order[hi-1].key.Row() < row {
		hi *= 2
	}
	lo := hi / 2
	return lo + sort.Search(min(hi, len(order))-lo, func(i int) bool { return order[lo+i].key.Row() >= row })
}

// Cell is one value of a row: the sum, or for visitors the sketch, of a variation and a tag set.
type Cell struct {
	Variation int
	Tags      uint32
	Value     int64
	Sketch    *Sketch
}

// Rows calls fn for each row of the minute that has a cell, in order of scope, group and cell. Cells are in order of
// variation and tag set, zeros and empty sketches left out. They are valid during the call.
func (m *Minute) Rows(cells func(group int) int, fn func(scope, group, cell int, row []Cell) error) error {
	var row []Cell
	r := Run{m: m}
	for order := m.sorted(); len(order) > 0; order = order[r.Pages:] {
		r.set(order)
		for c := range cells(r.Group) {
			row = row[:0]
			for i := range r.Pages {
				cell := Cell{Value: r.Value(i, c)}
				if cell.Variation, cell.Tags = r.Page(i); r.Group == GroupSeen {
					if cell.Sketch, cell.Value = r.Sketch(i), 0; cell.Sketch == nil || cell.Sketch.Empty() {
						continue
					}
				} else if cell.Value == 0 {
					continue
				}
				row = append(row, cell)
			}
			if len(row) == 0 {
				continue
			}
			if err := fn(r.Scope, r.Group, c, row); err != nil {
				return err
			}
		}
	}
	return nil
}

// FloorDiv is a / b rounded down, for b above 0: the minute, window or tick that a time lies in.
func FloorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
