package read

import (
	"cmp"
	"slices"
	"strings"

	"tandem/core/metric"
)

// out brings the table to series of the points of a plan, by variation and tags. The plan's parts are the table's last ones.
func (t *table) out(name string, p *plan) []Series {
	states, first := p.sumStates, t.f.p.lead-p.lead
	if isVisitors(name) {
		states = p.seenStates
	}
	var all []Series
	for i := range t.groups {
		g, have := t.groups[i], &t.at[i]
		if first > 0 && !have.since(first) {
			continue
		}
		s := Series{Metric: name, Variation: g.variation, Tags: []string{}, Values: make([]int64, p.points), States: states}
		if len(t.f.q.GroupBy) > 0 {
			s.Tags = strings.Split(t.keys[g.key], ",")
		}
		if have.seen != nil {
			p.unions(have.seen.all()[first:], s.Values)
		} else {
			p.totals(have.sums[first:], s.Values)
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
	return all
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
	var left []*metric.Union // left[i]: the union of parts[base+i:border]
	base := 0
	right, filled := &metric.Union{}, 0 // the union of parts[border:filled]
	for i := range out {
		from, to := p.span(i)
		if from >= border {
			border, base = to, from
			left = resized(left, to-from)
			for j := to - 1; j >= from; j-- {
				u := left[j-from]
				if j+1 < to {
					u.Copy(left[j+1-from])
				} else {
					u.Reset()
				}
				if parts[j] != nil {
					u.Merge(parts[j])
				}
			}
			right.Reset()
			filled = to
		}
		for ; filled < to; filled++ {
			if parts[filled] != nil {
				right.Merge(parts[filled])
			}
		}
		if from >= border {
			out[i] = right.Estimate()
		} else {
			out[i] = left[from-base].EstimateWith(right)
		}
	}
}

// resized gives a list that length, of unions whose memory is used again.
func resized(list []*metric.Union, n int) []*metric.Union {
	for len(list) < n {
		list = append(list, &metric.Union{})
	}
	return list[:n]
}
