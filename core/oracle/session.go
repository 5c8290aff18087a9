package oracle

import (
	"slices"
)

// session is a whole session, and what sections 3 to 5 say of it.
type session struct {
	h       *history
	beacons []*beacon // in order
	trials  []*trial
}

// trial is one definition of an experiment, in force from revision begin on, with the session's markers for it. There is
// one for each that assigned the session.
type trial struct {
	name        string
	begin       int // of the definition, see history
	variation   string
	assigned    int64 // t_assigned
	qualified   int64 // t_qualified, meaningful only if isQualified
	isQualified bool
}

// newSession decides the markers of a session (SPEC 4).
func (h *history) newSession(beacons []*beacon) *session {
	s := &session{h: h, beacons: beacons}
	type definition struct {
		name  string
		begin int
	}
	seen := map[definition]bool{}
	for _, b := range beacons {
		for x := range b.experiments {
			begin, listed := h.experiments[b.revision][x]
			if d := (definition{x, begin}); listed && !seen[d] {
				seen[d] = true
				if t := s.decide(x, begin); t != nil {
					s.trials = append(s.trials, t)
				}
			}
		}
	}
	return s
}

// decide gives the markers of one definition, nil if no beacon assigns the session.
func (s *session) decide(x string, begin int) *trial {
	t := &trial{name: x, begin: begin}
	i := slices.IndexFunc(s.beacons, func(b *beacon) bool { return s.carriesActive(t, b) })
	if i < 0 {
		return nil
	}
	t.variation, t.assigned = s.beacons[i].experiments[x], s.beacons[i].ts

	// The conditions are part of the definition, so any of its revisions has them.
	conditions := experimentOf(s.h.revisions[begin], x).Qualify
	t.qualified, t.isQualified = t.assigned, true
	next := 0 // the least place in the order where the next condition may be met
	for _, text := range conditions {
		i := next
		for ; i < len(s.beacons); i++ {
			b := s.beacons[i]
			if s.isActive(t, b) && b.ts >= t.assigned && s.h.conditions[text].holds(b) {
				break
			}
		}
		if i == len(s.beacons) {
			t.isQualified = false
			break
		}
		t.qualified = s.beacons[i].ts
		next = i + 1
	}
	return t
}

// isActive says whether the beacon lies in the active interval of the definition: this definition is the one in force
// at its ts, and start <= ts < end.
func (s *session) isActive(t *trial, b *beacon) bool {
	begin, listed := s.h.experiments[b.revision][t.name]
	if !listed || begin != t.begin {
		return false
	}
	e := experimentOf(s.h.at(b), t.name)
	return e.Start <= b.ts && b.ts < e.End
}

// carriesActive says whether the beacon may assign: it carries the experiment within the active interval.
func (s *session) carriesActive(t *trial, b *beacon) bool {
	_, carries := s.h.carried(b, t.name)
	return carries && s.isActive(t, b)
}

// conflicts counts the beacons, for each definition, that carry another variation than the assigned one.
func (s *session) conflicts() int64 {
	var n int64
	for _, t := range s.trials {
		for _, b := range s.beacons {
			if s.carriesActive(t, b) && b.experiments[t.name] != t.variation {
				n++
			}
		}
	}
	return n
}

// scope is a scope with its beacons in a session: the site, or one of the two of a trial (SPEC 5).
type scope struct {
	prefix string // of its rows' names, up to the metric's own name
	trial  *trial // nil: the site
	has    []bool // for each beacon of the session
}

// scopes gives the site and the two scopes of every trial. One may be without a beacon.
func (s *session) scopes() []*scope {
	prefix := s.h.at(s.beacons[0]).Tenant + ".visit."
	site := &scope{prefix: prefix + "site."}
	for range s.beacons {
		site.has = append(site.has, true)
	}
	all := []*scope{site}
	for _, t := range s.trials {
		name := t.name + "." + t.variation + "."
		assigned, fm := &scope{prefix: prefix + "assigned." + name, trial: t}, &scope{prefix: prefix + "fm." + name, trial: t}
		for _, b := range s.beacons {
			// A session assigned to a variation that is dropped stays so, in no scope from there on.
			open := s.isActive(t, b) && s.h.lists(t, b.revision)
			assigned.has = append(assigned.has, open && b.ts >= t.assigned)
			fm.has = append(fm.has, open && t.isQualified && b.ts >= t.qualified)
		}
		all = append(all, assigned, fm)
	}
	return all
}

// lists says whether the trial's variation has been listed without a break from its assignment up to revision k.
func (h *history) lists(t *trial, k int) bool {
	for i := h.inForce(t.assigned); i <= k; i++ {
		if e := experimentOf(h.revisions[i], t.name); e == nil || !slices.Contains(e.Variations, t.variation) {
			return false
		}
	}
	return true
}
