package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Limits of Payloads.
const (
	// payloadFetch is how many bytes a fetch brings, compressed; a batch at least. More would be for nothing where few payloads are
	// asked for, less a request for every few where many are.
	payloadFetch = 64 << 10
	// payloadBytes bounds what is kept of fetches, compressed, for all readers together: ten minutes of some hundred beacons a
	// second. Beyond it the one that was looked at longest ago is forgotten, and fetched again if it is asked for.
	payloadBytes = 32 << 20
	// payloadTries are made while a partition has no leader that answers, payloadPause apart: as long as it takes until another
	// broker leads. Then it is an error, and whoever asked begins again.
	payloadTries = 40
	payloadPause = 250 * time.Millisecond
)

// Payloads reads values of single records anywhere in the log again, over one connection to each broker. Safe for concurrent
// use.
type Payloads struct {
	client *kgo.Client
	pools  []kgo.Pool

	mu    sync.Mutex
	kept  []*fetched // the one looked at last is the first
	bytes int        // of all of them
}

// fetched are batches that a fetch brought. They do not change.
type fetched struct {
	from        Partition
	first, last int64 // offsets
	batches     []byte
}

// NewPayloads connects when something is asked for.
func NewPayloads(to Connection) (*Payloads, error) {
	s := &Payloads{pools: []kgo.Pool{&pools{}}}
	var err error
	s.client, err = to.open(kgo.MaxDecompressBatchBytes(MaxBatch), kgo.WithPools(s.pools...))
	return s, err
}

// Of returns a reader of one partition.
func (s *Payloads) Of(p Partition) *PayloadReader {
	return &PayloadReader{all: s, from: p, inflate: s.client.OptValue(kgo.WithDecompressor).(kgo.Decompressor)}
}

// Close ends all readers.
func (s *Payloads) Close() { s.client.Close() }

// PayloadReader reads payloads of one partition. It keeps the batch that it read last, so that asking in the log's order is
// cheap. Not safe for concurrent use.
type PayloadReader struct {
	all     *Payloads
	from    Partition
	inflate kgo.Decompressor
	batch   []*kgo.Record // in order
}

// Payload returns the value of one record, valid until the next call. That the log does not have it any more is an error.
func (r *PayloadReader) Payload(ctx context.Context, offset int64) ([]byte, error) {
	if n := len(r.batch); n == 0 || offset < r.batch[0].Offset || offset > r.batch[n-1].Offset {
		if err := r.read(ctx, offset); err != nil {
			return nil, fmt.Errorf("kafka: %s/%d: %w", r.from.Topic, r.from.Partition, err)
		}
	}
	i, ok := slices.BinarySearchFunc(r.batch, offset, func(k *kgo.Record, offset int64) int { return int(k.Offset - offset) })
	if !ok {
		return nil, fmt.Errorf("kafka: %s/%d: the log has no record %d", r.from.Topic, r.from.Partition, offset)
	}
	return r.batch[i].Value, nil
}

// read inflates the batch that the record is in.
func (r *PayloadReader) read(ctx context.Context, offset int64) error {
	f := r.all.find(r.from, offset)
	if f == nil {
		var err error
		if f, err = r.all.fetch(ctx, r.from, offset); err != nil {
			return err
		}
		r.all.keep(f)
	}
	for _, k := range r.batch {
		k.Recycle()
	}
	got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: r.from.Topic, Partition: r.from.Partition, Pools: r.all.pools},
		&kmsg.FetchResponseTopicPartition{Partition: r.from.Partition, RecordBatches: f.batch(offset)}, r.inflate, nil)
	r.batch = got.Records
	return got.Err
}

// find returns what was fetched before and has the record, or nil.
func (s *Payloads) find(p Partition, offset int64) *fetched {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.kept {
		if f.first <= offset && offset <= f.last && f.from == p {
			copy(s.kept[1:], s.kept[:i])
			s.kept[0] = f
			return f
		}
	}
	return nil
}

