package session

import (
	"encoding/binary"
	"slices"

	"tandem/core/tenant"
)

// totals are the running totals of a session's scopes: vectors of a number for each slot of the chain. Scopes that begin with the
// same totals get the same beacons until they end, so they have one vector between them, which moves once a beacon: as a rule
// all that began with the session have the site's.
type totals struct {
	slots  int
	v      []int64
	frozen []bool // by vector: it is of scopes that have ended, and moves no more
}

const (
	site int32 = 0  // the vector of the site scope
	none int32 = -1 // of a scope that has not begun: zeros
	// mostShared vectors are compared with one that is read; a vector equal to one beyond them costs time only.
	mostShared = 8
)

func (t *totals) reset(slots int) { t.slots, t.v, t.frozen = slots, t.v[:0], t.frozen[:0] }

func (t *totals) copy(o *totals) {
	t.slots, t.v, t.frozen = o.slots, append(t.v[:0], o.v...), append(t.frozen[:0], o.frozen...)
}

// add adds a vector of zeros.
func (t *totals) add() int32 {
	n := len(t.v)
	t.v = slices.Grow(t.v, t.slots)[:n+t.slots]
	clear(t.v[n:])
	t.frozen = append(t.frozen, false)
	return int32(len(t.frozen) - 1)
}

// begin returns a vector for scopes that begin now: the site's, if that has counted nothing yet.
func (t *totals) begin() int32 {
	if t.equal(site, none) {
		return site
	}
	return t.add()
}

// freeze returns a copy of the vector that moves no more.
func (t *totals) freeze(i int32) int32 {
	to := t.add()
	copy(t.of(to), t.of(i))
	t.frozen[to] = true
	return to
}

// of returns the vector; it is valid until one is added.
func (t *totals) of(i int32) []int64 {
	if i == none {
		return nil
	}
	return t.v[int(i)*t.slots : int(i+1)*t.slots]
}

func (t *totals) equal(i, j int32) bool {
	switch {
	case i == j:
		return true
	case i == none:
		return t.zero(j)
	case j == none:
		return t.zero(i)
	}
	return slices.Equal(t.of(i), t.of(j))
}

func (t *totals) zero(i int32) bool {
	for _, v := range t.of(i) {
		if v != 0 {
			return false
		}
	}
	return true
}

// move adds what a beacon changes to all vectors that move.
func (t *totals) move(by []delta) {
	for i, frozen := range t.frozen {
		if !frozen {
			v := t.of(int32(i))
			for _, d := range by {
				v[d.slot] += d.by
			}
		}
	}
}

// cross returns the totals behind an edge.
func (t *totals) cross(e *tenant.Edge) totals {
	to := totals{slots: t.slots, frozen: t.frozen}
	to.v = make([]int64, len(t.v))
	for i := range t.frozen {
		from, v := t.of(int32(i)), to.of(int32(i))
		for slot := range v {
			if k := e.Slot(slot); k >= 0 && k < len(from) {
				v[slot] = from[k]
			}
		}
	}
	return to
}

// read reads a vector. One that is not frozen is shared with those read before it.
func (t *totals) read(in *reader, frozen bool) int32 {
	at := t.add()
	in.totals(t.of(at))
	if frozen {
		t.frozen[at] = true
		return at
	}
	for i := range min(at, mostShared) {
		if !t.frozen[i] && t.equal(i, at) {
			t.v, t.frozen = t.v[:len(t.v)-t.slots], t.frozen[:at]
			return i
		}
	}
	return at
}

func (r *reader) totals(t []int64) {
	for range r.count(2) {
		i := r.u()
		v := r.s()
		if i >= uint64(len(t)) {
			r.corrupt()
			return
		}
		t[i] = v
	}
}

func appendTotals(b []byte, totals []int64) []byte {
	n := 0
	for _, t := range totals {
		if t != 0 {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	for i, t := range totals {
		if t != 0 {
			b = binary.AppendVarint(binary.AppendUvarint(b, uint64(i)), t)
		}
	}
	return b
}

// Totals are the session's running totals in the site scope, by slot of the chain; nil of an empty state. They are valid until
// the state changes.
func (s *State) Totals() []int64 {
	if s.Empty {
		return nil
	}
	return s.totals.of(site)
}
