package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/parquet/file"

	"tandem/batch"
	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/prom"
	"tandem/jobs/serve/read"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/traffic"
)

const testFormulas = `version: 1
tenant: shop
params:
  mp: {default: home}
formulas:
  sessions: {title: Sessions, expr: visit.beta}
  orders: {title: Orders, expr: order}
  value: {title: Value, expr: order.revenue / orders}
  seen: {title: Seen, expr: 'rolling(visitors, "1h")'}
  reach: {title: "Reach ${mp}", expr: 'hits("${mp}") / sessions'}
  steady: {title: Orders of a session, expr: order / sessions, minimum: 500}
  middle: {title: Median, expr: 'quantile(order.revenue, 0.5)', unit: currency, description: Half of the orders are below.}
`

// testServer serves a world as two tenants, of which the tokens see one, both or none.
func testServer(t testing.TB, limits Limits) (h http.Handler, w *world, tokens map[string]string) {
	t.Helper()
	return testServerOf(t, rand.New(rand.NewPCG(3, 3)), limits)
}

func testServerOf(t testing.TB, rnd *rand.Rand, limits Limits) (h http.Handler, w *world, tokens map[string]string) {
	t.Helper()
	w = newWorld(t, rnd)
	h, tokens = serverOver(t, w.st, limits, read.DefaultLimits())
	return h, w, tokens
}

// serverOver serves a store.
func serverOver(t testing.TB, st store.Store, limits Limits, each read.Limits) (h http.Handler, tokens map[string]string) {
	t.Helper()
	r, err := formula.Load("test", []byte(testFormulas))
	must(t, err)
	shop := &Tenant{Chain: testChain(t), Formulas: r}
	now := time.Unix(1_800_000_000, 0)
	tokens = map[string]string{}
	file := "tokens:\n"
	for _, one := range []struct {
		name, tenant, role string
		days               int
	}{{"one", "shop", RoleRead, 1}, {"other", "other", RoleRead, 1}, {"all", "*", RoleAdmin, 1}, {"old", "*", RoleAdmin, 0}} {
		token, entry, err := NewToken(one.name, []string{one.tenant}, one.role, now.AddDate(0, 0, one.days))
		must(t, err)
		tokens[one.name], file = token, file+entry
	}
	all, err := ParseTokens([]byte(file))
	must(t, err)
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "page of ", FromContext(r.Context()).Tenants)
	})
	return NewHandler(Config{
		Reader: read.New(st, read.Options{Limits: each, Now: never}),
		Tenant: func(name string) *Tenant {
			if name == "shop" || name == "other" {
				return shop
			}
			return nil
		},
		Tenants: func() []string { return []string{"shop", "other"} },
		Tokens:  func() *Tokens { return all }, Limits: limits, Pages: pages, Prom: asPrometheus(prom.DefaultLimits()), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	}), tokens
}

func asPrometheus(l prom.Limits) http.Handler {
	work := func(r *http.Request) (func(), error) { return FromContext(r.Context()).Work(r.Context()) }
	repository := func(r *http.Request) *formula.Repository { return FromContext(r.Context()).Tenant.Formulas }
	return prom.New(prom.Config{Fail: Fail, Work: work, Formulas: repository, Now: time.Now, Limits: l, Resolve: func(r *http.Request) (*read.Resolved, error) {
		return FromContext(r.Context()).Resolve(r.Context())
	}})
}

func call(h http.Handler, method, path, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Another tenant's things and absent ones are answered alike, to the byte.
func TestAccess(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	body := `{"formulas":[{"id":"orders"}]}`
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{"/shop", "", 401}, {"/shop", "tandem_wrong", 401}, {"/shop", tokens["old"], 401}, {"/nobody", "", 401},
		{"/shop", tokens["one"], 200}, {"/shop", tokens["all"], 200}, {"/other", tokens["all"], 200},
		{"/shop", tokens["other"], 404}, {"/other", tokens["one"], 404}, {"/nobody", tokens["one"], 404}, {"/nobody", tokens["all"], 404},
	} {
		got := call(h, "POST", c.path, c.token, body)
		if got.Code != c.status {
			t.Errorf("%s: %d, not %d: %s", c.path, got.Code, c.status, got.Body)
		}
	}
	for _, path := range []string{"", "/download.csv?formula=orders", "/download.parquet", "/api/v1/query", "/api/v1/read", "/page/experiments", "/page/promote", "/x/y"} {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
			foreign, absent := call(h, method, "/other"+path, tokens["one"], body), call(h, method, "/nobody"+path, tokens["one"], body)
			if foreign.Code != 404 || foreign.Body.String() != absent.Body.String() || !reflect.DeepEqual(foreign.Header(), absent.Header()) {
				t.Errorf("%s %s: %d %v %s, an absent tenant's is %d %v %s", method, path, foreign.Code, foreign.Header(), foreign.Body, absent.Code, absent.Header(), absent.Body)
			}
		}
	}
	if got := call(h, "GET", "/", tokens["one"], "").Body.String(); got != "page of [shop]" {
		t.Errorf("the front page lists %q", got)
	}
	if got := call(h, "POST", "/shop/promote", tokens["one"], "{}"); got.Code != 403 {
		t.Errorf("an act of an admin with a token to read: %d", got.Code)
	}
}

