package archive

import (
	"encoding/binary"
	"fmt"
	"sort"
	"sync"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/bitpack"
	"tandem/schemas/blob"
)

// Rows returns an iterator over the rows whose hash is in [lo, hi], both included, in the file's order. Row groups outside
// the range are not read. An iterator holds one row group without its payloads, and a page of these.
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

	nextGroup int     // the row group to open next
	group     *group  // the one at hand
	pos       int     // of the next row in it
	payloads  stretch // payloads of it as they are stored: all, or a page, where few are wanted
	ints      [numColumns][]int64
	bytes     [numColumns]values
	pageFrom  int // the rows of the page of payloads at hand
	pageTo    int

	last     uint64 // hash
	row      Row
	err      error
	finished bool
}

// stretch is a piece of the file.
type stretch struct {
	at int64
	b  []byte
}

// opening is what opening a row group takes besides what the iterator holds then. A merge has some dozens of iterators, which open
// theirs one after another.
type opening struct {
	span    stretch // the columns but the payload, as they are stored
	scratch []byte
}

var openings = sync.Pool{New: func() any { return &opening{} }}

// values are the byte slices of a column of a row group, or of a page: the i-th ends where ends says, after its length; of a
// listed column it is the one at its place.
type values struct {
	raw    []byte
	ends   []int32
	places []int32 // nil: each its own
	listed []int32 // memory for places
}

func (v *values) at(i int) []byte {
	if v.places != nil {
		i = int(v.places[i])
	}
	from := int32(0)
	if i > 0 {
		from = v.ends[i-1]
	}
	return v.raw[from+4 : v.ends[i] : v.ends[i]]
}

// Next moves to the next row and tells if there is one. It is false at the end and after an error.
func (it *Iter) Next() bool {
	for !it.finished {
		if it.group == nil || it.pos == int(it.group.rows) {
			if ok, err := it.open(); err != nil {
				return it.fail(fmt.Errorf("row group %d: %w", it.nextGroup, err))
			} else if !ok {
				it.finished = true
				return false
			}
		}
		i := it.pos
		hash := unflip(it.ints[colHash][i])
		if hash > it.hi {
			it.finished = true
			return false
		}
		it.pos++
		if it.offsets == nil || it.offsets(it.ints[colOffset][i]) {
			return it.take(hash, i)
		}
	}
	return false
}

// Row is the row that Next moved to, valid until the next call of Next.
func (it *Iter) Row() *Row { return &it.row }

// Err is what ended the iteration, nil at its regular end.
func (it *Iter) Err() error { return it.err }

func (it *Iter) fail(err error) bool {
	it.finished = true
	it.err = fmt.Errorf("event file %s: %w", it.f.info.Name, err)
	return false
}

func (it *Iter) take(hash uint64, i int) bool {
	r := &it.row
	r.Hash, r.TS, r.Ingest = hash, it.ints[colTS][i], it.ints[colIngest][i]
	r.Offset, r.Digest = it.ints[colOffset][i], uint64(it.ints[colDigest][i])
	r.Session, r.ID = it.bytes[colSession].at(i), it.bytes[colID].at(i)
	if it.cols.Event {
		r.Event = it.bytes[colEvent].at(i)
	}
	if it.cols.Names {
		r.Point, r.Visitor = it.bytes[colPoint].at(i), it.bytes[colVisitor].at(i)
	}
	r.Payload = nil
	return !it.cols.Payload || it.Payload() == nil
}

// Payload sees to it that the row that Next moved to has its payload, also where Rows was not asked for payloads. After an
// error, which it returns and Err too, the iteration is over.
func (it *Iter) Payload() error {
	i := it.pos - 1
	if i < it.pageFrom || i >= it.pageTo {
		if err := it.payloadPage(i); err != nil {
			it.fail(fmt.Errorf("row group %d: column payload: %w", it.nextGroup-1, err))
			return it.err
		}
	}
	it.row.Payload = it.bytes[colPayload].at(i - it.pageFrom)
	return nil
}

