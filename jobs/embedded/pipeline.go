package embedded

import (
	"context"
	"fmt"
	"math"

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
	Raw             int32 // partitions of the raw topic
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
	return Options{Layer: "stream.dc1", Raw: 1, Shards: 2, TickMS: 60_000, Metrics: 2, ArchiveRows: archive.DefaultRows, Ranges: 2,
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
	Partition int32
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
	rawID      string
	dispatcher *dispatch.Dispatcher
	rawAt      []int64 // by raw partition: offset of the next record
	shards     []*sessionize.Worker
	archivers  []*archive.Archiver
	aggregates []*aggregate.Worker
	last       int64 // greatest event or ingest time seen, ms
	out        []broker.Record
}

// Open makes the topics and the jobs.
func Open(ctx context.Context, opt Options, chain *tenant.Chain, log Log, blobs blob.Store, st store.Store) (*Pipeline, error) {
	p := &Pipeline{Chain: chain, Store: st, Blobs: blobs, Log: log, opt: opt, topic: "beacons." + chain.Tenant + ".0"}
	var err error
	if p.rawID, err = log.Create(ctx, rawTopic, opt.Raw); err != nil {
		return nil, err
	}
	p.rawAt = make([]int64, opt.Raw)
	if p.topicID, err = log.Create(ctx, p.topic, opt.Shards); err != nil {
		return nil, err
	}
	for topic, n := range map[string]int32{deadTopic: 1, metricsTopic: opt.Metrics} {
		if _, err := log.Create(ctx, topic, n); err != nil {
			return nil, err
		}
	}
	p.openDispatcher()
	for i := range opt.Shards {
		if opt.Stream {
			if err := p.openShard(i); err != nil {
				return nil, err
			}
		}
		if opt.Batch {
			if err := p.openArchiver(i); err != nil {
				return nil, err
			}
		}
	}
	if opt.Stream {
		for i := range opt.Metrics {
			if err := p.openAggregate(ctx, i, 0); err != nil {
				return nil, err
			}
		}
		if err := st.PutActive(ctx, store.Active{Tenant: chain.Tenant, Layer: opt.Layer, Seq: 1}); err != nil {
			return nil, fmt.Errorf("active layer: %w", err)
		}
	}
	return p, nil
}

func (p *Pipeline) openDispatcher() {
	sources := wire.Sources{Revision: 1}
	for i := range p.opt.Raw {
		sources.List = append(sources.List, wire.Source{Cluster: "embedded", Topic: rawTopic, TopicID: p.rawID, Partition: i, Kind: wire.KindHistory})
	}
	teller := &dispatch.Teller{EveryMS: min(progressMS, p.opt.TickMS), Out: p.Log,
		Routes: map[string]*dispatch.Route{p.Chain.Tenant: {Chain: p.Chain, Topics: []string{p.topic}, Partitions: p.opt.Shards}}}
	teller.SetSources(sources)
	p.dispatcher = &dispatch.Dispatcher{Teller: teller, DeadTopic: deadTopic, Out: p.Log}
}

// openShard opens a shard, or a second owner of it in place of the first: at its newest checkpoint.
func (p *Pipeline) openShard(i int32) error {
	part := broker.Partition{Topic: p.topic, Partition: i}
	w, err := sessionize.Open(sessionize.Config{Layer: p.opt.Layer, Topic: p.topic, TopicID: p.topicID, Partition: i,
		MetricsTopic: metricsTopic, MetricsPartitions: int(p.opt.Metrics), TickMS: p.opt.TickMS, CheckpointTicks: p.opt.CheckpointTicks},
		p.Chain, p.Blobs, p.Log, func(offset int64) ([]byte, error) { return p.Log.Payload(context.Background(), part, offset) })
	if err != nil {
		return err
	}
	p.shards = set(p.shards, int(i), w)
	return nil
}

// openArchiver opens the archiver of a partition where its last manifest ends.
func (p *Pipeline) openArchiver(i int32) error {
	a, err := archive.Open(archive.Config{Topic: p.topic, TopicID: p.topicID, Partition: i, Partitions: p.opt.Shards, MaxRows: p.opt.ArchiveRows, MaxBytes: archive.DefaultBytes}, p.Chain, p.Blobs)
	if err != nil {
		return err
	}
	p.archivers = set(p.archivers, int(i), a)
	return nil
}

// openAggregate opens the aggregate of a metrics partition at an offset, knowing what the store knows to be closed.
func (p *Pipeline) openAggregate(ctx context.Context, i int32, offset int64) error {
	revs := p.Chain.Revs
	name := p.Chain.Tenant
	cfg := aggregate.Config{Layer: p.opt.Layer, Partition: i, Tenants: []aggregate.Tenant{{Name: name, Topics: []string{p.topicID}, Shards: int(p.opt.Shards),
		RetentionMS: revs[len(revs)-1].Config.Retention}}}
	progress, err := p.Store.Progress(ctx, p.opt.Layer, name)
	if err != nil {
		return fmt.Errorf("progress of %s: %w", p.opt.Layer, err)
	}
	closed := map[string]int64{}
	for _, c := range progress {
		if c.Partition == i {
			closed[name] = c.ClosedBefore
		}
	}
	state, err := aggregate.New(cfg, offset, closed, "")
	if err != nil {
		return err
	}
	p.aggregates = set(p.aggregates, int(i), &aggregate.Worker{State: state, Store: p.Store})
	return nil
}

func set[T any](list []T, i int, x T) []T {
	if i == len(list) {
		return append(list, x)
	}
	list[i] = x
	return list
}

// Feed writes records to the raw topic. They come in order of ingest time.
func (p *Pipeline) Feed(ctx context.Context, recs []Raw) error {
	p.out = p.out[:0]
	for i := range recs {
		r := broker.Record{Topic: rawTopic, Partition: recs[i].Partition, Time: max(recs[i].Ingest, 1), Value: recs[i].Payload}
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
	for _, stage := range p.stages() {
		for {
			n, err := stage(ctx, math.MaxInt)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	}
	return nil
}

// step reads at most so many records of one partition, and returns how many there were.
type step func(ctx context.Context, most int) (int, error)

// stages are the steps of the pipeline, each after those that it reads from.
func (p *Pipeline) stages() []step {
	var all []step
	for i := range p.opt.Raw {
		all = append(all, func(ctx context.Context, most int) (int, error) {
			return p.read(ctx, broker.Partition{Topic: rawTopic, Partition: i}, p.rawAt[i], most, func(recs []broker.Record) error {
				err := p.dispatcher.Handle(ctx, recs)
				p.rawAt[i] += int64(len(recs))
				return err
			})
		})
	}
	for i := range p.opt.Shards {
		part := broker.Partition{Topic: p.topic, Partition: i}
		if p.opt.Stream {
			all = append(all, func(ctx context.Context, most int) (int, error) {
				w := p.shards[i]
				return p.read(ctx, part, w.Shard.Offset, most, func(recs []broker.Record) error { return w.Handle(ctx, recs) })
			})
		}
		if p.opt.Batch {
			all = append(all, func(ctx context.Context, most int) (int, error) {
				return p.read(ctx, part, p.archivers[i].Offset, most, p.archivers[i].Handle)
			})
		}
	}
	for i := range p.aggregates {
		all = append(all, func(ctx context.Context, most int) (int, error) {
			w := p.aggregates[i]
			return p.read(ctx, broker.Partition{Topic: metricsTopic, Partition: int32(i)}, w.State.Offset, most,
				func(recs []broker.Record) error { return w.Handle(ctx, recs) })
		})
	}
	return all
}

func (p *Pipeline) read(ctx context.Context, part broker.Partition, from int64, most int, handle func([]broker.Record) error) (int, error) {
	recs, err := p.Log.Poll(ctx, part, from)
	if err != nil || len(recs) == 0 {
		return 0, err
	}
	recs = recs[:min(len(recs), most)]
	return len(recs), handle(recs)
}

// End is a record time past which nothing of the records fed so far is open.
func (p *Pipeline) End() int64 { return p.last + Closing(p.Chain) }

// Closing is how long after the last record, in ms of record time, nothing is open: every visit has ended, every window
// has settled.
func Closing(chain *tenant.Chain) int64 {
	most := int64(0)
	for i := range chain.Revs {
		cfg := chain.Revs[i].Config
		most = max(most, cfg.MaxSkew+cfg.VisitGap+cfg.Lateness)
	}
	return most + 2*batch.WindowMS
}

// Job is the batch of this pipeline's archive.
func (p *Pipeline) Job() *batch.Job {
	return &batch.Job{Chain: p.Chain, Topics: []batch.Topic{{Name: p.topic, ID: p.topicID, Partitions: p.opt.Shards}}, Blobs: p.Blobs,
		Store: p.Store, Digest: archive.ParseDigest, Parser: archive.ParserVersion, Ranges: p.opt.Ranges}
}

// Finish lets time pass the last record until nothing is open, and runs what is left.
func (p *Pipeline) Finish(ctx context.Context) error {
	if err := p.Heartbeat(ctx, p.End()); err != nil {
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

// Heartbeat tells every raw partition the time.
func (p *Pipeline) Heartbeat(ctx context.Context, ms int64) error {
	var beats []Raw
	for i := range p.opt.Raw {
		beats = append(beats, Raw{Partition: i, Ingest: ms, Heartbeat: true})
	}
	return p.Feed(ctx, beats)
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
