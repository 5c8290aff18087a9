package prom

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"

	"tandem/batch"
	"tandem/core/formula"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/serve/read"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// served is a random world's store behind the API.
type served struct {
	chain *tenant.Chain
	st    store.Store
	url   string
}

// epoch is the clock by which rows expire: before all of them.
func epoch() time.Time { return time.UnixMilli(0) }

func serveWorld(t testing.TB, seed uint64, l Limits) *served {
	return serveFormulas(t, seed, l, nil)
}

func serveFormulas(t testing.TB, seed uint64, l Limits, formulas *formula.Repository) *served {
	t.Helper()
	ctx := context.Background()
	w := worlds.Generate(seed)
	_, chain, err := w.Compile()
	if err != nil {
		t.Fatal(err)
	}
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	p, err := embedded.Open(ctx, embedded.Defaults(), chain, embedded.NewMemory(), blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	var raws []embedded.Raw
	for _, r := range w.Records {
		raws = append(raws, embedded.Raw{Ingest: r.Ingest, Payload: r.Payload})
	}
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return int(a.Ingest - b.Ingest) })
	half := len(raws) / 2
	for _, some := range [][]embedded.Raw{raws[:half], raws[half:]} { // the batch covers a part only
		if err := p.Feed(ctx, some); err != nil {
			t.Fatal(err)
		}
		if err := p.Pump(ctx); err != nil {
			t.Fatal(err)
		}
		if len(some) == half {
			if err := p.Job().Run(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: epoch})
	a := New(Config{Limits: l, Formulas: func(*http.Request) *formula.Repository { return formulas }, Work: func(*http.Request) (func(), error) { return func() {}, nil }, Now: time.Now, Resolve: func(r *http.Request) (*read.Resolved, error) { return reader.Resolve(r.Context(), chain) },
		Fail: func(w http.ResponseWriter, err error) { http.Error(w, err.Error(), http.StatusTeapot) }})
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	return &served{chain, st, s.URL + "/t"}
}

