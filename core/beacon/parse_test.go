package beacon

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	head = `{"id":"a","tenant":"t","session":"s"`
	base = `id="a" tenant="t" session="s" `
)

func x(n int) string { return strings.Repeat("x", n) }

// with is a good beacon with one more member.
func with(member string) string { return head + "," + member + "}" }

type example struct {
	name, payload string
	reason        Reason
	want          string // render of the Beacon; not compared if the reason leaves it empty
}

func good(name, member, want string) example { return example{name, with(member), None, base + want} }
func bad(name, member string) example        { return example{name, with(member), Malformed, ""} }

var examples = []example{
	// Form of the payload.
	{"least", head + "}", None, base},
	{"empty object", "{}", BadID, ""},
	{"empty object, white space", " \t\r\n{ \t\r\n} \t\r\n", BadID, ""},
	{"empty", "", Malformed, ""},
	{"white space only", " ", Malformed, ""},
	{"byte order mark", "\xef\xbb\xbf" + head + "}", Malformed, ""},
	{"no-break space", "\u00a0" + head + "}", Malformed, ""},
	{"vertical tab", "\v" + head + "}", Malformed, ""},
	{"form feed behind", head + "}\f", Malformed, ""},
	{"NUL behind", head + "}\x00", Malformed, ""},
	{"array", "[" + head + "}]", Malformed, ""},
	{"null", "null", Malformed, ""},
	{"string", `"a"`, Malformed, ""},
	{"second object", head + "}{}", Malformed, ""},
	{"trailing comma", head + ",}", Malformed, ""},
	{"leading comma", `{,"id":"a"}`, Malformed, ""},
	{"unclosed", head, Malformed, ""},
	{"no colon", with(`"k" 1`), Malformed, ""},
	{"no value", with(`"k":`), Malformed, ""},
	{"bare key", with(`k:1`), Malformed, ""},
	{"single quotes", with(`'k':1`), Malformed, ""},
	{"comment", with(`/**/"k":1`), Malformed, ""},
	{"CR LF behind", head + "}\r\n", None, base},
	{"white space all over", " { \"id\" : \"a\" ,\n\"tenant\"\t:\"t\"\r,\"session\":\"s\" , \"attrs\" : { \"k\" : 1 , \"l\" : { } } , \"z\" : [ 1 , [ ] ] } ", None, base + `attrs."k"=number:"1" `},

	{"escapes and white space", ` { "id" : "\u00e9" , "tenant":"shop","session":"s1","ts":1767607200000,"point":"home"} `, None, `id="é" tenant="shop" session="s1" point="home" ts=1767607200000 `},
	{"nulls, ignored shapes", `{"id":"c","tenant":"shop","session":"s1","ts":1767607200002,"point":"cart","device":null,"login":null,"visitor":null,"values":null,"attrs":{"device":"desktop","k":null},"experiments":{"x":null},"other":[1,{"a":[]}],"Point":"home"}`,
		None, `id="c" tenant="shop" session="s1" point="cart" ts=1767607200002 attrs."device"=string:"desktop" `},

	// Sizes.
	{"65,536 bytes", with(`"pad":"` + x(65_536-len(with(`"pad":""`))) + `"`), None, base},
	{"65,537 bytes", with(`"pad":"` + x(65_537-len(with(`"pad":""`))) + `"`), TooLarge, ""},
	{"too large before malformed", x(65_537), TooLarge, ""},
	{"65,536 bytes, malformed", x(65_536), Malformed, ""},

	// Lengths, after unescaping, and the order of reasons.
	{"id absent", `{"session":"s"}`, BadID, `session="s" `},
	{"id null", `{"id":null,"session":"s"}`, BadID, `session="s" `},
	{"id empty", `{"id":"","session":"s"}`, BadID, `session="s" `},
	{"id 128", `{"id":"` + x(128) + `","session":"s"}`, None, `id="` + x(128) + `" session="s" `},
	{"id 129", `{"id":"` + x(129) + `","session":"s"}`, BadID, `id="` + x(129) + `" session="s" `},
	{"id 64 of two bytes", `{"id":"` + strings.Repeat("é", 64) + `","session":"s"}`, None, `id="` + strings.Repeat("é", 64) + `" session="s" `},
	{"id 65 of two bytes", `{"id":"` + strings.Repeat("é", 65) + `","session":"s"}`, BadID, `id="` + strings.Repeat("é", 65) + `" session="s" `},
	{"id 128 escaped", `{"id":"` + strings.Repeat(`\u0041`, 128) + `","session":"s"}`, None, `id="` + strings.Repeat("A", 128) + `" session="s" `},
	{"id 129 escaped", `{"id":"` + strings.Repeat(`\n`, 129) + `","session":"s"}`, BadID, `id="` + strings.Repeat(`\n`, 129) + `" session="s" `},
	{"session absent", `{"id":"a"}`, BadSession, `id="a" `},
	{"session 129", `{"id":"a","session":"` + x(129) + `"}`, BadSession, `id="a" session="` + x(129) + `" `},
	{"id before session", `{"id":"","session":""}`, BadID, ""},
	{"session before visitor", `{"id":"a","visitor":"` + x(129) + `"}`, BadSession, `id="a" visitor="` + x(129) + `" `},
	{"malformed before id", `{"session":3}`, Malformed, ""},
	{"visitor 128", with(`"visitor":"` + x(128) + `"`), None, `id="a" tenant="t" session="s" visitor="` + x(128) + `" `},
	{"visitor 129", with(`"visitor":"` + x(129) + `"`), BadVisitor, base + `visitor="` + x(129) + `" `},
	good("visitor empty", `"visitor":""`, ""),
	good("visitor null", `"visitor":null`, ""),

	// Types of fields.
	bad("id number", `"id":7`),
	bad("id array", `"id":["a"]`),
	bad("tenant bool", `"tenant":true`),
	bad("session object", `"session":{}`),
	bad("visitor number", `"visitor":0`),
	bad("point number", `"point":1`),
	bad("device bool", `"device":false`),
	bad("login string", `"login":"true"`),
	bad("login number", `"login":1`),
	bad("ts bool", `"ts":true`),
	bad("ts object", `"ts":{}`),
	bad("experiments array", `"experiments":[]`),
	bad("values string", `"values":""`),
	bad("attrs number", `"attrs":1`),
	good("login", `"login":true`, "login=true "),
	good("not login", `"login":false`, "login=false "),
	good("empty is present", `"point":"","device":""`, `point="" device="" `),
	good("all null", `"visitor":null,"ts":null,"point":null,"device":null,"login":null,"experiments":null,"values":null,"attrs":null`, ""),
	good("case matters", `"Point":1,"TS":true,"ID":[],"Values":"","EXPERIMENTS":0,"Tenant":{},"Session":1`, ""),
	good("other keys of the same lengths", `"if":1,"pount":1,"valuez":1,"sessiom":1,"experimentz":1,"":1`, ""),

	// Repeated keys.
	{"wrong id mended", `{"id":17,"id":"b","session":"s"}`, None, `id="b" session="s" `},
	{"right id spoilt", `{"id":"b","id":17,"session":"s"}`, Malformed, ""},
	{"id taken back", `{"id":"b","id":null,"session":"s"}`, BadID, `session="s" `},
	{"null overwritten", `{"id":null,"id":"b","session":"s"}`, None, `id="b" session="s" `},
	{"wrong id taken back", `{"id":1,"id":null,"session":"s"}`, BadID, `session="s" `},
	good("ts mended", `"ts":"x","ts":5`, "ts=5 "),
	bad("ts spoilt", `"ts":5,"ts":"x"`),
	good("ts overflow saturates", `"ts":5,"ts":9223372036854775808`, "ts=576460752303423488 "),
	good("ts overflow replaced", `"ts":9223372036854775808,"ts":5`, "ts=5 "),
	good("ts taken back", `"ts":5,"ts":null`, ""),
	good("wrong ts taken back", `"ts":5.5,"ts":null`, ""),
	good("login taken back", `"login":true,"login":null`, ""),
	good("point taken back", `"point":"p","point":null,"device":"d","device":null`, ""),
	{"escaped keys are the same", with(`"\u0069d":"b","p\u006fint":"q"`), None, `id="b" tenant="t" session="s" point="q" `},
	bad("escaped key spoils", `"i\u0064":1`),
	good("experiments replaced", `"experiments":{"x":"1","y":"2"},"experiments":{"z":"3"}`, `experiments."z"=string:"3" `),
	good("wrong experiments replaced", `"experiments":{"x":1},"experiments":{"z":"3"}`, `experiments."z"=string:"3" `),
	good("experiments taken back", `"experiments":{"x":"1"},"experiments":null`, ""),
	bad("experiments spoilt", `"experiments":{"x":"1"},"experiments":{"x":1}`),
	good("values number replaced", `"values":3,"values":{"v":1}`, `values."v"=number:"1" `),
	bad("values spoilt", `"values":{"v":1},"values":3`),
	good("values taken back", `"values":{"v":"1"},"values":null`, ""),
	good("attrs replaced", `"attrs":{"a":1,"b":1},"attrs":{}`, ""),
	good("attrs mended", `"attrs":[],"attrs":{"a":1}`, `attrs."a"=number:"1" `),

	// Members.
	good("experiments", `"experiments":{"x":"a","":"","y":null}`, `experiments."x"=string:"a" experiments.""=string:"" `),
	bad("experiments number", `"experiments":{"x":1}`),
	bad("experiments bool", `"experiments":{"x":true}`),
	bad("experiments object", `"experiments":{"x":{}}`),
	bad("experiments array", `"experiments":{"x":[]}`),
	good("experiments member mended", `"experiments":{"x":1,"y":"b","x":"a"}`, `experiments."x"=string:"a" experiments."y"=string:"b" `),
	bad("experiments member spoilt", `"experiments":{"x":"a","y":"b","x":1}`),
	good("experiments member taken back", `"experiments":{"x":"a","x":null}`, ""),
	good("wrong experiments member taken back", `"experiments":{"x":{},"x":null}`, ""),
	good("member mended by an escaped key", `"experiments":{"x":1,"\u0078":"a"}`, `experiments."x"=string:"a" `),
	good("values", `"values":{"a":1,"b":-0.5e3,"c":null,"d":-0}`, `values."a"=number:"1" values."b"=number:"-0.5e3" values."d"=number:"-0" `),
	bad("values string", `"values":{"v":"1"}`),
	bad("values bool", `"values":{"v":false}`),
	bad("values object", `"values":{"v":{}}`),
	bad("values array", `"values":{"v":[1]}`),
	bad("one mended, one not", `"values":{"v":"","w":"","w":1}`),
	good("both mended", `"values":{"v":"","w":"","w":1,"v":2}`, `values."v"=number:"2" values."w"=number:"1" `),
	good("values infinite mended", `"values":{"v":1e999,"v":1}`, `values."v"=number:"1" `),
	bad("values infinite", `"values":{"v":1e999}`),
	bad("values infinite spoils", `"values":{"v":1,"v":-1e999}`),
	good("values tiny", `"values":{"v":1e-999999999999999999999}`, `values."v"=number:"1e-999999999999999999999" `),
	good("attrs", `"attrs":{"s":"x","n":1.50,"t":true,"f":false,"z":null,"o":{"a":[1]},"l":[{}]}`,
		`attrs."s"=string:"x" attrs."n"=number:"1.50" attrs."t"=bool:"true" attrs."f"=bool:"false" `),
	good("attrs infinite", `"attrs":{"a":1e999}`, `attrs."a"=number:"1e999" `),
	good("attrs object overrides", `"attrs":{"a":1,"a":{}}`, ""),
	good("attrs array overrides", `"attrs":{"a":1,"b":2,"a":[]}`, `attrs."b"=number:"2" `),
	good("attrs null overrides", `"attrs":{"a":1,"a":null}`, ""),
	good("attrs object overridden", `"attrs":{"a":{},"a":1}`, `attrs."a"=number:"1" `),
	bad("attrs member malformed", `"attrs":{"a":[1,]}`),
	bad("members trailing comma", `"attrs":{"a":1,}`),
	bad("members without colon", `"attrs":{"a",1}`),
	bad("members unclosed", `"attrs":{"a":1`),
}

