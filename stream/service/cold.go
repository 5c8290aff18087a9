package service

import (
	"context"
	"log/slog"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// tail returns the bounds of a log and its last records, of which there is at least one: what the log's moment is, only a
// record tells. It waits for the first.
func tail(ctx context.Context, to broker.Connection, p broker.Partition, log *slog.Logger) (first, next int64, last []broker.Record, err error) {
	for warned := false; ; warned = true {
		first, next, last, err = broker.Tail(ctx, to, p)
		if err != nil || len(last) > 0 {
			return first, next, last, err
		}
		if !warned {
			log.Warn("cold start: the log is empty; waiting for a record that tells the time", "topic", p.Topic, "partition", p.Partition)
		}
		select {
		case <-ctx.Done():
			return 0, 0, nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// cold claims a generation at the end of the log for a shard that has no state, or whose log no longer has what comes
// after it.
func (s *Sessionize) cold(ctx context.Context, cfg sessionize.Config, chain *tenant.Chain, p broker.Partition) error {
	from, ok, err := sessionize.Resume(cfg, s.Checkpoints)
	if err != nil {
		return err
	}
	first, next, _, err := broker.Tail(ctx, s.Host.Connection, p)
	if err != nil || ok && from >= first && from <= next {
		return err
	}
	_, next, last, err := tail(ctx, s.Host.Connection, p, s.Host.Log)
	if err != nil {
		return err
	}
	moment := int64(0)
	for i := range last {
		moment = max(moment, last[i].Time)
	}
	minute, err := sessionize.ClaimCold(cfg, chain, s.Checkpoints, next, moment)
	if err != nil {
		return err
	}
	s.Host.Log.Warn("cold start: a new generation begins at the log's end", "topic", p.Topic, "partition", p.Partition,
		"offset", next, "first_minute", time.UnixMilli(minute*60_000).UTC())
	return nil
}

// cold returns where a partition begins that cannot go on at from: at the log's end. What is then closed counts as closed:
// minutes that messages before may have told of.
func (a *Aggregate) cold(ctx context.Context, p broker.Partition, from int64, closed map[string]int64) (int64, error) {
	first, next, _, err := broker.Tail(ctx, a.Host.Connection, p)
	if err != nil || from >= first && from <= next {
		return from, err
	}
	_, next, last, err := tail(ctx, a.Host.Connection, p, a.Host.Log)
	if err != nil {
		return 0, err
	}
	moment := int64(0)
	for i := range last {
		m, err := wire.ReadMessage(last[i].Value)
		if err != nil {
			return 0, describe(p, err)
		}
		moment = max(moment, (m.Minute+1)*60_000)
	}
	for _, t := range a.Tenants {
		closed[t.Name] = max(closed[t.Name], sessionize.FirstColdMinute(t.MaxSkewMS, moment))
	}
	a.Host.Log.Warn("cold start at the log's end", "topic", p.Topic, "partition", p.Partition, "offset", next)
	return next, nil
}
