package serve

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
	"tandem/jobs/serve/sums"
	"tandem/schemas/store"
)

//go:embed formulas.yaml
var anyFormulas []byte

// AnyFormulas is the repository of a tenant that has none of its own. Its parameter is by default `page`, or, if the config in force
// last has no such point, the first one that is a page, or else the first.
func AnyFormulas(chain *tenant.Chain) *formula.Repository {
	r, err := formula.Load("built-in formulas", anyFormulas)
	if err != nil {
		panic(err) // a test loads it
	}
	const name = "mp"
	point := r.Params[name].Default
	points := chain.Revs[len(chain.Revs)-1].Config.Points
	if len(points) > 0 && !slices.ContainsFunc(points, func(p tenant.Point) bool { return p.Name == point }) {
		i := max(0, slices.IndexFunc(points, func(p tenant.Point) bool { return p.Page }))
		r.Params[name] = formula.Param{Default: points[i].Name}
	}
	return r
}

// Batch is the body of POST /{tenant}: formulas over a range, all of them read at once.
type Batch struct {
	Formulas   []Ask               `json:"formulas" doc:"formulas of the repository by id, or expressions"`
	Params     map[string]string   `json:"params,omitempty" doc:"values of the repository's parameters: measurement points"`
	Experiment string              `json:"experiment,omitempty" doc:"absent: the whole site"`
	Scope      string              `json:"scope,omitempty" doc:"assigned or fm; absent: each formula's own"`
	From       string              `json:"from,omitempty" doc:"RFC 3339, a full minute; absent: 24 h before to"`
	To         string              `json:"to,omitempty" doc:"RFC 3339, a full minute, exclusive; absent: as far as the view is complete"`
	Step       string              `json:"step,omitempty" doc:"as 1m, 6h or 1d, or all for one point; absent: at most 500 points"`
	Filter     map[string][]string `json:"filter,omitempty" doc:"by tag the values that count, of those that the config lists, none and other"`
	GroupBy    []string            `json:"groupBy,omitempty" doc:"tags that divide the series"`
	Compare    bool                `json:"compare,omitempty" doc:"of an experiment: tells each variation's difference from the control, by point and as proven since the experiment began"`
}

// Ask is one formula of a Batch: ID or Expr.
type Ask struct {
	ID   string `json:"id,omitempty"`
	Expr string `json:"expr,omitempty"`
}

// Result answers a Batch.
type Result struct {
	From            string    `json:"from" doc:"start of the first point, at a multiple of the step"`
	To              string    `json:"to" doc:"end of the last point"`
	StepSeconds     int64     `json:"stepSeconds"`
	CompleteThrough string    `json:"completeThrough,omitempty" doc:"before it nothing is missing but late beacons"`
	ProvisionalFrom string    `json:"provisionalFrom,omitempty" doc:"start of the first point that the batch has not covered whole; absent: all are final"`
	Times           []int64   `json:"times" doc:"start of each point, in seconds since the epoch"`
	States          []string  `json:"states" doc:"of each point: final, provisional or unknown"`
	Formulas        []Meta    `json:"formulas" doc:"in the order asked"`
	Series          []Line    `json:"series"`
	Warnings        []Warning `json:"warnings" doc:"formulas that could not be answered, and why"`
	Control         string    `json:"control,omitempty" doc:"the experiment's, where the range ends"`
	Evidence        *Evidence `json:"evidence,omitempty" doc:"asked for by compare, of an experiment: the time that proofs are over"`
}

// Meta says how a formula is shown.
type Meta struct {
	formula.Formula
	Shape Shape `json:"shape" doc:"of a ratio of two metrics per session, which statistics can be made of"`
}

// Shape names the metrics of a ratio, with their scopes; empty of any other formula.
type Shape struct {
	Numerator   string `json:"numerator,omitempty"`
	Denominator string `json:"denominator,omitempty"`
}

// Line is the values of a formula in a variation and a group.
type Line struct {
	Formula   string            `json:"formula"`
	Variation string            `json:"variation,omitempty" doc:"absent: the whole site"`
	Tags      map[string]string `json:"tags,omitempty"`
	Values    Values            `json:"values" doc:"by point; null where undefined or not known"`
	// Absolute and Relative are asked for by Compare, of all but the control.
	Absolute Values `json:"absolute,omitempty" doc:"difference from the control"`
	Relative Values `json:"relative,omitempty" doc:"difference from the control, as a share of the control's"`
	Proof    *Proof `json:"proof,omitempty" doc:"what is proven of the difference, over the time of evidence"`
}

// Warning tells of a formula that is missing.
type Warning struct {
	Formula string `json:"formula,omitempty"`
	Detail  string `json:"detail"`
}

// Values are numbers, of which NaN is null.
type Values []float64

