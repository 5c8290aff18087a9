package mapping

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/expr-lang/expr"
)

// maxOccurrences is the most different rows that occurrence() tells apart, so that its memory stays near 200 MB. A row
// beyond it is refused, never numbered wrongly.
const maxOccurrences = 1 << 22

// digest is the fixed 64-bit hash of values: XXH64 with seed 0 over, for each value, the length of its text in
// eight bytes, little endian, and the text. Nil has the length 2^64-1 and no text.
func digest(args []any) (uint64, error) {
	var h xxhash.Digest
	h.Reset()
	var head [8]byte
	for _, a := range args {
		if a == nil {
			binary.LittleEndian.PutUint64(head[:], math.MaxUint64)
			h.Write(head[:])
			continue
		}
		s, err := text(a)
		if err != nil {
			return 0, err
		}
		binary.LittleEndian.PutUint64(head[:], uint64(len(s)))
		h.Write(head[:])
		h.WriteString(s)
	}
	return h.Sum64(), nil
}

// text is a value as text: a string as it is, a number in decimal, a bool as true or false.
func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return number(v)
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", fmt.Errorf("a %T is no text, number or bool", v)
}

// number is the shortest decimal that reads back as f, as encoding/json spells it.
func number(f float64) (string, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("%v is no finite number", f)
	}
	return string(b), nil
}

// decimal is the number that s spells, digit for digit, in JSON's spelling: no plus sign, leading zeros or bare point.
func decimal(s string) (string, error) {
	t := strings.TrimSpace(s)
	rest := t
	sign := ""
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		if rest[0] == '-' {
			sign = "-"
		}
		rest = rest[1:]
	}
	whole, rest := digits(rest)
	frac := ""
	if strings.HasPrefix(rest, ".") {
		frac, rest = digits(rest[1:])
	}
	exp := rest
	if rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		if rest != "" && (rest[0] == '-' || rest[0] == '+') {
			rest = rest[1:]
		}
		if d, tail := digits(rest); d != "" {
			rest = tail
		} else {
			rest = "e"
		}
	}
	if rest != "" || whole == "" && frac == "" {
		return "", fmt.Errorf("%.40q is no number", s)
	}
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	out := sign + whole
	if frac != "" {
		out += "." + frac
	}
	out += exp
	if _, err := strconv.ParseFloat(out, 64); err != nil {
		return "", fmt.Errorf("%.40q is beyond the largest number", s)
	}
	return out, nil
}

func digits(s string) (run, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// num is the number in a text, for arithmetic and comparisons: an integer if it is one, else a double.
func num(v any) (any, error) {
	switch v := v.(type) {
	case nil, int, int64, float64:
		return v, nil
	case string:
		if strings.TrimSpace(v) == "" {
			return nil, nil
		}
		d, err := decimal(v)
		if err != nil {
			return nil, err
		}
		return parseNumber(d), nil
	}
	return nil, fmt.Errorf("num() takes text, not a %T", v)
}

// parseNumber reads what decimal or JSON has found to be a number.
func parseNumber(d string) any {
	if i, err := strconv.ParseInt(d, 10, 64); err == nil {
		return int(i)
	}
	f, _ := strconv.ParseFloat(d, 64) // beyond the largest: infinite, and refused when written
	return f
}

// apacheTime is how Apache's logs spell the time, in Go's terms.
const apacheTime = "02/Jan/2006:15:04:05 -0700"

// parseTime gives ms since the epoch; digits past the millisecond are cut.
func parseTime(v any, layout string) (int64, error) {
	if v == nil {
		return 0, errors.New("time() of an absent column")
	}
	s, err := text(v)
	if err != nil {
		return 0, err
	}
	switch layout {
	case "unix":
		return seconds(s)
	case "unixms":
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%.40q is no whole number of milliseconds", s)
		}
		return ms, nil
	case "rfc3339":
		layout = time.RFC3339
	case "apache":
		layout = apacheTime
	}
	t, err := time.ParseInLocation(layout, s, time.UTC)
	if err != nil {
		return 0, fmt.Errorf("%.60q is no time of the form %q", s, layout)
	}
	// An abbreviation without an offset stands for several zones: the machine's would decide which.
	zone, _ := t.Zone()
	if zone != "UTC" && zone != "GMT" && strings.Contains(layout, "MST") && !strings.Contains(layout, "-07") && !strings.Contains(layout, "Z07") {
		return 0, fmt.Errorf("%.60q is in a zone by name: but UTC and GMT, zones are read as an offset (-0700)", s)
	}
	return t.UnixMilli(), nil
}

