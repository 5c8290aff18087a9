package row

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Shape is which cells a row of sums has. Many rows have the same, and are written without a look at its names.
type Shape struct {
	head  []byte // of the encoding: what comes before the values
	cells int
}

// NewShape is the shape of rows with the cells' variations and tags, to which the rules of Append apply.
func NewShape(cells []Cell) (Shape, error) {
	variations, err := check(Sums, cells)
	if err != nil {
		return Shape{}, err
	}
	head, err := appendHead(nil, Sums, cells, variations)
	return Shape{head, len(cells)}, err
}

// AppendSums appends what Append would of the shape's cells with these values, as many as it has. On an error dst comes back
// as it was.
func (s *Shape) AppendSums(dst []byte, values []int64) ([]byte, error) {
	if len(values) != s.cells {
		return dst, fmt.Errorf("%w: %d values of %d cells", ErrInvalid, len(values), s.cells)
	}
	b := append(dst, s.head...)
	for _, v := range values {
		if u := uint64(v)<<1 ^ uint64(v>>63); u < 0x80 {
			b = append(b, byte(u))
		} else {
			b = binary.AppendUvarint(b, u)
		}
	}
	return finish(dst, b, Sums, s.cells)
}

// finish appends the checksum to b, which has an encoding behind dst.
func finish(dst, b []byte, kind Kind, cells int) ([]byte, error) {
	content := b[len(dst):]
	if size := len(content) + checksumBytes; size > MaxBytes {
		return dst, fmt.Errorf("%w: %d cells of %s take %d bytes, more than %d: use fewer tag sets", ErrInvalid, cells, kind, size, MaxBytes)
	}
	return binary.LittleEndian.AppendUint32(b, uint32(xxhash.Sum64(content))), nil
}
