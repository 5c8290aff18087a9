// Package broker is how the stream's jobs speak to Kafka, through franz-go: a reader of given partitions and a writer
// that returns when everything is acknowledged. The jobs declare the small interfaces that they need; these types fit
// them, and so does a fake in virtual time.
package broker

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
)

// Connection says how to reach a cluster.
type Connection struct {
	Seeds []string       // host:port of some of its brokers
	TLS   *tls.Config    // nil: not encrypted
	SASL  sasl.Mechanism // nil: no user
}

// To is a connection to a cluster that asks for neither TLS nor a user.
func To(seeds ...string) Connection { return Connection{Seeds: seeds} }

func (c Connection) open(opts ...kgo.Opt) (*kgo.Client, error) {
	opts = append(opts, kgo.SeedBrokers(c.Seeds...))
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS))
	}
	if c.SASL != nil {
		opts = append(opts, kgo.SASL(c.SASL))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return client, nil
}

// Record is a record of a topic. Offset is the broker's, and unused in a record to write.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      int64 // ms since the epoch: append or create time, as the topic says
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is a record's header.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the value of the first header of that key.
func (r *Record) Header(key string) ([]byte, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// Limits of a client.
const (
	// MaxBatch bounds what one compressed batch may inflate to. A batch beyond it stops its partition with an error
	// that names it; Kafka's own limit on what is sent (1 MiB by default) is far below.
	MaxBatch = 64 << 20
	// fetchBytes bounds what a reader holds for one fetch.
	fetchBytes = 16 << 20
	// maxRecord is the limit of a message, set on the topics too, far above what a raw topic takes (Kafka's default is
	// 1 MiB): a dead letter is the whole raw record and its headers.
	maxRecord = 4 << 20
)

// Partition names a partition of a topic.
type Partition struct {
	Topic     string
	Partition int32
}

// Reader reads given partitions from given offsets.
type Reader struct {
	client *kgo.Client
	recs   []Record
}

// NewReader reads the partitions, each from its offset on. An offset out of range is an error, never a jump.
func NewReader(to Connection, from map[Partition]int64) (*Reader, error) {
	assign := map[string]map[int32]kgo.Offset{}
	for p, at := range from {
		if assign[p.Topic] == nil {
			assign[p.Topic] = map[int32]kgo.Offset{}
		}
		assign[p.Topic][p.Partition] = kgo.NewOffset().At(at)
	}
	c, err := to.open(
		kgo.ConsumePartitions(assign),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.MaxDecompressBatchBytes(MaxBatch),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes/4),
		kgo.FetchMaxWait(250*time.Millisecond),
		kgo.MaxConcurrentFetches(2),
	)
	if err != nil {
		return nil, err
	}
	return &Reader{client: c}, nil
}

// Poll returns the next records, at most max of them, in order within each partition; it waits for the first, and
// returns none when the context ends. They are valid until the next call.
func (r *Reader) Poll(ctx context.Context, max int) ([]Record, error) {
	fetches := r.client.PollRecords(ctx, max)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var errs []error
	fetches.EachError(func(topic string, p int32, err error) {
		errs = append(errs, fmt.Errorf("kafka: %s/%d: %w", topic, p, err))
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.recs = r.recs[:0]
	fetches.EachRecord(func(k *kgo.Record) { r.recs = append(r.recs, fromKafka(k)) })
	return r.recs, nil
}

func fromKafka(k *kgo.Record) Record {
	rec := Record{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset, Time: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value}
	for _, h := range k.Headers {
		rec.Headers = append(rec.Headers, Header(h))
	}
	return rec
}

// Close stops reading.
func (r *Reader) Close() { r.client.Close() }

// Writer writes records and waits for them.
type Writer struct {
	client *kgo.Client
	recs   []*kgo.Record
	slab   []kgo.Record
}

// NewWriter makes a writer (acks=all, idempotent).
func NewWriter(to Connection) (*Writer, error) {
	c, err := to.open(
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(maxRecord),
		kgo.MaxBufferedRecords(1<<16),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()),
	)
	if err != nil {
		return nil, err
	}
	return &Writer{client: c}, nil
}

// Write appends the records, in order within each partition, and returns once all are acknowledged. After an error
// nothing more must be written to those partitions by this writer: a later record must not overtake a lost one.
func (w *Writer) Write(ctx context.Context, recs []Record) error {
	if len(recs) == 0 {
		return nil
	}
	if cap(w.slab) < len(recs) {
		w.slab = make([]kgo.Record, len(recs))
	}
	w.slab, w.recs = w.slab[:len(recs)], w.recs[:0]
	for i := range recs {
		r := &recs[i]
		k := &w.slab[i]
		*k = kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: k.Headers[:0]}
		if r.Time != 0 {
			k.Timestamp = time.UnixMilli(r.Time)
		}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kgo.RecordHeader(h))
		}
		w.recs = append(w.recs, k)
	}
	if err := w.client.ProduceSync(ctx, w.recs...).FirstErr(); err != nil {
		return fmt.Errorf("kafka: write: %w", err)
	}
	return nil
}

// Close ends the writer.
func (w *Writer) Close() { w.client.Close() }

// Topics looks after topics.
type Topics struct {
	client *kgo.Client
	admin  *kadm.Client
}

// NewTopics connects.
func NewTopics(to Connection) (*Topics, error) {
	c, err := to.open()
	if err != nil {
		return nil, err
	}
	return &Topics{c, kadm.NewClient(c)}, nil
}

// Create makes a topic whose records never expire by time and carry the time that their writer gives, and returns its
// id. It is fine if the topic is there with as many partitions.
func (t *Topics) Create(ctx context.Context, name string, partitions int32) (id string, err error) {
	config := map[string]*string{}
	for k, v := range map[string]string{"retention.ms": "-1", "message.timestamp.type": "CreateTime", "max.message.bytes": strconv.Itoa(maxRecord)} {
		config[k] = &v
	}
	_, err = t.admin.CreateTopic(ctx, partitions, -1, config, name)
	if err != nil && !isExists(err) {
		return "", fmt.Errorf("kafka: create topic %s: %w", name, err)
	}
	found, err := t.admin.ListTopics(ctx, name)
	if err != nil {
		return "", fmt.Errorf("kafka: topic %s: %w", name, err)
	}
	d := found[name]
	if d.Err != nil {
		return "", fmt.Errorf("kafka: topic %s: %w", name, d.Err)
	}
	if int32(len(d.Partitions)) != partitions {
		return "", fmt.Errorf("kafka: topic %s has %d partitions, not %d: the number of a topic never changes", name, len(d.Partitions), partitions)
	}
	// As Kafka's own tools spell it: the id is part of names, which the alphabet of kadm's String does not fit.
	return base64.RawURLEncoding.EncodeToString(d.ID[:]), nil
}

// Ends returns the end offset of each partition of a topic.
func (t *Topics) Ends(ctx context.Context, name string) (map[int32]int64, error) {
	list, err := t.admin.ListEndOffsets(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kafka: end offsets of %s: %w", name, err)
	}
	ends := map[int32]int64{}
	var first error
	list.Each(func(o kadm.ListedOffset) {
		if o.Err != nil && first == nil {
			first = fmt.Errorf("kafka: end offset of %s/%d: %w", name, o.Partition, o.Err)
		}
		ends[o.Partition] = o.Offset
	})
	return ends, first
}

// Close ends the connection.
func (t *Topics) Close() { t.client.Close() }

func isExists(err error) bool { return errors.Is(err, kerr.TopicAlreadyExists) }
