package beacon

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

func TestFixed(t *testing.T) {
	zeros := strings.Repeat("0", 60_000)
	for _, c := range []struct {
		text     string
		decimals int
		n        int64
		ok       bool
	}{
		{"0", 2, 0, true}, {"-0", 2, 0, true}, {"-0.0", 3, 0, true}, {"0e999999999", 9, 0, true}, {"0.000e999999999999999999999999", 9, 0, true},
		{"1.005", 2, 101, true}, {"-1.005", 2, -101, true}, {"0.00499999999999999999999999999999", 2, 0, true}, {"0.005", 2, 1, true},
		{"2.5", 0, 3, true}, {"-2.5", 0, -3, true}, {"0.49", 0, 0, true}, {"-0.5", 0, -1, true}, {"0.5", 0, 1, true}, {"0.05", 0, 0, true},
		{"0.0005", 3, 1, true}, {"1e-3", 3, 1, true}, {"12.5e-1", 3, 1250, true}, {"1e2", 2, 10_000, true}, {"1E+1", 0, 10, true}, {"10.50", 2, 1050, true},
		{"9.995", 2, 1000, true}, {"99.999", 2, 10_000, true}, {"0.95", 1, 10, true}, {"5e-1", 0, 1, true}, {"5e-2", 0, 0, true}, {"49e-2", 0, 0, true}, {"50e-2", 0, 1, true},
		{"1000000000", 2, MaxScaled, true}, {"1000000000.004", 2, MaxScaled, true}, {"1000000000.005", 2, 0, false}, {"-1000000000.005", 2, 0, false}, {"-1000000000.004", 2, -MaxScaled, true},
		{"1000000000.01", 2, 0, false}, {"99999999999.5", 0, MaxScaled, true}, {"100000000000.5", 0, 0, false}, {"100", 9, MaxScaled, true}, {"100.0000000005", 9, 0, false}, {"1e11", 0, MaxScaled, true},
		{"1e12", 0, 0, false}, {"1e999999999", 0, 0, false}, {"1e999999999999999999999999", 0, 0, false}, {"-1e-999999999999999999999999", 0, 0, true}, {"9e-999999999", 9, 0, true},
		{"9223372036854775808", 0, 0, false}, {"99999999999999999999999999999999", 9, 0, false},
		{"1" + zeros + "e-60000", 2, 100, true}, {"0." + zeros + "15e60001", 0, 2, true}, {"0." + zeros + "15e60002", 0, 15, true}, {"1" + zeros, 2, 0, false}, {"0." + zeros + "9", 9, 0, true},
		{"0.4" + strings.Repeat("9", 60_000), 0, 0, true}, {"0.5" + zeros, 0, 1, true},
	} {
		n, ok := Fixed([]byte(c.text), c.decimals)
		if ok != c.ok || ok && n != c.n {
			t.Errorf("Fixed(%.60s, %d) = %d, %v, want %d, %v", c.text, c.decimals, n, ok, c.n, c.ok)
		}
	}
	text := []byte("1e999999999")
	if n := testing.AllocsPerRun(10, func() { Fixed(text, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// exactFixed is Fixed by its definition, in rational arithmetic.
func exactFixed(text string, decimals int) (int64, bool) {
	v, ok := new(big.Rat).SetString(text)
	if !ok {
		panic(text)
	}
	v.Mul(v, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)))
	half := big.NewRat(1, 2)
	if v.Sign() < 0 {
		half.Neg(half)
	}
	v.Add(v, half)
	n := new(big.Int).Quo(v.Num(), v.Denom()) // truncates
	if n.CmpAbs(big.NewInt(100_000_000_000)) > 0 {
		return 0, false
	}
	return n.Int64(), true
}

// numberText draws a JSON number, often near a half or near MaxScaled.
func numberText(r *rand.Rand) string {
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0004559999123678"[r.IntN(16)]
		}
		return string(b)
	}
	var s string
	if r.IntN(2) == 0 {
		s = "-"
	}
	switch r.IntN(5) {
	case 0:
		s += "0"
	case 1:
		s += "1" + strings.Repeat("0", r.IntN(13))
	case 2:
		s += strings.Repeat("9", 1+r.IntN(13))
	default:
		s += strconv.Itoa(1+r.IntN(9)) + digits(r.IntN(14))
	}
	switch r.IntN(4) {
	case 0:
		s += "." + digits(1+r.IntN(14))
	case 1:
		s += "." + strings.Repeat([]string{"0", "4", "9"}[r.IntN(3)], r.IntN(10)) + []string{"5", "49", "4999", "50000", "51"}[r.IntN(5)]
	}
	if r.IntN(3) == 0 {
		s += []string{"e", "E", "e+", "e-", "E-"}[r.IntN(5)] + strconv.Itoa(r.IntN(20))
	}
	return s
}

func TestFixedIsExact(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50_000 {
		text, decimals := numberText(r), r.IntN(10)
		n, ok := Fixed([]byte(text), decimals)
		want, wantOK := exactFixed(text, decimals)
		if ok != wantOK || ok && n != want {
			t.Fatalf("seed %d: Fixed(%s, %d) = %d, %v, want %d, %v", seed, text, decimals, n, ok, want, wantOK)
		}
	}
}

func TestFinite(t *testing.T) {
	zeros := strings.Repeat("0", 400)
	texts := []string{"0", "-0", "1", "-1.5", "0e999999", "0.000e999999999999999999", "1e308", "1e309", "-1e309", "1e999", "1e99999999999999999999", "1e-999", "1e-99999999999999999999",
		"1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "17976931348623157e292", "17976931348623159e292", "0.17976931348623157e309", "0.17976931348623159e309",
		"1" + zeros, "1" + zeros + "e-100", "0." + zeros + "1e700", "0." + zeros + "1e709", "0." + zeros + "1e710", "9" + zeros[:307], "9" + zeros[:308], "1" + zeros[:308], "1" + zeros[:309], strings.Repeat("9", 308), strings.Repeat("9", 309),
		// Half way between the greatest double and 2^1024, and one digit below.
		"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880",
		"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042879.999"}
	for _, text := range texts {
		_, err := strconv.ParseFloat(text, 64)
		if got := finite([]byte(text)); got != (err == nil) {
			t.Errorf("finite(%.60s, %d bytes) = %v", text, len(text), got)
		}
	}
}

// FuzzFixed takes any JSON number whose exponent leaves the rational arithmetic a reasonable size.
func FuzzFixed(f *testing.F) {
	for _, s := range []string{"0", "-1.005", "1e2", "99999999999.5", "12.5e-1", "1000000000.005", "0.00e400", "5e-1"} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, text string, decimals int) {
		if len(text) > 200 || number([]byte(text), 0) != len(text) || decimals < 0 || decimals > 9 {
			t.Skip("not the text of a JSON number")
		}
		if d := split([]byte(text)); max(d.point, -d.point) > 1000 {
			t.Skip("too large an exponent for the reference")
		}
		n, ok := Fixed([]byte(text), decimals)
		want, wantOK := exactFixed(text, decimals)
		if ok != wantOK || ok && n != want {
			t.Fatalf("Fixed(%s, %d) = %d, %v, want %d, %v", text, decimals, n, ok, want, wantOK)
		}
	})
}

func ExampleFixed() {
	for _, text := range []string{"1.005", "-1.005", "12.5e-1", "1e12"} {
		fmt.Println(Fixed([]byte(text), 2))
	}
	// Output:
	// 101 true
	// -101 true
	// 125 true
	// 0 false
}
