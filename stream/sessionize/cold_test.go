package sessionize

import (
	"strings"
	"testing"

	"tandem/schemas/blob"
	"tandem/schemas/wire"
)

// aside appends a progress record that also says which sources are set aside.
func (f *feed) aside(aside []int, at ...wire.SourceAt) {
	f.progress(at...)
	p := wire.Progress{Sources: f.sources, At: at, Aside: aside}
	f.recs[len(f.recs)-1].Value = wire.AppendProgress(nil, &p)
}

func TestTheWatermarkDoesNotWaitForASourceSetAside(t *testing.T) {
	f := newFeed(2)
	chain := load(t, shopYAML)
	blobs := blob.NewMem()
	w := open(t, config(minute), chain, f, blobs, &sink{})
	watermark := func(want int64) {
		t.Helper()
		handle(t, w, f.recs)
		if want = (t0 + want) / minute; w.Shard.Watermark != want {
			t.Errorf("the watermark is %d min off", w.Shard.Watermark-want)
		}
	}
	at := func(source int, ms int64) wire.SourceAt { return wire.SourceAt{Source: source, MS: t0 + ms} }
	f.aside(nil, at(0, 55*minute))
	handle(t, w, f.recs)
	if w.Shard.Watermark != 0 {
		t.Error("there is a watermark although a source has never been told of")
	}
	f.aside([]int{1}, at(0, 58*minute)) // its cluster may be gone for good
	watermark(48 * minute)
	f.aside([]int{}, at(0, 60*minute)) // taken back before anybody tells how far it is
	watermark(48 * minute)
	f.aside([]int{1}, at(0, 60*minute), at(1, 10*minute))
	watermark(50 * minute)
	f.aside(nil, at(0, 60*minute)) // says nothing new: it stays aside
	watermark(50 * minute)
	f.aside([]int{}, at(0, 70*minute))
	watermark(50 * minute) // taken back: it waits, and does not go back
	f.beacon(t0+12*minute, hit("late", "a", t0+11*minute, ""))
	f.aside([]int{0, 1}, at(0, 80*minute))
	watermark(50 * minute) // nobody is left to go by
	f.aside([]int{1}, at(0, 90*minute))
	watermark(80 * minute)
	if n := w.Shard.Counts.LateClock; n != 1 {
		t.Errorf("%d beacons are late by the clock of their source, want 1", n)
	}

	again := open(t, config(minute), chain, f, blobs, &sink{}) // what is aside is part of a checkpoint
	f.aside(nil, at(0, 100*minute))
	handle(t, again, f.recs)
	if again.Shard.Watermark != (t0+90*minute)/minute {
		t.Errorf("after a restart the watermark is %d min off", again.Shard.Watermark-(t0+90*minute)/minute)
	}
}

func TestColdGenerations(t *testing.T) {
	chain := load(t, shopYAML)
	blobs := blob.NewMem()
	cfg := config(minute)
	resume := func(want int64, known bool) {
		t.Helper()
		if at, ok, err := Resume(cfg, blobs); at != want || ok != known || err != nil {
			t.Errorf("it would go on at %d, %t, %v; want %d, %t", at, ok, err, want, known)
		}
	}
	resume(0, false)
	first, err := ClaimCold(cfg, chain, blobs, 700, t0+30*second)
	if err != nil {
		t.Fatal(err)
	}
	// Beacons up to max_skew (5 min) ahead of the moment may be before the offset.
	if want := (t0 + 7*minute) / minute; first != want {
		t.Errorf("the first minute is %d min off", first-want)
	}
	resume(700, true)
	f := newFeed(1)
	for range 700 {
		f.beacon(t0, hit("before", "0", t0, ""))
	}
	f.tell(t0 + 6*minute)
	f.beacon(t0+7*minute, hit("a", "1", t0+7*minute-1, ""))
	f.beacon(t0+7*minute, hit("a", "2", t0+7*minute, ""))
	f.tell(t0 + 8*minute)
	out := &sink{}
	w := open(t, cfg, chain, f, blobs, out)
	if w.Shard.Offset != 700 || w.Shard.ID.Generation != 0 {
		t.Errorf("it begins at %d, generation %d", w.Shard.Offset, w.Shard.ID.Generation)
	}
	handle(t, w, f.recs)
	minutes := map[int64]bool{}
	for _, r := range out.recs {
		m, err := wire.ReadMessage(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Marker {
			minutes[m.Minute] = true
		}
	}
	if len(minutes) != 1 || !minutes[first] {
		t.Errorf("told are %v, want only the first minute, %d", minutes, first)
	}

	// A second cold start is another generation, also when two processes claim at once.
	if _, err := ClaimCold(cfg, chain, &racing{Mem: blobs}, 900, t0+hour); err != nil {
		t.Fatal(err)
	}
	resume(900, true)
	if w = open(t, cfg, chain, f, blobs, out); w.Shard.ID.Generation != 2 {
		t.Errorf("generation %d, want 2: one was claimed by another process", w.Shard.ID.Generation)
	}
}

// The checkpoint that a generation began with is lost before the first of its own: nothing is left to go on from, though the log
// has all that comes after it.
func TestAColdStartWithoutTheFirstCheckpoint(t *testing.T) {
	f := newFeed(1)
	chain := load(t, shopYAML)
	blobs := blob.NewMem()
	w := open(t, config(minute), chain, f, blobs, &sink{})
	for k := range int64(4) {
		f.beacon(t0+k*minute, hit("a", "1", t0+k*minute, ""))
		f.tell(t0 + (k+1)*minute)
	}
	handle(t, w, f.recs)
	cfg := config(2 * minute)
	open(t, cfg, chain, f, blobs, &sink{}) // another tick: another generation
	at, ok, err := Resume(cfg, blobs)
	if err != nil || !ok || at == 0 {
		t.Fatalf("it would go on at %d, %t, %v", at, ok, err)
	}
	names, err := blobs.List("checkpoints/")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".checkpoint") {
			if err := blobs.Delete(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, ok, err := Resume(cfg, blobs); ok || err != nil {
		t.Fatalf("it would go on: %t, %v", ok, err)
	}
	if _, err := ClaimCold(cfg, chain, blobs, int64(len(f.recs)), t0+hour); err != nil {
		t.Fatal(err)
	}
	if w = open(t, cfg, chain, f, blobs, &sink{}); w.Shard.ID.Generation != 2 {
		t.Errorf("generation %d, want 2", w.Shard.ID.Generation)
	}
}

// racing is storage in which another process claims a generation just before.
type racing struct {
	*blob.Mem
	done bool
}

func (r *racing) Create(name string, data []byte) error {
	if !r.done && strings.HasSuffix(name, "/claim.json") {
		r.done = true
		if err := r.Mem.Create(name, data); err != nil {
			return err
		}
	}
	return r.Mem.Create(name, data)
}
