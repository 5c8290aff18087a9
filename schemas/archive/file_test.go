package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"

	"tandem/schemas/blob"
)

var everything = Columns{Payload: true, Event: true, Names: true}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{1, 2, 7, 1023, 1024, 1025, 5000} {
		for _, cols := range []Columns{{}, {Payload: true}, {Event: true}, {Names: true}, everything} {
			rows := sorted(testRows(rand.New(rand.NewPCG(7, uint64(n))), n))
			data, info := mustWrite(t, rows)
			f := mustOpen(t, data, info)
			what := fmt.Sprintf("%d rows, %+v", n, cols)
			wantRows(t, what, readAll(t, f, 0, math.MaxUint64, cols), inRange(rows, 0, math.MaxUint64, cols))
			for _, r := range [][2]uint64{{0, 0}, {1, math.MaxUint64}, {0, 1<<63 - 1}, {1 << 63, math.MaxUint64}, {math.MaxUint64, math.MaxUint64}, {2, 1}, {1, 2}} {
				got := readAll(t, f, r[0], r[1], cols)
				wantRows(t, fmt.Sprintf("%s, range %x", what, r), got, inRange(rows, r[0], r[1], cols))
			}
		}
	}
}

func TestSameRowsSameBytes(t *testing.T) {
	rows := sorted(testRows(rand.New(rand.NewPCG(1, 1)), 500))
	a, infoA := mustWrite(t, rows)
	b, infoB := mustWrite(t, rows)
	if !bytes.Equal(a, b) || infoA != infoB {
		t.Error("two writes of the same rows differ")
	}
}

func TestInfo(t *testing.T) {
	rows := sorted([]Row{
		{Hash: 9, TS: 30, Offset: 7}, {Hash: 3, TS: 10, Offset: 9}, {Hash: math.MaxUint64, TS: 20, Offset: 8},
	})
	data, info := mustWrite(t, rows)
	want := FileInfo{Name: info.Name, Bytes: int64(len(data)), Digest: info.Digest, Tail: info.Tail, TailDigest: info.TailDigest, Rows: 3, MinHash: 3, MaxHash: math.MaxUint64, MinTS: 10, MaxTS: 30, MinOffset: 7, MaxOffset: 9}
	if info != want || info.check() != nil {
		t.Errorf("info = %+v, %v; want %+v", info, info.check(), want)
	}
}

// Small rows by the tens of thousands and large ones both end row groups; a hash is divided only past the double limit.
func TestRowGroups(t *testing.T) {
	many := func(n int, payload int, hash func(i int) uint64) []Row {
		rows := make([]Row, n)
		for i := range rows {
			rows[i] = Row{Hash: hash(i), TS: int64(i), Payload: bytes.Repeat([]byte{'x'}, payload)}
		}
		return rows
	}
	tests := []struct {
		name string
		rows []Row
		want []int64
	}{
		{"cut by rows at a hash", many(150_000, 0, func(i int) uint64 { return uint64(i / 5000) }), slices.Repeat([]int64{5_000}, 30)},
		{"one hash", many(150_000, 0, func(int) uint64 { return 5 }), append(slices.Repeat([]int64{8_192}, 18), 2_544)},
		{"of a small file", many(32_000, 0, func(i int) uint64 { return uint64(i / 100) }), slices.Repeat([]int64{1000}, 32)},
		{"of one yet smaller", many(2_000, 0, func(i int) uint64 { return uint64(i) }), []int64{512, 512, 512, 464}},
		{"cut by bytes", many(20, 1<<20, func(i int) uint64 { return uint64(i / 3) }), []int64{9, 9, 2}},
		{"one hash, large", many(20, 1<<20, func(int) uint64 { return 5 }), []int64{16, 4}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data, info := mustWrite(t, test.rows)
			f := mustOpen(t, data, info)
			var got []int64
			for _, g := range f.groups {
				got = append(got, g.rows)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("row groups %v, want %v", got, test.want)
			}
			wantRows(t, "all", readAll(t, f, 0, math.MaxUint64, everything), test.rows)
		})
	}
}

// countingReader counts the bytes that are read of an object.
type countingReader struct {
	blob.Reader
	mu   sync.Mutex
	n    int64
	fail error
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return 0, c.fail
	}
	c.n += int64(len(p))
	return c.Reader.ReadAt(p, off)
}

// bigRows fill several row groups of a file that is too large to be held.
func bigRows() []Row {
	rng := rand.New(rand.NewPCG(3, 4))
	rows := make([]Row, 600)
	for i := range rows {
		payload := make([]byte, 90_000)
		for j := range payload {
			payload[j] = byte(rng.Uint32())
		}
		rows[i] = Row{Hash: uint64(i) << 54, TS: int64(i), Payload: payload}
	}
	return rows
}

func TestHashRangesReadTheirRowGroupsOnly(t *testing.T) {
	rows := bigRows()
	data, info := mustWrite(t, rows)
	src := &countingReader{Reader: blob.Bytes(data)}
	f, err := OpenFile(src, info)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.groups) < 3 {
		t.Fatalf("%d row groups", len(f.groups))
	}
	opened := src.n
	// One reader for each row group's range, at once.
	var wg sync.WaitGroup
	got := make([][]Row, len(f.groups))
	for i, g := range f.groups {
		wg.Go(func() { got[i] = readAll(t, f, g.lo, g.hi, everything) })
	}
	wg.Wait()
	wantRows(t, "ranges in order", slices.Concat(got...), rows)
	if all := src.n - opened; all > int64(len(data))*11/10 {
		t.Errorf("all ranges together read %d bytes of %d", all, len(data))
	}
	src.fail = errors.New("storage is gone")
	it := f.Rows(0, math.MaxUint64, everything)
	if it.Next() || !errors.Is(it.Err(), src.fail) || errors.Is(it.Err(), ErrCorrupt) {
		t.Errorf("storage failure gives %v", it.Err())
	}
}

