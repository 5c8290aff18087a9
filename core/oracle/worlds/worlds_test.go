package worlds

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
)

// TestVaried checks that each interesting thing happens in many worlds, and that worlds are small and load.
func TestVaried(t *testing.T) {
	const worlds = 500
	met := map[string]int{}
	for seed := range uint64(worlds) {
		w := Generate(seed)
		chain, err := w.Chain()
		if err != nil {
			t.Fatalf("%v\n%s", err, w)
		}
		batch, stream := oracle.Run(chain, w.Records, false), oracle.Run(chain, w.Records, true)
		if len(w.Records) > 205 || len(w.Configs) > 4 {
			t.Errorf("seed %d: %d records, %d revisions", seed, len(w.Records), len(w.Configs))
		}
		for name := range meets(w, chain, batch, stream) {
			met[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		t.Logf("%-40s %4d", name, met[name])
	}
	for _, name := range wanted {
		if met[name] < 5 {
			t.Errorf("%s: in %d worlds of %d, expected at least 5", name, met[name], worlds)
		}
	}
}

var wanted = []string{
	"one revision", "more revisions", "from at first", "200 records",
	"count rejected.too_large", "count rejected.malformed", "count rejected.bad_id", "count rejected.bad_session", "count rejected.bad_visitor",
	"count rejected.unknown_tenant", "count rejected.bad_ts", "count rejected.too_old", "count rejected.bad_value",
	"count unused", "count duplicate", "count overflow", "count conflict", "count unknown_variation", "count late",
	"row bounce", "row visit.end", "row visit.seconds", "row beta", "row sq", "row cap", "row cap.sq", "row cross", "row histogram", "row visitors",
	"row below zero", "scope site", "scope assigned", "scope fm", "tag none", "tag other", "tag allowed",
	"change cut", "change tag value", "change limits", "change pair", "change point dropped", "change point relisted", "change kind", "change stats",
	"change value", "change experiment dropped", "change experiment relisted", "change qualify", "change start", "change end",
	"change variation dropped", "change variation relisted",
	"session on both sides of a cut", "session on both sides of a revision", "same ms, other ids", "same ms, other sessions",
	"exact repeat", "repeat with other payload", "repeat with another point", "stream differs from batch", "edge of a revision", "1 ms before a revision",
}

var histogram = regexp.MustCompile(`\.h[0-9]+$`)

// meets names the interesting things of a world.
func meets(w World, chain []*tenant.Config, batch, stream oracle.Result) map[string]bool {
	met := map[string]bool{}
	note := func(name string, when bool) {
		if when {
			met[name] = true
		}
	}
	note("one revision", len(chain) == 1)
	note("more revisions", len(chain) > 1)
	note("from at first", chain[0].HasFrom)
	note("200 records", len(w.Records) >= 200)
	for name, n := range batch.Counts {
		note("count "+name, n != 0)
	}
	note("count late", stream.Counts["late"] != 0)
	note("stream differs from batch", !slices.Equal(batch.RowLines(), stream.RowLines()))
	for row, v := range batch.Rows {
		if v == 0 {
			continue
		}
		for _, suffix := range []string{"bounce", "visit.end", "visit.seconds", "beta", "sq", "cap", "cap.sq", "visitors"} {
			note("row "+suffix, strings.HasSuffix(row.Name, "."+suffix))
		}
		note("row cross", strings.Contains(row.Name, "*"))
		note("row histogram", histogram.MatchString(row.Name))
		note("row below zero", v < 0)
		note("scope "+strings.Split(row.Name, ".")[2], true)
		for pair := range strings.SplitSeq(row.Tags, ",") {
			_, value, tagged := strings.Cut(pair, "=")
			note("tag none", value == "none")
			note("tag other", value == "other")
			note("tag allowed", tagged && value != "none" && value != "other")
		}
	}
	for i := range chain[1:] {
		changes(chain[:i+2], note)
	}
	together(w, chain, note)
	return met
}

// changes notes what the last revision changes.
func changes(chain []*tenant.Config, note func(string, bool)) {
	c, old := chain[len(chain)-1], chain[len(chain)-2]
	tags := func(c *tenant.Config) (names []string) {
		for _, t := range c.Tags {
			names = append(names, t.Name)
		}
		return names
	}
	sameNames := slices.Equal(tags(old), tags(c))
	note("change cut", old.VisitGap != c.VisitGap || old.SessionTTL != c.SessionTTL || !sameNames)
	for i := range c.Tags {
		note("change tag value", sameNames && !slices.Equal(old.Tags[i].Values, c.Tags[i].Values))
	}
	note("change limits", old.Lateness != c.Lateness || old.MaxAge != c.MaxAge || old.MaxSkew != c.MaxSkew || old.MaxEventsPerMinute != c.MaxEventsPerMinute)
	note("change pair", !slices.Equal(old.Cross, c.Cross))
	byName := map[string]tenant.Point{}
	for _, p := range c.Points {
		byName[p.Name] = p
	}
	for _, p := range old.Points {
		q, listed := byName[p.Name]
		note("change point dropped", !listed)
		note("change kind", listed && p.Page != q.Page)
		note("change stats", listed && p.Stats != q.Stats)
		note("change value", listed && !slices.Equal(p.Values, q.Values))
	}
	experiments := map[string]tenant.Experiment{}
	for _, x := range c.Experiments {
		experiments[x.Name] = x
	}
	for _, x := range old.Experiments {
		y, listed := experiments[x.Name]
		note("change experiment dropped", !listed)
		note("change qualify", listed && !slices.Equal(x.Qualify, y.Qualify))
		note("change start", listed && x.Start != y.Start)
		note("change end", listed && x.End != y.End)
		note("change variation dropped", listed && slices.ContainsFunc(x.Variations, func(v string) bool { return !slices.Contains(y.Variations, v) }))
	}
	if len(chain) < 3 {
		return
	}
	had := func(c *tenant.Config, point string) bool {
		return slices.ContainsFunc(c.Points, func(p tenant.Point) bool { return p.Name == point })
	}
	for name := range byName {
		note("change point relisted", had(chain[len(chain)-3], name) && !had(old, name))
	}
	lists := func(c *tenant.Config, x, v string) bool {
		return slices.ContainsFunc(c.Experiments, func(e tenant.Experiment) bool {
			return e.Name == x && (v == "" || slices.Contains(e.Variations, v))
		})
	}
	for _, x := range c.Experiments {
		note("change experiment relisted", lists(chain[len(chain)-3], x.Name, "") && !lists(old, x.Name, ""))
		for _, v := range x.Variations {
			note("change variation relisted", lists(chain[len(chain)-3], x.Name, v) && lists(old, x.Name, "") && !lists(old, x.Name, v))
		}
	}
}

// together notes what records have to do with each other and with the revisions.
func together(w World, chain []*tenant.Config, note func(string, bool)) {
	type key struct {
		session, id string
		ts          int64
	}
	type read struct {
		key
		payload []byte
		point   string
	}
	var all []read
	for _, r := range w.Records {
		if ts, ok := eventTime(r.Payload); ok && len(r.Payload) < 1<<16 {
			fields := object(r.Payload)
			all = append(all, read{key{string(fields["session"]), string(fields["id"]), ts}, r.Payload, string(fields["point"])})
		}
	}
	for i, r := range all {
		for _, o := range all[:i] {
			same := o.session == r.session
			if o.key == r.key {
				note("exact repeat", bytes.Equal(o.payload, r.payload))
				note("repeat with other payload", !bytes.Equal(o.payload, r.payload))
				note("repeat with another point", o.point != r.point)
			}
			note("same ms, other ids", o.ts == r.ts && same && o.id != r.id)
			note("same ms, other sessions", o.ts == r.ts && !same)
			for j, c := range chain[1:] {
				across := same && min(o.ts, r.ts) < c.From && max(o.ts, r.ts) >= c.From
				note("session on both sides of a revision", across)
				note("session on both sides of a cut", across && c.VisitGap != chain[j].VisitGap)
			}
		}
		for _, c := range chain[1:] {
			note("edge of a revision", r.ts == c.From)
			note("1 ms before a revision", r.ts == c.From-1)
		}
	}
}

func TestGenerateIsPure(t *testing.T) {
	for seed := range uint64(20) {
		if a, b := Generate(seed).String(), Generate(seed).String(); a != b {
			t.Fatalf("seed %d gives two worlds:\n%s\n%s", seed, a, b)
		}
	}
}

// TestShrink looks for the least world of a failure that needs two records and one line of one revision.
func TestShrink(t *testing.T) {
	shrunk := 0
	for seed := range uint64(40) {
		asked := 0
		fails := func(w World) bool {
			asked++
			var all strings.Builder
			for _, r := range w.Records {
				all.Write(r.Payload)
			}
			return strings.Contains(strings.Join(w.Configs, ""), "  \"home\": ") &&
				strings.Contains(all.String(), `"v1"`) && strings.Contains(all.String(), `"v2"`)
		}
		w := Generate(seed)
		if !fails(w) {
			continue
		}
		shrunk++
		small := Shrink(w, fails)
		if asked > maxTries+1 {
			t.Errorf("seed %d: asked %d times", seed, asked)
		}
		if !fails(small) || len(small.Records) > 2 || len(small.Configs) != 1 || strings.Count(small.Configs[0], "\n") > 3 ||
			len(object(small.Records[0].Payload)) > 2 {
			t.Errorf("seed %d: shrunk to\n%s", seed, small)
		}
	}
	if shrunk < 10 {
		t.Fatalf("%d worlds met the failure", shrunk)
	}
}
