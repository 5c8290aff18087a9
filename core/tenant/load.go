package tenant

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of one config. Those of SPEC 10 first; the others keep a hostile file from costing more than its size.
const (
	maxTagSets1     = 1_000  // product of the tags' values, none and other included
	maxTagSetsTimes = 10_000 // that, times the variations of one experiment
	maxVariations   = 40
	maxExperiments  = 500
	maxPoints       = 500

	maxValues     = 40  // of one point
	maxConditions = 100 // of one experiment
	maxCross      = 1_000
	maxFileBytes  = 1 << 20

	// A session that beacons at this rate for a whole day has a count whose square still fits an int64.
	maxEventsPerMinute = 1_000_000

	maxName      = 64
	maxDecimals  = 9
	maxScaledCap = 4_000_000
)

// LoadError says what is wrong in a config, where, and what is allowed. Line is 1-based.
type LoadError struct {
	File string
	Line int
	Msg  string
}

func (e *LoadError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg) }

// Load reads one revision of a tenant's config, strictly (SPEC 10): an unknown key, a wrong type, a bad value or a
// name used twice is an error, of type *LoadError. Of several errors it returns the first by line. file is named in
// errors only.
func Load(file string, data []byte) (*Config, error) {
	r, err := load(file, data)
	if err != nil {
		return nil, err
	}
	return r.cfg, nil
}

// revision is a loaded config with the lines that checks between revisions need.
type revision struct {
	file     string
	cfg      *Config
	tenant   int            // line
	from, to int            // line; 0: none
	decimals map[string]int // line by "point.value"
}

func load(file string, data []byte) (*revision, error) {
	l := &loader{revision: revision{file: file, cfg: &Config{}, decimals: map[string]int{}}}
	root, err := document(file, data)
	if err != nil {
		return nil, err
	}
	l.plain(root)
	l.config(root)
	if l.err != nil {
		return nil, l.err
	}
	return &l.revision, nil
}

// loader walks the YAML tree and keeps the first error by line. After an error it goes on with whatever it has.
type loader struct {
	revision
	err *LoadError
}

func (l *loader) fail(n *yaml.Node, format string, args ...any) {
	l.failLine(n.Line, format, args...)
}

// wanted says whether an error here would be the first by line, so that costly messages are made once only.
func (l *loader) wanted(line int) bool { return l.err == nil || line < l.err.Line }

func (l *loader) failLine(line int, format string, args ...any) {
	if l.wanted(line) {
		l.err = &LoadError{File: l.file, Line: line, Msg: fmt.Sprintf(format, args...)}
	}
}

func (l *loader) config(n *yaml.Node) {
	c := l.cfg
	keys := l.keys(n, "the config", "tenant", "from", "to", "retention", "visit_gap", "session_ttl", "lateness", "max_age",
		"max_skew", "max_events_per_minute", "tags", "points", "cross", "experiments")
	if t, ok := keys["tenant"]; ok {
		l.tenant = t.value.Line
		c.Tenant, _ = l.name(t.value, "a tenant")
	} else if n.Kind == yaml.MappingNode {
		l.fail(n, "no `tenant`: every config names its tenant, as in `tenant: shop`")
	}
	if f, ok := keys["from"]; ok {
		l.from = f.value.Line
		c.From, c.HasFrom = l.minute(f.value, "from")
	}
	if t, ok := keys["to"]; ok {
		l.to = t.value.Line
		c.To, c.HasTo = l.minute(t.value, "to")
		if _, ok := keys["from"]; !ok {
			l.fail(t.value, "`to` without `from`: a splice is in force from one to the other")
		} else if c.HasTo && c.HasFrom && c.To <= c.From {
			l.fail(t.value, "`to` is not after `from`")
		}
	}
	l.durations(keys)
	c.MaxEventsPerMinute = 600
	if m, ok := keys["max_events_per_minute"]; ok {
		c.MaxEventsPerMinute = l.integer(m.value, "max_events_per_minute", 1, maxEventsPerMinute)
	}
	sets := 1
	if t, ok := keys["tags"]; ok {
		sets = l.tags(t.value)
	}
	if p, ok := keys["points"]; ok {
		l.points(p.value)
	}
	if x, ok := keys["cross"]; ok {
		l.cross(x.value)
	}
	if x, ok := keys["experiments"]; ok {
		l.experiments(x.value, sets)
	}
}

func (l *loader) durations(keys map[string]pair) {
	c := l.cfg
	for _, d := range []struct {
		key  string
		to   *int64
		unit string
	}{
		{"retention", &c.Retention, "30d"},
		{"visit_gap", &c.VisitGap, "30m"},
		{"session_ttl", &c.SessionTTL, "12h"},
		{"lateness", &c.Lateness, "10m"},
		{"max_age", &c.MaxAge, "48h"},
		{"max_skew", &c.MaxSkew, "5m"},
	} {
		*d.to, _ = parseDuration(d.unit)
		if p, ok := keys[d.key]; ok {
			*d.to = l.duration(p.value, d.key)
		}
	}
	l.atMost(keys, "visit_gap", c.VisitGap, "session_ttl", c.SessionTTL)
	l.atMost(keys, "lateness", c.Lateness, "max_age", c.MaxAge)
}

// atMost refuses a duration above another, at the first if it is given: else its default is above what is given.
// A duration of 0 has been refused already.
func (l *loader) atMost(keys map[string]pair, a string, x int64, b string, y int64) {
	if x == 0 || y == 0 || x <= y {
		return
	}
	if p, ok := keys[a]; ok {
		if q, ok := keys[b]; ok {
			l.fail(p.value, "%s %s is above %s %s; at most that is allowed", a, p.value.Value, b, q.value.Value)
			return
		}
		l.fail(p.value, "%s %s is above %s, whose default is %dh; set %s too", a, p.value.Value, b, y/3_600_000, b)
		return
	}
	l.fail(keys[b].value, "%s %s is below %s, whose default is %dm; set %s too", b, keys[b].value.Value, a, x/60_000, a)
}

