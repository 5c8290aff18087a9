package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// MaxTaken bounds the names that CreateFree tries: leftovers of writers that died.
const MaxTaken = 1000

// CreateFree creates an object under the first name, from the n-th on, that is free or has these very bytes, and returns it and the
// number after it. So a writer that runs again finds what it left, and goes past what another left. What cannot be read now is an error: it
// may have these bytes, and whoever begins again must come to the same name. If MaxTaken names are taken the error is ErrExists, and
// name the last of them.
func CreateFree(s Store, names func(n int) string, n int, data []byte) (name string, next int, err error) {
	for range MaxTaken {
		name, n = names(n), n+1
		if err = s.Create(name, data); !errors.Is(err, ErrExists) {
			return name, n, err
		}
		same, failed := has(s, name, data)
		if failed != nil {
			return name, n, fmt.Errorf("compare with what is there: %w", failed)
		}
		if same {
			return name, n, nil
		}
	}
	return name, n, err
}

// has says whether an object is there with these bytes. It holds a piece of it.
func has(s Store, name string, data []byte) (bool, error) {
	r, err := s.Open(name)
	if errors.Is(err, ErrNotFound) { // deleted since
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close() // it was only read
	if r.Size() != int64(len(data)) {
		return false, nil
	}
	piece := make([]byte, min(len(data), 1<<20))
	for at := 0; at < len(data); at += len(piece) {
		piece = piece[:min(len(piece), len(data)-at)]
		if _, err := r.ReadAt(piece, int64(at)); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(piece, data[at:at+len(piece)]) {
			return false, nil
		}
	}
	return true, nil
}
