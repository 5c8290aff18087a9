package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/metadata"
	"github.com/apache/arrow/go/v17/parquet/schema"
	"github.com/cespare/xxhash/v2"

	"tandem/schemas/bitpack"
)

// fileWriter lays a file out by pages: the library frames them and keeps the metadata. Values go from a row straight into
// the page that they will stand in.
type fileWriter struct {
	specs [numColumns]columnSpec
	out   sink
	meta  *metadata.FileMetaDataBuilder
	pager file.PageWriter
	cols  [numColumns]columnWriter
	index []byte
	end   int64 // of the last page
	page  int   // bytes of a page of plain values, at most
	n     int16 // row groups
	total int   // bytes of all rows so far

	touched int // keeps touch from being left out
}

// ahead is how many rows are touched at once.
const ahead = 16

// touch loads what rows point to. Sorted rows lie all over the memory, and a processor waits for many places at once as long
// as for one.
func touch(rows []Row) (sum int) {
	for i := range rows {
		if s := rows[i].Session; len(s) > 0 {
			sum += int(s[0])
		}
		for p := rows[i].Payload; len(p) > 0; p = p[min(64, len(p)):] {
			sum += int(p[0])
		}
	}
	return sum
}

// sink is where the library writes.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// Tell is where the next byte goes.
func (s *sink) Tell() int64 { return int64(len(s.b)) }

const (
	magic   = "PAR1"
	minTail = int64(8) // a footer's length and the magic
)

func newFileWriter(rows int) (*fileWriter, error) {
	sc, err := newSchema()
	if err != nil {
		return nil, err
	}
	specs := columnSpecs()
	var props []parquet.WriterProperty
	for _, spec := range specs {
		if spec.encoding == packed {
			props = append(props, parquet.WithEncodingFor(spec.name, parquet.Encodings.DeltaBinaryPacked), parquet.WithCompressionFor(spec.name, compress.Codecs.Uncompressed))
		} else {
			props = append(props, parquet.WithCompressionFor(spec.name, compress.Codecs.Zstd))
		}
	}
	w := &fileWriter{specs: specs, meta: metadata.NewFileMetadataBuilder(schema.NewSchema(sc), parquet.NewWriterProperties(props...), nil)}
	w.out.b = append(make([]byte, 0, 128*rows+4096), magic...) // about what it will take
	w.end = w.out.Tell()
	return w, nil
}

// columnWriter gathers a column of a row group: integers as they are, plain bytes as pages, listed ones as places in a
// dictionary.
type columnWriter struct {
	ints   []int64
	page   []byte // the page at hand, plain
	inPage int    // its values
	stored []byte // the pages before it, as they will be stored
	pages  []storedPage

	dict    []byte // the values, plain
	values  int
	places  []int32
	last    []byte // the value added last
	byBytes map[string]int32
	byInt   map[int64]int32
}

type storedPage struct {
	end, raw, values int
	encoding         parquet.Encoding
	dictionary       bool
}

func (c *columnWriter) reset() {
	clear(c.byBytes)
	clear(c.byInt)
	*c = columnWriter{ints: c.ints[:0], page: c.page[:0], stored: c.stored[:0], pages: c.pages[:0], dict: c.dict[:0], places: c.places[:0], byBytes: c.byBytes, byInt: c.byInt}
}

// group writes rows[from:to] as a row group.
func (w *fileWriter) group(rows []Row, from, to int) error {
	for col := range w.cols {
		w.cols[col].reset()
	}
	for i := from; i < to; i++ {
		if (i-from)%ahead == 0 {
			w.touched += touch(rows[i:min(i+ahead, to)])
		}
		if err := w.row(rows, i); err != nil {
			return err
		}
	}
	rg := w.meta.AppendRowGroup()
	rg.SetNumRows(to - from)
	size := int64(0)
	for col := range w.specs {
		spec := &w.specs[col]
		if err := w.finish(col, rows[from:to]); err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
		n, err := w.write(rg.NextColumnChunk(), col)
		if err != nil {
			return fmt.Errorf("column %s: %w", spec.name, err)
		}
		size += n
	}
	err := rg.Finish(size, w.n)
	w.n++
	return err
}

