package serve

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/serve/read"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/scripts/devstack"
)

const testConfig = `tenant: shop
tags:
  device: [desktop, mobile]
  login: ["true", "false"]
points:
  home: {kind: page}
  order:
    values:
      revenue: {decimals: 2, histogram: true}
experiments:
  x:
    variations: [control, red, blue]
`

func testChain(t testing.TB) *tenant.Chain {
	t.Helper()
	cfg, err := tenant.Load("test", []byte(testConfig))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func testStore(t testing.TB, now func() time.Time) store.Store {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func never() time.Time { return time.UnixMilli(0) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a store with rows of several layers, and who was seen where, which rows do not tell.
type world struct {
	st   store.Store
	seen map[string][]uint64 // by layer, minute, experiment, variation and tags
	base int64               // first minute

	exported map[string][]exportLine // by layer, read once
}

// exportLine is a line of export, taken apart.
type exportLine struct {
	name, tags    string
	minute, value int64
}

func (w *world) export(t testing.TB, layer string) []exportLine {
	if all, ok := w.exported[layer]; ok {
		return all
	}
	lines, err := embedded.Lines(context.Background(), w.st, "shop", layer, 0, store.MaxMinute)
	must(t, err)
	var all []exportLine
	for _, l := range lines {
		f := strings.Split(l, "\t")
		minute, _ := strconv.ParseInt(f[2], 10, 64)
		value, _ := strconv.ParseInt(f[3], 10, 64)
		all = append(all, exportLine{f[0], f[1], minute, value})
	}
	w.exported[layer] = all
	return all
}

const worldMinutes = 240

var testSums = []string{"order", "order.revenue", "order.revenue.h40", "order.revenue.h44", "visit.beta"}

func seenKey(layer string, minute int64, experiment, variation, tags string) string {
	return fmt.Sprint(layer, "|", minute, "|", experiment, "|", variation, "|", tags)
}

func newWorld(t testing.TB, rnd *rand.Rand) *world {
	ctx := context.Background()
	w := &world{st: testStore(t, never), seen: map[string][]uint64{}, exported: map[string][]exportLine{}, base: 30 * (1000 + rnd.Int64N(50))}
	layers := []string{"stream.dc1", "stream.dc2"}
	for g := range int64(4) {
		layers = append(layers, batch.Layer(g))
	}
	var rows, rollups []store.Row
	for _, layer := range layers {
		for window := w.base; window < w.base+worldMinutes; window += 30 {
			if rnd.IntN(4) == 0 {
				continue // nothing of this layer here
			}
			for _, x := range []string{"", "x"} {
				rows, rollups = w.window(t, rnd, layer, x, window, rows, rollups)
			}
		}
	}
	must(t, w.st.PutRows(ctx, rows))
	must(t, w.st.PutRollups(ctx, rollups))
	must(t, w.st.PutActive(ctx, store.Active{Tenant: "shop", Layer: layers[rnd.IntN(2)], Seq: 1}))
	for window := w.base; window < w.base+worldMinutes; window += 30 {
		for range rnd.IntN(3) { // none, one, or a rerun
			must(t, w.st.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: window, Generation: rnd.Int64N(4)}))
		}
	}
	return w
}

// window makes the rows of a window, and its rollup as the batch does.
func (w *world) window(t testing.TB, rnd *rand.Rand, layer, x string, window int64, rows, rollups []store.Row) (_, _ []store.Row) {
	scope, variations := "site.", []string{""}
	if x != "" {
		scope, variations = "fm.", []string{"blue", "control", "red"}
	}
	type cell struct{ variation, tags string }
	var tagSets []string
	for _, d := range []string{"desktop", "mobile", "none"} {
		for _, l := range []string{"false", "true"} {
			tagSets = append(tagSets, "device="+d+",login="+l)
		}
	}
	put := func(all []store.Row, metricName string, minute int64, kind row.Kind, cells []row.Cell) []store.Row {
		data, err := row.Append(nil, kind, cells)
		must(t, err)
		return append(all, store.Row{Series: store.Series{Tenant: "shop", Experiment: x, Metric: scope + metricName, Layer: layer}, Minute: minute, Value: data})
	}
	for _, m := range append(slices.Clone(testSums), "visitors") {
		total, union := map[cell]int64{}, map[cell]*metric.Sketch{}
		for minute := window; minute < window+30; minute++ {
			if rnd.IntN(3) == 0 {
				continue
			}
			var cells []row.Cell
			kind := row.Sums
			for _, v := range variations {
				for _, tags := range tagSets {
					if rnd.IntN(3) > 0 {
						continue
					}
					c := row.Cell{Variation: v, Tags: tags}
					if m == "visitors" {
						kind = row.Sketches
						var s metric.Sketch
						if union[cell{v, tags}] == nil {
							union[cell{v, tags}] = &metric.Sketch{}
						}
						for range 1 + rnd.IntN(2) {
							hash := (1 + rnd.Uint64N(90)) * 0x9e3779b97f4a7c15 // few, so that they come again and are counted exactly
							s.Add(hash)
							union[cell{v, tags}].Add(hash)
							k := seenKey(layer, minute, x, v, tags)
							w.seen[k] = append(w.seen[k], hash)
						}
						c.Sketch = s.AppendBinary(nil)
					} else {
						if c.Value = rnd.Int64N(2_000) - 300; strings.Contains(m, ".h") {
							c.Value = max(c.Value, 0) // quantiles are of what is counted
						}
						total[cell{v, tags}] += c.Value
					}
					cells = append(cells, c)
				}
			}
			rows = put(rows, m, minute, kind, cells)
		}
		var cells []row.Cell
		kind := row.Sums
		for _, v := range variations {
			for _, tags := range tagSets {
				if n, ok := total[cell{v, tags}]; ok {
					cells = append(cells, row.Cell{Variation: v, Tags: tags, Value: n})
				}
				if s := union[cell{v, tags}]; s != nil {
					kind = row.Sketches
					cells = append(cells, row.Cell{Variation: v, Tags: tags, Sketch: s.AppendBinary(nil)})
				}
			}
		}
		if strings.HasPrefix(layer, "batch.") {
			rollups = put(rollups, m, window, kind, cells)
		}
	}
	return rows, rollups
}

// naive is a query answered from export's lines, or of visitors from who was seen: by metric, variation and group the
// values by point.
func (w *world) naive(t testing.TB, q read.Query) map[string][]int64 {
	return w.naiveOf(t, q, "both")
}

// naiveOf answers from "both" layers as readers see them, or from "stream" or "batch" alone, of which no visitors are known.
func (w *world) naiveOf(t testing.TB, q read.Query, layer string) map[string][]int64 {
	ctx := context.Background()
	span := q.Rolling
	if span == 0 {
		span = q.Step
	}
	points := int((q.To - q.From + q.Step - 1) / q.Step)
	out := map[string][]int64{}
	// covers calls fn for each point that a minute counts in.
	covers := func(minute int64, fn func(point int)) {
		for p := range points {
			end := q.From + int64(p+1)*q.Step
			if q.Rolling == 0 {
				end = min(end, q.To)
				if minute >= q.From+int64(p)*q.Step && minute < end {
					fn(p)
				}
			} else if minute < end && minute >= end-span {
				fn(p)
			}
		}
	}
	group := func(tags string) (string, bool) {
		of := map[string]string{}
		for pair := range strings.SplitSeq(tags, ",") {
			k, v, _ := strings.Cut(pair, "=")
			of[k] = v
		}
		for k, allowed := range q.Filter {
			if !slices.Contains(allowed, of[k]) {
				return "", false
			}
		}
		var g []string
		for _, k := range q.GroupBy {
			g = append(g, of[k])
		}
		return strings.Join(g, "/"), true
	}
	at := func(k string) []int64 {
		if out[k] == nil {
			out[k] = make([]int64, points)
		}
		return out[k]
	}
	prefix := "shop.visit.site."
	if q.Experiment != "" {
		prefix = "shop.visit.fm." + q.Experiment + "."
	}
	for _, l := range w.export(t, layer) {
		rest, ok := strings.CutPrefix(l.name, prefix)
		if !ok || l.minute < q.From-max(q.Rolling, 0) || l.minute >= q.To+q.Step {
			continue
		}
		variation := ""
		if q.Experiment != "" {
			variation, rest, _ = strings.Cut(rest, ".")
		}
		g, passes := group(l.tags)
		full := "fm." + rest
		if q.Experiment == "" {
			full = "site." + rest
		}
		if !passes || rest == "visitors" || !slices.Contains(q.Metrics, full) {
			continue
		}
		covers(l.minute, func(p int) { at(full + "|" + variation + "|" + g)[p] += l.value })
	}
	v, err := batch.View(ctx, w.st, "shop")
	must(t, err)
	sets := map[string]map[uint64]bool{}
	for k, hashes := range w.seen {
		f := strings.Split(k, "|")
		minute, _ := strconv.ParseInt(f[1], 10, 64)
		layer, _ := v.Layer(minute)
		g, passes := group(f[4])
		full := "fm.visitors"
		if q.Experiment == "" {
			full = "site.visitors"
		}
		if f[0] != layer || f[2] != q.Experiment || !passes || !slices.Contains(q.Metrics, full) {
			continue
		}
		covers(minute, func(p int) {
			one := fmt.Sprint(full, "|", f[3], "|", g, "\n", p)
			if sets[one] == nil {
				sets[one] = map[uint64]bool{}
			}
			for _, h := range hashes {
				sets[one][h] = true
			}
		})
	}
	for k, set := range sets {
		name, p, _ := strings.Cut(k, "\n")
		n, _ := strconv.Atoi(p)
		at(name)[n] = int64(len(set))
	}
	return out
}

func randomQuery(rnd *rand.Rand, base int64) read.Query {
	q := read.Query{From: base - 40 + rnd.Int64N(worldMinutes)}
	q.To = q.From + 1 + rnd.Int64N(worldMinutes)
	q.Step = []int64{1, 2, 7, 10, 15, 30, 31, 60, 90, 120, q.To - q.From}[rnd.IntN(11)]
	switch rnd.IntN(4) { // often on edges of windows, or a minute beside
	case 0:
		q.From = q.From / 30 * 30
		q.To = q.From + (q.To-q.From+29)/30*30
	case 1:
		q.From = q.From/30*30 + []int64{-1, 1}[rnd.IntN(2)]
		q.To = max(q.To, q.From+1)
	}
	if rnd.IntN(2) == 0 {
		q.Experiment = "x"
	}
	if rnd.IntN(3) == 0 {
		q.Rolling = []int64{1, 5, 30, 60, 61, 120, 1440}[rnd.IntN(7)]
	}
	scope := "site."
	if q.Experiment != "" {
		scope = "fm."
	}
	for _, m := range append(slices.Clone(testSums), "visitors", "home") {
		if rnd.IntN(2) == 0 {
			q.Metrics = append(q.Metrics, scope+m)
		}
	}
	q.GroupBy = [][]string{nil, nil, {"device"}, {"login", "device"}}[rnd.IntN(4)]
	q.Filter = []map[string][]string{nil, nil, {"device": {"mobile", "none"}}, {"login": {"true"}, "device": {"desktop"}}, {"device": {}}}[rnd.IntN(5)]
	return q
}

// What is read equals what export tells of the same store, whatever is asked.
func TestReadEqualsExport(t *testing.T) {
	chain := testChain(t)
	for seed := range uint64(devstack.Count(4, 20)) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		w := newWorld(t, rnd)
		x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(context.Background(), chain)
		must(t, err)
		for n := range 25 {
			q := randomQuery(rnd, w.base)
			a, err := x.Range(context.Background(), q)
			if err != nil {
				t.Fatalf("seed %d query %d, %+v: %v", seed, n, q, err)
			}
			want, got := w.naive(t, q), map[string][]int64{}
			for _, s := range a.Series {
				k := s.Metric + "|" + s.Variation + "|" + strings.Join(s.Tags, "/")
				if got[k] != nil {
					t.Fatalf("%+v: series %s is there twice", q, k)
				}
				got[k] = s.Values
			}
			for k := range maps.All(got) { // export leaves zeros out
				if want[k] == nil {
					want[k] = make([]int64, a.Points())
				}
			}
			for k := range want {
				if got[k] == nil {
					got[k] = make([]int64, a.Points())
				}
				if !slices.Equal(got[k], want[k]) {
					t.Fatalf("seed %d query %d, %+v, view %+v:\n%s\n got %v\nwant %v", seed, n, q, x.View, k, got[k], want[k])
				}
			}
			w.states(t, x, q, a)
		}
	}
}

