package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/schemas/blob"
)

// testRows makes n rows in no order, with hashes at the boundaries, hashes shared by sessions, equal keys and equal rows.
func testRows(rng *rand.Rand, n int) []Row {
	points := []string{"", "home_page", "item_page", "order", "pünkt"}
	rows := make([]Row, n)
	for i := range rows {
		session := rng.IntN(n/8 + 1)
		hash := uint64(session/2) * 0x9E3779B97F4A7C15
		switch session / 2 {
		case 1:
			hash = math.MaxUint64
		case 2:
			hash = 1 << 63
		case 3:
			hash = 1<<63 - 1
		}
		rows[i] = Row{
			Hash: hash, Session: fmt.Appendf(nil, "session-%d", session),
			TS: 1_760_000_000_000 + rng.Int64N(20), ID: fmt.Appendf(nil, "id%d", rng.IntN(3)),
			Payload: bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(40)), Ingest: 1_760_000_000_000 + rng.Int64N(3),
			Offset: int64(i), Point: []byte(points[rng.IntN(len(points))]), Visitor: fmt.Appendf(nil, "v%d", session),
			Digest: rng.Uint64(), Event: binary.AppendVarint(nil, rng.Int64()),
		}
	}
	return rows
}

func sorted(rows []Row) []Row {
	rows = slices.Clone(rows)
	Sort(rows)
	return rows
}

func mustWrite(t testing.TB, rows []Row) ([]byte, FileInfo) {
	t.Helper()
	data, info, err := Write(rows)
	if err != nil {
		t.Fatal(err)
	}
	info.Name = "events/test.parquet"
	return data, info
}

func mustOpen(t testing.TB, data []byte, info FileInfo) *File {
	t.Helper()
	f, err := OpenFile(blob.Bytes(data), info)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func cloneRow(r *Row) Row {
	c := *r
	c.Session, c.ID, c.Payload = bytes.Clone(r.Session), bytes.Clone(r.ID), bytes.Clone(r.Payload)
	c.Point, c.Visitor, c.Event = bytes.Clone(r.Point), bytes.Clone(r.Visitor), bytes.Clone(r.Event)
	return c
}

func readAll(t testing.TB, f *File, lo, hi uint64, cols Columns) []Row {
	t.Helper()
	var rows []Row
	if err := f.Scan(lo, hi, cols, func(r *Row) error {
		rows = append(rows, cloneRow(r))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func inRange(rows []Row, lo, hi uint64, cols Columns) []Row {
	var want []Row
	for _, r := range rows {
		if lo <= r.Hash && r.Hash <= hi {
			if !cols.Payload {
				r.Payload = nil
			}
			if !cols.Event {
				r.Event = nil
			}
			if !cols.Names {
				r.Point, r.Visitor = nil, nil
			}
			want = append(want, r)
		}
	}
	return want
}

func wantRows(t testing.TB, what string, got, want []Row) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
	for i := range want {
		g, w := &got[i], &want[i]
		if Compare(g, w) != 0 || g.Digest != w.Digest || !bytes.Equal(g.Point, w.Point) || !bytes.Equal(g.Visitor, w.Visitor) || !bytes.Equal(g.Event, w.Event) {
			t.Fatalf("%s: row %d is\n%+v, want\n%+v", what, i, *g, *w)
		}
	}
}

// benchRows are like production's: 500-byte payloads, a few dozen beacons a session.
func benchRows(n int) []Row {
	rng := rand.New(rand.NewPCG(1, 2))
	points := []string{"home_page", "item_page", "search", "add_to_cart", "order"}
	rows := make([]Row, n)
	for i := range rows {
		session := rng.Uint64N(uint64(n/20 + 1))
		ts := 1_760_000_000_000 + int64(i)/100
		point := points[rng.IntN(len(points))]
		id := fmt.Appendf(nil, "%016x", rng.Uint64())
		name := fmt.Appendf(nil, "s%021x", session*0x9E3779B97F4A7C15)
		visitor := fmt.Appendf(nil, "v%021x", session*0xC2B2AE3D27D4EB4F)
		payload := fmt.Appendf(nil, `{"id":"%s","tenant":"uswm","session":"%s","visitor":"%s","ts":%d,"point":"%s","experiments":{"btn_color":"red","ranker":"v%d"},"values":{"revenue":%d.%02d},"attrs":{"url":"https://shop.example/item/%d?ref=%x","ua":"`,
			id, name, visitor, ts, point, rng.IntN(3), rng.IntN(500), rng.IntN(100), rng.IntN(100_000), rng.Uint64())
		for len(payload) < 497 {
			payload = append(payload, "abcdefghijklmnop"[rng.IntN(16)])
		}
		rows[i] = Row{
			Hash: session * 0x9E3779B97F4A7C15, Session: name, TS: ts, ID: id, Payload: append(payload, `"}}`...), Ingest: ts + rng.Int64N(500),
			Offset: int64(i), Point: []byte(point), Visitor: visitor, Digest: 42, Event: append(slices.Clone(id[:8]), payload[200:240]...),
		}
	}
	return rows
}
