package tenant

import (
	"fmt"
	"slices"
)

// Changes are what changes where one config comes into force after another, as text: "experiment color", "value order.revenue".
type Changes struct {
	Adds, Drops []string
	Anew        []string // ends, and begins anew under its name (SPEC 10)
	Alters      []string // other settings: old and new
	Cut         bool     // sessions and visits are cut
}

// Diff says what changes where config b comes into force after a, at from (ms).
func Diff(a, b *Config, from int64) Changes {
	c := Changes{Cut: isCut(a, b)}
	experimentsOf := func(c *Config) map[string]*Experiment {
		m := map[string]*Experiment{}
		for i := range c.Experiments {
			m[c.Experiments[i].Name] = &c.Experiments[i]
		}
		return m
	}
	old, now := experimentsOf(a), experimentsOf(b)
	for i := range b.Experiments {
		e := &b.Experiments[i]
		o := old[e.Name]
		switch {
		case o == nil:
			c.Adds = append(c.Adds, "experiment "+e.Name)
			continue
		case !o.goesOn(e, from):
			c.Anew = append(c.Anew, "experiment "+e.Name)
		case o.End != e.End:
			c.Alters = append(c.Alters, "the end of experiment "+e.Name)
		}
		c.names("variation "+e.Name+".", o.Variations, e.Variations)
		if o.Control != e.Control || !SameSplit(o.Weights, e.Weights) {
			c.Alters = append(c.Alters, "control or weights of experiment "+e.Name+", which changes no row; what its metrics prove is counted from then on")
		}
	}
	for _, o := range a.Experiments {
		if now[o.Name] == nil {
			c.Drops = append(c.Drops, "experiment "+o.Name)
		}
	}
	c.points(a, b)
	tags := func(c *Config) (names []string) {
		for _, t := range c.Tags {
			names = append(names, t.Name)
		}
		return names
	}
	c.names("tag ", tags(a), tags(b))
	for _, t := range b.Tags {
		if i := slices.Index(tags(a), t.Name); i >= 0 {
			c.names("tag value "+t.Name+"=", a.Tags[i].Values, t.Values)
		}
	}
	pairs := func(c *Config) (names []string) {
		for _, p := range c.Cross {
			names = append(names, p.A+"*"+p.B)
		}
		return names
	}
	c.names("pair ", pairs(a), pairs(b))
	for _, d := range []struct {
		name string
		a, b int64
	}{{"visit_gap", a.VisitGap, b.VisitGap}, {"session_ttl", a.SessionTTL, b.SessionTTL}, {"lateness", a.Lateness, b.Lateness},
		{"max_age", a.MaxAge, b.MaxAge}, {"max_skew", a.MaxSkew, b.MaxSkew}, {"retention", a.Retention, b.Retention}} {
		if d.a != d.b {
			c.Alters = append(c.Alters, fmt.Sprintf("%s from %ds to %ds", d.name, d.a/1000, d.b/1000))
		}
	}
	if a.MaxEventsPerMinute != b.MaxEventsPerMinute {
		c.Alters = append(c.Alters, fmt.Sprintf("max_events_per_minute from %d to %d", a.MaxEventsPerMinute, b.MaxEventsPerMinute))
	}
	return c
}

func (c *Changes) points(a, b *Config) {
	at := func(c *Config, name string) *Point {
		if i := slices.IndexFunc(c.Points, func(p Point) bool { return p.Name == name }); i >= 0 {
			return &c.Points[i]
		}
		return nil
	}
	for i := range b.Points {
		p := &b.Points[i]
		o := at(a, p.Name)
		switch {
		case o == nil:
			c.Adds = append(c.Adds, "point "+p.Name)
			continue
		case o.Page != p.Page || o.Stats != p.Stats:
			c.Anew = append(c.Anew, "point "+p.Name)
			continue // and its values with it
		}
		var olds, news []string
		for _, v := range o.Values {
			olds = append(olds, v.Name)
		}
		for _, v := range p.Values {
			news = append(news, v.Name)
			if k := slices.Index(olds, v.Name); k >= 0 && o.Values[k] != v {
				c.Anew = append(c.Anew, "value "+p.Name+"."+v.Name)
			}
		}
		c.names("value "+p.Name+".", olds, news)
	}
	for i := range a.Points {
		if at(b, a.Points[i].Name) == nil {
			c.Drops = append(c.Drops, "point "+a.Points[i].Name)
		}
	}
}

func (c *Changes) names(what string, a, b []string) {
	for _, n := range b {
		if !slices.Contains(a, n) {
			c.Adds = append(c.Adds, what+n)
		}
	}
	for _, n := range a {
		if !slices.Contains(b, n) {
			c.Drops = append(c.Drops, what+n)
		}
	}
}

// None says that nothing changes.
func (c *Changes) None() bool {
	return len(c.Adds)+len(c.Drops)+len(c.Anew)+len(c.Alters) == 0 && !c.Cut
}

// Gap is a time over which dispatch has dropped, or rejected, beacons that a splice counts: it went by another revision.
type Gap struct {
	What     string // as text: "point promo"
	From, To int64  // ms
	Revision int64  // from when on that revision is in force, ms; math.MinInt64: from the beginning
}

// Gaps are the times within [from, to), in ms, of which the archive cannot tell what the chain asks: dispatch keeps a beacon
// with assignments, whatever they are, and others only if the revision in force lists their point; and it rejects one with a value
// that this revision lists and that is none, which the chain may not ask for. live is the same chain without its splices. They
// are in order.
func (c *Chain) Gaps(live *Chain, from, to int64) (gaps []Gap) {
	for i := range c.Revs {
		r := &c.Revs[i]
		for k := range live.Revs {
			l := &live.Revs[k]
			a, b := max(r.From, l.From, from), min(r.To, l.To, to)
			if a >= b || r.Digest == l.Digest {
				continue
			}
			add := func(what string) {
				if n := len(gaps); n > 0 && gaps[n-1].What == what && gaps[n-1].To == a && gaps[n-1].Revision == l.From {
					gaps[n-1].To = b
					return
				}
				gaps = append(gaps, Gap{what, a, b, l.From})
			}
			for _, p := range r.Config.Points {
				if l.points[p.Name] == nil {
					add("point " + p.Name)
				}
			}
			for _, p := range l.Config.Points {
				for _, v := range p.Values {
					if q := r.points[p.Name]; q == nil || q.ValueNamed([]byte(v.Name)) < 0 {
						add("point " + p.Name + " without its value " + v.Name)
					}
				}
			}
			if r.Config.MaxAge > l.Config.MaxAge {
				add("max_age that is longer")
			}
			if r.Config.MaxSkew > l.Config.MaxSkew {
				add("max_skew that is longer")
			}
		}
	}
	return gaps
}
