package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"time"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/session"
	"tandem/jobs/embedded"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/wire"
	sarchive "tandem/stream/archive"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

func gcCPU() float64 {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64()
}

func parse(_ context.Context, b *bench, m *meter) error {
	var p beacon.Parser
	var x beacon.Beacon
	return m.run(func() error {
		for i := range b.recs {
			if r := p.Parse(b.recs[i].Payload, &x); r != beacon.None {
				return fmt.Errorf("record %d: %v", i, r)
			}
		}
		return nil
	})
}

func fold(_ context.Context, b *bench, m *meter) error {
	byID := map[string]*session.Run{}
	var p beacon.Parser
	var x beacon.Beacon
	var r session.Reader
	m.n = 0
	for i := range b.recs {
		p.Parse(b.recs[i].Payload, &x)
		var e session.Event
		if v := r.Read(b.chain, &x, b.recs[i].Ingest, &e); v.Reason != beacon.None || !v.Used {
			continue
		}
		run := byID[string(x.Session)]
		if run == nil {
			run = &session.Run{}
			byID[string(x.Session)] = run
		}
		run.Append(&e)
		m.n++
	}
	for _, run := range byID {
		slices.SortFunc(run.Events, func(a, b session.Event) int { return session.Compare(&a, &b) })
	}
	return m.run(func() error {
		var sums metric.Sums
		f := session.Folder{Chain: b.chain, Sums: &sums, Beacons: true, Ends: true, Sign: 1}
		var st session.State
		for _, run := range byID {
			st.Reset()
			f.Fold(&st, run.Events)
			f.EndVisits(&st, 1<<60)
		}
		return nil
	})
}

// beaconsLog turns the records into what dispatch would append to a single partition, progress every 10 s.
func beaconsLog(b *bench, topic string) []broker.Record {
	var out []broker.Record
	told := int64(0)
	var p beacon.Parser
	var x beacon.Beacon
	slab := make([]byte, 0, 64*len(b.recs))
	headers := make([]broker.Header, 0, len(b.recs))
	keep := func(data []byte) []byte {
		at := len(slab)
		slab = append(slab, data...)
		return slab[at:len(slab):len(slab)]
	}
	header := func(key string, value []byte) []broker.Header {
		at := len(headers)
		headers = append(headers, broker.Header{Key: key, Value: value})
		return headers[at:len(headers):len(headers)]
	}
	for i := range b.recs {
		r := &b.recs[i]
		if n := r.Ingest / 10_000; n > told {
			told = n
			out = append(out, progressRecord(topic, r.Ingest, int64(i)))
		}
		p.Parse(r.Payload, &x)
		out = append(out, broker.Record{Topic: topic, Time: r.Ingest, Key: keep(x.Session), Value: r.Payload,
			Headers: header(wire.HeaderOrigin, keep(wire.AppendOrigin(nil, wire.Origin{Offset: int64(i)})))})
	}
	// A minute later: so that the last tick ends, and tells of all of them.
	out = append(out, progressRecord(topic, b.recs[len(b.recs)-1].Ingest+60_000, int64(len(b.recs))))
	for i := range out {
		out[i].Offset = int64(i)
	}
	return out
}

// progressRecord tells that the one source, a raw partition, was read up to an offset and a time.
func progressRecord(topic string, ms, offset int64) broker.Record {
	p := wire.Progress{Sources: wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", Topic: "raw", TopicID: "raw", Kind: wire.KindLive}}},
		At: []wire.SourceAt{{Source: 0, MS: ms, Offset: offset}}}
	return broker.Record{Topic: topic, Time: ms, Value: wire.AppendProgress(nil, &p), Headers: []broker.Header{{Key: wire.HeaderProgress}}}
}

type discard struct{ records, bytes int64 }

func (d *discard) Write(_ context.Context, recs []broker.Record) error {
	for i := range recs {
		d.records++
		d.bytes += int64(len(recs[i].Value))
	}
	return nil
}

func openWorker(b *bench, out sessionize.Writer, checkpoints int) (*sessionize.Worker, error) {
	return openWorkerOf(b, "metrics", out, checkpoints)
}

func openWorkerOf(b *bench, metrics string, out sessionize.Writer, checkpoints int) (*sessionize.Worker, error) {
	dir, err := os.MkdirTemp(b.dir, "checkpoints-")
	if err != nil {
		return nil, err
	}
	blobs, err := blob.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	return sessionize.Open(sessionize.Config{Layer: "stream.bench", Topic: "beacons", TopicID: "beacons", MetricsTopic: metrics, MetricsPartitions: metricsPartitions,
		TickMS: 60_000, CheckpointTicks: checkpoints}, b.chain, blobs, out, noPayload)
}

func noPayload(int64) ([]byte, error) {
	return nil, fmt.Errorf("no payload is asked for twice in this traffic")
}

const pollSize = 1 << 13

// checkpoints adds up what was taken: whole ones, and what had changed since the one before.
type checkpoints struct{ wholes, wholeBytes, deltas, deltaBytes int64 }

func (c *checkpoints) add(st *sessionize.CheckpointStats) {
	switch {
	case !st.Taken:
	case st.Whole:
		c.wholes++
		c.wholeBytes += st.Bytes
	default:
		c.deltas++
		c.deltaBytes += st.Bytes
	}
}

func (c *checkpoints) note(m *meter) {
	m.note("checkpoints: %d whole, %.0f MB; %d of changes, %.0f MB", c.wholes, float64(c.wholeBytes)/1e6, c.deltas, float64(c.deltaBytes)/1e6)
}

