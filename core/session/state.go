package session

import (
	"encoding/binary"
	"slices"

	"tandem/core/tenant"
)

// State is what Fold must know of a session's past (SPEC 7, summary): it is enough to fold any beacon that is
// strictly later than LastTS. The zero value is a session without beacons; Reset makes one again.
type State struct {
	Empty   bool // no beacon yet; then only Pending means anything
	FirstTS int64
	LastTS  int64
	Tags    uint32 // of the session's first beacon

	VisitFirst int64
	VisitTags  uint32 // of the visit's last beacon
	VisitPages int
	VisitEnded bool // its end was counted

	Points  []LastSeen // by instance
	Marks   []Mark     // by experiment instance
	Pending []End      // ends still to come of visits from before a cut, by time

	totals totals
	sure   sure
}

// LastSeen is the time of the last beacon of a point instance.
type LastSeen struct {
	Inst int
	TS   int64
}

// Mark holds the markers of one experiment instance (SPEC 4).
type Mark struct {
	Inst, Variation int
	Assigned        int64 // t_assigned
	Step            int   // conditions met
	Qualified       int64 // t_qualified; valid if IsQualified
	IsQualified     bool
	Tags, FmTags    uint32 // of the first beacon in either scope

	end, life    int64 // tenant.ScopeEnds; of the chain, not stored
	assigned, fm int32 // the vectors of their totals; fm has none before t_qualified
	over         bool  // its scopes have ended, so its vectors are its own
}

// End is the end of a visit that a cut has closed before its time had come.
type End struct {
	At      int64 // ms
	Tags    uint32
	Pages   int
	Seconds int64
	Scopes  []EndScope
}

// EndScope is a scope that held a beacon of the visit.
type EndScope struct{ Scope, Variation int }

// Reset empties the state and keeps its memory.
func (s *State) Reset() {
	s.Pending = s.Pending[:0]
	s.restart()
}

func (s *State) restart() {
	s.totals.reset(s.totals.slots)
	*s = State{Empty: true, Points: s.Points[:0], Marks: s.Marks[:0], Pending: s.Pending, totals: s.totals}
}

// begin gives the state its first beacon.
func (s *State) begin(chain *tenant.Chain, ts int64, tags uint32) {
	s.Empty, s.FirstTS, s.Tags = false, ts, tags
	s.totals.reset(len(chain.Slots))
	s.totals.add()
	s.settleMarks()
}

// Copy makes s the same as o.
func (s *State) Copy(o *State) {
	points, marks, pending, totals := s.Points, s.Marks, s.Pending, s.totals
	*s = *o
	s.Points = append(points[:0], o.Points...)
	s.Marks = append(marks[:0], o.Marks...)
	s.Pending = append(pending[:0], o.Pending...)
	s.totals = totals
	s.totals.copy(&o.totals)
}

// cross takes the state over an edge: it keeps what goes on, under the ids that it has from there on.
func (s *State) cross(e *tenant.Edge) {
	points := s.Points
	s.Points = s.Points[:0:0]
	for _, p := range points {
		if to := e.Point(p.Inst); to >= 0 {
			s.Points = append(s.Points, LastSeen{to, p.TS})
		}
	}
	slices.SortFunc(s.Points, func(a, b LastSeen) int { return a.Inst - b.Inst })
	marks := s.Marks
	s.Marks = nil
	for i := range marks {
		m := marks[i]
		if m.Inst = e.Exp(m.Inst); m.Inst >= 0 {
			at, _ := s.mark(m.Inst, 0)
			s.Marks = slices.Insert(s.Marks, at, m)
		}
	}
	s.totals = s.totals.cross(e)
	s.settleMarks()
}

// Covers says that every scope of o is one of s, with the same variation, begun no later and ended no earlier: of one session,
// whatever was in a scope of o still is.
func (s *State) Covers(o *State) bool {
	at, has := 0, false
	for i := range o.Marks {
		a := &o.Marks[i]
		if at, has = s.mark(a.Inst, at); !has {
			return false
		}
		b := &s.Marks[at]
		if b.Variation != a.Variation || b.Assigned > a.Assigned || b.end < a.end ||
			a.IsQualified && (!b.IsQualified || b.Qualified > a.Qualified) {
			return false
		}
	}
	return true
}

// Gone says that the session can be forgotten at watermark w: a beacon from w on cannot be of it, and no visit of it
// has still to end.
func (s *State) Gone(chain *tenant.Chain, w int64) bool {
	if len(s.Pending) > 0 {
		return false
	}
	if s.Empty {
		return true
	}
	cfg := chain.At(s.LastTS).Config
	return s.VisitEnded && (w-s.LastTS > cfg.SessionTTL || chain.Cut(s.LastTS, w))
}

// Due returns the time of the next visit end that has not been counted, or 0 if there is none. It comes if no beacon
// joins the visit before.
func (s *State) Due(chain *tenant.Chain) int64 {
	due := int64(0)
	if len(s.Pending) > 0 {
		due = s.Pending[0].At
	}
	if !s.Empty && !s.VisitEnded {
		if at := s.LastTS + chain.At(s.LastTS).Config.VisitGap; due == 0 || at < due {
			due = at
		}
	}
	return due
}

