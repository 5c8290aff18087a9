package metric

import (
	"bytes"
	"encoding/binary"
	"flag"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var long = flag.Bool("long", false, "run the long tests too")

func set(hashes ...[]uint64) *Sketch {
	s := &Sketch{}
	for _, hs := range hashes {
		for _, h := range hs {
			s.Add(h)
		}
	}
	return s
}

func hashes(rng *rand.Rand, n int) []uint64 {
	hs := make([]uint64, n)
	for i := range hs {
		hs[i] = rng.Uint64()
	}
	return hs
}

func union(sketches ...*Sketch) *Sketch {
	u := &Sketch{}
	for _, s := range sketches {
		u.Merge(s)
	}
	return u
}

// sizes lie around every change of form: to a list of registers at 100, to all of them at about 1,060, to packed ones in bytes at about
// 4,700.
var sizes = [...]int{0, 1, 2, 49, 50, 98, 99, 100, 101, 150, 1020, 1040, 1055, 1060, 1070, 1100, 3000, 4600, 4650, 4700, 4750, 4800, 20_000}

func TestASketchIsAFunctionOfItsSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range sizes {
		hs := hashes(rng, n)
		want := set(hs).AppendBinary(nil)
		for range 3 {
			rng.Shuffle(n, func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
			if got := set(hs, hs[:n/2]).AppendBinary(nil); !bytes.Equal(got, want) {
				t.Fatalf("%d hashes in another order, with repeats: other bytes", n)
			}
			k := 0
			if n > 0 {
				k = rng.IntN(n)
			}
			if got := union(set(hs[:k]), set(hs[k/2:])).AppendBinary(nil); !bytes.Equal(got, want) {
				t.Fatalf("the union of parts of %d hashes, cut at %d: other bytes", n, k)
			}
		}
		var back Sketch
		if err := back.UnmarshalBinary(want); err != nil {
			t.Fatalf("%d hashes: %v", n, err)
		}
		if got := back.AppendBinary(nil); !bytes.Equal(got, want) || back.Estimate() != set(hs).Estimate() {
			t.Fatalf("%d hashes come back otherwise", n)
		}
		// What was read goes on as what was made.
		extra := hashes(rng, 5)
		for _, h := range extra {
			back.Add(h)
		}
		if !bytes.Equal(back.AppendBinary(nil), set(hs, extra).AppendBinary(nil)) {
			t.Fatalf("%d hashes, read and added to: other bytes", n)
		}
	}
}

// A few hashes come into a sketch together as they do one by one: those that are there, those of a register that is there, with a lower
// and a higher rank, several of one register, before the first register and behind the last.
func TestASetIsAddedAsItsHashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	for range 3 {
		for _, n := range sizes {
			addTogether(t, rng, n)
		}
	}
}

func addTogether(t *testing.T, rng *rand.Rand, n int) {
	for _, more := range []int{0, 1, 2, 15, 98, 99} {
		hs := hashes(rng, n)
		came := hashes(rng, more)
		known := rng.IntN(3) == 0 // all of them
		for i := range came {
			kind := rng.IntN(6)
			if known {
				kind = 4
			}
			switch kind {
			case 0:
				came[i] = came[0]>>50<<50 | came[i]>>14>>rng.IntN(40)
			case 1:
				came[i] >>= 50 - rng.IntN(2)
			case 2:
				came[i] |= 0x3fff << 50
			case 3:
				if n > 0 {
					came[i] = hs[rng.IntN(n)]>>50<<50 | came[i]>>14>>rng.IntN(40)
				}
			case 4:
				if n > 0 {
					came[i] = hs[rng.IntN(n)]
				}
			}
		}
		one, all := set(hs), set(hs)
		before := one.AppendBinary(nil)
		for _, h := range came {
			one.Add(h)
		}
		want := one.AppendBinary(nil)
		if changed := all.Merge(set(came)); changed != !bytes.Equal(before, want) {
			t.Fatalf("%d hashes, %d more: says it changed: %v", n, more, changed)
		}
		if got := all.AppendBinary(nil); !bytes.Equal(got, want) || !bytes.Equal(got, naive(append(hs, came...))) {
			t.Fatalf("%d hashes, %d more together: other bytes than one by one", n, more)
		}
	}
}

