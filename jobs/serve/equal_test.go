package serve

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"

	"tandem/batch"
	"tandem/core/evidence"
	"tandem/jobs/serve/read"
	"tandem/scripts/devstack"
)

// known are formulas of testFormulas, and expressions, with what they come to by hand: of gives a metric's sum, visitors those of
// the last hour.
var known = []knownFormula{
	{Ask{ID: "sessions"}, func(of func(string) float64, _ float64) float64 { return of("visit.beta") }},
	{Ask{ID: "orders"}, func(of func(string) float64, _ float64) float64 { return of("order") }},
	{Ask{ID: "value"}, func(of func(string) float64, _ float64) float64 { return over(of("order.revenue")/100, of("order"), 0) }},
	{Ask{ID: "seen"}, func(_ func(string) float64, visitors float64) float64 { return visitors }},
	{Ask{ID: "reach"}, func(of func(string) float64, _ float64) float64 { return over(0, of("visit.beta"), 0) }},
	{Ask{ID: "steady"}, func(of func(string) float64, _ float64) float64 { return over(of("order"), of("visit.beta"), 500) }},
	{Ask{ID: "middle"}, func(of func(string) float64, _ float64) float64 {
		a, b := of("order.revenue.h40"), of("order.revenue.h44")
		if a+b == 0 {
			return math.NaN()
		}
		low, high := evidence.Bounds(40)
		rank, n := (a+b)/2, a
		if rank > a {
			low, high = evidence.Bounds(44)
			rank, n = rank-a, b
		}
		return (low + (high-low)*rank/n) / 100
	}},
	{Ask{Expr: "clamp(order.revenue * 2 - 1, -50, 50) + orders"}, func(of func(string) float64, _ float64) float64 {
		return min(max(of("order.revenue")/100*2-1, -50), 50) + of("order")
	}},
	{Ask{Expr: "value / (sessions - sessions)"}, func(func(string) float64, float64) float64 { return math.NaN() }},
}

type knownFormula struct {
	ask   Ask
	value func(of func(metric string) float64, visitors float64) float64
}

// over is a ratio; what is divided by nothing, or by less than least, is not a number.
func over(a, b, least float64) float64 {
	if b == 0 || least > 0 && b < least {
		return math.NaN()
	}
	return a / b
}

// values are those of an answer, by formula, variation, group and point.
type values map[string]float64

func valueKey(formula, variation, group string, point int) string {
	return fmt.Sprintf("%s|%s|%s|%d", formula, variation, group, point)
}

// differ tells the first value that two do not share.
func (v values) differ(want values) string {
	for k, x := range want {
		if y, ok := v[k]; !ok || x != y && !(math.IsNaN(x) && math.IsNaN(y)) && math.Abs(x-y) > 1e-9*math.Abs(x) {
			return fmt.Sprintf("%s is %v (there: %v), export says %v", k, y, ok, x)
		}
	}
	for k := range v {
		if _, ok := want[k]; !ok {
			return k + " is one too many"
		}
	}
	return ""
}

func csvRows(t testing.TB, data []byte) [][]string {
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	must(t, err)
	for i := range rows[1:] {
		at, err := time.Parse(time.RFC3339, rows[i+1][0])
		must(t, err)
		rows[i+1][0] = strconv.FormatInt(at.UnixMilli(), 10)
	}
	return rows[1:]
}

// parquetRows are the rows as texts, null as nothing.
func parquetRows(t testing.TB, data []byte) (rows [][]string) {
	pr, err := file.NewParquetReader(bytes.NewReader(data))
	must(t, err)
	for g := range pr.NumRowGroups() {
		rg := pr.RowGroup(g)
		at, n := len(rows), rg.NumRows()
		rows = append(rows, make([][]string, n)...)
		for i := range rg.NumColumns() {
			col, err := rg.Column(i)
			must(t, err)
			for row := int64(at); row < int64(at)+n; {
				left := int64(at) + n - row
				put := func(v string) { rows[row] = append(rows[row], v); row++ }
				before := row
				switch col := col.(type) {
				case *file.Int64ColumnChunkReader:
					v := make([]int64, left)
					_, got, err := col.ReadBatch(left, v, nil, nil)
					must(t, err)
					for _, x := range v[:got] {
						put(strconv.FormatInt(x, 10))
					}
				case *file.ByteArrayColumnChunkReader:
					v := make([]parquet.ByteArray, left)
					_, got, err := col.ReadBatch(left, v, nil, nil)
					must(t, err)
					for _, x := range v[:got] {
						put(string(x))
					}
				case *file.Float64ColumnChunkReader:
					v, levels := make([]float64, left), make([]int16, left)
					total, _, err := col.ReadBatch(left, v, levels, nil)
					must(t, err)
					next := 0
					for _, l := range levels[:total] {
						if l == 0 {
							put("")
							continue
						}
						put(strconv.FormatFloat(v[next], 'g', -1, 64))
						next++
					}
				}
				if row == before {
					t.Fatalf("column %d ends at row %d of %d", i, row, n)
				}
			}
		}
	}
	return rows
}

