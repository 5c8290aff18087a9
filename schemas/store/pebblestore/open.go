package pebblestore

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/schemas/store"
)

const (
	cacheBytes = 64 << 20
	// blockBytes is what one read of a table gives: rows are read in runs, a day of a series has some 100 KB.
	blockBytes    = 32 << 10
	memtableBytes = 64 << 20
	batchBytes    = 4 << 20
	maxKnown      = 100_000
	format        = "1"
)

// Options of Open.
type Options struct {
	// Now is the clock that rows expire by; nil is time.Now.
	Now func() time.Time
	// InMemory keeps everything in memory and ignores the folder; Close forgets it.
	InMemory bool

	fs vfs.FS // of tests; nil: what the above say
}

// Store is the embedded store. It implements store.Store.
type Store struct {
	db  *pebble.DB
	now func() time.Time

	// writing is held shared by writers of rows and whole by what deletes: a row that is written while its series is
	// being taken from the catalog would be lost to it.
	writing sync.RWMutex

	mu      sync.Mutex
	idle    *sync.Cond       // calls has become 0
	calls   int              // running
	closed  bool             // no more may begin
	known   map[string]int64 // series in the catalog -> until when
	closing error            // of the first Close
	done    bool             // the first Close has returned
	broken  error            // the log cannot be written any more: nothing else is
}

var _ store.Store = (*Store)(nil)

// Open opens the store in the folder dir, and makes both when they are missing. One process at a time may have it open.
// A folder of another format or a folder with other things of Pebble in it is refused.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{now: o.Now, known: map[string]int64{}}
	s.idle = sync.NewCond(&s.mu)
	if s.now == nil {
		s.now = time.Now
	}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	opts := &pebble.Options{
		Cache:              cache,
		MemTableSize:       memtableBytes,
		Merger:             newMerger(),
		Logger:             silent{},
		FormatMajorVersion: pebble.FormatNewest,
	}
	opts.Levels[0].BlockSize, opts.Levels[0].IndexBlockSize = blockBytes, blockBytes // those of all levels
	if o.InMemory {
		dir, opts.FS = "", vfs.NewMem()
	}
	if o.fs != nil {
		opts.FS = o.fs
	}
	if err := s.open(dir, opts); err != nil {
		return nil, fmt.Errorf("open the store in %q: %w", dir, err)
	}
	return s, nil
}

func (s *Store) open(dir string, opts *pebble.Options) (err error) {
	defer gaveUp(&err)
	if s.db, err = pebble.Open(dir, opts); err != nil {
		return fmt.Errorf("is another process using it? %w", err)
	}
	if err := checkFormat(s.db); err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// checkFormat finds the format of the folder, or writes it into an empty one.
func checkFormat(db *pebble.DB) error {
	key := []byte("\x00format")
	v, closer, err := db.Get(key)
	if err == nil {
		got := string(v)
		if err := closer.Close(); err != nil {
			return err
		}
		if got != format {
			return fmt.Errorf("it has format %.20q, known is %q: use the release that made it, or a new folder", got, format)
		}
		return nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	something := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if something {
		return errors.New("it holds something that is not a metric store: use another folder")
	}
	return db.Set(key, []byte(format), pebble.Sync)
}

// begin counts a call in, end out.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.calls++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.calls == 0 {
		s.idle.Broadcast()
	}
}

// Close implements store.Store. A second Close returns what the first did. It must not be called from an fn.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.closed
	s.closed = true
	for s.calls > 0 || !first && !s.done {
		s.idle.Wait()
	}
	if first {
		s.closing = s.db.Close()
		s.done = true
		s.idle.Broadcast()
	}
	return s.closing
}

// silent drops Pebble's messages: what matters comes back as errors.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

// Fatalf must not return: Pebble calls it when the log or the manifest cannot be written any more, and going on would
// acknowledge what is not durable.
func (silent) Fatalf(format string, args ...any) { panic(fmt.Errorf(format, args...)) }

// fatal is what Pebble gives up for.
type fatal struct{ error }

// gaveUp makes it an error of the call that it is deferred in. Pebble panics with errors of its own too.
func gaveUp(err *error) {
	switch r := recover().(type) {
	case nil:
	case runtime.Error:
		panic(r)
	case error:
		*err = fatal{r}
	default:
		panic(r)
	}
}

// write commits a batch and waits until it is on disk. Where Pebble gives up, as on a full disk, that is the error of this
// write and of all later ones.
func (s *Store) write(b *pebble.Batch) error {
	s.mu.Lock()
	err := s.broken
	s.mu.Unlock()
	if err == nil {
		err = commit(b)
	}
	if _, ok := err.(fatal); ok {
		s.mu.Lock()
		s.broken = err
		s.mu.Unlock()
	}
	return err
}

func commit(b *pebble.Batch) (err error) {
	defer gaveUp(&err)
	return b.Commit(pebble.Sync)
}
