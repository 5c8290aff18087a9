package cassandra

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/gocql/gocql"
	"golang.org/x/sync/errgroup"

	"tandem/schemas/store"
)

const (
	batchBytes = 64 << 10 // of values; Cassandra's own warnings are about batches of several partitions
	batchRows  = 200
	pageRows   = 500
	// directDays is how many partitions a reader asks without looking up first which there are.
	directDays = 4
	// rereads is how often a row is read again whose parts do not fit, with a wait of the retrier's kind between.
	rereads = 6
)

const (
	minuteMicros = 60_000_000
	dayMinutes   = 24 * 60
	dayMillis    = 24 * 60 * 60 * 1000
)

// MaxLife is the longest TTL. What lives longer has none: a node with the default storage_compatibility_mode refuses
// lives that end after 2038.
const MaxLife = 5 * 366 * 24 * time.Hour

// never is the expiry of what does not expire.
const never = math.MaxInt64

// table is one that holds values in parts.
type table struct {
	kind string // in the catalog
	span int64  // minutes of a partition
	// Statements: write a part; read minutes of a partition; delete minutes of it; whether it has any.
	write, read, drop, any string
}

const seriesDay = "tenant = ? AND experiment = ? AND metric = ? AND layer = ? AND day = ?"

func seriesTable(name, kind string, days int64) *table {
	return &table{
		kind: kind, span: days * dayMinutes,
		write: "INSERT INTO " + name + " (tenant, experiment, metric, layer, day, minute, part, v) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
		read:  "SELECT minute, part, v, writetime(v) FROM " + name + " WHERE " + seriesDay + " AND minute >= ? AND minute < ?",
		drop:  "DELETE FROM " + name + " USING TIMESTAMP ? WHERE " + seriesDay + " AND minute >= ? AND minute < ?",
		any:   "SELECT minute FROM " + name + " WHERE " + seriesDay + " LIMIT 1",
	}
}

var (
	rowsTable     = seriesTable("rows", "m", 1)
	rollupsTable  = seriesTable("rollups", "w", 30)
	coverageTable = &table{
		span:  30 * dayMinutes,
		write: "INSERT INTO coverage (tenant, day, minute, part, v) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL 0",
		read:  "SELECT minute, part, v, writetime(v) FROM coverage WHERE tenant = ? AND day = ? AND minute >= ? AND minute < ?",
	}
)

// start is the first minute of a minute's partition.
func (t *table) start(minute int64) int64 { return minute - minute%t.span }

// date is the value of a column of type date.
func date(minute int64) int64 { return minute / dayMinutes * dayMillis }

// key is the arguments for seriesDay, and more.
func key(s *store.Series, start int64, more ...any) []any {
	return append([]any{s.Tenant, s.Experiment, s.Metric, s.Layer, date(start)}, more...)
}

// PutRows implements store.Store.
func (s *Store) PutRows(ctx context.Context, rows []store.Row) error {
	return s.putRows(ctx, rowsTable, rows)
}

// PutRollups implements store.Store.
func (s *Store) PutRollups(ctx context.Context, rows []store.Row) error {
	return s.putRows(ctx, rollupsTable, rows)
}

// batch is rows of one partition, written at once.
type batch struct {
	rows  []*store.Row
	start int64 // of the partition
	bytes int
}

func (s *Store) putRows(ctx context.Context, t *table, rows []store.Row) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := store.CheckRows(rows); err != nil {
		return err
	}
	if err := s.list(ctx, t, rows); err != nil { // first, so that no row is without its entry
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(int(s.max))
	for _, b := range batches(t, rows) {
		group.Go(func() error { return s.putBatch(ctx, t, b) })
	}
	return group.Wait()
}

// batches parts rows by partition, and into what goes at once.
func batches(t *table, rows []store.Row) []*batch {
	type partition struct {
		store.Series
		start int64
	}
	var all []*batch
	open := map[partition]*batch{}
	for i := range rows {
		r := &rows[i]
		p := partition{r.Series, t.start(r.Minute)}
		b := open[p]
		if b == nil || len(b.rows) == batchRows || b.bytes+len(r.Value) > batchBytes {
			b = &batch{start: p.start}
			open[p] = b
			all = append(all, b)
		}
		b.rows = append(b.rows, r)
		b.bytes += len(r.Value)
	}
	return all
}

func (s *Store) putBatch(ctx context.Context, t *table, b *batch) error {
	var rows, bytes int64
	what := fmt.Sprintf("write rows of %s, minute %d", b.rows[0].Series, b.rows[0].Minute)
	err := s.write(ctx, what, b.bytes, func(w *gocql.Batch) {
		now := s.now()
		rows, bytes = 0, 0
		var cells [][]byte
		for _, r := range b.rows {
			ttl, alive := life(r.Expires, now)
			if !alive {
				continue
			}
			at := r.Minute*minuteMicros + r.Version
			cells = appendParts(cells[:0], r.Value)
			for part, c := range cells {
				add(w, t.write, key(&r.Series, b.start, int32(r.Minute-b.start), int16(part), c, at, ttl)...)
			}
			rows, bytes = rows+1, bytes+int64(len(r.Value))
		}
	})
	if err == nil {
		s.rows.Add(rows)
		s.bytes.Add(bytes)
	}
	return err
}

// add adds a statement that may be repeated.
func add(w *gocql.Batch, statement string, args ...any) {
	w.Entries = append(w.Entries, gocql.BatchEntry{Stmt: statement, Args: args, Idempotent: true})
}