// fromRows reads the rows of a file, whose points must have these states: time in ms, state, formula, variation, tags, value.
func fromRows(t testing.TB, rows [][]string, q read.Query, states []string) values {
	out := values{}
	for _, r := range rows {
		ms, err := strconv.ParseInt(r[0], 10, 64)
		must(t, err)
		p := int((ms/60_000 - q.From) / q.Step)
		if ms%60_000 != 0 || (ms/60_000-q.From)%q.Step != 0 || r[1] != states[p] || len(r) != 5+len(q.GroupBy) {
			t.Errorf("row %q", r)
		}
		x := math.NaN()
		if v := r[len(r)-1]; v != "" {
			x, err = strconv.ParseFloat(v, 64)
			must(t, err)
		}
		out[valueKey(r[2], r[3], strings.Join(r[4:len(r)-1], "/"), p)] = x
	}
	return out
}

// byHand evaluates a batch from export alone.
func (w *world) byHand(t testing.TB, b *Batch, q read.Query, keys map[[2]string]bool) values {
	scope := "site."
	if b.Experiment != "" {
		scope = "fm."
	}
	for _, m := range testSums {
		q.Metrics = append(q.Metrics, scope+m)
	}
	sums := w.naive(t, q)
	hour := q
	hour.Metrics, hour.Rolling = []string{scope + "visitors"}, 60
	hour.To = q.From + (q.To-q.From+q.Step-1)/q.Step*q.Step
	seen := w.naive(t, hour)
	out := values{}
	points := int((q.To - q.From + q.Step - 1) / q.Step)
	for _, ask := range b.Formulas {
		i := slices.IndexFunc(known, func(k knownFormula) bool { return k.ask == ask })
		for k := range keys {
			for p := range points {
				at := func(all map[string][]int64, name string) float64 {
					if row := all[scope+name+"|"+k[0]+"|"+k[1]]; row != nil {
						return float64(row[p])
					}
					return 0
				}
				out[valueKey(ask.ID+ask.Expr, k[0], k[1], p)] = known[i].value(func(m string) float64 { return at(sums, m) }, at(seen, "visitors"))
			}
		}
	}
	return out
}

// randomBatch asks for some known formulas, by id only if a file is to be asked for.
func randomBatch(rnd *rand.Rand, base int64, ids bool) *Batch {
	b := &Batch{Filter: map[string][]string{}}
	for _, k := range known {
		if rnd.IntN(2) == 0 && (!ids || k.ask.ID != "") {
			b.Formulas = append(b.Formulas, k.ask)
		}
	}
	if len(b.Formulas) == 0 {
		b.Formulas = []Ask{{ID: "value"}}
	}
	q := randomQuery(rnd, base)
	b.Experiment, b.GroupBy = q.Experiment, q.GroupBy
	for tag, v := range q.Filter {
		if len(v) > 0 { // a URL cannot say that no value counts
			b.Filter[tag] = v
		}
	}
	if b.Experiment != "" && rnd.IntN(2) == 0 {
		b.Scope = "fm"
	}
	b.From, b.To = stamp(q.From), stamp(q.To)
	b.Step = []string{"1m", "7m", "30m", "31m", "1h", "6h", "1d", "all", "all"}[rnd.IntN(9)]
	return b
}

