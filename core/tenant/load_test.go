package tenant

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/bad_config/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad configs: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		before, _, ok := strings.Cut(text, "# here")
		if !ok || !strings.HasPrefix(text, "# wrong: ") {
			t.Errorf("%s: lacks `# wrong: ` or `# here`", file)
			continue
		}
		want := 1 + strings.Count(before, "\n")
		_, err = Load(file, data)
		var e *LoadError
		if !errors.As(err, &e) || e.Line != want || e.File != file {
			t.Errorf("%s: got %v, want an error at line %d", file, err, want)
		}
	}
}

// TestMessages holds the words that lead out of an error.
func TestMessages(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{"tenant: shop\nvisitgap: 30m", "f.yaml:2: the config: unknown key `visitgap`: did you mean visit_gap?; allowed are tenant, from,"},
		{"", "f.yaml:1: the file is empty; it needs at least `tenant`"},
		{"# nothing\n", "f.yaml:1: the file is empty"},
		{"---\n", "f.yaml:1: the file is empty"},
		{"~\n", "f.yaml:1: the file is empty"},
		{"tenant: shop\npoints: {h: {kind: pages}}", "f.yaml:2: bad kind \"pages\": did you mean page?; allowed are page, event"},
		{"tenant: shop\ntags: {login: [true]}", "f.yaml:2: an allowed tag value is a string: write \"true\" in quotes instead of the boolean true"},
		{"tenant: shop\npoints: {home: {}}\ncross:\n- [home, hom]", "f.yaml:4: cross names \"hom\", which is no point and no value of one: did you mean home?"},
		{"tenant: shop\nvisit_gap: 13h", "f.yaml:2: visit_gap 13h is above session_ttl, whose default is 12h; set session_ttl too"},
		{"tenant: shop\nmax_age: 1m", "f.yaml:2: max_age 1m is below lateness, whose default is 10m; set lateness too"},
		{"tenant: shop\nx: \xff", "f.yaml:2: not valid UTF-8"},
		{"tenant: shop\nx: \x01", "f.yaml:2: not valid YAML: control characters"},
		{"tenant: shop\npoints: {a: {}\nx: 1\n", "f.yaml:2: not valid YAML: did not find expected ',' or '}'"},
		{"tenant: shop\npoints:\n  a: {}\n b: {}\n", "f.yaml:4: not valid YAML: did not find expected key"},
		{"tenant: shop\nexperiments:\n  x:\n    variations: [a]\n    qualify: ['device !=']",
			"f.yaml:5: experiment x: condition, column 10: the condition ends too early"},
	} {
		_, err := Load("f.yaml", []byte(tt.config))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q:\n got %v\nwant %s", tt.config, err, tt.want)
		}
	}
}

// full is the example of SPEC 10.
const full = `tenant: uswm
retention: 30d                  # these seven show their defaults
visit_gap: 30m
session_ttl: 12h
lateness: 10m
max_age: 48h
max_skew: 5m
max_events_per_minute: 600
tags:
  login: ["true", "false"]
  device: [desktop, mobile, tablet]
points:
  home_page: {kind: page}       # kind: page | event (default)
  item_page: {kind: page, stats: true}
  add_to_cart: {}
  order:
    values:
      revenue: {decimals: 2, cap: 500, histogram: true}
      units: {decimals: 0}
cross:
  - [order.revenue, item_page]
experiments:
  btn_color:
    variations: [control, red]
    weights: [50, 50]
    start: 2026-01-01T00:00:00Z
    end: 2026-02-01T00:00:00Z
    qualify:
      - point == "item_page" and device != "mobile"
      - point == "add_to_cart"
`

func defaults(tenant string) Config {
	const minute = 60_000
	return Config{Tenant: tenant, Retention: 30 * 24 * 60 * minute, VisitGap: 30 * minute, SessionTTL: 12 * 60 * minute,
		Lateness: 10 * minute, MaxAge: 48 * 60 * minute, MaxSkew: 5 * minute, MaxEventsPerMinute: 600}
}

