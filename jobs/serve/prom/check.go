package prom

import (
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"tandem/jobs/serve/read"
)

// short refuses expressions that are too long to be parsed: the parser's time grows with the square of their parts.
func (a *API) short(query string) error { return a.shorter(query, a.Limits.Tokens) }

// shorter refuses expressions of more than so many tokens.
func (a *API) shorter(query string, tokens int) error {
	if len(query) > a.Limits.Query {
		return &read.LimitError{Name: "query", Limit: int64(a.Limits.Query), Way: "ask in more than one request"}
	}
	l := parser.Lex(query)
	var it parser.Item
	for n := 0; ; n++ {
		if l.NextItem(&it); it.Typ == parser.EOF || it.Typ == parser.ERROR {
			return nil
		}
		if n == tokens {
			return &read.LimitError{Name: "tokens", Limit: int64(tokens), Way: "ask in more than one request"}
		}
	}
}

// storedLabel is about as long as a label of a stored series gets, in bytes.
const storedLabel = 256

// check refuses what the engine's own limits do not: they count samples, and labels can be made to double with each call. Of a
// subquery's step the engine takes the milliseconds, and divides by them.
func (a *API) check(query string) error {
	if err := a.short(query); err != nil {
		return err
	}
	e, err := a.parser.ParseExpr(query)
	if err != nil {
		return nil // the engine tells
	}
	short := time.Duration(0)
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if sub, ok := n.(*parser.SubqueryExpr); ok && sub.Step > 0 && sub.Step < leastStep {
			short = sub.Step
		}
		return nil
	})
	if short > 0 {
		return badData("invalid parameter %q: a subquery's step, %s, is below a millisecond, the least; a sample is of a minute", "query", short)
	}
	left := a.Limits.Labels
	longest(e, &left)
	if left < 0 {
		return &read.LimitError{Name: "labels", Limit: int64(a.Limits.Labels), Way: "make shorter labels, or fewer, with label_replace and label_join"}
	}
	return nil
}

// longest is how long a label of the expression's series may be, in bytes; what is added to labels is taken from left. It stops where
// that is below zero, so that no length overflows.
func longest(n parser.Node, left *int) int {
	most := storedLabel
	for c := range parser.ChildrenIter(n) {
		most = max(most, longest(c, left))
	}
	call, ok := n.(*parser.Call)
	if !ok || *left < 0 {
		return most
	}
	made := 0
	switch call.Func.Name {
	case "label_replace": // (v, to, replacement, from, regex)
		to := text(call.Args[2])
		made = len(to) + strings.Count(to, "$")*most
	case "label_join": // (v, to, separator, from...)
		made = (len(call.Args) - 3) * (most + len(text(call.Args[2])))
	}
	*left -= made
	return max(most, made)
}

func text(e parser.Expr) string {
	for {
		switch x := e.(type) {
		case *parser.ParenExpr:
			e = x.Expr
		case *parser.StepInvariantExpr:
			e = x.Expr
		case *parser.StringLiteral:
			return x.Val
		default:
			return ""
		}
	}
}
