package mapping

import (
	"fmt"
	"strings"
	"testing"

	"tandem/schemas/records"
)

// run imports text and gives one line for each record (ingest, tab, payload) and each refused row (line: reason).
func run(t *testing.T, mapping, input string) (got []string, stats Stats) {
	t.Helper()
	m, err := Parse("m.yaml", []byte(mapping))
	if err != nil {
		t.Fatal(err)
	}
	stats, err = m.Import(strings.NewReader(input), func(r records.Record) error {
		got = append(got, fmt.Sprintf("%d\t%s", r.Ingest, r.Payload))
		return nil
	}, func(line int64, reason string) {
		got = append(got, fmt.Sprintf("%d: %s", line, reason))
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, stats
}

func check(t *testing.T, got []string, want ...string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(none)", "(none)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("line %d\ngot  %s\nwant %s", i, g, w)
		}
	}
}

const base = `fields: {id: string(line), tenant: '"t"', session: '"s"', ts: 'time(at, "unixms")'}` + "\n"

func TestFields(t *testing.T) {
	got, _ := run(t, `format: csv
csv: {separator: ";"}
ingest: num(at) + 5
fields:
  id: id
  tenant: '"shop"'
  session: row["the session"]
  visitor: visitor
  ts: at
  point: point
  device: device
  login: 'login == "" ? nil : login == "yes"'
values:
  z: a
  a: num(a)
  sum: num(a) + num(b)
  cond: 'point == "order" ? a : nil'
attrs: {text: point, n: num(b), yes: 'a == b'}
experiments: {x: variant, none: nil}
`, "\ufeffid;the session;visitor;at;point;device;login;a;b;variant\r\n"+
		"1;s;v;1000;order;mobile;yes;59442.630;+007.;red\r\n"+
		"\r\n\n"+
		"\"a\"\"b\";s;;2000;<p>;;;;;\r\n"+
		"3;s;;x;p;;no;1;2;\n")
	check(t, got,
		`1005	{"id":"1","tenant":"shop","session":"s","visitor":"v","ts":1000,"point":"order","experiments":{"x":"red"},`+
			`"values":{"a":59442.630,"cond":59442.630,"sum":59449.63,"z":59442.630},"attrs":{"n":7,"text":"order","yes":false},"device":"mobile","login":true}`,
		`5: values.sum: invalid operation: <nil> + <nil>`,
		`6: fields.ts: "x" is no whole number of milliseconds; use time(column, layout)`)
}

func TestNDJSON(t *testing.T) {
	got, stats := run(t, `format: ndjson
where: kind != "skip"
fields: {id: id, tenant: '"t"', session: user.id, ts: 'time(at, "rfc3339")'}
values: {big: n, twice: n * 2, deep: 'user?.more?.price', flag: 'nil'}
attrs: {n: n, flag: flag, odd: 'row["odd name"]'}
`, `{"id":9007199254740993,"user":{"id":"u","more":{"price":0.10}},"at":"2026-01-01T00:00:00.0019Z","n":9007199254740993,"flag":true,"odd name":"é"}
{"kind":"skip"}

{"id":"1","user":{"id":"u"},"at":"2026-01-01T00:00:00+01:00","n":0.5,"odd name":[1]}
[1]
{"id":"1"} {"id":"2"}
null
{"id":"1","user":{"id":"u"},"at":"2026-01-01","n":1}
{"id":"2","at":"2026-01-01T00:00:00Z","n":1e999}
`+"{\"id\":\"\xff\"}\n")
	check(t, got,
		`1767225600001	{"id":"9007199254740993","tenant":"t","session":"u","ts":1767225600001,"values":{"big":9007199254740993,"deep":0.10,"twice":18014398509481986},"attrs":{"flag":true,"n":9007199254740993,"odd":"é"}}`,
		`4: attrs.odd: a []interface {} is no text, number or bool`,
		`5: no JSON object: json: cannot unmarshal array into Go value of type map[string]interface {}`,
		`6: text after the JSON object`,
		`7: no JSON object: null`,
		`8: fields.ts: "2026-01-01" is no time of the form "2006-01-02T15:04:05Z07:00"`,
		`9: fields.session: it is empty; every beacon has one`,
		`10: it is not UTF-8`)
	if stats != (Stats{Rows: 9, Records: 1, Refused: 7, LeftOut: 1}) {
		t.Errorf("stats %+v", stats)
	}
}

