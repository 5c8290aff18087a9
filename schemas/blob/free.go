package blob

import (
	"bytes"
	"errors"
	"io"
)

// MaxTaken bounds the names that CreateFree tries: leftovers of writers that died.
const MaxTaken = 1000

// CreateFree creates an object under the first name, from the n-th on, that is free or has these very bytes, and returns it and the
// number after it. So a writer that runs again finds what it left, and goes past what another left, or what cannot be read. If
// MaxTaken names are taken the error is ErrExists, and name the last of them.
func CreateFree(s Store, names func(n int) string, n int, data []byte) (name string, next int, err error) {
	for range MaxTaken {
		name, n = names(n), n+1
		err = s.Create(name, data)
		if errors.Is(err, ErrExists) && !has(s, name, data) {
			continue
		}
		if errors.Is(err, ErrExists) {
			err = nil
		}
		return name, n, err
	}
	return name, n, err
}

// has says whether an object is there with these bytes. It holds a piece of it.
func has(s Store, name string, data []byte) bool {
	r, err := s.Open(name)
	if err != nil {
		return false
	}
	defer r.Close() // it was only read
	if r.Size() != int64(len(data)) {
		return false
	}
	piece := make([]byte, min(len(data), 1<<20))
	for at := 0; at < len(data); at += len(piece) {
		piece = piece[:min(len(piece), len(data)-at)]
		if _, err := r.ReadAt(piece, int64(at)); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(piece, data[at:at+len(piece)]) {
			return false
		}
	}
	return true
}
