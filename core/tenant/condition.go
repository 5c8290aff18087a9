package tenant

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
)

// Bounds of one condition. They keep a hostile one from costing more than its length: parsing, compiling and each
// Eval take at most maxConditionSteps steps and maxConditionDepth levels of recursion.
const (
	maxConditionBytes = 4096
	maxConditionDepth = 64   // levels of parentheses, lists, `not` and chained comparisons; `and` and `or` chain freely
	maxConditionSteps = 4096 // names, literals and operators; the middle of a < b < c counts twice
	maxPatternSize    = 10_000
)

// Space says where a name of a condition is looked up in a beacon.
type Space uint8

// The spaces of SPEC 4.
const (
	Field       Space = iota // point, device, login, visitor: the field, else the attr of that name
	ValuesSpace              // values.NAME
	AttrsSpace               // attrs.NAME
)

// Name is what a condition reads from a beacon.
type Name struct {
	Space Space
	Key   string
}

// OperandKind is the type of an Operand.
type OperandKind uint8

// The types of SPEC 4. OperandNil is what the beacon lacks.
const (
	OperandNil OperandKind = iota
	OperandStr
	OperandNum
	OperandBool
)

// Operand is what a beacon has under a Name. Conditions read Text of strings only.
type Operand struct {
	Kind OperandKind
	Text []byte  // the string; of a number or bool its JSON spelling, which tags use
	Num  float64 // never NaN
	Bool bool
}

// Condition is a compiled condition over one beacon (SPEC 4). It is immutable: any number of goroutines may use it.
type Condition struct {
	Source string
	Names  []Name // distinct, in the order of first use

	holds test
}

// Eval says whether the condition holds for a beacon of which ops[i] is the operand of c.Names[i]. It neither
// allocates nor keeps ops, which must be as long as c.Names.
func (c *Condition) Eval(ops []Operand) bool { return c.holds(ops) }

// ConditionError says where and why a condition is refused. Line and Col are 1-based; Col counts characters.
type ConditionError struct {
	Line, Col int
	Msg       string
}

func (e *ConditionError) Error() string {
	if e.Line > 1 {
		return fmt.Sprintf("condition, line %d, column %d: %s", e.Line, e.Col, e.Msg)
	}
	return fmt.Sprintf("condition, column %d: %s", e.Col, e.Msg)
}

// ParseCondition compiles a condition (SPEC 4). Its errors are of type *ConditionError.
func ParseCondition(src string) (*Condition, error) {
	toks, cerr := scanCondition(src)
	if cerr != nil {
		return nil, cerr
	}
	tree, err := parser.Parse(src)
	if err != nil {
		return nil, toks.parseError(err)
	}
	c := compiler{tokens: toks, index: map[Name]int{}}
	holds := c.test(tree.Node, 1)
	if c.err != nil {
		return nil, c.err
	}
	return &Condition{Source: src, Names: c.names, holds: holds}, nil
}

// compiler turns the tree into closures. After an error it goes on with closures that nobody calls.
type compiler struct {
	*tokens
	names []Name
	index map[Name]int
	steps int
	err   *ConditionError
}

func (c *compiler) fail(n ast.Node, format string, args ...any) {
	if c.err == nil {
		c.err = c.errorAt(n.Location().From, format, args...)
	}
}

// failAt points at the beginning of what a node stands for; fail at its operator or last part.
func (c *compiler) failAt(n ast.Node, format string, args ...any) {
	for {
		switch x := n.(type) {
		case *ast.BinaryNode:
			n = x.Left
		case *ast.MemberNode:
			n = x.Node
		default:
			c.fail(n, format, args...)
			return
		}
	}
}

// enter counts a node and refuses those beyond the bounds.
func (c *compiler) enter(n ast.Node, depth int) bool {
	if c.err != nil {
		return false
	}
	c.steps++
	switch {
	case depth > maxConditionDepth:
		c.fail(n, "nested deeper than %d levels", maxConditionDepth)
	case c.steps > maxConditionSteps:
		c.fail(n, "more than %d names, literals and operators", maxConditionSteps)
	}
	return c.err == nil
}

