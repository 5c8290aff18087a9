package beacon

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// Strings are read in words of eight bytes, the first byte lowest; a mark on a byte is its bit 7.
const (
	ones = 0x0101010101010101
	high = 0x8080808080808080
)

// stops marks quotes, backslashes and control bytes. Only the lowest mark is sure: a borrow may set marks above it.
func stops(x uint64) uint64 {
	// Bit 1 flipped, the quote lies right above the control bytes, so that one subtraction finds both.
	return (((x ^ 0x02*ones) - 0x21*ones) | ((x ^ '\\'*ones) - ones)) &^ x & high
}

// space gives the index of the first byte at or behind i that is no JSON white space. Few payloads have any.
func space(data []byte, i int) int {
	if i < len(data) && data[i] <= ' ' {
		return spaces(data, i)
	}
	return i
}

func spaces(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\r' || data[i] == '\t') {
		i++
	}
	return i
}

// run gives the index of the first quote, backslash or control byte at or behind i, len(data) if there is none.
// seen&high is 0 if all bytes before it are ASCII; the reverse need not hold.
func run(data []byte, i int) (stop int, seen uint64) {
	for ; i <= len(data)-8; i += 8 {
		x := binary.LittleEndian.Uint64(data[i:])
		seen |= x
		if m := stops(x); m != 0 {
			return i + bits.TrailingZeros64(m)>>3, seen
		}
	}
	for ; i < len(data); i++ {
		c := data[i]
		if c < ' ' || c == '"' || c == '\\' {
			break
		}
		seen |= uint64(c)
	}
	return i, seen
}

// skipString checks the string whose first byte is data[i], behind the quote, and gives the index behind its end, -1
// if it is malformed.
func skipString(data []byte, i int) int {
	start := i
	var seen uint64
	for i < len(data) {
		if i <= len(data)-8 {
			x := binary.LittleEndian.Uint64(data[i:])
			seen |= x
			m := stops(x)
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		}
		switch c := data[i]; {
		case c == '"':
			// Escapes are ASCII, so the raw bytes are valid if and only if those between them are.
			if seen&high != 0 && !utf8.Valid(data[start:i]) {
				return -1
			}
			return i + 1
		case c == '\\':
			if i+1 < len(data) && data[i+1] == '"' {
				i += 2
			} else if _, i = escape(data, i); i < 0 {
				return -1
			}
		case c < ' ':
			return -1
		default: // one of the last seven bytes of data
			seen |= uint64(c)
			i++
		}
	}
	return -1
}

// escape reads the escape sequence whose backslash is data[i], two of them for a pair of surrogates, and gives
// the index behind it; -1 if it is none, or a lone surrogate.
func escape(data []byte, i int) (r rune, next int) {
	if i+1 >= len(data) {
		return 0, -1
	}
	switch c := data[i+1]; c {
	case '"', '\\', '/':
		return rune(c), i + 2
	case 'b':
		return '\b', i + 2
	case 'f':
		return '\f', i + 2
	case 'n':
		return '\n', i + 2
	case 'r':
		return '\r', i + 2
	case 't':
		return '\t', i + 2
	case 'u':
		r = hex4(data, i+2)
		if r < 0 {
			return 0, -1
		}
		if !utf16.IsSurrogate(r) {
			return r, i + 6
		}
		if i+8 > len(data) || data[i+6] != '\\' || data[i+7] != 'u' {
			return 0, -1
		}
		// DecodeRune gives U+FFFD for whatever is no pair, and for no pair anything else.
		if r = utf16.DecodeRune(r, hex4(data, i+8)); r == utf8.RuneError {
			return 0, -1
		}
		return r, i + 12
	}
	return 0, -1
}

// hex4 reads four hexadecimal digits, -1 if they are not there.
func hex4(data []byte, i int) rune {
	if i+4 > len(data) {
		return -1
	}
	var r rune
	for _, c := range data[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = (c | 0x20) - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// literal gives the index behind the true, false or null at data[i], -1 if there is none.
func literal(data []byte, i int) int {
	if i+4 <= len(data) {
		switch string(data[i : i+4]) {
		case "true", "null":
			return i + 4
		case "fals":
			if i+4 < len(data) && data[i+4] == 'e' {
				return i + 5
			}
		}
	}
	return -1
}

// number gives the index behind the JSON number at data[i], -1 if there is none.
func number(data []byte, i int) int {
	if i < len(data) && data[i] == '-' {
		i++
	}
	j := digits(data, i)
	if j == i || data[i] == '0' && j > i+1 {
		return -1
	}
	if j < len(data) && data[j] == '.' {
		i = j + 1
		if j = digits(data, i); j == i {
			return -1
		}
	}
	if j < len(data) && data[j]|0x20 == 'e' {
		i = j + 1
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		if j = digits(data, i); j == i {
			return -1
		}
	}
	return j
}

// digits gives the index of the first byte at or behind i that is no decimal digit. Numbers are short: words of
// eight bytes measured no faster here.
func digits(data []byte, i int) int {
	for i < len(data) && data[i]-'0' < 10 {
		i++
	}
	return i
}

// skip checks the value at data[i] in a container of the given level (1: the beacon's own object), and gives the
// index behind it, -1 if it is malformed. It is one loop without recursion: open containers are bits of a word.
//
// Most bytes of a large beacon pass here, so the way without white space and with short keys is kept short.
func skip(data []byte, i, level int) int {
	var objects uint64 // lowest bit: the innermost open container is an object
	open := 0

value:
	if i >= len(data) {
		return -1
	}
	switch c := data[i]; c {
	case '"':
		if i = skipString(data, i+1); i < 0 {
			return -1
		}
	case '{', '[':
		if open++; level+open > MaxDepth {
			return -1
		}
		i = space(data, i+1)
		if i >= len(data) {
			return -1
		}
		objects <<= 1
		if c == '{' {
			objects |= 1
			if data[i] != '}' {
				goto key
			}
		} else if data[i] != ']' {
			goto value
		}
		i++
		objects >>= 1
		open--
	case 't', 'f', 'n':
		if i = literal(data, i); i < 0 {
			return -1
		}
	case ' ', '\n', '\r', '\t':
		i = spaces(data, i)
		goto value
	default:
		if i = number(data, i); i < 0 {
			return -1
		}
	}

next:
	if open == 0 {
		return i
	}
	if i >= len(data) {
		return -1
	}
	switch data[i] {
	case ',':
		i++
		if objects&1 == 0 {
			goto value
		}
	case '}', ']':
		// The brackets differ in bit 5 of their codes: '}' has it, as an object has its bit.
		if uint64(data[i]>>5)&1 != objects&1 {
			return -1
		}
		i++
		objects >>= 1
		open--
		goto next
	case ' ', '\n', '\r', '\t':
		i = spaces(data, i)
		goto next
	default:
		return -1
	}

key:
	if i >= len(data) {
		return -1
	}
	if data[i] != '"' {
		if i = spaces(data, i); i >= len(data) || data[i] != '"' {
			return -1
		}
	}
	i++
	if i <= len(data)-8 {
		x := binary.LittleEndian.Uint64(data[i:])
		if m := stops(x) | x&high; m != 0 {
			if j := i + bits.TrailingZeros64(m)>>3; data[j] == '"' {
				i = j + 1
				goto colon
			}
		}
	}
	if i = skipString(data, i); i < 0 {
		return -1
	}

colon:
	if i < len(data) && data[i] == ':' {
		i++
		goto value
	}
	if i = spaces(data, i); i >= len(data) || data[i] != ':' {
		return -1
	}
	i++
	goto value
}
