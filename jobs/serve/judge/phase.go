package judge

import (
	"slices"
	"strings"

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
			if j < 0 || !slices.Equal(before[j].Variations, x.Variations) || !tenant.SameSplit(before[j].Weights, x.Weights) || before[j].Control != x.Control ||
				!slices.Equal(before[j].Qualify, x.Qualify) || before[j].Start != start {
				x.Start = max(x.Start, revs[was].From)
				break
			}
		}
	}
	return &copied, at
}

// definition is what a metric's rows follow from; the zero one: a config does not have it. What begins anew with another (SPEC 10)
// is never pooled with what was before.
type definition struct {
	point, page, stats bool
	value              tenant.Value
}

func definitionOf(c *tenant.Config, name string) (d definition) {
	point, rest, _ := strings.Cut(name, ".")
	value, _, _ := strings.Cut(rest, ".")
	i := slices.IndexFunc(c.Points, func(p tenant.Point) bool { return p.Name == point })
	if i < 0 {
		return d
	}
	p := &c.Points[i]
	d.point, d.page, d.stats = true, p.Page, p.Stats
	if j := slices.IndexFunc(p.Values, func(v tenant.Value) bool { return v.Name == value }); j >= 0 {
		d.value = p.Values[j]
	}
	return d
}

// Since is the minute from which on all that a Stat asks for has the definition that it has in a revision of the chain; 0: always.
func (s *Stat) Since(chain *tenant.Chain, rev int) int64 {
	revs := chain.Revs
	at := 0
	for _, name := range s.Names() {
		_, name, _ = strings.Cut(name, ".") // without scope
		a, b, pair := strings.Cut(name, "*")
		same := func(c, before *tenant.Config) bool {
			listed := func(c *tenant.Config) bool { return slices.Contains(c.Cross, tenant.Pair{A: a, B: b}) }
			return definitionOf(c, a) == definitionOf(before, a) && (!pair || definitionOf(c, b) == definitionOf(before, b) && listed(c) == listed(before))
		}
		for was := rev; was > at; was-- {
			if !same(revs[was].Config, revs[was-1].Config) {
				at = was
			}
		}
	}
	if at == 0 {
		return 0
	}
	return revs[at].From / 60_000
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
