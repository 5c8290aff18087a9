// Package broker is how the stream's jobs speak to Kafka, through franz-go: a reader of given partitions and a writer
// that returns when everything is acknowledged. The jobs declare the small interfaces that they need; these types fit
// them, and so does a fake in virtual time.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
)

// Connection says how to reach a cluster.
type Connection struct {
	Seeds []string       // host:port of some of its brokers
	TLS   *tls.Config    // nil: not encrypted
	SASL  sasl.Mechanism // nil: no user
	Log   *slog.Logger   // of what the client finds wrong and tries again; nil: nothing is said
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
	if c.Log != nil {
		opts = append(opts, kgo.WithLogger(clientLog{c.Log}))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return client, nil
}

// clientLog hands on what the client warns of.
type clientLog struct{ *slog.Logger }

func (l clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// unread is what the client says of each commit of a member that has let go of some partition, since it keeps account only of what is
// read through the group, which is nothing here (Group). The commit was taken: one that was not is an error of Commit.
const unread = "received an OffsetCommitResponse after our group session has ended"

func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if strings.HasPrefix(msg, unread) {
		return
	}
	if level == kgo.LogLevelError {
		l.Logger.Error("kafka: "+msg, keyvals...)
	} else {
		l.Logger.Warn("kafka: "+msg, keyvals...)
	}
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

	fetched *kgo.Record // what Recycle gives back; nil if there is nothing
}

// Header is a record's header.
type Header = kgo.RecordHeader

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
	// MaxMessage is the limit of a message in bytes, set on the topics that dispatch and the stream write too. It is far
	// above MaxRawMessage: a dead letter is the whole raw record and its headers.
	MaxMessage = 4 << 20
	// MaxRawMessage is that of raw topics: the longest line of a records file, and what a record adds to it.
	MaxRawMessage = 1<<20 + 1<<12
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
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
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
	return Record{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset, Time: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value,
		Headers: k.Headers}
}

// Close stops reading.
func (r *Reader) Close() { r.client.Close() }
