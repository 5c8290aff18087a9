package metric

import (
	"math/bits"
	"testing"
)

// TestKeysSpread: keys that differ in one part only, or in all, must not crowd into few places of a minute's table. Drawn at random,
// 79 of 100 would begin at different places.
func TestKeysSpread(t *testing.T) {
	for _, c := range []struct {
		what                            string
		scopes, groups, variations, tag int
	}{
		{"scopes", 4001, 1, 1, 1},
		{"groups", 1, 1000, 1, 1},
		{"variations", 1, 1, 1000, 1},
		{"tag sets", 1, 1, 1, 4000},
		{"the benchmark's", 41, 6, 2, 12},
		{"many experiments'", 1001, 6, 2, 6},
	} {
		n := c.scopes * c.groups * c.variations * c.tag
		mask := uint64(1)<<bits.Len(uint(2*n-1)) - 1
		begins := map[uint64]bool{}
		for s := range c.scopes {
			for g := range c.groups {
				for v := range c.variations {
					for tag := range c.tag {
						begins[NewKey(s, g, v, uint32(tag)).hash()&mask] = true
					}
				}
			}
		}
		if share := float64(len(begins)) / float64(n); share < 0.6 {
			t.Errorf("%s: %d keys begin at %d places, %.0f of 100", c.what, n, len(begins), 100*share)
		}
	}
}
