package service

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"tandem/stream/broker"
)

// Seat is a partition at this process: what waits for its owner, and how the owner is doing. Safe for concurrent use.
type Seat struct {
	Partition broker.Partition

	host   *Host
	ctx    context.Context // of the owner's calls
	cancel context.CancelFunc
	left   chan struct{} // closed when the owner is to let go
	done   chan struct{} // closed when it has
	busy   atomic.Int64  // ms, the last sign of life of an owner that is at work; 0: it waits for records

	mu      sync.Mutex // all below
	queue   []broker.Record
	since   time.Time // when the first of the queue came
	bytes   int
	read    int64 // offset after what was read, as the feed says
	paused  bool
	broken  error // reading failed
	arrived chan struct{}
	gone    bool
	status  Status
	owner   Owner
}

func newSeat(h *Host, p broker.Partition) *Seat {
	s := &Seat{Partition: p, host: h, left: make(chan struct{}), done: make(chan struct{}), arrived: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.status = Status{State: Opening, Since: time.Now(), Next: -1, End: -1}
	return s
}

// Owner returns the owner at work, or nil.
func (s *Seat) Owner() Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner
}

// Committed returns what the group remembers of the partition, and whether anything.
func (s *Seat) Committed(ctx context.Context) (broker.Committed, bool, error) {
	return s.host.group.Committed(ctx, s.Partition)
}

// Commit has an offset committed soon, with those of other partitions.
func (s *Seat) Commit(offset int64) { s.CommitTo(broker.Committed{Offset: offset}) }

// CommitTo is Commit with a note.
func (s *Seat) CommitTo(to broker.Committed) {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	s.host.commits[s.Partition] = to
}

// leave tells the owner to let go; at once if others may work on the partition already.
func (s *Seat) leave(lost bool) {
	s.mu.Lock()
	if !s.gone {
		s.gone = true
		close(s.left)
	}
	s.mu.Unlock()
	if lost {
		s.cancel()
	}
}

func (s *Seat) leaving() bool {
	select {
	case <-s.left:
		return true
	default:
		return false
	}
}

