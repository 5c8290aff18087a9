package staterun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"

	"tandem/schemas/blob"
)

func testRows(seed uint64, n int) []Row {
	rng := rand.New(rand.NewPCG(seed, 1))
	hashes := []uint64{0, 1, 1<<63 - 1, 1 << 63, math.MaxUint64}
	rows := make([]Row, n)
	for i := range rows {
		state := make([]byte, 80+rng.IntN(80))
		for j := range state {
			state[j] = byte(rng.Uint32())
		}
		hash := rng.Uint64()
		if i < 3*len(hashes) {
			hash = hashes[i%len(hashes)]
		}
		first := 1_760_000_000_000 + rng.Int64N(1e6)
		rows[i] = Row{hash, fmt.Sprintf("session-%d", i), first, first + rng.Int64N(1e6), rng.Int64N(2) * first, string(state)}
	}
	if n > 0 {
		rows[n-1].Session, rows[n-1].State = "sé", ""
	}
	slices.SortFunc(rows, func(a, b Row) int { return Compare(&a, &b) })
	return rows
}

func mustWrite(t testing.TB, rows []Row) ([]byte, RunInfo) {
	t.Helper()
	data, info, err := Write(rows)
	if err != nil {
		t.Fatal(err)
	}
	info.Name = "runs/test.parquet"
	return data, info
}

func readAll(t testing.TB, r blob.Reader, info RunInfo, lo, hi uint64) []Row {
	t.Helper()
	it, err := Open(r, info, lo, hi)
	if err != nil {
		t.Fatal(err)
	}
	rows := []Row{}
	for it.Next() {
		rows = append(rows, *it.Row())
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4095, 4096, 4097, 20_000} {
		rows := testRows(uint64(n), n)
		data, info := mustWrite(t, rows)
		for _, r := range [][2]uint64{{0, math.MaxUint64}, {0, 0}, {math.MaxUint64, math.MaxUint64}, {1 << 62, 1 << 63}, {3, 2}} {
			want := []Row{}
			for _, row := range rows {
				if r[0] <= row.Hash && row.Hash <= r[1] {
					want = append(want, row)
				}
			}
			if got := readAll(t, blob.Bytes(data), info, r[0], r[1]); !slices.Equal(got, want) {
				t.Errorf("%d rows, range %x: %d rows, want %d, or they differ", n, r, len(got), len(want))
			}
		}
	}
}

