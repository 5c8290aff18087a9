package sessionize

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle/worlds"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// perVersion groups what was written by (generation, input offset, metrics partition), in order of writing.
func perVersion(t testing.TB, recs []broker.Record) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, r := range recs {
		m, err := wire.ReadMessage(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		k := fmt.Sprintf("g%d offset %d partition %d", m.Generation, m.Offset, r.Partition)
		all[k] = append(all[k], r.Value...)
	}
	return all
}

// everyWorld calls fn with the logs of some worlds.
func everyWorld(t *testing.T, n uint64, fn func(seed uint64, chain *tenant.Chain, f *feed)) {
	t.Helper()
	if *long {
		n *= 20
	}
	for seed := range n {
		w := worlds.Generate(1000 + seed)
		_, chain, err := w.Compile()
		if err != nil {
			t.Fatal(err)
		}
		f := newFeed(1)
		f.fill(chain, w.Records, []int64{second, minute, 7 * minute}[seed%3])
		fn(seed, chain, f)
		if t.Failed() {
			t.Fatalf("world %d", 1000+seed)
		}
	}
}

// An owner that begins at any checkpoint of another publishes, from there on, the same bytes under the same versions.
func TestOwnersPublishTheSameBytes(t *testing.T) {
	compared := 0
	everyWorld(t, 12, func(seed uint64, chain *tenant.Chain, f *feed) { compared += ownersAgree(t, chain, f, 20) })
	t.Logf("%d versions compared", compared)
}

// ownersAgree restarts at one of so many checkpoints, and returns how many versions were compared.
func ownersAgree(t *testing.T, chain *tenant.Chain, f *feed, of int) (compared int) {
	t.Helper()
	cfg := config(minute)
	cfg.CheckpointTicks = 1
	blobs := keeping{blob.NewMem()}
	var out sink
	w := open(t, cfg, chain, f, blobs, &out)
	handle(t, w, f.recs)
	want := perVersion(t, out.recs)
	names, err := blobs.List("checkpoints/")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if !strings.HasSuffix(name, ".checkpoint") || (i%of != 3 && !*long) {
			continue
		}
		// The other one has no checkpoint after this one, and takes the records in small polls.
		mine := blob.NewMem()
		for _, n := range names {
			if data, err := blobs.Get(n); err == nil && (n <= name || strings.HasSuffix(n, ".json")) {
				if err := mine.Create(n, data); err != nil {
					t.Fatal(err)
				}
			}
		}
		var got sink
		other := open(t, cfg, chain, f, keeping{mine}, &got)
		from := other.Shard.Offset
		if from == 0 {
			t.Fatalf("%s was not taken", name)
		}
		for at := from - 1; at < int64(len(f.recs)); at += 5 { // some of them again
			handle(t, other, f.recs[at:min(at+9, int64(len(f.recs)))])
		}
		after := perVersion(t, got.recs)
		for k, b := range after {
			if !bytes.Equal(want[k], b) {
				t.Errorf("restarted at %d: %s: %d bytes, the first owner wrote %d", from, k, len(b), len(want[k]))
			}
			compared++
		}
		for k := range want {
			var g, offset, p int64
			fmt.Sscanf(k, "g%d offset %d partition %d", &g, &offset, &p)
			if _, ok := after[k]; !ok && offset > from {
				t.Errorf("restarted at %d: nothing is written for %s", from, k)
			}
		}
		// And its checkpoints say the same.
		again, err := mine.List("checkpoints/")
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range again {
			if i%10 != 0 && !*long {
				continue
			}
			if _, err := blobs.Get(n); err != nil || !strings.HasSuffix(n, ".checkpoint") {
				continue
			}
			differ(t, fmt.Sprintf("restarted at %d: %s", from, n), content(t, chain, f, blobs, n), content(t, chain, f, mine, n))
		}
	}
	return compared
}

// keeping deletes nothing.
type keeping struct{ *blob.Mem }

