package evidence

import (
	"math"

	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/stat/distuv"
)

// Concentrations of the count tests' mixture: the larger, the smaller the differences for which a test is tuned
// (measured for conversion, errors and splits).
const (
	GuardrailC  = 100
	ConversionC = 1000
	SplitC      = 10000
)

// logMixture is the log probability of the counts, in the order in which they came, under a Dirichlet mixture.
func logMixture(counts, alphas []float64) float64 {
	var a, n, l float64
	for i, c := range counts {
		a, n = a+alphas[i], n+c
		l += logGamma(alphas[i]+c) - logGamma(alphas[i])
	}
	return l + logGamma(a) - logGamma(a+n)
}

// logSplit is the log probability of the counts, in the order in which they came, when each falls by the shares.
func logSplit(counts, shares []float64) float64 {
	var l float64
	for i, c := range counts {
		if c > 0 {
			l += c * math.Log(shares[i])
		}
	}
	return l
}

func logGamma(x float64) float64 {
	l, _ := math.Lgamma(x)
	return l
}

// SplitLogE is the log e-value of the sequential multinomial test (Lindon, Malek, arXiv 2011.03567) against cumulative
// counts falling by the weights. Variations of weight 0 are left out. Without two weights, or without counts, it is 0.
func SplitLogE(counts, weights []float64, concentration float64) float64 {
	counts, shares := normal(counts, weights)
	if len(counts) < 2 {
		return 0
	}
	alphas := make([]float64, len(shares))
	for i, w := range shares {
		alphas[i] = concentration * w
	}
	return logMixture(counts, alphas) - logSplit(counts, shares)
}

// normal leaves out what has no weight, and makes shares of the weights.
func normal(counts, weights []float64) (c, shares []float64) {
	var sum float64
	for _, w := range weights {
		sum += max(w, 0)
	}
	for i, w := range weights {
		if w > 0 {
			c, shares = append(c, counts[i]), append(shares, w/sum)
		}
	}
	return c, shares
}

// ChiSquare is Pearson's test of the counts against the weights at one look: for closed days, never for a page that is
// looked at again and again. Variations of weight 0 count neither in the sum nor in the degrees of freedom.
func ChiSquare(counts, weights []float64) (x2, p float64) {
	counts, shares := normal(counts, weights)
	var n float64
	for _, c := range counts {
		n += c
	}
	if len(counts) < 2 || n == 0 {
		return 0, 1
	}
	for i, c := range counts {
		d := c - n*shares[i]
		x2 += d * d / (n * shares[i])
	}
	return x2, distuv.ChiSquared{K: float64(len(counts) - 1)}.Survival(x2)
}

// Events are the cumulative events of a treatment and of the control, each in a session of its own, and the share of
// sessions that the treatment is given. With equal rates each event is the treatment's with that probability, however
// traffic and rates go over the day, so the test asks for nothing but these counts, and for the split to be as intended.
type Events struct {
	Treatment, Control float64
	Share              float64 // of the treatment among both, above 0 and below 1
}

// LogE is the log e-value against equal rates.
func (e Events) LogE(concentration float64) float64 {
	return SplitLogE([]float64{e.Treatment, e.Control}, []float64{e.Share, 1 - e.Share}, concentration)
}

// LogEGreater is the log e-value against the treatment's rate being the control's or less: the mixture is only over
// greater ones. For the other side give the two the other way round.
func (e Events) LogEGreater(concentration float64) float64 {
	a, b := concentration*e.Share, concentration*(1-e.Share)
	above := func(a, b float64) float64 { return mathext.RegIncBeta(b, a, 1-e.Share) }
	tail := above(a+e.Treatment, b+e.Control)
	if tail == 0 {
		return math.Inf(-1)
	}
	return e.LogE(concentration) + math.Log(tail) - math.Log(above(a, b))
}

// ShareInterval holds the treatment's true share of events, at all looks together with probability 1-alpha.
func (e Events) ShareInterval(concentration, alpha float64) Interval {
	n := e.Treatment + e.Control
	if n == 0 {
		return Interval{0, 1}
	}
	c := []float64{e.Treatment, e.Control}
	least := logMixture(c, []float64{concentration * e.Share, concentration * (1 - e.Share)}) + math.Log(alpha)
	inside := func(theta float64) bool { return logSplit(c, []float64{theta, 1 - theta}) > least }
	peak := e.Treatment / n
	end := func(in, out float64) float64 {
		if inside(out) {
			return out
		}
		for range 200 {
			mid := (in + out) / 2
			if mid == in || mid == out {
				break
			}
			if inside(mid) {
				in = mid
			} else {
				out = mid
			}
		}
		return in
	}
	return Interval{end(peak, 0), end(peak, 1)}
}

// RateInterval holds the ratio of the treatment's rate to the control's, as ShareInterval does. Its upper end may be +Inf.
func (e Events) RateInterval(concentration, alpha float64) Interval {
	s := e.ShareInterval(concentration, alpha)
	rate := func(theta float64) float64 { return theta / (1 - theta) * (1 - e.Share) / e.Share }
	return Interval{rate(s.Low), rate(s.High)}
}

// Silent says, for each variation, whether it brought nothing although that many sessions of the others would leave it
// without one with a probability below alpha only.
func Silent(recent, weights []float64, alpha float64) []bool {
	var n, sum float64
	for i, c := range recent {
		n += c
		sum += max(weights[i], 0)
	}
	silent := make([]bool, len(recent))
	for i, c := range recent {
		silent[i] = c == 0 && weights[i] > 0 && n*math.Log1p(-weights[i]/sum) < math.Log(alpha)
	}
	return silent
}
