// Package both is a metric store that is two: everything is written to both, and read from one of them. So a site moves
// from one database to another: it writes both, backfills the new one, compares the two (tandem audit --stores), switches
// the readers, and at last leaves the old one out.
package both

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"tandem/schemas/store"
	"tandem/schemas/store/cassandra"
)

// Store writes to both and reads Store, the first. A write is done when both have it: when one of them fails the caller
// repeats it, which changes nothing in the other (store's laws).
type Store struct {
	store.Store
	Other store.Store
}

// New returns the store that reads from the first.
func New(read, other store.Store) *Store { return &Store{read, other} }

// each does a thing with both at once. An error that repeating does not help is told alone, so that it stays one.
func (s *Store) each(ctx context.Context, do func(ctx context.Context, st store.Store) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return do(groupCtx, s.Store) })
	group.Go(func() error {
		if err := do(groupCtx, s.Other); err != nil {
			return fmt.Errorf("the other store: %w", err)
		}
		return nil
	})
	return group.Wait()
}

// PutRows implements store.Store.
func (s *Store) PutRows(ctx context.Context, rows []store.Row) error {
	if err := store.CheckRows(rows); err != nil {
		return err // in both nothing is written
	}
	return s.each(ctx, func(ctx context.Context, st store.Store) error { return st.PutRows(ctx, rows) })
}

// PutRollups implements store.Store.
func (s *Store) PutRollups(ctx context.Context, rows []store.Row) error {
	if err := store.CheckRows(rows); err != nil {
		return err
	}
	return s.each(ctx, func(ctx context.Context, st store.Store) error { return st.PutRollups(ctx, rows) })
}

// PutProgress implements store.Store.
func (s *Store) PutProgress(ctx context.Context, p store.Progress) error {
	return s.each(ctx, func(ctx context.Context, st store.Store) error { return st.PutProgress(ctx, p) })
}

// PutCoverage implements store.Store.
func (s *Store) PutCoverage(ctx context.Context, c store.Coverage) error {
	return s.each(ctx, func(ctx context.Context, st store.Store) error { return st.PutCoverage(ctx, c) })
}

// PutActive implements store.Store.
func (s *Store) PutActive(ctx context.Context, a store.Active) error {
	return s.each(ctx, func(ctx context.Context, st store.Store) error { return st.PutActive(ctx, a) })
}

// DeleteLayerWindow implements store.Store.
func (s *Store) DeleteLayerWindow(ctx context.Context, layer, tenant string, from, to int64) error {
	return s.each(ctx, func(ctx context.Context, st store.Store) error {
		return st.DeleteLayerWindow(ctx, layer, tenant, from, to)
	})
}

// hinted and retrying are what a store may tell beside store.Store. Embedding passes on nothing of it: whoever asks for it
// would find two stores in Cassandra to have none.
type (
	hinted interface {
		Hints(ctx context.Context) (hints []cassandra.Hint, silent []error, err error)
	}
	retrying interface{ Stats() cassandra.Stats }
)

// Hints are those of both, of which one may not know of any: readers may read either, now or after a switch.
func (s *Store) Hints(ctx context.Context) (hints []cassandra.Hint, silent []error, err error) {
	for i, st := range []store.Store{s.Store, s.Other} {
		h, ok := st.(hinted)
		if !ok {
			continue
		}
		more, mute, err := h.Hints(ctx)
		if err != nil && i == 1 {
			err = fmt.Errorf("the other store: %w", err)
		}
		if err != nil {
			return nil, nil, err
		}
		hints, silent = append(hints, more...), append(silent, mute...)
	}
	return hints, silent, nil
}

// Stats are the counts of both together, as far as they count: who writes waits for either.
func (s *Store) Stats() (sum cassandra.Stats) {
	for _, st := range []store.Store{s.Store, s.Other} {
		if r, ok := st.(retrying); ok {
			one := r.Stats()
			sum.Rows, sum.Bytes, sum.Retries = sum.Rows+one.Rows, sum.Bytes+one.Bytes, sum.Retries+one.Retries
		}
	}
	return sum
}

// Close implements store.Store.
func (s *Store) Close() error { return errors.Join(s.Store.Close(), s.Other.Close()) }
