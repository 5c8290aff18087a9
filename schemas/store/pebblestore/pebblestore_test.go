package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"tandem/schemas/store"
)

var (
	ctx  = context.Background()
	home = store.Series{Tenant: "uswm", Metric: "site.home_page", Layer: "stream.dc1"}
)

// compacting flushes after every write of rows, and now and then compacts.
type compacting struct{ *Store }

func (c compacting) PutRows(ctx context.Context, rows []store.Row) error {
	return errors.Join(c.Store.PutRows(ctx, rows), c.settle(len(rows)%3 == 0))
}

func (c compacting) PutRollups(ctx context.Context, rows []store.Row) error {
	return errors.Join(c.Store.PutRollups(ctx, rows), c.settle(true))
}

func (c compacting) settle(compact bool) error {
	if c.begin() != nil {
		return nil
	}
	defer c.end()
	if err := c.db.Flush(); err != nil || !compact {
		return err
	}
	return c.db.Compact(ctx, []byte{0}, []byte{255}, false)
}

// The law of the package comment: of any operands, in any order, grouped in any way, repeated, the same one stands.
func TestMergeLaw(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	record := func() []byte {
		b := make([]byte, recordBytes(r.IntN(4)))
		putRecord(b, r.Int64N(3), r.Int64N(2), make([]byte, len(b)-recordBytes(0)))
		if r.IntN(4) == 0 {
			b = b[:r.IntN(len(b))] // damaged
		}
		return b
	}
	merge := func(operands [][]byte) []byte {
		if r.IntN(2) == 0 {
			m, _ := newMerger().Merge(nil, operands[0])
			for _, o := range operands[1:] {
				_ = m.MergeNewer(o)
			}
			v, _, _ := m.Finish(true)
			return v
		}
		last := len(operands) - 1
		m, _ := newMerger().Merge(nil, operands[last])
		for i := range last {
			_ = m.MergeOlder(operands[last-1-i])
		}
		v, _, _ := m.Finish(false)
		return v
	}
	var tree func(operands [][]byte) []byte
	tree = func(operands [][]byte) []byte {
		if len(operands) < 3 {
			return merge(operands)
		}
		cut := 1 + r.IntN(len(operands)-1)
		return merge([][]byte{tree(operands[:cut]), tree(operands[cut:])})
	}
	for i := range 3000 {
		var operands [][]byte
		for range 1 + r.IntN(6) {
			operands = append(operands, record())
		}
		want := slices.MaxFunc(operands, bytes.Compare)
		for range 1 + r.IntN(3) {
			operands = append(operands, operands[r.IntN(len(operands))])
		}
		before := slices.Clone(operands)
		for j := range before {
			before[j] = bytes.Clone(before[j])
		}
		r.Shuffle(len(operands), func(i, j int) { operands[i], operands[j] = operands[j], operands[i] })
		if got := tree(operands); !bytes.Equal(got, want) {
			t.Fatalf("round %d: %x stands of %x, want %x", i, got, operands, want)
		}
		for _, b := range before {
			if !slices.ContainsFunc(operands, func(o []byte) bool { return bytes.Equal(o, b) }) {
				t.Fatalf("round %d: an operand was changed", i)
			}
		}
	}
}

var pieces = []string{"\x00", "\x01", "\xfe", "\xff", "a", "b", "é"}

func someName(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// Keys sort as their names, none begins with another, and they are read back.
func TestKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for i := range 20_000 {
		a, b := someSeries(r), someSeries(r)
		if i%3 == 0 {
			b.Tenant, b.Experiment = a.Tenant, a.Experiment
		}
		ka, kb := appendSeries(nil, tableRows, &a), appendSeries(nil, tableRows, &b)
		if got, want := bytes.Compare(ka, kb), compareSeries(a, b); got != want {
			t.Fatalf("%v and %v compare as %d, keys %x and %x as %d", a, b, want, ka, kb, got)
		}
		if a != b && bytes.HasPrefix(ka, kb) {
			t.Fatalf("the key of %v begins with that of %v", a, b)
		}
		for _, table := range []byte{tableRows, tableLayers} {
			got, rest, err := readSeries(append(appendSeries(nil, table, &a), 1, 2, 3, 4))
			if err != nil || got != a || len(rest) != 4 {
				t.Fatalf("%v is read as %v, %x, %v", a, got, rest, err)
			}
		}
		n := r.Int64N(store.MaxMinute + 1)
		if got, err := readNumber(appendNumber(ka, n), len(ka)); err != nil || got != n {
			t.Fatalf("number %d is read as %d, %v", n, got, err)
		}
	}
}

func someSeries(r *rand.Rand) store.Series {
	s := store.Series{Tenant: someName(r), Metric: someName(r), Layer: someName(r)}
	if r.IntN(2) == 0 {
		s.Experiment = someName(r)
	}
	return s
}

