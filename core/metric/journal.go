package metric

import (
	"math/bits"
	"slices"
)

// Fold's contributions go to a minute's journal first, and from there to its pages, many at once. Fold goes from session
// to session, and each has scopes of its own, so the pages that it would touch lie all over the minutes that are open: the
// journal is written in order, and what is read of it at a time goes to one minute, whose pages then stay in the cache.
//
// The journal is words, an entry after another:
//
//	key  mask  n<<56 | up to 7 deltas, a byte each        the cells of the mask's bits grow by the deltas
//	key  mask|wide  n<<56  deltas, a word each
//	key  visitor                                          if the key's group is GroupSeen
//
// In the first two n|beside says that a visitor follows, of the same scope, variation and tag set, and n|alike that the scope after
// the key's gets the same.
const (
	wide      = 1 << 63
	beside    = 1 << 7
	alike     = 1 << 6
	smallMost = 7
	// journalMost words: then they are posted. Some 800 beacons with four experiments each fill it, and it stays in the
	// second cache; a batch has one for each of a window's 30 minutes.
	journalMost = 1 << 14
)

// Post adds to cells of a page of n cells: those of the mask's bits, by the deltas in turn. What is added to is touched,
// if by zero too. A visitor other than 0 is shown to the page of visitors beside it: of the same scope, variation and tag
// set. twice: the scope after the key's gets the same.
func (m *Minute) Post(k Key, n int, mask uint64, deltas []int64, visitor uint64, twice bool) {
	small, fits := uint64(0), len(deltas) <= smallMost
	for i, d := range deltas {
		small |= uint64(uint8(d)) << (8 * i)
		fits = fits && d == int64(int8(d))
	}
	if fits {
		m.PostSmall(k, n, mask, small, visitor, twice)
		return
	}
	m.Touched = true
	m.journal = append(m.journal, uint64(k), mask|wide, headOf(n, visitor, twice))
	for _, d := range deltas {
		m.journal = append(m.journal, uint64(d))
	}
	if visitor != 0 {
		m.journal = append(m.journal, visitor)
	}
	if len(m.journal) >= journalMost {
		m.post()
	}
}

// PostSmall is Post with at most 7 deltas that fit a byte each, as two's complement, the first in the lowest byte.
func (m *Minute) PostSmall(k Key, n int, mask, deltas, visitor uint64, twice bool) {
	m.Touched = true
	if small := headOf(n, visitor, twice) | deltas; visitor == 0 {
		m.journal = append(m.journal, uint64(k), mask, small)
	} else {
		m.journal = append(m.journal, uint64(k), mask, small, visitor)
	}
	if len(m.journal) >= journalMost {
		m.post()
	}
}

// headOf is the high byte of an entry's third word.
func headOf(n int, visitor uint64, twice bool) uint64 {
	if visitor != 0 {
		n |= beside
	}
	if twice {
		n |= alike
	}
	return uint64(n) << 56
}

// Seen adds a visitor to the sketch of the key, which is of GroupSeen.
func (m *Minute) Seen(k Key, visitor uint64) {
	m.Touched = true
	if m.journal = append(m.journal, uint64(k), visitor); len(m.journal) >= journalMost {
		m.post()
	}
}

