package pebblestore

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"tandem/schemas/store"
)

const dayMS = 24 * 60 * 60 * 1000

// PutRows implements store.Store.
func (s *Store) PutRows(ctx context.Context, rows []store.Row) error {
	return s.putRows(ctx, tableRows, rows)
}

// PutRollups implements store.Store.
func (s *Store) PutRollups(ctx context.Context, rows []store.Row) error {
	return s.putRows(ctx, tableRollups, rows)
}

// Rows implements store.Store.
func (s *Store) Rows(ctx context.Context, sr store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	return s.rows(ctx, tableRows, sr, from, to, fn)
}

// Rollups implements store.Store.
func (s *Store) Rollups(ctx context.Context, sr store.Series, from, to int64, fn func(window, version int64, value []byte) error) error {
	return s.rows(ctx, tableRollups, sr, from, to, fn)
}

func (s *Store) putRows(ctx context.Context, table byte, rows []store.Row) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	if err := store.CheckRows(rows); err != nil {
		return err
	}
	s.writing.RLock()
	defer s.writing.RUnlock()
	now := s.now().UnixMilli()
	w := writer{s: s}
	defer w.close()
	var key []byte
	var last *store.Series         // the series at hand
	prefix, listed := 0, int64(-1) // its key's length, until when the catalog has it
	for i := range rows {
		r := &rows[i]
		expires := r.Expires
		if expires == 0 {
			expires = never
		}
		if expires <= now {
			continue
		}
		if last == nil || r.Series != *last {
			last = &r.Series
			key = appendSeries(key[:0], table, last)
			prefix, listed = len(key), -1
		}
		if expires > listed {
			listed = w.list(&r.Series, key[1:prefix], expires)
		}
		key = appendNumber(key[:prefix], r.Minute)
		w.merge(key, r.Version, expires, r.Value)
		if w.batch.Len() >= batchBytes {
			if err := w.commit(ctx); err != nil {
				return err
			}
		}
	}
	return w.commit(ctx)
}

// writer gathers a batch.
type writer struct {
	s     *Store
	batch *pebble.Batch
	lists []listing // in the catalog once the batch is committed
}

type listing struct {
	series string
	until  int64
}

func (w *writer) open() *pebble.Batch {
	if w.batch == nil {
		w.batch = w.s.db.NewBatch(pebble.WithMaxRetainedSizeBytes(2 * batchBytes)) // its memory serves the next one
	}
	return w.batch
}

func (w *writer) merge(key []byte, hi, lo int64, payload []byte) {
	op := w.open().MergeDeferred(len(key), recordBytes(len(payload)))
	copy(op.Key, key)
	putRecord(op.Value, hi, lo, payload)
	// Finish only indexes the batch, which this one is not; its error is that of an index.
	_ = op.Finish()
}

// list sees to it that the catalog has the series until its row expires, and says until when it has it: in full days,
// so that it is written once a day and not once a minute.
func (w *writer) list(sr *store.Series, names []byte, expires int64) int64 {
	until := expires
	if over := until % dayMS; over > 0 && until < never-dayMS {
		until += dayMS - over
	}
	w.s.mu.Lock()
	known, ok := w.s.known[string(names)]
	w.s.mu.Unlock()
	if ok && known >= expires {
		return known
	}
	key := appendSeries(nil, tableCatalog, sr)
	w.merge(key, until, until, nil)
	w.merge(appendSeries(key[:0], tableLayers, sr), until, until, nil)
	w.lists = append(w.lists, listing{string(names), until})
	return until
}

// commit writes the batch and waits until it is on disk.
func (w *writer) commit(ctx context.Context) error {
	if w.batch == nil {
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.s.write(w.batch); err != nil {
		return fmt.Errorf("write to the metric store: %w", err)
	}
	if len(w.lists) > 0 {
		w.s.learn(w.lists)
		w.lists = w.lists[:0]
	}
	w.close()
	return nil
}

func (w *writer) close() {
	if w.batch != nil {
		_ = w.batch.Close() // gives its memory back; never fails
		w.batch = nil
	}
}

func (s *Store) learn(lists []listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lists {
		if len(s.known) >= maxKnown {
			clear(s.known)
		}
		s.known[l.series] = max(s.known[l.series], l.until)
	}
}

func (s *Store) rows(ctx context.Context, table byte, sr store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	if err := sr.Check(); err != nil {
		return err
	}
	prefix := appendSeries(nil, table, &sr)
	now := s.now().UnixMilli()
	return s.scanSpan(ctx, prefix, from, to, func(minute int64, key, record []byte) error {
		version, expires, value, err := readRecord(key, record)
		if err != nil || expires <= now {
			return err
		}
		return fn(minute, version, value)
	})
}

// scanSpan scans the keys of prefix with numbers in [from, to).
func (s *Store) scanSpan(ctx context.Context, prefix []byte, from, to int64, fn func(n int64, key, record []byte) error) error {
	from, to = store.ClampMinutes(from, to)
	var lower, upper []byte // no keys, but a closed store and a cancelled context are still told
	if from < to {
		lower, upper = span(prefix, from, to)
	}
	return s.scan(ctx, lower, upper, func(key, record []byte) error {
		n, err := readNumber(key, len(prefix))
		if err != nil {
			return fmt.Errorf("%w: %s", store.ErrCorrupt, describe(key))
		}
		return fn(n, key, record)
	})
}

// scan calls fn for the keys in [lower, upper) as they are when it begins.
func (s *Store) scan(ctx context.Context, lower, upper []byte, fn func(key, record []byte) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	if err := ctx.Err(); err != nil {
		return err
	}
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("read the metric store: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err = ctx.Err(); err != nil {
			break
		}
		var record []byte
		if record, err = it.ValueAndErr(); err != nil {
			err = fmt.Errorf("read the metric store: %s: %w", describe(it.Key()), err)
			break
		}
		if err = fn(it.Key(), record); err != nil {
			break
		}
	}
	if closing := it.Close(); err == nil && closing != nil {
		err = fmt.Errorf("read the metric store: %w", closing)
	}
	return err
}
