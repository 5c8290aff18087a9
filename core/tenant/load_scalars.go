package tenant

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// isName says whether s has 1 to 64 of A-Z a-z 0-9 _ - and of the extra characters.
func isName(s, extra string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		case strings.IndexByte(extra, c) >= 0:
		default:
			return false
		}
	}
	return true
}

// name returns a name (SPEC 10).
func (l *loader) name(n *yaml.Node, what string) (string, bool) {
	s, ok := l.text(n, "the name of "+what)
	if !ok {
		return n.Value, false
	}
	if !isName(s, "") {
		l.fail(n, "bad name of %s: %q; allowed are 1 to %d of A-Z a-z 0-9 _ -", what, clip(s), maxName)
		return s, false
	}
	return s, true
}

// metricName returns the name of a point or value, which must not be one that metrics already use.
func (l *loader) metricName(n *yaml.Node, what string) string {
	s, ok := l.name(n, what)
	if ok && isTaken(s) {
		l.fail(n, "`%s` is taken and cannot be the name of %s; taken are beta tot hit sq cap visit bounce visitors h<digits>", s, what)
	}
	return s
}

func isTaken(s string) bool {
	switch s {
	case "beta", "tot", "hit", "sq", "cap", "visit", "bounce", "visitors":
		return true
	}
	return len(s) > 1 && s[0] == 'h' && isDigits(s[1:])
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func (l *loader) oneOf(n *yaml.Node, what string, allowed ...string) string {
	s, ok := l.text(n, what)
	if ok && !slices.Contains(allowed, s) {
		l.fail(n, "bad %s %q%s; allowed are %s", what, clip(s), didYouMean(s, allowed...), strings.Join(allowed, ", "))
	}
	return s
}

func (l *loader) boolean(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		l.fail(n, "%s is true or false, not %s", what, kindOf(n))
		return false
	}
	return strings.EqualFold(n.Value, "true")
}

// integer returns a number written in decimal digits alone, so that no 0x10, 010 or 1_000 is read in two ways.
func (l *loader) integer(n *yaml.Node, what string, least, most int) int {
	s := n.Value
	if n.Kind == yaml.ScalarNode && n.Tag == "!!int" && isDigits(s) && (s[0] != '0' || s == "0") {
		if i, err := strconv.Atoi(s); err == nil && least <= i && i <= most {
			return i
		}
	}
	l.fail(n, "bad %s: %s; allowed is a whole number from %d to %d", what, kindOf(n), least, most)
	return least
}

// isDecimal says whether s is digits, without needless leading zeros, and an optional fraction.
func isDecimal(s string) bool {
	whole, frac, dot := strings.Cut(s, ".")
	return isDigits(whole) && (whole == "0" || whole[0] != '0') && (!dot || isDigits(frac))
}

// cap returns a cap scaled by 10^decimals, exactly, from the text.
func (l *loader) cap(n *yaml.Node, decimals int) int64 {
	// What depends on a bad cap (cross) is not judged: any cap but 0 will do.
	const anyCap = 1
	s := n.Value
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || !isDecimal(s) {
		l.fail(n, "bad cap: %s; allowed is a plain decimal number above 0 without quotes or exponent, such as 500 or 0.5", kindOf(n))
		return anyCap
	}
	whole, frac, _ := strings.Cut(s, ".")
	if len(frac) > decimals {
		l.fail(n, "cap %s has more digits than `decimals`, which is %d; a cap has at most as many", clip(s), decimals)
		return anyCap
	}
	scaled := int64(0)
	for _, c := range whole + frac + strings.Repeat("0", decimals-len(frac)) {
		if scaled = scaled*10 + int64(c-'0'); scaled > maxScaledCap {
			l.fail(n, "cap %s is too large: times 10^%d (`decimals`) it is above %d", clip(s), decimals, maxScaledCap)
			return anyCap
		}
	}
	if scaled == 0 {
		l.fail(n, "cap %s is not above 0; leave `cap` out for none", clip(s))
		return anyCap
	}
	return scaled
}

// weight returns a finite number that is not negative.
func (l *loader) weight(n *yaml.Node) (float64, bool) {
	s := n.Value
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float") {
		base, exp := s, "0"
		if i := strings.IndexAny(s, "eE"); i >= 0 {
			base, exp = s[:i], strings.TrimLeft(s[i+1:], "+-")
		}
		if x, err := strconv.ParseFloat(s, 64); isDecimal(base) && isDigits(exp) && err == nil && !math.IsInf(x, 0) {
			return x, true
		}
	}
	l.fail(n, "bad weight: %s; allowed is a finite number from 0 on", kindOf(n))
	return 0, false
}

// maxDuration is 20 years, the greatest time to live that Cassandra takes; sums with times stay far from overflow.
const maxDuration = 7_300 * 24 * 3_600_000

// parseDuration reads ^[0-9]+[smhd]$ above 0, in ms.
func parseDuration(s string) (ms int64, ok bool) {
	if len(s) < 2 || !isDigits(s[:len(s)-1]) {
		return 0, false
	}
	unit := int64(0)
	switch s[len(s)-1] {
	case 's':
		unit = 1_000
	case 'm':
		unit = 60_000
	case 'h':
		unit = 3_600_000
	case 'd':
		unit = 24 * 3_600_000
	}
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
	if err != nil || unit == 0 || n == 0 || n > maxDuration/unit {
		return 0, false
	}
	return n * unit, true
}

// duration returns ms, 0 after an error.
func (l *loader) duration(n *yaml.Node, what string) int64 {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if ms, ok := parseDuration(n.Value); ok {
			return ms
		}
	}
	l.fail(n, "bad %s: %s; allowed are digits and one of s m h d, such as 30m, above 0 and up to 7300d", what, kindOf(n))
	return 0
}

// minute returns a full minute in ms since the epoch.
func (l *loader) minute(n *yaml.Node, what string) (int64, bool) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!timestamp") && isRFC3339(n.Value) {
		if t, err := time.Parse(time.RFC3339, n.Value); err == nil {
			if t.Second() != 0 || t.Nanosecond() != 0 {
				l.fail(n, "%s %s is no full minute: its seconds must be 00", what, clip(n.Value))
				return 0, false
			}
			return t.UnixMilli(), true
		}
	}
	l.fail(n, "bad %s: %s; allowed is an RFC 3339 time of a full minute, such as 2026-01-01T00:00:00Z", what, kindOf(n))
	return 0, false
}

// isRFC3339 checks the form, of which time.Parse is less strict: it takes T1:00, a comma and an offset of 24:60.
func isRFC3339(s string) bool {
	shape := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return '0'
		}
		return r
	}, s)
	rest, ok := strings.CutPrefix(shape, "0000-00-00T00:00:00")
	if !ok {
		return false
	}
	if frac, ok := strings.CutPrefix(rest, "."); ok {
		if rest = strings.TrimLeft(frac, "0"); rest == frac {
			return false
		}
	}
	if rest == "Z" {
		return true
	}
	hour := s[max(0, len(s)-5):]
	return (rest == "+00:00" || rest == "-00:00") && hour[:2] <= "23" && hour[3:] <= "59"
}
