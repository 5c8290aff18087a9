package worlds

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	second = 1000
	minute = 60 * second
	hour   = 60 * minute
	base   = 1_767_607_200_000 // 2026-01-05T10:00:00Z, ms
)

// config is a revision as it is drawn. Durations and times are ms, 0 an absent time.
type config struct {
	from                          int64
	gap, ttl, lateness, age, skew int64
	perMinute                     int
	tags                          []tag
	points                        []point
	cross                         [][2]string
	experiments                   []experiment
}

type tag struct {
	name   string
	values []string
}

type point struct {
	name        string
	page, stats bool
	values      []value
}

type value struct {
	name      string
	decimals  int
	limit     string // cap, "" for none
	histogram bool
}

type experiment struct {
	name       string
	variations []string
	start, end int64
	qualify    []string
}

func (c *config) clone() *config {
	d := *c
	d.tags, d.points, d.cross, d.experiments = slices.Clone(c.tags), slices.Clone(c.points), slices.Clone(c.cross), slices.Clone(c.experiments)
	for i := range d.tags {
		d.tags[i].values = slices.Clone(d.tags[i].values)
	}
	for i := range d.points {
		d.points[i].values = slices.Clone(d.points[i].values)
	}
	for i := range d.experiments {
		d.experiments[i].variations = slices.Clone(d.experiments[i].variations)
	}
	return &d
}

