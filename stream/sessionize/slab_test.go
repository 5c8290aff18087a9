package sessionize

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// sizesOfStrings lie around every size of place, and beyond the largest.
func sizesOfStrings() []int {
	sizes := []int{0, 1, 100_000, chunkSize - 2, chunkSize, chunkSize + 1, 3 * chunkSize}
	for _, p := range places {
		sizes = append(sizes, p*unit-3, p*unit-2, p*unit-1)
	}
	return sizes
}

func TestSlabAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	sizes := sizesOfStrings()
	text := func() []byte {
		n := sizes[rng.IntN(len(sizes))]
		if n > 10_000 && rng.IntN(20) > 0 {
			n = rng.IntN(400)
		}
		b := make([]byte, n)
		for i := 0; i < n; i += 1 + n/50 {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	var s slab
	model := map[uint32][]byte{}
	var refs []uint32
	for step := range 20_000 {
		switch op := rng.IntN(10); {
		case op < 4 || len(refs) == 0:
			b := text()
			ref := s.put(b)
			if _, taken := model[ref]; ref == 0 || taken {
				t.Fatalf("step %d: place %d is 0 or taken", step, ref)
			}
			model[ref] = b
			refs = append(refs, ref)
		case op < 7:
			i, b := rng.IntN(len(refs)), text()
			old := refs[i]
			delete(model, old)
			refs[i] = s.replace(old, b)
			if _, taken := model[refs[i]]; refs[i] == 0 || taken {
				t.Fatalf("step %d: place %d is 0 or taken", step, refs[i])
			}
			model[refs[i]] = b
		case op < 8:
			i, b := rng.IntN(len(refs)), text()
			old := refs[i]
			both := append(bytes.Clone(model[old]), b...)
			delete(model, old)
			refs[i] = s.extend(old, b)
			if _, taken := model[refs[i]]; refs[i] == 0 || taken {
				t.Fatalf("step %d: place %d is 0 or taken", step, refs[i])
			}
			model[refs[i]] = both
		default:
			i := rng.IntN(len(refs))
			s.drop(refs[i])
			delete(model, refs[i])
			refs[i] = refs[len(refs)-1]
			refs = refs[:len(refs)-1]
		}
		if step%3000 == 0 || step > 19_990 {
			for ref, want := range model {
				if got := s.get(ref); !bytes.Equal(got, want) {
					t.Fatalf("step %d: place %d holds %d other bytes than the %d put there", step, ref, len(got), len(want))
				}
			}
		}
	}
	for _, ref := range refs {
		s.drop(ref)
	}
	if s.used != 0 {
		t.Errorf("all is given back, and %d bytes are used", s.used)
	}
	chunks := len(s.chunks)
	for range 20 {
		s.drop(s.put(make([]byte, 2*chunkSize)))
	}
	if len(s.chunks) > chunks+1 {
		t.Errorf("big strings that came and went took %d chunks", len(s.chunks)-chunks)
	}
	if s.get(0) != nil {
		t.Error("place 0 holds something")
	}
}

func TestTableAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	var s slab
	tab := newTable()
	model := map[string]uint32{}
	var ids []string
	for step := range 200_000 {
		// The table grows to some thousands, and then shrinks to nothing.
		if rng.IntN(200_000) > step {
			id := fmt.Sprint("session-", rng.IntN(20_000))
			i, found := tab.find(&s, []byte(id))
			want, known := model[id]
			if found != known || known && i != want {
				t.Fatalf("step %d: %s at %d (%v), want %d (%v)", step, id, i, found, want, known)
			}
			if !found {
				tab.entries[i].core = s.put(appendCore(nil, []byte(id)))
				model[id] = i
				ids = append(ids, id)
			}
		} else if len(ids) > 0 {
			k := rng.IntN(len(ids))
			i := model[ids[k]]
			core := tab.entries[i].core
			tab.remove(&s, i)
			s.drop(core)
			delete(model, ids[k])
			ids[k] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
		}
		if tab.n != len(model) {
			t.Fatalf("step %d: %d sessions, want %d", step, tab.n, len(model))
		}
	}
	for id, want := range model {
		if i, found := tab.find(&s, []byte(id)); !found || i != want {
			t.Fatalf("%s is lost", id)
		}
	}
	used := 0
	for _, sl := range tab.slots {
		if sl.entry != 0 {
			used++
		}
	}
	if used != len(model) {
		t.Errorf("%d slots for %d sessions", used, len(model))
	}
}

// Nobody can choose ids that collide, but among 300,000 some ten pairs have the same 32 bits.
func TestTableWithCollidingHashes(t *testing.T) {
	var s slab
	tab := newTable()
	id := func(i int) []byte { return fmt.Append(nil, "s", i) }
	const n = 300_000
	entries := make([]uint32, n)
	for i := range n {
		entries[i], _ = tab.find(&s, id(i))
		tab.entries[entries[i]].core = s.put(appendCore(nil, id(i)))
	}
	pairs := map[uint32]int{}
	for _, sl := range tab.slots {
		if sl.entry != 0 {
			pairs[sl.hash]++
		}
	}
	t.Logf("%d of %d sessions share a hash with one before", n-len(pairs), n)
	for i := 0; i < n; i += 2 {
		core := tab.entries[entries[i]].core
		tab.remove(&s, entries[i])
		s.drop(core)
	}
	for i := 1; i < n; i += 2 {
		if got, found := tab.find(&s, id(i)); !found || got != entries[i] {
			t.Fatalf("s%d is lost", i)
		}
	}
	if tab.n != n/2 {
		t.Errorf("%d sessions, want %d", tab.n, n/2)
	}
}