// Large enough to be read from its store in pieces, and to have several row groups.
func TestLargeRunFromDir(t *testing.T) {
	rows := testRows(5, 125_000)
	data, info := mustWrite(t, rows)
	if info.Bytes <= 2*holdBytes {
		t.Fatalf("only %d bytes", info.Bytes)
	}
	d, err := blob.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Create(info.Name, data); err != nil {
		t.Fatal(err)
	}
	r, err := d.Open(info.Name)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, r, info, 0, math.MaxUint64); !slices.Equal(got, rows) {
		t.Errorf("%d rows, want %d, or they differ", len(got), len(rows))
	}
	pr, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil || pr.NumRowGroups() < 2 {
		t.Errorf("row groups: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxStateBytes+1)
	for want, rows := range map[string][]Row{
		"is not after":            {{Hash: 2}, {Hash: 1}},
		"session \"a\" is not":    {{Hash: 1, Session: "b"}, {Hash: 1, Session: "a"}},
		"each session once":       {{Hash: 1, Session: "a"}, {Hash: 1, Session: "a"}},
		"is not UTF-8":            {{Session: "\xff"}},
		"session has 1025 bytes":  {{Session: long[:MaxSessionBytes+1]}},
		"has 1048577 bytes":       {{State: long}},
		"split the run by hash":   manyLarge(long[1:]),
		"row 1: session \"\" is ": {{}, {}},
	} {
		if data, _, err := Write(rows); err == nil || data != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func manyLarge(state string) []Row {
	rows := make([]Row, 1025)
	for i := range rows {
		rows[i] = Row{Hash: uint64(i), State: state}
	}
	return rows
}

func TestCorruptRunIsNamed(t *testing.T) {
	data, info := mustWrite(t, testRows(3, 20))
	check := func(what string, data []byte, info RunInfo) {
		t.Helper()
		if _, err := Open(blob.Bytes(data), info, 0, math.MaxUint64); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), info.Name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("flip at %d", i), bad, info)
		check(fmt.Sprintf("cut at %d", i), data[:i], info)
	}
	check("longer", append(bytes.Clone(data), 0), info)
	wrong := info
	wrong.Rows--
	check("rows", data, wrong)
}

// A decoder that gives fewer rows than promised without an error, as this one does with bad pages, is found out.
func TestMissingRowsAreAnError(t *testing.T) {
	data, info := mustWrite(t, testRows(3, 50))
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	it.info.Rows++
	n := 0
	for it.Next() {
		n++
	}
	if !errors.Is(it.Err(), ErrCorrupt) || !strings.Contains(it.Err().Error(), "its rows end at 50 of 51") {
		t.Errorf("%d rows, then %v", n, it.Err())
	}
}

// arrow's table reader must see the same rows.
func TestOtherReader(t *testing.T) {
	rows := testRows(8, 9000)
	data, _ := mustWrite(t, rows)
	table, err := pqarrow.ReadTable(context.Background(), bytes.NewReader(data), nil, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	var schema strings.Builder
	for _, f := range table.Schema().Fields() {
		fmt.Fprintf(&schema, "%s %s,", f.Name, f.Type)
	}
	const want = "session_hash int64,session utf8,first_ts timestamp[ms, tz=UTC],last_ts timestamp[ms, tz=UTC],due_ms int64,state binary,"
	if schema.String() != want {
		t.Fatalf("schema\n%s, want\n%s", schema.String(), want)
	}
	got := []Row{}
	tr := array.NewTableReader(table, 1000)
	defer tr.Release()
	for tr.Next() {
		rec := tr.Record()
		for i := range int(rec.NumRows()) {
			got = append(got, Row{
				unflip(rec.Column(0).(*array.Int64).Value(i)), rec.Column(1).(*array.String).Value(i),
				int64(rec.Column(2).(*array.Timestamp).Value(i)), int64(rec.Column(3).(*array.Timestamp).Value(i)),
				rec.Column(4).(*array.Int64).Value(i), string(rec.Column(5).(*array.Binary).Value(i)),
			})
		}
	}
	if !slices.Equal(got, rows) {
		t.Errorf("%d rows, want %d, or they differ", len(got), len(rows))
	}
}

// failingReader fails for good once it has read so many bytes.
type failingReader struct {
	blob.Reader
	left atomic.Int64
}

var errStorage = errors.New("storage is gone")

func (f *failingReader) ReadAt(p []byte, off int64) (int, error) {
	if f.left.Add(-int64(len(p))) < 0 {
		return 0, errStorage
	}
	return f.Reader.ReadAt(p, off)
}

// The library reads in goroutines of its own: a storage error there must neither end the process nor pass for the end.
func TestStorageErrors(t *testing.T) {
	data, info := mustWrite(t, testRows(5, 90_000))
	if info.Bytes <= holdBytes {
		t.Fatalf("only %d bytes", info.Bytes)
	}
	for _, extra := range []int64{-1, 0, 10, 1000, 20_000, 100_000, 1_000_000, 5_000_000} {
		r := &failingReader{Reader: blob.Bytes(data)}
		r.left.Store(info.Bytes + extra)
		it, err := Open(r, info, 0, math.MaxUint64)
		n := 0
		if err == nil {
			for it.Next() {
				n++
			}
			err = it.Err()
		}
		if !errors.Is(err, errStorage) || errors.Is(err, ErrCorrupt) {
			t.Errorf("failure %d bytes after the digest: %d rows, %v", extra, n, err)
		}
	}
}

const benchN = 200_000

func BenchmarkWrite(b *testing.B) {
	rows := testRows(1, benchN)
	var data []byte
	for b.Loop() {
		data, _ = mustWrite(b, rows)
	}
	b.ReportMetric(float64(b.N)*benchN/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(len(data))/benchN, "B/row")
}

func BenchmarkRead(b *testing.B) {
	data, info := mustWrite(b, testRows(1, benchN))
	for b.Loop() {
		it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
		if err != nil {
			b.Fatal(err)
		}
		for it.Next() {
		}
		if it.Err() != nil {
			b.Fatal(it.Err())
		}
	}
	b.ReportMetric(float64(b.N)*benchN/b.Elapsed().Seconds(), "rows/s")
}
