package campaign

import (
	"fmt"
	"strings"
	"testing"

	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/wire"
)

// The checkers are held against rows that are made up: each law once kept and once broken.

const layer = "stream.dc1"

func key(metric string, minute int64) rowKey {
	return rowKey{store.Series{Tenant: "shop", Metric: metric, Layer: layer}, minute}
}

// sums encodes a row of one cell; 0 is a row without cells.
func sums(t testing.TB, v int64) []byte {
	t.Helper()
	var cells []row.Cell
	if v != 0 {
		cells = []row.Cell{{Value: v}}
	}
	b, err := row.Append(nil, row.Sums, cells)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closedAt(minutes ...int64) []store.Progress {
	var all []store.Progress
	for i, m := range minutes {
		all = append(all, store.Progress{Layer: layer, Tenant: "shop", Partition: int32(i), ClosedBefore: m})
	}
	return all
}

// scan is one scan of the store: what the poller sees.
type scan struct {
	progress []store.Progress
	rows     map[rowKey][2]int64 // version, value
	torn     bool
}

func TestWatch(t *testing.T) {
	k, other := key("site.home", 10), key("site.cart", 10)
	for _, c := range []struct {
		name  string
		scans []scan
		fault string // "" none
	}{
		{"grows, closes, stays", []scan{
			{closedAt(9, 9), map[rowKey][2]int64{k: {1, 5}}, false},
			{closedAt(10, 9), map[rowKey][2]int64{k: {4, 6}, other: {2, 1}}, false},
			{closedAt(11, 12), map[rowKey][2]int64{k: {5, 7}, other: {2, 1}}, false},
			{closedAt(11, 12), map[rowKey][2]int64{k: {5, 7}, other: {2, 1}}, false}}, ""},
		{"version goes back", []scan{
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(9, 9), map[rowKey][2]int64{k: {3, 5}}, false}}, "goes back from version 4 to 3"},
		{"two values of a version", []scan{
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 6}}, false}}, "two values of version 4"},
		{"closed and changes", []scan{
			{closedAt(11, 11), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {6, 6}}, false}}, "closed, changes from version 4 to 6"},
		{"one partition is still open", []scan{
			{closedAt(11, 10), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {6, 6}}, false}}, ""},
		{"one partition was not heard of", []scan{
			{closedAt(11), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {6, 6}}, false}}, ""},
		{"closed and is written again as it was", []scan{
			{closedAt(11, 11), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {6, 5}}, false}}, ""},
		{"progress goes back", []scan{{closedAt(9, 9), nil, false}, {closedAt(9, 8), nil, false}}, "goes back from 9 to 8"},
		{"progress vanishes", []scan{{closedAt(9, 9), nil, false}, {closedAt(9), nil, false}}, "goes back from 9 to 0"},
		{"a row vanishes", []scan{
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 5}, other: {1, 1}}, false},
			{closedAt(9, 9), map[rowKey][2]int64{other: {1, 1}}, false}}, "is gone; its version was 4"},
		{"a scan is torn", []scan{
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 5}}, false},
			{closedAt(9, 9), nil, true},
			{closedAt(9, 9), map[rowKey][2]int64{k: {4, 5}}, false}}, ""},
		{"a row comes to a closed minute", []scan{
			{closedAt(11, 11), nil, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {1, 1}}, false}}, "comes with version 1, after"},
		{"an empty row comes to a closed minute", []scan{
			{closedAt(11, 11), nil, false},
			{closedAt(11, 11), map[rowKey][2]int64{k: {1, 0}}, false}}, ""},
		{"a row comes after a torn scan", []scan{
			{closedAt(11, 11), nil, true},
			{closedAt(11, 11), map[rowKey][2]int64{k: {1, 1}}, false}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWatch(2)
			for _, s := range c.scans {
				w.begin(s.progress)
				for k, v := range s.rows {
					w.row(k, v[0], sums(t, v[1]))
				}
				w.end(!s.torn)
			}
			switch {
			case c.fault == "" && len(w.faults) > 0:
				t.Errorf("faults: %q", w.faults)
			case c.fault != "" && (len(w.faults) != 1 || !strings.Contains(w.faults[0], c.fault)):
				t.Errorf("faults %q, want one: %s", w.faults, c.fault)
			}
		})
	}
}

