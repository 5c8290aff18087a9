package evidence

import "math"

// Histogram holds how many values fell into each bucket i of SPEC 6 (`P.V.h<i>`): bucket 0 holds scaled integers up to 1,
// bucket i those from 2^(i/8) to below 2^((i+1)/8).
type Histogram map[int]float64

// Bounds are those of bucket i, scaled.
func Bounds(i int) (low, high float64) {
	if i == 0 {
		return 0, math.Exp2(1. / 8)
	}
	return math.Exp2(float64(i) / 8), math.Exp2(float64(i+1) / 8)
}

// Buckets lays the histogram out by upper bound, unscaled from the value's decimals, with cumulative counts.
func (h Histogram) Buckets(decimals int) []Bucket {
	top := -1
	for i := range h {
		top = max(top, i)
	}
	unit := math.Pow10(-decimals)
	var b []Bucket
	var sum float64
	for i := 0; i <= top; i++ {
		if n := h[i]; n != 0 {
			low, high := Bounds(i)
			b = append(b, Bucket{low * unit, sum}, Bucket{high * unit, sum + n})
			sum += n
		}
	}
	return b
}

// Bucket is a point of a cumulative histogram: so many values are at most Upper.
type Bucket struct{ Upper, Count float64 }

// Quantile is the value below which the share q of all lies, by interpolation within a bucket; NaN of an empty histogram or
// a q outside 0 to 1. Buckets are by Upper ascending; the last may be +Inf, which gives the upper bound of the one before.
func Quantile(b []Bucket, q float64) float64 {
	if len(b) == 0 || b[len(b)-1].Count == 0 || !(q >= 0 && q <= 1) {
		return math.NaN()
	}
	rank := q * b[len(b)-1].Count
	low := Bucket{}
	for _, next := range b {
		if next.Count >= rank && next.Count > low.Count {
			if math.IsInf(next.Upper, 1) {
				return low.Upper
			}
			return low.Upper + (next.Upper-low.Upper)*(rank-low.Count)/(next.Count-low.Count)
		}
		low = next
	}
	return low.Upper
}

// ShareBelow is the share of values at most x, by interpolation within a bucket; NaN of an empty histogram.
func ShareBelow(b []Bucket, x float64) float64 {
	if len(b) == 0 || b[len(b)-1].Count == 0 {
		return math.NaN()
	}
	all := b[len(b)-1].Count
	low := Bucket{}
	for _, next := range b {
		if x < next.Upper {
			if math.IsInf(next.Upper, 1) || x <= low.Upper {
				return low.Count / all
			}
			return (low.Count + (next.Count-low.Count)*((x-low.Upper)/(next.Upper-low.Upper))) / all
		}
		low = next
	}
	return 1
}
