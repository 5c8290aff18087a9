package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// Dispatch is the dispatcher as a service: raw topics in, beacons topics out.
type Dispatch struct {
	Host      *Host // Open is set by Run
	Routes    map[string]*dispatch.Route
	DeadTopic string
	Tick      time.Duration
	Patience  time.Duration // a source that lags more is set aside
	Ahead     time.Duration // no raw partition is read further ahead of the slowest source
	// Cold: a raw partition of which nothing was read, or whose log has forgotten what comes next, is read from its log's start.
	Cold bool
	// Sources reads the newest list of sources.
	Sources func() (wire.Sources, error)

	teller *dispatch.Teller
	writer *broker.Writer
	live   map[string]bool // raw topics that heartbeats are written to, by name
	wake   chan struct{}   // a source of history has come to wait: tell at once; nil: some are live, and tell each second as it is
	heard  atomic.Int64    // ms of the clock when the tail was last at the end of progress; 0: not yet

	Told, Beats, Paced atomic.Int64 // progress records and heartbeats written; waits for slower sources

	mu     sync.Mutex      // the write of teller in Run, and
	counts dispatch.Counts // of partitions that are at work or were
}

const (
	progressEvery = 10 * time.Second // of record time, at most, where a source is live
	beatEvery     = 5 * time.Second
	sourcesEvery  = 10 * time.Second
	// tailRecords is how many records before the end of a beacons partition are read for progress at the start.
	tailRecords = 2000
	// currentFor is how long after it was heard at the end of the log the progress of others counts as known.
	currentFor = 30 * time.Second
)

// every is the record time between progress records. It bounds how old what live sources tell is, and costs an acknowledgement each time,
// however little happened in it: of sources that are history there is one for each tick.
func every(list wire.Sources, tick time.Duration) time.Duration {
	if history(list) {
		return tick
	}
	return min(progressEvery, tick)
}

// history says whether all sources are of the past.
func history(list wire.Sources) bool {
	return !slices.ContainsFunc(list.List, func(s wire.Source) bool { return s.Kind != wire.KindHistory })
}

// Run dispatches until the context ends.
func (d *Dispatch) Run(ctx context.Context) error {
	list, err := d.Sources()
	if err != nil {
		return err
	}
	if len(list.List) == 0 {
		return fmt.Errorf("no sources are listed: run tandem topics apply first: %w", ErrStop)
	}
	if d.writer, err = broker.NewWriter(d.Host.Connection); err != nil {
		return err
	}
	defer d.writer.Close()
	d.Host.writes(d.writer)
	teller := &dispatch.Teller{Routes: d.Routes, EveryMS: every(list, d.Tick).Milliseconds(), Out: told{d.writer, d},
		PatienceMS: d.Patience.Milliseconds(), BackMS: min(d.Ahead, d.Patience).Milliseconds()}
	teller.SetSources(list)
	d.mu.Lock()
	d.teller = teller
	d.mu.Unlock()
	if d.live = map[string]bool{}; history(list) {
		d.wake = make(chan struct{}, 1)
	}
	for _, s := range list.List {
		d.live[s.Topic] = s.Kind == wire.KindLive
	}
	d.Host.Open = d.open
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{}, 3)
	for _, work := range []func(context.Context){d.tail, d.tell, d.beat} {
		go func() {
			work(ctx)
			done <- struct{}{}
		}()
	}
	err = d.Host.Run(ctx)
	stop()
	if errors.Is(err, broker.ErrOutOfRange) {
		err = fmt.Errorf("%w: what comes after its last commit is gone from its log; --cold reads on from the log's start, and what lay between is lost", err)
	}
	for range 3 {
		<-done
	}
	return err
}

// rawOwner dispatches one raw partition.
type rawOwner struct {
	d      *Dispatch
	seat   *Seat
	source int
	*dispatch.Dispatcher
}

