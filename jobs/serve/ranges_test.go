package serve

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"tandem/jobs/serve/read"
	"tandem/scripts/devstack"
)

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
