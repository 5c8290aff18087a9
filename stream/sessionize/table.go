package sessionize

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// entry is a session of the shard. It holds no pointers: bytes live in the slab.
type entry struct {
	core    uint32 // u len(id), id, sealed state; 0: the entry is free
	head    uint32 // state after the open beacons; 0: it is the sealed one
	open    uint32 // open beacons, in order
	nOpen   uint32
	first   int64 // ts of the first and last open beacon
	last    int64
	pending uint32 // place + 1 in the arena of the newest beacon that is not folded yet; 0: none
	nPend   uint16 // at most maxPending
	changed bool   // it is listed in the changes since the last checkpoint; a free entry may be
	due     int64  // minute after which the session must be looked at: no end of a visit in it is before
}

// table finds sessions by id: open addressing over seeded hashes, so that nobody can choose ids that collide.
type table struct {
	seed    maphash.Seed
	slots   []slot
	n       int
	entries []entry
	free    []uint32
}

type slot struct {
	hash  uint32
	entry uint32 // + 1; 0: free
}

func newTable() *table {
	return &table{seed: maphash.MakeSeed(), slots: make([]slot, 64), entries: make([]entry, 0, 64)}
}

// find returns the entry of a session, made if it is not there. Entries move when the table grows: an index is good,
// a pointer is not.
func (t *table) find(s *slab, id []byte) (index uint32, found bool) {
	if 4*t.n >= 3*len(t.slots) {
		t.grow()
	}
	h := uint32(maphash.Bytes(t.seed, id) >> 32)
	mask := uint32(len(t.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		sl := t.slots[i]
		if sl.entry == 0 {
			index = t.take()
			t.slots[i] = slot{h, index + 1}
			t.n++
			return index, false
		}
		if sl.hash == h && bytes.Equal(sessionID(s.get(t.entries[sl.entry-1].core)), id) {
			return sl.entry - 1, true
		}
	}
}

// peek asks for the memory in which sessions that are about to be looked for would be found, by the step: the slots of
// all of them, then the entries, then the ids. Each step waits for memory once. At most peekAhead are asked for.
func (t *table) peek(s *slab, n int, id func(i int) []byte) byte {
	var at [peekAhead]uint32 // the session's entry + 1, then its core; 0: none
	mask := uint32(len(t.slots) - 1)
	n = min(n, peekAhead)
	for k := range n {
		h := uint32(maphash.Bytes(t.seed, id(k)) >> 32)
		i := h & mask
		for t.slots[i].entry != 0 && t.slots[i].hash != h {
			i = (i + 1) & mask
		}
		at[k] = t.slots[i].entry
	}
	for k := range n {
		if at[k] != 0 {
			at[k] = t.entries[at[k]-1].core
		}
	}
	sum := byte(0)
	for k := range n {
		sum += s.peek(at[k])
	}
	return sum
}

func (t *table) take() uint32 {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		return i
	}
	t.entries = append(t.entries, entry{})
	return uint32(len(t.entries) - 1)
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]slot, 2*len(old))
	mask := uint32(len(t.slots) - 1)
	for _, sl := range old {
		if sl.entry == 0 {
			continue
		}
		i := sl.hash & mask
		for t.slots[i].entry != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = sl
	}
}

// remove forgets a session; later slots move up, so that no tombstones gather.
func (t *table) remove(s *slab, index uint32) {
	h := uint32(maphash.Bytes(t.seed, sessionID(s.get(t.entries[index].core))) >> 32)
	mask := uint32(len(t.slots) - 1)
	i := h & mask
	for t.slots[i].entry != index+1 {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.slots[j].entry != 0; j = (j + 1) & mask {
		home := t.slots[j].hash & mask
		if (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	t.n--
	t.entries[index] = entry{changed: t.entries[index].changed}
	t.free = append(t.free, index)
}

func sessionID(core []byte) []byte {
	n, k := binary.Uvarint(core)
	return core[k : k+int(n)]
}

// split takes a core apart.
func split(core []byte) (id, state []byte) {
	n, k := binary.Uvarint(core)
	return core[k : k+int(n)], core[k+int(n):]
}

func appendCore(b, id []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(id))), id...)
}
