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

// result is what a map task leaves beside its run: counts, digests, and the sums of its range, minute by minute, so that who
// adds many ranges holds one minute of each:
//
//	magic  8 bytes xxhash64 of the head  4 bytes its length  head: the result in JSON  an S2 block for each minute
//
// Integers are little-endian.
type result struct {
	Revisions []uint64
	Run       []staterun.RunInfo // files, in order
	Digests   []uint64           // of the range's part of each bucket
	Counts    Counts
	Minutes   []minuteAt // in order
}

// minuteAt says where a minute's sums are, counted from the end of the head.
type minuteAt struct {
	Minute  int64
	At, Len int64
	Digest  uint64 // xxhash64 of the block
}

const (
	resultMagic = "TDBR2\n"
	resultFixed = len(resultMagic) + 8 + 4
	// resultAhead is how much of a result is read at first: nearly always all of its head.
	resultAhead = 16 << 10
	// maxMinute bounds what a minute's block may inflate to.
	maxMinute = 1 << 30
)

func (j *Job) encodeResult(res *result, sums *metric.Sums) ([]byte, error) {
	var blocks, plain []byte
	for _, m := range sums.Minutes() {
		plain = m.AppendBinary(plain[:0], j.cells)
		if len(plain) > maxMinute {
			return nil, fmt.Errorf("map result: %d bytes in minute %d, more than %d: use more ranges", len(plain), m.Minute, maxMinute)
		}
		at := len(blocks)
		blocks = slices.Grow(blocks, s2.MaxEncodedLen(len(plain)))
		blocks = blocks[:at+len(s2.Encode(blocks[at:cap(blocks)], plain))]
		res.Minutes = append(res.Minutes, minuteAt{m.Minute, int64(at), int64(len(blocks) - at), xxhash.Sum64(blocks[at:])})
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

// rangeResult is a result whose minutes are read when they are wanted.
type rangeResult struct {
	result
	name   string
	from   blob.Reader
	at     int64 // of the first block
	next   int   // the minute to read next
	stored []byte
	plain  []byte
}

// openResult reads the head of a map result. The caller closes from.
func (j *Job) openResult(g, window int64, r int) (*rangeResult, error) {
	res := &rangeResult{name: j.outName(g, window, r, "sums")}
	var err error
	if res.from, err = j.Blobs.Open(res.name); err != nil {
		return nil, fmt.Errorf("map result %s: %w", res.name, err)
	}
	if err := res.readHead(); err != nil {
		return nil, errors.Join(fmt.Errorf("map result %s: %w", res.name, err), res.from.Close())
	}
	return res, nil
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
	for _, m := range res.Minutes {
		if m.At != end || m.Len < 0 {
			return fmt.Errorf("%w: minute %d is at %d, %d bytes, after %d", ErrCorrupt, m.Minute, m.At, m.Len, end)
		}
		end += m.Len
	}
	if res.at+end != size {
		return fmt.Errorf("%w: it has %d bytes, its minutes end at %d", ErrCorrupt, size, res.at+end)
	}
	return nil
}

// minute returns the sums of a minute as they were encoded, nil if there are none. Minutes are asked for in order; the bytes
// are valid until the next call.
func (res *rangeResult) minute(minute int64) ([]byte, error) {
	for res.next < len(res.Minutes) && res.Minutes[res.next].Minute < minute {
		res.next++
	}
	if res.next == len(res.Minutes) || res.Minutes[res.next].Minute > minute {
		return nil, nil
	}
	return res.read(&res.Minutes[res.next])
}

func (res *rangeResult) read(m *minuteAt) ([]byte, error) {
	res.stored = slices.Grow(res.stored[:0], int(m.Len))[:m.Len]
	if n, err := res.from.ReadAt(res.stored, res.at+m.At); err != nil && n < len(res.stored) {
		return nil, fmt.Errorf("map result %s: %w", res.name, err)
	}
	if xxhash.Sum64(res.stored) != m.Digest {
		return nil, fmt.Errorf("map result %s: %w: the digest of minute %d differs", res.name, ErrCorrupt, m.Minute)
	}
	size, err := s2.DecodedLen(res.stored)
	if err != nil || size > maxMinute {
		return nil, fmt.Errorf("map result %s: %w: minute %d has %d bytes, %v", res.name, ErrCorrupt, m.Minute, size, err)
	}
	if res.plain, err = s2.Decode(res.plain[:cap(res.plain)], res.stored); err != nil {
		return nil, fmt.Errorf("map result %s: %w: minute %d: %w", res.name, ErrCorrupt, m.Minute, err)
	}
	return res.plain, nil
}

// checkResult reads all of a map result, and returns it closed.
func (j *Job) checkResult(g, window int64, r int) (*rangeResult, error) {
	res, err := j.openResult(g, window, r)
	if err != nil {
		return nil, err
	}
	for i := range res.Minutes {
		if _, err := res.read(&res.Minutes[i]); err != nil {
			return nil, errors.Join(err, res.from.Close())
		}
	}
	return res, res.from.Close()
}

// openResults opens the results of all ranges of a window.
func (j *Job) openResults(ctx context.Context, p *Plan, w *WindowPlan) (all []*rangeResult, closeAll func(), err error) {
	closeAll = func() {
		for _, res := range all {
			res.from.Close() // it was only read
		}
	}
	for r := range p.Bounds {
		res, err := j.openResult(p.Generation, w.Window, r)
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

// eachMinute calls fn with the sums of all ranges of a window, minute by minute.
func (j *Job) eachMinute(ctx context.Context, window int64, results []*rangeResult, fn func(*metric.Minute) error) error {
	first, end := window/60000, (window+WindowMS)/60000
	for _, res := range results {
		if n := len(res.Minutes); n > 0 && (res.Minutes[0].Minute < first || res.Minutes[n-1].Minute >= end) {
			return fmt.Errorf("map result %s: %w: it has sums of minutes %d to %d, outside of its window", res.name, ErrCorrupt, res.Minutes[0].Minute, res.Minutes[n-1].Minute)
		}
	}
	var sums metric.Sums
	for minute := first; minute < end; minute++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		sums.DropBefore(minute)
		for _, res := range results {
			b, err := res.minute(minute)
			if err != nil {
				return err
			}
			if b == nil {
				continue
			}
			if err := sums.AddBinary(b, j.cellsOf); err != nil {
				return fmt.Errorf("map result %s: minute %d: %w", res.name, minute, err)
			}
		}
		for _, m := range sums.Minutes() {
			if m.Minute != minute {
				return fmt.Errorf("map results of window %s: %w: the sums of minute %d hold minute %d", windowName(window), ErrCorrupt, minute, m.Minute)
			}
			if err := fn(m); err != nil {
				return err
			}
		}
	}
	return nil
}
