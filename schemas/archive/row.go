// Package archive holds the event files and the manifests of DESIGN section 5: the raw beacons with their ingest times and
// parsed forms in Parquet, and the chains of create-only manifests that say which files there are.
package archive

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// Row is one archived beacon.
type Row struct {
	// Hash is the hash of the session id. The archive does not compute it: it only sorts and selects by it.
	Hash    uint64
	Session []byte // session id, UTF-8
	TS      int64  // event time, ms since the epoch
	ID      []byte // the producer's event id, UTF-8
	Payload []byte // the beacon as it came, any bytes
	Ingest  int64  // ingest time, ms since the epoch
	Offset  int64  // the record's offset in its partition
	Point   []byte // measurement point, UTF-8, empty if absent
	Visitor []byte // visitor id, UTF-8, empty if absent
	Digest  uint64 // parse digest: what Point, Visitor and Event were parsed by
	// Event is the parsed form, opaque here. It holds only while Digest is the one in force; else parse Payload again.
	Event []byte
}

// Sort puts rows into the order of a file: by hash, session, ts, id, payload and ingest time, as in DESIGN section 5, then by offset, so
// that equal beacons keep the order in which they were taken in. Files and their merges have this one order.
func Sort(rows []Row) {
	from, shared := 0, spreadBits(len(rows))
	for _, end := range spread(rows, shared) {
		sortNear(rows[from:end], shared)
		from = end
	}
}

// nearRows is about how many rows are put in order at once: they fit into a processor's caches. To move rows one by one to where they
// belong among hundreds of thousands is to wait for memory with each.
const nearRows = 16 << 10

// spreadBits is how many leading bits of their hashes so many rows are spread by.
func spreadBits(rows int) int { return min(max(bits.Len(uint(rows/nearRows))-1, 0), 6) }

// spread brings rows together that have those leading bits of their hashes in common, in order of these, and returns where each such
// part ends.
func spread(rows []Row, by int) []int {
	if by == 0 {
		return []int{len(rows)}
	}
	shift := 64 - by
	next := starts(rows, 0, by) // of each part, the place of the next row that is brought there
	ends := slices.Clone(next[1:])
	for part := range uint64(len(ends)) {
		for next[part] < ends[part] {
			r := rows[next[part]]
			for to := r.Hash >> shift; to != part; to = r.Hash >> shift {
				rows[next[to]], r = r, rows[next[to]]
				next[to]++
			}
			rows[next[part]] = r
			next[part]++
		}
	}
	return ends
}

// starts returns where rows begin, once in order, by the bits of their hashes that come after those that all share; and their number.
func starts(rows []Row, shared, by int) []int {
	at := make([]int, 1<<by+1)
	for i := range rows {
		at[rows[i].Hash<<shared>>(64-by)+1]++
	}
	for i := 1; i < len(at); i++ {
		at[i] += at[i-1]
	}
	return at
}

// sortNear is Sort for rows that have so many leading bits of their hashes in common.
func sortNear(rows []Row, shared int) {
	// Rows are wide and what they point to is scattered, so keys are sorted in their place: hash and ts tell nearly all
	// rows of a session apart, and sessions of one hash are rare.
	arrange(rows, sortedKeys(rows, shared))
	for len(rows) > 0 {
		n := 1
		oneSession, oneTime := true, false
		for ; n < len(rows) && rows[n].Hash == rows[0].Hash; n++ {
			oneSession = oneSession && bytes.Equal(rows[n].Session, rows[0].Session)
			oneTime = oneTime || rows[n].TS == rows[n-1].TS
		}
		if !oneSession || oneTime {
			slices.SortFunc(rows[:n], func(a, b Row) int { return Compare(&a, &b) })
		}
		rows = rows[n:]
	}
}

// sortedKeys are the keys of rows in order. Hashes are spread evenly, so their leading bits after those that all share put nearly all
// keys next to their place at once; what is left to sort are a few each.
func sortedKeys(rows []Row, shared int) []sortKey {
	const few = 8
	by := min(max(bits.Len(uint(len(rows)/few)), 1), 16)
	begin := starts(rows, shared, by)
	keys, next := make([]sortKey, len(rows)), slices.Clone(begin)
	for i := range rows {
		b := rows[i].Hash << shared >> (64 - by)
		keys[next[b]] = sortKey{rows[i].Hash, rows[i].TS, int32(i)}
		next[b]++
	}
	for b := range len(begin) - 1 {
		slices.SortFunc(keys[begin[b]:begin[b+1]], func(x, y sortKey) int {
			if x.hash != y.hash {
				return cmp.Compare(x.hash, y.hash)
			}
			return cmp.Compare(x.ts, y.ts)
		})
	}
	return keys
}

