package batch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/schemas/blob"
)

func TestAnyRanges(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	rows, counts := wanted(t, configs, records, false)
	blobs := blob.NewMem()
	put(t, blobs, chain, records, 3)
	objects := copyOf(t, blobs)
	var first outcome
	for i, n := range []int{1, 2, 3, 7, 64, 0} {
		j, st := job(t, chain, objects(), n)
		run(t, j)
		got := outcomeOf(t, j, st)
		if i == 0 {
			first = got
			sameLines(t, "rows", got.rows, rows)
			for _, name := range []string{"unused", "duplicate", "overflow", "conflict", "unknown_variation"} {
				if got.counts[name] != counts[name] {
					t.Errorf("%s: %d, want %d", name, got.counts[name], counts[name])
				}
			}
			if len(got.rows) == 0 || got.counts["duplicate"] == 0 || got.counts["late"] == 0 || got.counts["conflict"] == 0 {
				t.Fatalf("the records show nothing: %v", got.counts)
			}
		}
		got.same(t, fmt.Sprint(n, " ranges"), first)
		if again, _, err := j.Plan(context.Background()); err != nil || again != nil {
			t.Errorf("%d ranges: after all is covered the plan is %+v, %v", n, again, err)
		}
		j.Ranges = 5 // what another number of ranges has made stands
		if again, _, err := j.Plan(context.Background()); err != nil || again != nil {
			t.Errorf("5 ranges after %d: the plan is %+v, %v", n, again, err)
		}
	}
}

func TestRangesAreChecked(t *testing.T) {
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(2), 1)
	for _, n := range []int{-1, 65, 1000} {
		j, _ := job(t, chain, blobs, n)
		if err := j.Run(context.Background()); err == nil || !strings.Contains(err.Error(), strconv.Itoa(n)+" hash ranges") {
			t.Errorf("%d ranges: error %v", n, err)
		}
	}
}

