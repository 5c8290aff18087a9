package tenant

import (
	"slices"
	"testing"
)

// Weights that are written otherwise and mean the same split are no change; others are, and so is another control.
func TestDiffOfTheSplit(t *testing.T) {
	x := func(control string, weights ...float64) *Config {
		return &Config{Experiments: []Experiment{{Name: "x", Variations: []string{"a", "b", "c"}, Control: control, Weights: weights, Start: NoStart, End: NoEnd}}}
	}
	const altered = "control or weights of experiment x, which changes no row; what its metrics prove is counted from then on"
	for _, c := range []struct {
		b    *Config
		want []string
	}{
		{x("a", 1, 1, 1), nil}, {x("a", 0.1, 0.1, 0.1), nil}, {x("a", 33, 33, 33), nil},
		{x("a", 33, 33, 34), []string{altered}}, {x("b", 1, 1, 1), []string{altered}},
	} {
		if got := Diff(x("a", 1, 1, 1), c.b, 0).Alters; !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.b.Experiments[0], got, c.want)
		}
	}
}
