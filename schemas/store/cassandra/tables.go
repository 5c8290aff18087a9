package cassandra

import (
	"context"
	"fmt"

	"github.com/gocql/gocql"

	"tandem/schemas/store"
)

const (
	putProgress = "INSERT INTO progress (layer, tenant, partition, closed_before, version) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL 0"
	getProgress = "SELECT partition, closed_before, version FROM progress WHERE layer = ? AND tenant = ?"

	putCoverageDay  = "INSERT INTO coverage_days (tenant, day) VALUES (?, ?) USING TIMESTAMP 0 AND TTL 0" // nothing deletes it
	getGenerations  = "SELECT minute, part, writetime(v) FROM coverage WHERE tenant = ? AND day = ? AND minute >= ? AND minute < ?"
	getCoverageDays = "SELECT day FROM coverage_days WHERE tenant = ? AND day >= ? AND day <= ?"

	putActive = "INSERT INTO active (tenant, layer) VALUES (?, ?) USING TIMESTAMP ? AND TTL 0"
	getActive = "SELECT layer, writetime(layer) FROM active WHERE tenant = ?"
)

// PutProgress implements store.Store.
func (s *Store) PutProgress(ctx context.Context, p store.Progress) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := p.Check(); err != nil {
		return err
	}
	what := fmt.Sprintf("write the progress of layer %q, tenant %q", p.Layer, p.Tenant)
	return s.write(ctx, what, 0, func(w *gocql.Batch) {
		add(w, putProgress, p.Layer, p.Tenant, p.Partition, p.ClosedBefore, p.Version, p.ClosedBefore*minuteMicros)
	})
}

// Progress implements store.Store.
func (s *Store) Progress(ctx context.Context, layer, tenant string) (all []store.Progress, err error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	what := fmt.Sprintf("read the progress of layer %q, tenant %q", layer, tenant)
	err = s.scan(ctx, what, getProgress, []any{layer, tenant}, func(next func(...any) bool) error {
		p := store.Progress{Layer: layer, Tenant: tenant}
		for next(&p.Partition, &p.ClosedBefore, &p.Version) {
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

// PutCoverage implements store.Store.
func (s *Store) PutCoverage(ctx context.Context, c store.Coverage) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := c.Check(); err != nil {
		return err
	}
	t := coverageTable
	start := t.start(c.Window)
	what := fmt.Sprintf("write the coverage of tenant %q, window %d", c.Tenant, c.Window)
	err := s.write(ctx, what, 0, func(w *gocql.Batch) { add(w, putCoverageDay, c.Tenant, date(start)) })
	if err != nil {
		return err
	}
	return s.write(ctx, what, len(c.Data), func(w *gocql.Batch) {
		for part, cell := range appendParts(nil, c.Data) {
			add(w, t.write, c.Tenant, date(start), int32(c.Window-start), int16(part), cell, c.Generation)
		}
	})
}

// Coverage implements store.Store.
func (s *Store) Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	return s.coverage(ctx, tenant, from, to, func(what string, start, from, to int64) error {
		return s.values(ctx, what, coverageTable, []any{tenant, date(start)}, start, from, to, func(window, generation int64, data []byte) error {
			return fn(store.Coverage{Tenant: tenant, Window: window, Generation: generation, Data: data})
		})
	})
}

// Generations implements store.Store. The parts of a value are written at once, so the first one tells of all.
func (s *Store) Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error {
	return s.coverage(ctx, tenant, from, to, func(what string, start, from, to int64) error {
		args := []any{tenant, date(start), int32(max(from-start, 0)), int32(min(to-start, coverageTable.span))}
		return s.scan(ctx, what, getGenerations, args, func(next func(...any) bool) error {
			var minute int32
			var part int16
			var generation int64
			for next(&minute, &part, &generation) {
				if part > 0 {
					continue
				}
				if err := fn(start+int64(minute), generation); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// coverage has read read each partition of a tenant's coverage that has some of windows [from, to), by its first minute.
func (s *Store) coverage(ctx context.Context, tenant string, from, to int64, read func(what string, start, from, to int64) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	from, to = store.ClampMinutes(from, to)
	if from >= to {
		return nil
	}
	t := coverageTable
	what := fmt.Sprintf("read the coverage of tenant %q", tenant)
	days, err := s.days(ctx, t, from, to, func() ([]int64, error) {
		return s.dates(ctx, what, getCoverageDays, []any{tenant, date(t.start(from)), date(t.start(to - 1))})
	})
	if err != nil {
		return err
	}
	for _, start := range days {
		if err := read(what, start, from, to); err != nil {
			return err
		}
	}
	return nil
}

// PutActive implements store.Store.
func (s *Store) PutActive(ctx context.Context, a store.Active) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := a.Check(); err != nil {
		return err
	}
	return s.write(ctx, fmt.Sprintf("write the active layer of tenant %q", a.Tenant), 0, func(w *gocql.Batch) {
		add(w, putActive, a.Tenant, a.Layer, a.Seq)
	})
}

// Active implements store.Store.
func (s *Store) Active(ctx context.Context, tenant string) (a store.Active, ok bool, err error) {
	if err := s.begin(ctx); err != nil {
		return a, false, err
	}
	defer s.end()
	what := fmt.Sprintf("read the active layer of tenant %q", tenant)
	err = s.scan(ctx, what, getActive, []any{tenant}, func(next func(...any) bool) error {
		ok = next(&a.Layer, &a.Seq)
		return nil
	})
	if ok {
		a.Tenant = tenant
	}
	return a, ok, err
}
