package service

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
)

// begun is a commit that the log no longer has.
var begun = broker.Committed{Offset: 40, Note: "what was before"}

// TestAColdAggregateBeginsAfterWhatWasTold: with a marker rows were told of minutes after it, and versions of before are greater.
func TestAColdAggregateBeginsAfterWhatWasTold(t *testing.T) {
	const marker = 1000
	h := wire.Head{Tenant: "shop", Topic: topic, Offset: 7}
	last := []broker.Record{{Offset: 41, Value: wire.AppendMarker(&h, marker, marker+5)}}
	tail := func(context.Context, broker.Partition) (first, next int64, recs []broker.Record, err error) {
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
	last := []broker.Record{{Offset: 41, Value: wire.AppendMarker(&h, 0, 0)}}
	looks := 0
	tail := func(context.Context, broker.Partition) (first, next int64, recs []broker.Record, err error) {
		if looks++; looks == 4 {
			last = append(last, broker.Record{Offset: 42, Value: wire.AppendMarker(&h, marker, 0)})
		}
		return 41, 41 + int64(len(last)), last, nil
	}
	synctest.Test(t, func(t *testing.T) {
		closed := map[string]int64{}
		from, err := ColdAggregate(t.Context(), tail, []aggregate.Tenant{{Name: "shop", Shards: 1}}, broker.Partition{Topic: "metrics"}, begun, closed, host(broker.Connection{}, "a", nil).Log)
		if err != nil || from.Offset != 43 || from.Note != "" || closed["shop"] <= marker {
			t.Errorf("it begins at %v, %v, with %v closed", from, err, closed)
		}
	})
}
