package pages

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func handler(t testing.TB, m *made, refresh time.Duration) http.Handler {
	t.Helper()
	h, err := New(m, refresh, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t testing.TB, h http.Handler, url string, status int, into any) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
	if w.Code != status {
		t.Fatalf("%s: %d, want %d: %s", url, w.Code, status, w.Body)
	}
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v: %s", url, err, w.Body)
		}
	}
	return w.Result()
}

func TestExperiments(t *testing.T) {
	h := handler(t, &made{now: madeNow}, time.Millisecond)
	var got struct {
		Experiments []struct {
			Name, Status string
			Why          []string
			Spark        []float64
			Tests        []struct{ Formula, Variation, State string }
		}
		Closed int64
	}
	get(t, h, "/shop/page/experiments", 200, &got)
	want := map[string]string{"checkout_button": "running", "free_shipping_banner": "running", "new_search": "SRM", "lazy_images": "guardrail failing",
		"one_page_checkout": "unhealthy", "summer_theme": "ended", "gift_wrap": "planned", "recommendations": "no data"}
	if len(got.Experiments) != len(want) || got.Closed != (madeNow-11)*60000 {
		t.Fatalf("%+v", got)
	}
	for _, x := range got.Experiments {
		if x.Status != want[x.Name] {
			t.Errorf("%s is %s, want %s (%v)", x.Name, x.Status, want[x.Name], x.Why)
		}
		if fine := slices.Contains([]string{"running", "ended", "planned"}, x.Status); fine != (len(x.Why) == 0) {
			t.Errorf("%s is %s, why: %q", x.Name, x.Status, x.Why)
		}
		if x.Name == "checkout_button" {
			if len(x.Tests) != 2 || x.Tests[0].Variation != "red" || x.Tests[0].State != "confirmed" || len(x.Spark) != recent {
				t.Errorf("%+v", x)
			}
		}
	}
}

type experimentData struct {
	Status     string
	Closed     int64
	Variations []struct {
		Name     string
		Sessions float64
	}
	Metrics []metricData
	Chart   struct {
		Times             []int64
		Step, Provisional int64
		Series            map[string][]struct{ Values []*float64 }
	}
	Lift struct {
		Times  []int64
		Series []struct{ Diff, Low, High []*float64 }
	}
}

type metricData struct {
	ID, Note string
	Rows     []struct {
		Variation       string
		Value           float64
		Diff, Low, High *float64
		State, Why      string
		P               *float64
		Failing         bool
	}
}

func TestExperiment(t *testing.T) {
	m := &made{now: madeNow}
	h := handler(t, m, time.Millisecond)
	var d, filtered experimentData
	get(t, h, "/shop/page/experiment/checkout_button?range=1h&drill=conversion_rate", 200, &d)
	get(t, h, "/shop/page/experiment/checkout_button?range=1h&tag.device=mobile", 200, &filtered)
	if len(d.Chart.Times) != 60 || d.Chart.Step != 60 || d.Chart.Provisional != (madeNow-11)*60 {
		t.Errorf("chart %d points, step %d, provisional from %d", len(d.Chart.Times), d.Chart.Step, d.Chart.Provisional)
	}
	// What is provisional is drawn and not judged: n ends at the last closed minute.
	x := m.all()[0]
	for v, name := range x.Variations {
		var want float64
		for minute := x.Start / 60000; minute < madeNow-11; minute++ {
			want += float64(x.minute(v, minute, madeNow)["visit.beta"])
		}
		if d.Variations[v].Name != name || d.Variations[v].Sessions != want {
			t.Errorf("%s has %v sessions, want %v", name, d.Variations[v].Sessions, want)
		}
	}
	if filtered.Variations[0].Sessions >= d.Variations[0].Sessions/2 {
		t.Error("a tag filter changed nothing")
	}
	red := d.Metrics[0].Rows[0]
	if red.Low == nil || *red.Low <= 0 || *red.Diff < .1 || red.State != "confirmed" {
		t.Errorf("a lift of 28 %% is not told: %+v", red)
	}
	for _, m := range d.Metrics {
		if m.ID == "orders" && (m.Rows[0].Low != nil || m.Rows[0].Why == "") {
			t.Errorf("a formula that is for charts only has an interval: %+v", m.Rows[0])
		}
	}
	last := len(d.Lift.Times) - 1
	if last < 90 || d.Lift.Times[last] != (madeNow-11)*60 || *d.Lift.Series[0].Low[last] != *red.Low {
		t.Errorf("the lift's last point, at %d, is not the table's interval", d.Lift.Times[last])
	}
	if len(d.Chart.Series) != 5 {
		t.Errorf("%d series", len(d.Chart.Series))
	}
	m.extra.Store(true)
	get(t, h, "/shop/page/experiment/checkout_button", 200, &d)
	if len(d.Chart.Series["aov"]) != 3 {
		t.Error("a new formula is no chart")
	}
	// Before anything has come, and before it starts.
	for _, name := range []string{"gift_wrap", "recommendations"} {
		get(t, h, "/shop/page/experiment/"+name+"?range=all&drill=conversion_rate", 200, &experimentData{})
	}
}

