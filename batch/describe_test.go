package batch

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"tandem/core/metric"
	"tandem/core/session"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/staterun"
)

// described keeps what a mapper says of sessions.
type described struct{ rows []staterun.About }

func (d *described) Add(_ uint64, _ []byte, _, _, _ int64, _ []byte, about *staterun.About) error {
	a := *about
	a.Experiments, a.Totals = slices.Clone(a.Experiments), slices.Clone(a.Totals)
	d.rows = append(d.rows, a)
	return nil
}

// What the rows of a run say for SQL sums up to what the metrics say: beacons, visits and pages; the totals and the markers of
// a session are those of its last row.
func TestRunsDescribeSessions(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	blobs := blob.NewMem()
	put(t, blobs, chain, records, 1)
	j, st := job(t, chain, blobs, 1)
	run(t, j)
	a, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	p, err := j.ReadPlan(1)
	if err != nil {
		t.Fatal(err)
	}
	var all staterun.About
	experiments, totals := 0, map[string]int64{}
	names, _ := sessionNames(chain)
	files := j.open()
	defer files.close()
	for i := range p.Windows {
		w := &p.Windows[i]
		in, release, err := files.beacons(w, a, 0, math.MaxUint64, archive.Columns{Event: true})
		if err != nil {
			t.Fatal(err)
		}
		states, closeRuns, err := j.states(w, 0, files, 0, math.MaxUint64)
		if err != nil {
			t.Fatal(err)
		}
		out := &described{}
		m := newMapper(chain, w.Window, j.Digest, &metric.Sums{}, out)
		if err := m.join(in, states); err != nil {
			t.Fatal(err)
		}
		release()
		closeRuns()
		for _, r := range out.rows {
			all.Beacons, all.Visits, all.Pages = all.Beacons+r.Beacons, all.Visits+r.Visits, all.Pages+r.Pages
			marks, n := map[string]staterun.Experiment{}, map[string]int64{}
			for _, x := range r.Experiments {
				marks[names.Experiments[x.Name]] = x
			}
			for _, x := range r.Totals {
				n[names.Totals[x.Name]] = x.Value
			}
			if len(marks) != len(r.Experiments) || len(n) != len(r.Totals) {
				t.Errorf("a name is told twice: %v", r)
			}
			if c, ok := marks["color"]; ok {
				experiments++
				variation := names.Variations[c.Variation]
				if variation != "red" && variation != "control" || c.Assigned < t0 || c.IsQualified && c.Qualified < c.Assigned {
					t.Errorf("markers %v", r.Experiments)
				}
			}
			for k, v := range n {
				totals[k] = max(totals[k], v)
			}
		}
	}
	rows, counts := wanted(t, configs, records, false)
	sum := func(name string) (n int64) {
		for _, l := range rows {
			if f := strings.Split(l, "\t"); f[0] == "shop.visit.site."+name {
				n += number(t, f[3])
			}
		}
		return n
	}
	if all.Visits != sum("visit") || all.Pages != sum("visit.pages") || all.Visits == 0 || all.Pages == 0 {
		t.Errorf("%d visits, %d pages; the metrics say %d and %d", all.Visits, all.Pages, sum("visit"), sum("visit.pages"))
	}
	covered := outcomeOf(t, j, st).counts
	if want := covered["records"] - counts["unused"] - counts["duplicate"] - counts["overflow"] - covered["rejected"]; all.Beacons != want {
		t.Errorf("%d beacons, want %d", all.Beacons, want)
	}
	if experiments == 0 || totals["home"] < 2 || totals["order.revenue"] == 0 {
		t.Errorf("%d assigned, totals %v", experiments, totals)
	}
}

