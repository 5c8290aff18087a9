package metric

import "math/bits"

// Fold's contributions go to a minute's journal first, and from there to its pages, many at once. Fold goes from session
// to session, and each has scopes of its own, so the pages that it would touch lie all over the minutes that are open: the
// journal is written in order, and what is read of it at a time goes to one minute, whose pages then stay in the cache.
//
// The journal is words, an entry after another; a scope's key and the page's, together by or, are the key of a page:
//
//	n | flags<<8 | twice<<16 | scopes<<40  page  the scopes  mask  up to 8 deltas, a byte each                [visitor]
//	n | flags<<8 | twice<<16 | scopes<<40  page  the scopes  mask  deltas, a word each, with the flag wide    [visitor]
//	0 | twice<<16 | scopes<<40             page  the scopes  visitor                                  of GroupSeen
//
// The visitor is there with the flag beside. twice is how many of the scopes bring along the scope after each.
const (
	wide   = 1 << 8
	beside = 1 << 9

	smallMost = 8
	// journalMost words: then they are posted. Some 1,000 beacons with four experiments each fill it, and it stays in the
	// second cache; a batch has one for each of a window's 30 minutes.
	journalMost = 1 << 14
)

// To is where a contribution goes: to pages of several scopes, each named by a key, and for the first Twice of them to those of
// the scope after it too. Fewer than 2^24 scopes.
type To struct {
	Scopes []Key
	Twice  int
}

// Add adds a scope.
func (to *To) Add(k Key, twice bool) {
	to.Scopes = append(to.Scopes, k)
	if twice {
		at, last := to.Twice, len(to.Scopes)-1
		to.Scopes[at], to.Scopes[last] = to.Scopes[last], to.Scopes[at]
		to.Twice++
	}
}

func (m *Minute) head(n int, flags uint64, to To, page Key) {
	m.Touched = true
	m.journal = append(m.journal, uint64(n)|flags|uint64(to.Twice)<<16|uint64(len(to.Scopes))<<40, uint64(page))
	for _, k := range to.Scopes {
		m.journal = append(m.journal, uint64(k))
	}
}

// Post adds to cells of pages of n cells: those of the mask's bits, by the deltas in turn. What is added to is touched,
// if by zero too. A visitor other than 0 is shown to the pages of visitors beside them: of the same scope, variation and tag
// set. The key of each page is a scope's and page's together.
func (m *Minute) Post(to To, page Key, n int, mask uint64, deltas []int64, visitor uint64) {
	small, flags := uint64(0), uint64(0)
	if len(deltas) > smallMost {
		flags = wide
	} else {
		for i, d := range deltas {
			small |= uint64(uint8(d)) << (8 * i)
			if d != int64(int8(d)) {
				flags = wide
			}
		}
	}
	if visitor != 0 {
		flags |= beside
	}
	m.head(n, flags, to, page)
	m.journal = append(m.journal, mask)
	if flags&wide == 0 {
		m.journal = append(m.journal, small)
	} else {
		for _, d := range deltas {
			m.journal = append(m.journal, uint64(d))
		}
	}
	if visitor != 0 {
		m.journal = append(m.journal, visitor)
	}
	if len(m.journal) >= journalMost {
		m.post()
	}
}

// Seen adds a visitor to the sketches of pages of GroupSeen.
func (m *Minute) Seen(to To, page Key, visitor uint64) {
	m.head(0, 0, to, page)
	if m.journal = append(m.journal, visitor); len(m.journal) >= journalMost {
		m.post()
	}
}

// post brings the journal's entries into the pages.
func (m *Minute) post() {
	var bytes [smallMost]uint64
	for j := m.journal; len(j) > 0; {
		head, part, scopes := j[0], Key(j[1]), j[2:][:j[0]>>40]
		twice := int(head >> 16 & (1<<24 - 1))
		j = j[2+len(scopes):]
		n := int(head & 0xff)
		if n == 0 {
			m.find(scopes, twice, part, seenCells)
			m.seenIDs(shared, m.refs[:twice])
			m.seenIDs(own, m.refs[twice:])
			m.show(j[0])
			j = j[1:]
			continue
		}
		mask, visitor, deltas := j[0], uint64(0), bytes[:]
		if many := bits.OnesCount64(mask); head&wide != 0 {
			deltas, j = j[1:1+many], j[1+many:]
		} else {
			for i := range min(many, smallMost) {
				bytes[i] = uint64(int8(j[1] >> (8 * i)))
			}
			j = j[2:]
		}
		m.find(scopes, twice, part, n)
		m.tables[shared].add(m.refs[:twice], n, mask, deltas)
		m.tables[own].add(m.refs[twice:], n, mask, deltas)
		if head&beside != 0 {
			visitor, j = j[0], j[1:]
			m.besideIDs(shared, m.refs[:twice])
			m.besideIDs(own, m.refs[twice:])
			m.show(visitor)
		}
	}
	m.journal = m.journal[:0]
}

// find finds the pages of an entry, for which refs then are, before any of them is added to: the processor waits for many at once.
func (m *Minute) find(scopes []uint64, twice int, part Key, n int) {
	m.refs = m.refs[:0]
	for _, k := range scopes[:twice] {
		m.refs = append(m.refs, m.tables[shared].ref(Key(k)|part, n))
	}
	for _, k := range scopes[twice:] {
		m.refs = append(m.refs, m.tables[own].ref(Key(k)|part, n))
	}
}

// add adds to pages.
func (t *table) add(refs []uint32, n int, mask uint64, deltas []uint64) {
	for _, ref := range refs {
		t.touch(ref, mask)
		page := t.cells[ref+pageHead:][:n]
		for i, left := 0, mask; left != 0; i, left = i+1, left&(left-1) {
			page[bits.TrailingZeros64(left)] += int64(deltas[i])
		}
	}
}

// pages are the places of the two pages of n cells that a shared one is for.
func (m *Minute) pages(ref uint32, n int) (a, b uint32) {
	page := m.tables[shared].cells[ref:][:pageHead]
	at := &page[pageOwn]
	if *at == 0 {
		t, k := &m.tables[own], Key(page[pageKey])
		*at = int64(t.ref(k, n)+1)<<32 | int64(t.ref(k.NextScope(), n)+1)
	}
	return uint32(*at>>32) - 1, uint32(*at) - 1
}

// settle brings what there is into the pages of each scope. It must come before any of them is looked at; until then what
// two scopes get alike is added up once.
func (m *Minute) settle() {
	m.post()
	m.introduce()
	both, t := &m.tables[shared], &m.tables[own]
	for _, s := range both.touched {
		touched := uint64(both.cells[s.ref])
		both.cells[s.ref] = 0
		n := int(both.cells[s.ref+pageBeside] >> 32)
		a, b := m.pages(s.ref, n)
		t.touch(a, touched)
		t.touch(b, touched)
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
