package row

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Decode checks the row and calls fn for each of its cells in order. It stops at fn's first error and returns it as it
// is. Errors of the row wrap ErrCorrupt or ErrVersion; fn may have been called before one, if the checksum holds and
// yet the values are not those of a row. The strings of a cell may be kept, its Sketch is a part of data.
func Decode(data []byte, fn func(Cell) error) (Kind, error) {
	var r Reader
	if err := r.Reset(data); err != nil {
		return 0, err
	}
	for r.Next() {
		if err := fn(r.Cell()); err != nil {
			return r.kind, err
		}
	}
	return r.kind, r.Err()
}

// Reader reads rows one after another:
//
//	for each row {
//		if err := r.Reset(data); err != nil { ... }
//		for r.Next() { ... r.Cell() ... }
//		if err := r.Err(); err != nil { ... }
//	}
//
// It keeps its memory from row to row, and dictionaries too, so that a scan over the minutes of one metric allocates
// only for those that it has not met. The zero value is ready; it is for one goroutine at a time.
type Reader struct {
	kind  Kind
	names *Names
	known map[string]*Names // by their bytes in a row
	held  int               // bytes of what is known

	cells []int32 // tag set of each cell
	ends  []int32 // end in cells of each variation
	next  int     // cell
	of    int     // its variation
	rest  []byte  // values not read yet
	cell  Cell
	err   error

	read []byte // scratch of the dictionaries
	cuts []int32
	used []bool
}

// Names are the dictionaries of rows. Rows of equal dictionaries that one Reader reads mostly share one Names, so that what
// is found out about a name is to be found out once.
type Names struct {
	Variations, Tags []string
	bytes            []byte // in a row
}

// heldBytes is how much of dictionaries a Reader keeps; then it forgets them all.
const heldBytes = 1 << 20

// Reset begins with another row: it checks the checksum and reads everything but the values. After an error the
// Reader has no cells. The cells share data's memory until the next Reset.
func (r *Reader) Reset(data []byte) error {
	r.kind, r.cells, r.ends, r.rest = 0, r.cells[:0], r.ends[:0], nil
	r.next, r.of, r.cell, r.err = 0, 0, Cell{}, nil
	if err := r.open(data); err != nil {
		r.cells, r.rest, r.err = r.cells[:0], nil, err
		return err
	}
	return nil
}

// Kind is the row's kind.
func (r *Reader) Kind() Kind { return r.kind }

// Len is the number of cells of the row, read or not.
func (r *Reader) Len() int { return len(r.cells) }

// Names are the row's dictionaries. They never change.
func (r *Reader) Names() *Names { return r.names }

// Place is where the names of the cell that the last Next stepped to are in Names.
func (r *Reader) Place() (variation, tags int) { return r.of, int(r.cells[r.next-1]) }

// Cell is the cell that the last Next stepped to. Its strings may be kept, its Sketch is a part of the row's data.
func (r *Reader) Cell() Cell { return r.cell }

// Err is the error that ended Next, nil at the row's end.
func (r *Reader) Err() error { return r.err }

// Next steps to the next cell and says whether there is one.
func (r *Reader) Next() bool {
	if r.err != nil {
		return false
	}
	if r.next == len(r.cells) {
		if len(r.rest) > 0 {
			r.err = corrupt("%d bytes after the last value", len(r.rest))
			r.rest = nil
		}
		return false
	}
	if r.next == int(r.ends[r.of]) {
		r.of++
	}
	c := Cell{Variation: r.names.Variations[r.of], Tags: r.names.Tags[r.cells[r.next]]}
	if r.kind == Sums {
		// Inlined for one byte, the usual length of a value: this loop is what a wide query spends its time in.
		if len(r.rest) > 0 && r.rest[0] < 0x80 {
			c.Value = int64(r.rest[0]>>1) ^ -int64(r.rest[0]&1)
			r.rest = r.rest[1:]
		} else {
			u, rest, ok := uvarint(r.rest)
			if !ok {
				r.err = corrupt("the value of cell %d", r.next)
				return false
			}
			c.Value, r.rest = int64(u>>1)^-int64(u&1), rest
		}
	} else {
		n, rest, ok := uvarint(r.rest)
		if !ok || n == 0 || n > uint64(len(rest)) {
			r.err = corrupt("the sketch of cell %d", r.next)
			return false
		}
		c.Sketch, r.rest = rest[:n:n], rest[n:]
	}
	r.cell = c
	r.next++
	return true
}

func (r *Reader) open(data []byte) error {
	if len(data) > MaxBytes {
		return corrupt("%d bytes, more than %d", len(data), MaxBytes)
	}
	n := len(data) - checksumBytes
	if n < 2 {
		return corrupt("%d bytes are too few", len(data))
	}
	if got, want := uint32(xxhash.Sum64(data[:n])), binary.LittleEndian.Uint32(data[n:]); got != want {
		return corrupt("checksum %08x, the content gives %08x", want, got)
	}
	if data[0] != Version {
		return fmt.Errorf("%w: %d, known is %d: read it with the release that wrote it, or a newer one", ErrVersion, data[0], Version)
	}
	r.kind = Kind(data[1])
	if r.kind != Sums && r.kind != Sketches {
		return corrupt("%s is neither sums nor sketches", r.kind)
	}
	rest, err := r.dictionaries(data[2:n])
	if err != nil {
		return err
	}
	r.rest, err = r.runs(rest)
	return err
}

