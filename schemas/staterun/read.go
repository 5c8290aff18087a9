package staterun

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/xitongsys/parquet-go/parquet"

	"tandem/schemas/bitpack"
	"tandem/schemas/blob"
	"tandem/schemas/pages"
)

// Iter walks the rows of a run: call Next until it is false, then Err, then Close. Of a row only what is asked for is
// decoded: of the sessions of a run few matter to a window some hours later. It is for one goroutine.
type Iter struct {
	info    RunInfo
	lo, hi  uint64
	closer  io.Closer
	from    io.ReaderAt
	groups  []*parquet.RowGroup
	columns int      // of a row group
	digests []uint64 // of each

	next     int    // the row group to read next
	bytes    []byte // the row group at hand, as it is stored
	start    int64  // where it begins
	loaded   [numFlat]bool
	pages    [numFlat][]byte
	inflated [numFlat][]byte // memory for those that were compressed, which pages are of then
	ints     [numFlat][]int64
	ends     [numFlat][]int32 // of the values of a column of byte arrays
	rows     int
	pos      int    // of the row at hand
	hash     uint64 // of the row at hand
	started  bool
	before   []byte // session of the row before, if that has the same hash
	err      error
	done     bool
}

// Open returns the rows of a run whose hash is in [lo, hi], both included; r is the object info.Name. Every piece of the
// file is compared with its digest before it is decoded; any difference is ErrCorrupt. The iterator takes r over in any case.
func Open(r blob.Reader, info RunInfo, lo, hi uint64) (*Iter, error) {
	it, err := open(r, info, lo, hi)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state run %s: %w", info.Name, err), r.Close())
	}
	return it, nil
}

func open(r blob.Reader, info RunInfo, lo, hi uint64) (*Iter, error) {
	if r.Size() != info.Bytes {
		return nil, fmt.Errorf("%w: it has %d bytes, its description says %d", ErrCorrupt, r.Size(), info.Bytes)
	}
	if info.Tail < 8 || info.Tail > info.Bytes {
		return nil, fmt.Errorf("%w: its description says that its last %d of %d bytes are the footer", ErrCorrupt, info.Tail, info.Bytes)
	}
	from, err := blob.Held(r)
	if err != nil {
		return nil, err
	}
	it := &Iter{info: info, lo: lo, hi: hi, closer: r, from: from}
	tail, err := blob.ReadAt(it.from, info.Bytes-info.Tail, info.Tail, nil)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(tail); hex.EncodeToString(sum[:]) != info.Digest {
		return nil, fmt.Errorf("%w: the SHA-256 of its footer is %x, its description says %s", ErrCorrupt, sum, info.Digest)
	}
	if err := it.footer(tail); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	it.done = info.Rows == 0 || info.MaxHash < lo || hi < info.MinHash
	return it, nil
}

// maxPage is more than any compressed page inflates to, which are of releases before.
const maxPage = 4 * (groupBytes + MaxStateBytes)

// decoder is of files of releases before, and shared by all iterators.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPage))
})

// footer decodes the footer, whose digest was right, and looks whether it is of a file that a Writer made.
func (it *Iter) footer(tail []byte) error {
	n := len(tail) - 8
	if string(tail[n+4:]) != magic || int(binary.LittleEndian.Uint32(tail[n:])) != n {
		return errors.New("its footer does not end as one of Parquet")
	}
	foot := parquet.NewFileMetaData()
	if err := foot.Read(context.Background(), protocol(bytes.NewBuffer(tail[:n]))); err != nil {
		return err
	}
	var err error
	if it.columns, err = columnsOf(foot.Schema); err != nil {
		return err
	}
	for _, kv := range foot.KeyValueMetadata {
		if kv.Key == digestsKey {
			if it.digests, err = decodeDigests(kv.GetValue()); err != nil {
				return err
			}
		}
	}
	if it.groups = foot.RowGroups; len(it.digests) != it.columns*len(it.groups) {
		return fmt.Errorf("it has %d row groups and %d digests", len(it.groups), len(it.digests))
	}
	rows, end := int64(0), int64(len(magic))
	for i, g := range it.groups {
		if len(g.Columns) != it.columns || g.NumRows < 1 || g.NumRows > groupRows {
			return fmt.Errorf("row group %d has %d columns and %d rows", i, len(g.Columns), g.NumRows)
		}
		for col, c := range g.Columns {
			md := c.MetaData
			if md == nil || pages.Begin(md) != end || md.TotalCompressedSize < 1 || md.TotalCompressedSize > it.info.Bytes-it.info.Tail-end {
				return fmt.Errorf("column %d of row group %d is not where it should be", col, i)
			}
			end += md.TotalCompressedSize
			if md.DataPageOffset < pages.Begin(md) || md.DataPageOffset >= end || col < numFlat && md.DataPageOffset != pages.Begin(md) {
				return fmt.Errorf("the values of column %d of row group %d are not where they should be", col, i)
			}
		}
		if st := g.Columns[colHash].MetaData.Statistics; st == nil || len(st.MinValue) != 8 || len(st.MaxValue) != 8 {
			return fmt.Errorf("row group %d does not say which hashes it has", i)
		}
		rows += g.NumRows
	}
	if rows != it.info.Rows || foot.NumRows != rows || end != it.info.Bytes-it.info.Tail {
		return fmt.Errorf("it has %d rows in %d bytes, its description says %d in %d", rows, end, it.info.Rows, it.info.Bytes-it.info.Tail)
	}
	return nil
}