func TestCombined(t *testing.T) {
	got, _ := run(t, `format: combined
fields: {id: string(line), tenant: '"t"', session: address, visitor: user, ts: 'time(time, "apache")', point: method}
values: {status: status, bytes: bytes}
attrs: {path: path, referer: referer, agent: agent, request: request}
`, `1.2.3.4 - bob [17/May/2015:10:05:03 +0200] "GET /a?b=\"c\" HTTP/1.1" 200 17 "http://x/" "A \"B\" \\ \x16"
::1 - - [17/May/2015:10:05:03 +0000] "-" 408 -
::1 - - [17/May/2015:10:05:03 +0000] "\x16\x03" 400 226 "-" "-"
::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5 "-"
::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5 "-" "-" more
::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5 "-" "cut off here
::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5 "cut off he
::1 - - 17/May/2015:10:05:03 "GET / HTTP/1.0" 200 5
::1 - - [soon] "GET / HTTP/1.0" 200 5
x
`)
	missing := ` is missing: the form is address ident user [time] "request" status bytes "referer" "agent"`
	check(t, got,
		`1431849903000	{"id":"1","tenant":"t","session":"1.2.3.4","visitor":"bob","ts":1431849903000,"point":"GET","values":{"bytes":17,"status":200},"attrs":{"agent":"A \"B\" \\ \\x16","path":"/a?b=\"c\"","referer":"http://x/","request":"GET /a?b=\"c\" HTTP/1.1"}}`,
		`1431857103000	{"id":"2","tenant":"t","session":"::1","ts":1431857103000,"values":{"status":408}}`,
		`1431857103000	{"id":"3","tenant":"t","session":"::1","ts":1431857103000,"values":{"bytes":226,"status":400},"attrs":{"request":"\\x16\\x03"}}`,
		`4: agent`+missing,
		`5: text after the user agent`,
		`1431857103000	{"id":"6","tenant":"t","session":"::1","ts":1431857103000,"point":"GET","values":{"bytes":5,"status":200},"attrs":{"agent":"cut off here","path":"/","request":"GET / HTTP/1.0"}}`,
		`7: referer`+missing,
		`8: time`+missing,
		`9: fields.ts: "soon" is no time of the form "02/Jan/2006:15:04:05 -0700"`,
		`10: address`+missing)
}

// TestSurrogates: half of a pair is no text; encoding/json takes it for U+FFFD, so that different ids would be one.
func TestSurrogates(t *testing.T) {
	got, _ := run(t, "format: ndjson\nfields: {id: id, tenant: '\"t\"', session: '\"s\"', ts: 1000}\n",
		`{"id":"\ud83d\uDE00"}
{"id":"\\ud800 \\\u00e9\ufffd"}
{"id":"\ud800"}
{"id":"\udc00\ud800"}
{"id":"\ud800\u0041"}
{"id":"\\\ud800\n"}
{"id":"a","\udfff":1}
`)
	lone := ": it holds half of a pair of surrogates"
	check(t, got,
		`1000	{"id":"😀","tenant":"t","session":"s","ts":1000}`,
		`1000	{"id":"\\ud800 \\é�","tenant":"t","session":"s","ts":1000}`,
		"3"+lone, "4"+lone, "5"+lone, "6"+lone, "7"+lone)
}

