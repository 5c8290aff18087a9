package cassandra

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

var long = flag.Bool("long", false, "also run what needs three nodes")

const writers, rowsPerCall = 4, 50

// traffic is four writers that each rewrite the rows of a series, one version after another.
type traffic struct {
	t     *testing.T
	store *Store
	base  int64 // the first minute
	acked [writers]atomic.Int64
	stop  chan struct{}
	wg    sync.WaitGroup
}

func (tr *traffic) series(w int) store.Series {
	return store.Series{Tenant: "shop", Experiment: fmt.Sprint("exp_", w), Metric: "fm.point", Layer: "stream.dc1"}
}

func (tr *traffic) value(version, k int64) string {
	return fmt.Sprint(version, " ", k, strings.Repeat(".", 1500))
}

func startTraffic(t *testing.T, s *Store) *traffic {
	tr := &traffic{t: t, store: s, base: time.Now().Unix() / 60, stop: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel) // before the store is closed, which waits for the writers
	for w := range writers {
		tr.wg.Go(func() {
			for version := int64(1); ; version++ {
				select {
				case <-tr.stop:
					return
				default:
				}
				var rows []store.Row
				for k := range int64(rowsPerCall) {
					rows = append(rows, store.Row{Series: tr.series(w), Minute: tr.base + k, Version: version,
						Expires: (tr.base + 40*dayMinutes) * 60_000, Value: []byte(tr.value(version, k))})
				}
				if err := s.PutRows(ctx, rows); err != nil {
					t.Error(err)
					return
				}
				tr.acked[w].Store(version)
			}
		})
	}
	return tr
}

// calls is how many were acknowledged.
func (tr *traffic) calls() (n int64) {
	for w := range tr.acked {
		n += tr.acked[w].Load()
	}
	return n
}

// advance returns when 40 more calls are acknowledged.
func (tr *traffic) advance() {
	tr.t.Helper()
	from := tr.calls()
	for deadline := time.Now().Add(2 * time.Minute); tr.calls() < from+10*writers; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("only %d calls acknowledged after %d", tr.calls(), from)
		}
	}
}

// awaitRetries returns when servers have been missed.
func (tr *traffic) awaitRetries(n int64) {
	tr.t.Helper()
	from := tr.store.Stats().Retries
	for deadline := time.Now().Add(time.Minute); tr.store.Stats().Retries < from+n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("only %d retries after %d", tr.store.Stats().Retries, from)
		}
	}
}

// finish ends the writers and reads what they wrote: all that was acknowledged, and nothing else.
func (tr *traffic) finish() {
	tr.t.Helper()
	close(tr.stop)
	tr.wg.Wait()
	for w := range writers {
		n := int64(0)
		err := tr.store.Rows(ctx, tr.series(w), tr.base, tr.base+rowsPerCall, func(minute, version int64, v []byte) error {
			if version != tr.acked[w].Load() || string(v) != tr.value(version, minute-tr.base) {
				return fmt.Errorf("minute %d has version %d; %d was acknowledged", minute-tr.base, version, tr.acked[w].Load())
			}
			n++
			return nil
		})
		if err != nil || n != rowsPerCall {
			tr.t.Errorf("writer %d: %d of %d rows, %v", w, n, rowsPerCall, err)
		}
	}
	if got := tr.store.Stats(); got.Rows != tr.calls()*rowsPerCall {
		tr.t.Errorf("stats %+v for %d calls", got, tr.calls())
	}
}

// The server is killed and comes back while four write: each call outlives it, and what was acknowledged is there.
func testKilled(t *testing.T, stack *devstack.Stack, c Config) {
	if _, err := stack.Nodetool(1, "flush", "system_schema"); err != nil { // FLUSH_SCHEMA=false
		t.Fatal(err)
	}
	c.MaxInFlight = 8
	tr := startTraffic(t, open(t, c))
	tr.advance()
	begin := time.Now()
	if err := stack.KillCassandra(1); err != nil {
		t.Fatal(err)
	}
	tr.awaitRetries(20)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 32<<20 {
		t.Errorf("%d MB of heap while waiting", m.HeapAlloc>>20)
	}
	if err := stack.RestartCassandra(1); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	tr.advance()
	t.Logf("away for %v, 40 calls acknowledged %v later, heap while waiting %d KB", back.Sub(begin).Round(time.Millisecond),
		time.Since(back).Round(time.Millisecond), m.HeapAlloc>>10)
	tr.finish()
}

// Of three nodes in one data centre any may go; of two in it, with replicas on both, none, whatever the other centre has.
func TestThreeNodes(t *testing.T) {
	if !*long {
		t.Skip("three nodes take a minute and 3 GB; -long runs them")
	}
	t.Run("one data centre", func(t *testing.T) {
		stack := devstack.Start(t, devstack.Options{Nodes: 3})
		c := Config{Hosts: stack.Cassandra, Keyspace: "tandem", DC: "dc1", Replication: map[string]int{"dc1": 3}}
		if err := Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
		tr := startTraffic(t, open(t, c))
		for i := 1; i <= 3; i++ {
			tr.advance()
			if err := stack.KillCassandra(i); err != nil {
				t.Fatal(err)
			}
			tr.advance() // two of three go on
			if err := stack.RestartCassandra(i); err != nil {
				t.Fatal(err)
			}
		}
		tr.finish()
	})
	t.Run("two data centres", func(t *testing.T) {
		stack := devstack.Start(t, devstack.Options{Nodes: 3, DCs: []string{"dc1", "dc1", "dc2"}})
		c := Config{Hosts: stack.Cassandra[:2], Keyspace: "tandem", DC: "dc1", Replication: map[string]int{"dc1": 2, "dc2": 1}}
		if err := Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		tr := startTraffic(t, s)
		tr.advance()
		if err := stack.KillCassandra(3); err != nil { // abroad: nobody notices
			t.Fatal(err)
		}
		tr.advance()
		awaitHints(t, s, "the node away has hints", func(hints []Hint, silent []error) bool {
			return len(silent) == 1 && slices.ContainsFunc(hints, func(h Hint) bool { return !h.Up && h.DC == "dc2" && h.Files > 0 && !h.Oldest.IsZero() })
		})
		if err := stack.KillCassandra(2); err != nil {
			t.Fatal(err)
		}
		tr.awaitRetries(20)
		before := tr.calls()
		if err := stack.RestartCassandra(3); err != nil {
			t.Fatal(err)
		}
		tr.awaitRetries(20)
		if tr.calls() > before+writers {
			t.Errorf("%d calls acknowledged without a quorum at home", tr.calls()-before)
		}
		if err := stack.RestartCassandra(2); err != nil {
			t.Fatal(err)
		}
		tr.advance()
		awaitHints(t, s, "all hints are delivered", func(hints []Hint, silent []error) bool { return len(hints) == 0 && len(silent) == 0 })
		tr.finish()
	})
}

// awaitHints waits, for hints are delivered soon after a node is there again.
func awaitHints(t *testing.T, s *Store, what string, ok func(hints []Hint, silent []error) bool) {
	t.Helper()
	began := time.Now()
	for {
		hints, silent, err := s.Hints(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ok(hints, silent) {
			t.Logf("%s after %v", what, time.Since(began).Round(time.Second))
			return
		}
		if time.Since(began) > 3*time.Minute {
			t.Fatalf("%s: not in 3 minutes: %+v, %v", what, hints, silent)
		}
		time.Sleep(time.Second)
	}
}
