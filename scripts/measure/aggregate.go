package main

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// metricsPartitions is that of openWorkerOf.
const metricsPartitions = 4

// messages keeps what a shard publishes, with the offsets that a broker gives.
type messages struct {
	of    [metricsPartitions][]broker.Record
	next  [metricsPartitions]int64 // offset
	bytes int64
}

// Write is that of a shard's writer. What it is given is its own only until it returns.
func (m *messages) Write(_ context.Context, recs []broker.Record) error {
	for _, r := range recs {
		r.Value, r.Offset = slices.Clone(r.Value), m.next[r.Partition]
		m.next[r.Partition]++
		m.of[r.Partition] = append(m.of[r.Partition], r)
		m.bytes += int64(len(r.Value))
	}
	return nil
}

// aggregateTenants is what stage 2 knows of the traffic's tenant.
func aggregateTenants(b *bench) []aggregate.Tenant {
	rev := b.chain.Revs[0].Config
	return []aggregate.Tenant{{Name: b.chain.Tenant, Topics: []string{"beacons"}, Shards: 1, RetentionMS: rev.Retention, LeadMS: time.Hour.Milliseconds()}}
}

// aggregates are those of all partitions, with one store.
func aggregates(b *bench, st aggregate.Rows) (all [metricsPartitions]*aggregate.Worker, err error) {
	for p := range all {
		cfg := aggregate.Config{Layer: "stream.bench", Partition: int32(p), Tenants: aggregateTenants(b)}
		state, err := aggregate.New(cfg, 0, map[string]int64{}, "")
		if err != nil {
			return all, err
		}
		all[p] = &aggregate.Worker{State: state, Store: st}
	}
	return all, nil
}

// counted counts rows and drops them.
type counted struct{ rows int64 }

func (c *counted) PutRows(_ context.Context, rows []store.Row) error {
	c.rows += int64(len(rows))
	return nil
}

func (c *counted) PutProgress(context.Context, store.Progress) error { return nil }

// aggregateMemory measures stage 2 alone: what a shard tells of the records, to rows that nobody keeps.
func aggregateMemory(ctx context.Context, b *bench, m *meter) error {
	out := &messages{}
	w, err := openWorker(b, out, 10)
	if err != nil {
		return err
	}
	if err := inPolls(ctx, beaconsLog(b, "beacons"), w.Handle); err != nil {
		return err
	}
	n := int64(0)
	for _, next := range out.next {
		n += next
	}
	rows := &counted{}
	all, err := aggregates(b, rows)
	if err != nil {
		return err
	}
	err = m.run(func() error {
		for p := range all {
			for part := range slices.Chunk(out.of[p], 64) {
				if err := all[p].Handle(ctx, part); err != nil {
					return err
				}
			}
		}
		return nil
	})
	m.note("%d messages, %.0f MB, %d rows: %.0f rows a CPU-second", n, float64(out.bytes)/1e6, rows.rows, float64(rows.rows)/m.cpu.Seconds())
	return err
}

// aggregate gives what a shard has published since the last time to the aggregates, as a poll does.
func (m *messages) aggregate(ctx context.Context, all [metricsPartitions]*aggregate.Worker) error {
	for p := range all {
		if len(m.of[p]) == 0 {
			continue
		}
		if err := all[p].Handle(ctx, m.of[p]); err != nil {
			return err
		}
		m.of[p] = m.of[p][:0]
	}
	return nil
}

// streamMemory measures both stages, from records in memory to rows in the embedded store.
func streamMemory(ctx context.Context, b *bench, m *meter) error {
	st, err := pebblestore.Open(filepath.Join(b.dir, "stream"), pebblestore.Options{Now: func() time.Time { return time.UnixMilli(b.recs[0].Ingest) }})
	if err != nil {
		return err
	}
	defer st.Close()
	out := &messages{}
	all, err := aggregates(b, st)
	if err != nil {
		return err
	}
	w, err := openWorker(b, out, 10)
	if err != nil {
		return err
	}
	log := beaconsLog(b, "beacons")
	// Stage 2 follows a tick behind: what a tick tells it gets in one piece.
	ticked := false
	w.Ticked = func(sessionize.TickStats) { ticked = true }
	err = m.run(func() error {
		err := inPolls(ctx, log, func(ctx context.Context, recs []broker.Record) error {
			if err := w.Handle(ctx, recs); err != nil || !ticked {
				return err
			}
			ticked = false
			return out.aggregate(ctx, all)
		})
		if err != nil {
			return err
		}
		return out.aggregate(ctx, all)
	})
	var rows int64
	for _, a := range all {
		rows += a.State.Counts.Written
	}
	m.note("%.0f MB published, %d rows written", float64(out.bytes)/1e6, rows)
	if err != nil {
		return err
	}
	return b.checkTotals(ctx, st, "stream.bench", m)
}
