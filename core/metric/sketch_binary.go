package metric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// The encoding of a sketch, canonical:
//
//	0x01  uvarint n (below 100)  n hashes, ascending, 8 bytes little-endian each
//	0x02  uvarint n  n registers that are not zero, ascending: uvarint (index - index before), byte rank
//	0x04  byte least  8,192 bytes, two registers each, the first in the low half: rank - least, at most 15
//	      the ranks of those with 15, in their order, a byte each
//
// 0x02 stands where fewer than sparseLimit registers are set, 0x04 elsewhere. Earlier releases went on with 0x02 up to a third of the
// registers, and then wrote 0x03 and 16,384 bytes, a register each: both are still read.
const (
	formExact   = 1
	formSparse  = 2
	formDense   = 3
	formPacked  = 4
	sparseLimit = registers / 4
	sparseOnce  = registers / 3 // sparseLimit of earlier releases
)

// AppendBinary appends the canonical bytes.
func (s *Sketch) AppendBinary(b []byte) []byte {
	switch {
	case len(s.list) > 0:
		b = binary.AppendUvarint(append(b, formSparse), uint64(len(s.list)))
		before := uint32(0)
		for _, r := range s.list {
			b = appendRegister(b, r>>8-before, byte(r))
			before = r >> 8
		}
		return b
	case s.regs == nil:
		b = binary.AppendUvarint(append(b, formExact), uint64(len(s.exact)))
		at := len(b)
		b = slices.Grow(b, 8*len(s.exact))[:at+8*len(s.exact)]
		for i, h := range s.exact {
			binary.LittleEndian.PutUint64(b[at+8*i:], h)
		}
		return b
	case s.set >= sparseLimit:
		return s.appendPacked(b)
	}
	b = binary.AppendUvarint(append(b, formSparse), uint64(s.set))
	before := 0
	b = slices.Grow(b, 3*s.set)
	regs := s.regs[:registers]
	for i := 0; i < registers; i += 8 {
		for some := notZero(binary.LittleEndian.Uint64(regs[i:])); some != 0; some &= some - 1 {
			k := i + bits.TrailingZeros64(some)>>3
			b = appendRegister(b, uint32(k-before), regs[k])
			before = k
		}
	}
	return b
}

// appendRegister appends a register by how far its index is from that before, which is one byte as a rule.
func appendRegister(b []byte, distance uint32, rank byte) []byte {
	if distance < 0x80 {
		return append(b, byte(distance), rank)
	}
	return append(binary.AppendUvarint(b, uint64(distance)), rank)
}

var errSketch = errors.New("sketch is corrupt")

// UnmarshalBinary reads what AppendBinary wrote, of this release or an earlier one, and refuses anything else. What s was before is forgotten, but for its memory.
func (s *Sketch) UnmarshalBinary(b []byte) error {
	s.Reset()
	if len(b) == 0 {
		return fmt.Errorf("%w: no bytes", errSketch)
	}
	form := b[0]
	b = b[1:]
	switch form {
	case formDense:
		if len(b) != registers {
			return fmt.Errorf("%w: %d bytes of dense registers", errSketch, len(b))
		}
		return s.readDense(b)
	case formPacked:
		regs := make([]byte, registers)
		set, err := raisePacked(regs, b)
		if err == nil {
			s.regs, s.set = regs, set
		}
		return err
	}
	n, ok := uvarint(&b)
	if !ok || n > registers {
		return fmt.Errorf("%w: count", errSketch)
	}
	switch form {
	case formExact:
		if n >= exactLimit || len(b) != int(n)*8 {
			return fmt.Errorf("%w: %d hashes in %d bytes", errSketch, n, len(b))
		}
		for i := range int(n) {
			h := binary.LittleEndian.Uint64(b[8*i:])
			if i > 0 && h <= s.exact[i-1] {
				return fmt.Errorf("%w: hashes out of order", errSketch)
			}
			s.exact = append(s.exact, h)
		}
		return nil
	case formSparse:
		return s.readSparse(int(n), b)
	}
	return fmt.Errorf("%w: form %d, which only a newer release may know", errSketch, form)
}

func (s *Sketch) readDense(regs []byte) error {
	for _, r := range regs {
		if r > maxRank {
			return fmt.Errorf("%w: rank %d", errSketch, r)
		}
		if r != 0 {
			s.set++
		}
	}
	if s.set < sparseOnce {
		return fmt.Errorf("%w: %d registers in form %d", errSketch, s.set, formDense)
	}
	s.regs = slices.Clone(regs)
	return nil
}

