package oracle

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/core/tenant"
)

const (
	base   = 1_767_607_200_000 // 2026-01-05T10:00:00Z
	minute = 60_000
)

// shop is a revision with one of everything, and limits that random traffic meets.
func shop() *tenant.Config {
	return &tenant.Config{
		Tenant: "shop", VisitGap: 10 * minute, SessionTTL: 30 * minute, Lateness: 10 * minute,
		MaxAge: 60 * minute, MaxSkew: 5 * minute, MaxEventsPerMinute: 5,
		Tags: []tenant.Tag{{Name: "device", Values: []string{"desktop", "mobile"}}},
		Points: []tenant.Point{
			{Name: "home", Page: true, Stats: true}, {Name: "item", Page: true, Stats: true},
			{Name: "order", Values: []tenant.Value{{Name: "revenue", Decimals: 2, Cap: 5000, Histogram: true}}},
		},
		Cross: []tenant.Pair{{A: "order.revenue", B: "item"}, {A: "home", B: "home"}},
		Experiments: []tenant.Experiment{
			{Name: "x", Variations: []string{"control", "red"}, Start: base + 10*minute, End: base + 60*minute},
			{Name: "y", Variations: []string{"a", "b"}, Start: tenant.NoStart, End: tenant.NoEnd,
				Qualify: []string{`point == "item" and device != "mobile"`, `point == "order"`}},
		},
	}
}

func traffic(rng *rand.Rand, n int) []Record {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var records []Record
	ts := int64(base)
	for range n {
		ts += []int64{0, 0, 1, 999, 30_000, minute, 10 * minute, 10*minute + 1, 30 * minute, 30*minute + 1, -minute}[rng.IntN(11)] * int64(rng.IntN(2))
		b := map[string]any{"id": fmt.Sprint(rng.IntN(n)), "tenant": "shop", "session": pick("s1", "s2"), "ts": ts,
			"point": pick("home", "item", "order", "elsewhere"), "visitor": pick("", "v1", "v2"), "device": pick("desktop", "mobile", "tv")}
		if rng.IntN(3) == 0 {
			b["experiments"] = map[string]string{pick("x", "y", "z"): pick("control", "red", "a", "b")}
		}
		if rng.IntN(2) == 0 {
			b["values"] = map[string]any{"revenue": json.Number(pick("0.005", "-30", "12.34", "60", "1"))}
		}
		payload, _ := json.Marshal(b) // of strings and numbers only
		r := Record{ts + []int64{0, 1, 10 * minute, 10*minute + 1, 60 * minute, 60*minute + 1, -5 * minute, -5*minute - 1}[rng.IntN(8)*rng.IntN(2)], payload}
		records = append(records, r)
		if rng.IntN(8) == 0 {
			records = append(records, Record{r.Ingest + int64(rng.IntN(2)), r.Payload})
		}
	}
	return records
}

func lines(r Result) string {
	return strings.Join(append(r.RowLines(), r.CountLines()...), "\n")
}

func TestProperties(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			records := traffic(rng, 60)
			chain := []*tenant.Config{shop()}
			for _, stream := range []bool{false, true} {
				got := Run(chain, records, stream)

				shuffled := slices.Clone(records)
				rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				if lines(Run(chain, shuffled, stream)) != lines(got) {
					t.Error("the order of the records matters")
				}

				// Revisions that change nothing that is counted, also a moved end of what has not ended.
				second, third := shop(), shop()
				second.HasFrom, second.From = true, base+20*minute
				third.HasFrom, third.From = true, base+21*minute
				second.Experiments[0].End += 40 * minute
				if lines(Run([]*tenant.Config{shop(), second, third}, records, stream)) != lines(got) {
					t.Error("a revision that changes nothing matters")
				}

				everything := shop()
				everything.Points = append(everything.Points, tenant.Point{Name: "elsewhere"})
				if all := accounted(Run([]*tenant.Config{everything}, records, stream)); all != int64(len(records)) {
					t.Errorf("%d records are accounted for, of %d", all, len(records))
				}
			}

			var inTime []Record
			for _, r := range records {
				if b, err := parse(r.Payload); err == nil && r.Ingest-b.ts <= shop().Lateness {
					inTime = append(inTime, r)
				}
			}
			stream, batch := Run(chain, inTime, true), Run(chain, inTime, false)
			if !slices.Equal(stream.RowLines(), batch.RowLines()) {
				t.Error("without late beacons the stream differs from the batch")
			}
			if !slices.Equal(stream.RowLines(), Run(chain, records, true).RowLines()) {
				t.Error("late beacons matter to the stream")
			}
		})
	}
}

// accounted adds up what became of every record where all points are listed: rejected, late, repeated, overflowed, or
// counted in its point.
func accounted(r Result) int64 {
	var n int64
	for name, c := range r.Counts {
		if name != "conflict" && name != "unknown_variation" {
			n += c
		}
	}
	for row, v := range r.Rows {
		switch row.Name {
		case "shop.visit.site.home", "shop.visit.site.item", "shop.visit.site.order", "shop.visit.site.elsewhere":
			n += v
		}
	}
	return n
}

// TestTelescopes checks that over a session the rows of a function of totals add up to that function of the last totals.
func TestTelescopes(t *testing.T) {
	for seed := range uint64(30) {
		var records []Record
		for _, r := range traffic(rand.New(rand.NewPCG(seed, 2)), 40) {
			if strings.Contains(string(r.Payload), `"s1"`) {
				records = append(records, r)
			}
		}
		config := shop()
		config.SessionTTL = 1000 * minute // one session
		sum := map[string]int64{}
		for row, v := range Run([]*tenant.Config{config}, records, false).Rows {
			sum[strings.TrimPrefix(row.Name, "shop.visit.site.")] += v
		}
		home, item, capped := sum["home"], sum["item"], clamp(sum["order.revenue"], 5000)
		want := map[string]int64{"home.tot": home, "home.hit": min(home, 1), "home.beta": min(home, 1), "home.sq": home * home,
			"order.revenue.cap": capped, "order.revenue.cap.sq": capped * capped, "order.revenue*item": capped * item,
			"home*home": home * home, "visit.beta": 1, "visit": sum["visit.end"]}
		for name, v := range want {
			if sum[name] != v {
				t.Errorf("seed %d: %s adds up to %d, expected %d", seed, name, sum[name], v)
			}
		}
	}
}

func BenchmarkOneSessionOf2000(b *testing.B) {
	config := shop()
	config.SessionTTL, config.MaxEventsPerMinute, config.MaxAge = 1<<40, 600, 1<<40
	config.Experiments[0].Start, config.Experiments[0].End = tenant.NoStart, tenant.NoEnd
	var records []Record
	for i := range 2000 {
		ts := base + int64(i)*20_000
		records = append(records, Record{ts, fmt.Appendf(nil, `{"id":"%d","tenant":"shop","session":"s","ts":%d,"point":"%s",`+
			`"device":"desktop","experiments":{"x":"red","y":"a"},"values":{"revenue":1.5}}`, i, ts, []string{"home", "item", "order"}[i%3])})
	}
	for b.Loop() {
		Run([]*tenant.Config{config}, records, false)
	}
}
