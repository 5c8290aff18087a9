// Package service keeps the stream's jobs running (DESIGN 4): it takes part in the groups that share partitions out, opens
// an owner for each partition that it is given, feeds it, and lets go of it in good order. What an owner does is the
// business of dispatch, sessionize, aggregate and archive.
package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// Owner works on one partition. After an error it is dropped, and opened anew from what is safely done. Once Handle has
// returned it refers to nothing of the records.
type Owner interface {
	Handle(ctx context.Context, recs []broker.Record) error
}

// ErrStop is wrapped by errors that no new attempt can mend: the service ends with them.
var ErrStop = errors.New("cannot go on")

// Limits of a host.
const (
	// queueBytes is what waits for all owners of a host together; a partition whose share is full is not fetched until
	// half of it is gone, so that a slow owner holds back Kafka and nothing else. It is what an absent store adds to a
	// process's memory, twice over with the collector's share.
	queueBytes = 32 << 20
	// handleRecords and handleBytes bound what an owner is given at once.
	handleRecords = 1 << 14
	handleBytes   = 16 << 20
	// graceTime is how long an owner may finish what it is at when it is to let go, before its calls are cancelled.
	// It is well within a group's rebalance timeout (1 min).
	graceTime = 20 * time.Second
	// maxBackoff is the longest wait between attempts to open an owner.
	maxBackoff = 15 * time.Second
)

// Host runs the owners of the partitions that a group gives to this process.
type Host struct {
	Connection broker.Connection
	Group      string
	Instance   string
	Session    time.Duration // session timeout
	Topics     []string
	Fixed      []broker.Partition // not empty: these, and no group
	// Open opens the owner of a partition and says from which offset it reads.
	Open func(ctx context.Context, s *Seat) (Owner, int64, error)
	// Gather is for how long what came for an owner may wait for more, so that it is all handled at once: as long as a queue's share
	// allows. 0: not at all.
	Gather time.Duration
	// Fresh says whether the configs that owners go by are known as of late, so that records may be read now; while not, owners
	// wait. Nil: always.
	Fresh func() bool
	Log   *slog.Logger

	via   client        // nil: Connection
	retry time.Duration // wait before the second attempt to open an owner, doubled for each more; 0: 200 ms
	feed  feed
	group offsets
	// committing is held while offsets are on their way to the group and while partitions are let go of: what a former owner has
	// sent must not arrive after what the next one has.
	committing chan struct{}
	commands   chan func()
	wake       chan context.CancelFunc // the one of the poll that is running

	mu      sync.Mutex
	seats   map[broker.Partition]*Seat
	commits map[broker.Partition]broker.Committed
	failed  error
	stop    context.CancelFunc
	joined  bool           // which partitions are this process's is known
	kafka   Reach          // as Watch finds it
	writer  *broker.Writer // of the owners; nil: they write nothing to Kafka

	turn, handing atomic.Int64 // ms: when Run's loop last came round, and since when what was read is handed out; 0: it is not
}

// client is what a host asks of Kafka.
type client interface {
	Feed() (feed, error)
	Join(m broker.Membership) (offsets, error)
}

// feed reads partitions that come and go; one goroutine uses it.
type feed interface {
	Add(p broker.Partition, from int64)
	Remove(p broker.Partition)
	Pause(p broker.Partition, pause bool)
	Poll(ctx context.Context, max int) []broker.Batch
	Close()
}

// connected is the client of a connection.
type connected struct{ broker.Connection }

func (c connected) Feed() (feed, error) { return broker.NewFeed(c.Connection) }

func (c connected) Join(m broker.Membership) (offsets, error) { return broker.Join(c.Connection, m) }

// offsets is a group's memory, as a member or from outside.
type offsets interface {
	Committed(ctx context.Context, p broker.Partition) (broker.Committed, bool, error)
	Commit(ctx context.Context, offsets map[broker.Partition]broker.Committed) error
	Close()
}

// Run works until the context ends, which is no error, or until an owner cannot go on.
func (h *Host) Run(ctx context.Context) error {
	ctx, h.stop = context.WithCancel(ctx)
	defer h.stop()
	h.mu.Lock()
	h.seats, h.commits = map[broker.Partition]*Seat{}, map[broker.Partition]broker.Committed{}
	h.mu.Unlock()
	h.committing = make(chan struct{}, 1)
	h.commands, h.wake = make(chan func()), make(chan context.CancelFunc, 1)
	var err error
	via := h.via
	if via == nil {
		via = connected{h.Connection}
	}
	if h.feed, err = via.Feed(); err != nil {
		return err
	}
	defer h.feed.Close()
	feedDone := make(chan struct{})
	feedCtx, endFeed := context.WithCancel(context.Background())
	go func() {
		defer close(feedDone)
		h.read(feedCtx)
	}()
	defer func() { endFeed(); <-feedDone }()

	if len(h.Fixed) > 0 {
		if h.group, err = broker.NewOffsets(h.Connection, h.Group); err != nil {
			return err
		}
		h.assign(h.Fixed)
	} else {
		joined := make(chan struct{})
		g, err := via.Join(broker.Membership{Group: h.Group, Instance: h.Instance, Topics: h.Topics, SessionTimeout: h.Session,
			Assigned: func(parts []broker.Partition) { <-joined; h.assign(parts) }, Released: h.release})
		if err != nil {
			return err
		}
		h.group = g
		close(joined)
	}
	defer h.group.Close()

	every := time.NewTicker(time.Second)
	defer every.Stop()
	defer h.turn.Store(0)
	for {
		h.turn.Store(time.Now().UnixMilli())
		select {
		case <-every.C:
			h.committing <- struct{}{}
			h.commit(ctx)
			<-h.committing
		case <-ctx.Done():
			h.release(h.partitions(), false)
			return h.failure()
		}
	}
}

