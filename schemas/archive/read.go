package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/metadata"

	"tandem/schemas/blob"
)

// ErrCorrupt: a file or manifest is not what it must be. The error around it names the object and what is wrong. A
// reader stops there: the way out is to restore the object from a copy.
var ErrCorrupt = errors.New("corrupt")

const (
	// Files up to this size are read once and held, larger ones twice: for the digest, then for the rows.
	holdBytes = 4 << 20
	// readBytes is the buffer of a column that is being read, and the piece in which a digest is taken.
	readBytes = 32 << 10
	// A batch is as many rows as have about batchBytes, by the row group's mean.
	batchBytes = 256 << 10
	batchRows  = 1024
)

// Columns selects what Rows reads besides the fields that are always read (all but these two). Reading
// without payloads costs less than half; what is not selected is empty.
type Columns struct {
	Payload bool
	Event   bool
}

// File is an open event file. It is safe for concurrent use: any number of readers take their hash ranges from it.
type File struct {
	info   FileInfo
	source *source
	pr     *file.Reader
	groups []group
}

// source remembers that the storage failed, which the decoder hides in errors and panics like those of wrong bytes: a file
// that could not be read is not a corrupt one.
type source struct {
	io.ReaderAt
	closer io.Closer
	failed atomic.Pointer[error]
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if err != nil && err != io.EOF {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// blame says whose fault a failed read is.
func (s *source) blame(err error) error {
	if failed := s.failed.Load(); failed != nil {
		return fmt.Errorf("read: %w", *failed)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// group is a row group: its bytes before compression, and the hashes that it holds, both inclusive.
type group struct {
	rows, bytes int64
	lo, hi      uint64
}

// OpenFile opens the file that info describes: r is the object info.Name. Size and digest are compared before anything
// is decoded, the number of rows and the columns after; any difference is ErrCorrupt. The file takes r over in any case.
func OpenFile(r blob.Reader, info FileInfo) (*File, error) {
	f, err := openFile(r, info)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("event file %s: %w", info.Name, err), r.Close())
	}
	return f, nil
}

func openFile(r blob.Reader, info FileInfo) (f *File, err error) {
	if err := info.check(); err != nil {
		return nil, fmt.Errorf("%w: its description: %w", ErrCorrupt, err)
	}
	verified, err := verify(r, info.Bytes, info.Digest)
	if err != nil {
		return nil, err
	}
	src := &source{ReaderAt: verified, closer: r}
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, src.blame(fmt.Errorf("parquet reader failed: %v", p))
		}
	}()
	props := parquet.NewReaderProperties(memory.NewGoAllocator())
	props.BufferedStreamEnabled = true
	props.BufferSize = readBytes
	pr, err := file.NewParquetReader(io.NewSectionReader(src, 0, info.Bytes), file.WithReadProps(props))
	if err != nil {
		return nil, src.blame(err)
	}
	if err := checkSchema(pr.MetaData().Schema); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	f = &File{info: info, source: src, pr: pr}
	var rows int64
	for i := range pr.NumRowGroups() {
		g, err := readGroup(pr.RowGroup(i).MetaData())
		if err != nil {
			return nil, fmt.Errorf("%w: row group %d: %w", ErrCorrupt, i, err)
		}
		f.groups = append(f.groups, g)
		rows += g.rows
	}
	if rows != info.Rows || pr.NumRows() != info.Rows {
		return nil, fmt.Errorf("%w: it has %d rows, its row groups %d, its manifest says %d", ErrCorrupt, pr.NumRows(), rows, info.Rows)
	}
	return f, nil
}

// verify compares size and digest and returns where to read from: memory when the file is small, so that what is decoded
// is what was verified.
func verify(r blob.Reader, size int64, digest string) (io.ReaderAt, error) {
	if r.Size() != size {
		return nil, fmt.Errorf("%w: it has %d bytes, its manifest says %d", ErrCorrupt, r.Size(), size)
	}
	h := sha256.New()
	var from io.ReaderAt = r
	if size <= holdBytes {
		data := make([]byte, size)
		if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), data); err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		h.Write(data)
		from = blob.Bytes(data)
	} else if n, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, size), make([]byte, readBytes)); err != nil || n != size {
		return nil, fmt.Errorf("read %d of %d bytes: %w", n, size, cmpErr(err))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return nil, fmt.Errorf("%w: its SHA-256 is %s, its manifest says %s", ErrCorrupt, got, digest)
	}
	return from, nil
}

