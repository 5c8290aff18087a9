package serve

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"tandem/jobs/serve/read"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

// What the stream has of before the first covered window is there as before, unless minutes between the two are missing.
func TestFirstWindowHidesNothing(t *testing.T) {
	const begin, window, end = 30_005, 30_240, 30_300
	for _, c := range []struct{ closed, covered, from int64 }{{end, 0, begin}, {end, window, begin}, {window - 1, window, window}} {
		st := testStore(t, never)
		value, err := row.Append(nil, row.Sums, []row.Cell{{Tags: "device=mobile,login=true", Value: 1}})
		must(t, err)
		for _, m := range []int64{begin, window} {
			must(t, st.PutRows(t.Context(), []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visit", Layer: "stream.dc1"}, Minute: m, Value: value}}))
		}
		must(t, st.PutActive(t.Context(), store.Active{Tenant: "shop", Layer: "stream.dc1", Seq: 1}))
		must(t, st.PutProgress(t.Context(), store.Progress{Layer: "stream.dc1", Tenant: "shop", ClosedBefore: c.closed}))
		if c.covered > 0 {
			must(t, st.PutCoverage(t.Context(), store.Coverage{Tenant: "shop", Window: c.covered, Generation: 1}))
		}
		r := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: never, Hold: time.Nanosecond})
		for range 2 { // the second look takes what the first has found
			x, err := r.Resolve(t.Context(), testChain(t))
			must(t, err)
			if from, _ := x.Span(); from != c.from {
				t.Errorf("closed before %d, covered from %d: it begins at %d, not at %d", c.closed, c.covered, from, c.from)
			}
		}
	}
}

// Queries that are answered at once are answered as each alone, whichever of them read for the others.
func TestQueriesAtOnce(t *testing.T) {
	for seed := range uint64(devstack.Count(8, 50)) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		w := newWorld(t, rnd)
		x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(t.Context(), testChain(t))
		must(t, err)
		from := w.base + rnd.Int64N(worldMinutes/2)
		q := read.Query{Experiment: "x", From: from, To: from + 1 + rnd.Int64N(worldMinutes/2), Step: []int64{1, 5, 30, 60}[rnd.IntN(4)]}
		if rnd.IntN(2) == 0 {
			q.GroupBy = []string{"device"}
		}
		if rnd.IntN(3) == 0 {
			q.Filter = map[string][]string{"login": {"true"}}
		}
		var all []read.Query
		for _, rolling := range []int64{0, 5, 30, 60, 120, 1440} {
			if rolling > 0 && rolling%q.Step != 0 && q.Step%rolling != 0 || rnd.IntN(4) == 0 || from < rolling {
				continue
			}
			one := q
			one.Rolling = rolling
			one.Metrics = [][]string{{"fm.visitors"}, {"fm.order", "fm.visitors"}, {"fm.visitors", "fm.visit.beta", "fm.order"}}[rnd.IntN(3)]
			all = append(all, one)
		}
		answers, err := x.Ranges(t.Context(), x.Budget(), all)
		must(t, err)
		for i, one := range all {
			want, err := x.Range(t.Context(), one)
			must(t, err)
			if !reflect.DeepEqual(answers[i], want) {
				t.Fatalf("seed %d: %+v at once:\n%+v\nalone:\n%+v", seed, one, answers[i], want)
			}
		}
	}
}
