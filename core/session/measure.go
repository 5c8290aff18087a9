package session

import (
	"math/bits"

	"tandem/core/metric"
	"tandem/core/tenant"
)

// Cells after that of a point and of a value, as tenant lays them out.
const (
	nextBeta, nextTot, nextHit, nextSq = 1, 2, 3, 4
	nextCap, nextCapSq                 = 1, 2
)

// measure is one beacon on its way through its scopes.
type measure struct {
	f      *Folder
	e      *Event
	p      *tenant.Point1
	minute *metric.Minute // nil: only totals move

	to    metric.To // the scopes at hand
	burst *burst    // of the scopes at hand, if they have one
	base  uint32    // tags of their first beacon
	out   posting
}

// posting gathers what goes to one page.
type posting struct {
	group, last int // last: the cell added to last, -1: none yet
	tags        uint32
	mask        uint64
	n           int
	deltas      [16]int64
	visitor     uint64 // to be shown beside the next page under the beacon's own tags, 0: none
}

// add adds to a cell under the beacon's own tags.
func (w *measure) add(at tenant.Place, cell int, v int64) { w.addTo(w.e.Tags, at, cell, v) }

// addFirst adds to a cell under the tags of the session's first beacon in the scope, where functions of totals stand.
func (w *measure) addFirst(at tenant.Place, cell int, v int64) { w.addTo(w.base, at, cell, v) }

// addTo adds to the burst, or to the page at hand, or to another one, which then is. Cells come in order, as a rule.
func (w *measure) addTo(tags uint32, at tenant.Place, cell int, v int64) {
	c := at.Cell + cell
	if b := w.burst; b != nil && at.Group == tenant.GroupVisit && tags == b.tags {
		b.cells[c] += w.f.Sign * v
		b.mask |= 1 << c
		return
	}
	out := &w.out
	if out.group != at.Group || out.tags != tags || c <= out.last || out.n == len(out.deltas) {
		w.post()
		out.group, out.tags = at.Group, tags
	}
	out.deltas[out.n] = w.f.Sign * v
	out.n++
	out.mask |= 1 << c
	out.last = c
}

// post hands what was gathered to the minute.
func (w *measure) post() {
	out := &w.out
	if out.n == 0 {
		return
	}
	visitor := uint64(0)
	if out.tags == w.e.Tags {
		visitor, out.visitor = out.visitor, 0
	}
	w.minute.Post(w.to, metric.NewKey(0, out.group, 0, out.tags), len(w.f.Chain.Groups[out.group].Names), out.mask, out.deltas[:out.n], visitor)
	out.mask, out.n, out.last = 0, 0, -1
}

// firsts say of which runs of a scope a beacon is the first.
type firsts struct{ visit, session, point, visitor bool }

// bunch are scopes that get the same of the beacon at hand, other than what the site gets: as a rule the fm scopes of all experiments
// that the session has qualified for at once.
type bunch struct {
	to     metric.To
	base   uint32
	totals []int64 // before the beacon, of the first of them
	first  firsts
}

// mostBunches are compared with; for one more, those before it get theirs at once.
const mostBunches = 8

// in adds a scope to those that get what the beacon adds to one with these totals before it, and with it the one after it if twice.
// They get it at the next endBunches.
func (w *measure) in(scope, variation int, twice bool, base uint32, totals []int64, first firsts) {
	f, k := w.f, metric.NewKey(scope, 0, variation, 0)
	for i := range f.bunched {
		if b := &f.bunches[i]; b.first == first && b.base == base && w.alike(b.totals, totals) {
			b.to.Add(k, twice)
			return
		}
	}
	if f.bunched == mostBunches {
		w.endBunches()
	}
	b := &f.bunches[f.bunched]
	f.bunched++
	*b = bunch{metric.To{Scopes: b.to.Scopes[:0]}, base, totals, first}
	b.to.Add(k, twice)
}

// endBunches adds the beacon's contributions to the scopes that wait for them.
func (w *measure) endBunches() {
	for i := range w.f.bunched {
		b := &w.f.bunches[i]
		w.burst, w.base, w.to = nil, b.base, b.to
		w.contribute(b.totals, b.first)
	}
	w.f.bunched = 0
}

// together adds the beacon's contributions to all scopes of the burst at hand.
func (w *measure) together(base uint32, totals []int64, first firsts) {
	w.burst, w.base, w.to = &w.f.burst, base, w.f.burst.to
	w.contribute(totals, first)
}

