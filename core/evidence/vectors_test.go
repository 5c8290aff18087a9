package evidence

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

// vector is one of testdata/stats_vectors.json: figures of other systems' test suites, each with its source.
type vector struct {
	Source, Test, Kind, Note string
	Inputs                   inputs
	Expected                 map[string]any
	Tolerance                struct{ Abs, Rel float64 }
}

type inputs struct {
	Control, Treatment   arm
	Treatments           []arm
	Difference           string
	Alternative          string
	Alpha, NStar         float64
	Observed, Weights    []float64
	Increments           [][]float64
	Null, DirichletAlpha []float64
	N, SumX, SumY, SumXY float64
	CumulativeBuckets    [][2]*float64
	Q, Lower, Upper      float64
	Events               []struct {
		Session string
		Dx      float64
	}

	TreatmentShare, Concentration float64
	TreatmentCount, ControlCount  float64
	Treated, Controlled           []float64 // of kind ewma, where the names are arrays
	Lam                           float64
}

type arm struct {
	Type                                          string
	N, Sum, SumSq                                 float64
	NumSum, NumSumSq, DenSum, DenSumSq, NumDenSum float64
}

func (a arm) moments() Moments {
	switch a.Type {
	case "proportion":
		return Proportion(a.N, a.Sum)
	case "ratio":
		return Ratio(a.N, Total{a.NumSum, a.NumSumSq}, Total{a.DenSum, a.DenSumSq}, a.NumDenSum)
	}
	return Mean(a.N, a.Sum, a.SumSq)
}

func (in inputs) effect() Effect { return in.of(in.Treatment) }

func (in inputs) of(t arm) Effect {
	if in.Difference == "relative" {
		return Relative(t.moments(), in.Control.moments())
	}
	return Absolute(t.moments(), in.Control.moments())
}

// left are the kinds that are left out, with the reason.
var left = map[string]string{
	"cuped_mean":                                 "there is no covariate from before an experiment",
	"cuped_mean_sequential":                      "there is no covariate from before an experiment",
	"cuped_theta":                                "there is no covariate from before an experiment",
	"cuped_ratio":                                "there is no covariate from before an experiment",
	"cuped_ratio_sequential":                     "there is no covariate from before an experiment",
	"quantile_diff_normal":                       "quantiles are shown without an interval: a session's values are not independent",
	"bayes_normal":                               "there are no priors",
	"confseq_normal_mixture":                     "another confidence sequence, whose variance must be known",
	"confseq_gamma_exponential":                  "another confidence sequence, for one sample",
	"confseq_gamma_poisson":                      "another confidence sequence, for one sample",
	"confseq_beta_binomial":                      "another confidence sequence, for one sample",
	"confseq_poly_stitching":                     "another confidence sequence, for one sample",
	"confseq_empirical_process_lil":              "quantiles are shown without an interval",
	"confseq_double_stitching":                   "quantiles are shown without an interval",
	"confseq_bernoulli_ci":                       "another confidence sequence, for one sample",
	"confseq_quantile_ab_p":                      "quantiles are shown without an interval",
	"alpha_spending_obf_type":                    "looks are not planned, so no alpha is spent on them",
	"confidence_level_obf":                       "looks are not planned, so no alpha is spent on them",
	"group_sequential_last_look":                 "looks are not planned, so no alpha is spent on them",
	"group_sequential_adjusted_alpha":            "looks are not planned, so no alpha is spent on them",
	"group_sequential_ci":                        "looks are not planned, so no alpha is spent on them",
	"proportion_diff_relative_constant_baseline": "it takes the control for a constant, which is wrong",
	"multiple_testing_bonferroni":                "many tests are judged by e-BH",
	"multiple_testing_bh_threshold":              "many tests are judged by e-BH: BH on p-values asks for independence",
	"multiple_testing_bonferroni_threshold":      "many tests are judged by e-BH",
	"student_ttest_pooled_or_welch":              "variances of variations are never pooled",
	"sample_size":                                "no sample is planned",
	"power_one_sided_normal":                     "no sample is planned",
	"sample_size_relative_mei":                   "no sample is planned",
	"sample_size_bernoulli":                      "no sample is planned",
	"mad":                                        "a series is judged by its control, not by its own past",
	"variance_population":                        "a variance is that of a sample, n-1",
	"holt_double_exponential":                    "a series is judged by its control, not by its own past",
	"linear_forecast":                            "nothing is forecast",
	"msprt_statsig_critical_z":                   "a boundary that stays the same is not valid at every look",
	"msprt_normal":                               "another confidence sequence, whose tuning depends on the metric's scale",
}

