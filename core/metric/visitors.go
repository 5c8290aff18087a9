package metric

import "slices"

// Visitors that are shown to pages go to a minute's log first, and from there to the pages' sketches, page by page: a minute may have
// thousands of sketches of 16 KiB each, and each beacon's visitor goes to a dozen of them.
//
// The log is words of 32 bits, an entry after another: the visitor in two, the low one first, how many pages, and their ids.
const (
	// logLeast and logMost words: then the log goes to the sketches. Between them it is as long as gives each page some hundred visitors
	// at once, which then find the lines of its sketch in the cache. A batch has one for each of a window's 30 minutes.
	logLeast   = 1 << 12
	logMost    = 1 << 20
	logPerPage = 128
)

// seenPage is a page of visitors, of which the log speaks by its place in Minute.seen. It exists for a shared page too.
type seenPage struct {
	ref   uint32 // its place in the cells
	twice bool   // it is a shared one: what is shown to it goes to the sketches of both scopes
	n, at uint32 // while the log is being brought in: how many visitors it gets, and where those to come go. n is 0 else
}

// The cells of a page of visitors.
const (
	seenSketch = 0 // the place + 1 of its sketch; none in a shared page
	seenID     = 1 // the place + 1 in Minute.seen
	seenCells  = 2
)

// seenIDs makes places of pages of visitors, of one table, their ids.
func (m *Minute) seenIDs(table int, refs []uint32) {
	for i, ref := range refs {
		refs[i] = m.seenID(table, ref)
	}
}

// seenID is the id of the page of visitors at a place of a table.
func (m *Minute) seenID(table int, ref uint32) uint32 {
	id := &m.tables[table].cells[ref+pageHead+seenID]
	if *id == 0 {
		m.seen = append(m.seen, seenPage{ref: ref, twice: table == shared})
		*id = int64(len(m.seen))
	}
	return uint32(*id) - 1
}

// besideIDs makes places of pages, of one table, the ids of the pages of visitors beside them.
func (m *Minute) besideIDs(table int, refs []uint32) {
	t := &m.tables[table]
	for i, ref := range refs {
		id := uint32(t.cells[ref+pageBeside])
		if id == 0 {
			of := t.ref(Key(t.cells[ref+pageKey]).withGroup(GroupSeen), seenCells)
			id = m.seenID(table, of) + 1
			t.cells[ref+pageBeside] |= int64(id)
		}
		refs[i] = id - 1
	}
}

// show shows a visitor to the pages of visitors with the ids at hand.
func (m *Minute) show(visitor uint64) {
	m.log = append(m.log, uint32(visitor), uint32(visitor>>32), uint32(len(m.refs)))
	m.log = append(m.log, m.refs...)
	if n := len(m.log); n >= logLeast && n >= min(logPerPage*len(m.seen), logMost) {
		m.introduce()
	}
}

// introduce brings the log's visitors into the sketches.
func (m *Minute) introduce() {
	if len(m.log) == 0 {
		return
	}
	met := m.met[:0]
	for log := m.log; len(log) > 0; {
		ids := log[3:][:log[2]]
		log = log[3+len(ids):]
		for _, id := range ids {
			p := &m.seen[id]
			if p.n == 0 {
				met = append(met, id)
			}
			p.n++
		}
	}
	n := uint32(0) // of all pages
	for _, id := range met {
		p := &m.seen[id]
		p.at = n
		n += p.n
	}
	m.sums.visitors = slices.Grow(m.sums.visitors[:0], int(n))
	visitors := m.sums.visitors[:n]
	for log := m.log; len(log) > 0; {
		visitor, ids := uint64(log[0])|uint64(log[1])<<32, log[3:][:log[2]]
		log = log[3+len(ids):]
		for _, id := range ids {
			p := &m.seen[id]
			visitors[p.at] = visitor
			p.at++
		}
	}
	for _, id := range met {
		p := &m.seen[id]
		m.meet(p, visitors[p.at-p.n:p.at])
		p.n = 0
	}
	m.met, m.log = met, m.log[:0]
}

// meet brings visitors into the sketch of a page, or into those of both that a shared one is for.
func (m *Minute) meet(p *seenPage, visitors []uint64) {
	a, b := p.ref, p.ref
	if p.twice {
		a, b = m.pages(p.ref, seenCells)
	}
	if m.sketch(a).regs == nil || m.sketch(b).regs == nil {
		slices.Sort(visitors)
		visitors = slices.Compact(visitors)
	}
	m.addAll(a, visitors)
	if p.twice {
		m.addAll(b, visitors)
	}
}

// addAll brings visitors into the sketch of a scope's page: ascending, if it has not all registers.
func (m *Minute) addAll(ref uint32, visitors []uint64) {
	if m.sketch(ref).addAll(visitors) {
		m.tables[own].touch(ref, 1)
	}
}
