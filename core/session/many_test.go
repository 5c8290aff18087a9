package session_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
)

// Sessions of up to 90 experiments, more than a burst takes together, most of which they have from their first beacon on. They qualify
// for them at up to 12 orders one after another, so that a beacon is more to their fm scopes than there are bunches.
func TestManyExperiments(t *testing.T) {
	const many, begin = 90, 1_767_268_800_000
	config := "tenant: shop\ntags: {device: [desktop, mobile]}\npoints:\n  home: {kind: page, stats: true}\n" +
		"  order: {stats: true, values: {revenue: {cap: 9, histogram: true}}}\ncross:\n  - [order.revenue, order]\nexperiments:\n"
	for i := range many {
		config += fmt.Sprintf("  e%02d: {variations: [a, b]", i)
		if orders := max(0, i%25-12); orders > 0 {
			config += ", qualify: [" + strings.Repeat(`'point == "order"', `, orders) + "]"
		}
		config += "}\n"
	}
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := worlds.World{Seed: seed, Configs: []string{config}}
		for session := range 2 {
			ts, exps := int64(begin), []string{}
			for n := range 30 {
				for i := range many {
					if n == 0 && rng.IntN(20) > 0 || rng.IntN(400) == 0 {
						exps = append(exps, fmt.Sprintf(`"e%02d":"%c"`, i, 'a'+byte((i+session)%2)))
					}
				}
				ts += rng.Int64N(30_000)
				text := fmt.Sprintf(`{"id":"%d","tenant":"shop","session":"s%d","visitor":"v%d","ts":%d,"device":"%s","point":"home"`, n, session, rng.IntN(2), ts, []string{"desktop", "mobile"}[rng.IntN(9)/8])
				if rng.IntN(2) == 0 {
					text = strings.Replace(text, "home", "order", 1) + fmt.Sprintf(`,"values":{"revenue":%d}`, rng.IntN(20))
				}
				seen := map[string]bool{}
				var list []string
				for _, x := range exps {
					if name := x[:5]; !seen[name] {
						seen[name] = true
						list = append(list, x)
					}
				}
				w.Records = append(w.Records, oracle.Record{Ingest: ts, Payload: []byte(text + `,"experiments":{` + strings.Join(list, ",") + `}}`)})
			}
		}
		if fault := judge(w); fault != "" {
			t.Fatalf("seed %d: %s", seed, fault)
		}
	}
}
