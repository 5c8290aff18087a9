package metric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Pages in bytes, canonical (equal pages, equal bytes); keys are ids of the chain that made them:
//
//	uvarint row (Key.Row)  varint minute  uvarint n  n pages by variation and tag set:
//	  uvarint (low half of the key - that before)  then
//	  of visitors: uvarint length, bytes; of others: uvarint mask of the cells that are not zero, a varint for each
//
// There is no page of zeros and no empty sketch.

// AppendBinary appends the pages, of which there is at least one, as a Walk gives them.
func (p *Pages) AppendBinary(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.Row()))
	b = binary.AppendVarint(b, p.Minute)
	b = binary.AppendUvarint(b, uint64(len(p.Keys)))
	before, n := uint32(0), len(p.Cells)/len(p.Keys)
	for i, k := range p.Keys {
		b = binary.AppendUvarint(b, uint64(uint32(k)-before))
		before = uint32(k)
		if n == 0 {
			b = p.appendSketch(b, p.Sketches[i])
			continue
		}
		cells, mask := p.Cells[i*n:i*n+n], uint64(0)
		for c, v := range cells {
			if v != 0 {
				mask |= 1 << c
			}
		}
		b = binary.AppendUvarint(b, mask)
		for ; mask != 0; mask &= mask - 1 {
			b = binary.AppendVarint(b, cells[bits.TrailingZeros64(mask)])
		}
	}
	return b
}

func (p *Pages) appendSketch(b []byte, s *Sketch) []byte {
	p.sketch = s.AppendBinary(p.sketch[:0])
	return append(binary.AppendUvarint(b, uint64(len(p.sketch))), p.sketch...)
}

// ErrPages marks bytes that AppendBinary cannot have written.
var ErrPages = errors.New("pages are corrupt")

// ReadBinary makes it the pages that b begins with, as AppendBinary wrote them, and returns the rest of b. It refuses
// anything else; after an error the pages are of no use. cells is how many a group has, and whether there is such a group.
func (p *Pages) ReadBinary(b []byte, cells func(group int) (int, bool)) (rest []byte, err error) {
	bad := func(what string) ([]byte, error) { return nil, fmt.Errorf("%w: %s", ErrPages, what) }
	p.Reset()
	row, ok1 := uvarint(&b)
	minute, ok2 := uvarint(&b)
	pages, ok3 := uvarint(&b)
	group := Key(row << (varBits + tagBits)).Group()
	n, known := cells(group)
	if !ok1 || !ok2 || !ok3 || row>>32 != 0 || !known || pages == 0 || pages > uint64(len(b)) {
		return bad("head")
	}
	p.Minute = int64(minute>>1) ^ -int64(minute&1)
	low := uint64(0)
	for i := range pages {
		d, ok := uvarint(&b)
		if low += d; !ok || low>>32 != 0 || d>>32 != 0 || i > 0 && d == 0 {
			return bad("page")
		}
		p.Keys = append(p.Keys, Key(row<<(varBits+tagBits)|low))
		if group == GroupSeen {
			if b, err = p.readSketch(b); err != nil {
				return nil, err
			}
			continue
		}
		mask, ok := uvarint(&b)
		if !ok || mask == 0 || mask>>n != 0 {
			return bad("mask")
		}
		at := len(p.Cells)
		for p.Cells = append(p.Cells, zeros[:n]...); mask != 0; mask &= mask - 1 {
			v, ok := uvarint(&b)
			if !ok || v == 0 {
				return bad("cell")
			}
			p.Cells[at+bits.TrailingZeros64(mask)] = int64(v>>1) ^ -int64(v&1)
		}
	}
	return b, nil
}

func (p *Pages) readSketch(b []byte) (rest []byte, err error) {
	size, ok := uvarint(&b)
	if !ok || size > uint64(len(b)) {
		return nil, fmt.Errorf("%w: sketch", ErrPages)
	}
	s := p.own()
	if err := s.UnmarshalBinary(b[:size]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPages, err)
	}
	if s.Empty() {
		return nil, fmt.Errorf("%w: empty sketch", ErrPages)
	}
	p.Sketches = append(p.Sketches, s)
	return b[size:], nil
}

// uvarint takes one in its shortest form only.
func uvarint(b *[]byte) (v uint64, ok bool) {
	if len(*b) > 0 && (*b)[0] < 0x80 {
		v, *b = uint64((*b)[0]), (*b)[1:]
		return v, true
	}
	v, k := binary.Uvarint(*b)
	if k <= 0 || k > 1 && (*b)[k-1] == 0 {
		return 0, false
	}
	*b = (*b)[k:]
	return v, true
}