// test compiles a node of which only matters whether it is true.
func (c *compiler) test(n ast.Node, depth int) test {
	if u, ok := n.(*ast.UnaryNode); ok && isNot(u.Operator) {
		if !c.enter(n, depth) {
			return never
		}
		t := c.test(u.Node, depth+1)
		return func(ops []Operand) bool { return !t(ops) }
	}
	b, ok := n.(*ast.BinaryNode)
	if !ok {
		return c.operand(n, depth).test()
	}
	if !c.enter(n, depth) {
		return never
	}
	switch b.Operator {
	case "and", "&&", "or", "||":
		isAnd := isAnd(b.Operator)
		var tests []test
		for _, side := range chain(b, isAnd) {
			tests = append(tests, c.test(side, depth+1))
		}
		if isAnd {
			return allOf(tests)
		}
		return anyOf(tests)
	}
	return c.comparison(b, depth)
}

func isNot(op string) bool { return op == "not" || op == "!" }
func isAnd(op string) bool { return op == "and" || op == "&&" }
func isOr(op string) bool  { return op == "or" || op == "||" }

// chain lists the sides of a and b and c, which the parser nests to the left, so that a long one is not deep.
func chain(b *ast.BinaryNode, and bool) []ast.Node {
	var sides []ast.Node
	for {
		sides = append(sides, b.Right)
		left, ok := b.Left.(*ast.BinaryNode)
		if !ok || and && !isAnd(left.Operator) || !and && !isOr(left.Operator) {
			sides = append(sides, b.Left)
			slices.Reverse(sides)
			return sides
		}
		b = left
	}
}

func (c *compiler) comparison(b *ast.BinaryNode, depth int) test {
	op := b.Operator
	switch op {
	case "==", "!=", "<", "<=", ">", ">=", "in", "startsWith", "endsWith", "contains", "matches":
	default:
		c.fail(b, "arithmetic (`%s`) is not part of a condition; allowed are %s", op, allowedOperators)
		return never
	}
	if u, ok := b.Left.(*ast.UnaryNode); ok && isNot(u.Operator) && c.bare(u.Location().From, b.Location().From) {
		c.fail(u, "`%s` binds tighter than `%s`: put the comparison in parentheses, as in `not (a %s b)`", u.Operator, op, op)
		return never
	}
	left := c.operand(b.Left, depth+1)
	switch op {
	case "in":
		return c.in(left, b, depth)
	case "matches":
		return c.matches(left, b)
	}
	right := c.operand(b.Right, depth+1)
	return compare(op, left, right)
}

func (c *compiler) in(left operand, b *ast.BinaryNode, depth int) test {
	array, ok := b.Right.(*ast.ArrayNode)
	if !ok {
		c.failAt(b.Right, "the right side of `in` is a list, as in `point in [\"item\", \"cart\"]`")
		return never
	}
	var l list
	for _, n := range array.Nodes {
		e := c.operand(n, depth+2)
		if c.err != nil {
			return never
		}
		if e.lit == nil {
			c.failAt(n, "a list holds literals only: strings, numbers, true, false, nil")
			return never
		}
		l.add(*e.lit)
	}
	get := left.get
	return func(ops []Operand) bool { return l.has(get(ops)) }
}