// write writes one batch of statements to one partition, made anew for each attempt. size is about that of their values.
func (s *Store) write(ctx context.Context, what string, size int, fill func(*gocql.Batch)) error {
	weight := min(int64(1+size/batchBytes), s.max)
	if err := s.slots.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer s.slots.Release(weight)
	return s.retry(ctx, what, func() error {
		w := s.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		fill(w)
		if len(w.Entries) == 0 {
			return nil
		}
		return s.session.ExecuteBatch(w)
	})
}

// life is the TTL in seconds of what expires at that ms, 0 for none, and whether it is alive at all. The server counts
// from its own second: so all writers of a moment give it the same end.
func life(expires int64, now time.Time) (ttl int32, alive bool) {
	if expires == 0 {
		return 0, true
	}
	seconds := expires/1000 - now.Unix()
	if seconds > int64(MaxLife/time.Second) {
		return 0, true
	}
	return int32(seconds), seconds > 0
}

// Rows implements store.Store.
func (s *Store) Rows(ctx context.Context, sr store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	return s.readRows(ctx, rowsTable, sr, from, to, fn)
}

// Rollups implements store.Store.
func (s *Store) Rollups(ctx context.Context, sr store.Series, from, to int64, fn func(window, version int64, value []byte) error) error {
	return s.readRows(ctx, rollupsTable, sr, from, to, fn)
}

func (s *Store) readRows(ctx context.Context, t *table, sr store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := sr.Check(); err != nil {
		return err
	}
	from, to = store.ClampMinutes(from, to)
	if from >= to {
		return nil
	}
	days, err := s.days(ctx, t, from, to, func() ([]int64, error) { return s.listedDays(ctx, t, &sr, from, to) })
	if err != nil {
		return err
	}
	for _, start := range days {
		what := fmt.Sprintf("read rows of %s from minute %d", sr, start)
		err := s.values(ctx, what, t, key(&sr, start), start, from, to, func(minute, time int64, value []byte) error {
			version := time - minute*minuteMicros
			if version < 0 || version > store.MaxVersion {
				return fmt.Errorf("%w: %s minute %d: written at %d us, which is none of its times", store.ErrCorrupt, sr, minute, time)
			}
			return fn(minute, version, value)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// days is the partitions to look at for minutes [from, to), ascending: all if they are few, else what listed says.
func (s *Store) days(ctx context.Context, t *table, from, to int64, listed func() ([]int64, error)) ([]int64, error) {
	first, last := t.start(from), t.start(to-1)
	if (last-first)/t.span >= directDays {
		return listed()
	}
	var all []int64
	for start := first; start <= last; start += t.span {
		all = append(all, start)
	}
	return all, nil
}

// values calls fn for the values of a partition with minutes in [from, to).
func (s *Store) values(ctx context.Context, what string, t *table, key []any, start, from, to int64, fn func(minute, time int64, value []byte) error) error {
	a := assembler{
		emit:  func(minute int32, time int64, value []byte) error { return fn(start+int64(minute), time, value) },
		again: func(minute int32) error { return s.reread(ctx, what, t, key, start, minute, fn) },
	}
	return s.cells(ctx, what, t, key, int32(max(from-start, 0)), int32(min(to-start, t.span)), &a)
}

var errTorn = errors.New("not all parts of one version are there")

// reread reads the parts of one minute together, in a page, until they fit.
func (s *Store) reread(ctx context.Context, what string, t *table, key []any, start int64, minute int32, fn func(minute, time int64, value []byte) error) error {
	left := rereads
	var result error // of fn, or of a read, which has been tried for long enough
	err := s.retry(ctx, what, func() error {
		a := assembler{
			emit:  func(minute int32, time int64, value []byte) error { return fn(start+int64(minute), time, value) },
			again: func(int32) error { return errTorn },
		}
		result = s.cells(ctx, what, t, key, minute, minute+1, &a)
		if left--; result == errTorn && left == 0 {
			result = fmt.Errorf("%s: %w: minute %d: %w", what, store.ErrCorrupt, start+int64(minute), errTorn)
		}
		if result == errTorn {
			return errTorn
		}
		return nil
	})
	if err != nil {
		return err
	}
	return result
}

func (s *Store) cells(ctx context.Context, what string, t *table, key []any, from, to int32, a *assembler) error {
	args := append(key[:len(key):len(key)], from, to)
	err := s.scan(ctx, what, t.read, args, func(next func(...any) bool) error {
		var minute int32
		var part int16
		var cell []byte
		var time int64
		for next(&minute, &part, &cell, &time) {
			if err := a.add(minute, part, time, cell); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.finish()
}

// scan runs a query page by page, each fetched until it comes, and has fn read the rows of a page.
func (s *Store) scan(ctx context.Context, what, statement string, args []any, fn func(next func(...any) bool) error) error {
	if args[0] == "" {
		return nil // the first name of a key is never empty, and servers refuse to look for it
	}
	var state []byte
	for {
		var page *gocql.Iter
		err := s.retry(ctx, what, func() error {
			page = s.session.Query(statement, args...).WithContext(ctx).PageState(state).Iter()
			if page.NumRows() > 0 {
				return nil
			}
			return page.Close()
		})
		if err != nil {
			return err
		}
		state = page.PageState()
		if page.NumRows() > 0 {
			err = fn(page.Scan)
			if closing := page.Close(); err == nil && closing != nil {
				err = fmt.Errorf("%s: %w", what, closing)
			}
		}
		if err != nil {
			return err
		}
		if len(state) == 0 {
			return nil
		}
	}
}