// aligned is what a batch comes to be as a query, as the documentation says it: moved outwards to multiples of the step.
func (b *Batch) aligned(t testing.TB) read.Query {
	q := read.Query{Experiment: b.Experiment, Filter: b.Filter, GroupBy: b.GroupBy}
	for text, at := range map[string]*int64{b.From: &q.From, b.To: &q.To} {
		when, err := time.Parse(time.RFC3339, text)
		must(t, err)
		*at = when.Unix() / 60
	}
	if b.Step == "all" {
		q.Step = q.To - q.From
		return q
	}
	d, err := time.ParseDuration(strings.Replace(b.Step, "1d", "24h", 1))
	must(t, err)
	q.Step = int64(d / time.Minute)
	q.From = q.From / q.Step * q.Step
	q.To = (q.To + q.Step - 1) / q.Step * q.Step
	return q
}

func (b *Batch) asURL() string {
	v := url.Values{"from": {b.From}, "to": {b.To}, "step": {b.Step}, "groupBy": b.GroupBy}
	for _, a := range b.Formulas {
		v.Add("formula", a.ID)
	}
	for tag, all := range b.Filter {
		for _, one := range all {
			v.Add("filter", tag+":"+one)
		}
	}
	for name, one := range map[string]string{"experiment": b.Experiment, "scope": b.Scope} {
		if one != "" {
			v.Set(name, one)
		}
	}
	return "?" + v.Encode()
}

// What POST answers and both files hold is what export tells of the same store, evaluated by hand, whatever is asked; and a point
// is final only if the batch has covered all of it.
func TestFormulasEqualExport(t *testing.T) {
	compared := 0
	for seed := range uint64(devstack.Count(3, 20)) {
		rnd := rand.New(rand.NewPCG(seed, 21))
		h, w, tokens := testServerOf(t, rnd, DefaultLimits())
		v, err := batch.View(t.Context(), w.st, "shop")
		must(t, err)
		for n := range devstack.Count(10, 30) {
			b := randomBatch(rnd, w.base, n%2 == 0)
			body, err := json.Marshal(b)
			must(t, err)
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, request %d, %s: %s", seed, n, body, fmt.Sprintf(format, args...))
			}
			q := b.aligned(t)
			got := call(h, "POST", "/shop", tokens["one"], string(body))
			var out struct {
				From, To string
				Times    []int64
				States   []string
				Series   []struct {
					Formula, Variation string
					Tags               map[string]string
					Values             []*float64
				}
				Warnings []Warning
			}
			if err := json.Unmarshal(got.Body.Bytes(), &out); err != nil || got.Code != http.StatusOK || len(out.Warnings) > 0 || out.From != stamp(q.From) || out.To != stamp(q.To) {
				fail("%d %v %.300s", got.Code, err, got.Body)
			}
			have, keys := values{}, map[[2]string]bool{}
			for _, s := range out.Series {
				var group []string
				for _, tag := range b.GroupBy {
					group = append(group, s.Tags[tag])
				}
				k := [2]string{s.Variation, strings.Join(group, "/")}
				keys[k] = true
				for p, x := range s.Values {
					name := valueKey(s.Formula, k[0], k[1], p)
					if _, twice := have[name]; twice {
						fail("%s is there twice", name)
					}
					if have[name] = math.NaN(); x != nil {
						have[name] = *x
					}
				}
			}
			// A group that has no row need not be there, but what has one must be.
			if slices.Contains(b.Formulas, Ask{ID: "orders"}) {
				some := q
				some.Metrics = []string{"fm.order", "site.order"}
				for k := range w.naive(t, some) {
					f := strings.Split(k, "|")
					keys[[2]string{f[1], f[2]}] = true
				}
			}
			want := w.byHand(t, b, q, keys)
			if why := have.differ(want); why != "" {
				fail("%s\nview %+v", why, v)
			}
			compared += len(want)
			for p, state := range out.States {
				at := q.From + int64(p)*q.Step
				expect := "final"
				for m := at; m < min(at+q.Step, q.To); m++ {
					if _, covered := v.Layer(m); !covered {
						expect = "provisional"
					}
				}
				if out.Times[p] != at*60 || state != expect {
					fail("point %d begins at %d and is %s, not %d, %s", p, out.Times[p], state, at*60, expect)
				}
			}
			if n%2 > 0 {
				continue // expressions, of which there are no files
			}
			for name, rows := range map[string]func(testing.TB, []byte) [][]string{"csv": csvRows, "parquet": parquetRows} {
				file := call(h, "GET", "/shop/download."+name+b.asURL(), tokens["one"], "")
				if file.Code != http.StatusOK {
					fail("%s: %d %s", name, file.Code, file.Body)
				}
				if why := fromRows(t, rows(t, file.Body.Bytes()), q, out.States).differ(want); why != "" {
					fail("%s: %s", name, why)
				}
			}
		}
	}
	if compared < 1_000 {
		t.Errorf("%d values: nothing was tested", compared)
	}
}

