package cassandra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/storetest"
	"tandem/scripts/devstack"
)

var ctx = context.Background()

// keyspaces counts the keyspaces of this process: each test has its own.
var keyspaces atomic.Int64

// newConfig is that of a new keyspace with its tables.
func newConfig(t testing.TB, stack *devstack.Stack) Config {
	t.Helper()
	c := Config{Hosts: stack.Cassandra, Keyspace: fmt.Sprintf("tandem_%d", keyspaces.Add(1)), DC: "dc1", Replication: map[string]int{"dc1": 1}}
	if err := Apply(ctx, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// One server for all that needs one: starting it takes longer than most of them.
func TestServer(t *testing.T) {
	stack := devstack.Start(t, devstack.Options{Nodes: 1, Env: []string{"FLUSH_SCHEMA=false"}})
	t.Run("Conformance", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			c := newConfig(t, stack)
			s := open(t, c)
			return storetest.Harness{Store: s, Now: time.Now, Advance: time.Sleep, Reopen: func(t *testing.T) store.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, c)
				return s
			}}
		})
	})
	t.Run("TimesAndLives", func(t *testing.T) { testTimesAndLives(t, open(t, newConfig(t, stack))) })
	t.Run("LargeRowsWhileTheyChange", func(t *testing.T) { testLargeRows(t, open(t, newConfig(t, stack))) })
	t.Run("DeletedOnlyWhatWasWritten", func(t *testing.T) { testDelete(t, open(t, newConfig(t, stack))) })
	t.Run("Catalog", func(t *testing.T) { testCatalog(t, newConfig(t, stack)) })
	t.Run("Schema", func(t *testing.T) { testApply(t, newConfig(t, stack)) })
	t.Run("Refusals", func(t *testing.T) { testRefusals(t, newConfig(t, stack)) })
	t.Run("KilledWhileWriting", func(t *testing.T) { testKilled(t, stack, newConfig(t, stack)) })
}

// Every write names its time and its life.
func testTimesAndLives(t *testing.T, s *Store) {
	now := time.Now()
	minute := now.Unix() / 60
	home := store.Series{Tenant: "shop", Metric: "site.home", Layer: "stream.dc1"}
	expires := now.Add(48 * time.Hour)
	large := bytes.Repeat([]byte("x"), 3*partBytes)
	rows := []store.Row{
		{Series: home, Minute: minute, Version: 7, Expires: expires.UnixMilli(), Value: large},
		{Series: home, Minute: minute - 1, Version: 8, Value: []byte("never")},
		{Series: home, Minute: minute - 500_000, Version: 9, Expires: now.Add(-time.Hour).UnixMilli(), Value: []byte("a year ago")},
		{Series: home, Minute: minute - 500_001, Version: 9, Value: []byte("a year ago, for ever")},
	}
	if err := errors.Join(s.PutRows(ctx, rows), s.PutRollups(ctx, rows),
		s.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "shop", ClosedBefore: minute, Version: 3}),
		s.PutCoverage(ctx, store.Coverage{Tenant: "shop", Window: minute, Generation: 17, Data: large}),
		s.PutActive(ctx, store.Active{Tenant: "shop", Layer: "l", Seq: 5})); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"rows", "rollups"} {
		iter := s.session.Query("SELECT day, minute, part, writetime(v), ttl(v) FROM " + table).Iter()
		var day time.Time
		var at int64
		var of, part, ttl int
		seen := map[string]bool{}
		for iter.Scan(&day, &of, &part, &at, &ttl) {
			m := day.Unix()/60 + int64(of)
			seen[fmt.Sprint(minute-m, part)] = true
			wantVersion := map[int64]int64{0: 7, 1: 8, 500_001: 9}[minute-m]
			if at != m*60_000_000+wantVersion {
				t.Errorf("%s: minute %d part %d is written at %d", table, m, part, at)
			}
			left := int(time.Until(expires) / time.Second)
			if minute-m == 0 && (ttl > left+1 || ttl < left-10) || minute-m != 0 && ttl != 0 {
				t.Errorf("%s: minute %d part %d lives %d s", table, m, part, ttl)
			}
		}
		if err := iter.Close(); err != nil || len(seen) != 5 {
			t.Errorf("%s: cells %v, %v", table, seen, err)
		}
	}
	for query, want := range map[string]int64{
		"SELECT writetime(closed_before) FROM progress": minute * 60_000_000, "SELECT writetime(version) FROM progress": minute * 60_000_000,
		"SELECT writetime(v) FROM coverage LIMIT 1": 17, "SELECT writetime(layer) FROM active": 5,
	} {
		var got int64
		if err := s.session.Query(query).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", query, got, err, want)
		}
	}
	var entries int
	if err := s.session.Query("SELECT count(*) FROM series WHERE tenant = 'shop' AND experiment = ''").Scan(&entries); err != nil || entries < 3 {
		t.Errorf("%d entries in the catalog, %v", entries, err)
	}
	if got := s.Stats(); got.Rows != 6 || got.Bytes != int64(2*(3*partBytes+5+len("a year ago, for ever"))) {
		t.Errorf("stats %+v", got)
	}
}

