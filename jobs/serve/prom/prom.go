// Package prom answers the HTTP API of Prometheus from the read path, so that Grafana, Prometheus itself (remote read) and
// whatever else speaks it can read a tenant's metrics unmodified. Queries are run by Prometheus' own engine.
//
// A series is a metric of the store by variation and tag set (names.go says how they are called), a sample what a minute
// adds, at the minute's end. Values are as `export` has them: integers, scaled by the decimals of their value, zeros left out.
// So series are deltas, not counters: the sum over a panel's interval is sum_over_time(x[$__interval]), with a minimal interval
// of 1m; rate and increase would take a smaller minute for a reset. A bare selector shows the last minute only: the engine
// looks back for one minute.
//
// A formula of the tenant's repository is a metric too (formulas.go).
//
// Without a matcher on the label source, series are the merged view's. With one they are those of a layer alone,
// source="batch" or source="stream", the active stream's.
package prom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	"tandem/core/formula"
	"tandem/jobs/serve/read"
)

// Limits of one request; beyond one it is refused, with its name. Those of the read path hold too, for each experiment of a
// selector.
type Limits struct {
	Families int           // metrics of experiments that a selector may choose
	Series   int           // of a selector
	Samples  int           // that all selectors of a query may read, and that the engine may hold
	Points   int64         // of each series of a range query
	Time     time.Duration // of a request
	Query    int           // bytes of an expression or a selector
	Tokens   int           // of one: names, numbers, operators, parentheses
	Selected int           // selectors of a request
	Labels   int           // bytes that label_replace and label_join may add to a series
	Body     int64         // bytes of a form or a remote read
	Range    int64         // ms: /series looks at the last part of a longer range
}

// DefaultLimits keep a query below some 200 MB of memory.
func DefaultLimits() Limits {
	return Limits{Families: 500, Series: 5_000, Samples: 5_000_000, Points: 11_000, Time: 30 * time.Second, Query: 64 << 10, Tokens: 2_000, Selected: 100, Labels: 16 << 10, Body: 1 << 20, Range: 6 * 3600 * 1000}
}

// Config of an API.
type Config struct {
	// Resolve finds the tenant of a request and reads which layers stand for it. Its errors are the caller's business:
	// Fail answers them.
	Resolve func(*http.Request) (*read.Resolved, error)
	Fail    func(http.ResponseWriter, error)
	// Formulas is the repository of the request's tenant; nil if it has none.
	Formulas func(*http.Request) *formula.Repository
	// Work waits until a request may be worked out; done is called before its answer is sent. Its errors are answered by Fail.
	Work   func(*http.Request) (done func(), err error)
	Now    func() time.Time
	Limits Limits
}

// API is the handler of /{tenant}/api/v1/. Any number of goroutines may use it.
type API struct {
	Config
	engine *promql.Engine
	parser parser.Parser
}

// lookback is how old a sample may be that a bare selector shows.
const lookback = time.Minute

// leastStep is what the engine counts steps in.
const leastStep = time.Millisecond

// New makes an API.
func New(c Config) *API {
	p := parser.NewParser(parser.Options{})
	return &API{Config: c, parser: p, engine: promql.NewEngine(promql.EngineOpts{MaxSamples: c.Limits.Samples, Timeout: c.Limits.Time,
		LookbackDelta: lookback, EnableAtModifier: true, EnableNegativeOffset: true, Parser: p,
		NoStepSubqueryIntervalFn: func(int64) int64 { return lookback.Milliseconds() }})}
}

// problem is an error as Prometheus answers it.
type problem struct {
	status int
	kind   string // errorType
	err    error
}

func (p *problem) Error() string { return p.err.Error() }

func badData(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "bad_data", fmt.Errorf(format, args...)}
}

