package cassandra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gocql/gocql"
	"golang.org/x/sync/errgroup"

	"tandem/schemas/store"
)

// maxKnown is the greatest number of entries that are known to be in the catalog; then the set begins anew.
const maxKnown = 100_000

// entry says that a series has values in the partition of a day.
type entry struct {
	store.Series
	kind string
	day  int64 // ms since the epoch
}

const (
	putExperiment = "INSERT INTO experiments (tenant, experiment, expires) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
	putSeries     = "INSERT INTO series (tenant, experiment, metric, layer, kind, day, expires) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
	putLayer      = "INSERT INTO layers (tenant, layer, experiment, metric, kind, day, expires) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"

	getExperiments = "SELECT experiment FROM experiments WHERE tenant = ? GROUP BY experiment"
	getSeries      = "SELECT metric, layer FROM series WHERE tenant = ? AND experiment = ? GROUP BY metric, layer"
	getMetric      = "SELECT metric FROM series WHERE tenant = ? AND experiment = ? AND metric >= ? LIMIT 1"
	getDays        = "SELECT day FROM series WHERE tenant = ? AND experiment = ? AND metric = ? AND layer = ? AND kind = ? AND day >= ? AND day <= ?"
	getLayer       = "SELECT experiment, metric, kind, day FROM layers WHERE tenant = ? AND layer = ?"

	dropSeries = "DELETE FROM series USING TIMESTAMP ? WHERE tenant = ? AND experiment = ? AND metric = ? AND layer = ? AND kind = ? AND day = ?"
	dropLayer  = "DELETE FROM layers USING TIMESTAMP ? WHERE tenant = ? AND layer = ? AND experiment = ? AND metric = ? AND kind = ? AND day = ?"
)

