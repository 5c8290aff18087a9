package embedded

import (
	"context"
	"fmt"

	"tandem/batch"
	"tandem/core/beacon"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/archive"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/sessionize"
)

// Options of a pipeline; Defaults has what suits most.
type Options struct {
	Layer           string
	Shards          int32
	TickMS          int64
	Metrics         int32 // partitions of the metrics topic
	ArchiveRows     int
	Ranges          int // hash ranges of the batch
	CheckpointTicks int
	Stream, Batch   bool
}

// Defaults are the options of replay and demo.
func Defaults() Options {
	return Options{Layer: "stream.dc1", Shards: 2, TickMS: 60_000, Metrics: 2, ArchiveRows: archive.DefaultRows, Ranges: 2,
		CheckpointTicks: 10, Stream: true, Batch: true}
}

const (
	rawTopic     = "beacons.raw"
	deadTopic    = "beacons.dead"
	metricsTopic = "metrics.stream"
	progressMS   = 10_000
)

// Raw is a record as a producer sends it; Heartbeat has no payload.
type Raw struct {
	Ingest    int64 // ms since the epoch
	Payload   []byte
	Heartbeat bool
}

// Pipeline is one tenant's Tandem. Its stages are driven one after another (Pump), so that what happens is a function
// of the records alone. Not safe for concurrent use.
type Pipeline struct {
	Chain *tenant.Chain
	Store store.Store
	Blobs blob.Store
	Log   Log

	opt        Options
	topic      string
	topicID    string
	dispatcher *dispatch.Dispatcher
	rawAt      int64
	shards     []*sessionize.Worker
	archivers  []*archive.Archiver
	aggregates []*aggregate.Worker
	last       int64 // greatest event or ingest time seen, ms
	out        []broker.Record
}

// Open makes the topics and the jobs.
func Open(ctx context.Context, opt Options, chain *tenant.Chain, log Log, blobs blob.Store, st store.Store) (*Pipeline, error) {
	p := &Pipeline{Chain: chain, Store: st, Blobs: blobs, Log: log, opt: opt, topic: "beacons." + chain.Tenant + ".0"}
	rawID, err := log.Create(ctx, rawTopic, 1)
	if err != nil {
		return nil, err
	}
	if p.topicID, err = log.Create(ctx, p.topic, opt.Shards); err != nil {
		return nil, err
	}
	for topic, n := range map[string]int32{deadTopic: 1, metricsTopic: opt.Metrics} {
		if _, err := log.Create(ctx, topic, n); err != nil {
			return nil, err
		}
	}
	p.dispatcher = &dispatch.Dispatcher{
		Sources:   wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "embedded", Topic: rawTopic, TopicID: rawID, Kind: wire.KindHistory}}},
		Routes:    map[string]*dispatch.Route{chain.Tenant: {Chain: chain, Topic: p.topic, Partitions: opt.Shards}},
		DeadTopic: deadTopic, EveryMS: min(progressMS, opt.TickMS), Out: log,
	}
	for i := range opt.Shards {
		if opt.Stream {
			if err := p.OpenShard(i); err != nil {
				return nil, err
			}
		}
		if opt.Batch {
			a, err := archive.Open(archive.Config{Topic: p.topic, TopicID: p.topicID, Partition: i, MaxRows: opt.ArchiveRows, MaxBytes: archive.DefaultBytes}, chain, blobs)
			if err != nil {
				return nil, err
			}
			p.archivers = append(p.archivers, a)
		}
	}
	if opt.Stream {
		revs := chain.Revs
		cfg := aggregate.Config{Layer: opt.Layer, Tenants: []aggregate.Tenant{{Name: chain.Tenant, Shards: int(opt.Shards),
			RetentionMS: revs[len(revs)-1].Config.Retention}}}
		for i := range opt.Metrics {
			cfg.Partition = i
			p.aggregates = append(p.aggregates, &aggregate.Worker{State: aggregate.New(cfg, 0, nil), Store: st})
		}
		if err := st.PutActive(ctx, store.Active{Tenant: chain.Tenant, Layer: opt.Layer, Seq: 1}); err != nil {
			return nil, fmt.Errorf("active layer: %w", err)
		}
	}
	return p, nil
}

// OpenShard opens a shard, or a second owner of it in place of the first: at its newest checkpoint.
func (p *Pipeline) OpenShard(i int32) error {
	part := broker.Partition{Topic: p.topic, Partition: i}
	w, err := sessionize.Open(sessionize.Config{Layer: p.opt.Layer, Topic: p.topic, TopicID: p.topicID, Partition: i,
		MetricsTopic: metricsTopic, MetricsPartitions: int(p.opt.Metrics), TickMS: p.opt.TickMS, CheckpointTicks: p.opt.CheckpointTicks},
		p.Chain, p.Blobs, p.Log, func(offset int64) ([]byte, error) { return p.Log.Payload(context.Background(), part, offset) })
	if err != nil {
		return err
	}
	if int(i) < len(p.shards) {
		p.shards[i] = w
	} else {
		p.shards = append(p.shards, w)
	}
	return nil
}

