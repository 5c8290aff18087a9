package mapping

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"tandem/schemas/records"
)

// program is a source compiled for an input's columns.
type program struct {
	src *source
	run *vm.Program

	// An expression that is a column and nothing else, or num() of one, is read from the row directly, so that a
	// number keeps its digits: as a double, 9007199254740993 or 0.1000000000000000055 would lose some.
	path  []string // nil: it is more than that
	asNum bool
}

// check compiles src without knowing the columns.
func (s *source) check() error {
	_, err := s.compile(nil, &occurrences{})
	return err
}

// compile binds src to the columns (nil: any may be there). A name that is none of them is an error.
func (s *source) compile(columns []string, occ *occurrences) (*program, error) {
	tree, err := parser.Parse(s.text)
	if err != nil {
		return nil, s.errorf("%s", firstLine(err))
	}
	env := map[string]any{"row": map[string]any{}, "line": 0}
	for _, c := range columns {
		if _, reserved := env[c]; !reserved && !slices.Contains(functionNames[:], c) {
			env[c] = ""
		}
	}
	homonyms := &homonyms{made: map[ast.Node]string{}}
	options := append(occ.functions(), expr.Env(env), expr.Patch(homonyms))
	if columns == nil {
		options = append(options, expr.AllowUndefinedVariables()) // behind Env, which takes it back
	}
	if s.what == "where" {
		options = append(options, expr.AsBool())
	}
	p := &program{src: s}
	if p.run, err = expr.Compile(s.text, options...); err != nil {
		if columns != nil && strings.HasPrefix(err.Error(), "unknown name") {
			return nil, s.errorf("%s; the columns are %s", firstLine(err), strings.Join(columns, ", "))
		}
		return nil, s.errorf("%s", firstLine(err))
	}
	if homonyms.noFunction != "" {
		return nil, s.errorf("there is no function %s(); beside those of the language there are %s",
			homonyms.noFunction, strings.Join(functionNames[:], ", "))
	}
	if columns != nil {
		used := &rowNames{}
		ast.Walk(&tree.Node, used)
		for _, name := range append(used.names, slices.Sorted(maps.Values(homonyms.made))...) {
			if !slices.Contains(columns, name) {
				return nil, s.errorf("the input has no column %q; the columns are %s", name, strings.Join(columns, ", "))
			}
		}
	}
	node := tree.Node
	if call, ok := node.(*ast.CallNode); ok && len(call.Arguments) == 1 {
		if f, ok := call.Callee.(*ast.IdentifierNode); ok && f.Value == "num" {
			node, p.asNum = call.Arguments[0], true
		}
	}
	p.path, _ = columnPath(node)
	return p, nil
}

// rowNames collects the columns that are read as row["name"]: the language itself gives nil for one that is not there.
type rowNames struct{ names []string }

func (r *rowNames) Visit(node *ast.Node) {
	if m, ok := (*node).(*ast.MemberNode); ok {
		if path, ok := columnPath(m); ok && len(path) == 1 {
			r.names = append(r.names, path[0])
		}
	}
}

// homonyms lets a column have the name of a function, as `time` in access logs: where it is not called, the name
// becomes row["name"]. Children are visited first, so a callee is changed and then changed back at its call.
// What it finds called and is no function, it keeps: where any name may be a column, the compiler does not mind.
type homonyms struct {
	made       map[ast.Node]string
	noFunction string
}

func (h *homonyms) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if slices.Contains(functionNames[:], n.Value) {
			ast.Patch(node, &ast.MemberNode{
				Node: &ast.IdentifierNode{Value: "row"}, Property: &ast.StringNode{Value: n.Value}})
			h.made[*node] = n.Value
		}
	case *ast.CallNode:
		if name, ok := h.made[n.Callee]; ok {
			delete(h.made, n.Callee)
			ast.Patch(&n.Callee, &ast.IdentifierNode{Value: name})
		} else if id, ok := n.Callee.(*ast.IdentifierNode); ok && !slices.Contains(functionNames[:], id.Value) {
			h.noFunction = id.Value
		}
	}
}

