package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/stream/broker"
)

// bringRaw brings what fills the gaps of a backfill from the raw topics of the site to the archive.
func (b *batchJob) bringRaw(ctx context.Context, j *batch.Job, ask *batch.Backfill, log *slog.Logger) error {
	gaps, err := j.Untold(ask.Live, ask.From, ask.To)
	if err != nil || len(gaps) == 0 {
		return err
	}
	to, err := b.site.Connection()
	if err != nil {
		return err
	}
	to.Log = log
	k, err := j.KeepRaw(ask.Live, gaps, time.Now())
	if err != nil {
		return err
	}
	since := firstIngest(j.Chain, gaps)
	for _, r := range b.site.Raw {
		for p := range r.Partitions {
			part := broker.Partition{Topic: r.Topic, Partition: p}
			n, err := bringPartition(ctx, to, part, since, k)
			if err != nil {
				return err
			}
			log.Info("read raw records", "topic", r.Topic, "partition", p, "records", n)
		}
	}
	made, err := k.Done()
	if err == nil {
		log.Info("brought from the raw topics", "beacons", made.Records)
	}
	return err
}

// firstIngest is the first ingest time, in ms, that a beacon of the gaps can have.
func firstIngest(chain *tenant.Chain, gaps []tenant.Gap) int64 {
	skew := int64(0)
	for i := range chain.Revs {
		skew = max(skew, chain.Revs[i].Config.MaxSkew)
	}
	return gaps[0].From - skew
}

// bringPartition reads a raw partition from its beginning, which must reach back to an ingest time, to its end as it is now.
func bringPartition(ctx context.Context, to broker.Connection, p broker.Partition, since int64, k *batch.RawKeeper) (n int64, err error) {
	first, next, err := broker.Bounds(ctx, to, p)
	if err != nil || next == 0 {
		return 0, err
	}
	err = broker.Between(ctx, to, p, first, next, func(r *broker.Record) error {
		if n == 0 && first > 0 && r.Time > since {
			return fmt.Errorf("%w: %s/%d begins at %s, and beacons from %s on are asked for", batch.ErrUntold, p.Topic, p.Partition, timeText(r.Time), timeText(since))
		}
		n++
		return k.Take(r.Value, r.Time)
	})
	if err != nil {
		return n, err
	}
	if n == 0 && first > 0 {
		return 0, fmt.Errorf("%w: %s/%d has lost all its %d records, and beacons from %s on are asked for", batch.ErrUntold, p.Topic, p.Partition, next, timeText(since))
	}
	return n, nil
}
