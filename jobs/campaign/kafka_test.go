package campaign

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// kafka is a client of the campaign's own, so that what it sees does not come through the code that is tested.
type kafka struct {
	t      testing.TB
	seeds  []string
	client *kgo.Client
	admin  *kadm.Client
}

func newKafka(t testing.TB, seeds []string) *kafka {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxBufferedRecords(50_000), kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &kafka{t, seeds, client, kadm.NewClient(client)}
}

// notes checks that Kafka keeps beside each commit of stage 2 what was heard before it.
func (s *scenario) notes() {
	s.t.Helper()
	all, err := s.kafka.admin.FetchOffsets(s.t.Context(), "tandem."+s.layer+".2")
	s.must(err)
	n := 0
	all.Each(func(o kadm.OffsetResponse) {
		if n++; o.Err != nil || !strings.HasPrefix(o.Metadata, "tandem1:") {
			s.t.Errorf("%s/%d: the commit to %d has the note %q, %v", o.Topic, o.Partition, o.At, o.Metadata, o.Err)
		}
	})
	if n != s.shape.metrics {
		s.t.Errorf("%d commits of stage 2, want %d", n, s.shape.metrics)
	}
}

// raw is a record for a raw topic whose time the producer gives; without a payload a heartbeat.
type raw struct {
	partition int32
	ms        int64
	payload   []byte
}

// produce appends records, each to its partition and in order, and returns when all are acknowledged.
func (k *kafka) produce(topic string, recs []raw) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var failed error
	for i := range recs {
		r := &kgo.Record{Topic: topic, Partition: recs[i].partition, Value: recs[i].payload, Timestamp: time.UnixMilli(recs[i].ms)}
		if recs[i].payload == nil {
			r.Headers = []kgo.RecordHeader{{Key: dispatch.HeaderHeartbeat}}
		}
		k.client.Produce(ctx, r, func(_ *kgo.Record, err error) { // called by one goroutine after another, before Flush returns
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	if err := k.client.Flush(ctx); err != nil {
		k.t.Fatal(err)
	}
	if failed != nil {
		k.t.Fatal(failed)
	}
}

// topic returns the topic id, as claims and messages have it, and the partitions.
func (k *kafka) topic(name string) (id string, partitions []int32) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topics, err := k.admin.ListTopics(ctx, name)
	if err == nil {
		err = topics.Error()
	}
	if err != nil || !topics.Has(name) {
		k.t.Fatalf("topic %s: %v", name, err)
	}
	bytes := topics[name].ID
	return base64.RawURLEncoding.EncodeToString(bytes[:]), slices.Sorted(maps.Keys(topics[name].Partitions))
}

// ends are the end offsets of a topic, by partition.
func (k *kafka) ends(topic string) map[int32]int64 {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	listed, err := k.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		k.t.Fatalf("topic %s: %v", topic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends
}

// lag says how far a group has committed in a topic, and where that ends: for a test that has failed, so nothing here fails it.
func (k *kafka) lag(group, topic string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ends, err := k.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return fmt.Sprintf("%s: %v", topic, err)
	}
	commits, err := k.admin.FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Sprintf("%s: %v", group, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:", group)
	for _, end := range ends.Offsets().Sorted() {
		at := int64(-1)
		if c, ok := commits.Lookup(topic, end.Partition); ok {
			at = c.At
		}
		fmt.Fprintf(&b, " %s/%d %d of %d;", topic, end.Partition, at, end.At)
	}
	return b.String()
}

// deleteRecords deletes the records that a topic has, but for the last ones of each partition.
func (k *kafka) deleteRecords(topic string, left int64) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	at := kadm.Offsets{}
	for p, end := range k.ends(topic) {
		at.AddOffset(topic, p, max(end-left, 0), -1)
	}
	resp, err := k.admin.DeleteRecords(ctx, at)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		k.t.Fatalf("delete the records of %s: %v", topic, err)
	}
}

// read calls fn with every record of a partition that is there now, from its start.
func (k *kafka) read(topic string, partition int32, fn func(*kgo.Record)) {
	k.t.Helper()
	k.readFrom(topic, partition, 0, fn)
}

func (k *kafka) readFrom(topic string, partition int32, at int64, fn func(*kgo.Record)) {
	k.t.Helper()
	end := k.ends(topic)[partition]
	if at >= end {
		return
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.seeds...), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(8<<20),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(at)}}))
	if err != nil {
		k.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for at < end {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			k.t.Fatalf("%s/%d from %d: %v", topic, partition, at, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset < end {
				fn(r)
			}
			at = r.Offset + 1
		})
	}
}

// each calls fn with offset and value of every record of a partition.
func (k *kafka) each(topic string, partition int32, fn func(offset int64, value []byte)) {
	k.t.Helper()
	k.read(topic, partition, func(r *kgo.Record) { fn(r.Offset, r.Value) })
}

// from is each from an offset on.
func (k *kafka) from(topic string, partition int32, at int64, fn func(offset int64, value []byte)) {
	k.t.Helper()
	k.readFrom(topic, partition, at, func(r *kgo.Record) { fn(r.Offset, r.Value) })
}

// record is a record as the project's own code takes it.
func record(r *kgo.Record) broker.Record {
	out := broker.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, broker.Header{Key: h.Key, Value: h.Value})
	}
	return out
}
