package records

import (
	"strconv"
	"unicode/utf8"
)

// Beacon is a beacon to be written in the native form (SPEC 1). It is only written; core/beacon reads.
type Beacon struct {
	ID, Tenant, Session string
	Visitor             string // "": left out
	TS                  int64  // ms since the epoch
	Point               string // "": left out
	Experiments         []Member
	Values              []Member
	Attrs               []Member
	Device              string // "": left out
	Login               Bool
}

// Bool is a bool that may be absent.
type Bool uint8

// The values of a Bool.
const (
	Absent Bool = iota
	False
	True
)

// Member is a name with its value as JSON: see Text and Number.
type Member struct{ Name, JSON string }

// Text is a member that is a string.
func Text(name, s string) Member { return Member{name, string(appendString(nil, s))} }

// Number is a member that is a number, spelled in decimal as JSON wants it.
func Number(name, decimal string) Member { return Member{name, decimal} }

// AppendJSON appends b as one JSON object without white space or HTML escapes, its fields in the order of SPEC 1's
// table and members in the order given, so that equal beacons are equal bytes. Bytes that are no UTF-8 become U+FFFD.
func (b *Beacon) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, b.ID)
	dst = appendField(dst, `,"tenant":`, b.Tenant)
	dst = append(dst, `,"session":`...)
	dst = appendString(dst, b.Session)
	dst = appendField(dst, `,"visitor":`, b.Visitor)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, b.TS, 10)
	dst = appendField(dst, `,"point":`, b.Point)
	dst = appendMembers(dst, `,"experiments":`, b.Experiments)
	dst = appendMembers(dst, `,"values":`, b.Values)
	dst = appendMembers(dst, `,"attrs":`, b.Attrs)
	dst = appendField(dst, `,"device":`, b.Device)
	switch b.Login {
	case False:
		dst = append(dst, `,"login":false`...)
	case True:
		dst = append(dst, `,"login":true`...)
	}
	return append(dst, '}')
}

func appendField(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	return appendString(append(dst, key...), s)
}

func appendMembers(dst []byte, key string, ms []Member) []byte {
	if len(ms) == 0 {
		return dst
	}
	dst = append(dst, key...)
	sep := byte('{')
	for _, m := range ms {
		dst = append(dst, sep)
		dst = appendString(dst, m.Name)
		dst = append(dst, ':')
		dst = append(dst, m.JSON...)
		sep = ','
	}
	return append(dst, '}')
}

const hex = "0123456789abcdef"

// appendString writes what encoding/json would without HTML escaping.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			var esc string
			switch {
			case r == utf8.RuneError && size == 1:
				esc = `\ufffd`
			case r == '\u2028':
				esc = `\u2028`
			case r == '\u2029':
				esc = `\u2029`
			default:
				i += size
				continue
			}
			dst = append(append(dst, s[start:i]...), esc...)
			i += size
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
