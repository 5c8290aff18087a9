package embedded

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/stream/sessionize"
)

var (
	worldCount = flag.Int("worlds", 300, "random worlds that the pipeline is run through")
	worldSeed  = flag.Uint64("seed", 1, "seed of the first world")
)

// TestWorlds runs random worlds through the whole pipeline in random schedules: raw partitions that run apart, every
// stage in pieces of random size, shards restarted from checkpoints, aggregates and archivers reopened, dispatchers that
// read again, second owners that go on publishing, batches in the middle. The stream must come to the oracle over the
// records that are not late, the batch to the oracle over all.
func TestWorlds(t *testing.T) {
	lanes := uint64(runtime.GOMAXPROCS(0))
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			for n := lane; n < uint64(*worldCount); n += lanes {
				checkWorld(t, *worldSeed+n)
			}
		})
	}
}

func checkWorld(t *testing.T, seed uint64) {
	w := worlds.Generate(seed)
	if _, err := w.Chain(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if diff := differs(w, seed); diff != "" {
		small := worlds.Shrink(w, func(w worlds.World) bool { return differs(w, seed) != "" })
		t.Fatalf("seed %d:\n%s\nshrunk world (run with -seed %d -worlds 1):\n%s\n%s", seed, diff, seed, small, differs(small, seed))
	}
}

// scheduled runs a random world through the whole pipeline in a random schedule, and leaves it as it is then.
func scheduled(t *testing.T, seed uint64) (worlds.World, *tenant.Chain, *rand.Rand, *schedule) {
	t.Helper()
	w := worlds.Generate(seed)
	_, chain, err := w.Compile()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 0x776f726c64))
	s, err := newSchedule(r, chain, w.Records)
	if err == nil {
		err = s.run()
	}
	if err != nil {
		t.Fatal(err)
	}
	return w, chain, r, s
}

// differs returns how the pipeline's outcome differs from the oracle's, "" if it does not.
func differs(w worlds.World, seed uint64) string {
	configs, chain, err := w.Compile()
	if err != nil {
		return ""
	}
	r := rand.New(rand.NewPCG(seed, 0x776f726c64))
	s, err := newSchedule(r, chain, w.Records)
	if err != nil {
		return "open: " + err.Error()
	}
	defer s.st.Close()
	if err := s.run(); err != nil {
		return fmt.Sprintf("%s: %v", s, err)
	}
	var b strings.Builder
	ctx := context.Background()
	for _, layer := range []string{"stream", "batch", "both"} {
		want := oracle.Run(configs, w.Records, layer == "stream")
		got, err := Lines(ctx, s.p.Store, chain.Tenant, layer, 0, store.MaxMinute)
		if err != nil {
			return err.Error()
		}
		diffLines(&b, layer+" rows", want.RowLines(), got)
		counts := s.p.StreamCounts()
		if layer != "stream" {
			if counts, err = s.p.BatchCounts(ctx); err != nil {
				return err.Error()
			}
		}
		if s.again {
			continue // what was dispatched twice is counted twice
		}
		if layer == "stream" && s.p.opt.Raw > 1 {
			// What is a duplicate and what an overflow depends on the order in which records come (SPEC 11).
			for _, c := range []map[string]int64{counts, want.Counts} {
				delete(c, "duplicate")
				delete(c, "overflow")
			}
		}
		diffLines(&b, layer+" counts", want.CountLines(), CountLines(counts))
	}
	if b.Len() > 0 {
		return s.String() + "\n" + b.String()
	}
	return ""
}

func diffLines(b *strings.Builder, what string, want, got []string) {
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintf(b, "%s: missing %q\n", what, l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintf(b, "%s: too much %q\n", what, l)
		}
	}
}

