package aggregate

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/row"
)

// However cells come, from however many shards, with zeros and sums that come to zero: a row is the sums that are not zero, in
// order, and what was written before stays as it was.
func TestRowsAreSumsInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	s := begin(t, Config{}, 0, nil, "")
	var names []uint32
	for i := range 12 {
		names = append(names, s.intern(fmt.Sprint("n", rng.IntN(1000), i)))
	}
	type written struct{ value, copied []byte }
	var all []written
	for range 3000 {
		var r rowState
		want := map[[2]string]int64{}
		for shard := range rng.IntN(4) {
			c := contribution{shard: shard}
			for range rng.IntN([]int{3, 12, 600}[rng.IntN(3)]) {
				x := cell{variation: names[rng.IntN(3)], tags: names[rng.IntN(len(names))], value: rng.Int64N(4) - 1}
				c.told.cells = append(c.told.cells, x)
				want[[2]string{s.texts[x.variation], s.texts[x.tags]}] += x.value
			}
			r.shards = append(r.shards, c)
			if rng.IntN(3) == 0 && shard > 0 { // the same cells again: a form that is known
				r.shards[shard].told.cells = slices.Clone(r.shards[0].told.cells)
				clear(want)
				for _, c := range r.shards {
					for _, x := range c.told.cells {
						want[[2]string{s.texts[x.variation], s.texts[x.tags]}] += x.value
					}
				}
			}
		}
		for range 2 {
			got, err := s.encode(&r)
			if err != nil {
				t.Fatal(err)
			}
			var cells []row.Cell
			for k, v := range want {
				if v != 0 {
					cells = append(cells, row.Cell{Variation: k[0], Tags: k[1], Value: v})
				}
			}
			slices.SortFunc(cells, func(a, b row.Cell) int {
				return cmp.Or(strings.Compare(a.Variation, b.Variation), strings.Compare(a.Tags, b.Tags))
			})
			expected, err := row.Append(nil, row.Sums, cells)
			if err != nil || !bytes.Equal(got, expected) {
				t.Fatalf("%v: %d bytes, want %d, of %v", err, len(got), len(expected), slices.Collect(maps.Values(want)))
			}
			all = append(all, written{got, bytes.Clone(got)})
		}
	}
	for _, w := range all {
		if !bytes.Equal(w.value, w.copied) {
			t.Fatal("a row was changed after it was written")
		}
	}
	if len(s.forms.of) == 0 || s.forms.cells > formsCells {
		t.Errorf("%d forms of %d cells", len(s.forms.of), s.forms.cells)
	}
}
