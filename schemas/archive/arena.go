package archive

// Arena holds what rows point to, the pieces of a row one after the other: rows are read from all over the memory when
// they are written sorted, and each piece elsewhere would be waited for. The zero value is ready. It holds as much memory
// as its fullest use took. Not safe for concurrent use.
type Arena struct {
	slab       []byte
	full, free [][]byte
	next       int // bytes of the next slab: they grow to slabBytes, and are kept from then on
}

const (
	slabBytes  = 1 << 20 // a row that is larger gets a slab of its own, which is not kept
	firstBytes = 1 << 14
)

// Keep moves what r points to into the arena, until Reset.
func (a *Arena) Keep(r *Row) {
	n := rowBytes(r)
	if n > cap(a.slab)-len(a.slab) {
		if len(a.slab) > 0 {
			a.full = append(a.full, a.slab)
		}
		if last := len(a.free) - 1; last >= 0 && n <= slabBytes {
			a.slab, a.free = a.free[last], a.free[:last]
		} else {
			a.next = min(max(2*a.next, firstBytes), slabBytes)
			a.slab = make([]byte, 0, max(a.next, n))
		}
	}
	for _, f := range [...]*[]byte{&r.Session, &r.ID, &r.Point, &r.Visitor, &r.Event, &r.Payload} {
		at := len(a.slab)
		a.slab = append(a.slab, *f...)
		*f = a.slab[at:len(a.slab):len(a.slab)]
	}
}

// Reset takes the memory back: rows that were kept are no longer valid.
func (a *Arena) Reset() {
	for _, s := range append(a.full, a.slab) {
		if cap(s) == slabBytes {
			a.free = append(a.free, s[:0])
		}
	}
	clear(a.full)
	a.full, a.slab = a.full[:0], nil
}