// tags returns the number of tag sets.
func (l *loader) tags(n *yaml.Node) int {
	sets := 1
	for _, p := range l.pairs(n, "tags", true) {
		t := Tag{}
		t.Name, _ = l.name(p.key, "a tag")
		seen := map[string]int{}
		for _, v := range l.items(p.value, "the allowed values of tag "+t.Name, "[desktop, mobile]") {
			text, ok := l.text(v, "an allowed tag value")
			switch {
			case !ok:
				continue
			case text == "none" || text == "other":
				l.fail(v, "tag %s lists %q: none (missing) and other (not listed) are there for every tag", t.Name, text)
			case !isName(text, "."):
				l.fail(v, "tag %s: bad value %q; allowed are 1 to %d of A-Z a-z 0-9 _ - .", t.Name, clip(text), maxName)
			case seen[text] > 0:
				l.fail(v, "tag %s lists %q twice; first on line %d", t.Name, text, seen[text])
			}
			seen[text] = v.Line
			t.Values = append(t.Values, text)
		}
		l.cfg.Tags = append(l.cfg.Tags, t)
		// The product of ever more tags must not overflow; beyond the limit it is not needed.
		if sets *= len(t.Values) + 2; sets > maxTagSets1 {
			l.fail(p.key, "tag %s makes %d tag sets or more (the product of the tags' numbers of values, none and other included); at most %d are allowed", t.Name, sets, maxTagSets1)
			sets = maxTagSets1
		}
	}
	slices.SortFunc(l.cfg.Tags, func(a, b Tag) int { return strings.Compare(a.Name, b.Name) })
	return sets
}

func (l *loader) points(n *yaml.Node) {
	for i, p := range l.pairs(n, "points", true) {
		if i == maxPoints {
			l.fail(p.key, "more than %d points", maxPoints)
		}
		pt := Point{}
		pt.Name = l.metricName(p.key, "a point")
		keys := l.keys(p.value, "point "+pt.Name, "kind", "stats", "values")
		if k, ok := keys["kind"]; ok {
			pt.Page = l.oneOf(k.value, "kind", "page", "event") == "page"
		}
		if s, ok := keys["stats"]; ok {
			pt.Stats = l.boolean(s.value, "stats")
		}
		if v, ok := keys["values"]; ok {
			pt.Values = l.values(v.value, pt.Name)
		}
		l.cfg.Points = append(l.cfg.Points, pt)
	}
}

func (l *loader) values(n *yaml.Node, point string) []Value {
	var values []Value
	for i, p := range l.pairs(n, "the values of point "+point, true) {
		if i == maxValues {
			l.fail(p.key, "more than %d values of point %s", maxValues, point)
		}
		v := Value{Decimals: 2}
		v.Name = l.metricName(p.key, "a value")
		full := point + "." + v.Name
		keys := l.keys(p.value, "value "+full, "decimals", "cap", "histogram")
		l.decimals[full] = p.key.Line
		if d, ok := keys["decimals"]; ok {
			v.Decimals = l.integer(d.value, "decimals", 0, maxDecimals)
			l.decimals[full] = d.value.Line
		}
		if c, ok := keys["cap"]; ok {
			v.Cap = l.cap(c.value, v.Decimals)
		}
		if h, ok := keys["histogram"]; ok {
			v.Histogram = l.boolean(h.value, "histogram")
		}
		values = append(values, v)
	}
	return values
}

func (l *loader) cross(n *yaml.Node) {
	sides := map[string]bool{} // existing ones; true: may stand in a pair
	for _, p := range l.cfg.Points {
		sides[p.Name] = true
		for _, v := range p.Values {
			sides[p.Name+"."+v.Name] = v.Cap != 0
		}
	}
	if isNull(n) {
		return
	}
	seen := map[Pair]int{}
	for i, e := range l.items(n, "cross", "[[order.revenue, item_page]]") {
		if i == maxCross {
			l.fail(e, "more than %d pairs", maxCross)
		}
		const form = "[order.revenue, item_page]"
		items := l.items(e, "an entry of cross", form)
		if e.Kind != yaml.SequenceNode {
			continue
		}
		if len(items) != 2 {
			l.fail(e, "an entry of cross has %d sides; it has exactly two, as in %s", len(items), form)
			continue
		}
		a, okA := l.side(items[0], sides)
		b, okB := l.side(items[1], sides)
		if !okA || !okB {
			continue
		}
		pair := Pair{A: a, B: b}
		line := max(seen[pair], seen[Pair{A: b, B: a}])
		if line > 0 {
			l.fail(e, "the pair [%s, %s] is there twice (its order does not matter); first on line %d", a, b, line)
		}
		seen[pair] = e.Line
		l.cfg.Cross = append(l.cfg.Cross, pair)
	}
}

func (l *loader) side(n *yaml.Node, sides map[string]bool) (string, bool) {
	s, ok := l.text(n, "a side of cross")
	if !ok {
		return "", false
	}
	usable, exists := sides[s]
	if exists && usable {
		return s, true
	}
	if exists {
		l.fail(n, "cross needs a `cap` on %s: a pair is made of counts of points and of values with a cap", s)
		return s, false
	}
	if !l.wanted(n.Line) {
		return s, false
	}
	var all []string
	for name := range sides {
		all = append(all, name)
	}
	slices.Sort(all)
	l.fail(n, "cross names %q, which is no point and no value of one%s; write POINT or POINT.VALUE", clip(s), didYouMean(s, all...))
	return s, false
}
