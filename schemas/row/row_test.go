package row

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

func mustAppend(t testing.TB, kind Kind, cells []Cell) []byte {
	t.Helper()
	b, err := Append(nil, kind, cells)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(data []byte) (Kind, []Cell, error) {
	cells := []Cell{}
	kind, err := Decode(data, func(c Cell) error {
		cells = append(cells, c)
		return nil
	})
	return kind, cells, err
}

// seal gives content the checksum that belongs to it.
func seal(content ...byte) []byte {
	return binary.LittleEndian.AppendUint32(content, uint32(xxhash.Sum64(content)))
}

// The bytes of version 1 are for ever: a change here is a new version.
func TestFormat(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  Kind
		cells []Cell
		want  string // without checksum
	}{
		{"empty", Sums, nil, "01 01 00 00"},
		{"one", Sums, []Cell{{Value: 3}}, "01 01 01 0000 01 0000 00 0000 06"},
		{"negative", Sums, []Cell{{Value: -1}}, "01 01 01 0000 01 0000 00 0000 01"},
		{"runs", Sums, []Cell{
			{Variation: "control", Tags: "d=a", Value: 1}, {Variation: "control", Tags: "d=b", Value: 2}, {Variation: "control", Tags: "e", Value: 64},
			{Variation: "red", Tags: "d=a", Value: 4}, {Variation: "red", Tags: "e", Value: 5},
		}, "01 01" + "02 0007 636f6e74726f6c 0003 726564" + "03 0003 643d61 0201 62 0001 65" + "00 0002" + "01 0000 0000" + "02 04 8001 08 0a"},
		{"sketch", Sketches, []Cell{{Variation: "v", Tags: "t", Sketch: []byte{0xfe}}}, "01 02 01 0001 76 01 0001 74 00 0000 01fe"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := mustAppend(t, c.kind, c.cells); !bytes.Equal(got, seal(want...)) {
			t.Errorf("%s: %x, want %x", c.name, got, seal(want...))
		}
	}
	if got := xxhash.Sum64(nil); got != 0xef46db3751d8e999 {
		t.Errorf("not XXH64: %x", got)
	}
}

func TestAppendRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxKey+1)
	big := make([]byte, MaxBytes)
	var wide []Cell
	for i := range MaxBytes/MaxKey + 1 {
		wide = append(wide, Cell{Tags: fmt.Sprintf("%s%04d", long[:MaxKey-4], i)})
	}
	for _, c := range []struct {
		name  string
		kind  Kind
		cells []Cell
		want  string
	}{
		{"kind", 0, nil, "kind 0"},
		{"kind 3", 3, nil, "kind 3"},
		{"twice", Sums, []Cell{{Tags: "a"}, {Tags: "a"}}, `cell 1 (variation "", tags "a")`},
		{"order of tags", Sums, []Cell{{Tags: "b"}, {Tags: "a"}}, "not after"},
		{"order of variations", Sums, []Cell{{Variation: "b"}, {Variation: "a", Tags: "z"}}, "not after"},
		{"long tags", Sums, []Cell{{Tags: long}}, "longer than 4096"},
		{"long variation", Sums, []Cell{{Variation: long}}, "longer than 4096"},
		{"sketch in sums", Sums, []Cell{{Sketch: []byte{1}}}, "sketch in a row of sums"},
		{"no sketch", Sketches, []Cell{{}}, "no sketch"},
		{"value in sketches", Sketches, []Cell{{Value: 1, Sketch: []byte{1}}}, "value in a row of sketches"},
		{"too large", Sketches, []Cell{{Sketch: big}}, "more than 8388608"},
		{"dictionaries too large", Sums, wide, "fewer or shorter"},
	} {
		dst := []byte("before")
		got, err := Append(dst, c.kind, c.cells)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if string(got) != "before" {
			t.Errorf("%s: dst changed", c.name)
		}
	}
}

