package metric

import (
	"math/rand/v2"
	"testing"
)

// Each page's sketch is that of the visitors that were shown to it, whether alone, beside sums, with another page or to both pages of
// an experiment; whether the log was brought in at its limit or because somebody looked. It never gets longer than its limit.
func TestVisitorsComeToTheirPages(t *testing.T) {
	for _, keys := range []int{1, 3, 60, 900} {
		rng := rand.New(rand.NewPCG(uint64(keys), 9))
		var s Sums
		m := s.At(1)
		want := map[Key]*Sketch{}
		met := func(k Key, visitor uint64) {
			k = k.withGroup(GroupSeen)
			if want[k] == nil {
				want[k] = &Sketch{}
			}
			want[k].Add(visitor)
		}
		introduced, looked := false, false
		n := 12_000 + 40*keys
		for i := range n {
			var to To
			page := NewKey(0, []int{GroupSeen, 2}[i%2], 0, uint32(keys%7))
			visitor := rng.Uint64() >> 1 << 1 >> (i % 3 * rng.IntN(2))
			for range 1 + rng.IntN(30) {
				k, twice := NewKey(2*rng.IntN(keys), 0, 0, 0), rng.IntN(2) > 0
				to.Add(k, twice)
				if met(k|page, visitor); twice {
					met(k.NextScope()|page, visitor)
				}
			}
			if i%2 == 0 {
				m.Seen(to, page, visitor)
			} else {
				m.Post(to, page, groupCells(2), 1, []int64{1}, visitor)
			}
			introduced = introduced || len(m.met) > 0 && !looked
			if n := len(m.log); n >= max(logLeast, min(logMost, logPerPage*len(m.seen))) {
				t.Fatalf("%d keys: a log of %d words", keys, n)
			}
			if i == n*3/4 {
				m.Untouch()
				looked = true
			}
		}
		if !introduced {
			t.Fatalf("%d keys: the log never reached its limit", keys)
		}
		got := map[Key]string{}
		var p Pages
		for w := s.Walk(groupCells); w.Next(&p); {
			for i, sketch := range p.Sketches {
				got[p.Keys[i]] = string(sketch.AppendBinary(nil))
			}
		}
		for k, sketch := range want {
			if got[k] != string(sketch.AppendBinary(nil)) {
				t.Fatalf("%d keys: another sketch in scope %d, of %d: %d bytes", keys, k.Scope(), len(want), len(got[k]))
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d keys: %d sketches, want %d", keys, len(got), len(want))
		}
	}
}
