package archive

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// The index of a file says where each page is, what it holds and its digest, so that a reader takes and checks the pages
// that it needs and no others. It stands in the footer under pagesKey, in base64, where other engines pass it over:
//
//	for each row group, for each column:  byte encoding  u bytes since the column before  u pages
//	                                      for each page: u length  u head  u raw  u values  digest
//
// u are uvarints. length is the whole page's, head that of its header, raw that of its body before compression; the digest
// is the xxhash64 of the whole page, 8 bytes. A listed column's first page is its dictionary. The digests find what storage
// did to a file; who can write the files on purpose can write their manifests too.
const pagesKey = "tandem.pages"

type page struct {
	at                int64
	length, head, raw int
	values            int
	digest            uint64
}

// chunk is a column of a row group.
type chunk struct {
	encoding columnEncoding
	pages    []page
}

// maxRaw bounds a page before compression: a row group's listed values, or a page of plain ones.
const maxRaw = 2*groupBytes + 8*MaxFieldBytes

func appendChunk(b []byte, c *chunk, end int64) []byte {
	b = append(b, byte(c.encoding))
	b = binary.AppendUvarint(b, uint64(c.pages[0].at-end))
	b = binary.AppendUvarint(b, uint64(len(c.pages)))
	for i := range c.pages {
		p := &c.pages[i]
		for _, v := range []int{p.length, p.head, p.raw, p.values} {
			b = binary.AppendUvarint(b, uint64(v))
		}
		b = binary.LittleEndian.AppendUint64(b, p.digest)
	}
	return b
}

func (c *chunk) end() int64 {
	last := &c.pages[len(c.pages)-1]
	return last.at + int64(last.length)
}

func encodeIndex(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

var errIndex = errors.New("its index of pages cannot be read")

// decodeIndex reads the index of the row groups, which lie before end.
func decodeIndex(text string, groups []group, end int64) error {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	bad := false
	u := func() int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<40 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return int64(v)
	}
	at := int64(4) // after the magic
	for g := range groups {
		for col := range groups[g].columns {
			if len(b) == 0 || columnEncoding(b[0]) > packed {
				return errIndex
			}
			c := &groups[g].columns[col]
			c.encoding, b = columnEncoding(b[0]), b[1:]
			at += u()
			n := u()
			if n < 1 || n > int64(len(b)) {
				return errIndex
			}
			rows := int64(0)
			for i := range n {
				p := page{at: at, length: int(u()), head: int(u()), raw: int(u()), values: int(u())}
				if len(b) < 8 || bad || p.length < p.head || p.raw > maxRaw || p.values > mostRows {
					return errIndex
				}
				p.digest, b = binary.LittleEndian.Uint64(b), b[8:]
				at += int64(p.length)
				if i > 0 || c.encoding != listed {
					rows += int64(p.values)
				}
				c.pages = append(c.pages, p)
			}
			if bad || at > end || rows != groups[g].rows {
				return errIndex
			}
		}
	}
	if len(b) > 0 {
		return errIndex
	}
	return nil
}
