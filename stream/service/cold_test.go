package service

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// begun is a commit that the log no longer has.
var begun = broker.Committed{Offset: 40, Note: "what was before"}

// someLog is a log of a test: it begins with first, and grows by more each time that somebody waits for it.
type someLog struct {
	first int64
	recs  []broker.Record
	more  []broker.Record
}

func (l *someLog) add(value []byte) {
	l.recs = append(l.recs, broker.Record{Offset: l.first + int64(len(l.recs)), Value: value})
}

func (l *someLog) Bounds(context.Context, broker.Partition) (first, next int64, err error) {
	return l.first, l.first + int64(len(l.recs)), nil
}

func (l *someLog) Follow(_ context.Context, _ broker.Partition, from int64, fn func(recs []broker.Record) (bool, error)) error {
	for {
		if from == l.first+int64(len(l.recs)) {
			if len(l.more) == 0 {
				return errors.New("it waits for good")
			}
			l.add(l.more[0].Value)
			l.more = l.more[1:]
		}
		recs := l.recs[from-l.first:]
		recs = recs[:(len(recs)+1)/2]
		from += int64(len(recs))
		if enough, err := fn(recs); enough || err != nil {
			return err
		}
	}
}

// marker is of a shard of the tests' tenant.
func marker(shard int32, minute, until int64) []byte {
	return wire.AppendMarker(&wire.Head{Tenant: "shop", Topic: topic, Partition: shard, Offset: 7}, minute, until)
}

// coldly begins stage 2 over a log, and returns where, and before which minute all is closed.
func coldly(t *testing.T, l Log, shards int, lead time.Duration, from broker.Committed) (broker.Committed, map[string]int64, error) {
	t.Helper()
	closed := map[string]int64{}
	tenants := []aggregate.Tenant{{Name: "shop", Topics: []string{topic}, Shards: shards, LeadMS: lead.Milliseconds()}}
	at, err := ColdAggregate(t.Context(), l, tenants, broker.Partition{Topic: "metrics"}, from, closed, host(broker.Connection{}, "a", nil).Log)
	return at, closed, err
}

// TestAColdAggregateBeginsAfterWhatWasTold: with a marker rows were told of minutes after it, and versions of before are greater.
func TestAColdAggregateBeginsAfterWhatWasTold(t *testing.T) {
	const at = 1000
	l := &someLog{first: 41, recs: []broker.Record{{Offset: 41, Value: marker(0, at, at+5)}}}
	from, closed, err := coldly(t, l, 1, 30*time.Minute, begun)
	if err != nil || from.Offset != 42 || from.Note != "" || closed["shop"] <= at+30 {
		t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
	}
	l.recs[0].Value = marker(0, at, at+500) // a source was read over a long gap
	if _, closed, err := coldly(t, l, 1, 30*time.Minute, begun); err != nil || closed["shop"] != at+500 {
		t.Errorf("after a gap: %v, with %v closed", err, closed)
	}
	for _, at := range []int64{41, 42} { // it can go on
		was := broker.Committed{Offset: at, Note: "what was before"}
		if from, closed, err := coldly(t, l, 1, 0, was); err != nil || from != was || len(closed) > 0 {
			t.Errorf("at %d it begins at %v, %v, with %v closed", at, from, err, closed)
		}
	}
}

// TestAColdAggregateWaitsForATime: the marker of a shard that does not know all sources yet says nothing of the rows that were told.
func TestAColdAggregateWaitsForATime(t *testing.T) {
	const at = 1000
	l := &someLog{first: 41, recs: []broker.Record{{Offset: 41, Value: marker(0, 0, 0)}}, more: []broker.Record{{Value: marker(0, 0, 0)}, {Value: marker(0, at, 0)}}}
	from, closed, err := coldly(t, l, 1, 0, begun)
	if err != nil || from.Offset != 44 || from.Note != "" || closed["shop"] <= at {
		t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
	}
}