func TestParse(t *testing.T) {
	var p Parser
	var b Beacon
	for _, c := range examples {
		check(t, &p, &b, c)
	}
}

// check parses with a used Parser and Beacon, so that what an earlier payload left behind shows.
func check(t *testing.T, p *Parser, b *Beacon, c example) {
	t.Helper()
	before := c.payload
	data := []byte(c.payload)
	got := p.Parse(data, b)
	if got != c.reason {
		t.Errorf("%s: %.200q: %v, want %v", c.name, c.payload, got, c.reason)
		return
	}
	shown := render(b)
	if c.want != "" && shown != c.want {
		t.Errorf("%s: %.200q\n got %s\nwant %s", c.name, c.payload, shown, c.want)
	}
	if reason, want := referenceParse(data); reason != got || shown != want {
		t.Errorf("%s: %.200q\n      got %v %s\nreference %v %s", c.name, c.payload, got, shown, reason, want)
	}
	if string(data) != before {
		t.Errorf("%s: the payload was written to", c.name)
	}
}

// Every byte sequence that may stand in a string is checked wherever a string may stand.
func TestParseStrings(t *testing.T) {
	valid := []struct{ raw, want string }{
		{`\"\\\/\b\f\n\r\t`, "\"\\/\b\f\n\r\t"}, {`\u00e9`, "é"}, {`\u00E9`, "é"}, {`\ud83d\ude00`, "😀"}, {`\uD83D\uDE00`, "😀"},
		{`\u0000`, "\x00"}, {`\uffff\ufffd`, "\uffff\ufffd"}, {`\udbff\udfff`, "\U0010ffff"}, {"é😀\u007f", "é😀\u007f"},
		{"\xed\x9f\xbf\xee\x80\x80", "\ud7ff\ue000"}, {"12345678é12345678", "12345678é12345678"}, {`1234567\n89`, "1234567\n89"},
		{"\U0010ffff", "\U0010ffff"}, {"", ""}, {`a\u0062c\nd`, "abc\nd"}, {"'", "'"}, {"!#[]", "!#[]"}, {`\\u`, `\u`},
	}
	invalid := []string{
		"\x00", "\n", "\t", "\x1f", "1234567\x01", "12345678\r", "\x80", "\xc0\x80", "\xc3", "\xc3(", "\xe2\x82", "\xed\xa0\x80", "\xed\xbf\xbf",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xff", "é\xff", "\xffé", `\x`, `\u`, `\u12`, `\u123`, `\u123g`, `\u 123`, `\U0041`, `\'`, `\0`, `\a`,
		`\ud800`, `\udc00`, `\ud800x`, `\ud800\n`, `\ud800\ud800`, `\udc00\ud800`, `\ud800\u0041`, `\ud83d\\ude00`, `\ud83d\ude0`, `\ud83d \ude00`, `\ufffd\udfff`, "\\\xc3\xa9", "\\\n",
		"é\\n\xff", "\\n\xc3",
	}
	places := []string{`"point":"%s"`, `"other":"%s"`, `"%s":1`, `"other":{"%s":1}`, `"other":{"k":["%s"]}`, `"attrs":{"%s":"%s"}`, `"attrs":{"a":{"%s":"%s"}}`, `"experiments":{"%s":"v"}`}
	var p Parser
	var b Beacon
	for _, place := range places {
		for shift := range 9 { // each alignment to the words of the scan
			for _, s := range valid {
				check(t, &p, &b, example{"valid", with(strings.ReplaceAll(place, "%s", x(shift)+s.raw)), None, ""})
				if place == places[0] && string(b.Point) != x(shift)+s.want {
					t.Errorf("%q: got %q, want %q", s.raw, b.Point, x(shift)+s.want)
				}
			}
			for _, s := range invalid {
				check(t, &p, &b, example{"invalid", with(strings.ReplaceAll(place, "%s", x(shift)+s)), Malformed, ""})
			}
		}
	}
	for _, s := range valid { // an end of the payload right behind
		check(t, &p, &b, example{"cut", `{"a":"` + s.raw, Malformed, ""})
		check(t, &p, &b, example{"cut", `{"a":{"b":"` + s.raw, Malformed, ""})
		check(t, &p, &b, example{"cut", `{"` + s.raw, Malformed, ""})
	}
}

