package service

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// begun is a commit that the log no longer has.
var begun = broker.Committed{Offset: 40, Note: "what was before"}

// TestAColdAggregateBeginsAfterWhatWasTold: with a marker rows were told of minutes after it, and versions of before are greater.
func TestAColdAggregateBeginsAfterWhatWasTold(t *testing.T) {
	const marker = 1000
	h := wire.Head{Tenant: "shop", Topic: topic, Offset: 7}
	last := []broker.Record{{Offset: 41, Value: wire.AppendMarker(&h, marker, marker+5)}}
	tail := func(context.Context, broker.Partition, int64) (first, next int64, recs []broker.Record, err error) {
		return 41, 42, last, nil
	}
	closed := map[string]int64{}
	tenants := []aggregate.Tenant{{Name: "shop", Shards: 1, LeadMS: (30 * time.Minute).Milliseconds()}}
	from, err := ColdAggregate(t.Context(), tail, tenants, broker.Partition{Topic: "metrics"}, begun, closed, host(broker.Connection{}, "a", nil).Log)
	if err != nil || from.Offset != 42 || from.Note != "" || closed["shop"] <= marker+30 {
		t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
	}
	last[0].Value = wire.AppendMarker(&h, marker, marker+500) // a source was read over a long gap
	if _, err := ColdAggregate(t.Context(), tail, tenants, broker.Partition{Topic: "metrics"}, begun, closed, host(broker.Connection{}, "a", nil).Log); err != nil || closed["shop"] != marker+500 {
		t.Errorf("after a gap: %v, with %v closed", err, closed)
	}
	for _, at := range []int64{41, 42} { // it can go on
		closed = map[string]int64{}
		was := broker.Committed{Offset: at, Note: "what was before"}
		if from, err := ColdAggregate(t.Context(), tail, tenants, broker.Partition{Topic: "metrics"}, was, closed, nil); err != nil || from != was || len(closed) > 0 {
			t.Errorf("at %d it begins at %v, %v, with %v closed", at, from, err, closed)
		}
	}
}

// TestAColdAggregateWaitsForATime: the marker of a shard that does not know all sources yet says nothing of the rows that were told.
func TestAColdAggregateWaitsForATime(t *testing.T) {
	const marker = 1000
	h := wire.Head{Tenant: "shop", Topic: topic, Offset: 7}
	log := []broker.Record{{Offset: 41, Value: wire.AppendMarker(&h, 0, 0)}, {Offset: 42, Value: wire.AppendMarker(&h, 0, 0)},
		{Offset: 43, Value: wire.AppendMarker(&h, marker, 0)}}
	tail := func(_ context.Context, _ broker.Partition, after int64) (first, next int64, recs []broker.Record, err error) {
		i := max(after-41, 0)
		return 41, 42 + i, log[i : i+1], nil
	}
	closed := map[string]int64{}
	from, err := ColdAggregate(t.Context(), tail, []aggregate.Tenant{{Name: "shop", Shards: 1}}, broker.Partition{Topic: "metrics"}, begun, closed, host(broker.Connection{}, "a", nil).Log)
	if err != nil || from.Offset != 44 || from.Note != "" || closed["shop"] <= marker {
		t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
	}
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
	configs, err := tenant.LoadChain([]tenant.File{{Name: "shop.yaml", Data: []byte("tenant: shop\nmax_skew: 2m\npoints:\n  home: {kind: page}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	blobs := blob.NewMem()
	cfg := sessionize.Config{Layer: ownLayer, Topic: topic, TopicID: topic, MetricsPartitions: 1, TickMS: 60_000, CheckpointTicks: 1}
	looks := make(chan int64, 100)
	tail := func(ctx context.Context, p broker.Partition, after int64) (first, next int64, recs []broker.Record, err error) {
		looks <- after
		return broker.Tail(ctx, to, p, after)
	}
	tell(nil, wire.SourceAt{Source: 0, MS: begin, Offset: 3})
	done := make(chan error, 1)
	go func() {
		done <- ColdShard(t.Context(), tail, cfg, chain, blobs, broker.Partition{Topic: topic}, host(broker.Connection{}, "a", nil).Log)
	}()
	reads := func(want int64) {
		t.Helper()
		select {
		case at := <-looks:
			if at != want {
				t.Fatalf("it reads from %d, want %d", at, want)
			}
		case err := <-done:
			t.Fatalf("it has begun before it read from %d: %v", want, err)
		}
	}
	reads(broker.LastRecords)
	reads(1)
	tell([]int{2}, wire.SourceAt{Source: 0, MS: begin + 1, Offset: 4})
	reads(2)
	tell(nil, wire.SourceAt{Source: 1, MS: begin + hour, Offset: 9}) // the third is set aside, and nothing waits for it
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
