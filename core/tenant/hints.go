package tenant

import (
	"fmt"
	"slices"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
)

// Hints says, a line each, what is right in a config and hardly meant: conditions that compare `point` with a name that is none of
// its points. A beacon may be of such a point, but as a rule nobody sends it, and the experiment never qualifies.
func (c *Config) Hints() []string {
	var names []string
	for _, p := range c.Points {
		names = append(names, p.Name)
	}
	var hints []string
	for i := range c.Experiments {
		x := &c.Experiments[i]
		for _, src := range x.Qualify {
			tree, err := parser.Parse(src)
			if err != nil {
				continue // Load has refused it
			}
			asked := comparedPoints{}
			ast.Walk(&tree.Node, &asked)
			for _, p := range asked.points {
				if !slices.Contains(names, p) {
					hints = append(hints, fmt.Sprintf("experiment %s qualifies by point %q, which is not listed%s", x.Name, p, didYouMean(p, names...)))
				}
			}
		}
	}
	return hints
}

// comparedPoints collects the texts that a condition compares `point` with.
type comparedPoints struct{ points []string }

// Visit implements ast.Visitor.
func (v *comparedPoints) Visit(node *ast.Node) {
	b, ok := (*node).(*ast.BinaryNode)
	if !ok {
		return
	}
	sides := []ast.Node{b.Left, b.Right}
	if !slices.ContainsFunc(sides, func(n ast.Node) bool {
		id, ok := n.(*ast.IdentifierNode)
		return ok && id.Value == "point"
	}) {
		return
	}
	for _, n := range sides {
		values := []ast.Node{n}
		if list, ok := n.(*ast.ArrayNode); ok {
			values = list.Nodes
		}
		for _, x := range values {
			if s, ok := x.(*ast.StringNode); ok && slices.Contains([]string{"==", "in"}, b.Operator) {
				v.points = append(v.points, s.Value)
			}
		}
	}
}
