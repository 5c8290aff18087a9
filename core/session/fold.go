package session

import (
	"math"
	"math/bits"
	"sort"

	"tandem/core/metric"
	"tandem/core/tenant"
)

// Counts are the counters that are contributions too: they can be taken back (SPEC 11).
type Counts struct{ Conflict, UnknownVariation int64 }

// Folder folds beacons into a state and adds what they contribute. It holds scratch memory and where contributions
// go; Fold itself is a pure function of the state, the events and the chain.
type Folder struct {
	Chain *tenant.Chain
	Sums  *metric.Sums // where contributions go
	// Beacons: add the contributions of beacons. Ends: add those of visits that end. The stream takes them apart,
	// since an end counts only once the watermark is past it.
	Beacons, Ends bool
	Sign          int64 // 1, or -1 to take contributions back
	// Floor is the first minute that contributions go to. For the stream minutes before it are closed: by causality
	// (SPEC 7) contributions to them can only be what they were.
	Floor int64
	// Seen, if not nil, is told of every (minute, key, visitor) in place of the sketches: what a sketch holds cannot
	// be taken back, so the shard must compare.
	Seen   func(minute int64, k metric.Key, visitor uint64)
	Counts Counts
	// Closed counts the visits and sessions that the last Fold saw closed by a later beacon, Restarted the sessions.
	Closed, Restarted int

	deltas  []delta
	scopes  []EndScope   // of the visit end at hand
	ended   []metric.Key // of the scopes of it
	burst   burst
	bunches [mostBunches]bunch // of the beacon at hand
	bunched int                // how many of them there are; none between beacons

	// The visitor that this Fold has shown to every scope of the session that was open at seenTS: showing it again in
	// the same minute and tag set would change nothing.
	seen       visitorAt
	seenTS     int64
	newVisitor bool // of the beacon at hand
}

type visitorAt struct {
	visitor uint64
	minute  int64
	tags    uint32
}

// delta is a change of a slot's total by the beacon at hand.
type delta struct {
	slot int
	by   int64
}

// Fold folds the events, in order, each strictly later than the state's last beacon, and returns with the state
// after them. Fold(s, a++b) = Fold(Fold(s, a), b) wherever the cut does not divide beacons of one ts.
func (f *Folder) Fold(s *State, events []Event) {
	f.Closed, f.Restarted = 0, 0
	f.forget()
	for i := 0; i < len(events); {
		j := i + 1
		for j < len(events) && events[j].TS == events[i].TS {
			j++
		}
		f.group(s, events[i:j])
		i = j
	}
	f.endBurst()
}

// group folds the beacons of one ts. Scopes go by ts, so the markers of all of them are set before any is measured.
func (f *Folder) group(s *State, g []Event) {
	ts := g[0].TS
	rev := f.Chain.At(ts)
	newVisit := s.Empty
	if !s.Empty {
		gap := ts - s.LastTS
		switch {
		case f.Chain.Cut(s.LastTS, ts):
			f.cut(s)
			newVisit = true
		case gap > rev.Config.SessionTTL:
			f.endVisit(s)
			s.restart()
			f.forget()
			f.Closed++
			f.Restarted++
			newVisit = true
		case gap > rev.Config.VisitGap:
			f.endVisit(s)
			f.Closed++
			newVisit = true
		}
	}
	if !s.Empty {
		f.cross(s, ts)
	}
	newSession := s.Empty
	if newSession {
		s.begin(f.Chain, ts, g[0].Tags)
	}
	if newVisit {
		s.VisitFirst, s.VisitPages, s.VisitEnded = ts, 0, false
	}
	f.markers(s, rev, g)
	for i := range g {
		f.beacon(s, rev, &g[i], i == 0 && newVisit, i == 0 && newSession, i == 0)
	}
	s.LastTS = ts
	s.VisitTags = g[len(g)-1].Tags
}

// cut closes a session at a cut. Its visit's end may lie beyond beacons that are no longer of it, so the end waits.
func (f *Folder) cut(s *State) {
	f.Closed++
	f.Restarted++
	if !s.VisitEnded {
		e := f.end(s, nil)
		i := sort.Search(len(s.Pending), func(i int) bool { return s.Pending[i].At > e.At })
		s.Pending = append(s.Pending, End{})
		copy(s.Pending[i+1:], s.Pending[i:])
		s.Pending[i] = e
	}
	s.restart()
	f.forget()
}

// cross takes the state over the edges of splices between its last beacon and ts.
func (f *Folder) cross(s *State, ts int64) {
	for _, e := range f.Chain.Crossing(s.LastTS, ts) {
		s.cross(e)
		f.forget()
	}
}

// forget ends what goes from beacon to beacon of the session at hand.
func (f *Folder) forget() {
	f.endBurst()
	f.seen = visitorAt{}
}