// MarshalJSON implements json.Marshaler.
func (v Values) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		if math.IsNaN(x) || math.IsInf(x, 0) {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendFloat(b, x, 'g', -1, 64)
		}
	}
	return append(b, ']'), nil
}

// Bounds of a batch.
const (
	maxAsks    = 100
	autoPoints = 500
	// maxWork bounds the operations that a batch takes, some nanoseconds each.
	maxWork = 200_000_000
)

// Answer answers a batch. Errors are of the request (*Problem, *read.LimitError) or of the store.
func (q *Request) Answer(ctx context.Context, b *Batch) (*Result, error) {
	x, err := q.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	catalog := x.Catalog()
	query, to, err := b.query(catalog)
	if err != nil {
		return nil, Bad(err)
	}
	schema, err := sums.SchemaIn(ctx, x, b.Experiment)
	if err != nil {
		return nil, err
	}
	out := &Result{From: stamp(query.From), To: stamp(query.To), StepSeconds: query.Step * 60, Formulas: []Meta{}, Series: []Line{}, Warnings: []Warning{}}
	plan := formula.NewPlan(schema)
	for _, ask := range b.Formulas {
		scope := b.Scope
		if b.Experiment == "" {
			scope = "site"
		}
		c, err := q.Tenant.Formulas.Compile(plan, formula.Ask{ID: ask.ID, Expr: ask.Expr, Scope: scope, Params: b.Params})
		if err != nil {
			out.Warnings = append(out.Warnings, Warning{ask.ID + ask.Expr, err.Error()})
			continue
		}
		meta := Meta{Formula: *c.Formula, Shape: Shape{c.Shape.Numerator, c.Shape.Denominator}}
		meta.Title = c.Title
		out.Formulas = append(out.Formulas, meta)
	}
	budget := x.Budget()
	f, err := sums.Fetch(ctx, x, budget, query, plan.Bases)
	if err != nil {
		return nil, err
	}
	listed := listedAt(x, b.Experiment, to)
	if e := find(catalog, b.Experiment); e != nil {
		out.Control = e.Control
		if listed != nil {
			out.Control = listed.Control
		}
		if len(query.GroupBy) == 0 {
			for _, v := range e.All {
				f.Add(v, nil) // one without a beacon is shown, with zeros
			}
		}
	} else if len(query.GroupBy) == 0 {
		f.Add("", nil)
	}
	f.Sort()
	lines := len(f.Keys) * len(plan.Formulas)
	if points := int64(lines) * int64(f.Points); points > q.Reader.Limits().Points {
		return nil, &read.LimitError{Name: "points", Limit: q.Reader.Limits().Points, Way: "take a larger step, a shorter range, fewer formulas or fewer tags"}
	}
	work := int64(0)
	for _, c := range plan.Formulas {
		work += int64(c.Steps) * int64(len(f.Keys)) * int64(f.Points)
	}
	if work > maxWork {
		return nil, &read.LimitError{Name: "work", Limit: maxWork, Way: "take a larger step, a shorter range, or simpler formulas"}
	}
	for _, c := range plan.Formulas {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		begin := len(out.Series)
		for _, k := range f.Keys {
			line := Line{Formula: c.ID, Variation: k.Variation, Values: c.Eval(f.Columns(k))}
			if len(query.GroupBy) > 0 {
				line.Tags = map[string]string{}
				for i, t := range query.GroupBy {
					line.Tags[t] = k.Tags[i]
				}
			}
			out.Series = append(out.Series, line)
		}
		if b.Compare {
			compare(out.Series[begin:], f.Keys, out.Control)
		}
	}
	if b.Compare && listed != nil {
		if err := prove(ctx, x, budget, query, listed, to, plan, f.Keys, out); err != nil {
			return nil, err
		}
	}
	times(f.Answer, out)
	return out, nil
}

func stamp(minute int64) string { return time.Unix(minute*60, 0).UTC().Format(time.RFC3339) }

func find(c *read.Catalog, name string) *read.Experiment {
	for i := range c.Experiments {
		if c.Experiments[i].Name == name {
			return &c.Experiments[i]
		}
	}
	return nil
}

