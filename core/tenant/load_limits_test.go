package tenant

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// times writes s for 1 to n, the number in place of %d.
func times(n int, s string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, s, i+1)
	}
	return b.String()
}

func TestLimits(t *testing.T) {
	points := func(n int) string { return "tenant: t\npoints:\n" + times(n, "  p%d: {}\n") }
	values := func(n int) string { return "tenant: t\npoints:\n  p:\n    values:\n" + times(n, "      v%d: {}\n") }
	experiments := func(n int) string { return "tenant: t\nexperiments:\n" + times(n, "  x%d: {variations: [a]}\n") }
	variations := func(n int) string {
		return "tenant: t\nexperiments:\n  x:\n    variations: [" + times(n, "a%d, ") + "]\n"
	}
	conditions := func(n int) string { return variations(1) + "    qualify: [" + times(n, "point == \"%d\", ") + "]\n" }
	// One tag of n allowed values makes n + 2 tag sets.
	tag := func(n int) string { return "tenant: t\ntags:\n  a: [" + times(n, "v%d, ") + "]\n" }
	for _, tt := range []struct {
		name   string
		config string
		line   int // 0: it loads
	}{
		{"points", points(500), 0},
		{"points", points(501), 503},
		{"values", values(40), 0},
		{"values", values(41), 45},
		{"experiments", experiments(500), 0},
		{"experiments", experiments(501), 503},
		{"variations", variations(40), 0},
		{"variations", variations(41), 4},
		{"conditions", conditions(100), 0},
		{"conditions", conditions(101), 5},
		{"tag sets", tag(998), 0},
		{"tag sets", tag(999), 3},
		{"tag sets of several tags", tag(498) + "  b: []\n", 0},
		{"tag sets of several tags", tag(498) + "  b: [x]\n", 4},
		{"many tags", "tenant: t\ntags:\n" + times(100, "  t%d: [a, b, c, d, e, f, g, h]\n"), 6},
		{"tag sets times variations", tag(248) + variations(40)[len("tenant: t\n"):], 0},
		{"tag sets times variations", tag(249) + variations(40)[len("tenant: t\n"):], 6},
		{"tag sets times variations, tags last", variations(40) + tag(249)[len("tenant: t\n"):], 4},
		{"bytes", "tenant: t\n" + strings.Repeat("#", maxFileBytes-10), 0},
		{"bytes", "tenant: t\n" + strings.Repeat("#", maxFileBytes-9), 1},
		{"depth", "tenant: t\npoints: " + strings.Repeat("[", 100_000), 2},
	} {
		_, err := Load("f", []byte(tt.config))
		var e *LoadError
		if (err == nil) != (tt.line == 0) || err != nil && (!errors.As(err, &e) || e.Line != tt.line) {
			t.Errorf("%s: got %v, want an error at line %d", tt.name, err, tt.line)
		}
	}
}

func TestCrossLimit(t *testing.T) {
	var b strings.Builder
	b.WriteString("tenant: t\npoints:\n" + times(50, "  p%d:\n") + "cross:\n")
	n := 0
	for i := 1; i <= 50; i++ {
		for j := 1; j < i && n <= maxCross; j++ {
			fmt.Fprintf(&b, "- [p%d, p%d]\n", i, j)
			n++
		}
	}
	_, err := Load("f", []byte(b.String()))
	var e *LoadError
	if !errors.As(err, &e) || e.Line != 2+50+1+maxCross+1 {
		t.Errorf("got %v", err)
	}
}

func TestLoadChain(t *testing.T) {
	file := func(name, rest string) File { return File{name, []byte("tenant: shop\n" + rest)} }
	a := file("a", "points: {p: {values: {v: {decimals: 3}, w: }}}\n")
	b := file("b", "from: 2026-01-01T00:00:00Z\n")
	c := file("c", "from: 2026-01-01T00:01:00Z\npoints:\n  p:\n    values:\n      w:\n      v: {decimals: 3}\n")
	for _, tt := range []struct {
		name  string
		files []File
		order string // of from, or the error
	}{
		{"one", []File{a}, "a"},
		{"one with from", []File{b}, "b"},
		{"three", []File{c, a, b}, "abc"},
		{"two with from", []File{c, b}, "bc"},
		{"none", nil, "no config file; a tenant needs at least one"},
		{"bad", []File{a, file("x", "from: now\n")}, "x:2: bad from: "},
		{"two without from", []File{b, a, file("x", "")}, "x:1: no `from`, and a has none either"},
		{"equal from", []File{a, b, c, file("x", "\nfrom: \"2026-01-01T01:00:00+01:00\"\n")}, "x:3: the same `from` as b"},
		{"tenants", []File{a, {"x", []byte("# x\ntenant: other\n")}}, "x:2: tenant other, but a is of tenant shop"},
		{"decimals", []File{c, file("x", "points: {p: {values: {v: }}}\n")}, "c:7: p.v has 3 decimals, but 2 in x"},
		{"decimals by default", []File{a, file("x", "from: 2026-01-01T00:00:00Z\npoints:\n  p:\n    values:\n      v: {cap: 1}\n")}, "x:6: p.v has 2 decimals, but 3 in a"},
		{"decimals after a pause", []File{file("x", "from: 2026-01-01T00:05:00Z\npoints: {p: {values: {w: {decimals: 0}}}}\n"), b, a}, "x:3: p.w has 0 decimals, but 2 in a"},
	} {
		configs, err := LoadChain(tt.files)
		if err != nil {
			if !strings.HasPrefix(err.Error(), tt.order) {
				t.Errorf("%s: got %v, want %s", tt.name, err, tt.order)
			}
			continue
		}
		got := ""
		for _, cfg := range configs {
			switch {
			case !cfg.HasFrom:
				got += "a"
			case cfg.From == 1767225600000:
				got += "b"
			default:
				got += "c"
			}
		}
		if got != tt.order {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.order)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("tenant: a\nfrom: 2026-01-01T00:00:00Z\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Load("f", data)
		if err != nil {
			var e *LoadError
			// YAML 1.1 has five line breaks, and its parser counts all of them.
			lines := 1
			for _, b := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
				lines += strings.Count(string(data), b)
			}
			if !errors.As(err, &e) || e.Line < 1 || e.Line > lines || e.Msg == "" {
				t.Fatalf("bad error %#v", err)
			}
			return
		}
		if !isName(cfg.Tenant, "") || cfg.VisitGap <= 0 || cfg.VisitGap > cfg.SessionTTL || cfg.Lateness > cfg.MaxAge ||
			cfg.MaxEventsPerMinute < 1 || cfg.From%60_000 != 0 {
			t.Fatalf("a bad config has been loaded: %+v", cfg)
		}
		for _, x := range cfg.Experiments {
			if len(x.Weights) != len(x.Variations) || x.Control == "" || x.Start >= x.End {
				t.Fatalf("a bad experiment has been loaded: %+v", x)
			}
		}
		for _, p := range cfg.Points {
			for _, v := range p.Values {
				if v.Decimals < 0 || v.Decimals > maxDecimals || v.Cap < 0 || v.Cap > maxScaledCap {
					t.Fatalf("a bad value has been loaded: %+v", v)
				}
			}
		}
	})
}
