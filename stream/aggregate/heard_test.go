package aggregate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/store"
	"tandem/schemas/wire"
)

// versions keeps every version of each row that is written.
type versions struct {
	*fakeStore
	of map[string][]byte
}

func (v versions) PutRows(ctx context.Context, rows []store.Row) error {
	for _, r := range rows {
		v.of[fmt.Sprint(key(r.Metric, r.Minute), " version ", r.Version)] = bytes.Clone(r.Value)
	}
	return v.fakeStore.PutRows(ctx, rows)
}

// generationsLog is a log of three shards whose owners change: a new one begins further back, and the one before goes on for a while.
func generationsLog(t *testing.T, rng *rand.Rand) *log {
	l := &log{t: t}
	type owner struct{ generation, first, offset, mark int64 }
	owners := [3][]owner{}
	for s := range owners {
		owners[s] = []owner{{mark: 10}}
	}
	for range 120 {
		s := rng.IntN(3)
		all := owners[s]
		o := &all[max(len(all)-1-rng.IntN(6)/5, 0)] // now and then a former one
		o.offset++
		h := head(s, o.generation, o.offset)
		h.FirstMinute = o.first
		switch {
		case rng.IntN(12) == 0:
			last := all[len(all)-1]
			back := rng.Int64N(3)
			owners[s] = append(all, owner{last.generation + 1, last.mark - back, max(last.offset-rng.Int64N(9), 0), last.mark - back})
		case rng.IntN(3) == 0:
			o.mark += rng.Int64N(3)
			l.add(wire.AppendMarker(&h, o.mark, 0))
		default:
			var cells []wire.SymCell
			if v := rng.Int64N(4); v > 0 {
				cells = append(cells, value(v))
			}
			l.add(rowsOf(t, h, o.mark+rng.Int64N(4), "home", cells...)...)
		}
	}
	return l
}

// A version stands for one value, whoever writes it: one that began with the log, or one that begins at a commit and knows of
// the messages before it only what stands beside the commit.
func TestAVersionIsTheSameAfterARestart(t *testing.T) {
	restarts, knew := 0, 0
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 8))
		l := generationsLog(t, rng)
		whole := versions{newStore(), map[string][]byte{}}
		at := &commits{store: whole.fakeStore}
		w := &Worker{State: begin(t, config(3), 0, nil, ""), Store: whole, Commits: at}
		var begins []func() *Worker
		again := map[string][]byte{}
		for n := range l.msgs {
			before := at.at
			if err := w.Handle(t.Context(), l.records(n, n+1)); err != nil {
				t.Fatal(err)
			}
			if at.at == before {
				continue
			}
			offset, note, closed := at.at, at.note, whole.closed["shop"]
			if strings.Contains(note, notePrefix) {
				knew++
			}
			begins = append(begins, func() *Worker {
				return &Worker{State: begin(t, config(3), offset, map[string]int64{"shop": closed}, note), Store: versions{newStore(), again}}
			})
		}
		for _, b := range begins {
			restarts++
			clear(again)
			w := b()
			for n := int(w.State.Offset); n < len(l.msgs); n++ {
				if err := w.Handle(t.Context(), l.records(n, n+1)); err != nil {
					t.Fatal(err)
				}
			}
			for k, got := range again {
				if want, ok := whole.of[k]; !ok || !bytes.Equal(got, want) {
					t.Fatalf("seed %d: %s is %x after a restart, and was %x (%t)", seed, k, got, want, ok)
				}
			}
		}
	}
	if restarts < 300 || knew < restarts/2 {
		t.Errorf("%d restarts, of which %d knew something", restarts, knew)
	}
}