func TestLimits(t *testing.T) {
	key := strings.Repeat("x", MaxKey)
	cells := []Cell{{Variation: key, Tags: key, Sketch: make([]byte, MaxBytes-2*MaxKey-64)}}
	if _, got, err := decode(mustAppend(t, Sketches, cells)); err != nil || !reflect.DeepEqual(got, cells) {
		t.Errorf("at the limit: %v", err)
	}
	if err := new(Reader).Reset(make([]byte, MaxBytes+1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("too large a row: %v", err)
	}
}

var (
	someVariations = []string{"", "\x00", "control", "control2", "red", "ré", "\xff"}
	someTags       = []string{"", ",", "device=desktop,login=none", "device=desktop,login=true", "device=mobile,login=none", "device=mobile", "z\x00", "\xff\xff"}
	someValues     = []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MaxInt64, math.MinInt64}
)

func randomCells(r *rand.Rand, kind Kind) []Cell {
	tags := slices.Clone(someTags)
	if r.IntN(4) == 0 {
		for i := range 100 {
			tags = append(tags, fmt.Sprintf("n=%d", i))
		}
	}
	dense := r.Float64()
	var cells []Cell
	for _, v := range someVariations {
		for _, tag := range tags {
			if r.Float64() < dense*dense {
				cells = append(cells, randomCell(r, kind, v, tag))
			}
		}
	}
	sortCells(cells)
	return cells
}

func randomCell(r *rand.Rand, kind Kind, variation, tags string) Cell {
	c := Cell{Variation: variation, Tags: tags}
	if kind == Sums {
		c.Value = someValues[r.IntN(len(someValues))]
	} else {
		c.Sketch = make([]byte, 1+r.IntN(300))
		c.Sketch[0] = byte(r.Uint32())
	}
	return c
}

func sortCells(cells []Cell) {
	slices.SortFunc(cells, func(a, b Cell) int {
		if c := strings.Compare(a.Variation, b.Variation); c != 0 {
			return c
		}
		return strings.Compare(a.Tags, b.Tags)
	})
}

// What was written is read, by a fresh reader and by one that has read others before, and writing it again gives the
// same bytes.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var reader Reader
	for i := range 2000 {
		kind := Kind(1 + r.IntN(2))
		cells := randomCells(r, kind)
		if i%2 == 0 && i > 0 {
			cells = keepKeys(r, kind, cells)
		}
		data := mustAppend(t, kind, cells)
		gotKind, got, err := decode(data)
		if err != nil || gotKind != kind || !same(got, cells) {
			t.Fatalf("round %d: %v %v\n got %v\nwant %v", i, gotKind, err, got, cells)
		}
		for range 2 { // the second time the dictionaries are there already
			if err := reader.Reset(data); err != nil || reader.Len() != len(cells) || reader.Kind() != kind {
				t.Fatalf("round %d: Reset: %v, %d cells of %s", i, err, reader.Len(), reader.Kind())
			}
			got = got[:0]
			for reader.Next() {
				got = append(got, reader.Cell())
			}
			if reader.Err() != nil || !same(got, cells) {
				t.Fatalf("round %d: Reader: %v", i, reader.Err())
			}
		}
		if again := mustAppend(t, kind, got); !bytes.Equal(again, data) {
			t.Fatalf("round %d: not canonical", i)
		}
	}
}

func keepKeys(r *rand.Rand, kind Kind, cells []Cell) []Cell {
	for i := range cells {
		cells[i] = randomCell(r, kind, cells[i].Variation, cells[i].Tags)
	}
	return cells
}

func same(a, b []Cell) bool {
	return slices.EqualFunc(a, b, func(a, b Cell) bool {
		return a.Variation == b.Variation && a.Tags == b.Tags && a.Value == b.Value && bytes.Equal(a.Sketch, b.Sketch)
	})
}

