package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/wire"
)

func head() wire.Head {
	return wire.Head{Tenant: "shop", Topic: "topic-id", Partition: 3, Generation: 7, FirstMinute: 29_000_000, Offset: 1 << 40}
}

// input is a row as it goes in, and comes out again when its parts are put together.
type input struct {
	scope              byte
	experiment, metric string
	sketch             bool
	cells              []wire.Cell
}

func encode(t testing.TB, minute int64, rows []input) [][]byte {
	t.Helper()
	var e wire.Encoder
	h := head()
	var out [][]byte
	e.Begin(&h, minute, func(b []byte) error {
		out = append(out, b)
		return nil
	})
	syms := map[string]wire.Sym{}
	sym := func(text string) wire.Sym {
		if _, ok := syms[text]; !ok {
			syms[text] = wire.Sym{ID: uint32(len(syms)), Text: text}
		}
		return syms[text]
	}
	for _, r := range rows {
		var cells []wire.SymCell
		for _, c := range r.cells {
			cells = append(cells, wire.SymCell{Variation: sym(c.Variation), Tags: sym(c.Tags), Value: c.Value, Sketch: c.Sketch})
		}
		if err := e.Row(r.scope, sym(r.experiment), sym(r.metric), r.sketch, cells); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t testing.TB, messages [][]byte) []input {
	t.Helper()
	var rows []input
	for i, b := range messages {
		if len(b) > wire.MaxMessage {
			t.Errorf("message %d has %d bytes, more than %d", i, len(b), wire.MaxMessage)
		}
		m, err := wire.ReadMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		if m.Head != head() || m.Marker || m.Minute != 5 {
			t.Fatalf("head %+v, minute %d", m.Head, m.Minute)
		}
		err = m.Rows(func(r *wire.Row) error {
			cells := slices.Clone(r.Cells)
			if r.Part > 0 {
				last := &rows[len(rows)-1]
				if last.metric != r.Metric || last.experiment != r.Experiment {
					t.Fatalf("part %d of %s follows %s", r.Part, r.Metric, last.metric)
				}
				last.cells = append(last.cells, cells...)
				return nil
			}
			rows = append(rows, input{r.Scope, r.Experiment, r.Metric, r.Sketch, cells})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

func TestRowsComeBackWholeAndInBoundedMessages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var rows []input
	for i := range 400 {
		r := input{scope: byte(i % 3), experiment: fmt.Sprint("x", i%7), metric: fmt.Sprint("m", i), sketch: i%5 == 0}
		for k := range []int{0, 1, 2, 30, 1500}[rng.IntN(5)] {
			c := wire.Cell{Variation: fmt.Sprint("v", k%40), Tags: strings.Repeat("t", rng.IntN(90)) + fmt.Sprint(k)}
			if r.sketch {
				c.Sketch = bytes.Repeat([]byte{byte(k)}, rng.IntN(900))
			} else {
				c.Value = []int64{0, 1, -1, math.MinInt64, math.MaxInt64, rng.Int64()}[rng.IntN(6)]
			}
			r.cells = append(r.cells, c)
		}
		rows = append(rows, r)
	}
	messages := encode(t, 5, rows)
	got := decode(t, messages)
	if len(got) != len(rows) {
		t.Fatalf("%d rows of %d", len(got), len(rows))
	}
	for i := range rows {
		same := slices.EqualFunc(rows[i].cells, got[i].cells, func(a, b wire.Cell) bool {
			return a.Variation == b.Variation && a.Tags == b.Tags && a.Value == b.Value && bytes.Equal(a.Sketch, b.Sketch)
		})
		rows[i].cells, got[i].cells = nil, nil
		if !same || !reflect.DeepEqual(rows[i], got[i]) {
			t.Fatalf("row %d: %+v, want %+v, or their cells differ", i, got[i], rows[i])
		}
	}
}

func TestARowLargerThanAMessageIsCutIntoParts(t *testing.T) {
	dense := bytes.Repeat([]byte{9}, 16385)
	row := input{experiment: "x", metric: "visitors", sketch: true}
	for i := range 200 {
		row.cells = append(row.cells, wire.Cell{Tags: fmt.Sprint("n=", i), Sketch: dense})
	}
	before := input{metric: "small", cells: []wire.Cell{{Value: 1}}}
	messages := encode(t, 5, []input{before, row, before})
	if len(messages) < 200*16385/wire.MaxMessage {
		t.Fatalf("%d messages", len(messages))
	}
	if got := decode(t, messages); len(got) != 3 || len(got[1].cells) != 200 {
		t.Fatalf("%d rows", len(got))
	}
}

func TestMarker(t *testing.T) {
	h := head()
	m, err := wire.ReadMessage(wire.AppendMarker(&h, 42, 57))
	if err != nil || !m.Marker || m.Minute != 42 || m.Until != 57 || m.Head != h {
		t.Fatalf("%+v, %v", m, err)
	}
}

// Every byte of a message is covered by its version or its digest.
func TestEveryFlippedBitIsFound(t *testing.T) {
	h := head()
	rows := encode(t, 5, []input{{metric: "home", cells: []wire.Cell{{Tags: "device=none", Value: 3}}}})
	for _, b := range [][]byte{rows[0], wire.AppendMarker(&h, 42, 0)} {
		for i := range b {
			for bit := range 8 {
				bad := bytes.Clone(b)
				bad[i] ^= 1 << bit
				if _, err := wire.ReadMessage(bad); !errors.Is(err, wire.ErrCorrupt) {
					t.Errorf("byte %d, bit %d: %v", i, bit, err)
				}
			}
			if _, err := wire.ReadMessage(b[:i]); !errors.Is(err, wire.ErrCorrupt) {
				t.Errorf("cut to %d bytes: %v", i, err)
			}
		}
	}
}

// sealed gives content a version and a digest, as only a faulty writer would.
func sealed(content []byte) []byte {
	b := append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0}, content...)
	binary.LittleEndian.PutUint64(b[1:], xxhash.Sum64(content))
	return b
}

// read reads a message to its end.
func read(b []byte) error {
	m, err := wire.ReadMessage(b)
	if err != nil {
		return err
	}
	return m.Rows(func(r *wire.Row) error {
		if r.Scope > 2 || r.Part < 0 || r.Part >= r.Parts || r.Parts > 1<<14 {
			return fmt.Errorf("scope %d, part %d of %d was let through", r.Scope, r.Part, r.Parts)
		}
		return nil
	})
}

func TestNonsenseBehindARightDigest(t *testing.T) {
	//                      kind tenant topic part gen first offset minute
	head := []byte{1, 1, 't', 1, 'x', 0, 0, 0, 0, 0}
	dict := []byte{1, 0} // [""]
	cat := func(parts ...[]byte) []byte { return sealed(slices.Concat(parts...)) }
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, b := range map[string][]byte{
		"kind":                   cat([]byte{3}, head[1:]),
		"bytes after a marker":   cat([]byte{2}, head[1:], []byte{0, 0}),
		"partition above int32":  cat([]byte{1, 1, 't', 1, 'x'}, huge, []byte{0, 0, 0, 0}, dict),
		"minute below 0":         cat(head[:9], huge, dict),
		"dictionary too long":    cat(head, huge),
		"scope":                  cat(head, dict, []byte{3, 0, 0, 0, 1, 0}),
		"part beyond parts":      cat(head, dict, []byte{0, 0, 0, 1, 1, 0}),
		"no parts":               cat(head, dict, []byte{0, 0, 0, 0, 0, 0}),
		"parts beyond belief":    cat(head, dict, []byte{0, 0, 0, 0}, huge, []byte{0}),
		"cells beyond the bytes": cat(head, dict, []byte{0, 0, 0, 0, 1}, huge),
		"word not in dictionary": cat(head, dict, []byte{0, 0, 1, 0, 1, 0}),
		"cut in a cell":          cat(head, dict, []byte{0, 0, 0, 0, 1, 1, 0}),
	} {
		if err := read(b); !errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m, err := wire.ReadMessage(cat([]byte{2}, head[1:])); err != nil || m.Until != 0 {
		t.Errorf("a marker of before: %v", err)
	}
	if err := read(cat(head, dict, []byte{2, 0, 0, 0, 1, 1, 0, 0, 6})); err != nil {
		t.Errorf("a good row: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	h := head()
	for _, b := range encode(f, 5, []input{{1, "x", "home", false, []wire.Cell{{Variation: "a", Tags: "t", Value: -3}}},
		{2, "x", "visitors", true, []wire.Cell{{Sketch: []byte{1, 0}}}}}) {
		f.Add(b[9:])
	}
	f.Add(wire.AppendMarker(&h, 42, 0)[9:])
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := read(sealed(content)); err != nil && !errors.Is(err, wire.ErrCorrupt) {
			t.Fatal(err)
		}
		if err := read(content); err != nil && !errors.Is(err, wire.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