// Feed writes records to the raw topic. They come in order of ingest time.
func (p *Pipeline) Feed(ctx context.Context, recs []Raw) error {
	p.out = p.out[:0]
	for i := range recs {
		r := broker.Record{Topic: rawTopic, Time: recs[i].Ingest, Value: recs[i].Payload}
		if recs[i].Heartbeat {
			r.Headers = []broker.Header{{Key: dispatch.HeaderHeartbeat}}
		}
		p.last = max(p.last, recs[i].Ingest)
		p.out = append(p.out, r)
	}
	return p.Log.Write(ctx, p.out)
}

// Pump runs every stage until it has read all that the one before it wrote.
func (p *Pipeline) Pump(ctx context.Context) error {
	err := p.drain(ctx, broker.Partition{Topic: rawTopic}, &p.rawAt, func(recs []broker.Record) error {
		return p.dispatcher.Handle(ctx, recs)
	})
	if err != nil {
		return err
	}
	for i := range p.opt.Shards {
		part := broker.Partition{Topic: p.topic, Partition: i}
		if p.opt.Stream {
			w := p.shards[i]
			if err := p.drain(ctx, part, &w.Shard.Offset, func(recs []broker.Record) error { return w.Handle(ctx, recs) }); err != nil {
				return err
			}
		}
		if p.opt.Batch {
			a := p.archivers[i]
			if err := p.drain(ctx, part, &a.Offset, a.Handle); err != nil {
				return err
			}
		}
	}
	for i, w := range p.aggregates {
		part := broker.Partition{Topic: metricsTopic, Partition: int32(i)}
		if err := p.drain(ctx, part, &w.State.Offset, func(recs []broker.Record) error { return w.Handle(ctx, recs) }); err != nil {
			return err
		}
	}
	return nil
}

// drain hands a partition's records to a stage, which moves at.
func (p *Pipeline) drain(ctx context.Context, part broker.Partition, at *int64, handle func([]broker.Record) error) error {
	for {
		recs, err := p.Log.Poll(ctx, part, *at)
		if err != nil || len(recs) == 0 {
			return err
		}
		next := recs[len(recs)-1].Offset + 1
		if err := handle(recs); err != nil {
			return err
		}
		*at = next
	}
}

// End is a record time past which nothing of the records fed so far is open: every visit has ended, every window has
// settled.
func (p *Pipeline) End() int64 {
	end := int64(0)
	for i := range p.Chain.Revs {
		cfg := p.Chain.Revs[i].Config
		end = max(end, cfg.MaxSkew+cfg.VisitGap+cfg.Lateness)
	}
	return p.last + end + 2*batch.WindowMS
}

// Job is the batch of this pipeline's archive.
func (p *Pipeline) Job() *batch.Job {
	return &batch.Job{Chain: p.Chain, Topics: []batch.Topic{{Name: p.topic, ID: p.topicID, Partitions: p.opt.Shards}}, Blobs: p.Blobs,
		Store: p.Store, Digest: archive.ParseDigest, Ranges: p.opt.Ranges}
}

// Finish lets time pass the last record until nothing is open, and runs what is left.
func (p *Pipeline) Finish(ctx context.Context) error {
	if err := p.Feed(ctx, []Raw{{Ingest: p.End(), Heartbeat: true}}); err != nil {
		return err
	}
	if err := p.Pump(ctx); err != nil {
		return err
	}
	if p.opt.Batch {
		return p.Job().Run(ctx)
	}
	return nil
}

// Ingest is the ingest time of a record that came without one: its ts, or 0 where that cannot be read (SPEC 11).
func Ingest(parser *beacon.Parser, scratch *beacon.Beacon, payload []byte) int64 {
	parser.Parse(payload, scratch)
	if scratch.HasTS {
		return scratch.TS
	}
	return 0
}

// StreamCounts are the counts of the stream (SPEC 11).
func (p *Pipeline) StreamCounts() map[string]int64 {
	c := p.dispatched()
	for _, w := range p.shards {
		s := &w.Shard.Counts
		for name, n := range map[string]int64{"late": s.Late, "late.clock": s.LateClock, "redelivered": s.Redelivered, "unused": s.Unused,
			"duplicate": s.Duplicate, "overflow": s.Overflow, "conflict": s.Conflict, "unknown_variation": s.UnknownVariation} {
			c[name] += n
		}
		for _, r := range beacon.Reasons() {
			c["rejected."+r.String()] += s.Rejected[r]
		}
	}
	return c
}

func (p *Pipeline) dispatched() map[string]int64 {
	c := map[string]int64{"unused": p.dispatcher.Counts.Unused}
	for _, r := range beacon.Reasons() {
		c["rejected."+r.String()] += p.dispatcher.Counts.Rejected[r]
	}
	return c
}

// BatchCounts are the counts of the batch (SPEC 11).
func (p *Pipeline) BatchCounts(ctx context.Context) (map[string]int64, error) {
	c := p.dispatched()
	covered, err := p.Job().Covered(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range covered {
		for name, n := range map[string]int64{"unused": w.Counts.Unused, "duplicate": w.Counts.Duplicate, "overflow": w.Counts.Overflow,
			"conflict": w.Counts.Conflict, "unknown_variation": w.Counts.UnknownVariation} {
			c[name] += n
		}
		for name, n := range w.Counts.Rejected {
			c["rejected."+name] += n
		}
	}
	return c, nil
}
