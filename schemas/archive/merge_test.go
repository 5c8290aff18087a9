package archive

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"tandem/schemas/blob"
)

func TestMerge(t *testing.T) {
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rows := testRows(rng, 1+rng.IntN(400))
		parts := make([][]Row, 1+rng.IntN(6))
		for _, r := range rows {
			i := rng.IntN(len(parts))
			parts[i] = append(parts[i], r)
		}
		lo, hi := rng.Uint64(), rng.Uint64()
		if lo > hi || seed%3 == 0 {
			lo, hi = 0, math.MaxUint64
		}
		var iters []*Iter
		for _, part := range parts {
			if len(part) > 0 {
				data, info := mustWrite(t, sorted(part))
				iters = append(iters, mustOpen(t, data, info).Rows(lo, hi, everything))
			}
		}
		m := Merge(iters)
		var got []Row
		for m.Next() {
			got = append(got, cloneRow(m.Row()))
		}
		if m.Err() != nil || m.Next() {
			t.Fatalf("seed %d: %v, or a row after the end", seed, m.Err())
		}
		wantRows(t, "merge", got, inRange(sorted(rows), lo, hi, everything))
	}
}

func TestMergeOfNothing(t *testing.T) {
	if m := Merge(nil); m.Next() || m.Next() || m.Err() != nil {
		t.Error("a row of no files")
	}
}

// Equal beacons stay together when payloads are not read, whatever their payloads.
func TestMergeWithoutPayload(t *testing.T) {
	a := []Row{{Hash: 1, TS: 1, Payload: []byte("a"), Ingest: 9}, {Hash: 1, TS: 1, Payload: []byte("b"), Ingest: 1}, {Hash: 1, TS: 2}}
	b := []Row{{Hash: 1, TS: 1, Payload: []byte("ab"), Ingest: 5}, {Hash: 1, TS: 2}}
	var iters []*Iter
	for _, rows := range [][]Row{a, b} {
		data, info := mustWrite(t, rows)
		iters = append(iters, mustOpen(t, data, info).Rows(0, math.MaxUint64, Columns{Event: true}))
	}
	var ts []int64
	m := Merge(iters)
	for m.Next() {
		ts = append(ts, m.Row().TS)
	}
	if m.Err() != nil || len(ts) != 5 || ts[2] != 1 || ts[3] != 2 {
		t.Errorf("ts %v, %v", ts, m.Err())
	}
}

func TestMergeReportsTheBrokenFile(t *testing.T) {
	rows := bigRows()
	data, info := mustWrite(t, rows)
	src := &countingReader{Reader: blob.Bytes(data)}
	broken, err := OpenFile(src, info)
	if err != nil {
		t.Fatal(err)
	}
	good, goodInfo := mustWrite(t, rows[:3])
	m := Merge([]*Iter{mustOpen(t, good, goodInfo).Rows(0, math.MaxUint64, everything), broken.Rows(0, math.MaxUint64, everything)})
	n := 0
	for m.Next() {
		if n++; n == 10 {
			src.fail = errors.New("storage is gone")
		}
	}
	if !errors.Is(m.Err(), src.fail) || n < 10 || n >= len(rows) || m.Next() {
		t.Errorf("after %d rows: %v", n, m.Err())
	}
}
