package tenant

import "bytes"

// test says whether a part of a condition is true.
type test func(ops []Operand) bool

// operand is a side of a comparison: a name, a literal (lit), or the truth of an expression.
type operand struct {
	get    func(ops []Operand) *Operand // into ops, or of the condition itself: nothing is copied or allocated
	lit    *Operand
	name   int
	isName bool
}

func never([]Operand) bool { return false }

func literal(v Operand) operand {
	return operand{lit: &v, get: func([]Operand) *Operand { return &v }}
}

func truth(t test) operand {
	yes, no := Operand{Kind: OperandBool, Bool: true}, Operand{Kind: OperandBool}
	return operand{get: func(ops []Operand) *Operand {
		if t(ops) {
			return &yes
		}
		return &no
	}}
}

func (o operand) test() test {
	if o.isName {
		i := o.name
		return func(ops []Operand) bool { return ops[i].Kind == OperandBool && ops[i].Bool }
	}
	get := o.get
	return func(ops []Operand) bool {
		v := get(ops)
		return v.Kind == OperandBool && v.Bool
	}
}

func allOf(tests []test) test {
	if len(tests) == 2 {
		a, b := tests[0], tests[1]
		return func(ops []Operand) bool { return a(ops) && b(ops) }
	}
	return func(ops []Operand) bool {
		for _, t := range tests {
			if !t(ops) {
				return false
			}
		}
		return true
	}
}

func anyOf(tests []test) test {
	if len(tests) == 2 {
		a, b := tests[0], tests[1]
		return func(ops []Operand) bool { return a(ops) || b(ops) }
	}
	return func(ops []Operand) bool {
		for _, t := range tests {
			if t(ops) {
				return true
			}
		}
		return false
	}
}

// compare compiles a comparison of two values. A name against a string or number literal is by far the most common
// and has closures of its own.
func compare(op string, left, right operand) test {
	if left.isName && right.lit != nil {
		switch right.lit.Kind {
		case OperandStr:
			if t := compareText(op, left.name, string(right.lit.Text)); t != nil {
				return t
			}
		case OperandNum:
			return compareNumber(op, left.name, right.lit.Num)
		}
	}
	rel := relation(op)
	l, r := left.get, right.get
	return func(ops []Operand) bool { return rel(l(ops), r(ops)) }
}

func compareText(op string, i int, s string) test {
	switch op {
	case "==":
		return func(ops []Operand) bool { return ops[i].Kind == OperandStr && string(ops[i].Text) == s }
	case "!=":
		return func(ops []Operand) bool { return ops[i].Kind != OperandStr || string(ops[i].Text) != s }
	}
	return nil
}

func compareNumber(op string, i int, x float64) test {
	switch op {
	case "==":
		return func(ops []Operand) bool { return ops[i].Kind == OperandNum && ops[i].Num == x }
	case "!=":
		return func(ops []Operand) bool { return ops[i].Kind != OperandNum || ops[i].Num != x }
	case "<":
		return func(ops []Operand) bool { return ops[i].Kind == OperandNum && ops[i].Num < x }
	case "<=":
		return func(ops []Operand) bool { return ops[i].Kind == OperandNum && ops[i].Num <= x }
	case ">":
		return func(ops []Operand) bool { return ops[i].Kind == OperandNum && ops[i].Num > x }
	case ">=":
		return func(ops []Operand) bool { return ops[i].Kind == OperandNum && ops[i].Num >= x }
	}
	return never // startsWith, endsWith and contains of a number
}

// relation is the meaning of an operator between any two operands (SPEC 4).
func relation(op string) func(a, b *Operand) bool {
	switch op {
	case "==":
		return equal
	case "!=":
		return func(a, b *Operand) bool { return !equal(a, b) }
	case "<":
		return less
	case "<=":
		return atMost
	case ">":
		return func(a, b *Operand) bool { return less(b, a) }
	case ">=":
		return func(a, b *Operand) bool { return atMost(b, a) }
	case "startsWith":
		return func(a, b *Operand) bool { return strs(a, b) && bytes.HasPrefix(a.Text, b.Text) }
	case "endsWith":
		return func(a, b *Operand) bool { return strs(a, b) && bytes.HasSuffix(a.Text, b.Text) }
	}
	return func(a, b *Operand) bool { return strs(a, b) && bytes.Contains(a.Text, b.Text) }
}

func strs(a, b *Operand) bool { return a.Kind == OperandStr && b.Kind == OperandStr }

func equal(a, b *Operand) bool {
	if a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case OperandStr:
		return bytes.Equal(a.Text, b.Text)
	case OperandNum:
		return a.Num == b.Num
	case OperandBool:
		return a.Bool == b.Bool
	}
	return true
}

func less(a, b *Operand) bool {
	if a.Kind == OperandNum && b.Kind == OperandNum {
		return a.Num < b.Num
	}
	return strs(a, b) && bytes.Compare(a.Text, b.Text) < 0
}

func atMost(a, b *Operand) bool {
	if a.Kind == OperandNum && b.Kind == OperandNum {
		return a.Num <= b.Num
	}
	return strs(a, b) && bytes.Compare(a.Text, b.Text) <= 0
}

// list is the right side of `in`, by type.
type list struct {
	texts           []string
	nums            []float64
	hasNil, yes, no bool
}

func (l *list) add(v Operand) {
	switch v.Kind {
	case OperandNil:
		l.hasNil = true
	case OperandStr:
		l.texts = append(l.texts, string(v.Text))
	case OperandNum:
		l.nums = append(l.nums, v.Num)
	case OperandBool:
		l.yes = l.yes || v.Bool
		l.no = l.no || !v.Bool
	}
}

func (l *list) has(v *Operand) bool {
	switch v.Kind {
	case OperandNil:
		return l.hasNil
	case OperandStr:
		for _, s := range l.texts {
			if string(v.Text) == s {
				return true
			}
		}
	case OperandNum:
		for _, x := range l.nums {
			if v.Num == x {
				return true
			}
		}
	case OperandBool:
		return v.Bool && l.yes || !v.Bool && l.no
	}
	return false
}
