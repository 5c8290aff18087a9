package service

import (
	"context"
	"fmt"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
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
	Ticked            func(p broker.Partition, t sessionize.TickStats)

	topics  map[string]BeaconsTopic
	writer  *broker.Writer
	opening chan struct{}
}

// Run sessionizes until the context ends.
func (s *Sessionize) Run(ctx context.Context) error {
	var err error
	if s.writer, err = broker.NewWriter(s.Host.Connection); err != nil {
		return err
	}
	defer s.writer.Close()
	s.topics, s.opening = byName(s.Topics), make(chan struct{}, restores)
	s.Host.Open = s.open
	return s.Host.Run(ctx)
}

type shardOwner struct {
	*sessionize.Worker
	seat *Seat
}

func (s *Sessionize) open(ctx context.Context, seat *Seat) (Owner, int64, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	p := seat.Partition
	t := s.topics[p.Topic]
	cfg := sessionize.Config{Layer: s.Layer, Topic: p.Topic, TopicID: t.ID, Partition: p.Partition, MetricsTopic: s.MetricsTopic,
		MetricsPartitions: s.MetricsPartitions, TickMS: s.Tick.Milliseconds(), CheckpointTicks: s.CheckpointTicks}
	if s.Cold {
		if err := s.cold(ctx, cfg, t.Chain, p); err != nil {
			return nil, 0, err
		}
	}
	w, err := sessionize.Open(cfg, t.Chain, s.Checkpoints, s.writer, func(offset int64) ([]byte, error) {
		return broker.Payload(ctx, s.Host.Connection, p, offset)
	})
	if err != nil {
		return nil, 0, err
	}
	if s.Ticked != nil {
		w.Ticked = func(st sessionize.TickStats) { s.Ticked(p, st) }
	}
	return &shardOwner{w, seat}, w.Shard.Offset, nil
}

// cold claims a generation at the end of the log for a shard that has no state, or whose log no longer has what comes
// after it.
func (s *Sessionize) cold(ctx context.Context, cfg sessionize.Config, chain *tenant.Chain, p broker.Partition) error {
	from, ok, err := sessionize.Resume(cfg, s.Checkpoints)
	if err != nil {
		return err
	}
	first, last, moment, err := broker.Tail(ctx, s.Host.Connection, p)
	if err != nil || ok && from >= first && from <= last {
		return err
	}
	minute, err := sessionize.ClaimCold(cfg, chain, s.Checkpoints, last, moment)
	if err == nil {
		s.Host.Log.Warn("cold start: a new generation begins at the log's end", "topic", p.Topic, "partition", p.Partition,
			"offset", last, "first_minute", time.UnixMilli(minute*60000).UTC())
	}
	return err
}

// Handle also commits how far the shard is, for whoever watches the group's lag; the shard itself goes by its
// checkpoints.
func (o *shardOwner) Handle(ctx context.Context, recs []broker.Record) error {
	if err := o.Worker.Handle(ctx, recs); err != nil {
		return err
	}
	o.seat.Commit(o.Shard.Offset)
	return nil
}

// Aggregate is stage 2 as a service.
type Aggregate struct {
	Host    *Host // Open is set by Run
	Layer   string
	Tenants []aggregate.Tenant
	Store   Metrics
	Cold    bool
}

// Metrics is the part of the metric store that stage 2 needs.
type Metrics interface {
	aggregate.Rows
	Progress(ctx context.Context, layer, tenant string) ([]store.Progress, error)
}

// Run aggregates until the context ends.
func (a *Aggregate) Run(ctx context.Context) error {
	a.Host.Open = a.open
	return a.Host.Run(ctx)
}

func (a *Aggregate) open(ctx context.Context, seat *Seat) (Owner, int64, error) {
	p := seat.Partition
	from, known, err := seat.Committed(ctx)
	if err != nil {
		return nil, 0, err
	}
	if !known {
		from = 0
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
	if a.Cold {
		first, last, moment, err := broker.Tail(ctx, a.Host.Connection, p)
		if err != nil {
			return nil, 0, err
		}
		if from < first || from > last {
			from = last
			for _, t := range a.Tenants {
				closed[t.Name] = max(closed[t.Name], sessionize.FirstColdMinute(t.MaxSkewMS, moment))
			}
			a.Host.Log.Warn("cold start at the log's end", "topic", p.Topic, "partition", p.Partition, "offset", last)
		}
	}
	state := aggregate.New(aggregate.Config{Layer: a.Layer, Partition: p.Partition, Tenants: a.Tenants}, from, closed)
	return &aggregate.Worker{State: state, Store: a.Store, Commits: seatCommits{seat}}, from, nil
}

type seatCommits struct{ seat *Seat }

func (c seatCommits) Commit(_ context.Context, _ int32, offset int64) error {
	c.seat.Commit(offset)
	return nil
}

// Archive is the archiver as a service.
type Archive struct {
	Host     *Host // Open is set by Run
	Topics   []BeaconsTopic
	Blobs    blob.Store
	MaxRows  int
	MaxBytes int64 // of a partition's file at hand, in memory

	topics map[string]BeaconsTopic
}

// Run archives until the context ends.
func (a *Archive) Run(ctx context.Context) error {
	a.topics = byName(a.Topics)
	a.Host.Open = a.open
	return a.Host.Run(ctx)
}

type archiveOwner struct {
	*archive.Archiver
	seat *Seat
}

func (a *Archive) open(_ context.Context, seat *Seat) (Owner, int64, error) {
	t := a.topics[seat.Partition.Topic]
	x, err := archive.Open(archive.Config{Topic: t.Name, TopicID: t.ID, Partition: seat.Partition.Partition, Partitions: t.Partitions,
		MaxRows: a.MaxRows, MaxBytes: a.MaxBytes}, t.Chain, a.Blobs)
	if err != nil {
		return nil, 0, err
	}
	return &archiveOwner{x, seat}, x.Offset, nil
}

func (o *archiveOwner) Handle(_ context.Context, recs []broker.Record) error {
	if err := o.Archiver.Handle(recs); err != nil {
		return err
	}
	o.seat.Commit(o.Committed())
	return nil
}
