package service

import (
	"context"
	"maps"
	"sync"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/archive"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/sessionize"
)

// What owners say of themselves. Their state belongs to their goroutine, so after each call of Handle or each tick they
// note copies of a few numbers behind a lock, and Status methods read those: once for many records, and nothing is
// allocated for one.

// Names of the services in Tick and in metrics.
const (
	StageDispatch  = "dispatch"
	StageSessions  = "1"
	StageAggregate = "2"
	StageArchive   = "archive"
)

// Tick describes a tick that is done: of a shard, or of the aggregate of a partition, which ticks whenever it writes.
type Tick struct {
	Stage     string
	At        time.Time
	Partition broker.Partition
	Offset    int64 // of the next record
	Watermark int64 // ms: everything before it is final; 0: not known yet
	// Rows are messages of rows in stage 1, rows in stage 2; Bytes are those of their values.
	Rows, Bytes               int64
	Fold, Publish, Checkpoint time.Duration
	CheckpointBytes           int64 // 0: the tick took none
	CheckpointErr             error // it is due again at the next tick
}

// DispatchStatus says what a dispatcher has done since its process began, and how far it knows the sources to be.
type DispatchStatus struct {
	Counts             dispatch.Counts // what was handled again after a failure counts again
	Told, Beats, Paced int64
	Sources            []dispatch.SourceState
}

// Status returns how the dispatcher is doing. Counts by tenant are those of its routes.
func (d *Dispatch) Status() DispatchStatus {
	d.mu.Lock()
	st := DispatchStatus{Counts: d.counts, Told: d.Told.Load(), Beats: d.Beats.Load(), Paced: d.Paced.Load()}
	teller := d.teller
	d.mu.Unlock()
	if teller != nil {
		st.Sources = teller.Known()
	}
	return st
}

// counted moves the counters of an owner to those of the process.
func (o *rawOwner) counted() {
	o.d.mu.Lock()
	o.d.counts.Add(&o.Counts)
	o.d.mu.Unlock()
	o.Counts = dispatch.Counts{}
}

// told counts the progress records that are written.
type told struct {
	dispatch.Writer
	d *Dispatch
}

func (t told) Write(ctx context.Context, recs []broker.Record) error {
	err := t.Writer.Write(ctx, recs)
	if err == nil {
		t.d.Told.Add(int64(len(recs)))
	}
	return err
}

// ShardStatus says how a shard is.
type ShardStatus struct {
	Partition broker.Partition
	Counts    ShardCounts // at the last tick: a part of the shard's state
	Sessions  int64       // open, at the last tick
	Bytes     int64       // of them and their tables
	Watermark int64       // ms; 0: not known yet
	Holder    Holder      // of the watermark
	Ticked    time.Time   // end of the last tick; of the opening before the first

	Checkpointed    time.Time // when the last checkpoint was taken; the shard was opened, before the first
	CheckpointBytes int64     // of the last one, 0: none yet
	CheckpointTook  time.Duration
	CheckpointFails int64
}

// ShardCounts are what has become of the beacons of a shard's log: each is in exactly one of these.
type ShardCounts struct {
	Counted, Late, LateClock, Redelivered, Duplicate, Overflow, Unused, Rejected int64
}

// Holder is the source that holds a watermark back: the least far of those that are waited for, or one that was not heard
// of yet.
type Holder struct {
	Source wire.Source // Topic "": there is none
	MS     int64       // how far it is; 0: not heard of
}

// watched makes an owner of a worker that notes how it is.
func (s *Sessionize) watched(seat *Seat, w *sessionize.Worker) *shardOwner {
	now := time.Now()
	o := &shardOwner{Worker: w, seat: seat, status: ShardStatus{Partition: seat.Partition, Ticked: now, Checkpointed: now}}
	o.noteCounts()
	o.noteWatermark()
	w.Ticked = func(t sessionize.TickStats) { s.ticked(o, t) }
	return o
}

