package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/serve"
	"tandem/jobs/serve/read"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/scripts/devstack"
)

const besideConfig = `
tenant: shop
tags: {device: [desktop, mobile]}
points: {home: {kind: page}, order: {values: {revenue: {}}}}
experiments: {color: {variations: [control, red], qualify: ['point == %q']}}
`

// Minutes of history and beacons of each; live, a minute is played every liveEvery.
const (
	besideHours   = 12
	besideBeacons = 200
	liveEvery     = 200 * time.Millisecond
	quietPhase    = 6 * time.Second
)

// besideRig is a stream, a batch, a store on disk and a server of it, all in this process, over the Kafka protocol.
type besideRig struct {
	p      *embedded.Pipeline
	job    *batch.Job
	st     store.Store
	url    string
	begin  int64 // ms, of history
	minute int64 // ms, of the next one that is played
	fresh  []time.Duration
}

// beacons draws those of a minute.
func (r *besideRig) beacons(rng *rand.Rand, minute int64) (raws []embedded.Raw) {
	for i := range besideBeacons {
		ts := minute + int64(i)*60_000/besideBeacons
		text := fmt.Sprintf(`{"id":"e%d","tenant":"shop","session":"s%d","ts":%d,"device":%q,"point":"home"`, ts, minute/600_000*1000+rng.Int64N(400), ts, []string{"desktop", "mobile"}[rng.IntN(2)])
		if rng.IntN(4) == 0 {
			text = fmt.Sprintf(`{"id":"e%d","tenant":"shop","session":"s%d","ts":%d,"point":"order","values":{"revenue":%d}`, ts, minute/600_000*1000+rng.Int64N(400), ts, rng.IntN(50))
		}
		if rng.IntN(2) == 0 {
			text += fmt.Sprintf(`,"experiments":{"color":%q}`, []string{"control", "red"}[rng.IntN(2)])
		}
		raws = append(raws, embedded.Raw{Ingest: ts, Payload: []byte(text + "}")})
	}
	return raws
}

