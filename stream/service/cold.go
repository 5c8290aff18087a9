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

// Log is a partition's log as cold starts read it.
type Log interface {
	// Bounds returns the first offset and the offset after the last record.
	Bounds(ctx context.Context, p broker.Partition) (first, next int64, err error)
	// Follow hands on the records from an offset on, some at a time, and waits for more, until fn says that it is enough.
	Follow(ctx context.Context, p broker.Partition, from int64, fn func(recs []broker.Record) (enough bool, err error)) error
}

// kafkaLog implements Log.
type kafkaLog struct{ broker.Connection }

func (k kafkaLog) Bounds(ctx context.Context, p broker.Partition) (first, next int64, err error) {
	return broker.Bounds(ctx, k.Connection, p)
}

func (k kafkaLog) Follow(ctx context.Context, p broker.Partition, from int64, fn func(recs []broker.Record) (enough bool, err error)) error {
	return broker.Follow(ctx, k.Connection, p, from, fn)
}

const (
	// lastRecords is how many records before a log's end are read for its moment; ten times as many, and again, where they do not tell
	// it, but no more than mostRecords: what is still missing then is waited for. Their times go back and forth by what the sources lag
	// behind each other.
	lastRecords = 1000
	mostRecords = 1_000_000
)

// clock is what records tell of the time. moment is 0 as long as they do not, and missing says what would.
type clock interface {
	take(recs []broker.Record) error
	moment() (ms int64, missing string)
}

// momentOf reads a log's last records until they tell its moment: only they know. It returns up to where it has read, which is all that
// there was at least.
func momentOf(ctx context.Context, l Log, p broker.Partition, first, next int64, log *slog.Logger, begin func() clock) (end, moment int64, err error) {
	said := ""
	for back := int64(lastRecords); ; back *= 10 {
		from, c := max(first, next-back), begin()
		furthest := from == first || back >= mostRecords
		err := l.Follow(ctx, p, from, func(recs []broker.Record) (enough bool, err error) {
			if err := c.take(recs); err != nil {
				return false, describe(p, err)
			}
			if end = recs[len(recs)-1].Offset + 1; end < next {
				return false, nil
			}
			var missing string
			if moment, missing = c.moment(); moment > 0 || !furthest {
				return true, nil
			}
			if missing != said {
				log.Warn("cold start: waiting for records that tell the time", "topic", p.Topic, "partition", p.Partition, "missing", missing)
				said = missing
			}
			return false, nil
		})
		if err != nil || moment > 0 {
			return end, moment, err
		}
	}
}

// heard is what a log tells of its sources. Its moment is known once each source has told how far it is, unless it is set aside: one
// that has not may be ahead of all others, over a gap by any time, and its beacons before the log's last records are of that time.
type heard struct {
	told    wire.ProgressReader
	sources wire.Sources
	known   map[int]bool
	aside   []int
	ms      int64 // of all that was read
}

func (h *heard) take(recs []broker.Record) error {
	for i := range recs {
		r := &recs[i]
		h.ms = max(h.ms, r.Time)
		if _, ok := r.Header(wire.HeaderProgress); !ok {
			continue
		}
		progress, err := h.told.Read(r.Value)
		if err != nil {
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		if h.sources.List == nil || progress.Sources.Revision > h.sources.Revision {
			h.sources = progress.Sources
		}
		if progress.Aside != nil {
			h.aside = progress.Aside
		}
		for _, a := range progress.At {
			h.known[a.Source] = true
			h.ms = max(h.ms, a.MS)
		}
	}
	return nil
}

func (h *heard) moment() (ms int64, missing string) {
	if h.sources.List == nil {
		return 0, "a progress record: does tandem dispatch run?"
	}
	for i, x := range h.sources.List {
		if !h.known[i] && !slices.Contains(h.aside, i) {
			return 0, fmt.Sprintf("the progress of %s, partition %d: does the tandem dispatch that reads it run, and has it a record?", x.Topic, x.Partition)
		}
	}
	return h.ms, ""
}

// marked is what a log of stage 2 tells of its shards. Its moment is known once each shard has told how far it is: one that has not may
// have told of minutes far beyond the others, before the log's last messages.
type marked struct {
	tenants []aggregate.Tenant
	known   map[shardName]bool
	newest  int64 // ms after the last minute that was told of
	until   int64 // no minute from it on was told of
}

type shardName struct {
	tenant, topic string
	partition     int32
}

func (k *marked) take(recs []broker.Record) error {
	for i := range recs {
		m, err := wire.ReadMessage(recs[i].Value)
		if err != nil {
			return fmt.Errorf("offset %d: %w", recs[i].Offset, err)
		}
		k.newest, k.until = max(k.newest, (m.Minute+1)*60_000), max(k.until, m.Until)
		// The marker of a shard that does not know all sources yet is of minute 0, and says nothing of rows told with it.
		if m.Marker && m.Minute > 0 && slices.ContainsFunc(k.tenants, func(t aggregate.Tenant) bool { return t.Name == m.Tenant && slices.Contains(t.Topics, m.Topic) }) {
			k.known[shardName{m.Tenant, m.Topic, m.Partition}] = true
		}
	}
	return nil
}

func (k *marked) moment() (ms int64, missing string) {
	shards := 0
	for _, t := range k.tenants {
		shards += t.Shards
	}
	if n := len(k.known); n < shards {
		return 0, fmt.Sprintf("the markers of %d of %d shards: does stage 1 of tandem stream run everywhere?", shards-n, shards)
	}
	return k.newest, ""
}

// ColdShard claims a generation at the end of the log for a shard that has no state, or whose log no longer has what comes
// after it.
func ColdShard(ctx context.Context, l Log, cfg sessionize.Config, chain *tenant.Chain, blobs sessionize.Blobs, p broker.Partition, log *slog.Logger) error {
	from, ok, err := sessionize.Resume(cfg, blobs)
	if err != nil {
		return err
	}
	first, next, err := l.Bounds(ctx, p)
	if err != nil || ok && from >= first && from <= next {
		return err
	}
	next, moment, err := momentOf(ctx, l, p, first, next, log, func() clock { return &heard{known: map[int]bool{}} })
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
func ColdAggregate(ctx context.Context, l Log, tenants []aggregate.Tenant, p broker.Partition, from broker.Committed, closed map[string]int64, log *slog.Logger) (broker.Committed, error) {
	first, next, err := l.Bounds(ctx, p)
	if err != nil || from.Offset >= first && from.Offset <= next {
		return from, err
	}
	var k *marked
	next, moment, err := momentOf(ctx, l, p, first, next, log, func() clock {
		k = &marked{tenants: tenants, known: map[shardName]bool{}}
		return k
	})
	if err != nil {
		return broker.Committed{}, err
	}
	for _, t := range tenants {
		closed[t.Name] = max(closed[t.Name], k.until, sessionize.FirstColdMinute(t.LeadMS, moment))
	}
	log.Warn("cold start at the log's end", "topic", p.Topic, "partition", p.Partition, "offset", next)
	return broker.Committed{Offset: next}, nil
}