// copyOf returns a function that makes copies of a store.
func copyOf(t testing.TB, from blob.Store) func() blob.Store {
	return func() blob.Store {
		names, err := from.List("")
		if err != nil {
			t.Fatal(err)
		}
		to := blob.NewMem()
		for _, name := range names {
			data, err := from.Get(name)
			if err == nil {
				err = to.Create(name, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return to
	}
}

func TestMapIsIdempotent(t *testing.T) {
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(40), 2)
	objects := copyOf(t, blobs)
	ctx := context.Background()
	made := func(again bool) map[string]string {
		blobs := objects()
		j, _ := job(t, chain, blobs, 3)
		p, a, err := j.Plan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for range map[bool]int{false: 1, true: 2}[again] {
			if err := j.MapAll(ctx, p, a); err != nil {
				t.Fatal(err)
			}
		}
		if again { // with the run there and its result not, as after a crash between the two
			name := j.outName(p.Generation, p.Windows[0].Window, 1, "sums")
			if err := blobs.Delete(name); err != nil {
				t.Fatal(err)
			}
			if err := j.MapAll(ctx, p, a); err != nil {
				t.Fatal(err)
			}
		}
		names, err := blobs.List(j.folder())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, name := range names {
			data, err := blobs.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(data)
		}
		return out
	}
	once := made(false)
	if len(once) < 10 {
		t.Fatalf("only %d objects", len(once))
	}
	for range 3 {
		if other := made(false); !maps.Equal(once, other) {
			t.Fatal("two runs of the same maps differ")
		}
	}
	if twice := made(true); !maps.Equal(once, twice) {
		t.Fatal("maps that run again leave something else")
	}
}

var errKilled = errors.New("killed")

// mortal fails from a number of Creates on. If after, the last of them has written its object all the same.
type mortal struct {
	blob.Store
	mu    sync.Mutex
	left  int
	after bool
}

func (m *mortal) Create(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left--; m.left >= 0 {
		return m.Store.Create(name, data)
	}
	if m.after && m.left == -1 {
		if err := m.Store.Create(name, data); err != nil {
			return err
		}
	}
	return errKilled
}

func TestKilled(t *testing.T) {
	chain, _ := compiled(t)
	archived := blob.NewMem()
	put(t, archived, chain, traffic(12), 1)
	objects := copyOf(t, archived)
	j, st := job(t, chain, objects(), 2)
	run(t, j)
	want := outcomeOf(t, j, st)
	for n := 0; ; n++ {
		blobs := objects()
		j, st := job(t, chain, nil, 2)
		j.Blobs = &mortal{Store: blobs, left: n, after: n%2 == 0}
		err := j.Run(context.Background())
		if err == nil {
			if n < 8 {
				t.Errorf("only %d Creates", n)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("after %d Creates: %v", n, err)
		}
		j.Blobs = blobs
		run(t, j)
		got := outcomeOf(t, j, st)
		got.same(t, fmt.Sprintf("killed after %d Creates", n), want)
	}
}

// A batch was stopped before its first reduce, and the release that goes on with its plan lays state runs out otherwise.
func TestKilledAndGoneOnWithByAnotherRelease(t *testing.T) {
	chain, _ := compiled(t)
	archived := blob.NewMem()
	put(t, archived, chain, traffic(40), 1)
	objects := copyOf(t, archived)
	j, st := job(t, chain, objects(), 2)
	run(t, j)
	want := outcomeOf(t, j, st)
	j, st = job(t, chain, objects(), 2)
	blobs := j.Blobs
	j.Blobs = &unreduced{blobs}
	if err := j.Run(context.Background()); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	names, err := blobs.List(j.folder() + "out/")
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for _, name := range names {
		if strings.HasSuffix(name, ".parquet") {
			others++
			if err := errors.Join(blobs.Delete(name), blobs.Create(name, []byte("of another release"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if others == 0 {
		t.Fatal("it left no state runs")
	}
	j.Blobs = blobs
	run(t, j)
	if p, err := j.Standing(); err != nil || p.Generation != 1 {
		t.Fatalf("plan %+v, %v: another one was claimed", p, err)
	}
	got := outcomeOf(t, j, st)
	sameLines(t, "rows", got.rows, want.rows)
	run(t, j)
}

// unreduced fails what ends a window's maps.
type unreduced struct{ blob.Store }

func (u *unreduced) Create(name string, data []byte) error {
	if strings.HasSuffix(name, "/run.json") {
		return errKilled
	}
	return u.Store.Create(name, data)
}

func TestSideBySide(t *testing.T) {
	chain, _ := compiled(t)
	archived := blob.NewMem()
	put(t, archived, chain, traffic(20), 2)
	objects := copyOf(t, archived)
	alone, st := job(t, chain, objects(), 2)
	run(t, alone)
	want := outcomeOf(t, alone, st)

	one, st := job(t, chain, objects(), 2)
	other := *one
	other.Ranges = 3
	var wg sync.WaitGroup
	var errs [2]error
	for i, j := range []*Job{one, &other} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = j.Run(context.Background())
		}()
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	run(t, one)
	got := outcomeOf(t, one, st)
	got.same(t, "two jobs at once", want)

	// The same by hand: both have claimed before either maps, and the first to claim ends last.
	one, st = job(t, chain, objects(), 2)
	ctx := context.Background()
	first, a, err := one.Plan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other = *one
	other.Ranges = 3 // so that it claims its own
	run(t, &other)
	if _, err := one.run(ctx, first, a, time.Now()); err != nil {
		t.Fatal(err)
	}
	run(t, one)
	got = outcomeOf(t, one, st)
	got.same(t, "an older generation that ends last", want)
	if covered, err := one.Covered(ctx); err != nil || covered[t0] == nil || covered[t0].Generation != first.Generation+1 {
		t.Errorf("coverage of the first window is %+v, %v; want the greater generation", covered[t0], err)
	}
}

func TestReduceRefuses(t *testing.T) {
	chain, _ := compiled(t)
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		change func(blobs blob.Store, name string) error
		want   error
	}{
		{"missing", func(b blob.Store, name string) error { return b.Delete(name) }, blob.ErrNotFound},
		{"a byte changed", replace(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), ErrCorrupt},
		{"a byte of the head changed", replace(func(b []byte) []byte { b[resultFixed+5] ^= 1; return b }), ErrCorrupt},
		{"a byte longer", replace(func(b []byte) []byte { return append(b, 0) }), ErrCorrupt},
		{"cut", replace(func(b []byte) []byte { return b[:len(b)/2] }), ErrCorrupt},
		{"another magic", replace(func(b []byte) []byte { b[4]++; return b }), ErrCorrupt},
		{"empty", replace(func([]byte) []byte { return nil }), ErrCorrupt},
		{"a good digest of rubbish", replace(func([]byte) []byte { return resealed([]byte{0xff, 0xff, 0xff}) }), ErrCorrupt},
		{"a good digest of nothing", replace(func([]byte) []byte { return resealed(nil) }), ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			blobs := blob.NewMem()
			put(t, blobs, chain, traffic(10), 1)
			j, st := job(t, chain, blobs, 3)
			p, a, err := j.Plan(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.MapAll(ctx, p, a); err != nil {
				t.Fatal(err)
			}
			name := j.outName(p.Generation, p.Windows[0].Window, 2, "sums")
			if err := c.change(blobs, name); err != nil {
				t.Fatal(err)
			}
			files := j.open()
			defer files.close()
			if _, err := j.Reduce(ctx, p, 0, files); !errors.Is(err, c.want) || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want one that is %v and names %s", err, c.want, name)
			}
			if o := outcomeOf(t, j, st); len(o.digests) != 0 || len(o.rows) != 0 {
				t.Errorf("%d windows are covered, %d rows seen", len(o.digests), len(o.rows))
			}
			if c.want == ErrCorrupt {
				if _, err := j.Map(ctx, p, 0, 2, a, files); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
					t.Errorf("map again: error %v", err)
				}
			}
		})
	}
}

func replace(f func([]byte) []byte) func(blob.Store, string) error {
	return func(b blob.Store, name string) error {
		data, err := b.Get(name)
		if err == nil {
			err = b.Delete(name)
		}
		if err != nil {
			return err
		}
		return b.Create(name, f(data))
	}
}

// resealed is a map result with another head, and nothing after it, under a digest that fits.
func resealed(head []byte) []byte {
	b := binary.LittleEndian.AppendUint64([]byte(resultMagic), xxhash.Sum64(head))
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(head))), head...)
}

// Beacons that reach the archive after all is covered: what is due then comes to what it had been with them at once.
func TestLateFile(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(30)
	rows, _ := wanted(t, configs, records, false)
	late := func(r oracle.Record) bool { return xxhash.Sum64(r.Payload)%3 == 0 }
	blobs := blob.NewMem()
	put(t, blobs, chain, slices.DeleteFunc(slices.Clone(records), late), 1)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	put(t, blobs, chain, slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return !late(r) }), 1)
	run(t, j)
	sameLines(t, "rows after a late file", outcomeOf(t, j, st).rows, rows)
}

