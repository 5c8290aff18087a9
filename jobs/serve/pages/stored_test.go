package pages

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/schemas/traffic"
)

// What is shown as a config's text says what the config says.
func TestConfigText(t *testing.T) {
	texts := map[string][]byte{"traffic": traffic.Config(), "made up": []byte(configText)}
	files, err := filepath.Glob("../../../core/oracle/testdata/cases/*/config.yaml")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		if texts[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		want, err := tenant.Load(name, text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tenant.Load(name, []byte(configYAML(want)))
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, configYAML(want))
		} else if !got.Equal(want) {
			t.Errorf("%s: %+v, want %+v\n%s", name, got, want, configYAML(want))
		}
	}
}

func TestStatOf(t *testing.T) {
	schema := &formula.Schema{Decimals: map[string]int{"order.revenue": 2}, Names: map[string]bool{}}
	for _, n := range []string{"visit.beta", "visit.end", "bounce", "order", "order.beta", "order.revenue", "order.revenue.cap", "order.revenue.cap.sq", "order.units",
		"item_page", "item_page.tot", "item_page.hit", "item_page.sq", "order.revenue*item_page"} {
		schema.Names[n] = true
	}
	for _, c := range []struct {
		num, den string
		want     *Stat
	}{
		{"fm.order.beta", "fm.visit.beta", &Stat{Kind: Proportion, Hits: "fm.order.beta"}},
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
		got := statOf(formula.Shape{Numerator: c.num, Denominator: c.den}, "fm", schema)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s / %s: %+v, want %+v", c.num, c.den, got, c.want)
		}
	}
}

// A ratio's moments come in the units of the beacons.
func TestMomentsAreUnscaled(t *testing.T) {
	st := &Stat{Kind: Mean, Num: Sums{"cap", "sq", 2}, Events: "n"}
	// Two sessions of 1.50 and 2.50.
	m, events := st.moments(2, func(name string) float64 {
		return map[string]float64{"cap": 400, "sq": 150*150 + 250*250, "n": 2}[name]
	})
	if m.Mean != 2 || math.Abs(m.Var-0.5) > 1e-12 || events != 2 {
		t.Errorf("%+v, %v events", m, events)
	}
}