func TestParseNumbersAndLiterals(t *testing.T) {
	valid := []string{"0", "-0", "1", "10", "-1", "0.0", "1.5", "-0.50", "1e5", "1E+5", "1e-5", "0e0", "1.25e-007", "1e00", "123456789012345678901234567890", "0.12345678901234567890", "true", "false", "null"}
	invalid := []string{"", "-", "+1", "01", "-01", "00", "1.", ".5", "-.5", "1.e1", "1e", "1e+", "1e+-1", "1e1.5", "0x10", "1_000", "1 0", "--1", "12-3", "1.2-3", "1.2.3", "NaN", "Infinity", "-Infinity", "nan",
		"tru", "True", "truee", "fals", "falsf", "nul", "nulll", "undefined", "t", "f", "n", "1a", "١", "1\x00", "0123456789", "1234567a", "12345678.", "12345678e", "]", "}", "[}", "{]", "[1}", `{"a":1]`, "[1,]", "[,1]", "[1 2]", `{"a"}`, `{"a":}`, `{"a":1,}`, `{1:1}`, `{"a" 1}`, `{a:1}`, "[", "{", `{"a":1`, "[[]", ":", ","}
	var p Parser
	var b Beacon
	for _, place := range []string{`"other":%s`, `"other":[%s]`, `"other":[1,%s]`, `"other":[%s,1]`, `"other":{"k":%s}`, `"other":{"k":%s,"l":1}`, `"attrs":{"k":%s}`, `"attrs":{"k":%s,"l":1}`, `"attrs":{"k":[ %s ]}`, `"other":%s ,"k":1`} {
		for _, s := range valid {
			check(t, &p, &b, example{place, with(fmt.Sprintf(place, s)), None, ""})
		}
		for _, s := range invalid {
			if s == "" && (place == `"other":[%s]` || place == `"attrs":{"k":[ %s ]}`) {
				continue // an empty array is right
			}
			check(t, &p, &b, example{place, with(fmt.Sprintf(place, s)), Malformed, ""})
		}
	}
}

