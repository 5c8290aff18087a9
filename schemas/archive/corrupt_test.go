package archive

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

func wantCorrupt(t *testing.T, what string, data []byte, info FileInfo, text string) {
	t.Helper()
	f, err := OpenFile(blob.Bytes(data), info)
	if f != nil || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), info.Name) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: OpenFile = %v; want %q of %s", what, err, text, info.Name)
	}
}

func TestCorruptFileIsNamed(t *testing.T) {
	data, info := mustWrite(t, sorted(testRows(rand.New(rand.NewPCG(1, 5)), 60)))
	for n := range len(data) {
		if n%7 == 0 || n > len(data)-16 {
			wantCorrupt(t, "truncated", data[:n], info, "bytes, its manifest says")
		}
	}
	wantCorrupt(t, "longer", append(bytes.Clone(data), 0), info, "bytes, its manifest says")
	want := readAll(t, mustOpen(t, data, info), 0, math.MaxUint64, everything)
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if i >= len(data)-int(info.Tail) {
			wantCorrupt(t, "flipped in the footer", bad, info, "the SHA-256 of its footer is")
			continue
		}
		// Elsewhere whoever reads the page finds it, and who reads all of the file finds what is between pages too.
		f := mustOpen(t, bad, info)
		var got []Row
		err := f.Scan(0, math.MaxUint64, everything, func(r *Row) error { got = append(got, cloneRow(r)); return nil })
		if err == nil {
			wantRows(t, "flipped between pages", got, want)
		} else if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), info.Name) || !strings.Contains(err.Error(), "its footer says") {
			t.Errorf("flipped at %d: %v", i, err)
		}
		if err := f.checkWhole(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "its SHA-256 is") {
			t.Errorf("flipped at %d: %v", i, err)
		}
	}
	wrong := info
	wrong.Rows++
	wantCorrupt(t, "rows", data, wrong, "60 rows, its row groups 60, its manifest says 61")
	wrong = info
	wrong.Digest = "x"
	wantCorrupt(t, "no digest", data, wrong, "64 hex digits")
	wrong = info
	wrong.TailDigest = "x"
	wantCorrupt(t, "no digest of the footer", data, wrong, "64 hex digits")
	for _, tail := range []int64{-1, 0, 7, info.Bytes + 1} {
		wrong = info
		wrong.Tail = tail
		wantCorrupt(t, "tail", data, wrong, "tail is")
	}
}

// Of the pages only those are looked at that are read.
func TestPagesAreCheckedApart(t *testing.T) {
	rows := sorted(benchRows(3 * groupRows))
	data, info := mustWrite(t, rows)
	f := mustOpen(t, data, info)
	bad := bytes.Clone(data)
	bad[f.groups[1].columns[colPayload].pages[0].at+40] ^= 1
	bad[f.groups[2].columns[colID].pages[0].at+40] ^= 1
	f = mustOpen(t, bad, info)
	first, second := f.groups[0].rows, f.groups[1].rows
	for _, test := range []struct {
		lo, hi uint64
		cols   Columns
		want   int64
		what   string
	}{
		{0, f.groups[0].hi, everything, first, ""},
		{0, f.groups[1].hi, Columns{Event: true}, first + second, ""},
		{0, f.groups[1].hi, everything, first, "row group 1: column payload"},
		{0, math.MaxUint64, Columns{}, first + second, "row group 2: column id"},
	} {
		n := int64(0)
		if err := f.Scan(test.lo, test.hi, test.cols, func(*Row) error { n++; return nil }); n != test.want || (err == nil) != (test.what == "") ||
			err != nil && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.what)) {
			t.Errorf("%+v: %d rows, %v", test, n, err)
		}
	}
}

// decode opens and reads bytes whose digests are right, as if a writer had made them so: an error is fine, wrong rows
// cannot be told, a panic or an endless loop is not.
func decode(data []byte, info FileInfo) {
	if info.Tail = min(info.Tail, int64(len(data))); info.Tail < minTail {
		return
	}
	made := describe(make([]Row, 1), data, int(info.Tail))
	made.Rows = info.Rows
	f, err := OpenFile(blob.Bytes(data), made)
	if err != nil {
		return
	}
	for g := range f.groups {
		for col := range f.groups[g].columns {
			for k := range f.groups[g].columns[col].pages {
				p := &f.groups[g].columns[col].pages[k]
				if p.at >= 0 && p.at+int64(p.length) <= int64(len(data)) {
					p.digest = xxhash.Sum64(data[p.at:][:p.length])
				}
			}
		}
	}
	_ = f.Scan(0, math.MaxUint64, everything, func(r *Row) error { _ = cloneRow(r); return nil })
}

func TestBadBytesBehindTheDigestDoNotPanic(t *testing.T) {
	data, info := mustWrite(t, sorted(testRows(rand.New(rand.NewPCG(1, 5)), 200)))
	rng := rand.New(rand.NewPCG(11, 12))
	for range devstack.Count(500, 5000) {
		bad := bytes.Clone(data)
		bad[rng.IntN(len(bad))] = byte(rng.Uint32())
		decode(bad, info)
	}
	for range 50 {
		decode(data[:rng.IntN(len(data)-1)+1], info)
	}
	// The footer is where lengths and offsets are.
	for i := len(data) - int(info.Tail); i < len(data); i++ {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << rng.IntN(8)
		decode(bad, info)
	}
}

func FuzzFile(f *testing.F) {
	for _, n := range []int{1, 3, 40} {
		data, info := mustWrite(f, sorted(testRows(rand.New(rand.NewPCG(2, uint64(n))), n)))
		f.Add(data, info.Tail, info.Rows)
	}
	f.Fuzz(func(t *testing.T, data []byte, tail, rows int64) {
		defer time.AfterFunc(10*time.Second, func() { panic("it does not end") }).Stop()
		decode(data, FileInfo{Name: "events/test.parquet", Tail: tail, Rows: rows})
	})
}

func TestRowsOutOfHashOrderAreAnError(t *testing.T) {
	// Sorted by everything but the hash: what Write refuses, put together from two row groups in the wrong order.
	data, info := mustWrite(t, []Row{{Hash: 1}, {Hash: 2}})
	f := mustOpen(t, data, info)
	it := f.Rows(0, math.MaxUint64, everything)
	if !it.Next() || !it.Next() {
		t.Fatal(it.Err())
	}
	it.nextGroup, it.group = 0, nil
	if it.Next() || !errors.Is(it.Err(), ErrCorrupt) {
		t.Errorf("hash 1 after 2 gives %v", it.Err())
	}
}