func welchDF(t, c Moments) float64 {
	a, b := t.Var/t.N, c.Var/c.N
	return (a + b) * (a + b) / (a*a/(t.N-1) + b*b/(c.N-1))
}

// kinds checks those that apply. Intervals of one look are made here from the effect and its error: these are what is ours.
var kinds = map[string]func(c *check, in inputs){
	"welch_ttest": func(c *check, in inputs) {
		e := in.effect()
		fixed(c, e, distuv.StudentsT{Sigma: 1, Nu: welchDF(in.Treatment.moments(), in.Control.moments())}, in)
	},
	"ratio_delta": func(c *check, in inputs) {
		t, k := in.Treatment.moments(), in.Control.moments()
		c.is("ratio_control", k.Mean)
		c.is("ratio_treatment", t.Mean)
		fixed(c, in.effect(), distuv.StudentsT{Sigma: 1, Nu: welchDF(t, k)}, in)
	},
	"ztest_diff": func(c *check, in inputs) { fixed(c, in.effect(), distuv.UnitNormal, in) },
	"proportion_diff_chi2": func(c *check, in inputs) {
		in.Alternative = "two-sided"
		delete(c.v.Expected, "p_value") // Pearson's of the table, with a pooled variance
		fixed(c, in.effect(), distuv.UnitNormal, in)
	},
	"non_inferiority_z": func(c *check, in inputs) {
		in.Alternative = "smaller"
		delete(c.v.Expected, "p_value_lt")
		fixed(c, in.effect(), distuv.UnitNormal, in)
	},
	"per_exposure_metric_holm": func(c *check, in inputs) {
		for i, t := range in.Treatments {
			m, e := t.moments(), in.of(t)
			c.isAt("mean", i, m.Mean)
			c.isAt("std", i, math.Sqrt(m.Var))
			c.isAt("diff", i, e.Diff)
			c.isAt("relative_se", i, e.SE)
			c.isAt("df", i, welchDF(m, in.Control.moments()))
			p := 2 * distuv.StudentsT{Sigma: 1, Nu: welchDF(m, in.Control.moments())}.Survival(math.Abs(e.Diff/e.SE))
			c.isAt("p_unadjusted", i, p)
		}
		c.without("p_holm", "ci_halfwidth") // Holm's
	},
	"sequential_ci_asymptotic": func(c *check, in inputs) {
		s, e := Sequence{in.Alpha, in.NStar}, in.effect()
		c.is("estimate", e.Diff)
		c.is("se", e.SE)
		switch in.Alternative {
		case "two-sided":
			i := s.Interval(e)
			c.isAt("ci", 0, i.Low)
			c.isAt("ci", 1, i.High)
			c.is("ci_lower", i.Low)
			c.is("p_value", P(s.LogE(e)))
		case "greater":
			c.isAt("ci", 0, s.Lower(e))
			c.without("p_value") // of a boundary tuned anew for each alpha, which is none of a sequence
		case "less":
			c.isAt("ci", 1, s.Upper(e))
			c.without("p_value") // as above
		}
	},
	"covariance_from_sums": func(c *check, in inputs) { c.is("covariance", Covariance(in.N, in.SumX, in.SumY, in.SumXY)) },
	"srm_chi2": func(c *check, in inputs) {
		x2, p := ChiSquare(in.Observed, in.Weights)
		c.is("chi2", x2)
		if c.v.Test == "test_run_goodness_of_fit_test_false" {
			// Its suite compares seven places, which any small value passes, and the figure is not that of the inputs:
			// they come to 335.85, of which exp(-x/2) (1+x/2) remains with four degrees of freedom.
			if want := math.Exp(-x2/2) * (1 + x2/2); math.Abs(x2-335.85) > 1e-9 || math.Abs(p/want-1) > 1e-9 {
				c.t.Errorf("%v, p %v, want 335.85 and %v", x2, p, want)
			}
			c.without("p_value")
		}
		if !slices.Contains(c.seen, "p_value") {
			c.is("p_value", p)
		}
		if limit, ok := c.v.Expected["p_value_lt"]; ok && p >= limit.(float64) {
			c.t.Errorf("p %v, want below %v", p, limit)
		}
		c.without("p_value_lt")
	},
	"srm_sequential_multinomial": func(c *check, in inputs) {
		counts := make([]float64, len(in.Null))
		var m1, m0 float64
		for i, inc := range in.Increments {
			for j, d := range inc {
				counts[j] += d
			}
			m1, m0 = logMixture(counts, in.DirichletAlpha), logSplit(counts, in.Null)
			c.isAt("log_m1", i, m1)
			c.isAt("log_m0", i, m0)
		}
		for j := range counts {
			c.isAt("alpha_last", j, in.DirichletAlpha[j]+counts[j])
		}
		if in.DirichletAlpha[0] == 10000*in.Null[0] {
			e := SplitLogE(counts, in.Null, 10000)
			c.is("bayes_factor_last", math.Exp(e))
			c.is("posterior_probability_last", 1/(1+math.Exp(-e)))
			p := 1.
			clear(counts)
			for _, inc := range in.Increments {
				for j, d := range inc {
					counts[j] += d
				}
				p = min(p, P(SplitLogE(counts, in.Null, 10000)))
			}
			c.is("p_value_last", p)
		}
	},
	"count_rate_test_multinomial": func(c *check, in inputs) {
		e := Events{in.TreatmentCount, in.ControlCount, in.TreatmentShare}
		c.is("log_e", e.LogE(in.Concentration))
		c.is("p_value", P(e.LogE(in.Concentration)))
		s, r := e.ShareInterval(in.Concentration, in.Alpha), e.RateInterval(in.Concentration, in.Alpha)
		c.isAt("theta_ci", 0, s.Low)
		c.isAt("theta_ci", 1, s.High)
		c.isAt("rate_ratio_ci", 0, r.Low)
		c.isAt("rate_ratio_ci", 1, r.High)
	},
	"ewma_control_referenced": func(c *check, in inputs) {
		if in.Lam != breakWeight {
			c.t.Fatalf("lambda %v", in.Lam)
		}
		var b Break
		for i := range in.Treated {
			before := b.Level
			b.Add(in.Treated[i], in.Controlled[i], in.TreatmentShare)
			c.isAt("ewma", i, b.Level)
			c.isAt("z", i, (b.Level-(1-breakWeight)*before)/breakWeight)
		}
		c.without("limit_L_5_304") // TestBreakLimit
	},
	"sum_sq_delta_emission": func(c *check, in inputs) {
		// Rows `P.V.cap.sq` telescope so (SPEC 6); what comes of them is a variance.
		totals := map[string]float64{}
		var sum, sq float64
		for i, e := range in.Events {
			x := totals[e.Session]
			totals[e.Session] += e.Dx
			sum, sq = sum+e.Dx, sq+totals[e.Session]*totals[e.Session]-x*x
			_ = i
		}
		c.is("final_sum", sum)
		c.is("final_sum_sq", sq)
		mean, want := sum/float64(len(totals)), 0.
		for _, x := range totals {
			want += (x - mean) * (x - mean)
		}
		if got := Mean(float64(len(totals)), sum, sq).Var; math.Abs(got-want) > 1e-9 {
			c.t.Errorf("variance %v, want %v", got, want)
		}
		c.without("emissions") // core/session's
	},
	"histogram_quantile_linear": func(c *check, in inputs) { c.is("value", Quantile(in.buckets(), in.Q)) },
	"histogram_fraction": func(c *check, in inputs) {
		c.is("value", ShareBelow(in.buckets(), in.Upper)-ShareBelow(in.buckets(), in.Lower))
	},
}