func protocol(b *bytes.Buffer) thrift.TProtocol {
	return thrift.NewTCompactProtocolConf(&thrift.TMemoryBuffer{Buffer: b}, nil)
}

// hashes are the least and the greatest hash of a row group.
func hashes(g *parquet.RowGroup) (lo, hi uint64) {
	st := g.Columns[colHash].MetaData.Statistics
	return unflip(int64(binary.LittleEndian.Uint64(st.MinValue))), unflip(int64(binary.LittleEndian.Uint64(st.MaxValue)))
}

// Next moves to the next row and tells if there is one. It is false at the end and after an error.
func (it *Iter) Next() bool {
	for !it.done {
		if it.pos++; it.pos >= it.rows {
			if !it.nextGroup() {
				return false
			}
		}
		hash := unflip(it.int(colHash, it.pos))
		if it.started && hash <= it.hash && !it.inOrder(hash) {
			return false
		}
		it.hash, it.started = hash, true
		if hash > it.hi {
			it.done = true
			return false
		}
		if hash >= it.lo {
			return true
		}
	}
	return false
}

// inOrder says whether the row at hand, whose hash is not above that of the row before, comes after it.
func (it *Iter) inOrder(hash uint64) bool {
	if hash == it.hash && it.pos > 0 {
		before, this := it.value(colSession, it.pos-1), it.value(colSession, it.pos)
		if it.err != nil {
			return false
		}
		if bytes.Compare(before, this) < 0 {
			return true
		}
	} else if hash == it.hash && bytes.Compare(it.before, it.Session()) < 0 {
		return it.err == nil
	}
	return it.fail(fmt.Errorf("%w: row %d of row group %d is not after the one before", ErrCorrupt, it.pos, it.next-1))
}

// nextGroup reads the next row group that can hold the range.
func (it *Iter) nextGroup() bool {
	if it.started && it.next < len(it.groups) {
		if lo, _ := hashes(it.groups[it.next]); lo == it.hash { // a hash that a group boundary divides
			it.before = append(it.before[:0], it.value(colSession, it.rows-1)...)
			if it.err != nil {
				return false
			}
		}
	}
	for it.next < len(it.groups) {
		if _, hi := hashes(it.groups[it.next]); hi >= it.lo {
			break
		}
		it.next++
	}
	if it.next == len(it.groups) {
		it.done = true
		return false
	}
	g := it.groups[it.next]
	first, last := g.Columns[0].MetaData, g.Columns[colState].MetaData
	var err error
	if it.bytes, err = blob.ReadAt(it.from, first.DataPageOffset, last.DataPageOffset+last.TotalCompressedSize-first.DataPageOffset, it.bytes); err != nil {
		return it.fail(err)
	}
	it.start, it.rows, it.pos, it.loaded = first.DataPageOffset, int(g.NumRows), 0, [numFlat]bool{}
	it.next++
	return it.load(colHash)
}

// load checks and decodes a column of the row group at hand.
func (it *Iter) load(col int) bool {
	if it.loaded[col] || it.err != nil {
		return it.err == nil
	}
	g := it.next - 1
	if err := it.decode(col, it.groups[g].Columns[col].MetaData, it.digests[g*it.columns+col]); err != nil {
		return it.fail(fmt.Errorf("%w: row group %d: column %s: %w", ErrCorrupt, g, flat()[col].name, err))
	}
	it.loaded[col] = true
	return true
}

