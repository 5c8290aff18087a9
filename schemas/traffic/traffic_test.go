package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"tandem/core/beacon"
	"tandem/core/tenant"
	"tandem/schemas/records"
)

func generate(t *testing.T, o Options) (all []records.Record) {
	t.Helper()
	if err := Generate(o, func(r records.Record) error {
		all = append(all, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func same(a, b []records.Record) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Ingest != b[i].Ingest || !bytes.Equal(a[i].Payload, b[i].Payload) {
			return false
		}
	}
	return true
}

func TestSeed(t *testing.T) {
	o := Defaults()
	o.Span = 10 * time.Minute
	first := generate(t, o)
	if len(first) < 1000 || !same(first, generate(t, o)) {
		t.Errorf("%d records, then others", len(first))
	}
	for _, seed := range []uint64{0, 2, math.MaxUint64} {
		o.Seed = seed
		if same(first, generate(t, o)) {
			t.Errorf("seed %d gives the records of seed 1", seed)
		}
	}
}

func TestOrderAndTimes(t *testing.T) {
	o := Defaults()
	o.MalformedShare = 0.02
	begin, end := o.Start.UnixMilli(), o.Start.Add(o.Span).UnixMilli()
	all := generate(t, o)
	var p beacon.Parser
	var b beacon.Beacon
	reasons := map[beacon.Reason]int{}
	late, twice, unused := 0, 0, 0
	seen := map[string]bool{}
	for i, r := range all {
		if i > 0 && (r.Ingest < all[i-1].Ingest || r.Ingest == all[i-1].Ingest && bytes.Compare(r.Payload, all[i-1].Payload) < 0) {
			t.Fatalf("record %d is out of order", i)
		}
		reason := p.Parse(r.Payload, &b)
		if reasons[reason]++; reason != beacon.None {
			continue
		}
		if seen[string(r.Payload)] {
			twice++
			continue
		}
		seen[string(r.Payload)] = true
		lag := r.Ingest - b.TS
		if string(b.Tenant) != "shop" || lag < 0 || lag > 3_600_000+600_000 || len(b.Values) > 0 && string(b.Values[0].Text) == "1e12" {
			continue // rejected for a reason that lies in the config
		}
		if b.TS < begin || b.TS >= end {
			t.Fatalf("ts outside of the span: %s", r.Payload)
		}
		switch {
		case lag > 600_000:
			late++
		case lag > 31_000:
			t.Fatalf("a lag of %d ms is neither late nor not: %s", lag, r.Payload)
		}
		if string(b.Point) == "scroll" {
			if unused++; len(b.Experiments) != 0 {
				t.Fatalf("not unused: %s", r.Payload)
			}
		}
	}
	n := float64(len(seen))
	for _, c := range []struct {
		what  string
		n     int
		share float64
	}{{"late", late, o.LateShare}, {"sent twice", twice, o.DuplicateShare}} {
		if want := n * c.share; math.Abs(float64(c.n)-want) > 5*math.Sqrt(want) {
			t.Errorf("%d of %v beacons %s, about %v expected", c.n, n, c.what, want)
		}
	}
	for _, reason := range []beacon.Reason{beacon.Malformed, beacon.BadID, beacon.BadSession, beacon.BadVisitor} {
		if reasons[reason] == 0 {
			t.Errorf("no record is %v", reason)
		}
	}
	if unused == 0 {
		t.Error("no beacon is unused")
	}
}

func TestNothingGoesWrongWithoutShares(t *testing.T) {
	o := Options{Seed: 3, Start: Defaults().Start, Span: 10 * time.Minute, SessionsPerMinute: 60}
	var p beacon.Parser
	var b beacon.Beacon
	seen := map[string]bool{}
	for _, r := range generate(t, o) {
		if reason := p.Parse(r.Payload, &b); reason != beacon.None || seen[string(r.Payload)] || r.Ingest-b.TS > 31_000 || string(b.Point) == "scroll" {
			t.Fatalf("%d\t%s", r.Ingest, r.Payload)
		}
		seen[string(r.Payload)] = true
	}
}

// arm is what one variation of an experiment has seen.
type arm struct{ sessions, pages, errors, onePage, checkouts, ordered float64 }

// TestEffects: each effect is where Options say it is, and nowhere else, within 4 standard errors.
func TestEffects(t *testing.T) {
	o := Options{Seed: 1, Start: Defaults().Start, Span: time.Hour, SessionsPerMinute: 300}
	type session struct {
		pages, errors, checkout, order float64
		experiments                    map[string]string
		visitor                        string
	}
	sessions := map[string]*session{}
	for _, r := range generate(t, o) {
		var b struct {
			Session, Visitor, Point string
			Experiments             map[string]string
		}
		if err := json.Unmarshal(r.Payload, &b); err != nil {
			t.Fatal(err)
		}
		s := sessions[b.Session]
		if s == nil {
			s = &session{experiments: b.Experiments, visitor: b.Visitor}
			sessions[b.Session] = s
		}
		switch b.Point {
		case "home_page", "search", "item_page":
			s.pages++
		case "checkout":
			s.pages++
			s.checkout = 1
		case "order":
			s.order = 1
		case "error":
			s.errors++
		}
	}
	arms := map[string]*arm{}
	visitors := map[string]string{}
	for _, s := range sessions {
		for x, v := range s.experiments {
			if was, ok := visitors[s.visitor+x]; ok && was != v {
				t.Fatalf("visitor %s is in two variations of %s", s.visitor, x)
			}
			visitors[s.visitor+x] = v
			a := arms[x+"."+v]
			if a == nil {
				a = &arm{}
				arms[x+"."+v] = a
			}
			a.sessions++
			a.pages += s.pages
			a.errors += s.errors
			if s.pages == 1 {
				a.onePage++
			}
			a.checkouts += s.checkout
			a.ordered += s.order
		}
	}
	returned := 1 - float64(len(visitors))/3/float64(len(sessions))
	if returned < 0.2 || returned > 0.35 {
		t.Errorf("%.0f %% of the sessions are of visitors who were there before", 100*returned)
	}

	// difference checks that p2 - p1 is d, where p1 and p2 are shares of n1 and n2.
	difference := func(what string, k1, n1, k2, n2, d float64) {
		p1, p2 := k1/n1, k2/n2
		se := math.Sqrt(p1*(1-p1)/n1 + p2*(1-p2)/n2)
		t.Logf("%s: %.4f of %.0f against %.4f of %.0f: %+.4f, z %.1f", what, p1, n1, p2, n2, p2-p1, (p2-p1)/se)
		if math.Abs(p2-p1-d) > 4*se {
			t.Errorf("%s: difference %.4f, want %.4f +- %.4f", what, p2-p1, d, 4*se)
		}
	}
	a, b := arms["checkout_button.control"], arms["checkout_button.green"]
	p := a.ordered / a.checkouts
	difference("orders of checkouts, checkout_button", a.ordered, a.checkouts, b.ordered, b.checkouts, OrderChance*ButtonLift)
	if z := (b.ordered/b.checkouts - p) / math.Sqrt(p*(1-p)*(1/a.checkouts+1/b.checkouts)); z < 3 {
		t.Errorf("the button's effect cannot be told from none: z %.1f", z)
	}
	a, b = arms["hero_image.control"], arms["hero_image.summer"]
	difference("orders of checkouts, hero_image", a.ordered, a.checkouts, b.ordered, b.checkouts, 0)
	difference("one page, hero_image", a.onePage, a.sessions, b.onePage, b.sessions, 0)
	difference("sessions, hero_image", a.sessions, a.sessions+b.sessions, b.sessions, a.sessions+b.sessions, 0)
	a, b = arms["new_search.control"], arms["new_search.instant"]
	difference("errors of pages, new_search", a.errors, a.pages, b.errors, b.pages, BrokenErrors-0.005)
	difference("one page, new_search", a.onePage, a.sessions, b.onePage, b.sessions, 0.65*BrokenLeaves)
	const share = (1 - BrokenSilent) / (2 - BrokenSilent)
	all := a.sessions + b.sessions
	difference("sessions, new_search", share*1e9, 1e9, b.sessions, all, 0)
	if z := (b.sessions - a.sessions) / math.Sqrt(all); z > -3 {
		t.Errorf("the sample ratio of new_search looks right: z %.1f", z)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no span":      func(o *Options) { o.Span = 0 },
		"no start":     func(o *Options) { o.Start = time.Time{} },
		"no rate":      func(o *Options) { o.SessionsPerMinute = 0 },
		"NaN":          func(o *Options) { o.SessionsPerMinute = math.NaN() },
		"too fast":     func(o *Options) { o.SessionsPerMinute = 2 * MaxSessionsPerMinute },
		"late":         func(o *Options) { o.LateShare = -1 },
		"duplicate":    func(o *Options) { o.DuplicateShare = 2 },
		"malformed":    func(o *Options) { o.MalformedShare = math.NaN() },
		"unused":       func(o *Options) { o.UnusedShare = math.Inf(1) },
		"far too long": func(o *Options) { o.Start = time.Date(2199, 12, 31, 23, 59, 0, 0, time.UTC) },
		"too early":    func(o *Options) { o.Start = time.Date(2000, 1, 1, 0, 59, 0, 0, time.FixedZone("", 3600)) },
	} {
		o := Defaults()
		change(&o)
		if err := Generate(o, func(records.Record) error { return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestGenerateStopsAtAnError(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	err := Generate(Defaults(), func(records.Record) error {
		if n++; n == 7 {
			return stop
		}
		return nil
	})
	if err != stop || n != 7 {
		t.Errorf("%v after %d records", err, n)
	}
}

// TestConfigNamesWhatTheTrafficSends: every point but the unused one, and every experiment with its variations.
func TestConfigNamesWhatTheTrafficSends(t *testing.T) {
	c, err := tenant.Load("demo.yaml", Config())
	if err != nil {
		t.Fatal(err)
	}
	points := map[string]bool{}
	for _, p := range c.Points {
		points[p.Name] = true
	}
	for _, r := range generate(t, Options{Seed: 1, Start: Defaults().Start, Span: 20 * time.Minute, SessionsPerMinute: 60}) {
		var b struct{ Tenant, Point string }
		if err := json.Unmarshal(r.Payload, &b); err != nil {
			t.Fatal(err)
		}
		if !points[b.Point] || b.Tenant != c.Tenant {
			t.Fatalf("not in the config: %s", r.Payload)
		}
	}
	if len(c.Experiments) != len(experiments) {
		t.Errorf("%d experiments", len(c.Experiments))
	}
	for i, x := range c.Experiments {
		want := experiments[i]
		if x.Name != want.name || !slices.Equal(x.Variations, []string{want.control, want.other}) || x.Control != want.control {
			t.Errorf("experiment %+v, the traffic has %+v", x, want)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	o := Defaults()
	o.Span, o.SessionsPerMinute = 10*time.Minute, 1000
	n := 0
	for b.Loop() {
		if err := Generate(o, func(records.Record) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
