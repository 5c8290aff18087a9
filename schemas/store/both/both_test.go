package both

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/cassandra"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/store/storetest"
)

func memory(t *testing.T, now func() time.Time) store.Store {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Each of the two passes what any store does, also when it is the one that is not read while it is written.
func TestConformance(t *testing.T) {
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				var ns atomic.Int64
				ns.Store(time.Date(2026, 1, 31, 23, 50, 0, 0, time.UTC).UnixNano())
				now := func() time.Time { return time.Unix(0, ns.Load()) }
				h := storetest.Harness{Now: now, Advance: func(d time.Duration) { ns.Add(int64(d)) }}
				s := New(memory(t, now), memory(t, now))
				h.Store = s
				if name == "second" {
					h.Store = readOther{s}
				}
				t.Cleanup(func() { s.Close() })
				return h
			})
		})
	}
}

// readOther reads the one that Store does not.
type readOther struct{ *Store }

func (s readOther) Rows(ctx context.Context, sr store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	return s.Other.Rows(ctx, sr, from, to, fn)
}

func (s readOther) Rollups(ctx context.Context, sr store.Series, from, to int64, fn func(window, version int64, value []byte) error) error {
	return s.Other.Rollups(ctx, sr, from, to, fn)
}

func (s readOther) Catalog(ctx context.Context, tenant string, fn func(store.Series) error) error {
	return s.Other.Catalog(ctx, tenant, fn)
}

func (s readOther) Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error {
	return s.Other.Metrics(ctx, tenant, experiment, prefix, fn)
}

func (s readOther) Progress(ctx context.Context, layer, tenant string) ([]store.Progress, error) {
	return s.Other.Progress(ctx, layer, tenant)
}

func (s readOther) Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	return s.Other.Coverage(ctx, tenant, from, to, fn)
}

func (s readOther) Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error {
	return s.Other.Generations(ctx, tenant, from, to, fn)
}

func (s readOther) Active(ctx context.Context, tenant string) (store.Active, bool, error) {
	return s.Other.Active(ctx, tenant)
}

// Every kind of difference is found, and none where there is none.
func TestCompare(t *testing.T) {
	ctx := context.Background()
	never := func() time.Time { return time.UnixMilli(0) }
	sr := store.Series{Tenant: "t", Metric: "site.visit", Layer: "stream.dc1"}
	row := func(minute, version int64, value string) []store.Row {
		return []store.Row{{Series: sr, Minute: minute, Version: version, Value: []byte(value)}}
	}
	fill := func(st store.Store) error {
		for _, err := range []error{st.PutRows(ctx, row(5, 1, "a")), st.PutRollups(ctx, row(0, 0, "r")), st.PutActive(ctx, store.Active{Tenant: "t", Layer: "stream.dc1", Seq: 3}),
			st.PutCoverage(ctx, store.Coverage{Tenant: "t", Window: 30, Generation: 1}), st.PutProgress(ctx, store.Progress{Layer: "stream.dc1", Tenant: "t", ClosedBefore: 4})} {
			if err != nil {
				return err
			}
		}
		return nil
	}
	for name, change := range map[string]func(store.Store) error{
		"none":    func(store.Store) error { return nil },
		"value":   func(st store.Store) error { return st.PutRows(ctx, row(5, 2, "b")) },
		"version": func(st store.Store) error { return st.PutRows(ctx, row(5, 2, "a")) },
		"row":     func(st store.Store) error { return st.PutRows(ctx, row(3000, 1, "a")) },
		"rollup":  func(st store.Store) error { return st.PutRollups(ctx, row(60, 0, "r")) },
		"coverage": func(st store.Store) error {
			return st.PutCoverage(ctx, store.Coverage{Tenant: "t", Window: 30, Generation: 2})
		},
		"progress": func(st store.Store) error {
			return st.PutProgress(ctx, store.Progress{Layer: "stream.dc1", Tenant: "t", ClosedBefore: 5})
		},
		"active": func(st store.Store) error {
			return st.PutActive(ctx, store.Active{Tenant: "t", Layer: "stream.dc2", Seq: 4})
		},
	} {
		a, b := memory(t, never), memory(t, never)
		s := New(a, b)
		if err := fill(s); err != nil {
			t.Fatal(err)
		}
		if err := change(b); err != nil {
			t.Fatal(err)
		}
		for i, pair := range [][2]store.Store{{a, b}, {b, a}} {
			r, err := Compare(ctx, pair[0], pair[1], "t", 0, 5000)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(1)
			if name == "none" {
				want = 0
			}
			if r.Faults() != want || len(r.Examples) != int(want) || r.Equal < 4 {
				t.Errorf("%s, way %d: %+v", name, i, r)
			}
		}
		s.Close()
	}
}

// telling is a store that tells of hints and counts.
type telling struct {
	store.Store
	at  string
	err error
}

func (s telling) Hints(context.Context) ([]cassandra.Hint, []error, error) {
	return []cassandra.Hint{{At: s.at}}, []error{errors.New(s.at)}, s.err
}

func (s telling) Stats() cassandra.Stats { return cassandra.Stats{Rows: 1, Bytes: 20, Retries: 300} }

// What a store tells beside store.Store is told of each of the two, also where the other one has nothing of it.
func TestTellsOfEach(t *testing.T) {
	never := func() time.Time { return time.UnixMilli(0) }
	plain := memory(t, never)
	defer plain.Close()
	a, b := telling{Store: plain, at: "a"}, telling{Store: plain, at: "b"}
	for _, c := range []struct {
		read, other store.Store
		at          string
	}{{a, b, "ab"}, {a, plain, "a"}, {plain, b, "b"}, {plain, plain, ""}} {
		s, at, mute := New(c.read, c.other), "", ""
		hints, silent, err := s.Hints(t.Context())
		for i := range hints {
			at += hints[i].At
		}
		for _, err := range silent {
			mute += err.Error()
		}
		n := int64(len(c.at))
		if want := (cassandra.Stats{Rows: n, Bytes: 20 * n, Retries: 300 * n}); err != nil || at != c.at || mute != c.at || s.Stats() != want {
			t.Errorf("of %q: hints of %q, silent %q, %v; counts %+v", c.at, at, mute, err, s.Stats())
		}
	}
	b.err = errors.New("no route")
	if _, _, err := New(a, b).Hints(t.Context()); !errors.Is(err, b.err) || !strings.Contains(err.Error(), "the other store") {
		t.Errorf("the second does not answer: %v", err)
	}
}
