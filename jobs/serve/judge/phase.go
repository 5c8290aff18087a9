package judge

import (
	"slices"

	"tandem/core/tenant"
)

// ConfigAt is the config in force at a time, ms since the epoch, and its place in the chain. The start of an experiment is that of
// its last phase: sums of different definitions, or of different splits, are never pooled.
func ConfigAt(chain *tenant.Chain, ms int64) (c *tenant.Config, rev int) {
	revs := chain.Revs
	at := len(revs) - 1
	for at > 0 && revs[at].From > ms {
		at--
	}
	copied := *revs[at].Config
	copied.Experiments = slices.Clone(copied.Experiments)
	for i := range copied.Experiments {
		x := &copied.Experiments[i]
		start := x.Start // as the revisions say it
		for was := at; was > 0; was-- {
			before := revs[was-1].Config.Experiments
			j := slices.IndexFunc(before, func(o tenant.Experiment) bool { return o.Name == x.Name })
			if j < 0 || !slices.Equal(before[j].Variations, x.Variations) || !slices.Equal(before[j].Weights, x.Weights) || before[j].Control != x.Control ||
				!slices.Equal(before[j].Qualify, x.Qualify) || before[j].Start != start {
				x.Start = max(x.Start, revs[was].From)
				break
			}
		}
	}
	return &copied, at
}

// Span is the time that an experiment counts over, in minutes [from, to): as its config says, not before begin, the first minute that
// is known, and up to minute now.
func Span(x *tenant.Experiment, begin, now int64) (from, to int64) {
	from, to = begin, now
	if x.Start != tenant.NoStart {
		from = max(from, x.Start/60000)
	}
	if x.End != tenant.NoEnd {
		to = min(to, x.End/60000)
	}
	return from, to
}