func cmpErr(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

func readGroup(md *metadata.RowGroupMetaData) (group, error) {
	// Without statistics a group may hold any hash.
	g := group{rows: md.NumRows(), hi: ^uint64(0)}
	if g.rows < 0 {
		return g, fmt.Errorf("it has %d rows", g.rows)
	}
	for col := range numColumns {
		chunk, err := md.ColumnChunk(col)
		if err != nil {
			return g, err
		}
		g.bytes += chunk.TotalUncompressedSize()
	}
	chunk, err := md.ColumnChunk(colHash)
	if err != nil {
		return g, err
	}
	set, err := chunk.StatsSet()
	if err != nil || !set {
		return g, err
	}
	stats, err := chunk.Statistics()
	if err != nil {
		return g, err
	}
	if hashes, ok := stats.(*metadata.Int64Statistics); ok && hashes.HasMinMax() {
		g.lo, g.hi = unflip(hashes.Min()), unflip(hashes.Max())
	}
	return g, nil
}

// Info returns the description that the file was opened by.
func (f *File) Info() FileInfo { return f.info }

// Close closes the source. No iterator of the file may be used after it.
func (f *File) Close() error { return f.source.closer.Close() }

// Scan calls fn for each row whose hash is in [lo, hi], in the file's order. The row and its slices are valid during the
// call only. An error of fn ends the scan and is returned as it is.
func (f *File) Scan(lo, hi uint64, cols Columns, fn func(*Row) error) error {
	it := f.Rows(lo, hi, cols)
	for it.Next() {
		if err := fn(it.Row()); err != nil {
			return err
		}
	}
	return it.Err()
}

// Rows returns an iterator over the rows whose hash is in [lo, hi], both included, in the file's order. Row groups outside
// the range are not read. An iterator holds a page of each column and one batch, whatever the file's size.
func (f *File) Rows(lo, hi uint64, cols Columns) *Iter {
	return &Iter{f: f, lo: lo, hi: hi, cols: cols}
}

// Offsets has the iterator leave out the rows whose offset in says no to, and returns it. Call it before Next.
func (it *Iter) Offsets(in func(offset int64) bool) *Iter {
	it.offsets = in
	return it
}

// Iter walks rows: call Next until it is false, then Err. It is for one goroutine and needs no Close.
type Iter struct {
	f      *File
	lo, hi uint64
	cols   Columns
	// offsets, if set, says which rows are wanted.
	offsets func(int64) bool

	nextGroup int // the row group to open next
	left      int64
	readers   [numColumns]file.ColumnChunkReader

	batch    batch
	pos      int // of the next row in the batch
	last     uint64
	row      Row
	err      error
	finished bool
}

// batch holds a few rows by column. Byte slices point into pages, which the library leaves to the garbage collector, so
// they outlive the page.
type batch struct {
	n, size int
	ints    [numColumns][]int64
	bytes   [numColumns][]parquet.ByteArray
}

// Next moves to the next row and tells if there is one. It is false at the end and after an error.
func (it *Iter) Next() (more bool) {
	if it.finished {
		return false
	}
	// The library reports bad pages by panic.
	defer func() {
		if p := recover(); p != nil {
			it.fail(fmt.Errorf("parquet reader failed: %v", p))
			more = false
		}
	}()
	for {
		if it.pos == it.batch.n {
			if ok, err := it.fill(); err != nil {
				return it.fail(err)
			} else if !ok {
				it.finished = true
				return false
			}
		}
		hash := unflip(it.batch.ints[colHash][it.pos])
		if hash < it.last {
			return it.fail(fmt.Errorf("row group %d: hash %d comes after %d", it.nextGroup-1, hash, it.last))
		}
		it.last = hash
		if hash > it.hi {
			it.finished = true
			return false
		}
		it.pos++
		if hash >= it.lo && (it.offsets == nil || it.offsets(it.batch.ints[colOffset][it.pos-1])) {
			it.take(hash, it.pos-1)
			return true
		}
	}
}

// Row is the row that Next moved to, valid until the next call of Next.
func (it *Iter) Row() *Row { return &it.row }

// Err is what ended the iteration, nil at its regular end.
func (it *Iter) Err() error { return it.err }

func (it *Iter) fail(err error) bool {
	it.finished = true
	it.err = fmt.Errorf("event file %s: %w", it.f.info.Name, it.f.source.blame(err))
	return false
}

func (it *Iter) take(hash uint64, i int) {
	b := &it.batch
	r := &it.row
	r.Hash, r.TS, r.Ingest = hash, b.ints[colTS][i], b.ints[colIngest][i]
	r.Offset, r.Digest = b.ints[colOffset][i], uint64(b.ints[colDigest][i])
	r.Session, r.ID, r.Point, r.Visitor = b.bytes[colSession][i], b.bytes[colID][i], b.bytes[colPoint][i], b.bytes[colVisitor][i]
	if it.cols.Payload {
		r.Payload = b.bytes[colPayload][i]
	}
	if it.cols.Event {
		r.Event = b.bytes[colEvent][i]
	}
}

// fill reads the next batch, of the next row group that can hold the range if need be; false at the end of the file.
func (it *Iter) fill() (bool, error) {
	for it.left == 0 {
		for it.nextGroup < len(it.f.groups) && (it.f.groups[it.nextGroup].hi < it.lo || it.f.groups[it.nextGroup].rows == 0) {
			it.nextGroup++
		}
		if it.nextGroup == len(it.f.groups) || it.f.groups[it.nextGroup].lo > it.hi {
			return false, nil
		}
		if err := it.openGroup(); err != nil {
			return false, fmt.Errorf("row group %d: %w", it.nextGroup, err)
		}
		it.nextGroup++
	}
	n := int(min(int64(it.batch.size), it.left))
	for col, r := range it.readers {
		if r == nil {
			continue
		}
		if err := it.batch.read(col, r, n); err != nil {
			return false, fmt.Errorf("row group %d: column %s: %w", it.nextGroup-1, columnSpecs()[col].name, err)
		}
	}
	it.batch.n, it.pos = n, 0
	it.left -= int64(n)
	return true, nil
}

func (it *Iter) openGroup() error {
	g := it.f.groups[it.nextGroup]
	rg := it.f.pr.RowGroup(it.nextGroup)
	for col := range it.readers {
		if col == colPayload && !it.cols.Payload || col == colEvent && !it.cols.Event {
			continue
		}
		r, err := rg.Column(col)
		if err != nil {
			return fmt.Errorf("column %s: %w", columnSpecs()[col].name, err)
		}
		it.readers[col] = r
	}
	it.left = g.rows
	it.batch.size = int(min(max(batchBytes*g.rows/max(g.bytes, 1), 8), batchRows))
	return nil
}

func (b *batch) read(col int, r file.ColumnChunkReader, n int) error {
	var got int
	var err error
	switch r := r.(type) {
	case *file.Int64ColumnChunkReader:
		if cap(b.ints[col]) < n {
			b.ints[col] = make([]int64, n)
		}
		b.ints[col] = b.ints[col][:n]
		_, got, err = r.ReadBatch(int64(n), b.ints[col], nil, nil)
	case *file.ByteArrayColumnChunkReader:
		if cap(b.bytes[col]) < n {
			b.bytes[col] = make([]parquet.ByteArray, n)
		}
		b.bytes[col] = b.bytes[col][:n]
		_, got, err = r.ReadBatch(int64(n), b.bytes[col], nil, nil)
	}
	if err == nil {
		err = r.Err()
	}
	if err == nil && got != n {
		err = fmt.Errorf("it ended %d rows early", n-got)
	}
	return err
}
