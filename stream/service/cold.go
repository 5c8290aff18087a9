package service

import (
	"context"
	"log/slog"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// Tail returns the first offset of a log, the offset after its last record, and its last records, if it has any (broker.Tail).
type Tail func(ctx context.Context, p broker.Partition) (first, next int64, last []broker.Record, err error)

func (h *Host) tail(ctx context.Context, p broker.Partition) (first, next int64, last []broker.Record, err error) {
	return broker.Tail(ctx, h.Connection, p)
}

// wait waits until a log's last records tell the time: what the log's moment is, only they know. momentOf is 0 if they do not.
func (t Tail) wait(ctx context.Context, p broker.Partition, log *slog.Logger, momentOf func(last []broker.Record) (int64, error)) (next, moment int64, err error) {
	for warned := false; ; warned = true {
		var last []broker.Record
		if _, next, last, err = t(ctx, p); err != nil {
			return 0, 0, err
		}
		if moment, err = momentOf(last); err != nil || moment > 0 {
			return next, moment, err
		}
		if !warned {
			log.Warn("cold start: waiting for a record that tells the time", "topic", p.Topic, "partition", p.Partition)
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// ColdShard claims a generation at the end of the log for a shard that has no state, or whose log no longer has what comes
// after it.
func ColdShard(ctx context.Context, tail Tail, cfg sessionize.Config, chain *tenant.Chain, blobs sessionize.Blobs, p broker.Partition, log *slog.Logger) error {
	from, ok, err := sessionize.Resume(cfg, blobs)
	if err != nil {
		return err
	}
	first, next, _, err := tail(ctx, p)
	if err != nil || ok && from >= first && from <= next {
		return err
	}
	next, moment, err := tail.wait(ctx, p, log, func(last []broker.Record) (moment int64, err error) {
		for i := range last {
			moment = max(moment, last[i].Time)
		}
		return moment, nil
	})
	if err != nil {
		return err
	}
	minute, err := sessionize.ClaimCold(cfg, chain, blobs, next, moment)
	if err != nil {
		return err
	}
	log.Warn("cold start: a new generation begins at the log's end", "topic", p.Topic, "partition", p.Partition,
		"offset", next, "first_minute", time.UnixMilli(minute*60_000).UTC())
	return nil
}

// ColdAggregate returns where a partition begins that cannot go on at from: at the log's end, without a note. What is then closed
// counts as closed: minutes that messages before may have told of.
func ColdAggregate(ctx context.Context, tail Tail, tenants []aggregate.Tenant, p broker.Partition, from broker.Committed, closed map[string]int64, log *slog.Logger) (broker.Committed, error) {
	first, next, _, err := tail(ctx, p)
	if err != nil || from.Offset >= first && from.Offset <= next {
		return from, err
	}
	until := int64(0) // no minute from it on was told of, by those whose markers are among the last records
	next, moment, err := tail.wait(ctx, p, log, func(last []broker.Record) (int64, error) {
		newest, known := int64(0), false
		for i := range last {
			m, err := wire.ReadMessage(last[i].Value)
			if err != nil {
				return 0, describe(p, err)
			}
			newest, until = max(newest, (m.Minute+1)*60_000), max(until, m.Until)
			// The marker of a shard that does not know all sources yet is of minute 0, and says nothing of rows told with it.
			if m.Marker && m.Minute > 0 {
				known = true
			}
		}
		if !known {
			return 0, nil
		}
		return newest, nil
	})
	if err != nil {
		return broker.Committed{}, err
	}
	for _, t := range tenants {
		closed[t.Name] = max(closed[t.Name], until, sessionize.FirstColdMinute(t.LeadMS, moment))
	}
	log.Warn("cold start at the log's end", "topic", p.Topic, "partition", p.Partition, "offset", next)
	return broker.Committed{Offset: next}, nil
}