func (d *Dispatch) open(ctx context.Context, s *Seat) (Owner, int64, error) {
	src := d.teller.Source(s.Partition.Topic, s.Partition.Partition)
	if src < 0 {
		return nil, 0, errors.New("it is not listed as a source: run tandem topics apply")
	}
	at, known, err := s.Committed(ctx)
	if err != nil {
		return nil, 0, err
	}
	from, err := d.from(ctx, s.Partition, at.Offset, known)
	if err != nil {
		return nil, 0, err
	}
	if known && from > 0 && from == at.Offset {
		// Everything before the commit is acknowledged, so how far the source is can be told at once. Otherwise one that
		// is silent would be unknown until it speaks, and hold back the others. The record may not be there: forgotten by the log, or none
		// of a producer's, where somebody else has moved the commit.
		staying, leave := s.staying()
		defer leave()
		within, cancel := context.WithTimeout(staying, boundsTimeout)
		defer cancel()
		switch ms, err := broker.TimeOf(within, d.Host.Connection, s.Partition, from-1); {
		case err == nil:
			d.teller.Read(src, ms, from)
		case staying.Err() != nil:
			return nil, 0, staying.Err()
		default:
			d.Host.Log.Warn("its progress is told once it has a new record", "topic", s.Partition.Topic, "partition", s.Partition.Partition, "err", err)
		}
	}
	return &rawOwner{d: d, seat: s, source: src,
		Dispatcher: &dispatch.Dispatcher{Teller: d.teller, DeadTopic: d.DeadTopic, Out: d.writer}}, from, nil
}

// from is where to read a raw partition on: where that was committed, or, if its log has forgotten what comes after that, at the log's
// start. Repeats do no harm: what is below the progress of the source is dropped as redelivered.
func (d *Dispatch) from(ctx context.Context, p broker.Partition, committed int64, known bool) (int64, error) {
	if known && !d.Cold {
		return committed, nil
	}
	first, err := d.Host.logStart(ctx, p)
	switch {
	case err != nil:
		return 0, err
	case first <= committed:
		return committed, nil
	case !d.Cold:
		return 0, fmt.Errorf("nothing of it was committed yet, and its log begins at offset %d: --cold begins there: %w", first, ErrStop)
	}
	d.Host.Log.Warn("cold start: it is read from its log's start on; what lay before was not read and is lost", "topic", p.Topic, "partition", p.Partition,
		"offset", first, "committed", committed)
	return first, nil
}

// Handle waits where the partition is too far ahead of others, and commits once all that it wrote is acknowledged.
func (o *rawOwner) Handle(ctx context.Context, recs []broker.Record) error {
	for len(recs) > 0 {
		moved := o.d.teller.Moved()
		n := o.d.teller.Allowed(o.source, o.d.Ahead.Milliseconds(), recs)
		if n == 0 {
			o.d.Paced.Add(1)
			o.seat.alive()
			select { // others may wait for this one, and they for others: how soon each tells is how fast history is read
			case o.d.wake <- struct{}{}:
			default: // somebody else has asked, and it has not begun; or nobody is to
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-o.seat.left:
				return context.Canceled
			case <-moved:
			case <-time.After(time.Second):
			}
			continue
		}
		err := o.Dispatcher.Handle(ctx, recs[:n])
		o.counted()
		if err != nil {
			return err
		}
		o.seat.Commit(recs[n-1].Offset + 1)
		recs = recs[n:]
	}
	return nil
}

// Close is called when the partition goes to another, or is opened anew.
func (o *rawOwner) Close() { o.d.teller.Forget(o.source) }

