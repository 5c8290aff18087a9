package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Limits of a file. Write refuses what is beyond the first two, with an error that names the row or the sizes; the
// archiver rolls long before.
const (
	// MaxFieldBytes is the largest value of one field, in bytes; a beacon has at most 65,536 (SPEC section 1).
	MaxFieldBytes = 1 << 20
	// MaxFileBytes is the most that all fields of a file's rows may take together, uncompressed.
	MaxFileBytes = 1 << 30

	// A row group is cut at the next new hash once it has groupRows rows or groupBytes bytes, and at any row, though it
	// divides a hash, once it has twice that: a session of any length costs a reader no more than this. What a reader holds of
	// a file is a row group without its payloads, and a merge reads some dozens of files at once, or hundreds if they are small:
	// a file has fewGroups at least, so that these cost less each, unless they would have less than leastRows.
	groupRows  = 4 << 10
	groupBytes = 8 << 20
	fewGroups  = 32
	leastRows  = 512
	// mostRows is the most that a reader takes: files made when groupRows was twice as many have such row groups.
	mostRows = 16 << 10

	// A page of plain values has at most so many bytes, or one value: a block of zstd, which is faster alone. Payloads are read
	// by pages, where one is wanted, the other columns whole. Small files, of which a merge has many, have pages of leastPage.
	pageBytes = 128 << 10
	leastPage = 32 << 10
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
	w, err := newFileWriter(len(rows))
	if err != nil {
		return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
	}
	var most int
	most, w.page = layout(len(rows))
	for at := 0; at < len(rows); {
		n := groupEnd(rows[at:], most)
		if err := w.group(rows, at, at+n); err != nil {
			return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
		}
		at += n
	}
	tail, err := w.footer()
	if err != nil {
		return nil, FileInfo{}, fmt.Errorf("archive: write: %w", err)
	}
	return w.out.b, describe(rows, w.out.b, tail), nil
}

// layout is how many rows the groups of a file of so many have, and how many bytes its pages of plain values, at most.
func layout(rows int) (group, page int) {
	if group = max(rows/fewGroups, leastRows); group < groupRows {
		return group, leastPage
	}
	return groupRows, pageBytes
}

// heldRow is what a row of a group takes in memory, without its payload, of beacons as most are.
const heldRow = 200

// Held is about what reading the file in order holds, in bytes, if Write made it as it does now: a row group without payloads, a page of
// these, and some as they are stored.
func (i *FileInfo) Held() int64 {
	group, page := layout(int(i.Rows))
	return min(int64(group), i.Rows)*heldRow + int64(page) + min(payloadBytes, i.Bytes)
}

// describe describes data, the last tail bytes of which are its footer.
func describe(rows []Row, data []byte, tail int) FileInfo {
	sum, tailSum := sha256.Sum256(data), sha256.Sum256(data[len(data)-tail:])
	first := &rows[0]
	info := FileInfo{
		Bytes: int64(len(data)), Digest: hex.EncodeToString(sum[:]), Tail: int64(tail), TailDigest: hex.EncodeToString(tailSum[:]), Rows: int64(len(rows)),
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

// groupEnd returns how many of rows go into the next row group, which has most of them or a few more.
func groupEnd(rows []Row, most int) int {
	size := 0
	for i := range rows {
		full := i >= most || size >= groupBytes
		if full && (rows[i].Hash != rows[i-1].Hash || i >= 2*most || size >= 2*groupBytes) {
			return i
		}
		size += rowBytes(&rows[i])
	}
	return len(rows)
}
