package batch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"

	"tandem/core/metric"
	"tandem/schemas/blob"
	"tandem/schemas/staterun"
)

// result is what a map task leaves beside its run: counts, digests, and the sums of its range in the order of metric.Walk, so
// that who adds many ranges merges them and holds a block of each:
//
//	magic  8 bytes xxhash64 of the head  4 bytes its length  head: the result in JSON  S2 blocks of whole metric.Pages
//
// Integers are little-endian.
type result struct {
	Revisions []uint64
	Run       []staterun.RunInfo // files, in order
	Digests   []uint64           // of the range's part of each bucket
	Counts    Counts
	Blocks    []block // in order
}

// block says where a block ends, counted from the end of the head.
type block struct {
	End    int64
	Digest uint64 // xxhash64
}

const (
	resultMagic = "TDBR3\n"
	resultFixed = len(resultMagic) + 8 + 4
	// resultAhead is how much of a result is read at first: nearly always all of its head.
	resultAhead = 16 << 10
	// blockBytes is how large a block gets before it is compressed; it ends with the pages that bring it there.
	blockBytes = 128 << 10
	// maxBlock bounds what a block may inflate to.
	maxBlock = 1 << 30
)

func (j *Job) encodeResult(res *result, sums *metric.Sums) ([]byte, error) {
	var blocks, plain []byte
	var p metric.Pages
	for walk, more := sums.Walk(j.cells), true; more; {
		if more = walk.Next(&p); more {
			plain = p.AppendBinary(plain)
		}
		if len(plain) == 0 || more && len(plain) < blockBytes {
			continue
		}
		if len(plain) > maxBlock {
			return nil, fmt.Errorf("map result: %d bytes in a row of minute %d, more than %d: use more ranges", len(plain), p.Minute, maxBlock)
		}
		at := len(blocks)
		blocks = slices.Grow(blocks, s2.MaxEncodedLen(len(plain)))
		blocks = blocks[:at+len(s2.Encode(blocks[at:cap(blocks)], plain))]
		res.Blocks = append(res.Blocks, block{int64(len(blocks)), xxhash.Sum64(blocks[at:])})
		plain = plain[:0]
	}
	head, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("map result: %w", err)
	}
	b := make([]byte, 0, resultFixed+len(head)+len(blocks))
	b = binary.LittleEndian.AppendUint64(append(b, resultMagic...), xxhash.Sum64(head))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(head)))
	return append(append(b, head...), blocks...), nil
}

// rangeResult is a result whose sums are read when they are wanted: from its object, if it is stored. One in memory has none, since they
// are gathered (gather.go).
type rangeResult struct {
	result
	name string
	job  *Job

	from   blob.Reader // nil in memory
	at     int64       // of the first block
	next   int         // the block to read next
	stored []byte
	plain  []byte
	rest   []byte // of plain
}

// openResult reads the head of a map result. The caller closes it.
func (j *Job) openResult(g, window int64, r int) (*rangeResult, error) {
	res := &rangeResult{name: j.outName(g, window, r, "sums"), job: j}
	var err error
	if res.from, err = j.Blobs.Open(res.name); err != nil {
		return nil, fmt.Errorf("map result %s: %w", res.name, err)
	}
	if err := res.readHead(); err != nil {
		return nil, errors.Join(fmt.Errorf("map result %s: %w", res.name, err), res.from.Close())
	}
	return res, nil
}

func (res *rangeResult) close() error {
	if res.from == nil {
		return nil
	}
	return res.from.Close()
}

func (res *rangeResult) readHead() error {
	size := res.from.Size()
	b := make([]byte, min(resultAhead, size))
	if _, err := res.from.ReadAt(b, 0); err != nil && int64(len(b)) < size {
		return err
	}
	if len(b) < resultFixed || string(b[:len(resultMagic)]) != resultMagic {
		return fmt.Errorf("%w: it does not begin as one", ErrCorrupt)
	}
	digest, n := binary.LittleEndian.Uint64(b[len(resultMagic):]), int64(binary.LittleEndian.Uint32(b[len(resultMagic)+8:]))
	res.at = int64(resultFixed) + n
	if res.at > size {
		return fmt.Errorf("%w: it has %d bytes, its head ends at %d", ErrCorrupt, size, res.at)
	}
	if more := res.at - int64(len(b)); more > 0 {
		b = append(b, make([]byte, more)...)
		if _, err := res.from.ReadAt(b[res.at-more:], res.at-more); err != nil && res.at < size {
			return err
		}
	}
	head := b[resultFixed:res.at]
	if xxhash.Sum64(head) != digest {
		return fmt.Errorf("%w: its head's digest differs", ErrCorrupt)
	}
	if err := json.Unmarshal(head, &res.result); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(res.Digests) != Buckets {
		return fmt.Errorf("%w: %d digests", ErrCorrupt, len(res.Digests))
	}
	end := int64(0)
	for i, b := range res.Blocks {
		if b.End <= end {
			return fmt.Errorf("%w: block %d is at %d, and ends at %d", ErrCorrupt, i, end, b.End)
		}
		end = b.End
	}
	if res.at+end != size {
		return fmt.Errorf("%w: it has %d bytes, its blocks end at %d", ErrCorrupt, size, res.at+end)
	}
	return nil
}

