package row

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Version is the format that Append writes.
const Version = 1

const (
	// MaxBytes is the greatest length of an encoded row, and of the strings of its two dictionaries written out in
	// full: 128 parts of 64 KiB, which is what a store with parts can number in a byte. Sums of 10,000 cells stay far
	// below it; sketches reach it only with several hundred dense cells in one minute.
	MaxBytes = 8 << 20
	// MaxKey is the greatest length of a variation or of a tag set in bytes. Nine tags with names and values of 64
	// bytes, more than the tag set limit of SPEC 10 allows, need less than a third of it.
	MaxKey = 4096

	checksumBytes = 4
)

// Kind says what the values of a row are.
type Kind byte

const (
	// Sums are int64 values that add.
	Sums Kind = 1
	// Sketches are opaque blobs that unite (`visitors`).
	Sketches Kind = 2
)

// String names the kind for messages.
func (k Kind) String() string {
	switch k {
	case Sums:
		return "sums"
	case Sketches:
		return "sketches"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Cell is one value of a row. Variation is empty in the site scope. Tags is the canonical tag set, "name=value" joined
// by commas, tags by name, empty for a tenant without tags. Sums have a Value and no Sketch, sketches a Sketch of at
// least one byte and Value 0.
type Cell struct {
	Variation, Tags string
	Value           int64
	Sketch          []byte
}

var (
	// ErrInvalid is wrapped by every error of Append: the cells break a rule, and repeating will not help.
	ErrInvalid = errors.New("invalid row")
	// ErrCorrupt is wrapped by the errors of reading bytes that Append cannot have written.
	ErrCorrupt = errors.New("corrupt row")
	// ErrVersion is wrapped when a sound row has a version that this release does not know.
	ErrVersion = errors.New("row of another version")
)

// Append appends the encoding of the cells to dst and returns it. Cells are sorted by (Variation, Tags) and unique.
// A cell with Value 0 is written like any other: absent means zero (SPEC 9), so the caller leaves zeros out where two
// rows with the same meaning must have the same bytes. No memory is allocated while dst has room and the cells have
// at most 1,024 different tag sets. On an error, which names the cell, dst comes back as it was.
func Append(dst []byte, kind Kind, cells []Cell) ([]byte, error) {
	variations, err := check(kind, cells)
	if err != nil {
		return dst, err
	}
	b, err := appendHead(dst, kind, cells, variations)
	if err != nil {
		return dst, err
	}
	for i := range cells {
		if kind == Sums {
			b = binary.AppendVarint(b, cells[i].Value)
		} else {
			b = binary.AppendUvarint(b, uint64(len(cells[i].Sketch)))
			b = append(b, cells[i].Sketch...)
		}
	}
	return finish(dst, b, kind, len(cells))
}

// appendHead appends what comes before the values, of so many variations.
func appendHead(dst []byte, kind Kind, cells []Cell, variations int) ([]byte, error) {
	// On the stack, so that the usual row allocates nothing; more tag sets than these move it to the heap.
	var few [1024]int32
	tags := tagSets(few[:0], cells)

	b := append(dst, Version, byte(kind))
	full := 0
	b = binary.AppendUvarint(b, uint64(variations))
	last := ""
	for i := range cells {
		if i == 0 || cells[i].Variation != last {
			b = appendFront(b, last, cells[i].Variation)
			last = cells[i].Variation
			full += len(last)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(tags)))
	last = ""
	for _, i := range tags {
		b = appendFront(b, last, cells[i].Tags)
		last = cells[i].Tags
		full += len(last)
	}
	if full > MaxBytes {
		return dst, fmt.Errorf("%w: its variations and tag sets are %d bytes, more than %d: use fewer or shorter ones", ErrInvalid, full, MaxBytes)
	}
	for rest := cells; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Variation == rest[0].Variation {
			n++
		}
		b = appendRuns(b, cells, tags, rest[:n])
		rest = rest[n:]
	}
	return b, nil
}

// check counts the variations and finds the first cell that breaks a rule.
func check(kind Kind, cells []Cell) (variations int, err error) {
	if kind != Sums && kind != Sketches {
		return 0, fmt.Errorf("%w: %s is neither sums nor sketches", ErrInvalid, kind)
	}
	refuse := func(i int, why string) error {
		return fmt.Errorf("%w: cell %d (variation %.80q, tags %.80q): %s", ErrInvalid, i, cells[i].Variation, cells[i].Tags, why)
	}
	for i := range cells {
		c := &cells[i]
		switch {
		case len(c.Variation) > MaxKey || len(c.Tags) > MaxKey:
			return 0, refuse(i, fmt.Sprintf("variation or tags longer than %d bytes", MaxKey))
		case kind == Sums && len(c.Sketch) > 0:
			return 0, refuse(i, "a sketch in a row of sums")
		case kind == Sketches && len(c.Sketch) == 0:
			return 0, refuse(i, "no sketch in a row of sketches: leave empty ones out")
		case kind == Sketches && c.Value != 0:
			return 0, refuse(i, "a value in a row of sketches")
		}
		if i > 0 && c.Variation == cells[i-1].Variation {
			if c.Tags <= cells[i-1].Tags {
				return 0, refuse(i, "not after the cell before it: sort by (variation, tags), each once")
			}
			continue
		}
		if i > 0 && c.Variation < cells[i-1].Variation {
			return 0, refuse(i, "not after the cell before it: sort by (variation, tags), each once")
		}
		variations++
	}
	return variations, nil
}

// tagSets appends to d, in ascending order of tags, for each distinct tag set the index of a cell that has it.
func tagSets(d []int32, cells []Cell) []int32 {
	at := 0 // the tag sets of one variation ascend, so each is at or right of the one after its neighbour's
	for i := range cells {
		if i > 0 && cells[i].Variation != cells[i-1].Variation {
			at = 0
		}
		pos, found := find(d, at, cells, cells[i].Tags)
		if !found {
			d = slices.Insert(d, pos, int32(i))
		}
		at = pos + 1
	}
	return d
}

// find is the place of tags in d[at:], counted from d's start. Nearly always it is at itself.
func find(d []int32, at int, cells []Cell, tags string) (int, bool) {
	if at < len(d) && cells[d[at]].Tags == tags {
		return at, true
	}
	lo, hi := at, len(d)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if cells[d[mid]].Tags < tags {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(d) && cells[d[lo]].Tags == tags
}

func appendFront(b []byte, last, s string) []byte {
	shared := 0
	for shared < len(last) && shared < len(s) && last[shared] == s[shared] {
		shared++
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(s)-shared))
	return append(b, s[shared:]...)
}

// appendRuns appends the runs of the cells of one variation. They are walked twice, to count and to write.
func appendRuns(b []byte, cells []Cell, tags []int32, of []Cell) []byte {
	runs, at := 0, 0
	for i := range of {
		pos, _ := find(tags, at, cells, of[i].Tags)
		if i == 0 || pos != at {
			runs++
		}
		at = pos + 1
	}
	b = binary.AppendUvarint(b, uint64(runs-1))
	at = 0
	for i := 0; i < len(of); {
		pos, _ := find(tags, at, cells, of[i].Tags)
		skip := pos - at
		if i > 0 {
			skip--
		}
		end := pos + 1
		for i++; i < len(of) && cells[tags[end]].Tags == of[i].Tags; i++ {
			end++
		}
		b = binary.AppendUvarint(b, uint64(skip))
		b = binary.AppendUvarint(b, uint64(end-pos-1))
		at = end
	}
	return b
}