// states compares each point's state with that of its minutes.
func (w *world) states(t *testing.T, x *read.Resolved, q read.Query, a *read.Answer) {
	for p, got := range a.States {
		from, to := q.From+int64(p)*q.Step, q.From+int64(p+1)*q.Step
		if q.Rolling > 0 {
			from = to - q.Rolling
		} else {
			to = min(to, q.To)
		}
		want := read.Final
		for m := from; m < to; m++ {
			if _, covered := x.View.Layer(m); !covered {
				want = read.Provisional
			}
		}
		if got != want {
			t.Fatalf("%+v: point %d is in state %d, not %d", q, p, got, want)
		}
	}
}

// Readers that poll while windows are run again and the data centre changes see, in one answer, one generation of each
// window and one data centre.
func TestReadersSeeNoMix(t *testing.T) {
	ctx := context.Background()
	chain, st := testChain(t), testStore(t, never)
	const windows, length = 4, 30
	put := func(layer string, from, to, value int64) {
		var rows []store.Row
		for m := from; m < to; m++ {
			data, err := row.Append(nil, row.Sums, []row.Cell{{Tags: "device=none,login=none", Value: value}})
			must(t, err)
			for _, name := range []string{"site.visit", "site.order"} {
				rows = append(rows, store.Row{Series: store.Series{Tenant: "shop", Metric: name, Layer: layer}, Minute: m, Value: data})
			}
		}
		must(t, st.PutRows(ctx, rows))
	}
	put("stream.dc1", 0, 2*windows*length, 1)
	put("stream.dc2", 0, 2*windows*length, 2)
	must(t, st.PutActive(ctx, store.Active{Tenant: "shop", Layer: "stream.dc1"}))
	r := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: never, Hold: 1})
	stop := make(chan struct{})
	var answers atomic.Int64
	var readers sync.WaitGroup
	seen := make([]map[string]bool, 3)
	for i := range seen {
		seen[i] = map[string]bool{}
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				x, err := r.Resolve(ctx, chain)
				if err != nil {
					t.Error(err)
					return
				}
				a, err := x.Range(ctx, read.Query{Metrics: []string{"site.visit", "site.order"}, From: 0, To: 2 * windows * length, Step: 1})
				if err != nil || len(a.Series) != 2 {
					t.Errorf("%v %v", a, err)
					return
				}
				if !slices.Equal(a.Series[0].Values, a.Series[1].Values) {
					t.Error("two metrics of one answer are of different layers")
				}
				stream := int64(0)
				for m, v := range a.Series[0].Values {
					if v != a.Series[0].Values[m/length*length] {
						t.Errorf("minute %d is %d, its window began with %d", m, v, a.Series[0].Values[m/length*length])
						return
					}
					if v <= 2 {
						if stream != 0 && v != stream {
							t.Error("two data centres in one answer")
							return
						}
						stream = v
					}
				}
				answers.Add(1)
				seen[i][fmt.Sprint(a.Series[0].Values[0], stream)] = true
			}
		})
	}
	for g := int64(10); g < 40 && !t.Failed(); g++ {
		for before := answers.Load(); answers.Load() < before+4 && !t.Failed(); { // so that each reader sees some of it
			time.Sleep(50 * time.Microsecond)
		}
		for w := range int64(windows) {
			put(batch.Layer(g), w*length, (w+1)*length, g)
			must(t, st.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: w * length, Generation: g}))
		}
		must(t, st.PutActive(ctx, store.Active{Tenant: "shop", Layer: fmt.Sprintf("stream.dc%d", 1+g%2), Seq: g}))
	}
	close(stop)
	readers.Wait()
	if len(seen[0]) < 3 {
		t.Errorf("a reader saw %d states of the store only: nothing was tested", len(seen[0]))
	}
}

