package sessionize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"tandem/core/tenant"
	"tandem/schemas/blob"
)

// comeAndGo is traffic of sessions of which few are busy at a time; some are forgotten, and come again under the same id.
func comeAndGo(t testing.TB, seed uint64, ttl string) (*tenant.Chain, *feed) {
	t.Helper()
	chain := load(t, strings.Replace(shopYAML, "session_ttl: 12h", "session_ttl: "+ttl, 1))
	f := newFeed(1)
	rng := rand.New(rand.NewPCG(seed, 5))
	for i := range int64(300) { // they stay for a while
		f.beacon(t0, hit(fmt.Sprint("idle", i), "1", t0, `,"visitor":"v"`))
	}
	f.tell(t0)
	for at := t0; at < t0+6*hour; at += minute {
		for range rng.IntN(8) {
			ts := at + rng.Int64N(minute) - rng.Int64N(8)*minute*rng.Int64N(2)
			id := fmt.Sprint(rng.IntN(40))
			if rng.IntN(4) == 0 {
				id = fmt.Sprint("idle", rng.IntN(300))
			}
			f.beacon(at, hit(id, fmt.Sprint(rng.IntN(1000)), ts, `,"visitor":"v","experiments":{"color":"red"}`))
		}
		f.tell(at + minute)
	}
	return chain, f
}

// everyTick has a checkpoint taken at each.
func everyTick() Config {
	cfg := config(minute)
	cfg.CheckpointTicks = 1
	return cfg
}

// What a delta says, with what it goes on from, is what the shard holds, and checkpoints that are not wanted are deleted.
func TestDeltasAreTheShard(t *testing.T) {
	for _, c := range []struct {
		ttl   string
		ticks int
	}{{"90m", 1}, {"31m", 4}} { // or else no session is changed and forgotten between two checkpoints
		wholes, deltas, gone := deltasAreTheShard(t, c.ttl, c.ticks)
		t.Logf("session_ttl %s: %d whole ones, %d deltas, %d sessions forgotten", c.ttl, wholes, deltas, gone)
		if wholes < 5 || deltas < 40 || gone < 200 {
			t.Errorf("session_ttl %s: %d whole ones, %d deltas, %d sessions forgotten", c.ttl, wholes, deltas, gone)
		}
	}
}

