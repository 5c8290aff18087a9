package oracle

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/core/tenant"
)

// TestCutDivides checks that the rows and counts on the two sides of a cut are those of two chains that know nothing of
// each other, whatever else the revision changes.
func TestCutDivides(t *testing.T) {
	const from = base + 20*minute
	cuts := map[string]func(c *tenant.Config){
		"visit_gap":   func(c *tenant.Config) { c.VisitGap /= 2 },
		"session_ttl": func(c *tenant.Config) { c.SessionTTL *= 2 },
		"tag names":   func(c *tenant.Config) { c.Tags = nil },
		"all": func(c *tenant.Config) {
			c.VisitGap, c.SessionTTL, c.Lateness, c.MaxEventsPerMinute = 5*minute, 5*minute, 1, 2
			c.Tags = append(c.Tags, tenant.Tag{Name: "login", Values: []string{"true"}})
			c.Points[0].Page, c.Points[2].Values[0].Cap, c.Cross = false, 100, c.Cross[:1]
			c.Experiments[0].Variations, c.Experiments[1].Qualify = []string{"red"}, nil
		},
	}
	for name, change := range cuts {
		for seed := range uint64(20) {
			records := traffic(rand.New(rand.NewPCG(seed, 3)), 60)
			changed, alone := shop(), shop()
			change(changed)
			change(alone)
			changed.HasFrom, changed.From = true, from
			var before, after []Record
			for _, r := range records {
				if b, err := parse(r.Payload); err == nil && b.ts < from {
					before = append(before, r)
				} else {
					after = append(after, r)
				}
			}
			for _, stream := range []bool{false, true} {
				want, more := Run([]*tenant.Config{shop()}, before, stream), Run([]*tenant.Config{alone}, after, stream)
				for row, v := range more.Rows {
					want.Rows[row] += v
				}
				for count, n := range more.Counts {
					want.Counts[count] += n
				}
				if lines(Run([]*tenant.Config{shop(), changed}, records, stream)) != lines(want) {
					t.Errorf("%s, seed %d, stream %v: the two sides of the cut are not independent", name, seed, stream)
				}
			}
		}
	}
}

// TestRedefinitionTouchesOnlyItsRows checks which rows a revision without a cut leaves as they were.
func TestRedefinitionTouchesOnlyItsRows(t *testing.T) {
	cases := []struct {
		change  func(c *tenant.Config)
		touches func(name string) bool
	}{
		{func(c *tenant.Config) { c.Experiments[1].Qualify = nil },
			func(name string) bool { return strings.Contains(name, ".y.") }},
		{func(c *tenant.Config) { c.Experiments[0].Start += 20 * minute },
			func(name string) bool { return strings.Contains(name, ".x.") }},
		{func(c *tenant.Config) { c.Points[1].Stats = false },
			func(name string) bool { return strings.Contains(name, ".item.") || strings.HasSuffix(name, "*item") }},
		{func(c *tenant.Config) { c.Points[2].Values[0].Cap = 100 },
			func(name string) bool { return strings.Contains(name, ".cap") || strings.Contains(name, "*item") }},
		{func(c *tenant.Config) { c.Cross = nil },
			func(name string) bool { return strings.Contains(name, "*") }},
	}
	touched := make([]bool, len(cases))
	for i, c := range cases {
		for seed := range uint64(20) {
			records := traffic(rand.New(rand.NewPCG(seed, 4)), 60)
			changed := shop()
			changed.HasFrom, changed.From = true, base+15*minute
			c.change(changed)
			old, got := Run([]*tenant.Config{shop()}, records, false), Run([]*tenant.Config{shop(), changed}, records, false)
			names := maps.Clone(old.Rows)
			maps.Copy(names, got.Rows)
			for row := range names {
				if old.Rows[row] == got.Rows[row] {
					continue
				}
				touched[i] = true
				if !c.touches(row.Name) {
					t.Errorf("change %d, seed %d: %s is %d, was %d", i, seed, fmt.Sprint(row), got.Rows[row], old.Rows[row])
				}
			}
		}
		if !touched[i] {
			t.Errorf("change %d touched nothing: the traffic does not meet it", i)
		}
	}
}

// TestFirstRevisionWithFrom checks that before it no tenant is known, in the order of the reasons.
func TestFirstRevisionWithFrom(t *testing.T) {
	c := shop()
	c.HasFrom, c.From = true, base
	const beacon = `{"id":"a","session":"s","tenant":"%s","ts":%s,"point":"home"}`
	for _, r := range []struct{ tenant, ts, want string }{
		{"shop", fmt.Sprint(base), ""},
		{"shop", fmt.Sprint(base - 1), "rejected.unknown_tenant"},
		{"else", fmt.Sprint(base), "rejected.unknown_tenant"},
		{"shop", "null", "rejected.bad_ts"},
		{"shop", "99999999999999999999", "rejected.bad_ts"},
		{"shop", "-99999999999999999999", "rejected.bad_ts"},
		{"shop", fmt.Sprint(year2000 - 1), "rejected.bad_ts"},
		{"else", "null", "rejected.unknown_tenant"},
		{"shop", fmt.Sprint(base + 1), ""},
	} {
		got := Run([]*tenant.Config{c}, []Record{{base, fmt.Appendf(nil, beacon, r.tenant, r.ts)}}, false).CountLines()
		if joined := strings.Join(got, ","); joined != strings.TrimPrefix(r.want+"\t1", "\t1") {
			t.Errorf("%+v: %q", r, joined)
		}
	}
}

// TestLastTS checks the greatest event time, which no skew excuses.
func TestLastTS(t *testing.T) {
	for ts, want := range map[int64]string{year9999: "", year9999 + 1: "rejected.bad_ts\t1", 1<<63 - 1: "rejected.bad_ts\t1"} {
		record := Record{ts, fmt.Appendf(nil, `{"id":"a","session":"s","tenant":"shop","ts":%d,"point":"home"}`, ts)}
		if got := strings.Join(Run([]*tenant.Config{shop()}, []Record{record}, false).CountLines(), ","); got != want {
			t.Errorf("ts %d: %q, expected %q", ts, got, want)
		}
	}
}
