package pebblestore

import (
	"math"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"tandem/schemas/store"
)

// filling is a file system in memory whose disk is full after so many writes.
func filling(writes int64) (mem, fs vfs.FS, full *atomic.Bool) {
	mem, full = vfs.NewMem(), &atomic.Bool{}
	var n atomic.Int64
	return mem, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && (full.Load() || n.Add(1) > writes) {
			return syscall.ENOSPC
		}
		return nil
	})), full
}

func epoch() time.Time { return time.UnixMilli(0) }

// TestFullDisk: what cannot be written any more is an error of the write and of all after it, what was written stands, and
// the store can be closed.
func TestFullDisk(t *testing.T) {
	mem, fs, full := filling(math.MaxInt64)
	s, err := Open("store", Options{Now: epoch, fs: fs})
	if err != nil {
		t.Fatal(err)
	}
	put := func(minute int64) error {
		return s.PutRows(ctx, []store.Row{{Series: home, Minute: minute, Version: 1, Value: []byte("x")}})
	}
	if err := put(1); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	for minute := range int64(3) {
		if err := put(2 + minute); err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("written to a full disk: %v", err)
		}
	}
	_ = s.Close() // it cannot write what it would
	if s, err = Open("store", Options{Now: epoch, fs: mem}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	found := 0
	err = s.Rows(ctx, home, 0, 10, func(minute, _ int64, _ []byte) error {
		if found++; minute != 1 {
			t.Errorf("minute %d was refused and is there", minute)
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Errorf("%d rows, %v", found, err)
	}
}

// TestOpenOnFullDisk: wherever opening comes to a full disk, that is its error.
func TestOpenOnFullDisk(t *testing.T) {
	for writes := int64(0); ; writes++ {
		_, fs, _ := filling(writes)
		s, err := Open("store", Options{Now: epoch, fs: fs})
		if err == nil {
			_ = s.Close()
			if writes < 10 {
				t.Errorf("it was opened with %d writes", writes)
			}
			return
		}
		if !strings.Contains(err.Error(), "no space left on device") {
			t.Fatalf("%d writes: %v", writes, err)
		}
	}
}
