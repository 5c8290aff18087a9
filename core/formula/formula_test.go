package formula

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/evidence"
)

const head = "version: 1\ntenant: shop\nparams:\n  mp: {default: home}\nformulas:\n"

func testSchema() *Schema {
	return &Schema{
		Names:      map[string]bool{"visit": true, "visit.beta": true, "order": true, "order.beta": true, "order.revenue": true, "visitors": true, "home": true, "home.beta": true, "a-b": true},
		Points:     map[string]bool{"home": true, "order": true},
		Decimals:   map[string]int{"order.revenue": 2},
		Histograms: map[string]bool{"order.revenue": true},
		Buckets:    func(string) []int { return []int{0, 8, 16} },
	}
}

func evaluate(t *testing.T, text string, of map[string][]float64) ([]float64, *Compiled, error) {
	t.Helper()
	r, err := Load("f.yaml", []byte(head+text))
	if err != nil {
		return nil, nil, err
	}
	p := NewPlan(testSchema())
	c, err := r.Compile(p, Ask{ID: "f"})
	if err != nil {
		return nil, nil, err
	}
	return c.Eval(Columns{Points: 2, Of: func(b Base) []float64 { return of[b.Metric] }}), c, nil
}

func TestEval(t *testing.T) {
	null := math.NaN()
	of := map[string][]float64{"fm.order": {6, 0}, "fm.visit": {3, 0}, "fm.order.revenue": {1250, null}, "fm.visit.beta": {40, 4}, "assigned.visit.beta": {80, 4},
		"fm.visitors": {5, 6}, "fm.a-b": {1, 2}, "fm.home.beta": {2, 2}, "fm.order.revenue.h0": {0, 0}, "fm.order.revenue.h8": {10, 0}, "fm.order.revenue.h16": {10, 0}}
	for expr, want := range map[string][]float64{
		"order / visit": {2, null}, "order.revenue": {12.5, null}, "order.revenue * 2 - 1": {24, null}, "-(order + 1)": {-7, -1}, "+order": {6, 0},
		"visit.beta / assigned.visit.beta": {0.5, 1}, `beta("home") / visit.beta`: {0.05, 0.5}, `beta("${mp}") / visit.beta`: {0.05, 0.5},
		`hits("order") - order`: {0, 0}, `metric("a-b")`: {1, 2}, "clamp(order, 1, 3)": {3, 1}, `rolling(visitors, "24h")`: {5, 6}, "1 / 0": {null, null},
		"order / -2": {-3, 0}, "order.beta": {0, 0}, "1e308 * 10 * order": {null, null}, "quantile(order.revenue, 0.5)": {math.Exp2(9.0/8) / 100, null},
		"share_le(order.revenue, 0.03)": {0.5, null},
	} {
		got, _, err := evaluate(t, "  f: {title: F, expr: '"+strings.ReplaceAll(expr, "'", "''")+"'}\n", of)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		for i := range want {
			if math.IsNaN(want[i]) != math.IsNaN(got[i]) || math.Abs(want[i]-got[i]) > 1e-12 {
				t.Errorf("%s: %v, not %v", expr, got, want)
				break
			}
		}
	}
	got, c, err := evaluate(t, "  n: {title: N, expr: visit.beta}\n  f: {title: F, expr: order / n, minimum: 5}\n", of)
	if err != nil || got[0] != 6.0/40 || !math.IsNaN(got[1]) || c.Shape != (Shape{"fm.order", "fm.visit.beta"}) {
		t.Errorf("with a minimum: %v %v %v", got, c, err)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"  f: {title: F, expr: order > 1}":                                                     "f.yaml:6: formula f: expr: operator \">\"",
		"  a: {title: A, expr: b + 1}\n  b: {title: B, expr: 'c'}\n  c: {title: C, expr: a}":   "a -> b -> c -> a",
		"  f: {title: F, expr: f + 1}":                                                         "f -> f",
		"  f: {title: F, expr: a}\n  a: {title: A, expr: b + order}\n  b: {title: B, expr: a}": "f.yaml:7: formula a: it is defined by itself: a -> b -> a",
		"  f: {title: F, expr: 1}\n  f: {title: G, expr: 2}":                                   "line 6",
		"  f: {title: F, expr: '1 +'}":                                                         "f.yaml:6",
		"  f: {title: F, expr: 1, unti: ms}":                                                   `"unti" (line 6)`,
		"  f: {title: F, expr: 1, unit: cm}":                                                   "unit",
		"  f: {expr: 1}":                                                                       "no title",
		"  visit: {title: F, expr: 1}":                                                         "means something else",
		"  f: {title: F, expr: 'beta(order)'}":                                                 "name in quotes",
		"  f: {title: F, expr: '${mp} + 1'}":                                                   "f.yaml:6",
		"  f: {title: F, expr: 'beta(\"${nobody}\")'}":                                         "no such param",
		"  f: {title: F, expr: 'sum(order)'}":                                                  "f.yaml:6",
		"  f: {title: F, expr: 'order[0]'}":                                                    "no name",
		"  f: {title: F, expr: 'rolling(order, \"1h\")'}":                                      "of visitors",
		"  f: {title: F, expr: 'rolling(visitors, \"25h\")'}":                                  "at most 24h",
		"  f: {title: F, expr: 'quantile(order.revenue, 2)'}":                                  "not in 0 to 1",
		"  f: {title: F, expr: nobody}":                                                        "neither a formula nor a metric",
		"  f: {title: F, expr: 'quantile(order, 0.5)'}":                                        "no histogram",
		"  f: {title: F, expr: '" + strings.Repeat("1+", 3000) + "1'}":                         "bytes",
		"  f: {title: F, expr: '" + strings.Repeat("(", 500) + "1" + strings.Repeat(")", 500):  "f.yaml",
		"  f: {title: F, expr: 1, scope: site}":                                                "scope",
	} {
		_, _, err := evaluate(t, text+"\n", nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want something of %q", text, err, want)
		}
	}
}