// schedule is one random run of a pipeline.
type schedule struct {
	r     *rand.Rand
	p     *Pipeline
	st    store.Store
	raw   []Raw
	again bool // a dispatcher has read again
	// zombies are former owners of shards that do not know it yet.
	zombies []step
	calm    bool // no restarts: counts must be exact
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func newSchedule(r *rand.Rand, chain *tenant.Chain, records []oracle.Record) (*schedule, error) {
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		return nil, err
	}
	opt := Defaults()
	opt.Raw = pick[int32](r, 1, 1, 2, 3)
	opt.Shards = pick[int32](r, 1, 2, 3, 7)
	opt.Metrics = pick[int32](r, 1, 2)
	opt.TickMS = pick[int64](r, 1000, 10_000, 60_000, 300_000)
	opt.ArchiveRows = pick(r, 1, 3, 10, 1000)
	opt.Ranges = pick(r, 1, 1, 2, 5)
	opt.CheckpointTicks = pick(r, 0, 1, 1, 2, 5)
	s := &schedule{r: r, st: st, calm: r.IntN(2) == 0}
	for _, rec := range records {
		s.raw = append(s.raw, Raw{Partition: r.Int32N(opt.Raw), Ingest: rec.Ingest, Payload: rec.Payload})
	}
	slices.SortStableFunc(s.raw, func(a, b Raw) int {
		if a.Ingest != b.Ingest {
			return int(min(max(a.Ingest-b.Ingest, -1), 1))
		}
		return bytes.Compare(a.Payload, b.Payload)
	})
	s.p, err = Open(context.Background(), opt, chain, NewMemory(), blob.NewMem(), st)
	return s, err
}

func (s *schedule) String() string {
	return fmt.Sprintf("%+v calm=%v again=%v", s.p.opt, s.calm, s.again)
}

func (s *schedule) run() error {
	ctx := context.Background()
	if err := s.p.Feed(ctx, s.raw); err != nil {
		return err
	}
	for range 20 + s.r.IntN(60) {
		if err := s.anything(ctx); err != nil {
			return err
		}
	}
	if err := s.p.Finish(ctx); err != nil {
		return err
	}
	for _, z := range s.zombies {
		if _, err := z(ctx, math.MaxInt); err != nil {
			return err
		}
	}
	return s.p.Finish(ctx)
}

// anything does one random thing.
func (s *schedule) anything(ctx context.Context) error {
	stages := s.p.stages()
	switch n := s.r.IntN(20); {
	case n < 14 || s.calm:
		_, err := pick(s.r, stages...)(ctx, 1+s.r.IntN(30))
		return err
	case n < 15:
		return s.p.Job().Run(ctx)
	case n < 16 && len(s.zombies) > 0:
		_, err := pick(s.r, s.zombies...)(ctx, 1+s.r.IntN(30))
		return err
	case n < 17:
		i := s.r.Int32N(s.p.opt.Shards)
		if s.r.IntN(2) == 0 {
			s.zombie(int(i))
		}
		if s.r.IntN(4) == 0 { // another tick is another generation
			s.p.opt.TickMS = pick[int64](s.r, 1000, 10_000, 60_000, 300_000)
		}
		return s.p.openShard(i)
	case n < 18:
		return s.p.openArchiver(s.r.Int32N(s.p.opt.Shards))
	case n < 19:
		i := s.r.Int32N(s.p.opt.Metrics)
		return s.p.openAggregate(ctx, i, s.p.aggregates[i].State.Commit())
	default:
		s.again = true
		s.p.openDispatcher()
		for i := range s.p.rawAt {
			s.p.rawAt[i] = s.r.Int64N(s.p.rawAt[i] + 1)
		}
	}
	return nil
}

// zombie keeps the present owner of a shard going beside the next one.
func (s *schedule) zombie(i int) {
	old := s.p.shards[i]
	for k, stage := range s.p.stages() {
		// The stages of a shard come after those of the raw partitions, two by two with its archiver.
		if k != int(s.p.opt.Raw)+2*i {
			continue
		}
		gone := false
		s.zombies = append(s.zombies, func(ctx context.Context, most int) (int, error) {
			if gone {
				return 0, nil
			}
			now := s.p.shards[i]
			s.p.shards[i] = old
			n, err := stage(ctx, most)
			s.p.shards[i] = now
			if gone = errors.Is(err, sessionize.ErrSuperseded); gone {
				return 0, nil
			}
			return n, err
		})
	}
}