// tell tells of progress that is not told in passing: that of sources behind the furthest, and of those that wait.
func (d *Dispatch) tell(ctx context.Context) {
	every := time.NewTicker(min(time.Second, d.Tick/2))
	defer every.Stop()
	list := time.NewTicker(sourcesEvery)
	defer list.Stop()
	last := time.Now() // of the last telling
	var aside []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-list.C:
			if s, err := d.Sources(); err != nil {
				d.Host.Log.Warn("the list of sources cannot be read; the one before stands", "err", err)
			} else {
				d.teller.SetSources(s)
			}
			continue
		case <-every.C:
		case <-d.wake:
		}
		now := time.Now()
		if !d.teller.Due() && !(now.Sub(last) >= progressEvery && d.teller.Again()) {
			continue
		}
		last = now
		clock := now.UnixMilli()
		if now.Sub(time.UnixMilli(d.heard.Load())) > currentFor {
			clock = 0
		}
		if err := d.teller.Tell(ctx, clock); err != nil && ctx.Err() == nil {
			d.Host.Log.Error("progress not written; it is told again with the next", "err", err)
		}
		aside = d.changed(aside, d.teller.Aside())
	}
}

// changed says which sources were set aside or taken back since they were last looked at, and returns those that are set aside.
func (d *Dispatch) changed(was, is []string) []string {
	for _, s := range is {
		if !slices.Contains(was, s) {
			d.Host.Log.Warn("a source lags too far and is set aside: nobody waits for it, and what it still brings is late data for the batch", "source", s)
		}
	}
	for _, s := range was {
		if !slices.Contains(is, s) {
			d.Host.Log.Info("a source that was set aside has caught up", "source", s)
		}
	}
	return is
}

// beat writes heartbeats into the live partitions at hand. They only tell the time, so one that fails is not repeated.
func (d *Dispatch) beat(ctx context.Context) {
	every := time.NewTicker(min(beatEvery, d.Tick))
	defer every.Stop()
	for {
		var recs []broker.Record
		for _, s := range d.Host.Seats() {
			if d.live[s.Partition.Topic] {
				recs = append(recs, broker.Record{Topic: s.Partition.Topic, Partition: s.Partition.Partition,
					Headers: []broker.Header{{Key: dispatch.HeaderHeartbeat}}})
			}
		}
		if len(recs) > 0 {
			within, cancel := context.WithTimeout(ctx, beatEvery)
			if err := d.writer.Write(within, recs); err != nil {
				if ctx.Err() == nil {
					d.Host.Log.Warn("heartbeats not written", "err", err)
				}
			} else {
				d.Beats.Add(int64(len(recs)))
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// tail hears what all dispatchers tell.
func (d *Dispatch) tail(ctx context.Context) {
	p := d.teller.Tail()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := d.hear(ctx, p)
		if ctx.Err() != nil {
			return
		}
		d.Host.Log.Warn("progress of other dispatchers is not heard; trying again", "err", err)
		d.Host.backoff(ctx, attempt)
	}
}

func (d *Dispatch) hear(ctx context.Context, p broker.Partition) error {
	topics, err := broker.NewTopics(d.Host.Connection)
	if err != nil {
		return err
	}
	ends, err := topics.Ends(ctx, p.Topic)
	topics.Close()
	if err != nil {
		return err
	}
	feed, err := broker.NewFeed(d.Host.Connection)
	if err != nil {
		return err
	}
	defer feed.Close()
	from := max(ends[p.Partition]-tailRecords, 0)
	feed.Add(p, from)
	var told wire.ProgressReader
	for ctx.Err() == nil {
		for _, b := range feed.Poll(ctx, handleRecords) {
			if errors.Is(b.Err, broker.ErrOutOfRange) && from != ends[p.Partition] {
				from = ends[p.Partition] // the log begins later
				feed.Remove(p)
				feed.Add(p, from)
				continue
			}
			if b.Err != nil {
				return b.Err
			}
			for i := range b.Records {
				if _, ok := b.Records[i].Header(wire.HeaderProgress); !ok {
					continue
				}
				progress, err := told.Read(b.Records[i].Value)
				if err != nil {
					return describe(p, err)
				}
				d.teller.Heard(&progress)
			}
			if b.Next >= b.End {
				d.heard.Store(time.Now().UnixMilli())
			}
		}
	}
	return ctx.Err()
}
