package metric

import "math/bits"

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
// In the first two n|beside says that a visitor follows, of the same scope, variation and tag set.
const (
	wide      = 1 << 63
	beside    = 1 << 7
	smallMost = 7
	// journalMost words: then they are posted. Some 1,000 beacons with four experiments each fill it, and it stays in the
	// second cache; a batch has one for each of a window's 30 minutes.
	journalMost = 1 << 15
)

// Post adds to cells of a page of n cells: those of the mask's bits, by the deltas in turn. What is added to is touched,
// if by zero too. A visitor other than 0 is shown to the page of visitors beside it: of the same scope, variation and tag
// set.
func (m *Minute) Post(k Key, n int, mask uint64, deltas []int64, visitor uint64) {
	small, fits := uint64(0), len(deltas) <= smallMost
	for i, d := range deltas {
		small |= uint64(uint8(d)) << (8 * i)
		fits = fits && d == int64(int8(d))
	}
	if fits {
		m.PostSmall(k, n, mask, small, visitor)
		return
	}
	m.Touched = true
	head := uint64(n) << 56
	if visitor != 0 {
		head |= beside << 56
	}
	m.journal = append(m.journal, uint64(k), mask|wide, head)
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
func (m *Minute) PostSmall(k Key, n int, mask, deltas, visitor uint64) {
	m.Touched = true
	if visitor == 0 {
		m.journal = append(m.journal, uint64(k), mask, uint64(n)<<56|deltas)
	} else {
		m.journal = append(m.journal, uint64(k), mask, uint64(n|beside)<<56|deltas, visitor)
	}
	if len(m.journal) >= journalMost {
		m.post()
	}
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
			m.see(k, m.ref(k, 1), j[1])
			j = j[2:]
			continue
		}
		mask, head := j[1], j[2]
		ref := m.ref(k, int(head>>56&^beside))
		m.touch(k, ref, mask&^wide)
		page := m.cells[ref+pageHead:]
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
			at := m.cells[ref+pageBeside]
			if at == 0 {
				at = int64(m.ref(seen, 1)) + 1
				m.cells[ref+pageBeside] = at
			}
			m.see(seen, uint32(at-1), j[0])
			j = j[1:]
		}
	}
	m.journal = m.journal[:0]
}

func (m *Minute) see(k Key, ref uint32, visitor uint64) {
	if m.sketch(ref).Add(visitor) {
		m.touch(k, ref, 1)
	}
}