// A reader sees whole values only, though a version is written over while it is between two pages.
func testLargeRows(t *testing.T, s *Store) {
	const minutes, parts = 40, 13 // more than a page; its end is within a row
	at := store.Series{Tenant: "shop", Metric: "site.large", Layer: "stream.dc1"}
	base := time.Now().Unix() / 60 / dayMinutes * dayMinutes
	value := func(version int64) []byte { return bytes.Repeat([]byte{byte(version)}, parts*partBytes) }
	put := func(version int64) {
		t.Helper()
		var rows []store.Row
		for k := range int64(minutes) {
			rows = append(rows, store.Row{Series: at, Minute: base + k, Version: version, Value: value(version)})
		}
		if err := s.PutRows(ctx, rows); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	var versions []int64
	err := s.Rows(ctx, at, base, base+minutes, func(minute, version int64, v []byte) error {
		if !bytes.Equal(v, value(version)) {
			return fmt.Errorf("minute %d, version %d: not its value", minute-base, version)
		}
		if versions = append(versions, version); len(versions) == 1 {
			put(2)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	torn := pageRows / parts
	if len(versions) != minutes || versions[torn-1] != 1 || versions[torn] != 2 || versions[minutes-1] != 2 {
		t.Errorf("versions %v: the page was to end in row %d", versions, torn)
	}
	// The largest value that the port takes, and one that is torn for good.
	huge := bytes.Repeat([]byte("h"), store.MaxValue)
	if err := s.PutRows(ctx, []store.Row{{Series: at, Minute: base, Version: 3, Value: huge}}); err != nil {
		t.Fatal(err)
	}
	err = s.Rows(ctx, at, base, base+1, func(_, _ int64, v []byte) error {
		if !bytes.Equal(v, huge) {
			return fmt.Errorf("%d bytes", len(v))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.session.Query("DELETE FROM rows WHERE "+seriesDay+" AND minute = 0 AND part = 9", key(&at, base)...).Exec(); err != nil {
		t.Fatal(err)
	}
	err = s.Rows(ctx, at, base, base+2, func(minute, _ int64, _ []byte) error { return nil })
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), at.String()) {
		t.Errorf("without part 9: %v", err)
	}
}

// A deletion hides every version of its minutes and no version of others, past or to come.
func testDelete(t *testing.T, s *Store) {
	at := store.Series{Tenant: "shop", Metric: "site.home", Layer: "batch.3"}
	m := time.Now().Unix() / 60 / 30 * 30
	row := func(minute, version int64) store.Row {
		return store.Row{Series: at, Minute: minute, Version: version, Value: []byte("v")}
	}
	got := func() (minutes []int64) {
		t.Helper()
		err := s.Rows(ctx, at, m-100, m+100, func(minute, _ int64, _ []byte) error {
			minutes = append(minutes, minute-m)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return minutes
	}
	if err := s.PutRows(ctx, []store.Row{row(m-1, store.MaxVersion), row(m, 0), row(m+29, store.MaxVersion), row(m+30, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteLayerWindow(ctx, at.Layer, at.Tenant, m, m+30); err != nil {
		t.Fatal(err)
	}
	if got := got(); !slices.Equal(got, []int64{-1, 30}) {
		t.Errorf("left: %v", got)
	}
	// Beside the window every version is written and read as before.
	if err := s.PutRows(ctx, []store.Row{row(m-2, 0), row(m-1, store.MaxVersion), row(m+30, 1), row(m+31, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := got(); !slices.Equal(got, []int64{-2, -1, 30, 31}) {
		t.Errorf("written beside it: %v", got)
	}
	// An older deletion of this kind does not touch what is written to the same minutes of another layer.
	at.Layer = "batch.4"
	if err := s.PutRows(ctx, []store.Row{row(m, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := got(); !slices.Equal(got, []int64{0}) {
		t.Errorf("another layer: %v", got)
	}
}

// The catalog lists a series as long as any row of it lives, whoever wrote what in which order.
func testCatalog(t *testing.T, c Config) {
	a, b := open(t, c), open(t, c)
	at := store.Series{Tenant: "shop", Metric: "site.home", Layer: "stream.dc1"}
	minute := time.Now().Unix() / 60
	put := func(s *Store, expires time.Duration) {
		t.Helper()
		r := store.Row{Series: at, Minute: minute, Version: 1, Value: []byte("v")}
		if expires > 0 {
			r.Expires = time.Now().Add(expires).UnixMilli()
		}
		if err := s.PutRows(ctx, []store.Row{r}); err != nil {
			t.Fatal(err)
		}
	}
	lives := func() (all []int) {
		t.Helper()
		iter := a.session.Query("SELECT expires FROM series WHERE tenant = 'shop' AND experiment = ''").Iter()
		var expires time.Time
		for iter.Scan(&expires) {
			all = append(all, int(expires.Unix()/86400))
		}
		if err := iter.Close(); err != nil {
			t.Fatal(err)
		}
		return all
	}
	put(a, 40*24*time.Hour)
	put(b, 24*time.Hour) // later by another's clock, and for less time: it does not shorten what a wrote
	if got := lives(); len(got) != 2 || got[1]-got[0] < 38 {
		t.Errorf("entries expire on days %v", got)
	}
	put(b, 23*time.Hour)
	put(a, 24*time.Hour)
	if got := lives(); len(got) != 2 {
		t.Errorf("entries again: %v", got)
	}
	put(b, 0)
	if got := lives(); len(got) != 3 || got[0] != 0 {
		t.Errorf("with one for ever: %v", got)
	}
	n := 0
	if err := a.Catalog(ctx, "shop", func(s store.Series) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d series, %v", n, err)
	}
}

func testApply(t *testing.T, c Config) {
	for range 2 {
		if err := Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, c)
	exec := func(statement string, args ...any) {
		t.Helper()
		if err := s.session.Query(statement, args...).Exec(); err != nil {
			t.Fatal(err)
		}
	}
	other := c
	other.Replication = map[string]int{"dc1": 2}
	if err := Apply(ctx, other); err == nil || !strings.Contains(err.Error(), "ALTER KEYSPACE") {
		t.Errorf("another replication: %v", err)
	}
	// One that broke off before its end.
	exec("DROP TABLE active")
	exec("DELETE FROM schema_versions WHERE version = 1")
	if _, err := Open(ctx, c); err == nil || !strings.Contains(err.Error(), "run tandem schema apply") {
		t.Errorf("tables of no version: %v", err)
	}
	if err := Apply(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := open(t, c).PutActive(ctx, store.Active{Tenant: "a", Layer: "l"}); err != nil {
		t.Error(err)
	}
	exec("INSERT INTO schema_versions (version, digest) VALUES (1, 'other')")
	if err := Apply(ctx, c); err == nil || !strings.Contains(err.Error(), "not this program's") {
		t.Errorf("another history: %v", err)
	}
	missing := c
	missing.Keyspace = "nowhere"
	if _, err := Open(ctx, missing); err == nil || !strings.Contains(err.Error(), "run tandem schema apply") {
		t.Errorf("no keyspace: %v", err)
	}
	missing.Replication = nil
	if err := Apply(ctx, missing); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("no keyspace, and no replication to make it: %v", err)
	}
}

// What servers refuse passes at once; what is away is waited for until the context ends.
func testRefusals(t *testing.T, c Config) {
	s := open(t, c)
	if err := s.session.Query("DROP TABLE progress").Exec(); err != nil {
		t.Fatal(err)
	}
	if err := s.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "a"}); err == nil || s.Stats().Retries > 0 {
		t.Errorf("a missing table: %v after %d retries", err, s.Stats().Retries)
	}
	away := c
	away.Hosts = []string{"127.99.99.99:9042"}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := Open(short, away); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "127.99.99.99") {
		t.Errorf("nobody there: %v", err)
	}
	short, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	away = c
	away.DC = "dc9"
	if _, err := Open(short, away); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "dc9") {
		t.Errorf("no such data centre: %v", err)
	}
}
