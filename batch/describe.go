package batch

import (
	"math"
	"strconv"

	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/staterun"
)

// noTime is before all beacons.
const noTime = math.MinInt64 / 2

// describer says of sessions what a state run says for SQL. It is scratch memory, and what it returns is valid until the next call.
type describer struct {
	chain *tenant.Chain
	keys  []string   // of totals, by slot: name, quotes and colon; "" for what is not told
	heads [][]string // of experiments, by name and variation: what comes before the time
	out   staterun.About
}

// newDescriber names the totals: of a name that began anew the one that is in force at a window's end, ms, else the last, and of those
// that begin at several times the first. What a run says of a window must not change when a later revision becomes known, nor by a
// splice that is over before it.
func newDescriber(chain *tenant.Chain, end int64) describer {
	d := describer{chain: chain, keys: make([]string, len(chain.Slots))}
	for i := range chain.XNames {
		x, heads := &chain.XNames[i], []string(nil)
		for _, v := range x.Variations {
			heads = append(heads, `"`+x.Name+`":{"variation":"`+v+`","assigned":`)
		}
		d.heads = append(d.heads, heads)
	}
	last := chain.At(end - 1)
	inForce := func(slot int) bool { return last != nil && last.Point(chain.Slots[slot].Point) != nil }
	at := map[string]int{}
	for i, s := range chain.Slots {
		if s.From >= end {
			continue
		}
		name := chain.Points[s.Point].Name
		if s.Value != "" {
			name += "." + s.Value
		}
		before, known := at[name]
		if known && (chain.Slots[before].Point == s.Point || inForce(before)) {
			continue
		}
		if known {
			d.keys[before] = ""
		}
		at[name] = i
		d.keys[i] = strconv.Quote(name) + ":"
	}
	return d
}

// about describes the session of a state that the events of a window were folded onto; before is the state's last beacon before
// them, noTime if it had none.
func (d *describer) about(s *session.State, events []session.Event, before int64) *staterun.About {
	d.out = staterun.About{Experiments: append(d.out.Experiments[:0], '{'), Totals: append(d.out.Totals[:0], '{')}
	if !s.Empty {
		d.window(s.FirstTS, events, before)
		d.experiments(s)
		for i, n := range s.Totals() {
			if n == 0 || d.keys[i] == "" {
				continue
			}
			if len(d.out.Totals) > 1 {
				d.out.Totals = append(d.out.Totals, ',')
			}
			d.out.Totals = strconv.AppendInt(append(d.out.Totals, d.keys[i]...), n, 10)
		}
	}
	d.out.Experiments = append(d.out.Experiments, '}')
	d.out.Totals = append(d.out.Totals, '}')
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
		b := d.out.Experiments
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, d.heads[x][m.Variation]...), m.Assigned, 10)
		if m.IsQualified {
			b = strconv.AppendInt(append(b, `,"qualified":`...), m.Qualified, 10)
		}
		d.out.Experiments = append(b, '}')
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
