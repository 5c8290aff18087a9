// Package storetest is the conformance suite of store.Store: what stream, batch and serve rely on, whatever the store.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/schemas/store"
)

// Harness is an empty store and its clock.
type Harness struct {
	Store store.Store
	// Now is the store's clock, Advance moves it on (a store that lives by real time sleeps; the suite never asks for
	// more than a few seconds in all).
	Now     func() time.Time
	Advance func(time.Duration)
	// Reopen closes Store and opens it again on the same data; nil where there is nothing to reopen.
	Reopen func(t *testing.T) store.Store
}

// Run runs the suite; open gives each part an empty store of its own and sees to its closing.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"Absence", testAbsence},
		{"GreatestVersion", testGreatestVersion},
		{"AnyOrder", testAnyOrder},
		{"Ties", testTies},
		{"Concurrent", testConcurrent},
		{"Bounds", testBounds},
		{"Values", testValues},
		{"ManyRows", testManyRows},
		{"Rollups", testRollups},
		{"Expiry", testExpiry},
		{"HostileNames", testHostileNames},
		{"Catalog", testCatalog},
		{"Progress", testProgress},
		{"Coverage", testCoverage},
		{"Active", testActive},
		{"DeleteLayerWindow", testDelete},
		{"Refusals", testRefusals},
		{"Callbacks", testCallbacks},
		{"Durable", testDurable},
		{"Close", testClose},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

var (
	ctx  = context.Background()
	home = store.Series{Tenant: "uswm", Metric: "site.home_page", Layer: "stream.dc1"}
	item = store.Series{Tenant: "uswm", Experiment: "btn_color", Metric: "fm.item_page.beta", Layer: "batch.17"}
)

// minute is around the store's now, so that rows have the lives that they have in production.
func (h Harness) minute() int64 { return h.Now().Unix() / 60 }

// row is one that expires 30 days after its minute.
func (h Harness) row(s store.Series, minute, version int64, value string) store.Row {
	expires := (minute + 30*24*60) * 60_000
	return store.Row{Series: s, Minute: minute, Version: version, Expires: expires, Value: []byte(value)}
}

func (h Harness) put(t *testing.T, rows ...store.Row) {
	t.Helper()
	if err := h.Store.PutRows(ctx, rows); err != nil {
		t.Fatal(err)
	}
}

// got is what Rows gives, as "minute:version:value".
func (h Harness) got(t *testing.T, s store.Series, from, to int64) []string {
	t.Helper()
	return collect(t, h.Store.Rows, s, from, to)
}

type reader func(context.Context, store.Series, int64, int64, func(int64, int64, []byte) error) error