// Metrics name tenants: they are told to those who may see all of them, and to nobody else.
func TestMetricsAccess(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	for name, want := range map[string]int{"": 401, "old": 401, "one": 403, "all": 200} {
		got := call(h, "GET", "/metrics", tokens[name], "")
		if told := strings.Contains(got.Body.String(), `tenant="other"`); got.Code != want || told != (want == 200) {
			t.Errorf("with token %q: %d, not %d: %s", name, got.Code, want, got.Body)
		}
	}
}

// Who scrapes serve sees how far the batch has covered a tenant, and how far readers miss nothing.
func TestMetricsOfCoverage(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(t.Context(), testChain(t))
	must(t, err)
	covered := x.View.Windows[len(x.View.Windows)-1].To
	got := call(h, "GET", "/metrics", tokens["all"], "").Body.String()
	for name, minute := range map[string]int64{"complete": x.CompleteThrough, "covered": covered} {
		if want := fmt.Sprintf("tandem_serve_%s_timestamp_seconds{tenant=\"shop\"} %v\n", name, float64(minute*60)); minute == 0 || !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// What another site makes a browser ask for, with the cookie that the browser has, is refused where it acts.
func TestCrossSite(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	for site, want := range map[string]int{"same-origin": 200, "cross-site": 403} {
		r := httptest.NewRequest("POST", "/shop/promote", nil)
		r.AddCookie(&http.Cookie{Name: tokenCookie, Value: tokens["all"]})
		r.Header.Set("Sec-Fetch-Site", site)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %s: %d, not %d", site, w.Code, want)
		}
	}
}

func TestTenantLimits(t *testing.T) {
	h, _, tokens := testServer(t, Limits{Concurrent: 2, Working: 1, PerSecond: 0.1, Burst: 3, Body: 100})
	var got *httptest.ResponseRecorder
	for range 4 {
		got = call(h, "POST", "/shop", tokens["all"], `{"formulas":[{"id":"orders"}]}`)
	}
	if got.Code != 429 || got.Header().Get("Retry-After") != "10" || !strings.Contains(got.Body.String(), `"limit":"rate"`) {
		t.Errorf("the fourth of three: %d, after %q: %s", got.Code, got.Header().Get("Retry-After"), got.Body)
	}
	if got := call(h, "POST", "/other", tokens["all"], `{"formulas":[{"id":"orders"}]}`); got.Code != 200 {
		t.Errorf("another tenant has to wait too: %d", got.Code)
	}
	if got := call(h, "POST", "/other", tokens["all"], `{"formulas":[{"expr":"`+strings.Repeat("1+", 100)+`1"}]}`); got.Code != 413 {
		t.Errorf("a body of more than 100 bytes: %d", got.Code)
	}
	g := newGates(Limits{Concurrent: 1, PerSecond: 1, Burst: 10})
	_, leave, err := g.enter("a", time.Unix(0, 0))
	must(t, err)
	if _, _, err := g.enter("a", time.Unix(0, 0)); err == nil {
		t.Error("two at once where one may be")
	}
	leave()
	if _, _, err := g.enter("a", time.Unix(0, 0)); err != nil {
		t.Error(err)
	}
}

// A formula is a ratio of sums, whatever the step, and equals the same made of what export tells.
func TestFormulasOverHTTP(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	from, to := w.base, w.base+worldMinutes
	b := Batch{Formulas: []Ask{{ID: "value"}, {ID: "seen"}, {Expr: "order.revenue"}, {ID: "nobody"}}, Experiment: "x", From: stamp(from), To: stamp(to),
		Step: "1h", GroupBy: []string{"device"}, Filter: map[string][]string{"login": {"true"}}, Compare: true}
	body, err := json.Marshal(b)
	must(t, err)
	got := call(h, "POST", "/shop", tokens["one"], string(body))
	var out struct {
		Series []struct {
			Formula, Variation string
			Tags               map[string]string
			Values             []*float64
			Absolute           []*float64
		}
		Warnings []Warning
		Times    []int64
	}
	must(t, json.Unmarshal(got.Body.Bytes(), &out))
	q := read.Query{Experiment: "x", Metrics: []string{"fm.order", "fm.order.revenue"}, From: from / 60 * 60, To: (to + 59) / 60 * 60, Step: 60, GroupBy: b.GroupBy, Filter: b.Filter}
	sums := w.naive(t, q)
	q.Metrics, q.Rolling = []string{"fm.visitors"}, 60
	visitors := w.naive(t, q)
	checked := 0
	for _, s := range out.Series {
		key := "|" + s.Variation + "|" + s.Tags["device"]
		for p := range out.Times {
			value := func(of map[string][]int64, name string) float64 {
				if all := of[name+key]; all != nil {
					return float64(all[p])
				}
				return 0
			}
			var want *float64
			set := func(v float64) { want = &v }
			orders, revenue := value(sums, "fm.order"), value(sums, "fm.order.revenue")/100
			switch {
			case s.Formula == "value" && orders != 0:
				set(revenue / orders)
			case s.Formula == "order.revenue":
				set(revenue)
			case s.Formula == "seen":
				set(value(visitors, "fm.visitors"))
			}
			if !reflect.DeepEqual(s.Values[p], want) {
				t.Errorf("%s %s point %d: %v, not %v", s.Formula, key, p, s.Values[p], want)
			}
			checked++
		}
		if (s.Variation == "control") != (s.Absolute == nil) {
			t.Errorf("%s of %s has differences %v", s.Formula, s.Variation, s.Absolute)
		}
	}
	if checked < 50 || len(out.Warnings) != 1 || out.Warnings[0].Formula != "nobody" {
		t.Errorf("%d values, warnings %+v", checked, out.Warnings)
	}
}

// What is small to ask for and large to answer is refused by a limit's name.
func TestBombs(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	rolling := "0"
	for m := range 30 {
		rolling += fmt.Sprintf(` + rolling(visitors, "%dm")`, m+1)
	}
	// Each of the asks is written out to some thousand operations.
	heavy := fmt.Sprintf("%s[%s]", `{"formulas":`, strings.TrimSuffix(strings.Repeat(`{"expr":"order+`+strings.TrimSuffix(strings.Repeat("1+", 450), "+")+`"},`, 100), ","))
	from, to := stamp(w.base), stamp(w.base+worldMinutes)
	for body, limit := range map[string]string{
		fmt.Sprintf(`{"formulas":[{"expr":%q}],"from":%q,"to":%q}`, rolling, from, to):                                         "rollings",
		heavy + fmt.Sprintf(`,"experiment":"x","from":%q,"to":%q,"step":"1m","groupBy":["device","login"]}`, from, to):         "work",
		fmt.Sprintf(`{"formulas":[{"id":"orders"}],"from":%q,"to":"9999-01-01T00:00:00Z","step":"1m"}`, from):                  "points",
		`{"formulas":[{"id":"orders"}],"from":"1970-01-01T00:00:00Z","to":"9999-01-01T00:00:00Z","step":"1000000d"}`:           "",
		`{"formulas":[{"id":"seen"}],"from":"1970-01-01T00:00:00Z","to":"9999-01-01T00:00:00Z","step":"all","experiment":"x"}`: "points",
	} {
		got := call(h, "POST", "/shop", tokens["one"], body)
		var p Problem
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil || got.Code < 400 || got.Code >= 500 || p.Limit != limit {
			t.Errorf("%.200s: %d %.300s, want limit %q", body, got.Code, got.Body, limit)
		}
	}
}

// The limits of a request hold for all that it is answered by together.
func TestLimitsAreOfTheWholeRequest(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 2)))
	l := read.DefaultLimits()
	l.Series = 9
	x, err := read.New(w.st, read.Options{Limits: l, Now: never}).Resolve(t.Context(), testChain(t))
	must(t, err)
	budget := x.Budget()
	var limit *read.LimitError
	for n := range 4 {
		_, err := x.Ranges(t.Context(), budget, []read.Query{{Experiment: "x", Metrics: []string{"fm.order"}, From: w.base, To: w.base + worldMinutes, Step: 60}})
		if refused := errors.As(err, &limit); refused != (n == 3) || refused && limit.Name != "series" {
			t.Errorf("query %d of three series each: %v", n, err)
		}
	}
}