// TestByteOrderMark: it is of no row, whatever the format, also before a header in quotes.
func TestByteOrderMark(t *testing.T) {
	const rest = "tenant: '\"t\"', session: '\"s\"', ts: 1000}\n"
	for mapping, in := range map[string]string{
		"format: csv\nfields: {id: id, " + rest:                          "\"id\",\"b\"\na,b\n",
		"format: csv\ncsv: {columns: [id, b]}\nfields: {id: id, " + rest: "\"a\",b\n",
		"format: ndjson\nfields: {id: id, " + rest:                       "{\"id\":\"a\"}\n",
		"format: combined\nfields: {id: address, " + rest:                "a - - [17/May/2015:10:05:03 +0200] \"-\" 408 -\n",
	} {
		got, _ := run(t, mapping, "\ufeff"+in)
		check(t, got, `1000	{"id":"a","tenant":"t","session":"s","ts":1000}`)
	}
}

func TestBlocks(t *testing.T) {
	got, stats := run(t, `format: csv
where: kind != "none"
fields: {tenant: '"t"', session: string(line), ts: 'time(at, "unix")'}
attrs: {a: '"top"', b: '"top"'}
beacons:
  - fields: {id: '"1"', point: '"impression"'}
  - where: click == "1"
    ingest: 9000
    fields: {id: '"2"', point: '"click"', session: '"own"'}
    attrs: {b: '"own"'}
    values: {n: num(n)}
`, "at,kind,click,n\n1,a,1,2\n2,a,0,x\n3,none,1,2\n4,a,1,x\n")
	check(t, got,
		`1000	{"id":"1","tenant":"t","session":"2","ts":1000,"point":"impression","attrs":{"a":"top","b":"top"}}`,
		`9000	{"id":"2","tenant":"t","session":"own","ts":1000,"point":"click","values":{"n":2},"attrs":{"a":"top","b":"own"}}`,
		`2000	{"id":"1","tenant":"t","session":"3","ts":2000,"point":"impression","attrs":{"a":"top","b":"top"}}`,
		`5: values.n: "x" is no number`) // and not half of the row
	if stats != (Stats{Rows: 4, Records: 3, Refused: 1, LeftOut: 1}) {
		t.Errorf("stats %+v", stats)
	}
}

func TestRefusedBeacons(t *testing.T) {
	long := strings.Repeat("x", 129)
	got, _ := run(t, "format: csv\nfields: {id: id, tenant: '\"t\"', session: s, ts: at}\n",
		"id,s,at\n"+long+",s,1\n1,"+long+",1\n,s,1\n1,s,\n1,s,-1\n1,s,1.5\n")
	check(t, got,
		"2: its beacon would be rejected as bad_id",
		"3: its beacon would be rejected as bad_session",
		"4: fields.id: it is empty; every beacon has one",
		"5: fields.ts: it is empty; every beacon has one",
		"6: ingest: -1 ms is not within 0 to 9007199254740992",
		`7: fields.ts: "1.5" is no whole number of milliseconds; use time(column, layout)`)
}

func TestOccurrence(t *testing.T) {
	got, _ := run(t, `format: csv
fields: {id: 'string(occurrence(a, b)) + string(occurrence(a, b))', tenant: '"t"', session: '"s"', ts: 'occurrence(a)'}
`, "a,b\n1,2\n12,\n1,2\n1,3\n1,2\n")
	check(t, got,
		`1	{"id":"11","tenant":"t","session":"s","ts":1}`,
		`1	{"id":"11","tenant":"t","session":"s","ts":1}`,
		`2	{"id":"22","tenant":"t","session":"s","ts":2}`,
		`3	{"id":"11","tenant":"t","session":"s","ts":3}`,
		`4	{"id":"33","tenant":"t","session":"s","ts":4}`)

	o := occurrences{max: 2, table: map[uint64]occurrence{}}
	for i, c := range []struct {
		arg  string
		want int
		ok   bool
	}{{"a", 1, true}, {"b", 1, true}, {"c", 0, false}, {"a", 2, true}} {
		o.row++
		if got, err := o.next([]any{c.arg}); got != c.want || err == nil != c.ok {
			t.Errorf("row %d: %d, %v", i+1, got, err)
		}
	}
}

