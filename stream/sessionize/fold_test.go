package sessionize

import (
	"testing"

	"tandem/core/session"
)

// TestAlikeDividesNoTS: two runs are alike as far as their beacons are the same records, but never up to between two of
// one ts in either (SPEC 7).
func TestAlikeDividesNoTS(t *testing.T) {
	run := func(ts ...int64) (out []session.Event) {
		for i, at := range ts {
			out = append(out, session.Event{TS: at, ID: []byte{byte(i)}, Offset: int64(i)})
		}
		return out
	}
	other := func(run []session.Event, i int) []session.Event {
		run[i].Offset = 99
		return run
	}
	for name, c := range map[string]struct {
		a, b []session.Event
		want int
	}{
		"nothing":                           {run(), run(1), 0},
		"one goes on":                       {run(1, 2), run(1, 2, 3), 2},
		"one goes on with the last ts":      {run(1, 2), run(1, 2, 2), 1},
		"and all are of it":                 {run(2, 2), run(2, 2, 2), 0},
		"another record of the same beacon": {run(1, 2, 3), other(run(1, 2, 3), 1), 1},
		"the second of one ts":              {run(1, 2, 2, 3), other(run(1, 2, 2, 3), 2), 1},
		"another after one ts":              {run(1, 2, 2, 3), other(run(1, 2, 2, 4), 3), 3},
		"the same":                          {run(1, 2, 2), run(1, 2, 2), 3},
	} {
		if a, b := alike(c.a, c.b), alike(c.b, c.a); a != c.want || b != c.want {
			t.Errorf("%s: %d and %d beacons are alike, want %d", name, a, b, c.want)
		}
	}
}
