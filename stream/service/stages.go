package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/stream/aggregate"
	"tandem/stream/archive"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// BeaconsTopic is a topic that dispatch writes to.
type BeaconsTopic struct {
	Name, ID   string
	Partitions int32
	Chain      *tenant.Chain // of its tenant
}

func byName(topics []BeaconsTopic) map[string]BeaconsTopic {
	m := map[string]BeaconsTopic{}
	for _, t := range topics {
		m[t.Name] = t
	}
	return m
}

// restores bounds how many shards are restored side by side: each holds its checkpoint twice meanwhile.
const restores = 2

// coldStarts bounds how many shards look for their log's moment side by side: each holds a few MB of records meanwhile, and may wait
// for what others tell, so those that can go on do not wait with it.
const coldStarts = 16

// Sessionize is stage 1 as a service.
type Sessionize struct {
	Host              *Host // Open is set by Run
	Topics            []BeaconsTopic
	Layer             string
	MetricsTopic      string
	MetricsPartitions int
	Tick              time.Duration
	CheckpointTicks   int
	Cold              bool
	Checkpoints       sessionize.Blobs
	Ticked            func(Tick) // if set, called by any of the owners

	topics   map[string]BeaconsTopic
	writer   *broker.Writer
	payloads *broker.Payloads
	opening  chan struct{} // a place for each restore
	cold     chan struct{} // and for each cold start
}

// Run sessionizes until the context ends.
func (s *Sessionize) Run(ctx context.Context) error {
	var err error
	if s.writer, err = broker.NewMetricsWriter(s.Host.Connection); err != nil {
		return err
	}
	defer s.writer.Close()
	if s.payloads, err = broker.NewPayloads(s.Host.Connection); err != nil {
		return err
	}
	defer s.payloads.Close()
	s.Host.writes(s.writer)
	s.topics, s.opening, s.cold = byName(s.Topics), make(chan struct{}, restores), make(chan struct{}, coldStarts)
	s.Host.Open = s.open
	return s.Host.Run(ctx)
}

type shardOwner struct {
	*sessionize.Worker
	seat *Seat

	mu     sync.Mutex
	status ShardStatus
}

