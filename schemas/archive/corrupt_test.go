package archive

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/schemas/blob"
)

func wantCorrupt(t *testing.T, what string, data []byte, info FileInfo, text string) {
	t.Helper()
	f, err := OpenFile(blob.Bytes(data), info)
	if f != nil || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), info.Name) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: OpenFile = %v; want %q of %s", what, err, text, info.Name)
	}
}

func TestCorruptFileIsNamed(t *testing.T) {
	data, info := mustWrite(t, sorted(testRows(rand.New(rand.NewPCG(1, 5)), 200)))
	for n := range len(data) {
		if n%7 == 0 || n > len(data)-16 {
			wantCorrupt(t, "truncated", data[:n], info, "bytes, its manifest says")
		}
	}
	wantCorrupt(t, "longer", append(bytes.Clone(data), 0), info, "bytes, its manifest says")
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		wantCorrupt(t, "flipped", bad, info, "its SHA-256 is")
	}
	wrong := info
	wrong.Rows++
	wantCorrupt(t, "rows", data, wrong, "200 rows, its row groups 200, its manifest says 201")
	wrong = info
	wrong.Digest = "x"
	wantCorrupt(t, "no digest", data, wrong, "64 hex digits")
}

// decode opens and reads bytes whose digest is right, as if a writer had made them so: an error is fine, wrong rows
// cannot be told, a panic or an endless loop is not.
func decode(data []byte, rows int64) {
	info := describe(make([]Row, 1), data)
	info.Rows = rows
	f, err := OpenFile(blob.Bytes(data), info)
	if err != nil {
		return
	}
	_ = f.Scan(0, math.MaxUint64, everything, func(r *Row) error { _ = cloneRow(r); return nil })
}

func TestBadBytesBehindTheDigestDoNotPanic(t *testing.T) {
	data, info := mustWrite(t, sorted(testRows(rand.New(rand.NewPCG(1, 5)), 200)))
	rng := rand.New(rand.NewPCG(11, 12))
	for range 300 {
		bad := bytes.Clone(data)
		bad[rng.IntN(len(bad))] = byte(rng.Uint32())
		decode(bad, info.Rows)
	}
	for range 50 {
		decode(data[:rng.IntN(len(data)-1)+1], info.Rows)
	}
	// The footer is where lengths and offsets are.
	for i := max(0, len(data)-500); i < len(data); i++ {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << rng.IntN(8)
		decode(bad, info.Rows)
	}
}

func TestRowsOutOfHashOrderAreAnError(t *testing.T) {
	// Sorted by everything but the hash: what Write refuses, put together from two row groups in the wrong order.
	data, info := mustWrite(t, []Row{{Hash: 1}, {Hash: 2}})
	f := mustOpen(t, data, info)
	it := f.Rows(0, math.MaxUint64, everything)
	if !it.Next() || !it.Next() {
		t.Fatal(it.Err())
	}
	it.nextGroup, it.left = 0, 0
	if it.Next() || !errors.Is(it.Err(), ErrCorrupt) {
		t.Errorf("hash 1 after 2 gives %v", it.Err())
	}
}