func deltasAreTheShard(t *testing.T, ttl string, ticks int) (wholes, deltas, gone int) {
	t.Helper()
	chain, f := comeAndGo(t, 1, ttl)
	blobs := blob.NewMem()
	cfg := everyTick()
	cfg.CheckpointTicks = ticks
	w := open(t, cfg, chain, f, blobs, &sink{})
	sessions := 0
	w.Ticked = func(st TickStats) {
		c := &st.Checkpoint
		if c.Err != nil {
			t.Fatalf("offset %d: %v", st.Offset, c.Err)
		}
		gone, sessions = gone+max(0, sessions-w.Shard.table.n), w.Shard.table.n
		switch {
		case !c.Taken: // it is not time, or a whole one waits
			return
		case c.Whole:
			wholes++
		default:
			deltas++
		}
		differ(t, fmt.Sprintf("offset %d, whole %t", st.Offset, c.Whole), held(t, w.Shard), content(t, chain, f, blobs, w.checkpointName(0, st.Offset)))
		names, err := blobs.List("checkpoints/")
		if err != nil {
			t.Fatal(err)
		}
		if most := 1 + keepCheckpoints + 2*mostDeltas; len(names) > most {
			t.Fatalf("offset %d: %d objects are kept, more than %d", st.Offset, len(names), most)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	handle(t, w, f.recs)
	return wholes, deltas, gone
}

// While catching up a checkpoint waits until as many records were read since the last one as are left, for maxWait times as long
// at most; with nothing left it does not.
func TestCheckpointsWaitWhileCatchingUp(t *testing.T) {
	chain, f := comeAndGo(t, 3, "90m")
	taken := func(end int64) (n int) {
		w := open(t, everyTick(), chain, f, blob.NewMem(), &sink{})
		w.End = end
		ticks, last, whole := 0, int64(0), int64(0)
		w.Ticked = func(st TickStats) {
			ticks++
			waits := st.Offset-last < end-st.Offset
			if !st.Checkpoint.Taken {
				if !waits && !w.whole() || ticks >= maxWait {
					t.Fatalf("end %d: no checkpoint at %d, %d ticks after the one at %d", end, st.Offset, ticks, last)
				}
				return
			}
			if waits && ticks < maxWait {
				t.Fatalf("end %d: a checkpoint at %d, after the one at %d", end, st.Offset, last)
			}
			if st.Checkpoint.Whole {
				whole = st.Offset
			}
			n, ticks, last = n+1, 0, st.Offset
		}
		handle(t, w, f.recs)
		if whole == 0 {
			t.Fatalf("end %d: no whole checkpoint", end)
		}
		return n
	}
	all, behind, far := taken(0), taken(int64(len(f.recs))), taken(1<<40)
	t.Logf("%d checkpoints of %d records, %d while catching up, %d while far behind", all, len(f.recs), behind, far)
	if far > all/3 || behind <= far || behind >= all {
		t.Errorf("%d checkpoints of %d records, %d while catching up, %d while far behind", all, len(f.recs), behind, far)
	}
}

// Sessions that never pause have open beacons of hours, and only of open minutes is anything summed: not when a shard is restored, nor when
// sketches are formed anew.
func TestClosedMinutesAreNotSummed(t *testing.T) {
	chain := load(t, shopYAML)
	f := newFeed(1)
	for at := t0; at < t0+4*hour; at += minute {
		for k := range 100 {
			f.beacon(at, hit(fmt.Sprint("s", k), fmt.Sprint(at), at, `,"visitor":"v","experiments":{"color":"red"}`))
		}
		f.tell(at + minute)
	}
	blobs := blob.NewMem()
	w := open(t, everyTick(), chain, f, blobs, &sink{})
	var last int64
	w.Ticked = func(st TickStats) {
		if st.Checkpoint.Taken {
			last = st.Offset
		}
	}
	handle(t, w, f.recs)
	allocated := func(do func() error) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	w.Shard.stale[w.Shard.Watermark+5] = struct{}{}
	if n := allocated(w.Shard.forget); n > 2<<20 {
		t.Errorf("forming a minute's sketches anew allocated %d bytes", n)
	}
	if n := allocated(func() error {
		_, _, err := restore(w.checkpointName(0, last), blobs.Get, chain, f.payload)
		return err
	}); n > 6<<20 {
		t.Errorf("restoring the shard allocated %d bytes", n)
	}
}

func TestOwnersThatBeginAtDeltasPublishTheSameBytes(t *testing.T) {
	chain, f := comeAndGo(t, 2, "90m")
	t.Logf("%d versions compared", ownersAgree(t, chain, f, 40))
}

// sometimes fails to create, or does and says that it failed.
type sometimes struct {
	*blob.Mem
	rng *rand.Rand
}

func (s *sometimes) Create(name string, data []byte) error {
	n := 0
	if strings.HasSuffix(name, ".checkpoint") {
		n = s.rng.IntN(20)
	}
	if n == 1 {
		return errors.New("no answer, and not done")
	}
	if err := s.Mem.Create(name, data); err != nil || n != 2 {
		return err
	}
	return errors.New("no answer, though done")
}

// Several owners at once, each with a lineage of its own, of which each deletes what it takes for old: whenever one of them begins
// anew it finds something to begin from, and that is what the shard was there.
func TestOwnersSideBySideDeleteNothingThatIsWanted(t *testing.T) {
	chain, f := comeAndGo(t, 3, "90m")
	states := map[int64][]string{}
	alone := open(t, everyTick(), chain, f, blob.NewMem(), &sink{})
	alone.Ticked = func(st TickStats) { states[st.Offset] = held(t, alone.Shard) }
	handle(t, alone, f.recs)
	begun, orphans := 0, 0
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 6))
		blobs := &sometimes{blob.NewMem(), rng}
		cfg := everyTick()
		cfg.CheckpointTicks = 1 + rng.IntN(3)
		owners := make([]*Worker, 2+rng.IntN(2))
		for done := false; !done; {
			k := rng.IntN(len(owners))
			if owners[k] == nil || rng.IntN(8) == 0 {
				w := open(t, cfg, chain, f, blobs, &sink{})
				if at := w.Shard.Offset; at > 0 {
					begun++
					if differ(t, fmt.Sprintf("seed %d: begun anew at %d", seed, at), states[at], held(t, w.Shard)); t.Failed() {
						return
					}
					if _, _, taken, err := w.newest(); err != nil {
						t.Fatal(err)
					} else if taken[len(taken)-1] != w.line.newest() {
						orphans++
					}
				}
				owners[k] = w
			}
			w := owners[k]
			from := w.Shard.Offset
			to := min(from+rng.Int64N(5+rng.Int64N(150)), int64(len(f.recs)))
			handle(t, w, f.recs[from:to])
			done = to == int64(len(f.recs))
		}
	}
	t.Logf("begun anew %d times, %d of them from another one than the newest", begun, orphans)
	if begun < 150 {
		t.Errorf("begun anew %d times only", begun)
	}
}