// Numbers are told whole: sessions by the millions, revenue to the cent.
func TestNumbersAreWhole(t *testing.T) {
	got, err := json.Marshal(nums([]float64{12_345_678, 12_345_678.91, 0.1, math.NaN(), math.Inf(1)}))
	if err != nil {
		t.Fatal(err)
	}
	var back []*float64
	if err := json.Unmarshal(got, &back); err != nil || *back[0] != 12_345_678 || *back[1] != 12_345_678.91 || *back[2] != 0.1 || back[3] != nil || back[4] != nil {
		t.Errorf("%s: %v", got, err)
	}
}

// ones is a Reader with one session in each minute, in two variations of which the second begins at minute 60.
type ones struct{ Reader }

func (ones) Read(_ context.Context, q Query) (*Answer, error) {
	a := &Answer{Sums: map[Key][]float64{}}
	for minute := q.From; minute < q.To; minute++ {
		for name, from := range map[string]int64{"a": 0, "b": 60} {
			k := Key{Variation: name, Base: q.Bases[0]}
			if minute >= from && a.Sums[k] == nil {
				a.Sums[k] = make([]float64, (q.To-q.From+q.Step-1)/q.Step)
			}
			if minute >= from {
				a.Sums[k][(minute-q.From)/q.Step]++
			}
		}
	}
	return a, nil
}

