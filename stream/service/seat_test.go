package service

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tandem/stream/broker"
)

// A host that gathers gives its owners what came within that time at once; it waits for no more when there is no room, when reading
// has failed and when the owner is to let go.
func TestWhatComesSoonIsHandledAtOnce(t *testing.T) {
	const gather = 2 * time.Second
	records := func(n, size int) broker.Batch {
		return broker.Batch{Records: slices.Repeat([]broker.Record{{Value: make([]byte, size)}}, n)}
	}
	type given struct {
		n     int
		after time.Duration
	}
	run := func(t *testing.T, gather time.Duration, do func(s *Seat)) (all []given) {
		synctest.Test(t, func(t *testing.T) {
			s := newSeat(&Host{Gather: gather}, broker.Partition{})
			defer s.cancel()
			began := time.Now()
			go do(s)
			for {
				recs, err := s.next()
				if recs == nil {
					if err != nil {
						all = append(all, given{-1, time.Since(began)})
					}
					return
				}
				all = append(all, given{len(recs), time.Since(began)})
			}
		})
		return all
	}
	at := func(s *Seat, when time.Duration, b broker.Batch) {
		time.Sleep(when)
		s.push(b, queueBytes)
	}
	steps := func(s *Seat) {
		at(s, time.Second, records(3, 10))
		at(s, time.Second, records(4, 10))
		at(s, 500*time.Millisecond, records(5, 10))
		at(s, 700*time.Millisecond, records(6, 10)) // 3.2 s
		at(s, 10*time.Second, records(7, 10))
		time.Sleep(gather / 2)
		s.leave(false)
	}
	for _, c := range []struct {
		name   string
		gather time.Duration
		do     func(s *Seat)
		want   []given
	}{
		{"soon after each other", gather, steps, []given{{12, 3 * time.Second}, {6, 5200 * time.Millisecond}}},
		{"not gathered", 0, steps, []given{{3, time.Second}, {4, 2 * time.Second}, {5, 2500 * time.Millisecond}, {6, 3200 * time.Millisecond}, {7, 13200 * time.Millisecond}}},
		{"as many as an owner is given", gather, func(s *Seat) {
			at(s, 0, records(handleRecords+1, 1))
			time.Sleep(time.Minute)
			s.leave(false)
		}, []given{{handleRecords, 0}, {1, gather}}},
		{"as large", gather, func(s *Seat) {
			at(s, 0, records(17, 1<<20))
			time.Sleep(time.Minute)
			s.leave(false)
		}, []given{{16, 0}, {1, gather}}},
		{"reading has failed", gather, func(s *Seat) {
			at(s, 0, records(2, 1))
			at(s, time.Second, broker.Batch{Err: broker.ErrOutOfRange})
		}, []given{{2, time.Second}, {-1, time.Second}}},
	} {
		if got := run(t, c.gather, c.do); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	// The share of a queue is less than what an owner is given at once: reading must go on.
	synctest.Test(t, func(t *testing.T) {
		s := newSeat(&Host{Gather: gather, commands: make(chan func())}, broker.Partition{})
		defer s.cancel()
		if !s.push(records(2, 1<<10), 1<<10) {
			t.Fatal("the share is full, and the partition is not paused")
		}
		if recs, _, wait, err := s.pop(); len(recs) != 2 || wait > 0 || err != nil {
			t.Errorf("%d records, wait %s, %v", len(recs), wait, err)
		}
	})
}

// All of a record that its producer can make long fills the queue, and leaves it again with the record.
func TestEveryPartOfARecordFillsTheQueue(t *testing.T) {
	long := make([]byte, handleBytes)
	for name, r := range map[string]broker.Record{
		"value": {Value: long}, "key": {Key: long},
		"header":           {Headers: []broker.Header{{Value: long}}},
		"name of a header": {Headers: []broker.Header{{Key: string(long)}}},
		"many headers":     {Headers: make([]broker.Header, handleBytes/32)},
	} {
		s := newSeat(&Host{}, broker.Partition{})
		pushed := 0
		for paused := false; !paused && pushed < 10; pushed++ {
			paused = s.push(broker.Batch{Records: []broker.Record{r}}, queueBytes)
		}
		first, _, _, _ := s.pop()
		second, _, _, _ := s.pop()
		if held := s.Status().QueueBytes; pushed != 2 || len(first) != 1 || len(second) != 1 || held != 0 {
			t.Errorf("a long %s: paused after %d, handed out by %d and %d, %d bytes left", name, pushed, len(first), len(second), held)
		}
		s.cancel()
	}
}

// What ends a log without being a record is not waited for: marks of transactions, and what was aborted.
func TestNothingIsLeftBehindTheLastRecord(t *testing.T) {
	s := newSeat(&Host{}, broker.Partition{})
	defer s.cancel()
	left := func() int64 {
		st := s.Status()
		n, _, _ := st.Lag(time.Now())
		return n
	}
	s.status.Next = 7
	s.push(broker.Batch{Records: []broker.Record{{Offset: 7}}, Next: 9, End: 9}, queueBytes)
	if recs, _, _, err := s.pop(); len(recs) != 1 || err != nil {
		t.Fatalf("%v, %v", recs, err)
	}
	if n := left(); n != 2 {
		t.Errorf("while a record is handled %d are left, want it and what comes after it", n)
	}
	s.status.Next = 8
	for _, end := range []int64{9, 12} {
		if recs, _, _, err := s.pop(); recs != nil || err != nil {
			t.Fatalf("%v, %v", recs, err)
		}
		if n := left(); n != 0 {
			t.Errorf("%d are left of a log to %d, which is read to its end", n, end)
		}
		s.push(broker.Batch{Next: 12, End: 12}, queueBytes)
	}
}
