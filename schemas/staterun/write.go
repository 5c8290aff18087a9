package staterun

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/xitongsys/parquet-go/parquet"

	"tandem/schemas/bitpack"
	"tandem/schemas/pages"
)

// A row group is cut at so many rows, or once its sessions and states have so many bytes, which is what a reader holds of a run, or it
// tells so many experiments or totals.
const (
	groupRows    = 4096
	groupBytes   = 512 << 10
	groupEntries = 64 << 10
)

// Writer encodes rows, in the order of Compare with each session once, as one Parquet file. It holds the file as it is
// stored and one row group. Not safe for concurrent use.
//
// The library's own writer takes rows by reflection and boxes every value, which cost more than folding them; the pages are
// plain, so they are laid out here, and the library has the format's structures.
type Writer struct {
	columns [numFlat]column
	out     []byte
	pages   [numFlat][]byte  // of the row group at hand
	ints    [numFlat][]int64 // of packed columns
	maps    maps
	page    []byte // scratch: of a map column
	rows    int    // in the row group
	info    RunInfo
	last    []byte // session
	groups  []*parquet.RowGroup
	digests []uint64
	err     error
}

// NewWriter begins a file. The names are read as long as there is a Writer.
func NewWriter(names *Names) *Writer {
	return &Writer{columns: flat(), out: []byte(magic), maps: newMaps(names)}
}

// Reset begins another file in the memory of what Finish returned, which is of no use any more.
func (w *Writer) Reset() {
	for i := range w.pages {
		w.pages[i], w.ints[i] = w.pages[i][:0], w.ints[i][:0]
	}
	w.maps.reset()
	*w = Writer{columns: w.columns, out: append(w.out[:0], magic...), pages: w.pages, ints: w.ints, maps: w.maps, page: w.page, last: w.last[:0]}
}

// Rows is how many rows the file has.
func (w *Writer) Rows() int64 { return w.info.Rows }

// Size is about how large the file is so far, in bytes.
func (w *Writer) Size() int { return len(w.out) }

// Add appends a row; its slices are copied. Refused are rows out of order, a session id that is not UTF-8, and what is
// beyond the limits. The first error sticks.
func (w *Writer) Add(hash uint64, session []byte, firstTS, lastTS, due int64, state []byte, about *About) error {
	if w.err == nil {
		w.err = w.add(hash, session, firstTS, lastTS, due, state, about)
	}
	if w.err != nil {
		return fmt.Errorf("state run: write: %w", w.err)
	}
	return nil
}

func (w *Writer) add(hash uint64, session []byte, firstTS, lastTS, due int64, state []byte, about *About) error {
	n := w.info.Rows
	switch {
	case len(session) > MaxSessionBytes:
		return fmt.Errorf("row %d: session has %d bytes, at most %d are allowed", n, len(session), MaxSessionBytes)
	case !utf8.Valid(session):
		return fmt.Errorf("row %d: session %q is not UTF-8", n, session)
	case len(state) > MaxStateBytes:
		return fmt.Errorf("row %d: state of session %q has %d bytes, at most %d are allowed", n, session, len(state), MaxStateBytes)
	case len(about.Experiments) > MaxEntries || len(about.Totals) > MaxEntries:
		return fmt.Errorf("row %d: session %q has %d experiments and %d totals, at most %d are allowed", n, session, len(about.Experiments), len(about.Totals), MaxEntries)
	case w.info.RawBytes+int64(len(session)+len(state)) > MaxRunBytes:
		return fmt.Errorf("the first %d rows have more than %d bytes: begin another file", n+1, MaxRunBytes)
	case n > 0 && cmp.Or(cmp.Compare(w.info.MaxHash, hash), bytes.Compare(w.last, session)) >= 0:
		return fmt.Errorf("row %d: session %q is not after the one ahead of it: sort by hash and session, each session once", n, session)
	}
	if n == 0 {
		w.info.MinHash = hash
	}
	w.info.MaxHash = hash
	w.info.Rows++
	w.info.RawBytes += int64(len(session) + len(state))
	w.last = append(w.last[:0], session...)
	w.int(colHash, flip(hash))
	w.int(colFirst, firstTS)
	w.int(colLast, lastTS)
	w.int(colDue, due)
	w.int(colBeacons, about.Beacons)
	w.int(colVisits, about.Visits)
	w.int(colPages, about.Pages)
	w.bytes(colSession, session)
	w.bytes(colState, state)
	w.maps.add(about)
	if w.rows++; w.rows == groupRows || len(w.pages[colSession])+len(w.pages[colState]) >= groupBytes || w.maps.entries() >= groupEntries {
		return w.flush()
	}
	return nil
}

func (w *Writer) int(col int, v int64) {
	if w.columns[col].packed {
		w.ints[col] = append(w.ints[col], v)
		return
	}
	w.pages[col] = binary.LittleEndian.AppendUint64(w.pages[col], uint64(v))
}