// Any damage of up to a few bytes, and any cut, is found before a value is used.
func TestDamageIsFound(t *testing.T) {
	data := mustAppend(t, Sums, benchCells(2, 3))
	for i := range data {
		for bit := range 8 {
			bad := slices.Clone(data)
			bad[i] ^= 1 << bit
			if err := new(Reader).Reset(bad); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if err := new(Reader).Reset(data[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

// With a right checksum, only what Append writes is a row.
func TestReaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"nothing", nil, "too few"},
		{"kind", []byte{1, 3, 0, 0}, "kind 3"},
		{"count beyond the end", []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0}, "number of variations"},
		{"long form of a count", []byte{1, 1, 0x80, 0x00, 0}, "number of variations"},
		{"shared of the first", []byte{1, 1, 1, 1, 0, 0}, "lengths of variation 0"},
		{"length beyond the end", []byte{1, 1, 1, 0, 0xff, 0x1f, 0}, "lengths of variation 0"},
		{"same twice", []byte{1, 1, 2, 0, 1, 'a', 1, 0, 0}, "variation 1 is not after"},
		{"prefix not the longest", []byte{1, 1, 2, 0, 1, 'a', 0, 2, 'a', 'b', 0}, "variation 1 is not after"},
		{"descending", []byte{1, 1, 0, 2, 0, 1, 'b', 0, 1, 'a'}, "tag set 1 is not after"},
		{"variation without runs", []byte{1, 1, 1, 0, 0, 0}, "runs of variation 0"},
		{"tag set without a cell", []byte{1, 1, 0, 1, 0, 0}, "1 tag sets without"},
		{"run beyond the tag sets", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0}, "run 0 of variation 0"},
		{"skip beyond the tag sets", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0}, "run 0 of variation 0"},
		{"huge run", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, "run 0 of variation 0"},
		{"second run without room", []byte{1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 2}, "run 1 of variation 0"},
		{"no value", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0}, "more cells than values"},
		{"cut value", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0x80}, "value of cell 0"},
		{"long form of a value", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0x80, 0}, "value of cell 0"},
		{"bytes after", []byte{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 2, 2}, "1 bytes after"},
		{"bytes after nothing", []byte{1, 1, 0, 0, 2}, "1 bytes after"},
		{"empty sketch", []byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "sketch of cell 0"},
		{"sketch beyond the end", []byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 2, 7}, "sketch of cell 0"},
	} {
		if _, _, err := decode(seal(c.content...)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, _, err := decode(seal(2, 1, 0, 0)); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
}

func TestDecodeStops(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	kind, err := Decode(mustAppend(t, Sums, benchCells(2, 2)), func(Cell) error { n++; return stop })
	if err != stop || n != 1 || kind != Sums {
		t.Errorf("%v after %d cells of %s", err, n, kind)
	}
}

func TestAllocations(t *testing.T) {
	cells := benchCells(40, 20)
	dst := mustAppend(t, Sums, cells)
	if n := testing.AllocsPerRun(50, func() { dst, _ = Append(dst[:0], Sums, cells) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
	var r Reader
	if n := testing.AllocsPerRun(50, func() {
		if err := r.Reset(dst); err != nil {
			t.Fatal(err)
		}
		for r.Next() {
		}
	}); n != 0 {
		t.Errorf("Reader allocates %v times", n)
	}
}

// Rows that take turns between dictionaries are read without memory for them, and are told apart by their names.
func TestRowsThatTakeTurnsShareTheirNames(t *testing.T) {
	rows := [][]byte{mustAppend(t, Sums, benchCells(2, 3)), mustAppend(t, Sums, benchCells(2, 4)), mustAppend(t, Sums, benchCells(3, 3))}
	var r Reader
	read := func() (names []*Names) {
		for _, data := range rows {
			if err := r.Reset(data); err != nil {
				t.Fatal(err)
			}
			names = append(names, r.Names())
			for r.Next() {
				v, at := r.Place()
				if c := r.Cell(); c.Variation != r.Names().Variations[v] || c.Tags != r.Names().Tags[at] {
					t.Fatalf("cell %+v is not at %d, %d", c, v, at)
				}
			}
		}
		return names
	}
	first := read()
	if first[0] == first[1] || first[1] == first[2] || first[0] == first[2] {
		t.Error("rows of other names share them")
	}
	if again := read(); !slices.Equal(first, again) {
		t.Error("equal names are not shared")
	}
	if n := testing.AllocsPerRun(50, func() { read() }); n > 3 { // the test's own list
		t.Errorf("%v allocations", n)
	}
	// What is held is bounded.
	for i := range 3000 {
		if err := r.Reset(mustAppend(t, Sums, []Cell{{Tags: fmt.Sprintf("a=%01000d", i), Value: 1}})); err != nil {
			t.Fatal(err)
		}
		if r.held > heldBytes || len(r.known) > 1000 {
			t.Fatalf("%d bytes of %d dictionaries are held", r.held, len(r.known))
		}
	}
}

// FuzzReader: no input makes a reader panic or take memory beyond its size, and what it takes is what Append writes.
func FuzzReader(f *testing.F) {
	for _, c := range [][]Cell{nil, {{Value: 1}}, benchCells(2, 3), {{Variation: "a", Tags: "b", Value: math.MinInt64}}} {
		f.Add(mustAppend(f, Sums, c)[:0])
		b := mustAppend(f, Sums, c)
		f.Add(b[:len(b)-checksumBytes])
	}
	b := mustAppend(f, Sketches, []Cell{{Sketch: []byte{1, 2}}, {Tags: "x", Sketch: []byte{3}}})
	f.Add(b[:len(b)-checksumBytes])
	f.Fuzz(func(t *testing.T, content []byte) {
		if _, _, err := decode(content); err == nil && len(content) < 8 {
			t.Fatal("too short for a row")
		}
		data := seal(slices.Clone(content)...) // else the checksum would turn all away
		kind, cells, err := decode(data)
		if err != nil {
			return
		}
		if again := mustAppend(t, kind, cells); !bytes.Equal(again, data) {
			t.Fatalf("read %x, wrote %x", data, again)
		}
	})
}

func benchCells(variations, tags int) []Cell {
	r := rand.New(rand.NewPCG(3, 4))
	var cells []Cell
	for v := range variations {
		for i := range tags {
			cells = append(cells, Cell{
				Variation: fmt.Sprintf("variation_%d", v),
				Tags:      fmt.Sprintf("device=%s,login=%s", []string{"desktop", "mobile", "none", "other", "tablet"}[i%5], []string{"false", "none", "other", "true"}[i/5%4]),
				Value:     int64(r.ExpFloat64() * 60),
			})
		}
	}
	sortCells(cells)
	return cells
}

func eachSize(b *testing.B, bench func(b *testing.B, cells []Cell)) {
	for _, size := range [][2]int{{2, 2}, {2, 20}, {40, 20}} {
		cells := benchCells(size[0], size[1])
		b.Run(fmt.Sprintf("cells=%d", len(cells)), func(b *testing.B) {
			b.ReportAllocs()
			bench(b, cells)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(cells)), "ns/cell")
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	eachSize(b, func(b *testing.B, cells []Cell) {
		var dst []byte
		for b.Loop() {
			var err error
			if dst, err = Append(dst[:0], Sums, cells); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(dst)), "B/row")
	})
}

func BenchmarkReader(b *testing.B) {
	eachSize(b, func(b *testing.B, cells []Cell) {
		data := mustAppend(b, Sums, cells)
		var r Reader
		sum := int64(0)
		for b.Loop() {
			if err := r.Reset(data); err != nil {
				b.Fatal(err)
			}
			for r.Next() {
				sum += r.Cell().Value
			}
		}
	})
}

func BenchmarkDecodeFresh(b *testing.B) {
	eachSize(b, func(b *testing.B, cells []Cell) {
		data := mustAppend(b, Sums, cells)
		for b.Loop() {
			if _, err := Decode(data, func(Cell) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
