package oracle

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"

	"tandem/core/tenant"
)

// condition is one expression of a qualify list (SPEC 4).
type condition struct {
	root     ast.Node
	patterns map[string]*regexp.Regexp // the literals to the right of matches
}

// compile reads a condition that the loader has accepted; anything else is a defect of the caller.
func compile(text string) *condition {
	tree, err := parser.Parse(text)
	if err != nil {
		panic(fmt.Sprintf("oracle: condition %q was never checked: %v", text, err))
	}
	return &condition{tree.Node, map[string]*regexp.Regexp{}}
}

// holds says whether the condition's value at the beacon is true.
func (c *condition) holds(b *beacon) bool { return c.value(c.root, b) == any(true) }

// value evaluates a node to nil, a bool, a float64, a string, or a list of these.
func (c *condition) value(n ast.Node, b *beacon) any {
	switch n := n.(type) {
	case *ast.NilNode:
		return nil
	case *ast.BoolNode:
		return n.Value
	case *ast.StringNode:
		return n.Value
	case *ast.IntegerNode:
		return float64(n.Value)
	case *ast.FloatNode:
		return n.Value
	case *ast.ArrayNode:
		list := []any{}
		for _, m := range n.Nodes {
			list = append(list, c.value(m, b))
		}
		return list
	case *ast.IdentifierNode:
		return named(b, n.Value)
	case *ast.MemberNode:
		return member(b, n)
	case *ast.UnaryNode:
		v := c.value(n.Node, b)
		switch n.Operator {
		case "not", "!":
			return v != any(true)
		case "-":
			if number, ok := v.(float64); ok {
				return -number
			}
		}
	case *ast.BinaryNode:
		return c.binary(n, b)
	}
	panic(fmt.Sprintf("oracle: condition with %q was never checked", n.String()))
}

func (c *condition) binary(n *ast.BinaryNode, b *beacon) bool {
	left, right := c.value(n.Left, b), c.value(n.Right, b)
	switch n.Operator {
	case "and", "&&":
		return left == any(true) && right == any(true)
	case "or", "||":
		return left == any(true) || right == any(true)
	case "==":
		return equal(left, right)
	case "!=":
		return !equal(left, right)
	case "in":
		list, _ := right.([]any)
		return slices.ContainsFunc(list, func(m any) bool { return equal(left, m) })
	case "<", "<=", ">", ">=":
		return ordered(n.Operator, left, right)
	}
	l, ok := left.(string)
	r, alsoOK := right.(string)
	if !ok || !alsoOK {
		return false
	}
	switch n.Operator {
	case "startsWith":
		return strings.HasPrefix(l, r)
	case "endsWith":
		return strings.HasSuffix(l, r)
	case "contains":
		return strings.Contains(l, r)
	case "matches":
		if c.patterns[r] == nil {
			c.patterns[r] = regexp.MustCompile(r)
		}
		return c.patterns[r].MatchString(l)
	}
	panic(fmt.Sprintf("oracle: condition with operator %q was never checked", n.Operator))
}

// equal says whether two values are of one type and equal; nil equals only nil.
func equal(a, b any) bool {
	la, isList := a.([]any)
	lb, alsoList := b.([]any)
	if isList || alsoList {
		return isList && alsoList && slices.EqualFunc(la, lb, equal)
	}
	return a == b
}

// ordered compares two numbers or two strings; of anything else no order holds.
func ordered(operator string, a, b any) bool {
	var less, greater bool
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		if !ok {
			return false
		}
		less, greater = a < b, a > b
	case string:
		b, ok := b.(string)
		if !ok {
			return false
		}
		less, greater = a < b, a > b
	default:
		return false
	}
	switch operator {
	case "<":
		return less
	case ">":
		return greater
	case "<=":
		return !greater
	default:
		return !less
	}
}

// named gives the value of a name: the field, else the attr of that name.
func named(b *beacon, name string) any {
	var field any
	switch name {
	case "point":
		field = b.point
	case "device":
		field = b.device
	case "login":
		field = b.login
	case "visitor":
		if b.visitor != "" { // empty is absent
			field = b.visitor
		}
	default:
		panic(fmt.Sprintf("oracle: condition with name %q was never checked", name))
	}
	if field == nil {
		field = attr(b, name)
	}
	return field
}

// member gives values.NAME or attrs.NAME.
func member(b *beacon, n *ast.MemberNode) any {
	of, isName := n.Node.(*ast.IdentifierNode)
	name, isLiteral := n.Property.(*ast.StringNode)
	if isName && isLiteral && of.Value == "values" {
		if text, carried := b.values[name.Value]; carried {
			return double(text)
		}
		return nil
	}
	if isName && isLiteral && of.Value == "attrs" {
		return attr(b, name.Value)
	}
	panic(fmt.Sprintf("oracle: condition with %q was never checked", n.String()))
}

func attr(b *beacon, name string) any {
	if number, ok := b.attrs[name].(json.Number); ok {
		return double(string(number))
	}
	return b.attrs[name]
}

// double gives the nearest IEEE double of a JSON number, an infinity beyond the greatest.
func double(text string) float64 {
	x, _ := strconv.ParseFloat(text, 64)
	return x
}

// tagSet spells the beacon's tag set under a revision: each tag's value, `none` if missing, `other` if not allowed
// (SPEC 6).
func tagSet(c *tenant.Config, b *beacon) string {
	tags := slices.Clone(c.Tags)
	slices.SortFunc(tags, func(a, b tenant.Tag) int { return strings.Compare(a.Name, b.Name) })
	var parts []string
	for _, tag := range tags {
		v := b.attrs[tag.Name]
		if tag.Name == "device" && b.device != nil {
			v = b.device
		}
		if tag.Name == "login" && b.login != nil {
			v = b.login
		}
		text := "none"
		if v != nil {
			if text = fmt.Sprint(v); !slices.Contains(tag.Values, text) { // json.Number prints as spelled
				text = "other"
			}
		}
		parts = append(parts, tag.Name+"="+text)
	}
	return strings.Join(parts, ",")
}
