package tenant

import (
	"fmt"
	"testing"
)

// Dispatch rejects a beacon for a bad value that its revision lists; a splice that does not list it would count the beacon.
func TestGapsOfValues(t *testing.T) {
	const head = "tenant: shop\nfrom: 2026-01-01T00:00:00Z\n"
	chain := func(points ...string) *Chain {
		var configs []*Config
		for i, p := range points {
			text := head + p
			if i > 0 {
				text = "tenant: shop\nfrom: 2026-01-01T01:00:00Z\nto: 2026-01-01T02:00:00Z\n" + p
			}
			cfg, err := Load(fmt.Sprint(i), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			configs = append(configs, cfg)
		}
		c, err := Compile(configs)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const live = "points:\n  order: {values: {revenue: {}, units: {}}}\n  page: {kind: page}\n"
	const hour = 1767225600000 + 3600_000
	for _, c := range []struct {
		splice string
		want   []string
	}{
		{"points:\n  order: {values: {revenue: {cap: 9}, units: {}, more: {}}}\n  page: {}\n", nil},
		{"points:\n  order: {values: {revenue: {}}}\n  page: {}\n", []string{"point order without its value units"}},
		{"points:\n  page: {}\n", []string{"point order without its value revenue", "point order without its value units"}},
		{"points:\n  order: {}\n  cart: {}\n", []string{"point cart", "point order without its value revenue", "point order without its value units"}},
	} {
		gaps := chain(live, c.splice).Gaps(chain(live), 0, 1<<60)
		var got []string
		for _, g := range gaps {
			got = append(got, g.What)
			if g.From != hour || g.To != hour+3600_000 {
				t.Errorf("%s: %+v", c.splice, g)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.splice, got, c.want)
		}
	}
}
