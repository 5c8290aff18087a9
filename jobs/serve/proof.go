package serve

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/judge"
	"tandem/jobs/serve/read"
	"tandem/jobs/serve/sums"
)

// Evidence is the time that proofs are over: from the start of the experiment's last phase (another split, another definition: a
// new phase), and closed minutes only, whatever the range that is asked for begins with. Sums of a part of it prove nothing.
type Evidence struct {
	From       string  `json:"from"`
	To         string  `json:"to" doc:"exclusive: the last closed minute, the experiment's end or that of the range, whichever is first"`
	Confidence float64 `json:"confidence" doc:"of the intervals, at all looks together"`
}

// Proof is what the sums of an experiment prove of a formula in a variation and a group. Intervals and p hold at every look.
type Proof struct {
	From            string `json:"from,omitempty" doc:"where it is later than that of evidence: since then the formula's metrics have their definition"`
	Sessions        Number `json:"sessions" doc:"of the variation in the formula's scope"`
	ControlSessions Number `json:"controlSessions"`
	// State is one of the three below.
	State      string   `json:"state" doc:"signal: the interval leaves out zero; none: it does not; waiting: of the difference nothing can be said, why tells the reason"`
	Why        string   `json:"why,omitempty"`
	Difference Estimate `json:"difference" doc:"of the means per session from the control's"`
	Relative   Estimate `json:"relative" doc:"of the control's, more always above 0; null while the control's is within 3 standard errors of 0, or the variation's is 0 throughout"`
	P          Number   `json:"p" doc:"against no difference: of the relative one, where that is null of the absolute one"`
	Capped     bool     `json:"capped,omitempty" doc:"the estimates are of sessions' totals as capped in the config"`
	Failing    bool     `json:"failing,omitempty" doc:"of a guardrail: it is worse than the control's, with one false alarm in 1000 at most"`
}

// Estimate is a difference with its interval.
type Estimate struct {
	Value Number `json:"value"`
	Low   Number `json:"low"`
	High  Number `json:"high"`
}

// Number is a number, of which NaN is null.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return strconv.AppendFloat(nil, f, 'g', -1, 64), nil
	}
	return []byte("null"), nil
}

func estimate(e judge.Estimate) Estimate {
	return Estimate{Number(e.Diff), Number(e.Low), Number(e.High)}
}

// States of a Proof.
const (
	proofSignal  = "signal"
	proofNone    = "none"
	proofWaiting = "waiting"
)

// listedAt is an experiment as the config in force at the end of a range has it, or of what the view has of that; nil: it was not
// listed then.
func listedAt(x *read.Resolved, name string, to int64) *tenant.Experiment {
	_, now := x.Span()
	c, _ := judge.ConfigAt(x.Chain, min(now, to)*60_000-1)
	i := slices.IndexFunc(c.Experiments, func(e tenant.Experiment) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Experiments[i]
}

// prove fills in what is proven of each line but the control's: lines are by formula of the plan and key. e is the experiment where
// the range ends, at to.
func prove(ctx context.Context, x *read.Resolved, budget *read.Budget, q read.Query, e *tenant.Experiment, to int64, plan *formula.Plan, keys []sums.Key, out *Result) error {
	begin, now := x.Span()
	q.From, q.To = judge.Span(e, begin, min(now, to))
	q.From = x.KnownFrom(q.From)
	if q.From >= q.To {
		return nil // it has not begun
	}
	out.Evidence = &Evidence{stamp(q.From), stamp(q.To), 1 - judge.Alpha}
	_, rev := judge.ConfigAt(x.Chain, q.To*60_000-1)
	inForce := sums.SchemaAt(x.Chain, rev)
	stats := make([]*judge.Stat, len(plan.Formulas))
	since := make([]int64, len(stats))
	bases := map[int64][]formula.Base{} // by the minute from which on they count
	for i, f := range plan.Formulas {
		scope, _, _ := strings.Cut(f.Shape.Denominator, ".")
		st := judge.Of(f.Shape, scope, inForce, f.Minimum)
		if st == nil {
			continue
		}
		stats[i], since[i] = st, x.KnownFrom(max(q.From, st.Since(x.Chain, rev)))
		for _, name := range append(st.Names(), judge.Sessions(scope)) {
			if b := (formula.Base{Metric: name}); !slices.Contains(bases[since[i]], b) {
				bases[since[i]] = append(bases[since[i]], b)
			}
		}
	}
	fetched := map[int64]*sums.Fetched{}
	for at, all := range bases {
		part := q
		part.From, part.Step = at, q.To-at
		var err error
		if fetched[at], err = sums.Fetch(ctx, x, budget, part, all); err != nil {
			return err
		}
	}
	side := func(at int64, k sums.Key, scope string) judge.Side {
		cols := fetched[at].Columns(k)
		sum := func(metric string) float64 { return cols.Of(formula.Base{Metric: metric})[0] }
		return judge.Side{N: sum(judge.Sessions(scope)), Sum: sum, Part: len(q.Filter)+len(q.GroupBy) > 0}
	}
	for i, st := range stats {
		if st == nil {
			continue
		}
		f := plan.Formulas[i]
		scope, _, _ := strings.Cut(f.Shape.Denominator, ".")
		for n, k := range keys {
			at := slices.Index(e.Variations, k.Variation)
			control := slices.Index(e.Variations, e.Control)
			if at < 0 || at == control {
				continue
			}
			treated, with := side(since[i], k, scope), side(since[i], k.Of(e.Control), scope)
			w := e.Weights
			v := st.Compare(treated, with, judge.Guard{Role: f.Role, Good: f.Good, Share: w[at] / (w[at] + w[control])})
			p := proofOf(st, treated.N, with.N, &v)
			if since[i] > q.From {
				p.From = stamp(since[i])
			}
			out.Series[i*len(keys)+n].Proof = p
		}
	}
	return nil
}

func proofOf(st *judge.Stat, n, control float64, v *judge.Verdict) *Proof {
	none := Number(math.NaN())
	p := &Proof{Sessions: Number(n), ControlSessions: Number(control), State: proofNone, Why: v.Why, Capped: st.Capped(), Failing: v.Failing,
		Difference: Estimate{none, none, none}, Relative: Estimate{none, none, none}, P: none}
	if v.Why != "" {
		p.State = proofWaiting
		return p
	}
	if v.Signal {
		p.State = proofSignal
	}
	p.Difference, p.P = estimate(v.Absolute), Number(v.P())
	if v.Steady {
		p.Relative = estimate(v.Relative)
	}
	return p
}