// yaml writes the revision with one definition a line, so that Shrink can leave out lines.
func (c *config) yaml() string {
	var b strings.Builder
	b.WriteString("tenant: t\n")
	if c.from != 0 {
		fmt.Fprintf(&b, "from: %s\n", stamp(c.from))
	}
	for _, d := range []struct {
		key string
		ms  int64
	}{{"visit_gap", c.gap}, {"session_ttl", c.ttl}, {"lateness", c.lateness}, {"max_age", c.age}, {"max_skew", c.skew}} {
		fmt.Fprintf(&b, "%s: %ds\n", d.key, d.ms/second)
	}
	fmt.Fprintf(&b, "max_events_per_minute: %d\n", c.perMinute)
	if len(c.tags) > 0 {
		b.WriteString("tags:\n")
	}
	for _, t := range c.tags {
		fmt.Fprintf(&b, "  %s: [%s]\n", t.name, quoted(t.values))
	}
	if len(c.points) > 0 {
		b.WriteString("points:\n")
	}
	for _, p := range c.points {
		kind := "event"
		if p.page {
			kind = "page"
		}
		fmt.Fprintf(&b, "  %q: {kind: %s, stats: %t", p.name, kind, p.stats)
		if len(p.values) > 0 {
			b.WriteString(", values: {")
			for i, v := range p.values {
				if i > 0 {
					b.WriteString(", ")
				}
				fmt.Fprintf(&b, "%s: {decimals: %d, histogram: %t", v.name, v.decimals, v.histogram)
				if v.limit != "" {
					fmt.Fprintf(&b, ", cap: %s", v.limit)
				}
				b.WriteString("}")
			}
			b.WriteString("}")
		}
		b.WriteString("}\n")
	}
	if len(c.cross) > 0 {
		b.WriteString("cross:\n")
	}
	for _, pair := range c.cross {
		fmt.Fprintf(&b, "  - [%q, %q]\n", pair[0], pair[1])
	}
	if len(c.experiments) > 0 {
		b.WriteString("experiments:\n")
	}
	for _, x := range c.experiments {
		fmt.Fprintf(&b, "  %s: {variations: [%s]", x.name, quoted(x.variations))
		if x.start != 0 {
			fmt.Fprintf(&b, ", start: %s", stamp(x.start))
		}
		if x.end != 0 {
			fmt.Fprintf(&b, ", end: %s", stamp(x.end))
		}
		if len(x.qualify) > 0 {
			fmt.Fprintf(&b, ", qualify: ['%s']", strings.Join(x.qualify, "', '"))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func quoted(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, `"`+n+`"`)
	}
	return strings.Join(out, ", ")
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// What configs and beacons draw their names from.
var (
	pointNames     = []string{"home", "item", "order", "cart", "p-1", "0"}
	variationNames = []string{"control", "red", "blue", "9"}
	conditions     = []string{
		`point == "item"`, `point == "home"`, `point == "order" and values.rev > 1`, `point == "item" and device != "mobile"`,
		`visitor == nil`, `visitor != nil`, `login == true`, `not (point == "home")`, `point in ["home", "order"]`, `point startsWith "o"`,
		`values.rev >= 0.005 or values.n < 0`, `attrs.k == 1`, `attrs["k"] == "a"`, `point == nil`, `device == "mobile" || login == false`,
		`point != nil`,
	}
)

// revisions draws the chain. A later revision is one of the former two with a few changes, so that what one drops the
// next may list again.
func (g *generator) revisions() {
	g.begin = base + pick[int64](g, 0, 30*second, 13*hour+55*minute)
	g.span = pick[int64](g, 10*minute, hour, 3*hour, 24*hour)
	g.decimals = map[string]int{}
	n := 1
	if g.chance(30) {
		n = 2 + g.IntN(3)
		if g.narrow = g.chance(70); g.narrow {
			g.span = pick[int64](g, 10*minute, 20*minute)
		}
	}
	first := g.first()
	if g.chance(15) {
		first.from = g.edge()
	}
	g.configs = []*config{first}
	from := max(first.from, g.begin-g.begin%minute)
	for i := 1; i < n; i++ {
		old, changes := g.configs[i-1], 1+g.IntN(4)
		if i > 1 && g.chance(50) {
			old, changes = g.configs[i-2], g.IntN(2)
		}
		c := old.clone()
		from += minute * (1 + g.Int64N(max(1, g.span/minute/int64(n))))
		c.from = from
		for range changes {
			g.change(c)
		}
		c.tidy()
		g.configs = append(g.configs, c)
	}
	for _, c := range g.configs {
		g.edges = append(g.edges, c.from)
		for _, x := range c.experiments {
			g.edges = append(g.edges, x.start, x.end)
		}
	}
	g.edges = slices.DeleteFunc(g.edges, func(t int64) bool { return t == 0 })
}

// edge draws a full minute of the traffic's time.
func (g *generator) edge() int64 {
	return g.begin - g.begin%minute + minute*g.Int64N(g.span/minute)
}

func (g *generator) first() *config {
	c := &config{perMinute: pick(g, 1, 2, 3, 600, 600)}
	g.session(c)
	g.limits(c)
	if g.narrow {
		return g.firstNarrow(c)
	}
	c.tags = g.tags()
	for _, name := range some(g, 2, pointNames...) {
		c.points = append(c.points, g.point(name))
	}
	for range g.IntN(4) {
		g.addPair(c)
	}
	for _, name := range some(g, 0, "x", "y", "z") {
		c.experiments = append(c.experiments, g.experiment(name))
	}
	c.tidy()
	return c
}

// firstNarrow draws few points and experiments, which are active and hold a session for long.
func (g *generator) firstNarrow(c *config) *config {
	c.perMinute, c.gap, c.ttl = 600, pick[int64](g, 5*minute, 30*minute), 12*hour
	for _, name := range []string{"item", "order"} {
		c.points = append(c.points, g.point(name))
	}
	c.points[0].stats = true
	for range 3 {
		g.addPair(c)
	}
	x := g.experiment("x")
	x.start = 0
	c.experiments = []experiment{x}
	c.tidy()
	return c
}

func (g *generator) session(c *config) {
	c.gap = pick[int64](g, 90*second, 5*minute, 30*minute)
	c.ttl = max(c.gap, pick(g, c.gap, hour, 12*hour))
}

func (g *generator) limits(c *config) {
	c.lateness = pick[int64](g, 10*second, minute, 10*minute)
	c.age = pick[int64](g, 10*minute, hour, 48*hour)
	c.skew = pick[int64](g, second, 5*minute)
}

func (g *generator) tags() []tag {
	return some(g, 0, tag{"device", some(g, 1, "desktop", "mobile")}, tag{"login", some(g, 1, "true", "false")}, tag{"k", some(g, 1, "1", "1.5", "a")})
}

func (g *generator) point(name string) point {
	p := point{name: name, page: g.chance(60), stats: g.chance(50)}
	for _, v := range some(g, 0, "rev", "n") {
		p.values = append(p.values, g.value(name, v))
	}
	return p
}

func (g *generator) value(point, name string) value {
	full := point + "." + name
	if _, known := g.decimals[full]; !known {
		g.decimals[full] = pick(g, 0, 1, 2, 2, 3)
	}
	v := value{name: name, decimals: g.decimals[full], histogram: g.chance(40)}
	if g.chance(70) {
		v.limit = pick(g, "1", "2", "5")
		if v.decimals > 0 && g.chance(30) {
			v.limit = "0.5"
		}
	}
	return v
}

func (g *generator) experiment(name string) experiment {
	x := experiment{name: name, variations: some(g, 1, variationNames...)}
	if g.chance(50) {
		x.start = g.edge()
	}
	if g.chance(50) {
		x.end = max(g.edge(), x.start+minute)
	}
	x.qualify = g.qualify()
	return x
}

func (g *generator) qualify() []string {
	var list []string
	for range pick(g, 0, 0, 1, 1, 2, 3) {
		list = append(list, pick(g, conditions...))
	}
	return list
}

// addPair adds a pair of what the revision has, if there is one that it does not have already.
func (g *generator) addPair(c *config) {
	sides := c.sides()
	if len(sides) == 0 {
		return
	}
	c.cross = append(c.cross, [2]string{pick(g, sides...), pick(g, sides...)})
}

// sides lists what may stand in a pair.
func (c *config) sides() []string {
	var sides []string
	for _, p := range c.points {
		sides = append(sides, p.name)
		for _, v := range p.values {
			if v.limit != "" {
				sides = append(sides, p.name+"."+v.name)
			}
		}
	}
	return sides
}

// tidy removes the pairs that the loader would refuse.
func (c *config) tidy() {
	sides := c.sides()
	var kept [][2]string
	for _, p := range c.cross {
		if slices.Contains(sides, p[0]) && slices.Contains(sides, p[1]) && !slices.Contains(kept, p) && !slices.Contains(kept, [2]string{p[1], p[0]}) {
			kept = append(kept, p)
		}
	}
	c.cross = kept
}