func (it *Iter) payloadPage(i int) error {
	c := &it.group.columns[colPayload]
	from := 0
	for k := range c.pages {
		p := &c.pages[k]
		if i < from+p.values {
			if err := it.payloadsFrom(k); err != nil {
				return err
			}
			it.pageFrom, it.pageTo = from, from+p.values
			raw, err := p.inflate(&it.payloads, it.bytes[colPayload].raw[:0])
			if err != nil {
				return err
			}
			it.bytes[colPayload].raw = raw
			return it.bytes[colPayload].split(p.values)
		}
		from += p.values
	}
	return fmt.Errorf("%w: it has no row %d", ErrCorrupt, i)
}

// payloadBytes are read at once of payloads where few are wanted.
const payloadBytes = 128 << 10

// payloadsFrom sees to it that page k of the payloads is at hand: with all after it, if all are wanted, else with those of
// payloadBytes.
func (it *Iter) payloadsFrom(k int) (err error) {
	pages, s := it.group.columns[colPayload].pages, &it.payloads
	at := pages[k].at
	if at >= s.at && at < s.at+int64(len(s.b)) {
		return nil
	}
	n := int64(pages[k].length)
	for _, p := range pages[k+1:] {
		if !it.cols.Payload && p.at+int64(p.length)-at > payloadBytes {
			break
		}
		n = p.at + int64(p.length) - at
	}
	s.at = at
	s.b, err = blob.ReadAt(it.f.from, at, n, s.b)
	return err
}

// read reads the columns from and to of the row group at hand and what is between them.
func (it *Iter) read(s *stretch, from, to int) (err error) {
	s.at = it.group.columns[from].pages[0].at
	s.b, err = blob.ReadAt(it.f.from, s.at, it.group.columns[to].end()-s.at, s.b)
	return err
}

// open opens the next row group that can hold the range, at the first row that does; false at the end of the file.
func (it *Iter) open() (bool, error) {
	groups := it.f.groups
	for it.nextGroup < len(groups) && groups[it.nextGroup].hi < it.lo {
		it.nextGroup++
	}
	if it.nextGroup == len(groups) || groups[it.nextGroup].lo > it.hi {
		return false, nil
	}
	it.group, it.pageFrom, it.pageTo = &groups[it.nextGroup], 0, 0
	last := colEvent
	if it.cols.Names {
		last = colVisitor
	}
	o := openings.Get().(*opening)
	defer openings.Put(o)
	if err := it.read(&o.span, 0, last); err != nil {
		return false, err
	}
	for col := 0; col <= last; col++ {
		if col == colEvent && !it.cols.Event {
			continue
		}
		if err := it.decode(o, col); err != nil {
			return false, fmt.Errorf("column %s: %w", columnSpecs()[col].name, err)
		}
	}
	hashes := it.ints[colHash]
	for i, h := range hashes {
		if hash := unflip(h); hash < it.last {
			return false, fmt.Errorf("%w: row %d: hash %d comes after %d", ErrCorrupt, i, hash, it.last)
		} else {
			it.last = hash
		}
	}
	it.nextGroup++
	it.pos = sort.Search(len(hashes), func(i int) bool { return unflip(hashes[i]) >= it.lo })
	return true, nil
}