// row checks a row and adds its values to the columns.
func (w *fileWriter) row(rows []Row, i int) error {
	r := &rows[i]
	if w.total += rowBytes(r); w.total > MaxFileBytes {
		return fmt.Errorf("the first %d of %d rows have %d bytes, at most %d are allowed: write fewer rows a file", i+1, len(rows), w.total, MaxFileBytes)
	}
	if i > 0 && Compare(&rows[i-1], r) > 0 {
		return fmt.Errorf("row %d (offset %d) comes before the row ahead of it: call Sort first", i, r.Offset)
	}
	for col := range w.specs {
		c, spec := &w.cols[col], &w.specs[col]
		if spec.kind == kindInt || spec.kind == kindTime {
			c.ints = append(c.ints, intField(r, col))
			continue
		}
		v := bytesField(r, col)
		if len(v) > MaxFieldBytes {
			return fmt.Errorf("row %d (offset %d): %s has %d bytes, at most %d are allowed", i, r.Offset, spec.name, len(v), MaxFieldBytes)
		}
		fresh := true
		if spec.encoding == listed {
			fresh = c.list(v)
		} else if err := c.plain(v, w.page); err != nil {
			return err
		}
		if fresh && spec.kind == kindString && !utf8.Valid(v) {
			return fmt.Errorf("row %d (offset %d): %s is not UTF-8", i, r.Offset, spec.name)
		}
	}
	return nil
}

// list adds the place of a value, which is new if it says so.
func (c *columnWriter) list(v []byte) (fresh bool) {
	if n := len(c.places); n > 0 && bytes.Equal(c.last, v) {
		c.places = append(c.places, c.places[n-1])
		return false
	}
	place, known := c.byBytes[string(v)]
	if !known {
		if c.byBytes == nil {
			c.byBytes = map[string]int32{}
		}
		place = int32(c.values)
		c.byBytes[string(v)] = place
		c.values++
		c.dict = appendPlain(c.dict, v)
	}
	c.places, c.last = append(c.places, place), v
	return !known
}