// seconds reads Unix seconds in decimal exactly; a double would lose milliseconds.
func seconds(s string) (int64, error) {
	whole, rest := digits(s)
	var frac string
	if strings.HasPrefix(rest, ".") {
		frac, rest = digits(rest[1:])
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || rest != "" || sec > math.MaxInt64/1000-1 {
		return 0, fmt.Errorf("%.40q is no number of seconds since 1970", s)
	}
	ms, _ := strconv.ParseInt((frac + "000")[:3], 10, 64)
	return sec*1000 + ms, nil
}

// occurrences numbers equal rows. Each different one is held as its hash only: two that share a 64-bit hash would be
// taken for equal, which among 4 million is one chance in two million.
type occurrences struct {
	row   int64 // the row that is being read
	max   int
	table map[uint64]occurrence
}

type occurrence struct{ row, count int64 }

// next is 1 for the first row with these values, 2 for the second. It is the same however often a row asks.
func (o *occurrences) next(args []any) (int, error) {
	key, err := digest(args)
	if err != nil {
		return 0, err
	}
	e, ok := o.table[key]
	if !ok && len(o.table) >= o.max {
		return 0, fmt.Errorf("occurrence() tells at most %d different rows apart: cut the file into parts by time", o.max)
	}
	if e.row != o.row {
		e.row, e.count = o.row, e.count+1
		o.table[key] = e
	}
	return int(e.count), nil
}

// functionNames are the names of functions.
var functionNames = [...]string{"hash", "bucket", "time", "num", "occurrence"}

// functions are what an expression may call beside what the language has. What depends on the clock, the machine or the
// order of a hash table is taken away.
func (o *occurrences) functions() []expr.Option {
	options := []expr.Option{
		expr.Function("hash", func(args ...any) (any, error) {
			if len(args) == 0 {
				return nil, errors.New("hash() needs at least one value")
			}
			h, err := digest(args)
			return fmt.Sprintf("%016x", h), err
		}, new(func(...any) string)),
		expr.Function("bucket", func(args ...any) (any, error) {
			if len(args) < 2 {
				return nil, errors.New("bucket() needs values to hash and, last, the number of buckets")
			}
			n, ok := args[len(args)-1].(int)
			if !ok || n < 1 {
				return nil, fmt.Errorf("bucket(): the number of buckets must be a whole number above 0, not %v", args[len(args)-1])
			}
			h, err := digest(args[:len(args)-1])
			return int(h % uint64(n)), err
		}, new(func(...any) int)),
		expr.Function("time", func(args ...any) (any, error) {
			return parseTime(args[0], args[1].(string))
		}, new(func(any, string) int64)),
		expr.Function("num", func(args ...any) (any, error) {
			return num(args[0])
		}, new(func(any) any)),
		expr.Function("occurrence", func(args ...any) (any, error) {
			if len(args) == 0 {
				return nil, errors.New("occurrence() needs at least one value")
			}
			return o.next(args)
		}, new(func(...any) int)),
	}
	for _, name := range []string{"now", "date", "duration", "timezone", "keys", "values", "toPairs"} {
		options = append(options, expr.DisableBuiltin(name))
	}
	return options
}
