package failover

import "tandem/schemas/store"

// Policy says when the active layer of a tenant is changed without being asked.
type Policy struct {
	// Lag is how many minutes the active layer's completeness must be behind another's, at least 1. It is measured
	// against the other layer and not against a clock: lateness, an outage upstream or a replay of old records hold
	// back all layers alike, and then there is nothing to gain.
	Lag int64
	// For is how many observations in a row must say so, at least 1.
	For int
	// HoldOffMS is how long after a change, whoever made it, no other is made.
	HoldOffMS int64
}

// Observed is what one look at a tenant's layers found.
type Observed struct {
	NowMS  int64
	Active store.Active
	Layers []Layer // those to choose from and, if it is known, the active one; of equal ones the first is preferred
}

// Memory is what is kept from one observation of a tenant to the next. The zero value has seen nothing. The time of the
// last change is not in it but in the active layer's sequence, so it is known to every process in every data centre.
type Memory struct {
	Seq   int64 // of the active layer that was behind
	Times int   // observations in a row that said so
}

// Decide takes an observation and says which layer is to be promoted now: "" is none. The active layer counts by what
// readers see, the others by what they could write. A layer of which not all partitions have been heard is complete to
// nothing: it is never promoted, and active it is behind every other.
func Decide(p Policy, m Memory, o Observed) (Memory, string) {
	var best, active Layer
	for _, l := range o.Layers {
		if l.Name == o.Active.Layer {
			active = l
		} else if l.Complete > best.Complete {
			best = l
		}
	}
	if best.Complete == 0 || best.Complete-active.Written < p.Lag {
		return Memory{}, ""
	}
	if m.Seq != o.Active.Seq {
		m = Memory{Seq: o.Active.Seq}
	}
	m.Times = min(m.Times+1, p.For) // beyond it only the hold-off is waited for
	if since := o.NowMS - o.Active.Seq; m.Times < p.For || since < p.HoldOffMS && since > -p.HoldOffMS {
		return m, ""
	}
	return Memory{}, best.Name
}
