package pages

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/serve/judge"
)

// made is a Source of made-up experiments, each with a known fate, whose numbers are a function of the minute.
type made struct {
	now      int64 // minute
	extra    atomic.Bool
	broken   atomic.Bool
	token    string
	promoted atomic.Value
	empty    bool
}

// madeNow is a minute in the middle of a day.
const madeNow = 29_500_000

const configText = `tenant: shop
retention: 30d
tags:
  device: [desktop, mobile, tablet]
  login: ["true", "false"]
points:
  home_page: {kind: page}
  item_page: {kind: page, stats: true}
  add_to_cart: {}
  order:
    values:
      revenue: {decimals: 2, cap: 500, histogram: true}
      units: {decimals: 0}
  error: {}
experiments:
  checkout_button:
    variations: [control, red, green]
    weights: [50, 25, 25]
    qualify:
      - point == "item_page"
`

func (m *made) Tenants(context.Context) ([]string, error) { return []string{"shop", "outlet"}, nil }

// madeX is a made-up experiment.
type madeX struct {
	tenant.Experiment
	rate     []float64 // sessions a minute
	convert  []float64
	errors   []float64
	silentIn int64 // no sessions in the last so many minutes
}

func (m *made) all() []madeX {
	if m.empty {
		return nil
	}
	x := func(name string, start, end int64, weights []float64, variations ...string) tenant.Experiment {
		e := tenant.Experiment{Name: name, Variations: variations, Control: variations[0], Weights: weights, Start: (m.now - start) * 60000, End: tenant.NoEnd, Qualify: []string{`point == "item_page"`}}
		if end != 0 {
			e.End = (m.now - end) * 60000
		}
		return e
	}
	return []madeX{
		{x("checkout_button", 2880, 0, []float64{50, 25, 25}, "control", "red", "green"), []float64{20, 10, 10}, []float64{.050, .064, .0505}, []float64{.010, .010, .010}, 0},
		{x("free_shipping_banner", 1440, 0, []float64{1, 1}, "control", "banner"), []float64{15, 15}, []float64{.04, .041}, []float64{.010, .010}, 0},
		{x("new_search", 1440, 0, []float64{1, 1}, "control", "vector"), []float64{16, 13}, []float64{.04, .04}, []float64{.010, .010}, 0},
		{x("lazy_images", 1440, 0, []float64{1, 1}, "control", "lazy"), []float64{15, 15}, []float64{.04, .038}, []float64{.010, .030}, 0},
		{x("one_page_checkout", 1440, 0, []float64{1, 1}, "control", "one_page"), []float64{15, 15}, []float64{.04, .04}, []float64{.01, .01}, 40},
		{x("summer_theme", 5760, 2880, []float64{1, 1}, "control", "summer"), []float64{9, 9}, []float64{.04, .04}, []float64{.01, .01}, 0},
		{x("gift_wrap", -300, 0, []float64{1, 1}, "control", "wrap"), []float64{9, 9}, []float64{.04, .04}, []float64{.01, .01}, 0},
		{x("recommendations", 1440, 0, []float64{1, 1}, "control", "graph"), []float64{0, 0}, []float64{.04, .04}, []float64{.01, .01}, 0},
	}
}

func (m *made) Config() (*tenant.Config, string) {
	c := &tenant.Config{Tenant: "shop", Retention: 30 * 86400000, Tags: []tenant.Tag{{Name: "device", Values: []string{"desktop", "mobile", "tablet"}}, {Name: "login", Values: []string{"true", "false"}}}}
	for _, x := range m.all() {
		c.Experiments = append(c.Experiments, x.Experiment)
	}
	return c, configText
}

func (m *made) Now() time.Time { return time.UnixMilli(m.now * 60000) }

func (m *made) Begin(from int64) int64 { return from }

func (m *made) Minutes() int64 { return 0 }

func (m *made) Trouble() []string { return []string{} }

func bases(scope string, names ...string) (out []Base) {
	for _, n := range names {
		out = append(out, Base{Metric: scope + "." + n})
	}
	return out
}

// ratio of two metrics, the first over a unit.
func ratio(scope, a, b string, unit float64) func(int, func(Base) []float64) []float64 {
	return func(points int, of func(Base) []float64) []float64 {
		out := make([]float64, points)
		x, y := of(Base{Metric: scope + "." + a}), of(Base{Metric: scope + "." + b})
		for i := range out {
			out[i] = math.NaN()
			if i < len(x) && i < len(y) && y[i] != 0 {
				out[i] = x[i] / unit / y[i]
			}
		}
		return out
	}
}