// markers sets the markers that the beacons of one ts set (SPEC 4).
func (f *Folder) markers(s *State, rev *tenant.Rev, g []Event) {
	ts, changed, begun := g[0].TS, false, none
	begin := func() int32 {
		if begun == none {
			begun = s.totals.begin()
		}
		return begun
	}
	for i := range g {
		// A site names its experiments in the same order in each beacon, as a rule the config's, of which a Reader gives the reverse: so
		// the place of the next one's mark is looked for from the last one's on.
		at := 0
		for k := len(g[i].Exps) - 1; k >= 0; k-- {
			a := g[i].Exps[k]
			if a.Variation < 0 {
				if f.Beacons {
					f.Counts.UnknownVariation += f.Sign
				}
				continue
			}
			var has bool
			if at, has = s.mark(a.Inst, at); has && s.Marks[at].Variation == a.Variation {
				continue
			}
			if l := rev.Exp(a.Inst).Life; ts < l.Start || ts >= l.End {
				continue
			}
			if has {
				if f.Beacons {
					f.Counts.Conflict += f.Sign
				}
				continue
			}
			m := Mark{Inst: a.Inst, Variation: a.Variation, Assigned: ts, Tags: g[0].Tags, FmTags: g[0].Tags, assigned: begin(), fm: none}
			if len(f.Chain.Exps[a.Inst].Qualify) == 0 {
				m.IsQualified, m.Qualified, m.fm = true, ts, m.assigned
			}
			m.end, m.life = f.Chain.ScopeEnds(rev, a.Inst, a.Variation, ts)
			f.endBurst()
			s.Marks, changed = append(s.Marks, m), true
			if last := len(s.Marks) - 1; at < last {
				copy(s.Marks[at+1:], s.Marks[at:last])
				s.Marks[at] = m
			}
		}
	}
	for i := range s.Marks {
		m := &s.Marks[i]
		if m.IsQualified {
			continue
		}
		if e := rev.Exp(m.Inst); e == nil || ts >= e.Life.End {
			continue
		}
		ex := &f.Chain.Exps[m.Inst]
		for k := range g {
			if !g[k].Holds(rev.CondPos(ex.Qualify[m.Step])) {
				continue
			}
			if m.Step++; m.Step == len(ex.Qualify) {
				m.IsQualified, m.Qualified, m.FmTags, changed = true, ts, g[0].Tags, true
				if m.over {
					m.fm = s.totals.freeze(none) // a scope that has ended counts nothing
				} else {
					m.fm = begin()
				}
				break
			}
		}
	}
	if changed {
		s.settleMarks()
	}
}

// mark returns the place of the instance's mark, or where it would be. It is looked for from a place on, which may be that of any.
func (s *State) mark(inst, from int) (at int, has bool) {
	marks := s.Marks
	if from > 0 && marks[from-1].Inst >= inst {
		from = 0
	}
	for from < len(marks) && marks[from].Inst < inst {
		from++
	}
	return from, from < len(marks) && marks[from].Inst == inst
}

// sure is what holds of a state's marks until the next of them is set, qualifies or ends.
type sure struct {
	until int64    // the least end of scopes that have not ended
	same  together // marks whose scopes get what the site gets of every beacon until then, since they began with the session
	look  uint64   // those of the first mostTogether of which that is not sure
}

// settleMarks says what is sure of the marks.
func (s *State) settleMarks() {
	q := sure{until: math.MaxInt64}
	for i := range s.Marks {
		m := &s.Marks[i]
		if m.over {
			continue
		}
		q.until = min(q.until, m.end)
		if i >= mostTogether {
			continue
		}
		same := m.assigned == site && m.Assigned == s.FirstTS // so under the session's tags
		sameFm := same && m.fm == site && m.Qualified == s.FirstTS
		if same {
			q.same.assigned |= 1 << i
		}
		if sameFm {
			q.same.fm |= 1 << i
		}
		if !same || m.IsQualified && !sameFm {
			q.look |= 1 << i
		}
	}
	s.sure = q
}

// endScopes gives the scopes that have ended by ts totals of their own, since those of others move on.
func (s *State) endScopes(ts int64) {
	for i := range s.Marks {
		m := &s.Marks[i]
		if m.over || ts < m.end {
			continue
		}
		m.over = true
		was := m.assigned
		m.assigned = s.totals.freeze(was)
		switch m.fm {
		case none:
		case was:
			m.fm = m.assigned
		default:
			m.fm = s.totals.freeze(m.fm)
		}
	}
	s.settleMarks()
}