// post brings the journal's entries into the pages.
func (m *Minute) post() {
	j := m.journal
	for len(j) > 0 {
		k := Key(j[0])
		if k.Group() == GroupSeen {
			m.see(k, m.tables[own].ref(k, seenCells[own]), j[1])
			j = j[2:]
			continue
		}
		mask, head := j[1], j[2]
		t := &m.tables[head>>62&1]
		ref := t.ref(k, int(head>>56&^(beside|alike)))
		t.touch(k, ref, mask&^wide)
		page := t.cells[ref+pageHead:]
		j = j[3:]
		if mask&wide == 0 {
			for small := head; mask != 0; mask &= mask - 1 {
				page[bits.TrailingZeros64(mask)] += int64(int8(small))
				small >>= 8
			}
		} else {
			for mask &^= wide; mask != 0; mask &= mask - 1 {
				page[bits.TrailingZeros64(mask)] += int64(j[0])
				j = j[1:]
			}
		}
		if head>>56&beside != 0 {
			seen := k.withGroup(GroupSeen)
			at := uint32(t.cells[ref+pageBeside])
			if at == 0 {
				at = t.ref(seen, seenCells[head>>62&1]) + 1
				t.cells[ref+pageBeside] |= int64(at)
			}
			if head>>62&1 == own {
				m.see(seen, at-1, j[0])
			} else {
				m.meet(seen, at-1, j[0])
			}
			j = j[1:]
		}
	}
	m.journal = m.journal[:0]
}

func (m *Minute) see(k Key, ref uint32, visitor uint64) {
	if m.sketch(ref).Add(visitor) {
		m.tables[own].touch(k, ref, 1)
	}
}

// meetMost visitors are kept in a shared page; then they go to the sketches of both scopes, many at once.
const meetMost = 15

// seenCells are those of a page of visitors: of a scope the place + 1 of its sketch, of a shared one how many visitors follow and
// they.
var seenCells = [2]int{own: 1, shared: 1 + meetMost}

func (m *Minute) meet(k Key, ref uint32, visitor uint64) {
	t := &m.tables[shared]
	t.touch(k, ref, 1)
	page := t.cells[ref+pageHead:][:1+meetMost]
	if page[0] == meetMost {
		m.introduce(k, ref)
	}
	page[0]++
	page[page[0]] = int64(visitor)
}

// introduce shows the visitors of a shared page to the sketches of both scopes.
func (m *Minute) introduce(k Key, ref uint32) {
	page := m.tables[shared].cells[ref+pageHead:][:1+meetMost]
	met := m.met.exact[:0]
	for _, v := range page[1 : 1+page[0]] {
		met = append(met, uint64(v))
	}
	page[0] = 0
	slices.Sort(met)
	m.met.exact = slices.Compact(met)
	t := &m.tables[own]
	a, b := m.pages(k, ref, seenCells[own])
	if m.sketch(a).Merge(&m.met) {
		t.touch(k, a, 1)
	}
	if m.sketch(b).Merge(&m.met) {
		t.touch(k.NextScope(), b, 1)
	}
}

// pages are the places of the two pages of n cells that a shared one is for.
func (m *Minute) pages(k Key, ref uint32, n int) (a, b uint32) {
	at := &m.tables[shared].cells[ref+pageOwn]
	if *at == 0 {
		t := &m.tables[own]
		*at = int64(t.ref(k, n)+1)<<32 | int64(t.ref(k.NextScope(), n)+1)
	}
	return uint32(*at>>32) - 1, uint32(*at) - 1
}

// settle brings what there is into the pages of each scope. It must come before any of them is looked at; until then what
// two scopes get alike is added up once.
func (m *Minute) settle() {
	m.post()
	both, t := &m.tables[shared], &m.tables[own]
	for _, s := range both.touched {
		touched := uint64(both.cells[s.ref])
		both.cells[s.ref] = 0
		if s.key.Group() == GroupSeen {
			m.introduce(s.key, s.ref)
			continue
		}
		n := int(both.cells[s.ref+pageBeside] >> 32)
		a, b := m.pages(s.key, s.ref, n)
		t.touch(s.key, a, touched)
		t.touch(s.key.NextScope(), b, touched)
		from := both.cells[s.ref+pageHead:][:n]
		toA, toB := t.cells[a+pageHead:][:n], t.cells[b+pageHead:][:n]
		for ; touched != 0; touched &= touched - 1 {
			c := bits.TrailingZeros64(touched)
			toA[c] += from[c]
			toB[c] += from[c]
			from[c] = 0
		}
	}
	both.touched = both.touched[:0]
}
