package batch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"tandem/core/oracle/worlds"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

// countedWrites counts what is written to blobs and to a store, and fails from some write on.
type countedWrites struct {
	blob.Store
	rows Store

	mu    sync.Mutex
	n     int
	least int // writes until it fails, 0: never
	after bool
}

// write counts a write; it may be let through though the writer is told that it failed.
func (c *countedWrites) write(do func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if c.least > 0 && c.n >= c.least {
		if c.after && c.n == c.least {
			if err := do(); err != nil {
				return err
			}
		}
		return errKilled
	}
	return do()
}

func (c *countedWrites) Create(name string, data []byte) error {
	return c.write(func() error { return c.Store.Create(name, data) })
}

func (c *countedWrites) Delete(name string) error {
	return c.write(func() error { return c.Store.Delete(name) })
}

type countedRows struct{ *countedWrites }

func (c countedRows) PutRows(ctx context.Context, rows []store.Row) error {
	return c.write(func() error { return c.rows.PutRows(ctx, rows) })
}

func (c countedRows) PutRollups(ctx context.Context, rows []store.Row) error {
	return c.write(func() error { return c.rows.PutRollups(ctx, rows) })
}

func (c countedRows) PutCoverage(ctx context.Context, x store.Coverage) error {
	return c.write(func() error { return c.rows.PutCoverage(ctx, x) })
}

func (c countedRows) Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	return c.rows.Coverage(ctx, tenant, from, to, fn)
}

// counting makes a job write through a counter.
func counting(j *Job) *countedWrites {
	c := &countedWrites{Store: j.Blobs, rows: j.Store}
	j.Blobs, j.Store = c, countedRows{c}
	return c
}

// A backfill that is killed at any of its writes, and given again.
func TestBackfillKilled(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(12)
	archived := blob.NewMem()
	put(t, archived, chainOf(t, before), records, 1)
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	objects := copyOf(t, archived)
	step := 9
	if *long {
		step = 1
	}
	for least := 1; ; least += step {
		j, st := job(t, chainOf(t, before), objects(), 2)
		j.Parallel = 1
		run(t, j)
		j.Chain = chainOf(t, after)
		j.Portion = 1 // a window a plan
		own := *j
		c := counting(&own)
		c.least, c.after = least, least%2 == 0
		err := own.Backfill(context.Background(), everything(), nil)
		if err == nil {
			if least < 20 {
				t.Errorf("only %d writes", least)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("killed at write %d: %v", least, err)
		}
		backfill(t, j, everything())
		what := fmt.Sprintf("killed at write %d", least)
		sameLines(t, what, outcomeOf(t, j, st).rows, rows)
		quiet(t, what, j, everything())
		if t.Failed() {
			return
		}
	}
}

func TestBackfillsSideBySide(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(30)
	j, st := covered(t, before, records)
	j.Chain = chainOf(t, after)
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		own := *j
		own.Ranges, own.Portion = 1+i%3, int64(i)*10
		wg.Go(func() {
			if i == 3 {
				errs[i] = own.Run(context.Background())
				return
			}
			errs[i] = own.Backfill(context.Background(), everything(), nil)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	backfill(t, j, everything())
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	quiet(t, "after them", j, everything())
}

// A reader that polls while a backfill runs sees each window as it was or as it becomes, never in part.
func TestBackfillWithAReader(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(60)
	blobs := blob.NewMem()
	put(t, blobs, chainOf(t, before), records, 2)
	j, st := job(t, chainOf(t, before), blobs, 2)
	run(t, j)
	byWindow := func(lines []string) map[int64]string {
		out := map[int64]string{}
		for _, l := range lines {
			var m int64
			fmt.Sscan(strings.Split(l, "\t")[2], &m)
			out[m*minute/WindowMS*WindowMS] += l + "\n"
		}
		return out
	}
	was := byWindow(outcomeOf(t, j, st).rows)
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	becomes := byWindow(rows)
	j.Chain = chainOf(t, after)
	j.Portion, j.Throttle = 10, 50
	ended := make(chan error, 1)
	go func() { ended <- j.Backfill(context.Background(), everything(), nil) }()
	reader := *j
	mixed, looks := 0, 0
	for done := false; !done; looks++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
		now := byWindow(outcomeOf(t, &reader, st).rows)
		old, changed := 0, 0
		for _, w := range slices.Sorted(maps.Keys(was)) {
			switch now[w] {
			case becomes[w]:
				if was[w] != becomes[w] {
					changed++
				}
			case was[w]:
				old++
			default:
				t.Fatalf("window %s is neither as it was nor as it becomes:\n%s", windowName(w), now[w])
			}
		}
		if old > 0 && changed > 0 {
			mixed++
		}
	}
	if mixed == 0 {
		t.Logf("of %d looks none saw the backfill in the middle", looks)
	}
}
