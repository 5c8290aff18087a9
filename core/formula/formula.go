// Package formula is the formula repository: one YAML file per tenant that names what charts and tables show, as
// arithmetic over metrics (SPEC 6) with what a page needs to draw it. A formula is evaluated after its metrics are summed
// over time and tags, so a rate over a day is a ratio of the day's sums, never an average of rates.
//
// # Expressions
//
// The grammar is expr-lang's, of which there are numbers, + - * /, parentheses and calls. A name is another formula's id,
// or a metric's: `order`, `order.beta`, `order.revenue.cap`, `visit.beta`, `bounce`, `visitors`. It is read in the scope of
// the formula; `assigned.` or `fm.` before it says another one. Values are in the unit of the beacons: 12.5, not 1250.
//
//	beta("P")  hits("P")       P.beta and P, for templates: "${mp}" in a string is a parameter
//	metric("unit-price.beta")  a metric whose name is no identifier
//	quantile(P.V, 0.95)        of the histogram of value V, interpolated within a bucket (under 10 % wide)
//	share_le(P.V, 500)         share of the histogram's events that are at most 500
//	rolling(visitors, "24h")   distinct visitors of the 24 h before each point's end
//	clamp(x, low, high)
//
// Division by zero, by less than the formula's `minimum`, or with anything that is not known, gives null.
package formula

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/expr-lang/expr/ast"
)

// Limits of a repository.
const (
	MaxBytes    = 1 << 20 // of a file
	MaxFormulas = 1_000
	MaxExpr     = 4_096 // bytes of an expression
	maxNodes    = 1_000 // of an expression
	maxDepth    = 64    // of formulas that name formulas
)

// Formula is an entry of the repository.
type Formula struct {
	ID          string  `yaml:"-" json:"id"`
	Title       string  `yaml:"title" json:"title"`
	Expr        string  `yaml:"expr" json:"expr"`
	Unit        string  `yaml:"unit" json:"unit"`               // percent, number, currency or ms; a percent is a share, 0.1 is 10 %
	Format      string  `yaml:"format" json:"format,omitempty"` // "0.00%", for pages
	Chart       string  `yaml:"chart" json:"chart"`             // line, area or bar
	Good        string  `yaml:"good" json:"good"`               // up, down or none: which way is better
	Role        string  `yaml:"role" json:"role"`               // primary, secondary, guardrail, diagnostic or health
	Scope       string  `yaml:"scope" json:"scope,omitempty"`   // assigned or fm, of requests for an experiment
	Minimum     float64 `yaml:"minimum" json:"minimum,omitempty"`
	Description string  `yaml:"description" json:"description,omitempty"`
	Owner       string  `yaml:"owner" json:"owner,omitempty"`

	line  int
	node  ast.Node
	where string
}

// Param is a parameter of templates: the name of a measurement point.
type Param struct {
	Default string `yaml:"default" json:"default"`
}

// Repository is a loaded file. It is immutable.
type Repository struct {
	Tenant   string
	Formulas []*Formula // in the order of the file
	Params   map[string]Param

	byID map[string]*Formula
	file string
}

