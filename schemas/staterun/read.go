package staterun

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/xitongsys/parquet-go/reader"
	"github.com/xitongsys/parquet-go/schema"
	"github.com/xitongsys/parquet-go/source"

	"tandem/schemas/blob"
)

const (
	// Runs up to this size are read once and held, larger ones twice: for the digest, then for the rows.
	holdBytes   = 8 << 20
	digestBytes = 64 << 10
	// A batch is as many rows as have about batchBytes, by the run's mean.
	batchBytes = 1 << 20
	batchRows  = 4096
)

// Iter walks the rows of a run: call Next until it is false, then Err, then Close. It is for one goroutine.
type Iter struct {
	info   RunInfo
	lo, hi uint64
	closer io.Closer
	from   *storage
	pr     *reader.ParquetReader

	batch    []record
	pos      int
	read     int64 // rows that have been read into batches
	row      Row
	err      error
	started  bool // row is set
	finished bool
}

// Open returns the rows of a run whose hash is in [lo, hi], both included; r is the object info.Name. Size and digest are
// compared before anything is decoded, the number of rows after; any difference is ErrCorrupt. The iterator takes r over
// in any case. Rows outside the range cost their decoding: the format's reader cannot start in the middle.
func Open(r blob.Reader, info RunInfo, lo, hi uint64) (*Iter, error) {
	it, err := open(r, info, lo, hi)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state run %s: %w", info.Name, err), r.Close())
	}
	return it, nil
}

func open(r blob.Reader, info RunInfo, lo, hi uint64) (it *Iter, err error) {
	verified, err := verify(r, info)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			it, err = nil, fmt.Errorf("%w: parquet reader failed: %v", ErrCorrupt, p)
		}
	}()
	it = &Iter{info: info, lo: lo, hi: hi, closer: r, from: &storage{ReaderAt: verified}}
	if info.Rows == 0 || info.MaxHash < lo || hi < info.MinHash {
		it.finished = true
		return it, nil
	}
	if it.pr, err = newReader(newSection(it.from, info.Bytes)); err != nil {
		return nil, it.from.blame(err)
	}
	if got := it.pr.GetNumRows(); got != info.Rows {
		return nil, fmt.Errorf("%w: it has %d rows, its description says %d", ErrCorrupt, got, info.Rows)
	}
	rows := min(max(batchBytes*info.Rows/max(info.RawBytes, 1), 1), batchRows)
	it.batch = make([]record, 0, rows)
	return it, nil
}

// recordSchema is the schema of records, derived once: the library copies it by gob on the way, which took longer than
// reading a small run. Readers only look at it.
var recordSchema = sync.OnceValues(func() (*schema.SchemaHandler, error) { return schema.NewSchemaHandlerFromStruct(new(record)) })

// newReader does what reader.NewParquetReader does for records, with recordSchema.
func newReader(file source.ParquetFile) (*reader.ParquetReader, error) {
	handler, err := recordSchema()
	if err != nil {
		return nil, fmt.Errorf("schema of records: %w", err)
	}
	pr := &reader.ParquetReader{NP: parallel, PFile: file, SchemaHandler: handler, ObjType: reflect.TypeFor[record](),
		ColumnBuffers: map[string]*reader.ColumnBufferType{}}
	if err := pr.ReadFooter(); err != nil {
		return nil, err
	}
	if got, want := len(pr.Footer.Schema), len(handler.SchemaElements); got != want {
		return nil, fmt.Errorf("%w: its schema has %d elements, not %d", ErrCorrupt, got, want)
	}
	pr.RenameSchema()
	for i, element := range handler.SchemaElements {
		if element.GetNumChildren() > 0 {
			continue
		}
		path := handler.IndexMap[int32(i)]
		if pr.ColumnBuffers[path], err = reader.NewColumnBuffer(file, pr.Footer, handler, path); err != nil {
			return nil, err
		}
	}
	return pr, nil
}

