package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/traffic"
	"tandem/scripts/devstack"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// TestServices runs dispatch, stage 1, stage 2 and the archiver as services over the Kafka protocol, with processes that
// come and go, and expects the rows of the embedded pipeline.
func TestServices(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := newServiceRig(t, 3, 4)
	chain := s.site.Tenants[0].Chain
	raws := s.traffic(t, 4000)
	want, end := replayed(t, ctx, chain, raws)

	s.abort(t, ctx, raws[:300])
	s.produce(t, ctx, raws, end)
	s.start(t, "dispatch", "--id", "d1")
	s.start(t, "stream", "--stage", "1", "--id", "a1")
	s.start(t, "stream", "--stage", "2", "--id", "b1")
	s.start(t, "archive", "--id", "r1")
	s.await(t, ctx, "stage 1 has read something", func() bool { return s.committed(ctx, "tandem.stream.dc1.1", "beacons.shop.0", 4) > 0 })
	s.start(t, "stream", "--stage", "1", "--id", "a2")
	s.start(t, "dispatch", "--id", "d2")
	// Both have partitions before anything is stopped: who stops while a group shares out anew waits for those that are gone.
	s.await(t, ctx, "d2 and a2 have partitions", func() bool {
		logs := s.logs.String()
		return strings.Count(logs, "msg=assigned group=tandem.dispatch.dc1 ") > 3 && strings.Count(logs, "msg=assigned group=tandem.stream.dc1.1 ") > 4
	})
	s.awaitAll(t, ctx, end, "dispatch.dc1", "stream.dc1.1", "stream.dc1.2", "archive.dc1")
	s.stopAll()

	st, err := pebblestore.Open(s.site.Store.Pebble, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	got, err := embedded.Lines(ctx, st, chain.Tenant, "stream", 0, store.MaxMinute+1)
	if err != nil {
		t.Fatal(err)
	}
	if d := difference(want, got); len(d) > 0 {
		t.Errorf("%d lines differ of %d, the first: %s\nlogs:\n%s", len(d), len(want), d[0], s.logs.String())
	}
}

// serviceRig is a site on a broker in this process.
type serviceRig struct {
	dir, file string
	site      *site.Site
	to        broker.Connection
	logs      syncBuffer
	mu        sync.Mutex
	stops     []func()
}

func newServiceRig(t *testing.T, raw, shards int) *serviceRig {
	t.Helper()
	return newServiceRigOf(t, "dc1", raw, shards)
}

func newServiceRigOf(t *testing.T, dc string, raw, shards int) *serviceRig {
	t.Helper()
	devstack.AtLength(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &serviceRig{dir: t.TempDir(), to: broker.To(c.ListenAddrs()...)}
	s.file = filepath.Join(s.dir, "site.yaml")
	text := fmt.Sprintf("dc: %s\nkafka: {brokers: [%q], replication: 1}\nraw: [{topic: raw, kind: history, partitions: %d}]\n"+
		"tenants: [{config: shop.yaml, partitions: %d}]\nmetrics: {topic: metrics, partitions: 2}\ntick: 10s\nblobs: blobs\nstore: {pebble: store}\n",
		dc, c.ListenAddrs()[0], raw, shards)
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "shop.yaml"), traffic.Config(), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.site, err = site.Load(s.file); err != nil {
		t.Fatal(err)
	}
	if code := runTopics(context.Background(), []string{"apply", "--site", s.file}, io.Discard, &s.logs); code != 0 {
		t.Fatalf("topics apply: exit code %d\n%s", code, s.logs.String())
	}
	t.Cleanup(s.stopAll)
	return s
}

// traffic is made-up beacons in order of ingest, on one raw partition each.
func (s *serviceRig) traffic(t *testing.T, n int) []embedded.Raw {
	t.Helper()
	var raws []embedded.Raw
	opt := traffic.Defaults()
	opt.Start, opt.Span, opt.SessionsPerMinute = time.Now().Add(-24*time.Hour).Truncate(time.Minute), 30*time.Minute, 20 // within the retention
	err := traffic.Generate(opt, func(r records.Record) error {
		raws = append(raws, embedded.Raw{Partition: int32(len(raws)) % s.site.Raw[0].Partitions, Ingest: r.Ingest, Payload: bytes.Clone(r.Payload)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return cmp.Compare(a.Ingest, b.Ingest) })
	return raws[:min(n, len(raws))]
}

// replayed is what the embedded pipeline makes of the records, and the time at which nothing of them is open.
func replayed(t *testing.T, ctx context.Context, chain *tenant.Chain, raws []embedded.Raw) (lines []string, end int64) {
	t.Helper()
	return pipelined(t, ctx, chain, raws, "stream")
}

// pipelined is replayed for one of the two layers: stream or batch.
func pipelined(t *testing.T, ctx context.Context, chain *tenant.Chain, raws []embedded.Raw, layer string) (lines []string, end int64) {
	t.Helper()
	st, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := embedded.Defaults()
	opt.Stream, opt.Batch = layer == "stream", layer == "batch"
	p, err := embedded.Open(ctx, opt, chain, embedded.NewMemory(), blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	one := slices.Clone(raws)
	for i := range one {
		one[i].Partition = 0
	}
	if err := errors.Join(p.Feed(ctx, one), p.Finish(ctx)); err != nil {
		t.Fatal(err)
	}
	if lines, err = embedded.Lines(ctx, st, chain.Tenant, layer, 0, store.MaxMinute+1); err != nil {
		t.Fatal(err)
	}
	return lines, p.End()
}

// produce writes the records, and heartbeats past their end.
func (s *serviceRig) produce(t *testing.T, ctx context.Context, raws []embedded.Raw, end int64) {
	t.Helper()
	s.write(t, ctx, raws, end, end+3_600_000) // a tick ends when the greatest progress moves, so once after all are at the end
}

// write writes the records, and then heartbeats of the given times.
func (s *serviceRig) write(t *testing.T, ctx context.Context, raws []embedded.Raw, beats ...int64) {
	t.Helper()
	w, err := broker.NewWriter(s.to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var recs []broker.Record
	for _, r := range raws {
		recs = append(recs, broker.Record{Topic: "raw", Partition: r.Partition, Time: r.Ingest, Value: r.Payload})
	}
	for _, at := range beats {
		for p := range s.site.Raw[0].Partitions {
			recs = append(recs, broker.Record{Topic: "raw", Partition: p, Time: at, Headers: []broker.Header{{Key: dispatch.HeaderHeartbeat}}})
		}
	}
	if err := w.Write(ctx, recs); err != nil {
		t.Fatal(err)
	}
}

// abort writes the records, under other ids, in a transaction that it aborts.
func (s *serviceRig) abort(t *testing.T, ctx context.Context, raws []embedded.Raw) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(s.to.Seeds...), kgo.TransactionalID("aborted"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	var recs []*kgo.Record
	for _, r := range raws {
		other := bytes.Replace(r.Payload, []byte(`"id":"`), []byte(`"id":"aborted-`), 1)
		recs = append(recs, &kgo.Record{Topic: "raw", Partition: r.Partition, Timestamp: time.UnixMilli(r.Ingest), Value: other})
	}
	if err := errors.Join(c.ProduceSync(ctx, recs...).FirstErr(), c.EndTransaction(ctx, kgo.TryAbort)); err != nil {
		t.Fatal(err)
	}
}

// start runs a service until the function that it returns is called, or stopAll.
func (s *serviceRig) start(t *testing.T, command string, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) int{"dispatch": runDispatch, "stream": runStream, "archive": runArchive}
	go func() {
		defer close(done)
		if code := commands[command](ctx, append([]string{"--site", s.file, "--session-timeout", "6s"}, args...), io.Discard, &s.logs); code != 0 {
			t.Errorf("%s %v: exit code %d\n%s", command, args, code, s.logs.String())
		}
	}()
	stop = func() { cancel(); <-done }
	s.mu.Lock()
	s.stops = append(s.stops, stop)
	s.mu.Unlock()
	return stop
}

func (s *serviceRig) stopAll() {
	s.mu.Lock()
	stops := s.stops
	s.stops = nil
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, stop := range stops {
		all.Go(stop)
	}
	all.Wait()
}

// committed is what a group has committed of all partitions of a topic, end how many records these have.
func (s *serviceRig) committed(ctx context.Context, group, topic string, partitions int32) (n int64) {
	o, err := broker.NewOffsets(s.to, group)
	if err != nil {
		return 0
	}
	defer o.Close()
	for p := range partitions {
		if at, ok, err := o.Committed(ctx, broker.Partition{Topic: topic, Partition: p}); ok && err == nil {
			n += at.Offset
		}
	}
	return n
}

// awaitAll waits until groups of services have committed all of the topics that they read, once the records up to end are
// produced. The last progress of a raw partition may be told out of turn, and then no tick ends and no window settles any more,
// by which stage 2 and the archiver commit. So time goes on until all have read all, as it does where sources live.
func (s *serviceRig) awaitAll(t *testing.T, ctx context.Context, end int64, groups ...string) {
	t.Helper()
	beacons := s.site.Tenants[0].Partitions
	reads := map[string]struct {
		topic      string
		partitions int32
	}{"dispatch.dc1": {"raw", s.site.Raw[0].Partitions}, "stream.dc1.1": {"beacons.shop.0", beacons},
		"stream.dc1.2": {"metrics.stream.dc1", s.site.Metrics.Partitions}, "archive.dc1": {"beacons.shop.0", beacons}}
	beat, beaten := end+3_600_000, time.Now()
	s.await(t, ctx, "all have read all", func() bool {
		if time.Since(beaten) > 5*time.Second && ctx.Err() == nil {
			beat += 3_600_000
			s.write(t, ctx, nil, beat)
			beaten = time.Now()
		}
		for _, g := range groups {
			if !s.readAll(ctx, "tandem."+g, reads[g].topic, reads[g].partitions) {
				return false
			}
		}
		return true
	})
}

// readAll says whether a group has committed all of a topic; no, where that cannot be asked.
func (s *serviceRig) readAll(ctx context.Context, group, topic string, partitions int32) bool {
	end := s.end(ctx, topic)
	return end > 0 && s.committed(ctx, group, topic, partitions) == end
}

func (s *serviceRig) end(ctx context.Context, topic string) (n int64) {
	topics, err := broker.NewTopics(s.to)
	if err != nil {
		return 0
	}
	defer topics.Close()
	ends, err := topics.Ends(ctx, topic)
	if err != nil {
		return 0
	}
	for _, end := range ends {
		n += end
	}
	return n
}

func (s *serviceRig) await(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s\n%s", what, s.logs.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// syncBuffer is a buffer that services log to side by side.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