// sortKey is what Sort looks at first, and where its row is.
type sortKey struct {
	hash uint64
	ts   int64
	at   int32
}

// arrange moves row keys[i].at to place i, for all i. It uses the keys up.
func arrange(rows []Row, keys []sortKey) {
	const done = -1
	for i := range keys {
		if keys[i].at == done {
			continue
		}
		first := rows[i]
		to := i
		for {
			from := int(keys[to].at)
			keys[to].at = done
			if from == i {
				rows[to] = first
				break
			}
			rows[to] = rows[from]
			to = from
		}
	}
}

// Compare orders two rows as Sort does: negative if a comes first.
func Compare(a, b *Row) int {
	if c := compareKey(a, b); c != 0 {
		return c
	}
	if c := bytes.Compare(a.Payload, b.Payload); c != 0 {
		return c
	}
	return compareTaken(a, b)
}

// compareKey orders by what identifies a beacon (SPEC section 2), the hash first.
func compareKey(a, b *Row) int {
	if a.Hash != b.Hash {
		return cmp.Compare(a.Hash, b.Hash)
	}
	if c := bytes.Compare(a.Session, b.Session); c != 0 {
		return c
	}
	if a.TS != b.TS {
		return cmp.Compare(a.TS, b.TS)
	}
	return bytes.Compare(a.ID, b.ID)
}

func compareTaken(a, b *Row) int {
	if a.Ingest != b.Ingest {
		return cmp.Compare(a.Ingest, b.Ingest)
	}
	return cmp.Compare(a.Offset, b.Offset)
}

// FileInfo says what a reader must know before it opens a file. It stands in the manifest, not in the file, so that a file
// is trusted only as far as a manifest vouches for it. Ranges are inclusive.
type FileInfo struct {
	// Name is the object's name. Write leaves it empty; Create sets it.
	Name string `json:"name"`
	// Bytes is the size of the object.
	Bytes int64 `json:"bytes"`
	// Digest is the SHA-256 of the object in hex, which who reads all of it compares.
	Digest string `json:"digest"`
	// TailDigest is that of its last Tail bytes, the footer, which holds the digests of all pages: wrong bytes would crash a
	// decoder, so a reader compares the footer's digest and that of each page that it takes before it decodes either.
	Tail       int64  `json:"tail"`
	TailDigest string `json:"tail_digest"`
	// Rows is the number of rows, at least 1.
	Rows      int64  `json:"rows"`
	MinHash   uint64 `json:"min_hash,string"` // strings, for JSON readers that hold numbers as doubles
	MaxHash   uint64 `json:"max_hash,string"`
	MinTS     int64  `json:"min_ts"` // ms since the epoch
	MaxTS     int64  `json:"max_ts"`
	MinOffset int64  `json:"min_offset"`
	MaxOffset int64  `json:"max_offset"`
}

func (info *FileInfo) check() error {
	switch {
	case info.Bytes <= 0:
		return fmt.Errorf("bytes is %d, not above 0", info.Bytes)
	case info.Rows <= 0:
		return fmt.Errorf("rows is %d, not above 0: a file without rows is not written", info.Rows)
	case !isDigest(info.Digest):
		return fmt.Errorf("digest %q is not 64 hex digits", info.Digest)
	case info.Tail < minTail || info.Tail > info.Bytes:
		return fmt.Errorf("tail is %d, not in %d to %d", info.Tail, minTail, info.Bytes)
	case !isDigest(info.TailDigest):
		return fmt.Errorf("tail_digest %q is not 64 hex digits", info.TailDigest)
	case info.MinHash > info.MaxHash:
		return fmt.Errorf("min_hash %d is above max_hash %d", info.MinHash, info.MaxHash)
	case info.MinTS > info.MaxTS:
		return fmt.Errorf("min_ts %d is above max_ts %d", info.MinTS, info.MaxTS)
	case info.MinOffset > info.MaxOffset:
		return fmt.Errorf("min_offset %d is above max_offset %d", info.MinOffset, info.MaxOffset)
	}
	return nil
}

func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