func TestLoad(t *testing.T) {
	want := defaults("uswm")
	want.Tags = []Tag{{"device", []string{"desktop", "mobile", "tablet"}}, {"login", []string{"true", "false"}}}
	want.Points = []Point{
		{Name: "home_page", Page: true},
		{Name: "item_page", Page: true, Stats: true},
		{Name: "add_to_cart"},
		{Name: "order", Values: []Value{{"revenue", 2, 50_000, true}, {"units", 0, 0, false}}},
	}
	want.Cross = []Pair{{"order.revenue", "item_page"}}
	want.Experiments = []Experiment{{
		Name: "btn_color", Variations: []string{"control", "red"}, Control: "control", Weights: []float64{50, 50},
		Start: 1767225600000, End: 1769904000000,
		Qualify: []string{`point == "item_page" and device != "mobile"`, `point == "add_to_cart"`},
	}}
	got, err := Load("full.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	stripped, err := Load("full.yaml", []byte("tenant: uswm\n"+full[strings.Index(full, "tags:"):]))
	if err != nil || !reflect.DeepEqual(*stripped, want) {
		t.Errorf("the seven do not show their defaults: %v %+v", err, stripped)
	}
}

func TestLoadForms(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		change       func(c *Config)
	}{
		{"only a tenant", "tenant: shop", func(*Config) {}},
		{"nothing in sections", "tenant: shop\ntags:\npoints:\ncross:\nexperiments:\n", func(*Config) {}},
		{"a document mark and CRLF", "---\r\ntenant: shop\r\nvisit_gap: 90s\r\n", func(c *Config) { c.VisitGap = 90_000 }},
		{"JSON is YAML", `{"tenant": "shop", "max_events_per_minute": 1}`, func(c *Config) { c.MaxEventsPerMinute = 1 }},
		{"equal durations", "tenant: shop\nvisit_gap: 24h\nsession_ttl: 1d\nlateness: 600s\nmax_age: 10m", func(c *Config) {
			c.VisitGap, c.SessionTTL, c.MaxAge = 86_400_000, 86_400_000, 600_000
		}},
		{"empty points", "tenant: shop\npoints: {home: , item: {}, cart: ~, order: {values: {v: }}}", func(c *Config) {
			c.Points = []Point{{Name: "home"}, {Name: "item"}, {Name: "cart"}, {Name: "order", Values: []Value{{Name: "v", Decimals: 2}}}}
		}},
		{"caps", "tenant: shop\npoints: {p: {values: {a: {cap: 40000}, b: {cap: 0.01}, c: {decimals: 9, cap: 0.004}, d: {cap: 1.10}, e: {decimals: 0, cap: 4000000}}}}", func(c *Config) {
			c.Points = []Point{{Name: "p", Values: []Value{{"a", 2, 4_000_000, false}, {"b", 2, 1, false}, {"c", 9, 4_000_000, false}, {"d", 2, 110, false}, {"e", 0, 4_000_000, false}}}}
		}},
		{"pairs", "tenant: shop\ncross: [[a, a], [a, b.v], [b, b.v], [a, b]]\npoints: {a: , b: {values: {v: {cap: 1}}}}", func(c *Config) {
			c.Points = []Point{{Name: "a"}, {Name: "b", Values: []Value{{"v", 2, 100, false}}}}
			c.Cross = []Pair{{"a", "a"}, {"a", "b.v"}, {"b", "b.v"}, {"a", "b"}}
		}},
		{"names", "tenant: shop\npoints: {h: , h1x: , H1: , \"404\": , a-b_C: , vis: }", func(c *Config) {
			for _, n := range []string{"h", "h1x", "H1", "404", "a-b_C", "vis"} {
				c.Points = append(c.Points, Point{Name: n})
			}
		}},
		{"times and weights", "tenant: shop\nfrom: \"2026-01-01T01:30:00.000+01:30\"\nexperiments: {visit: {variations: [a, b, c], control: c, weights: [0, 1e1, 2.5], start: 2025-12-31T23:59:00Z}}", func(c *Config) {
			c.HasFrom, c.From = true, 1767225600000
			c.Experiments = []Experiment{{Name: "visit", Variations: []string{"a", "b", "c"}, Control: "c",
				Weights: []float64{0, 10, 2.5}, Start: 1767225600000 - 60_000, End: NoEnd}}
		}},
		{"tags", "tenant: shop\ntags: {z: [\"1\", \"2.50\", -.-], a: []}", func(c *Config) {
			c.Tags = []Tag{{"a", nil}, {"z", []string{"1", "2.50", "-.-"}}}
		}},
	} {
		want := defaults("shop")
		tt.change(&want)
		got, err := Load(tt.name, []byte(tt.config))
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", tt.name, err, got, want)
		}
	}
}

func shared(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path = filepath.Join(dir, "..", "shared", path)
			if _, err := os.Stat(path); err != nil {
				t.Skipf("%s is not there", path)
			}
			return path
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

func TestSharedConfigsLoad(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(shared(t, "cases"), "*", "config.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range append(files, shared(t, "bench/config.yaml")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file, data); err != nil {
			t.Error(err)
		}
	}
}

func TestSharedConfigs(t *testing.T) {
	shop := func(change func(c *Config)) Config {
		c := defaults("shop")
		change(&c)
		return c
	}
	for name, want := range map[string]Config{
		"active_interval": shop(func(c *Config) {
			c.Tags = []Tag{{"device", []string{"desktop", "mobile"}}}
			c.Points = []Point{{Name: "home", Page: true}, {Name: "item", Page: true}, {Name: "cart"}}
			c.Experiments = []Experiment{{Name: "x", Variations: []string{"control", "red"}, Control: "control",
				Weights: []float64{1, 1}, Start: 1767607800000, End: 1767608400000}}
		}),
		"cross": shop(func(c *Config) {
			c.Points = []Point{{Name: "item"}, {Name: "cart"}, {Name: "order", Values: []Value{{"revenue", 2, 2000, false}}}}
			c.Cross = []Pair{{"order.revenue", "item"}, {"item", "cart"}}
		}),
		"visit_gap_short": shop(func(c *Config) {
			c.VisitGap = 90_000
			c.Points = []Point{{Name: "home", Page: true}, {Name: "item", Page: true}, {Name: "cart"}}
		}),
	} {
		file := shared(t, "cases/"+name+"/config.yaml")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Load(file, data); err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, want)
		}
	}
}
