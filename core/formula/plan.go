package formula

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"tandem/core/evidence"
)

// Base is a metric that formulas are made of.
type Base struct {
	Metric  string // with scope, as "fm.order.revenue"
	Rolling int64  // minutes; 0: of each point's own time
}

// Schema says what metrics there are.
type Schema struct {
	Names    map[string]bool // without scope
	Points   map[string]bool
	Decimals map[string]int // of the metrics whose values are scaled, by name
	// Buckets gives which buckets of a value's histogram there are, by name with scope; nil if it has none.
	Buckets func(value string) []int
	// Histograms are the values, without scope, that have one.
	Histograms map[string]bool
}

// Ask is a formula of a request: one of the repository by its id, or an expression.
type Ask struct {
	ID, Expr string
	// Scope is what names without a scope are read in: site, assigned or fm; empty: the formula's own.
	Scope string
	// Params are values of parameters, the repository's defaults where there is none.
	Params map[string]string
}

// Plan is some formulas made ready: what has to be read for all of them together, once.
type Plan struct {
	Bases    []Base // sorted
	Formulas []*Compiled

	schema *Schema
}

// Compiled is a formula made ready.
type Compiled struct {
	*Formula // as the repository has it; of an expression one made up
	Title    string
	// Shape is what statistics can be made of it.
	Shape Shape
	// Steps is how many operations a point takes.
	Steps int

	eval func(Columns) []float64
}

// Shape is a ratio of two metrics, each per session; Numerator is empty where the formula is anything else.
type Shape struct {
	Numerator, Denominator string // with scope
}

// Columns gives the values of a base by point; nil is zero throughout. A value that is not known is NaN.
type Columns struct {
	Points int
	Of     func(Base) []float64
}

// Eval returns the formula's values by point; NaN is null.
func (c *Compiled) Eval(cols Columns) []float64 { return c.eval(cols) }

// Compile makes a formula ready and adds what it needs to the plan. Errors say what is wrong with the request, or with
// the formula under this schema.
func (r *Repository) Compile(p *Plan, a Ask) (*Compiled, error) {
	f := r.byID[a.ID]
	switch {
	case (a.ID == "") == (a.Expr == ""):
		return nil, fmt.Errorf("a formula is asked for by id or by expr, one of them")
	case a.ID != "" && f == nil:
		return nil, fmt.Errorf("there is no formula %q; there are %s", a.ID, r.some())
	case a.ID == "":
		node, err := parse(a.Expr)
		if err != nil {
			return nil, err
		}
		f = &Formula{ID: a.Expr, Title: a.Expr, Expr: a.Expr, Unit: "number", Chart: "line", Good: "none", Role: "diagnostic", Scope: "fm", node: node}
		if err := r.checkParams(f); err != nil {
			return nil, err
		}
	}
	values := map[string]string{}
	for name, param := range r.Params {
		values[name] = param.Default
	}
	for name, v := range a.Params {
		if _, ok := r.Params[name]; !ok {
			return nil, fmt.Errorf("there is no param %q", name)
		}
		if !p.schema.Points[v] {
			return nil, fmt.Errorf("param %s: %q is no measurement point of the tenant", name, v)
		}
		values[name] = v
	}
	c := &compiler{r: r, p: p, params: values, scope: a.Scope}
	eval, err := c.formula(f)
	if err != nil {
		return nil, fmt.Errorf("formula %s: %w", f.ID, err)
	}
	out := &Compiled{Formula: f, Title: c.fill(f.Title), Shape: c.shape(f), Steps: c.steps, eval: eval}
	p.Formulas = append(p.Formulas, out)
	return out, nil
}

// some names the first formulas.
func (r *Repository) some() string {
	const most = 30
	var ids []string
	for _, f := range r.Formulas[:min(len(r.Formulas), most)] {
		ids = append(ids, f.ID)
	}
	if more := len(r.Formulas) - len(ids); more > 0 {
		ids = append(ids, fmt.Sprintf("%d more", more))
	}
	return strings.Join(ids, ", ")
}

