package judge

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"tandem/core/evidence"
	"tandem/core/formula"
	"tandem/core/tenant"
)

func TestStatOf(t *testing.T) {
	schema := &formula.Schema{Decimals: map[string]int{"order.revenue": 2}, Names: map[string]bool{}}
	for _, n := range []string{"visit.beta", "visit.end", "bounce", "order", "order.beta", "order.revenue", "order.revenue.cap", "order.revenue.cap.sq", "order.units",
		"item_page", "item_page.beta", "item_page.tot", "item_page.hit", "item_page.sq", "order.revenue*item_page"} {
		schema.Names[n] = true
	}
	for _, c := range []struct {
		num, den string
		want     *Stat
	}{
		{"fm.order.beta", "fm.visit.beta", &Stat{Kind: Proportion, Hits: "fm.order.beta", Unfrozen: "order"}},
		{"fm.item_page.beta", "fm.visit.beta", &Stat{Kind: Proportion, Hits: "fm.item_page.hit"}},
		{"fm.item_page.hit", "fm.visit.beta", &Stat{Kind: Proportion, Hits: "fm.item_page.hit"}},
		{"fm.item_page", "fm.visit.beta", &Stat{Kind: Mean, Num: Sums{"fm.item_page.tot", "fm.item_page.sq", 0}, Events: "fm.item_page.hit"}},
		{"fm.order.revenue", "fm.visit.beta", &Stat{Kind: Mean, Num: Sums{"fm.order.revenue.cap", "fm.order.revenue.cap.sq", 2}, Events: "fm.order", MinimumEvents: 300}},
		{"fm.item_page", "fm.order.revenue", &Stat{Kind: Ratio, Num: Sums{"fm.item_page.tot", "fm.item_page.sq", 0}, Den: Sums{"fm.order.revenue.cap", "fm.order.revenue.cap.sq", 2},
			Cross: "fm.order.revenue*item_page", Events: "fm.item_page.hit"}},
		{"fm.order.units", "fm.visit.beta", nil},      // neither stats nor a cap: there are no squares
		{"fm.bounce", "fm.visit.end", nil},            // a visit is no unit
		{"assigned.order.beta", "fm.visit.beta", nil}, // two populations
		{"fm.order.revenue", "fm.order.beta", nil},    // no pair
		{"", "", nil},
	} {
		got := Of(formula.Shape{Numerator: c.num, Denominator: c.den}, "fm", schema, 0)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s / %s: %+v, want %+v", c.num, c.den, got, c.want)
		}
	}
}

// A ratio's moments come in the units of the beacons.
func TestMomentsAreUnscaled(t *testing.T) {
	st := &Stat{Kind: Mean, Num: Sums{"cap", "sq", 2}, Events: "n"}
	// Two sessions of 1.50 and 2.50.
	m, events := st.moments(Side{N: 2, Sum: func(name string) float64 {
		return map[string]float64{"cap": 400, "sq": 150*150 + 250*250, "n": 2}[name]
	}})
	if m.Mean != 2 || math.Abs(m.Var-0.5) > 1e-12 || events != 2 {
		t.Errorf("%+v, %v events", m, events)
	}
}

// A guardrail fails by the counts of events from the first ones on, also where the other side has too few for an interval.
func TestGuardrailFailsBeforeBurnIn(t *testing.T) {
	st := &Stat{Kind: Proportion, Hits: "hits", MinimumEvents: 300}
	side := func(hits float64) Side { return Side{N: 100_000, Sum: func(string) float64 { return hits }} }
	for _, c := range []struct {
		treatment, control float64
		good               string
		failing            bool
	}{{5000, 0, "down", true}, {5000, 19, "down", true}, {5000, 290, "down", true}, {0, 5000, "up", true}, {0, 5000, "down", false}, {3, 0, "down", false}, {5000, 0, "none", false}} {
		v := st.Compare(side(c.treatment), side(c.control), Guard{Role: "guardrail", Good: c.good, Share: 0.5})
		if v.Why == "" || v.Failing != c.failing {
			t.Errorf("%+v: failing %v, waits: %s", c, v.Failing, v.Why)
		}
	}
}