// alike says whether the beacon adds the same with either totals.
func (w *measure) alike(a, b []int64) bool {
	p := w.p
	if p == nil || len(a) > 0 && &a[0] == &b[0] {
		return true
	}
	if p.Stat >= 0 && a[p.Stat] != b[p.Stat] {
		return false
	}
	for _, v := range w.e.Values {
		if slot := p.Values[v.Index].CapSlot; slot >= 0 && a[slot] != b[slot] {
			return false
		}
	}
	for i := range p.Pairs {
		if x := &p.Pairs[i]; a[x.A] != b[x.A] || a[x.B] != b[x.B] {
			return false
		}
	}
	return true
}

// contribute adds what the beacon adds to the scopes at hand; totals are those before it.
func (w *measure) contribute(totals []int64, first firsts) {
	if v := w.e.Visitor; v != 0 && first.visitor {
		switch {
		case w.f.Seen != nil:
			w.tell()
		case w.burst != nil:
			w.burst.visitor = v
		default:
			w.out.visitor = v
		}
	}
	if first.visit {
		w.add(tenant.Place{}, tenant.CellVisit, 1)
	}
	if first.session {
		w.add(tenant.Place{}, tenant.CellVisitBeta, 1)
	}
	if w.p != nil {
		w.point(totals, first.point)
	}
	w.post()
	if v := w.out.visitor; v != 0 { // a beacon that adds nothing else
		w.minute.Seen(w.to, metric.NewKey(0, tenant.GroupSeen, 0, w.e.Tags), v)
		w.out.visitor = 0
	}
}

// tell tells Folder.Seen of the beacon's visitor in the scopes at hand.
func (w *measure) tell() {
	for i, k := range w.to.Scopes {
		k |= metric.NewKey(0, tenant.GroupSeen, 0, w.e.Tags)
		w.f.Seen(w.minute.Minute, k, w.e.Visitor)
		if i < w.to.Twice {
			w.f.Seen(w.minute.Minute, k.NextScope(), w.e.Visitor)
		}
	}
}

// point adds what the beacon of a measured point adds.
func (w *measure) point(totals []int64, first bool) {
	e, p := w.e, w.p
	w.add(p.At, 0, 1)
	if first {
		w.add(p.At, nextBeta, 1)
	}
	if p.Stat >= 0 {
		t := totals[p.Stat]
		w.addFirst(p.At, nextTot, 1)
		w.addFirst(p.At, nextHit, min(t+1, 1)-min(t, 1))
		w.addFirst(p.At, nextSq, 2*t+1)
	}
	for _, v := range e.Values {
		v1 := &p.Values[v.Index]
		w.add(v1.At, 0, v.N)
		if v1.CapSlot >= 0 {
			t := totals[v1.CapSlot]
			before, after := clamp(t, v1.Cap), clamp(t+v.N, v1.Cap)
			w.addFirst(v1.At, nextCap, after-before)
			w.addFirst(v1.At, nextCapSq, after*after-before*before)
		}
		if v1.Hist >= 0 {
			i := Bucket(v.N)
			w.add(tenant.Place{Group: v1.Hist + i/tenant.HistCells}, i%tenant.HistCells, 1)
		}
	}
	for i := range p.Pairs {
		w.pair(&p.Pairs[i], totals)
	}
}

// pair adds the change of the product of two totals.
func (w *measure) pair(x *tenant.Pair1, totals []int64) {
	da, db := w.f.delta(x.A), w.f.delta(x.B)
	if da == 0 && db == 0 {
		return
	}
	a, b := totals[x.A], totals[x.B]
	before := clamp(a, x.CapA) * clamp(b, x.CapB)
	after := clamp(a+da, x.CapA) * clamp(b+db, x.CapB)
	w.addFirst(x.At, 0, after-before)
}

// clamp limits t to [-c, c]; c = 0 leaves it.
func clamp(t, c int64) int64 {
	if c == 0 {
		return t
	}
	return max(-c, min(t, c))
}

// Bucket is the histogram bucket of a scaled value: 0 for n <= 1, else floor(8 log2 n), exactly (SPEC 6). n is at most
// 10^11.
func Bucket(n int64) int {
	if n <= 1 {
		return 0
	}
	b := 8 * (bits.Len64(uint64(n)) - 1)
	for k := b + 1; k < b+8 && k < len(bucketStart) && n >= bucketStart[k]; k++ {
		b = k
	}
	return b
}

// bucketStart is the least n of each bucket.
var bucketStart = startsOfBuckets()

