package metric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Sums in bytes, canonical (equal sums, equal bytes); keys are ids of the chain that made them:
//
//	byte 1  uvarint n  n minutes, ascending: varint minute
//	                   uvarint pages, by key: uvarint (key - key before), uvarint n, n varints
//	                   uvarint sketches, by key: uvarint (key - key before), uvarint length, bytes
//
// Pages all of whose cells are zero, empty sketches and empty minutes are left out.
const sumsVersion = 1

// AppendBinary appends the sums.
func (s *Sums) AppendBinary(b []byte, cells func(group int) int) []byte {
	n := 0
	var body []byte
	for _, m := range s.minutes {
		before := len(body)
		body = binary.AppendVarint(body, m.Minute)
		var any bool
		if body, any = m.append(body, cells); any {
			n++
		} else {
			body = body[:before]
		}
	}
	b = binary.AppendUvarint(append(b, sumsVersion), uint64(n))
	return append(b, body...)
}

// AppendBinary appends the minute in bytes, as Sums with no other would.
func (m *Minute) AppendBinary(b []byte, cells func(group int) int) []byte {
	one := Sums{minutes: []*Minute{m}}
	return one.AppendBinary(b, cells)
}

func (m *Minute) append(b []byte, cells func(group int) int) (out []byte, any bool) {
	var pages, sketches []slot
	for _, s := range m.sorted() {
		k := s.key
		page := m.cells[s.ref+pageHead : int(s.ref)+pageHead+cells(k.Group())]
		if k.Group() == GroupSeen {
			if !m.sketches[page[0]-1].Empty() {
				sketches = append(sketches, s)
			}
		} else if slices.ContainsFunc(page, func(v int64) bool { return v != 0 }) {
			pages = append(pages, s)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(pages)))
	before := Key(0)
	for _, s := range pages {
		page := m.cells[s.ref+pageHead : int(s.ref)+pageHead+cells(s.key.Group())]
		b = binary.AppendUvarint(b, uint64(s.key-before))
		b = binary.AppendUvarint(b, uint64(len(page)))
		for _, v := range page {
			b = binary.AppendVarint(b, v)
		}
		before = s.key
	}
	b = binary.AppendUvarint(b, uint64(len(sketches)))
	before = 0
	var bytes []byte
	for _, s := range sketches {
		bytes = m.sketches[m.cells[s.ref+pageHead]-1].AppendBinary(bytes[:0])
		b = binary.AppendUvarint(b, uint64(s.key-before))
		b = append(binary.AppendUvarint(b, uint64(len(bytes))), bytes...)
		before = s.key
	}
	return b, len(pages)+len(sketches) > 0
}

// ErrSums marks bytes that AppendBinary cannot have written.
var ErrSums = errors.New("sums are corrupt")

// AddBinary adds what AppendBinary wrote, and refuses anything else; after an error the sums are of no use.
func (s *Sums) AddBinary(b []byte, cells func(group int) (int, bool)) error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrSums, what) }
	if len(b) == 0 || b[0] != sumsVersion {
		return bad("version")
	}
	b = b[1:]
	u := func() (uint64, bool) {
		v, k := uvarint(b)
		b = b[k:]
		return v, k > 0
	}
	v := func() (int64, bool) {
		x, ok := u()
		return int64(x>>1) ^ -int64(x&1), ok
	}
	n, ok := u()
	if !ok {
		return bad("minutes")
	}
	last, one := int64(0), Sketch{}
	for i := range n {
		minute, ok := v()
		if !ok || i > 0 && minute <= last {
			return bad("minute")
		}
		last = minute
		m := s.At(minute)
		pages, ok := u()
		if !ok || pages > uint64(len(b)) {
			return bad("pages")
		}
		k := Key(0)
		for i := range pages {
			d, ok1 := u()
			have, ok2 := u()
			k += Key(d)
			want, known := cells(k.Group())
			if !ok1 || !ok2 || k < Key(d) || i > 0 && d == 0 || !known || have != uint64(want) || k.Group() == GroupSeen {
				return bad("page")
			}
			page := m.page(k, want, 1<<want-1)
			any := false
			for i := range want {
				x, ok := v()
				if !ok {
					return bad("cell")
				}
				any = any || x != 0
				page[i] += x
			}
			if !any {
				return bad("page of zeros")
			}
		}
		sketches, ok := u()
		if !ok || sketches > uint64(len(b)) || pages+sketches == 0 {
			return bad("sketches")
		}
		k = 0
		for i := range sketches {
			d, ok1 := u()
			size, ok2 := u()
			k += Key(d)
			if !ok1 || !ok2 || k < Key(d) || i > 0 && d == 0 || size > uint64(len(b)) || k.Group() != GroupSeen {
				return bad("sketch")
			}
			if err := one.UnmarshalBinary(b[:size]); err != nil {
				return bad(err.Error())
			}
			if one.Empty() {
				return bad("empty sketch")
			}
			b = b[size:]
			m.Unite(k, &one)
		}
	}
	if len(b) != 0 {
		return bad("bytes left over")
	}
	return nil
}

// uvarint reads one in its shortest form only; size is 0 where there is none.
func uvarint(b []byte) (v uint64, size int) {
	v, k := binary.Uvarint(b)
	if k <= 0 || k > 1 && b[k-1] == 0 {
		return 0, 0
	}
	return v, k
}
