package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"tandem/schemas/store"
)

const (
	headBytes     = 16
	checksumBytes = 4

	never = math.MaxInt64
)

func recordBytes(payload int) int { return headBytes + payload + checksumBytes }

// putRecord fills b, of recordBytes(len(payload)).
func putRecord(b []byte, hi, lo int64, payload []byte) {
	binary.BigEndian.PutUint64(b, uint64(hi))
	binary.BigEndian.PutUint64(b[8:], uint64(lo))
	copy(b[headBytes:], payload)
	n := len(b) - checksumBytes
	binary.LittleEndian.PutUint32(b[n:], uint32(xxhash.Sum64(b[:n])))
}

// readRecord checks the record of a key. The payload is a part of b.
func readRecord(key, b []byte) (hi, lo int64, payload []byte, err error) {
	n := len(b) - checksumBytes
	if n < headBytes {
		return 0, 0, nil, fmt.Errorf("%w: %s: %d bytes are too few", store.ErrCorrupt, describe(key), len(b))
	}
	if got, want := uint32(xxhash.Sum64(b[:n])), binary.LittleEndian.Uint32(b[n:]); got != want {
		return 0, 0, nil, fmt.Errorf("%w: %s: checksum %08x, the content gives %08x", store.ErrCorrupt, describe(key), want, got)
	}
	hi, lo = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	if hi < 0 || lo < 0 {
		return 0, 0, nil, fmt.Errorf("%w: %s: version %d, %d", store.ErrCorrupt, describe(key), hi, lo)
	}
	return hi, lo, b[headBytes:n:n], nil
}

// newMerger is the merge operator of package comment's law. Pebble keeps its name in the folder and refuses to open it
// with another.
func newMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "tandem.greatest.1",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			return &greatest{value: bytes.Clone(value)}, nil
		},
	}
}

type greatest struct{ value []byte }

func (g *greatest) take(value []byte) error {
	if bytes.Compare(value, g.value) > 0 {
		g.value = append(g.value[:0], value...)
	}
	return nil
}

func (g *greatest) MergeNewer(value []byte) error { return g.take(value) }

func (g *greatest) MergeOlder(value []byte) error { return g.take(value) }

func (g *greatest) Finish(bool) ([]byte, io.Closer, error) { return g.value, nil, nil }
