package embedded_test

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/mapping"
	"tandem/schemas/records"
	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

// The tests of this file take real traffic through the shipped mappings and configs (scripts/examples/import) and both
// layers, and compare each minute with tables that other software computed from the same files (expected/). Where the
// tables' definitions differ from SPEC's, each difference stands here as a number.
//
// The tables count a bounce in the minute in which its visit starts, SPEC 6 in that in which it ends. A visit of one
// beacon ends exactly visit_gap after it starts, so the table's minute m is minute m + visit_gap here.

// series is one metric, or one column of a table: value by minute.
type series map[int64]int64

func (s series) sum() (n int64) {
	for _, v := range s {
		n += v
	}
	return n
}

func (s series) later(minutes int64) series {
	out := series{}
	for m, v := range s {
		out[m+minutes] = v
	}
	return out
}

// plus adds up several series.
func plus(all ...series) series {
	out := series{}
	for _, s := range all {
		for m, v := range s {
			out[m] += v
		}
	}
	return out
}

const minuteLayout = "2006-01-02T15:04Z"

// minuteOf reads a minute of the tables.
func minuteOf(t testing.TB, text string) int64 {
	t.Helper()
	at, err := time.Parse(minuteLayout, text)
	if err != nil {
		t.Fatal(err)
	}
	return at.Unix() / 60
}

// realRoot is the repository's root: the first folder above with a go.mod.
func realRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above")
		}
		dir = up
	}
}

// realFile opens a file of ../shared/data; the test is skipped where it is absent.
func realFile(t testing.TB, name string) io.Reader {
	t.Helper()
	path := filepath.Join(realRoot(t), "..", "shared", "data", filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("../shared/data/%s is missing", name)
	}
	in, err := records.OpenText(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in
}

// realTable reads a table of expected/: each counted column, under its name behind those of the key columns after the
// minute ("men.bts.clicks"). Numbers are scaled by 10^decimals of their column, 0 unless given.
func realTable(t testing.TB, name string, keys int, decimals map[string]int) map[string]series {
	t.Helper()
	lines, err := csv.NewReader(realFile(t, "expected/"+name)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]series{}
	for _, line := range lines[1:] {
		minute, prefix := minuteOf(t, line[0]), ""
		for _, key := range line[1:keys] {
			prefix += key + "."
		}
		for i := keys; i < len(line); i++ {
			f, err := strconv.ParseFloat(line[i], 64)
			if err != nil {
				t.Fatal(err)
			}
			column := prefix + lines[0][i]
			if table[column] == nil {
				table[column] = series{}
			}
			table[column][minute] += int64(math.Round(f * math.Pow10(decimals[lines[0][i]])))
		}
	}
	return table
}

// realRecords imports a file with an example's mapping, in order of ingest time, which is ts: so nothing is late.
func realRecords(t testing.TB, example, file string) (raws []embedded.Raw, refused []string) {
	t.Helper()
	in := realFile(t, file)
	m, err := mapping.Load(filepath.Join(realRoot(t), "scripts", "examples", "import", example, "mapping.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Import(in, func(r records.Record) error {
		raws = append(raws, embedded.Raw{Ingest: r.Ingest, Payload: slices.Clone(r.Payload)})
		return nil
	}, func(line int64, reason string) { refused = append(refused, fmt.Sprintf("%d: %s", line, reason)) })
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return cmp.Compare(a.Ingest, b.Ingest) })
	return raws, refused
}

// realRun is what both layers come to.
type realRun struct {
	stream, batch map[string]series // by the metric's full name without the tenant's: "site.visit", "assigned.men.bts.click"
	counts        map[string]map[string]int64
}

// metric returns a metric of the batch, which realPipeline found equal to the stream's. One that is not there is zero.
func (r *realRun) metric(name string) series { return r.batch[name] }

