package evidence

import "math"

// Interval is a range of values, its ends included.
type Interval struct{ Low, High float64 }

// Sequence is an asymptotic confidence sequence (Waudby-Smith et al., arXiv 2103.06476, eq. 9): its intervals hold at all
// looks together with probability 1-Alpha. Both fields are fixed before the experiment begins.
type Sequence struct {
	Alpha float64 // 0 to 1
	NStar float64 // sessions of both variations at which the intervals are narrowest
}

func rho(alpha, nStar float64) float64 {
	l := -2 * math.Log(alpha)
	return math.Sqrt((l + math.Log1p(l)) / nStar)
}

// spread is rho and k = N rho^2 + 1.
func (s Sequence) spread(alpha float64, e Effect) (r, k float64) {
	r = rho(alpha, s.NStar)
	return r, e.N*r*r + 1
}

func half(e Effect, r, k, l float64) float64 {
	return e.SE * math.Sqrt(e.N) * math.Sqrt(2*k*l) / (e.N * r)
}

// Interval is the two-sided interval of the effect.
func (s Sequence) Interval(e Effect) Interval {
	r, k := s.spread(s.Alpha, e)
	h := half(e, r, k, math.Log(math.Sqrt(k)/s.Alpha))
	return Interval{e.Diff - h, e.Diff + h}
}

// LogE is the logarithm of the e-value against no effect: evidence that grows with it, and 1/e is a p-value at every look.
func (s Sequence) LogE(e Effect) float64 {
	r, k := s.spread(s.Alpha, e)
	z := e.Diff / e.SE
	return r*r*e.N*z*z/(2*k) - math.Log(k)/2
}

// Lower is the least effect that is not excluded when only that end is asked for.
func (s Sequence) Lower(e Effect) float64 {
	r, k := s.spread(2*s.Alpha, e)
	return e.Diff - half(e, r, k, math.Log1p(math.Sqrt(k)/(2*s.Alpha)))
}

// Upper is the greatest effect that is not excluded when only that end is asked for.
func (s Sequence) Upper(e Effect) float64 {
	return -s.Lower(Effect{-e.Diff, e.SE, e.N})
}

// PGreater is the least alpha at which Lower, tuned as it is, excludes an effect of zero or less; at most 1.
func (s Sequence) PGreater(e Effect) float64 {
	if e.Diff <= 0 {
		return 1
	}
	r, k := s.spread(2*s.Alpha, e)
	z := e.Diff / e.SE
	return min(1, math.Sqrt(k)/(2*math.Expm1(r*r*e.N*z*z/(2*k))))
}

// P is the p-value of a log e-value.
func P(logE float64) float64 { return min(1, math.Exp(-logE)) }
