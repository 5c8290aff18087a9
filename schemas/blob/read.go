package blob

import (
	"fmt"
	"io"
)

// HoldBytes: objects up to this size are read at once and held (Held), larger ones in pieces.
const HoldBytes = 1 << 20

// Held is what the pieces of an object are to be read from: its bytes in memory if it is small, else r.
func Held(r Reader) (io.ReaderAt, error) {
	if r.Size() > HoldBytes {
		return r, nil
	}
	data, err := ReadAt(r, 0, r.Size(), nil)
	return Bytes(data), err
}

// ReadAt reads n bytes into buf, or into new memory if that is too small. It gives all of them or an error.
func ReadAt(r io.ReaderAt, at, n int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(io.NewSectionReader(r, at, n), buf); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return buf, nil
}
