package metric

import (
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
	// listLimit registers are held in a sorted list, more in an array of all: below it the list is smaller, and what
	// must be moved to insert one lies in a few cache lines.
	listLimit = 1024
)

// Sketch is a set of visitor hashes: a function of the set alone, whatever the order of Add and Merge, and so are its
// bytes. It only grows; what was added is taken back by forming it anew. The zero value is the empty set.
type Sketch struct {
	exact []uint64 // sorted, fewer than exactLimit; then it is empty, and one of the two below is not
	list  []uint32 // the registers that are not zero, sorted: index<<8 | rank
	regs  []byte   // all registers, once listLimit of them are not zero
	set   int      // registers that are not zero, in regs
}

// Empty says whether nothing was added.
func (s *Sketch) Empty() bool { return len(s.exact)+len(s.list) == 0 && s.regs == nil }

// Reset empties the sketch and keeps its lists' memory.
func (s *Sketch) Reset() { s.exact, s.list, s.regs, s.set = s.exact[:0], s.list[:0], nil, 0 }

// Add adds a hash (uniform over 64 bits) and says whether the sketch changed.
func (s *Sketch) Add(hash uint64) bool {
	if s.regs != nil || len(s.list) > 0 {
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
	s.exact = append(s.exact, 0)
	copy(s.exact[i+1:], s.exact[i:])
	s.exact[i] = hash
	return true
}

// find returns the place of a hash among the exact ones. Hashes are uniform, so it begins where one of its size would
// be expected, and is seldom far off.
func (s *Sketch) find(hash uint64) (at int, ok bool) {
	exact := s.exact
	hi, _ := bits.Mul64(hash, uint64(len(exact)))
	at = int(hi)
	for at > 0 && exact[at-1] >= hash {
		at--
	}
	for at < len(exact) && exact[at] < hash {
		at++
	}
	return at, at < len(exact) && exact[at] == hash
}

// spread goes on from hashes to registers. The hashes' memory goes: of a batch's sketches most have spread, and it would be a third of
// what they take.
func (s *Sketch) spread() {
	s.registerAll(s.exact)
	s.exact = nil
}

// place is the register of a hash, and what it raises it to.
func place(hash uint64) (i uint32, rank byte) {
	return uint32(hash >> (64 - precision)), byte(bits.LeadingZeros64(hash<<precision|1<<(precision-1)) + 1)
}

func (s *Sketch) register(hash uint64) bool {
	i, rank := place(hash)
	return s.raise(i, rank)
}

// registerAll registers hashes, ascending unless there are all registers, and says whether any raised a register. Of exactLimit at a
// time those that are new to the list are made room for together, so that each register behind moves once.
func (s *Sketch) registerAll(hashes []uint64) (changed bool) {
	for s.regs == nil && len(hashes) > exactLimit {
		changed = s.registerAll(hashes[:exactLimit]) || changed
		hashes = hashes[exactLimit:]
	}
	if s.regs != nil {
		return s.raiseAll(hashes) || changed
	}
	if len(s.list)+len(hashes) >= listLimit {
		for _, h := range hashes {
			changed = s.register(h) || changed
		}
		return changed
	}
	var (
		came [exactLimit]uint32
		at   [exactLimit]int // before which of the list
		n    int
	)
	list := s.list
	for _, h := range hashes {
		i, rank := place(h)
		v := i<<8 | uint32(rank)
		if n > 0 && came[n-1]>>8 == i {
			came[n-1] = max(came[n-1], v)
			continue
		}
		k, ok := s.search(i)
		switch {
		case !ok:
			came[n], at[n] = v, k
			n++
		case list[k] < v:
			list[k] = v
			changed = true
		}
	}
	if n == 0 {
		return changed
	}
	end := len(list)
	list = append(list, came[:n]...)
	for k := n - 1; k >= 0; k-- {
		copy(list[at[k]+k+1:], list[at[k]:end])
		list[at[k]+k] = came[k]
		end = at[k]
	}
	s.list = list
	return true
}

// search returns the place of a register in the list, as find does.
func (s *Sketch) search(i uint32) (at int, ok bool) {
	list := s.list
	at = int(i) * len(list) >> precision
	for at > 0 && list[at-1]>>8 >= i {
		at--
	}
	for at < len(list) && list[at]>>8 < i {
		at++
	}
	return at, at < len(list) && list[at]>>8 == i
}

// raise raises a register to the rank, which is not zero, and says whether it was lower.
func (s *Sketch) raise(i uint32, rank byte) bool {
	if s.regs != nil {
		if s.regs[i] >= rank {
			return false
		}
		if s.regs[i] == 0 {
			s.set++
		}
		s.regs[i] = rank
		return true
	}
	at, ok := s.search(i)
	if ok {
		if byte(s.list[at]) >= rank {
			return false
		}
		s.list[at] = i<<8 | uint32(rank)
		return true
	}
	if len(s.list) == listLimit-1 {
		s.lay()
		return s.raise(i, rank)
	}
	s.list = append(s.list, 0)
	copy(s.list[at+1:], s.list[at:])
	s.list[at] = i<<8 | uint32(rank)
	return true
}

// raiseAll registers hashes where there are all registers. These lie beyond the caches, as a rule, and few are raised: in a loop as short as
// this the processor waits for many of them at once.
func (s *Sketch) raiseAll(hashes []uint64) (changed bool) {
	regs := s.regs[:registers]
	for _, h := range hashes {
		i, rank := place(h)
		if was := regs[i&(registers-1)]; was < rank {
			if was == 0 {
				s.set++
			}
			regs[i&(registers-1)] = rank
			changed = true
		}
	}
	return changed
}

// lay goes on from the list to all registers.
func (s *Sketch) lay() {
	s.regs, s.set = make([]byte, registers), len(s.list)
	for _, r := range s.list {
		s.regs[r>>8] = byte(r)
	}
	s.list = s.list[:0]
}

// addAll adds hashes and says whether the sketch changed. They are ascending, but need not be if the sketch has all registers.
func (s *Sketch) addAll(hashes []uint64) (changed bool) {
	if s.regs != nil || len(s.list) > 0 {
		return s.registerAll(hashes)
	}
	if done, more := unite(&s.exact, hashes, 0, exactLimit); done {
		return more
	}
	s.spread()
	s.registerAll(hashes)
	return true // to at least exactLimit
}

// Merge makes s the union of both, and says whether it changed.
func (s *Sketch) Merge(o *Sketch) (changed bool) {
	if o.regs == nil && len(o.list) == 0 {
		return s.addAll(o.exact)
	}
	if s.regs == nil && len(s.list) == 0 {
		changed = true // to at least exactLimit
	}
	s.spread()
	done := false
	if s.regs == nil {
		var more bool
		done, more = unite(&s.list, o.list, 8, listLimit)
		changed = more || changed
	}
	if !done {
		for _, r := range o.list {
			changed = s.raise(r>>8, byte(r)) || changed
		}
	}
	if o.regs == nil {
		return changed
	}
	if s.regs == nil {
		s.lay()
		changed = true // to at least listLimit
	}
	set, more := mergeRegisters(s.regs, o.regs)
	s.set = set
	return more || changed
}

// unite makes a the union of both, if that has less than limit values, and says whether a changed; else it leaves a as it is. Both
// are sorted; of values that are equal but for their last bits the greater one stands.
func unite[T uint32 | uint64](a *[]T, b []T, bits uint, limit int) (done, changed bool) {
	old := *a
	n, i := len(old)+len(b), 0
	for _, v := range b {
		for i < len(old) && old[i]>>bits < v>>bits {
			i++
		}
		if i < len(old) && old[i]>>bits == v>>bits {
			n--
			changed = changed || old[i] < v
		}
	}
	if n >= limit {
		return false, false
	}
	if n == len(old) && !changed {
		return true, false
	}
	i, j := len(old)-1, len(b)-1
	all := slices.Grow(old, n-len(old))[:n]
	for to := n - 1; j >= 0; to-- {
		switch {
		case i < 0 || all[i]>>bits < b[j]>>bits:
			all[to] = b[j]
			j--
		case all[i]>>bits == b[j]>>bits:
			all[to] = max(all[i], b[j])
			i--
			j--
		default:
			all[to] = all[i]
			i--
		}
	}
	*a = all
	return true, true
}

// Estimate returns the number of distinct visitors, exact below 100.
func (s *Sketch) Estimate() int64 {
	if s.regs == nil && len(s.list) == 0 {
		return int64(len(s.exact))
	}
	var n tally
	if s.regs == nil {
		n[0][0] = uint16(registers - len(s.list))
		for _, r := range s.list {
			n[0][byte(r)]++
		}
	} else {
		regs := s.regs[:registers]
		for i := 0; i < registers; i += 4 {
			n[0][regs[i]]++
			n[1][regs[i+1]]++
			n[2][regs[i+2]]++
			n[3][regs[i+3]]++
		}
	}
	return n.estimate()
}

// tally counts registers by rank. Neighbours are counted apart, so that one count does not wait for the other.
type tally [4][256]uint16

// estimate is that of the registers counted, of which there are all.
func (n *tally) estimate() int64 {
	var count [maxRank + 1]float64
	for k := range count {
		count[k] = float64(n[0][k]) + float64(n[1][k]) + float64(n[2][k]) + float64(n[3][k])
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
