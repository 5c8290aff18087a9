package metric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// The sketch of distinct visitors (SPEC 6, `visitors`): exact below exactLimit, above it HyperLogLog with 2^14
// registers (Flajolet et al. 2007; standard error 1.04 / 2^7 = 0.81 %), estimated as in Ertl 2017 ("New cardinality
// estimation algorithms for HyperLogLog sketches", algorithm 6), which needs no bias tables.
const (
	exactLimit = 100
	precision  = 14
	registers  = 1 << precision
	maxRank    = 64 - precision + 1
)

// Sketch is a set of visitor hashes: a function of the set alone, whatever the order of Add and Merge, and so are its
// bytes. It only grows; what was added is taken back by forming it anew. The zero value is the empty set.
type Sketch struct {
	exact []uint64 // sorted, fewer than exactLimit
	regs  []byte   // registers of them, once the set has reached exactLimit
	set   int      // registers that are not zero
}

// Empty says whether nothing was added.
func (s *Sketch) Empty() bool { return len(s.exact) == 0 && s.regs == nil }

// Reset empties the sketch.
func (s *Sketch) Reset() { s.exact, s.regs, s.set = s.exact[:0], nil, 0 }

// Add adds a hash (uniform over 64 bits) and says whether the sketch changed.
func (s *Sketch) Add(hash uint64) bool {
	if s.regs != nil {
		return s.register(hash)
	}
	i, ok := s.find(hash)
	if ok {
		return false
	}
	if len(s.exact) == exactLimit-1 {
		s.spread()
		s.register(hash)
		return true
	}
	s.exact = slices.Insert(s.exact, i, hash)
	return true
}

// find returns the place of a hash among the exact ones. Hashes are uniform, so it begins where one of its size would
// be expected, and is seldom far off.
func (s *Sketch) find(hash uint64) (at int, ok bool) {
	hi, _ := bits.Mul64(hash, uint64(len(s.exact)))
	at = int(hi)
	for at > 0 && s.exact[at-1] >= hash {
		at--
	}
	for at < len(s.exact) && s.exact[at] < hash {
		at++
	}
	return at, at < len(s.exact) && s.exact[at] == hash
}

func (s *Sketch) spread() {
	s.regs = make([]byte, registers)
	for _, h := range s.exact {
		s.register(h)
	}
	s.exact = nil
}

func (s *Sketch) register(hash uint64) bool {
	i := hash >> (64 - precision)
	rank := byte(bits.LeadingZeros64(hash<<precision|1<<(precision-1)) + 1)
	if s.regs[i] >= rank {
		return false
	}
	if s.regs[i] == 0 {
		s.set++
	}
	s.regs[i] = rank
	return true
}

// Merge makes s the union of both.
func (s *Sketch) Merge(o *Sketch) {
	if o.regs == nil {
		for _, h := range o.exact {
			s.Add(h)
		}
		return
	}
	if s.regs == nil {
		s.spread()
	}
	for i, r := range o.regs {
		if r > s.regs[i] {
			if s.regs[i] == 0 {
				s.set++
			}
			s.regs[i] = r
		}
	}
}

// Estimate returns the number of distinct visitors, exact below 100.
func (s *Sketch) Estimate() int64 {
	if s.regs == nil {
		return int64(len(s.exact))
	}
	var count [maxRank + 1]float64
	for _, r := range s.regs {
		count[r]++
	}
	const m = float64(registers)
	z := m * tau(1-count[maxRank]/m)
	for k := maxRank - 1; k >= 1; k-- {
		z = 0.5 * (z + count[k])
	}
	z += m * sigma(count[0]/m)
	return int64(math.Round(m * m / (2 * math.Ln2 * z)))
}

func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for {
		x *= x
		before := z
		z += x * y
		y += y
		if z == before {
			return z
		}
	}
}

func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for {
		x = math.Sqrt(x)
		before := z
		y *= 0.5
		z -= (1 - x) * (1 - x) * y
		if z == before {
			return z / 3
		}
	}
}

// The encoding of a sketch, canonical:
//
//	0x01  uvarint n (below 100)  n hashes, ascending, 8 bytes little-endian each
//	0x02  uvarint n  n registers that are not zero, ascending: uvarint (index - index before), byte rank
//	0x03  16,384 bytes, a register each
//
// 0x02 stands where fewer than sparseLimit registers are set, 0x03 elsewhere.
const (
	formExact   = 1
	formSparse  = 2
	formDense   = 3
	sparseLimit = registers / 3
)

// AppendBinary appends the canonical bytes.
func (s *Sketch) AppendBinary(b []byte) []byte {
	if s.regs == nil {
		b = binary.AppendUvarint(append(b, formExact), uint64(len(s.exact)))
		for _, h := range s.exact {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		return b
	}
	if s.set >= sparseLimit {
		return append(append(b, formDense), s.regs...)
	}
	b = binary.AppendUvarint(append(b, formSparse), uint64(s.set))
	before := 0
	for i := 0; i < registers; i += 8 {
		if binary.LittleEndian.Uint64(s.regs[i:]) == 0 {
			continue // most of them, as long as this form is the one that stands
		}
		for k := i; k < i+8; k++ {
			if r := s.regs[k]; r != 0 {
				b = append(binary.AppendUvarint(b, uint64(k-before)), r)
				before = k
			}
		}
	}
	return b
}

var errSketch = errors.New("sketch is corrupt")

// UnmarshalBinary reads what AppendBinary wrote, and refuses anything else.
func (s *Sketch) UnmarshalBinary(b []byte) error {
	s.exact, s.regs, s.set = nil, nil, 0
	if len(b) == 0 {
		return fmt.Errorf("%w: no bytes", errSketch)
	}
	form := b[0]
	if form == formDense {
		if len(b) != 1+registers {
			return fmt.Errorf("%w: %d bytes of dense registers", errSketch, len(b)-1)
		}
		s.regs = slices.Clone(b[1:])
		return s.checkRegs(form)
	}
	n, k := uvarint(b[1:])
	if k == 0 || n > registers {
		return fmt.Errorf("%w: count", errSketch)
	}
	b = b[1+k:]
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
		s.regs = make([]byte, registers)
		at := 0
		for i := range int(n) {
			d, k := uvarint(b)
			if k == 0 || len(b) <= k || b[k] == 0 || d >= registers || (d == 0 && i > 0) || at+int(d) >= registers {
				return fmt.Errorf("%w: register %d", errSketch, i)
			}
			at += int(d)
			s.regs[at] = b[k]
			b = b[k+1:]
		}
		if len(b) != 0 {
			return fmt.Errorf("%w: %d bytes too many", errSketch, len(b))
		}
		return s.checkRegs(form)
	}
	return fmt.Errorf("%w: form %d", errSketch, form)
}

func (s *Sketch) checkRegs(form byte) error {
	for _, r := range s.regs {
		if r > maxRank {
			return fmt.Errorf("%w: rank %d", errSketch, r)
		}
		if r != 0 {
			s.set++
		}
	}
	if s.set == 0 || (s.set >= sparseLimit) != (form == formDense) {
		return fmt.Errorf("%w: %d registers in form %d", errSketch, s.set, form)
	}
	return nil
}
