package aggregate

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/schemas/row"
)

// encode adds up the shards of a row. Zeros are left out: absent means zero.
func (s *State) encode(r *rowState) ([]byte, error) {
	s.all.reset()
	for i := range r.shards {
		s.all.add(&r.shards[i].told)
	}
	f, err := s.forms.find(s.texts, s.all.cells)
	if err != nil {
		return nil, err
	}
	sketches := 0
	if r.sketch {
		sketches = len(s.all.cells)
	}
	if len(s.all.sketches) != sketches {
		return nil, errors.New("it is told now as visitors, now as sums")
	}
	if r.sketch {
		return f.union(s.all.sketches)
	}
	return s.forms.encode(f, s.all.cells)
}

// forms know how rows are written whose cells have come in the same order before: what goes where, and what the row begins with.
// Most rows of a tick have one of few.
type forms struct {
	of    map[string]*form
	cells int // that have come, of all of them
	key   []byte
	sums  []int64
	slab  []byte // what values are cut from; it is never written to again
}

const slabBytes = 64 << 10

type form struct {
	to    []int32    // by the cell's place among those that came: its place in the row
	cells []row.Cell // of the row, without values
	shape row.Shape  // of sums of which none is zero
}

const (
	// formCells is the most cells, of all shards, of a row that a form is kept for.
	formCells = 512
	// formsCells bounds the memory: beyond so many cells in all, some 100 bytes each, everything is found out anew.
	formsCells = 1 << 18
)

// find gives the form of a row's cells.
func (f *forms) find(texts []string, all []cell) (*form, error) {
	if len(all) > formCells {
		return newForm(texts, all)
	}
	f.key = f.key[:0]
	for i := range all {
		f.key = binary.LittleEndian.AppendUint64(f.key, uint64(all[i].variation)<<32|uint64(all[i].tags))
	}
	if one := f.of[string(f.key)]; one != nil {
		return one, nil
	}
	one, err := newForm(texts, all)
	if err != nil {
		return nil, err
	}
	if f.cells += len(all); f.of == nil || f.cells > formsCells {
		f.of, f.cells = map[string]*form{}, len(all)
	}
	f.of[string(f.key)] = one
	return one, nil
}

func newForm(texts []string, all []cell) (*form, error) {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	compare := func(i, j int) int {
		a, b := &all[i], &all[j]
		return cmp.Or(strings.Compare(texts[a.variation], texts[b.variation]), strings.Compare(texts[a.tags], texts[b.tags]))
	}
	slices.SortFunc(order, compare)
	one := &form{to: make([]int32, len(all))}
	for k, i := range order {
		if k == 0 || compare(order[k-1], i) != 0 {
			one.cells = append(one.cells, row.Cell{Variation: texts[all[i].variation], Tags: texts[all[i].tags]})
		}
		one.to[i] = int32(len(one.cells) - 1)
	}
	var err error
	one.shape, err = row.NewShape(one.cells)
	return one, err
}

// encode writes a row of sums.
func (f *forms) encode(one *form, all []cell) (value []byte, err error) {
	f.sums = append(f.sums[:0], make([]int64, len(one.cells))...)
	for i := range all {
		f.sums[one.to[i]] += all[i].value
	}
	if len(f.slab) > slabBytes*3/4 {
		f.slab = nil
	}
	if f.slab == nil {
		f.slab = make([]byte, 0, slabBytes)
	}
	at := len(f.slab)
	if slices.Contains(f.sums, 0) {
		f.slab, err = row.Append(f.slab, row.Sums, one.without(f.sums))
	} else {
		f.slab, err = one.shape.AppendSums(f.slab, f.sums)
	}
	return f.slab[at:len(f.slab):len(f.slab)], err
}

// without are the row's cells with these sums, but for zeros.
func (one *form) without(sums []int64) []row.Cell {
	cells := make([]row.Cell, 0, len(sums))
	for i, c := range one.cells {
		if c.Value = sums[i]; c.Value != 0 {
			cells = append(cells, c)
		}
	}
	return cells
}

// union writes a row of visitors.
func (one *form) union(all [][]byte) ([]byte, error) {
	parts := make([][][]byte, len(one.cells))
	for i, sketch := range all {
		parts[one.to[i]] = append(parts[one.to[i]], sketch)
	}
	cells := slices.Clone(one.cells)
	size := 64
	for i := range cells {
		union, err := unite(parts[i])
		if err != nil {
			return nil, err
		}
		cells[i].Sketch = union
		size += len(union) + len(cells[i].Variation) + len(cells[i].Tags) + 8
	}
	return row.Append(make([]byte, 0, size), row.Sketches, cells)
}

func unite(sketches [][]byte) ([]byte, error) {
	if len(sketches) == 1 {
		return sketches[0], nil
	}
	var (
		union metric.Union
		one   metric.Sketch
	)
	for _, s := range sketches {
		if err := union.MergeBinary(s, &one); err != nil {
			return nil, err
		}
	}
	return union.AppendBinary(nil), nil
}
