package beacon

import (
	"math/rand/v2"
	"testing"
)

// agree fails unless Parse and the reference say the same of a payload.
func agree(t *testing.T, p *Parser, b *Beacon, data []byte) {
	t.Helper()
	reason := p.Parse(data, b)
	shown := render(b)
	if want, wantShown := referenceParse(data); reason != want || shown != wantShown {
		t.Fatalf("%q\n      got %v %s\nreference %v %s", data, reason, shown, want, wantShown)
	}
}

func seeds() [][]byte {
	all := append(traffic(10, 0), traffic(1, 300)...)
	for _, c := range examples {
		if len(c.payload) < 2_000 {
			all = append(all, []byte(c.payload))
		}
	}
	for _, ts := range []string{`"2026-01-05T12:00:59.9999999+02:00"`, `-9223372036854775808`, `18446744073709551616`} {
		all = append(all, []byte(with(`"ts":`+ts)))
	}
	return append(all, []byte(with(`"a":{"b":[1,-2.5e+3,"\ud83d\ude00é",{"c":[[],{}]},null,true,false]}`)))
}

// Mutants of good and bad payloads: bytes and fragments put in, taken out, doubled and exchanged.
func TestParseMutants(t *testing.T) {
	const seed = 5
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	fragments := []string{`"`, `\`, `{`, `}`, `[`, `]`, `,`, `:`, `0`, `1`, `-`, `.`, `e`, ` `, "\n", "\x00", "\x80", "\xc3", "é", `\u`, `\ud800`, `\udc00`, `null`, `true`, `1e999`, `""`, `{}`, `[]`, `"id":`, `"ts":1,`, `"values":{"v":1},`, `"v":"",`, `"attrs":{},`, `"\u0069d":null,`}
	corpus := seeds()
	var p Parser
	var b Beacon
	for range 30_000 {
		data := append([]byte(nil), corpus[r.IntN(len(corpus))]...)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(data) + 1)
			end := min(len(data), at+r.IntN(12))
			var put []byte
			switch r.IntN(5) {
			case 0:
				put = []byte(fragments[r.IntN(len(fragments))])
				end = at
			case 1:
				put = []byte(fragments[r.IntN(len(fragments))])
			case 2: // take out
			case 3:
				put = append(append(put, data[at:end]...), data[at:end]...)
			case 4:
				from := r.IntN(len(data) + 1)
				put = append(put, data[from:min(len(data), from+r.IntN(40))]...)
			}
			data = append(append(append([]byte(nil), data[:at]...), put...), data[end:]...)
		}
		agree(t, &p, &b, data)
	}
}

// Each proper beginning of a payload is malformed, and read without a step beyond its end.
func TestParseCut(t *testing.T) {
	var p Parser
	var b Beacon
	for _, whole := range seeds() {
		for n := range whole {
			agree(t, &p, &b, whole[:n:n])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Parser
		var b Beacon
		agree(t, &p, &b, data)
	})
}