func appendPlain(b, v []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

// plain adds a value to the page at hand, which has most bytes at most.
func (c *columnWriter) plain(v []byte, most int) error {
	if c.inPage > 0 && len(c.page)+4+len(v) > most {
		if err := c.endPage(); err != nil {
			return err
		}
	}
	c.page = appendPlain(c.page, v)
	c.inPage++
	return nil
}

func (c *columnWriter) endPage() error {
	if err := c.store(c.page, c.inPage, parquet.Encodings.Plain, false); err != nil {
		return err
	}
	c.page, c.inPage = c.page[:0], 0
	return nil
}

// store compresses a page.
func (c *columnWriter) store(raw []byte, values int, encoding parquet.Encoding, dictionary bool) error {
	enc, err := compressor()
	if err != nil {
		return err
	}
	c.stored = enc.EncodeAll(raw, c.stored)
	c.pages = append(c.pages, storedPage{len(c.stored), len(raw), values, encoding, dictionary})
	return nil
}

// finish makes the pages that are left of a column of a row group.
func (w *fileWriter) finish(col int, rows []Row) error {
	c, spec := &w.cols[col], &w.specs[col]
	switch {
	case spec.encoding == packed:
		c.stored = bitpack.AppendDelta(c.stored, c.ints)
		c.pages = append(c.pages, storedPage{len(c.stored), len(c.stored), len(rows), parquet.Encodings.DeltaBinaryPacked, false})
		return nil
	case spec.encoding == plain:
		if c.inPage == 0 {
			return nil
		}
		return c.endPage()
	case spec.kind == kindInt:
		c.listInts()
	}
	if c.values > len(rows)/2+1 {
		return c.unlist(rows, col, spec.kind, w.page)
	}
	c.pages = append(c.pages, storedPage{raw: len(c.dict), values: c.values, encoding: parquet.Encodings.Plain, dictionary: true})
	c.page = bitpack.AppendPlaces(c.page, c.places, c.values)
	return c.store(c.page, len(rows), parquet.Encodings.RLEDict, false)
}

func (c *columnWriter) listInts() {
	for i, v := range c.ints {
		if i > 0 && v == c.ints[i-1] {
			c.places = append(c.places, c.places[i-1])
			continue
		}
		place, known := c.byInt[v]
		if !known {
			if c.byInt == nil {
				c.byInt = map[int64]int32{}
			}
			place = int32(c.values)
			c.byInt[v] = place
			c.values++
			c.dict = binary.LittleEndian.AppendUint64(c.dict, uint64(v))
		}
		c.places = append(c.places, place)
	}
}

// unlist makes plain pages of a listed column whose values do not repeat.
func (c *columnWriter) unlist(rows []Row, col int, kind columnKind, page int) error {
	if kind == kindInt {
		for _, v := range c.ints {
			c.page = binary.LittleEndian.AppendUint64(c.page, uint64(v))
		}
		c.inPage = len(c.ints)
	} else {
		for i := range rows {
			if err := c.plain(bytesField(&rows[i], col), page); err != nil {
				return err
			}
		}
	}
	if c.inPage == 0 {
		return nil
	}
	return c.endPage()
}

// write writes a column of a row group, and returns its size before compression.
func (w *fileWriter) write(md *metadata.ColumnChunkMetaDataBuilder, col int) (size int64, err error) {
	c, spec := &w.cols[col], &w.specs[col]
	codec := compress.Codecs.Zstd
	if spec.encoding == packed {
		codec = compress.Codecs.Uncompressed
	}
	if w.pager == nil {
		w.pager, err = file.NewPageWriter(&w.out, codec, 0, md, w.n, int16(col), memory.DefaultAllocator, false, nil, nil)
	} else {
		err = w.pager.Reset(&w.out, codec, 0, md, w.n, int16(col), nil, nil)
	}
	if err != nil {
		return 0, err
	}
	if col == colHash || spec.encoding == packed {
		md.SetStats(statistics(c.ints))
	}
	made := chunk{encoding: spec.encoding}
	if c.pages[0].encoding == parquet.Encodings.Plain && !c.pages[0].dictionary {
		made.encoding = plain
	}
	from := 0
	for _, p := range c.pages {
		at, stored := w.out.Tell(), p.end-from
		if p.dictionary {
			dict := file.NewDictionaryPage(memory.NewBufferBytes(c.dict), int32(p.values), p.encoding)
			if _, err = w.pager.WriteDictionaryPage(dict); err == nil {
				stored, err = storedSize(w.out.b[at:])
			}
		} else {
			body := memory.NewBufferBytes(c.stored[from:p.end])
			_, err = w.pager.WriteDataPage(file.NewDataPageV1(body, int32(p.values), p.encoding, parquet.Encodings.RLE, parquet.Encodings.RLE, int32(p.raw)))
		}
		if err != nil {
			return 0, err
		}
		length := int(w.out.Tell() - at)
		made.pages = append(made.pages, page{at: at, length: length, head: length - stored, raw: p.raw, values: p.values, digest: xxhash.Sum64(w.out.b[at:])})
		size += int64(made.pages[len(made.pages)-1].head + p.raw)
		from = p.end
	}
	w.index = appendChunk(w.index, &made, w.end)
	w.end = made.end()
	return size, w.pager.Close(made.encoding == listed, false)
}

// storedSize reads from a page's header how large its body is: the format's third field, after two of the same kind.
func storedSize(header []byte) (size int, err error) {
	for range 3 {
		const nextInt = 0x15
		if len(header) == 0 || header[0] != nextInt {
			return 0, errors.New("the library's page header is not as expected")
		}
		v, n := binary.Varint(header[1:])
		if n <= 0 {
			return 0, errors.New("the library's page header is not as expected")
		}
		size, header = int(v), header[1+n:]
	}
	return size, nil
}

func statistics(values []int64) (st metadata.EncodedStatistics) {
	least, greatest := values[0], values[0]
	for _, v := range values {
		least, greatest = min(least, v), max(greatest, v)
	}
	st.Signed = true
	st.SetMin(binary.LittleEndian.AppendUint64(nil, uint64(least))).SetMax(binary.LittleEndian.AppendUint64(nil, uint64(greatest)))
	return st
}

// footer ends the file, and returns the footer's size.
func (w *fileWriter) footer() (tail int, err error) {
	if err := w.meta.AppendKeyValueMetadata(pagesKey, encodeIndex(w.index)); err != nil {
		return 0, err
	}
	md, err := w.meta.Finish()
	if err != nil {
		return 0, err
	}
	at := len(w.out.b)
	n, err := md.WriteTo(&w.out, nil)
	if err != nil {
		return 0, err
	}
	w.out.b = append(binary.LittleEndian.AppendUint32(w.out.b, uint32(n)), magic...)
	return len(w.out.b) - at, nil
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
