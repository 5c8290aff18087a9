// Package embedded runs the whole of Tandem in one process: broker, both layers and store. replay, demo and the tests
// of both layers together are made of it.
package embedded

import (
	"context"
	"fmt"
	"os"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/stream/broker"
)

// Log is a broker whose only writer is this process, so that it knows where each partition ends.
type Log interface {
	// Create makes a topic and returns its id.
	Create(ctx context.Context, topic string, partitions int32) (string, error)
	// Write appends records and returns when they are acknowledged.
	Write(ctx context.Context, recs []broker.Record) error
	// Poll returns records of a partition from an offset on, none if that is its end. They are valid until the next
	// Poll of the partition.
	Poll(ctx context.Context, p broker.Partition, from int64) ([]broker.Record, error)
	// Payload reads one record's value, valid until the next call.
	Payload(ctx context.Context, p broker.Partition, offset int64) ([]byte, error)
	Close()
}

// Memory is a Log in memory.
type Memory struct{ *broker.Memory }

// NewMemory returns an empty one.
func NewMemory() Memory { return Memory{broker.NewMemory()} }

// Create names topics by themselves.
func (m Memory) Create(_ context.Context, topic string, _ int32) (string, error) { return topic, nil }

// Poll returns all there is.
func (m Memory) Poll(_ context.Context, p broker.Partition, from int64) ([]broker.Record, error) {
	return m.Log(p, from), nil
}

// Payload reads one record's value.
func (m Memory) Payload(_ context.Context, p broker.Partition, offset int64) ([]byte, error) {
	return m.Memory.Payload(p, offset)
}

// Close has nothing to do.
func (m Memory) Close() {}

// Kafka is a Log over the Kafka protocol: an in-process broker (kfake), spoken to as any Kafka is.
type Kafka struct {
	cluster  *kfake.Cluster
	dir      string
	to       broker.Connection
	writer   *broker.Writer
	payloads *broker.Payloads
	topics   *broker.Topics
	ends     map[broker.Partition]int64
	readers  map[broker.Partition]*reader
	again    map[broker.Partition]*broker.PayloadReader
}

type reader struct {
	*broker.Reader
	next int64
}

// pollRecords bounds what one Poll returns.
const pollRecords = 1 << 14

// StartKafka starts a broker that keeps its logs in a folder of its own, removed by Close.
func StartKafka() (*Kafka, error) {
	dir, err := os.MkdirTemp("", "tandem-kafka-")
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	k := &Kafka{dir: dir, ends: map[broker.Partition]int64{}, readers: map[broker.Partition]*reader{},
		again: map[broker.Partition]*broker.PayloadReader{}}
	if k.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(dir)); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	k.to = broker.To(k.cluster.ListenAddrs()...)
	if k.writer, err = broker.NewWriter(k.to); err != nil {
		k.Close()
		return nil, err
	}
	if k.payloads, err = broker.NewPayloads(k.to); err != nil {
		k.Close()
		return nil, err
	}
	if k.topics, err = broker.NewTopics(k.to); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Create makes a topic.
func (k *Kafka) Create(ctx context.Context, topic string, partitions int32) (string, error) {
	return k.topics.Create(ctx, topic, partitions)
}

// Write appends records.
func (k *Kafka) Write(ctx context.Context, recs []broker.Record) error {
	if err := k.writer.Write(ctx, recs); err != nil {
		return fmt.Errorf("embedded broker, which keeps its logs in %s: %w", k.dir, err) // it does not say if that is full
	}
	for i := range recs {
		k.ends[broker.Partition{Topic: recs[i].Topic, Partition: recs[i].Partition}]++
	}
	return nil
}

// Poll reads on.
func (k *Kafka) Poll(ctx context.Context, p broker.Partition, from int64) ([]broker.Record, error) {
	if from >= k.ends[p] {
		return nil, nil
	}
	r := k.readers[p]
	if r == nil || r.next != from {
		if r != nil {
			r.Close()
		}
		fresh, err := broker.NewReader(k.to, map[broker.Partition]int64{p: from})
		if err != nil {
			return nil, err
		}
		r = &reader{fresh, from}
		k.readers[p] = r
	}
	recs, err := r.Poll(ctx, pollRecords)
	if n := len(recs); n > 0 {
		r.next = recs[n-1].Offset + 1
	}
	return recs, err
}

// Payload reads one record's value.
func (k *Kafka) Payload(ctx context.Context, p broker.Partition, offset int64) ([]byte, error) {
	r := k.again[p]
	if r == nil {
		r = k.payloads.Of(p)
		k.again[p] = r
	}
	return r.Payload(ctx, offset)
}

// Close ends the broker and removes its folder.
func (k *Kafka) Close() {
	for _, r := range k.readers {
		r.Close()
	}
	if k.writer != nil {
		k.writer.Close()
	}
	if k.payloads != nil {
		k.payloads.Close()
	}
	if k.topics != nil {
		k.topics.Close()
	}
	k.cluster.Close()
	os.RemoveAll(k.dir) // a leftover in the temporary folder harms nobody
}