// realPipeline runs records through both layers, and holds each row of one against the other's.
func realPipeline(t testing.TB, log embedded.Log, example string, tickMS int64, raws []embedded.Raw) *realRun {
	t.Helper()
	ctx := context.Background()
	// One shard and one range: other tests vary them, and every window costs its share of each.
	opt := embedded.Defaults()
	opt.Shards, opt.Metrics, opt.Ranges, opt.TickMS, opt.CheckpointTicks = 1, 1, 1, tickMS, 100
	chain := loadChain(t, filepath.Join(realRoot(t), "scripts", "examples", "import", example, "config.yaml"))
	p, err := embedded.Open(ctx, opt, chain, log, blob.NewMem(), openStore(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Feed(ctx, raws); err != nil {
		t.Fatal(err)
	}
	if err := p.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	view, err := batch.View(ctx, p.Store, example)
	if err != nil {
		t.Fatal(err)
	}
	run := &realRun{map[string]series{}, map[string]series{}, map[string]map[string]int64{"stream": p.StreamCounts()}}
	var into map[string]series
	want := func(layer string, minute int64) bool {
		if into = run.stream; layer == view.Active {
			return true
		}
		into = run.batch
		stands, covered := view.Layer(minute)
		return covered && layer == stands
	}
	err = embedded.Values(ctx, p.Store, example, 0, store.MaxMinute, want, func(v *embedded.Value) error {
		if v.Value == 0 {
			return nil
		}
		name := v.Scope + "." + v.Metric
		if v.Experiment != "" {
			name = v.Scope + "." + v.Experiment + "." + v.Variation + "." + v.Metric
		}
		if into[name] == nil {
			into[name] = series{}
		}
		if _, ok := into[name][v.Minute]; ok || v.Tags != "" {
			t.Errorf("%s of minute %d is there twice, or has tags %q", name, v.Minute, v.Tags)
		}
		into[name][v.Minute] = v.Value
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if run.counts["batch"], err = p.BatchCounts(ctx); err != nil {
		t.Fatal(err)
	}
	sameRows(t, "stream and batch", run.stream, run.batch)
	return run
}

func sameRows(t testing.TB, what string, a, b map[string]series) {
	t.Helper()
	n := 0
	for _, name := range slices.Sorted(maps.Keys(plusNames(a, b))) {
		n += len(a[name])
		if !maps.Equal(a[name], b[name]) {
			t.Errorf("%s differ in %s: %d and %d minutes, sums %d and %d", what, name, len(a[name]), len(b[name]), a[name].sum(), b[name].sum())
		}
	}
	if n == 0 {
		t.Errorf("%s: there are no rows", what)
	}
	t.Logf("%s: %d values of %d metrics compared", what, n, len(a))
}

func plusNames(all ...map[string]series) map[string]bool {
	names := map[string]bool{}
	for _, m := range all {
		for name := range m {
			names[name] = true
		}
	}
	return names
}

// sameMinutes compares a metric with a column of a table. except says what the table has more in some minutes; it
// must be true of each.
func sameMinutes(t testing.TB, what string, table, got, except series) {
	t.Helper()
	if len(table) == 0 {
		t.Fatalf("%s: the table has no such column", what)
	}
	bad := 0
	all := plus(table, got, except)
	for _, minute := range slices.Sorted(maps.Keys(all)) {
		if table[minute]-except[minute] == got[minute] {
			continue
		}
		if bad++; bad <= 5 {
			t.Errorf("%s at %s: %d, the table has %d, of which %d is explained", what,
				time.Unix(60*minute, 0).UTC().Format(minuteLayout), got[minute], table[minute], except[minute])
		}
	}
	if bad > 5 {
		t.Errorf("%s: %d of %d minutes differ", what, bad, len(all))
	}
}

// sameVisitors compares distinct counts: below 100 they are exact, from there within three standard errors of the sketch
// (3 * 0.81 %).
func sameVisitors(t testing.TB, table, got series) {
	t.Helper()
	if len(table) == 0 {
		t.Fatal("visitors: the table has no such column")
	}
	exact, close, worst := 0, 0, 0.0
	for minute, want := range table {
		n := got[minute]
		if want < 100 {
			exact++
			if n != want {
				t.Errorf("visitors of minute %d: %d, the table has %d", minute, n, want)
			}
			continue
		}
		close++
		off := math.Abs(float64(n-want)) / float64(want)
		if worst = max(worst, off); off > 3*0.0081 {
			t.Errorf("visitors of minute %d: %d, the table has %d", minute, n, want)
		}
	}
	for minute := range got {
		if _, ok := table[minute]; !ok {
			t.Errorf("visitors of minute %d: %d, the table has none", minute, got[minute])
		}
	}
	t.Logf("visitors: %d minutes exact, %d of 100 or more with a relative error of at most %.4f", exact, close, worst)
}

// total asserts the sum of a metric over all minutes.
func (r *realRun) total(t testing.TB, name string, want int64) {
	t.Helper()
	if got := r.metric(name).sum(); got != want {
		t.Errorf("%s is %d in total, want %d", name, got, want)
	}
}

// sameCounts asserts all counts that are not zero, of both layers.
func (r *realRun) sameCounts(t testing.TB, want map[string]int64) {
	t.Helper()
	for layer, counts := range r.counts {
		maps.DeleteFunc(counts, func(_ string, n int64) bool { return n == 0 })
		if !maps.Equal(counts, want) {
			t.Errorf("counts of the %s %v, want %v", layer, counts, want)
		}
	}
}

// visitsEnd asserts what holds of every run: each visit that began has ended, and its pages are those that were counted.
func (r *realRun) visitsEnd(t testing.TB, scope string, pages ...string) {
	t.Helper()
	n := int64(0)
	for _, p := range pages {
		n += r.metric(scope + p).sum()
	}
	r.total(t, scope+"visit.end", r.metric(scope+"visit").sum())
	r.total(t, scope+"visit.pages", n)
}

// TestRealRees46: the tables hold the cut last row (a view of 02:50), which is refused, and the 5 exact duplicates (three
// views of 02:25, one of 02:34, a cart of 02:46), each of which is one beacon with the row that it repeats. Two sessions,
// of 02:25 and of 02:34, have nothing but a row and its duplicate: the tables count two events, SPEC a bounce.
func TestRealRees46(t *testing.T) {
	t.Parallel()
	raws, refused := realRecords(t, "rees46", "rees46_2019oct_slice.csv.zst")
	table := realTable(t, "rees46_minute.csv.zst", 1, map[string]int{"revenue": 2})
	at := func(text string) int64 { return minuteOf(t, "2019-10-01T"+text+"Z") }
	if !slices.Equal(refused, []string{"17436: 8 columns, the header has 9"}) {
		t.Errorf("refused %v, want the last row only", refused)
	}
	run := realPipeline(t, embedded.NewMemory(), "rees46", 60_000, raws)
	// A session has beacons of two visitors, who are of two variations.
	run.sameCounts(t, map[string]int64{"duplicate": 5, "conflict": 1})
	run.total(t, "site.view", 17_051)
	run.total(t, "site.cart", 164)
	run.total(t, "site.purchase", 214)
	run.total(t, "site.purchase.beta", 200)
	run.total(t, "site.purchase.revenue", 5_944_263)
	run.total(t, "site.visit", 5_066)
	run.total(t, "site.visit.beta", 5_066)
	run.total(t, "site.bounce", 2_069) // the table: 2,067

	cut, cart := series{at("02:50"): 1}, series{at("02:46"): 1}
	views := series{at("02:25"): 3, at("02:34"): 1}
	events := plus(run.metric("site.view"), run.metric("site.cart"), run.metric("site.purchase"))
	sameMinutes(t, "events", table["events"], events, plus(cut, cart, views))
	sameMinutes(t, "carts", table["carts"], run.metric("site.cart"), cart)
	sameMinutes(t, "purchases", table["purchase_lines"], run.metric("site.purchase"), nil)
	sameMinutes(t, "revenue", table["revenue"], run.metric("site.purchase.revenue"), nil)
	sameMinutes(t, "sessions", table["sessions_started"], run.metric("site.visit"), nil)
	twice := series{at("02:25"): -1, at("02:34"): -1}
	sameMinutes(t, "bounces", table["bounced_sessions_started"].later(60), run.metric("site.bounce"), twice.later(60))
	table["unique_visitors"][at("02:50")]-- // the cut row ends within its visitor's id
	sameVisitors(t, table["unique_visitors"], run.metric("site.visitors"))

	// Every beacon carries aa, so its two variations share the site out between them, minute by minute.
	run.visitsEnd(t, "site.", "view", "cart", "purchase")
	for _, name := range []string{"view", "view.sq", "cart", "purchase.revenue", "purchase.revenue.cap.sq", "visit", "visit.beta", "visit.end", "bounce", "visit.seconds"} {
		for _, scope := range []string{"assigned", "fm"} {
			both := plus(run.metric(scope+".aa.a."+name), run.metric(scope+".aa.b."+name))
			sameMinutes(t, name+" of both variations", run.metric("site."+name), both, nil)
		}
	}

	t.Run("kafka", func(t *testing.T) {
		kafka, err := embedded.StartKafka()
		if err != nil {
			t.Fatal(err)
		}
		defer kafka.Close()
		over := realPipeline(t, kafka, "rees46", 60_000, raws)
		sameRows(t, "batch in memory and over Kafka", run.batch, over.batch)
		over.sameCounts(t, map[string]int64{"duplicate": 5, "conflict": 1})
	})
}

// TestRealWikipedia: the tables agree in everything, bounces too once they stand in the minute of their end. No minute
// has 100 visitors, so all are exact.
func TestRealWikipedia(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	raws, refused := realRecords(t, "wikipedia", "wikipedia_session_dataset.csv.zst")
	table := realTable(t, "wikipedia_minute.csv.zst", 1, nil)
	if len(refused) > 0 {
		t.Errorf("refused %v", refused)
	}
	run := realPipeline(t, embedded.NewMemory(), "wikipedia", 600_000, raws)
	run.sameCounts(t, map[string]int64{})
	run.total(t, "site.page", 63_524)
	run.total(t, "site.visit", 22_224) // a gap of exactly 30 min joins; 22,226 if it did not
	run.total(t, "site.bounce", 13_138)
	run.visitsEnd(t, "site.", "page")
	sameMinutes(t, "events", table["events"], run.metric("site.page"), nil)
	sameMinutes(t, "visits", table["visits_started"], run.metric("site.visit"), nil)
	sameMinutes(t, "bounces", table["bounced_visits_started"].later(30), run.metric("site.bounce"), nil)
	sameVisitors(t, table["unique_visitors"], run.metric("site.visitors"))
}

// TestRealZozo: a row of the file is a visit of one impression, so each of them bounces; there is no visitor.
func TestRealZozo(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	raws, refused := realRecords(t, "zozo", "zozo_open_bandit_ab_40k.csv.zst")
	table := realTable(t, "zozo_minute.csv.zst", 3, nil)
	if len(refused) > 0 {
		t.Errorf("refused %v", refused)
	}
	run := realPipeline(t, embedded.NewMemory(), "zozo", 600_000, raws)
	run.sameCounts(t, map[string]int64{})
	var impressions, clicks []series
	for arm, want := range map[string]int64{"men.bts": 69, "men.random": 46, "women.bts": 46, "women.random": 46} {
		impressions, clicks = append(impressions, table[arm+".impressions"]), append(clicks, table[arm+".clicks"])
		for _, scope := range []string{"assigned.", "fm."} {
			x := scope + arm + "."
			run.total(t, x+"click", want)
			run.total(t, x+"click.beta", want)
			run.total(t, x+"click.sq", want)
			run.total(t, x+"visit.beta", 10_000)
			run.visitsEnd(t, x, "impression")
			sameMinutes(t, x+"impression", table[arm+".impressions"], run.metric(x+"impression"), nil)
			sameMinutes(t, x+"click", table[arm+".clicks"], run.metric(x+"click"), nil)
			sameMinutes(t, x+"bounce", table[arm+".impressions"].later(30), run.metric(x+"bounce"), nil)
		}
	}
	sameMinutes(t, "impressions", plus(impressions...), run.metric("site.impression"), nil)
	sameMinutes(t, "clicks", plus(clicks...), run.metric("site.click"), nil)
	if n := len(run.metric("site.visitors")); n > 0 {
		t.Errorf("%d minutes have visitors", n)
	}
}

// TestRealApache: the table's unique_ips are addresses, 172 fewer than the visitors here, each of whom is an address with
// a user agent. As the file has one minute of an hour only, who is seen in a minute starts a visit in it: the table's
// visits are the visitors too. It has no bounces.
func TestRealApache(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	raws, refused := realRecords(t, "apache", "apache_10k.log.zst")
	table := realTable(t, "apache_minute.csv.zst", 1, nil)
	if len(refused) > 0 {
		t.Errorf("refused %v", refused)
	}
	run := realPipeline(t, embedded.NewMemory(), "apache", 60_000, raws)
	run.sameCounts(t, map[string]int64{})
	run.total(t, "site.page", 9_780)
	run.total(t, "site.error", 220)
	run.total(t, "site.visit", 3_224)
	run.visitsEnd(t, "site.", "page")
	sameMinutes(t, "requests", table["requests"], plus(run.metric("site.page"), run.metric("site.error")), nil)
	sameMinutes(t, "errors", table["errors_4xx5xx"], run.metric("site.error"), nil)
	sameMinutes(t, "visits", table["visits_started_ip_ua"], run.metric("site.visit"), nil)
	sameVisitors(t, table["visits_started_ip_ua"], run.metric("site.visitors"))
	run.total(t, "site.visitors", table["unique_ips"].sum()+172)
}