var (
	idPattern    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	pointPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// reserved are names that mean something else in an expression.
var reserved = []string{"assigned", "fm", "site", "visit", "bounce", "visitors", "beta", "hits", "metric", "quantile", "share_le", "rolling", "clamp",
	"nil", "true", "false", "and", "or", "not", "in", "let", "if", "else"}

// repository is the file, of a name that errors may tell.
type repository struct {
	Version  int              `yaml:"version"`
	Tenant   string           `yaml:"tenant"`
	Defaults defaults         `yaml:"defaults"`
	Params   map[string]Param `yaml:"params"`
	Formulas yaml.Node        `yaml:"formulas"`
}

type defaults struct {
	Scope   string  `yaml:"scope"`
	Minimum float64 `yaml:"minimum"`
	Owner   string  `yaml:"owner"`
}

// Load reads a repository. An error names file and line, all errors that there are.
func Load(file string, data []byte) (*Repository, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", file, len(data), MaxBytes)
	}
	var doc repository
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r := &Repository{Tenant: doc.Tenant, Params: doc.Params, byID: map[string]*Formula{}, file: file}
	var faults []error
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
	switch {
	case doc.Version != 1:
		fault(1, "version is %d; this release reads 1", doc.Version)
	case doc.Tenant == "":
		fault(1, "no tenant")
	case doc.Formulas.Kind != yaml.MappingNode:
		fault(max(1, doc.Formulas.Line), "formulas is no list of id: {...}")
	case len(doc.Formulas.Content)/2 > MaxFormulas:
		fault(doc.Formulas.Line, "%d formulas, more than %d", len(doc.Formulas.Content)/2, MaxFormulas)
	}
	for name, p := range doc.Params {
		if !idPattern.MatchString(name) || !pointPattern.MatchString(p.Default) {
			fault(1, "param %q: its name is not %s, or its default is no point's name", name, idPattern)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	for i := 0; i+1 < len(doc.Formulas.Content); i += 2 {
		key, value := doc.Formulas.Content[i], doc.Formulas.Content[i+1]
		f := &Formula{Unit: "number", Chart: "line", Good: "none", Role: "secondary", Scope: doc.Defaults.Scope, Minimum: doc.Defaults.Minimum,
			Owner: doc.Defaults.Owner}
		if err := strict(value, f); err != nil {
			fault(value.Line, "formula %s: %v", key.Value, err)
			continue
		}
		f.ID, f.line, f.where = key.Value, key.Line, fmt.Sprintf("%s:%d", file, key.Line)
		if r.byID[f.ID] != nil {
			fault(key.Line, "formula %s: there is one of that id in line %d", f.ID, r.byID[f.ID].line)
			continue
		}
		if err := f.check(); err != nil {
			fault(key.Line, "formula %s: %v", f.ID, err)
			continue
		}
		node, err := parse(f.Expr)
		if err != nil {
			fault(key.Line, "formula %s: %v", f.ID, err)
			continue
		}
		f.node = node
		r.Formulas, r.byID[f.ID] = append(r.Formulas, f), f
	}
	for _, f := range r.Formulas {
		if err := r.checkParams(f); err != nil {
			fault(f.line, "formula %s: %v", f.ID, err)
		}
	}
	r.checkNames(func(f *Formula, what string) { fault(f.line, "formula %s: %s", f.ID, what) })
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return r, nil
}

// Where is the formula's place, as FILE:LINE.
func (f *Formula) Where() string { return f.where }

// strict decodes a node and refuses keys that are unknown.
func strict(n *yaml.Node, f *Formula) error {
	if n.Kind != yaml.MappingNode {
		return errors.New("it is no {title: ..., expr: ...}")
	}
	known := []string{"title", "expr", "unit", "format", "chart", "good", "role", "scope", "minimum", "description", "owner"}
	for i := 0; i < len(n.Content); i += 2 {
		if !slices.Contains(known, n.Content[i].Value) {
			return fmt.Errorf("key %q (line %d) is none of %s", n.Content[i].Value, n.Content[i].Line, strings.Join(known, ", "))
		}
	}
	return n.Decode(f)
}

func (f *Formula) check() error {
	one := func(what, value string, of ...string) error {
		if !slices.Contains(of, value) {
			return fmt.Errorf("%s %q is none of %s", what, value, strings.Join(of, ", "))
		}
		return nil
	}
	switch {
	case !idPattern.MatchString(f.ID):
		return fmt.Errorf("its id is not %s", idPattern)
	case slices.Contains(reserved, f.ID):
		return errors.New("its id means something else in expressions; take another one")
	case f.Title == "":
		return errors.New("no title")
	case !(f.Minimum >= 0):
		return errors.New("minimum is below 0")
	case f.Scope == "":
		f.Scope = "fm"
	}
	return errors.Join(one("unit", f.Unit, "percent", "number", "currency", "ms"), one("chart", f.Chart, "line", "area", "bar"),
		one("good", f.Good, "up", "down", "none"), one("scope", f.Scope, "assigned", "fm"),
		one("role", f.Role, "primary", "secondary", "guardrail", "diagnostic", "health"))
}

func (r *Repository) checkParams(f *Formula) error {
	for _, p := range params(f.node) {
		if _, ok := r.Params[p]; !ok {
			return fmt.Errorf("${%s}: there is no such param; list it under params", p)
		}
	}
	return nil
}

// Formula returns the formula of an id, nil if there is none.
func (r *Repository) Formula(id string) *Formula { return r.byID[id] }

// checkNames tells of formulas that are defined by themselves, and of those that name others too deeply. It looks into each formula
// once: where each names the next one twice there are too many ways through them to follow.
func (r *Repository) checkNames(fault func(f *Formula, what string)) {
	depths := map[*Formula]int{} // 0 while the formula's names are looked into
	var path []string
	var depth func(f *Formula) int
	depth = func(f *Formula) int {
		if d, met := depths[f]; met {
			if d == 0 {
				round := append(slices.Clone(path[slices.Index(path, f.ID):]), f.ID)
				fault(f, "it is defined by itself: "+strings.Join(round, " -> "))
			}
			return d
		}
		depths[f], path = 0, append(path, f.ID)
		d := 1
		for _, name := range references(f.node) {
			if next := r.byID[name]; next != nil {
				d = max(d, depth(next)+1)
			}
		}
		depths[f], path = d, path[:len(path)-1]
		if d == maxDepth+1 { // of those that name it the same is true, and is not told again
			fault(f, fmt.Sprintf("formulas that name formulas are %d deep here, more than %d; write some of them out", d, maxDepth))
		}
		return d
	}
	for _, f := range r.Formulas {
		depth(f)
	}
}