// The minimum of a formula is its denominator's, as in its value, and asks for no more events.
func TestMinimumIsOfTheDenominator(t *testing.T) {
	proportion := formula.Shape{Numerator: "fm.order.beta", Denominator: "fm.visit.beta"}
	ratio := formula.Shape{Numerator: "fm.item_page", Denominator: "fm.order.revenue"}
	schema := &formula.Schema{Decimals: map[string]int{"order.revenue": 2}, Names: map[string]bool{}}
	for _, n := range []string{"order.beta", "order.revenue", "order.revenue.cap", "order.revenue.cap.sq", "item_page", "item_page.tot", "item_page.hit", "item_page.sq", "order.revenue*item_page"} {
		schema.Names[n] = true
	}
	side := func(n float64) Side {
		return Side{N: n, Sum: func(name string) float64 {
			return map[string]float64{"fm.order.beta": 30, "fm.item_page.tot": 900, "fm.item_page.sq": 9000, "fm.item_page.hit": 400, "fm.order.revenue.cap": 60_000,
				"fm.order.revenue.cap.sq": 4e7, "fm.order.revenue*item_page": 70_000}[name]
		}}
	}
	for _, c := range []struct {
		shape      formula.Shape
		n, minimum float64
		why        string
	}{
		{proportion, 500, 500, ""}, {proportion, 499, 500, "denominator is 500 in each variation, it is 499"},
		{ratio, 1000, 600, ""}, {ratio, 1000, 601, "denominator is 601 in each variation, it is 600"}, // of 600.00, not of cents
	} {
		v := Of(c.shape, "fm", schema, c.minimum).Compare(side(1000), side(c.n), Guard{})
		if c.why == "" && v.Why != "" || !strings.Contains(v.Why, c.why) {
			t.Errorf("%+v: %q", c, v.Why)
		}
	}
}

// A side whose values are all 0 has no error: it is neither divided by nor certain, and the absolute difference is told.
func TestNothingButZeros(t *testing.T) {
	st := &Stat{Kind: Mean, Num: Sums{"cap", "sq", 2}, Events: "orders", MinimumEvents: 300}
	side := func(cents float64) Side {
		return Side{N: 100_000, Sum: func(name string) float64 {
			return map[string]float64{"cap": 4000 * cents, "sq": 4000 * cents * cents, "orders": 4000}[name]
		}}
	}
	for _, c := range []struct{ treatment, control float64 }{{500, 0}, {0, 500}} {
		v := st.Compare(side(c.treatment), side(c.control), Guard{Role: "primary", Good: "up", Share: 0.5})
		want := (c.treatment - c.control) * 0.04 / 100
		if v.Steady || v.Absolute.Diff != want || !(v.Absolute.Low < want && v.Absolute.High > want) || !v.Signal || math.IsInf(v.LogE, 0) || math.IsNaN(v.LogE) {
			t.Errorf("%+v: %+v", c, v)
		}
	}
}

// Intervals and p-values of a formula's sums are those that other systems give of the same sums.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("../../../core/evidence/testdata/stats_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Test, Kind       string
		Inputs, Expected json.RawMessage // of other kinds they have other fields
		Tolerance        struct{ Abs float64 }
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	st := &Stat{Kind: Mean, Num: Sums{"sum", "sq", 2}, Events: "events"}
	checked := 0
	for _, v := range all {
		if v.Kind != "sequential_ci_asymptotic" {
			continue
		}
		type sums struct {
			N, Sum float64
			Sq     float64 `json:"sum_sq"`
		}
		var in struct {
			Control, Treatment      sums
			Difference, Alternative string
			Alpha                   float64
			NStar                   float64 `json:"n_star"`
		}
		var want struct {
			Estimate float64
			CI       []*float64
			Lower    float64 `json:"ci_lower"`
			P        float64 `json:"p_value"`
		}
		if err := errors.Join(json.Unmarshal(v.Inputs, &in), json.Unmarshal(v.Expected, &want)); err != nil {
			t.Fatal(err)
		}
		if in.Alternative != "two-sided" {
			continue
		}
		side := func(s sums) Side { // as stored: of two decimals
			return Side{N: s.N, Sum: func(name string) float64 {
				return map[string]float64{"sum": s.Sum * 100, "sq": s.Sq * 1e4, "events": 1000}[name]
			}}
		}
		got := st.compare(evidence.Sequence{Alpha: in.Alpha, NStar: in.NStar}, side(in.Treatment), side(in.Control), Guard{})
		e := got.Absolute
		if in.Difference == "relative" {
			e = got.Relative
		}
		low := want.Lower
		if len(want.CI) > 0 {
			low = *want.CI[0]
			if math.Abs(e.High-*want.CI[1]) > v.Tolerance.Abs {
				t.Errorf("%s: up to %v, not %v", v.Test, e.High, *want.CI[1])
			}
		}
		if got.Why != "" || math.Abs(e.Diff-want.Estimate) > v.Tolerance.Abs || math.Abs(e.Low-low) > v.Tolerance.Abs ||
			math.Abs(got.P()-want.P) > v.Tolerance.Abs {
			t.Errorf("%s: %+v, p %v; want %+v", v.Test, got, got.P(), want)
		}
		checked++
	}
	if checked < 2 {
		t.Errorf("%d vectors", checked)
	}
}

