package evidence

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Under equal rates, of looks at every minute a share of alpha at most sees a difference; and a real one is seen.
func TestFalseAlarms(t *testing.T) {
	const runs, minutes, perMinute = 300, 300, 40
	rng := rand.New(rand.NewPCG(1, 2))
	var split, fixed, counts, means, worse, missed int
	for range runs {
		n := []float64{0, 0}
		var x [2]float64
		minSplit, minFixed, maxE, maxMean, maxWorse, power := 1., 1., 0., 0., 0., 0.
		var bad float64
		for m := range minutes {
			rate := 0.05 * (1 + 0.8*math.Sin(float64(m)/40)) // a season
			for range perMinute {
				v := rng.IntN(2)
				n[v]++
				if rng.Float64() < rate {
					x[v]++
				}
				if v == 1 && rng.Float64() < rate/2 {
					bad++
				}
			}
			minSplit = min(minSplit, P(SplitLogE(n, []float64{1, 1}, SplitC)))
			_, p := ChiSquare(n, []float64{1, 1})
			minFixed = min(minFixed, p)
			e := Events{x[1], x[0], 0.5}
			maxE, maxWorse = max(maxE, e.LogE(ConversionC)), max(maxWorse, e.LogEGreater(GuardrailC))
			power = max(power, Events{bad, x[0], 0.5}.LogE(ConversionC))
			if min(x[0], x[1]) >= MinEvents {
				maxMean = max(maxMean, Sequence{0.05, 10000}.LogE(Absolute(Proportion(n[1], x[1]), Proportion(n[0], x[0]))))
			}
		}
		limit := math.Log(20)
		split += count(minSplit < 0.05)
		fixed += count(minFixed < 0.05)
		counts += count(maxE > limit)
		means += count(maxMean > limit)
		worse += count(maxWorse > limit)
		missed += count(power < limit)
	}
	// 5 % of 300 are 15; four standard deviations more are 30.
	for name, got := range map[string]int{"split": split, "counts": counts, "means": means, "one-sided counts": worse} {
		if got > 30 {
			t.Errorf("%s: %d of %d runs without a difference see one", name, got, runs)
		}
	}
	if fixed < 60 {
		t.Errorf("a test of one look, made every minute, alarms in %d of %d runs only: the others would prove nothing here", fixed, runs)
	}
	if missed > 0 {
		t.Errorf("half the rate is not seen in %d of %d runs", missed, runs)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// An interval excludes no difference exactly where its e-value, or its p-value, says so.
func TestIntervalsAndTestsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		s := Sequence{[]float64{0.05, 0.01, 0.001}[rng.IntN(3)], math.Exp(rng.Float64()*8 + 5)}
		e := Effect{rng.NormFloat64() * 4, 0.1 + rng.Float64(), math.Exp(rng.Float64() * 14)}
		i := s.Interval(e)
		if zero := i.Low > 0 || i.High < 0; zero != (s.LogE(e) > -math.Log(s.Alpha)) {
			t.Fatalf("%+v %+v: interval %v, log e %v", s, e, i, s.LogE(e))
		}
		if (s.Lower(e) > 0) != (s.PGreater(e) < s.Alpha) {
			t.Fatalf("%+v %+v: lower end %v, p %v", s, e, s.Lower(e), s.PGreater(e))
		}
		if e.N > s.NStar/10 && (s.Lower(e) < i.Low || s.Upper(e) > i.High) {
			t.Fatalf("%+v %+v: one side %v to %v is wider than both %v", s, e, s.Lower(e), s.Upper(e), i)
		}
		w := Events{float64(rng.IntN(200)), float64(rng.IntN(200)), 0.1 + 0.8*rng.Float64()}
		c := w.ShareInterval(GuardrailC, s.Alpha)
		if out := w.Share < c.Low || w.Share > c.High; out != (w.LogE(GuardrailC) > -math.Log(s.Alpha)) {
			t.Fatalf("%+v: share %v, log e %v", w, c, w.LogE(GuardrailC))
		}
	}
}

// The mixture over greater rates, by its integral.
func TestOneSidedMixture(t *testing.T) {
	for _, e := range []Events{{60, 40, 0.5}, {40, 60, 0.5}, {15, 285, 0.1}, {0, 7, 0.3}, {7, 0, 0.3}, {0, 0, 0.5}} {
		a, b := GuardrailC*e.Share, GuardrailC*(1-e.Share)
		var with, prior float64
		const steps = 200000
		for i := range steps {
			th := e.Share + (1-e.Share)*(float64(i)+0.5)/steps
			p := math.Exp((a-1)*math.Log(th) + (b-1)*math.Log(1-th) - logGamma(a) - logGamma(b) + logGamma(a+b))
			prior += p
			with += p * math.Exp(logSplit([]float64{e.Treatment, e.Control}, []float64{th, 1 - th})-logSplit([]float64{e.Treatment, e.Control}, []float64{e.Share, 1 - e.Share}))
		}
		if got, want := e.LogEGreater(GuardrailC), math.Log(with/prior); math.Abs(got-want) > 1e-6 {
			t.Errorf("%+v: %v, want %v", e, got, want)
		}
	}
}

func TestEBH(t *testing.T) {
	log := func(e ...float64) []float64 {
		for i := range e {
			e[i] = math.Log(e[i])
		}
		return e
	}
	for _, c := range []struct {
		e    []float64
		want []bool
	}{
		{nil, []bool{}},
		{log(19.99), []bool{false}},
		{log(20), []bool{true}},
		{log(39, 1), []bool{false, false}},
		{log(1, 41), []bool{false, true}},
		{log(20, 20), []bool{true, true}}, // the second is at least 2/(2*0.05)
		{log(21, 1, 39), []bool{true, false, true}},
	} {
		got := EBH(c.e, 0.05)
		want := naiveEBH(c.e, 0.05)
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%v: %v, want %v", c.e, got, want)
			}
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		e := make([]float64, rng.IntN(8))
		for i := range e {
			e[i] = math.Log(float64(1 + rng.IntN(200)))
		}
		got, want := EBH(e, 0.05), naiveEBH(e, 0.05)
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%v: %v, want %v", e, got, want)
			}
		}
	}
}

