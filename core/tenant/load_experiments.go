package tenant

import (
	"errors"
	"math"
	"slices"

	"go.yaml.in/yaml/v3"
)

func (l *loader) experiments(n *yaml.Node, tagSets int) {
	for i, p := range l.pairs(n, "experiments", true) {
		if i == maxExperiments {
			l.fail(p.key, "more than %d experiments", maxExperiments)
		}
		l.experiment(p, tagSets)
	}
}

func (l *loader) experiment(p pair, tagSets int) {
	x := Experiment{Start: NoStart, End: NoEnd}
	x.Name, _ = l.name(p.key, "an experiment")
	what := "experiment " + x.Name
	keys := l.keys(p.value, what, "variations", "control", "weights", "start", "end", "qualify")
	vs, ok := keys["variations"]
	if ok {
		x.Variations = l.variations(vs.value, what, tagSets)
	} else {
		l.fail(p.key, "%s has no variations; write `variations: [control, red]`", what)
	}
	if len(x.Variations) > 0 {
		x.Control = x.Variations[0]
	}
	if c, ok := keys["control"]; ok {
		x.Control, ok = l.text(c.value, "control")
		if ok && x.Variations != nil && !slices.Contains(x.Variations, x.Control) {
			l.fail(c.value, "%s: control %q is not one of its variations%s", what, clip(x.Control), didYouMean(x.Control, x.Variations...))
		}
	}
	for range x.Variations {
		x.Weights = append(x.Weights, 1)
	}
	if w, ok := keys["weights"]; ok {
		x.Weights = l.weights(w.value, what, x.Variations)
	}
	started, ended := true, true
	if s, ok := keys["start"]; ok {
		x.Start, started = l.minute(s.value, "start")
	}
	if e, ok := keys["end"]; ok {
		x.End, ended = l.minute(e.value, "end")
	}
	if started && ended && x.Start >= x.End {
		l.fail(keys["end"].value, "%s ends at %s, which is not after its start at %s", what, keys["end"].value.Value, keys["start"].value.Value)
	}
	if q, ok := keys["qualify"]; ok {
		x.Qualify = l.qualify(q.value, what)
	}
	l.cfg.Experiments = append(l.cfg.Experiments, x)
}

// variations returns nil if the list itself is wrong, so that what depends on it is not judged.
func (l *loader) variations(n *yaml.Node, what string, tagSets int) []string {
	const form = "[control, red]"
	items := l.items(n, "the variations of "+what, form)
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	switch {
	case len(items) == 0:
		l.fail(n, "%s has no variations; at least one is needed, as in %s", what, form)
		return nil
	case len(items) > maxVariations:
		l.fail(n, "%s has %d variations; at most %d are allowed", what, len(items), maxVariations)
	case len(items)*tagSets > maxTagSetsTimes:
		l.fail(n, "%s has %d variations of %d tag sets, which makes %d; at most %d are allowed: list fewer variations, tags or tag values",
			what, len(items), tagSets, len(items)*tagSets, maxTagSetsTimes)
	}
	names := make([]string, 0, len(items))
	seen := map[string]int{}
	for _, v := range items {
		name, ok := l.name(v, "a variation")
		if ok && seen[name] > 0 {
			l.fail(v, "%s lists variation %s twice; first on line %d", what, name, seen[name])
		}
		seen[name] = v.Line
		names = append(names, name)
	}
	return names
}

func (l *loader) weights(n *yaml.Node, what string, variations []string) []float64 {
	items := l.items(n, "the weights of "+what, "[50, 50]")
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	if variations != nil && len(items) != len(variations) {
		l.fail(n, "%s has %d weights and %d variations; as many are needed", what, len(items), len(variations))
	}
	weights := make([]float64, 0, len(items))
	sum, good := 0.0, true
	for _, w := range items {
		x, ok := l.weight(w)
		good = good && ok
		sum += x
		weights = append(weights, x)
	}
	if good && len(items) > 0 && (sum <= 0 || math.IsInf(sum, 0)) {
		l.fail(n, "the weights of %s add up to %g; allowed is a finite sum above 0", what, sum)
	}
	return weights
}

func (l *loader) qualify(n *yaml.Node, what string) []string {
	items := l.items(n, "the conditions (`qualify`) of "+what, "['point == \"item\"']")
	switch {
	case n.Kind != yaml.SequenceNode:
		return nil
	case len(items) == 0:
		l.fail(n, "%s has a `qualify` without conditions; list one or more, or leave it out", what)
	case len(items) > maxConditions:
		l.fail(n, "%s has %d conditions; at most %d are allowed", what, len(items), maxConditions)
	}
	var conditions []string
	for _, q := range items {
		src, ok := l.text(q, "a condition")
		if !ok {
			continue
		}
		if _, err := ParseCondition(src); err != nil {
			var c *ConditionError
			line := q.Line
			// Only in a literal block does the YAML text keep the condition's lines.
			if errors.As(err, &c) && q.Style&yaml.LiteralStyle != 0 {
				line += c.Line
			}
			l.failLine(line, "%s: %v", what, err)
		}
		conditions = append(conditions, src)
	}
	return conditions
}