// A state in bytes, integers as varints (u, s as in an event's); times but the first are counted back from LastTS:
//
//	u flags  [u n  n ends]  then, unless empty:
//	s LastTS  u LastTS-FirstTS  u LastTS-VisitFirst  u Tags  u VisitTags  u VisitPages
//	u n  n * (u inst, u LastTS-ts)  totals
//	u n  n marks: u inst  u variation  u LastTS-Assigned  u markFlags  [u Step]  [u LastTS-Qualified]  [u Tags]
//	              [u FmTags]  [totals assigned]  [totals fm]
//	end: s At  u Tags  u Pages  u Seconds  u n  n * (u scope, u variation)
//	totals: u n  n * (u slot, s total), zeros left out
const (
	stateEmpty = 1 << iota
	stateEnded
	statePending
)

const (
	markQualified  = 1 << iota // t_qualified is there
	markAtOnce                 // t_qualified = t_assigned; fm has the tags and totals of assigned
	markSiteTags               // Tags are the session's
	markSiteTotals             // assigned's totals are the site's
	markSameTags               // FmTags = Tags
	markSameTotals             // fm's totals are assigned's
	markOver                   // the variation is known no more
	markHeld                   // the scopes are over, and hold a beacon of the visit that has still to end
)

// AppendState appends the state's bytes: equal states, equal bytes.
func AppendState(b []byte, s *State) []byte {
	flags := 0
	if s.Empty {
		flags |= stateEmpty
	}
	if s.VisitEnded {
		flags |= stateEnded
	}
	if len(s.Pending) > 0 {
		flags |= statePending
	}
	b = append(b, byte(flags))
	if len(s.Pending) > 0 {
		b = binary.AppendUvarint(b, uint64(len(s.Pending)))
		for i := range s.Pending {
			b = appendEnd(b, &s.Pending[i])
		}
	}
	if s.Empty {
		return b
	}
	b = binary.AppendVarint(b, s.LastTS)
	b = binary.AppendUvarint(b, uint64(s.LastTS-s.FirstTS))
	b = binary.AppendUvarint(b, uint64(s.LastTS-s.VisitFirst))
	b = binary.AppendUvarint(b, uint64(s.Tags))
	b = binary.AppendUvarint(b, uint64(s.VisitTags))
	b = binary.AppendUvarint(b, uint64(s.VisitPages))
	b = binary.AppendUvarint(b, uint64(len(s.Points)))
	for _, p := range s.Points {
		b = binary.AppendUvarint(b, uint64(p.Inst))
		b = binary.AppendUvarint(b, uint64(s.LastTS-p.TS))
	}
	b = appendTotals(b, s.totals.of(site))
	b = binary.AppendUvarint(b, uint64(len(s.Marks)))
	nothingYet := s.totals.equal(site, none)
	for i := range s.Marks {
		m := &s.Marks[i]
		flags := s.markFlags(m, nothingYet)
		b = binary.AppendUvarint(b, uint64(m.Inst))
		b = binary.AppendUvarint(b, uint64(m.Variation))
		b = binary.AppendUvarint(b, uint64(s.LastTS-m.Assigned))
		b = binary.AppendUvarint(b, uint64(flags))
		if flags&markQualified == 0 {
			b = binary.AppendUvarint(b, uint64(m.Step))
		} else if flags&markAtOnce == 0 {
			b = binary.AppendUvarint(b, uint64(s.LastTS-m.Qualified))
		}
		if flags&markSiteTags == 0 {
			b = binary.AppendUvarint(b, uint64(m.Tags))
		}
		if flags&markSameTags == 0 {
			b = binary.AppendUvarint(b, uint64(m.FmTags))
		}
		if flags&markSiteTotals == 0 {
			b = appendTotals(b, s.totals.of(m.assigned))
		}
		if flags&markSameTotals == 0 {
			b = appendTotals(b, s.totals.of(m.fm))
		}
	}
	return b
}

// markFlags returns the mark's flags; nothingYet: the site's totals are zeros.
func (s *State) markFlags(m *Mark, nothingYet bool) int {
	flags := 0
	if m.Tags == s.Tags {
		flags |= markSiteTags
	}
	if s.totals.equal(m.assigned, site) {
		flags |= markSiteTotals
	}
	if m.FmTags == m.Tags {
		flags |= markSameTags
	}
	sameTotals := nothingYet
	if m.assigned != site || m.fm != none {
		sameTotals = s.totals.equal(m.fm, m.assigned)
	}
	if sameTotals {
		flags |= markSameTotals
	}
	// For the bytes to tell: whoever reads them asks the chain again.
	switch {
	case m.life <= s.LastTS:
		flags |= markOver
	case m.end <= s.LastTS && !s.VisitEnded && m.Assigned < s.VisitFirst && s.VisitFirst < m.end:
		flags |= markHeld
	}
	if m.IsQualified {
		flags |= markQualified
		if m.Qualified == m.Assigned {
			flags |= markAtOnce
		}
	}
	return flags
}

