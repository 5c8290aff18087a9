package storetest

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/schemas/store"
)

func testGreatestVersion(t *testing.T, h Harness) {
	m := h.minute()
	h.put(t, h.row(home, m, 5, "five"))
	h.put(t, h.row(home, m, 4, "four"))
	want(t, "an older one loses", h.got(t, home, m, m+1), []string{line(m, 5, "five")})
	h.put(t, h.row(home, m, 5, "five"))
	want(t, "a repeat", h.got(t, home, m, m+1), []string{line(m, 5, "five")})
	h.put(t, h.row(home, m, 7, ""), h.row(home, m, 6, "six"))
	want(t, "within a call, to an empty value", h.got(t, home, m, m+1), []string{line(m, 7, "")})
	h.put(t, h.row(home, m, store.MaxVersion, "last"), h.row(home, m+1, 0, "zero"))
	want(t, "limits", h.got(t, home, m, m+2), []string{line(m, store.MaxVersion, "last"), line(m+1, 0, "zero")})
	other := home
	other.Layer = "stream.dc2"
	h.put(t, h.row(other, m, 1, "other"))
	want(t, "another layer", h.got(t, other, m, m+2), []string{line(m, 1, "other")})
	want(t, "is another layer", h.got(t, home, m, m+1), []string{line(m, store.MaxVersion, "last")})
}

// Writes in any order, repeated at will and split into calls at will leave what the greatest versions say.
func testAnyOrder(t *testing.T, h Harness) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 1))
	series := []store.Series{home, item, {Tenant: "uswm", Metric: "site.home", Layer: "stream.dc1"}}
	m := h.minute()
	var writes []store.Row
	model := map[store.Series]map[int64]store.Row{}
	for range 400 {
		s := series[r.IntN(len(series))]
		minute, version := m-r.Int64N(8), r.Int64N(6)
		row := h.row(s, minute, version, fmt.Sprint(s.Metric, minute, version, strings.Repeat(".", int(version)*37)))
		for range 1 + r.IntN(3) {
			writes = append(writes, row)
		}
		if model[s] == nil {
			model[s] = map[int64]store.Row{}
		}
		if old, ok := model[s][minute]; !ok || version > old.Version {
			model[s][minute] = row
		}
	}
	r.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	for len(writes) > 0 {
		n := min(len(writes), 1+r.IntN(60))
		h.put(t, writes[:n]...)
		writes = writes[n:]
	}
	for _, s := range series {
		var lines []string
		for minute := m - 8; minute <= m; minute++ {
			if row, ok := model[s][minute]; ok {
				lines = append(lines, line(minute, row.Version, string(row.Value)))
			}
		}
		want(t, fmt.Sprintf("seed %d, %s", seed, s), h.got(t, s, m-100, m+100), lines)
	}
}

