package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v17/parquet/metadata"

	"tandem/schemas/blob"
)

// ErrCorrupt: a file or manifest is not what it must be. The error around it names the object and what is wrong. A
// reader stops there: the way out is to restore the object from a copy.
var ErrCorrupt = errors.New("corrupt")

// readBytes is the piece in which the digest of a whole file is taken.
const readBytes = 256 << 10

// Columns selects what Rows reads besides the fields that are always read (all but these). What is not selected is empty.
// Payloads are more than half of a file, so a reader that needs few of them asks for each by Iter.Payload.
type Columns struct {
	Payload bool
	Event   bool
	Names   bool // Point and Visitor
}

// File is an open event file. It is safe for concurrent use: any number of readers take their hash ranges from it.
type File struct {
	info   FileInfo
	from   io.ReaderAt
	closer io.Closer
	groups []group
}

// group is a row group: the hashes that it holds, both inclusive, and where its pages are.
type group struct {
	rows    int64
	lo, hi  uint64
	columns [numColumns]chunk
}

// OpenFile opens the file that info describes: r is the object info.Name. Size and the footer's digest are compared before
// anything is decoded, the number of rows and the columns after; any difference is ErrCorrupt. The file takes r over in any
// case.
func OpenFile(r blob.Reader, info FileInfo) (*File, error) { return openAs(r, info, true) }

// OpenLean is OpenFile for one of many: a small file is not read at once and held (blob.Held), but in pieces as large ones are, unless r
// holds it by itself, as that of an S3 does.
func OpenLean(r blob.Reader, info FileInfo) (*File, error) { return openAs(r, info, false) }

func openAs(r blob.Reader, info FileInfo, hold bool) (*File, error) {
	f, err := openFile(r, info, hold)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("event file %s: %w", info.Name, err), r.Close())
	}
	return f, nil
}

func openFile(r blob.Reader, info FileInfo, hold bool) (_ *File, err error) {
	if err := info.check(); err != nil {
		return nil, fmt.Errorf("%w: its description: %w", ErrCorrupt, err)
	}
	if r.Size() != info.Bytes {
		return nil, fmt.Errorf("%w: it has %d bytes, its manifest says %d", ErrCorrupt, r.Size(), info.Bytes)
	}
	from := io.ReaderAt(r)
	if hold {
		if from, err = blob.Held(r); err != nil {
			return nil, err
		}
	}
	f := &File{info: info, from: from, closer: r}
	tail, err := blob.ReadAt(f.from, info.Bytes-info.Tail, info.Tail, nil)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(tail); hex.EncodeToString(sum[:]) != info.TailDigest {
		return nil, fmt.Errorf("%w: the SHA-256 of its footer is %x, its manifest says %s", ErrCorrupt, sum, info.TailDigest)
	}
	if err := f.footer(tail); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return f, nil
}

// footer decodes the footer, whose digest was right.
func (f *File) footer(tail []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parquet reader failed: %v", p)
		}
	}()
	md, err := metadata.NewFileMetaData(tail[:len(tail)-int(minTail)], nil)
	if err != nil {
		return err
	}
	if err := checkSchema(md.Schema); err != nil {
		return err
	}
	rows := int64(0)
	for i := range md.RowGroups {
		g, err := readGroup(md.RowGroup(i))
		if err != nil {
			return fmt.Errorf("row group %d: %w", i, err)
		}
		f.groups = append(f.groups, g)
		rows += g.rows
	}
	if rows != f.info.Rows || md.NumRows != rows {
		return fmt.Errorf("it has %d rows, its row groups %d, its manifest says %d", md.NumRows, rows, f.info.Rows)
	}
	index := md.KeyValueMetadata().FindValue(pagesKey)
	if index == nil {
		return errIndex
	}
	return decodeIndex(*index, f.groups, f.info.Bytes-f.info.Tail)
}

func readGroup(md *metadata.RowGroupMetaData) (group, error) {
	g := group{rows: md.NumRows()}
	if g.rows < 1 || g.rows > mostRows {
		return g, fmt.Errorf("it has %d rows", g.rows)
	}
	chunk, err := md.ColumnChunk(colHash)
	if err != nil {
		return g, err
	}
	set, err := chunk.StatsSet()
	if err != nil {
		return g, err
	}
	if !set {
		return g, errors.New("it does not say which hashes it has")
	}
	stats, err := chunk.Statistics()
	if err != nil {
		return g, err
	}
	hashes, ok := stats.(*metadata.Int64Statistics)
	if !ok || !hashes.HasMinMax() {
		return g, errors.New("it does not say which hashes it has")
	}
	g.lo, g.hi = unflip(hashes.Min()), unflip(hashes.Max())
	return g, nil
}

// checkWhole compares the whole file with its digest.
func (f *File) checkWhole() error { return checkWhole(f.from, f.info) }

func checkWhole(r io.ReaderAt, info FileInfo) error {
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, info.Bytes), make([]byte, readBytes))
	if err == nil && n != info.Bytes {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read %d of %d bytes: %w", n, info.Bytes, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != info.Digest {
		return fmt.Errorf("%w: its SHA-256 is %s, its manifest says %s", ErrCorrupt, got, info.Digest)
	}
	return nil
}

// Info returns the description that the file was opened by.
func (f *File) Info() FileInfo { return f.info }

// Close closes the source. No iterator of the file may be used after it.
func (f *File) Close() error { return f.closer.Close() }

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
