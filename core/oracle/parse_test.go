package oracle

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestParseAcceptsOrNot(t *testing.T) {
	nested := func(levels int) string {
		return `{"x":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	cases := []struct {
		payload string
		ok      bool
	}{
		{`{}`, true},
		{" \t\r\n{} \r", true},
		{``, false},
		{`null`, false},
		{`[]`, false},
		{`"x"`, false},
		{`{} {}`, false},
		{"\ufeff{}", false},
		{`{"a":1,}`, false},
		{`{"a":01}`, false},
		{`{"a":+1}`, false},
		{`{"a":1.}`, false},
		{`{"a":.5}`, false},
		{`{"a":-}`, false},
		{`{"a":1e999}`, true},
		{`{"a":NaN}`, false},
		{`{"a":Infinity}`, false},
		{"{\"a\":\"\t\"}", false},
		{"{\"a\":\"\x7f\"}", true},
		{"{\"a\":\"\xff\"}", false},
		{"{\"a\":\"\xed\xa0\x80\"}", false}, // a surrogate in UTF-8
		{"{\"a\":\"\xc0\x80\"}", false},     // overlong
		{`{"a":"\u0000"}`, true},
		{`{"a":"\ud83d\ude00"}`, true},
		{`{"a":"\uD83D\uDE00"}`, true},
		{`{"a":"\ud83d"}`, false},
		{`{"a":"\ude00"}`, false},
		{`{"a":"\uDFFF"}`, false},
		{`{"a":"\ude00\ud83d"}`, false},
		{`{"a":"\ud83d\ud83d\ude00"}`, false},
		{`{"a":"\ud83d \ude00"}`, false},
		{`{"a":"\\ud83d"}`, true}, // an escaped backslash, then text
		{`{"a":"\\\ud83d"}`, false},
		{`{"\ud83d":1}`, false},
		{`{"a":"\ud7ff\ue000"}`, true},
		{nested(64), true},
		{nested(65), false},
		{`{"id":1}`, false},
		{`{"id":1,"id":"a"}`, true},
		{`{"id":"a","id":1}`, false},
		{`{"id":null}`, true},
		{`{"ID":1}`, true},
		{`{"\u0069d":1}`, false},
		{`{"tenant":[]}`, false},
		{`{"session":true}`, false},
		{`{"visitor":1}`, false},
		{`{"point":{}}`, false},
		{`{"device":true}`, false},
		{`{"login":"true"}`, false},
		{`{"experiments":[]}`, false},
		{`{"experiments":"x"}`, false},
		{`{"experiments":{"x":1}}`, false},
		{`{"experiments":{"x":1,"x":"red"}}`, true},
		{`{"experiments":{"x":1},"experiments":null}`, true},
		{`{"experiments":{"x":null}}`, true},
		{`{"values":{"v":"1"}}`, false},
		{`{"values":{"v":true}}`, false},
		{`{"values":{"v":null}}`, true},
		{`{"values":{"v":1e308}}`, true},
		{`{"values":{"v":-1e309}}`, false},
		{`{"values":{"v":1e309,"v":1}}`, true},
		{`{"attrs":{"v":1e309}}`, true},
		{`{"attrs":{"a":[{}],"b":{}}}`, true},
		{`{"attrs":[1]}`, false},
		{`{"ts":1}`, true},
		{`{"ts":-1}`, true},
		{`{"ts":1.0}`, false},
		{`{"ts":1e3}`, false},
		{`{"ts":99999999999999999999}`, true},
		{`{"ts":true}`, false},
		{`{"ts":""}`, false},
		{`{"ts":"1767607200000"}`, false},
		{`{"ts":"2026-01-05T10:00:00Z"}`, true},
		{`{"ts":"2026-01-05t10:00:00Z"}`, false},
		{`{"ts":"2026-01-05T10:00:00z"}`, false},
		{`{"ts":"2026-01-05 10:00:00Z"}`, false},
		{`{"ts":"2026-01-05T10:00:00"}`, false},
		{`{"ts":"2026-01-05T10:00Z"}`, false},
		{`{"ts":"2026-01-05T1:00:00Z"}`, false},
		{`{"ts":"2026-01-05T10:00:00,5Z"}`, false},
		{`{"ts":"2026-01-05T10:00:00.Z"}`, false},
		{`{"ts":"2026-01-05T10:00:00.123456789012345Z"}`, true},
		{`{"ts":"2026-01-05T10:00:60Z"}`, false},
		{`{"ts":"2026-01-05T24:00:00Z"}`, false},
		{`{"ts":"2026-02-29T10:00:00Z"}`, false},
		{`{"ts":"2024-02-29T10:00:00Z"}`, true},
		{`{"ts":"2026-01-05T10:00:00+0100"}`, false},
		{`{"ts":"2026-01-05T10:00:00+23:59"}`, true},
		{`{"ts":"2026-01-05T10:00:00+24:00"}`, false},
		{`{"ts":"2026-01-05T10:00:00-00:60"}`, false},
		{`{"ts":"2026-01-05T10:00:00-00:00"}`, true},
	}
	for _, c := range cases {
		if _, err := parse([]byte(c.payload)); (err == nil) != c.ok {
			t.Errorf("parse(%q): %v, expected ok = %v", c.payload, err, c.ok)
		}
	}
}

func TestParseTS(t *testing.T) {
	const ten = 1_767_607_200_000
	cases := []struct {
		ts string
		ms int64
		in bool
	}{
		{`1767607200000`, ten, true},
		{`"2026-01-05T10:00:00Z"`, ten, true},
		{`"2026-01-05T10:00:00.9999999Z"`, ten + 999, true},
		{`"2026-01-05T12:30:00.5+02:30"`, ten + 500, true},
		{`"2026-01-05T00:00:00.000-10:00"`, ten, true},
		{`9223372036854775807`, 9223372036854775807, true},
		{`9223372036854775808`, 9223372036854775807, true},
		{`-99999999999999999999`, -9223372036854775808, true},
		{`null`, 0, false},
	}
	for _, c := range cases {
		b, err := parse([]byte(`{"ts":` + c.ts + `}`))
		if err != nil || b.hasTS != c.in || c.in && b.ts != c.ms {
			t.Errorf("ts %s: got %+v, %v, expected %d, %v", c.ts, b, err, c.ms, c.in)
		}
	}
}

func TestScale(t *testing.T) {
	cases := []struct {
		text     string
		decimals int
		n        int64
		ok       bool
	}{
		{"0", 2, 0, true},
		{"-0.0", 2, 0, true},
		{"1.005", 2, 101, true},
		{"-1.005", 2, -101, true},
		{"1.00499999999999999999999999999999999999999", 2, 100, true},
		{"0.5", 0, 1, true},
		{"-0.5", 0, -1, true},
		{"0.49", 0, 0, true},
		{"1e2", 2, 10_000, true},
		{"12.5E-1", 3, 1_250, true},
		{"1000000000.004", 2, 100_000_000_000, true},
		{"1000000000.005", 2, 0, false},
		{"-1000000000.005", 2, 0, false},
		{"100", 9, 100_000_000_000, true},
		{"1e999999999999999999999999", 2, 0, false},
		{"0e999999999999999999999999", 2, 0, true},
		{"1e-999999999999999999999999", 2, 0, true},
		{"1" + strings.Repeat("0", 60_000) + "e-60000", 2, 100, true},
		{"0." + strings.Repeat("0", 60_000) + "1e60001", 2, 100, true},
		{"1e-70001", 2, 0, true},
		{"1e70001", 2, 0, false},
	}
	for _, c := range cases {
		if n, ok := scale(c.text, c.decimals); n != c.n || ok != c.ok {
			t.Errorf("scale(%.40q, %d) = %d, %v, expected %d, %v", c.text, c.decimals, n, ok, c.n, c.ok)
		}
	}
}

func TestBucket(t *testing.T) {
	for n, want := range map[int64]int{-5: 0, 0: 0, 1: 0, 2: 8, 3: 12, 4: 16, 100: 53, 1023: 79, 1024: 80, 100_000_000_000: 292} {
		if got := bucket(n); got != want {
			t.Errorf("bucket(%d) = %d, expected %d", n, got, want)
		}
	}
}

func TestParseRecords(t *testing.T) {
	const ten = `{"ts":"2026-01-05T10:00:00Z"}`
	cases := []struct {
		file string
		want string
	}{
		{"", ""},
		{"\n", "0:"},
		{"\n\n", "0: 0:"},
		{"5\tx\n", "5:x"},
		{"5\tx", "5:x"},
		{"5\tx\n\n", "5:x 0:"},
		{"5\tx\r\n", "5:x\r"},
		{"5\t", "5:"},
		{"5", "0:5"},
		{"\tx", "0:\tx"},
		{"-5\tx", "0:-5\tx"},
		{"5\t6\tx", "5:6\tx"},
		{"007\tx", "7:x"},
		{"99999999999999999999\tx", "9223372036854775807:x"},
		{ten, "1767607200000:" + ten},
		{"{\"ts\":7}\n{\"ts\":\t8}", "7:{\"ts\":7} 8:{\"ts\":\t8}"},
		{`{"ts":7,"id":1}`, `0:{"ts":7,"id":1}`},
		{`{"ts":99999999999999999999}`, `9223372036854775807:{"ts":99999999999999999999}`},
	}
	for _, c := range cases {
		var got []string
		for _, r := range ParseRecords([]byte(c.file)) {
			got = append(got, fmt.Sprintf("%d:%s", r.Ingest, r.Payload))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("ParseRecords(%q) = %q, expected %q", c.file, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"a","tenant":"shop","session":"s1","ts":1767607200000,"point":"home","values":{"v":1.5}}`))
	f.Add([]byte(`{"ts":"2026-01-05T10:00:00.9999Z","attrs":{"k":[1,{"a":"\ud83d\ude00"}]},"experiments":{"x":null}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := parse(payload)
		if err != nil {
			return
		}
		if !json.Valid(payload) {
			t.Fatalf("taken, though it is no JSON: %q", payload)
		}
		for name, text := range b.values {
			if n, ok := scale(text, 2); ok && (n > maxScaled || n < -maxScaled) {
				t.Fatalf("value %s = %s is scaled to %d", name, text, n)
			}
		}
	})
}
