package cassandra

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/store"
)

const (
	partBytes  = 64 << 10
	formWhole  = 0
	formParts  = 1
	partHeader = 1 + 2 + 8
)

// appendParts appends the cells of a value, in order; the buffers of one part are the value's own copy.
func appendParts(cells [][]byte, value []byte) [][]byte {
	if len(value) <= partBytes {
		return append(cells, append([]byte{formWhole}, value...))
	}
	n := (len(value) + partBytes - 1) / partBytes
	digest := xxhash.Sum64(value)
	for ; n > 0 && len(value) > 0; value = value[min(len(value), partBytes):] {
		c := make([]byte, partHeader, partHeader+min(len(value), partBytes))
		c[0] = formParts
		binary.BigEndian.PutUint16(c[1:], uint16(n))
		binary.BigEndian.PutUint64(c[3:], digest)
		cells = append(cells, append(c, value[:min(len(value), partBytes)]...))
	}
	return cells
}

// assembler makes values of cells that come by (minute, part).
type assembler struct {
	emit func(minute int32, time int64, value []byte) error
	// again is called for a minute of whose standing version not all parts came.
	again func(minute int32) error

	open   bool // parts of a value are missing
	minute int32
	time   int64
	parts  uint16
	got    uint16
	digest uint64
	value  []byte
}

func (a *assembler) add(minute int32, part int16, time int64, cell []byte) error {
	if part != 0 {
		a.join(minute, part, time, cell)
		if !a.open || a.got < a.parts {
			return nil
		}
		a.open = false
		if xxhash.Sum64(a.value) != a.digest {
			return fmt.Errorf("%w: minute %d: the parts do not make the value", store.ErrCorrupt, minute)
		}
		return a.emit(minute, time, a.value)
	}
	if err := a.finish(); err != nil {
		return err
	}
	switch {
	case len(cell) > 0 && cell[0] == formWhole:
		return a.emit(minute, time, cell[1:])
	case len(cell) > partHeader && cell[0] == formParts:
		a.open, a.minute, a.time, a.got = true, minute, time, 1
		a.parts, a.digest = binary.BigEndian.Uint16(cell[1:]), binary.BigEndian.Uint64(cell[3:])
		a.value = append(a.value[:0], cell[partHeader:]...)
		return nil
	}
	return fmt.Errorf("%w: minute %d: %d bytes of no known form", store.ErrCorrupt, minute, len(cell))
}

// join appends a part if it is the next of the open value; else it is left over from another version.
func (a *assembler) join(minute int32, part int16, time int64, cell []byte) {
	if a.open && minute == a.minute && time == a.time && int(part) == int(a.got) && len(cell) > partHeader && cell[0] == formParts &&
		binary.BigEndian.Uint16(cell[1:]) == a.parts && binary.BigEndian.Uint64(cell[3:]) == a.digest {
		a.value = append(a.value, cell[partHeader:]...)
		a.got++
	}
}

// finish is called after the last cell.
func (a *assembler) finish() error {
	if !a.open {
		return nil
	}
	a.open = false
	return a.again(a.minute)
}
