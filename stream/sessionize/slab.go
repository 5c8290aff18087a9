package sessionize

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// slab keeps byte strings outside the garbage collector's sight: chunks of 1 MiB without pointers, each cut into
// places of one size; the first of a size is smaller, since a shard of few sessions has strings of many sizes. A ref names a place; 0 is none. Millions of idle sessions cost the collector a few thousand
// chunks.
//
// Limits: 64 GiB in all (a ref counts units of 16 bytes in 32 bits); a shard that comes there panics rather than
// count wrong, long after memory limits have ended it.
type slab struct {
	chunks  [][]byte
	classes []uint8 // by chunk
	free    [len(places)][]uint32
	tail    [len(places)]uint32 // next fresh place of the class's newest chunk, 0: none
	spare   []uint32            // numbers of chunks that held one big string and are free
	used    int64               // bytes of places handed out
	begun   [len(places)]bool   // the class has had its first chunk
}

const (
	unit      = 16
	chunkSize = 1 << 20
	firstSize = 1 << 14 // of a class's first chunk: two places of the largest
	chunkUnit = chunkSize / unit
	big       = 255 // class of a chunk that is one string
)

// places are the sizes of places, in units: steps of 16 bytes while small, then of an eighth or less lost.
var places = [...]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44, 48, 52, 56, 60, 64,
	72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480, 512}

// class returns the class of strings of n bytes, or big.
func class(n int) uint8 {
	units := (n + 2 + unit - 1) / unit // two bytes of length
	lo, hi := 0, len(places)
	for lo < hi {
		if mid := (lo + hi) / 2; places[mid] < units {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(places) {
		return big
	}
	return uint8(lo)
}

// put stores a copy of b and returns its ref.
func (s *slab) put(b []byte) uint32 {
	c := class(len(b))
	if c == big {
		return s.putBig(b)
	}
	ref, at := s.room(c, len(b))
	copy(at, b)
	return ref
}

// room makes a place of the class for a string of n bytes and returns it with the memory to write them to.
func (s *slab) room(c uint8, n int) (uint32, []byte) {
	var ref uint32
	if n := len(s.free[c]); n > 0 {
		ref = s.free[c][n-1]
		s.free[c] = s.free[c][:n-1]
	} else {
		ref = s.fresh(c)
	}
	s.used += int64(places[c] * unit)
	return ref, s.sized(ref, n)
}

// sized says that the place of the ref holds n bytes from now on, and returns them.
func (s *slab) sized(ref uint32, n int) []byte {
	at := s.chunks[ref/chunkUnit][ref%chunkUnit*unit:]
	binary.LittleEndian.PutUint16(at, uint16(n))
	return at[2 : 2+n]
}

func (s *slab) fresh(c uint8) uint32 {
	if s.tail[c] == 0 {
		size := chunkSize
		if !s.begun[c] {
			size, s.begun[c] = firstSize, true
		}
		n := s.chunk(make([]byte, size), c)
		s.tail[c] = uint32(n * chunkUnit)
		if n == 0 {
			s.tail[c] += uint32(places[c]) // the place 0 is never given out
		}
	}
	ref := s.tail[c]
	next := ref + uint32(places[c])
	if end := ref%chunkUnit + 2*uint32(places[c]); int(end)*unit > len(s.chunks[ref/chunkUnit]) {
		next = 0
	}
	s.tail[c] = next
	return ref
}

func (s *slab) chunk(b []byte, c uint8) int {
	if n := len(s.spare); n > 0 {
		i := s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.chunks[i], s.classes[i] = b, c
		return int(i)
	}
	if len(s.chunks) == 1<<16 {
		panic(fmt.Sprintf("BUG: a shard's sessions need more than %d chunks", 1<<16))
	}
	s.chunks, s.classes = append(s.chunks, b), append(s.classes, c)
	return len(s.chunks) - 1
}

func (s *slab) putBig(parts ...[]byte) uint32 {
	if len(s.chunks) == 0 {
		s.chunk(nil, big) // so that no ref is 0
	}
	b := slices.Concat(parts...)
	s.used += int64(len(b))
	return uint32(s.chunk(b, big) * chunkUnit)
}

// get returns the string of the ref: valid until it is dropped, not to be written.
func (s *slab) get(ref uint32) []byte {
	if ref == 0 {
		return nil
	}
	chunk := s.chunks[ref/chunkUnit]
	if s.classes[ref/chunkUnit] == big {
		return chunk
	}
	at := chunk[ref%chunkUnit*unit:]
	n := binary.LittleEndian.Uint16(at)
	return at[2 : 2+int(n)]
}

// peek returns some byte of the string. A loop that peeks at many strings waits for their memory once, where one after
// the other would wait for each.
func (s *slab) peek(ref uint32) byte {
	if ref == 0 {
		return 0
	}
	return s.chunks[ref/chunkUnit][ref%chunkUnit*unit]
}

// peekEnd returns the last byte of the string: a long one is in more memory than peek asks for.
func (s *slab) peekEnd(ref uint32) byte {
	if b := s.get(ref); len(b) > 0 {
		return b[len(b)-1]
	}
	return 0
}

// drop gives the place back.
func (s *slab) drop(ref uint32) {
	if ref == 0 {
		return
	}
	c := s.classes[ref/chunkUnit]
	if c == big {
		s.used -= int64(len(s.chunks[ref/chunkUnit]))
		s.chunks[ref/chunkUnit] = nil
		s.spare = append(s.spare, ref/chunkUnit)
		return
	}
	s.used -= int64(places[c] * unit)
	s.free[c] = append(s.free[c], ref)
}

// extend appends b to the string of the ref, in its place if that is large enough for both.
func (s *slab) extend(ref uint32, b []byte) uint32 {
	if ref == 0 {
		return s.put(b)
	}
	old := s.get(ref)
	n := len(old) + len(b)
	if c := s.classes[ref/chunkUnit]; c != big && n+2 <= places[c]*unit {
		copy(s.sized(ref, n)[len(old):], b)
		return ref
	}
	c := class(n)
	if c == big {
		s.drop(ref) // what old holds stays as it was
		return s.putBig(old, b)
	}
	to, at := s.room(c, n)
	copy(at[copy(at, old):], b)
	s.drop(ref)
	return to
}

// replace stores b in place of the ref, in its place if it fits one of the same size.
func (s *slab) replace(ref uint32, b []byte) uint32 {
	if ref != 0 {
		if c := s.classes[ref/chunkUnit]; c != big && c == class(len(b)) {
			copy(s.sized(ref, len(b)), b)
			return ref
		}
		s.drop(ref)
	}
	return s.put(b)
}
