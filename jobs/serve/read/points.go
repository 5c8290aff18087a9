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
		if g.seen != nil {
			p.unions(g.seen.all(), s.Values)
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
	var left []*metric.Union // left[i]: the union of parts[base+i:border]
	base := 0
	right, filled := &metric.Union{}, 0 // the union of parts[border:filled]
	both := &metric.Union{}
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
		switch {
		case from >= border || left[from-base].Empty():
			out[i] = right.Estimate()
		case right.Empty():
			out[i] = left[from-base].Estimate()
		default:
			both.Copy(left[from-base])
			both.MergeUnion(right)
			out[i] = both.Estimate()
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