// staying is a context that ends also when the owner is to let go: of what may be given up at any moment.
func (s *Seat) staying() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(s.ctx)
	go func() {
		select {
		case <-s.left:
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

func (s *Seat) run() {
	defer close(s.done)
	defer s.cancel()
	log := s.host.Log.With("topic", s.Partition.Topic, "partition", s.Partition.Partition)
	for attempt := 0; !s.leaving(); attempt++ {
		began := time.Now()
		err := s.serve()
		if s.leaving() {
			if err != nil && !errors.Is(err, context.Canceled) {
				log.Warn("let go in the middle of something, which its next owner does again", "err", err)
			}
			return
		}
		if time.Since(began) > time.Minute {
			attempt = 0
		}
		s.mu.Lock()
		s.status.State, s.status.Since, s.status.Err = Waiting, time.Now(), err.Error()
		s.status.Retries++
		s.mu.Unlock()
		if stops(err) {
			s.host.fail(describe(s.Partition, err))
			return
		}
		log.Error("failed; it begins again from what is safely done", "err", err, "attempt", attempt+1)
		wait, cancel := s.staying()
		s.host.backoff(wait, attempt)
		cancel()
	}
}

// serve opens an owner and feeds it until it fails or is to let go.
func (s *Seat) serve() error {
	s.mu.Lock()
	s.status.State, s.status.Since = Opening, time.Now()
	s.mu.Unlock()
	began := time.Now()
	owner, from, err := s.host.Open(s.ctx, s)
	if err != nil {
		return err
	}
	if c, ok := owner.(interface{ Close() }); ok {
		defer c.Close()
	}
	s.mu.Lock()
	s.status.State, s.status.Since, s.status.Next, s.status.OpenMS = Running, time.Now(), from, time.Since(began).Milliseconds()
	s.queue, s.bytes, s.read, s.paused, s.broken, s.owner = nil, 0, from, false, nil, owner
	s.mu.Unlock()
	s.host.do(func() { s.host.feed.Add(s.Partition, from) })
	defer func() {
		s.host.do(func() { s.host.feed.Remove(s.Partition) })
		s.mu.Lock()
		s.queue, s.bytes, s.owner = nil, 0, nil
		s.mu.Unlock()
	}()
	for {
		recs, err := s.next()
		if err != nil || recs == nil {
			return err
		}
		if !s.fresh() {
			return nil
		}
		s.alive()
		err = owner.Handle(s.ctx, recs)
		s.busy.Store(0)
		if err != nil {
			return err
		}
		last := &recs[len(recs)-1]
		s.mu.Lock()
		s.status.Next, s.status.Time = last.Offset+1, last.Time
		s.mu.Unlock()
		// Not after an error: what was written and not acknowledged may still be on its way.
		broker.Recycle(recs)
	}
}

// freshEvery is how often an owner asks whether it may go on.
const freshEvery = 50 * time.Millisecond

// fresh waits until records may be read, and says no if the owner is to let go before.
func (s *Seat) fresh() bool {
	for s.host.Fresh != nil && !s.host.Fresh() {
		select {
		case <-s.left:
			return false
		case <-s.ctx.Done():
			return false
		case <-time.After(freshEvery):
		}
	}
	return true
}

// size is what a record counts in the queue: all that a producer can make long, and what it and each header take in themselves.
func size(r *broker.Record) int {
	n := len(r.Value) + len(r.Key) + 128
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + 40
	}
	return n
}

// push takes what was read, and says whether the partition is to be paused.
func (s *Seat) push(b broker.Batch, share int) (pause bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Err != nil {
		s.broken = b.Err
	}
	s.status.End, s.read = max(s.status.End, b.End), max(s.read, b.Next)
	if len(s.queue) == 0 {
		s.since = time.Now()
	}
	s.queue = append(s.queue, b.Records...)
	for i := range b.Records {
		s.bytes += size(&b.Records[i])
	}
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	if s.bytes >= share && !s.paused {
		s.paused = true
		return true
	}
	return false
}

// next waits for records; none and no error says that the owner is to let go.
func (s *Seat) next() ([]broker.Record, error) {
	for {
		if s.leaving() {
			return nil, nil
		}
		recs, resume, wait, err := s.pop()
		if resume {
			s.host.do(func() { s.host.feed.Pause(s.Partition, false) })
		}
		if recs != nil || err != nil {
			return recs, err
		}
		var gathered <-chan time.Time
		if wait > 0 {
			gathered = time.After(wait)
		}
		select {
		case <-s.arrived:
		case <-gathered:
		case <-s.left:
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
	}
}

// pop takes what an owner is given at once, if it has waited long enough or there is no room for more.
func (s *Seat) pop() (recs []broker.Record, resume bool, wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := len(s.queue) >= handleRecords || s.bytes >= handleBytes || s.paused || s.broken != nil
	if len(s.queue) > 0 && !full {
		if wait = s.host.Gather - time.Since(s.since); wait > 0 {
			return nil, false, wait, nil
		}
	}
	n, bytes := 0, 0
	for n < len(s.queue) && n < handleRecords && bytes < handleBytes {
		bytes += size(&s.queue[n])
		n++
	}
	if n > 0 {
		recs = s.queue[:n:n]
		if s.queue = s.queue[n:]; len(s.queue) == 0 {
			s.queue = nil
		}
		s.bytes -= bytes
		s.host.mu.Lock()
		share := queueBytes / max(len(s.host.seats), 1)
		s.host.mu.Unlock()
		if s.paused && s.bytes < share/2 {
			s.paused, resume = false, true
		}
		return recs, resume, 0, nil
	}
	s.status.Next = max(s.status.Next, s.read) // what comes after the last record is none: nothing is left
	return nil, false, 0, s.broken
}