func (s *Sessionize) open(ctx context.Context, seat *Seat) (Owner, int64, error) {
	p := seat.Partition
	t := s.topics[p.Topic]
	cfg := sessionize.Config{Layer: s.Layer, Topic: p.Topic, TopicID: t.ID, Partition: p.Partition, MetricsTopic: s.MetricsTopic,
		MetricsPartitions: s.MetricsPartitions, TickMS: s.Tick.Milliseconds(), CheckpointTicks: s.CheckpointTicks}
	staying, leave := seat.staying()
	defer leave()
	if s.Cold {
		if err := place(staying, s.cold, func() error {
			return ColdShard(staying, kafkaLog{s.Host.Connection}, cfg, t.Chain, s.Checkpoints, p, s.Host.Log)
		}); err != nil {
			return nil, 0, err
		}
	}
	payloads := s.payloads.Of(p)
	var w *sessionize.Worker
	err := place(staying, s.opening, func() (err error) {
		w, err = sessionize.Open(cfg, t.Chain, s.Checkpoints, s.writer, func(offset int64) ([]byte, error) {
			seat.alive() // a piece of work may ask for tens of thousands of them
			return payloads.Payload(ctx, offset)
		})
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return s.watched(seat, w), w.Shard.Offset, nil
}

// place does something once it has one of the places.
func place(ctx context.Context, places chan struct{}, do func() error) error {
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Handle also commits how far the shard is, for whoever watches the group's lag; the shard itself goes by its
// checkpoints.
func (o *shardOwner) Handle(ctx context.Context, recs []broker.Record) error {
	o.End = o.seat.Status().End
	if err := o.Worker.Handle(ctx, recs); err != nil {
		return err
	}
	o.noteWatermark()
	o.seat.Commit(o.Shard.Offset)
	return nil
}

// Aggregate is stage 2 as a service.
type Aggregate struct {
	Host    *Host // Open is set by Run
	Layer   string
	Tenants []aggregate.Tenant
	Former  []string // tenants that were taken out
	Store   Metrics
	Cold    bool
	Standby bool  // hold what there is to write until the layer is the active one (Gate)
	Window  int64 // minutes that a coverage covers
	Tick    time.Duration
	Ticked  func(Tick) // if set, called by any of the owners

	gate *Gate
}

// gathered is the part of a tick for which what shards tell waits for more. They tell a tick's rows one after another, within seconds,
// and each would have the row written once more; and of a backlog's ticks one version of a row will do.
const gathered = 30

// Run aggregates until the context ends.
func (a *Aggregate) Run(ctx context.Context) error {
	var names []string
	for _, t := range a.Tenants {
		names = append(names, t.Name)
	}
	a.gate = NewGate(a.Store, a.Layer, names, a.Standby, a.Window, a.Host.Log)
	a.Host.Open, a.Host.Gather = a.open, a.Tick/gathered
	gate, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.gate.Run(gate)
	}()
	defer func() { stop(); <-done }()
	return a.Host.Run(ctx)
}

func (a *Aggregate) open(ctx context.Context, seat *Seat) (Owner, int64, error) {
	p := seat.Partition
	at, _, err := seat.Committed(ctx)
	if err != nil {
		return nil, 0, err
	}
	closed := map[string]int64{}
	for _, t := range a.Tenants {
		all, err := a.Store.Progress(ctx, a.Layer, t.Name)
		if err != nil {
			return nil, 0, fmt.Errorf("progress of %s: %w", a.Layer, err)
		}
		for _, x := range all {
			if x.Partition == p.Partition {
				closed[t.Name] = x.ClosedBefore
			}
		}
	}
	told := maps.Clone(closed)
	if a.Cold {
		staying, leave := seat.staying()
		defer leave()
		if at, err = ColdAggregate(staying, kafkaLog{a.Host.Connection}, a.Tenants, p, at, closed, a.Host.Log); err != nil {
			return nil, 0, err
		}
	}
	state, err := aggregate.New(aggregate.Config{Layer: a.Layer, Partition: p.Partition, Tenants: a.Tenants, Former: a.Former}, at.Offset, closed, at.Note)
	if err != nil {
		return nil, 0, err
	}
	part := a.gate.Part(p.Partition, told, closed, seat.CommitTo)
	return a.watched(seat, &aggregateOwner{aggregate.Worker{State: state, Store: part, Commits: part}, part}, closed), at.Offset, nil
}

type aggregateOwner struct {
	aggregate.Worker
	part *GatePart
}

// Close lets go of what a standby holds.
func (o *aggregateOwner) Close() { o.part.Close() }

// Archive is the archiver as a service.
type Archive struct {
	Host     *Host // Open is set by Run
	Topics   []BeaconsTopic
	Blobs    blob.Store
	MaxRows  int
	MaxBytes int64 // of a partition's file at hand, in memory
	Cold     bool  // where the log has forgotten what comes next, go on at its start

	topics map[string]BeaconsTopic

	mu     sync.Mutex
	counts archive.Counts // of partitions that are at work or were
}

// Run archives until the context ends.
func (a *Archive) Run(ctx context.Context) error {
	a.topics = byName(a.Topics)
	a.Host.Open = a.open
	err := a.Host.Run(ctx)
	if errors.Is(err, broker.ErrOutOfRange) {
		err = fmt.Errorf("%w: what comes after the last manifest is gone from the log and was never archived; --cold goes on at the log's start", err)
	}
	return err
}

// skip has an archiver go on at the log's start, if that is later.
func (a *Archive) skip(ctx context.Context, p broker.Partition, x *archive.Archiver) error {
	first, err := a.Host.logStart(ctx, p)
	if err != nil || first <= x.Offset {
		return err
	}
	a.Host.Log.Warn("cold start: what the log has forgotten was never archived", "topic", p.Topic, "partition", p.Partition, "from", x.Offset, "to", first)
	return x.Skip(first)
}

type archiveOwner struct {
	*archive.Archiver
	a    *Archive
	seat *Seat

	mu     sync.Mutex
	status ArchivePartition
}

func (a *Archive) open(ctx context.Context, seat *Seat) (Owner, int64, error) {
	t := a.topics[seat.Partition.Topic]
	x, err := archive.Open(archive.Config{Topic: t.Name, TopicID: t.ID, Partition: seat.Partition.Partition, Partitions: t.Partitions,
		MaxRows: a.MaxRows, MaxBytes: a.MaxBytes, SummaryEvery: archive.SummaryEvery}, t.Chain, a.Blobs)
	if err == nil && a.Cold {
		err = a.skip(ctx, seat.Partition, x)
	}
	if err != nil {
		return nil, 0, err
	}
	o := &archiveOwner{Archiver: x, a: a, seat: seat, status: ArchivePartition{Partition: seat.Partition, Rolled: time.Now()}}
	o.noted()
	return o, x.Offset, nil
}

func (o *archiveOwner) Handle(_ context.Context, recs []broker.Record) error {
	err := o.Archiver.Handle(recs)
	o.noted()
	if err != nil {
		return err
	}
	o.seat.Commit(o.Committed())
	if err := o.Summarize(); err != nil {
		o.a.Host.Log.Warn("summary of the manifests not written; readers go by the one before", "err", err)
	}
	return nil
}