// A revision before one that has been run gives other ids to what the later one names: its states cannot be read any more,
// so a new window that would read them waits for them to be made again.
func TestIdsThatChange(t *testing.T) {
	later := fmt.Sprintf("from: %s\npoints: {home: {kind: page, stats: true}, cart: {}}\nsession_ttl: 1h\n", at(10))
	spliced := fmt.Sprintf("from: %s\npoints: {home: {kind: page, stats: true}, elsewhere: {kind: page}}\nsession_ttl: 1h\n", at(5))
	before := compile(t, config, later)
	configs := load(t, config, spliced, later)
	after := compile(t, config, spliced, later)
	records := traffic(20)
	end := t0 + 2*WindowMS
	first := slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest >= end })
	blobs := blob.NewMem()
	putUntil(t, blobs, before, first, 1, end+10*minute)
	j, st := job(t, before, blobs, 2)
	run(t, j)
	put(t, blobs, after, slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest < end }), 1)
	j.Chain = after
	run(t, j)
	rows, _ := wanted(t, configs, records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
}

// The batch against the oracle in the worlds that the oracle's own tests use, with everything and with what is on time.
func TestWorlds(t *testing.T) {
	for seed := range uint64(6) {
		w := worlds.Generate(seed)
		configs, chain, err := w.Compile()
		if err != nil {
			t.Fatal(err)
		}
		for _, onTime := range []bool{false, true} {
			blobs := blob.NewMem()
			put(t, blobs, chain, w.Records, 2)
			j, st := job(t, chain, blobs, 1+int(seed%3))
			j.OnTime = onTime
			run(t, j)
			rows, counts := wanted(t, configs, w.Records, onTime)
			got := outcomeOf(t, j, st)
			what := fmt.Sprintf("seed %d, on time %t", seed, onTime)
			sameLines(t, what, got.rows, rows)
			names := []string{"unused", "duplicate", "overflow", "conflict", "unknown_variation"}
			if onTime {
				names = []string{"unused", "late", "conflict", "unknown_variation"}
			}
			for _, name := range names {
				if got.counts[name] != counts[name] {
					t.Errorf("%s: %s %d, want %d", what, name, got.counts[name], counts[name])
				}
			}
			if t.Failed() {
				t.Fatalf("the world:\n%s", w)
			}
		}
	}
}