func (in inputs) buckets() []Bucket {
	var b []Bucket
	for _, x := range in.CumulativeBuckets {
		upper := math.Inf(1)
		if x[0] != nil {
			upper = *x[0]
		}
		b = append(b, Bucket{upper, *x[1]})
	}
	return b
}

type dist interface {
	Survival(float64) float64
	Quantile(float64) float64
}

// fixed checks an interval and a p-value of one look.
func fixed(c *check, e Effect, d dist, in inputs) {
	c.is("estimate", e.Diff)
	c.is("se", e.SE)
	z := e.Diff / e.SE
	switch in.Alternative {
	case "greater", "larger":
		c.isAt("ci", 0, e.Diff-d.Quantile(1-in.Alpha)*e.SE)
		c.is("p_value", d.Survival(z))
	case "less":
		c.isAt("ci", 1, e.Diff+d.Quantile(1-in.Alpha)*e.SE)
		c.is("p_value", 1-d.Survival(z))
	case "smaller":
		c.isAt("ci", 1, e.Diff+d.Quantile(1-in.Alpha)*e.SE)
	default:
		h := d.Quantile(1-in.Alpha/2) * e.SE
		c.isAt("ci", 0, e.Diff-h)
		c.isAt("ci", 1, e.Diff+h)
		c.is("p_value", 2*d.Survival(math.Abs(z)))
	}
}

