package session_test

import (
	"maps"
	"slices"
	"testing"

	"tandem/core/oracle/worlds"
	"tandem/core/session"
)

// TestWorldsMeet checks that the random worlds lead Fold to its corners, so that TestWorlds says something about them.
func TestWorldsMeet(t *testing.T) {
	const n = 600
	met := map[string]int{}
	for seed := range uint64(n) {
		w := worlds.Generate(seed)
		configs, err := w.Chain()
		if err != nil {
			t.Fatal(err)
		}
		here := map[string]bool{}
		corners(readAll(compile(t, configs), w.Records, false), here)
		for name := range here {
			met[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		t.Logf("%-50s %4d", name, met[name])
	}
	for _, name := range []string{
		"a session ends by its ttl", "a visit ends by its gap", "a cut leaves an end behind", "two ends are pending", "a visit is bridged",
		"neighbours exactly a gap apart", "neighbours a gap and 1 ms apart",
		"qualified at the ts of the assignment", "qualified later", "two conditions at one ts", "assigned and never qualified",
		"two marks", "marks of two definitions of an experiment", "a scope ends before the session", "beacons of one ts",
		"a total beyond its cap", "a total below minus its cap", "a total back from beyond its cap",
	} {
		if met[name] < 3 {
			t.Errorf("%s: in %d worlds of %d, expected at least 3", name, met[name], n)
		}
	}
}

// corners notes what Fold meets, beacon by beacon of one ts.
func corners(d *batch, met map[string]bool) {
	note := func(name string, when bool) {
		if when {
			met[name] = true
		}
	}
	for _, run := range d.runs {
		f := d.folder()
		var st, before session.State
		st.Reset()
		totals := map[[2]int]int64{} // by point instance and value
		for from := 0; from < len(run); {
			to := from + 1
			for to < len(run) && run[to].TS == run[from].TS {
				to++
			}
			ts, rev := run[from].TS, d.chain.At(run[from].TS)
			before.Copy(&st)
			f.Fold(&st, run[from:to])
			if !before.Empty {
				cut, gap := d.chain.Cut(before.LastTS, ts), ts-before.LastTS
				note("a session ends by its ttl", !cut && gap > rev.Config.SessionTTL)
				note("a visit ends by its gap", !cut && gap > rev.Config.VisitGap && gap <= rev.Config.SessionTTL)
				note("neighbours exactly a gap apart", !cut && gap == rev.Config.VisitGap)
				note("neighbours a gap and 1 ms apart", !cut && gap == rev.Config.VisitGap+1)
				if st.FirstTS == ts {
					clear(totals)
				}
			}
			note("beacons of one ts", to-from > 1)
			note("a cut leaves an end behind", len(st.Pending) > 0)
			note("two ends are pending", len(st.Pending) > 1)
			note("two marks", len(st.Marks) > 1)
			names := map[int]bool{}
			for _, m := range st.Marks {
				x := d.chain.Exps[m.Inst]
				note("marks of two definitions of an experiment", names[x.X])
				names[x.X] = true
				note("qualified at the ts of the assignment", m.IsQualified && m.Qualified == m.Assigned && len(x.Qualify) > 0)
				note("qualified later", m.IsQualified && m.Qualified > m.Assigned)
				note("assigned and never qualified", !m.IsQualified && to == len(run))
				end, _ := d.chain.ScopeEnds(rev, m.Inst, m.Variation, m.Assigned)
				note("a scope ends before the session", end <= ts)
				step := 0
				for _, old := range before.Marks {
					if old.Inst == m.Inst && st.FirstTS < ts {
						step = old.Step
					}
				}
				note("two conditions at one ts", m.Step-step > 1)
			}
			for i := from; i < to; i++ {
				for _, v := range run[i].Values {
					limit := rev.Point(run[i].Point).Values[v.Index].Cap
					of := [2]int{run[i].Point, v.Index}
					old := totals[of]
					totals[of] += v.N
					note("a total beyond its cap", limit > 0 && totals[of] > limit)
					note("a total below minus its cap", limit > 0 && totals[of] < -limit)
					note("a total back from beyond its cap", limit > 0 && old > limit && totals[of] < limit)
				}
			}
			from = to
		}
		bridges(d, run, note)
	}
}

// bridges notes a beacon that, as records come in, makes one visit of two.
func bridges(d *batch, run []session.Event, note func(string, bool)) {
	for i, e := range run {
		if i == 0 || i == len(run)-1 {
			continue
		}
		gap := d.chain.At(e.TS).Config.VisitGap
		last, next := int64(-1), int64(-1)
		for k, o := range run {
			if o.Ingest >= e.Ingest || k == i || d.chain.Cut(min(o.TS, e.TS), max(o.TS, e.TS)) {
				continue
			}
			if k < i {
				last = o.TS
			} else if next < 0 {
				next = o.TS
			}
		}
		note("a visit is bridged", last >= 0 && next >= 0 && next-last > gap && e.TS-last <= gap && next-e.TS <= gap)
	}
}