func TestWrongRequests(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	for body, detail := range map[string]string{
		`{`: "unexpected EOF", `{"formulas":[]}`: "0 formulas", `{"what":1}`: "unknown field", `{"formulas":[{"id":"orders"}]} 1`: "after the object",
		`{"formulas":[{"id":"orders"}],"experiment":"y"}`:                                                      `no experiment`,
		`{"formulas":[{"id":"orders"}],"step":"0m"}`:                                                           "step",
		`{"formulas":[{"id":"orders"}],"step":"m"}`:                                                            "step",
		`{"formulas":[{"id":"orders"}],"from":"2026-01-01T00:00:30Z"}`:                                         "full minute",
		`{"formulas":[{"id":"orders"}],"from":"1960-01-01T00:00:00Z"}`:                                         `from "1960-01-01T00:00:00Z" is before the first minute that there is, 1970-01-01T00:00:00Z`,
		`{"formulas":[{"id":"orders"}],"groupBy":["device","device"]}`:                                         "twice",
		`{"formulas":[{"id":"orders"}],"filter":{"shop":["x"]}}`:                                               "no tag",
		`{"formulas":[{"id":"orders"}],"filter":{"device":["mobil"]}}`:                                         `no value "mobil"; it has none, other, `,
		`{"formulas":[{"id":"orders"}],"compare":true}`:                                                        "of an experiment",
		`{"formulas":[{"id":"orders"}],"from":"9000-01-01T00:00:00Z"}`:                                         "up to which the view is complete",
		`{"formulas":[{"id":"orders"}],"scope":"fm"}`:                                                          "scope",
		`{"formulas":[{"id":"orders"}],"to":"9999-01-01T00:00:00Z","from":"1970-01-01T00:00:00Z","step":"1m"}`: "limit",
	} {
		got := call(h, "POST", "/shop", tokens["one"], body)
		var p Problem
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil || got.Code < 400 || got.Code >= 500 || p.Status != got.Code || !strings.Contains(p.Detail, detail) ||
			got.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %.200s, want something of %q", body, got.Code, got.Body, detail)
		}
	}
}

