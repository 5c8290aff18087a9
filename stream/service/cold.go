package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// Tail returns the first offset of a log, the offset after its last record, and records up to there: the last ones, if it has any,
// or, after a call before, those from an offset on, for the first of which it waits (broker.Tail).
type Tail func(ctx context.Context, p broker.Partition, after int64) (first, next int64, recs []broker.Record, err error)

func (h *Host) tail(ctx context.Context, p broker.Partition, after int64) (first, next int64, recs []broker.Record, err error) {
	return broker.Tail(ctx, h.Connection, p, after)
}

// wait reads on from a log's last records until they tell the time: what the log's moment is, only they know. momentOf takes records
// in the order of the log; as long as they do not tell, it returns 0, and what it waits for.
func (t Tail) wait(ctx context.Context, p broker.Partition, next int64, recs []broker.Record, log *slog.Logger,
	momentOf func(recs []broker.Record) (moment int64, missing string, err error)) (end, moment int64, err error) {
	for warned := false; ; warned = true {
		moment, missing, err := momentOf(recs)
		if err != nil || moment > 0 {
			return next, moment, err
		}
		if !warned {
			log.Warn("cold start: waiting for records that tell the time", "topic", p.Topic, "partition", p.Partition, "missing", missing)
		}
		if _, next, recs, err = t(ctx, p, next); err != nil {
			return 0, 0, err
		}
	}
}

// heard is what a log tells of its sources. Its moment is known once each source has told how far it is, unless it is set aside: one
// that has not may be ahead of all others, over a gap by any time, and its beacons before the log's last records are of that time.
type heard struct {
	sources wire.Sources
	known   map[int]bool
	aside   []int
	moment  int64 // of all that was read
}

func (h *heard) take(p broker.Partition, recs []broker.Record) (moment int64, missing string, err error) {
	for i := range recs {
		r := &recs[i]
		h.moment = max(h.moment, r.Time)
		if _, ok := r.Header(wire.HeaderProgress); !ok {
			continue
		}
		progress, err := wire.ReadProgress(r.Value)
		if err != nil {
			return 0, "", describe(p, fmt.Errorf("offset %d: %w", r.Offset, err))
		}
		if h.sources.List == nil || progress.Sources.Revision > h.sources.Revision {
			h.sources = progress.Sources
		}
		if progress.Aside != nil {
			h.aside = progress.Aside
		}
		for _, a := range progress.At {
			h.known[a.Source] = true
			h.moment = max(h.moment, a.MS)
		}
	}
	if h.sources.List == nil {
		return 0, "a progress record: does tandem dispatch run?", nil
	}
	for i, x := range h.sources.List {
		if !h.known[i] && !slices.Contains(h.aside, i) {
			return 0, fmt.Sprintf("the progress of %s, partition %d: does the tandem dispatch that reads it run?", x.Topic, x.Partition), nil
		}
	}
	return h.moment, "", nil
}

// ColdShard claims a generation at the end of the log for a shard that has no state, or whose log no longer has what comes
// after it.
func ColdShard(ctx context.Context, tail Tail, cfg sessionize.Config, chain *tenant.Chain, blobs sessionize.Blobs, p broker.Partition, log *slog.Logger) error {
	from, ok, err := sessionize.Resume(cfg, blobs)
	if err != nil {
		return err
	}
	first, next, last, err := tail(ctx, p, broker.LastRecords)
	if err != nil || ok && from >= first && from <= next {
		return err
	}
	h := heard{known: map[int]bool{}}
	next, moment, err := tail.wait(ctx, p, next, last, log, func(recs []broker.Record) (int64, string, error) { return h.take(p, recs) })
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
	first, next, last, err := tail(ctx, p, broker.LastRecords)
	if err != nil || from.Offset >= first && from.Offset <= next {
		return from, err
	}
	newest, until, known := int64(0), int64(0), false // until: no minute from it on was told of, by those whose markers were read
	next, moment, err := tail.wait(ctx, p, next, last, log, func(recs []broker.Record) (int64, string, error) {
		for i := range recs {
			m, err := wire.ReadMessage(recs[i].Value)
			if err != nil {
				return 0, "", describe(p, err)
			}
			newest, until = max(newest, (m.Minute+1)*60_000), max(until, m.Until)
			// The marker of a shard that does not know all sources yet is of minute 0, and says nothing of rows told with it.
			if m.Marker && m.Minute > 0 {
				known = true
			}
		}
		if !known {
			return 0, "the marker of a shard that knows all sources: does stage 1 of tandem stream run?", nil
		}
		return newest, "", nil
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