// list sees to it that the catalog has the series of rows for as long as these live.
func (s *Store) list(ctx context.Context, t *table, rows []store.Row) error {
	now := s.now()
	missing := map[entry]int64{}
	s.mu.Lock()
	for i := range rows {
		r := &rows[i]
		if _, alive := life(r.Expires, now); !alive {
			continue
		}
		e := entry{r.Series, t.kind, date(t.start(r.Minute))}
		if until := t.until(r, now); until > s.known[e] && until > missing[e] {
			missing[e] = until
		}
	}
	s.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	// Entries of a batch share a partition, as everywhere.
	type partition struct{ table, tenant, name string }
	type line struct {
		expires int64 // 0 is never
		args    []any
	}
	lines := map[partition][]line{}
	experiments := map[string]bool{}
	for e, until := range missing {
		expires := until
		if until == never {
			expires = 0
		}
		put := func(table, name string, args ...any) {
			p := partition{table, e.Tenant, name}
			lines[p] = append(lines[p], line{expires, append(args, expires)})
		}
		if id := fmt.Sprintf("%q %q %d", e.Tenant, e.Experiment, until); !experiments[id] {
			experiments[id] = true
			put(putExperiment, "", e.Tenant, e.Experiment)
		}
		put(putSeries, e.Experiment, e.Tenant, e.Experiment, e.Metric, e.Layer, e.kind, e.day)
		put(putLayer, e.Layer, e.Tenant, e.Layer, e.Experiment, e.Metric, e.kind, e.day)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(int(s.max))
	for p, all := range lines {
		for some := range slices.Chunk(all, batchRows) {
			group.Go(func() error {
				return s.write(groupCtx, fmt.Sprintf("write the catalog of tenant %q", p.tenant), 0, func(w *gocql.Batch) {
					at, now := s.tick(), s.now()
					for _, l := range some {
						if ttl, alive := life(l.expires, now); alive {
							add(w, p.table, append(l.args[:len(l.args):len(l.args)], at, ttl)...)
						}
					}
				})
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.learn(missing)
	return nil
}

// until is when the entry of a row expires, in full days: when the last row of its partition does that has the same
// retention. So a partition needs one entry, not one for each row's expiry.
func (t *table) until(r *store.Row, now time.Time) int64 {
	if ttl, _ := life(r.Expires, now); ttl == 0 {
		return never
	}
	until := r.Expires + (t.start(r.Minute)+t.span-r.Minute)*60_000
	return (until + dayMillis - 1) / dayMillis * dayMillis
}

// tick is a time for entries of the catalog, in us: the clock's, greater than the one before.
func (s *Store) tick() int64 {
	for {
		last := s.clock.Load()
		now := max(time.Now().UnixMicro(), last+1)
		if s.clock.CompareAndSwap(last, now) {
			return now
		}
	}
}

func (s *Store) learn(entries map[entry]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, until := range entries {
		if len(s.known) >= maxKnown {
			clear(s.known)
		}
		// The names may be parts of something large.
		e.Tenant, e.Experiment, e.Metric, e.Layer = strings.Clone(e.Tenant), strings.Clone(e.Experiment), strings.Clone(e.Metric), strings.Clone(e.Layer)
		s.known[e] = max(s.known[e], until)
	}
}

func (s *Store) forget(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, e)
}

// Metrics implements store.Store: a query for each metric, since grouping would have the servers read all layers of it.
func (s *Store) Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	what := fmt.Sprintf("read the catalog of tenant %q", tenant)
	for from := prefix; ; {
		metric, found := "", false
		err := s.scan(ctx, what, getMetric, []any{tenant, experiment, from}, func(next func(...any) bool) error {
			found = next(&metric)
			return nil
		})
		if err != nil || !found || !strings.HasPrefix(metric, prefix) {
			return err
		}
		if err := fn(metric); err != nil {
			return err
		}
		from = metric + "\x00"
	}
}

// Catalog implements store.Store.
func (s *Store) Catalog(ctx context.Context, tenant string, fn func(store.Series) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	what := fmt.Sprintf("read the catalog of tenant %q", tenant)
	sr := store.Series{Tenant: tenant}
	return s.scan(ctx, what, getExperiments, []any{tenant}, func(next func(...any) bool) error {
		for next(&sr.Experiment) {
			err := s.scan(ctx, what, getSeries, []any{tenant, sr.Experiment}, func(next func(...any) bool) error {
				for next(&sr.Metric, &sr.Layer) {
					if err := fn(sr); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// listedDays is the partitions of a series that have or had values of minutes [from, to).
func (s *Store) listedDays(ctx context.Context, t *table, sr *store.Series, from, to int64) ([]int64, error) {
	args := []any{sr.Tenant, sr.Experiment, sr.Metric, sr.Layer, t.kind, date(t.start(from)), date(t.start(to - 1))}
	return s.dates(ctx, fmt.Sprintf("read the days of %s", sr), getDays, args)
}

// dates is the partitions that a query lists in ascending order by their days, each once.
func (s *Store) dates(ctx context.Context, what, statement string, args []any) (all []int64, err error) {
	err = s.scan(ctx, what, statement, args, func(next func(...any) bool) error {
		var day time.Time
		for next(&day) {
			if start := day.UnixMilli() / 60_000; len(all) == 0 || all[len(all)-1] != start {
				all = append(all, start)
			}
		}
		return nil
	})
	return all, err
}

// DeleteLayerWindow implements store.Store.
func (s *Store) DeleteLayerWindow(ctx context.Context, layer, tenant string, from, to int64) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	from, to = store.ClampMinutes(from, to)
	if from >= to {
		return nil
	}
	what := fmt.Sprintf("delete from layer %q of tenant %q", layer, tenant)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(int(s.max))
	err := s.scan(groupCtx, what, getLayer, []any{tenant, layer}, func(next func(...any) bool) error {
		e := entry{Series: store.Series{Tenant: tenant, Layer: layer}}
		var day time.Time
		for next(&e.Experiment, &e.Metric, &e.kind, &day) {
			e.day = day.UnixMilli()
			t := rowsTable
			if e.kind == rollupsTable.kind {
				t = rollupsTable
			}
			if start := e.day / 60_000; start < to && from < start+t.span {
				one := e
				group.Go(func() error {
					return s.deleteFrom(groupCtx, what, t, one, start, max(from, start), min(to, start+t.span))
				})
			}
		}
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed // err is then what it brought about
	}
	return err
}

// deleteFrom deletes minutes [from, to) of a partition, and its entry when nothing is left.
func (s *Store) deleteFrom(ctx context.Context, what string, t *table, e entry, start, from, to int64) error {
	last := (to-1)*minuteMicros + store.MaxVersion // the greatest time that a write to these minutes can have
	err := s.write(ctx, what, 0, func(w *gocql.Batch) {
		add(w, t.drop, append([]any{last}, key(&e.Series, start, int32(from-start), int32(to-start))...)...)
	})
	if err != nil {
		return err
	}
	if to-from < t.span {
		left := false
		err := s.scan(ctx, what, t.any, key(&e.Series, start), func(func(...any) bool) error {
			left = true
			return nil
		})
		if err != nil || left {
			return err
		}
	}
	s.forget(e)
	at := s.tick()
	err = s.write(ctx, what, 0, func(w *gocql.Batch) {
		add(w, dropSeries, at, e.Tenant, e.Experiment, e.Metric, e.Layer, e.kind, e.day)
	})
	if err != nil {
		return err
	}
	return s.write(ctx, what, 0, func(w *gocql.Batch) {
		add(w, dropLayer, at, e.Tenant, e.Layer, e.Experiment, e.Metric, e.kind, e.day)
	})
}