// What has expired is not known, and never a part of it; a window's rollup knows it for longer.
func TestExpired(t *testing.T) {
	ctx := context.Background()
	chain := testChain(t) // retention 30d
	day := int64(1440)
	clock := time.UnixMilli(60_000 * 100 * day)
	st := testStore(t, never)
	data, err := row.Append(nil, row.Sums, []row.Cell{{Tags: "device=none,login=none", Value: 30}})
	must(t, err)
	old := 60 * day
	must(t, st.PutRollups(ctx, []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visit", Layer: batch.Layer(1)}, Minute: old, Value: data}}))
	must(t, st.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: old, Generation: 1}))
	must(t, st.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: 97 * day, Generation: 1}))
	x, err := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: func() time.Time { return clock }}).Resolve(ctx, chain)
	must(t, err)
	ask := func(from, to, step int64) (*read.Answer, read.State, int64) {
		a, err := x.Range(ctx, read.Query{Metrics: []string{"site.visit"}, From: from, To: to, Step: step})
		must(t, err)
		if len(a.Series) == 0 {
			return a, a.States[0], 0
		}
		return a, a.States[0], a.Series[0].Values[0]
	}
	if _, s, v := ask(old, old+30, 30); s != read.Final || v != 30 {
		t.Errorf("the window whole is %d in state %d", v, s)
	}
	if _, s, v := ask(old, old+30, 1); s != read.Unknown || v != 0 {
		t.Errorf("its minutes are %d in state %d", v, s)
	}
	if _, s, v := ask(old, old+31, 31); s != read.Unknown || v != 0 {
		t.Errorf("the window and a minute of nobody are %d in state %d", v, s)
	}
	a, s, _ := ask(97*day, 97*day+30, 1)
	if s != read.Final || a.Seen[0] != read.Unknown {
		t.Errorf("three days ago minutes of sums are in state %d, of visitors %d", s, a.Seen[0])
	}
	if a, _, _ := ask(97*day, 97*day+30, 30); a.Seen[0] != read.Final {
		t.Error("visitors of a window are not known after three days")
	}
}