// A key that is none is told with its line and nothing of Go's types.
func TestUnknownKeys(t *testing.T) {
	for text, want := range map[string]string{
		head + "formulae: {}\n": "formulae not found in type formula.repository",
		strings.Replace(head, "formulas:\n", "defaults: {owners: x}\n", 1): "owners not found in type formula.defaults",
	} {
		_, err := Load("f.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "struct") {
			t.Errorf("%v, want something of %q", err, want)
		}
	}
}

// chain is n formulas, f the first, each of the expression that of makes of the next one's id.
func chain(n int, of func(next string) string) string {
	ids := []string{"f"}
	for i := range n {
		ids = append(ids, fmt.Sprint("f", i))
	}
	var b strings.Builder
	for i := range n - 1 {
		fmt.Fprintf(&b, "  %s: {title: F, expr: %s}\n", ids[i], of(ids[i+1]))
	}
	return b.String() + "  " + ids[n-1] + ": {title: F, expr: order}\n"
}

func TestDepth(t *testing.T) {
	once := func(next string) string { return next }
	if _, _, err := evaluate(t, chain(maxDepth, once), nil); err != nil {
		t.Error(err)
	}
	_, _, err := evaluate(t, chain(maxDepth+2, once), nil)
	if want := "f.yaml:7: formula f0: formulas that name formulas are 65 deep here, more than 64; write some of them out"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Formulas of which each names the next one twice are loaded at once, and only what is written out of them has a limit.
func TestManyWays(t *testing.T) {
	ended := make(chan error, 1)
	go func() {
		r, err := Load("f.yaml", []byte(head+chain(50, func(next string) string { return next + " + " + next })))
		if err == nil {
			_, err = r.Compile(NewPlan(testSchema()), Ask{ID: "f"})
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "written out it has more than 10000 parts") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not within 10 s")
	}
}

// What a parameter is set to can never be more than a name: it is put into the parsed expression, and must be a point.
func TestSplice(t *testing.T) {
	r, err := Load("f.yaml", []byte(head+"  f: {title: 'T ${mp}', expr: 'beta(\"${mp}\") / visit.beta'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{`x") / 0 + beta("y`, "home.beta", "", "nobody", "${mp}", "home\n"} {
		if _, err := r.Compile(NewPlan(testSchema()), Ask{ID: "f", Params: map[string]string{"mp": v}}); err == nil {
			t.Errorf("%q is taken", v)
		}
	}
	p := NewPlan(testSchema())
	c, err := r.Compile(p, Ask{ID: "f", Params: map[string]string{"mp": "order"}})
	if err != nil || c.Title != "T order" || !slices.Equal(p.Bases, []Base{{"fm.order.beta", 0}, {"fm.visit.beta", 0}}) {
		t.Errorf("%v %v %v", c, p.Bases, err)
	}
}

// The quantile lies in the bucket where counting says, whatever the counts.
func TestQuantile(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		var buckets []int
		var counts []float64
		total := 0.0
		for b := 0; b < 40; b++ {
			if rnd.IntN(3) == 0 {
				n := float64(rnd.IntN(4))
				buckets, counts, total = append(buckets, b), append(counts, n), total+n
			}
		}
		q := []float64{0, 0.5, 0.95, 1, rnd.Float64()}[rnd.IntN(5)]
		var edges [][2]float64
		for _, b := range buckets {
			low, high := evidence.Bounds(b)
			edges = append(edges, [2]float64{low, high})
		}
		got := quantile(edges, counts, q)
		if total == 0 {
			if !math.IsNaN(got) {
				t.Fatalf("of nothing: %v", got)
			}
			continue
		}
		below, upTo := 0.0, 0.0
		for i, b := range buckets {
			low, high := evidence.Bounds(b)
			if high <= got {
				below += counts[i]
			}
			if low <= got {
				upTo += counts[i]
			}
		}
		if below > q*total+1e-9 || upTo < q*total-1e-9 {
			t.Fatalf("%v of %v %v is %v: %v below, %v up to it", q, buckets, counts, got, below, upTo)
		}
		if share := shareLE(edges, counts, got); q < 1 && math.Abs(share-q) > 1e-9 && q > 0 {
			t.Fatalf("share at the quantile %v is %v", q, share)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(head + "  f: {title: F, expr: 'beta(\"${mp}\") / visit'}\n  g: {title: G, expr: f * clamp(order, 0, 1) + quantile(order.revenue, 0.5)}\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Load("f.yaml", []byte(text))
		if err != nil {
			return
		}
		for _, one := range r.Formulas {
			if c, err := r.Compile(NewPlan(testSchema()), Ask{ID: one.ID}); err == nil {
				c.Eval(Columns{Points: 3, Of: func(Base) []float64 { return nil }})
			}
		}
	})
}

// An id that is none is told with those that there are, however many.
func TestUnknownID(t *testing.T) {
	text := head
	for i := range 32 {
		text += fmt.Sprintf("  f%d: {title: F, expr: order}\n", i)
	}
	r, err := Load("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Compile(NewPlan(testSchema()), Ask{ID: "conversion"})
	if err == nil || !strings.HasPrefix(err.Error(), `there is no formula "conversion"; there are f0, f1, f2, `) || !strings.HasSuffix(err.Error(), ", f29, 2 more") {
		t.Error(err)
	}
}
