package read

import (
	"cmp"
	"slices"
	"strings"

	"tandem/core/metric"
)

// out brings the table to series of points, by variation and tags.
func (t *table) out(name string) ([]Series, error) {
	p := t.f.p
	states := p.sumStates
	if isVisitors(name) {
		states = p.seenStates
	}
	var all []Series
	for i := range t.groups {
		g := &t.groups[i]
		s := Series{Metric: name, Variation: g.variation, Tags: []string{}, Values: make([]int64, p.points), States: states}
		if len(t.f.q.GroupBy) > 0 {
			s.Tags = strings.Split(t.keys[g.key], ",")
		}
		if g.sketches != nil {
			p.unions(g.sketches, s.Values)
		} else if g.sums != nil {
			p.totals(g.sums, s.Values)
		}
		for i, st := range states {
			if st == Unknown {
				s.Values[i] = 0 // a part of it would be taken for the whole
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Series) int {
		return cmp.Or(strings.Compare(a.Variation, b.Variation), slices.Compare(a.Tags, b.Tags))
	})
	return all, nil
}

func (p *plan) totals(parts, out []int64) {
	before := make([]int64, len(parts)+1)
	for i, v := range parts {
		before[i+1] = before[i] + v
	}
	for i := range out {
		from, to := p.span(i)
		out[i] = before[to] - before[from]
	}
}

// unions estimates the union of the parts of each point. The parts of points slide along, so each is merged about three
// times whatever the length: a union of all up to a border between two points is kept from the right, and one from
// the border on from the left (the queue of two stacks).
func (p *plan) unions(parts []*metric.Sketch, out []int64) {
	border := 0
	var left []*metric.Sketch // left[i]: the union of parts[i:border], from where it was begun
	base := 0
	right, filled := &metric.Sketch{}, 0 // the union of parts[border:filled]
	for i := range out {
		from, to := p.span(i)
		if from >= border {
			border, base, left = to, from, make([]*metric.Sketch, to-from)
			u := &metric.Sketch{}
			for j := to - 1; j >= from; j-- {
				u = union(u, parts[j])
				left[j-from] = u
			}
			right, filled = &metric.Sketch{}, to
		}
		for ; filled < to; filled++ {
			if parts[filled] != nil {
				right.Merge(parts[filled])
			}
		}
		u := right
		if from < border && left[from-base] != nil {
			u = union(left[from-base], right)
		}
		out[i] = u.Estimate()
	}
}

// union is a new sketch, or one of the two where the other is empty.
func union(a, b *metric.Sketch) *metric.Sketch {
	if b == nil || b.Empty() {
		return a
	}
	u := &metric.Sketch{}
	u.Merge(a)
	u.Merge(b)
	return u
}