// What a note says is what is noted again, and of one that says too much there is none.
func TestNotes(t *testing.T) {
	cfg := Config{Tenants: []Tenant{{Name: "a", Topics: []string{"x", "y"}, Shards: 9}, {Name: "b", Topics: []string{"z"}, Shards: 2000}}}
	s := begin(t, cfg, 0, map[string]int64{"a": 29_000_050, "b": 29_000_050}, "")
	offset := int64(0)
	tell := func(tenant, topic string, n int32, generation, first, mark int64) {
		h := wire.Head{Tenant: tenant, Topic: topic, Partition: n, Generation: generation, FirstMinute: first}
		if err := s.Take(offset, wire.AppendMarker(&h, mark, 0)); err != nil {
			t.Fatal(err)
		}
		offset++
	}
	tell("a", "x", 0, 0, 0, 0)
	tell("a", "x", 3, 0, 0, 1000)
	tell("a", "x", 3, 4, 1001, 1003)
	tell("a", "y", 1, 1, 990, 1001)
	tell("b", "z", 7, 12, 29_000_000, 29_000_100)
	for at := range offset + 1 {
		note := s.Heard(at)
		again := begin(t, cfg, at, map[string]int64{"a": 29_000_050, "b": 29_000_050}, note)
		if got := again.Heard(at); got != note {
			t.Errorf("at %d: %q, and again %q", at, note, got)
		}
		shards := 0
		for _, x := range again.tenants {
			shards += len(x.marks)
		}
		if want := []int{0, 1, 2, 2, 3, 4}[at]; shards != want {
			t.Errorf("at %d: %d shards", at, shards)
		}
	}
	tell("a", "x", 5, 0, 0, 1<<40) // far in the future
	note := s.Heard(offset)
	if begin(t, cfg, offset, nil, note).tenants["a"].marks[2] != 1<<40 {
		t.Errorf("after it the marks are %v", begin(t, cfg, offset, nil, note).tenants["a"].marks)
	}
	if a := begin(t, Config{Tenants: []Tenant{{Name: "a", Topics: []string{"y"}, Shards: 9}}}, offset, nil, note); len(a.tenants["a"].marks) != 1 || a.tenants["a"].marks[0] != 1001 {
		t.Errorf("of a topic that is left it is known %v", a.tenants["a"].marks)
	}
	if a := begin(t, cfg, offset, nil, "somebody else's"); len(a.tenants["a"].marks) > 0 {
		t.Error("a note of somebody else is taken")
	}
	for n := range int32(1000) {
		tell("b", "z", n, 1, 29_000_000, 29_000_100)
	}
	if note := s.Heard(offset); len(note) < 1000 || len(note) > MaxNote {
		t.Errorf("of 1,000 shards it has %d bytes", len(note))
	}
	for n := range int32(2000) {
		tell("b", "z", n, 2, 29_000_200, 29_000_300)
	}
	if note := s.Heard(offset); note != "" {
		t.Errorf("of 2,000 shards it has %d bytes", len(note))
	}
}

func FuzzNote(f *testing.F) {
	cfg := Config{Tenants: []Tenant{{Name: "a", Topics: []string{"x"}, Shards: 9}}}
	s := begin(f, cfg, 0, nil, "")
	for n := range int32(4) {
		h := wire.Head{Tenant: "a", Topic: "x", Partition: n, Generation: int64(n), FirstMinute: 100}
		if err := s.Take(int64(n), wire.AppendMarker(&h, 110, 0)); err != nil {
			f.Fatal(err)
		}
	}
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(s.Heard(4), notePrefix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(slices.Concat(data, []byte{0xff}))
	f.Add([]byte("\x00\x01a\x01x\x04\x00\x01\x00\x01\x01\x00\x01\x01\x00\x01\x01\x00"))                                          // marks before 0
	f.Add(append(binary.AppendUvarint(nil, math.MaxInt64), "\x01a\x01x\x04\x00\x02\x00\x01\x02\x00\x01\x02\x00\x01\x02\x00"...)) // and past the last
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := New(cfg, 0, nil, notePrefix+base64.RawStdEncoding.EncodeToString(data))
		if err != nil {
			return
		}
		h := wire.Head{Tenant: "a", Topic: "x", Partition: 1, Generation: 7, FirstMinute: 100}
		if err := s.Take(0, wire.AppendMarker(&h, 110, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := New(cfg, 1, nil, s.Heard(1)); err != nil {
			t.Fatalf("what it notes is refused: %v", err)
		}
	})
}