// A phase begins with a revision that changes split, variations, control, condition or start, and with no other.
func TestPhases(t *testing.T) {
	x := func(start int64, weights ...float64) tenant.Config {
		return tenant.Config{Retention: 30 * 86_400_000, Experiments: []tenant.Experiment{{Name: "x", Variations: []string{"a", "b"}, Control: "a", Weights: weights, Start: start, End: tenant.NoEnd}}}
	}
	one, two, three, four := x(tenant.NoStart, 1, 1), x(tenant.NoStart, 50, 50), x(tenant.NoStart, 1, 3), x(40*60_000, 1, 3)
	chain := &tenant.Chain{Revs: []tenant.Rev{{From: math.MinInt64, Config: &one}, {From: 10 * 60_000, Config: &two}, {From: 20 * 60_000, Config: &three}, {From: 30 * 60_000, Config: &four}}}
	for minute, want := range map[int64]int64{5: 0, 15: 0, 25: 20, 35: 40, 45: 40} {
		c, _ := ConfigAt(chain, minute*60_000)
		if from, to := Span(&c.Experiments[0], 0, minute); from != want || to != minute {
			t.Errorf("at minute %d it counts from %d to %d, not from %d", minute, from, to, want)
		}
	}
	if one.Experiments[0].Start != tenant.NoStart || three.Experiments[0].Start != tenant.NoStart {
		t.Error("the chain's configs were changed")
	}
}

// A Stat counts from the last revision on that changed a point, a value or a pair of its metrics, and from no other.
func TestSince(t *testing.T) {
	config := func(stats bool, cap int64, pair bool) *tenant.Config {
		c := &tenant.Config{Points: []tenant.Point{{Name: "page", Stats: true}, {Name: "order", Stats: stats, Values: []tenant.Value{{Name: "revenue", Decimals: 2, Cap: cap}}}}}
		if pair {
			c.Cross = []tenant.Pair{{A: "order.revenue", B: "page"}}
		}
		return c
	}
	chain := &tenant.Chain{}
	for i, c := range []*tenant.Config{config(false, 0, false), config(false, 500, false), config(true, 500, false), config(true, 500, true), config(true, 500, true)} {
		chain.Revs = append(chain.Revs, tenant.Rev{From: int64(i) * 600_000, Config: c})
	}
	chain.Revs[0].From = math.MinInt64
	page, revenue := Sums{"fm.page.tot", "fm.page.sq", 0}, Sums{"fm.order.revenue.cap", "fm.order.revenue.cap.sq", 2}
	for _, c := range []struct {
		st   Stat
		want [5]int64 // by revision
	}{
		{Stat{Kind: Proportion, Hits: "fm.page.hit"}, [5]int64{}},
		{Stat{Kind: Proportion, Hits: "fm.order.beta"}, [5]int64{0, 0, 20, 20, 20}},
		{Stat{Kind: Mean, Num: revenue, Events: "fm.order"}, [5]int64{0, 10, 20, 20, 20}},
		{Stat{Kind: Ratio, Num: revenue, Den: page, Cross: "fm.order.revenue*page", Events: "fm.order"}, [5]int64{0, 10, 20, 30, 30}},
	} {
		for rev, want := range c.want {
			if got := c.st.Since(chain, rev); got != want {
				t.Errorf("%+v counts from %d in revision %d, not from %d", c.st, got, rev, want)
			}
		}
	}
}
