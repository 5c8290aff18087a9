package tenant

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"

	"github.com/cespare/xxhash/v2"
)

// Edge says what of a session's state goes on where a splice begins or ends. Ids are used again there, so that what does
// not go on must be forgotten, and what does may have another id.
type Edge struct {
	points, exps []int // by id before: that after, -1: it does not go on
	slots        []int // by id after: that before, -1: it begins at 0
}

// Point returns the instance that a point goes on as, -1 if it does not.
func (e *Edge) Point(inst int) int { return at(e.points, inst) }

// Exp returns the instance that an experiment goes on as, -1 if it does not.
func (e *Edge) Exp(inst int) int { return at(e.exps, inst) }

// Slot returns the slot that a total goes on from, -1 if it begins at 0.
func (e *Edge) Slot(slot int) int { return at(e.slots, slot) }

func at(list []int, i int) int {
	if i < len(list) {
		return list[i]
	}
	return -1
}

// Crossing returns the edges of splices after a and up to b, in order, for times that no cut divides.
func (c *Chain) Crossing(a, b int64) []*Edge {
	if !c.spliced {
		return nil
	}
	var out []*Edge
	for i := sort.Search(len(c.Revs), func(i int) bool { return c.Revs[i].From > a }); i < len(c.Revs) && c.Revs[i].From <= b; i++ {
		if i > 0 && c.edges[i] != nil {
			out = append(out, c.edges[i])
		}
	}
	return out
}

// link says of revisions in the order in which they are in force what goes on from one to the next: cuts, since when all
// that they list has been there, lives of experiments, and, where a splice has brought totals that had one slot to differ,
// other slots.
func (b *builder) link(revs []Rev) {
	var all []*Life
	for i := range revs {
		r := &revs[i]
		var prev *Rev
		r.Cut = 0
		if i > 0 {
			prev = &revs[i-1]
			if r.Cut = prev.Cut; isCut(prev.Config, r.Config) {
				r.Cut++
			}
		}
		r.lives = livesAfter(prev, r)
		b.layOut(r)
		for k := range r.Config.Experiments {
			e := &r.Config.Experiments[k]
			e1 := r.exps[e.Name]
			if prev != nil && sameExperiment(prev, e, r.From) {
				e1.Life = prev.exps[e.Name].Life
				e1.Life.last = i
				continue
			}
			e1.Life = &Life{From: r.From, Start: max(e.Start, r.From), first: i, last: i}
			all = append(all, e1.Life)
		}
	}
	for i := range revs {
		for name, e1 := range revs[i].exps {
			if len(e1.vars) < len(b.XNames[e1.X].Variations) {
				e1.Life.varying = true
			}
			if l := e1.Life; l.last == i {
				l.ends(revs, name)
				if l.varying {
					l.gaps(revs, name, len(b.XNames[e1.X].Variations))
				}
			}
		}
	}
}

// gaps sets when each variation is not listed.
func (l *Life) gaps(revs []Rev, name string, variations int) {
	l.off = make([][]span, variations)
	for i := l.first; i <= l.last; i++ {
		r := &revs[i]
		for v := range l.off {
			if r.exps[name].Listed(v) {
				continue
			}
			if n := len(l.off[v]); n > 0 && l.off[v][n-1].to == r.From {
				l.off[v][n-1].to = r.To
			} else {
				l.off[v] = append(l.off[v], span{r.From, r.To})
			}
		}
	}
}

// ends sets until when the life lasts, and until when it is active.
func (l *Life) ends(revs []Rev, name string) {
	l.To, l.End = revs[l.last].To, revs[l.last].To
	for i := l.first; i <= l.last; i++ {
		r := &revs[i]
		if end := r.experiment(name).End; end <= r.To {
			l.End = max(end, r.From)
			return
		}
	}
}

// role is a total that some metric of a revision reads.
type role struct {
	name string
	slot int
	from int64 // ms
}

// roles are the totals that the revision reads.
func (b *builder) roles(r *Rev) []role {
	var out []role
	for i := range r.Config.Points {
		p := &r.Config.Points[i]
		p1 := r.points[p.Name]
		if p1.Stat >= 0 {
			out = append(out, role{"p/" + p.Name, p1.Stat, r.lives.points[p.Name]})
		}
		for j := range p1.Values {
			if v := &p1.Values[j]; v.CapSlot >= 0 {
				full := p.Name + "." + v.Name
				out = append(out, role{"v/" + full, v.CapSlot, r.lives.values[full]})
			}
		}
		for _, pair := range p1.Pairs {
			name := b.Groups[pair.At.Group].Names[pair.At.Cell]
			k := slices.IndexFunc(r.Config.Cross, func(x Pair) bool { return x.A+"*"+x.B == name })
			from := r.pairFrom(r.Config.Cross[k])
			out = append(out, role{"a/" + name, pair.A, from}, role{"b/" + name, pair.B, from})
		}
	}
	return out
}

// layOut gives the totals of a revision slots of their own where they share one and no longer began at one time.
func (b *builder) layOut(r *Rev) {
	since := map[int]int64{}
	shared := true
	for _, x := range b.roles(r) {
		if from, ok := since[x.slot]; ok && from != x.from {
			shared = false
		}
		since[x.slot] = x.from
	}
	if shared {
		return
	}
	insts := map[string]int{}
	for name, p := range r.points {
		insts[name] = p.Inst
	}
	b.tables(r, insts)
	r.cloned = true
	data := binary.LittleEndian.AppendUint64(nil, r.Digest)
	for _, x := range b.roles(r) {
		data = binary.LittleEndian.AppendUint64(data, uint64(x.slot))
	}
	r.StateDigest = xxhash.Sum64(data)
}

// edge says what goes on from one revision to the next.
func (b *builder) edge(p, r *Rev) *Edge {
	none := func(n int) []int {
		list := make([]int, n)
		for i := range list {
			list[i] = -1
		}
		return list
	}
	e := &Edge{points: none(len(b.Points)), exps: none(len(b.Exps)), slots: none(len(b.Slots))}
	goesOn := func(since int64) bool { return since == math.MinInt64 || since < r.From }
	for name, p1 := range r.points {
		if goesOn(r.lives.points[name]) {
			e.points[p.points[name].Inst] = p1.Inst
		}
	}
	for name, e1 := range r.exps {
		if old := p.exps[name]; old != nil && old.Life == e1.Life {
			e.exps[old.Inst] = e1.Inst
		}
	}
	before := map[string]int{}
	for _, x := range b.roles(p) {
		before[x.name] = x.slot
	}
	for _, x := range b.roles(r) {
		if goesOn(x.from) {
			e.slots[x.slot] = before[x.name]
		}
	}
	return e
}