func (m *made) Formulas(_ context.Context, _, s string) ([]Formula, error) {
	if m.broken.Load() {
		return nil, errors.New("formulas/shop.yaml:7: conversion: unknown name ordr")
	}
	const n = "visit.beta"
	f := []Formula{
		{ID: "conversion_rate", Title: "Conversion rate", Unit: "percent", Format: "0.00%", Chart: "line", Good: "up", Role: "primary", Expr: "order.beta / visit.beta", Owner: "checkout team",
			Description: "Sessions with at least one order, of all that qualified.", Bases: bases(s, "order.beta", n), Eval: ratio(s, "order.beta", n, 1), Stat: &judge.Stat{Kind: judge.Proportion, Hits: s + ".order.beta"}},
		{ID: "revenue_per_visit", Title: "Revenue per session", Unit: "currency", Format: "$0.00", Chart: "line", Good: "up", Role: "primary", Expr: "order.revenue / visit.beta",
			Description: "Capped at 500 for the interval.", Bases: bases(s, "order.revenue", n), Eval: ratio(s, "order.revenue", n, 100),
			Stat: &judge.Stat{Kind: judge.Mean, Num: judge.Sums{Sum: s + ".order.revenue.cap", Sq: s + ".order.revenue.cap.sq", Decimals: 2}, Events: s + ".order", MinimumEvents: 300}},
		{ID: "error_rate", Title: "Sessions with an error", Unit: "percent", Format: "0.000%", Chart: "area", Good: "down", Role: "guardrail", Expr: "error.beta / visit.beta", Owner: "platform",
			Bases: bases(s, "error.beta", n), Eval: ratio(s, "error.beta", n, 1), Stat: &judge.Stat{Kind: judge.Proportion, Hits: s + ".error.beta"}},
		{ID: "orders", Title: "Orders", Format: "0", Chart: "bar", Good: "up", Role: "diagnostic", Expr: "order", Bases: bases(s, "order"),
			Eval: func(points int, of func(Base) []float64) []float64 {
				return append(make([]float64, 0, points), of(Base{Metric: s + ".order"})...)
			}},
	}
	if m.extra.Load() {
		f = append(f, Formula{ID: "aov", Title: "Average order value", Format: "$0.00", Chart: "line", Good: "up", Expr: "order.revenue / order", Bases: bases(s, "order", "order.revenue"), Eval: ratio(s, "order.revenue", "order", 100)})
	}
	return f, nil
}

// minute gives the sums of one minute.
func (x *madeX) minute(v int, minute, now int64) map[string]int64 {
	out := map[string]int64{}
	if minute*60000 < x.Start || minute*60000 >= x.End || minute > now || minute > now-x.silentIn && v > 0 {
		return out
	}
	rng := rand.New(rand.NewPCG(uint64(minute), uint64(v)*977+uint64(len(x.Name))*31+uint64(x.Start%7919)))
	lambda := x.rate[v] * (1 + .45*math.Sin(float64(minute)/1440*2*math.Pi))
	if minute >= now-1 {
		lambda *= .5 // not all has come yet
	}
	n := int64(max(0, math.Round(lambda+math.Sqrt(lambda)*rng.NormFloat64())))
	out["visit.beta"] = n
	for range n {
		if rng.Float64() < x.convert[v] {
			cents := int64(100 * math.Exp(3.6+.6*rng.NormFloat64()))
			out["order.beta"]++
			out["order"]++
			out["order.revenue"] += cents
			c := min(cents, 50000)
			out["order.revenue.cap"] += c
			out["order.revenue.cap.sq"] += c * c
		}
		if rng.Float64() < x.errors[v] {
			out["error.beta"]++
		}
	}
	return out
}

func (m *made) Open(_ context.Context, name string) (Reader, error) {
	if name != "shop" {
		return nil, fmt.Errorf("%w: tenant %q", ErrNotFound, name)
	}
	return m, nil
}

func (m *made) Read(_ context.Context, q Query) (*Answer, error) {
	a := &Answer{Sums: map[Key][]float64{}, ClosedBefore: m.now - 11, CoveredBefore: m.now - 11 - (m.now-11)%30 - 30, Layer: "stream.dc1"}
	xs := m.all()
	i := slices.IndexFunc(xs, func(x madeX) bool { return x.Name == q.Experiment })
	if i < 0 {
		return a, nil
	}
	x := &xs[i]
	part := int64(1)
	if len(q.Filter) > 0 {
		part = 3
	}
	for v, name := range x.Variations {
		for minute := q.From; minute < q.To; minute++ {
			if minute%part != 0 {
				continue
			}
			for metric, n := range x.minute(v, minute, m.now) {
				for _, b := range q.Bases {
					if !strings.HasSuffix(b.Metric, "."+metric) || strings.Count(b.Metric, ".") != strings.Count(metric, ".")+1 {
						continue
					}
					k := Key{name, b}
					if a.Sums[k] == nil {
						a.Sums[k] = make([]float64, (q.To-q.From+q.Step-1)/q.Step)
					}
					a.Sums[k][(minute-q.From)/q.Step] += float64(n)
				}
			}
		}
	}
	return a, nil
}

