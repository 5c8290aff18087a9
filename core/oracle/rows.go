package oracle

import (
	"fmt"
	"math/big"
	"strings"
)

// table collects rows; of visitors it holds who they are.
type table struct {
	rows     map[Row]int64
	visitors map[Row]map[string]bool
}

// emit adds the rows of a session: the two tables of SPEC 6, scope by scope.
func (s *session) emit(out *table) {
	visits := s.h.visits(s.beacons)
	for _, sc := range s.scopes() {
		v := &view{session: s, scope: sc, out: out, amounts: map[string][]int64{}}
		from := 0
		for _, visit := range visits {
			to := from + len(visit)
			for e := from; e < to; e++ {
				if sc.has[e] {
					v.emitBeacon(e, from)
				}
			}
			v.emitVisitEnd(from, to)
			from = to
		}
	}
}

// view is a session seen in one of its scopes. Beacons are named by their place in the session.
type view struct {
	*session
	*scope
	out     *table
	amounts map[string][]int64 // see amount
}

// emitBeacon adds what the beacon at place e, in scope and of the visit that begins at place visit, adds by itself.
func (v *view) emitBeacon(e, visit int) {
	b := v.beacons[e]
	minute := minuteOf(b.ts)
	add := func(name string, n int64) { v.add(name, b.tags, minute, n) }
	// A row of a running total stands under the tags of the session's first beacon in the scope.
	addTotal := func(name string, n int64) { v.add(name, v.beacons[v.firstFrom(0)].tags, minute, n) }

	if v.firstFrom(visit) == e {
		add("visit", 1)
	}
	if v.firstFrom(0) == e {
		add("visit.beta", 1)
	}
	if b.visitor != "" {
		row := Row{v.prefix + "visitors", b.tags, minute}
		if v.out.visitors[row] == nil {
			v.out.visitors[row] = map[string]bool{}
		}
		v.out.visitors[row][b.visitor] = true
	}
	if b.measured == nil {
		return
	}

	p, begin := b.measured.Name, v.h.points[b.revision]
	add(p, 1)
	if v.total(p, e-1, begin[p]) == 0 {
		add(p+".beta", 1)
	}
	if b.measured.Stats {
		before, after := v.total(p, e-1, begin[p]), v.total(p, e, begin[p])
		addTotal(p+".tot", after-before)
		addTotal(p+".hit", min(after, 1)-min(before, 1))
		addTotal(p+".sq", after*after-before*before)
	}
	for _, value := range b.measured.Values {
		n, carried := b.scaled[value.Name]
		if !carried {
			continue
		}
		pv := p + "." + value.Name
		add(pv, n)
		if value.Histogram {
			add(fmt.Sprintf("%s.h%d", pv, bucket(n)), 1)
		}
		if value.Cap > 0 {
			since := v.h.values[b.revision][pv]
			before, after := clamp(v.total(pv, e-1, since), value.Cap), clamp(v.total(pv, e, since), value.Cap)
			addTotal(pv+".cap", after-before)
			addTotal(pv+".cap.sq", after*after-before*before)
		}
	}
	for _, pair := range v.h.at(b).Cross {
		if pointName(pair.A) != p && pointName(pair.B) != p {
			continue // it changes neither total
		}
		name := pair.A + "*" + pair.B
		since := v.h.pairs[b.revision][name]
		product := func(upTo int) int64 {
			return v.clamped(b, pair.A, upTo, since) * v.clamped(b, pair.B, upTo, since)
		}
		addTotal(name, product(e)-product(e-1))
	}
}

// emitVisitEnd adds what the end of the visit at places from <= i < to adds.
func (v *view) emitVisitEnd(from, to int) {
	if first := v.firstFrom(from); first < 0 || first >= to {
		return // the scope holds no beacon of the visit
	}
	// The end is measured under the revision in force at the last beacon: what that does not list has no end here.
	last := v.beacons[to-1]
	config := v.h.at(last)
	if v.trial != nil {
		begin, listed := v.h.experiments[last.revision][v.trial.name]
		if !listed || begin != v.trial.begin || !v.h.lists(v.trial, last.revision) {
			return
		}
	}
	var pages int64
	for _, b := range v.beacons[from:to] {
		if b.measured != nil && b.measured.Page {
			pages++
		}
	}
	minute := minuteOf(last.ts + config.VisitGap)
	v.add("visit.end", last.tags, minute, 1)
	v.add("visit.pages", last.tags, minute, pages)
	v.add("visit.seconds", last.tags, minute, (last.ts-v.beacons[from].ts)/1000)
	if pages == 1 {
		v.add("bounce", last.tags, minute, 1)
	}
}

func (v *view) add(name, tags string, minute, n int64) {
	v.out.rows[Row{v.prefix + name, tags, minute}] += n
}

// firstFrom gives the first place from i on that is in scope, -1 if there is none.
func (v *view) firstFrom(i int) int {
	for ; i < len(v.has); i++ {
		if v.has[i] {
			return i
		}
	}
	return -1
}

// total is T of a point or a value: summed over the beacons in scope up to and including place upTo that were read under
// revision since or a later one. A definition that begins at a revision counts only what follows it, and one in force at
// place upTo has been so since then without interruption.
func (v *view) total(of string, upTo, since int) int64 {
	amount := v.amount(of)
	var t int64
	for i := 0; i <= upTo; i++ {
		if v.has[i] && v.beacons[i].revision >= since {
			t += amount[i]
		}
	}
	return t
}

// clamped is a side of a pair: the count of a point, or the total of a value clamped to its cap at beacon b.
func (v *view) clamped(b *beacon, side string, upTo, since int) int64 {
	t := v.total(side, upTo, since)
	if p, name, isValue := strings.Cut(side, "."); isValue {
		return clamp(t, valueOf(v.h.at(b), p, name).Cap)
	}
	return t
}

// amount gives for each beacon of the session what it adds to the total of a point `P` or a value `P.V`.
func (v *view) amount(of string) []int64 {
	if known := v.amounts[of]; known != nil {
		return known
	}
	amount := make([]int64, len(v.beacons))
	p, value, isValue := strings.Cut(of, ".")
	for i, b := range v.beacons {
		switch {
		case b.measured == nil || b.measured.Name != p:
		case isValue:
			amount[i] = b.scaled[value]
		default:
			amount[i] = 1
		}
	}
	v.amounts[of] = amount
	return amount
}

func pointName(side string) string {
	p, _, _ := strings.Cut(side, ".")
	return p
}

func clamp(t, limit int64) int64 { return max(-limit, min(limit, t)) }

// bucket gives the histogram bucket of a scaled value: 0 up to 1, else floor(8 log2 n) = floor(log2 n^8).
func bucket(n int64) int {
	if n <= 1 {
		return 0
	}
	return new(big.Int).Exp(big.NewInt(n), big.NewInt(8), nil).BitLen() - 1
}