// ticked is called in the owner's goroutine after each tick.
func (s *Sessionize) ticked(o *shardOwner, t sessionize.TickStats) {
	o.seat.alive()
	now, p, c := time.Now(), o.seat.Partition, &t.Checkpoint
	if c.Err != nil {
		s.Host.Log.Warn("checkpoint", "topic", p.Topic, "partition", p.Partition, "taken", c.Taken, "err", c.Err)
	}
	o.noteCounts()
	o.mu.Lock()
	o.status.Ticked = now
	if c.Taken {
		o.status.Checkpointed, o.status.CheckpointBytes, o.status.CheckpointTook = now, c.Bytes, c.Took
	} else if c.Err != nil {
		o.status.CheckpointFails++
	}
	o.mu.Unlock()
	if s.Ticked != nil {
		s.Ticked(Tick{Stage: StageSessions, At: now, Partition: p, Offset: t.Offset, Watermark: t.Watermark * 60000, Rows: t.Rows, Bytes: t.Bytes,
			Fold: t.Fold, Publish: t.Publish, Checkpoint: c.Took, CheckpointBytes: c.Bytes, CheckpointErr: c.Err})
	}
}

// noteCounts notes what is known at a tick's end only: before it, nobody has looked for repeats among the new beacons.
func (o *shardOwner) noteCounts() {
	c, held := &o.Shard.Counts, o.Shard.Stats()
	is := ShardCounts{Late: c.Late, LateClock: c.LateClock, Redelivered: c.Redelivered, Duplicate: c.Duplicate, Overflow: c.Overflow, Unused: c.Unused}
	for _, n := range c.Rejected {
		is.Rejected += n
	}
	is.Counted = c.Beacons - is.Late - is.LateClock - is.Redelivered - is.Duplicate - is.Overflow - is.Unused - is.Rejected
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Counts, o.status.Sessions, o.status.Bytes = is, held.Sessions, held.Bytes
}

func (o *shardOwner) noteWatermark() {
	h := holder(o.Shard)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Watermark, o.status.Holder = o.Shard.Watermark*60000, h
}

func holder(s *sessionize.Shard) (h Holder) {
	for i, p := range s.Progress {
		if i >= len(s.Sources.List) {
			break
		}
		if p.Aside {
			continue
		}
		if !p.Known {
			return Holder{Source: s.Sources.List[i]} // until it is heard of there is no watermark
		}
		if h.Source.Topic == "" || p.MS < h.MS {
			h = Holder{s.Sources.List[i], p.MS}
		}
	}
	return h
}

// Shards returns how the shards of this process are, in order.
func (s *Sessionize) Shards() []ShardStatus {
	var all []ShardStatus
	for _, seat := range s.Host.Seats() {
		if o, ok := seat.Owner().(*shardOwner); ok {
			o.mu.Lock()
			all = append(all, o.status)
			o.mu.Unlock()
		}
	}
	return all
}

// AggregateStatus says how stage 2 of a partition is.
type AggregateStatus struct {
	Partition broker.Partition
	Complete  map[string]int64 // by tenant: minutes before this one are complete
	Ticked    time.Time        // when it last wrote; was opened, before the first time
	Held      map[string]Held  // by tenant whose rows a standby holds back; without those whose rows are written
}

// watchedAggregate notes how an owner is, and what it writes.
type watchedAggregate struct {
	*aggregateOwner
	seat *Seat
	tick func(Tick)

	rows, bytes, told int64 // of the call of Handle at hand
	took              time.Duration

	mu     sync.Mutex
	status AggregateStatus
}

// watched has an owner note how it is. closed is what the store knew when it was opened.
func (a *Aggregate) watched(seat *Seat, w *aggregateOwner, closed map[string]int64) *watchedAggregate {
	o := &watchedAggregate{aggregateOwner: w, seat: seat, tick: a.Ticked,
		status: AggregateStatus{Partition: seat.Partition, Complete: maps.Clone(closed), Ticked: time.Now()}}
	w.Store = watchedRows{w.Store, o}
	return o
}