// lines are those of export, by "metric experiment variation tags minute".
func (s *served) lines(t testing.TB) map[string]int64 {
	t.Helper()
	v, err := batch.View(t.Context(), s.st, s.chain.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	err = embedded.Values(t.Context(), s.st, s.chain.Tenant, 0, store.MaxMinute, func(layer string, minute int64) bool {
		stands, _ := v.Layer(minute)
		return layer == stands
	}, func(x *embedded.Value) error {
		if x.Value != 0 {
			all[fmt.Sprintf("%s %s %s %s %d", MetricName(x.Scope+"."+x.Metric), x.Experiment, x.Variation, x.Tags, x.Minute)] = x.Value
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sample is a sample under the name that lines gives it.
func (s *served) key(m model.Metric, ms int64) string {
	var tags []string
	names := map[string]bool{}
	for i := range s.chain.Revs {
		for _, tag := range s.chain.Revs[i].Config.Tags {
			names[tag.Name] = true
		}
	}
	for name := range names {
		if v, ok := m[model.LabelName(TagLabel(name))]; ok {
			tags = append(tags, name+"="+string(v))
		}
	}
	slices.Sort(tags)
	return fmt.Sprintf("%s %s %s %s %d", m[model.MetricNameLabel], m["experiment"], m["variation"], strings.Join(tags, ","), ms/60_000-1)
}

// TestEqualsExport: what the Prometheus project's own client gets of any range is what export gives, value by value.
func TestEqualsExport(t *testing.T) {
	checked := 0
	for seed := uint64(1); seed <= 12; seed++ {
		s := serveWorld(t, seed, DefaultLimits())
		want := s.lines(t)
		if len(want) == 0 {
			continue
		}
		r := rand.New(rand.NewPCG(seed, 7))
		lo, hi := int64(1)<<60, int64(0)
		for k := range want {
			var m int64
			fmt.Sscan(k[strings.LastIndexByte(k, ' ')+1:], &m)
			lo, hi = min(lo, m), max(hi, m+1)
		}
		if hi-lo > 8_000 {
			continue
		}
		if r.IntN(2) == 0 {
			lo += r.Int64N(hi - lo)
			hi = lo + 1 + r.Int64N(hi-lo)
		}
		client := s.client(t)
		got := map[string]int64{}
		value, _, err := client.QueryRange(t.Context(), `{__name__=~".+"}`, v1.Range{Start: time.Unix((lo+1)*60, 0), End: time.Unix(hi*60, 0), Step: time.Minute})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, stream := range value.(model.Matrix) {
			for _, p := range stream.Values {
				got[s.key(stream.Metric, int64(p.Timestamp))] = int64(p.Value)
			}
		}
		for k, v := range want {
			var m int64
			fmt.Sscan(k[strings.LastIndexByte(k, ' ')+1:], &m)
			if m >= lo && m < hi {
				checked++
				if got[k] != v {
					t.Errorf("seed %d: %s: %d, export has %d", seed, k, got[k], v)
				}
			}
		}
		for k, v := range got {
			if want[k] != v {
				t.Errorf("seed %d: %s: %d, export has %d", seed, k, v, want[k])
			}
		}
		// A sum over the whole range is that of its minutes, and a remote read gives the same samples.
		total := int64(0)
		for k, v := range got {
			if strings.HasPrefix(k, "site:visit ") {
				total += v
			}
		}
		at, _, err := client.Query(t.Context(), fmt.Sprintf(`sum(sum_over_time(site:visit[%dm])) or vector(0)`, hi-lo), time.Unix(hi*60, 0))
		if err != nil || int64(at.(model.Vector)[0].Value) != total {
			t.Errorf("seed %d: sum %v, %v; want %d", seed, at, err, total)
		}
		read := s.remote(t, lo, hi)
		if len(read) != len(got) {
			t.Errorf("seed %d: remote read has %d samples, query_range %d", seed, len(read), len(got))
		}
		for k, v := range read {
			if got[k] != v {
				t.Errorf("seed %d: remote read: %s is %d, not %d", seed, k, v, got[k])
			}
		}
	}
	if checked < 500 {
		t.Errorf("only %d values were compared", checked)
	}
}

func (s *served) client(t testing.TB) v1.API {
	t.Helper()
	c, err := api.NewClient(api.Config{Address: s.url})
	if err != nil {
		t.Fatal(err)
	}
	return v1.NewAPI(c)
}

func (s *served) remote(t testing.TB, lo, hi int64) map[string]int64 {
	t.Helper()
	in := prompb.ReadRequest{Queries: []*prompb.Query{{StartTimestampMs: (lo + 1) * 60_000, EndTimestampMs: hi * 60_000,
		Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "__name__", Value: ".+"}}}}}
	raw, err := in.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(s.url+"/api/v1/read", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %v %s", res.Status, err, body)
	}
	if raw, err = snappy.Decode(nil, body); err != nil {
		t.Fatal(err)
	}
	var out prompb.ReadResponse
	if err := out.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, ts := range out.Results[0].Timeseries {
		m := model.Metric{}
		for _, l := range ts.Labels {
			m[model.LabelName(l.Name)] = model.LabelValue(l.Value)
		}
		for _, p := range ts.Samples {
			all[s.key(m, p.Timestamp)] = int64(p.Value)
		}
	}
	return all
}

// TestRequestsOfGrafana are those that its Prometheus data source makes, one by one, as GET and as a form.
func TestRequestsOfGrafana(t *testing.T) {
	s := serveWorld(t, 1, DefaultLimits())
	for _, c := range []struct{ path, form, want string }{
		{"query", "query=1%2B1&time=1767700000", `{"status":"success","data":{"result":[1767700000,"2"],"resultType":"scalar"}}`}, // its health check
		{"status/buildinfo", "", `"version":"3.15.0"`},
		{"labels", "start=1767600000&end=1767700000", `"__name__"`},
		{"labels", "match[]=site:visit&start=1767600000&end=1767700000&limit=1", `"results truncated due to limit"`},
		{"label/__name__/values", "start=1767600000&end=1767700000", `"site:visit"`},
		{"label/__name__/values", "match[]=%7B__name__%3D~%22site:v.%2B%22%7D&limit=40000", `"site:visitors"`},
		{"label/nobody/values", "", `"data":[]`},
		{"label/source/values", "", `["batch","stream"]`},
		{"series", "match[]=site:visit&start=1767600000&end=1767700000", `"status":"success"`},
		{"series", "match[]=site:visit&start=1&end=1767700000", `only the last 6h0m0s of the range were looked at`},
		{"metadata", "limit=2", `"type":"gauge"`},
		{"metadata", "metric=site:visit", `{"site:visit":[{`},
		{"query_range", "query=sum(sum_over_time(site:visit%5B5m%5D))&start=1767600000&end=1767610000&step=60", `"resultType":"matrix"`},
		{"query_range", "query=site:visit&start=2026-01-05T00:00:00Z&end=2026-01-05T01:00:00Z&step=1m&timeout=5s", `"resultType":"matrix"`},
		{"query", "query=site:nothing", `"result":[]`},
		{"query_range", "query=site:nothing&start=1&end=2&step=1", `"result":[]`},
		{"query_exemplars", "query=site:visit&start=1&end=2", `"data":[]`},
		{"rules", "type=alert", `{"groups":[]}`},
		{"alerts", "", `{"alerts":[]}`},
		{"format_query", "query=a%2Bb", `"a + b"`},

		{"query", "query=sum(", `"errorType":"bad_data"`},
		{"query", "query=1&time=noon", `"error":"invalid parameter \"time\"`},
		{"query_range", "query=1&start=2&end=1&step=1", `end timestamp must not be before start time`},
		{"query_range", "query=1&start=1&end=2&step=0", `zero or negative query resolution`},
		{"query_range", "query=1&start=1&end=2&step=0.0001", `"error":"invalid parameter \"step\": 100µs is below a millisecond`},
		{"query_range", "query=1&start=1&end=2&step=0.001", `"resultType":"matrix"`},
		{"query", "query=sum_over_time(site:visit%5B5m:0.0001%5D)", `"error":"invalid parameter \"query\": a subquery's step, 100µs, is below a millisecond`},
		{"query_range", "query=1&start=1&end=99999&step=1", `exceeded maximum resolution of 11000 points`},
		{"series", "", `no match[] parameter provided`},
		{"labels", "match[]=%7B", `"errorType":"bad_data"`},
		{"nothing", "", `"errorType":"not_found"`},
	} {
		for _, method := range []string{"GET", "POST"} {
			var res *http.Response
			var err error
			if method == "GET" {
				res, err = http.Get(s.url + "/api/v1/" + c.path + "?" + c.form)
			} else {
				res, err = http.Post(s.url+"/api/v1/"+c.path, "application/x-www-form-urlencoded", strings.NewReader(c.form))
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !strings.Contains(string(body), c.want) || !json.Valid(body) {
				t.Errorf("%s %s?%s: %s %v\n%s\nwant %s", method, c.path, c.form, res.Status, err, body, c.want)
			}
			if ok := strings.Contains(string(body), `"status":"success"`); ok != (res.StatusCode == http.StatusOK) {
				t.Errorf("%s %s?%s: %s with\n%s", method, c.path, c.form, res.Status, body)
			}
		}
	}
}

// TestLimits: each limit refuses by its name.
func TestLimits(t *testing.T) {
	l := DefaultLimits()
	l.Samples = 3
	few := serveWorld(t, 1, l)
	l = DefaultLimits()
	l.Families = 1
	one := serveWorld(t, 1, l)
	for _, c := range []struct {
		s           *served
		query, want string
	}{{few, `sum({__name__=~".+"})[90d:1d]`, ""}, {few, `count_over_time({__name__=~"site:.+"}[90d])`, "samples"}, {one, `{__name__=~".+"}`, "metrics"}} {
		_, _, err := c.s.client(t).Query(t.Context(), c.query, time.Date(2026, 1, 20, 0, 0, 0, 0, time.UTC))
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("limit %q", c.want))) {
			t.Errorf("%s: %v, want limit %s", c.query, err, c.want)
		}
	}
}

// TestNames: the mapping can be undone, so no two metrics, and no two tags, share a name.
func TestNames(t *testing.T) {
	for stored, want := range map[string]string{"site.home_page.beta": "site:home_page:beta", "fm.order.revenue*item-page": "fm:order:revenue::xitem::mpage",
		"fm.-a.b-": "fm:::ma:b::m", "fm.a-.b": "fm:a::m:b"} {
		got := MetricName(stored)
		back := strings.NewReplacer(":::m", ".-", ":::x", ".*", "::m", "-", "::x", "*", ":", ".").Replace(got)
		if got != want || back != stored {
			t.Errorf("%s: %s, back %s", stored, got, back)
		}
	}
	seen := map[string]string{}
	for _, tag := range []string{"device", "a_b", "a-b", "a__b", "tag_a", "tag_a_db", "source", "experiment", "0", "__name__", "tag_source", "a_d"} {
		l := TagLabel(tag)
		if seen[l] != "" || !model.LabelName(l).IsValid() {
			t.Errorf("%s and %s are both %s", tag, seen[l], l)
		}
		seen[l] = tag
	}
}

// FuzzQuery: whatever is asked, the answer is JSON in the envelope, and the server goes on.
func FuzzQuery(f *testing.F) {
	l := DefaultLimits()
	l.Samples, l.Time, l.Points = 20_000, time.Second, 100
	s := serveWorld(f, 1, l)
	for _, q := range []string{`1+1`, `site:visit`, `sum by (device) (rate(site:visit[5m]))`, `{__name__=~".+",source="batch"}`, `topk(3, fm:visit)`, "\x00", `{"a.b"}`,
		`sum_over_time(site:visit[1h:1m] @ 1767700000 offset -5m)`, `label_replace(site:visit, "a", "$1", "b", "(.*)")`} {
		for _, path := range []string{"query", "query_range", "series", "labels", "label/experiment/values"} {
			f.Add(path, q, "1767600000", "1767700000", "60")
		}
	}
	f.Fuzz(func(t *testing.T, path, query, start, end, step string) {
		if strings.ContainsAny(path, "?#%") || strings.Contains(path, "..") {
			return
		}
		form := url.Values{"query": {query}, "match[]": {query}, "start": {start}, "end": {end}, "time": {end}, "step": {step}}
		u, err := url.Parse(s.url + "/api/v1/" + path)
		if err != nil {
			return
		}
		res, err := http.PostForm(u.String(), form)
		if err != nil {
			t.Skip("not a request")
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode == http.StatusInternalServerError {
			t.Fatalf("%s: %v\n%s", res.Status, err, body)
		}
		if path != "read" && !json.Valid(body) && res.Request.Method == http.MethodPost {
			t.Fatalf("%s: no JSON: %s", res.Status, body)
		}
	})
}