// columnPath is the way from a row to the value of name, name.name or row["name"].
func columnPath(node ast.Node) (path []string, ok bool) {
	switch n := node.(type) {
	case *ast.ChainNode:
		return columnPath(n.Node)
	case *ast.IdentifierNode:
		return []string{n.Value}, n.Value != "row" && n.Value != "line"
	case *ast.MemberNode:
		name, ok := n.Property.(*ast.StringNode)
		if !ok {
			return nil, false
		}
		if id, ok := n.Node.(*ast.IdentifierNode); ok && id.Value == "row" {
			return []string{name.Value}, true
		}
		path, ok = columnPath(n.Node)
		return append(path, name.Value), ok
	}
	return nil, false
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// eval gives the value of the expression on a row; an error is a refusal of the row.
func (p *program) eval(machine *vm.VM, r *row, env map[string]any) (any, error) {
	if p.path == nil {
		v, err := machine.Run(p.run, env)
		if err != nil {
			var at *file.Error
			if errors.As(err, &at) {
				return nil, p.refuse(at.Message)
			}
			return nil, p.refuse(firstLine(err))
		}
		return v, nil
	}
	var v any = r.cols
	for _, name := range p.path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	if s, ok := v.(string); ok && p.asNum {
		if strings.TrimSpace(s) == "" {
			return nil, nil
		}
		d, err := decimal(s)
		if err != nil {
			return nil, p.refuse(err.Error())
		}
		return json.Number(d), nil
	}
	return v, nil
}

func (p *program) refuse(reason string) error { return refuse("%s: %s", p.src.what, reason) }

// plain is what an expression sees of a column: JSON numbers as an int, or as a double if they are none.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		return parseNumber(v.String())
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, e := range v {
			m[name] = plain(e)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = plain(e)
		}
		return list
	}
	return v
}

// The kinds of results. Of each, nil and the empty text are absent (ok is false).

func asText(v any) (s string, ok bool, err error) {
	if v == nil {
		return "", false, nil
	}
	s, err = text(v)
	return s, s != "", err
}

func asBool(v any) (b records.Bool, err error) {
	switch v {
	case nil, "":
		return records.Absent, nil
	case true, "true":
		return records.True, nil
	case false, "false":
		return records.False, nil
	}
	return records.Absent, fmt.Errorf("%v is neither true nor false", v)
}

func asTime(v any) (ms int64, ok bool, err error) {
	switch v := v.(type) {
	case nil:
		return 0, false, nil
	case int:
		return int64(v), true, nil
	case int64:
		return v, true, nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= records.MaxIngest {
			return int64(v), true, nil
		}
		return 0, false, fmt.Errorf("%v is no whole number of milliseconds", v)
	}
	s, err := text(v)
	if err != nil || s == "" {
		return 0, false, err
	}
	if ms, err = strconv.ParseInt(s, 10, 64); err != nil {
		return 0, false, fmt.Errorf("%.40q is no whole number of milliseconds; use time(column, layout)", s)
	}
	return ms, true, nil
}

// asDecimal is a number for values: text keeps its digits.
func asDecimal(v any) (d string, ok bool, err error) {
	if _, isBool := v.(bool); isBool {
		return "", false, fmt.Errorf("%v is no number", v)
	}
	s, ok, err := asText(v)
	if err != nil || !ok {
		return "", false, err
	}
	d, err = decimal(s)
	return d, err == nil, err
}

// asAttr is a string, number or bool for attrs.
func asAttr(name string, v any) (m records.Member, ok bool, err error) {
	s, ok, err := asText(v)
	if _, isText := v.(string); isText {
		return records.Text(name, s), ok, err
	}
	return records.Member{Name: name, JSON: s}, ok, err
}
