package pages

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tandem/core/evidence"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
	"tandem/schemas/store"
)

// num is a number as JSON; null where there is none.
type num float64

// MarshalJSON writes NaN and infinities as null.
func (n num) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return strconv.AppendFloat(nil, f, 'g', -1, 64), nil
	}
	return []byte("null"), nil
}

func nums(f []float64) []num {
	out := make([]num, len(f))
	for i, v := range f {
		out[i] = num(v)
	}
	return out
}

func (s *server) tenants(r *http.Request) (any, error) {
	t, err := s.src.Tenants(r.Context())
	return map[string]any{"tenants": t}, err
}

// looks are those at all experiments of a tenant.
type looks struct {
	last atomic.Pointer[list]
	busy chan struct{} // holds one token: a look at a time
}

// list is a look at all experiments of a tenant. It does not change.
type list struct {
	at      time.Time
	took    time.Duration
	now     time.Time // the data's
	all     []*evaluation
	trouble []string // of the request
}

// A look at all experiments serves for a minute: whoever comes within it gets the last one, and has the next one made
// behind their back if it is older than a page's refresh. No more than a part of the time goes into looks.
const (
	keep     = time.Minute
	lookPart = 20
	lookTime = 2 * time.Minute // that one may take
)

// stale is the age from which on a look is made again, old the one from which on it is not good enough.
func (s *server) stale(l *list) time.Duration { return max(min(keep/2, s.refresh), lookPart*l.took) }
func (s *server) old(l *list) time.Duration   { return max(min(keep, s.refresh*2), 2*s.stale(l)) }

