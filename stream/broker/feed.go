package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Feed reads partitions that come and go, over one connection to each broker, and nothing of transactions that were aborted or are
// not ended. One goroutine uses it, so that what Poll returns is never of a partition that was taken away before.
type Feed struct {
	client *kgo.Client
}

// Batch is what a poll brings of one partition.
type Batch struct {
	Partition Partition
	Records   []Record // in order; they stay valid until they are given to Recycle
	Next      int64    // offset after what was read. It may lie beyond the last record: what was aborted, and the marks of transactions, are none
	End       int64    // offset after the last record that there was when it was read
	Err       error    // reading ended; ErrOutOfRange if what was to be read is not there
}

// ErrOutOfRange is wrapped when an offset to read from is not in the log (any more).
var ErrOutOfRange = errors.New("the offset is out of the log's range")

// NewFeed connects; nothing is read yet.
func NewFeed(to Connection) (*Feed, error) {
	c, err := to.open(
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a mark ends every transaction, so that Next comes to the end of the log also where nothing is left to read
		kgo.MaxDecompressBatchBytes(MaxBatch),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes/4),
		kgo.FetchMaxWait(250*time.Millisecond),
		kgo.MaxConcurrentFetches(2),
		kgo.WithPools(&pools{}),
	)
	if err != nil {
		return nil, err
	}
	return &Feed{client: c}, nil
}

// Add reads a partition from an offset on.
func (f *Feed) Add(p Partition, from int64) {
	f.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{p.Topic: {p.Partition: kgo.NewOffset().At(from)}})
	f.Pause(p, false)
}

// Remove reads a partition no more.
func (f *Feed) Remove(p Partition) {
	f.client.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Partition}})
}

// Pause says whether a partition is to wait; what was fetched of it already comes once it goes on.
func (f *Feed) Pause(p Partition, pause bool) {
	m := map[string][]int32{p.Topic: {p.Partition}}
	if pause {
		f.client.PauseFetchPartitions(m)
	} else {
		f.client.ResumeFetchPartitions(m)
	}
}

// Poll waits for records, at most max, until the context ends. An error of one partition comes in its batch.
func (f *Feed) Poll(ctx context.Context, max int) []Batch {
	fetches := f.client.PollRecords(ctx, max)
	var batches []Batch
	fetches.EachPartition(func(t kgo.FetchTopicPartition) {
		b := Batch{Partition: Partition{t.Topic, t.Partition}, End: t.HighWatermark}
		if t.Partition < 0 {
			return // the context has ended
		}
		if err := t.Err; err != nil {
			if errors.Is(err, kerr.OffsetOutOfRange) {
				err = ErrOutOfRange
			}
			b.Err = fmt.Errorf("kafka: %s/%d: %w", t.Topic, t.Partition, err)
		}
		if n := len(t.Records); n > 0 {
			b.Records, b.Next = make([]Record, 0, n), t.Records[n-1].Offset+1
			for _, k := range t.Records {
				if k.Attrs.IsControl() {
					continue
				}
				r := fromKafka(k)
				r.fetched = k
				b.Records = append(b.Records, r)
			}
		}
		if b.Records != nil || b.Err != nil {
			batches = append(batches, b)
		}
	})
	return batches
}

// Close ends reading.
func (f *Feed) Close() { f.client.Close() }