func newBesideRig(t *testing.T, ctx context.Context) (r *besideRig, spliced *tenant.Chain) {
	t.Helper()
	r = &besideRig{begin: 1_767_268_800_000}
	load := func(head, point string) *tenant.Config {
		cfg, err := tenant.Load("shop.yaml", []byte(head+fmt.Sprintf(besideConfig, point)))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	end := r.begin + besideHours*3_600_000
	plain := load("", "home")
	splice := load(fmt.Sprintf("from: %s\nto: %s\n", timeText(r.begin), timeText(end)), "order")
	chain, err := tenant.Compile([]*tenant.Config{plain})
	if err != nil {
		t.Fatal(err)
	}
	if spliced, err = tenant.Compile([]*tenant.Config{plain, splice}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	blobs, err := blob.OpenDir(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	if r.st, err = pebblestore.Open(filepath.Join(dir, "store"), pebblestore.Options{Now: recordsTime}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.st.Close() })
	log, err := embedded.StartKafka()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	if r.p, err = embedded.Open(ctx, embedded.Defaults(), chain, log, blobs, r.st); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for r.minute = r.begin; r.minute < end; r.minute += 60_000 {
		err := r.p.Feed(ctx, r.beacons(rng, r.minute))
		if err == nil && r.minute%1_800_000 == 0 {
			err = r.p.Pump(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r.minute += 3_600_000 // so that all windows of history have settled
	if err := errors.Join(r.p.Heartbeat(ctx, r.minute), r.p.Pump(ctx)); err != nil {
		t.Fatal(err)
	}
	r.job = r.p.Job()
	if err := r.job.Run(ctx); err != nil {
		t.Fatal(err)
	}
	tenants := newServedTenants(func() ([]servedTenant, error) { return []servedTenant{{chain: spliced}}, nil })
	if err := tenants.look(); err != nil {
		t.Fatal(err)
	}
	limits := serve.DefaultLimits()
	limits.PerSecond = 1e6
	server := httptest.NewServer(serve.NewHandler(serve.Config{
		Reader: read.New(r.st, read.Options{Limits: read.DefaultLimits(), Now: recordsTime, Hold: 20 * time.Millisecond}),
		Tenant: tenants.get, Tenants: tenants.names, Limits: limits, Log: slog.New(slog.DiscardHandler), Now: time.Now}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r, spliced
}

// history asks the server for two metrics by the minute over all of history, and returns what each window says.
func (r *besideRig) history(ctx context.Context) (windows []string, err error) {
	body := fmt.Sprintf(`{"formulas":[{"expr":"order"},{"expr":"home"}],"experiment":"color","scope":"fm","step":"1m","from":%q,"to":%q}`,
		timeText(r.begin), timeText(r.begin+besideHours*3_600_000))
	req, err := http.NewRequestWithContext(ctx, "POST", r.url+"/shop", bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		return nil, fmt.Errorf("status %d: %s: %w", res.StatusCode, data, err)
	}
	var answer struct {
		Series []struct {
			Formula, Variation string
			Values             []any
		}
		Warnings []any
	}
	if err := json.Unmarshal(data, &answer); err != nil || len(answer.Series) < 4 || len(answer.Warnings) > 0 {
		return nil, fmt.Errorf("%d series, warnings %v: %w", len(answer.Series), answer.Warnings, err)
	}
	windows = make([]string, besideHours*2)
	for _, s := range answer.Series {
		for i := range windows {
			windows[i] += fmt.Sprintln(s.Formula, s.Variation, s.Values[i*30:i*30+30])
		}
	}
	return windows, nil
}

// rows reads all rows of history below the server: which layer stands, then that layer's.
func (r *besideRig) rows(ctx context.Context) (windows []string, err error) {
	v, err := batch.View(ctx, r.st, "shop")
	if err != nil {
		return nil, err
	}
	for w := range int64(besideHours * 2) {
		from := r.begin/60_000 + w*30
		layer, _ := v.Layer(from)
		text := ""
		for _, metric := range []string{"fm.order", "fm.home", "assigned.visit"} {
			s := store.Series{Tenant: "shop", Experiment: "color", Metric: metric, Layer: layer}
			err := r.st.Rows(ctx, s, from, from+30, func(minute, _ int64, value []byte) error {
				text += fmt.Sprintf("%s %d %x\n", metric, minute, value)
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		windows = append(windows, text)
	}
	return windows, nil
}

// play plays a minute, and notes how long it takes from its first beacon's append to its row.
func (r *besideRig) play(t *testing.T, ctx context.Context, rng *rand.Rand) {
	t.Helper()
	raws := r.beacons(rng, r.minute)
	began := time.Now()
	if err := errors.Join(r.p.Feed(ctx, raws), r.p.Heartbeat(ctx, r.minute+60_001), r.p.Pump(ctx)); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, metric := range []string{"site.home", "site.order"} {
		s := store.Series{Tenant: "shop", Metric: metric, Layer: "stream.dc1"}
		err := r.st.Rows(ctx, s, r.minute/60_000, r.minute/60_000+1, func(_, _ int64, value []byte) error {
			_, err := row.Decode(value, func(c row.Cell) error { n += c.Value; return nil })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != besideBeacons {
		t.Fatalf("minute %s: the stream's rows count %d beacons, want %d", timeText(r.minute), n, besideBeacons)
	}
	r.fresh = append(r.fresh, time.Since(began))
	r.minute += 60_000
}

// seen is what a reader has seen of all windows, one after another, and how long each look took.
type seen struct {
	looks [][]string
	took  []time.Duration
}

// quantile is that of durations, p in percent.
func quantile(list []time.Duration, p int) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)*p/100, len(list)-1)]
}

// phase plays minutes and has two readers look, over HTTP and below it, until ended is closed.
func (r *besideRig) phase(t *testing.T, ctx context.Context, ended <-chan struct{}) (readers [2]seen, fresh []time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	for i, look := range []func(context.Context) ([]string, error){r.history, r.rows} {
		wg.Go(func() {
			for {
				began := time.Now()
				windows, err := look(ctx)
				if err != nil {
					t.Errorf("reader %d: %v", i, err)
					return
				}
				readers[i].took = append(readers[i].took, time.Since(began))
				if n := len(readers[i].looks); n == 0 || !slices.Equal(readers[i].looks[n-1], windows) {
					readers[i].looks = append(readers[i].looks, windows)
				}
				select {
				case <-ended:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(uint64(r.minute), 3))
	r.fresh = nil
	for running := true; running; {
		next := time.After(liveEvery)
		r.play(t, ctx, rng)
		select {
		case <-ended:
			running = false
		case <-next:
		}
	}
	wg.Wait()
	return readers, r.fresh
}

// While a stream goes on and a backfill runs history again under a splice, whoever reads sees each window as it was or as it is to
// be, and never goes back; neither readers nor the stream wait much longer than without.
func TestBackfillBesideStreamAndReaders(t *testing.T) {
	devstack.AtLength(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, spliced := newBesideRig(t, ctx)
	all := func() (states [2][]string) {
		t.Helper()
		for i, look := range []func(context.Context) ([]string, error){r.history, r.rows} {
			windows, err := look(ctx)
			if err != nil {
				t.Fatal(err)
			}
			states[i] = windows
		}
		return states
	}
	old := all()
	ended := make(chan struct{})
	time.AfterFunc(quietPhase, func() { close(ended) })
	quiet, freshQuiet := r.phase(t, ctx, ended)
	for i := range quiet {
		if n := len(quiet[i].looks); n != 1 {
			t.Errorf("reader %d sees %d states of history while nothing changes it", i, n)
		}
	}

	ended = make(chan struct{})
	took := make(chan time.Duration, 1)
	go func() {
		defer close(ended)
		began := time.Now()
		j := *r.job
		j.Chain, j.Throttle, j.Parallel, j.Portion = spliced, 25, 1, 20_000
		b := &batch.Backfill{From: r.begin, To: r.begin + besideHours*3_600_000}
		if err := j.Backfill(ctx, b, nil); err != nil {
			t.Errorf("backfill: %v", err)
		}
		took <- time.Since(began)
	}()
	busy, freshBusy := r.phase(t, ctx, ended)
	time.Sleep(50 * time.Millisecond) // longer than a resolution is held
	now := all()
	for i := range busy {
		mixed, flipped := 0, make([]bool, len(now[i]))
		for _, look := range busy[i].looks {
			states := map[bool]bool{}
			for w, text := range look {
				switch {
				case old[i][w] == now[i][w]:
					t.Fatalf("window %d is not changed by the splice", w)
				case text == now[i][w]:
					flipped[w] = true
				case text != old[i][w]:
					t.Fatalf("reader %d: window %d is neither as it was nor as it is to be:\n%s", i, w, text)
				case flipped[w]:
					t.Fatalf("reader %d: window %d is as it was again", i, w)
				}
				states[text == now[i][w]] = true
			}
			if len(states) > 1 {
				mixed++
			}
		}
		if mixed < 5 {
			t.Errorf("reader %d saw only %d states between the first window and the last", i, mixed)
		}
	}
	t.Logf("a backfill of %d beacons at 25 %% took %.1f s", besideHours*60*besideBeacons, (<-took).Seconds())
	for _, x := range []struct {
		what       string
		quiet, now []time.Duration
		least      time.Duration // below it nothing is asked: it is the machine's
	}{
		{"12 hours by the minute over HTTP", quiet[0].took, busy[0].took, 500 * time.Millisecond},
		{"12 hours of rows from the store", quiet[1].took, busy[1].took, 500 * time.Millisecond},
		{"a minute of the stream from append to row", freshQuiet, freshBusy, time.Second},
	} {
		t.Logf("%s: without %d times, p50 %s, p99 %s; beside the backfill %d times, p50 %s, p99 %s", x.what, len(x.quiet), quantile(x.quiet, 50), quantile(x.quiet, 99),
			len(x.now), quantile(x.now, 50), quantile(x.now, 99))
		if p := quantile(x.now, 99); p > max(x.least, 5*quantile(x.quiet, 99)) {
			t.Errorf("%s: p99 is %s beside a backfill, %s without", x.what, p, quantile(x.quiet, 99))
		}
	}
}
