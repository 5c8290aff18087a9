package service

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"tandem/stream/broker"
)

// What monitoring asks of a host and its seats. It comes from other goroutines at any time, so it reads only what is behind
// the locks of Host and Seat; of an owner's own state it sees what the owner's goroutine has noted (watched.go).

// States of an owner.
const (
	Opening = "opening"
	Running = "running"
	Waiting = "waiting" // to be opened again
)

// Status says how an owner is doing.
type Status struct {
	State   string
	Since   time.Time // of this state
	Err     string    // what ended the last attempt
	Retries int64
	Next    int64     // offset of the next record to handle; -1: not known yet
	End     int64     // end of the log as far as is known; -1: not at all
	Time    int64     // ms, of the last record handled; 0: none
	Even    time.Time // when Kafka last said that there is no more than what was handled; zero: never
	OpenMS  int64     // how long opening took

	Queued, QueueBytes int  // what waits for the owner
	Paused             bool // its share of the queue is full: nothing more is fetched for now
	// Busy is the last sign of life of an owner that is at work, zero of one that waits for records.
	Busy time.Time
}

// Status returns how the owner is doing.
func (s *Seat) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Queued, st.QueueBytes, st.Paused = len(s.queue), s.bytes, s.paused
	if ms := s.busy.Load(); ms > 0 {
		st.Busy = time.UnixMilli(ms)
	}
	return st
}

// Lag is how many records an owner has still to handle and, if any, for how long one may have waited: since the time of
// the last record that it handled, or, if that is later, since there was none left. Not known before the owner was
// opened and Kafka asked.
func (st *Status) Lag(now time.Time) (records int64, behind time.Duration, known bool) {
	if st.Next < 0 || st.End < 0 {
		return 0, 0, false
	}
	if records = max(st.End-st.Next, 0); records == 0 {
		return 0, 0, true
	}
	since := st.Since
	if st.Time > 0 {
		since = time.UnixMilli(st.Time)
	}
	if st.Even.After(since) {
		since = st.Even
	}
	return records, max(now.Sub(since), 0), true
}

// alive is called by an owner that is at something long: it has not come to a stop.
func (s *Seat) alive() { s.busy.Store(time.Now().UnixMilli()) }

// Reach says whether something outside answers.
type Reach struct {
	Answered time.Time // when it last did; zero: never yet
	Failed   time.Time // when it last did not
	Err      error     // of the last attempt
}

// Saw notes an attempt.
func (r *Reach) Saw(now time.Time, err error) {
	if r.Err = err; err == nil {
		r.Answered = now
	} else {
		r.Failed = now
	}
}

// HostStatus says how a host is doing, its seats aside.
type HostStatus struct {
	Joined bool // the group has said which partitions are this process's, be it none
	Kafka  Reach
}

// Status returns how the host is doing.
func (h *Host) Status() HostStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HostStatus{Joined: h.joined, Kafka: h.kafka}
}

// Limits of Watch.
const (
	// AskEvery is the time between two questions to what a service needs, AskTimeout how long an answer may take.
	AskEvery   = 5 * time.Second
	AskTimeout = 10 * time.Second
	// takenAfter is how long a write may take before Kafka counts as taking none.
	takenAfter = 15 * time.Second
	// triedAfter is how long a client that waits for Kafka may be silent. It tries again every few seconds.
	triedAfter = time.Minute
)

// Watch asks Kafka for the ends of the host's topics until the context ends: so it is known whether Kafka answers and takes
// what is written, and what a partition lags also while nothing of it is read.
func (h *Host) Watch(ctx context.Context) {
	topics, err := broker.NewTopics(h.Connection)
	if err != nil { // the options are wrong, and then Run fails with the same
		h.note(err)
		return
	}
	defer topics.Close()
	names := h.Topics
	if len(h.Fixed) > 0 {
		seen := map[string]bool{}
		names = nil
		for _, p := range h.Fixed {
			if !seen[p.Topic] {
				seen[p.Topic] = true
				names = append(names, p.Topic)
			}
		}
	}
	every := time.NewTicker(AskEvery)
	defer every.Stop()
	for ctx.Err() == nil {
		err, excuses := h.ask(ctx, topics, names), true
		if err == nil {
			err, excuses = h.refused(ctx, topics, takenAfter)
		}
		h.noteIf(err, excuses)
		select {
		case <-every.C:
		case <-ctx.Done():
		}
	}
}