// check compares with what a vector expects, and remembers what was looked at.
type check struct {
	t    *testing.T
	v    vector
	seen []string
}

func (c *check) without(names ...string) { c.seen = append(c.seen, names...) }

func (c *check) is(name string, got float64) {
	want, ok := c.v.Expected[name]
	if ok {
		c.near(name, got, want)
	}
}

func (c *check) isAt(name string, i int, got float64) {
	if list, ok := c.v.Expected[name].([]any); ok {
		c.near(fmt.Sprintf("%s[%d]", name, i), got, list[i])
		c.seen = append(c.seen, name)
	}
}

func (c *check) near(name string, got float64, want any) {
	c.seen = append(c.seen, name)
	if want == nil {
		return
	}
	w := want.(float64)
	if d := math.Abs(got - w); !(d <= c.v.Tolerance.Abs || d <= c.v.Tolerance.Rel*math.Abs(w)) {
		c.t.Errorf("%s is %v, want %v", name, got, w)
	}
}

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/stats_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var raw []map[string]any
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	vectors := decode(t, raw)
	done, used := 0, map[string]bool{}
	for i, v := range vectors {
		used[v.Kind] = true
		fn := kinds[v.Kind]
		if fn == nil {
			if left[v.Kind] == "" {
				t.Errorf("vector %d: kind %s is neither checked nor left out", i, v.Kind)
			}
			continue
		}
		t.Run(fmt.Sprintf("%d_%s", i, v.Kind), func(t *testing.T) {
			c := &check{t: t, v: v}
			fn(c, v.Inputs)
			for name := range c.v.Expected {
				if !slices.Contains(c.seen, name) {
					t.Errorf("%s is not compared", name)
				}
			}
		})
		done++
	}
	for kind := range left {
		if !used[kind] {
			t.Errorf("no vector is of kind %s", kind)
		}
	}
	if done < 40 || len(vectors) != 91 {
		t.Errorf("%d of %d vectors are compared", done, len(vectors))
	}
	t.Logf("%d of %d vectors apply", done, len(vectors))
}
