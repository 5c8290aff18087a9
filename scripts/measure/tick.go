package main

import (
	"context"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/sessionize"
)

// tickShards have the traffic between them.
const tickShards = 16

// tickAtOnce measures what is left to do when a minute ends: the records of the first minute go to shards until all of them are
// taken, and then each is told that the minute is over, all at once, on all cores. The figures are of this end alone, up to where
// rows would go to the broker; how much a shard has left to fold depends on its number of records (a shard folds every 65,536).
func tickAtOnce(ctx context.Context, b *bench, m *meter) error {
	end := b.recs[0].Ingest/60_000*60_000 + 60_000
	n, _ := slices.BinarySearchFunc(b.recs, end, func(r records.Record, t int64) int { return int(r.Ingest - t) })
	first := *b
	first.recs = b.recs[:n]
	log := beaconsLog(&first, "beacons")
	over := log[len(log)-1] // progress beyond the end
	log = log[:len(log)-1]
	var parts [tickShards][]broker.Record
	for i := range log {
		r := log[i]
		if _, ok := r.Header(wire.HeaderProgress); ok {
			for p := range parts {
				r.Offset = int64(len(parts[p]))
				parts[p] = append(parts[p], r)
			}
			continue
		}
		p := dispatch.SessionHash(r.Key) % tickShards
		r.Offset = int64(len(parts[p]))
		parts[p] = append(parts[p], r)
	}
	var workers [tickShards]*sessionize.Worker
	for p := range workers {
		w, err := sessionize.Open(sessionize.Config{Layer: "stream.bench", Topic: "beacons", TopicID: "beacons", Partition: int32(p), MetricsTopic: "metrics",
			MetricsPartitions: metricsPartitions, TickMS: 60_000}, b.chain, blob.NewMem(), &discard{}, noPayload)
		if err != nil {
			return err
		}
		workers[p] = w
	}
	all := func(handle func(p int) error) error {
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for p := range workers {
			g.Go(func() error { return handle(p) })
		}
		return g.Wait()
	}
	began := cpuTime()
	if err := all(func(p int) error { return inPolls(ctx, parts[p], workers[p].Handle) }); err != nil {
		return err
	}
	before := cpuTime() - began
	var longest [tickShards]time.Duration
	m.n = n
	err := m.run(func() error {
		return all(func(p int) error {
			workers[p].Ticked = func(t sessionize.TickStats) { longest[p] = t.Fold + t.Publish }
			r := over
			r.Offset = int64(len(parts[p]))
			return workers[p].Handle(ctx, []broker.Record{r})
		})
	})
	m.note("%d beacons in %d shards: %.2f s until the rows of all are told, the slowest shard %.2f s; %.2f CPU-seconds before that", n, tickShards,
		m.wall.Seconds(), slices.Max(longest[:]).Seconds(), before.Seconds())
	return err
}
