package pebblestore

import (
	"sync/atomic"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/storetest"
)

// clock stands still but for advance.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 1, 31, 23, 50, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.ns.Load()) }

func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			c := newClock()
			return storetest.Harness{Store: open(t, "", Options{Now: c.now, InMemory: true}), Now: c.now, Advance: c.advance}
		})
	})
	t.Run("folder", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			c, dir := newClock(), t.TempDir()
			s := open(t, dir, Options{Now: c.now})
			return storetest.Harness{Store: s, Now: c.now, Advance: c.advance, Reopen: func(t *testing.T) store.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, Options{Now: c.now})
				return s
			}}
		})
	})
	// Everything once more from sorted tables instead of memtables: merged by flushes and compactions.
	t.Run("compacted", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			c := newClock()
			return storetest.Harness{Store: compacting{open(t, "", Options{Now: c.now, InMemory: true})}, Now: c.now, Advance: c.advance}
		})
	})
}
