package formula

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
)

var paramPattern = regexp.MustCompile(`\$\{([^}]*)\}`)

// parse reads an expression and refuses what is not of the language.
func parse(text string) (ast.Node, error) {
	if len(text) > MaxExpr || strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("expr has %d bytes; 1 to %d are allowed", len(text), MaxExpr)
	}
	tree, err := parser.Parse(text)
	if err != nil {
		var where *file.Error
		if errors.As(err, &where) {
			return nil, fmt.Errorf("expr, column %d: %s", where.Column+1, where.Message)
		}
		return nil, fmt.Errorf("expr: %w", err)
	}
	nodes := 0
	if err := check(tree.Node, &nodes); err != nil {
		return nil, fmt.Errorf("expr: %w", err)
	}
	return tree.Node, nil
}

func check(n ast.Node, nodes *int) error {
	if *nodes++; *nodes > maxNodes {
		return fmt.Errorf("more than %d parts", maxNodes)
	}
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return nil
	case *ast.UnaryNode:
		if n.Operator != "-" && n.Operator != "+" {
			return fmt.Errorf("operator %q: there are + - * / only", n.Operator)
		}
		return check(n.Node, nodes)
	case *ast.BinaryNode:
		if !strings.Contains("+-*/", n.Operator) || len(n.Operator) != 1 {
			return fmt.Errorf("operator %q: there are + - * / only", n.Operator)
		}
		return errors.Join(check(n.Left, nodes), check(n.Right, nodes))
	case *ast.IdentifierNode, *ast.MemberNode:
		_, err := nameOf(n)
		return err
	case *ast.CallNode:
		return checkCall(n, nodes)
	case *ast.BuiltinNode:
		return fmt.Errorf("%s is no function here", n.Name)
	}
	return fmt.Errorf("%s: only numbers, names, + - * / and calls are allowed", n)
}

func checkCall(n *ast.CallNode, nodes *int) error {
	id, ok := n.Callee.(*ast.IdentifierNode)
	if !ok {
		return fmt.Errorf("%s is no function", n.Callee)
	}
	want := map[string]int{"beta": 1, "hits": 1, "metric": 1, "quantile": 2, "share_le": 2, "rolling": 2, "clamp": 3}[id.Value]
	if want == 0 {
		return fmt.Errorf("there is no function %s; there are beta, hits, metric, quantile, share_le, rolling and clamp", id.Value)
	}
	if len(n.Arguments) != want {
		return fmt.Errorf("%s takes %d arguments, not %d", id.Value, want, len(n.Arguments))
	}
	switch id.Value {
	case "beta", "hits", "metric":
		s, ok := n.Arguments[0].(*ast.StringNode)
		if !ok {
			return fmt.Errorf(`%s takes a name in quotes, as %s("item_page")`, id.Value, id.Value)
		}
		rest := paramPattern.ReplaceAllString(s.Value, "p")
		for _, part := range strings.FieldsFunc(rest, func(r rune) bool { return r == '.' || r == '*' }) {
			if !pointPattern.MatchString(part) {
				return fmt.Errorf("%s: %q is no name", id.Value, s.Value)
			}
		}
		return nil
	case "quantile", "share_le":
		if _, err := nameOf(n.Arguments[0]); err != nil {
			return fmt.Errorf("%s: its first argument is a value with a histogram, as perf.load: %w", id.Value, err)
		}
		x, err := number(n.Arguments[1])
		if err == nil && id.Value == "quantile" && !(x >= 0 && x <= 1) {
			err = fmt.Errorf("quantile %v is not in 0 to 1", x)
		}
		return err
	case "rolling":
		if name, err := nameOf(n.Arguments[0]); err != nil || name != "visitors" && !strings.HasSuffix(name, ".visitors") {
			return errors.New(`rolling is of visitors, as rolling(visitors, "24h")`)
		}
		_, err := minutes(n.Arguments[1])
		return err
	}
	return errors.Join(check(n.Arguments[0], nodes), check(n.Arguments[1], nodes), check(n.Arguments[2], nodes))
}

// nameOf is the dotted name that a chain of members spells.
func nameOf(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return n.Value, nil
	case *ast.MemberNode:
		s, ok := n.Property.(*ast.StringNode)
		if !ok || n.Optional || !pointPattern.MatchString(s.Value) {
			return "", fmt.Errorf("%s is no name", n)
		}
		before, err := nameOf(n.Node)
		return before + "." + s.Value, err
	}
	return "", fmt.Errorf("%s is no name", n)
}

func number(n ast.Node) (float64, error) {
	sign := 1.0
	if u, ok := n.(*ast.UnaryNode); ok && u.Operator == "-" {
		sign, n = -1, u.Node
	}
	switch n := n.(type) {
	case *ast.IntegerNode:
		return sign * float64(n.Value), nil
	case *ast.FloatNode:
		if !math.IsInf(n.Value, 0) {
			return sign * n.Value, nil
		}
	}
	return 0, fmt.Errorf("%s is no number", n)
}

// maxRolling is the longest time of rolling visitors, in minutes.
const maxRolling = 24 * 60

func minutes(n ast.Node) (int64, error) {
	s, ok := n.(*ast.StringNode)
	if ok && len(s.Value) > 1 {
		count, err := strconv.ParseInt(s.Value[:len(s.Value)-1], 10, 32)
		if unit := map[byte]int64{'m': 1, 'h': 60}[s.Value[len(s.Value)-1]]; err == nil && unit > 0 && count > 0 && count*unit <= maxRolling {
			return count * unit, nil
		}
	}
	return 0, fmt.Errorf(`%s is no time as "90m" or "24h", at most 24h`, n)
}

// references are the names of an expression, formulas' or metrics', each once.
func references(n ast.Node) (names []string) {
	each(n, func(n ast.Node) {
		if id, ok := n.(*ast.IdentifierNode); ok {
			names = append(names, id.Value)
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// params are those of the strings of an expression.
func params(n ast.Node) (names []string) {
	each(n, func(n ast.Node) {
		if s, ok := n.(*ast.StringNode); ok {
			for _, m := range paramPattern.FindAllStringSubmatch(s.Value, -1) {
				names = append(names, m[1])
			}
		}
	})
	return names
}

// each calls fn for the numbers, names and strings that a checked expression is made of.
func each(n ast.Node, fn func(ast.Node)) {
	switch n := n.(type) {
	case *ast.UnaryNode:
		each(n.Node, fn)
	case *ast.BinaryNode:
		each(n.Left, fn)
		each(n.Right, fn)
	case *ast.CallNode:
		for _, a := range n.Arguments {
			each(a, fn)
		}
	default:
		fn(n)
	}
}
