package formula

import "math"

func constant(v float64) evalFunc {
	return func(cols Columns) []float64 {
		out := make([]float64, cols.Points)
		for i := range out {
			out[i] = v
		}
		return out
	}
}

func each1(x evalFunc, fn func(float64) float64) evalFunc {
	return func(cols Columns) []float64 {
		out := x(cols)
		for i, v := range out {
			out[i] = fn(v)
		}
		return out
	}
}

// binary works on columns that are nobody else's. What is not finite is null, as NaN.
func binary(op string, minimum float64, l, r evalFunc) evalFunc {
	return func(cols Columns) []float64 {
		a, b := l(cols), r(cols)
		for i := range a {
			v := math.NaN()
			switch op {
			case "+":
				v = a[i] + b[i]
			case "-":
				v = a[i] - b[i]
			case "*":
				v = a[i] * b[i]
			case "/":
				if b[i] != 0 && b[i] >= minimum || minimum == 0 && b[i] < 0 {
					v = a[i] / b[i]
				}
			}
			if math.IsInf(v, 0) {
				v = math.NaN()
			}
			a[i] = v
		}
		return a
	}
}

// bounds are those of a bucket of a histogram, in scaled values (SPEC 6).
func bounds(bucket int) (low, high float64) {
	if bucket == 0 {
		return 0, math.Exp2(1.0 / 8)
	}
	return math.Exp2(float64(bucket) / 8), math.Exp2(float64(bucket+1) / 8)
}

// quantile is the q-quantile, q in [0, 1], of the events counted between the edges, which ascend, interpolated between
// two. It is NaN where there are none, or a count is not known or below 0.
func quantile(edges [][2]float64, counts []float64, q float64) float64 {
	total := 0.0
	for _, n := range counts {
		if !(n >= 0) {
			return math.NaN()
		}
		total += n
	}
	if total == 0 {
		return math.NaN()
	}
	rank, before := q*total, 0.0
	last := math.NaN()
	for i, n := range counts {
		if n == 0 {
			continue
		}
		low, high := edges[i][0], edges[i][1]
		if before+n >= rank {
			return low + (high-low)*math.Max(0, rank-before)/n
		}
		before += n
		last = high
	}
	return last
}

// shareLE is the share of the events counted between the edges that are at most x, in [0, 1]; NaN as quantile is.
func shareLE(edges [][2]float64, counts []float64, x float64) float64 {
	total, below := 0.0, 0.0
	for i, n := range counts {
		if !(n >= 0) {
			return math.NaN()
		}
		low, high := edges[i][0], edges[i][1]
		total += n
		below += n * math.Min(1, math.Max(0, (x-low)/(high-low)))
	}
	if total == 0 {
		return math.NaN()
	}
	return below / total
}