// inflate checks a page, which lies in a stretch, and appends its body to buf, with room for padding behind it.
func (p *page) inflate(s *stretch, buf []byte) ([]byte, error) {
	body, err := p.body(s)
	if err != nil {
		return nil, err
	}
	dec, err := inflater()
	if err != nil {
		return nil, err
	}
	before := len(buf)
	if need := before + p.raw + bitpack.Padding; cap(buf) < need {
		buf = append(make([]byte, 0, need), buf...)
	}
	if buf, err = dec.DecodeAll(body, buf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(buf)-before != p.raw || cap(buf) < len(buf)+bitpack.Padding {
		return nil, fmt.Errorf("%w: a page has %d bytes, its index says %d", ErrCorrupt, len(buf)-before, p.raw)
	}
	return buf, nil
}

// body checks a page and gives its body as it is stored.
func (p *page) body(s *stretch) ([]byte, error) {
	b := s.b[p.at-s.at:][:p.length]
	if got := xxhash.Sum64(b); got != p.digest {
		return nil, fmt.Errorf("%w: the digest of the page at %d is %016x, its footer says %016x", ErrCorrupt, p.at, got, p.digest)
	}
	return b[p.head:], nil
}

// decode decodes a column of the row group at hand.
func (it *Iter) decode(o *opening, col int) error {
	c, kind, rows := &it.group.columns[col], columnSpecs()[col].kind, int(it.group.rows)
	isInt := kind == kindInt || kind == kindTime
	if isInt {
		it.ints[col] = sized(it.ints[col], rows)
	}
	switch {
	case isInt && c.encoding == packed && len(c.pages) == 1:
		body, err := c.pages[0].body(&o.span)
		if err != nil {
			return err
		}
		o.scratch = append(append(o.scratch[:0], body...), make([]byte, bitpack.Padding)...)
		if err := bitpack.DecodeDelta(o.scratch, it.ints[col]); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil
	case c.encoding == listed && len(c.pages) == 2:
		return it.decodeListed(o, col, isInt)
	case c.encoding == plain:
		return it.decodePlain(o, col, isInt)
	}
	return fmt.Errorf("%w: %d pages of encoding %d", ErrCorrupt, len(c.pages), c.encoding)
}

func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		s = make([]T, n)
	}
	return s[:n]
}

func (it *Iter) decodeListed(o *opening, col int, isInt bool) error {
	c, v, rows := &it.group.columns[col], &it.bytes[col], int(it.group.rows)
	var err error
	if v.raw, err = c.pages[0].inflate(&o.span, v.raw[:0]); err != nil {
		return err
	}
	if o.scratch, err = c.pages[1].inflate(&o.span, o.scratch[:0]); err != nil {
		return err
	}
	n := c.pages[0].values
	v.listed = sized(v.listed, rows)
	if err := bitpack.DecodePlaces(o.scratch[:len(o.scratch)+bitpack.Padding], v.listed, n); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if !isInt {
		v.places = v.listed
		return v.split(n)
	}
	if len(v.raw) != 8*n {
		return fmt.Errorf("%w: %d bytes of %d integers", ErrCorrupt, len(v.raw), n)
	}
	ints := it.ints[col]
	for i, place := range v.listed {
		ints[i] = int64(binary.LittleEndian.Uint64(v.raw[8*place:]))
	}
	return nil
}

// decodePlain decodes plain pages, of a row group's column one after another.
func (it *Iter) decodePlain(o *opening, col int, isInt bool) error {
	c, v, rows := &it.group.columns[col], &it.bytes[col], int(it.group.rows)
	v.places = nil
	size := 0
	for k := range c.pages {
		size += c.pages[k].raw
	}
	all := sized(v.raw, size+bitpack.Padding)[:0]
	for k := range c.pages {
		var err error
		if all, err = c.pages[k].inflate(&o.span, all); err != nil {
			return err
		}
	}
	v.raw = all
	if !isInt {
		return v.split(rows)
	}
	if len(all) != 8*rows {
		return fmt.Errorf("%w: %d bytes of %d integers", ErrCorrupt, len(all), rows)
	}
	for i := range it.ints[col] {
		it.ints[col][i] = int64(binary.LittleEndian.Uint64(all[8*i:]))
	}
	return nil
}

// split finds n values in the raw bytes.
func (v *values) split(n int) error {
	ends := sized(v.ends, n)
	at := 0
	for i := range ends {
		if len(v.raw)-at < 4 {
			return fmt.Errorf("%w: its values end early", ErrCorrupt)
		}
		size := int(binary.LittleEndian.Uint32(v.raw[at:]))
		if size > len(v.raw)-at-4 {
			return fmt.Errorf("%w: its values end early", ErrCorrupt)
		}
		at += 4 + size
		ends[i] = int32(at)
	}
	if v.ends = ends; at != len(v.raw) {
		return fmt.Errorf("%w: bytes are left over", ErrCorrupt)
	}
	return nil
}