// NewPlan is an empty plan.
func NewPlan(s *Schema) *Plan { return &Plan{schema: s} }

func (p *Plan) need(b Base) {
	compare := func(a, b Base) int {
		if c := strings.Compare(a.Metric, b.Metric); c != 0 {
			return c
		}
		return int(a.Rolling - b.Rolling)
	}
	if i, found := slices.BinarySearchFunc(p.Bases, b, compare); !found {
		p.Bases = slices.Insert(p.Bases, i, b)
	}
}

type evalFunc = func(Columns) []float64

type compiler struct {
	r      *Repository
	p      *Plan
	params map[string]string
	scope  string // of the request; empty: each formula's own
	steps  int
}

// maxSteps bounds what a formula comes to when those that it names are written out.
const maxSteps = 10_000

func (c *compiler) fill(s string) string {
	return paramPattern.ReplaceAllStringFunc(s, func(m string) string {
		if v, ok := c.params[m[2:len(m)-1]]; ok {
			return v
		}
		return m
	})
}

func (c *compiler) formula(f *Formula) (evalFunc, error) { return c.node(f, f.node) }

func (c *compiler) node(f *Formula, n ast.Node) (evalFunc, error) {
	if c.steps++; c.steps > maxSteps {
		return nil, fmt.Errorf("written out it has more than %d parts", maxSteps)
	}
	switch n := n.(type) {
	case *ast.IntegerNode:
		return constant(float64(n.Value)), nil
	case *ast.FloatNode:
		return constant(n.Value), nil
	case *ast.UnaryNode:
		x, err := c.node(f, n.Node)
		if err != nil || n.Operator == "+" {
			return x, err
		}
		return each1(x, func(v float64) float64 { return -v }), nil
	case *ast.BinaryNode:
		l, err := c.node(f, n.Left)
		if err != nil {
			return nil, err
		}
		r, err := c.node(f, n.Right)
		if err != nil {
			return nil, err
		}
		return binary(n.Operator, f.Minimum, l, r), nil
	case *ast.CallNode:
		return c.call(f, n)
	}
	name, err := nameOf(n)
	if err != nil {
		return nil, err
	}
	if other := c.r.byID[name]; other != nil {
		return c.formula(other)
	}
	metric, err := c.metric(f, name)
	if err != nil {
		return nil, err
	}
	return c.base(Base{Metric: metric}), nil
}

func (c *compiler) base(b Base) evalFunc {
	c.p.need(b)
	_, name, _ := strings.Cut(b.Metric, ".")
	scale := math.Pow10(c.p.schema.Decimals[name])
	return func(cols Columns) []float64 {
		out := make([]float64, cols.Points)
		for i, v := range cols.Of(b) {
			out[i] = v / scale
		}
		return out
	}
}

// scoped divides a name in scope and name.
func (c *compiler) scoped(f *Formula, name string) (scope, rest string, err error) {
	scope = f.Scope
	if c.scope != "" {
		scope = c.scope
	}
	first, after, dotted := strings.Cut(name, ".")
	if dotted && (first == "assigned" || first == "fm") && !c.p.schema.Names[name] {
		if c.scope == "site" {
			return "", "", fmt.Errorf("%s is of an experiment; ask for one", name)
		}
		return first, after, nil
	}
	return scope, name, nil
}

func (c *compiler) metric(f *Formula, name string) (string, error) {
	scope, rest, err := c.scoped(f, name)
	if err != nil {
		return "", err
	}
	if !c.p.schema.Names[rest] {
		return "", fmt.Errorf("%q is neither a formula nor a metric of the tenant", name)
	}
	return scope + "." + rest, nil
}