func (c *compiler) matches(left operand, b *ast.BinaryNode) test {
	s, ok := b.Right.(*ast.StringNode)
	if !ok {
		c.failAt(b.Right, "the right side of `matches` is a string literal")
		return never
	}
	// Compiled by hand first because the size of a pattern is known only then: a{1000} is short and large.
	re, err := syntax.Parse(s.Value, syntax.Perl)
	if err != nil {
		c.fail(s, "`matches` has a bad pattern (RE2): %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return never
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil || len(prog.Inst) > maxPatternSize {
		c.fail(s, "the pattern of `matches` is too large: its repetitions multiply to more than %d steps", maxPatternSize)
		return never
	}
	pattern, err := regexp.Compile(s.Value)
	if err != nil {
		c.fail(s, "`matches` has a bad pattern (RE2): %v", err)
		return never
	}
	get := left.get
	return func(ops []Operand) bool {
		v := get(ops)
		return v.Kind == OperandStr && pattern.Match(v.Text)
	}
}

// operand compiles a node of which the value matters.
func (c *compiler) operand(n ast.Node, depth int) operand {
	switch n := n.(type) {
	case *ast.BinaryNode:
		return truth(c.test(n, depth))
	case *ast.UnaryNode:
		if isNot(n.Operator) {
			return truth(c.test(n, depth))
		}
		if !c.enter(n, depth) {
			return literal(Operand{})
		}
		switch x := n.Node.(type) {
		case *ast.IntegerNode:
			return literal(Operand{Kind: OperandNum, Num: -float64(x.Value)})
		case *ast.FloatNode:
			return literal(Operand{Kind: OperandNum, Num: -x.Value})
		}
		c.fail(n, "`-` stands before a number literal only")
		return literal(Operand{})
	}
	if !c.enter(n, depth) {
		return literal(Operand{})
	}
	switch n := n.(type) {
	case *ast.NilNode:
		return literal(Operand{})
	case *ast.BoolNode:
		return literal(Operand{Kind: OperandBool, Bool: n.Value})
	case *ast.IntegerNode:
		return literal(Operand{Kind: OperandNum, Num: float64(n.Value)})
	case *ast.FloatNode:
		return literal(Operand{Kind: OperandNum, Num: n.Value})
	case *ast.StringNode:
		return literal(Operand{Kind: OperandStr, Text: []byte(n.Value)})
	case *ast.IdentifierNode:
		switch n.Value {
		case "point", "device", "login", "visitor":
			return c.name(Name{Field, n.Value})
		case "values", "attrs":
			c.fail(n, "`%s` needs a name: %s.NAME or %s[\"NAME\"]", n.Value, n.Value, n.Value)
		default:
			c.fail(n, "unknown name `%s`%s; allowed are %s", n.Value, didYouMean(n.Value, "point", "device", "login", "visitor", "values", "attrs"), allowedNames)
		}
	case *ast.MemberNode:
		return c.member(n)
	case *ast.CallNode:
		c.fail(n, "%s: a condition calls no functions; allowed are %s", called(n), allowedOperators)
	case *ast.BuiltinNode:
		c.fail(n, "function `%s`: a condition calls no functions; allowed are %s", n.Name, allowedOperators)
	case *ast.ArrayNode:
		c.fail(n, "a list stands only on the right side of `in`")
	default:
		c.fail(n, "this is not part of a condition; allowed are %s", allowedOperators)
	}
	return literal(Operand{})
}

func called(n *ast.CallNode) string {
	switch f := n.Callee.(type) {
	case *ast.IdentifierNode:
		return "unknown function `" + f.Value + "`"
	case *ast.MemberNode:
		if s, ok := f.Property.(*ast.StringNode); ok {
			return "method `" + s.Value + "`"
		}
	}
	return "a call"
}

func (c *compiler) member(n *ast.MemberNode) operand {
	base, ok := n.Node.(*ast.IdentifierNode)
	switch {
	case !ok:
		c.fail(n, "a chain of members: only values.NAME and attrs.NAME are allowed, of one level")
		return literal(Operand{})
	case base.Value != "values" && base.Value != "attrs":
		c.fail(base, "`%s` has no members: only values.NAME and attrs.NAME are allowed", base.Value)
		return literal(Operand{})
	}
	key, ok := n.Property.(*ast.StringNode)
	if !ok {
		c.fail(n.Property, "the key of `%s[...]` is a string literal, as in attrs[\"unit-price\"]", base.Value)
		return literal(Operand{})
	}
	if base.Value == "values" {
		return c.name(Name{ValuesSpace, key.Value})
	}
	return c.name(Name{AttrsSpace, key.Value})
}

func (c *compiler) name(n Name) operand {
	i, ok := c.index[n]
	if !ok {
		i = len(c.names)
		c.names = append(c.names, n)
		c.index[n] = i
	}
	return operand{name: i, isName: true, get: func(ops []Operand) *Operand { return &ops[i] }}
}
