package pages

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"tandem/core/tenant"
)

// configYAML writes a config as SPEC 10 has it. What is there by default is left out.
func configYAML(c *tenant.Config) string {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	add(doc, "tenant", text(c.Tenant))
	if c.HasFrom {
		add(doc, "from", stamp(c.From))
	}
	for _, d := range []struct {
		name        string
		ms, absence int64
	}{{"retention", c.Retention, 30 * day}, {"visit_gap", c.VisitGap, 30 * minute}, {"session_ttl", c.SessionTTL, 12 * hour}, {"lateness", c.Lateness, 10 * minute},
		{"max_age", c.MaxAge, 48 * hour}, {"max_skew", c.MaxSkew, 5 * minute}} {
		if d.ms != d.absence {
			add(doc, d.name, plain(length(d.ms)))
		}
	}
	if c.MaxEventsPerMinute != 600 {
		add(doc, "max_events_per_minute", plain(strconv.Itoa(c.MaxEventsPerMinute)))
	}
	tags, points, experiments := mapping(), mapping(), mapping()
	for _, t := range c.Tags {
		add(tags, t.Name, flow(t.Values))
	}
	for _, p := range c.Points {
		add(points, p.Name, pointYAML(&p))
	}
	for _, x := range c.Experiments {
		add(experiments, x.Name, experimentYAML(&x))
	}
	cross := &yaml.Node{Kind: yaml.SequenceNode}
	for _, p := range c.Cross {
		cross.Content = append(cross.Content, flow([]string{p.A, p.B}))
	}
	for _, part := range []struct {
		name string
		node *yaml.Node
	}{{"tags", tags}, {"points", points}, {"cross", cross}, {"experiments", experiments}} {
		if len(part.node.Content) > 0 {
			add(doc, part.name, part.node)
		}
	}
	data, err := yaml.Marshal(doc)
	if err != nil {
		return fmt.Sprintf("# the config cannot be written: %v\n", err)
	}
	return string(data)
}

const (
	minute int64 = 60_000
	hour         = 60 * minute
	day          = 24 * hour
)

func pointYAML(p *tenant.Point) *yaml.Node {
	n := mapping()
	n.Style = yaml.FlowStyle
	if p.Page {
		add(n, "kind", plain("page"))
	}
	if p.Stats {
		add(n, "stats", plain("true"))
	}
	values := mapping()
	for _, v := range p.Values {
		one := mapping()
		add(one, "decimals", plain(strconv.Itoa(v.Decimals)))
		if v.Cap > 0 {
			add(one, "cap", plain(strconv.FormatFloat(float64(v.Cap)/math.Pow10(v.Decimals), 'f', -1, 64)))
		}
		if v.Histogram {
			add(one, "histogram", plain("true"))
		}
		add(values, v.Name, one)
	}
	if len(values.Content) > 0 {
		add(n, "values", values)
	}
	return n
}

func experimentYAML(x *tenant.Experiment) *yaml.Node {
	n := mapping()
	add(n, "variations", flow(x.Variations))
	if x.Control != x.Variations[0] {
		add(n, "control", text(x.Control))
	}
	equal := true
	weights := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, w := range x.Weights {
		equal = equal && w == x.Weights[0]
		weights.Content = append(weights.Content, plain(strconv.FormatFloat(w, 'f', -1, 64)))
	}
	if !equal {
		add(n, "weights", weights)
	}
	if x.Start != tenant.NoStart {
		add(n, "start", stamp(x.Start))
	}
	if x.End != tenant.NoEnd {
		add(n, "end", stamp(x.End))
	}
	if len(x.Qualify) > 0 {
		q := flow(x.Qualify)
		q.Style = 0
		add(n, "qualify", q)
	}
	return n
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

func add(n *yaml.Node, key string, v *yaml.Node) { n.Content = append(n.Content, text(key), v) }

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func plain(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

func stamp(ms int64) *yaml.Node { return plain(time.UnixMilli(ms).UTC().Format(time.RFC3339)) }

func flow(s []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range s {
		n.Content = append(n.Content, text(v))
	}
	return n
}

// length writes a duration in the largest unit that has it whole.
func length(ms int64) string {
	for _, u := range []struct {
		ms   int64
		name string
	}{{day, "d"}, {hour, "h"}, {minute, "m"}} {
		if ms%u.ms == 0 {
			return strconv.FormatInt(ms/u.ms, 10) + u.name
		}
	}
	return strconv.FormatInt(ms/1000, 10) + "s"
}