func (keeping) Delete(string) error { return nil }

// The same input gives the same bytes twice in one process: nothing depends on the order of a map or on a seed.
func TestNothingDependsOnTheOrderOfMaps(t *testing.T) {
	everyWorld(t, 20, func(seed uint64, chain *tenant.Chain, f *feed) {
		var first []broker.Record
		var objects map[string][]byte
		for round := range 3 {
			var out sink
			blobs := keeping{blob.NewMem()}
			handle(t, open(t, config(minute), chain, f, blobs, &out), f.recs)
			names, err := blobs.List("")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]byte{}
			for _, n := range names {
				if got[n], err = blobs.Get(n); err != nil {
					t.Fatal(err)
				}
			}
			if round == 0 {
				first, objects = out.recs, got
				continue
			}
			if len(out.recs) != len(first) || len(got) != len(objects) {
				t.Fatalf("%d messages and %d objects, then %d and %d", len(first), len(objects), len(out.recs), len(got))
			}
			for i := range first {
				if first[i].Partition != out.recs[i].Partition || !bytes.Equal(first[i].Value, out.recs[i].Value) {
					t.Errorf("message %d differs", i)
				}
			}
			for n := range objects {
				if !bytes.Equal(objects[n], got[n]) {
					t.Errorf("object %s differs", n)
				}
			}
		}
	})
}

// A change of the tick is a new generation from the newest checkpoint; its first tick publishes every open row.
func TestANewTickIsANewGeneration(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	for i := range int64(200) {
		f.beacon(t0+i*6*second, hit(fmt.Sprint("s", i%7), fmt.Sprint(i), t0+i*6*second, `,"visitor":"v","device":"mobile"`))
		f.tell(t0 + i*6*second)
	}
	blobs := blob.NewMem()
	var out sink
	handle(t, open(t, config(minute), chain, f, blobs, &out), f.recs)
	before := len(out.recs)
	w := open(t, config(2*minute), chain, f, blobs, &out)
	if w.Shard.ID.Generation != 1 {
		t.Fatalf("generation %d", w.Shard.ID.Generation)
	}
	f.fillTime(t0 + 2*hour)
	handle(t, w, f.recs[w.Shard.Offset:])
	if len(out.recs) == before {
		t.Fatal("nothing was published")
	}
	// The rows that stand are those of one generation throughout.
	var whole sink
	handle(t, open(t, config(minute), chain, f, blob.NewMem(), &whole), f.recs)
	differ(t, "rows", lines(chain, standing(t, whole.recs)), lines(chain, standing(t, out.recs)))
}

// fillTime tells progress until then, minute by minute.
func (f *feed) fillTime(until int64) {
	p, err := wire.ReadProgress(f.recs[len(f.recs)-1].Value)
	if err != nil {
		return
	}
	for ms := p.At[0].MS + minute; ms <= until; ms += minute {
		f.tell(ms)
	}
}

// content is what a checkpoint says.
func content(t testing.TB, chain *tenant.Chain, f *feed, blobs Blobs, name string) []string {
	t.Helper()
	s, _, err := restore(name, blobs.Get, chain, f.payload)
	if err != nil {
		t.Fatal(err)
	}
	return held(t, s)
}

// held is what a checkpoint would say of a shard, its sessions by id: their order is that of the owner's table.
func held(t testing.TB, s *Shard) []string {
	t.Helper()
	var all []string
	err := s.Sessions(func(id []byte, st *session.State, open []session.Event) error {
		text := fmt.Sprintf("%q %x", id, session.AppendState(nil, st))
		for i := range open {
			text += fmt.Sprintf(" %x", session.AppendEvent(nil, &open[i]))
		}
		all = append(all, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return append(all, fmt.Sprintf("%+v %+v %+v %d %d %d %d %+v", s.ID, s.Sources, s.Progress, s.Offset, s.Watermark, s.closed, s.tick, s.Counts))
}
