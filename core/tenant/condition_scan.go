package tenant

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

const (
	allowedOperators = "== != < <= > >= in, startsWith endsWith contains matches, and or not, parentheses, lists"
	allowedNames     = "point, device, login, visitor, values.NAME, attrs.NAME"
)

// tokens is a condition's text, taken apart. Offsets are in characters, as the parser counts.
type tokens struct {
	src  string
	list []lexer.Token
	at   map[int]token // by offset
}

type token struct {
	text  string
	depth int // of parentheses and brackets around it
}

// scanCondition takes a condition apart and refuses what no condition has. The parser thus sees only a small part of
// its own grammar, and what lies outside of it is named and located here.
func scanCondition(src string) (*tokens, *ConditionError) {
	t := &tokens{src: src, at: map[int]token{}}
	switch {
	case len(src) > maxConditionBytes:
		return nil, t.errorAt(0, "%d bytes long; at most %d are allowed", len(src), maxConditionBytes)
	case !utf8.ValidString(src):
		return nil, t.errorAt(0, "not valid UTF-8")
	case strings.TrimSpace(src) == "":
		return nil, t.errorAt(0, "empty; write a comparison such as point == \"item\"")
	}
	l := lexer.New()
	l.Reset(file.NewSource(src))
	depth := 0
	afterDot := false
	for {
		tok, err := l.Next()
		if err != nil {
			return nil, t.parseError(err)
		}
		if tok.Kind == lexer.EOF {
			return t, nil
		}
		if tok.Is(lexer.Bracket, ")", "]") && depth > 0 {
			depth--
		}
		t.list = append(t.list, tok)
		t.at[tok.From] = token{tok.Value, depth}
		if tok.Is(lexer.Bracket, "(", "[") {
			if depth++; depth > maxConditionDepth {
				return nil, t.errorAt(tok.From, "nested deeper than %d levels", maxConditionDepth)
			}
		}
		// Behind a dot stands a name, whatever it means elsewhere: attrs.if, attrs.let.
		if why := refused(tok); why != "" && !afterDot {
			return nil, t.errorAt(tok.From, "%s is not part of a condition; allowed are %s", why, allowedOperators)
		}
		afterDot = tok.Is(lexer.Operator, ".")
	}
}

// refused names the construct that a token belongs to, if conditions do not have it.
func refused(tok lexer.Token) string {
	if tok.Kind == lexer.Bytes {
		return "a bytes literal (b\"...\")"
	}
	if tok.Kind == lexer.Bracket && (tok.Value == "{" || tok.Value == "}") {
		return "a map, predicate or block (`" + tok.Value + "`)"
	}
	if tok.Kind != lexer.Operator {
		return ""
	}
	construct := ""
	switch op := tok.Value; op {
	case "==", "!=", "<", "<=", ">", ">=", "in", "startsWith", "endsWith", "contains", "matches",
		"and", "or", "not", "&&", "||", "!", "-", ",", ".":
		return ""
	case "=":
		return "an assignment (`=`; to compare, write `==`)"
	case "+", "*", "/", "%", "**", "^":
		construct = "arithmetic"
	case "..":
		construct = "a range"
	case "?", ":":
		construct = "a ternary or slice"
	case "?.":
		construct = "optional chaining"
	case "??":
		construct = "nil coalescing"
	case "|":
		construct = "a pipe"
	case "#":
		construct = "a pointer"
	case ";":
		construct = "a sequence"
	case "let":
		construct = "a variable"
	case "if", "else":
		construct = "if and else"
	case "::":
		construct = "a builtin's prefix"
	default:
		construct = "an unknown operator"
	}
	return construct + " (`" + tok.Value + "`)"
}

// parseError rewrites an error of the lexer or parser, which speak of kinds of tokens.
func (t *tokens) parseError(err error) *ConditionError {
	var e *file.Error
	if !errors.As(err, &e) {
		return t.errorAt(0, "%v", err)
	}
	tok, known := t.at[e.From]
	switch {
	case strings.HasPrefix(e.Message, "unexpected token EOF"):
		return t.errorAt(utf8.RuneCountInString(t.src), "the condition ends too early: something is missing here")
	case strings.HasPrefix(e.Message, "unexpected token") && known:
		return t.errorAt(e.From, "`%s` is not expected here", tok.text)
	case strings.HasPrefix(e.Message, "invalid ") || strings.Contains(e.Message, "literal is too large"):
		return t.badNumber(e)
	}
	return t.errorAt(e.From, "%s", e.Message)
}

// badNumber points at the number itself: the parser complains when it is already at the token behind.
func (t *tokens) badNumber(e *file.Error) *ConditionError {
	from := e.From
	for _, tok := range t.list {
		if tok.Kind == lexer.Number && tok.From < e.From {
			from = tok.From
		}
	}
	if tok, ok := t.at[from]; ok {
		return t.errorAt(from, "bad number %s: write digits with an optional fraction and exponent; whole numbers from 2^63 on need one, as in 1e19", tok.text)
	}
	return t.errorAt(from, "%s", e.Message)
}

// bare says whether the `not` at one offset stands outside of parentheses that close before another offset.
func (t *tokens) bare(not, op int) bool {
	a, b := t.at[not], t.at[op]
	return isNot(a.text) && a.depth == b.depth
}

func (t *tokens) errorAt(offset int, format string, args ...any) *ConditionError {
	e := &ConditionError{Line: 1, Col: 1, Msg: fmt.Sprintf(format, args...)}
	for _, r := range t.src {
		if offset == 0 {
			break
		}
		offset--
		e.Col++
		if r == '\n' {
			e.Line++
			e.Col = 1
		}
	}
	return e
}
