// Package staterun holds the state runs of DESIGN section 6: the sessions that a window changed, sorted, in one immutable
// Parquet file, so that any SQL engine can look at them.
//
// What belongs to the whole run, such as the table of names that the states were encoded by, is the caller's Meta: it
// stands in the RunInfo beside the run, under the run's own digest, and not in the file.
package staterun

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/xitongsys/parquet-go/parquet"
	"github.com/xitongsys/parquet-go/writer"
)

// ErrCorrupt: a run is not what its RunInfo says. The error around it names the run and what is wrong. The way out is to
// restore the object, or to run the window again.
var ErrCorrupt = errors.New("corrupt")

// Limits; Write refuses what is beyond them, naming the row or the size.
const (
	// MaxSessionBytes is the longest session id, in bytes (SPEC section 1 allows 128).
	MaxSessionBytes = 1 << 10
	// MaxStateBytes is the largest state of a session, in bytes.
	MaxStateBytes = 1 << 20
	// MaxRunBytes is the most that the sessions and states of a run may have together. Split a larger run by hash.
	MaxRunBytes = 1 << 30

	pageBytes     = 64 << 10
	rowGroupBytes = 16 << 20 // after compression
	parallel      = 2
)

// Row is the state of one session at the end of a window. Times are in ms since the epoch.
type Row struct {
	Hash    uint64 // hash of the session id: runs are sorted and split by it
	Session string // session id, UTF-8
	FirstTS int64  // of the session's first beacon
	LastTS  int64  // of its last beacon
	Due     int64  // the next visit end still to come; 0 if there is none
	State   string // encoded state, opaque bytes
}

// RunInfo is what a reader must know before it opens a run. Write fills all but Name and Meta.
type RunInfo struct {
	Name string `json:"name"` // the object's name
	// Bytes is the size of the object, and RawBytes that of its sessions and states, which tells a reader how many rows it
	// can hold.
	Bytes    int64 `json:"bytes"`
	RawBytes int64 `json:"raw_bytes"`
	// Digest is the SHA-256 of the object in hex. Wrong bytes would crash the decoder, so this is compared before it runs.
	Digest  string `json:"digest"`
	Rows    int64  `json:"rows"`
	MinHash uint64 `json:"min_hash,string"` // strings, for JSON readers that hold numbers as doubles
	MaxHash uint64 `json:"max_hash,string"` // both are 0 if there are no rows
	Meta    []byte `json:"meta,omitempty"`  // the caller's, not looked at
}

// record is a row as the file has it: flat, without dictionaries, all columns required. session_hash is the hash with
// its top bit flipped, so that the signed order of the column is the unsigned order of the hash (as in event files).
type record struct {
	Hash    int64  `parquet:"name=session_hash, type=INT64"`
	Session string `parquet:"name=session, type=BYTE_ARRAY, convertedtype=UTF8"`
	FirstTS int64  `parquet:"name=first_ts, type=INT64, logicaltype=TIMESTAMP, logicaltype.isadjustedtoutc=true, logicaltype.unit=MILLIS"`
	LastTS  int64  `parquet:"name=last_ts, type=INT64, logicaltype=TIMESTAMP, logicaltype.isadjustedtoutc=true, logicaltype.unit=MILLIS"`
	Due     int64  `parquet:"name=due_ms, type=INT64"`
	State   string `parquet:"name=state, type=BYTE_ARRAY, omitstats=true"`
}

// Compare orders rows by hash, then session id: the order of a run, and the order of event files.
func Compare(a, b *Row) int {
	if c := cmp.Compare(a.Hash, b.Hash); c != 0 {
		return c
	}
	return strings.Compare(a.Session, b.Session)
}

// Write encodes rows, which must be in the order of Compare with each session once, as one Parquet file. Refused are
// rows out of order, a session id that is not UTF-8, and what is beyond the limits. No rows are a valid run: a window
// that changed no session has one too.
func Write(rows []Row) (data []byte, info RunInfo, err error) {
	raw, err := checkRows(rows)
	if err != nil {
		return nil, RunInfo{}, fmt.Errorf("state run: write: %w", err)
	}
	defer func() {
		if p := recover(); p != nil {
			data, info, err = nil, RunInfo{}, fmt.Errorf("state run: write: parquet writer failed: %v", p)
		}
	}()
	var out bytes.Buffer
	pw, err := writer.NewParquetWriterFromWriter(&out, new(record), parallel)
	if err != nil {
		return nil, RunInfo{}, fmt.Errorf("state run: write: %w", err)
	}
	// A page that cannot be decoded shows as missing rows with zstd, which the reader counts; with Snappy it ends the process.
	pw.CompressionType = parquet.CompressionCodec_ZSTD
	pw.PageSize = pageBytes
	pw.RowGroupSize = rowGroupBytes
	for i := range rows {
		r := &rows[i]
		if err := pw.Write(record{flip(r.Hash), r.Session, r.FirstTS, r.LastTS, r.Due, r.State}); err != nil {
			return nil, RunInfo{}, fmt.Errorf("state run: write: row %d: %w", i, err)
		}
	}
	if err := pw.WriteStop(); err != nil {
		return nil, RunInfo{}, fmt.Errorf("state run: write: %w", err)
	}
	sum := sha256.Sum256(out.Bytes())
	info = RunInfo{Bytes: int64(out.Len()), RawBytes: raw, Digest: hex.EncodeToString(sum[:]), Rows: int64(len(rows))}
	if len(rows) > 0 {
		info.MinHash, info.MaxHash = rows[0].Hash, rows[len(rows)-1].Hash
	}
	return out.Bytes(), info, nil
}

func checkRows(rows []Row) (raw int64, err error) {
	for i := range rows {
		r := &rows[i]
		if len(r.Session) > MaxSessionBytes {
			return 0, fmt.Errorf("row %d: session has %d bytes, at most %d are allowed", i, len(r.Session), MaxSessionBytes)
		}
		if !utf8.ValidString(r.Session) {
			return 0, fmt.Errorf("row %d: session %q is not UTF-8", i, r.Session)
		}
		if len(r.State) > MaxStateBytes {
			return 0, fmt.Errorf("row %d: state of session %q has %d bytes, at most %d are allowed", i, r.Session, len(r.State), MaxStateBytes)
		}
		if raw += int64(len(r.Session) + len(r.State)); raw > MaxRunBytes {
			return 0, fmt.Errorf("the first %d of %d rows have %d bytes, at most %d are allowed: split the run by hash", i+1, len(rows), raw, MaxRunBytes)
		}
		if i > 0 && Compare(&rows[i-1], r) >= 0 {
			return 0, fmt.Errorf("row %d: session %q is not after the one ahead of it: sort by hash and session, each session once", i, r.Session)
		}
	}
	return raw, nil
}

func flip(hash uint64) int64 { return int64(hash ^ 1<<63) }

func unflip(column int64) uint64 { return uint64(column) ^ 1<<63 }