// Buckets begin on multiples of the step, and the first has nothing of what was before the phase.
func TestFirstBucketIsOfThePhase(t *testing.T) {
	for _, c := range []struct {
		from, to int64
		a, b     []float64
	}{{37, 100, []float64{23, 30, 10}, []float64{0, 30, 10}}, {37, 50, []float64{13}, nil}, {30, 60, []float64{30}, nil}, {61, 90, []float64{29}, []float64{29}}} {
		got, err := readFrom(t.Context(), ones{}, Query{Bases: []Base{{Metric: "m"}}, From: c.from, To: c.to, Step: 30})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]float64{"a": c.a, "b": c.b} {
			if row := got.Sums[Key{name, Base{Metric: "m"}}]; !slices.Equal(row, want) {
				t.Errorf("minutes %d to %d of %s: %v, want %v", c.from, c.to, name, row, want)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	m := &made{now: madeNow}
	h := handler(t, m, time.Millisecond)
	for url, status := range map[string]int{
		"/nobody/page/experiments": 404, "/shop/page/experiment/nothing": 404, "/shop/page/experiment/checkout_button?drill=nothing": 404,
		"/shop/page/experiment/checkout_button?scope=site": 400, "/shop/page/experiment/checkout_button?range=2y": 400, "/shop/page/experiment/checkout_button?step=7": 400,
		"/shop/page/experiment/checkout_button?tag.device=watch": 400, "/shop/page/experiment/checkout_button?tag.colour=red": 400,
		"/shop/page/explain": 400, "/shop/page/explain?session=nobody": 404, "/shop/page/explain?metric=order&minute=noon": 400, "/shop/page/nothing": 404, "/shop/nothing": 404,
		"/shop/page/experiment/checkout_button?tag.device=mobile&tag.device=desktop": 400, "/shop/page/experiment/checkout_button?range=1h&range=6h": 400, "/shop/page/explain?session=a&session=b": 400,
	} {
		var problem struct {
			Status int
			Detail string
		}
		r := get(t, h, url, status, &problem)
		if problem.Status != status || problem.Detail == "" || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %+v", url, problem)
		}
	}
	m.broken.Store(true)
	var problem struct{ Detail string }
	if get(t, h, "/shop/page/experiments", 500, &problem); strings.Contains(problem.Detail, "yaml") || !strings.Contains(problem.Detail, "log") {
		t.Errorf("what has failed is told to readers: %q", problem.Detail)
	}
}

func TestFrames(t *testing.T) {
	h := handler(t, &made{now: madeNow}, time.Minute)
	ask := func(path, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for path, frame := range map[string]bool{"/": true, "/shop": true, "/shop/operations": true, "/shop/explain": true, "/shop/experiment/x": true, "/static/app.js": true, "/shop/": true,
		"/shop/page/experiments": false, "/shop/page/operations": false, "/shop/page/experiment/checkout_button": false} {
		if Frame(path) != frame {
			t.Errorf("%s is a frame: %v", path, !frame)
		}
		r := get(t, h, path, 200, nil)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") == frame {
			t.Errorf("%s has type %s", path, r.Header.Get("Content-Type"))
		}
	}
	w := ask("/", "application/json")
	if w.Body.String() != `{"tenants":["shop","outlet"]}` {
		t.Errorf("tenants: %s", w.Body)
	}
	// An address that no page has gives a browser the frame, which says so, and needs no token for it.
	for _, path := range []string{"/shop/nothing", "/shop/experiment", "/shop/operations/x", "/a/b/c/d"} {
		w := ask(path, "text/html,application/xhtml+xml,*/*;q=0.8")
		if !Frame(path) || w.Code != 404 || !strings.Contains(w.Body.String(), `id="main"`) || w.Header().Get("ETag") != "" {
			t.Errorf("%s: frame %v, %d %s", path, Frame(path), w.Code, w.Body)
		}
	}
}

func TestPromote(t *testing.T) {
	m := &made{now: madeNow}
	h := handler(t, m, time.Minute)
	for _, c := range []struct {
		kind, body string
		status     int
	}{
		{"text/plain", `{"layer":"stream.dc2"}`, 400}, {"application/json", `{}`, 400}, {"application/json", `{"layer":"stream.dc9"}`, 404}, {"application/json", `{"layer":"stream.dc2"}`, 200},
	} {
		r := httptest.NewRequest("POST", "/shop/page/promote", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got, _ := m.promoted.Load().(string); w.Code != c.status || (got == "stream.dc2") != (c.status == 200) {
			t.Errorf("%s %s: %d, want %d", c.kind, c.body, w.Code, c.status)
		}
	}
}

// TestWeight: all that a page loads, its largest data included, stays below 300 kB, and no page has an inline script.
func TestWeight(t *testing.T) {
	m := &made{now: madeNow}
	m.extra.Store(true)
	h := handler(t, m, time.Minute)
	fetch := func(url string) (n int, body string) {
		r := httptest.NewRequest("GET", url, nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		n = w.Body.Len()
		z, err := gzip.NewReader(w.Body)
		if err != nil || w.Code != 200 {
			t.Fatalf("%s: %d, %v", url, w.Code, err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if w.Header().Get("Content-Security-Policy") != policy {
			t.Errorf("%s: no policy", url)
		}
		return n, string(data)
	}
	total, page := fetch("/shop/experiment/checkout_button")
	seen := map[string]bool{}
	var load func(text string)
	load = func(text string) {
		for _, name := range regexp.MustCompile(`(?:src|href)="/(static/[^"]+)"|from '\./([^']+)'`).FindAllStringSubmatch(text, -1) {
			url := "/" + name[1]
			if name[2] != "" {
				url = "/static/" + name[2]
			}
			if seen[url] {
				continue
			}
			seen[url] = true
			n, body := fetch(url)
			total += n
			load(body)
		}
	}
	load(page)
	if regexp.MustCompile(`<script[^>]*>[^<]|\son[a-z]+=|style=`).MatchString(page) {
		t.Error("inline script or style")
	}
	data, _ := fetch("/shop/page/experiment/checkout_button?range=24h&step=1&drill=conversion_rate")
	t.Logf("%d files, %d bytes; data of the heaviest page %d bytes", len(seen), total, data)
	if len(seen) < 10 || total+data > 300_000 {
		t.Errorf("%d files of %d bytes and data of %d bytes", len(seen), total, data)
	}
}
