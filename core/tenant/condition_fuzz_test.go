package tenant

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// oracle writes a random condition and says at once what it means for a given beacon, by the words of SPEC 4: it has
// neither a tree nor a parser. Its choices come from bytes, so that a fuzzer can steer it.
type oracle struct {
	choices []byte
	beacon  map[string]any
	depth   int
}

func (o *oracle) pick(n int) int {
	if len(o.choices) == 0 {
		return 0
	}
	c := int(o.choices[0])
	o.choices = o.choices[1:]
	return c % n
}

func (o *oracle) oneOf(s ...string) string { return s[o.pick(len(s))] }

func (o *oracle) or() (string, any) {
	src, v := o.and()
	for o.depth < 6 && o.pick(4) == 1 {
		s, w := o.and()
		src += o.oneOf(" or ", " || ", "||", "\n or\t") + s
		v = v == true || w == true
	}
	return src, v
}

func (o *oracle) and() (string, any) {
	src, v := o.cmp()
	for o.depth < 6 && o.pick(4) == 1 {
		s, w := o.cmp()
		src += o.oneOf(" and ", " && ", "&&") + s
		v = v == true && w == true
	}
	return src, v
}

func (o *oracle) cmp() (string, any) {
	if o.pick(8) == 1 {
		s, v := o.primary()
		return o.oneOf("not ", "!", "not not ! ") + s, v != true
	}
	src, v := o.primary()
	ordered := false
	for first := true; first && o.pick(8) != 1 || o.pick(8) == 1; first = false {
		op := o.oneOf("==", "!=", "<", "<=", ">", ">=", "in", "not in", "startsWith", "endsWith", "contains", "matches")
		if ordered && (op[0] == '<' || op[0] == '>') {
			op = "==" // else it would go on with the chain of comparisons
		}
		ordered = false
		switch op {
		case "in", "not in":
			var items []string
			found := false
			for o.pick(4) != 0 {
				s, w := o.literal()
				items = append(items, s)
				found = found || v == w
			}
			src += " " + op + " [" + strings.Join(items, ", ") + "]"
			v = found == (op == "in")
		case "matches":
			pattern := o.oneOf("a", "^a", "b$", "^(a|b)+$", ".", "")
			text, ok := v.(string)
			src += " matches '" + pattern + "'"
			v = ok && regexp.MustCompile(pattern).MatchString(text)
		case "<", "<=", ">", ">=":
			s, w := o.primary()
			src += " " + op + " " + s
			result := holds(v, op, w)
			// a < b <= c is a < b and b <= c.
			for o.pick(6) == 1 {
				op = o.oneOf("<", "<=", ">", ">=")
				v = w
				s, w = o.primary()
				src += " " + op + " " + s
				result = result && holds(v, op, w)
			}
			v = result
			ordered = true
		default:
			s, w := o.primary()
			src += " " + op + " " + s
			v = holds(v, op, w)
		}
	}
	return src, v
}

func holds(v any, op string, w any) bool {
	switch op {
	case "==":
		return v == w
	case "!=":
		return v != w
	}
	a, okA := v.(string)
	b, okB := w.(string)
	x, okX := v.(float64)
	y, okY := w.(float64)
	if !(okA && okB || okX && okY) {
		return false
	}
	order := cmp.Compare(a, b) + cmp.Compare(x, y) // one of the two pairs is of zeros
	switch op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	case "startsWith":
		return okA && okB && strings.HasPrefix(a, b)
	case "endsWith":
		return okA && okB && strings.HasSuffix(a, b)
	}
	return okA && okB && strings.Contains(a, b)
}

func (o *oracle) primary() (string, any) {
	switch o.pick(5) {
	case 0, 1:
		name := o.oneOf("point", "device", "login", "visitor", "values.v", "attrs.v", "attrs.w", "values.not")
		return name, o.beacon[name]
	case 2:
		if o.depth < 6 {
			o.depth++
			s, v := o.or()
			o.depth--
			return "(" + s + ")", v
		}
	}
	return o.literal()
}

func (o *oracle) literal() (string, any) {
	switch o.pick(12) {
	case 0:
		return "nil", nil
	case 1:
		return "true", true
	case 2:
		return "false", false
	case 3:
		return "1", 1.0
	case 4:
		return "1.0", 1.0
	case 5:
		return "-2.5e0", -2.5
	case 6:
		return "9007199254740993", 9007199254740992.0
	case 7:
		return "- 0", 0.0
	case 8:
		return `""`, ""
	case 9:
		return "'b'", "b"
	case 10:
		return "\"a\\u0062\"", "ab"
	}
	return "`a`", "a"
}

func (o *oracle) fill() {
	o.beacon = map[string]any{}
	values := []any{nil, "", "a", "b", "ab", "ba", 1.0, -2.5, 9007199254740992.0, 0.0, true, false}
	for _, name := range []string{"point", "device", "login", "visitor", "values.v", "attrs.v", "attrs.w", "values.not"} {
		o.beacon[name] = values[o.pick(len(values))]
	}
}

func agree(choices []byte) error {
	o := oracle{choices: choices}
	o.fill()
	src, v := o.or()
	if len(src) > maxConditionBytes {
		return nil
	}
	c, err := ParseCondition(src)
	if err != nil {
		return fmt.Errorf("%s\n%w", src, err)
	}
	if got := c.Eval(operands(c, o.beacon)); got != (v == true) {
		return fmt.Errorf("%s\nwith %v: got %v, want %v", src, o.beacon, got, v)
	}
	return nil
}

func TestConditionsAgreeWithOracle(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 30_000 {
		choices := make([]byte, 20+r.IntN(200))
		for j := range choices {
			choices[j] = byte(r.Uint32())
		}
		if err := agree(choices); err != nil {
			t.Fatalf("seed %d, run %d: %v", seed, i, err)
		}
	}
}

func FuzzConditionOracle(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, choices []byte) {
		err := agree(choices)
		if err != nil && len(choices) > maxConditionDepth && strings.Contains(err.Error(), fmt.Sprintf("nested deeper than %d levels", maxConditionDepth)) {
			t.Skip("a long chain, and rightly refused")
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzParseCondition(f *testing.F) {
	lines(f, "testdata/conditions.txt", func(_ int, line string) {
		if src, ok := strings.CutPrefix(line, "if "); ok {
			f.Add(src)
		}
	})
	lines(f, "testdata/conditions_bad.txt", func(_ int, line string) { f.Add(strings.Split(line, "\t")[1]) })
	f.Fuzz(func(t *testing.T, src string) {
		c, err := ParseCondition(src)
		if err != nil {
			e, ok := err.(*ConditionError)
			if !ok || e.Line < 1 || e.Col < 1 || e.Line > 1+strings.Count(src, "\n") || e.Msg == "" {
				t.Fatalf("%q: bad error %#v", src, err)
			}
			return
		}
		for _, op := range []Operand{{}, {Kind: OperandStr, Text: []byte("a")}, {Kind: OperandNum, Num: 1}, {Kind: OperandBool, Bool: true}} {
			ops := make([]Operand, len(c.Names))
			for i := range ops {
				ops[i] = op
			}
			c.Eval(ops)
		}
		// A condition in parentheses is the same condition, unless a comment or the bounds are in the way.
		if d, err := ParseCondition("(" + src + "\n)"); err == nil {
			ops := make([]Operand, len(c.Names))
			if c.Eval(ops) != d.Eval(ops) {
				t.Fatalf("%q differs in parentheses", src)
			}
		}
	})
}