func TestCSV(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	got := call(h, "GET", "/shop/download.csv?formula=orders&step=all&experiment=x&groupBy=device&from="+stamp(w.base)+"&to="+stamp(w.base+60), tokens["one"], "")
	lines := strings.Split(strings.TrimSpace(got.Body.String()), "\n")
	if got.Code != 200 || len(lines) < 4 || lines[0] != "time,state,formula,variation,device,value" || strings.Count(lines[1], ",") != 5 {
		t.Errorf("%d %q", got.Code, lines)
	}
}

// A Parquet download has as many lines as the CSV; what is in them the table's own test says.
func TestParquet(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	query := "?formula=orders&step=30m&experiment=x&groupBy=device&from=" + stamp(w.base) + "&to=" + stamp(w.base+120)
	csv, got := call(h, "GET", "/shop/download.csv"+query, tokens["one"], ""), call(h, "GET", "/shop/download.parquet"+query, tokens["one"], "")
	pr, err := file.NewParquetReader(bytes.NewReader(got.Body.Bytes()))
	must(t, err)
	if n := strings.Count(csv.Body.String(), "\n") - 1; n < 12 || pr.NumRows() != int64(n) || pr.MetaData().Schema.NumColumns() != 6 {
		t.Errorf("%d lines, %d in the CSV", pr.NumRows(), n)
	}
}

