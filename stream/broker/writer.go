package broker

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Writer writes records and waits for them. It is safe for concurrent use.
type Writer struct {
	client  *kgo.Client
	scratch sync.Pool    // of *outgoing
	tried   atomic.Int64 // ms, when Kafka last answered anything or a connection to it failed

	mu      sync.Mutex
	pending map[*pending]bool // calls of Write under way
}

type outgoing struct{ slab []kgo.Record }

type pending struct {
	recs  []Record
	since time.Time
}

// NewWriter makes a writer (acks=all, idempotent) to the topics that dispatch and the stream write.
func NewWriter(to Connection) (*Writer, error) {
	return newWriter(to, MaxMessage, kgo.SnappyCompression())
}

// NewMetricsWriter makes one to topics of metrics messages, which it does not compress: they hold many hashes of visitors, so
// that Snappy took off three tenths, at the price of a twentieth of a shard's time.
func NewMetricsWriter(to Connection) (*Writer, error) {
	return newWriter(to, MaxMessage, kgo.NoCompression())
}

// NewRawWriter makes one to raw topics, which take smaller batches.
func NewRawWriter(to Connection) (*Writer, error) {
	return newWriter(to, MaxRawMessage, kgo.SnappyCompression())
}

func newWriter(to Connection, message int32, codec kgo.CompressionCodec) (*Writer, error) {
	w := &Writer{pending: map[*pending]bool{}}
	c, err := to.open(
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(message),
		kgo.MaxBufferedRecords(1<<16),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(codec),
		kgo.WithHooks(tries{w}),
	)
	if err != nil {
		return nil, err
	}
	w.client = c
	return w, nil
}

// tries notes that the client is at work: what cannot be written is tried again and again, until it is taken.
type tries struct{ w *Writer }

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (t tries) OnBrokerE2E(kgo.BrokerMetadata, int16, kgo.BrokerE2E) { t.note() }

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (t tries) OnBrokerConnect(kgo.BrokerMetadata, time.Duration, net.Conn, error) { t.note() }

func (t tries) note() { t.w.tried.Store(time.Now().UnixMilli()) }

// Waiting is the call of Write that has waited longest for Kafka.
type Waiting struct {
	Since  time.Time
	Topics []string // that it writes to
	// Tried is when the client last had an answer of Kafka's or found that it cannot be reached. While it goes on, Kafka is
	// what is waited for; else the client has come to a stop.
	Tried time.Time
}

// Waiting says whether a Write waits, and for how long one has.
func (w *Writer) Waiting() (longest Waiting, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first *pending
	for p := range w.pending {
		if first == nil || p.since.Before(first.since) {
			first = p
		}
	}
	if first == nil {
		return Waiting{}, false
	}
	for i := range first.recs {
		if topic := first.recs[i].Topic; !slices.Contains(longest.Topics, topic) {
			longest.Topics = append(longest.Topics, topic)
		}
	}
	slices.Sort(longest.Topics)
	longest.Since, longest.Tried = first.since, time.UnixMilli(w.tried.Load())
	return longest, true
}

func (w *Writer) begin(recs []Record) *pending {
	p := &pending{recs, time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[p] = true
	return p
}

func (w *Writer) end(p *pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending, p)
}

// Write appends the records, in order within each partition, and returns once all are acknowledged. Where Kafka cannot be
// reached, or does not take them (too few replicas are in sync, a partition has no leader), it waits until it does, or until
// the context ends. After an error any of them may have been written, or may still be; the caller begins again from what it
// knows to be done.
func (w *Writer) Write(ctx context.Context, recs []Record) error {
	if len(recs) == 0 {
		return nil
	}
	defer w.end(w.begin(recs))
	o, _ := w.scratch.Get().(*outgoing)
	if o == nil {
		o = &outgoing{}
	}
	if cap(o.slab) < len(recs) {
		o.slab = make([]kgo.Record, len(recs))
	}
	o.slab = o.slab[:len(recs)]
	var failed error // the first; the client acknowledges one record after another
	left, done := len(recs), make(chan struct{})
	acknowledged := func(_ *kgo.Record, err error) {
		if err != nil && failed == nil {
			failed = err
		}
		if left--; left == 0 {
			close(done)
		}
	}
	for i := range recs {
		r := &recs[i]
		k := &o.slab[i]
		*k = kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
		if r.Time != 0 {
			k.Timestamp = time.UnixMilli(r.Time)
		}
		w.client.Produce(ctx, k, acknowledged)
	}
	// What is still on its way after an error may use the scratch: it is not given back.
	select {
	case <-done:
	case <-ctx.Done(): // the client holds on to what Kafka may have taken already
		return fmt.Errorf("kafka: write: %w", context.Cause(ctx))
	}
	if failed != nil {
		return fmt.Errorf("kafka: write: %w", failed)
	}
	clear(o.slab)
	w.scratch.Put(o)
	return nil
}

// Close ends the writer.
func (w *Writer) Close() { w.client.Close() }