func TestWriteRefuses(t *testing.T) {
	long := make([]byte, MaxFieldBytes+1)
	tests := []struct {
		name string
		rows []Row
		want string
	}{
		{"nothing", nil, "no rows"},
		{"order", []Row{{Hash: 2}, {Hash: 1}}, "call Sort first"},
		{"order by offset", []Row{{Offset: 2}, {Offset: 1}}, "call Sort first"},
		{"session", []Row{{Session: []byte{0xff}}}, "session is not UTF-8"},
		{"point", []Row{{Point: []byte("\xed\xa0\x80")}}, "point is not UTF-8"},
		{"long payload", []Row{{Offset: 77, Payload: long}}, "row 0 (offset 77): payload has 1048577 bytes"},
		{"long id", []Row{{ID: long}}, "id has 1048577 bytes"},
		{"too much", slices.Repeat([]Row{{Payload: long[1:], Event: long[1:]}}, 513), "write fewer rows a file"},
	}
	for _, test := range tests {
		data, _, err := Write(test.rows)
		if err == nil || data != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestManyPoints(t *testing.T) {
	for _, points := range []int{1, 2, 4999, 5000, 5001, 9000} {
		rows := make([]Row, 10_000)
		for i := range rows {
			rows[i] = Row{TS: int64(i), Point: fmt.Appendf(nil, "p%d", i%points)}
		}
		data, info := mustWrite(t, rows)
		wantRows(t, fmt.Sprintf("%d points", points), readAll(t, mustOpen(t, data, info), 0, math.MaxUint64, everything), rows)
	}
}

// arrow's own table reader, which shares only the page decoders with this package, must see the same rows, and the
// annotations that SQL readers go by.
func TestOtherReader(t *testing.T) {
	rows := sorted(testRows(rand.New(rand.NewPCG(9, 9)), 3000))
	data, _ := mustWrite(t, rows)
	pr, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	ar, err := pqarrow.NewFileReader(pr, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	table, err := ar.ReadTable(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	wantSchema := "session_hash int64,session utf8,ts timestamp[ms, tz=UTC],ingest_ms int64,offset int64,digest int64,id utf8,event binary,point utf8,visitor utf8,payload binary,"
	var gotSchema strings.Builder
	for _, f := range table.Schema().Fields() {
		fmt.Fprintf(&gotSchema, "%s %s,", f.Name, f.Type)
	}
	if gotSchema.String() != wantSchema {
		t.Errorf("schema\n%s, want\n%s", gotSchema.String(), wantSchema)
	}
	got := make([]Row, table.NumRows())
	for col := range numColumns {
		i := 0
		for _, chunk := range table.Column(col).Data().Chunks() {
			for j := range chunk.Len() {
				setField(&got[i], col, chunk, j)
				i++
			}
		}
	}
	wantRows(t, "pqarrow", got, rows)
	for i := range pr.NumRowGroups() {
		chunk, err := pr.RowGroup(i).MetaData().ColumnChunk(colPoint)
		if err != nil || !chunk.HasDictionaryPage() {
			t.Errorf("row group %d: point has no dictionary, %v", i, err)
		}
	}
}

func setField(r *Row, col int, values arrow.Array, i int) {
	var n int64
	var b []byte
	switch values := values.(type) {
	case *array.Int64:
		n = values.Value(i)
	case *array.Timestamp:
		n = int64(values.Value(i))
	case *array.String:
		b = []byte(values.Value(i))
	case *array.Binary:
		b = values.Value(i)
	}
	switch col {
	case colHash:
		r.Hash = unflip(n)
	case colTS:
		r.TS = n
	case colIngest:
		r.Ingest = n
	case colOffset:
		r.Offset = n
	case colDigest:
		r.Digest = uint64(n)
	case colSession:
		r.Session = b
	case colID:
		r.ID = b
	case colPayload:
		r.Payload = b
	case colPoint:
		r.Point = b
	case colVisitor:
		r.Visitor = b
	case colEvent:
		r.Event = b
	}
}

func TestScanStopsAtCallbackError(t *testing.T) {
	data, info := mustWrite(t, make([]Row, 10))
	n := 0
	err := mustOpen(t, data, info).Scan(0, math.MaxUint64, everything, func(*Row) error { n++; return io.ErrShortWrite })
	if err != io.ErrShortWrite || n != 1 {
		t.Errorf("Scan = %v after %d rows", err, n)
	}
}

// footerOf is the size of a Parquet file's footer.
func footerOf(data []byte) int { return 8 + int(binary.LittleEndian.Uint32(data[len(data)-8:])) }

// A file of another program with the right digest is refused by its columns, not read by position.
func TestForeignColumns(t *testing.T) {
	sc := arrow.NewSchema([]arrow.Field{{Name: "session_hash", Type: arrow.PrimitiveTypes.Int64}}, nil)
	var out bytes.Buffer
	w, err := pqarrow.NewFileWriter(sc, &out, parquet.NewWriterProperties(), pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	info := describe(make([]Row, 1), out.Bytes(), footerOf(out.Bytes()))
	if _, err := OpenFile(blob.Bytes(out.Bytes()), info); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "columns") {
		t.Errorf("OpenFile = %v", err)
	}
}