// beacon measures one beacon in every scope that it is in (SPEC 5, 6). firstOfGroup: no beacon of this ts came
// before it, so that a scope that begins at this ts begins with it.
func (f *Folder) beacon(s *State, rev *tenant.Rev, e *Event, firstOfVisit, firstOfSession, firstOfGroup bool) {
	var p *tenant.Point1
	lastP := int64(noTime)
	if e.Point != 0 {
		p = rev.Point(e.Point)
		if p.Page {
			s.VisitPages++
		}
		lastP = s.saw(e.Point, e.TS)
		f.change(p, e)
	}
	if e.TS >= s.sure.until {
		s.endScopes(e.TS)
	}
	w := measure{f: f, e: e, p: p, out: posting{last: -1}}
	if minute := metric.FloorDiv(e.TS, 60000); f.Beacons && minute >= f.Floor {
		w.minute = f.Sums.At(minute)
		at := visitorAt{e.Visitor, minute, e.Tags}
		f.newVisitor = at != f.seen
		if f.newVisitor {
			f.seen = at
		}
		first := firsts{firstOfVisit, firstOfSession, lastP == noTime, f.newVisitor}
		f.open(w.minute, e, s, w.others(s, first, lastP, firstOfGroup))
		w.together(s.Tags, s.totals.of(site), first)
	}
	if p != nil {
		s.totals.move(f.deltas)
	}
	f.seenTS = e.TS
}

// others adds the beacon's contributions to the scopes of the session's marks that get others than the site, whose firsts are
// given, and returns those that get the same.
func (w *measure) others(s *State, ofSite firsts, lastP int64, firstOfGroup bool) (same together) {
	same = s.sure.same
	for left := s.sure.look; left != 0; left &= left - 1 {
		w.other(s, bits.TrailingZeros64(left), ofSite, lastP, firstOfGroup, &same)
	}
	for i := mostTogether; i < len(s.Marks); i++ {
		if !s.Marks[i].over {
			w.other(s, i, ofSite, lastP, firstOfGroup, &same)
		}
	}
	w.endBunches()
	return same
}

// other does it for the scopes of one mark.
func (w *measure) other(s *State, i int, ofSite firsts, lastP int64, firstOfGroup bool, same *together) {
	f, ts, m := w.f, w.e.TS, &s.Marks[i]
	x := f.Chain.Exps[m.Inst].X
	of := func(began int64) firsts {
		first := firstOfGroup && ts == began
		return firsts{ofSite.visit || first, first, lastP < began, ofSite.visitor || f.seenTS < began}
	}
	totals, assigned := s.totals.of(site), s.totals.of(m.assigned)
	first := of(m.Assigned)
	isSame := i < mostTogether && first == ofSite && m.Tags == s.Tags && w.alike(totals, assigned)
	if isSame {
		same.assigned |= 1 << i
	}
	if !m.IsQualified {
		if !isSame {
			w.in(tenant.AssignedScope(x), m.Variation, false, m.Tags, assigned, first)
		}
		return
	}
	firstFm, fm := of(m.Qualified), s.totals.of(m.fm)
	switch {
	case isSame && firstFm == ofSite && m.FmTags == s.Tags && w.alike(totals, fm):
		same.fm |= 1 << i
	case !isSame && first == firstFm && m.Tags == m.FmTags && w.alike(assigned, fm):
		w.in(tenant.AssignedScope(x), m.Variation, true, m.Tags, assigned, first)
	default:
		if !isSame {
			w.in(tenant.AssignedScope(x), m.Variation, false, m.Tags, assigned, first)
		}
		w.in(tenant.FmScope(x), m.Variation, false, m.FmTags, fm, firstFm)
	}
}

const noTime = -1 << 62

// saw notes a beacon of the point and returns the time of the one before, or noTime.
func (s *State) saw(inst int, ts int64) int64 {
	for i := range s.Points {
		if s.Points[i].Inst == inst {
			before := s.Points[i].TS
			s.Points[i].TS = ts
			return before
		}
	}
	i := len(s.Points)
	for i > 0 && s.Points[i-1].Inst > inst {
		i--
	}
	s.Points = append(s.Points, LastSeen{})
	copy(s.Points[i+1:], s.Points[i:])
	s.Points[i] = LastSeen{inst, ts}
	return noTime
}

// change lists what the beacon adds to running totals.
func (f *Folder) change(p *tenant.Point1, e *Event) {
	f.deltas = f.deltas[:0]
	for _, slot := range p.Counts {
		f.deltas = append(f.deltas, delta{slot, 1})
	}
	for _, v := range e.Values {
		for _, slot := range p.Values[v.Index].Sums {
			f.deltas = append(f.deltas, delta{slot, v.N})
		}
	}
}

func (f *Folder) delta(slot int) int64 {
	for _, d := range f.deltas {
		if d.slot == slot {
			return d.by
		}
	}
	return 0
}
