// Package evidence says what the sums of an experiment prove: tests and intervals that hold at every look, so that a page
// may show them each minute. All of it needs only sums that merge: sessions of a scope (`visit.beta`, SPEC 6), sums, sums
// of squares and of products of per-session totals.
//
// Callers give sums over closed minutes only, and from the start of the experiment, or of the phase with one split: what
// can still be corrected proves nothing, and a window of totals has no sum of squares.
package evidence

import "math"

// Moments are those of one per-session quantity in one variation.
type Moments struct {
	N    float64 // sessions
	Mean float64
	Var  float64 // of one session; NaN where N is too small to tell
}

// Mean gives the moments of a quantity from the sum of the sessions' totals and that of their squares.
func Mean(n, sum, sq float64) Moments {
	return Moments{n, sum / n, (sq - sum*sum/n) / (n - 1)}
}

// Proportion gives the moments of what a session either has or has not.
func Proportion(n, hits float64) Moments {
	p := hits / n
	return Moments{n, p, p * (1 - p)}
}

// Total is the sum of a per-session total over sessions, and that of its squares.
type Total struct{ Sum, Sq float64 }

// Covariance is the sample covariance of two per-session totals, from their sums and the sum of their products.
func Covariance(n, sumX, sumY, sumXY float64) float64 {
	return (sumXY - sumX*sumY/n) / (n - 1)
}

// Ratio gives the moments of num/den, a ratio of sums, by the delta method (Deng, Knoblich, Lu, arXiv 1803.06336); cross is
// the sum of the products of a session's two totals.
func Ratio(n float64, num, den Total, cross float64) Moments {
	x, y := Mean(n, num.Sum, num.Sq), Mean(n, den.Sum, den.Sq)
	c := Covariance(n, num.Sum, den.Sum, cross)
	y2 := y.Mean * y.Mean
	return Moments{n, x.Mean / y.Mean, x.Var/y2 + y.Var*x.Mean*x.Mean/(y2*y2) - 2*c*x.Mean/(y2*y.Mean)}
}

// steady is how many standard errors a control's mean must lie from zero before anything is divided by it.
const steady = 3

// Steady says whether the mean is far enough from zero to divide by it. One that is zero without any error is not.
func (m Moments) Steady() bool {
	return m.Mean != 0 && math.Abs(m.Mean) >= steady*math.Sqrt(m.Var/m.N)
}

// Effect is a difference between a treatment and the control.
type Effect struct {
	Diff float64
	SE   float64 // its standard error
	N    float64 // sessions of both
}

// Absolute is the treatment's mean less the control's.
func Absolute(treatment, control Moments) Effect {
	return Effect{treatment.Mean - control.Mean, math.Sqrt(treatment.Var/treatment.N + control.Var/control.N), treatment.N + control.N}
}

// Relative is the difference over the control's absolute mean (so that more is always above zero), by the delta method. It
// is of no use while the control is not Steady.
func Relative(treatment, control Moments) Effect {
	t, c := treatment, control
	c2 := c.Mean * c.Mean
	return Effect{(t.Mean - c.Mean) / math.Abs(c.Mean), math.Sqrt(t.Var/(t.N*c2) + t.Mean*t.Mean*c.Var/(c.N*c2*c2)), t.N + c.N}
}

// Known says whether the effect has an error to judge it by.
func (e Effect) Known() bool {
	return e.SE > 0 && !math.IsInf(e.SE, 0) && !math.IsNaN(e.Diff) && e.N > 0
}
