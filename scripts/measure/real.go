package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/batch"
	"tandem/schemas/store/pebblestore"
	"tandem/stream/broker"
	"tandem/stream/service"
)

// real is the Kafka of -kafka with topics of this run alone, which it leaves there: the records as dispatch writes them.
type real struct {
	to               broker.Connection
	beacons, metrics string
	end              int64 // of the beacons
	rows             *broker.Writer
}

func openReal(ctx context.Context, b *bench) (*real, error) {
	run := fmt.Sprintf(".measure-%d", time.Now().UnixNano())
	r := &real{to: broker.To(strings.Split(b.kafka, ",")...), beacons: "beacons" + run, metrics: "metrics" + run}
	if err := createTopics(ctx, r.to, map[string]int32{r.beacons: 1, r.metrics: metricsPartitions}); err != nil {
		return nil, err
	}
	out, err := broker.NewWriter(r.to)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	log := beaconsLog(b, r.beacons)
	r.end = int64(len(log))
	if err := inPolls(ctx, log, out.Write); err != nil {
		return nil, err
	}
	r.rows, err = broker.NewMetricsWriter(r.to)
	runtime.GC()
	return r, err
}

func createTopics(ctx context.Context, to broker.Connection, partitions map[string]int32) error {
	topics, err := broker.NewTopics(to)
	if err != nil {
		return err
	}
	defer topics.Close()
	for topic, n := range partitions {
		if _, err := topics.Create(ctx, topic, n); err != nil {
			return err
		}
	}
	return nil
}

// consume hands the one partition of a topic to handle, from its beginning on, as long as there is more.
func consume(ctx context.Context, to broker.Connection, topic string, more func() bool, handle func(context.Context, []broker.Record) error) error {
	feed, err := broker.NewFeed(to)
	if err != nil {
		return err
	}
	defer feed.Close()
	feed.Add(broker.Partition{Topic: topic}, 0)
	for more() {
		wait, done := context.WithTimeout(ctx, 250*time.Millisecond) // there may be no more
		batches := feed.Poll(wait, pollSize)
		done()
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, batch := range batches {
			if batch.Err != nil {
				return batch.Err
			}
			if err := handle(ctx, batch.Records); err != nil {
				return err
			}
			broker.Recycle(batch.Records)
		}
	}
	return nil
}

// fetchReal reads what a shard would, and does nothing with it.
func fetchReal(ctx context.Context, b *bench, m *meter) error {
	r, err := openReal(ctx, b)
	if err != nil {
		return err
	}
	defer r.rows.Close()
	n := int64(0)
	return m.run(func() error {
		return consume(ctx, r.to, r.beacons, func() bool { return n < r.end }, func(_ context.Context, recs []broker.Record) error {
			n += int64(len(recs))
			return nil
		})
	})
}

// shardReal consumes from and publishes to Kafka.
func shardReal(ctx context.Context, b *bench, m *meter) error {
	r, err := openReal(ctx, b)
	if err != nil {
		return err
	}
	defer r.rows.Close()
	w, err := openWorkerOf(b, r.metrics, r.rows, 10)
	if err != nil {
		return err
	}
	w.End = r.end
	return m.run(func() error {
		return consume(ctx, r.to, r.beacons, func() bool { return w.Shard.Offset < r.end }, w.Handle)
	})
}

// toAggregates counts the messages that a shard has published, by partition.
type toAggregates struct {
	out *broker.Writer
	n   [metricsPartitions]atomic.Int64
}

func (t *toAggregates) Write(ctx context.Context, recs []broker.Record) error {
	if err := t.out.Write(ctx, recs); err != nil {
		return err
	}
	for i := range recs {
		t.n[recs[i].Partition].Add(1)
	}
	return nil
}

// streamReal runs both stages in one process, Kafka before and between them, to rows in the embedded store.
func streamReal(ctx context.Context, b *bench, m *meter) error {
	r, err := openReal(ctx, b)
	if err != nil {
		return err
	}
	defer r.rows.Close()
	st, err := pebblestore.Open(filepath.Join(b.dir, "stream-real"), pebblestore.Options{Now: func() time.Time { return time.UnixMilli(b.recs[0].Ingest) }})
	if err != nil {
		return err
	}
	defer st.Close()
	out := &toAggregates{out: r.rows}
	w, err := openWorkerOf(b, r.metrics, out, 10)
	if err != nil {
		return err
	}
	w.End = r.end
	var written atomic.Int64
	two := &service.Aggregate{Layer: "stream.bench", Tenants: aggregateTenants(b), Store: st, Tick: time.Duration(w.Shard.ID.TickMS) * time.Millisecond,
		Window: batch.WindowMS / 60000, Ticked: func(t service.Tick) { written.Add(t.Rows) },
		Host: &service.Host{Connection: r.to, Group: r.metrics, Log: slog.New(slog.DiscardHandler)}}
	for p := range int32(metricsPartitions) {
		two.Host.Fixed = append(two.Host.Fixed, broker.Partition{Topic: r.metrics, Partition: p})
	}
	err = m.run(func() error {
		g, ctx := errgroup.WithContext(ctx)
		second, end := context.WithCancel(ctx)
		g.Go(func() error { return two.Run(second) })
		g.Go(func() error {
			defer end()
			if err := consume(ctx, r.to, r.beacons, func() bool { return w.Shard.Offset < r.end }, w.Handle); err != nil {
				return err
			}
			for !handled(two.Host, out) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(10 * time.Millisecond):
				}
			}
			return nil
		})
		return g.Wait()
	})
	if err != nil {
		return err
	}
	m.note("%d rows written", written.Load())
	return b.checkTotals(ctx, st, "stream.bench", m)
}

// handled says whether stage 2 has handled all that was published.
func handled(h *service.Host, out *toAggregates) bool {
	for _, s := range h.Seats() {
		if s.Status().Next < out.n[s.Partition.Partition].Load() {
			return false
		}
	}
	return true
}

// readMemory adds up the bytes of all payloads, a word at a time: they do not fit any cache.
func readMemory(_ context.Context, b *bench, m *meter) error {
	sum := uint64(0)
	err := m.run(func() error {
		for i := range b.recs {
			p := b.recs[i].Payload
			for ; len(p) >= 32; p = p[32:] {
				sum += binary.LittleEndian.Uint64(p) + binary.LittleEndian.Uint64(p[8:]) + binary.LittleEndian.Uint64(p[16:]) + binary.LittleEndian.Uint64(p[24:])
			}
			for _, c := range p {
				sum += uint64(c)
			}
		}
		return nil
	})
	if err == nil && sum == 0 {
		return errors.New("nothing was read")
	}
	return err
}