// Formulas are listed as metrics with what the repository says of them.
func TestFormulasAsMetrics(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	for path, want := range map[string]string{
		"metadata?metric=formula:middle":                 `{"formula:middle":[{"help":"Median: Half of the orders are below. (quantile(order.revenue, 0.5))","type":"gauge","unit":"currency"}]}`,
		"metadata":                                       `"formula:orders"`,
		"label/__name__/values":                          `"formula:reach"`,
		"label/experiment/values?match[]=formula:orders": `["x"]`,
		"label/__name__/values?match[]=%7Bexperiment=%22x%22,over=%221h%22%7D": `["formula:middle","formula:orders"`,
		"query?query=formula:orders%7Bover=%2230s%22%7D":                       `as over=\"5m\"`,
		"query?query=formula:orders%7Bover=~%221h%22%7D":                       `as over=\"5m\"`,
		"query?query=formula:orders%7Bover=%2232d%22%7D":                       `as over=\"5m\"`,
		"query?query=formula:nobody":                                           `"result":[]`,
		"query?query=site:order%7Bover=%221h%22%7D&time=1822000":               `"result":[]`,
	} {
		if got := call(h, "GET", "/shop/api/v1/"+path, tokens["one"], ""); !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", path, got.Code, got.Body, want)
		}
	}
}

// A formula counts under each matcher what the metric that it is of counts under it, divided by the tag, unless it leaves nothing out.
func TestMatchersOfFormulas(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(t.Context(), testChain(t))
	must(t, err)
	from, to := x.Span() // beyond it there are no values of formulas
	for matchers, divided := range map[string]bool{
		`device!="mobile"`: true, `device!~"mobile|none"`: true, `device=~"|mobile"`: true, `device!="desktop",device=~".*"`: true, `device!="nobody"`: true,
		`device=~".+"`: true, `device=""`: true, `device!="mobile",login="true"`: true, `device=~".*"`: false, `device=~"|desktop|mobile|none|other"`: false,
	} {
		by := "variation,login"
		if divided {
			by += ",device"
		}
		if !strings.Contains(matchers, "login") {
			by = strings.Replace(by, ",login", "", 1)
		}
		ask := func(query string) map[string][][2]any {
			result, err := queryRange(h, tokens["one"], query, &read.Query{From: from, To: to, Step: 1})
			must(t, err)
			all := map[string][][2]any{}
			for _, s := range result {
				all[fmt.Sprint(s.Metric["variation"], s.Metric["device"], s.Metric["login"])] = s.Values
			}
			return all
		}
		want := ask(fmt.Sprintf(`sum by (%s) (fm:order{experiment="x",%s}) != 0`, by, matchers))
		got := ask(fmt.Sprintf(`formula:orders{experiment="x",%s} != 0`, matchers))
		if !reflect.DeepEqual(got, want) || len(want) == 0 && matchers != `device=""` {
			t.Errorf("%s: %d series, not %d, or of other values", matchers, len(got), len(want))
		}
	}
}