func testConcurrent(t *testing.T, h Harness) {
	const writers, versions, minutes = 4, 12, 5
	m := h.minute()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for _, v := range r.Perm(versions) {
				var rows []store.Row
				for _, k := range r.Perm(minutes) {
					rows = append(rows, h.row(item, m+int64(k), int64(v), fmt.Sprint("v", v, "m", k)))
				}
				if err := h.Store.PutRows(ctx, rows); err != nil {
					t.Error(err)
				}
				last := int64(-1)
				err := h.Store.Rows(ctx, item, m, m+minutes, func(minute, version int64, value []byte) error {
					if string(value) != fmt.Sprint("v", version, "m", minute-m) || version < int64(v) || minute <= last {
						return fmt.Errorf("minute %d version %d value %q after minute %d, having written version %d", minute, version, value, last, v)
					}
					last = minute
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var lines []string
	for k := range minutes {
		lines = append(lines, line(m+int64(k), versions-1, fmt.Sprint("v", versions-1, "m", k)))
	}
	want(t, "at the end", h.got(t, item, m, m+minutes), lines)
}

func testBounds(t *testing.T, h Harness) {
	m := h.minute() / 1440 * 1440 // around midnight: stores part their data by day
	all := []string{}
	for _, k := range []int64{-2, -1, 0, 1, 1439, 1440, 1441} {
		h.put(t, h.row(home, m+k, 1, "v"))
		all = append(all, line(m+k, 1, "v"))
	}
	for _, c := range []struct {
		from, to int64
		want     []string
	}{
		{m - 2, m + 1442, all},
		{m - 1, m + 1441, all[1:6]},
		{m, m + 1, all[2:3]},
		{m, m, nil},
		{m + 1, m, nil},
		{m + 2, m + 1439, nil},
		{m + 1439, m + 1440, all[4:5]},
		{math.MinInt64, math.MaxInt64, all},
		{math.MinInt64, m, all[:2]},
		{m, math.MaxInt64, all[2:]},
		{store.MaxMinute + 1, math.MaxInt64, nil},
		{math.MinInt64, -1, nil},
		{math.MaxInt64, math.MinInt64, nil},
	} {
		want(t, fmt.Sprintf("[%d, %d)", c.from-m, c.to-m), h.got(t, home, c.from, c.to), c.want)
	}
	// Never expiring, so that the ends of time can be written.
	h.put(t, store.Row{Series: item, Minute: 0, Version: 1, Value: []byte("first")},
		store.Row{Series: item, Minute: store.MaxMinute, Version: 1, Value: []byte("last")})
	want(t, "the ends", h.got(t, item, math.MinInt64, math.MaxInt64), []string{line(0, 1, "first"), line(store.MaxMinute, 1, "last")})
	want(t, "without the last", h.got(t, item, 0, store.MaxMinute), []string{line(0, 1, "first")})
}

func testValues(t *testing.T, h Harness) {
	m := h.minute()
	r := rand.New(rand.NewPCG(3, 3))
	sizes := []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300 << 10, 1 << 20, 5 << 20}
	values := make([][]byte, len(sizes))
	var rows []store.Row
	for i, n := range sizes {
		values[i] = make([]byte, n)
		for j := range values[i] {
			values[i][j] = byte(r.Uint32())
		}
		rows = append(rows, h.row(home, m+int64(i), 1, ""))
		rows[i].Value = bytes.Clone(values[i])
	}
	h.put(t, rows...)
	for i := range rows {
		clear(rows[i].Value) // the store keeps no reference
	}
	// A value that shrinks or grows across the sizes of parts leaves nothing of the other.
	small, large := h.row(home, m, 2, ""), h.row(home, m+6, 2, "small")
	small.Value = values[6]
	h.put(t, small, large)
	values[0], values[6] = values[6], []byte("small")
	n := 0
	err := h.Store.Rows(ctx, home, m, m+int64(len(sizes)), func(minute, _ int64, value []byte) error {
		if !bytes.Equal(value, values[minute-m]) {
			t.Errorf("value of %d bytes: got %d others", sizes[minute-m], len(value))
		}
		n++
		return nil
	})
	if err != nil || n != len(sizes) {
		t.Errorf("%d of %d values, %v", n, len(sizes), err)
	}
}

// More rows in one call than a store takes in one batch.
func testManyRows(t *testing.T, h Harness) {
	const series, minutes = 20, 500
	m := h.minute()
	var rows []store.Row
	for k := range int64(minutes) {
		for i := range series {
			s := item
			s.Metric = fmt.Sprintf("fm.point_%02d", i)
			rows = append(rows, h.row(s, m-k, k, fmt.Sprintf("%d.%d.%s", i, k, strings.Repeat("x", 500))))
		}
	}
	h.put(t, rows...)
	for i := range series {
		s := item
		s.Metric = fmt.Sprintf("fm.point_%02d", i)
		var lines []string
		for k := int64(minutes) - 1; k >= 0; k-- {
			lines = append(lines, line(m-k, k, fmt.Sprintf("%d.%d.%s", i, k, strings.Repeat("x", 500))))
		}
		if got := h.got(t, s, m-minutes, m+1); !slices.Equal(got, lines) {
			t.Errorf("%s: %d rows, want %d", s.Metric, len(got), len(lines))
		}
	}
	if got := len(h.catalog(t, item.Tenant)); got != series {
		t.Errorf("%d series in the catalog, want %d", got, series)
	}
}

func testRollups(t *testing.T, h Harness) {
	w := h.minute() / 30 * 30
	put := func(rows ...store.Row) {
		t.Helper()
		if err := h.Store.PutRollups(ctx, rows); err != nil {
			t.Fatal(err)
		}
	}
	put(h.row(home, w, 2, "two"), h.row(home, w-30, 1, "before"), h.row(home, w, 1, "one"))
	h.put(t, h.row(home, w, 9, "a row is no rollup"))
	put(h.row(home, w, 2, "two"))
	want(t, "rollups", collect(t, h.Store.Rollups, home, w-30, w+30), []string{line(w-30, 1, "before"), line(w, 2, "two")})
	want(t, "bounds", collect(t, h.Store.Rollups, home, w-30, w), []string{line(w-30, 1, "before")})
	want(t, "rows", h.got(t, home, w-30, w+30), []string{line(w, 9, "a row is no rollup")})
	put(h.row(item, w, 1, "only a rollup"))
	wantCatalog(t, "catalog", h.catalog(t, "uswm"), home, item)
}

func testExpiry(t *testing.T, h Harness) {
	m := h.minute()
	row := func(k int64, in time.Duration, value string) store.Row {
		return store.Row{Series: home, Minute: m + k, Version: 1, Expires: h.Now().Add(in).UnixMilli(), Value: []byte(value)}
	}
	soon, later := row(0, 2*time.Second, "soon"), row(1, time.Hour, "later")
	h.put(t, row(2, -time.Minute, "expired when it comes"), soon, later)
	h.put(t, store.Row{Series: home, Minute: m + 3, Version: 1, Value: []byte("never")})
	if err := h.Store.PutRollups(ctx, []store.Row{soon, later}); err != nil {
		t.Fatal(err)
	}
	rest := []string{line(m+1, 1, "later"), line(m+3, 1, "never")}
	want(t, "before", h.got(t, home, m, m+9), append([]string{line(m, 1, "soon")}, rest...))
	h.Advance(4 * time.Second)
	want(t, "after", h.got(t, home, m, m+9), rest)
	want(t, "rollups", collect(t, h.Store.Rollups, home, m, m+9), rest[:1])
	h.put(t, soon)
	want(t, "repeated after its end", h.got(t, home, m, m+9), rest)
	if h.Reopen != nil {
		h.Store = h.Reopen(t)
		want(t, "reopened", h.got(t, home, m, m+9), rest)
	}
}