func (w *Writer) bytes(col int, v []byte) {
	w.pages[col] = pages.AppendText(w.pages[col], v)
}

// flush writes the row group at hand: a chunk for each column, with its values in one page, and ahead of it one of a dictionary's names.
func (w *Writer) flush() error {
	g := &parquet.RowGroup{NumRows: int64(w.rows)}
	for col := range w.columns {
		c := &w.columns[col]
		encoding := parquet.Encoding_PLAIN
		if c.packed {
			encoding = parquet.Encoding_DELTA_BINARY_PACKED
			w.pages[col] = bitpack.AppendDelta(w.pages[col], w.ints[col])
			w.ints[col] = w.ints[col][:0]
		}
		plain := w.pages[col]
		w.pages[col] = plain[:0]
		md := w.begin(c.kind, c.name)
		if col == colHash {
			least, greatest := plain[:8:8], plain[len(plain)-8:]
			md.Statistics = &parquet.Statistics{MinValue: bytes.Clone(least), MaxValue: bytes.Clone(greatest)}
		}
		if err := w.chunk(g, md, w.rows, encoding, plain); err != nil {
			return err
		}
	}
	if err := w.maps.flush(func(c *mapColumn) error { return w.mapColumn(g, c) }); err != nil {
		return err
	}
	w.groups = append(w.groups, g)
	w.rows = 0
	return nil
}

// mapColumn writes a column of a map.
func (w *Writer) mapColumn(g *parquet.RowGroup, c *mapColumn) error {
	md := w.begin(parquet.Type_INT64, c.path...)
	w.page = append(w.page[:0], c.levels...)
	encoding := parquet.Encoding_PLAIN
	switch {
	case c.plain:
		for _, v := range c.ints {
			w.page = binary.LittleEndian.AppendUint64(w.page, uint64(v))
		}
	case c.names == nil:
		encoding = parquet.Encoding_DELTA_BINARY_PACKED
		w.page = bitpack.AppendDelta(w.page, c.ints)
	default:
		encoding = parquet.Encoding_RLE_DICTIONARY
		md.Type, md.Encodings = parquet.Type_BYTE_ARRAY, append(md.Encodings, parquet.Encoding_PLAIN)
		page := c.names.dictionary()
		var err error
		if w.out, err = pages.AppendDictionary(w.out, md, len(c.names.used), len(page), page); err != nil {
			return err
		}
		w.page = bitpack.AppendPlaces(w.page, c.names.places, len(c.names.used))
	}
	return w.chunk(g, md, c.entries, encoding, w.page)
}

// begin begins a chunk, which chunk writes.
func (w *Writer) begin(kind parquet.Type, path ...string) *parquet.ColumnMetaData {
	return &parquet.ColumnMetaData{Type: kind, PathInSchema: path, Encodings: []parquet.Encoding{parquet.Encoding_RLE}}
}

// chunk writes the page of a column's n values, behind its dictionary if it has one, and lists it in the row group.
func (w *Writer) chunk(g *parquet.RowGroup, md *parquet.ColumnMetaData, n int, encoding parquet.Encoding, page []byte) (err error) {
	md.NumValues, md.Encodings = int64(n), append(md.Encodings, encoding)
	if w.out, err = pages.AppendValues(w.out, md, encoding, len(page), page); err != nil {
		return err
	}
	w.digests = append(w.digests, xxhash.Sum64(w.out[pages.Begin(md):]))
	g.Columns = append(g.Columns, &parquet.ColumnChunk{FileOffset: pages.Begin(md), MetaData: md})
	g.TotalByteSize += md.TotalUncompressedSize
	return nil
}

// Finish ends the file and returns it with all of its info but Name and Meta. No rows are a valid file.
func (w *Writer) Finish() (data []byte, info RunInfo, err error) {
	if w.err == nil && w.rows > 0 {
		w.err = w.flush()
	}
	if w.err == nil {
		w.err = w.footer()
	}
	if w.err != nil {
		return nil, RunInfo{}, fmt.Errorf("state run: write: %w", w.err)
	}
	return w.out, w.info, nil
}

func (w *Writer) footer() error {
	digests, by := encodeDigests(w.digests), "tandem"
	foot, err := pages.Compact(&parquet.FileMetaData{Version: 1, Schema: schemaElements(false), NumRows: w.info.Rows, RowGroups: w.groups,
		KeyValueMetadata: []*parquet.KeyValue{{Key: digestsKey, Value: &digests}}, CreatedBy: &by})
	if err != nil {
		return err
	}
	at := len(w.out)
	w.out = append(binary.LittleEndian.AppendUint32(append(w.out, foot...), uint32(len(foot))), magic...)
	sum := sha256.Sum256(w.out[at:])
	w.info.Bytes, w.info.Tail, w.info.Digest = int64(len(w.out)), int64(len(w.out)-at), hex.EncodeToString(sum[:])
	return nil
}
