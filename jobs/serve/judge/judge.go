// Package judge says what the sums of an experiment prove of a formula, and over which time: for the pages and for the API
// alike, so that the two never tell different things. The statistics themselves are core/evidence.
package judge

import (
	"math"
	"strconv"
	"strings"

	"tandem/core/evidence"
	"tandem/core/formula"
)

const (
	// Alpha is that of intervals, guardAlpha that of a guardrail.
	Alpha      = 0.05
	guardAlpha = 0.001
	// planned is the number of sessions at which intervals are narrowest. It must not follow from what has come.
	planned = 100_000
	// minOrders is the burn-in of amounts, whose tails are heavy.
	minOrders = evidence.MinOrders
)

// Kinds of Stat.
const (
	Proportion = "proportion" // Hits of the sessions (`P.hit`, or `P.beta`)
	Mean       = "mean"       // a total for each session
	Ratio      = "ratio"      // a total over another
)

// Stat names the metrics from which a formula's interval follows, with their scope. Its n is always Sessions of the scope.
type Stat struct {
	Kind          string
	Hits          string // of a proportion
	Num, Den      Sums   // of a mean (Num only) and of a ratio
	Cross         string // of a ratio: the sum of products
	Events        string // what the burn-in counts; of a proportion its hits
	MinimumEvents float64
	Minimum       float64 // of the denominator, the sessions or Den: below it the formula has no value
	// Unfrozen is a proportion's point without stats: its hits stand under each beacon's own tags, the sessions under those of their
	// first beacon (SPEC 6), so that the two of a tag are not of the same sessions.
	Unfrozen string
}

// Sums are the metrics of a per-session total and of its square, and the decimals of the total.
type Sums struct {
	Sum, Sq  string
	Decimals int
}

// Sessions is the metric that is the n of every analysis in a scope (SPEC 6).
func Sessions(scope string) string { return scope + ".visit.beta" }

// Of says what a formula of some shape can prove in a scope, "fm" or "assigned", with the metrics that the config in force has; nil: nothing.
// minimum is the formula's own: below it a denominator gives no value.
func Of(shape formula.Shape, scope string, schema *formula.Schema, minimum float64) *Stat {
	s := statOf(shape, scope, schema)
	if s != nil {
		s.Minimum = minimum
	}
	return s
}

func statOf(shape formula.Shape, scope string, schema *formula.Schema) *Stat {
	prefix := scope + "."
	num, ok := strings.CutPrefix(shape.Numerator, prefix)
	den, ok2 := strings.CutPrefix(shape.Denominator, prefix)
	if !ok || !ok2 || !schema.Names[num] {
		return nil
	}
	// A count has `stats`, a value a `cap`; both have sums of squares then.
	sums := func(name string) (s Sums, events string, ok bool) {
		name = strings.TrimSuffix(name, ".tot")
		if schema.Names[name+".sq"] && schema.Names[name+".tot"] {
			return Sums{prefix + name + ".tot", prefix + name + ".sq", 0}, prefix + name + ".hit", true
		}
		name = strings.TrimSuffix(name, ".cap")
		if schema.Names[name+".cap.sq"] {
			point, _, _ := strings.Cut(name, ".")
			if schema.Names[point+".tot"] { // the same count, under the tags of the sums
				point += ".tot"
			}
			return Sums{prefix + name + ".cap", prefix + name + ".cap.sq", schema.Decimals[name]}, prefix + point, true
		}
		return s, "", false
	}
	if den == "visit.beta" {
		if point, ok := strings.CutSuffix(num, ".beta"); ok {
			if schema.Names[point+".hit"] { // the same count, under the tags of the sessions
				return &Stat{Kind: Proportion, Hits: prefix + point + ".hit"}
			}
			return &Stat{Kind: Proportion, Hits: prefix + num, Unfrozen: point}
		}
		if strings.HasSuffix(num, ".hit") {
			return &Stat{Kind: Proportion, Hits: prefix + num}
		}
		if s, events, ok := sums(num); ok {
			return &Stat{Kind: Mean, Num: s, Events: events, MinimumEvents: minimumOf(s)}
		}
		return nil
	}
	x, events, ok := sums(num)
	y, _, ok2 := sums(den)
	if !ok || !ok2 {
		return nil
	}
	bare := func(name string) string { return strings.TrimSuffix(strings.TrimSuffix(name, ".tot"), ".cap") }
	for _, cross := range []string{bare(num) + "*" + bare(den), bare(den) + "*" + bare(num)} {
		if schema.Names[cross] {
			return &Stat{Kind: Ratio, Num: x, Den: y, Cross: prefix + cross, Events: events, MinimumEvents: minimumOf(x)}
		}
	}
	return nil
}

func minimumOf(s Sums) float64 {
	if strings.HasSuffix(s.Sum, ".cap") {
		return minOrders
	}
	return 0
}

// Capped says whether some total is a capped one.
func (s *Stat) Capped() bool {
	return strings.HasSuffix(s.Num.Sum, ".cap") || strings.HasSuffix(s.Den.Sum, ".cap")
}