// Each limit refuses, and says its name.
func TestRequestLimits(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 2)))
	chain := testChain(t)
	q := read.Query{Experiment: "x", Metrics: []string{"fm.order"}, From: w.base, To: w.base + worldMinutes, Step: 1, GroupBy: []string{"device", "login"}}
	for name, change := range map[string]func(*read.Limits){
		"series": func(l *read.Limits) { l.Series = 2 }, "points": func(l *read.Limits) { l.Points = worldMinutes + 1 },
		"bytes": func(l *read.Limits) { l.Bytes = 100 }, "time": func(l *read.Limits) { l.Time = 1 },
	} {
		l := read.DefaultLimits()
		change(&l)
		x, err := read.New(w.st, read.Options{Limits: l, Now: never}).Resolve(context.Background(), chain)
		must(t, err)
		_, err = x.Range(context.Background(), q)
		limit, ok := err.(*read.LimitError)
		if !ok || limit.Name != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	q.Step, q.To = 1, store.MaxMinute
	x, err := read.New(w.st, read.Options{Limits: read.DefaultLimits(), Now: never}).Resolve(context.Background(), chain)
	must(t, err)
	if _, err := x.Range(context.Background(), q); err == nil {
		t.Error("all minutes of all time are no error")
	}
	q.From, q.Step = 0, q.To // one point over all time is cheap
	at := time.Now()
	if _, err := x.Range(context.Background(), q); err != nil || time.Since(at) > 10*time.Second {
		t.Errorf("a point of all time took %s: %v", time.Since(at), err)
	}
}