func (s *Sketch) readSparse(n int, b []byte) error {
	if n == 0 || n >= sparseOnce {
		return fmt.Errorf("%w: %d registers in form %d", errSketch, n, formSparse)
	}
	if n >= listLimit {
		s.lay()
	}
	at := 0
	for i := range n {
		d, ok := uvarint(&b)
		if !ok || len(b) == 0 || b[0] == 0 || d >= registers || (d == 0 && i > 0) || at+int(d) >= registers {
			return fmt.Errorf("%w: register %d", errSketch, i)
		}
		if b[0] > maxRank {
			return fmt.Errorf("%w: rank %d", errSketch, b[0])
		}
		if at += int(d); n < listLimit {
			s.list = append(s.list, uint32(at)<<8|uint32(b[0])) // ascending
		} else {
			s.raise(uint32(at), b[0])
		}
		b = b[1:]
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes too many", errSketch, len(b))
	}
	return nil
}

// Eight registers a word, each in a byte or in half of one.
const (
	each      = 0x0101010101010101
	packedTop = 15 // in half a byte: the rank follows
)

// tops has the highest bit of each of eight bytes that is packedTop or more; none is beyond 127 - packedTop.
func tops(x uint64) uint64 { return (x + (0x80-packedTop)*each) & highBits }

// halve brings eight bytes below 16 into half a byte each.
func halve(x uint64) uint32 {
	x = (x | x>>4) & 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return uint32(x | x>>16)
}

// widen is the inverse of halve.
func widen(h uint32) uint64 {
	x := uint64(h)
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff
	return (x | x<<4) & 0x0f0f0f0f0f0f0f0f
}

func (s *Sketch) appendPacked(b []byte) []byte {
	least := byte(0)
	if s.set == registers {
		least = slices.Min(s.regs)
	}
	at := len(b) + 2
	b = append(slices.Grow(b, 2+registers/2), formPacked, least)[:at+registers/2]
	regs := s.regs[:registers]
	for i := 0; i < registers; i += 8 {
		x := binary.LittleEndian.Uint64(regs[i:]) - each*uint64(least)
		for high := tops(x); high != 0; high &= high - 1 {
			k := bits.TrailingZeros64(high) &^ 7
			x = x&^(0xff<<k) | packedTop<<k
			b = append(b, regs[i+k>>3])
		}
		binary.LittleEndian.PutUint32(b[at+i/2:], halve(x))
	}
	return b
}

// raisePacked raises registers to those of form 0x04, counts those that are not zero then, and refuses what appendPacked does not write;
// then some may have been raised.
func raisePacked(regs, b []byte) (set int, err error) {
	const ranksAt = 1 + registers/2
	if len(b) < ranksAt {
		return 0, fmt.Errorf("%w: %d bytes of packed registers", errSketch, len(b))
	}
	least, ranks := b[0], b[ranksAt:]
	if least > maxRank {
		return 0, fmt.Errorf("%w: rank %d", errSketch, least)
	}
	regs, b = regs[:registers], b[1:ranksAt]
	own, hasLeast := 0, false
	for i := 0; i < registers; i += 8 {
		x := widen(binary.LittleEndian.Uint32(b[i/2:]))
		hasLeast = hasLeast || notZero(x) != highBits
		high := tops(x)
		x += each * uint64(least)
		for ; high != 0; high &= high - 1 {
			if len(ranks) == 0 || ranks[0] < least+packedTop || ranks[0] > maxRank {
				return 0, fmt.Errorf("%w: the rank of a register near %d", errSketch, i)
			}
			x += uint64(ranks[0]-least-packedTop) << (bits.TrailingZeros64(high) &^ 7)
			ranks = ranks[1:]
		}
		if (x+(0x7f-maxRank)*each)&highBits != 0 {
			return 0, fmt.Errorf("%w: a rank near register %d", errSketch, i)
		}
		own += bits.OnesCount64(notZero(x))
		m := greaterRanks(binary.LittleEndian.Uint64(regs[i:]), x)
		binary.LittleEndian.PutUint64(regs[i:], m)
		set += bits.OnesCount64(notZero(m))
	}
	switch {
	case len(ranks) > 0:
		return 0, fmt.Errorf("%w: %d bytes too many", errSketch, len(ranks))
	case !hasLeast:
		return 0, fmt.Errorf("%w: no register of the least rank, %d", errSketch, least)
	case own < sparseLimit:
		return 0, fmt.Errorf("%w: %d registers in form %d", errSketch, own, formPacked)
	}
	return set, nil
}
