package s3

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"tandem/schemas/blob"
)

// An open object is read in blocks, of which the last used are kept: columns of a Parquet file are many small reads side by
// side. A reader holds at most keptBlocks blocks; an object of one block is read at once, when it is opened.
const (
	blockBytes = 1 << 20
	keptBlocks = 8
)

// reader reads an object. It is safe for concurrent use: one reads at a time.
type reader struct {
	store *Store
	name  string
	etag  string
	size  int64

	mu     sync.Mutex
	blocks []block // the last used first
	closed bool
}

type block struct {
	number int64
	data   []byte
}

// Open implements blob.Store. Of an object of more than 1 MiB that is deleted, the reader gives what it holds; for the rest
// its error is blob.ErrNotFound.
func (s *Store) Open(name string) (blob.Reader, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	info, err := s.stat(name)
	if err == nil {
		err = checkSize(info.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r := &reader{store: s, name: name, etag: info.ETag, size: info.Size}
	if info.Size <= blockBytes {
		if _, err := r.block(0); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, nil
}

// Size implements blob.Reader.
func (r *reader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("%s: read at %d", r.name, at)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, fmt.Errorf("%s: the reader is closed", r.name)
	}
	for n < len(p) {
		if at >= r.size {
			return n, io.EOF
		}
		b, err := r.block(at / blockBytes)
		if err != nil {
			return n, fmt.Errorf("%s: %w", r.name, err)
		}
		k := copy(p[n:], b[at%blockBytes:])
		n, at = n+k, at+int64(k)
	}
	return n, nil
}

func (r *reader) block(number int64) ([]byte, error) {
	if i := slices.IndexFunc(r.blocks, func(b block) bool { return b.number == number }); i >= 0 {
		b := r.blocks[i]
		copy(r.blocks[1:], r.blocks[:i])
		r.blocks[0] = b
		return b.data, nil
	}
	from := number * blockBytes
	data, err := r.store.read(r.name, r.etag, from, min(blockBytes, r.size-from))
	if err != nil {
		return nil, err
	}
	if len(r.blocks) == keptBlocks {
		r.blocks = r.blocks[:keptBlocks-1]
	}
	r.blocks = slices.Insert(r.blocks, 0, block{number, data})
	return data, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New(r.name + ": the reader is closed")
	}
	r.closed, r.blocks = true, nil
	return nil
}