// TestAColdAggregateHearsOfEveryShard: one that is far ahead of the others may have its last marker far before the log's end, and has told
// of what others have not come to.
func TestAColdAggregateHearsOfEveryShard(t *testing.T) {
	const at, ahead = 1000, 5000
	l := &someLog{first: 41}
	for range 50 {
		l.add(marker(0, at, 0))
	}
	l.add(marker(1, ahead, 0))
	for range 12 * lastRecords {
		l.add(marker(0, at, 0))
	}
	from, closed, err := coldly(t, l, 2, 0, begun)
	if err != nil || from.Offset != l.first+int64(len(l.recs)) || closed["shop"] <= ahead {
		t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
	}
	l.more = []broker.Record{{Value: marker(2, at, 0)}} // one of which nothing was heard yet
	if from, closed, err := coldly(t, l, 3, 0, begun); err != nil || from.Offset != l.first+int64(len(l.recs)) || len(l.more) > 0 || closed["shop"] <= ahead {
		t.Errorf("with a shard that is silent it begins at %v, %v, with %v closed", from, err, closed)
	}
}

// followed says up to where a log was read.
type followed struct {
	kafkaLog
	read chan int64
}

func (f followed) Follow(ctx context.Context, p broker.Partition, from int64, fn func(recs []broker.Record) (bool, error)) error {
	return f.kafkaLog.Follow(ctx, p, from, func(recs []broker.Record) (bool, error) {
		enough, err := fn(recs)
		f.read <- recs[len(recs)-1].Offset + 1
		return enough, err
	})
}

// TestAColdShardWaitsForAllSources: the records before those that are left may be of a source that is far ahead of the one whose
// dispatcher speaks first.
func TestAColdShardWaitsForAllSources(t *testing.T) {
	const begin, hour = int64(1_767_225_600_000), int64(3_600_000)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	to := broker.To(c.ListenAddrs()...)
	out, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	source := func(n int32) wire.Source {
		return wire.Source{Cluster: "c", Topic: "raw", TopicID: "raw", Partition: n, Kind: wire.KindLive}
	}
	tell := func(aside []int, at ...wire.SourceAt) {
		t.Helper()
		value := wire.AppendProgress(nil, &wire.Progress{Sources: wire.Sources{Revision: 1, List: []wire.Source{source(0), source(1), source(2)}}, At: at, Aside: aside})
		if err := out.Write(t.Context(), []broker.Record{{Topic: topic, Time: begin, Value: value, Headers: []broker.Header{{Key: wire.HeaderProgress}}}}); err != nil {
			t.Fatal(err)
		}
	}
	chain := chain(t, "tenant: shop\nmax_skew: 2m\npoints:\n  home: {kind: page}\n")
	blobs := blob.NewMem()
	cfg := sessionize.Config{Layer: ownLayer, Topic: topic, TopicID: topic, MetricsPartitions: 1, TickMS: 60_000, CheckpointTicks: 1}
	l := followed{kafkaLog{to}, make(chan int64, 100)}
	tell(nil, wire.SourceAt{Source: 0, MS: begin, Offset: 3})
	done := make(chan error, 1)
	go func() {
		done <- ColdShard(t.Context(), l, cfg, chain, blobs, broker.Partition{Topic: topic}, host(broker.Connection{}, "a", nil).Log)
	}()
	reads := func(want int64) {
		t.Helper()
		select {
		case at := <-l.read:
			if at != want {
				t.Fatalf("it has read up to %d, want %d", at, want)
			}
		case err := <-done:
			t.Fatalf("it has begun before it read up to %d: %v", want, err)
		}
	}
	reads(1)
	tell([]int{2}, wire.SourceAt{Source: 0, MS: begin + 1, Offset: 4})
	reads(2)
	tell(nil, wire.SourceAt{Source: 1, MS: begin + hour, Offset: 9}) // the third is set aside, and nothing waits for it
	reads(3)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w, err := sessionize.Open(cfg, chain, blobs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first := (begin+hour)/60_000 + 2 + 2; w.Shard.Offset != 3 || w.Shard.ID.FirstMinute != first {
		t.Errorf("it begins at %d with minute %d, want 3 and %d", w.Shard.Offset, w.Shard.ID.FirstMinute, first)
	}
}
