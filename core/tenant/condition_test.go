package tenant

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// lines yields the lines of a test script without comments and empty ones.
func lines(t testing.TB, file string, do func(n int, line string)) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(data), "\n") {
		if line != "" && !strings.HasPrefix(line, "# ") {
			do(i+1, line)
		}
	}
}

func nameOf(n Name) string {
	switch n.Space {
	case ValuesSpace:
		return "values." + n.Key
	case AttrsSpace:
		return "attrs." + n.Key
	}
	return n.Key
}

// operands gives a condition what it reads from a beacon.
func operands(c *Condition, beacon map[string]any) []Operand {
	ops := make([]Operand, len(c.Names))
	for i, n := range c.Names {
		switch v := beacon[nameOf(n)].(type) {
		case string:
			ops[i] = Operand{Kind: OperandStr, Text: []byte(v)}
		case float64:
			ops[i] = Operand{Kind: OperandNum, Num: v, Text: strconv.AppendFloat(nil, v, 'g', -1, 64)}
		case bool:
			ops[i] = Operand{Kind: OperandBool, Bool: v, Text: strconv.AppendBool(nil, v)}
		}
	}
	return ops
}

func TestConditions(t *testing.T) {
	var c *Condition
	lines(t, "testdata/conditions.txt", func(n int, line string) {
		if src, ok := strings.CutPrefix(line, "if "); ok {
			var err error
			if c, err = ParseCondition(src); err != nil {
				t.Fatalf("line %d: %s: %v", n, src, err)
			}
			return
		}
		want, text, _ := strings.Cut(line, "\t")
		beacon := map[string]any{}
		if err := json.Unmarshal([]byte(text), &beacon); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if got := c.Eval(operands(c, beacon)); strconv.FormatBool(got) != want {
			t.Errorf("line %d: %s is %v with %s", n, c.Source, got, text)
		}
	})
}

func TestConditionErrors(t *testing.T) {
	lines(t, "testdata/conditions_bad.txt", func(n int, line string) {
		f := strings.Split(line, "\t")
		_, err := ParseCondition(f[1])
		var e *ConditionError
		if !errors.As(err, &e) {
			t.Errorf("line %d: %s: got %v, want an error", n, f[1], err)
			return
		}
		if strconv.Itoa(e.Col) != f[0] || e.Line != 1 || !strings.Contains(e.Msg, f[2]) {
			t.Errorf("line %d: %s\n got %v\nwant column %s: ... %s ...", n, f[1], err, f[0], f[2])
		}
	})
}

func TestConditionLineAndColumn(t *testing.T) {
	for _, tt := range []struct {
		src       string
		line, col int
		text      string
	}{
		{"point == \"é\" and\n  pont == 1", 2, 3, "condition, line 2, column 3: "},
		{"point == \"日本\" and pont == 1", 1, 19, "condition, column 19: "},
		{"point == \"a\" and\r\n\tlower(point)", 2, 2, "condition, line 2, column 2: "},
		{"\xff", 1, 1, "condition, column 1: "},
	} {
		_, err := ParseCondition(tt.src)
		var e *ConditionError
		if !errors.As(err, &e) || e.Line != tt.line || e.Col != tt.col || !strings.HasPrefix(err.Error(), tt.text) {
			t.Errorf("%q: got %v, want line %d, column %d", tt.src, err, tt.line, tt.col)
		}
	}
}

func TestConditionNames(t *testing.T) {
	c, err := ParseCondition(`values.b == 1 and device == "x" or attrs.device != device and values["b"] > 1 and attrs.b == 2`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Name{{ValuesSpace, "b"}, {Field, "device"}, {AttrsSpace, "device"}, {AttrsSpace, "b"}}
	if !slices.Equal(c.Names, want) {
		t.Errorf("got %v, want %v", c.Names, want)
	}
}

func TestConditionBounds(t *testing.T) {
	rep := strings.Repeat
	doubling := "values.x"
	for range 40 {
		doubling = "1 < (" + doubling + ") < 2"
	}
	for name, tt := range map[string]struct {
		src string
		ok  bool
	}{
		"longest":         {"true" + rep(" ", maxConditionBytes-4), true},
		"too long":        {"true" + rep(" ", maxConditionBytes-3), false},
		"long or":         {"true" + rep(" or true", 500), true},
		"long and":        {"true" + rep("&&true", 600), true},
		"deepest":         {rep("(", maxConditionDepth) + "true" + rep(")", maxConditionDepth), true},
		"parentheses":     {rep("(", maxConditionDepth+1) + "true" + rep(")", maxConditionDepth+1), false},
		"open":            {rep("(", maxConditionBytes), false},
		"brackets":        {rep("[", maxConditionBytes), false},
		"nots":            {rep("!", maxConditionBytes-4) + "true", false},
		"few nots":        {rep("!", 60) + "true", true},
		"minuses":         {rep("-", maxConditionBytes-1) + "1", false},
		"equals":          {"1" + rep("==1", 1000), false},
		"chain":           {"1" + rep("<1", 1500), false},
		"chain doubles":   {doubling, false},
		"long list":       {"point in [1" + rep(",1", 1900) + "]", true},
		"hostile pattern": {`point matches "` + rep("a{999}", 600) + `"`, false},
		"deep pattern":    {`point matches "` + rep("(", 1500) + rep(")", 1500) + `"`, false},
	} {
		if c, err := ParseCondition(tt.src); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		} else if err == nil {
			c.Eval(make([]Operand, len(c.Names)))
		}
	}
}

func TestEvalDoesNotAllocate(t *testing.T) {
	lines(t, "testdata/conditions.txt", func(_ int, line string) {
		src, ok := strings.CutPrefix(line, "if ")
		if !ok {
			return
		}
		c, err := ParseCondition(src)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []any{nil, "/item/42", 2.5, true} {
			beacon := map[string]any{}
			for _, n := range c.Names {
				beacon[nameOf(n)] = v
			}
			ops := operands(c, beacon)
			if n := testing.AllocsPerRun(20, func() { c.Eval(ops) }); n != 0 {
				t.Errorf("%s: %v allocations", src, n)
			}
		}
	})
}

func BenchmarkEval(b *testing.B) {
	for _, src := range []string{
		`point == "item_page"`,
		`device != "tablet" and point in ["search", "home_page", "item_page"]`,
		`values.price > 9.5 and values.price <= 10`,
		`attrs.path matches "^/item/[0-9]+$"`,
	} {
		b.Run(src, func(b *testing.B) {
			c, err := ParseCondition(src)
			if err != nil {
				b.Fatal(err)
			}
			ops := operands(c, map[string]any{"point": "item_page", "device": "mobile", "values.price": 10.0, "attrs.path": "/item/42"})
			b.ReportAllocs()
			for b.Loop() {
				c.Eval(ops)
			}
		})
	}
}