func startsOfBuckets() (starts [293]int64) {
	for b := 1; b < len(starts); b++ {
		lo, hi := int64(1), int64(1)<<(b/8+1)
		for lo < hi {
			if mid := (lo + hi) / 2; eighthsOfLog2(mid) < b {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		starts[b] = lo
	}
	return starts
}

// eighthsOfLog2 is floor(8 log2 n): the bit length of n^8, less one. n^8 has at most 297 bits here, so three squarings
// in 320 bits are exact.
func eighthsOfLog2(n int64) int {
	var sq [5]uint64
	sq[0] = uint64(n)
	used := 1
	for range 3 {
		sq, used = square(sq, used)
	}
	return 64*(used-1) + bits.Len64(sq[used-1]) - 1
}

// square squares a number of used words; the callers' numbers fit the result.
func square(a [5]uint64, used int) ([5]uint64, int) {
	var r [5]uint64
	for i := range used {
		var carry uint64
		for j := 0; i+j < len(r); j++ {
			var aj uint64
			if j < used {
				aj = a[j]
			}
			hi, lo := bits.Mul64(a[i], aj)
			var c uint64
			lo, c = bits.Add64(lo, r[i+j], 0)
			hi += c
			lo, c = bits.Add64(lo, carry, 0)
			hi += c
			r[i+j], carry = lo, hi
		}
	}
	n := len(r)
	for n > 1 && r[n-1] == 0 {
		n--
	}
	return r, n
}

// end returns the end of the state's visit (SPEC 6): its time, and the scopes that hold a beacon of it, as the
// revision in force at its last beacon knows them. They are appended to the given ones.
func (f *Folder) end(s *State, scopes []EndScope) End {
	e := End{
		At:      s.LastTS + f.Chain.At(s.LastTS).Config.VisitGap,
		Tags:    s.VisitTags,
		Pages:   s.VisitPages,
		Seconds: (s.LastTS - s.VisitFirst) / 1000,
	}
	e.Scopes = append(scopes, EndScope{0, 0})
	for i := range s.Marks {
		m := &s.Marks[i]
		if s.LastTS >= m.life {
			continue
		}
		x := f.Chain.Exps[m.Inst].X
		if m.Assigned >= s.VisitFirst || s.VisitFirst < m.end {
			e.Scopes = append(e.Scopes, EndScope{tenant.AssignedScope(x), m.Variation})
		}
		if m.IsQualified && (m.Qualified >= s.VisitFirst || s.VisitFirst < m.end) {
			e.Scopes = append(e.Scopes, EndScope{tenant.FmScope(x), m.Variation})
		}
	}
	return e
}

// endVisit counts the end of the state's visit, unless that was done.
func (f *Folder) endVisit(s *State) {
	if s.VisitEnded {
		return
	}
	s.VisitEnded = true
	if f.Ends {
		e := f.end(s, f.scopes[:0])
		f.scopes = e.Scopes
		f.count(&e)
	}
}

func (f *Folder) count(e *End) {
	at := metric.FloorDiv(e.At, 60000)
	if at < f.Floor {
		return
	}
	mask := uint64(1<<tenant.CellEnd | 1<<tenant.CellPages | 1<<tenant.CellSeconds)
	deltas := append(make([]int64, 0, 4), f.Sign) // in the order of the cells
	if e.Pages == 1 {
		mask |= 1 << tenant.CellBounce
		deltas = append(deltas, f.Sign)
	}
	deltas = append(deltas, f.Sign*int64(e.Pages), f.Sign*e.Seconds)
	to := metric.To{Scopes: f.ended[:0]}
	for i := 0; i < len(e.Scopes); i++ {
		x := e.Scopes[i]
		twice := x.Scope > 0 && i+1 < len(e.Scopes) && e.Scopes[i+1] == EndScope{x.Scope + 1, x.Variation}
		if to.Add(metric.NewKey(x.Scope, 0, x.Variation, 0), twice); twice {
			i++
		}
	}
	f.ended = to.Scopes
	f.Sums.At(at).Post(to, metric.NewKey(0, tenant.GroupVisit, 0, e.Tags), len(f.Chain.Groups[tenant.GroupVisit].Names), mask, deltas, 0)
}

// EndVisits counts the visits that have ended by watermark w (ms): an end at t counts when w is past t. The caller
// knows that no beacon before w is still to come or to be folded.
func (f *Folder) EndVisits(s *State, w int64) {
	n := 0
	for n < len(s.Pending) && s.Pending[n].At < w {
		f.count(&s.Pending[n])
		n++
	}
	s.Pending = append(s.Pending[:0], s.Pending[n:]...)
	if !s.Empty && !s.VisitEnded && s.LastTS+f.Chain.At(s.LastTS).Config.VisitGap < w {
		f.endVisit(s)
	}
}