// pages puts the next pages into p, and is false if there are none any more.
func (res *rangeResult) pages(p *metric.Pages) (bool, error) {
	if len(res.rest) == 0 {
		if res.next == len(res.Blocks) {
			return false, nil
		}
		if err := res.read(); err != nil {
			return false, err
		}
	}
	var err error
	if res.rest, err = p.ReadBinary(res.rest, res.job.cellsOf); err != nil {
		return false, fmt.Errorf("map result %s: block %d: %w: %w", res.name, res.next-1, ErrCorrupt, err)
	}
	return true, nil
}

// read reads the next block.
func (res *rangeResult) read() error {
	from, b := int64(0), res.Blocks[res.next]
	if res.next > 0 {
		from = res.Blocks[res.next-1].End
	}
	n := int(b.End - from)
	res.stored = slices.Grow(res.stored[:0], n)[:n]
	if got, err := res.from.ReadAt(res.stored, res.at+from); err != nil && got < n {
		return fmt.Errorf("map result %s: %w", res.name, err)
	}
	if xxhash.Sum64(res.stored) != b.Digest {
		return fmt.Errorf("map result %s: %w: the digest of block %d differs", res.name, ErrCorrupt, res.next)
	}
	size, err := s2.DecodedLen(res.stored)
	if err != nil || size > maxBlock {
		return fmt.Errorf("map result %s: %w: block %d has %d bytes, %v", res.name, ErrCorrupt, res.next, size, err)
	}
	if res.plain, err = s2.Decode(res.plain[:cap(res.plain)], res.stored); err != nil {
		return fmt.Errorf("map result %s: %w: block %d: %w", res.name, ErrCorrupt, res.next, err)
	}
	res.rest = res.plain
	res.next++
	return nil
}

// checkResult reads all of a map result, and returns it closed.
func (j *Job) checkResult(g, window int64, r int) (*rangeResult, error) {
	res, err := j.openResult(g, window, r)
	if err != nil {
		return nil, err
	}
	for res.next < len(res.Blocks) {
		if err := res.read(); err != nil {
			return nil, errors.Join(err, res.close())
		}
	}
	return res, res.close()
}

// openResults opens the results of all ranges of a window.
func (j *Job) openResults(ctx context.Context, p *Plan, w *WindowPlan, files *openFiles) (all []*rangeResult, closeAll func(), err error) {
	closeAll = func() {
		for _, res := range all {
			res.close() // it was only read
		}
		files.letGo(w.Window)
	}
	for r := range p.Bounds {
		res := files.inMemory(runKey{p.Generation, w.Window, r})
		if res == nil {
			res, err = j.openResult(p.Generation, w.Window, r)
		}
		if err == nil {
			all = append(all, res)
			if err = ctx.Err(); err == nil && !slices.Equal(res.Revisions, w.Revisions) {
				err = fmt.Errorf("map result %s: %w: it was made under other revisions of the config", res.name, ErrCorrupt)
			}
		}
		if err != nil {
			closeAll()
			return nil, nil, err
		}
	}
	return all, closeAll, nil
}

// sumSource is where some of a window's sums come from.
type sumSource struct {
	name string
	next func(*metric.Pages) (bool, error) // as rangeResult.pages
}

// sources are those of a window, of whose ranges these are the results.
func (j *Job) sources(window int64, results []*rangeResult, files *openFiles) (all []sumSource) {
	for _, sums := range files.gatheredOf(window) {
		walk := sums.Walk(j.cells)
		all = append(all, sumSource{"in memory", func(p *metric.Pages) (bool, error) { return walk.Next(p), nil }})
	}
	for _, res := range results {
		if res.from != nil {
			all = append(all, sumSource{res.name, res.pages})
		}
	}
	return all
}

// eachPages calls fn with the sums of all sources of a window, in the order of metric.Walk. fn may change them.
func eachPages(ctx context.Context, window int64, sources []sumSource, fn func(*metric.Pages) error) error {
	type cursor struct {
		sumSource
		p     metric.Pages
		place uint64 // row, minute of the window
	}
	var open []*cursor
	var total metric.Pages
	move := func(c *cursor) (bool, error) {
		more, err := c.next(&c.p)
		if !more || err != nil {
			return false, err
		}
		minute, before := c.p.Minute-window/60000, c.place
		if minute < 0 || minute >= WindowMS/60000 {
			return false, fmt.Errorf("map result %s: %w: it has sums of minute %d, outside of its window", c.name, ErrCorrupt, c.p.Minute)
		}
		if c.place = uint64(c.p.Row())<<8 | uint64(minute) + 1; c.place <= before {
			return false, fmt.Errorf("map result %s: %w: its rows are not in order", c.name, ErrCorrupt)
		}
		return true, nil
	}
	for _, of := range sources {
		c := &cursor{sumSource: of}
		more, err := move(c)
		if err != nil {
			return err
		}
		if more {
			open = append(open, c)
		}
	}
	for len(open) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		place := open[0].place
		for _, c := range open[1:] {
			place = min(place, c.place)
		}
		var sum *metric.Pages
		for _, c := range open {
			switch {
			case c.place != place:
				continue
			case sum == nil:
				sum = &c.p
				continue
			case sum != &total:
				// Not in the first one's place: sketches in memory would grow to those of all ranges, for each
				// row and minute.
				total.Reset()
				total.Minute = sum.Minute
				total.Add(sum)
				sum = &total
			}
			sum.Add(&c.p)
		}
		if err := fn(sum); err != nil {
			return err
		}
		rest := open[:0]
		for _, c := range open {
			more := true
			if c.place == place {
				var err error
				if more, err = move(c); err != nil {
					return err
				}
			}
			if more {
				rest = append(rest, c)
			}
		}
		open = rest
	}
	return nil
}
