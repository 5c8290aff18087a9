package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"tandem/schemas/store"
)

// putOne writes one record, checked by the caller.
func (s *Store) putOne(ctx context.Context, key []byte, hi, lo int64, payload []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	w := writer{s: s}
	defer w.close()
	w.merge(key, hi, lo, payload)
	return w.commit(ctx)
}

// PutProgress implements store.Store.
func (s *Store) PutProgress(ctx context.Context, p store.Progress) error {
	if err := p.Check(); err != nil {
		return err
	}
	key := appendNumber(appendNames(nil, tableProgress, p.Layer, p.Tenant), int64(p.Partition))
	return s.putOne(ctx, key, p.ClosedBefore, p.Version, nil)
}

// Progress implements store.Store.
func (s *Store) Progress(ctx context.Context, layer, tenant string) ([]store.Progress, error) {
	var all []store.Progress
	prefix := appendNames(nil, tableProgress, layer, tenant)
	err := s.scanSpan(ctx, prefix, 0, store.MaxMinute+1, func(partition int64, key, record []byte) error {
		closed, version, _, err := readRecord(key, record)
		if err != nil {
			return err
		}
		all = append(all, store.Progress{Layer: layer, Partition: int32(partition), Tenant: tenant, ClosedBefore: closed, Version: version})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// PutCoverage implements store.Store.
func (s *Store) PutCoverage(ctx context.Context, c store.Coverage) error {
	if err := c.Check(); err != nil {
		return err
	}
	key := appendNumber(appendNames(nil, tableCoverage, c.Tenant), c.Window)
	return s.putOne(ctx, key, c.Generation, 0, c.Data)
}

// Coverage implements store.Store.
func (s *Store) Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	prefix := appendNames(nil, tableCoverage, tenant)
	return s.scanSpan(ctx, prefix, from, to, func(window int64, key, record []byte) error {
		generation, _, data, err := readRecord(key, record)
		if err != nil {
			return err
		}
		return fn(store.Coverage{Tenant: tenant, Window: window, Generation: generation, Data: data})
	})
}

// Generations implements store.Store.
func (s *Store) Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error {
	return s.Coverage(ctx, tenant, from, to, func(c store.Coverage) error { return fn(c.Window, c.Generation) })
}

// PutActive implements store.Store.
func (s *Store) PutActive(ctx context.Context, a store.Active) error {
	if err := a.Check(); err != nil {
		return err
	}
	return s.putOne(ctx, appendNames(nil, tableActive, a.Tenant), a.Seq, 0, []byte(a.Layer))
}

// Active implements store.Store.
func (s *Store) Active(ctx context.Context, tenant string) (a store.Active, ok bool, err error) {
	prefix := appendNames(nil, tableActive, tenant)
	err = s.scan(ctx, prefix, after(prefix), func(key, record []byte) error {
		seq, _, layer, err := readRecord(key, record)
		if err != nil {
			return err
		}
		a, ok = store.Active{Tenant: tenant, Layer: string(layer), Seq: seq}, true
		return nil
	})
	return a, ok, err
}

// Catalog implements store.Store.
func (s *Store) Catalog(ctx context.Context, tenant string, fn func(store.Series) error) error {
	prefix := appendNames(nil, tableCatalog, tenant)
	return s.series(ctx, prefix, after(prefix), fn)
}

// series calls fn for the catalog's live entries in [lower, upper).
func (s *Store) series(ctx context.Context, lower, upper []byte, fn func(store.Series) error) error {
	now := s.now().UnixMilli()
	return s.scan(ctx, lower, upper, func(key, record []byte) error {
		until, _, _, err := readRecord(key, record)
		if err != nil || until <= now {
			return err
		}
		sr, rest, err := readSeries(key)
		if err != nil || len(rest) > 0 {
			return fmt.Errorf("%w: %s", store.ErrCorrupt, describe(key))
		}
		return fn(sr)
	})
}

var errFound = errors.New("found")

// Metrics implements store.Store. It looks for one live layer of each metric and goes on behind all of them.
func (s *Store) Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error {
	lower := append(appendNames(nil, tableCatalog, tenant, experiment), prefix...)
	upper := after(lower)
	for {
		metric := ""
		err := s.series(ctx, lower, upper, func(sr store.Series) error {
			metric = sr.Metric
			return errFound
		})
		if err == nil {
			return nil
		}
		if !errors.Is(err, errFound) {
			return err
		}
		if err := fn(metric); err != nil {
			return err
		}
		lower = after(appendNames(nil, tableCatalog, tenant, experiment, metric))
	}
}

// DeleteLayerWindow implements store.Store. Writers of rows wait for it.
func (s *Store) DeleteLayerWindow(ctx context.Context, layer, tenant string, from, to int64) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	from, to = store.ClampMinutes(from, to)
	if from >= to {
		return ctx.Err()
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	w := writer{s: s}
	defer w.close()
	prefix := appendNames(nil, tableLayers, tenant, layer)
	err := s.scan(ctx, prefix, after(prefix), func(key, _ []byte) error {
		sr, rest, err := readSeries(key)
		if err != nil || len(rest) > 0 {
			return fmt.Errorf("%w: %s", store.ErrCorrupt, describe(key))
		}
		return w.deleteSeries(ctx, key, &sr, from, to)
	})
	if err != nil {
		return err
	}
	return w.commit(ctx)
}

func (w *writer) deleteSeries(ctx context.Context, listed []byte, sr *store.Series, from, to int64) error {
	left := false
	for _, table := range []byte{tableRows, tableRollups} {
		prefix := appendSeries(nil, table, sr)
		lower, upper := span(prefix, from, to)
		if err := w.open().DeleteRange(lower, upper, nil); err != nil {
			return fmt.Errorf("delete from the metric store: %w", err)
		}
		for _, outside := range [][2][]byte{{prefix, lower}, {upper, after(prefix)}} {
			some, err := w.s.any(ctx, outside[0], outside[1])
			if err != nil {
				return err
			}
			left = left || some
		}
	}
	if !left {
		key := appendSeries(nil, tableCatalog, sr)
		w.s.forget(key[1:])
		if err := errors.Join(w.batch.Delete(key, nil), w.batch.Delete(listed, nil)); err != nil {
			return fmt.Errorf("delete from the metric store: %w", err)
		}
	}
	if w.batch.Len() >= batchBytes {
		return w.commit(ctx)
	}
	return nil
}

// any says whether there is a key in [lower, upper).
func (s *Store) any(ctx context.Context, lower, upper []byte) (bool, error) {
	some := false
	err := s.scan(ctx, lower, upper, func(_, _ []byte) error {
		some = true
		return errEnough
	})
	if err != nil && err != errEnough {
		return false, err
	}
	return some, nil
}

var errEnough = errors.New("enough")

func (s *Store) forget(series []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, string(series))
}

// sweepKeys is how many keys Sweep looks at while writers wait: some milliseconds.
const sweepKeys = 4096

// Sweep deletes what has expired and says how many records that were. It reads every row, a few thousand at a time, and
// writers of rows wait for each of these turns: call it once a day or so.
func (s *Store) Sweep(ctx context.Context) (deleted int, err error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.end()
	now := s.now().UnixMilli()
	for _, table := range []byte{tableRows, tableRollups, tableCatalog, tableLayers} {
		next, end := []byte{table}, []byte{table + 1}
		for next != nil {
			var n int
			n, next, err = s.sweep(ctx, next, end, now)
			deleted += n
			if err != nil {
				return deleted, err
			}
		}
	}
	return deleted, nil
}

// sweep takes one turn from the key lower on and says where the next begins, nil at the end.
func (s *Store) sweep(ctx context.Context, lower, upper []byte, now int64) (deleted int, next []byte, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	w := writer{s: s}
	defer w.close()
	seen := 0
	err = s.scan(ctx, lower, upper, func(key, record []byte) error {
		if seen == sweepKeys {
			next = bytes.Clone(key)
			return errEnough
		}
		seen++
		_, expires, _, err := readRecord(key, record)
		if err != nil || expires > now {
			return nil // a damaged record stays, to be reported to whoever reads it
		}
		deleted++
		if key[0] == tableCatalog {
			s.forget(key[1:])
		}
		return w.open().Delete(key, nil)
	})
	if err != nil && err != errEnough {
		return 0, nil, err
	}
	if err := w.commit(ctx); err != nil {
		return 0, nil, err
	}
	return deleted, next, nil
}