func appendEnd(b []byte, e *End) []byte {
	b = binary.AppendVarint(b, e.At)
	for _, v := range []int64{int64(e.Tags), int64(e.Pages), e.Seconds, int64(len(e.Scopes))} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	for _, x := range e.Scopes {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.Scope)), uint64(x.Variation))
	}
	return b
}

// Decode reads what AppendState wrote, whole, with the chain or one that it goes on from.
func (s *State) Decode(chain *tenant.Chain, b []byte) error {
	s.Reset()
	in := reader{b: b}
	flags := in.u()
	s.Empty = flags&stateEmpty != 0
	s.VisitEnded = flags&stateEnded != 0
	tags := func() uint32 { return uint32(in.id(len(chain.Tags))) }
	if flags&statePending != 0 {
		for range in.count(5) {
			s.Pending = append(s.Pending, in.end(chain))
		}
	}
	if s.Empty {
		return in.done()
	}
	back := func() int64 { return s.LastTS - int64(in.u()) }
	s.LastTS = in.s()
	s.FirstTS = back()
	s.VisitFirst = back()
	s.Tags = tags()
	s.VisitTags = tags()
	s.VisitPages = int(in.u())
	for range in.count(2) {
		inst := in.id(len(chain.Points))
		s.Points = append(s.Points, LastSeen{inst, back()})
	}
	s.totals.reset(len(chain.Slots))
	in.totals(s.totals.of(s.totals.add()))
	n := in.count(4)
	rev := chain.At(s.LastTS)
	if n > len(chain.Exps) || in.err != nil || rev == nil {
		return errCorrupt
	}
	s.Marks = slices.Grow(s.Marks, n)[:n]
	for i := range s.Marks {
		m := &s.Marks[i]
		*m = Mark{}
		inst, variation := in.u(), in.u()
		if inst >= uint64(len(chain.Exps)) || variation >= uint64(len(chain.XNames[chain.Exps[inst].X].Variations)) {
			return errCorrupt
		}
		m.Inst, m.Variation = int(inst), int(variation)
		m.Assigned = back()
		flags := in.u()
		m.IsQualified = flags&markQualified != 0
		switch {
		case !m.IsQualified:
			step := in.u()
			if step >= uint64(len(chain.Exps[inst].Qualify)) {
				return errCorrupt
			}
			m.Step = int(step)
		case flags&markAtOnce != 0:
			m.Qualified = m.Assigned
		default:
			m.Qualified = back()
		}
		if m.IsQualified {
			m.Step = len(chain.Exps[inst].Qualify)
		}
		m.Tags = s.Tags
		if flags&markSiteTags == 0 {
			m.Tags = tags()
		}
		m.FmTags = m.Tags
		if flags&markSameTags == 0 {
			m.FmTags = tags()
		}
		m.end, m.life = chain.ScopeEnds(rev, m.Inst, m.Variation, m.Assigned)
		m.over = s.LastTS >= m.end
		switch {
		case flags&markSiteTotals == 0:
			m.assigned = s.totals.read(&in, m.over)
		case m.over:
			m.assigned = s.totals.freeze(site)
		default:
			m.assigned = site
		}
		m.fm = m.assigned
		if flags&markSameTotals == 0 {
			m.fm = s.totals.read(&in, m.over)
		}
		if !m.IsQualified {
			if !s.totals.equal(m.fm, none) {
				return errCorrupt
			}
			m.fm = none
		}
	}
	s.settleMarks()
	return in.done()
}

// Outline is what a state's bytes say before anything else.
type Outline struct {
	Empty, VisitEnded, HasPending bool
	LastTS, VisitFirst            int64 // if neither Empty nor HasPending
}

// ReadOutline reads the outline of what AppendState wrote, without the rest; of no bytes that of an empty state.
func ReadOutline(b []byte) (Outline, error) {
	if len(b) == 0 {
		return Outline{Empty: true}, nil
	}
	in := reader{b: b}
	flags := in.u()
	o := Outline{Empty: flags&stateEmpty != 0, VisitEnded: flags&stateEnded != 0, HasPending: flags&statePending != 0}
	if !o.Empty && !o.HasPending {
		o.LastTS = in.s()
		in.u() // FirstTS
		o.VisitFirst = o.LastTS - int64(in.u())
	}
	return o, in.err
}

func (r *reader) end(chain *tenant.Chain) End {
	e := End{At: r.s(), Tags: uint32(r.id(len(chain.Tags))), Pages: int(r.u()), Seconds: int64(r.u())}
	for range r.count(2) {
		x := EndScope{Scope: r.id(1 + 2*len(chain.XNames))}
		variations := 1
		if x.Scope > 0 {
			variations = len(chain.XNames[(x.Scope-1)/2].Variations)
		}
		x.Variation = r.id(variations)
		e.Scopes = append(e.Scopes, x)
	}
	return e
}

// id reads an id below n; it is 0 where the bytes say otherwise.
func (r *reader) id(n int) int {
	v := r.u()
	if v >= uint64(n) {
		r.corrupt()
		return 0
	}
	return int(v)
}

func (r *reader) done() error {
	if r.err == nil && r.left() != 0 {
		return errCorrupt
	}
	return r.err
}