func TestParseDepth(t *testing.T) {
	var p Parser
	var b Beacon
	for _, c := range []struct {
		place  string
		levels int // containers around the place, the beacon's own included
	}{{`"other":%s`, 1}, {`"attrs":{"k":%s}`, 2}, {`"other":[1,%s]`, 2}, {`"attrs":{"k":{"l":%s}}`, 3}, {`"other":[[],[[]],%s]`, 2}} {
		for _, pair := range []string{"[]", "{}"} {
			for levels := 62; levels <= 66; levels++ {
				nest := func(n int) string {
					if pair == "[]" {
						return strings.Repeat("[", n) + strings.Repeat("]", n)
					}
					return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1)
				}
				want := None
				if levels > 64 {
					want = Malformed
				}
				check(t, &p, &b, example{"depth", with(fmt.Sprintf(c.place, nest(levels-c.levels))), want, ""})
			}
		}
	}
	for _, open := range []string{"[", `{"":`} {
		n := 60_000 / len(open)
		for _, payload := range []string{with(`"o":` + strings.Repeat(open, n)), strings.Repeat(open, n), with(`"attrs":` + strings.Repeat(open, n)), with(`"values":{"a":` + strings.Repeat(open, n))} {
			if got := p.Parse([]byte(payload), &b); got != Malformed {
				t.Errorf("%d levels: %v", n, got)
			}
		}
	}
	n := 30_000
	if got := p.Parse([]byte(with(`"o":`+strings.Repeat("[", n)+strings.Repeat("]", n))), &b); got != Malformed {
		t.Errorf("%d levels, closed: %v", n, got)
	}
}

