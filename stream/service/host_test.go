package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/scripts/devstack"
	"tandem/stream/broker"
)

const topic = "beacons"

func cluster(t *testing.T, partitions int32) broker.Connection {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return broker.To(c.ListenAddrs()...)
}

func write(t *testing.T, to broker.Connection, partition int32, n, size int) {
	t.Helper()
	w, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	recs := make([]broker.Record, n)
	for i := range recs {
		recs[i] = broker.Record{Topic: topic, Partition: partition, Value: []byte(strings.Repeat("x", size))}
	}
	if err := w.Write(context.Background(), recs); err != nil {
		t.Fatal(err)
	}
}

func host(to broker.Connection, instance string, open func(ctx context.Context, s *Seat) (Owner, int64, error)) *Host {
	return &Host{Connection: to, Group: "g", Instance: instance, Session: 6 * time.Second, Topics: []string{topic}, Open: open,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// start runs a host until the test ends or stop is called, which returns how it ended.
func start(t *testing.T, h *Host) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// ownerFunc is an owner that is one function.
type ownerFunc func(ctx context.Context, recs []broker.Record) error

func (f ownerFunc) Handle(ctx context.Context, recs []broker.Record) error { return f(ctx, recs) }

// Owners that fail again and again and begin anew further back are given every record after where they begin, in order,
// and nothing of what was on its way to the one before.
func TestAnOwnerIsGivenEverythingInOrder(t *testing.T) {
	devstack.AtLength(t)
	to := cluster(t, 3)
	const n = 60_000
	for p := range int32(3) {
		write(t, to, p, n, 10)
	}
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2))
	read := map[int32]int64{} // how far each partition was handled at all
	opened := 0
	h := host(to, "a", func(_ context.Context, s *Seat) (Owner, int64, error) {
		mu.Lock()
		defer mu.Unlock()
		opened++
		if r.IntN(5) == 0 {
			return nil, 0, errors.New("not now")
		}
		p := s.Partition.Partition
		next := max(read[p]-r.Int64N(30_000), 0)
		left := 1 + r.IntN(2)
		return ownerFunc(func(_ context.Context, recs []broker.Record) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range recs {
				if recs[i].Offset != next || recs[i].Partition != p {
					t.Errorf("partition %d: record %d of %d comes, want %d", p, recs[i].Offset, recs[i].Partition, next)
				}
				next++
			}
			read[p] = max(read[p], next)
			if left--; left == 0 && opened < 60 {
				return errors.New("broken on purpose")
			}
			return nil
		}), next, nil
	})
	h.retry = time.Millisecond
	stop := start(t, h)
	await(t, "all is read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return read[0] == n && read[1] == n && read[2] == n
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	if opened < 10 {
		t.Errorf("owners were opened only %d times: this tests nothing", opened)
	}
}

// An owner that is slow holds back what is fetched, within the limit, and what it finally gets is everything.
func TestASlowOwnerHoldsBack(t *testing.T) {
	devstack.AtLength(t)
	to := cluster(t, 1)
	const n, size = 3000, 100_000
	for range n / 100 {
		write(t, to, 0, 100, size)
	}
	var mu sync.Mutex
	read, gate := 0, make(chan struct{})
	h := host(to, "a", func(context.Context, *Seat) (Owner, int64, error) {
		return ownerFunc(func(ctx context.Context, recs []broker.Record) error {
			<-gate
			mu.Lock()
			defer mu.Unlock()
			read += len(recs)
			return nil
		}), 0, nil
	})
	start(t, h)
	queued := func() (n int) {
		for _, s := range h.Seats() {
			n += s.Status().Queued
		}
		return n
	}
	await(t, "the queue is full", func() bool { return queued()*size >= queueBytes })
	at := queued()
	time.Sleep(time.Second)
	// One fetch may be on its way when the partition is paused, and one poll.
	if now := queued(); (now-at)*size > 3*16<<20 {
		t.Errorf("%d MB more are held although the queue is full", (now-at)*size>>20)
	}
	close(gate)
	await(t, "all is read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return read == n
	})
}