func (m *made) Operations(context.Context, string) (*Operations, error) {
	now := m.now * 60000
	o := &Operations{Now: m.now * 60000, MayPromote: true, Missing: []string{}, Services: []Service{
		{"dispatch-0", "dispatch", true, "", 120, 400}, {"stream-0", "stream", true, "", 3200, 2100}, {"stream-1", "stream", false, "partition 3 of beacons.shop.0 lags by 4 min", 812000, 244000}, {"archive-0", "archive", true, "", 0, 0}},
		Layers:   []Layer{{"stream.dc1", true, now - 11*60000, []Partition{{0, now - 11*60000}}, "source dc1/beacons.raw/3, 10 min 40 s behind"}, {"stream.dc2", false, now - 13*60000, []Partition{{0, now - 13*60000}}, ""}},
		Coverage: Coverage{Before: now - 41*60000, Waiting: 1284, WaitingIn: 7, Since: now - 9*3600000, Due: now + 4*3600000},
		Drift:    []Drift{{"order", 48211, 48230}, {"order.revenue", 233018211, 233101876}, {"visit.beta", 981233, 981399}},
	}
	for i := range int64(12) {
		o.Coverage.Windows = append(o.Coverage.Windows, Window{now - (i+2)*1800000, now - (i+1)*1800000, 400 - i, 120000 - 1000*i, 14 + i, 3 * i, i == 9})
		o.Runs = append(o.Runs, Run{400 - i, now - i*1800000, 12000 + 500*i, 1, now - (i+2)*1800000, now - (i+2)*1800000, 120000 - 1000*i, 31000, 14 + i, 3 * i, 120, 9100, 2400, "2 of 4: 4.1 s, 31 %"})
	}
	for i := range int64(24) {
		o.Ticks = append(o.Ticks, Tick{[]string{"sessionize", "aggregate"}[i%2], int32(i % 3), now - i*20000, now - 11*60000, 4211 + i*13, map[string]float64{"fold": .41 + .02*float64(i%5), "publish": .18, "checkpoint": .07 * float64(i%4)}})
	}
	if l, ok := m.promoted.Load().(string); ok {
		for i := range o.Layers {
			o.Layers[i].Active = o.Layers[i].Name == l
		}
	}
	return o, nil
}

func (m *made) Explain(_ context.Context, q Explain) (any, error) {
	if q.Session == "nobody" {
		return nil, fmt.Errorf("%w: session %q has no beacon in the archive", ErrNotFound, q.Session)
	}
	ts, three, two := m.now*60000-900000, int64(3), int64(2)
	out := &batch.Explanation{Tenant: "shop", From: m.now - 20, To: m.now - 19, Session: q.Session,
		Layers: []batch.ExplainedLayer{{Layer: "stream.dc1", Stored: &two, Sum: 2, Sessions: 2}, {Layer: "batch.398", Stored: &three, Sum: 3, Sessions: 3, Notes: []string{"approximate: sessions may have begun before anything that the batch knows of them"}}}}
	if q.Session == "" {
		out.Number = &batch.Number{Experiment: q.Experiment, Variation: q.Variation, Metric: "fm." + q.Metric, Minute: q.Minute}
		out.More = 12
	}
	for i, id := range []string{"s-81f2", "s-9ad0", "s-c077"} {
		qualified := ts + 31000
		contributions := []batch.Contribution{{At: ts + 300000, Minute: (ts + 300000) / 60000, Experiment: "checkout_button", Variation: "red", Metric: "fm.order.beta", Tags: "device=mobile,login=false", Value: 1}}
		s := batch.ExplainedSession{Session: id, Beacons: []batch.ExplainedBeacon{
			{TS: ts, Ingest: ts + 340, ID: "e1", Point: "home_page", Stream: "counts", Batch: "counts", Payload: `{"id":"e1","point":"home_page","experiments":{"checkout_button":"red"}}`},
			{TS: ts + 31000, Ingest: ts + 31400, ID: "e2", Point: "item_page", Stream: "counts", Batch: "counts", Payload: `{"id":"e2","point":"item_page"}`},
			{TS: ts + 300000, Ingest: ts + 300000 + int64(i)*700000, ID: "e3", Point: "order", Stream: []string{"counts", "counts", "late"}[i], Batch: "counts", Payload: `{"id":"e3","point":"order","values":{"revenue":39.5}}`}}}
		marker := []batch.Marker{{Experiment: "checkout_button", Variation: "red", Assigned: ts, Qualified: &qualified}}
		s.Layers = []batch.SessionLayer{{Layer: "stream.dc1", Sum: []int64{1, 1, 0}[i], Markers: marker}, {Layer: "batch.398", Sum: 1, Markers: marker, Contributions: contributions}}
		out.Sessions = append(out.Sessions, s)
	}
	return out, nil
}

func (m *made) Promote(_ context.Context, _, layer string) error {
	if layer == "stream.dc9" {
		return fmt.Errorf("%w: no layer stream.dc9", ErrNotFound)
	}
	m.promoted.Store(layer)
	return nil
}