func (s *Payloads) keep(f *fetched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.Insert(s.kept, 0, f)
	for s.bytes += len(f.batches); s.bytes > payloadBytes && len(s.kept) > 1; {
		n := len(s.kept) - 1
		s.bytes -= len(s.kept[n].batches)
		s.kept[n] = nil
		s.kept = s.kept[:n]
	}
}

// fetch asks for the batch that has the record, and gets some of those after it. A consumer would read on by itself, and each
// jump would have it throw away what it had read.
func (s *Payloads) fetch(ctx context.Context, p Partition, offset int64) (*fetched, error) {
	for try := 1; ; try++ {
		b, err := s.request(ctx, p, offset)
		if err == nil {
			f := whole(p, b)
			if len(f.batches) == 0 {
				return nil, fmt.Errorf("the log has no record %d", offset)
			}
			return f, nil
		}
		if try == payloadTries || !kerr.IsRetriable(err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(payloadPause):
		}
	}
}

// request asks the partition's leader for the record.
func (s *Payloads) request(ctx context.Context, p Partition, offset int64) ([]byte, error) {
	leader, topic, err := s.leader(ctx, p)
	if err != nil {
		return nil, err
	}
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = p.Partition, offset, payloadFetch
	of := kmsg.NewFetchRequestTopic()
	of.Topic, of.TopicID, of.Partitions = p.Topic, topic, append(of.Partitions, part)
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxWaitMillis, req.Topics = 1, int32(payloadPause.Milliseconds()), append(req.Topics, of)
	answer, err := s.client.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("a fetch of one partition is answered with %d topics", len(resp.Topics))
	}
	got := &resp.Topics[0].Partitions[0]
	return got.RecordBatches, kerr.ErrorForCode(got.ErrorCode)
}

// leader returns the broker to ask for a partition, and the id of its topic.
func (s *Payloads) leader(ctx context.Context, p Partition) (broker int32, topic [16]byte, err error) {
	of := kmsg.NewMetadataRequestTopic()
	of.Topic = &p.Topic
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = append(req.Topics, of)
	resp, err := s.client.RequestCachedMetadata(ctx, req, payloadPause)
	if err != nil {
		return 0, topic, err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return 0, topic, err
		}
		for _, q := range t.Partitions {
			if q.Partition == p.Partition {
				return q.Leader, t.TopicID, kerr.ErrorForCode(q.ErrorCode)
			}
		}
	}
	return 0, topic, kerr.UnknownTopicOrPartition
}

// whole keeps those of the batches that are: the last one may be cut off.
func whole(p Partition, b []byte) *fetched {
	f, size := &fetched{from: p}, 0
	for {
		batch, first, last := firstBatch(b[size:])
		if batch == nil {
			f.batches = b[:size]
			return f
		}
		if size == 0 {
			f.first = first
		}
		f.last = last
		size += len(batch)
	}
}

// batch returns the one that the record is in, or none.
func (f *fetched) batch(offset int64) []byte {
	for b := f.batches; ; {
		batch, _, last := firstBatch(b)
		if batch == nil || last >= offset {
			return batch
		}
		b = b[len(batch):]
	}
}

// firstBatch returns the batch that the bytes begin with, none if it is cut off, and its first and last offset. Beacons have
// headers, so that there are no batches of the formats before these.
func firstBatch(b []byte) (batch []byte, first, last int64) {
	const lengthAt, lastAt, head = 8, 23, 27 // the length is of what comes after it, the last offset is told from the first on
	if len(b) < head {
		return nil, 0, 0
	}
	n := lengthAt + 4 + int(int32(binary.BigEndian.Uint32(b[lengthAt:])))
	if n < head || n > len(b) {
		return nil, 0, 0
	}
	first = int64(binary.BigEndian.Uint64(b))
	return b[:n], first, first + int64(int32(binary.BigEndian.Uint32(b[lastAt:])))
}