// What cannot be mended ends the service with an error that names the partition.
func TestWhatCannotBeMendedStops(t *testing.T) {
	to := cluster(t, 2)
	write(t, to, 1, 5, 1)
	for name, open := range map[string]func(context.Context, *Seat) (Owner, int64, error){
		"out of range": func(_ context.Context, s *Seat) (Owner, int64, error) {
			return ownerFunc(func(context.Context, []broker.Record) error { return nil }), int64(s.Partition.Partition) * 100, nil
		},
		"refused": func(_ context.Context, s *Seat) (Owner, int64, error) {
			if s.Partition.Partition == 1 {
				return nil, 0, fmt.Errorf("state of another world: %w", ErrStop)
			}
			return ownerFunc(func(context.Context, []broker.Record) error { return nil }), 0, nil
		},
	} {
		done := make(chan error, 1)
		h := host(to, name, open)
		h.Group = name
		go func() { done <- h.Run(context.Background()) }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), topic+"/1") {
				t.Errorf("%s: it ended with %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: it goes on", name)
		}
	}
}

// A member that joins gets some of the partitions, each of them only after the one before has let go; and goes on where
// that one committed.
func TestPartitionsMoveWithTheirCommits(t *testing.T) {
	to := cluster(t, 4)
	for p := range int32(4) {
		write(t, to, p, 100, 1)
	}
	var mu sync.Mutex
	working := map[int32]string{}
	from := map[string]map[int32]int64{"a": {}, "b": {}}
	open := func(name string) func(ctx context.Context, s *Seat) (Owner, int64, error) {
		return func(ctx context.Context, s *Seat) (Owner, int64, error) {
			c, _, err := s.Committed(ctx)
			at := c.Offset
			if err != nil {
				return nil, 0, err
			}
			mu.Lock()
			defer mu.Unlock()
			p := s.Partition.Partition
			if c.Offset > 0 && c.Note != fmt.Sprint("before ", c.Offset) {
				t.Errorf("%s finds the note %q beside a commit to %d", name, c.Note, c.Offset)
			}
			from[name][p] = max(at, 0)
			return closer{ownerFunc(func(_ context.Context, recs []broker.Record) error {
				mu.Lock()
				defer mu.Unlock()
				if w := working[p]; w != "" && w != name {
					t.Errorf("partition %d is worked on by %s and %s", p, w, name)
				}
				working[p] = name
				next := recs[len(recs)-1].Offset + 1
				s.CommitTo(broker.Committed{Offset: next, Note: fmt.Sprint("before ", next)})
				return nil
			}), func() {
				mu.Lock()
				defer mu.Unlock()
				delete(working, p)
			}}, max(at, 0), nil
		}
	}
	start(t, host(to, "a", open("a")))
	await(t, "a works on all", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(working) == 4
	})
	b := host(to, "b", open("b"))
	start(t, b)
	await(t, "b has two of them", func() bool { return len(b.Seats()) == 2 })
	for p := range int32(4) {
		write(t, to, p, 100, 1)
	}
	await(t, "each works on two", func() bool {
		mu.Lock()
		defer mu.Unlock()
		n := map[string]int{}
		for _, name := range working {
			n[name]++
		}
		return n["a"] == 2 && n["b"] == 2
	})
	mu.Lock()
	defer mu.Unlock()
	for p, at := range from["b"] {
		if at != 100 {
			t.Errorf("b begins with partition %d at %d, want 100", p, at)
		}
	}
}

type closer struct {
	Owner
	close func()
}

func (c closer) Close() { c.close() }

// By hand two processes may work on the same partition.
func TestFixedPartitions(t *testing.T) {
	to := cluster(t, 2)
	write(t, to, 1, 10, 1)
	var mu sync.Mutex
	read := map[string]int{}
	for _, name := range []string{"a", "b"} {
		h := host(to, name, func(context.Context, *Seat) (Owner, int64, error) {
			return ownerFunc(func(_ context.Context, recs []broker.Record) error {
				mu.Lock()
				defer mu.Unlock()
				read[name] += len(recs)
				return nil
			}), 0, nil
		})
		h.Fixed = []broker.Partition{{Topic: topic, Partition: 1}}
		start(t, h)
	}
	await(t, "both have read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return read["a"] == 10 && read["b"] == 10
	})
}