func TestParseManyMembers(t *testing.T) {
	var p Parser
	var b Beacon
	wrongs := strings.Repeat(`"a":"",`, 9_000)
	for _, c := range []example{
		{"mended", with(`"values":{` + wrongs + `"a":1}`), None, ""},
		{"not mended", with(`"values":{"b":"",` + wrongs + `"a":1}`), Malformed, ""},
		{"spoilt", with(`"values":{` + strings.Repeat(`"a":1,`, 9_000) + `"a":""}`), Malformed, ""},
		{"fields", with(strings.Repeat(`"id":1,"values":2,`, 3_000) + `"id":"a","values":null`), None, ""},
		{"all mended", string(repeated(3400)), None, ""},
	} {
		check(t, &p, &b, c)
	}
	// The best of five, as the machine may be busy. Work that grows with the square would take hundreds of times
	// as long as the plain payload, the map takes about ten times.
	best := func(payload []byte) time.Duration {
		least := time.Duration(1 << 62)
		for range 5 {
			start := time.Now()
			p.Parse(payload, &b)
			least = min(least, time.Since(start))
		}
		return least
	}
	mended, plain := best(repeated(3400)), best([]byte(strings.ReplaceAll(string(repeated(3400)), `""`, "10")))
	if mended > 100*plain {
		t.Errorf("3400 mended members take %v, without an error %v", mended, plain)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	payloads := append(traffic(20, 0), traffic(2, 11_500)...)
	payloads = append(payloads, []byte(with(`"point":"\u00e9","attrs":{"k\n":"\ud83d\ude00","t":"Größe"},"ts":"2026-01-05T10:00:00.5+01:00"`)), []byte(`{"id":1}`), []byte(`{`))
	var p Parser
	var b Beacon
	for _, x := range payloads {
		p.Parse(x, &b)
	}
	if n := testing.AllocsPerRun(20, func() {
		for _, x := range payloads {
			p.Parse(x, &b)
		}
	}); n != 0 {
		t.Errorf("%v allocations in %d payloads", n, len(payloads))
	}
}

// The slices of one Beacon must not share room: appending to one may not write into another.
func TestParseSlicesAreCapped(t *testing.T) {
	var p Parser
	var b Beacon
	payload := with(`"point":"\u0041","device":"\u0042","experiments":{"\u0043":"\u0044"}`)
	if r := p.Parse([]byte(payload), &b); r != None {
		t.Fatal(r)
	}
	before := render(&b)
	for _, s := range [][]byte{b.ID, b.Tenant, b.Session, b.Point, b.Device, b.Experiments[0].Key, b.Experiments[0].Text} {
		_ = append(s, "!!!!"...)
	}
	if after := render(&b); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func TestReasons(t *testing.T) {
	want := []string{"too_large", "malformed", "bad_id", "bad_session", "bad_visitor", "unknown_tenant", "bad_ts", "too_old", "bad_value"}
	rs := Reasons()
	if len(rs) != len(want) {
		t.Fatalf("%d reasons, want %d", len(rs), len(want))
	}
	for i, r := range rs {
		if r.String() != want[i] || int(r) != i+1 {
			t.Errorf("reason %d is %d %v, want %s", i+1, r, r, want[i])
		}
	}
}

func TestLast(t *testing.T) {
	ms := []Member{{Key: []byte("a"), Text: []byte("1"), Kind: Number}, {Key: []byte("b"), Text: []byte("2"), Kind: Number}, {Key: []byte("a"), Text: []byte("3"), Kind: Number}, {Key: []byte("b")}}
	if m, ok := Last(ms, "a"); !ok || string(m.Text) != "3" {
		t.Errorf("a: %q %v", m.Text, ok)
	}
	for _, key := range []string{"b", "c", ""} {
		if _, ok := Last(ms, key); ok {
			t.Errorf("%s is there", key)
		}
	}
}
