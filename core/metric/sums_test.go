package metric

import (
	"bytes"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// groupCells are the sizes of the groups of these tests; GroupSeen is that of visitors, as everywhere.
func groupCells(group int) int { return []int{2, 1, 4, 5, MaxCells}[group] }

func knownCells(group int) (int, bool) {
	if group > 4 {
		return 0, false
	}
	return groupCells(group), true
}

// random adds random contributions.
func random(rng *rand.Rand, s *Sums, n int) {
	for range n {
		m := s.At(29_000_000 + int64(rng.IntN(40)))
		group := rng.IntN(5)
		k := NewKey(rng.IntN(3), group, rng.IntN(4), uint32(rng.IntN(30)))
		if group == GroupSeen {
			m.Seen(to(scopeOf(k), rng.IntN(2) > 0), pageOf(k), rng.Uint64())
			continue
		}
		postSome(rng, m, k, rng.Uint64()*uint64(rng.IntN(2)), rng.IntN(2) > 0, func(int, int64) {})
	}
}

// postSome adds to some cells of a page, by deltas of which some fit a byte and some do not, and tells of each.
func postSome(rng *rand.Rand, m *Minute, k Key, visitor uint64, twice bool, told func(cell int, delta int64)) {
	n := groupCells(k.Group())
	mask := uint64(0)
	for range 1 + rng.IntN(12) {
		mask |= 1 << rng.IntN(n)
	}
	var deltas []int64
	for c := range n {
		if mask>>c&1 == 0 {
			continue
		}
		d := []int64{0, 1, -1, 127, -128, 128, -129, 1e12, int64(rng.IntN(2001)) - 1000}[rng.IntN(2+rng.IntN(8))]
		deltas = append(deltas, d)
		told(c, d)
	}
	m.Post(to(scopeOf(k), twice), pageOf(k), n, mask, deltas, visitor)
}

// Those of the scopes that get it twice come first, whatever order they are added in.
func TestTo(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	for range 200 {
		var to To
		var got, want Sums
		page := NewKey(0, 2, 0, 7)
		for i := range 1 + rng.IntN(9) {
			k, twice := NewKey(1+2*i, 0, i%3, 0), rng.IntN(2) > 0
			to.Add(k, twice)
			scopes := []Key{k}
			if twice {
				scopes = append(scopes, k.NextScope())
			}
			for _, k := range scopes {
				want.At(1).Post(To{Scopes: []Key{k | page}}, 0, groupCells(2), 0b1010, []int64{300, -1}, 42)
			}
		}
		got.At(1).Post(to, page, groupCells(2), 0b1010, []int64{300, -1}, 42)
		if a, b := all(t, &got), all(t, &want); !maps.Equal(a, b) {
			t.Fatalf("%d scopes, %d of them twice, get\n%v, want\n%v", len(to.Scopes), to.Twice, a, b)
		}
	}
}

// scopeOf and pageOf are a key in two, as sessions name it.
func scopeOf(k Key) Key { return NewKey(k.Scope(), 0, k.Variation(), 0) }
func pageOf(k Key) Key  { return NewKey(0, k.Group(), 0, k.Tags()) }

func to(k Key, twice bool) (t To) {
	t.Add(k, twice)
	return t
}

type cellID struct {
	minute                 int64
	scope, group, cell, va int
	tags                   uint32
}

// all reads every cell; of visitors the sketch's bytes.
func all(t *testing.T, s *Sums) map[cellID]any {
	t.Helper()
	cells := map[cellID]any{}
	for _, m := range s.Minutes() {
		err := m.Rows(groupCells, func(scope, group, cell int, row []Cell) error {
			for _, c := range row {
				id := cellID{m.Minute, scope, group, cell, c.Variation, c.Tags}
				if cells[id] = any(c.Value); c.Sketch != nil {
					cells[id] = string(c.Sketch.AppendBinary(nil))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return cells
}

// encoded is all pages of sums in bytes, and how many pages.
func encoded(s *Sums) (b []byte, n int) {
	var p Pages
	for w := s.Walk(groupCells); w.Next(&p); n++ {
		b = p.AppendBinary(b)
	}
	return b, n
}

func bytesOf(s *Sums) []byte {
	b, _ := encoded(s)
	return b
}

// take notes the cells of pages.
func take(p *Pages, cells map[cellID]any) {
	for i, k := range p.Keys {
		id := cellID{p.Minute, k.Scope(), k.Group(), 0, k.Variation(), k.Tags()}
		if k.Group() == GroupSeen {
			cells[id] = string(p.Sketches[i].AppendBinary(nil))
			continue
		}
		n := groupCells(k.Group())
		for id.cell = range n {
			if v := p.Cells[i*n+id.cell]; v != 0 {
				cells[id] = v
			}
		}
	}
}

func TestPagesInBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	for _, n := range []int{0, 1, 10, 3000} {
		var s Sums
		random(rng, &s, n)
		b, pages := encoded(&s)
		if again := bytesOf(&s); !bytes.Equal(again, b) {
			t.Fatal("the same sums give other bytes")
		}
		walked, back := map[cellID]any{}, map[cellID]any{}
		var p, last Pages
		for w := s.Walk(groupCells); w.Next(&p); {
			take(&p, walked)
			if len(last.Keys) > 0 && (p.Row() < last.Row() || p.Row() == last.Row() && p.Minute <= last.Minute) {
				t.Fatalf("row %d, minute %d after row %d, minute %d", p.Row(), p.Minute, last.Row(), last.Minute)
			}
			last.Keys, last.Minute = append(last.Keys[:0], p.Keys...), p.Minute
		}
		if !maps.Equal(all(t, &s), walked) {
			t.Fatalf("a walk over %d contributions does not have what there is", n)
		}
		rest := b
		for range pages {
			at := rest
			var err error
			if rest, err = p.ReadBinary(rest, knownCells); err != nil {
				t.Fatal(err)
			}
			take(&p, back)
			if again := p.AppendBinary(nil); !bytes.Equal(again, at[:len(at)-len(rest)]) {
				t.Fatal("pages that were read have other bytes")
			}
			for cut := range len(at) - len(rest) {
				if cut%(1+(len(at)-len(rest))/20) != 0 {
					continue
				}
				var p Pages
				if _, err := p.ReadBinary(at[:cut], knownCells); err == nil {
					t.Fatalf("cut to %d of %d bytes: taken", cut, len(at)-len(rest))
				}
			}
		}
		if len(rest) != 0 || !maps.Equal(walked, back) {
			t.Fatalf("%d contributions come back otherwise", n)
		}
	}
}

// Pages that are added are those of what contributed to either, whatever memory they are in, and those added stay.
func TestAddedPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 4))
	var sum, part Pages
	for range 300 {
		row, union := NewKey(rng.IntN(3), rng.IntN(5), 0, 0), Sums{}
		group := row.Group()
		sum.Reset()
		for range rng.IntN(5) {
			var s Sums
			for range 1 + rng.IntN(40) {
				k, v, d := row+NewKey(0, 0, rng.IntN(3), uint32(rng.IntN(6))), rng.Uint64(), int64(rng.IntN(5)-2)
				for _, m := range []*Minute{s.At(7), union.At(7)} {
					if group == GroupSeen {
						m.Seen(to(k, false), 0, v)
					} else {
						m.Post(to(k, false), 0, groupCells(group), 1<<(groupCells(group)-1), []int64{d}, 0)
					}
				}
			}
			if w := s.Walk(groupCells); w.Next(&part) {
				before := bytesOf(&s)
				sum.Minute = 7
				sum.Add(&part)
				if !bytes.Equal(bytesOf(&s), before) {
					t.Fatal("what was added has changed")
				}
			}
		}
		got := map[cellID]any{}
		take(&sum, got)
		if want := all(t, &union); !maps.Equal(got, want) {
			t.Fatalf("the sum of pages is\n%v, want\n%v", got, want)
		}
	}
}

// The order of contributions, and pages that came and went again, change no byte.
func TestSumsAreCanonical(t *testing.T) {
	type one struct {
		minute int64
		k      Key
		cell   int
		v      int64
	}
	rng := rand.New(rand.NewPCG(2, 3))
	var list []one
	for range 2000 {
		group := []int{0, 2, 3, 4}[rng.IntN(4)]
		list = append(list, one{int64(rng.IntN(9)), NewKey(rng.IntN(3), group, rng.IntN(9), uint32(rng.IntN(99))), rng.IntN(groupCells(group)), int64(rng.IntN(5)) - 2})
	}
	add := func(s *Sums, o one, sign int64, at int) {
		m, n, twice := s.At(o.minute), groupCells(o.k.Group()), at%2 > 0
		m.Post(to(scopeOf(o.k), twice), pageOf(o.k), n, 1<<o.cell, []int64{sign * o.v}, 0)
		if !twice {
			m.Post(to(scopeOf(o.k).NextScope(), false), pageOf(o.k), n, 1<<o.cell, []int64{sign * o.v}, 0)
		}
	}
	var want []byte
	for round := range 4 {
		var s Sums
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for i, o := range list {
			add(&s, o, 1, i)
			if round > 1 { // and take back something that was never wanted
				gone := list[(i*7)%len(list)]
				gone.minute, gone.v = gone.minute+int64(i%3)*100, 5
				add(&s, gone, 1, i)
				add(&s, gone, -1, i/2)
			}
		}
		b := bytesOf(&s)
		if round == 0 {
			want = b
		} else if !bytes.Equal(b, want) {
			t.Fatalf("round %d: other bytes", round)
		}
	}
}

// Sums that were used before are like new ones.
func TestResetSumsAreEmpty(t *testing.T) {
	var used Sums
	for seed := range uint64(4) {
		used.Reset()
		if len(used.Minutes()) != 0 || len(bytesOf(&used)) != 0 {
			t.Fatalf("round %d: something is left", seed)
		}
		var fresh Sums
		random(rand.New(rand.NewPCG(seed, 5)), &used, 4000>>seed)
		random(rand.New(rand.NewPCG(seed, 5)), &fresh, 4000>>seed)
		if !bytes.Equal(bytesOf(&used), bytesOf(&fresh)) {
			t.Fatalf("round %d: other bytes than of new sums", seed)
		}
	}
}

// An empty sketch is as if it had never been: forgetting it once more touches nothing.
func TestForgetSeenTouchesOnlyWhatIsThere(t *testing.T) {
	var s Sums
	m := s.At(1)
	k := NewKey(0, GroupSeen, 0, 7)
	rows := func() (n, cells int) {
		err := m.Runs(func(r *Run) error {
			n += bits.OnesCount64(r.Touched)
			for i := range r.Pages {
				if sketch := r.Sketch(i); sketch != nil && !sketch.Empty() {
					cells++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, cells
	}
	m.Seen(to(k, false), 0, 42)
	m.Untouch()
	m.ForgetSeen()
	if n, cells := rows(); n != 1 || cells != 0 {
		t.Errorf("a visitor went: %d rows with %d cells, want the empty row", n, cells)
	}
	m.Untouch()
	m.ForgetSeen()
	if n, _ := rows(); n != 0 {
		t.Errorf("nothing was there to forget, and %d rows are touched", n)
	}
	m.Seen(to(k, false), 0, 43)
	if n, cells := rows(); n != 1 || cells != 1 {
		t.Errorf("%d rows with %d cells after another visitor", n, cells)
	}
}

// Runs shows, tick after tick, exactly what was touched, and all pages of a row that has a touched cell.
func TestRunsAreWhatWasTouched(t *testing.T) {
	for _, visitors := range []int{50, 1e6} {
		t.Run(fmt.Sprint(visitors), func(t *testing.T) { runsAreWhatWasTouched(t, visitors) })
	}
}

// runsAreWhatWasTouched: of how many visitors each is one.
func runsAreWhatWasTouched(t *testing.T, visitors int) {
	rng := rand.New(rand.NewPCG(5, 3))
	type rowID struct{ scope, group int }
	var s Sums
	m := s.At(1)
	values, sketches := map[Key]map[int]int64{}, map[Key]*Sketch{}
	for tick := range 60 {
		touched := map[rowID]uint64{}
		for range []int{0, 1, 3, 40, 400}[rng.IntN(5)] {
			group := []int{0, 2, 3, 4}[rng.IntN(4)]
			k := NewKey(rng.IntN(20), group, rng.IntN(4), uint32(rng.IntN(5)))
			visitor := (1 + uint64(rng.IntN(visitors))) * mix
			keys := []Key{k}
			if rng.IntN(3) > 0 {
				if rng.IntN(2) > 0 {
					visitor = 0
				}
				twice := rng.IntN(2) > 0
				if twice {
					keys = append(keys, k.NextScope())
				}
				postSome(rng, m, k, visitor, twice, func(cell int, delta int64) {
					for _, k := range keys {
						if values[k] == nil {
							values[k] = map[int]int64{}
						}
						values[k][cell] += delta
						touched[rowID{k.Scope(), group}] |= 1 << cell
					}
				})
			} else {
				m.Seen(to(k.withGroup(GroupSeen), false), 0, visitor)
			}
			if visitor == 0 {
				continue
			}
			for _, k := range keys {
				seen := k.withGroup(GroupSeen)
				if sketches[seen] == nil {
					sketches[seen] = &Sketch{}
				}
				if sketches[seen].Add(visitor) {
					touched[rowID{k.Scope(), GroupSeen}] |= 1
				}
			}
		}
		if tick%5 == 4 { // more than the journal holds
			k := NewKey(1, 4, 1, 1)
			if values[k] == nil {
				values[k] = map[int]int64{}
			}
			for range journalMost / 2 {
				m.Post(to(k, false), 0, MaxCells, 1<<62, []int64{300}, 0)
			}
			values[k][62] += 300 * journalMost / 2
			touched[rowID{1, 4}] |= 1 << 62
		}
		last := -1
		err := m.Runs(func(r *Run) error {
			id := rowID{r.Scope, r.Group}
			if at := r.Scope*10 + r.Group; at <= last {
				t.Fatalf("tick %d: scope %d, group %d comes late", tick, r.Scope, r.Group)
			} else {
				last = at
			}
			if r.Touched != touched[id] {
				t.Fatalf("tick %d: scope %d, group %d: cells %b are touched, want %b", tick, r.Scope, r.Group, r.Touched, touched[id])
			}
			delete(touched, id)
			pages := 0
			for k := range values {
				if k.Scope() == r.Scope && k.Group() == r.Group {
					pages++
				}
			}
			if r.Group != GroupSeen && pages != r.Pages {
				t.Fatalf("tick %d: scope %d, group %d has %d pages, want %d", tick, r.Scope, r.Group, r.Pages, pages)
			}
			for i := range r.Pages {
				variation, tags := r.Page(i)
				k := NewKey(r.Scope, r.Group, variation, tags)
				if r.Group == GroupSeen {
					if !bytes.Equal(r.Sketch(i).AppendBinary(nil), sketches[k].AppendBinary(nil)) {
						t.Fatalf("tick %d: the visitors of a page are others", tick)
					}
					continue
				}
				for c := range groupCells(r.Group) {
					if r.Value(i, c) != values[k][c] {
						t.Fatalf("tick %d: key %x, cell %d is %d, want %d", tick, k, c, r.Value(i, c), values[k][c])
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(touched) > 0 {
			t.Fatalf("tick %d: rows that were touched are missing: %v", tick, touched)
		}
		m.Untouch()
	}
}

func FuzzPages(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{1, 20} {
		var s Sums
		random(rng, &s, n)
		f.Add(bytesOf(&s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Pages
		for len(b) > 0 {
			rest, err := p.ReadBinary(b, knownCells)
			if err != nil {
				return
			}
			if again := p.AppendBinary(nil); !bytes.Equal(again, b[:len(b)-len(rest)]) {
				t.Fatalf("% x is read, and written as % x", b[:len(b)-len(rest)], again)
			}
			b = rest
		}
	})
}
