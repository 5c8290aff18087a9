package serve

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/batch"
	"tandem/core/metric"
	"tandem/jobs/serve/read"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// Whole days are held, and what is held is what their windows come to now: also after one was run again, and where a
// generation goes on beyond midnight.
func TestDays(t *testing.T) {
	ctx, rnd, chain := context.Background(), rand.New(rand.NewPCG(5, 5)), testChain(t)
	st := testStore(t, never)
	const count, day = 4, 1440
	value := func(g, window int64) int64 { return g*1_000_003 + window*17 }
	hash := func(v int64) uint64 { return uint64(v%50+1) * 0x9e3779b97f4a7c15 }
	write := func(g, window int64) {
		var s metric.Sketch
		s.Add(hash(value(g, window)))
		for name, cell := range map[string]row.Cell{"site.visit": {Tags: "device=none,login=none", Value: value(g, window)},
			"site.visitors": {Tags: "device=none,login=none", Sketch: s.AppendBinary(nil)}} {
			kind := row.Sums
			if cell.Sketch != nil {
				kind = row.Sketches
			}
			data, err := row.Append(nil, kind, []row.Cell{cell})
			must(t, err)
			must(t, st.PutRollups(ctx, []store.Row{{Series: store.Series{Tenant: "shop", Metric: name, Layer: batch.Layer(g)}, Minute: window, Value: data}}))
		}
		must(t, st.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: window, Generation: g}))
	}
	of := map[int64]int64{}
	put := func(g, window int64) { write(g, window); of[window] = g }
	for w := int64(0); w < count*day; w += 30 {
		put(w/day/2+rnd.Int64N(2), w) // some generations run over midnight
	}
	r := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: never, Hold: 1})
	for round := range 6 {
		x, err := r.Resolve(ctx, chain)
		must(t, err)
		for _, q := range []read.Query{{From: 0, To: count * day, Step: day}, {From: 0, To: count * day, Step: count * day}, {From: 30, To: count*day - 30, Step: 2 * day},
			{From: day, To: count * day, Step: day, Rolling: 2 * day}} {
			q.Metrics = []string{"site.visit", "site.visitors"}
			a, err := x.Range(ctx, q)
			must(t, err)
			sums, seen := make([]int64, a.Points()), make([]int64, a.Points())
			for p := range sums {
				from, to := q.From+int64(p)*q.Step, min(q.To, q.From+int64(p+1)*q.Step)
				if q.Rolling > 0 {
					from = to - q.Rolling
				}
				set := map[uint64]bool{}
				for w := from; w < to; w += 30 {
					sums[p] += value(of[w], w)
					set[hash(value(of[w], w))] = true
				}
				seen[p] = int64(len(set))
			}
			if !slices.Equal(a.Series[0].Values, sums) || !slices.Equal(a.Series[1].Values, seen) {
				t.Fatalf("round %d, %+v: %v %v, not %v %v", round, q, a.Series[0].Values, a.Series[1].Values, sums, seen)
			}
			if slices.Contains(a.States, read.Provisional) {
				t.Fatalf("%+v: %v", q, a.States)
			}
		}
		put(int64(10+round), rnd.Int64N(count*48)*30)
	}
}