// promSeries is a series as Prometheus' API gives it.
type promSeries struct {
	Metric map[string]string
	Values [][2]any
}

// queryRange asks for a query over the points of q.
func queryRange(h http.Handler, token, query string, q *read.Query) ([]promSeries, error) {
	v := url.Values{"query": {query}, "start": {fmt.Sprint((q.From + q.Step) * 60)}, "end": {fmt.Sprint(q.To * 60)}, "step": {fmt.Sprint(q.Step * 60)}}
	got := call(h, "GET", "/shop/api/v1/query_range?"+v.Encode(), token, "")
	var out struct {
		Data struct{ Result []promSeries }
	}
	if err := json.Unmarshal(got.Body.Bytes(), &out); err != nil || got.Code != http.StatusOK {
		return nil, fmt.Errorf("%d %v %.300s", got.Code, err, got.Body)
	}
	return out.Data.Result, nil
}

// Prometheus' API gives what export tells: sums over any step by any labels, and each minute of each series, of the view and of a
// layer alone.
func TestPrometheusEqualsExport(t *testing.T) {
	compared := 0
	for seed := range uint64(devstack.Count(3, 20)) {
		rnd := rand.New(rand.NewPCG(seed, 22))
		h, w, tokens := testServerOf(t, rnd, DefaultLimits())
		for n := range devstack.Count(10, 30) {
			q := randomQuery(rnd, w.base)
			q.Rolling = 0
			q.To = q.From + (q.To-q.From+q.Step-1)/q.Step*q.Step
			scope, layer := "site", []string{"both", "both", "batch", "stream"}[rnd.IntN(4)]
			matchers := []string{}
			if q.Experiment != "" {
				scope = "fm"
				matchers = append(matchers, `experiment="x"`)
			}
			if layer != "both" {
				matchers = append(matchers, fmt.Sprintf("source=%q", layer))
			}
			for tag, all := range q.Filter {
				if len(all) == 0 {
					delete(q.Filter, tag) // no matcher says that no value counts
					continue
				}
				matchers = append(matchers, fmt.Sprintf("%s=~%q", tag, strings.Join(all, "|")))
			}
			name := testSums[rnd.IntN(len(testSums))]
			each := rnd.IntN(3) == 0 // every sample of every series
			if each {
				q.Step, q.GroupBy = 1, []string{"device", "login"}
				if layer == "both" && rnd.IntN(2) == 0 {
					name = "visitors" // of which only minutes are the same there
				}
			}
			q.Metrics = []string{scope + "." + name}
			selector := fmt.Sprintf("%s:%s{%s}", scope, strings.ReplaceAll(name, ".", ":"), strings.Join(matchers, ","))
			query := selector
			if !each {
				query = fmt.Sprintf("sum by (%s) (sum_over_time(%s[%dm]))", strings.Join(append([]string{"variation"}, q.GroupBy...), ","), selector, q.Step)
			}
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, query %d, %s of %+v: %s", seed, n, query, q, fmt.Sprintf(format, args...))
			}
			result, err := queryRange(h, tokens["one"], query, &q)
			if err != nil {
				fail("%v", err)
			}
			want := w.naiveOf(t, q, layer)
			for _, s := range result {
				var group []string
				for _, tag := range q.GroupBy {
					group = append(group, s.Metric[tag])
				}
				k := q.Metrics[0] + "|" + s.Metric["variation"] + "|" + strings.Join(group, "/")
				row := want[k]
				for _, sample := range s.Values {
					p := (int64(sample[0].(float64))/60-q.From)/q.Step - 1
					x, err := strconv.ParseFloat(sample[1].(string), 64)
					must(t, err)
					if row == nil && x != 0 || row != nil && x != float64(row[p]) {
						fail("%s at point %d is %v, export says %v", k, p, x, row)
					}
					if compared++; row != nil {
						row[p] = 0 // what is left over is missing there
					}
				}
			}
			for k, row := range want {
				for p, x := range row {
					if x != 0 {
						fail("%s at point %d is not there, export says %d", k, p, x)
					}
				}
			}
		}
	}
	if compared < 500 {
		t.Errorf("%d samples: nothing was tested", compared)
	}
}

