package campaign

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/core/beacon"
	"tandem/schemas/records"
	"tandem/stream/dispatch"
)

// live appends beacons to a live raw topic at a rate that may change, as a shop does: their ts is the clock's less what the
// beacon was delayed, and the broker gives them their time. The beacons are those of a records file, over and over, each
// time of other sessions.
type live struct {
	kafka      *kafka
	recs       []records.Record
	delays     []int64 // ms between ts and ingest, by record
	partitions int32
	rate       atomic.Int64 // per second
	sent       atomic.Int64
	acked      atomic.Int64

	mu     sync.Mutex
	marks  []mark // of acked, every 100 ms
	failed error
	cancel context.CancelFunc
	done   chan struct{}
}

// mark says how many beacons had been counted at a moment.
type mark struct {
	at time.Time
	n  int64
}

// startLive starts appending.
func startLive(t testing.TB, k *kafka, x *traffic, partitions int, rate int64) *live {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &live{kafka: k, recs: x.read(t), partitions: int32(partitions), cancel: cancel, done: make(chan struct{})}
	var parser beacon.Parser
	var parsed beacon.Beacon
	for _, r := range l.recs {
		parser.Parse(r.Payload, &parsed)
		l.delays = append(l.delays, r.Ingest-parsed.TS)
	}
	l.rate.Store(rate)
	go l.run(ctx)
	go l.mark()
	t.Cleanup(func() { l.stop(t) })
	return l
}

func (l *live) run(ctx context.Context) {
	defer close(l.done)
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	last, owed := time.Now(), 0.0
	for i := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		now := time.Now()
		owed += now.Sub(last).Seconds() * float64(l.rate.Load())
		last = now
		for ; owed >= 1; owed-- {
			at := i % len(l.recs)
			payload := relive(l.recs[at].Payload, i/len(l.recs), i, now.UnixMilli()-l.delays[at])
			l.kafka.client.Produce(context.Background(), &kgo.Record{Topic: rawTopic, Partition: int32(i) % l.partitions, Value: payload}, l.acknowledged)
			l.sent.Add(1)
			i++
		}
	}
}

// mark notes how many were acknowledged, also while Kafka lets run wait.
func (l *live) mark() {
	for {
		select {
		case <-l.done:
			return
		case <-time.After(100 * time.Millisecond):
		}
		l.mu.Lock()
		l.marks = append(l.marks, mark{time.Now(), l.acked.Load()})
		l.mu.Unlock()
	}
}

func (l *live) acknowledged(_ *kgo.Record, err error) {
	if err == nil {
		l.acked.Add(1)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
}

// relive returns a beacon of the bench traffic as another beacon, of another session and time: the first 16 digits of its
// id are its number, so that none repeats another, and the first two of its session the round's.
func relive(payload []byte, round, number int, ts int64) []byte {
	b := bytes.Clone(payload)
	put := func(name, text string) {
		if at := bytes.Index(b, []byte(name)); at >= 0 {
			copy(b[at+len(name):], text)
		}
	}
	put(`"id":"`, fmt.Sprintf("%016x", number))
	put(`"session":"`, fmt.Sprintf("%02x", round&0xff))
	put(`"ts":`, strconv.FormatInt(ts, 10)) // 13 digits, as those that it replaces
	return b
}

// stop stops appending, and returns when all is acknowledged.
func (l *live) stop(t testing.TB) {
	l.cancel()
	<-l.done
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.kafka.client.Flush(ctx); err != nil {
		t.Errorf("beacons are not acknowledged: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		t.Errorf("a beacon was not appended: %v", l.failed)
		l.failed = nil
	}
}

// history reads the raw topic back, with the times that the broker gave, as traffic for the oracle.
func (s *scenario) history() *traffic {
	s.t.Helper()
	x := &traffic{tenant: s.traffic.tenant, config: s.traffic.config, path: filepath.Join(s.dir, "raw.tsv")}
	var all []records.Record
	for n := range int32(s.shape.raw) {
		s.kafka.read(rawTopic, n, func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == dispatch.HeaderHeartbeat && len(r.Value) == 0 {
					return
				}
			}
			all = append(all, records.Record{Ingest: r.Timestamp.UnixMilli(), HasIngest: true, Payload: r.Value})
		})
	}
	write(s.t, x.path, all)
	x.records = len(all)
	return x
}

// quick changes a config so that minutes close soon: beacons are late after some seconds and visits end after some more.
func quick(x *traffic, lateness, gap string) *traffic {
	y := *x
	y.config = x.config + fmt.Sprintf("\nlateness: %s\nvisit_gap: %s\nsession_ttl: 30m\n", lateness, gap)
	return &y
}

func TestRelive(t *testing.T) {
	old := []byte(`{"id":"0123456789abcdef01234567","tenant":"uswm","session":"4567","visitor":"89","ts":1763769600123,"point":"home_page"}`)
	want := `{"id":"000000000000001101234567","tenant":"uswm","session":"0367","visitor":"89","ts":1800000000000,"point":"home_page"}`
	if got := relive(old, 3, 17, 1_800_000_000_000); string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if bytes.Contains(old, []byte("0000000000000011")) {
		t.Error("the old one is changed")
	}
}

// peak is the greatest resident memory that a process has had since its start, in bytes.
func (p *process) peak() int64 {
	p.mu.Lock()
	pid := p.cmd.Process.Pid
	p.mu.Unlock()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return kilobytes(string(data), "VmHWM:")
}