// TestHashIsFixed: stored ids come from it, so it may never change.
func TestHashIsFixed(t *testing.T) {
	for _, c := range []struct {
		args []any
		want string
	}{
		{[]any{""}, "34c96acdcadb1bbb"},
		{[]any{"a", "bc"}, "b96b9407e3be810d"},
		{[]any{"ab", "c"}, "7b92a14fbcbf0536"},
		{[]any{nil}, "85d136adb773c6c9"},
		{[]any{7}, "a98e85275b773d2c"},
	} {
		h, err := digest(c.args)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%016x", h); got != c.want {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}
	a, _ := digest([]any{7, 0.5, true})
	if b, _ := digest([]any{"7", "0.5", "true"}); a != b {
		t.Error("a value and its text differ")
	}
}

func TestBucketsAreEven(t *testing.T) {
	var n [4]int
	for i := range 40_000 {
		h, _ := digest([]any{"aa", i})
		n[h%4]++
	}
	for i, c := range n {
		if c < 9700 || c > 10_300 {
			t.Errorf("bucket %d has %d of 40,000", i, c)
		}
	}
}

func TestDecimal(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "-0", "59442.63": "59442.63", "33.20": "33.20", " 7 ": "7", "+7": "7", "007": "7", ".5": "0.5", "5.": "5",
		"-.5e-3": "-0.5e-3", "1E5": "1E5", "1e308": "1e308", "00.10": "0.10", "1e-999": "1e-999",
		"": "", "-": "", ".": "", "e5": "", "1e": "", "1e+": "", "1.2.3": "", "1,5": "", "0x1": "", "NaN": "", "Inf": "", "1_000": "", "1e309": "", "--1": "",
	} {
		got, err := decimal(in)
		if got != want || err == nil != (want != "") {
			t.Errorf("decimal(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	for _, c := range []struct {
		v      any
		layout string
		want   int64
		ok     bool
	}{
		{"1389052815", "unix", 1389052815000, true},
		{"1389052815.0019", "unix", 1389052815001, true},
		{"1389052815.9", "unix", 1389052815900, true},
		{1389052815.25, "unix", 1389052815250, true},
		{7, "unix", 7000, true},
		{"-1", "unix", 0, false},
		{"99999999999999999", "unix", 0, false},
		{"1e3", "unix", 0, false},
		{"", "unix", 0, false},
		{"-1", "unixms", -1, true},
		{"1.5", "unixms", 0, false},
		{"2019-10-01 00:00:00 UTC", "2006-01-02 15:04:05 UTC", 1569888000000, true},
		{"2019-10-01 00:00:00", "2006-01-02 15:04:05 UTC", 0, false},
		{"2019-11-24 00:03:13.442536+00:00", "2006-01-02 15:04:05-07:00", 1574553793442, true},
		{"2019-11-24 00:03:13+01:00", "2006-01-02 15:04:05-07:00", 1574550193000, true},
		{"Tue, 01 Oct 2019 00:00:00 GMT", "Mon, 02 Jan 2006 15:04:05 MST", 1569888000000, true},
		{"2019-10-01 00:00 UTC", "2006-01-02 15:04 MST", 1569888000000, true},
		{"2019-10-01 00:00 EST", "2006-01-02 15:04 MST", 0, false},
		{"2019-10-01 00:00 GMT+3", "2006-01-02 15:04 MST", 0, false},
		{"2019-10-01 02:00 +0200 CEST", "2006-01-02 15:04 -0700 MST", 1569888000000, true},
		{"2019-02-30T00:00:00Z", "rfc3339", 0, false},
		{nil, "rfc3339", 0, false},
		{[]any{}, "rfc3339", 0, false},
	} {
		got, err := parseTime(c.v, c.layout)
		if got != c.want || err == nil != c.ok {
			t.Errorf("time(%v, %s) = %d, %v; want %d", c.v, c.layout, got, err, c.want)
		}
	}
}