func (c *compiler) call(f *Formula, n *ast.CallNode) (evalFunc, error) {
	switch fn := n.Callee.(*ast.IdentifierNode).Value; fn {
	case "beta", "hits", "metric":
		name := c.fill(n.Arguments[0].(*ast.StringNode).Value)
		if fn == "beta" {
			name += ".beta"
		}
		metric, err := c.metric(f, name)
		if err != nil {
			return nil, err
		}
		return c.base(Base{Metric: metric}), nil
	case "rolling":
		name, _ := nameOf(n.Arguments[0])
		length, err := minutes(n.Arguments[1])
		if err != nil {
			return nil, err
		}
		metric, err := c.metric(f, name)
		if err != nil {
			return nil, err
		}
		return c.base(Base{Metric: metric, Rolling: length}), nil
	case "quantile", "share_le":
		name, _ := nameOf(n.Arguments[0])
		x, err := number(n.Arguments[1])
		if err != nil {
			return nil, err
		}
		return c.histogram(f, fn, name, x)
	}
	var args [3]evalFunc
	for i := range args {
		var err error
		if args[i], err = c.node(f, n.Arguments[i]); err != nil {
			return nil, err
		}
	}
	return func(cols Columns) []float64 {
		x, low, high := args[0](cols), args[1](cols), args[2](cols)
		for i := range x {
			x[i] = math.Min(math.Max(x[i], low[i]), high[i])
		}
		return x
	}, nil
}

func (c *compiler) histogram(f *Formula, fn, name string, x float64) (evalFunc, error) {
	scope, rest, err := c.scoped(f, name)
	if err != nil {
		return nil, err
	}
	if !c.p.schema.Histograms[rest] {
		return nil, fmt.Errorf("%q has no histogram; declare it in the tenant's config", name)
	}
	buckets := c.p.schema.Buckets(scope + "." + rest)
	c.steps += len(buckets)
	bases := make([]Base, len(buckets))
	for i, b := range buckets {
		bases[i] = Base{Metric: fmt.Sprintf("%s.%s.h%d", scope, rest, b)}
		c.p.need(bases[i])
	}
	scale := math.Pow10(c.p.schema.Decimals[rest])
	edges := make([][2]float64, len(buckets))
	for i, b := range buckets {
		edges[i][0], edges[i][1] = evidence.Bounds(b)
	}
	return func(cols Columns) []float64 {
		all := make([][]float64, len(bases))
		for i, b := range bases {
			all[i] = cols.Of(b)
		}
		out := make([]float64, cols.Points)
		counts := make([]float64, len(bases))
		for p := range out {
			for i := range all {
				counts[i] = 0
				if all[i] != nil {
					counts[i] = all[i][p]
				}
			}
			if fn == "quantile" {
				out[p] = quantile(edges, counts, x) / scale
			} else {
				out[p] = shareLE(edges, counts, x*scale)
			}
		}
		return out
	}, nil
}

// shape finds a ratio of two metrics.
func (c *compiler) shape(f *Formula) Shape {
	b, ok := f.node.(*ast.BinaryNode)
	if !ok || b.Operator != "/" {
		return Shape{}
	}
	num, den := c.plain(f, b.Left), c.plain(f, b.Right)
	if num == "" || den == "" {
		return Shape{}
	}
	return Shape{num, den}
}

// plain is the metric that an expression is, through formulas that are nothing else.
func (c *compiler) plain(f *Formula, n ast.Node) string {
	for range maxDepth {
		if call, ok := n.(*ast.CallNode); ok {
			fn := call.Callee.(*ast.IdentifierNode).Value
			if fn != "beta" && fn != "hits" && fn != "metric" {
				return ""
			}
			name := c.fill(call.Arguments[0].(*ast.StringNode).Value)
			if fn == "beta" {
				name += ".beta"
			}
			metric, _ := c.metric(f, name)
			return metric
		}
		name, err := nameOf(n)
		if err != nil {
			return ""
		}
		other := c.r.byID[name]
		if other == nil {
			metric, _ := c.metric(f, name)
			return metric
		}
		f, n = other, other.node
	}
	return ""
}
