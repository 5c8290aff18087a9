package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem/schemas/blob"
)

// testLease has the times of one in little; tests run it in a bubble, whose clock does not go on while the machine is held up.
func testLease(blobs blob.Store, holder string) *Lease {
	return &Lease{Blobs: blobs, Folder: "lease/", Holder: holder, Every: 10 * time.Millisecond, Dead: 150 * time.Millisecond}
}

func take(t *testing.T, l *Lease, wait time.Duration) (release func() error, other string, ok bool) {
	t.Helper()
	release, other, ok, err := l.Take(t.Context(), wait)
	if err != nil {
		t.Fatal(err)
	}
	return release, other, ok
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs := blob.NewMem()
		release, _, ok := take(t, testLease(blobs, "first"), 0)
		if !ok {
			t.Fatal("nobody holds it, and it is not given")
		}
		// Held for longer than Dead, it is kept alive.
		if _, other, ok := take(t, testLease(blobs, "second"), 300*time.Millisecond); ok || other != "first" {
			t.Errorf("a second run got it: %t; it waits for %q", ok, other)
		}
		var free atomic.Bool
		go func() {
			time.Sleep(50 * time.Millisecond)
			free.Store(true)
			if err := release(); err != nil {
				t.Error(err)
			}
		}()
		release, _, ok = take(t, testLease(blobs, "second"), time.Minute)
		if !ok || !free.Load() {
			t.Errorf("taken: %t, free: %t", ok, free.Load())
		}
		if err := errors.Join(release(), release()); err != nil {
			t.Error(err)
		}
		if release, _, ok = take(t, testLease(blobs, "third"), 0); !ok {
			t.Error("it was given back, and is not free")
		} else if err := release(); err != nil {
			t.Error(err)
		}
		if names, err := blobs.List(""); err != nil || len(names) != 1 {
			t.Errorf("%q is left, %v; want one object", names, err)
		}
	})
}

// A run that was killed writes no more: the next one takes its lease once it has seen nothing for Dead.
func TestLeaseOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs := blob.NewMem()
		dead := testLease(blobs, "dead")
		if err := dead.put(1, held{Holder: "dead"}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		release, _, ok := take(t, testLease(blobs, "second"), time.Minute)
		if took := time.Since(began); !ok || took < 150*time.Millisecond {
			t.Errorf("taken: %t, after %s", ok, took)
		}
		// It was not dead, only slow: its next object loses, and both run.
		if err := dead.keep(1)(); err != nil {
			t.Error(err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := dead.put(50, held{Holder: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := testLease(blobs, "y").Take(ctx, time.Minute); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("after a cancel: %t, %v", ok, err)
		}
	})
}

// Of many that want it one at a time has it.
func TestLeaseOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs := blob.NewMem()
		var holders atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				l := testLease(blobs, fmt.Sprint(i))
				l.Dead = time.Minute
				release, _, ok, err := l.Take(t.Context(), time.Minute)
				if err != nil || !ok {
					t.Errorf("%d: %t, %v", i, ok, err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				time.Sleep(5 * time.Millisecond)
				holders.Add(-1)
				if err := release(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}
