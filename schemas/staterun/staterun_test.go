package staterun

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/cespare/xxhash/v2"
	"github.com/xitongsys/parquet-go/parquet"

	"tandem/schemas/blob"
	"tandem/schemas/pages"
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

// testNames has more names than testAbout uses.
var testNames = Names{
	Experiments: []string{"unused", "color", "size", "é", ""},
	Variations:  []string{"control", "red", "unused"},
	Totals:      []string{"home", "order.revenue", "unused", "é"},
}

// testAbout is what is said of a row: of some nothing, of some much.
func testAbout(r *Row) (a About) {
	rng := rand.New(rand.NewPCG(r.Hash, uint64(len(r.Session))))
	a = About{Beacons: rng.Int64N(1000), Visits: rng.Int64N(3), Pages: rng.Int64N(50)}
	for _, x := range []int32{1, 2, 3, 4} {
		if rng.IntN(3) == 0 {
			a.Experiments = append(a.Experiments, Experiment{Name: x, Variation: rng.Int32N(2), Assigned: r.FirstTS + rng.Int64N(1000),
				Qualified: r.FirstTS + 1000 + rng.Int64N(1000), IsQualified: rng.IntN(2) == 0})
		}
	}
	for _, n := range []int32{3, 0, 1} {
		if rng.IntN(2) == 0 {
			a.Totals = append(a.Totals, Total{Name: n, Value: []int64{1, -1, math.MaxInt64, math.MinInt64, rng.Int64N(1000)}[rng.IntN(5)]})
		}
	}
	return a
}

// said is a row's About as text.
func said(names *Names, a About) string {
	var text strings.Builder
	fmt.Fprint(&text, a.Beacons, " ", a.Visits, " ", a.Pages)
	for _, x := range a.Experiments {
		fmt.Fprintf(&text, " %s=%s %d", names.Experiments[x.Name], names.Variations[x.Variation], x.Assigned)
		if x.IsQualified {
			fmt.Fprint(&text, "/", x.Qualified)
		}
	}
	for _, n := range a.Totals {
		fmt.Fprintf(&text, " %s:%d", names.Totals[n.Name], n.Value)
	}
	return text.String()
}

func write(rows []Row) ([]byte, RunInfo, error) { return writeSaying(rows, &testNames, testAbout) }

func writeSaying(rows []Row, names *Names, about func(*Row) About) ([]byte, RunInfo, error) {
	w := NewWriter(names)
	for i := range rows {
		r := &rows[i]
		a := about(r)
		if err := w.Add(r.Hash, []byte(r.Session), r.FirstTS, r.LastTS, r.Due, []byte(r.State), &a); err != nil {
			return nil, RunInfo{}, err
		}
	}
	return w.Finish()
}