// look gives a look at all experiments of a tenant, the last one if it is young enough.
func (s *server) look(ctx context.Context, tenant string) (*list, error) {
	rd, err := s.src.Open(ctx, tenant)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	l := s.lists[tenant]
	if l == nil {
		l = &looks{busy: make(chan struct{}, 1)}
		s.lists[tenant] = l
	}
	s.mu.Unlock()
	answer := func(last *list) (*list, error) {
		return &list{all: last.all, now: last.now, trouble: rd.Trouble()}, nil
	}
	last := l.last.Load()
	if last != nil && time.Since(last.at) < s.old(last) {
		if time.Since(last.at) < s.stale(last) {
			return answer(last)
		}
		select {
		case l.busy <- struct{}{}:
			behind, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
			go func() {
				defer func() { cancel(); <-l.busy }()
				// What fails is tried again by the next who comes; once the last look is old, it is told.
				if next, err := lookAt(behind, rd); err == nil {
					l.last.Store(next)
				}
			}()
		default:
		}
		return answer(last)
	}
	select {
	case l.busy <- struct{}{}:
		defer func() { <-l.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if last = l.last.Load(); last != nil && time.Since(last.at) < s.stale(last) {
		return answer(last)
	}
	next, err := lookAt(ctx, rd)
	if err != nil {
		return nil, err
	}
	l.last.Store(next)
	return answer(next)
}

// lookAt evaluates all experiments of a tenant.
func lookAt(ctx context.Context, rd Reader) (*list, error) {
	begin := time.Now()
	c, _ := rd.Config()
	all := []*evaluation{}
	for i := range c.Experiments {
		x := &c.Experiments[i]
		formulas, err := rd.Formulas(ctx, x.Name, "fm")
		if err == nil {
			var e *evaluation
			e, err = evaluate(ctx, rd, x, slices.DeleteFunc(formulas, func(f Formula) bool { return f.Stat == nil }), "fm", nil, true)
			all = append(all, e)
		}
		if err != nil {
			return nil, fmt.Errorf("experiment %s: %w", x.Name, err)
		}
	}
	confirmAll(all)
	return &list{all: all, now: rd.Now(), at: time.Now(), took: time.Since(begin)}, nil
}

type variationJSON struct {
	Name     string `json:"name"`
	Control  bool   `json:"control"`
	Share    num    `json:"share"` // intended
	Sessions num    `json:"sessions"`
}

func (e *evaluation) variations() []variationJSON {
	var sum float64
	for _, w := range e.x.Weights {
		sum += w
	}
	var out []variationJSON
	for i, v := range e.x.Variations {
		j := variationJSON{Name: v, Control: v == e.x.Control, Share: num(e.x.Weights[i] / sum)}
		if i < len(e.n) {
			j.Sessions = num(e.n[i][len(e.n[i])-1])
		}
		out = append(out, j)
	}
	return out
}

// openTime is a time of the config in ms, 0 for an open end.
func openTime(ms int64) int64 {
	if ms == tenant.NoStart || ms == tenant.NoEnd {
		return 0
	}
	return ms
}

func (s *server) experiments(r *http.Request) (any, error) {
	l, err := s.look(r.Context(), r.PathValue("tenant"))
	if err != nil {
		return nil, err
	}
	type test struct {
		Formula   string `json:"formula"`
		Variation string `json:"variation"`
		State     string `json:"state"`
		Failing   bool   `json:"failing"`
		Diff      num    `json:"diff"`
		Relative  bool   `json:"relative"`
		Good      string `json:"good"`
	}
	type item struct {
		Name       string          `json:"name"`
		Status     string          `json:"status"`
		Start      int64           `json:"start"`
		End        int64           `json:"end"`
		Sessions   num             `json:"sessions"`
		SplitP     num             `json:"splitP"`
		Variations []variationJSON `json:"variations"`
		Spark      []num           `json:"spark"`
		Tests      []test          `json:"tests"` // signals and failing guardrails
		Why        []string        `json:"why"`
	}
	items := []item{}
	var closed, covered int64
	for _, e := range l.all {
		it := item{Name: e.x.Name, Status: string(e.signs.Status()), Start: openTime(e.x.Start), End: openTime(e.x.End), Sessions: num(e.signs.Sessions),
			SplitP: num(e.signs.SplitP), Variations: e.variations(), Spark: nums(e.spark), Tests: []test{}, Why: e.why()}
		for _, r := range e.results {
			if f := e.formulas[r.formula]; r.state == "signal" || r.state == "confirmed" || r.failing {
				it.Tests = append(it.Tests, test{f.Title, e.x.Variations[r.variation], r.state, r.failing, num(r.estimate.Diff), r.relative, f.Good})
			}
		}
		items = append(items, it)
		closed, covered = max(closed, e.closed), max(covered, e.covered)
	}
	return map[string]any{"experiments": items, "closed": closed * 60000, "covered": covered * 60000, "now": l.now.UnixMilli(), "trouble": l.trouble, "refresh": s.refresh.Milliseconds()}, nil
}

// why says in words what a status comes from.
func (e *evaluation) why() []string {
	out := []string{}
	switch {
	case e.signs.SplitP < evidence.SplitAlpha:
		out = append(out, "traffic is not split as intended")
	case e.signs.SplitP < evidence.SplitWarning:
		out = append(out, "traffic may not be split as intended: watch the split")
	}
	if e.signs.Behind {
		out = append(out, fmt.Sprintf("no data for %d minutes: they are not closed yet, the pipeline is behind", e.open))
	}
	if e.signs.Silent {
		out = append(out, fmt.Sprintf("a variation brought no session in the last %d minutes", silence))
	}
	if e.signs.Broken {
		out = append(out, "a guardrail's events broke away from the control's within minutes")
	}
	for _, r := range e.results {
		if r.failing {
			out = append(out, e.formulas[r.formula].Title+", "+e.x.Variations[r.variation]+": worse than the control")
		}
	}
	switch {
	case !e.signs.Started:
	case e.signs.Sessions == 0 && e.scope == "fm" && len(e.x.Qualify) > 0:
		out = append(out, "no session has qualified yet")
	case e.signs.Sessions == 0:
		out = append(out, "no session has come yet")
	case !e.signs.Ended && e.signs.Recent == 0:
		out = append(out, fmt.Sprintf("no session in the last %d minutes", recent))
	}
	return out
}

// ranges are the choices of a chart, in minutes; 0 is all of the experiment's time.
var ranges = map[string]int64{"1h": 60, "6h": 360, "24h": 1440, "7d": 10080, "all": 0}

// chartPoints is the most points of a series on a chart, autoPoints where no length of buckets is asked for.
const (
	chartPoints = 1440
	autoPoints  = 150
)

// wanted is what the URL of an experiment's page asks for.
type wanted struct {
	scope, span, drill string
	step               int64 // minutes; 0: as fits
	filter             map[string]string
}

// once refuses a parameter that is there more than once: of two filters on a tag one would be passed over.
func once(q url.Values) error {
	for name, values := range q {
		if len(values) > 1 {
			return fmt.Errorf("%w: %s is there %d times", ErrRequest, name, len(values))
		}
	}
	return nil
}

func wantedOf(q url.Values, c *tenant.Config) (w wanted, err error) {
	if err := once(q); err != nil {
		return w, err
	}
	w = wanted{scope: "fm", span: "6h", drill: q.Get("drill"), filter: map[string]string{}}
	if v := q.Get("scope"); v != "" {
		w.scope = v
	}
	if v := q.Get("range"); v != "" {
		w.span = v
	}
	if w.scope != "fm" && w.scope != "assigned" {
		return w, fmt.Errorf("%w: scope %q is neither fm nor assigned", ErrRequest, w.scope)
	}
	if _, ok := ranges[w.span]; !ok {
		return w, fmt.Errorf("%w: range %q is none of 1h, 6h, 24h, 7d, all", ErrRequest, w.span)
	}
	if v := q.Get("step"); v != "" {
		if w.step, err = strconv.ParseInt(v, 10, 64); err != nil || !slices.Contains(read.Steps, w.step) {
			return w, fmt.Errorf("%w: step %q is none of %v minutes", ErrRequest, v, read.Steps)
		}
	}
	for key, values := range q {
		name, ok := strings.CutPrefix(key, "tag.")
		if !ok || values[0] == "" {
			continue
		}
		i := slices.IndexFunc(c.Tags, func(t tenant.Tag) bool { return t.Name == name })
		if i < 0 || !slices.Contains(append([]string{"none", "other"}, c.Tags[i].Values...), values[0]) {
			return w, fmt.Errorf("%w: the tenant has no tag %s=%s", ErrRequest, name, values[0])
		}
		w.filter[name] = values[0]
	}
	return w, nil
}

func (s *server) experiment(r *http.Request) (any, error) {
	ctx := r.Context()
	rd, err := s.src.Open(ctx, r.PathValue("tenant"))
	if err != nil {
		return nil, err
	}
	c, configText := rd.Config()
	i := slices.IndexFunc(c.Experiments, func(x tenant.Experiment) bool { return x.Name == r.PathValue("experiment") })
	if i < 0 {
		return nil, fmt.Errorf("%w: experiment %q", ErrNotFound, r.PathValue("experiment"))
	}
	w, err := wantedOf(r.URL.Query(), c)
	if err != nil {
		return nil, err
	}
	formulas, err := rd.Formulas(ctx, c.Experiments[i].Name, w.scope)
	if err != nil {
		return nil, err
	}
	drill := slices.IndexFunc(formulas, func(f Formula) bool { return f.ID == w.drill })
	if w.drill != "" && drill < 0 {
		return nil, fmt.Errorf("%w: formula %q", ErrNotFound, w.drill)
	}
	e, err := evaluate(ctx, rd, &c.Experiments[i], formulas, w.scope, w.filter, false)
	if err != nil {
		return nil, err
	}
	if err := s.confirmAmong(ctx, c.Tenant, e); err != nil {
		return nil, err
	}
	drawn, err := chart(ctx, rd, e, formulas, w)
	if err != nil {
		return nil, err
	}
	tags := map[string][]string{}
	for _, t := range c.Tags {
		tags[t.Name] = append(slices.Clone(t.Values), "none", "other")
	}
	out := map[string]any{
		"tenant": c.Tenant, "experiment": e.x.Name, "status": e.signs.Status(), "why": e.why(), "start": openTime(e.x.Start), "end": openTime(e.x.End),
		"splitP": num(e.signs.SplitP), "closed": e.closed * 60000, "covered": e.covered * 60000, "layer": e.layer, "variations": e.variations(),
		"metrics": e.metrics(formulas), "chart": drawn, "tags": tags, "config": configText, "qualify": e.x.Qualify,
		"now": rd.Now().UnixMilli(), "trouble": rd.Trouble(), "refresh": s.refresh.Milliseconds(), "scope": w.scope, "range": w.span, "step": w.step,
	}
	if e.to > e.begin {
		out["last"] = (e.to - 1) * 60000
	}
	if drill >= 0 {
		out["lift"] = e.lift(&formulas[drill])
	}
	return out, nil
}

// confirmAmong judges an experiment's tests among all live ones of the tenant.
func (s *server) confirmAmong(ctx context.Context, tenant string, e *evaluation) error {
	l, err := s.look(ctx, tenant)
	if err != nil {
		return err
	}
	among := []*evaluation{e}
	for _, o := range l.all {
		if o.x.Name != e.x.Name && !o.signs.Ended {
			among = append(among, o)
		}
	}
	confirm(among[:1], among)
	return nil
}

type rowJSON struct {
	Variation string `json:"variation"`
	Value     num    `json:"value"`
	Diff      num    `json:"diff"`
	Low       num    `json:"low"`
	High      num    `json:"high"`
	Relative  bool   `json:"relative"`
	State     string `json:"state"`
	Failing   bool   `json:"failing"`
	P         num    `json:"p"`
	Why       string `json:"why"`
}

type metricJSON struct {
	ID          string    `json:"id"`
	Title       string    `json:"title"`
	Unit        string    `json:"unit"`
	Format      string    `json:"format"`
	Chart       string    `json:"chart"`
	Good        string    `json:"good"`
	Role        string    `json:"role"`
	Description string    `json:"description"`
	Owner       string    `json:"owner"`
	Expr        string    `json:"expr"`
	Names       []string  `json:"names"`
	Note        string    `json:"note"` // to know of the interval
	Baseline    num       `json:"baseline"`
	Rows        []rowJSON `json:"rows"`
}

func (e *evaluation) metrics(formulas []Formula) []metricJSON {
	out := make([]metricJSON, len(formulas))
	for i, f := range formulas {
		out[i] = metricJSON{f.ID, f.Title, f.Unit, f.Format, f.Chart, f.Good, f.Role, f.Description, f.Owner, f.Expr, []string{}, e.note(&f), num(math.NaN()), []rowJSON{}}
		for _, b := range f.Bases {
			_, name, _ := strings.Cut(b.Metric, ".")
			out[i].Names = append(out[i].Names, name)
		}
	}
	for _, r := range e.results {
		m := &out[r.formula]
		row := rowJSON{Variation: e.x.Variations[r.variation], Value: num(r.value), Diff: num(math.NaN()), Low: num(math.NaN()), High: num(math.NaN()),
			State: r.state, Failing: r.failing, P: num(math.NaN()), Why: r.why}
		m.Baseline = num(r.control)
		if r.why == "" {
			row.Diff, row.Low, row.High, row.Relative, row.P = num(r.estimate.Diff), num(r.estimate.Low), num(r.estimate.High), r.relative, num(evidence.P(r.logE))
		} else if r.state == "waiting" && r.control != 0 {
			row.Diff, row.Relative = num((r.value-r.control)/math.Abs(r.control)), true
		}
		m.Rows = append(m.Rows, row)
	}
	return out
}

// lift is the difference of each treatment, cumulative, with its interval.
func (e *evaluation) lift(f *Formula) any {
	type series struct {
		Variation string `json:"variation"`
		Diff      []num  `json:"diff"`
		Low       []num  `json:"low"`
		High      []num  `json:"high"`
	}
	out := struct {
		Times    []int64  `json:"times"`
		Relative bool     `json:"relative"`
		Series   []series `json:"series"`
	}{Times: []int64{}, Relative: true, Series: []series{}}
	if len(e.n) == 0 || f.Stat == nil {
		return out
	}
	control := slices.Index(e.x.Variations, e.x.Control)
	for b := range e.n[0] {
		out.Times = append(out.Times, min(e.from+int64(b+1)*e.step, e.to)*60)
	}
	for v, name := range e.x.Variations {
		if v == control {
			continue
		}
		sr := series{Variation: name}
		for b := range e.n[0] {
			r := e.compare(f, v, control, b)
			d, lo, hi := math.NaN(), math.NaN(), math.NaN()
			if r.why == "" && r.relative {
				d, lo, hi = r.estimate.Diff, r.estimate.Low, r.estimate.High
			}
			sr.Diff, sr.Low, sr.High = append(sr.Diff, num(d)), append(sr.Low, num(lo)), append(sr.High, num(hi))
		}
		out.Series = append(out.Series, sr)
	}
	return out
}

// chart gives each formula by variation over the range asked for, the minutes that are still open included.
func chart(ctx context.Context, rd Reader, e *evaluation, formulas []Formula, w wanted) (any, error) {
	from, to, _, _ := span(e.x, rd)
	if n := ranges[w.span]; n > 0 {
		from = max(from, to-n)
	}
	// What is asked for is coarsened where it would be too many points.
	step := stepOf(max(to-from, 1), autoPoints)
	if w.step > 0 {
		step = max(w.step, stepOf(max(to-from, 1), chartPoints))
	}
	from -= from % step
	n := sessions(w.scope)
	bases := []Base{n}
	for _, f := range formulas {
		bases = append(bases, f.Bases...)
	}
	type line struct {
		Variation string `json:"variation"`
		Values    []num  `json:"values"`
	}
	out := struct {
		Times       []int64           `json:"times"` // s, of each bucket's begin
		Step        int64             `json:"step"`  // s
		Provisional int64             `json:"provisional"`
		Covered     int64             `json:"covered"`
		Series      map[string][]line `json:"series"`
	}{Times: []int64{}, Step: step * 60, Series: map[string][]line{}}
	if to <= from {
		return out, nil
	}
	a, err := rd.Read(ctx, Query{Experiment: e.x.Name, Bases: distinct(bases), From: from, To: to, Step: step, Filter: w.filter})
	if err != nil {
		return nil, err
	}
	// A bucket is as provisional as its last minute.
	closed := max(a.ClosedBefore, a.CoveredBefore)
	out.Provisional, out.Covered = (closed-(closed%step))*60, a.CoveredBefore*60
	for m := from; m < to; m += step {
		out.Times = append(out.Times, m*60)
	}
	zeros := make([]float64, len(out.Times))
	for _, v := range e.x.Variations {
		of := func(b Base) []float64 {
			if row := a.Sums[Key{v, b}]; row != nil {
				return row
			}
			return zeros
		}
		out.Series[""] = append(out.Series[""], line{v, nums(of(n))})
		for _, f := range formulas {
			out.Series[f.ID] = append(out.Series[f.ID], line{v, nums(f.Eval(len(zeros), of))})
		}
	}
	return out, nil
}

func (s *server) operations(r *http.Request) (any, error) {
	o, err := s.src.Operations(r.Context(), r.PathValue("tenant"))
	if err != nil {
		return nil, err
	}
	return struct {
		*Operations
		Refresh int64 `json:"refresh"`
	}{o, s.refresh.Milliseconds()}, nil
}

func (s *server) explain(r *http.Request) (any, error) {
	q := r.URL.Query()
	if err := once(q); err != nil {
		return nil, err
	}
	x := Explain{Tenant: r.PathValue("tenant"), Session: q.Get("session"), Experiment: q.Get("experiment"), Scope: q.Get("scope"),
		Variation: q.Get("variation"), Metric: q.Get("metric"), Tags: map[string]string{}}
	if x.Session == "" && x.Metric == "" {
		return nil, fmt.Errorf("%w: name a session, or a metric and a minute", ErrRequest)
	}
	if m := q.Get("minute"); m != "" {
		t, err := time.Parse(time.RFC3339, m)
		if err != nil {
			n, err := strconv.ParseInt(m, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%w: minute %q is neither RFC 3339 nor ms since the epoch", ErrRequest, m)
			}
			t = time.UnixMilli(n)
		}
		if x.Minute = t.Unix() / 60; x.Minute < 1 || x.Minute > store.MaxMinute {
			return nil, fmt.Errorf("%w: minute %q is no time of beacons", ErrRequest, m)
		}
	} else if x.Session == "" {
		return nil, fmt.Errorf("%w: metric %s needs a minute, as minute=2026-01-01T12:00:00Z", ErrRequest, x.Metric)
	}
	for key, v := range q {
		if name, ok := strings.CutPrefix(key, "tag."); ok {
			x.Tags[name] = v[0]
		}
	}
	return s.src.Explain(r.Context(), x)
}

func (s *server) promote(r *http.Request) (any, error) {
	// A page of another origin cannot send this type without being asked for leave, which it is not given.
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return nil, fmt.Errorf("%w: the body's type is not application/json", ErrRequest)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	var body struct{ Layer string }
	if err := json.Unmarshal(data, &body); err != nil || body.Layer == "" {
		return nil, fmt.Errorf("%w: the body is {\"layer\": NAME}", ErrRequest)
	}
	return map[string]any{}, s.src.Promote(r.Context(), r.PathValue("tenant"), body.Layer)
}
