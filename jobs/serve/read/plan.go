package read

import (
	"sort"

	"tandem/batch"
	"tandem/core/view"
)

// plan says what is read where. Values are first summed in parts of equal length that divide both step and rolling; a
// point is the union of some of them.
type plan struct {
	from, to, part int64
	perPoint       int // parts of a point that are its own
	covers         int // parts that it is the sum of, which end with its last
	lead           int // parts before the first point's own
	points         int
	pieces         []piece
	sums, seen     []State // by part: of sums, and of visitors

	sumStates, seenStates []State // by point
}

// piece is a run of minutes that is read from one layer.
type piece struct {
	layer    string
	from, to int64
	rollup   bool
	windows  []piece // of a whole day: what it is made of
	layers   uint64  // digest of their layers
}

func (x *Resolved) plan(q *Query, l Limits) (*plan, error) {
	p := &plan{from: q.From, to: q.To, part: q.Step, perPoint: 1, covers: 1}
	if q.Rolling > 0 {
		p.part = gcd(q.Step, q.Rolling)
		p.perPoint, p.covers = int(q.Step/p.part), int(q.Rolling/p.part)
		p.lead = max(0, p.covers-p.perPoint)
		p.from -= int64(p.lead) * p.part
	}
	p.points = int((q.To - q.From + q.Step - 1) / q.Step)
	if q.Rolling > 0 {
		p.to = q.From + int64(p.points)*q.Step // rolling points are whole
	}
	parts := (p.to - p.from + p.part - 1) / p.part
	if parts > l.Points {
		return nil, &LimitError{"points", l.Points, "take a larger step or a shorter range"}
	}
	p.sums, p.seen = make([]State, parts), make([]State, parts)
	// mark gives the parts that minutes [from, to) touch a state, unless theirs is worse. It goes by parts, of which there
	// is a limit, not by minutes.
	mark := func(from, to int64, s State, all []State) {
		if from >= to {
			return
		}
		for i := (from - p.from) / p.part; i <= (to-1-p.from)/p.part; i++ {
			all[i] = max(all[i], s)
		}
	}
	revs := x.Chain.Revs
	keep := revs[len(revs)-1].Config.Retention
	knownSums, knownSeen, knownRollup := x.Known(), x.knownFor(min(keep, batch.VisitorsMS)), x.knownFor(batch.RollupMS)
	add := func(c piece, covered bool) {
		if c.from >= c.to {
			return
		}
		oldest, oldestSeen := knownSums, knownSums
		switch {
		case c.rollup:
			oldest, oldestSeen = knownRollup, knownRollup
		case covered:
			oldestSeen = max(knownSums, knownSeen)
		}
		if !covered {
			mark(c.from, c.to, x.uncovered, p.sums)
			mark(c.from, c.to, x.uncovered, p.seen)
		}
		if c.rollup && c.from >= oldest {
			oldest, oldestSeen = c.from, c.from // it expires as a whole
		} else if c.rollup {
			oldest, oldestSeen = c.to, c.to
		}
		mark(c.from, min(c.to, oldest), Unknown, p.sums)
		mark(c.from, min(c.to, oldestSeen), Unknown, p.seen)
		if n := len(p.pieces); n > 0 {
			last := &p.pieces[n-1]
			if last.layer == c.layer && last.rollup == c.rollup && last.to == c.from && !(c.rollup && c.from%DayMinutes == 0) {
				last.to = c.to
				return
			}
		}
		p.pieces = append(p.pieces, c)
	}
	at := max(p.from, 0)
	for _, w := range x.windows(at, p.to) {
		add(piece{layer: x.View.Active, from: at, to: max(at, w.From)}, false)
		from, to := max(at, w.From), min(p.to, w.To)
		whole := from == w.From && to == w.To && (from-p.from)/p.part == (to-1-p.from)/p.part
		add(piece{layer: w.Layer, from: from, to: to, rollup: whole}, true)
		at = to
	}
	add(piece{layer: x.View.Active, from: at, to: p.to}, false)
	p.joinDays()
	p.sumStates, p.seenStates = p.point(p.sums), p.point(p.seen)
	return p, nil
}

// windows are the covered windows that [from, to) touches.
func (x *Resolved) windows(from, to int64) []view.Window {
	all := x.View.Windows
	i := sort.Search(len(all), func(i int) bool { return all[i].To > from })
	j := sort.Search(len(all), func(j int) bool { return all[j].From >= to })
	return all[i:max(i, j)]
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// point gives the states of points from those of parts: the worst of what each covers.
func (p *plan) point(parts []State) []State {
	out := make([]State, p.points)
	for i := range out {
		from, to := p.span(i)
		for _, s := range parts[from:to] {
			out[i] = max(out[i], s)
		}
	}
	return out
}

// span is the parts of a point.
func (p *plan) span(point int) (from, to int) {
	to = min(p.lead+(point+1)*p.perPoint, len(p.sums))
	if p.lead == 0 && p.covers <= p.perPoint {
		from = p.lead + (point+1)*p.perPoint - p.covers
		return min(from, to), to
	}
	return to - p.covers, to
}