// Of a definition that begins anew its last one is told, and of windows before that the one before.
func TestDescribeWhatBeganAnew(t *testing.T) {
	chain := compile(t, "points: {home: {stats: true}}\nexperiments: {x: {variations: [a, b]}}\n",
		"from: "+at(10)+"\npoints: {home: {kind: page, stats: true}}\nexperiments: {x: {variations: [a, b], qualify: ['point == \"home\"']}}\n")
	anew := t0 + 10*minute
	if d := newDescriber(chain, anew); !slices.Equal(d.told, []bool{true, false}) {
		t.Errorf("before: totals told %v", d.told)
	}
	d := newDescriber(chain, anew+1)
	if !slices.Equal(d.told, []bool{false, true}) {
		t.Errorf("totals told %v", d.told)
	}
	if names, _ := sessionNames(chain); !slices.Equal(names.Totals, []string{"home", "home"}) || !slices.Equal(names.Variations, []string{"a", "b"}) {
		t.Errorf("names %v", names)
	}
	gone := compile(t, "points: {home: {stats: true}}\n", "from: "+at(10)+"\npoints: {order: {}}\n", "from: "+at(20)+"\npoints: {home: {kind: page, stats: true}}\n")
	if d := newDescriber(gone, anew+minute); !slices.Equal(d.told, []bool{true, false}) {
		t.Errorf("of a point that is gone, and will come again: totals told %v", d.told)
	}
	configs := load(t, "from: "+at(0)+"\npoints: {home: {stats: true}}\n")
	splice := *load(t, "from: "+at(10)+"\npoints: {home: {kind: page, stats: true}}\n")[0]
	splice.HasTo, splice.From, splice.To = true, anew, anew+minute
	over := chainOf(t, append(configs, &splice))
	for end, want := range map[int64][]bool{anew: {true, false}, anew + 1: {false, true}, anew + minute: {false, true}, anew + minute + 1: {true, false}} {
		if d := newDescriber(over, end); !slices.Equal(d.told, want) {
			t.Errorf("with a splice, at %d: totals told %v, want %v", end-anew, d.told, want)
		}
	}
	s := session.State{FirstTS: t0, LastTS: t0, Marks: []session.Mark{{Inst: 0, Variation: 1, Assigned: t0, Qualified: t0, IsQualified: true},
		{Inst: 1, Variation: 0, Assigned: t0 + 11*minute}}}
	d.experiments(&s)
	if want := []staterun.Experiment{{Assigned: t0 + 11*minute}}; !slices.Equal(d.out.Experiments, want) {
		t.Errorf("experiments %v, want %v", d.out.Experiments, want)
	}
}

// Experiments have variations of one name and others: of each mark its own is told, with all that a mark has.
func TestDescribeByName(t *testing.T) {
	chain := compile(t, "experiments: {x: {variations: [a, b]}, y: {variations: [c, b, d]}, z: {variations: [d, a]}}\n")
	names, _ := sessionNames(chain)
	if got := slices.Sorted(slices.Values(names.Variations)); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("variations %v, want each once", got)
	}
	d := newDescriber(chain, t0+minute)
	told := 0
	for inst := range chain.Exps {
		x := chain.XNames[chain.Exps[inst].X]
		for v, variation := range x.Variations {
			assigned := t0 + int64(10*inst+v)
			s := session.State{Marks: []session.Mark{{Inst: inst, Variation: v, Assigned: assigned, Qualified: assigned + 5, IsQualified: v > 0}}}
			d.out.Experiments = nil
			d.experiments(&s)
			if len(d.out.Experiments) != 1 {
				t.Fatalf("%s: %v", x.Name, d.out.Experiments)
			}
			e := d.out.Experiments[0]
			if names.Experiments[e.Name] != x.Name || names.Variations[e.Variation] != variation || e.Assigned != assigned || e.IsQualified != (v > 0) || v > 0 && e.Qualified != assigned+5 {
				t.Errorf("%s is %s: told as %s is %s: %+v", x.Name, variation, names.Experiments[e.Name], names.Variations[e.Variation], e)
			}
			told++
		}
	}
	if told != 7 {
		t.Errorf("%d marks told", told)
	}
}

func number(t *testing.T, text string) (n int64) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