// told1 is a message of a row of one cell.
func told1(t testing.TB, h wire.Head, minute int64, metric string, v int64) []byte {
	t.Helper()
	h.Tenant, h.Topic = "shop", "id"
	var e wire.Encoder
	var out []byte
	e.Begin(&h, minute, func(b []byte) error { out = b; return nil })
	cells := []wire.SymCell{{Value: v}}
	if v == 0 {
		cells = nil
	}
	if err := e.Row(0, wire.Sym{}, wire.Sym{ID: 1, Text: metric}, false, cells); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	return out
}

func marker(h wire.Head, watermark int64) []byte {
	h.Tenant, h.Topic = "shop", "id"
	return wire.AppendMarker(&h, watermark, 0)
}

func TestPrefixes(t *testing.T) {
	of := func(shard int32, generation, first, offset int64) wire.Head {
		return wire.Head{Partition: shard, Generation: generation, FirstMinute: first, Offset: offset}
	}
	log := [][]byte{
		0: told1(t, of(0, 0, 0, 5), 9, "cart", 1),
		1: told1(t, of(0, 0, 0, 5), 10, "home", 3),
		2: told1(t, of(1, 0, 0, 5), 10, "home", 4),
		3: told1(t, of(0, 0, 0, 9), 10, "home", 5),
		4: told1(t, of(0, 0, 0, 5), 10, "home", 3), // a former owner
		5: marker(of(0, 1, 10, 9), 10),             // a generation that begins with minute 10
		6: told1(t, of(0, 1, 10, 7), 10, "home", 6),
		7: marker(of(0, 1, 10, 9), 11),
		8: marker(of(1, 0, 0, 9), 11),
		9: told1(t, of(0, 1, 10, 99), 10, "home", 50), // the minute is closed
	}
	home := key("site.home", 10)
	for _, c := range []struct {
		version, value int64
		fault          string
	}{
		{0, 3, ""}, {1, 7, ""}, {2, 9, ""}, {3, 9, ""}, {4, 4, ""}, {5, 10, ""},
		{1, 8, "is not what the metrics topic's prefix up to message 2"}, {2, 7, "is not what"}, {3, 7, "is not what"}, {4, 9, "is not what"},
		{5, 15, "is not what"}, {8, 54, "of 1 versions that were seen 0"}, {6, 10, "of 1 versions"}, {77, 9, "of 1 versions that were seen 0"},
	} {
		w := newWatch(1)
		w.begin(nil)
		w.row(home, c.version, sums(t, c.value))
		var faults []string
		report := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
		p := newPrefixes(layer, 0, map[string]int{"shop": 2}, w.rows, report)
		for i, m := range log {
			if err := p.take(int64(i), m); err != nil {
				t.Fatal(err)
			}
		}
		unexplained(layer, w.rows, []*prefixes{p}, report)
		if (c.fault == "") != (len(faults) == 0) || len(faults) > 1 || len(faults) == 1 && !strings.Contains(faults[0], c.fault) {
			t.Errorf("version %d, value %d: faults %q, want %q", c.version, c.value, faults, c.fault)
		}
	}
}

func TestRowParts(t *testing.T) {
	part := func(digest byte, parts int, text string) []byte {
		return append([]byte{1, 0, byte(parts), digest, 0, 0, 0, 0, 0, 0, 0}, text...)
	}
	k, other := key("site.home", 10), key("site.home", 11)
	var got []string
	var j rowParts
	torn := 0
	for _, p := range []struct {
		k       rowKey
		part    int
		v       []byte
		written int64
	}{
		{k, 0, []byte("\x00whole"), 600_000_003},
		{k, 1, part(7, 2, "left behind"), 600_000_002},
		{other, 0, part(8, 2, "two"), 660_000_005},
		{other, 1, part(8, 2, " parts"), 660_000_005},
		{other, 2, part(7, 3, "left behind"), 660_000_004},
		{k, 0, part(9, 2, "torn"), 600_000_006},
		{k, 1, part(8, 2, "of another version"), 600_000_005},
		{other, 0, []byte("\x00"), 660_000_000},
	} {
		torn += j.take(p.k, p.part, p.v, p.written, func(k rowKey, version int64, value []byte) {
			got = append(got, fmt.Sprintf("%d:%d:%s", k.minute, version, value))
		})
	}
	if want := "10:3:whole 11:5:two parts 11:0:"; strings.Join(got, " ") != want || torn != 1 {
		t.Errorf("%q, %d torn; want %q, 1 torn", got, torn, want)
	}
}
