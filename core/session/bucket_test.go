package session

import (
	"math/big"
	"testing"
)

// TestBucket checks every power of two and its neighbours, and every start of a bucket and its neighbours, against the
// definition: the bit length of n^8, less one (SPEC 6).
func TestBucket(t *testing.T) {
	want := func(n int64) int {
		if n <= 1 {
			return 0
		}
		return new(big.Int).Exp(big.NewInt(n), big.NewInt(8), nil).BitLen() - 1
	}
	check := func(n int64) {
		if got := Bucket(n); got != want(n) {
			t.Errorf("Bucket(%d) = %d, want %d", n, got, want(n))
		}
	}
	for _, n := range []int64{-1e11, -1, 0, 1, 2, 3, 4, 1023, 1024, 1025, 1e11 - 1, 1e11} {
		check(n)
	}
	for k := range 37 {
		for d := int64(-2); d <= 2; d++ {
			check(min(1<<k+d, 1e11))
		}
	}
	for _, s := range bucketStart[1:] {
		for d := int64(-1); d <= 1; d++ {
			check(min(s+d, 1e11))
		}
	}
}
