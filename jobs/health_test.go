package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.yaml.in/yaml/v3"

	"tandem/core/beacon"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/store/cassandra"
	"tandem/scripts/devstack"
	"tandem/stream/broker"
	"tandem/stream/service"
)

func get(t *testing.T, at, path string) (code int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + at + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

type families map[string]*dto.MetricFamily

// scrape reads /metrics of several services as Prometheus does, and has their names checked.
func scrape(t *testing.T, addresses ...string) families {
	t.Helper()
	all := families{}
	for _, at := range addresses {
		code, body := get(t, at, "/metrics")
		if code != 200 {
			t.Fatalf("/metrics: %d %s", code, body)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		found, err := parser.TextToMetricFamilies(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, f := range found {
			if all[name] == nil {
				all[name] = f
			} else {
				all[name].Metric = append(all[name].Metric, f.Metric...)
			}
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "tandem_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
	return all
}

// sum adds up the values of a metric that have these labels, given as name, value; n is how many there are.
func (f families) sum(name string, labels ...string) (total float64, n int) {
	for _, m := range f[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && has[labels[i]] == labels[i+1]
		}
		if fits {
			n++
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return total, n
}

func (f families) want(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	if got, _ := f.sum(name, labels...); got != want {
		t.Errorf("%s %v is %v, want %v", name, labels, got, want)
	}
}

// counters are the greatest values seen, by series.
type counters map[string]float64

// forward scrapes while all are at work, and expects that no counter goes back: nothing is started anew here.
func (c counters) forward(t *testing.T, addresses ...string) {
	t.Helper()
	for _, at := range addresses {
		get(t, at, "/ticks")
		get(t, at, "/healthz")
		for name, f := range scrape(t, at) {
			for _, m := range f.Metric {
				series := fmt.Sprint(at, name, m.Label)
				if now := m.GetCounter().GetValue(); now < c[series] {
					t.Errorf("%s: %v after %v", series, now, c[series])
				} else {
					c[series] = now
				}
			}
		}
	}
}

// odd are raw records that meet each fate: malformed, without a point, with a point that nobody measures, and a repeat.
func odd(raws []embedded.Raw) []embedded.Raw {
	last := raws[len(raws)-1]
	ts := time.UnixMilli(last.Ingest).UTC().Format(time.RFC3339)
	for i, text := range []string{"{", fmt.Sprintf(`{"tenant":"shop","id":"u1","session":"s","ts":%q}`, ts),
		fmt.Sprintf(`{"tenant":"shop","id":"u2","session":"s","ts":%q,"point":"of_no_interest"}`, ts),
		fmt.Sprintf(`{"tenant":"shop","id":"u3","session":"s","ts":%q,"point":"of_no_interest"}`, ts)} {
		raws = append(raws, embedded.Raw{Partition: int32(i) % 3, Ingest: last.Ingest, Payload: []byte(text)})
	}
	return append(raws, last)
}

// TestHealth runs all services, scrapes them, and expects the counts of the embedded pipeline.
func TestHealth(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := newServiceRig(t, 3, 4)
	chain := s.site.Tenants[0].Chain
	raws := odd(s.traffic(t, 3000))
	_, end := replayed(t, ctx, chain, raws)
	_, want := streamed(t, chain, 3, raws)

	addresses := []string{devstack.Address(t), devstack.Address(t), devstack.Address(t)}
	s.start(t, "dispatch", "--id", "d1", "--listen", addresses[0])
	s.start(t, "stream", "--id", "a1", "--listen", addresses[1])
	s.start(t, "archive", "--id", "r1", "--listen", addresses[2])
	ready := func() bool {
		return !slices.ContainsFunc(addresses, func(at string) bool { code, _ := get(t, at, "/readyz"); return code != 200 })
	}
	s.await(t, ctx, "all are ready", ready)
	s.produce(t, ctx, raws, end)
	seen := counters{}
	for _, g := range []struct {
		group, topic string
		partitions   int32
	}{{"tandem.dispatch.dc1", "raw", 3}, {"tandem.stream.dc1.1", "beacons.shop.0", 4}, {"tandem.stream.dc1.2", "metrics.stream.dc1", 2}} {
		s.await(t, ctx, g.group+" has read all", func() bool {
			seen.forward(t, addresses...)
			return s.readAll(ctx, g.group, g.topic, g.partitions)
		})
	}
	// An archiver commits when a window settles, and progress that is told after that is left (awaitAll).
	s.await(t, ctx, "the archiver has read all", func() bool {
		seen.forward(t, addresses...)
		f := scrape(t, addresses[2])
		next, _ := f.sum("tandem_consumer_next_offset", "stage", "archive", "topic", "beacons.shop.0")
		return next == float64(s.end(ctx, "beacons.shop.0"))
	})
	s.await(t, ctx, "all are ready again", ready)
	if err := ctx.Err(); err != nil {
		t.Fatal(err)
	}
	for _, at := range addresses {
		if code, body := get(t, at, "/healthz"); code != 200 || body != "alive\n" {
			t.Errorf("/healthz: %d %s", code, body)
		}
		if code, _ := get(t, at, "/"); code != 404 {
			t.Errorf("/: %d", code)
		}
		if resp, err := http.Post("http://"+at+"/ticks", "", nil); err != nil || resp.StatusCode != 405 {
			t.Errorf("POST /ticks: %v %v", resp, err)
		}
	}

	f := scrape(t, addresses...)
	routed, _ := f.sum("tandem_dispatch_records_total", "outcome", "routed", "tenant", "shop")
	f.want(t, 1, "tandem_dispatch_records_total", "outcome", "unused", "tenant", "shop", "reason", "no_point")
	f.want(t, 6, "tandem_dispatch_records_total", "outcome", "heartbeat") // two in each raw partition
	all, _ := f.sum("tandem_dispatch_records_total")
	if all != float64(len(raws)+6) {
		t.Errorf("%v records dispatched, of %d", all, len(raws)+6)
	}
	unused, _ := f.sum("tandem_dispatch_records_total", "outcome", "unused")
	if other, _ := f.sum("tandem_dispatch_records_total", "outcome", "unused", "reason", "other_point"); other < 2 || other+1 != unused {
		t.Errorf("%v unused of another point, of %v", other, unused)
	}
	f.want(t, float64(want["unused"])-unused, "tandem_stream_beacons_total", "outcome", "unused")
	rejected := 0.0
	for _, r := range beacon.Reasons() {
		f.want(t, float64(want["rejected."+r.String()]), "tandem_dispatch_records_total", "outcome", "rejected", "reason", r.String())
		rejected += float64(want["rejected."+r.String()])
	}
	if rejected == 0 || want["duplicate"] == 0 {
		t.Errorf("the records do not meet each fate: %v", want)
	}
	for _, outcome := range []string{"late", "late.clock", "redelivered", "duplicate", "overflow"} {
		f.want(t, float64(want[outcome]), "tandem_stream_beacons_total", "outcome", outcome)
	}
	f.want(t, 0, "tandem_stream_beacons_total", "outcome", "rejected")
	f.want(t, routed, "tandem_stream_beacons_total")
	f.want(t, routed, "tandem_archive_beacons_total")
	for _, g := range []struct {
		stage, topic string
		partitions   int
	}{{"dispatch", "raw", 3}, {"1", "beacons.shop.0", 4}, {"2", "metrics.stream.dc1", 2}, {"archive", "beacons.shop.0", 4}} {
		f.want(t, float64(s.end(ctx, g.topic)), "tandem_consumer_next_offset", "stage", g.stage, "topic", g.topic)
		f.want(t, float64(g.partitions), "tandem_partition_running", "stage", g.stage)
		if lag, n := f.sum("tandem_consumer_lag_records", "stage", g.stage); lag != 0 || n != g.partitions {
			t.Errorf("stage %s: lag %v of %d partitions", g.stage, lag, n)
		}
		f.want(t, 0, "tandem_partition_failures_total", "stage", g.stage)
	}
	uncommitted, _ := f.sum("tandem_archive_uncommitted_records")
	f.want(t, float64(s.end(ctx, "beacons.shop.0"))-uncommitted, "tandem_archive_committed_offset")
	if open, n := f.sum("tandem_stream_open_sessions"); open == 0 || n != 4 {
		t.Errorf("%v sessions of %d shards: visitors come back within a session's life", open, n)
	}
	f.want(t, 3, "tandem_ready")
	f.want(t, 3, "tandem_alive")
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if _, n := f.sum(name); n != 3 {
			t.Errorf("%s of %d services", name, n)
		}
	}
	// All sources are at the end; the watermark is what the one that is least far allows.
	last := float64(end+3_600_000) / 1000
	f.want(t, 3*last, "tandem_dispatch_source_timestamp_seconds")
	f.want(t, 0, "tandem_dispatch_source_lag_seconds")
	f.want(t, 4*last, "tandem_stream_watermark_source_timestamp_seconds", "source_topic", "raw")
	shards, _ := f.sum("tandem_stream_watermark_timestamp_seconds", "stage", "1")
	complete, _ := f.sum("tandem_stream_watermark_timestamp_seconds", "stage", "2", "tenant", "shop")
	if ahead := shards/4 - complete/2; ahead < 0 || ahead > 3600 { // stage 2 knows that of the last tick, an hour before at most
		t.Errorf("stage 1 is %v s ahead of stage 2", ahead)
	}
	lateness := float64(chain.Revs[0].Config.Lateness) / 1000
	if at := shards / 4; at > last-lateness || at <= last-lateness-60 {
		t.Errorf("watermark %v at progress %v", at, last)
	}
	for name := range f {
		if slices.ContainsFunc(f[name].Metric, func(m *dto.Metric) bool {
			return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool {
				return slices.Contains([]string{"session", "visitor", "experiment", "metric"}, l.GetName())
			})
		}) {
			t.Errorf("%s has a label without bound", name)
		}
	}
	checkTicks(t, addresses[1], f)
	checkNames(t, f)

	if code, logs := s.once("dispatch", "--listen", addresses[0]); code != 1 || !strings.Contains(logs, addresses[0]) {
		t.Errorf("an address that is taken: exit code %d: %s", code, logs)
	}
	s.stopAll()
	if code, body := get(t, addresses[0], "/healthz"); code != 0 {
		t.Errorf("stopped, it answers %d %s", code, body)
	}
}

// once runs a service that is expected to end by itself.
func (s *serviceRig) once(command string, args ...string) (code int, logs string) {
	var b syncBuffer
	code = map[string]func(context.Context, []string, io.Writer, io.Writer) int{"dispatch": runDispatch, "archive": runArchive}[command](
		context.Background(), append([]string{"--site", s.file}, args...), io.Discard, &b)
	return code, b.String()
}

// checkTicks compares /ticks with the counters of ticks.
func checkTicks(t *testing.T, at string, f families) {
	t.Helper()
	_, body := get(t, at, "/ticks")
	var told struct{ Ticks []toldTick }
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&told); err != nil {
		t.Fatal(err)
	}
	byStage := map[string]int{}
	checkpoints := 0
	for i, tick := range told.Ticks {
		byStage[tick.Stage]++
		if tick.CheckpointBytes > 0 {
			checkpoints++
		}
		parts := tick.Seconds["fold"] + tick.Seconds["publish"] + tick.Seconds["checkpoint"]
		if math.Abs(tick.Seconds["total"]-parts) > 1e-6 || parts <= 0 || i > 0 && tick.At.Before(told.Ticks[i-1].At) || tick.Offset == 0 || tick.CheckpointError != "" {
			t.Errorf("%+v after %+v", tick, told.Ticks[max(i-1, 0)])
		}
	}
	if byStage["1"] != keptTicks || byStage["2"] == 0 || byStage["2"] > keptTicks || checkpoints == 0 {
		t.Errorf("ticks by stage: %v, %d with checkpoints", byStage, checkpoints)
	}
	rows, _ := f.sum("tandem_stream_rows_total", "stage", "1")
	if rows == 0 {
		t.Error("stage 1 has published nothing")
	}
	for _, m := range f["tandem_stream_tick_duration_seconds"].GetMetric() {
		if m.GetHistogram().GetSampleCount() == 0 {
			t.Errorf("no tick in %v", m.GetLabel())
		}
	}
}

var metricName = regexp.MustCompile(`\b(tandem|process|go)_\w+`)

// checkNames expects every metric that is defined to be exported, and every one that the example's alerts name.
func checkNames(t *testing.T, f families) {
	t.Helper()
	e := &emitter{values: map[string][]labelled{}}
	e.store(cassandra.Stats{Rows: 1, Bytes: 2, Retries: 3}) // the store of this test has none
	e.held(service.Held{}, "metrics", "0", "shop")          // and no service is a standby
	exported := func(name string) bool {
		return f[name] != nil || len(e.values[name]) > 0 || name == "tandem_serve_complete_timestamp_seconds" || name == "tandem_serve_covered_timestamp_seconds" // serve's
	}
	for _, d := range definitions {
		if !exported(d.name) {
			t.Errorf("%s is defined and never exported", d.name)
		}
	}
	data, err := os.ReadFile("../scripts/examples/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			names := metricName.FindAllString(r.Expr, -1)
			if len(names) == 0 || r.Alert == "" || r.Annotations["summary"] == "" || !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
				t.Errorf("alert %q is not whole", r.Alert)
			}
			for _, name := range append(names, metricName.FindAllString(r.Annotations["summary"], -1)...) {
				if !exported(name) && !exported(strings.TrimSuffix(name, "_bucket")) {
					t.Errorf("alert %s: nothing exports %s", r.Alert, name)
				}
			}
			if _, err := model.ParseDuration(r.For); r.For != "" && err != nil {
				t.Errorf("alert %s: %v", r.Alert, err)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d alerts", n)
	}
}

// slowOwner opens and handles when it is let.
type slowOwner struct{ open, handle chan struct{} }

func (o *slowOwner) Handle(ctx context.Context, _ []broker.Record) error {
	select {
	case <-o.handle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestReadyAndAlive follows a partition through opening, work, lag and a stop, with what it needs away at times.
func TestReadyAndAlive(t *testing.T) {
	devstack.AtLength(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := broker.To(c.ListenAddrs()...)
	o := &slowOwner{make(chan struct{}), make(chan struct{})}
	host := &service.Host{Connection: to, Group: "g", Instance: "i", Session: 6 * time.Second, Topics: []string{"t"},
		Log: slog.New(slog.DiscardHandler), Open: func(ctx context.Context, _ *service.Seat) (service.Owner, int64, error) {
			select {
			case <-o.open:
				return o, 0, nil
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}}
	flags := newServiceFlags("dispatch")
	flags.listen, flags.ready = "127.0.0.1:0", time.Minute
	h, err := flags.health()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	at := h.listener.Addr().String()
	expect := func(path string, code int, says string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			got, body := get(t, at, path)
			if got == code && strings.Contains(body, says) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d %s; want %d and %q", path, got, body, code, says)
			}
		}
	}
	expect("/readyz", 503, "starting")
	expect("/healthz", 200, "alive")
	away := errors.New("away")
	n := &need{name: "store", ask: func(context.Context) error { return nil }}
	h.add(&stage{"dispatch", host, []*need{n}, func(*emitter) {}})
	expect("/readyz", 503, "no partitions are given out yet")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- host.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	expect("/readyz", 503, "t/0: opening for")
	f := scrape(t, at)
	f.want(t, 0, "tandem_partition_running", "topic", "t")
	f.want(t, 0, "tandem_ready")
	close(o.open)
	expect("/readyz", 200, "ready")
	scrape(t, at).want(t, 1, "tandem_partition_running", "topic", "t", "stage", "dispatch")

	w, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Write(ctx, []broker.Record{{Topic: "t", Value: []byte("x"), Time: time.Now().UnixMilli()}}); err != nil {
		t.Fatal(err)
	}
	busy := func() bool { return !host.Seats()[0].Status().Busy.IsZero() }
	for deadline := time.Now().Add(30 * time.Second); !busy(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the owner is given nothing")
		}
	}
	if why := h.hung(time.Now()); len(why) > 0 {
		t.Errorf("hung at once: %v", why)
	}
	later := time.Now().Add(hungAfter + time.Minute)
	sayNoLoop := func(why []string) []string { // at that time the host's own loop has not come round either
		return slices.DeleteFunc(why, func(s string) bool { return strings.Contains(s, "the loop of") })
	}
	if why := sayNoLoop(h.hung(later)); len(why) != 1 || !strings.Contains(why[0], "t/0 has given no sign of life for 6m") {
		t.Errorf("an owner at work for 6 minutes: %v", why)
	}
	if why := h.notReady(later); !slices.ContainsFunc(why, func(s string) bool { return strings.Contains(s, "t/0: 1 records behind") }) {
		t.Errorf("behind for 6 minutes: %v", why)
	}
	n.mu.Lock()
	n.reach.Saw(later.Add(-2*time.Minute), away) // the store was away until 2 minutes before
	n.mu.Unlock()
	if why := h.hung(later); len(why) != 0 {
		t.Errorf("hung although it may have waited for the store: %v", why)
	}
	if why := h.notReady(time.Now()); !slices.Contains(why, "store: away") {
		t.Errorf("ready without a store: %v", why)
	}
	close(o.handle)
	for deadline := time.Now().Add(30 * time.Second); busy(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the owner stays at work")
		}
	}
	if why := sayNoLoop(h.hung(time.Now().Add(24 * time.Hour))); len(why) != 0 {
		t.Errorf("hung without work: %v", why)
	}
	expect("/readyz", 200, "ready") // the store answers again
	h.end()
	expect("/readyz", 503, "starting") // until the next begins, which no alert is to take for a dead process
	expect("/healthz", 200, "alive")
}

// TestNeeds asks blobs, and a store that answers questions but takes nothing.
func TestNeeds(t *testing.T) {
	if err := blobs("blobs", blob.NewMem()).ask(context.Background()); err != nil {
		t.Error(err)
	}
	retries := int64(0)
	asked := make(chan struct{})
	n := &need{name: "store", ask: func(context.Context) error { asked <- struct{}{}; return nil }, retries: func() int64 { return retries }}
	ctx, stop := context.WithCancel(context.Background())
	retries = 7
	done := make(chan struct{})
	go func() { n.watch(ctx); close(done) }()
	<-asked
	stop()
	<-done
	if r := n.status(); r.Err != nil || r.Answered.IsZero() || r.Failed.IsZero() {
		t.Errorf("a store that is asked again and again: %+v", r)
	}
}