func (it *Iter) decode(col int, md *parquet.ColumnMetaData, digest uint64) error {
	b := it.bytes[md.DataPageOffset-it.start:][:md.TotalCompressedSize]
	if got := xxhash.Sum64(b); got != digest {
		return fmt.Errorf("its digest is %016x, its footer says %016x", got, digest)
	}
	in := bytes.NewBuffer(b)
	head := parquet.NewPageHeader()
	if err := head.Read(context.Background(), protocol(in)); err != nil {
		return err
	}
	if d := head.DataPageHeader; d == nil || d.Encoding != parquet.Encoding_PLAIN && (d.Encoding != parquet.Encoding_DELTA_BINARY_PACKED || md.Type != parquet.Type_INT64) || int(d.NumValues) != it.rows || int(head.CompressedPageSize) != in.Len() {
		return errors.New("it is no single plain or packed page of the row group's rows")
	}
	b = b[len(b)-in.Len():]
	switch md.Codec {
	case parquet.CompressionCodec_UNCOMPRESSED:
		it.pages[col] = b
	case parquet.CompressionCodec_ZSTD:
		dec, err := decoder()
		if err != nil {
			return err
		}
		if it.inflated[col], err = dec.DecodeAll(b, it.inflated[col][:0]); err != nil {
			return err
		}
		it.pages[col] = it.inflated[col]
	case parquet.CompressionCodec_SNAPPY:
		if n, err := s2.DecodedLen(b); err != nil || n > maxPage {
			return fmt.Errorf("it inflates to %d bytes, %v", n, err)
		}
		page, err := s2.Decode(it.inflated[col][:cap(it.inflated[col])], b)
		if err != nil {
			return err
		}
		it.inflated[col], it.pages[col] = page, page
	default:
		return fmt.Errorf("its codec is %v", md.Codec)
	}
	if len(it.pages[col]) != int(head.UncompressedPageSize) {
		return fmt.Errorf("it has %d bytes, its page says %d", len(it.pages[col]), head.UncompressedPageSize)
	}
	if md.Type == parquet.Type_INT64 {
		return it.integers(col, head.DataPageHeader.Encoding)
	}
	ends, at := it.ends[col][:0], 0
	for range it.rows {
		if len(it.pages[col])-at < 4 {
			return errors.New("its values end early")
		}
		n := int(binary.LittleEndian.Uint32(it.pages[col][at:]))
		if n > len(it.pages[col])-at-4 {
			return errors.New("its values end early")
		}
		at += 4 + n
		ends = append(ends, int32(at))
	}
	if it.ends[col] = ends; at != len(it.pages[col]) {
		return errors.New("bytes are left over")
	}
	return nil
}

func (it *Iter) integers(col int, encoding parquet.Encoding) error {
	page := it.pages[col]
	it.ints[col] = slices.Grow(it.ints[col][:0], it.rows)[:it.rows]
	if encoding == parquet.Encoding_DELTA_BINARY_PACKED {
		// Pages of differences are never compressed, so this one may be the file itself.
		return bitpack.DecodeDelta(append(slices.Clip(page), make([]byte, bitpack.Padding)...), it.ints[col])
	}
	if len(page) != 8*it.rows {
		return fmt.Errorf("it has %d bytes of %d integers", len(page), it.rows)
	}
	for i := range it.ints[col] {
		it.ints[col][i] = int64(binary.LittleEndian.Uint64(page[8*i:]))
	}
	return nil
}

func (it *Iter) int(col, row int) int64 {
	if !it.load(col) {
		return 0
	}
	return it.ints[col][row]
}

func (it *Iter) value(col, row int) []byte {
	if !it.load(col) {
		return nil
	}
	at := int32(0)
	if row > 0 {
		at = it.ends[col][row-1]
	}
	return it.pages[col][at+4 : it.ends[col][row]]
}

func (it *Iter) fail(err error) bool {
	it.done = true
	it.err = fmt.Errorf("state run %s: %w", it.info.Name, err)
	return false
}

// Hash is the hash of the row that Next moved to. As with all of its columns, it is that row's until the next call of Next.
func (it *Iter) Hash() uint64 { return it.hash }

// Due is the row's next visit end; 0 after an error, see Err.
func (it *Iter) Due() int64 { return it.int(colDue, it.pos) }

// Session is the row's session id; nil after an error, see Err.
func (it *Iter) Session() []byte { return it.value(colSession, it.pos) }

// State is the row's state; nil after an error, see Err.
func (it *Iter) State() []byte { return it.value(colState, it.pos) }

// Row is the whole row; of no use after an error, see Err.
func (it *Iter) Row() Row {
	return Row{it.hash, string(it.Session()), it.int(colFirst, it.pos), it.int(colLast, it.pos), it.Due(), string(it.State())}
}

// Err is what ended the iteration, nil at its regular end.
func (it *Iter) Err() error { return it.err }

// Close closes the source.
func (it *Iter) Close() error {
	it.done = true
	return it.closer.Close()
}