// fail ends the host with an error.
func (h *Host) fail(err error) {
	h.mu.Lock()
	if h.failed == nil {
		h.failed = err
	}
	h.mu.Unlock()
	h.stop()
}

func (h *Host) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

func (h *Host) partitions() []broker.Partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	var parts []broker.Partition
	for p := range h.seats {
		parts = append(parts, p)
	}
	return parts
}

// Seats are the partitions that this process has now, in order.
func (h *Host) Seats() []*Seat {
	h.mu.Lock()
	defer h.mu.Unlock()
	var seats []*Seat
	for _, s := range h.seats {
		seats = append(seats, s)
	}
	slices.SortFunc(seats, func(a, b *Seat) int { return comparePartitions(a.Partition, b.Partition) })
	return seats
}

func (h *Host) assign(parts []broker.Partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.joined = true
	for _, p := range parts {
		if h.seats[p] != nil {
			continue
		}
		s := newSeat(h, p)
		h.seats[p] = s
		h.Log.Info("assigned", "topic", p.Topic, "partition", p.Partition)
		go s.run()
	}
}

// release lets go of partitions, all at once, and returns when none of their owners works any more.
func (h *Host) release(parts []broker.Partition, lost bool) {
	var seats []*Seat
	h.mu.Lock()
	for _, p := range parts {
		if s := h.seats[p]; s != nil {
			seats = append(seats, s)
		}
	}
	h.mu.Unlock()
	for _, s := range seats {
		s.leave(lost)
	}
	late := time.AfterFunc(graceTime, func() {
		for _, s := range seats {
			s.cancel()
		}
	})
	for _, s := range seats {
		<-s.done
		h.Log.Info("released", "topic", s.Partition.Topic, "partition", s.Partition.Partition, "lost", lost)
	}
	late.Stop()
	h.committing <- struct{}{} // for no longer than a commit may take
	defer func() { <-h.committing }()
	if !lost {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		h.commit(ctx)
		cancel()
	}
	h.mu.Lock()
	for _, s := range seats {
		delete(h.seats, s.Partition)
		delete(h.commits, s.Partition)
	}
	h.joined = h.joined && !lost
	h.mu.Unlock()
}

// commit commits what is new. A commit that fails is made again with the next: it only spares reading again. The caller holds
// committing.
func (h *Host) commit(ctx context.Context) {
	h.mu.Lock()
	todo := h.commits
	h.commits = map[broker.Partition]broker.Committed{}
	h.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := h.group.Commit(ctx, todo)
	if errors.Is(err, broker.ErrNoteTooLarge) { // without notes rather than never
		for p, to := range todo {
			todo[p] = broker.Committed{Offset: to.Offset}
		}
		err = h.group.Commit(ctx, todo)
	}
	if err != nil {
		h.Log.Warn("commit failed; it is tried again", "err", err)
		h.mu.Lock()
		for p, at := range todo {
			if _, newer := h.commits[p]; !newer && h.seats[p] != nil {
				h.commits[p] = at
			}
		}
		h.mu.Unlock()
	}
}

// read polls and hands out. Everything that changes what is fetched runs here too (do), between two polls, so that
// nothing comes of a partition that was taken away or added anew in between.
func (h *Host) read(ctx context.Context) {
	for ctx.Err() == nil {
		poll, cancel := context.WithCancel(ctx)
		h.wake <- cancel
		batches := h.feed.Poll(poll, handleRecords)
		select {
		case <-h.wake:
		default: // taken by do, which is about to send
		}
		cancel()
		h.handing.Store(time.Now().UnixMilli())
		h.hand(batches)
		for more := true; more; {
			select {
			case f := <-h.commands:
				f()
			default:
				more = false
			}
		}
		h.handing.Store(0)
	}
}

// do runs f in the goroutine that reads.
func (h *Host) do(f func()) {
	done := make(chan struct{})
	run := func() { f(); close(done) }
	for {
		select {
		case h.commands <- run:
			<-done
			return
		case cancel := <-h.wake:
			cancel()
		}
	}
}

func (h *Host) hand(batches []broker.Batch) {
	for _, b := range batches {
		h.mu.Lock()
		s := h.seats[b.Partition]
		share := queueBytes / max(len(h.seats), 1)
		h.mu.Unlock()
		if s == nil {
			continue
		}
		if s.push(b, share) {
			h.feed.Pause(b.Partition, true)
		}
	}
}

func (h *Host) backoff(ctx context.Context, attempt int) {
	wait := min(maxBackoff, cmp.Or(h.retry, 200*time.Millisecond)<<min(attempt, 10))
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// boundsTimeout bounds how long an owner that opens waits for Kafka to tell where a log begins, then it is opened anew; or for the time of a
// record, without which it can do.
const boundsTimeout = 30 * time.Second

// logStart is the first offset that a partition's log still has.
func (h *Host) logStart(ctx context.Context, p broker.Partition) (int64, error) {
	within, cancel := context.WithTimeout(ctx, boundsTimeout)
	defer cancel()
	first, _, err := broker.Bounds(within, h.Connection, p)
	return first, err
}

// stops says whether a new attempt cannot mend an error.
func stops(err error) bool {
	return errors.Is(err, ErrStop) || errors.Is(err, broker.ErrOutOfRange) || errors.Is(err, sessionize.ErrRefused)
}

func describe(p broker.Partition, err error) error {
	return fmt.Errorf("%s/%d: %w", p.Topic, p.Partition, err)
}