func shardMemory(ctx context.Context, b *bench, m *meter) error {
	log := beaconsLog(b, "beacons")
	out := &discard{}
	w, err := openWorker(b, out, 10)
	if err != nil {
		return err
	}
	w.End = int64(len(log))
	ticks := 0
	var taken checkpoints
	w.Ticked = func(st sessionize.TickStats) {
		ticks++
		taken.add(&st.Checkpoint)
	}
	err = m.run(func() error { return inPolls(ctx, log, w.Handle) })
	st := w.Shard.Stats()
	taken.note(m)
	m.note("%d ticks, %d messages, %.0f MB published, %d sessions held in %.0f MB", ticks, out.records, float64(out.bytes)/1e6, st.Sessions, float64(st.Bytes)/1e6)
	return err
}

func shardKafka(ctx context.Context, b *bench, m *meter) error {
	k, err := embedded.StartKafka()
	if err != nil {
		return err
	}
	defer k.Close()
	for topic, n := range map[string]int32{"beacons": 1, "metrics": 4} {
		if _, err := k.Create(ctx, topic, n); err != nil {
			return err
		}
	}
	if err := inPolls(ctx, beaconsLog(b, "beacons"), k.Write); err != nil {
		return err
	}
	w, err := openWorker(b, k, 10)
	if err != nil {
		return err
	}
	return m.run(func() error {
		for {
			recs, err := k.Poll(ctx, broker.Partition{Topic: "beacons"}, w.Shard.Offset)
			if err != nil || len(recs) == 0 {
				return err
			}
			if err := w.Handle(ctx, recs); err != nil {
				return err
			}
		}
	})
}

// inPolls hands records over in pieces of a poll's size.
func inPolls(ctx context.Context, recs []broker.Record, handle func(context.Context, []broker.Record) error) error {
	for part := range slices.Chunk(recs, pollSize) {
		if err := handle(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

func archiveRows(b *bench) ([]archive.Row, error) {
	mem := blob.NewMem()
	a, err := sarchive.Open(sarchive.Config{Topic: "t", TopicID: "t", Partitions: 1, MaxRows: 1 << 30, MaxBytes: 1 << 60}, b.chain, mem)
	if err != nil {
		return nil, err
	}
	log := beaconsLog(b, "beacons")
	log = slices.DeleteFunc(log, func(r broker.Record) bool { return r.Headers[0].Key == wire.HeaderProgress })
	if err := a.Handle(log); err != nil {
		return nil, err
	}
	return a.Rows(), nil
}

const fileRows = 250_000

func archiveWrite(_ context.Context, b *bench, m *meter) error {
	rows, err := archiveRows(b)
	if err != nil {
		return err
	}
	size := 0
	err = m.run(func() error {
		for part := range slices.Chunk(rows, fileRows) {
			archive.Sort(part)
			data, _, err := archive.Write(part)
			if err != nil {
				return err
			}
			size += len(data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	bare := 0
	for part := range slices.Chunk(rows, fileRows) {
		n, err := bareSize(part)
		if err != nil {
			return err
		}
		bare += n
	}
	m.note("%.1f bytes a beacon on disk, %.1f without payload", float64(size)/float64(len(rows)), float64(bare)/float64(len(rows)))
	return nil
}

func archiveRead(_ context.Context, b *bench, m *meter) error {
	rows, err := archiveRows(b)
	if err != nil {
		return err
	}
	var files []*archive.File
	for part := range slices.Chunk(rows, fileRows) {
		archive.Sort(part)
		data, info, err := archive.Write(part)
		if err != nil {
			return err
		}
		f, err := archive.OpenFile(blob.Bytes(data), info)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return m.run(func() error {
		for _, f := range files {
			if err := f.Scan(0, ^uint64(0), archive.Columns{Payload: true, Event: true, Names: true}, func(*archive.Row) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
}

func pipeline(ctx context.Context, b *bench, name string, stream, batch bool) (*embedded.Pipeline, func(), error) {
	st, err := pebblestore.Open(filepath.Join(b.dir, name, "store"), pebblestore.Options{Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		return nil, nil, err
	}
	blobs, err := blob.OpenDir(filepath.Join(b.dir, name, "blobs"))
	if err != nil {
		return nil, nil, err
	}
	k, err := embedded.StartKafka()
	if err != nil {
		return nil, nil, err
	}
	opt := embedded.Defaults()
	opt.Stream, opt.Batch = stream, batch
	p, err := embedded.Open(ctx, opt, b.chain, k, blobs, st)
	return p, func() { k.Close(); st.Close() }, err
}

func feed(ctx context.Context, p *embedded.Pipeline, recs []records.Record) error {
	var raws []embedded.Raw
	for part := range slices.Chunk(recs, 20_000) {
		raws = raws[:0]
		for i := range part {
			raws = append(raws, embedded.Raw{Ingest: part[i].Ingest, Payload: part[i].Payload})
		}
		if err := p.Feed(ctx, raws); err != nil {
			return err
		}
		if err := p.Pump(ctx); err != nil {
			return err
		}
	}
	return nil
}

func replay(ctx context.Context, b *bench, m *meter, name string, stream, batch bool) error {
	p, done, err := pipeline(ctx, b, name, stream, batch)
	if err != nil {
		return err
	}
	defer done()
	return m.run(func() error {
		if err := feed(ctx, p, b.recs); err != nil {
			return err
		}
		return p.Finish(ctx)
	})
}

func replayStream(ctx context.Context, b *bench, m *meter) error {
	return replay(ctx, b, m, "replay-stream", true, false)
}

func replayBatch(ctx context.Context, b *bench, m *meter) error {
	return replay(ctx, b, m, "replay-batch", false, true)
}
