package prom

import (
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
)

// nested wraps an expression n times.
func nested(n int, before, inner, after string) string {
	return strings.Repeat(before, n) + inner + strings.Repeat(after, n)
}

// TestBombs: expressions that are small to send and large to answer are refused by a limit's name, or cut off in time, and memory stays
// bounded.
func TestBombs(t *testing.T) {
	l := DefaultLimits()
	l.Time = time.Second
	s := serveWorld(t, 1, l)
	const end = "1767700000"
	day := url.Values{"start": {"1767600000"}, "end": {end}, "step": {"60"}}
	ever := url.Values{"start": {"0"}, "end": {"1000000000000"}, "step": {"100000000"}}
	for _, c := range []struct {
		name, path, query string
		form              url.Values
		status            int // 0: any but that of a fault
		limit             string
	}{
		{"a long one", "query", nested(1<<16, "-", "1", ""), nil, 422, "query"},
		{"a deep one", "query", nested(60_000, "-", "1", ""), nil, 422, "tokens"},
		{"deep parentheses", "query", nested(30_000, "(", "1", ")"), nil, 422, "tokens"},
		{"deep parentheses, formatted", "format_query", nested(30_000, "(", "1", ")"), nil, 422, "tokens"},
		{"as deep as may be", "query", nested(999, "(", "1", ")"), nil, 200, ""},
		{"as deep as may be formatted", "format_query", nested(249, "(", "1", ")"), nil, 200, ""},
		{"a long selector", "series", `{a=~"` + strings.Repeat("a|", 1<<16) + `"}`, nil, 422, "query"},
		{"many selectors", "labels", "", url.Values{"match[]": strings.Split(strings.Repeat("a,", 1000), ",")}, 422, "selectors"},
		{"doubled labels", "query", nested(40, "label_replace(", `label_replace(vector(1), "a", "xxxxxxxx", "", "")`, `, "a", "$1$1", "a", "(.*)")`), nil, 422, "labels"},
		{"labels of many parts", "query", `label_replace(site:visit, "a", "` + strings.Repeat("$1", 10_000) + `", "__name__", "(.*)")`, nil, 422, "labels"},
		{"joined labels", "query", nested(6, "label_join(", "site:visit", `, "a", ",", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "__name__")`), nil, 422, "labels"},
		{"labels as one makes them", "query", `label_join(label_replace(site:visit, "a", "$1", "device", "(.*)"), "b", "-", "a", "login")`, nil, 200, ""},
		{"a long pattern", "query", `site:visit{device=~"` + strings.Repeat("(a|b)*", 5_000) + `"}`, nil, 0, ""},
		{"a pattern of patterns", "query", `site:visit{device=~"` + nested(6, "(", "a", "){100}") + `"}`, nil, 400, ""},
		{"a subquery of a second", "query", `max_over_time(sum({__name__=~".+"})[90d:1s])`, nil, 0, ""},
		{"subqueries of subqueries", "query", nested(5, "avg_over_time(", "site:visit", "[30d:1m])"), nil, 0, ""},
		{"many operations", "query_range", nested(20_000, "", "1", "+1"), ever, 422, "tokens"},
		{"operations on many points", "query_range", nested(999, "", "1", "+1"), ever, 0, ""},
		{"everything by everything", "query_range", `{__name__=~".+"} * on () group_left {__name__=~".+"}`, day, 0, ""},
		{"all of time", "query_range", `sum_over_time({__name__=~".+"}[100y])`, ever, 0, ""},
		{"all of time by the second", "query_range", `1`, url.Values{"start": {"0"}, "end": {"1000000000000"}, "step": {"1"}}, 400, ""},
		{"a step of nothing", "query_range", `1`, url.Values{"start": {"0"}, "end": {"10"}, "step": {"1e-12"}}, 400, ""},
		{"a time that is none", "query", `1`, url.Values{"time": {"1e300"}}, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			form := url.Values{"query": {c.query}, "time": {end}}
			if c.path == "series" {
				form = url.Values{"match[]": {c.query}}
			}
			for k, v := range c.form {
				form[k] = v
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			at := time.Now()
			res, err := http.PostForm(s.url+"/api/v1/"+c.path, form)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			took := time.Since(at)
			runtime.ReadMemStats(&after)
			if err != nil || res.StatusCode == 500 || c.status != 0 && res.StatusCode != c.status || c.limit != "" && !strings.Contains(string(body), `limit \"`+c.limit+`\"`) {
				t.Errorf("%s %v %.300s", res.Status, err, body)
			}
			if took > 5*l.Time {
				t.Errorf("it took %s", took)
			}
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 1500 {
				t.Errorf("%d MB were allocated", mb)
			}
		})
	}
	if res, err := http.Get(s.url + "/api/v1/query?query=1"); err != nil || res.StatusCode != 200 {
		t.Errorf("after it all: %v %v", res, err)
	}
}
