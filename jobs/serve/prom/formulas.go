package prom

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"tandem/core/formula"
	"tandem/jobs/serve/read"
	"tandem/jobs/serve/sums"
)

// A formula of the repository is a metric too, formula:ID. Its sample at a time is the formula over the minute before, evaluated after
// summing over all tags, as everywhere; the label over, which must be given as over="1h", takes another time than a minute. Formulas do
// not add up, so what they are to be divided or filtered by is said by matchers: a tag that a matcher asks for (device="mobile",
// device!="mobile", or device=~".+" for each) is a label of the series, of all others they are the sum. A layer alone has a sample only
// where it has covered all that the sample is of.

// maxOver is the longest time that a value may be of.
const maxOver = 31 * 24 * 60

// over reads the matchers on the label over.
func over(on []*labels.Matcher) (minutes int64, text string, err error) {
	if len(on) == 0 {
		return 1, "", nil
	}
	m := on[0]
	d, err := model.ParseDuration(m.Value)
	if minutes = int64(time.Duration(d) / time.Minute); len(on) > 1 || m.Type != labels.MatchEqual || err != nil || minutes < 1 || minutes > maxOver ||
		time.Duration(d)%time.Minute != 0 {
		return 0, "", badData("label over: %s is not as over=\"5m\": full minutes, at most 31d", m)
	}
	return minutes, m.Value, nil
}

// compile finds the formulas that can be evaluated.
func (q *querier) compile() {
	if q.formulas == nil {
		return
	}
	schema := sums.SchemaOf(q.x.Chain)
	for _, f := range q.formulas.Formulas {
		if _, err := q.formulas.Compile(formula.NewPlan(schema), formula.Ask{ID: f.ID}); err == nil {
			q.inX = append(q.inX, f)
		}
		if _, err := q.formulas.Compile(formula.NewPlan(schema), formula.Ask{ID: f.ID, Scope: "site"}); err == nil {
			q.onAll = append(q.onAll, f)
		}
	}
}

// evaluate adds the series of formulas of one experiment, or of the site.
func (q *querier) evaluate(ctx context.Context, x *read.Resolved, source string, s *selection, some []family, first, last int64, filter map[string][]string, found map[string]*series) error {
	experiment := some[0].experiment
	schema, err := sums.SchemaIn(ctx, x, experiment)
	if err != nil {
		return err
	}
	plan := formula.NewPlan(schema)
	for _, f := range some {
		ask := formula.Ask{ID: f.formula.ID}
		if experiment == "" {
			ask.Scope = "site"
		}
		if _, err := q.formulas.Compile(plan, ask); err != nil {
			return err
		}
	}
	ask := read.Query{Experiment: experiment, From: first, To: last, Step: 1, Rolling: s.over, Filter: filter}
	for _, t := range q.tags {
		if slices.ContainsFunc(s.rest, t.asked) {
			ask.GroupBy = append(ask.GroupBy, t.name)
		}
	}
	got, err := sums.Fetch(ctx, x, x.Budget(), ask, plan.Bases)
	if err != nil {
		return err
	}
	if len(ask.GroupBy) == 0 {
		for _, v := range some[0].variations {
			got.Add(v, nil)
		}
	}
	for i, c := range plan.Formulas {
		for _, k := range got.Keys {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			set := q.labels(some[i].name, experiment, k.Variation, source, s.overText, ask.GroupBy, k.Tags)
			values := c.Eval(got.Columns(k))
			value := func(i int) (float64, bool) { return values[i], !math.IsNaN(values[i]) }
			if err := q.add(found, s, set, first, len(values), value); err != nil {
				return err
			}
		}
	}
	return nil
}

// asked says whether a matcher asks for the tag: each that is on it does, but a regular expression that leaves nothing out, as
// device=~".*", by which dashboards say that a tag is of no matter.
func (t *tag) asked(m *labels.Matcher) bool {
	return m.Name == t.label && (m.Type != labels.MatchRegexp || !m.Matches("") || slices.ContainsFunc(t.values, func(v string) bool { return !m.Matches(v) }))
}

// about tells of a formula what its name does not.
func about(f *formula.Formula) map[string]string {
	text := f.Title
	if f.Description != "" {
		text += ": " + f.Description
	}
	return map[string]string{"type": "gauge", "help": text + " (" + f.Expr + ")", "unit": f.Unit}
}
