package beacon

import (
	"strconv"
)

// maxExponent is where a written exponent saturates: no payload has as many digits.
const maxExponent = 1 << 40

// decimal is a JSON number taken apart: 0.DIGITS * 10^point, DIGITS being whole followed by frac.
type decimal struct {
	negative    bool
	whole, frac []byte
	point       int
}

func split(text []byte) decimal {
	var d decimal
	if len(text) > 0 && text[0] == '-' {
		d.negative = true
		text = text[1:]
	}
	n := digits(text, 0)
	d.whole, text = text[:n], text[n:]
	if len(text) > 0 && text[0] == '.' {
		n = digits(text, 1)
		d.frac, text = text[1:n], text[n:]
	}
	d.point = len(d.whole)
	if len(text) > 1 {
		d.point += exponent(text[1:])
	}
	return d
}

// exponent reads a sign and digits, saturating.
func exponent(text []byte) int {
	sign := 1
	if text[0] == '+' || text[0] == '-' {
		if text[0] == '-' {
			sign = -1
		}
		text = text[1:]
	}
	n := 0
	for _, c := range text {
		if n = n*10 + int(c-'0'); n >= maxExponent {
			return sign * maxExponent
		}
	}
	return sign * n
}

// digit is the k-th of DIGITS, 0 behind their end.
func (d *decimal) digit(k int) byte {
	if k < len(d.whole) {
		return d.whole[k] - '0'
	}
	if k -= len(d.whole); k < len(d.frac) {
		return d.frac[k] - '0'
	}
	return 0
}

// Fixed reads a JSON number as an integer scaled by 10^decimals, rounded half away from zero from its exact
// decimal text; ok is false if the result's absolute is above MaxScaled (SPEC 1). text must be a JSON number,
// as Member.Text of a Number is. It takes one pass over text, whatever the exponent.
func Fixed(text []byte, decimals int) (n int64, ok bool) {
	d := split(text)
	cut := d.point + decimals // so many of DIGITS stand before the scaled point
	if cut < 0 {
		return 0, true
	}
	end := len(d.whole) + len(d.frac)
	for k := range min(cut, end) {
		if n = n*10 + int64(d.digit(k)); n > MaxScaled {
			return 0, false
		}
	}
	for k := end; k < cut && n != 0; k++ {
		if n *= 10; n > MaxScaled {
			return 0, false
		}
	}
	if d.digit(cut) >= 5 {
		n++
	}
	if n > MaxScaled {
		return 0, false
	}
	if d.negative {
		n = -n
	}
	return n, true
}

// finite says whether a JSON number is finite as an IEEE double.
func finite(text []byte) bool {
	if len(text) < 300 && digits(text, 0) == len(text) {
		return true
	}
	d := split(text)
	end := len(d.whole) + len(d.frac)
	k := 0
	for k < end && d.digit(k) == 0 {
		k++
	}
	// The number is 0, or in [10^(m-1), 10^m). The greatest double is about 1.8 * 10^308.
	m := d.point - k
	if k == end || m <= 308 {
		return true
	}
	if m > 309 {
		return false
	}
	_, err := strconv.ParseFloat(string(text), 64)
	return err == nil
}

// integer reads a JSON number without fraction and exponent; ok is false for others. Beyond 1<<59, hundreds of millions
// of years from any valid event time, it is 1<<59.
func integer(text []byte) (n int64, ok bool) {
	negative := text[0] == '-'
	if negative {
		text = text[1:]
	}
	var u uint64
	for _, c := range text {
		c -= '0'
		if c > 9 {
			return 0, false
		}
		u = min(u*10+uint64(c), 1<<59) // 1<<59 * 10 + 9 still fits, so that it stays there
	}
	if negative {
		return -int64(u), true
	}
	return int64(u), true
}