func mustWrite(t testing.TB, rows []Row) ([]byte, RunInfo) {
	t.Helper()
	data, info, err := write(rows)
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
		rows = append(rows, it.Row())
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
	if info.Bytes <= 2*blob.HoldBytes {
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
	many := func(a *About) {
		w := NewWriter(&testNames)
		if err := w.Add(1, nil, 0, 0, 0, nil, a); err == nil || !strings.Contains(err.Error(), "at most 65536 are allowed") {
			t.Errorf("%d experiments, %d totals: %v", len(a.Experiments), len(a.Totals), err)
		}
	}
	many(&About{Experiments: make([]Experiment, MaxEntries+1)})
	many(&About{Totals: make([]Total, MaxEntries+1)})
	for want, rows := range map[string][]Row{
		"is not after":            {{Hash: 2}, {Hash: 1}},
		"session \"a\" is not":    {{Hash: 1, Session: "b"}, {Hash: 1, Session: "a"}},
		"each session once":       {{Hash: 1, Session: "a"}, {Hash: 1, Session: "a"}},
		"is not UTF-8":            {{Session: "\xff"}},
		"session has 1025 bytes":  {{Session: long[:MaxSessionBytes+1]}},
		"has 1048577 bytes":       {{State: long}},
		"begin another file":      manyLarge(long[1:]),
		"row 1: session \"\" is ": {{}, {}},
	} {
		if data, _, err := write(rows); err == nil || data != nil || !strings.Contains(err.Error(), want) {
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

// readSome reads rows until the end or an error.
func readSome(r blob.Reader, info RunInfo) ([]Row, error) {
	it, err := Open(r, info, 0, math.MaxUint64)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for it.Next() {
		row := it.Row()
		if it.Err() != nil {
			break
		}
		rows = append(rows, row)
	}
	return rows, errors.Join(it.Err(), it.Close())
}

// columnsForSQL says which bytes are of columns that readers of states do not read, and how many they are.
func columnsForSQL(t *testing.T, data []byte, info RunInfo) (is func(i int) bool, n int64) {
	t.Helper()
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	set := map[int]bool{}
	for _, g := range it.groups {
		for col := colState + 1; col < numColumns; col++ {
			md := g.Columns[col].MetaData
			for i := range md.TotalCompressedSize {
				set[int(pages.Begin(md)+i)] = true
			}
		}
	}
	return func(i int) bool { return set[i] }, int64(len(set))
}

// What is not as it was written is never given, whichever piece of the file it is in.
func TestCorruptRunIsNamed(t *testing.T) {
	want := testRows(3, 20)
	data, info := mustWrite(t, want)
	check := func(what string, data []byte, info RunInfo) {
		t.Helper()
		rows, err := readSome(blob.Bytes(data), info)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), info.Name) || len(rows) > 0 {
			t.Errorf("%s: %d rows, %v", what, len(rows), err)
		}
	}
	forSQL, _ := columnsForSQL(t, data, info)
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if i >= len(magic) && !forSQL(i) { // those nobody reads but other engines
			check(fmt.Sprintf("flip at %d", i), bad, info)
		}
		check(fmt.Sprintf("cut at %d", i), data[:i], info)
	}
	check("longer", append(bytes.Clone(data), 0), info)
	wrong := info
	wrong.Rows--
	check("rows", data, wrong)
	for _, tail := range []int64{-1, 0, 7, info.Tail - 1, info.Tail + 1, info.Bytes, info.Bytes + 1} {
		wrong := info
		wrong.Tail = tail
		check(fmt.Sprint("tail of ", tail), data, wrong)
	}
}

// Of the row groups before a corrupt one the rows are given, of those that are not read nothing is looked at, and of a row
// only the columns that are asked for.
func TestPiecesAreCheckedApart(t *testing.T) {
	want := testRows(4, 3*groupRows)
	data, info := mustWrite(t, want)
	all, err := readSome(blob.Bytes(data), info)
	if err != nil || !slices.Equal(all, want) {
		t.Fatal(len(all), err)
	}
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	g := it.groups[1]
	bad := bytes.Clone(data)
	bad[g.Columns[colState].MetaData.DataPageOffset+100] ^= 1
	rows, err := readSome(blob.Bytes(bad), info)
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "row group 1: column state") || !slices.Equal(rows, want[:it.groups[0].NumRows]) {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if it, err = Open(blob.Bytes(bad), info, 0, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; it.Next(); n++ {
		if it.Hash() != want[n].Hash || it.Due() != want[n].Due || string(it.Session()) != want[n].Session {
			t.Fatalf("row %d differs", n)
		}
	}
	if it.Err() != nil || n != len(want) {
		t.Errorf("without states: %d rows, %v", n, it.Err())
	}
	lo, _ := hashes(it.groups[2])
	if it, err = Open(blob.Bytes(bad), info, lo, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	for n = 0; it.Next(); n++ {
		it.State()
	}
	if it.Err() != nil || n == 0 {
		t.Errorf("the last row group: %d rows, %v", n, it.Err())
	}
}

// formats are those of releases before, of which testdata has a run each: of plain integers and zstd, and of texts for maps and Snappy.
var formats = []string{"zstd", "texts"}

func runOfBefore(t testing.TB, name string) (data []byte, info RunInfo) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".parquet")
	if err != nil {
		t.Fatal(err)
	}
	about, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(about, &info); err != nil {
		t.Fatal(err)
	}
	return data, info
}

func TestRunsOfBefore(t *testing.T) {
	for _, name := range formats {
		data, info := runOfBefore(t, name)
		if got := readAll(t, blob.Bytes(data), info, 0, math.MaxUint64); !slices.Equal(got, testRows(5, 40)) {
			t.Errorf("%s: %d rows that differ", name, len(got))
		}
	}
}

// A footer may say anything of where its columns are.
func TestFooterOutOfPlace(t *testing.T) {
	data, info := mustWrite(t, testRows(3, 20))
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	foot := parquet.NewFileMetaData()
	if err := foot.Read(t.Context(), protocol(bytes.NewBuffer(data[info.Bytes-info.Tail:info.Bytes-8]))); err != nil {
		t.Fatal(err)
	}
	columns := foot.RowGroups[0].Columns
	size := columns[1].MetaData.TotalCompressedSize
	for what, change := range map[string]func() (undo func()){
		"sizes that overflow": func() func() {
			before := [3]parquet.ColumnMetaData{*columns[0].MetaData, *columns[1].MetaData, *columns[2].MetaData}
			columns[0].MetaData.TotalCompressedSize = math.MaxInt64
			columns[1].MetaData.DataPageOffset, columns[1].MetaData.TotalCompressedSize = math.MinInt64+3, math.MaxInt64
			columns[2].MetaData.DataPageOffset = 2
			columns[2].MetaData.TotalCompressedSize = columns[3].MetaData.DataPageOffset - 2
			return func() {
				for i := range before {
					*columns[i].MetaData = before[i]
				}
			}
		},
		"a size of none": func() func() {
			columns[1].MetaData.TotalCompressedSize = 0
			return func() { columns[1].MetaData.TotalCompressedSize = size }
		},
		"values before their dictionary": func() func() {
			md := columns[numFlat].MetaData
			at := md.DataPageOffset
			md.DataPageOffset = 4
			return func() { md.DataPageOffset = at }
		},
		"values behind their column": func() func() {
			md := columns[numFlat].MetaData
			at := md.DataPageOffset
			md.DataPageOffset = pages.Begin(md) + md.TotalCompressedSize
			return func() { md.DataPageOffset = at }
		},
	} {
		undo := change()
		tail, err := pages.Compact(foot)
		if err != nil {
			t.Fatal(err)
		}
		tail = append(binary.LittleEndian.AppendUint32(tail, uint32(len(tail))), magic...)
		if err := it.footer(tail); err == nil || !strings.Contains(err.Error(), "not where") {
			t.Errorf("%s: %v", what, err)
		}
		undo()
	}
	if tail, err := pages.Compact(foot); err != nil || !bytes.Equal(tail, data[info.Bytes-info.Tail:info.Bytes-8]) {
		t.Errorf("the footer is not as it was: %v", err)
	}
}

// A Writer's second file has the bytes that a new one's has.
func TestWriterAgain(t *testing.T) {
	rows := testRows(6, 3*groupRows/2)
	want, _ := mustWrite(t, rows)
	w := NewWriter(&testNames)
	for _, rows := range [][]Row{testRows(7, 100), rows} {
		w.Reset()
		for i := range rows {
			r, a := &rows[i], testAbout(&rows[i])
			if err := w.Add(r.Hash, []byte(r.Session), r.FirstTS, r.LastTS, r.Due, []byte(r.State), &a); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, _, err := w.Finish(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d, or they differ: %v", len(got), len(want), err)
	}
}

// FuzzRun reads bytes whose digests are right, as if a writer had made them so: an error is fine, a panic or an endless loop
// is not.
func FuzzRun(f *testing.F) {
	for _, n := range []int{0, 1, 3, 40} {
		data, info := mustWrite(f, testRows(uint64(n), n))
		f.Add(data, info.Tail, info.Rows)
	}
	for _, name := range formats {
		data, info := runOfBefore(f, name)
		f.Add(data, info.Tail, info.Rows)
	}
	f.Fuzz(func(t *testing.T, data []byte, tail, rows int64) {
		if tail < 8 || tail > int64(len(data)) {
			return
		}
		sum := sha256.Sum256(data[int64(len(data))-tail:])
		info := RunInfo{Name: "runs/test.parquet", Bytes: int64(len(data)), Tail: tail, Rows: rows, Digest: hex.EncodeToString(sum[:]), MaxHash: math.MaxUint64}
		it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
		if err != nil {
			return
		}
		for i := range it.digests {
			md := it.groups[i/it.columns].Columns[i%it.columns].MetaData
			it.digests[i] = xxhash.Sum64(data[pages.Begin(md):][:md.TotalCompressedSize])
		}
		for it.Next() {
			_ = it.Row()
		}
	})
}

// Sessions of one hash are in order across a row group's end too.
func TestOneHash(t *testing.T) {
	var rows []Row
	for i := range 2*groupRows + 5 {
		rows = append(rows, Row{Hash: 7, Session: fmt.Sprintf("%06d", i)})
	}
	data, info := mustWrite(t, rows)
	if got := readAll(t, blob.Bytes(data), info, 7, 7); !slices.Equal(got, rows) {
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

// A storage error neither passes for the end nor for a corrupt run.
func TestStorageErrors(t *testing.T) {
	data, info := mustWrite(t, testRows(5, 90_000))
	_, forSQL := columnsForSQL(t, data, info)
	if info.Bytes <= blob.HoldBytes {
		t.Fatalf("only %d bytes", info.Bytes)
	}
	for _, n := range []int64{0, 1, info.Tail - 1, info.Tail, info.Tail + 1000, info.Bytes / 2, info.Bytes - forSQL - 5} {
		r := &failingReader{Reader: blob.Bytes(data)}
		r.left.Store(n)
		if rows, err := readSome(r, info); !errors.Is(err, errStorage) || errors.Is(err, ErrCorrupt) {
			t.Errorf("failure after %d bytes: %d rows, %v", n, len(rows), err)
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