// Names are all metrics that a Stat asks for, Sessions aside.
func (s *Stat) Names() []string {
	var out []string
	for _, n := range []string{s.Hits, s.Num.Sum, s.Num.Sq, s.Den.Sum, s.Den.Sq, s.Cross, s.Events} {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

// moments are those of a variation, and the events of its burn-in.
func (s *Stat) moments(v Side) (m evidence.Moments, events float64) {
	of := func(t Sums) evidence.Total {
		unit := math.Pow10(-t.Decimals)
		return evidence.Total{Sum: v.Sum(t.Sum) * unit, Sq: v.Sum(t.Sq) * unit * unit}
	}
	switch s.Kind {
	case Proportion:
		return evidence.Proportion(v.N, v.Sum(s.Hits)), v.Sum(s.Hits)
	case Mean:
		t := of(s.Num)
		return evidence.Mean(v.N, t.Sum, t.Sq), v.Sum(s.Events)
	}
	return evidence.Ratio(v.N, of(s.Num), of(s.Den), v.Sum(s.Cross)*math.Pow10(-s.Num.Decimals-s.Den.Decimals)), v.Sum(s.Events)
}

// denominator is that of the formula in a variation, in the unit of the beacons.
func (s *Stat) denominator(v Side) float64 {
	if s.Kind == Ratio {
		return v.Sum(s.Den.Sum) * math.Pow10(-s.Den.Decimals)
	}
	return v.N
}

// Side is a variation: its sessions, and the sums of its metrics in the scale of SPEC 6, all over the same minutes.
type Side struct {
	N    float64
	Sum  func(metric string) float64
	Part bool // of some tags only
}

// Guard says whether a formula guards against getting worse, and which way that is.
type Guard struct {
	Role, Good string  // the formula's
	Share      float64 // of the treatment, among it and the control, as intended
}

// Estimate is a difference with the interval that holds at every look with 95 %.
type Estimate struct {
	Diff float64
	evidence.Interval
}

// Verdict is what is proven of a formula in a treatment.
type Verdict struct {
	// Why says what is waited for; then nothing else is told but Failing.
	Why string
	// Absolute is the difference of what the control has; Relative its share of that, where that is Steady and the share has an error.
	Absolute, Relative Estimate
	Steady             bool
	// LogE is the logarithm of the e-value against no effect: of the relative difference where there is one, else of the absolute.
	LogE float64
	// Signal: the interval that LogE goes with leaves out zero.
	Signal bool
	// Failing: of a guardrail, that it is worse than the control, with a false alarm in 1,000 at most.
	Failing bool
}

// P is the p-value at every look.
func (v *Verdict) P() float64 { return evidence.P(v.LogE) }

// intervals are those of everything that is shown.
var intervals = evidence.Sequence{Alpha: Alpha, NStar: planned}

// Compare says what is known of a treatment against the control.
func (s *Stat) Compare(treatment, control Side, g Guard) Verdict {
	return s.compare(intervals, treatment, control, g)
}

func (s *Stat) compare(seq evidence.Sequence, treatment, control Side, g Guard) (v Verdict) {
	if s.Unfrozen != "" && (treatment.Part || control.Part) {
		v.Why = "by tags its hits are not of the same sessions as their number: declare stats for point " + s.Unfrozen
		return v
	}
	if treatment.N < 2 || control.N < 2 {
		v.Why = "too few sessions"
		return v
	}
	t, events := s.moments(treatment)
	c, eventsC := s.moments(control)
	guards := g.Role == "guardrail" && (g.Good == "up" || g.Good == "down")
	if guards && s.counted(g) {
		// The test of counts holds from the first event on; what the other side never has would be waited for without end.
		v.Failing = worseCounts(g, events, eventsC)
	}
	if least := min(s.denominator(treatment), s.denominator(control)); least < s.Minimum {
		v.Why = "waits until the formula's denominator is " + number(s.Minimum) + " in each variation, it is " + number(least)
		return v
	}
	if need := max(s.MinimumEvents, evidence.MinEvents); min(events, eventsC) < need {
		v.Why = "waits for " + number(need) + " events in each variation, has " + number(min(events, eventsC))
		return v
	}
	absolute := evidence.Absolute(t, c)
	if !absolute.Known() {
		v.Why = "no spread to judge by"
		return v
	}
	shown := absolute
	v.Absolute = Estimate{absolute.Diff, seq.Interval(absolute)}
	// Of a treatment that is zero throughout the relative difference has no error, which is no certainty.
	if relative := evidence.Relative(t, c); c.Steady() && relative.Known() {
		v.Steady, shown = true, relative
		v.Relative = Estimate{shown.Diff, seq.Interval(shown)}
	}
	v.LogE = seq.LogE(shown)
	v.Signal = v.LogE >= -math.Log(seq.Alpha)
	if guards && !s.counted(g) {
		v.Failing = worse(g, absolute)
	}
	return v
}

// counted says whether a guardrail is judged by counts of events alone.
func (s *Stat) counted(g Guard) bool { return s.Kind == Proportion && g.Share > 0 && g.Share < 1 }

// worseCounts says whether the events of a guardrail that is counted show it to be worse than the control's.
func worseCounts(g Guard, events, eventsC float64) bool {
	ev := evidence.Events{Treatment: events, Control: eventsC, Share: g.Share}
	if g.Good == "up" {
		ev = evidence.Events{Treatment: eventsC, Control: events, Share: 1 - g.Share}
	}
	return ev.LogEGreater(evidence.GuardrailC) >= -math.Log(guardAlpha)
}

// worse says whether the effect shows a guardrail to be worse than the control's.
func worse(g Guard, effect evidence.Effect) bool {
	if g.Good == "up" {
		effect.Diff = -effect.Diff
	}
	return evidence.Sequence{Alpha: guardAlpha, NStar: planned}.PGreater(effect) < guardAlpha
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