// A delta that lost what it goes on from is passed over; a checkpoint that is damaged is not.
func TestOrphans(t *testing.T) {
	chain, f := comeAndGo(t, 4, "90m")
	blobs := blob.NewMem()
	cfg := everyTick()
	w := withDelta(t, chain, f, blobs)
	whole := w.line.names[0]
	if err := blobs.Delete(whole); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg, chain, f, blobs, &sink{})
	if n := again.line.newest(); n == "" || n >= whole {
		t.Fatalf("begun from %q", n)
	}
	// Its owner, which is at work still, sees it and begins a new lineage at once.
	var told []string
	w.Ticked = func(st TickStats) {
		switch c := &st.Checkpoint; {
		case errors.Is(c.Err, errOrphan):
			told = append(told, "lost")
		case c.Err != nil || !c.Taken:
			told = append(told, fmt.Sprintf("%+v", c))
		default:
			told = append(told, fmt.Sprintf("whole %t", c.Whole))
		}
	}
	for len(told) < 3 {
		handle(t, w, f.recs[w.Shard.Offset:w.Shard.Offset+1])
	}
	if got := strings.Join(told, ", "); got != "lost, whole true, whole false" {
		t.Fatalf("its checkpoints: %s", got)
	}
	delta := w.line.newest()
	data, err := blobs.Get(delta)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := errors.Join(blobs.Delete(delta), blobs.Create(delta, data)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := restore(delta, blobs.Get, chain, f.payload); err == nil || !strings.Contains(err.Error(), delta) {
		t.Fatalf("of a damaged one it says %v", err)
	}
}

// withDelta is an owner whose newest checkpoint is a delta of its second lineage.
func withDelta(t testing.TB, chain *tenant.Chain, f *feed, blobs Blobs) *Worker {
	t.Helper()
	w := open(t, everyTick(), chain, f, blobs, &sink{})
	for len(w.line.before) == 0 || len(w.line.names) != 2 {
		handle(t, w, f.recs[w.Shard.Offset:w.Shard.Offset+1])
	}
	return w
}

