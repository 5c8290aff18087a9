package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/sessionize"
)

// idle fills a shard with 2 million sessions of 3 beacons each, lets them fall idle, and weighs them.
func idle(ctx context.Context, b *bench, m *meter) error {
	const sessions = 2_000_000
	for _, assigned := range []int{1, 4, 12} {
		w, err := openWorker(b, &discard{}, 0)
		if err != nil {
			return err
		}
		var before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := fillIdle(ctx, w, sessions, assigned); err != nil {
			return err
		}
		var after runtime.MemStats
		runtime.GC()
		start := cpuTime()
		runtime.GC()
		gc := cpuTime() - start
		runtime.ReadMemStats(&after)
		st := w.Shard.Stats()
		m.note("%2d assignments: %.0f bytes a session by the heap, %.0f by the shard's own count; a forced collection costs %v of CPU (%d sessions)",
			assigned, float64(after.HeapAlloc-before.HeapAlloc)/float64(st.Sessions), float64(st.Bytes)/float64(st.Sessions), gc.Round(time.Millisecond), st.Sessions)
		runtime.KeepAlive(w)
	}
	m.n, m.cpu, m.wall = 0, time.Second, time.Second
	return nil
}

func fillIdle(ctx context.Context, w *sessionize.Worker, sessions, assigned int) error {
	// Six hours of sessions, as a shop has them: at any time few are open and most are idle.
	const start, spanMS = 1767607200000, 6 * 3600_000
	sources := wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", Topic: "raw", TopicID: "raw", Kind: wire.KindLive}}}
	offset := int64(0)
	send := func(r broker.Record) error {
		r.Offset = offset
		offset++
		return w.Handle(ctx, []broker.Record{r})
	}
	progress := func(ms int64) error {
		p := wire.Progress{Sources: sources, At: []wire.SourceAt{{Source: 0, MS: ms, Offset: offset}}}
		return send(broker.Record{Value: wire.AppendProgress(nil, &p), Headers: []broker.Header{{Key: wire.HeaderProgress}}})
	}
	points := []string{"home_page", "search", "item_page"}
	var buf []byte
	for i := range sessions {
		h := dispatch.SessionHash(fmt.Appendf(nil, "%d", i))
		ts := start + int64(i)*spanMS/int64(sessions)
		for k, point := range points {
			buf = fmt.Appendf(buf[:0], `{"id":"%016x%08x","tenant":"uswm","session":"%016x%016x","visitor":"%016x","ts":%d,"point":"%s","device":"mobile"`, h, k, h, ^h, h, ts+int64(k)*20_000, point)
			if k == 0 {
				buf = append(buf, `,"experiments":{`...)
				for x := range assigned {
					if x > 0 {
						buf = append(buf, ',')
					}
					buf = fmt.Appendf(buf, `"exp_%02d":"%s"`, (int(h>>8)+x)%20, [2]string{"control", "treatment"}[h>>x&1])
				}
				buf = append(buf, '}')
			}
			buf = append(buf, '}')
			origin := wire.AppendOrigin(nil, wire.Origin{Offset: offset})
			if err := send(broker.Record{Time: ts + int64(k)*20_000, Value: buf, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: origin}}}); err != nil {
				return err
			}
		}
		if i%10_000 == 0 {
			if err := progress(ts); err != nil {
				return err
			}
		}
	}
	// Far enough that every beacon is sealed and every visit has ended, near enough that no session is forgotten.
	return progress(start + spanMS + 3600_000)
}

// restart opens a shard again from its checkpoint of some 1.5 million sessions, which is taken while they come in. What is
// counted is sessions.
func restart(ctx context.Context, b *bench, m *meter) error {
	blobs := blob.NewMem()
	open := func() (*sessionize.Worker, error) {
		return sessionize.Open(sessionize.Config{Layer: "stream.bench", Topic: "beacons", TopicID: "beacons", MetricsTopic: "metrics",
			MetricsPartitions: 4, TickMS: 60_000, CheckpointTicks: 150}, b.chain, blobs, &discard{}, noPayload)
	}
	w, err := open()
	if err != nil {
		return err
	}
	var taken sessionize.CheckpointStats
	var all checkpoints
	w.Ticked = func(s sessionize.TickStats) {
		if all.add(&s.Checkpoint); s.Checkpoint.Whole {
			taken = s.Checkpoint
		}
	}
	if err := fillIdle(ctx, w, 2_000_000, 4); err != nil {
		return err
	}
	if !taken.Taken {
		return fmt.Errorf("no checkpoint was taken: %w", taken.Err)
	}
	err = m.run(func() error {
		w, err = open()
		return err
	})
	if err != nil {
		return err
	}
	held := w.Shard.Stats().Sessions
	m.n = int(held)
	all.note(m)
	m.note("%d sessions; the last whole checkpoint of %.0f MB took %v; the shard is open again after %v", held, float64(taken.Bytes)/1e6,
		taken.Took.Round(time.Millisecond), m.wall.Round(time.Millisecond))
	return nil
}
