package batch

import (
	"math"

	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/staterun"
)

// noTime is before all beacons.
const noTime = math.MinInt64 / 2

// describer says of sessions what a state run says for SQL. It is scratch memory, and what it returns is valid until the next call.
type describer struct {
	chain      *tenant.Chain
	variations [][]int32 // by experiment and its variation: the latter's name
	told       []bool    // by slot: the total is told
	out        staterun.About
}

// sessionNames are the names that a describer speaks of: experiments as in the chain, totals by slot, of which several may have one name, and variations,
// each once, which it returns by experiment too.
func sessionNames(chain *tenant.Chain) (names *staterun.Names, variations [][]int32) {
	names = &staterun.Names{}
	at := map[string]int32{}
	for i := range chain.XNames {
		x := &chain.XNames[i]
		names.Experiments = append(names.Experiments, x.Name)
		places := make([]int32, len(x.Variations))
		for v, name := range x.Variations {
			if _, ok := at[name]; !ok {
				at[name] = int32(len(names.Variations))
				names.Variations = append(names.Variations, name)
			}
			places[v] = at[name]
		}
		variations = append(variations, places)
	}
	for _, s := range chain.Slots {
		name := chain.Points[s.Point].Name
		if s.Value != "" {
			name += "." + s.Value
		}
		names.Totals = append(names.Totals, name)
	}
	return names, variations
}

// newDescriber chooses the totals: of a name that began anew the one that is in force at a window's end, ms, else the last, and of those
// that begin at several times the first. What a run says of a window must not change when a later revision becomes known, nor by a
// splice that is over before it.
func newDescriber(chain *tenant.Chain, end int64) describer {
	names, variations := sessionNames(chain)
	d := describer{chain: chain, variations: variations, told: make([]bool, len(chain.Slots))}
	last := chain.At(end - 1)
	inForce := func(slot int) bool { return last != nil && last.Point(chain.Slots[slot].Point) != nil }
	at := map[string]int{}
	for i, s := range chain.Slots {
		if s.From >= end {
			continue
		}
		name := names.Totals[i]
		before, known := at[name]
		if known && (chain.Slots[before].Point == s.Point || inForce(before)) {
			continue
		}
		if known {
			d.told[before] = false
		}
		at[name], d.told[i] = i, true
	}
	return d
}

// about describes the session of a state that the events of a window were folded onto; before is the state's last beacon before
// them, noTime if it had none.
func (d *describer) about(s *session.State, events []session.Event, before int64) *staterun.About {
	d.out = staterun.About{Experiments: d.out.Experiments[:0], Totals: d.out.Totals[:0]}
	if s.Empty {
		return &d.out
	}
	d.window(s.FirstTS, events, before)
	d.experiments(s)
	for i, n := range s.Totals() {
		if n != 0 && d.told[i] {
			d.out.Totals = append(d.out.Totals, staterun.Total{Name: int32(i), Value: n})
		}
	}
	return &d.out
}

// window counts what the events brought of the session that began at first.
func (d *describer) window(first int64, events []session.Event, before int64) {
	for i := range events {
		e := &events[i]
		if e.TS < first {
			continue
		}
		rev := d.chain.At(e.TS)
		d.out.Beacons++
		if before < first || e.TS-before > rev.Config.VisitGap {
			d.out.Visits++
		}
		before = e.TS
		if e.Point != 0 && rev.Point(e.Point).Page {
			d.out.Pages++
		}
	}
}

func (d *describer) experiments(s *session.State) {
	for i := range s.Marks {
		m := &s.Marks[i]
		x := d.chain.Exps[m.Inst].X
		if later := i + 1; later < len(s.Marks) && d.again(s.Marks[later:], x) {
			continue
		}
		d.out.Experiments = append(d.out.Experiments, staterun.Experiment{Name: int32(x), Variation: d.variations[x][m.Variation],
			Assigned: m.Assigned, Qualified: m.Qualified, IsQualified: m.IsQualified})
	}
}

// again says whether an experiment has a mark among these: its definition has begun anew.
func (d *describer) again(marks []session.Mark, x int) bool {
	for i := range marks {
		if d.chain.Exps[marks[i].Inst].X == x {
			return true
		}
	}
	return false
}
