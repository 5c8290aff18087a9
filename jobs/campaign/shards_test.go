package campaign

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// published is a message by what it is: its place and its bytes.
type published struct {
	partition int32
	digest    uint64
}

// sameBytes reads the beacons topic and lets one shard after another run through it undisturbed, in this process. Each
// message of the metrics topic must be, to the byte, one of those that the undisturbed shards publish: so whatever happened
// to the processes, what they told is what a prefix of a shard's log gives. And none may be missing. It holds for
// generation 0.
func (s *scenario) sameBytes() {
	s.t.Helper()
	began := time.Now()
	want := map[published]string{}
	messages := 0
	id, partitions := s.kafka.topic(s.beaconsTopic())
	tick, err := time.ParseDuration(s.shape.tick)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range partitions {
		var recs []broker.Record
		s.kafka.read(s.beaconsTopic(), n, func(r *kgo.Record) { recs = append(recs, record(r)) })
		sink := &publications{want, n, &messages}
		w, err := sessionize.Open(sessionize.Config{Layer: s.layer, Topic: s.beaconsTopic(), TopicID: id, Partition: n, MetricsTopic: s.metrics,
			MetricsPartitions: s.shape.metrics, TickMS: tick.Milliseconds()}, s.chain(), blob.NewMem(), sink, func(offset int64) ([]byte, error) {
			at, ok := slices.BinarySearchFunc(recs, offset, func(r broker.Record, offset int64) int { return int(r.Offset - offset) })
			if !ok {
				return nil, fmt.Errorf("no record %d", offset)
			}
			return recs[at].Value, nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
		for chunk := range slices.Chunk(recs, 1000) {
			if err := w.Handle(context.Background(), chunk); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	found := map[published]int{}
	total, foreign := 0, 0
	_, partitions = s.kafka.topic(s.metrics)
	for _, n := range partitions {
		s.kafka.each(s.metrics, n, func(offset int64, value []byte) {
			total++
			p := published{n, xxhash.Sum64(value)}
			if _, ok := want[p]; !ok {
				if foreign++; foreign <= maxFaults {
					s.t.Errorf("metrics partition %d, message %d, of %s, is none that an undisturbed shard publishes", n, offset, describe(value))
				}
			}
			found[p]++
		})
	}
	missing := 0
	for p, what := range want {
		if found[p] == 0 {
			if missing++; missing <= maxFaults {
				s.t.Errorf("metrics partition %d lacks the message of %s", p.partition, what)
			}
		}
	}
	s.t.Logf("%d messages of the metrics topic, %d of them repeats, held against the %d of undisturbed shards in %.1f s: %d foreign, %d missing",
		total, total-len(found), messages, time.Since(began).Seconds(), foreign, missing)
}

// describe names a message by its head.
func describe(value []byte) string {
	m, err := wire.ReadMessage(value)
	if err != nil {
		return err.Error()
	}
	what := fmt.Sprintf("rows of minute %d", m.Minute)
	if m.Marker {
		what = fmt.Sprintf("a marker at minute %d", m.Minute)
	}
	return fmt.Sprintf("%s, shard %d, generation %d, offset %d", what, m.Partition, m.Generation, m.Offset)
}

// head reads a message's head.
func head(t testing.TB, value []byte) *wire.Message {
	t.Helper()
	m, err := wire.ReadMessage(value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// publications notes what a shard publishes.
type publications struct {
	into  map[published]string
	shard int32
	n     *int
}

func (p *publications) Write(_ context.Context, recs []broker.Record) error {
	for _, r := range recs {
		p.into[published{r.Partition, xxhash.Sum64(r.Value)}] = describe(r.Value)
		*p.n++
	}
	return nil
}