// answer is the envelope.
type answer struct {
	Status    string   `json:"status"`
	Data      any      `json:"data,omitempty"`
	ErrorType string   `json:"errorType,omitempty"`
	Error     string   `json:"error,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	Infos     []string `json:"infos,omitempty"`
}

type request struct {
	*http.Request
	form url.Values
	now  time.Time
	q    *querier
}

// endpoint answers a request by what goes into data.
type endpoint func(ctx context.Context, r *request) (data any, notes annotations.Annotations, err error)

// ServeHTTP implements http.Handler. What comes before /api/v1/ in the path is Resolve's.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, path, _ := strings.Cut(r.URL.Path, "/api/v1/")
	x, err := a.Resolve(r)
	if err != nil {
		a.Fail(w, err)
		return
	}
	q := newQuerier(x, a.Formulas(r), a.Limits)
	if path == "read" {
		a.remoteRead(w, r, q)
		return
	}
	e := a.endpoint(path)
	switch {
	case e == nil:
		fail(w, &problem{http.StatusNotFound, "not_found", fmt.Errorf("no endpoint %q here", path)})
		return
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		fail(w, &problem{http.StatusMethodNotAllowed, "bad_data", fmt.Errorf("method %s", r.Method)})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, a.Limits.Body)
	if err := r.ParseForm(); err != nil {
		fail(w, badData("error parsing form values: %w", err))
		return
	}
	var (
		data  any
		notes annotations.Annotations
	)
	if !a.work(w, r, func(ctx context.Context) (err error) {
		data, notes, err = e(ctx, &request{r, r.Form, a.Now(), q})
		return err
	}) {
		return
	}
	out := answer{Status: "success", Data: data}
	out.Warnings, out.Infos = notes.AsStrings("", 10, 10)
	reply(w, http.StatusOK, &out)
}

// work calls fn when it is the request's turn, and answers errors; ok if there is none.
func (a *API) work(w http.ResponseWriter, r *http.Request, fn func(context.Context) error) (ok bool) {
	done, err := a.Work(r)
	if err != nil {
		a.Fail(w, err)
		return false
	}
	err = func() error {
		defer done()
		ctx, cancel := context.WithTimeout(r.Context(), a.Limits.Time)
		defer cancel()
		return fn(ctx)
	}()
	if err != nil {
		fail(w, err)
		return false
	}
	return true
}

func (a *API) endpoint(path string) endpoint {
	switch path {
	case "query":
		return a.query
	case "query_range":
		return a.queryRange
	case "labels":
		return a.labels
	case "series":
		return a.series
	case "metadata":
		return a.metadata
	case "status/buildinfo":
		return a.buildinfo
	case "rules":
		return nothing(map[string]any{"groups": []any{}})
	case "alerts":
		return nothing(map[string]any{"alerts": []any{}})
	case "query_exemplars":
		return nothing([]any{})
	case "format_query":
		return a.format
	}
	if name, ok := strings.CutPrefix(path, "label/"); ok {
		if name, ok = strings.CutSuffix(name, "/values"); ok && !strings.Contains(name, "/") {
			return func(ctx context.Context, r *request) (any, annotations.Annotations, error) {
				return a.values(ctx, r, name)
			}
		}
	}
	return nil
}

// nothing answers what Tandem has none of: rules, alerts and exemplars are asked for by Grafana all the same.
func nothing(data any) endpoint {
	return func(context.Context, *request) (any, annotations.Annotations, error) { return data, nil, nil }
}

func reply(w http.ResponseWriter, status int, out *answer) {
	data, err := json.Marshal(out)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"status":"error","errorType":"internal","error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(data) // who has gone does not read it
}

func fail(w http.ResponseWriter, err error) {
	p := asProblem(err)
	reply(w, p.status, &answer{Status: "error", ErrorType: p.kind, Error: p.Error()})
}

// statusCanceled is what Prometheus answers to who has gone.
const statusCanceled = 499

func asProblem(err error) *problem {
	var (
		p        *problem
		limit    *read.LimitError
		canceled promql.ErrQueryCanceled
		timeout  promql.ErrQueryTimeout
		samples  promql.ErrTooManySamples
		stored   promql.ErrStorage
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &limit) && limit.Name == "time", errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return &problem{http.StatusServiceUnavailable, "timeout", err}
	case errors.As(err, &limit), errors.As(err, &samples):
		return &problem{http.StatusUnprocessableEntity, "execution", err}
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		return &problem{statusCanceled, "canceled", err}
	case errors.As(err, &stored):
		return &problem{http.StatusInternalServerError, "internal", errors.New("the store cannot be read")}
	}
	return &problem{http.StatusUnprocessableEntity, "execution", err}
}

func (a *API) query(ctx context.Context, r *request) (any, annotations.Annotations, error) {
	at, err := r.time("time", r.now)
	if err != nil {
		return nil, nil, err
	}
	if err := a.check(r.form.Get("query")); err != nil {
		return nil, nil, err
	}
	q, err := a.engine.NewInstantQuery(ctx, r.q, nil, r.form.Get("query"), at)
	return run(ctx, r, q, err)
}

func (a *API) queryRange(ctx context.Context, r *request) (any, annotations.Annotations, error) {
	from, err := r.time("start", time.Time{})
	if err != nil {
		return nil, nil, err
	}
	to, err := r.time("end", time.Time{})
	if err != nil {
		return nil, nil, err
	}
	step, err := duration(r.form.Get("step"))
	switch {
	case err != nil:
		return nil, nil, badData("invalid parameter %q: %w", "step", err)
	case from.IsZero() || to.IsZero():
		return nil, nil, badData("start and end are needed")
	case to.Before(from):
		return nil, nil, badData("invalid parameter %q: end timestamp must not be before start time", "end")
	case step <= 0:
		return nil, nil, badData("invalid parameter %q: zero or negative query resolution step widths are not accepted. Try a positive integer", "step")
	case step < leastStep:
		return nil, nil, badData("invalid parameter %q: %s is below a millisecond, the least; a sample is of a minute", "step", step)
	case int64(to.Sub(from)/step) > a.Limits.Points:
		return nil, nil, badData("exceeded maximum resolution of %d points per timeseries. Try decreasing the query resolution (?step=XX)", a.Limits.Points)
	}
	if err := a.check(r.form.Get("query")); err != nil {
		return nil, nil, err
	}
	q, err := a.engine.NewRangeQuery(ctx, r.q, nil, r.form.Get("query"), from, to, step)
	return run(ctx, r, q, err)
}

// run executes a query, unless err says that there is something wrong with it. Its result is of the engine's memory, so it is
// written before the query is closed.
func run(ctx context.Context, r *request, q promql.Query, err error) (any, annotations.Annotations, error) {
	if err != nil {
		return nil, nil, badData("invalid parameter %q: %w", "query", err)
	}
	defer q.Close()
	ctx, cancel, err := r.timeout(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, nil, res.Err
	}
	value := res.Value
	switch v := value.(type) { // nothing is an empty list, never null: the client library takes no null
	case promql.Matrix:
		if v == nil {
			value = promql.Matrix{}
		}
	case promql.Vector:
		if v == nil {
			value = promql.Vector{}
		}
	}
	data, err := json.Marshal(map[string]any{"resultType": value.Type(), "result": value})
	if err != nil {
		return nil, nil, err
	}
	return json.RawMessage(data), res.Warnings, nil
}

func (a *API) format(_ context.Context, r *request) (any, annotations.Annotations, error) {
	// What the printer writes grows with the cube of the nesting.
	if err := a.shorter(r.form.Get("query"), a.Limits.Tokens/4); err != nil {
		return nil, nil, err
	}
	e, err := a.parser.ParseExpr(r.form.Get("query"))
	if err != nil {
		return nil, nil, badData("invalid parameter %q: %w", "query", err)
	}
	return e.Pretty(0), nil, nil
}

// selectors reads match[], and the times that go with it.
func (a *API) selectors(r *request, from time.Time) (sets [][]*labels.Matcher, start, end time.Time, err error) {
	if start, err = r.time("start", from); err != nil {
		return nil, start, end, err
	}
	if end, err = r.time("end", r.now); err != nil {
		return nil, start, end, err
	}
	if end.Before(start) {
		return nil, start, end, badData("invalid parameter %q: end timestamp must not be before start time", "end")
	}
	if n := len(r.form["match[]"]); n > a.Limits.Selected {
		return nil, start, end, &read.LimitError{Name: "selectors", Limit: int64(a.Limits.Selected), Way: "give fewer match[]"}
	}
	for _, m := range r.form["match[]"] {
		if err := a.short(m); err != nil {
			return nil, start, end, err
		}
		s, err := a.parser.ParseMetricSelector(m)
		if err != nil {
			return nil, start, end, badData("invalid parameter %q: %w", "match[]", err)
		}
		sets = append(sets, s)
	}
	return sets, start, end, nil
}

func (a *API) labels(ctx context.Context, r *request) (any, annotations.Annotations, error) {
	return a.listed(r, func(q *ranged, m []*labels.Matcher) ([]string, error) {
		names, _, err := q.LabelNames(ctx, nil, m...)
		return names, err
	})
}

func (a *API) values(ctx context.Context, r *request, name string) (any, annotations.Annotations, error) {
	return a.listed(r, func(q *ranged, m []*labels.Matcher) ([]string, error) {
		values, _, err := q.LabelValues(ctx, name, nil, m...)
		return values, err
	})
}

// listed is the union of what is listed for each selector; none is one for all.
func (a *API) listed(r *request, list func(*ranged, []*labels.Matcher) ([]string, error)) (any, annotations.Annotations, error) {
	sets, _, _, err := a.selectors(r, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	all := []string{}
	for _, m := range sets {
		some, err := list(&ranged{querier: r.q}, m)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, some...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return cut(r, all)
}

// cut keeps as many as the request wants.
func cut[T any](r *request, all []T) ([]T, annotations.Annotations, error) {
	text := r.form.Get("limit")
	if text == "" {
		return all, nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return nil, nil, badData("invalid parameter %q: %q is no number from 0 on", "limit", text)
	}
	if n == 0 || n >= len(all) {
		return all, nil, nil
	}
	return all[:n], annotations.New().Add(errors.New("results truncated due to limit")), nil
}

// series lists the series that have a sample in the range.
func (a *API) series(ctx context.Context, r *request) (any, annotations.Annotations, error) {
	sets, start, end, err := a.selectors(r, r.now.Add(-time.Duration(a.Limits.Range)*time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	if len(sets) == 0 {
		return nil, nil, badData("%w", errNoSelector)
	}
	from, to := start.UnixMilli(), end.UnixMilli()
	var notes annotations.Annotations
	if to-from > a.Limits.Range {
		from = to - a.Limits.Range
		notes = annotations.New().Add(fmt.Errorf("only the last %s of the range were looked at", time.Duration(a.Limits.Range)*time.Millisecond))
	}
	found := map[string]bool{}
	all := []labels.Labels{}
	for _, m := range sets {
		some, err := r.q.read(ctx, from, to, m)
		if err != nil {
			return nil, nil, err
		}
		for _, s := range some {
			if key := s.labels.String(); !found[key] {
				found[key] = true
				all = append(all, s.labels)
			}
		}
	}
	slices.SortFunc(all, labels.Compare)
	all, more, err := cut(r, all)
	return all, notes.Merge(more), err
}

func (a *API) metadata(ctx context.Context, r *request) (any, annotations.Annotations, error) {
	s, err := r.q.choose(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	only := r.form.Get("metric")
	all := map[string][]map[string]string{}
	limit := math.MaxInt
	if text := r.form.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 {
			return nil, nil, badData("invalid parameter %q: %q is no number from 0 on", "limit", text)
		}
	}
	for _, f := range s.families {
		if only != "" && only != f.name {
			continue
		}
		if _, known := all[f.name]; !known && len(all) < limit {
			if f.formula != nil {
				all[f.name] = []map[string]string{about(f.formula)}
				continue
			}
			all[f.name] = []map[string]string{{"type": "gauge", "help": r.q.help(f.metric), "unit": ""}}
		}
	}
	return all, nil, nil
}

// help tells of a metric what its name does not.
func (q *querier) help(metric string) string {
	_, name := read.Split(metric)
	text := metric + ", what each minute adds; sum_over_time gives a range's"
	if name == "visitors" {
		text = metric + ": distinct visitors of each minute; they do not add up"
	}
	if d := q.catalog.Decimals[name]; d > 0 {
		text += fmt.Sprintf("; divide by 10^%d", d)
	}
	return text
}

// version is the Prometheus release whose engine and API this is.
const version = "3.15.0"

func (a *API) buildinfo(context.Context, *request) (any, annotations.Annotations, error) {
	return map[string]string{"version": version, "revision": "tandem", "branch": "", "buildUser": "", "buildDate": "", "goVersion": ""}, nil, nil
}

// time reads a time: seconds since the epoch, or RFC 3339.
func (r *request) time(name string, absent time.Time) (time.Time, error) {
	text := r.form.Get(name)
	if text == "" {
		return absent, nil
	}
	if t, err := strconv.ParseFloat(text, 64); err == nil {
		if math.IsNaN(t) || math.Abs(t) > maxSeconds {
			return absent, badData("invalid parameter %q: %q is out of range", name, text)
		}
		return time.UnixMilli(int64(math.Round(t * 1000))).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return absent, badData("invalid parameter %q: cannot parse %q to a valid timestamp", name, text)
	}
	return t, nil
}

// maxSeconds is about the year 33,000, beyond all that is stored.
const maxSeconds = 1e12

// duration reads seconds, or a duration as 1m.
func duration(text string) (time.Duration, error) {
	if d, err := strconv.ParseFloat(text, 64); err == nil {
		if ns := d * float64(time.Second); math.Abs(ns) < math.MaxInt64/2 {
			return time.Duration(ns), nil
		}
		return 0, fmt.Errorf("cannot parse %q to a valid duration: it overflows", text)
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("cannot parse %q to a valid duration", text)
	}
	return time.Duration(d), nil
}

// timeout bounds a query by what the request asks for, at most by the limit.
func (r *request) timeout(ctx context.Context) (context.Context, context.CancelFunc, error) {
	text := r.form.Get("timeout")
	if text == "" {
		return ctx, func() {}, nil
	}
	d, err := duration(text)
	if err != nil {
		return nil, nil, badData("invalid parameter %q: %w", "timeout", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	return ctx, cancel, nil
}
