package aggregate

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/schemas/row"
)

// encode adds up the shards of a row. Zeros are left out: absent means zero.
func (s *State) encode(r *rowState) ([]byte, error) {
	all := s.all[:0]
	for i := range r.shards {
		all = append(all, r.shards[i].cells...)
	}
	s.all = all
	if !r.sketch {
		if value, ok, err := s.forms.encode(s.texts, all); ok || err != nil {
			return value, err
		}
	}
	slices.SortStableFunc(all, func(a, b cell) int {
		if a.variation == b.variation && a.tags == b.tags {
			return 0
		}
		return cmp.Or(strings.Compare(s.texts[a.variation], s.texts[b.variation]), strings.Compare(s.texts[a.tags], s.texts[b.tags]))
	})
	cells := make([]row.Cell, 0, len(all))
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].variation == all[i].variation && all[j].tags == all[i].tags {
			j++
		}
		c := row.Cell{Variation: s.texts[all[i].variation], Tags: s.texts[all[i].tags]}
		if r.sketch {
			union, err := unite(all[i:j])
			if err != nil {
				return nil, err
			}
			c.Sketch = union
		} else {
			for _, x := range all[i:j] {
				c.Value += x.value
			}
		}
		if c.Value != 0 || c.Sketch != nil {
			cells = append(cells, c)
		}
		i = j
	}
	kind := row.Sums
	if r.sketch {
		kind = row.Sketches
	}
	return row.Append(nil, kind, cells)
}

func unite(cells []cell) ([]byte, error) {
	if len(cells) == 1 {
		return cells[0].sketch, nil
	}
	var union, one metric.Sketch
	for _, c := range cells {
		if err := one.UnmarshalBinary(c.sketch); err != nil {
			return nil, err
		}
		union.Merge(&one)
	}
	return union.AppendBinary(nil), nil
}

// forms know how rows are written whose cells have come in the same order before: what goes where, and what the row begins with.
// Most rows of a tick have one of few.
type forms struct {
	of    map[string]*form
	cells int // in all of them
	key   []byte
	sums  []int64
	slab  []byte // what values are cut from; it is never written to again
}

const slabBytes = 64 << 10

type form struct {
	to    []int32 // by the cell's place among those that came: its place in the row
	shape row.Shape
	cells int // of the row
}

const (
	// formCells is the most cells, of all shards, of a row that a form is kept for.
	formCells = 512
	// formsCells bounds the memory: beyond so many cells in all, 24 bytes each, everything is found out anew.
	formsCells = 1 << 18
)

// encode writes a row of sums. ok is false where no form can write it: zeros are left out.
func (f *forms) encode(texts []string, all []cell) (value []byte, ok bool, err error) {
	if len(all) > formCells {
		return nil, false, nil
	}
	f.key = f.key[:0]
	for i := range all {
		f.key = binary.LittleEndian.AppendUint64(f.key, uint64(all[i].variation)<<32|uint64(all[i].tags))
	}
	one := f.of[string(f.key)]
	if one == nil {
		if one, err = newForm(texts, all); err != nil {
			return nil, false, err
		}
		if f.cells += len(all); f.of == nil || f.cells > formsCells {
			f.of, f.cells = map[string]*form{}, len(all)
		}
		f.of[string(f.key)] = one
	}
	f.sums = append(f.sums[:0], make([]int64, one.cells)...)
	for i := range all {
		f.sums[one.to[i]] += all[i].value
	}
	if slices.Contains(f.sums, 0) {
		return nil, false, nil
	}
	if len(f.slab) > slabBytes*3/4 {
		f.slab = nil
	}
	if f.slab == nil {
		f.slab = make([]byte, 0, slabBytes)
	}
	at := len(f.slab)
	if f.slab, err = one.shape.AppendSums(f.slab, f.sums); err != nil {
		return nil, false, err
	}
	return f.slab[at:len(f.slab):len(f.slab)], true, nil
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
	var cells []row.Cell
	for k, i := range order {
		if k == 0 || compare(order[k-1], i) != 0 {
			cells = append(cells, row.Cell{Variation: texts[all[i].variation], Tags: texts[all[i].tags]})
		}
		one.to[i] = int32(len(cells) - 1)
	}
	var err error
	one.cells = len(cells)
	one.shape, err = row.NewShape(cells)
	return one, err
}