// Handle is a tick if anything was written.
func (o *watchedAggregate) Handle(ctx context.Context, recs []broker.Record) error {
	o.rows, o.bytes, o.told, o.took = 0, 0, 0, 0
	began := time.Now()
	if err := o.aggregateOwner.Handle(ctx, recs); err != nil || o.rows+o.told == 0 {
		return err
	}
	now, least := time.Now(), int64(0)
	o.mu.Lock()
	o.status.Ticked = now
	for _, minute := range o.status.Complete {
		if least == 0 || minute < least {
			least = minute
		}
	}
	o.mu.Unlock()
	if o.tick != nil {
		o.tick(Tick{Stage: StageAggregate, At: now, Partition: o.seat.Partition, Offset: o.State.Offset, Watermark: least * 60000,
			Rows: o.rows, Bytes: o.bytes, Fold: now.Sub(began) - o.took, Publish: o.took})
	}
	return nil
}

// watchedRows notes what a worker writes, in its goroutine.
type watchedRows struct {
	aggregate.Rows
	o *watchedAggregate
}

func (w watchedRows) PutRows(ctx context.Context, rows []store.Row) error {
	began := time.Now()
	err := w.Rows.PutRows(ctx, rows)
	w.o.took += time.Since(began)
	w.o.seat.alive()
	if err == nil {
		w.o.rows += int64(len(rows))
		for i := range rows {
			w.o.bytes += int64(len(rows[i].Value))
		}
	}
	return err
}

func (w watchedRows) PutProgress(ctx context.Context, p store.Progress) error {
	began := time.Now()
	err := w.Rows.PutProgress(ctx, p)
	w.o.took += time.Since(began)
	w.o.seat.alive()
	if err == nil {
		w.o.told++
		w.o.mu.Lock()
		w.o.status.Complete[p.Tenant] = p.ClosedBefore
		w.o.mu.Unlock()
	}
	return err
}

// Aggregates returns how the partitions of this process are, in order.
func (a *Aggregate) Aggregates() []AggregateStatus {
	var all []AggregateStatus
	for _, seat := range a.Host.Seats() {
		if o, ok := seat.Owner().(*watchedAggregate); ok {
			o.mu.Lock()
			st := o.status
			st.Complete = maps.Clone(st.Complete)
			o.mu.Unlock()
			st.Held = o.part.status()
			all = append(all, st)
		}
	}
	return all
}

// ArchiveStatus says what an archiver has done since its process began, and how its partitions are.
type ArchiveStatus struct {
	Counts     archive.Counts // what was handled again after a failure counts again
	Partitions []ArchivePartition
}

// ArchivePartition says how far a partition is.
type ArchivePartition struct {
	Partition         broker.Partition
	Offset, Committed int64     // of the next record; up to which manifests have all
	Rolled            time.Time // when the last manifest was written; the archiver was opened, before the first
}

// noted notes how far the archiver is, and moves its counters to those of the process.
func (o *archiveOwner) noted() {
	c := o.Counts
	o.Counts = archive.Counts{}
	o.a.mu.Lock()
	o.a.counts.Add(&c)
	o.a.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status.Offset, o.status.Committed = o.Offset, o.Committed(); c.Manifests > 0 {
		o.status.Rolled = time.Now()
	}
}

// Status returns how the archiver is doing.
func (a *Archive) Status() ArchiveStatus {
	a.mu.Lock()
	st := ArchiveStatus{Counts: a.counts}
	a.mu.Unlock()
	for _, seat := range a.Host.Seats() {
		if o, ok := seat.Owner().(*archiveOwner); ok {
			o.mu.Lock()
			st.Partitions = append(st.Partitions, o.status)
			o.mu.Unlock()
		}
	}
	return st
}
