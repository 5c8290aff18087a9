package pages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/formula"
	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/jobs/serve"
	"tandem/jobs/serve/read"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// filled is a store that a test fills, of tenant shop, whose layer stream.dc1 is the active one.
type filled struct {
	t      *testing.T
	st     store.Store
	chain  *tenant.Chain
	clock  func() time.Time // by which things expire
	limits read.Limits
}

const stream = "stream.dc1"

// fill begins with the revisions of the config, each with the minute that it is in force from; the first one's counts for nothing.
func fill(t *testing.T, revisions ...revision) *filled {
	t.Helper()
	var all []*tenant.Config
	for i, r := range revisions {
		text := r.text
		if i > 0 {
			text += "from: " + minuteText(r.from) + "\n"
		}
		c, err := tenant.Load("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	chain, err := tenant.Compile(all)
	if err != nil {
		t.Fatal(err)
	}
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: never})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if err := st.PutActive(t.Context(), store.Active{Tenant: "shop", Layer: stream, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	return &filled{t, st, chain, never, read.DefaultLimits()}
}

type revision struct {
	text string
	from int64 // minute
}

func minuteText(minute int64) string { return time.Unix(minute*60, 0).UTC().Format(time.RFC3339) }

// never is a time at which nothing has expired.
func never() time.Time { return time.UnixMilli(0) }

// put writes a row of experiment x, or of the site if it is none.
func (f *filled) put(layer, x, metric string, minute int64, cells ...row.Cell) {
	f.t.Helper()
	value, err := row.Append(nil, row.Sums, cells)
	if err != nil {
		f.t.Fatal(err)
	}
	s := store.Series{Tenant: "shop", Experiment: x, Metric: metric, Layer: layer}
	if err := f.st.PutRows(f.t.Context(), []store.Row{{Series: s, Minute: minute, Value: value}}); err != nil {
		f.t.Fatal(err)
	}
}

// visit makes the site known from a minute on.
func (f *filled) visit(minute int64) {
	f.put(stream, "", "site.visit", minute, row.Cell{Tags: "device=mobile", Value: 1})
}

// both are sums of the control and of red on mobile devices.
func both(control, red int64) []row.Cell {
	cells := []row.Cell{{Variation: "control", Tags: "device=mobile", Value: control}, {Variation: "red", Tags: "device=mobile", Value: red}}
	return slices.DeleteFunc(cells, func(c row.Cell) bool { return c.Value == 0 })
}

// serve is a service over it, in which minutes before closed are closed, at another minute.
func (f *filled) serve(formulas string, closed, now int64) http.Handler {
	f.t.Helper()
	r, err := formula.Load("test", []byte(formulas))
	err = errors.Join(err, f.st.PutProgress(f.t.Context(), store.Progress{Layer: stream, Tenant: "shop", ClosedBefore: closed}))
	src := &Stored{Now: func() time.Time { return time.Unix(now*60, 0) }, Explainer: func(context.Context, string) (*batch.Explain, error) {
		return &batch.Explain{Job: &batch.Job{Chain: f.chain, Blobs: blob.NewMem()}, Live: f.chain, Store: f.st, Layer: stream, Closed: closed}, nil
	}}
	h, err2 := New(src, time.Millisecond, slog.New(slog.DiscardHandler))
	if err := errors.Join(err, err2); err != nil {
		f.t.Fatal(err)
	}
	return serve.NewHandler(serve.Config{Limits: serve.DefaultLimits(), Log: slog.New(slog.DiscardHandler), Now: time.Now, Pages: h, Frame: Frame,
		Reader:  read.New(f.st, read.Options{Limits: f.limits, Now: f.clock}),
		Tenant:  func(string) *serve.Tenant { return &serve.Tenant{Chain: f.chain, Formulas: r} },
		Tenants: func() []string { return []string{"shop"} }})
}

const guardedConfig = `tenant: shop
tags:
  device: [desktop, mobile]
points:
  order: {}
  error: {}
experiments:
  x: {variations: [control, red]}
`

const guardedFormulas = `version: 1
tenant: shop
formulas:
  error_rate: {title: Errors, expr: error.beta / visit.beta, good: down, role: guardrail}
  conversion: {title: Conversion, expr: order.beta / visit.beta, good: up, role: guardrail}
`

// What the control never has, or the treatment no longer, is no reason to wait: the page says at once that a guardrail fails.
func TestGuardrailFailsWhileItsIntervalWaits(t *testing.T) {
	const begin, end = 30_000, 30_060
	f := fill(t, revision{text: guardedConfig})
	f.visit(begin)
	for m := int64(begin); m < end; m++ {
		f.put(stream, "x", "fm.visit.beta", m, both(100, 100)...)
		f.put(stream, "x", "fm.error.beta", m, both(0, 1)...)
		f.put(stream, "x", "fm.order.beta", m, both(1, 0)...)
	}
	h := f.serve(guardedFormulas, end, end+10)
	var page experimentData
	get(t, h, "/shop/page/experiment/x", 200, &page)
	if page.Status != "guardrail failing" {
		t.Errorf("the experiment is %s", page.Status)
	}
	for _, m := range page.Metrics {
		if r := m.Rows[0]; !r.Failing || r.State != "waiting" || r.Low != nil {
			t.Errorf("%s: %+v", m.ID, r)
		}
	}
	var list struct {
		Experiments []struct {
			Tests []struct {
				Failing bool
				Diff    *float64
			}
		}
	}
	get(t, h, "/shop/page/experiments", 200, &list)
	if tests := list.Experiments[0].Tests; len(tests) != 2 || !tests[0].Failing || tests[0].Diff != nil {
		t.Errorf("%+v", tests)
	}
}

// After a change of the split nothing is unhealthy for what was before it: neither its events nor its sessions are of this split.
func TestPhaseThatHasJustBegun(t *testing.T) {
	const begin, phase, end = 30_000, 30_300, 30_306
	config := func(weights string) string {
		return strings.Replace(guardedConfig, "red]", "red], weights: "+weights, 1)
	}
	for _, c := range []struct {
		was, is       string
		before, after [2]int64 // sessions of both
	}{{"[9, 1]", "[1, 1]", [2]int64{900, 100}, [2]int64{500, 500}}, {"[1, 0]", "[9, 1]", [2]int64{1000, 0}, [2]int64{1, 0}}} {
		f := fill(t, revision{text: config(c.was)}, revision{config(c.is), phase})
		f.visit(begin)
		for m := int64(begin); m < end; m++ {
			n := c.before
			if m >= phase {
				n = c.after
			}
			f.put(stream, "x", "fm.visit.beta", m, both(n[0], n[1])...)
			f.put(stream, "x", "fm.error.beta", m, both(n[0]*3/100, n[1]*3/100)...)
		}
		var page experimentData
		get(t, f.serve(guardedFormulas, end, end+10), "/shop/page/experiment/x", 200, &page)
		if page.Status != "running" || page.Variations[0].Sessions != float64(c.after[0]*(end-phase)) {
			t.Errorf("%s after %s: %s, %+v", c.is, c.was, page.Status, page.Variations)
		}
	}
}

// Under a tag a proportion is of the sessions that began with it; without the sums for that it says what to declare.
func TestProportionsUnderATag(t *testing.T) {
	const begin, end = 30_000, 30_060
	f := fill(t, revision{text: strings.Replace(guardedConfig, "order: {}", "order: {stats: true}", 1)})
	f.visit(begin)
	cells := func(desktop, mobile int64) (c []row.Cell) {
		for _, v := range []string{"control", "red"} {
			c = append(c, row.Cell{Variation: v, Tags: "device=desktop", Value: desktop}, row.Cell{Variation: v, Tags: "device=mobile", Value: mobile})
		}
		return c
	}
	for m := int64(begin); m < end; m++ {
		f.put(stream, "x", "fm.visit.beta", m, cells(90, 10)...)
		f.put(stream, "x", "fm.order.hit", m, cells(18, 2)...)
		f.put(stream, "x", "fm.order.beta", m, cells(5, 15)...) // most go on on their phones
		f.put(stream, "x", "fm.error.beta", m, cells(5, 15)...)
	}
	h := f.serve(guardedFormulas, end, end+10)
	for query, waits := range map[string]bool{"": false, "?tag.device=mobile": true} {
		var page experimentData
		get(t, h, "/shop/page/experiment/x"+query, 200, &page)
		for _, m := range page.Metrics {
			r, waits := m.Rows[0], waits && m.ID == "error_rate"
			if (r.State == "waiting") != waits || waits != strings.Contains(r.Why, "declare stats for point error") {
				t.Errorf("%q, %s: %+v", query, m.ID, r)
			}
			if tagged := query != "" && m.ID == "conversion"; strings.Contains(m.Note, "Under a tag") != tagged {
				t.Errorf("%q, %s: note %q", query, m.ID, m.Note)
			}
		}
	}
	// 600 sessions with 120 orders: the error of the difference is what 20 % have, not what 150 % would.
	body := `{"formulas":[{"id":"conversion"},{"id":"error_rate"}],"experiment":"x","compare":true,"step":"all","filter":{"device":["mobile"]}}`
	for _, s := range askJSON(t, h, body).Series {
		if s.Variation == "control" {
			continue
		}
		p := s.Proof
		if s.Formula == "error_rate" {
			if p.State != "waiting" || !strings.Contains(p.Why, "declare stats for point error") {
				t.Errorf("%+v", p)
			}
		} else if p.Sessions != 600 || p.Difference.Low == nil || *p.Difference.Low > -0.05 || *p.Difference.High < 0.05 {
			t.Errorf("%+v", p)
		}
	}
}

// What a later revision declares is judged from then on, and by its own sessions; what it no longer declares is not judged at all.
func TestDefinitionThatChanges(t *testing.T) {
	const begin, change, end = 30_000, 30_017, 30_600 // the change is in the middle of a bucket
	plain, capped := revision{strings.Replace(guardedConfig, "order: {}", "order: {values: {revenue: {decimals: 0}}}", 1), change},
		revision{strings.Replace(guardedConfig, "order: {}", "order: {values: {revenue: {decimals: 0, cap: 100}}}", 1), change}
	const formulas = "version: 1\ntenant: shop\nformulas:\n  revenue: {title: Revenue, expr: order.revenue.cap / visit.beta, good: up}\n  errors: {title: E, expr: error.beta / visit.beta, good: down}\n"
	ask := `{"formulas":[{"id":"revenue"},{"id":"errors"}],"experiment":"x","compare":true,"step":"all","from":"` + minuteText(begin) + `"}`
	for _, c := range []struct {
		was, is revision
		from    int64 // 0: not judged
	}{{plain, capped, change}, {capped, capped, begin}, {capped, plain, 0}} {
		f := fill(t, c.was, c.is)
		f.visit(begin)
		for m := int64(begin); m < end; m++ {
			f.put(stream, "x", "fm.visit.beta", m, both(100, 100)...)
			f.put(stream, "x", "fm.error.beta", m, both(10, 10)...)
			if m >= change == (c.is == capped) || c.was == c.is {
				f.put(stream, "x", "fm.order", m, both(50, 50)...)
				f.put(stream, "x", "fm.order.revenue.cap", m, both(500, 600)...)
				f.put(stream, "x", "fm.order.revenue.cap.sq", m, both(10_000, 14_000)...)
			}
		}
		h := f.serve(formulas, end, end+10)
		out := askJSON(t, h, ask)
		if out.Evidence == nil || out.Evidence.From != minuteText(begin) {
			t.Fatalf("%+v", out.Evidence)
		}
		var page experimentData
		get(t, h, "/shop/page/experiment/x?drill=revenue", 200, &page)
		for _, s := range out.Series {
			if s.Variation == "control" {
				continue
			}
			i := slices.IndexFunc(page.Metrics, func(m metricData) bool { return m.ID == s.Formula })
			row, note, p, from := page.Metrics[i].Rows[0], page.Metrics[i].Note, s.Proof, c.from
			if s.Formula == "errors" {
				from = begin
			}
			if from == 0 {
				if p != nil || row.Why != "chart only" {
					t.Errorf("what is no longer declared: %+v, the page %+v", p, row)
				}
				continue
			}
			if p == nil || p.Sessions != float64(100*(end-from)) || p.Why != "" || (p.From != "") != (from == change) || p.From != "" && p.From != minuteText(from) {
				t.Errorf("%s from %d: %+v", s.Formula, from, p)
				continue
			}
			if row.Low == nil || math.Abs(*row.Low-*p.Relative.Low) > 1e-6 || strings.Contains(note, "Counted from 1970-01-21 20:17 UTC on") != (from == change) {
				t.Errorf("%s from %d: %+v, %q; the API says %+v", s.Formula, from, row, note, p)
			}
			if s.Formula == "revenue" && (math.Abs(*p.Difference.Value-1) > 1e-9 || row.Value != 6) {
				t.Errorf("from %d: %v and %v more than the control's", from, row.Value, *p.Difference.Value)
			}
			if lift := page.Lift; s.Formula == "revenue" {
				if known := slices.IndexFunc(lift.Series[0].Low, func(v *float64) bool { return v != nil }); lift.Times[known] < from*60 {
					t.Errorf("the lift is known from %d on", lift.Times[known]/60)
				}
			}
		}
	}
}

// An experiment that is longer than the retention keeps its totals, which the rollups of whole windows have.
func TestExperimentLongerThanTheRetention(t *testing.T) {
	const begin, end = 30_000, 30_000 + 1440 // of which the last 6 hours are known by the minute
	for _, start := range []int64{begin, begin + 10} {
		f := fill(t, revision{text: strings.Replace(guardedConfig, "red]", "red], start: "+minuteText(start), 1) + "retention: 6h\n"})
		f.clock = func() time.Time { return time.Unix(end*60, 0) }
		f.visit(end - 1)
		for w := int64(begin); w < end; w += read.WindowMinutes {
			for metric, n := range map[string]int64{"fm.visit.beta": 1000, "fm.order.beta": 100} {
				value, err := row.Append(nil, row.Sums, both(n, n))
				if err != nil {
					t.Fatal(err)
				}
				s := store.Series{Tenant: "shop", Experiment: "x", Metric: metric, Layer: batch.Layer(1)}
				if err := f.st.PutRollups(t.Context(), []store.Row{{Series: s, Minute: w, Value: value}}); err != nil {
					t.Fatal(err)
				}
				if w >= end-7*60 {
					f.put(batch.Layer(1), "x", metric, w+15, both(n, n)...)
				}
			}
			if err := f.st.PutCoverage(t.Context(), store.Coverage{Tenant: "shop", Window: w, Generation: 1}); err != nil {
				t.Fatal(err)
			}
		}
		h := f.serve(guardedFormulas, end, end)
		want := 48_000.
		if start > begin {
			want -= 1000 // the window that it began in is known whole only, with what was before
		}
		for _, query := range []string{"", "?tag.device=mobile"} {
			var page experimentData
			get(t, h, "/shop/page/experiment/x"+query, 200, &page)
			if page.Variations[0].Sessions != want || math.Abs(page.Metrics[1].Rows[0].Value-0.1) > 1e-9 {
				t.Errorf("begun at %d: %+v, want %v", start, page.Variations, want)
			}
		}
		out := askJSON(t, h, `{"formulas":[{"id":"conversion"}],"experiment":"x","compare":true}`)
		i := slices.IndexFunc(out.Series, func(s seriesProof) bool { return s.Variation == "red" })
		if p := out.Series[i].Proof; p == nil || p.Sessions != want || p.State != "none" {
			t.Errorf("begun at %d: %+v", start, p)
		}
	}
}

// A pipeline that stands still is told, whatever the last closed hour was like; one that closes as late as lateness asks is not.
func TestPipelineBehind(t *testing.T) {
	const begin, end = 30_000, 30_060
	for _, c := range []struct {
		config string
		after  int64 // closed
		late   int64
		status string
	}{
		{guardedConfig, 0, 12, "running"}, {guardedConfig, 0, 600, "no data"}, {guardedConfig + "lateness: 2h\n", 0, 125, "running"}, {guardedConfig + "lateness: 2h\n", 0, 150, "no data"},
		{strings.Replace(guardedConfig, "red]", "red], end: "+minuteText(end), 1), 0, 600, "ended"},
		{strings.Replace(guardedConfig, "red]", "red], end: "+minuteText(end), 1), 590, 600, "ended"}, // its last minute is none after it
	} {
		f := fill(t, revision{text: c.config})
		f.visit(begin)
		for m := int64(begin); m < end; m++ {
			f.put(stream, "x", "fm.visit.beta", m, both(100, 100)...)
		}
		h := f.serve(guardedFormulas, end+c.after, end+c.late)
		type told struct {
			Status string
			Why    []string
			Last   int64 // of the page
		}
		var page told
		var list struct{ Experiments []told }
		get(t, h, "/shop/page/experiment/x", 200, &page)
		get(t, h, "/shop/page/experiments", 200, &list)
		if page.Last != (end-1)*60_000 {
			t.Errorf("closed %d minutes late, its last minute is %d", c.late, page.Last/60_000)
		}
		for _, got := range []told{page, list.Experiments[0]} {
			if got.Status != c.status || (len(got.Why) == 1 && strings.Contains(got.Why[0], fmt.Sprintf("no data for %d minutes", c.late))) != (c.status == "no data") {
				t.Errorf("closed %d minutes late: %+v", c.late, got)
			}
		}
	}
}

// Rolling visitors are drawn by any step, and told of the last minutes in the table, whether one length divides the other or not.
func TestRollingByAnyStep(t *testing.T) {
	const begin, end = 30_000, 30_300
	f := fill(t, revision{text: guardedConfig})
	f.visit(begin)
	for m := int64(begin); m < end; m++ { // a visitor a minute
		var one metric.Sketch
		one.Add(uint64(m) * 0x9e3779b97f4a7c15)
		value, err := row.Append(nil, row.Sketches, []row.Cell{{Variation: "red", Tags: "device=mobile", Sketch: one.AppendBinary(nil)}})
		if err != nil {
			t.Fatal(err)
		}
		s := store.Series{Tenant: "shop", Experiment: "x", Metric: "fm.visitors", Layer: stream}
		if err := f.st.PutRows(t.Context(), []store.Row{{Series: s, Minute: m, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	lengths := map[string]int64{"a25": 25, "a60": 60, "a90": 90}
	formulas := "version: 1\ntenant: shop\nformulas:\n"
	for id, n := range lengths {
		formulas += fmt.Sprintf("  %s: {title: T, expr: 'rolling(visitors, \"%dm\")'}\n", id, n)
	}
	h := f.serve(formulas, end, end)
	for query, step := range map[string]int64{"range=all&step=60": 60, "range=all&step=30": 30, "range=1h&step=60": 60, "range=all&step=5": 5} {
		var page experimentData
		get(t, h, "/shop/page/experiment/x?"+query, 200, &page)
		if page.Chart.Step != step*60 || len(page.Chart.Times) == 0 {
			t.Fatalf("%s: %d points of %d s", query, len(page.Chart.Times), page.Chart.Step)
		}
		for id, n := range lengths {
			for i, at := range page.Chart.Times {
				to := at/60 + step
				want := float64(min(to, end) - max(to-n, begin))
				if got := page.Chart.Series[id][1].Values[i]; got == nil || *got != want {
					t.Errorf("%s, %s up to minute %d: %v, want %v", query, id, to, got, want)
				}
			}
		}
		for _, m := range page.Metrics {
			if got := m.Rows[0].Value; got != float64(lengths[m.ID]) {
				t.Errorf("%s: %s is %v in the table", query, m.ID, got)
			}
		}
	}
}

// What no number can come of is the request's fault, and told.
func TestExplainOfWhatIsNotThere(t *testing.T) {
	f := fill(t, revision{text: guardedConfig})
	h := f.serve(guardedFormulas, 30_060, 30_070)
	right := neturl.Values{"experiment": {"x"}, "scope": {"fm"}, "variation": {"red"}, "metric": {"order.beta"}, "minute": {minuteText(30_000)}}
	get(t, h, "/shop/page/explain?"+right.Encode(), 200, nil)
	for name, values := range map[string][]string{"metric": {"orders"}, "experiment": {"y", ""}, "variation": {"blue", ""}, "scope": {"site", "all"},
		"minute": {"", "-5", "0", "1960-01-01T00:00:00Z", "9223372036854775807"}, "tag.device": {"watch"}, "tag.colour": {"red"}} {
		for _, v := range values {
			wrong := maps.Clone(right)
			if wrong.Set(name, v); v == "" {
				wrong.Del(name)
			}
			var problem struct{ Detail string }
			get(t, h, "/shop/page/explain?"+wrong.Encode(), 400, &problem)
			if !strings.HasPrefix(problem.Detail, ErrRequest.Error()+": ") {
				t.Errorf("%s=%s: %q", name, v, problem.Detail)
			}
		}
	}
}

// A page that asks for too much gets what a request of the API gets: 422, and the limit's name.
func TestLimitsOfPages(t *testing.T) {
	const begin, end = 30_000, 30_060
	f := fill(t, revision{text: guardedConfig})
	f.visit(begin)
	f.put(stream, "x", "fm.visit.beta", begin, both(1, 1)...)
	f.limits.Bytes = 1
	h := f.serve(guardedFormulas, end, end)
	for _, url := range []string{"/shop/page/experiments", "/shop/page/experiment/x", "/shop/download.csv?formula=conversion&experiment=x"} {
		var p serve.Problem
		if get(t, h, url, http.StatusUnprocessableEntity, &p); p.Limit != "bytes" || p.Status != http.StatusUnprocessableEntity || !strings.Contains(p.Detail, "shorter range") {
			t.Errorf("%s: %+v", url, p)
		}
	}
}

// A range that ends before the control was another one is compared with the control of then, by point and in the proof alike.
func TestControlOfThen(t *testing.T) {
	const begin, change, end = 30_000, 30_030, 30_060
	f := fill(t, revision{text: guardedConfig}, revision{strings.Replace(guardedConfig, "{variations: [control, red]}", "{variations: [control, red], control: red}", 1), change})
	f.visit(begin)
	for m := int64(begin); m < end; m++ {
		f.put(stream, "x", "fm.visit.beta", m, both(40, 40)...)
		f.put(stream, "x", "fm.order.beta", m, both(10, 20)...)
	}
	h := f.serve(guardedFormulas, end, end)
	for to, want := range map[int64]string{change: "control", end: "red"} {
		var got struct {
			Control string
			Series  []struct {
				Variation string
				Absolute  []float64
				Proof     *struct{ Difference struct{ Value float64 } }
			}
		}
		body := fmt.Sprintf(`{"formulas":[{"id":"conversion"}],"experiment":"x","compare":true,"step":"all","from":%q,"to":%q}`, minuteText(begin), minuteText(to))
		r := httptest.NewRequest("POST", "/shop", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); json.Unmarshal(w.Body.Bytes(), &got) != nil || got.Control != want || len(got.Series) != 2 {
			t.Fatalf("up to %d: %s", to, w.Body)
		}
		for _, l := range got.Series {
			if is := l.Variation == want; is != (l.Absolute == nil) || is != (l.Proof == nil) || !is && l.Absolute[0] != l.Proof.Difference.Value {
				t.Errorf("up to %d, control %s: %s", to, want, w.Body)
			}
		}
	}
}

// A tenant may have the name of the folder that the pages' files are in: each of its addresses is the tenant's or a file's.
func TestTenantOfTheName(t *testing.T) {
	f := fill(t, revision{text: strings.Replace(guardedConfig, "tenant: shop", "tenant: static", 1)})
	h := f.serve(strings.Replace(guardedFormulas, "tenant: shop", "tenant: static", 1), 30_000, 30_000)
	for url, want := range map[string]string{"/static/page/experiments": `{"closed":`, "/static/download.csv?formula=error_rate": "time,state,", "/static/app.js": "// Which page", "/static": "<!doctype html>"} {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, httptest.NewRequest("GET", url, nil)); w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%s: %d %.200s, want %s", url, w.Code, w.Body, want)
		}
	}
}
