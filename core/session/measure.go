package session

import (
	"math/bits"

	"tandem/core/metric"
	"tandem/core/tenant"
)

// Cells of the groups, as tenant lays them out.
const (
	cellVisit, cellVisitBeta                           = 0, 1
	cellEnd, cellBounce, cellPages, cellSeconds        = 0, 1, 2, 3
	cellPoint, cellBeta, cellTot, cellHit, cellSq      = 0, 1, 2, 3, 4
	cellValue, cellCap, cellCapSq                      = 0, 1, 2
	sizeVisit, sizeEnd, sizePoint, sizeValue, sizePair = 2, 4, 5, 3, 1
)

// measure is one beacon on its way through its scopes.
type measure struct {
	f      *Folder
	e      *Event
	p      *tenant.Point1
	minute *metric.Minute // nil: only totals move
}

// add adds to a cell of a page and marks it as touched.
func add(page []int64, cell int, v int64) {
	page[0] |= 1 << cell
	page[1+cell] += v
}

// scope adds the beacon's contributions to one scope and moves the scope's totals on. base: the tags of the session's
// first beacon in the scope, under which the functions of totals stand.
func (w *measure) scope(scope, variation int, base uint32, totals []int64, firstOfVisit, firstOfSession, firstOfPoint, newVisitor bool) {
	f, e, p := w.f, w.e, w.p
	if w.minute == nil {
		if p != nil {
			for _, d := range f.deltas {
				totals[d.slot] += d.by
			}
		}
		return
	}
	if firstOfVisit || firstOfSession {
		page := w.minute.Page(metric.NewKey(scope, tenant.GroupVisit, variation, e.Tags), sizeVisit)
		if firstOfVisit {
			add(page, cellVisit, f.Sign)
		}
		if firstOfSession {
			add(page, cellVisitBeta, f.Sign)
		}
	}
	if e.Visitor != 0 && newVisitor {
		k := metric.NewKey(scope, tenant.GroupSeen, variation, e.Tags)
		if f.Seen != nil {
			f.Seen(w.minute.Minute, k, e.Visitor)
		} else {
			w.minute.Seen(k, e.Visitor)
		}
	}
	if p == nil {
		return
	}
	key := func(group int, tags uint32) metric.Key { return metric.NewKey(scope, group, variation, tags) }
	page := w.minute.Page(key(p.Group, e.Tags), sizePoint)
	add(page, cellPoint, f.Sign)
	if firstOfPoint {
		add(page, cellBeta, f.Sign)
	}
	if p.Stat >= 0 {
		if base != e.Tags {
			page = w.minute.Page(key(p.Group, base), sizePoint)
		}
		t := totals[p.Stat]
		add(page, cellTot, f.Sign)
		add(page, cellHit, f.Sign*(min(t+1, 1)-min(t, 1)))
		add(page, cellSq, f.Sign*(2*t+1))
	}
	for _, v := range e.Values {
		v1 := &p.Values[v.Index]
		page := w.minute.Page(key(v1.Group, e.Tags), sizeValue)
		add(page, cellValue, f.Sign*v.N)
		if v1.Hist >= 0 {
			i := Bucket(v.N)
			add(w.minute.Page(key(v1.Hist+i/tenant.HistCells, e.Tags), tenant.HistCells), i%tenant.HistCells, f.Sign)
		}
		if v1.CapSlot >= 0 {
			page = w.minute.Page(key(v1.Group, base), sizeValue)
			t := totals[v1.CapSlot]
			before, after := clamp(t, v1.Cap), clamp(t+v.N, v1.Cap)
			add(page, cellCap, f.Sign*(after-before))
			add(page, cellCapSq, f.Sign*(after*after-before*before))
		}
	}
	for i := range p.Pairs {
		w.pair(&p.Pairs[i], key(p.Pairs[i].Group, base), totals)
	}
	for _, d := range f.deltas {
		totals[d.slot] += d.by
	}
}

// pair adds the change of the product of two totals.
func (w *measure) pair(x *tenant.Pair1, k metric.Key, totals []int64) {
	da, db := w.f.delta(x.A), w.f.delta(x.B)
	if da == 0 && db == 0 {
		return
	}
	a, b := totals[x.A], totals[x.B]
	before := clamp(a, x.CapA) * clamp(b, x.CapB)
	after := clamp(a+da, x.CapA) * clamp(b+db, x.CapB)
	add(w.minute.Page(k, sizePair), 0, w.f.Sign*(after-before))
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
// revision in force at its last beacon knows them.
func (f *Folder) end(s *State) End {
	e := End{
		At:      s.LastTS + f.Chain.At(s.LastTS).Config.VisitGap,
		Tags:    s.VisitTags,
		Pages:   s.VisitPages,
		Seconds: (s.LastTS - s.VisitFirst) / 1000,
	}
	e.Scopes = append(e.Scopes, EndScope{0, 0})
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
		e := f.end(s)
		f.count(&e)
	}
}

func (f *Folder) count(e *End) {
	minute := f.Sums.At(floorDiv(e.At, 60000))
	for _, x := range e.Scopes {
		page := minute.Page(metric.NewKey(x.Scope, tenant.GroupEnd, x.Variation, e.Tags), sizeEnd)
		add(page, cellEnd, f.Sign)
		if e.Pages == 1 {
			add(page, cellBounce, f.Sign)
		}
		add(page, cellPages, f.Sign*int64(e.Pages))
		add(page, cellSeconds, f.Sign*e.Seconds)
	}
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