func (h *Host) ask(ctx context.Context, topics *broker.Topics, names []string) error {
	for _, name := range names {
		asked := time.Now()
		within, cancel := context.WithTimeout(ctx, AskTimeout)
		ends, err := topics.Ends(within, name)
		cancel()
		if err != nil {
			return err
		}
		for _, s := range h.Seats() {
			if end, ok := ends[s.Partition.Partition]; ok && s.Partition.Topic == name {
				s.mu.Lock()
				if s.status.End = max(s.status.End, end); s.status.Next >= end {
					s.status.Even = asked
				}
				s.mu.Unlock()
			}
		}
	}
	return nil
}

// refused says, and why, if Kafka answers and does not take what the owners write: too few replicas are in sync, or a
// partition has no leader. That excuses those who wait, unless their client has come to a stop.
func (h *Host) refused(ctx context.Context, topics *broker.Topics, after time.Duration) (err error, excuses bool) {
	h.mu.Lock()
	writer := h.writer
	h.mu.Unlock()
	if writer == nil {
		return nil, true
	}
	w, waits := writer.Waiting()
	now := time.Now()
	if took := now.Sub(w.Since); waits && took > after {
		err = fmt.Errorf("it has not taken what is written to %s for %s", strings.Join(w.Topics, ", "), took.Round(time.Second))
		within, cancel := context.WithTimeout(ctx, AskTimeout)
		defer cancel()
		why, failed := topics.Refusing(within, w.Topics...)
		switch {
		case failed != nil:
			err = fmt.Errorf("%w: %w", err, failed)
		case len(why) > maxWhy:
			err = fmt.Errorf("%w: %s, and %d more", err, strings.Join(why[:maxWhy], ", "), len(why)-maxWhy)
		case len(why) > 0:
			err = fmt.Errorf("%w: %s", err, strings.Join(why, ", "))
		}
	}
	return err, now.Sub(w.Tried) < triedAfter
}

// maxWhy is how many partitions refused names.
const maxWhy = 5

// writes says by what the owners write.
func (h *Host) writes(w *broker.Writer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writer = w
}

func (h *Host) note(err error) { h.noteIf(err, true) }

// noteIf notes an attempt to use Kafka; only an error that excuses counts as a failure of Kafka's.
func (h *Host) noteIf(err error, excuses bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	failed := h.kafka.Failed
	if h.kafka.Saw(time.Now(), err); !excuses {
		h.kafka.Failed = failed
	}
}

// Hung says what of the host has been at the same thing for longer than a limit. excused is when something else that its
// owners wait for was last out of reach: until then, and while Kafka does not answer, waiting is right.
func (h *Host) Hung(now time.Time, limit time.Duration, excused time.Time) (what []string) {
	st := h.Status()
	if st.Kafka.Failed.After(excused) {
		excused = st.Kafka.Failed
	}
	over := func(ms int64) (time.Duration, bool) {
		since := time.UnixMilli(ms)
		waited := now.Sub(since)
		if excused.After(since) {
			since = excused
		}
		return waited.Round(time.Second), ms > 0 && now.Sub(since) > limit
	}
	if waited, hung := over(h.turn.Load()); hung {
		what = append(what, fmt.Sprintf("the loop of group %s has not come round for %s", h.Group, waited))
	}
	if waited, hung := over(h.handing.Load()); hung {
		what = append(what, fmt.Sprintf("what group %s has read has not been handed out for %s", h.Group, waited))
	}
	for _, s := range h.Seats() {
		if waited, hung := over(s.busy.Load()); hung {
			what = append(what, fmt.Sprintf("%s/%d has given no sign of life for %s", s.Partition.Topic, s.Partition.Partition, waited))
		}
	}
	return what
}

func comparePartitions(a, b broker.Partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