// dictionaries reads both and returns what follows.
func (r *Reader) dictionaries(b []byte) ([]byte, error) {
	// A dictionary says itself where it ends, so a row that begins with the bytes of one has the same.
	if r.names != nil && bytes.HasPrefix(b, r.names.bytes) {
		return b[len(r.names.bytes):], nil
	}
	if n := skipDictionaries(b); n > 0 {
		if known := r.known[string(b[:n])]; known != nil {
			r.names = known
			return b[n:], nil
		}
	}
	r.read, r.cuts = r.read[:0], r.cuts[:0]
	rest, variations, err := r.readDictionary(b, "variation")
	if err != nil {
		return nil, err
	}
	rest, tags, err := r.readDictionary(rest, "tag set")
	if err != nil {
		return nil, err
	}
	all, from := string(r.read), int32(0)
	names := &Names{Variations: make([]string, 0, variations), Tags: make([]string, 0, tags), bytes: bytes.Clone(b[:len(b)-len(rest)])}
	for i, to := range r.cuts {
		if i < variations {
			names.Variations = append(names.Variations, all[from:to])
		} else {
			names.Tags = append(names.Tags, all[from:to])
		}
		from = to
	}
	if r.names != nil {
		r.hold(r.names)
		r.hold(names)
	}
	r.names = names
	return rest, nil
}

// hold keeps dictionaries for rows to come; the first of a Reader only once there is another.
func (r *Reader) hold(n *Names) {
	if r.known[string(n.bytes)] != nil {
		return
	}
	more := 3*len(n.bytes) + 16*(len(n.Variations)+len(n.Tags)) // a string's header has 16 bytes
	if r.held += more; r.known == nil || r.held > heldBytes {
		r.known, r.held = map[string]*Names{}, more
	}
	r.known[string(n.bytes)] = n
}

// skipDictionaries is how many bytes two dictionaries take, without a look at whether they are sound; 0 where b is too short.
func skipDictionaries(b []byte) int {
	at := 0
	for range 2 {
		n, size := binary.Uvarint(b[at:])
		if size <= 0 || n > uint64(len(b)) {
			return 0
		}
		at += size
		for range n {
			_, size := binary.Uvarint(b[at:])
			if size <= 0 {
				return 0
			}
			at += size
			length, size := binary.Uvarint(b[at:])
			if size <= 0 || length > uint64(len(b)-at-size) {
				return 0
			}
			at += size + int(length)
		}
	}
	return at
}

// readDictionary appends the strings to read and their ends to cuts; no length is believed before it is checked
// against the bytes that are there.
func (r *Reader) readDictionary(b []byte, what string) (rest []byte, count int, err error) {
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, 0, corrupt("the number of %ss", what)
	}
	last := len(r.read)
	for i := range int(n) {
		shared, b1, ok1 := uvarint(b)
		length, b2, ok2 := uvarint(b1)
		if !ok1 || !ok2 || shared > uint64(len(r.read)-last) || length > uint64(len(b2)) || shared+length > MaxKey {
			return nil, 0, corrupt("the lengths of %s %d", what, i)
		}
		more := b2[:length]
		// Larger than the string before at the first byte that differs: ascending, and no shorter a prefix than it is.
		before := r.read[last:]
		if i > 0 && (length == 0 || int(shared) < len(before) && more[0] <= before[shared]) {
			return nil, 0, corrupt("%s %d is not after the one before it", what, i)
		}
		if len(r.read)+int(shared+length) > MaxBytes {
			return nil, 0, corrupt("more than %d bytes of dictionaries", MaxBytes)
		}
		start := len(r.read)
		r.read = append(r.read, before[:shared]...)
		r.read = append(r.read, more...)
		r.cuts = append(r.cuts, int32(len(r.read)))
		last, b = start, b2[length:]
	}
	return b, int(n), nil
}

// runs reads which cells there are and returns what follows: the values.
func (r *Reader) runs(b []byte) ([]byte, error) {
	r.used = append(r.used[:0], make([]bool, len(r.names.Tags))...)
	unused := len(r.names.Tags)
	for v := range r.names.Variations {
		count, rest, ok := uvarint(b)
		if !ok || count >= uint64(len(rest)) {
			return nil, corrupt("the runs of variation %d", v)
		}
		b = rest
		at := uint64(0)
		for i := uint64(0); i <= count; i++ {
			skip, b1, ok1 := uvarint(b)
			take, b2, ok2 := uvarint(b1)
			left := uint64(len(r.names.Tags)) - at
			if i > 0 && left > 0 {
				at++ // two runs never touch
				left--
			}
			if !ok1 || !ok2 || skip >= left || take >= left-skip {
				return nil, corrupt("run %d of variation %d", i, v)
			}
			b = b2
			at += skip
			// Every cell has a value of at least one byte, so no row has more cells than bytes.
			if uint64(len(r.cells))+take >= uint64(len(b)) {
				return nil, corrupt("more cells than values in variation %d", v)
			}
			for end := at + take; at <= end; at++ {
				r.cells = append(r.cells, int32(at))
				if !r.used[at] {
					r.used[at] = true
					unused--
				}
			}
		}
		r.ends = append(r.ends, int32(len(r.cells)))
	}
	if unused > 0 {
		return nil, corrupt("%d tag sets without a cell", unused)
	}
	return b, nil
}

// uvarint reads one in its shortest form only.
func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