// query checks what a batch asks for; to is the end of the range before it is moved to a multiple of the step.
func (b *Batch) query(c *read.Catalog) (q read.Query, to int64, err error) {
	q = read.Query{Experiment: b.Experiment, Filter: b.Filter, GroupBy: b.GroupBy}
	switch {
	case len(b.Formulas) == 0 || len(b.Formulas) > maxAsks:
		return q, 0, fmt.Errorf("%d formulas; 1 to %d are allowed", len(b.Formulas), maxAsks)
	case b.Experiment != "" && find(c, b.Experiment) == nil:
		return q, 0, fmt.Errorf("there is no experiment %q", b.Experiment)
	case b.Scope != "" && (b.Experiment == "" || b.Scope != "assigned" && b.Scope != "fm"):
		return q, 0, fmt.Errorf("scope %q: it is assigned or fm, and goes with an experiment", b.Scope)
	}
	if b.Compare && b.Experiment == "" {
		return q, 0, errors.New("compare: it is of the variations of an experiment, and none is asked for")
	}
	tags := map[string][]string{}
	for _, t := range c.Tags {
		tags[t.Name] = append([]string{"none", "other"}, t.Values...)
	}
	for t, values := range b.Filter {
		if tags[t] == nil || len(values) > 1_000 {
			return q, 0, fmt.Errorf("filter: there is no tag %q, or it has more than 1000 values", t)
		}
		for _, v := range values {
			if !slices.Contains(tags[t], v) {
				return q, 0, fmt.Errorf("filter: tag %s has no value %q; it has %s", t, v, some(tags[t]))
			}
		}
	}
	for i, t := range b.GroupBy {
		if tags[t] == nil || slices.Contains(b.GroupBy[:i], t) {
			return q, 0, fmt.Errorf("groupBy: there is no tag %q, or it is there twice", t)
		}
	}
	if q.To, err = minute("to", b.To, max(c.To, 1)); err != nil {
		return q, 0, err
	}
	if q.From, err = minute("from", b.From, max(0, q.To-24*60)); err != nil {
		return q, 0, err
	}
	if q.From >= q.To && b.To == "" {
		return q, 0, fmt.Errorf("from %s is not before %s, up to which the view is complete, and where a range ends that has no `to`: give one to see what there is after that", stamp(q.From), stamp(q.To))
	}
	if q.From >= q.To {
		return q, 0, fmt.Errorf("from %s is not before to %s", stamp(q.From), stamp(q.To))
	}
	to = q.To
	err = b.step(&q)
	return q, to, err
}

// some lists values, the first twenty if there are more.
func some(values []string) string {
	if n := len(values); n > 20 {
		return strings.Join(values[:20], ", ") + fmt.Sprintf(" and %d more", n-20)
	}
	return strings.Join(values, ", ")
}

// step sets the step, and moves the range to multiples of it.
func (b *Batch) step(q *read.Query) error {
	switch {
	case b.Step == "all":
		q.Step = q.To - q.From
		return nil
	case b.Step == "":
		q.Step = read.Steps[len(read.Steps)-1]
		for _, s := range read.Steps {
			if (q.To-q.From)/s <= autoPoints {
				q.Step = s
				break
			}
		}
	default:
		n, err := strconv.ParseInt(b.Step[:len(b.Step)-1], 10, 32)
		unit := map[byte]int64{'m': 1, 'h': 60, 'd': 1440}[b.Step[len(b.Step)-1]]
		if err != nil || n < 1 || n > 1_000_000 || unit == 0 {
			return fmt.Errorf("step %q is not as 5m, 1h or 1d, nor all", b.Step)
		}
		q.Step = n * unit
	}
	q.From -= q.From % q.Step
	q.To += (q.Step - q.To%q.Step) % q.Step
	if q.To > store.MaxMinute+1 {
		return fmt.Errorf("step %q: its last multiple is beyond the last minute that there is, %s", b.Step, stamp(store.MaxMinute))
	}
	return nil
}

func minute(what, text string, absent int64) (int64, error) {
	if text == "" {
		return absent, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err == nil && t.Unix() < 0 {
		return 0, fmt.Errorf("%s %q is before the first minute that there is, %s", what, text, stamp(0))
	}
	if err != nil || t.Unix()%60 != 0 || t.Nanosecond() != 0 || t.Unix()/60 > store.MaxMinute {
		return 0, fmt.Errorf("%s %q is no full minute as 2026-01-01T00:00:00Z", what, text)
	}
	return t.Unix() / 60, nil
}

// times tells of the points.
func times(a *read.Answer, out *Result) {
	for i, s := range a.States {
		out.Times = append(out.Times, (a.From+int64(i)*a.Step)*60)
		out.States = append(out.States, [...]string{"final", "provisional", "unknown"}[s])
	}
	if a.CompleteThrough > 0 {
		out.CompleteThrough = stamp(a.CompleteThrough)
	}
	if a.ProvisionalFrom < a.To {
		out.ProvisionalFrom = stamp(a.ProvisionalFrom)
	}
}

// compare fills in the differences from the control's line with the same tags.
func compare(lines []Line, keys []sums.Key, control string) {
	of := map[string]Values{}
	for i, k := range keys {
		if k.Variation == control {
			of[strings.Join(k.Tags, "\x00")] = lines[i].Values
		}
	}
	for i, k := range keys {
		base := of[strings.Join(k.Tags, "\x00")]
		if k.Variation == control || base == nil {
			continue
		}
		l := &lines[i]
		for p, v := range l.Values {
			d := v - base[p]
			l.Absolute = append(l.Absolute, d)
			l.Relative = append(l.Relative, d/math.Abs(base[p])) // null by nothing
		}
	}
}
