package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"tandem/schemas/store"
)

// Names that collide, or sort wrongly, wherever a key is put together carelessly.
var hostile = []string{
	"a", "b", "ab", "a\x00", "a\x00\x00", "a\x00b", "\x00", "\x00a", "\x01", "a\x01", "a\x00\x01", "a\x00\x01b", "\x7f",
	"a/b", "a.b", "a:b", "a,b", "a b", "", " ", "'; DROP TABLE rows; --", "%00", "é", "e\u0301", "ÿ", "\u00ff\u00ff", "\U0010ffff",
	strings.Repeat("long", store.MaxName/4),
}

func testHostileNames(t *testing.T, h Harness) {
	m := h.minute()
	var all []store.Series
	for _, a := range hostile {
		for _, b := range hostile {
			if a != "" && b != "" {
				all = append(all, store.Series{Tenant: "t", Experiment: a, Metric: b, Layer: "l"},
					store.Series{Tenant: "t", Metric: a, Layer: b}, store.Series{Tenant: a, Metric: b, Layer: "l"})
			}
		}
	}
	slices.SortFunc(all, store.Series.Compare)
	all = slices.Compact(all)
	var rows []store.Row
	for i, s := range all {
		rows = append(rows, h.row(s, m, 1, fmt.Sprint(i)), h.row(s, m+256, 1, fmt.Sprint(-i)))
	}
	h.put(t, rows...)
	for i, s := range all {
		want(t, s.String(), h.got(t, s, m, m+257), []string{line(m, 1, fmt.Sprint(i)), line(m+256, 1, fmt.Sprint(-i))})
	}
	for _, tenant := range append([]string{"t"}, hostile...) {
		var of []store.Series
		for _, s := range all {
			if s.Tenant == tenant {
				of = append(of, s)
			}
		}
		wantCatalog(t, fmt.Sprintf("catalog of %q", tenant), h.catalog(t, tenant), of...)
	}
	for i, a := range hostile {
		for j, b := range hostile {
			if a == "" || b == "" {
				continue
			}
			if err := h.Store.PutProgress(ctx, store.Progress{Layer: a, Tenant: b, ClosedBefore: int64(i), Version: int64(j)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, a := range hostile {
		for j, b := range hostile {
			if a != "" && b != "" {
				wantProgress(t, h, a, b, store.Progress{Layer: a, Tenant: b, ClosedBefore: int64(i), Version: int64(j)})
			}
		}
	}
}

func testCatalog(t *testing.T, h Harness) {
	m := h.minute()
	var all []store.Series
	for _, experiment := range []string{"", "btn_color", "btn_color2"} {
		for _, metric := range []string{"fm.p", "fm.p.beta", "site.p"} {
			for _, layer := range []string{"batch.1", "batch.2", "stream.dc1"} {
				all = append(all, store.Series{Tenant: "uswm", Experiment: experiment, Metric: metric, Layer: layer})
			}
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		h.put(t, h.row(all[i], m, 1, "v"))
	}
	for k := range int64(3) {
		h.put(t, h.row(all[0], m+k*1440, 1, "v"))
	}
	h.put(t, h.row(store.Series{Tenant: "uswm2", Metric: "m", Layer: "l"}, m, 1, "v"))
	wantCatalog(t, "each once, sorted, of this tenant only", h.catalog(t, "uswm"), all...)
	for _, c := range []struct {
		tenant, experiment, prefix string
		want                       []string
	}{
		{"uswm", "", "fm.p", []string{"fm.p", "fm.p.beta"}}, {"uswm", "btn_color", "fm.p.", []string{"fm.p.beta"}},
		{"uswm", "btn_color", "", []string{"fm.p", "fm.p.beta", "site.p"}}, {"uswm", "btn_color", "site.p.", nil}, {"uswm", "btn", "", nil}, {"uswm3", "", "", nil},
	} {
		var got []string
		err := h.Store.Metrics(ctx, c.tenant, c.experiment, c.prefix, func(metric string) error {
			got = append(got, metric)
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("metrics of %q, %q that begin with %q: %q, %v, want %q", c.tenant, c.experiment, c.prefix, got, err, c.want)
		}
	}
}

func wantProgress(t *testing.T, h Harness, layer, tenant string, want ...store.Progress) {
	t.Helper()
	got, err := h.Store.Progress(ctx, layer, tenant)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("progress of %q, %q: got %v (%v), want %v", layer, tenant, got, err, want)
	}
}

func testProgress(t *testing.T, h Harness) {
	at := func(partition int32, closed, version int64) store.Progress {
		return store.Progress{Layer: "stream.dc1", Partition: partition, Tenant: "uswm", ClosedBefore: closed, Version: version}
	}
	other, otherTenant := at(0, 99, 99), at(1, 98, 98)
	other.Layer, otherTenant.Tenant = "stream.dc2", "uswm2"
	for _, p := range []store.Progress{
		at(0, 10, 5), at(0, 9, 900), at(0, 10, 4), at(0, 10, 5), // the minute counts first
		at(300, 1, 1), at(300, 1, 2), at(300, 0, 3),
		at(2, 5, 0), at(2, 6, 0),
		at(math.MaxInt32, 0, 0), other, otherTenant,
		at(1, store.MaxMinute, math.MaxInt64), at(1, 0, 0),
	} {
		if err := h.Store.PutProgress(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	wantProgress(t, h, "stream.dc1", "uswm", at(0, 10, 5), at(1, store.MaxMinute, math.MaxInt64), at(2, 6, 0), at(300, 1, 2), at(math.MaxInt32, 0, 0))
	wantProgress(t, h, "stream.dc2", "uswm", other)
	wantProgress(t, h, "stream.dc1", "uswm2", otherTenant)

	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				p := at(7, int64(i/2), int64(w+10*(i%2)))
				if err := h.Store.PutProgress(ctx, p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := h.Store.Progress(ctx, "stream.dc1", "uswm")
	if err != nil || !slices.Contains(got, at(7, 4, 13)) {
		t.Errorf("after concurrent writers: %v %v", got, err)
	}
}

func wantCoverage(t *testing.T, h Harness, tenant string, from, to int64, want ...store.Coverage) {
	t.Helper()
	var got []store.Coverage
	err := h.Store.Coverage(ctx, tenant, from, to, func(c store.Coverage) error {
		c.Data = bytes.Clone(c.Data)
		got = append(got, c)
		return nil
	})
	same := slices.EqualFunc(got, want, func(a, b store.Coverage) bool {
		return a.Tenant == b.Tenant && a.Window == b.Window && a.Generation == b.Generation && bytes.Equal(a.Data, b.Data)
	})
	if err != nil || !same {
		t.Errorf("coverage of %q in [%d, %d): got %.200v (%v), want %.200v", tenant, from, to, got, err, want)
	}
	n := 0
	err = h.Store.Generations(ctx, tenant, from, to, func(window, generation int64) error {
		if n < len(want) && (window != want[n].Window || generation != want[n].Generation) {
			t.Errorf("generation %d of window %d, want %d of %d", generation, window, want[n].Generation, want[n].Window)
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Errorf("generations of %q in [%d, %d): %d, %v, want %d", tenant, from, to, n, err, len(want))
	}
}

func testCoverage(t *testing.T, h Harness) {
	at := func(window, generation int64, data string) store.Coverage {
		return store.Coverage{Tenant: "uswm", Window: window, Generation: generation, Data: []byte(data)}
	}
	large := strings.Repeat("input", 60<<10)
	other := at(30, 99, "other")
	other.Tenant = "uswm2"
	for _, c := range []store.Coverage{
		at(60, 3, "three"), at(60, 2, "two"), at(60, 3, "three"),
		at(30, 1, large), at(30, 0, "zero"), at(0, 0, ""), at(300, 1, "x"), at(300, 2, ""),
		at(store.MaxMinute, math.MaxInt64, "last"), other,
	} {
		if err := h.Store.PutCoverage(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	all := []store.Coverage{at(0, 0, ""), at(30, 1, large), at(60, 3, "three"), at(300, 2, ""), at(store.MaxMinute, math.MaxInt64, "last")}
	wantCoverage(t, h, "uswm", math.MinInt64, math.MaxInt64, all...)
	wantCoverage(t, h, "uswm", 30, 300, all[1:3]...)
	wantCoverage(t, h, "uswm", 1, 30)
	wantCoverage(t, h, "uswm", 300, 30)
	wantCoverage(t, h, "uswm2", 0, store.MaxMinute, other)
}

func wantActive(t *testing.T, h Harness, tenant string, want store.Active) {
	t.Helper()
	if got, ok, err := h.Store.Active(ctx, tenant); err != nil || !ok || got != want {
		t.Errorf("active layer of %q: got %v %v %v, want %v", tenant, got, ok, err, want)
	}
}

func testActive(t *testing.T, h Harness) {
	for _, a := range []store.Active{
		{Tenant: "uswm", Layer: "stream.dc1", Seq: 1}, {Tenant: "uswm", Layer: "stream.dc2", Seq: 3},
		{Tenant: "uswm", Layer: "stream.zz", Seq: 2}, {Tenant: "uswm", Layer: "stream.dc2", Seq: 3},
		{Tenant: "uswm2", Layer: "stream.dc1", Seq: math.MaxInt64}, {Tenant: "usw", Layer: "stream.dc9", Seq: 0},
	} {
		if err := h.Store.PutActive(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	wantActive(t, h, "uswm", store.Active{Tenant: "uswm", Layer: "stream.dc2", Seq: 3})
	wantActive(t, h, "uswm2", store.Active{Tenant: "uswm2", Layer: "stream.dc1", Seq: math.MaxInt64})
	wantActive(t, h, "usw", store.Active{Tenant: "usw", Layer: "stream.dc9", Seq: 0})
}

func testDelete(t *testing.T, h Harness) {
	w := h.minute() / 30 * 30
	in := func(layer string) store.Series {
		s := item
		s.Layer = layer
		return s
	}
	whole, part, stays := in("batch.1"), home, in("batch.11")
	part.Layer = "batch.1"
	foreign := whole
	foreign.Tenant = "uswm2"
	for _, s := range []store.Series{whole, part, stays, foreign} {
		rows := []store.Row{h.row(s, w, 1, "a"), h.row(s, w+29, 1, "b")}
		if s == part {
			rows = append(rows, h.row(s, w-1, 1, "before"), h.row(s, w+30, 1, "after"))
		}
		h.put(t, rows...)
		if err := h.Store.PutRollups(ctx, []store.Row{h.row(s, w, 1, "r")}); err != nil {
			t.Fatal(err)
		}
	}
	drop := func(from, to int64) {
		t.Helper()
		for range 2 { // again: nothing changes
			if err := h.Store.DeleteLayerWindow(ctx, "batch.1", "uswm", from, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	both := []string{line(w, 1, "a"), line(w+29, 1, "b")}
	drop(w+30, w)
	drop(math.MinInt64, 0)
	want(t, "an empty range", h.got(t, whole, w, w+30), both)

	drop(w, w+30)
	want(t, "the rows of the window", h.got(t, whole, 0, store.MaxMinute), []string{})
	want(t, "the rollup of the window", collect(t, h.Store.Rollups, whole, 0, store.MaxMinute), []string{})
	want(t, "rows beside the window", h.got(t, part, 0, store.MaxMinute), []string{line(w-1, 1, "before"), line(w+30, 1, "after")})
	want(t, "another layer", h.got(t, stays, w, w+30), both)
	want(t, "its rollup", collect(t, h.Store.Rollups, stays, w, w+30), []string{line(w, 1, "r")})
	want(t, "another tenant", h.got(t, foreign, w, w+30), both)
	wantCatalog(t, "catalog", h.catalog(t, "uswm"), part, stays)
	wantCatalog(t, "catalog of another tenant", h.catalog(t, "uswm2"), foreign)

	drop(math.MinInt64, w+31)
	want(t, "all of it", h.got(t, part, 0, store.MaxMinute), []string{})
	wantCatalog(t, "catalog at the end", h.catalog(t, "uswm"), stays)
	// Other minutes of the layer can be written as before.
	h.put(t, h.row(whole, w+60, 1, "new"))
	if h.Reopen != nil {
		h.Store = h.Reopen(t)
	}
	wantCatalog(t, "catalog of the new row", h.catalog(t, "uswm"), whole, stays)
}

// Metrics is store.Store's by its Catalog, for stores of tests.
func Metrics(ctx context.Context, catalog func(ctx context.Context, tenant string, fn func(store.Series) error) error, tenant, experiment, prefix string, fn func(metric string) error) error {
	var names []string
	err := catalog(ctx, tenant, func(s store.Series) error {
		if s.Experiment == experiment && strings.HasPrefix(s.Metric, prefix) {
			names = append(names, s.Metric)
		}
		return nil
	})
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err == nil {
			err = fn(name)
		}
	}
	return err
}
