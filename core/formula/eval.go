package formula

import (
	"math"

	"tandem/core/evidence"
)

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

// cumulative lays counts between edges, which ascend, out as a cumulative histogram; nil if one is not known or below 0.
func cumulative(edges [][2]float64, counts []float64) []evidence.Bucket {
	var b []evidence.Bucket
	sum := 0.0
	for i, n := range counts {
		if !(n >= 0) {
			return nil
		}
		if n > 0 {
			b = append(b, evidence.Bucket{Upper: edges[i][0], Count: sum}, evidence.Bucket{Upper: edges[i][1], Count: sum + n})
			sum += n
		}
	}
	return b
}

// quantile is the q-quantile, q in [0, 1], of the events counted between the edges. It is NaN where there are none, or a count
// is not known or below 0.
func quantile(edges [][2]float64, counts []float64, q float64) float64 {
	return evidence.Quantile(cumulative(edges, counts), q)
}

// shareLE is the share of the events counted between the edges that are at most x, in [0, 1]; NaN as quantile is.
func shareLE(edges [][2]float64, counts []float64, x float64) float64 {
	return evidence.ShareBelow(cumulative(edges, counts), x)
}