// naive is the encoding as it is defined, of a set of hashes.
func naive(hs []uint64) []byte {
	hs = slices.Compact(slices.Sorted(slices.Values(hs)))
	if len(hs) < 100 {
		b := binary.AppendUvarint([]byte{1}, uint64(len(hs)))
		for _, h := range hs {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		return b
	}
	var regs [1 << 14]byte
	n := 0
	for _, h := range hs {
		rank := byte(1)
		for bit := 49; bit >= 0 && h>>bit&1 == 0; bit-- {
			rank++
		}
		if i := h >> 50; rank > regs[i] {
			if regs[i] == 0 {
				n++
			}
			regs[i] = rank
		}
	}
	if n >= len(regs)/4 {
		least := slices.Min(regs[:])
		b, ranks := []byte{4, least}, []byte(nil)
		for i := 0; i < len(regs); i += 2 {
			both := byte(0)
			for k, r := range regs[i : i+2] {
				half := r - least
				if half >= 15 {
					half, ranks = 15, append(ranks, r)
				}
				both |= half << (4 * k)
			}
			b = append(b, both)
		}
		return append(b, ranks...)
	}
	return naiveSparse(regs[:], n)
}

// naiveSparse is the form of registers of which n are not zero, one by one.
func naiveSparse(regs []byte, n int) []byte {
	b := binary.AppendUvarint([]byte{2}, uint64(n))
	before := 0
	for i, r := range regs {
		if r != 0 {
			b = append(binary.AppendUvarint(b, uint64(i-before)), r)
			before = i
		}
	}
	return b
}

func TestASketchInBytesIsWhatIsDefined(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	for _, n := range append(sizes[:], 400_000) { // of so many no register is zero
		hs := hashes(rng, n)
		if n > 10 {
			hs[3], hs[4], hs[5] = hs[6]&^(1<<50-1), 0, hs[7]|1 // the greatest ranks there are
		}
		got := set(hs).AppendBinary(nil)
		if !bytes.Equal(got, naive(hs)) {
			t.Errorf("%d hashes: other bytes than defined", n)
		}
		var back Sketch
		if err := back.UnmarshalBinary(got); err != nil || !bytes.Equal(back.AppendBinary(nil), got) {
			t.Errorf("%d hashes come back otherwise: %v", n, err)
		}
	}
}

// A sketch that held another set takes the bytes of one as a new sketch does.
func TestBytesReplaceASketch(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	var used Sketch
	for range 3 * len(sizes) {
		hs := hashes(rng, sizes[rng.IntN(len(sizes))])
		want := set(hs).AppendBinary(nil)
		if err := used.UnmarshalBinary(want); err != nil {
			t.Fatal(err)
		}
		if got := used.AppendBinary(nil); !bytes.Equal(got, want) {
			t.Fatalf("%d hashes: other bytes", len(hs))
		}
		if more := hashes(rng, 5); !bytes.Equal(union(&used, set(more)).AppendBinary(nil), set(hs, more).AppendBinary(nil)) {
			t.Fatalf("%d hashes and 5 more: another union", len(hs))
		}
	}
}

func TestUnionLaws(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	bin := func(s *Sketch) []byte { return s.AppendBinary(nil) }
	for range 60 {
		pool := hashes(rng, 1+rng.IntN(9000))
		part := func() *Sketch {
			n := min(sizes[rng.IntN(len(sizes))], len(pool))
			at := rng.IntN(len(pool) - n + 1)
			return set(pool[at : at+n])
		}
		a, b, c := part(), part(), part()
		before := bin(b)
		if !bytes.Equal(bin(union(a, b)), bin(union(b, a))) {
			t.Fatal("the union depends on the order")
		}
		if !bytes.Equal(bin(union(union(a, b), c)), bin(union(a, union(b, c)))) {
			t.Fatal("the union depends on the grouping")
		}
		if !bytes.Equal(bin(union(a, a)), bin(a)) || !bytes.Equal(bin(union(a, &Sketch{})), bin(a)) {
			t.Fatal("the union with itself or with nothing is not the same")
		}
		if !bytes.Equal(bin(b), before) {
			t.Fatal("Merge changed its argument")
		}
		ab := union(a, b)
		for _, s := range []*Sketch{a, b, c, &Sketch{}} {
			before := bin(ab)
			if changed := ab.Merge(s); changed != !bytes.Equal(bin(ab), before) {
				t.Fatalf("Merge says that it changed the set: %v", changed)
			}
		}
	}
}

func TestExactBelow100(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	for n := range 100 {
		hs := hashes(rng, n)
		if got := set(hs, hs).Estimate(); got != int64(n) {
			t.Errorf("%d visitors: %d", n, got)
		}
	}
	// Hostile hashes: neighbours, that all fall into one register.
	s := &Sketch{}
	for h := range uint64(99) {
		s.Add(h)
	}
	if s.Estimate() != 99 {
		t.Errorf("99 neighbours: %d", s.Estimate())
	}
}

func TestStandardErrorIsBelowOnePercent(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	plan := map[int]int{200: 400, 1000: 200, 5000: 100, 20_000: 80, 50_000: 60, 1_000_000: 20}
	if *long {
		plan = map[int]int{200: 20_000, 500: 10_000, 1000: 5000, 5000: 2000, 20_000: 1000, 50_000: 1000, 100_000: 500, 1_000_000: 100}
	}
	var all, runs float64
	for _, n := range slices.Sorted(maps.Keys(plan)) {
		times := plan[n]
		var sum, squares float64
		for range times {
			s := &Sketch{}
			for range n {
				s.Add(rng.Uint64())
			}
			e := float64(s.Estimate())/float64(n) - 1
			sum += e
			squares += e * e
		}
		rmse := math.Sqrt(squares / float64(times))
		all, runs = all+squares, runs+float64(times)
		t.Logf("%8d visitors, %5d sets: standard error %.3f %%, bias %+.3f %%", n, times, 100*rmse, 100*sum/float64(times))
		// The error of the measured error is about 1 in sqrt(2 times): three of them.
		if limit := 0.0104 * (1 + 3/math.Sqrt(2*float64(times))); rmse > limit || times >= 500 && rmse > 0.01 {
			t.Errorf("%d visitors: standard error %.4f, want below 0.01", n, rmse)
		}
		if bias := math.Abs(sum / float64(times)); bias > 0.002+4*0.0081/math.Sqrt(float64(times)) {
			t.Errorf("%d visitors: bias %.5f", n, bias)
		}
	}
	if rmse := math.Sqrt(all / runs); rmse > 0.01 {
		t.Errorf("over all sets the standard error is %.4f", rmse)
	}
}

func TestSketchRefusesWhatItDoesNotWrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	for _, n := range []int{3, 150, 9000} {
		good := set(hashes(rng, n)).AppendBinary(nil)
		for i := range good {
			if n == 9000 && i%97 != 0 {
				continue
			}
			var s Sketch
			if err := s.UnmarshalBinary(good[:i]); err == nil {
				t.Fatalf("%d hashes, cut to %d of %d bytes: taken", n, i, len(good))
			}
		}
		var s Sketch
		if err := s.UnmarshalBinary(append(slices.Clone(good), 0)); err == nil {
			t.Errorf("%d hashes and a byte: taken", n)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":                 {},
		"form":                    {5, 0},
		"count cut":               {formExact, 0x80},
		"count too long":          {formExact, 0x80, 0},
		"hashes out of order":     slices.Concat([]byte{formExact, 2}, make([]byte, 16)),
		"100 exact":               append([]byte{formExact, 100}, make([]byte, 800)...),
		"no registers":            {formSparse, 0},
		"rank 0":                  {formSparse, 1, 5, 0},
		"rank too high":           {formSparse, 1, 5, maxRank + 1},
		"register twice":          {formSparse, 2, 5, 1, 0, 1},
		"register beyond":         {formSparse, 1, 0x80, 0x80, 1, 1},
		"dense, but too few":      append([]byte{formDense}, make([]byte, registers)...),
		"dense, rank too high":    append([]byte{formDense}, bytes.Repeat([]byte{maxRank + 1}, registers)...),
		"packed, but too few":     packed(0, 0x00, 0),
		"packed, none the least":  packed(0, 0x11, 0),
		"packed, least too high":  packed(maxRank+1, 0x10, 0),
		"packed, rank too high":   packed(maxRank-1, 0x12, 0),
		"packed, a rank missing":  packed(0, 0xf0, registers/2-1),
		"packed, a rank too many": packed(0, 0xf0, registers/2+1),
		"sparse count beyond all": {formSparse, 0x81, 0x80, 0x01},
	} {
		var s Sketch
		if err := s.UnmarshalBinary(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// packed is of packed form, with the same two registers everywhere and some ranks of 20.
func packed(least, both byte, ranks int) []byte {
	return slices.Concat([]byte{formPacked, least}, bytes.Repeat([]byte{both}, registers/2), bytes.Repeat([]byte{20}, ranks))
}

func TestSketchOfEveryRankIsPacked(t *testing.T) {
	for name, b := range map[string][]byte{
		"half of the registers":     packed(0, 0x10, 0),
		"all but what is the least": packed(maxRank-1, 0x10, 0),
		"ranks behind":              packed(0, 0xf0, registers/2),
		"ranks behind, least 5":     packed(5, 0xf0, registers/2),
	} {
		var s Sketch
		if err := s.UnmarshalBinary(b); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if again := s.AppendBinary(nil); !bytes.Equal(again, b) {
			t.Errorf("%s: written as something else", name)
		}
	}
	for _, ranks := range []byte{14, maxRank + 1} {
		b := packed(0, 0xf0, registers/2)
		b[len(b)-7] = ranks
		var s Sketch
		if s.UnmarshalBinary(b) == nil {
			t.Errorf("a rank of %d behind: taken", ranks)
		}
	}
}

// What an earlier release wrote, of many registers, is the same set.
func TestSketchOfAnEarlierReleaseIsRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 1))
	for _, n := range []int{4800, 6000, 6500, 7000, 20_000} {
		want := set(hashes(rng, n))
		old := append([]byte{formDense}, want.regs...)
		if want.set < sparseOnce {
			old = naiveSparse(want.regs, want.set)
		}
		var s Sketch
		if err := s.UnmarshalBinary(old); err != nil {
			t.Fatalf("%d hashes: %v", n, err)
		}
		var u Union
		if err := u.MergeBinary(old, &Sketch{}); err != nil {
			t.Fatalf("%d hashes: %v", n, err)
		}
		for _, got := range [][]byte{s.AppendBinary(nil), u.AppendBinary(nil)} {
			if !bytes.Equal(got, want.AppendBinary(nil)) {
				t.Errorf("%d hashes come back otherwise", n)
			}
		}
	}
}

func FuzzSketch(f *testing.F) {
	rng := rand.New(rand.NewPCG(6, 1))
	for _, n := range []int{0, 1, 99, 100, 200, 9000} {
		f.Add(set(hashes(rng, n)).AppendBinary(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sketch
		if s.UnmarshalBinary(b) != nil {
			return
		}
		again := s.AppendBinary(nil)
		if earlier := b[0] == formDense || b[0] == formSparse && s.set >= sparseLimit; !earlier && !bytes.Equal(again, b) {
			t.Fatalf("% x is read, and written as % x", b, again)
		}
		var back Sketch
		if err := back.UnmarshalBinary(again); err != nil || back.Estimate() != s.Estimate() {
			t.Fatalf("% x is read, and what is written of it is not: %v", b, err)
		}
		s.Estimate()
		s.Add(1 << 63)
	})
}
