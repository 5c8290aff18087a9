package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// Limits of a file. Write refuses what is beyond the first two, with an error that names the row or the sizes; the
// archiver rolls long before.
const (
	// MaxFieldBytes is the largest value of one field, in bytes; a beacon has at most 65,536 (SPEC section 1).
	MaxFieldBytes = 1 << 20
	// MaxFileBytes is the most that all fields of a file's rows may take together, uncompressed.
	MaxFileBytes = 1 << 30

	// A row group is cut at the next new hash once it has groupRows rows or groupBytes bytes, and at any row, though it
	// divides a hash, once it has twice that: a session of any length costs a reader no more than this.
	groupRows  = 32 << 10
	groupBytes = 16 << 20

	// A page is what a reader must hold of a column at once, so a chunk of rows that fills it is small against it.
	pageBytes  = 256 << 10
	chunkBytes = 64 << 10
	chunkRows  = 1024

	// On beacons the fastest level gives files as small as the default one, two to three times as fast.
	compressionLevel = 1
)

// Write encodes rows, which must be in the order of Sort, as one Parquet file. The same rows give the same bytes.
// Refused are: no rows, rows out of order, a string field that is not UTF-8, and what is beyond the limits above.
// Name of the info is empty.
func Write(rows []Row) (data []byte, info FileInfo, err error) {
	if len(rows) == 0 {
		return nil, FileInfo{}, errors.New("archive: write: no rows: a manifest may have no file instead")
	}
	// The library reports some errors by panic.
	defer func() {
		if r := recover(); r != nil {
			data, info, err = nil, FileInfo{}, fmt.Errorf("archive: write: parquet writer failed: %v", r)
		}
	}()
	sc, err := newSchema()
	if err != nil {
		return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
	}
	var out bytes.Buffer
	props := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(compressionLevel),
		parquet.WithDataPageVersion(parquet.DataPageV1),
		parquet.WithDataPageSize(pageBytes),
		parquet.WithDictionaryDefault(false),
		parquet.WithStats(false),
	}
	for col, spec := range columnSpecs() {
		if spec.encoding == listed {
			props = append(props, parquet.WithDictionaryFor(spec.name, true))
		}
		if spec.encoding == packed {
			props = append(props, parquet.WithEncodingFor(spec.name, parquet.Encodings.DeltaBinaryPacked), parquet.WithCompressionFor(spec.name, compress.Codecs.Uncompressed))
		}
		if col == colHash || spec.encoding == packed {
			props = append(props, parquet.WithStatsFor(spec.name, true))
		}
	}
	pw := file.NewParquetWriter(&out, sc, file.WithWriterProps(parquet.NewWriterProperties(props...)))
	var w groupWriter
	for at := 0; at < len(rows); {
		n := groupEnd(rows[at:])
		if err := w.write(pw.AppendBufferedRowGroup(), rows, at, at+n); err != nil {
			return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
		}
		at += n
	}
	// Not Close, which loses the error of writing the footer.
	if err := pw.FlushWithFooter(); err != nil {
		return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
	}
	data = out.Bytes()
	return data, describe(rows, data), nil
}

func describe(rows []Row, data []byte) FileInfo {
	sum := sha256.Sum256(data)
	first := &rows[0]
	info := FileInfo{
		Bytes: int64(len(data)), Digest: hex.EncodeToString(sum[:]), Rows: int64(len(rows)),
		MinHash: first.Hash, MaxHash: rows[len(rows)-1].Hash,
		MinTS: first.TS, MaxTS: first.TS, MinOffset: first.Offset, MaxOffset: first.Offset,
	}
	for i := range rows {
		r := &rows[i]
		info.MinTS, info.MaxTS = min(info.MinTS, r.TS), max(info.MaxTS, r.TS)
		info.MinOffset, info.MaxOffset = min(info.MinOffset, r.Offset), max(info.MaxOffset, r.Offset)
	}
	return info
}

