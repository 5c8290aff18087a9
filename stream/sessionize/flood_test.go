package sessionize

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/scripts/devstack"
)

const flat = `
tenant: shop
points:
  home: {}
`

// flood gives a shard n beacons of one session and returns how much memory it held at most, in bytes above what it
// began with, sampled between beacons.
func flood(t *testing.T, n int, beacon func(i int) (id string, ts int64)) (s *Shard, peak uint64) {
	t.Helper()
	chain := load(t, flat)
	recs := make([]int64, 0, n) // what PayloadAt needs to make a payload again
	var payload PayloadAt = func(offset int64) ([]byte, error) {
		id, ts := beacon(int(recs[offset]))
		return hit("s", id, ts, ""), nil
	}
	s = New(Identity{Topic: "t", TickMS: minute}, chain, 0, payload)
	take := func(r *Record) {
		r.Offset = s.Offset
		tick, err := s.Take(r)
		if err == nil && tick {
			if err = s.EndTick(); err == nil {
				s.Close()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tell := func(ms int64) {
		recs = append(recs, 0)
		take(&Record{Progress: &wire.Progress{Sources: newFeed(1).sources, At: []wire.SourceAt{{MS: ms}}}})
	}
	tell(t0)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	for i := range n {
		id, ts := beacon(i)
		recs = append(recs, int64(i))
		take(&Record{Ingest: ts, Payload: hit("s", id, ts, ""), Origin: wire.Origin{Offset: s.Offset}})
		if i%50_000 == 0 || i == n-1 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}
	}
	tell(t0 + 10*minute)
	peak -= min(peak, before.HeapAlloc)
	t.Logf("%d beacons in %v, at most %d MB more held; %+v", n, time.Since(start).Round(time.Millisecond), peak>>20, s.Counts)
	return s, peak
}

func TestAMillionBeaconsOfOneSession(t *testing.T) {
	devstack.AtLength(t)
	n := 60_000
	if *long {
		n = 1_000_000
	}
	const limit = 600
	rng := rand.New(rand.NewPCG(1, 1))
	order := rng.Perm(n)
	at := func(i int) int64 { return t0 + int64(i)%60_000 }
	for name, c := range map[string]struct {
		beacon              func(i int) (string, int64)
		duplicate, overflow int
	}{
		"unique ids, growing":            {func(i int) (string, int64) { return fmt.Sprintf("%07d", i), t0 }, 0, n - limit},
		"unique ids, each smaller":       {func(i int) (string, int64) { return fmt.Sprintf("%07d", n-i), t0 }, 0, n - limit},
		"unique ids, in no order":        {func(i int) (string, int64) { return fmt.Sprintf("%07d", order[i]), at(order[i]) }, 0, n - limit},
		"one id":                         {func(int) (string, int64) { return "a", t0 }, n - 1, 0},
		"one id at every ms, each twice": {func(i int) (string, int64) { return "a", t0 + int64(i/2)%60_000 }, -1, -1},
		"10 minutes, each smaller":       {func(i int) (string, int64) { return fmt.Sprintf("%07d", n-i), t0 + int64(i%10)*minute }, 0, n - 10*limit},
	} {
		t.Run(name, func(t *testing.T) {
			s, peak := flood(t, n, c.beacon)
			if c.duplicate >= 0 && (s.Counts.Duplicate != int64(c.duplicate) || s.Counts.Overflow != int64(c.overflow)) {
				t.Errorf("%d duplicates and %d overflow, want %d and %d", s.Counts.Duplicate, s.Counts.Overflow, c.duplicate, c.overflow)
			}
			if sum := s.Counts.Duplicate + s.Counts.Overflow + int64(openOf(t, s)); sum != int64(n) {
				t.Errorf("%d beacons are accounted for, of %d", sum, n)
			}
			// The arena, doubled by its growth, and what PayloadAt keeps here.
			if most := uint64(n)*(2*60+16) + 16<<20; peak > most {
				t.Errorf("%d MB were held, at most %d MB are fine", peak>>20, most>>20)
			}
		})
	}
}

// openOf counts the open beacons of all sessions.
func openOf(t testing.TB, s *Shard) (n int) {
	t.Helper()
	for i := range s.table.entries {
		n += int(s.table.entries[i].nOpen)
	}
	return n
}

// Floods against the contract, small enough for the oracle: every pattern with a limit of five a minute.
func TestFloodsAgainstTheOracle(t *testing.T) {
	chain := load(t, shopYAML+"max_events_per_minute: 5\n")
	cfg := []*tenant.Config{chain.Revs[0].Config}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var records []oracle.Record
		for range 300 {
			ts := t0 + rng.Int64N(3)*minute + rng.Int64N(4)*20*second
			visitor := fmt.Sprintf(`,"visitor":"v%d","device":%q`, rng.IntN(3), []string{"mobile", "tv"}[rng.IntN(2)])
			payload := hit(fmt.Sprint("s", rng.IntN(2)), fmt.Sprint(rng.IntN(40)), ts, visitor)
			records = append(records, oracle.Record{Ingest: max(ts, t0) + rng.Int64N(6)*minute, Payload: payload})
		}
		f := newFeed(1)
		f.fill(chain, records, []int64{second, minute, 5 * minute}[seed%3])
		w, out := play(t, chain, f, minute)
		want := oracle.Run(cfg, records, true)
		differ(t, "rows", want.RowLines(), lines(chain, standing(t, out)))
		if c := w.Shard.Counts; c.Duplicate != want.Counts["duplicate"] || c.Overflow != want.Counts["overflow"] {
			t.Errorf("%d duplicates, %d overflow, want %d, %d", c.Duplicate, c.Overflow, want.Counts["duplicate"], want.Counts["overflow"])
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Replaced visitors in every one of many sessions: the sketches of a minute are formed anew once a tick, not once for
// each session, which would be quadratic: four times the sessions would take sixteen times the work. It is measured as
// CPU time, since others may be at work on the machine.
func TestManyReplacedVisitorsInOneTick(t *testing.T) {
	chain := load(t, shopYAML)
	work := func(n int) time.Duration {
		f := newFeed(1)
		for i := range n {
			f.beacon(t0, hit(fmt.Sprint("s", i), "a", t0, `,"visitor":"z"`))
		}
		f.tell(t0 + minute)
		for i := range n {
			f.beacon(t0+minute, hit(fmt.Sprint("s", i), "a", t0, fmt.Sprintf(`,"visitor":"w%d"`, i%50)))
		}
		f.tell(t0 + 2*minute)
		start := cpuTime(t)
		_, out := play(t, chain, f, minute)
		took := cpuTime(t) - start
		if got := standing(t, out)[rowName{t0 / minute, "site", "", "visitors"}]["\tdevice=none"]; got != 50 {
			t.Errorf("%d visitors, want 50", got)
		}
		return took
	}
	if few, many := work(5_000), work(20_000); many > 10*few {
		t.Errorf("%v for 5,000 sessions, %v for 20,000", few, many)
	}
}

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
