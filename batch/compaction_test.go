package batch

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

// compact merges what it can of both partitions; files replaced before are deleted if gone.
func compact(t testing.TB, blobs blob.Store, chain *tenant.Chain, gone bool) (merged int) {
	t.Helper()
	now := int64(0)
	if gone {
		now = archive.CompactionGrace
	}
	for p := range int32(2) {
		manifests, err := archive.Chain(blobs, topic, p)
		if err != nil {
			t.Fatal(err)
		}
		c := &archive.Compactor{Blobs: blobs, Tenant: chain.Tenant, SpanMS: 2 * WindowMS, MaxRows: 40, MaxBytes: 1 << 20}
		done, err := c.Compact(context.Background(), manifests, now)
		if err != nil {
			t.Fatal(err)
		}
		merged += done.Merged
	}
	return merged
}

// Whenever files are compacted and the originals go, the batch comes to the same, also from nothing, and no window is due
// for it.
func TestCompactionChangesNothing(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	rows, _ := wanted(t, configs, records, false)
	for seed := range uint64(devstack.Count(2, 12)) {
		rng := rand.New(rand.NewPCG(seed, 3))
		blobs := blob.NewMem()
		j, st := job(t, chain, blobs, 1+rng.IntN(3))
		merged := 0
		for rest := records; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(30))
			putUntil(t, blobs, chain, rest[:n], 1, rest[n-1].Ingest)
			rest = rest[n:]
			if rng.IntN(3) == 0 {
				run(t, j)
			}
			if rng.IntN(3) == 0 {
				merged += compact(t, blobs, chain, rng.IntN(2) == 0)
			}
		}
		putUntil(t, blobs, chain, nil, 1, session.MaxTS)
		run(t, j)
		merged += compact(t, blobs, chain, false)
		compact(t, blobs, chain, true)
		if merged == 0 {
			t.Fatalf("seed %d: nothing was compacted", seed)
		}
		if p, _, err := j.Plan(context.Background()); p != nil || err != nil {
			t.Fatalf("seed %d: compaction made windows due: %v, %v", seed, p, err)
		}
		sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
		again, fresh := job(t, chain, blobs, 2)
		run(t, again)
		sameLines(t, "rows from nothing", outcomeOf(t, again, fresh).rows, rows)
	}
}

// A plan takes the records of its own offsets, though a file that was compacted since holds more.
func TestAPlanFromBeforeCompaction(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	half := len(records) / 2
	blobs := blob.NewMem()
	for part := range slices.Chunk(records[:half], 20) {
		putUntil(t, blobs, chain, part, 1, part[len(part)-1].Ingest)
	}
	j, st := job(t, chain, blobs, 2)
	ctx := context.Background()
	before, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	before.Progress = session.MaxTS // as if these were all
	covered := map[int64]*Covered{}
	p, err := j.claim(Due(chain, before, covered), uniform(2), nil)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(records[half:], 20) {
		putUntil(t, blobs, chain, part, 1, part[len(part)-1].Ingest)
	}
	putUntil(t, blobs, chain, nil, 1, session.MaxTS)
	if compact(t, blobs, chain, false) == 0 {
		t.Fatal("nothing was compacted")
	}
	compact(t, blobs, chain, true)
	after, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.run(ctx, p, after, time.Now()); err != nil {
		t.Fatal(err)
	}
	rows, _ := wanted(t, configs, records[:half], false)
	sameLines(t, "rows of the plan", outcomeOf(t, j, st).rows, rows)
}

// Windows whose files are retired are not due, in a store that has no coverage of them either.
func TestRetiredWindowsAreNotDue(t *testing.T) {
	chain, _ := compiled(t)
	records := traffic(60)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	blobs := blob.NewMem()
	for part := range slices.Chunk(records, 20) {
		putUntil(t, blobs, chain, part, 1, part[len(part)-1].Ingest)
	}
	putUntil(t, blobs, chain, nil, 1, session.MaxTS)
	j, _ := job(t, chain, blobs, 2)
	a, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	before := t0 + WindowMS
	retired := retire(t, blobs, before)
	if retired == 0 {
		t.Fatal("nothing to retire")
	}
	if first := Due(chain, a, nil)[0].Window; first >= before {
		t.Fatalf("first window %d", first)
	}
	if a, err = j.Archived(); err != nil {
		t.Fatal(err)
	}
	if first := Due(chain, a, nil)[0].Window; first < before {
		t.Errorf("window %d is due, of which files are gone", first)
	}
	run(t, j)
}

// retire retires the event files that hold only event times before a time in ms, and says how many.
func retire(t testing.TB, blobs blob.Store, before int64) (retired int) {
	t.Helper()
	for p := range int32(2) {
		manifests, err := archive.Chain(blobs, topic, p)
		if err != nil {
			t.Fatal(err)
		}
		sources, _, err := archive.ReadSources(blobs, manifests)
		if err != nil {
			t.Fatal(err)
		}
		next := archive.Retirable(sources, before)
		if next == 0 {
			continue
		}
		listed, err := archive.ListFiles(blobs, "shop")
		if err != nil {
			t.Fatal(err)
		}
		files := listed.Behind(topic, p, next)
		retired += len(files)
		if err := archive.Retire(blobs, archive.Retired{Topic: topic, Partition: p, Next: next, Before: before}, files); err != nil {
			t.Fatal(err)
		}
	}
	return retired
}