func rowBytes(r *Row) int {
	return 5*8 + len(r.Session) + len(r.ID) + len(r.Payload) + len(r.Point) + len(r.Visitor) + len(r.Event)
}

// groupEnd returns how many of rows go into the next row group.
func groupEnd(rows []Row) int {
	size := 0
	for i := range rows {
		full := i >= groupRows || size >= groupBytes
		if full && (rows[i].Hash != rows[i-1].Hash || i >= 2*groupRows || size >= 2*groupBytes) {
			return i
		}
		size += rowBytes(&rows[i])
	}
	return len(rows)
}

// groupWriter writes one row group after the other; it keeps the buffers between them.
type groupWriter struct {
	// rows are a chunk of the group. What they point to is one after the other in arena: rows come sorted from all over the
	// memory, which is waited for once here and not for each column, and all columns of a chunk are in the nearest cache.
	rows  []Row
	arena []byte
	total int // bytes of all rows gathered so far
	ints  []int64
	bytes []parquet.ByteArray
	dicts [numColumns]dictionary
}

// write writes rows[from:to] as a row group.
func (w *groupWriter) write(rg file.BufferedRowGroupWriter, rows []Row, from, to int) error {
	for col := range columnSpecs() {
		w.dicts[col].reset()
	}
	for at := from; at < to; {
		n, err := w.gather(rows, at, to)
		if err != nil {
			return err
		}
		if err := w.eachColumn(rg, w.writeChunk); err != nil {
			return err
		}
		at += n
	}
	if err := w.eachColumn(rg, func(cw file.ColumnChunkWriter, col int) error { return w.writeDictionary(cw, rows[from:to], col) }); err != nil {
		return err
	}
	return rg.Close()
}

