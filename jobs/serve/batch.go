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
	"tandem/schemas/store"
)

//go:embed formulas.yaml
var anyFormulas []byte

// AnyFormulas is the repository of a tenant that has none of its own.
func AnyFormulas() *formula.Repository {
	r, err := formula.Load("built-in formulas", anyFormulas)
	if err != nil {
		panic(err) // a test loads it
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
	Filter     map[string][]string `json:"filter,omitempty" doc:"by tag the values that count"`
	GroupBy    []string            `json:"groupBy,omitempty" doc:"tags that divide the series"`
	Compare    bool                `json:"compare,omitempty" doc:"tells each variation's difference from the control, by point and as proven since the experiment began"`
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
	Control         string    `json:"control,omitempty" doc:"the experiment's"`
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
	// maxRollings is how many lengths of rolling values a batch may have: each is a query of its own.
	maxRollings = 24
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
	schema, err := schema(ctx, x, catalog, b.Experiment)
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
	f, err := fetchAll(ctx, x, budget, query, plan.Bases)
	if err != nil {
		return nil, err
	}
	if e := find(catalog, b.Experiment); e != nil {
		out.Control = e.Control
		if len(query.GroupBy) == 0 {
			for _, v := range e.All {
				f.add(v, nil) // one without a beacon is shown, with zeros
			}
		}
	} else if len(query.GroupBy) == 0 {
		f.add("", nil)
	}
	f.sort()
	lines := len(f.keys) * len(plan.Formulas)
	if points := int64(lines) * int64(f.points); points > q.Reader.Limits().Points {
		return nil, &read.LimitError{Name: "points", Limit: q.Reader.Limits().Points, Way: "take a larger step, a shorter range, fewer formulas or fewer tags"}
	}
	work := int64(0)
	for _, c := range plan.Formulas {
		work += int64(c.Steps) * int64(len(f.keys)) * int64(f.points)
	}
	if work > maxWork {
		return nil, &read.LimitError{Name: "work", Limit: maxWork, Way: "take a larger step, a shorter range, or simpler formulas"}
	}
	for _, c := range plan.Formulas {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		begin := len(out.Series)
		for _, k := range f.keys {
			line := Line{Formula: c.ID, Variation: k.variation, Values: c.Eval(f.columns(k))}
			if len(query.GroupBy) > 0 {
				line.Tags = map[string]string{}
				for i, t := range query.GroupBy {
					line.Tags[t] = k.tags[i]
				}
			}
			out.Series = append(out.Series, line)
		}
		if b.Compare {
			compare(out.Series[begin:], f.keys, out.Control)
		}
	}
	if b.Compare && out.Control != "" {
		if err := prove(ctx, x, budget, query, to, schema, plan, f.keys, out); err != nil {
			return nil, err
		}
	}
	f.times(out)
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
	tags := map[string]bool{}
	for _, t := range c.Tags {
		tags[t.Name] = true
	}
	for t, values := range b.Filter {
		if !tags[t] || len(values) > 1_000 {
			return q, 0, fmt.Errorf("filter: there is no tag %q, or it has more than 1000 values", t)
		}
	}
	for i, t := range b.GroupBy {
		if !tags[t] || slices.Contains(b.GroupBy[:i], t) {
			return q, 0, fmt.Errorf("groupBy: there is no tag %q, or it is there twice", t)
		}
	}
	if q.To, err = minute("to", b.To, max(c.To, 1)); err != nil {
		return q, 0, err
	}
	if q.From, err = minute("from", b.From, max(0, q.To-24*60)); err != nil {
		return q, 0, err
	}
	if q.From >= q.To {
		return q, 0, fmt.Errorf("from %s is not before to %s", stamp(q.From), stamp(q.To))
	}
	to = q.To
	err = b.step(&q)
	return q, to, err
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
	if err != nil || t.Unix()%60 != 0 || t.Nanosecond() != 0 || t.Unix() < 0 || t.Unix()/60 > 1<<32-1 {
		return 0, fmt.Errorf("%s %q is no full minute as 2026-01-01T00:00:00Z", what, text)
	}
	return t.Unix() / 60, nil
}

// SchemaOf says what formulas of a chain's tenant may name; of histograms it knows no bucket.
func SchemaOf(chain *tenant.Chain) *formula.Schema { return schemaFor(chain, read.CatalogOf(chain)) }

func schemaFor(chain *tenant.Chain, c *read.Catalog) *formula.Schema {
	s := &formula.Schema{Names: map[string]bool{}, Points: map[string]bool{}, Decimals: c.Decimals, Histograms: map[string]bool{},
		Buckets: func(string) []int { return nil }}
	for _, n := range c.Names {
		s.Names[n] = true
	}
	for _, h := range c.Histograms {
		s.Histograms[h] = true
	}
	for i := range chain.Revs {
		for _, p := range chain.Revs[i].Config.Points {
			s.Points[p.Name] = true
		}
	}
	return s
}

// SchemaIn says what formulas may name in an experiment, as it is now.
func SchemaIn(ctx context.Context, x *read.Resolved, experiment string) (*formula.Schema, error) {
	return schema(ctx, x, x.Catalog(), experiment)
}

// schema says what formulas may name in an experiment, or in the site.
func schema(ctx context.Context, x *read.Resolved, c *read.Catalog, experiment string) (*formula.Schema, error) {
	s := schemaFor(x.Chain, c)
	buckets := map[string][]int{}
	for _, h := range c.Histograms {
		for _, scope := range []string{"site", "assigned", "fm"} {
			list, err := x.Buckets(ctx, experiment, scope+"."+h)
			if err != nil {
				return nil, err
			}
			buckets[scope+"."+h] = list
		}
	}
	s.Buckets = func(value string) []int { return buckets[value] }
	return s, nil
}

// fetched is what was read for all formulas.
type fetched struct {
	states, seen []read.State
	answer       *read.Answer
	points       int
	keys         []key
	known        map[string]bool
	values       map[formula.Base]map[string][]int64
}

type key struct {
	variation string
	tags      []string
	text      string
}

func keyText(variation string, tags []string) string {
	return variation + "\x00" + strings.Join(tags, "\x00")
}

func (f *fetched) add(variation string, tags []string) string {
	text := keyText(variation, tags)
	if !f.known[text] {
		f.known[text] = true
		f.keys = append(f.keys, key{variation, tags, text})
	}
	return text
}

func (f *fetched) sort() {
	slices.SortFunc(f.keys, func(a, b key) int { return strings.Compare(a.text, b.text) })
}

// fetchAll reads all bases, those of each length of rolling together.
func fetchAll(ctx context.Context, x *read.Resolved, budget *read.Budget, q read.Query, bases []formula.Base) (*fetched, error) {
	f := &fetched{known: map[string]bool{}, values: map[formula.Base]map[string][]int64{}}
	by := map[int64][]string{0: nil}
	for _, b := range bases {
		by[b.Rolling] = append(by[b.Rolling], b.Metric)
	}
	if len(by) > maxRollings {
		return nil, &read.LimitError{Name: "rollings", Limit: maxRollings, Way: "ask for fewer lengths of rolling values at once"}
	}
	for rolling, metrics := range by {
		one := q
		one.Rolling, one.Metrics = rolling, metrics
		a, err := x.RangeWithin(ctx, budget, one)
		if err != nil {
			var limit *read.LimitError
			if errors.As(err, &limit) || ctx.Err() != nil {
				return nil, err
			}
			return nil, fmt.Errorf("read: %w", err)
		}
		for _, b := range bases {
			if b.Rolling == rolling {
				f.values[b] = map[string][]int64{"": withStates(make([]int64, a.Points()), a.StatesOf(b.Metric))}
			}
		}
		for _, s := range a.Series {
			f.values[formula.Base{Metric: s.Metric, Rolling: rolling}][f.add(s.Variation, s.Tags)] = withStates(s.Values, s.States)
		}
		if rolling == 0 {
			f.answer, f.points = a, a.Points()
		}
	}
	return f, nil
}

const unknown = math.MinInt64

// withStates marks what is not known.
func withStates(values []int64, states []read.State) []int64 {
	for i, s := range states {
		if s == read.Unknown {
			values[i] = unknown
		}
	}
	return values
}

func (f *fetched) columns(k key) formula.Columns {
	return formula.Columns{Points: f.points, Of: func(b formula.Base) []float64 {
		values, ok := f.values[b][k.text]
		if !ok {
			values = f.values[b][""]
		}
		out := make([]float64, len(values))
		for i, v := range values {
			out[i] = float64(v)
			if v == unknown {
				out[i] = math.NaN()
			}
		}
		return out
	}}
}

// times tells of the points.
func (f *fetched) times(out *Result) {
	a := f.answer
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
func compare(lines []Line, keys []key, control string) {
	of := map[string]Values{}
	for i, k := range keys {
		if k.variation == control {
			of[strings.Join(k.tags, "\x00")] = lines[i].Values
		}
	}
	for i, k := range keys {
		base := of[strings.Join(k.tags, "\x00")]
		if k.variation == control || base == nil {
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