func collect(t *testing.T, read reader, s store.Series, from, to int64) []string {
	t.Helper()
	out := []string{}
	err := read(ctx, s, from, to, func(minute, version int64, value []byte) error {
		out = append(out, line(minute, version, string(value)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func line(minute, version int64, value string) string {
	return fmt.Sprintf("%d:%d:%s", minute, version, value)
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %.300q, want %.300q", what, got, want)
	}
}

func (h Harness) catalog(t *testing.T, tenant string) []store.Series {
	t.Helper()
	out := []store.Series{}
	err := h.Store.Catalog(ctx, tenant, func(s store.Series) error {
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantCatalog(t *testing.T, what string, got []store.Series, want ...store.Series) {
	t.Helper()
	if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func testAbsence(t *testing.T, h Harness) {
	want(t, "rows", h.got(t, home, 0, store.MaxMinute), []string{})
	want(t, "rollups", collect(t, h.Store.Rollups, home, 0, store.MaxMinute), []string{})
	wantCatalog(t, "catalog", h.catalog(t, "uswm"))
	if p, err := h.Store.Progress(ctx, "stream.dc1", "uswm"); err != nil || len(p) > 0 {
		t.Errorf("progress: %v %v", p, err)
	}
	if a, ok, err := h.Store.Active(ctx, "uswm"); err != nil || ok || a != (store.Active{}) {
		t.Errorf("active: %v %v %v", a, ok, err)
	}
	wantCoverage(t, h, "uswm", 0, store.MaxMinute)
	if err := errors.Join(h.Store.PutRows(ctx, nil), h.Store.PutRollups(ctx, nil)); err != nil {
		t.Errorf("no rows: %v", err)
	}
	if err := h.Store.DeleteLayerWindow(ctx, "batch.1", "uswm", 0, store.MaxMinute); err != nil {
		t.Errorf("nothing to delete: %v", err)
	}
}

func testRefusals(t *testing.T, h Harness) {
	m := h.minute()
	good := h.row(home, m, 1, "good")
	bad := func(change func(*store.Row)) store.Row {
		r := good
		change(&r)
		return r
	}
	long := strings.Repeat("n", store.MaxName+1)
	for _, c := range []struct {
		name string
		row  store.Row
	}{
		{"tenant", bad(func(r *store.Row) { r.Tenant = "" })},
		{"metric", bad(func(r *store.Row) { r.Metric = "" })},
		{"layer", bad(func(r *store.Row) { r.Layer = "" })},
		{"is not UTF-8", bad(func(r *store.Row) { r.Metric = "a\xff" })},
		{"is not UTF-8", bad(func(r *store.Row) { r.Experiment = "\xc0\x80" })},
		{"more than 1024", bad(func(r *store.Row) { r.Experiment = long })},
		{"minute", bad(func(r *store.Row) { r.Minute = -1 })},
		{"minute", bad(func(r *store.Row) { r.Minute = store.MaxMinute + 1 })},
		{"version", bad(func(r *store.Row) { r.Version = -1 })},
		{"version", bad(func(r *store.Row) { r.Version = store.MaxVersion + 1 })},
		{"expiry", bad(func(r *store.Row) { r.Expires = -1 })},
		{"value", bad(func(r *store.Row) { r.Value = make([]byte, store.MaxValue+1) })},
	} {
		for _, put := range []func(context.Context, []store.Row) error{h.Store.PutRows, h.Store.PutRollups} {
			err := put(ctx, []store.Row{good, c.row})
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.name) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	want(t, "nothing of a refused call", h.got(t, home, 0, store.MaxMinute), []string{})

	for _, err := range []error{
		h.Store.Rows(ctx, store.Series{Tenant: "a"}, 0, 1, nil),
		h.Store.PutProgress(ctx, store.Progress{Tenant: "a"}),
		h.Store.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "a", Partition: -1}),
		h.Store.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "a", ClosedBefore: -1}),
		h.Store.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "a", ClosedBefore: math.MaxInt64}),
		h.Store.PutProgress(ctx, store.Progress{Layer: "l", Tenant: "a", Version: -1}),
		h.Store.PutCoverage(ctx, store.Coverage{}),
		h.Store.PutCoverage(ctx, store.Coverage{Tenant: "a", Window: -1}),
		h.Store.PutCoverage(ctx, store.Coverage{Tenant: "a", Generation: -1}),
		h.Store.PutCoverage(ctx, store.Coverage{Tenant: "a", Data: make([]byte, store.MaxValue+1)}),
		h.Store.PutActive(ctx, store.Active{Tenant: "a"}),
		h.Store.PutActive(ctx, store.Active{Layer: "l"}),
		h.Store.PutActive(ctx, store.Active{Tenant: "a", Layer: "l", Seq: -1}),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("not refused: %v", err)
		}
	}
}

// An fn's error and a cancelled context end a call; fn may read; what fn is given it need not copy to use.
func testCallbacks(t *testing.T, h Harness) {
	m := h.minute()
	h.put(t, h.row(home, m, 1, "a"), h.row(home, m+1, 1, "b"), h.row(item, m, 1, "c"))
	for i := range int64(2) {
		if err := h.Store.PutCoverage(ctx, store.Coverage{Tenant: "uswm", Window: 30 * i, Generation: 1}); err != nil {
			t.Fatal(err)
		}
	}
	stop := errors.New("stop")
	calls := 0
	for what, err := range map[string]error{
		"rows":        h.Store.Rows(ctx, home, m, m+2, func(int64, int64, []byte) error { calls++; return stop }),
		"catalog":     h.Store.Catalog(ctx, "uswm", func(store.Series) error { calls++; return stop }),
		"coverage":    h.Store.Coverage(ctx, "uswm", 0, 100, func(store.Coverage) error { calls++; return stop }),
		"metrics":     h.Store.Metrics(ctx, "uswm", home.Experiment, "", func(string) error { calls++; return stop }),
		"generations": h.Store.Generations(ctx, "uswm", 0, 100, func(int64, int64) error { calls++; return stop }),
	} {
		if err != stop {
			t.Errorf("%s: %v, want fn's error as it is", what, err)
		}
	}
	if calls != 5 {
		t.Errorf("%d calls, want 5", calls)
	}
	err := h.Store.Rows(ctx, home, m, m+2, func(int64, int64, []byte) error {
		want(t, "read within a read", h.got(t, item, m, m+1), []string{line(m, 1, "c")})
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, progressErr := h.Store.Progress(gone, "l", "a")
	_, _, activeErr := h.Store.Active(gone, "a")
	for i, err := range []error{
		h.Store.PutRows(gone, []store.Row{h.row(home, m+9, 1, "x")}),
		h.Store.Rows(gone, home, m, m+1, func(int64, int64, []byte) error { return nil }),
		h.Store.Catalog(gone, "uswm", func(store.Series) error { return nil }),
		h.Store.PutActive(gone, store.Active{Tenant: "a", Layer: "l"}),
		h.Store.PutCoverage(gone, store.Coverage{Tenant: "a"}),
		h.Store.Coverage(gone, "uswm", 0, 100, func(store.Coverage) error { return nil }),
		h.Store.Metrics(gone, "uswm", home.Experiment, "", func(string) error { return nil }),
		h.Store.Generations(gone, "uswm", 0, 100, func(int64, int64) error { return nil }),
		h.Store.PutProgress(gone, store.Progress{Layer: "l", Tenant: "a"}),
		h.Store.DeleteLayerWindow(gone, home.Layer, "uswm", 0, m+9),
		progressErr, activeErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled call %d: %v", i, err)
		}
	}
	want(t, "after the cancelled calls", h.got(t, home, m, m+20), []string{line(m, 1, "a"), line(m+1, 1, "b")})
}

func testDurable(t *testing.T, h Harness) {
	if h.Reopen == nil {
		t.Skip("this store has nothing to reopen")
	}
	m := h.minute()
	h.put(t, h.row(home, m, 1, "old"), h.row(home, m, 2, "new"), h.row(item, m, 1, strings.Repeat("x", 300<<10)))
	if err := errors.Join(
		h.Store.PutRollups(ctx, []store.Row{h.row(home, m, 3, "rollup")}),
		h.Store.PutActive(ctx, store.Active{Tenant: "uswm", Layer: "stream.dc2", Seq: 4}),
		h.Store.PutCoverage(ctx, store.Coverage{Tenant: "uswm", Window: 30, Generation: 5, Data: []byte("inputs")}),
		h.Store.PutProgress(ctx, store.Progress{Layer: "stream.dc1", Partition: 3, Tenant: "uswm", ClosedBefore: m, Version: 6}),
	); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		h.Store = h.Reopen(t)
		h.put(t, h.row(home, m, 1, "late")) // and older ones still lose
		want(t, "rows", h.got(t, home, 0, store.MaxMinute), []string{line(m, 2, "new")})
		if got := h.got(t, item, m, m+1); len(got) != 1 || len(got[0]) < 300<<10 {
			t.Errorf("round %d: the large row: %.40q", round, got)
		}
		want(t, "rollups", collect(t, h.Store.Rollups, home, 0, store.MaxMinute), []string{line(m, 3, "rollup")})
		wantCatalog(t, "catalog", h.catalog(t, "uswm"), home, item)
		wantActive(t, h, "uswm", store.Active{Tenant: "uswm", Layer: "stream.dc2", Seq: 4})
		wantCoverage(t, h, "uswm", 0, 60, store.Coverage{Tenant: "uswm", Window: 30, Generation: 5, Data: []byte("inputs")})
		wantProgress(t, h, "stream.dc1", "uswm", store.Progress{Layer: "stream.dc1", Partition: 3, Tenant: "uswm", ClosedBefore: m, Version: 6})
	}
}

func testClose(t *testing.T, h Harness) {
	h.put(t, h.row(home, h.minute(), 1, "x"))
	if err := h.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Store.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	_, progressErr := h.Store.Progress(ctx, "l", "a")
	_, _, activeErr := h.Store.Active(ctx, "a")
	for i, err := range []error{
		h.Store.PutRows(ctx, []store.Row{h.row(home, h.minute(), 1, "x")}),
		h.Store.Rows(ctx, home, 0, 1, nil),
		h.Store.Catalog(ctx, "uswm", nil),
		h.Store.PutCoverage(ctx, store.Coverage{Tenant: "a"}),
		h.Store.DeleteLayerWindow(ctx, "l", "a", 0, 1),
		progressErr, activeErr,
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
}