func (w *groupWriter) eachColumn(rg file.BufferedRowGroupWriter, fn func(cw file.ColumnChunkWriter, col int) error) error {
	for col, spec := range columnSpecs() {
		cw, err := rg.Column(col)
		if err == nil {
			err = fn(cw, col)
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
	}
	return nil
}

// gather copies the next chunk of rows[from:to], checks it, and returns its length.
func (w *groupWriter) gather(rows []Row, from, to int) (int, error) {
	w.rows, w.arena = w.rows[:0], w.arena[:0]
	for i := from; i < to && len(w.rows) < chunkRows && len(w.arena) < chunkBytes; i++ {
		r := rows[i]
		if w.total += rowBytes(&r); w.total > MaxFileBytes {
			return 0, fmt.Errorf("the first %d of %d rows have %d bytes, at most %d are allowed: write fewer rows a file", i+1, len(rows), w.total, MaxFileBytes)
		}
		w.arena = slices.Grow(w.arena, rowBytes(&r))
		for _, f := range [...]struct {
			name  string
			value *[]byte
			text  bool
		}{
			{"session", &r.Session, true}, {"id", &r.ID, true}, {"payload", &r.Payload, false},
			{"point", &r.Point, true}, {"visitor", &r.Visitor, true}, {"event", &r.Event, false},
		} {
			if len(*f.value) > MaxFieldBytes {
				return 0, fmt.Errorf("row %d (offset %d): %s has %d bytes, at most %d are allowed", i, r.Offset, f.name, len(*f.value), MaxFieldBytes)
			}
			n := len(w.arena)
			w.arena = append(w.arena, *f.value...)
			*f.value = w.arena[n:]
			if f.text && !utf8.Valid(*f.value) {
				return 0, fmt.Errorf("row %d (offset %d): %s is not UTF-8", i, r.Offset, f.name)
			}
		}
		if i > 0 {
			before := &rows[i-1]
			if len(w.rows) > 0 {
				before = &w.rows[len(w.rows)-1]
			}
			if Compare(before, &r) > 0 {
				return 0, fmt.Errorf("row %d (offset %d) comes before the row ahead of it: call Sort first", i, r.Offset)
			}
		}
		w.rows = append(w.rows, r)
	}
	return len(w.rows), nil
}

func (w *groupWriter) writeChunk(cw file.ColumnChunkWriter, col int) error {
	switch cw := cw.(type) {
	case *file.Int64ColumnChunkWriter:
		w.ints = w.ints[:0]
		for i := range w.rows {
			w.ints = append(w.ints, intField(&w.rows[i], col))
		}
		_, err := cw.WriteBatch(w.ints, nil, nil)
		return err
	case *file.ByteArrayColumnChunkWriter:
		if columnSpecs()[col].encoding == listed {
			for i := range w.rows {
				w.dicts[col].add(bytesField(&w.rows[i], col))
			}
			return nil
		}
		return w.writeBytes(cw, w.rows, col)
	}
	return nil
}

func (w *groupWriter) writeBytes(cw *file.ByteArrayColumnChunkWriter, rows []Row, col int) error {
	w.bytes = w.bytes[:0]
	for i := range rows {
		w.bytes = append(w.bytes, bytesField(&rows[i], col))
	}
	_, err := cw.WriteBatch(w.bytes, nil, nil)
	return err
}

// writeDictionary ends a dictionary column of a row group.
func (w *groupWriter) writeDictionary(cw file.ColumnChunkWriter, rows []Row, col int) error {
	bytes, ok := cw.(*file.ByteArrayColumnChunkWriter)
	if !ok || columnSpecs()[col].encoding != listed {
		return nil
	}
	if d := &w.dicts[col]; len(d.places) <= len(rows)/2+1 {
		return d.write(bytes)
	}
	bytes.FallbackToPlain()
	for chunk := range slices.Chunk(rows, chunkRows) {
		if err := w.writeBytes(bytes, chunk, col); err != nil {
			return err
		}
	}
	return nil
}

// dictionary holds the values of a column of a row group and where they stand. It does the library's work: its own
// dictionary allocates for each value.
type dictionary struct {
	places  map[string]int32
	values  []string // in order of first use
	place   int32    // of the last row
	indices []int32  // of each row
}

func (d *dictionary) reset() {
	clear(d.places)
	clear(d.values)
	d.values, d.indices = d.values[:0], d.indices[:0]
}

func (d *dictionary) add(v []byte) {
	if len(d.indices) > 0 && string(v) == d.values[d.place] {
		d.indices = append(d.indices, d.place)
		return
	}
	place, seen := d.places[string(v)]
	if !seen {
		if d.places == nil {
			d.places = map[string]int32{}
		}
		place = int32(len(d.values))
		s := string(v)
		d.places[s], d.values = place, append(d.values, s)
	}
	d.place = place
	d.indices = append(d.indices, place)
}

func (d *dictionary) write(cw *file.ByteArrayColumnChunkWriter) error {
	dict, ok := cw.CurrentEncoder().(interface{ PutDictionary(arrow.Array) error })
	if !ok {
		return errors.New("the library's encoder takes no dictionary")
	}
	b := array.NewBinaryBuilder(memory.DefaultAllocator, arrow.BinaryTypes.Binary)
	defer b.Release()
	for _, v := range d.values {
		b.AppendString(v)
	}
	values := b.NewArray()
	defer values.Release()
	if err := dict.PutDictionary(values); err != nil {
		return err
	}
	numbers := array.NewInt32Data(array.NewData(arrow.PrimitiveTypes.Int32, len(d.indices),
		[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(d.indices))}, nil, 0, 0))
	defer numbers.Release()
	return cw.WriteDictIndices(numbers, nil, nil)
}

func intField(r *Row, col int) int64 {
	switch col {
	case colHash:
		return flip(r.Hash)
	case colTS:
		return r.TS
	case colIngest:
		return r.Ingest
	case colOffset:
		return r.Offset
	default:
		return int64(r.Digest)
	}
}

func bytesField(r *Row, col int) []byte {
	switch col {
	case colSession:
		return r.Session
	case colID:
		return r.ID
	case colPayload:
		return r.Payload
	case colPoint:
		return r.Point
	case colVisitor:
		return r.Visitor
	default:
		return r.Event
	}
}