// A formula as a metric of Prometheus has the values that export comes to by hand, over any time, by any tags, where minutes are
// complete, and none elsewhere.
func TestFormulasAsMetricsEqualExport(t *testing.T) {
	compared := 0
	for seed := range uint64(devstack.Count(3, 20)) {
		rnd := rand.New(rand.NewPCG(seed, 23))
		h, w, tokens := testServerOf(t, rnd, DefaultLimits())
		x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(t.Context(), testChain(t))
		must(t, err)
		begin, end := x.Span()
		for n := range devstack.Count(10, 30) {
			q := randomQuery(rnd, w.base)
			q.To = q.From + (q.To-q.From+q.Step-1)/q.Step*q.Step
			q.Rolling = []int64{1, 7, 30, 60, 24 * 60}[rnd.IntN(5)]
			f := known[rnd.IntN(7)] // those of the repository
			matchers := []string{}
			for tag, all := range q.Filter {
				if len(all) == 0 {
					delete(q.Filter, tag)
					continue
				}
				matchers = append(matchers, fmt.Sprintf("%s=~%q", tag, strings.Join(all, "|")))
			}
			for _, tag := range q.GroupBy {
				if q.Filter[tag] == nil {
					matchers = append(matchers, tag+`=~".+"`)
				}
			}
			if q.GroupBy = nil; len(matchers) > 0 { // all that is asked for divides
				for _, tag := range []string{"device", "login"} {
					if strings.Contains(strings.Join(matchers, ","), tag) {
						q.GroupBy = append(q.GroupBy, tag)
					}
				}
			}
			matchers = append(matchers, fmt.Sprintf("experiment=%q", q.Experiment))
			if q.Rolling > 1 || rnd.IntN(2) == 0 {
				matchers = append(matchers, fmt.Sprintf(`over="%dm"`, q.Rolling))
			}
			query := fmt.Sprintf("formula:%s{%s}", f.ask.ID, strings.Join(matchers, ","))
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, query %d, %s of %+v: %s", seed, n, query, q, fmt.Sprintf(format, args...))
			}
			result, err := queryRange(h, tokens["one"], query, &q)
			if err != nil {
				fail("%v", err)
			}
			have, keys := values{}, map[[2]string]bool{}
			if len(q.GroupBy) == 0 { // every variation is there, whether it has a row or not
				for _, v := range map[string][]string{"": {""}, "x": {"blue", "control", "red"}}[q.Experiment] {
					keys[[2]string{v, ""}] = true
				}
			}
			for _, s := range result {
				var group []string
				for _, tag := range q.GroupBy {
					group = append(group, s.Metric[tag])
				}
				k := [2]string{s.Metric["variation"], strings.Join(group, "/")}
				keys[k] = true
				for _, sample := range s.Values {
					x, err := strconv.ParseFloat(sample[1].(string), 64)
					must(t, err)
					have[valueKey(f.ask.ID, k[0], k[1], int((int64(sample[0].(float64))/60-q.From)/q.Step-1))] = x
				}
			}
			if all := w.naive(t, read.Query{Experiment: q.Experiment, From: max(q.From, begin), To: max(q.From, begin) + 1, Step: 1, Filter: q.Filter, GroupBy: q.GroupBy,
				Metrics: []string{"fm.order", "site.order"}}); f.ask.ID == "orders" && q.Step == 1 && q.From < end && q.To > begin && len(keys) < len(all) {
				fail("%d series, export has %d", len(keys), len(all))
			}
			want := w.byHand(t, &Batch{Formulas: []Ask{f.ask}, Experiment: q.Experiment}, q, keys)
			for k, x := range want {
				p, err := strconv.Atoi(k[strings.LastIndex(k, "|")+1:])
				must(t, err)
				if last := q.From + int64(p+1)*q.Step - 1; math.IsNaN(x) || last < begin || last >= end {
					delete(want, k) // null is no sample
				}
			}
			if why := have.differ(want); why != "" {
				fail("%s; complete from %d to %d, query from %d to %d by %d", why, begin, end, q.From, q.To, q.Step)
			}
			compared += len(want)
		}
	}
	if compared < 300 {
		t.Errorf("%d values: nothing was tested", compared)
	}
}