// Of a layer alone a formula has samples of what that layer has covered or closed, of which all are, and no zeros of what it has not.
func TestFormulasOfALayerAlone(t *testing.T) {
	h, w, tokens := testServer(t, DefaultLimits())
	v, err := batch.View(t.Context(), w.st, "shop")
	must(t, err)
	begin, closed := w.base+20, w.base+130
	visit, err := row.Append(nil, row.Sums, []row.Cell{{Tags: "device=mobile,login=true", Value: 1}})
	must(t, err)
	must(t, w.st.PutRows(t.Context(), []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visit", Layer: v.Active}, Minute: begin, Value: visit}}))
	must(t, w.st.PutProgress(t.Context(), store.Progress{Layer: v.Active, Tenant: "shop", ClosedBefore: closed}))
	covered := func(from, to int64) bool {
		for m := from; m < to; m++ {
			if _, ok := v.Layer(m); !ok {
				return false
			}
		}
		return true
	}
	seen := map[bool]int{}
	for query, has := range map[string]func(minute int64) bool{
		`orders{source="batch",`:             func(m int64) bool { return covered(m, m+1) },
		`orders{source="batch",over="45m",`:  func(m int64) bool { return covered(m-44, m+1) },
		`seen{source="batch",`:               func(m int64) bool { return covered(m-59, m+1) }, // it is of an hour by itself
		`orders{source="stream",`:            func(m int64) bool { return m >= begin && m < closed },
		`orders{source="stream",over="45m",`: func(m int64) bool { return m >= begin && m < closed },
	} {
		q := read.Query{From: w.base - 60, To: w.base + worldMinutes + 60, Step: 1}
		result, err := queryRange(h, tokens["one"], "formula:"+query+`experiment="x",variation="red"}`, &q)
		must(t, err)
		got := map[int64]bool{}
		for _, s := range result {
			for _, sample := range s.Values {
				got[int64(sample[0].(float64))/60-1] = true
			}
		}
		for m := q.From; m < q.To; m++ {
			if got[m] != has(m) {
				t.Fatalf("%s: minute %d has a sample: %t", query, m-w.base, got[m])
			}
			seen[has(m)]++
		}
	}
	if seen[true] < 100 || seen[false] < 100 {
		t.Errorf("samples by whether there has to be one: %v", seen)
	}
}

func TestBuiltinFormulas(t *testing.T) {
	for points, want := range map[string]string{
		"{page: {}, home: {kind: page}}":                    "page",
		"{cart: {}, home: {kind: page}, end: {kind: page}}": "home",
		"{cart: {}, order: {}}":                             "cart",
	} {
		cfg, err := tenant.Load("shop.yaml", []byte("tenant: shop\npoints: "+points+"\n"))
		must(t, err)
		chain, err := tenant.Compile([]*tenant.Config{cfg})
		must(t, err)
		if got := AnyFormulas(chain).Params["mp"].Default; got != want {
			t.Errorf("points %s: the parameter is %q, want %q", points, got, want)
		}
	}
	if _, err := formula.Load("shop", traffic.Formulas()); err != nil {
		t.Error(err)
	}
}

func TestAuditLog(t *testing.T) {
	var b bytes.Buffer
	must(t, NewAuditLog(&b).Note(Act{Who: "a\nb", Act: "promote"}))
	var act Act
	if err := json.Unmarshal(b.Bytes(), &act); err != nil || strings.Count(b.String(), "\n") != 1 || act.Who != "a\nb" {
		t.Errorf("%q %v", b.String(), err)
	}
}

// Answers of a tenant are worked out so many at a time; the next waits for its turn, and another tenant does not.
func TestTurns(t *testing.T) {
	g := newGates(Limits{Concurrent: 10, Working: 1, PerSecond: 100, Burst: 100})
	request := func(name string) *Request {
		work, leave, err := g.enter(name, time.Unix(0, 0))
		must(t, err)
		t.Cleanup(leave)
		return &Request{Tenant: &Tenant{}, work: work}
	}
	one, two, other := request("a"), request("a"), request("b")
	done, err := one.Work(t.Context())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := two.Work(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one at once: %v", err)
	}
	third, err := other.Work(t.Context())
	must(t, err)
	third()
	done()
	again, err := two.Work(t.Context())
	must(t, err)
	again()
	if done, err := (&Request{}).Work(t.Context()); err != nil {
		t.Error(err)
	} else {
		done()
	}
}

// What is wrong in a tokens file is told with its line, or its token.
func TestTokensFileTellsWhere(t *testing.T) {
	_, good, err := NewToken("good", []string{"shop"}, RoleRead, time.Unix(1_800_000_000, 0))
	must(t, err)
	expiring := func(at string) string {
		_, entry, err := NewToken("bad", []string{"shop"}, RoleRead, time.Unix(1_800_000_000, 0))
		must(t, err)
		return strings.Replace(entry, "2027-01-15T08:00:00Z", at, 1)
	}
	for _, c := range []struct{ entry, want string }{
		{expiring("soon"), `token "bad": expires "soon" is not a time as 2027-01-31T00:00:00Z`},
		{expiring("2027"), `token "bad": expires "2027" is not a time as `},
		{expiring("[soon]"), "cannot unmarshal !!seq into time.Time"},
		{expiring(""), `token "bad": no expires`},
		{expiring("soon") + "      tenants: []\n", "already defined"},
	} {
		text := "tokens:\n" + good + c.entry
		_, err := ParseTokens([]byte(text))
		line := 1 + strings.Count(text[:strings.LastIndex(text, "expires:")], "\n")
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(c.want, "is not a time") && !strings.HasPrefix(err.Error(), fmt.Sprintf("line %d: ", line)) {
			t.Errorf("%s\n%v\nwant line %d, %s", text, err, line, c.want)
		}
	}
	if _, err := ParseTokens([]byte("token: []\n")); err == nil || !strings.Contains(err.Error(), "line 1: field token not found in type serve.tokens") {
		t.Errorf("a key that is none: %v", err)
	}
	if _, err := ParseTokens([]byte("tokens:\n" + expiring("2027-01-31"))); err != nil {
		t.Errorf("a day: %v", err)
	}
}
