package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	pageBytes  = 1 << 20
	chunkBytes = 128 << 10
	chunkRows  = 1024

	// On beacons the fastest level gives files as small as the default one, two to three times as fast.
	compressionLevel = 1

	// Points are a short list; a producer that makes them up gets plain pages in place of a dictionary.
	maxDictionary = 4096
)

// Write encodes rows, which must be in the order of Sort, as one Parquet file. The same rows give the same bytes.
// Refused are: no rows, rows out of order, a string field that is not UTF-8, and what is beyond the limits above.
// Name of the info is empty.
func Write(rows []Row) (data []byte, info FileInfo, err error) {
	if err := checkRows(rows); err != nil {
		return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
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
	specs := columnSpecs()
	var out bytes.Buffer
	pw := file.NewParquetWriter(&out, sc, file.WithWriterProps(parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(compressionLevel),
		parquet.WithDataPageVersion(parquet.DataPageV1),
		parquet.WithDataPageSize(pageBytes),
		parquet.WithDictionaryDefault(false),
		parquet.WithDictionaryFor(specs[colPoint].name, true),
		parquet.WithStats(false),
		parquet.WithStatsFor(specs[colHash].name, true),
		parquet.WithStatsFor(specs[colTS].name, true),
		parquet.WithStatsFor(specs[colIngest].name, true),
		parquet.WithStatsFor(specs[colOffset].name, true),
	)))
	var w groupWriter
	for rest := rows; len(rest) > 0; {
		n := groupEnd(rest)
		if err := w.write(pw.AppendRowGroup(), rest[:n]); err != nil {
			return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
		}
		rest = rest[n:]
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

func checkRows(rows []Row) error {
	if len(rows) == 0 {
		return errors.New("no rows: a manifest may have no file instead")
	}
	total := 0
	for i := range rows {
		r := &rows[i]
		for _, f := range [...]struct {
			name  string
			value []byte
			text  bool
		}{
			{"session", r.Session, true}, {"id", r.ID, true}, {"payload", r.Payload, false},
			{"point", r.Point, true}, {"visitor", r.Visitor, true}, {"event", r.Event, false},
		} {
			if len(f.value) > MaxFieldBytes {
				return fmt.Errorf("row %d (offset %d): %s has %d bytes, at most %d are allowed", i, r.Offset, f.name, len(f.value), MaxFieldBytes)
			}
			if f.text && !utf8.Valid(f.value) {
				return fmt.Errorf("row %d (offset %d): %s is not UTF-8", i, r.Offset, f.name)
			}
		}
		if total += rowBytes(r); total > MaxFileBytes {
			return fmt.Errorf("the first %d of %d rows have %d bytes, at most %d are allowed: write fewer rows a file", i+1, len(rows), total, MaxFileBytes)
		}
		if i > 0 && Compare(&rows[i-1], r) > 0 {
			return fmt.Errorf("row %d (offset %d) comes before the row ahead of it: call Sort first", i, r.Offset)
		}
	}
	return nil
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
	ints  []int64
	bytes []parquet.ByteArray
	// points of the row group in order of first use, and for each row its place there
	indices []int32
}

func (w *groupWriter) write(rg file.SerialRowGroupWriter, rows []Row) error {
	for col, spec := range columnSpecs() {
		cw, err := rg.NextColumn()
		if err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
		switch cw := cw.(type) {
		case *file.Int64ColumnChunkWriter:
			err = w.writeInts(cw, rows, col)
		case *file.ByteArrayColumnChunkWriter:
			if col == colPoint {
				err = w.writePoints(cw, rows)
			} else {
				err = w.writeBytes(cw, rows, col)
			}
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
		if err := cw.Close(); err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
	}
	return rg.Close()
}

func (w *groupWriter) writeInts(cw *file.Int64ColumnChunkWriter, rows []Row, col int) error {
	w.ints = w.ints[:0]
	for i := range rows {
		w.ints = append(w.ints, intField(&rows[i], col))
	}
	_, err := cw.WriteBatch(w.ints, nil, nil)
	return err
}

// writeBytes hands over small chunks, because the library ends a page only between calls or 1,024 values.
func (w *groupWriter) writeBytes(cw *file.ByteArrayColumnChunkWriter, rows []Row, col int) error {
	w.bytes = w.bytes[:0]
	size := 0
	for i := range rows {
		v := bytesField(&rows[i], col)
		w.bytes = append(w.bytes, v)
		size += len(v)
		if len(w.bytes) == chunkRows || size >= chunkBytes || i == len(rows)-1 {
			if _, err := cw.WriteBatch(w.bytes, nil, nil); err != nil {
				return err
			}
			w.bytes, size = w.bytes[:0], 0
		}
	}
	return nil
}

// writePoints interns the points itself and writes their numbers: the library's own dictionary allocates for each value.
func (w *groupWriter) writePoints(cw *file.ByteArrayColumnChunkWriter, rows []Row) error {
	dict, ok := cw.CurrentEncoder().(interface{ PutDictionary(arrow.Array) error })
	places := map[string]int32{}
	points := array.NewBinaryBuilder(memory.DefaultAllocator, arrow.BinaryTypes.Binary)
	defer points.Release()
	w.indices = w.indices[:0]
	for i := range rows {
		place, seen := places[string(rows[i].Point)]
		if !seen {
			if !ok || len(places) == maxDictionary {
				return w.writeBytes(cw, rows, colPoint)
			}
			place = int32(len(places))
			places[string(rows[i].Point)] = place
			points.Append(rows[i].Point)
		}
		w.indices = append(w.indices, place)
	}
	values := points.NewArray()
	defer values.Release()
	if err := dict.PutDictionary(values); err != nil {
		return err
	}
	numbers := array.NewInt32Data(array.NewData(arrow.PrimitiveTypes.Int32, len(w.indices),
		[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(w.indices))}, nil, 0, 0))
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