func verify(r blob.Reader, info RunInfo) (io.ReaderAt, error) {
	if r.Size() != info.Bytes {
		return nil, fmt.Errorf("%w: it has %d bytes, its description says %d", ErrCorrupt, r.Size(), info.Bytes)
	}
	h := sha256.New()
	var from io.ReaderAt = r
	section := io.NewSectionReader(r, 0, info.Bytes)
	if info.Bytes <= holdBytes {
		data := make([]byte, info.Bytes)
		if _, err := io.ReadFull(section, data); err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		h.Write(data)
		from = blob.Bytes(data)
	} else if n, err := io.CopyBuffer(h, section, make([]byte, digestBytes)); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	} else if n != info.Bytes {
		return nil, fmt.Errorf("read %d of %d bytes: %w", n, info.Bytes, io.ErrUnexpectedEOF)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != info.Digest {
		return nil, fmt.Errorf("%w: its SHA-256 is %s, its description says %s", ErrCorrupt, got, info.Digest)
	}
	return from, nil
}

// Next moves to the next row and tells if there is one. It is false at the end and after an error.
func (it *Iter) Next() (more bool) {
	if it.finished {
		return false
	}
	defer func() {
		if p := recover(); p != nil {
			it.fail(fmt.Errorf("parquet reader failed: %v", p))
			more = false
		}
	}()
	for {
		if it.pos == len(it.batch) {
			if it.read == it.info.Rows {
				it.finished = true
				return false
			}
			if err := it.fill(); err != nil {
				return it.fail(err)
			}
		}
		r := &it.batch[it.pos]
		it.pos++
		next := Row{unflip(r.Hash), r.Session, r.FirstTS, r.LastTS, r.Due, r.State}
		if it.started && Compare(&it.row, &next) >= 0 {
			return it.fail(fmt.Errorf("session %q is not after %q", next.Session, it.row.Session))
		}
		it.row, it.started = next, true
		if next.Hash > it.hi {
			it.finished = true
			return false
		}
		if next.Hash >= it.lo {
			return true
		}
	}
}

// fill reads the next batch. The library hides errors of its decoder: they show only as rows that are missing.
func (it *Iter) fill() error {
	want := int(min(int64(cap(it.batch)), it.info.Rows-it.read))
	it.batch = it.batch[:want]
	if err := it.pr.Read(&it.batch); err != nil {
		return err
	}
	it.pos = 0
	it.read += int64(len(it.batch))
	if len(it.batch) != want {
		return fmt.Errorf("its rows end at %d of %d", it.read, it.info.Rows)
	}
	return nil
}

func (it *Iter) fail(err error) bool {
	it.finished = true
	it.err = fmt.Errorf("state run %s: %w", it.info.Name, it.from.blame(err))
	return false
}

// Row is the row that Next moved to. It stays as it is until the next call of Next; its strings stay for ever.
func (it *Iter) Row() *Row { return &it.row }

// Err is what ended the iteration, nil at its regular end.
func (it *Iter) Err() error { return it.err }

// Close closes the source.
func (it *Iter) Close() error {
	it.finished = true
	return it.closer.Close()
}

// storage remembers that reading failed, which the library drops: a run that could not be read is not a corrupt one.
type storage struct {
	io.ReaderAt
	failed atomic.Pointer[error]
}

func (s *storage) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if err != nil && err != io.EOF {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// blame says whose fault a failed read is.
func (s *storage) blame(err error) error {
	if failed := s.failed.Load(); failed != nil {
		return fmt.Errorf("read: %w", *failed)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// section is the read-only file that the library wants. It opens "files" once for each column: all are the same one, each
// with its own position.
type section struct {
	*io.SectionReader
	from io.ReaderAt
}

var errReadOnly = errors.New("a state run is read-only")

func newSection(from io.ReaderAt, size int64) *section {
	return &section{io.NewSectionReader(from, 0, size), from}
}

func (s *section) Open(string) (source.ParquetFile, error)   { return newSection(s.from, s.Size()), nil }
func (s *section) Create(string) (source.ParquetFile, error) { return nil, errReadOnly }
func (s *section) Write([]byte) (int, error)                 { return 0, errReadOnly }
func (s *section) Close() error                              { return nil }