func compareSeries(a, b store.Series) int {
	return slices.Compare([]string{a.Tenant, a.Experiment, a.Metric, a.Layer}, []string{b.Tenant, b.Experiment, b.Metric, b.Layer})
}

func FuzzReadSeries(f *testing.F) {
	f.Add(appendSeries(nil, tableRows, &home))
	f.Add(appendNumber(appendSeries(nil, tableLayers, &home), 7))
	f.Add([]byte("p\x00\xff\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, key []byte) {
		if describe(key) == "" {
			t.Fatal("no description")
		}
		s, rest, err := readSeries(key)
		if err != nil {
			return
		}
		if again := append(appendSeries(nil, key[0], &s), rest...); !bytes.Equal(again, key) {
			t.Fatalf("key %x, read %v, written %x", key, s, again)
		}
	})
}

// Damage is reported with the key named by whoever reads it, and does not spread to the other rows.
func TestCorruptValues(t *testing.T) {
	now := newClock().now
	s := open(t, "", Options{Now: now, InMemory: true})
	minute := now().Unix() / 60
	put := func(k int64) []byte {
		if err := s.PutRows(ctx, []store.Row{{Series: home, Minute: minute + k, Version: 1, Value: []byte("value")}}); err != nil {
			t.Fatal(err)
		}
		return appendNumber(appendSeries(nil, tableRows, &home), minute+k)
	}
	put(0)
	for k, damage := range []func([]byte) []byte{
		func(b []byte) []byte { b[headBytes] ^= 1; return b },
		func(b []byte) []byte { b[7] ^= 1; return b },
		func(b []byte) []byte { return b[:len(b)-1] },
		func([]byte) []byte { return nil },
		func([]byte) []byte { return []byte("\xffshort") },
	} {
		key := put(int64(k + 1))
		v, closer, err := s.db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		bad := damage(bytes.Clone(v))
		if err := errors.Join(closer.Close(), s.db.Set(key, bad, pebble.Sync)); err != nil {
			t.Fatal(err)
		}
		err = s.Rows(ctx, home, minute+int64(k)+1, minute+int64(k)+2, func(int64, int64, []byte) error {
			t.Errorf("damage %d: value used", k)
			return nil
		})
		wantCorrupt(t, err, fmt.Sprintf("row of tenant %q experiment %q metric %q layer %q minute %d", "uswm", "", "site.home_page", "stream.dc1", minute+int64(k)+1))
		if err := s.Rows(ctx, home, minute, minute+1, func(int64, int64, []byte) error { return nil }); err != nil {
			t.Errorf("damage %d: %v", k, err)
		}
	}
	set := func(key []byte) {
		if err := s.db.Set(key, []byte("nonsense of some length"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	set(appendNumber(appendNames(nil, tableCoverage, "t"), 30))
	wantCorrupt(t, s.Coverage(ctx, "t", 0, 60, nil), `coverage of tenant "t" minute 30`)
	set(appendNumber(appendNames(nil, tableProgress, "l", "t"), 3))
	_, err := s.Progress(ctx, "l", "t")
	wantCorrupt(t, err, `progress of layer "l" tenant "t" partition 3`)
	set(appendNames(nil, tableActive, "t"))
	_, _, err = s.Active(ctx, "t")
	wantCorrupt(t, err, `active layer of tenant "t"`)
	set(append(appendNames(nil, tableCatalog, "t"), "x"...))
	wantCorrupt(t, s.Catalog(ctx, "t", nil), "key")
	set(appendNames(nil, tableCoverage, "u", "more"))
	wantCorrupt(t, s.Coverage(ctx, "u", 0, 1<<40, nil), "key")
	if _, err := s.Sweep(ctx); err != nil {
		t.Errorf("Sweep: %v", err)
	}
}

func wantCorrupt(t *testing.T, err error, name string) {
	t.Helper()
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), name) {
		t.Errorf("%v, want a corrupt %s", err, name)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.db.Set([]byte("\x00format"), []byte("2"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), `format "2"`) {
		t.Errorf("another format: %v", err)
	}

	foreign := t.TempDir()
	db, err := pebble.Open(foreign, &pebble.Options{Logger: silent{}, Merger: newMerger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("x"), nil, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign, Options{}); err == nil || !strings.Contains(err.Error(), "not a metric store") {
		t.Errorf("another's folder: %v", err)
	}
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); err == nil {
		t.Error("a file is no folder")
	}
}

// What was acknowledged is there after a crash: the files are copied while the store is open, as a power cut would
// leave them.
func TestCrash(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s := open(t, dir, Options{})
	for i := range int64(50) {
		if err := s.PutRows(ctx, []store.Row{{Series: home, Minute: i, Version: 1, Value: []byte("value")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := open(t, copied, Options{}).Rows(ctx, home, 0, 100, func(int64, int64, []byte) error { n++; return nil }); err != nil || n != 50 {
		t.Errorf("%d of 50 rows, %v", n, err)
	}
}

// Sweep deletes exactly what no reader sees any more, and the catalog follows.
func TestSweep(t *testing.T) {
	c := newClock()
	s := open(t, "", Options{Now: c.now, InMemory: true})
	gone, stays := home, home
	gone.Metric, stays.Metric = "site.gone", "site.stays"
	minute := c.now().Unix() / 60
	var rows []store.Row
	for k := range int64(sweepKeys + 100) {
		rows = append(rows, store.Row{Series: gone, Minute: minute - k, Version: 1, Expires: c.now().Add(time.Hour).UnixMilli()})
	}
	rows = append(rows, store.Row{Series: stays, Minute: minute, Version: 1, Expires: c.now().Add(72 * time.Hour).UnixMilli()},
		store.Row{Series: stays, Minute: minute + 1, Version: 1, Expires: c.now().Add(time.Hour).UnixMilli()})
	if err := errors.Join(s.PutRows(ctx, rows), s.PutRollups(ctx, rows)); err != nil {
		t.Fatal(err)
	}
	count := func(sr store.Series) (n int) {
		if err := s.Rows(ctx, sr, 0, minute+9, func(int64, int64, []byte) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	catalog := func() (all []store.Series) {
		if err := s.Catalog(ctx, home.Tenant, func(sr store.Series) error { all = append(all, sr); return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	sweep := func(want int) {
		t.Helper()
		if n, err := s.Sweep(ctx); n != want || err != nil {
			t.Errorf("Sweep: %d, %v, want %d", n, err, want)
		}
	}
	sweep(0)
	if n := count(gone); n != sweepKeys+100 {
		t.Errorf("%d rows before", n)
	}
	c.advance(2 * time.Hour)
	sweep(2 * (sweepKeys + 101))
	sweep(0)
	c.advance(24 * time.Hour) // catalog entries live to the end of their day
	sweep(2)
	if got := catalog(); !slices.Equal(got, []store.Series{stays}) || count(stays) != 1 || count(gone) != 0 {
		t.Errorf("catalog %v, rows %d, %d", got, count(stays), count(gone))
	}
	// A series that comes back is listed again.
	if err := s.PutRows(ctx, []store.Row{{Series: gone, Minute: minute, Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if got := catalog(); !slices.Equal(got, []store.Series{gone, stays}) {
		t.Errorf("catalog %v", got)
	}
	stop, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Sweep(stop); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Rows that have expired in the midst of a call must not lend their key to those after them.
func TestExpiredBetween(t *testing.T) {
	c := newClock()
	s := open(t, "", Options{Now: c.now, InMemory: true})
	other := home
	other.Metric = "site.other"
	if err := s.PutRows(ctx, []store.Row{
		{Series: home, Minute: 1, Version: 1, Value: []byte("home")},
		{Series: other, Minute: 1, Version: 1, Expires: 1},
		{Series: other, Minute: 2, Version: 1, Value: []byte("other")},
	}); err != nil {
		t.Fatal(err)
	}
	for sr, want := range map[store.Series]string{home: "1 home", other: "2 other"} {
		err := s.Rows(ctx, sr, 0, 9, func(minute, _ int64, value []byte) error {
			if got := fmt.Sprintf("%d %s", minute, value); got != want {
				t.Errorf("%s: %s, want %s", sr.Metric, got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The set of known series is bounded, and forgetting loses nothing.
func TestKnownIsBounded(t *testing.T) {
	s := open(t, "", Options{InMemory: true})
	lists := make([]listing, maxKnown)
	for i := range lists {
		lists[i] = listing{fmt.Sprint(i), 1}
	}
	s.learn(lists)
	if err := s.PutRows(ctx, []store.Row{{Series: home, Minute: 1, Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if len(s.known) != 1 {
		t.Errorf("%d known", len(s.known))
	}
}

// Close waits for a read that is running, which then finds the store closed for more.
func TestCloseWaits(t *testing.T) {
	s := open(t, "", Options{InMemory: true})
	if err := s.PutRows(ctx, []store.Row{{Series: home, Minute: 1, Version: 1}, {Series: home, Minute: 2, Version: 1}}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	n := 0
	err := s.Rows(ctx, home, 0, 9, func(int64, int64, []byte) error {
		if n++; n == 1 {
			go func() { closed <- s.Close() }()
			for !s.refuses() {
				time.Sleep(time.Millisecond)
			}
		}
		if err := s.Rows(ctx, home, 0, 9, nil); err != store.ErrClosed {
			t.Errorf("a read after Close: %v", err)
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Errorf("%d rows, %v", n, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func (s *Store) refuses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
