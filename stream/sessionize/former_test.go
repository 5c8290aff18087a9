package sessionize

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/blob"
)

// TestAFormerOwnerKeepsWhatTheNextBeginsWith: a generation that has no checkpoint of its own yet begins with one of the
// generation before, whose owner may go on for a while.
func TestAFormerOwnerKeepsWhatTheNextBeginsWith(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	for i := range int64(200) {
		f.beacon(t0+i*6*second, hit(fmt.Sprint("s", i%7), fmt.Sprint(i), t0+i*6*second, `,"visitor":"v","device":"mobile"`))
		f.tell(t0 + i*6*second)
	}
	blobs := blob.NewMem()
	var out sink
	cfg := config(minute)
	cfg.CheckpointTicks = 1
	old := open(t, cfg, chain, f, blobs, &out)
	handle(t, old, f.recs[:200])
	next := config(2 * minute)
	next.CheckpointTicks = 1000
	if w := open(t, next, chain, f, blobs, &out); w.Shard.ID.Generation != 1 {
		t.Fatalf("generation %d, not 1", w.Shard.ID.Generation)
	}
	// It goes on to its next checkpoint, where it learns of the claim.
	if err := old.Handle(t.Context(), f.recs[old.Shard.Offset:]); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("the former owner: %v", err)
	}
	if _, err := Open(next, chain, blobs, &out, f.payload); err != nil {
		t.Fatal(err)
	}
}

// TestMetricsPartitionsNeverChange: a row's place among them is part of what its version means.
func TestMetricsPartitionsNeverChange(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	blobs := blob.NewMem()
	var out sink
	cfg := config(minute)
	open(t, cfg, chain, f, blobs, &out)
	cfg.MetricsPartitions++
	if _, err := Open(cfg, chain, blobs, &out, f.payload); err == nil {
		t.Fatal("a shard was opened with another number of metrics partitions")
	}
}

// behind is storage that lists no claim of a generation above the first.
type behind struct{ *blob.Mem }

func (b behind) List(prefix string) ([]string, error) {
	names, err := b.Mem.List(prefix)
	return slices.DeleteFunc(names, func(n string) bool {
		return strings.HasSuffix(n, "/claim.json") && !strings.HasSuffix(n, "/0000000000/claim.json")
	}), err
}

// TestClaimsAreFollowedByName: what an owner tells in a generation that is not the newest does not stand, so it must not go on
// in one because the newest is not listed yet; nor claim it over and over.
func TestClaimsAreFollowedByName(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	blobs := behind{blob.NewMem()}
	var out sink
	for i, tick := range []int64{minute, 2 * minute, 2 * minute, minute, 3 * minute} {
		w, err := Open(config(tick), chain, blobs, &out, f.payload)
		if err != nil {
			t.Fatal(err)
		}
		if want := []int64{0, 1, 1, 2, 3}[i]; w.Shard.ID.Generation != want || w.Shard.ID.TickMS != tick {
			t.Errorf("opening %d: generation %d with a tick of %d ms, want %d with %d", i, w.Shard.ID.Generation, w.Shard.ID.TickMS, want, tick)
		}
	}
}

// TestTheNewestClaimIsFollowed: one that is no owner any more, and does not know it, may claim a generation after that of the
// owner, and then be gone. The owner must not go on telling what no longer stands.
func TestTheNewestClaimIsFollowed(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	for i := range int64(200) {
		f.beacon(t0+i*6*second, hit(fmt.Sprint("s", i%7), fmt.Sprint(i), t0+i*6*second, ""))
		f.tell(t0 + i*6*second)
	}
	blobs := blob.NewMem()
	var out sink
	cfg, other := config(minute), config(2*minute)
	cfg.CheckpointTicks = 1
	owner := open(t, cfg, chain, f, blobs, &out)
	handle(t, owner, f.recs[:100])
	open(t, other, chain, f, blobs, &out)
	if err := owner.Handle(t.Context(), f.recs[100:]); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("the owner goes on in generation %d: %v", owner.Shard.ID.Generation, err)
	}
	owner = open(t, cfg, chain, f, blobs, &out)
	if owner.Shard.ID.Generation != 2 {
		t.Errorf("opened anew it is in generation %d, want 2", owner.Shard.ID.Generation)
	}
	handle(t, owner, f.recs[owner.Shard.Offset:])
}
