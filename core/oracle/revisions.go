package oracle

import (
	"cmp"
	"slices"
	"strings"

	"tandem/core/tenant"
)

// history is a tenant's chain of revisions, and where each definition in it began (SPEC 10).
//
// A definition is in force over a run of consecutive revisions, so it is named by the index of the first of them. Each
// of these slices has, for each revision, the beginnings of what that revision lists.
type history struct {
	revisions   []*tenant.Config
	experiments []map[string]int
	points      []map[string]int
	values      []map[string]int // by point.value
	pairs       []map[string]int // by A*B

	conditions map[string]*condition // by text
}

func newHistory(chain []*tenant.Config) *history {
	h := &history{revisions: chain, conditions: map[string]*condition{}}
	for k, c := range chain {
		experiments, points, values, pairs := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
		for _, e := range c.Experiments {
			experiments[e.Name] = h.since(k, func(i int) bool { return sameExperiment(chain[i-1], chain[i], e.Name) })
			for _, text := range e.Qualify {
				h.conditions[text] = compile(text)
			}
		}
		for _, p := range c.Points {
			points[p.Name] = h.since(k, func(i int) bool { return samePoint(chain[i-1], chain[i], p.Name) })
			for _, v := range p.Values {
				values[p.Name+"."+v.Name] = h.since(k, func(i int) bool {
					return samePoint(chain[i-1], chain[i], p.Name) && sameValue(chain[i-1], chain[i], p.Name, v.Name)
				})
			}
		}
		for _, pair := range c.Cross {
			// Of a side that is a value, the beginning is never before that of its point.
			beginning := func(side string) int {
				if _, _, isValue := strings.Cut(side, "."); isValue {
					return values[side]
				}
				return points[side]
			}
			listed := h.since(k, func(i int) bool {
				return slices.Contains(chain[i-1].Cross, pair) && slices.Contains(chain[i].Cross, pair)
			})
			pairs[pair.A+"*"+pair.B] = max(listed, beginning(pair.A), beginning(pair.B))
		}
		h.experiments, h.points = append(h.experiments, experiments), append(h.points, points)
		h.values, h.pairs = append(h.values, values), append(h.pairs, pairs)
	}
	return h
}

// since gives the least revision from which on up to k each goes on from the one before it.
func (h *history) since(k int, goesOn func(i int) bool) int {
	first := k
	for first > 0 && goesOn(first) {
		first--
	}
	return first
}

// at is the revision in force at the beacon's ts.
func (h *history) at(b *beacon) *tenant.Config { return h.revisions[b.revision] }

// inForce gives the index of the revision in force at ts, -1 before the first.
func (h *history) inForce(ts int64) int {
	found := -1
	for k, c := range h.revisions {
		if !c.HasFrom || c.From <= ts {
			found = k
		}
	}
	return found
}

// isCutBetween says whether a cut lies between two beacons, a before b.
func (h *history) isCutBetween(a, b *beacon) bool {
	for k := a.revision + 1; k <= b.revision; k++ {
		old, new := h.revisions[k-1], h.revisions[k]
		if old.VisitGap != new.VisitGap || old.SessionTTL != new.SessionTTL || !slices.Equal(tagNames(old), tagNames(new)) {
			return true
		}
	}
	return false
}

func tagNames(c *tenant.Config) []string {
	var names []string
	for _, t := range c.Tags {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return names
}

// sameExperiment says whether x of the later revision is the same definition as x of the earlier. Moving the end is no
// change unless the experiment had already ended when the later one came into force.
func sameExperiment(earlier, later *tenant.Config, x string) bool {
	a, b := experimentOf(earlier, x), experimentOf(later, x)
	if a == nil || b == nil || a.Start != b.Start || !slices.Equal(a.Qualify, b.Qualify) {
		return false
	}
	hadEnded := a.End <= later.From
	return !hadEnded || a.End == b.End
}

func samePoint(earlier, later *tenant.Config, p string) bool {
	a, b := pointOf(earlier, p), pointOf(later, p)
	return a != nil && b != nil && a.Page == b.Page && a.Stats == b.Stats
}

func sameValue(earlier, later *tenant.Config, p, v string) bool {
	a, b := valueOf(earlier, p, v), valueOf(later, p, v)
	return a != nil && b != nil && *a == *b
}

// experimentOf, pointOf and valueOf find what a revision lists; nil if it does not.
func experimentOf(c *tenant.Config, x string) *tenant.Experiment {
	for i := range c.Experiments {
		if c.Experiments[i].Name == x {
			return &c.Experiments[i]
		}
	}
	return nil
}

func pointOf(c *tenant.Config, p string) *tenant.Point {
	for i := range c.Points {
		if c.Points[i].Name == p {
			return &c.Points[i]
		}
	}
	return nil
}

func valueOf(c *tenant.Config, p, v string) *tenant.Value {
	if point := pointOf(c, p); point != nil {
		for i := range point.Values {
			if point.Values[i].Name == v {
				return &point.Values[i]
			}
		}
	}
	return nil
}

// sessions gives the beacons of each session in order: maximal runs of one session id whose neighbours are at most
// session_ttl apart, on the same side of every cut (SPEC 3).
func (h *history) sessions(kept []*beacon) [][]*beacon {
	sorted := slices.Clone(kept)
	slices.SortFunc(sorted, func(a, b *beacon) int {
		return cmp.Or(strings.Compare(a.session, b.session), inOrder(a, b))
	})
	return runs(sorted, func(a, b *beacon) bool {
		return a.session == b.session && !h.isCutBetween(a, b) && b.ts-a.ts <= h.at(a).SessionTTL
	})
}

// visits gives the visits of a session in order.
func (h *history) visits(session []*beacon) [][]*beacon {
	return runs(session, func(a, b *beacon) bool { return b.ts-a.ts <= h.at(a).VisitGap })
}

// runs divides a list into its maximal runs whose neighbours are together.
func runs(list []*beacon, together func(a, b *beacon) bool) [][]*beacon {
	var out [][]*beacon
	for i, b := range list {
		if i == 0 || !together(list[i-1], b) {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], b)
	}
	return out
}