// naiveEBH tries each k and counts.
func naiveEBH(logE []float64, q float64) []bool {
	stands := make([]bool, len(logE))
	for k := len(logE); k >= 1; k-- {
		limit, n := math.Log(float64(len(logE))/(float64(k)*q)), 0
		for _, e := range logE {
			n += count(e >= limit)
		}
		if n >= k {
			for i, e := range logE {
				stands[i] = e >= limit
			}
			return stands
		}
	}
	return stands
}

func TestBreakLimit(t *testing.T) {
	// The vectors' limit is of L = 5.304, ours of 5.30.
	if got, want := breakLimit*math.Sqrt(breakWeight/(2-breakWeight)), 1.2168210524494596; math.Abs(got-want) > 1e-3 {
		t.Errorf("limit %v, want about %v", got, want)
	}
	var b Break
	minutes := 0
	for !b.Alarm && minutes < 100 {
		b.Add(50, 100, 0.5)
		minutes++
	}
	if minutes > 10 {
		t.Errorf("half of the events gone is seen after %d minutes", minutes)
	}
	b = Break{}
	b.Add(0, 0, 0.5)
	if b != (Break{}) {
		t.Error("a minute without events changed the alarm")
	}
}

func TestSilent(t *testing.T) {
	for _, c := range []struct {
		recent, weights []float64
		want            bool
	}{
		{[]float64{19, 0}, []float64{1, 1}, false}, // 2^-19 is above a millionth
		{[]float64{20, 0}, []float64{1, 1}, true},
		{[]float64{500, 0}, []float64{1, 0}, false}, // none was meant to come
		{[]float64{131, 0}, []float64{9, 1}, false},
		{[]float64{132, 0}, []float64{9, 1}, true},
		{[]float64{0, 0}, []float64{1, 1}, false},
	} {
		if got := Silent(c.recent, c.weights, SilentAlpha)[1]; got != c.want {
			t.Errorf("%v of %v: %v", c.recent, c.weights, got)
		}
	}
}

// A histogram's quantile lies in the bucket of the value that has the rank.
func TestHistogramQuantile(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		h := Histogram{}
		var values []float64
		for range 1 + rng.IntN(50) {
			n := rng.IntN(100000)
			i := 0
			if n > 1 {
				i = int(math.Floor(8 * math.Log2(float64(n))))
			}
			h[i]++
			values = append(values, float64(n))
		}
		b := h.Buckets(2)
		low, high := math.Inf(1), math.Inf(-1)
		for _, v := range values {
			low, high = min(low, v/100), max(high, v/100)
		}
		last := 0.
		for q := 0.; q <= 1; q += 0.05 {
			v := Quantile(b, q)
			if v < last || v > high*math.Exp2(1./8)+0.011 || v < low*math.Exp2(-1./8)-0.011 {
				t.Fatalf("quantile %v is %v, of values from %v to %v", q, v, low, high)
			}
			last = v
			if back := ShareBelow(b, v); q > 0.01 && math.Abs(back-q) > 1e-9 {
				t.Fatalf("quantile %v is %v, and %v of the values are at most that", q, v, back)
			}
		}
	}
	if !math.IsNaN(Quantile(nil, 0.5)) || !math.IsNaN(ShareBelow(nil, 1)) {
		t.Error("an empty histogram has no quantile")
	}
}

func TestStatus(t *testing.T) {
	ok := Signs{Started: true, Recent: 1, Sessions: 1000, SplitP: 0.5}
	for _, c := range []struct {
		change func(*Signs)
		want   Status
	}{
		{func(*Signs) {}, Running},
		{func(s *Signs) { s.Started = false }, Planned},
		{func(s *Signs) { s.Recent = 0 }, NoData},
		{func(s *Signs) { s.Recent, s.Ended = 0, true }, Ended},
		{func(s *Signs) { s.Behind = true }, NoData},
		{func(s *Signs) { s.Behind, s.Ended = true, true }, Ended},
		{func(s *Signs) { s.Sessions, s.Ended = 0, true }, NoData},
		{func(s *Signs) { s.Recent, s.SplitP = 0, 0.0009 }, SRM},
		{func(s *Signs) { s.SplitP = SplitAlpha }, Running},
		{func(s *Signs) { s.SplitP, s.Failing = 0.0009, true }, SRM},
		{func(s *Signs) { s.Silent = true }, Unhealthy},
		{func(s *Signs) { s.Broken = true }, Unhealthy},
		{func(s *Signs) { s.Failing = true }, Failing},
	} {
		s := ok
		c.change(&s)
		if got := s.Status(); got != c.want {
			t.Errorf("%+v: %s, want %s", s, got, c.want)
		}
	}
}

// Nothing is divided by a mean that is zero, or within its error of it.
func TestSteady(t *testing.T) {
	for _, c := range []struct {
		m    Moments
		want bool
	}{{Moments{100, 0, 0}, false}, {Moments{100, 0.29, 1}, false}, {Moments{100, -0.31, 1}, true}, {Moments{100, 2, 0}, true}, {Mean(0, 0, 0), false}} {
		if c.m.Steady() != c.want {
			t.Errorf("%+v is steady: %v", c.m, !c.want)
		}
	}
}
