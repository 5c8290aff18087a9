package worlds

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"tandem/core/tenant"
)

// Spliced draws a chain from the revisions of a world: each becomes an object, and between and after them stand splices of
// what some revision says, over times that begin and end where something happens. Equal arguments, equal chains.
func Spliced(seed uint64, revisions []*tenant.Config, w World) []*tenant.Config {
	rng := rand.New(rand.NewPCG(seed, 0x73706c69))
	var edges []int64
	for _, r := range w.Records {
		if ts, ok := eventTime(r.Payload); ok && ts > 0 {
			edges = append(edges, ts/minute*minute)
		}
	}
	for _, c := range revisions {
		if c.HasFrom {
			edges = append(edges, c.From, c.From-minute)
		}
	}
	var out []*tenant.Config
	for i, c := range revisions {
		out = append(out, c)
		for rng.IntN(3) == 0 || i == len(revisions)-1 && rng.IntN(2) == 0 {
			if len(edges) == 0 {
				break
			}
			s := *revisions[rng.IntN(len(revisions))]
			a, b := edges[rng.IntN(len(edges))], edges[rng.IntN(len(edges))]
			s.HasFrom, s.HasTo, s.From, s.To = true, true, min(a, b), max(a, b)+minute*rng.Int64N(2)
			if s.From >= s.To || revisions[0].HasFrom && s.From < revisions[0].From {
				continue
			}
			out = append(out, &s)
		}
	}
	return out
}

// TakenBack appends to a chain splices over a half of each of its own, or from and to the half hours around it, which say what some
// object of the chain says: so that parts of what was changed are as they were.
func TakenBack(seed uint64, objects []*tenant.Config) []*tenant.Config {
	rng := rand.New(rand.NewPCG(seed, 0x6261636b))
	out := slices.Clone(objects)
	for _, c := range objects {
		if !c.HasTo {
			continue
		}
		s := *objects[rng.IntN(len(objects))]
		s.HasFrom, s.HasTo, s.From, s.To = true, true, c.From, c.To
		switch half := c.From + (c.To-c.From)/2/minute*minute; rng.IntN(3) {
		case 0:
			s.To = half
		case 1:
			s.From = half
		default:
			s.From, s.To = c.From/(30*minute)*(30*minute), (c.To/(30*minute)+1)*(30*minute)
		}
		if s.From < s.To && !(objects[0].HasFrom && s.From < objects[0].From) {
			out = append(out, &s)
		}
	}
	return out
}

// inForce says by the definition which config is in force at a time: that of the last splice over it, else the last revision.
func inForce(objects []*tenant.Config, ts int64) (found *tenant.Config) {
	for _, c := range objects {
		if !c.HasTo && (!c.HasFrom || c.From <= ts) {
			found = c
		}
	}
	for _, c := range objects {
		if c.HasTo && c.From <= ts && ts < c.To {
			found = c
		}
	}
	return found
}

// Flat is the chain of plain revisions that a chain with splices comes to.
func Flat(objects []*tenant.Config) (out []*tenant.Config) {
	edges := map[int64]bool{math.MinInt64: true}
	for _, c := range objects {
		if c.HasFrom {
			edges[c.From] = true
		}
		if c.HasTo {
			edges[c.To] = true
		}
	}
	for _, at := range slices.Sorted(maps.Keys(edges)) {
		if c := inForce(objects, at); c != nil {
			own := *c
			own.HasFrom, own.From, own.HasTo, own.To = at > math.MinInt64, at, false, 0
			if !own.HasFrom {
				own.From = 0
			}
			out = append(out, &own)
		}
	}
	return out
}