// Where a shard would go on is where it does, orphans or not; without anything complete it is to begin cold.
func TestResumeAmongOrphans(t *testing.T) {
	chain, f := comeAndGo(t, 6, "90m")
	blobs := blob.NewMem()
	w := withDelta(t, chain, f, blobs)
	same := func(cfg Config, want bool) {
		t.Helper()
		at, ok, err := Resume(cfg, blobs)
		if err != nil || ok != want {
			t.Fatalf("it would go on at %d, %t, %v", at, ok, err)
		}
		again, err := Open(cfg, chain, blobs, &sink{}, f.payload)
		if (err == nil) != want {
			t.Fatalf("it is open: %v", err)
		}
		if ok && again.Shard.Offset != at {
			t.Fatalf("it would go on at %d, and does at %d", at, again.Shard.Offset)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := blobs.Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	same(everyTick(), true)
	remove(w.line.names[0]) // the newest is an orphan
	same(everyTick(), true)
	remove(w.line.before[0]) // all are
	same(everyTick(), false)
	if _, err := ClaimCold(everyTick(), chain, blobs, int64(len(f.recs)), t0+6*hour); err != nil {
		t.Fatal(err)
	}
	same(everyTick(), true)

	// The same of a generation that began with a delta.
	blobs = blob.NewMem()
	w = withDelta(t, chain, f, blobs)
	other := everyTick()
	other.TickMS = 2 * minute
	if next := open(t, other, chain, f, blobs, &sink{}); next.Shard.ID.Generation != 1 || next.Shard.Offset != w.Shard.Offset {
		t.Fatalf("generation %d at %d", next.Shard.ID.Generation, next.Shard.Offset)
	}
	same(other, true)
	remove(w.line.names[0])
	same(other, false)
}

// A new generation begins with a checkpoint of the lineage that began last, which no other owner deletes.
func TestAGenerationBeginsWithWhatLasts(t *testing.T) {
	chain, f := comeAndGo(t, 7, "90m")
	blobs := blob.NewMem()
	cfg := everyTick()
	cfg.CheckpointTicks = 2
	a := open(t, cfg, chain, f, blobs, &sink{})
	for len(a.line.names) < 5 {
		handle(t, a, f.recs[a.Shard.Offset:a.Shard.Offset+1])
	}
	// The other owner's lineage begins at a tick in between.
	from, to := offsetOf(t, a.line.names[3]), offsetOf(t, a.line.names[4])
	later := ""
	b := open(t, everyTick(), chain, f, blob.NewMem(), &sink{})
	b.Ticked = func(st TickStats) {
		if later != "" || st.Offset <= from || st.Offset >= to {
			return
		}
		later = a.checkpointName(0, st.Offset)
		err := blob.CreateInPieces(blobs, later, checkpointHead, 0, func(out io.Writer) (head []byte, err error) {
			head, _, err = b.Shard.WriteCheckpoint(out, "")
			return head, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	handle(t, b, f.recs[:to])
	names, err := blobs.List("checkpoints/")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lasting(slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".checkpoint") }), blobs.Get)
	if err != nil || later == "" || l.newest() != later {
		t.Fatalf("it begins with %v, %v, not with %q", l.names, err, later)
	}
}

func offsetOf(t testing.TB, name string) (at int64) {
	t.Helper()
	if _, err := fmt.Sscanf(path.Base(name), "%d.checkpoint", &at); err != nil {
		t.Fatal(err)
	}
	return at
}

// FuzzRestore: whatever stands in a checkpoint whose digest is right, it is restored or refused.
func FuzzRestore(f *testing.F) {
	chain, log := comeAndGo(f, 5, "90m")
	blobs := keeping{blob.NewMem()}
	w := withDelta(f, chain, log, blobs)
	for _, name := range w.line.names {
		data, err := blobs.Get(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:len(wholeMagic)], data[checkpointHead:])
	}
	f.Fuzz(func(t *testing.T, magic, body []byte) {
		b := binary.LittleEndian.AppendUint64([]byte(fmt.Sprintf("%.6s", magic)), xxhash.Sum64(body))
		get := func(name string) ([]byte, error) {
			if name == "x" {
				return append(b, body...), nil
			}
			return blobs.Get(name)
		}
		s, _, err := restore("x", get, chain, log.payload)
		if err == nil {
			held(t, s)
		}
	})
}
