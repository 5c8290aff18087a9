package metric

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Union unites many sketches one after another, faster than a Sketch does, with more memory: from 100 hashes on all registers
// are there, 16 KiB. Its estimate is that of the Sketch of the same set. The zero value is empty.
type Union struct {
	s     Sketch // without a list
	spare []byte // zero registers, for the next set
}

// Empty says whether nothing was merged.
func (u *Union) Empty() bool { return u.s.Empty() }

// Estimate is that of a Sketch.
func (u *Union) Estimate() int64 { return u.s.Estimate() }

// EstimateWith is that of the union of both, which both stay as they are.
func (u *Union) EstimateWith(o *Union) int64 {
	switch {
	case u.Empty():
		return o.Estimate()
	case o.Empty():
		return u.Estimate()
	case u.s.regs == nil || o.s.regs == nil:
		var both Union
		both.Copy(u)
		both.MergeUnion(o)
		return both.Estimate()
	}
	// As mergeRegisters, but what comes out is counted at once.
	var n tally
	a, b := u.s.regs[:registers], o.s.regs[:registers]
	for i := 0; i < registers; i += 8 {
		m := greaterRanks(binary.LittleEndian.Uint64(a[i:]), binary.LittleEndian.Uint64(b[i:]))
		n[0][byte(m)]++
		n[1][byte(m>>8)]++
		n[2][byte(m>>16)]++
		n[3][byte(m>>24)]++
		n[0][byte(m>>32)]++
		n[1][byte(m>>40)]++
		n[2][byte(m>>48)]++
		n[3][byte(m>>56)]++
	}
	return n.estimate()
}

// AppendBinary appends the bytes of the Sketch of the same set.
func (u *Union) AppendBinary(b []byte) []byte { return u.s.AppendBinary(b) }

// Reset empties it and keeps its memory.
func (u *Union) Reset() {
	if u.s.regs != nil {
		clear(u.s.regs)
		u.spare = u.s.regs
	}
	u.s.Reset()
}

// Sketch is a Sketch of the same set, of its own memory, which is that of a Sketch.
func (u *Union) Sketch() *Sketch {
	s := &Sketch{}
	if u.s.regs == nil {
		s.exact = append(s.exact, u.s.exact...)
		return s
	}
	if s.set = u.s.set; s.set >= listLimit {
		s.regs = append(s.regs, u.s.regs...)
		return s
	}
	s.list = make([]uint32, 0, s.set)
	regs := u.s.regs[:registers]
	for i := 0; i < registers; i += 8 {
		for some := notZero(binary.LittleEndian.Uint64(regs[i:])); some != 0; some &= some - 1 {
			k := i + bits.TrailingZeros64(some)>>3
			s.list = append(s.list, uint32(k)<<8|uint32(regs[k]))
		}
	}
	s.set = 0
	return s
}

// Copy makes u the same set as o.
func (u *Union) Copy(o *Union) {
	u.Reset()
	u.Merge(&o.s)
}

// MergeUnion adds what another has.
func (u *Union) MergeUnion(o *Union) { u.Merge(&o.s) }

// Merge adds what a sketch has.
func (u *Union) Merge(o *Sketch) {
	if o.regs == nil && len(o.list) == 0 && u.s.regs == nil {
		if done, _ := unite(&u.s.exact, o.exact, 0, exactLimit); done {
			return
		}
	}
	u.lay()
	u.s.raiseAll(o.exact)
	for _, r := range o.list {
		u.s.raise(r>>8, byte(r))
	}
	if o.regs != nil {
		u.s.set, _ = mergeRegisters(u.s.regs, o.regs)
	}
}

// lay goes on from hashes to registers.
func (u *Union) lay() {
	if u.s.regs != nil {
		return
	}
	if u.s.regs, u.spare = u.spare, nil; u.s.regs == nil {
		u.s.regs = make([]byte, registers)
	}
	u.s.raiseAll(u.s.exact)
	u.s.exact = u.s.exact[:0]
}

// MergeBinary adds what a sketch has that was written by AppendBinary, and refuses anything else; after an error a part of it
// may have been added, and only Reset may follow. one is scratch.
func (u *Union) MergeBinary(b []byte, one *Sketch) error {
	if len(b) > 0 && b[0] == formPacked {
		u.lay()
		set, err := raisePacked(u.s.regs, b[1:])
		if err == nil {
			u.s.set = set
		}
		return err
	}
	if len(b) == 0 || b[0] != formSparse {
		if err := one.UnmarshalBinary(b); err != nil {
			return err
		}
		u.Merge(one)
		return nil
	}
	// The usual form of many visitors goes into the registers without a list between.
	b = b[1:]
	n, ok := uvarint(&b)
	if !ok || n == 0 || n >= sparseOnce {
		return fmt.Errorf("%w: %d registers in form %d", errSketch, n, formSparse)
	}
	u.lay()
	regs, at, set := u.s.regs[:registers], 0, u.s.set
	for i := range int(n) {
		var d uint64
		if len(b) > 1 && b[0] < 0x80 {
			d, b = uint64(b[0]), b[1:]
		} else if d, ok = uvarint(&b); !ok || len(b) == 0 {
			return fmt.Errorf("%w: register %d", errSketch, i)
		}
		rank := b[0]
		b = b[1:]
		if d >= registers || d == 0 && i > 0 || rank == 0 || rank > maxRank {
			return fmt.Errorf("%w: register %d", errSketch, i)
		}
		if at += int(d); at >= registers {
			return fmt.Errorf("%w: register %d", errSketch, i)
		}
		if have := regs[at]; have < rank {
			if have == 0 {
				set++
			}
			regs[at] = rank
		}
	}
	u.s.set = set
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes too many", errSketch, len(b))
	}
	return nil
}

// highBits are those of eight registers. No rank has one, so differences of bytes do not borrow from each other.
const highBits = 0x8080808080808080

// notZero has the highest bit of each of eight registers that is not zero.
func notZero(x uint64) uint64 { return (x + ^uint64(highBits)) & highBits }

// greaterRanks gives the greater rank of each two of eight registers.
func greaterRanks(x, y uint64) uint64 {
	not := (x | highBits) - y // the high bit stands where x >= y
	greater := (not & highBits) >> 7 * 0xff
	return x&greater | y&^greater
}

// mergeRegisters raises the registers of a to those of b, counts those of a that are not zero then, and says whether any was raised.
func mergeRegisters(a, b []byte) (set int, raised bool) {
	a, b = a[:registers], b[:registers]
	other := uint64(0)
	for i := 0; i < registers; i += 8 {
		before := binary.LittleEndian.Uint64(a[i:])
		m := greaterRanks(before, binary.LittleEndian.Uint64(b[i:]))
		other |= before ^ m
		binary.LittleEndian.PutUint64(a[i:], m)
		set += bits.OnesCount64(notZero(m))
	}
	return set, other != 0
}
