package sessionize

import (
	"testing"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
)

// What a shard has published last of each row is what the contract says, whatever the tick and however progress is told.
func TestWhatStandsIsTheOraclesStream(t *testing.T) {
	n := uint64(60)
	if *long {
		n = 3000
	}
	for seed := range n {
		w := worlds.Generate(seed)
		configs, chain, err := w.Compile()
		if err != nil {
			t.Fatal(err)
		}
		want := oracle.Run(configs, w.Records, true)
		for _, every := range []int64{second, minute, 20 * minute} {
			f := newFeed(1)
			f.fill(chain, w.Records, every)
			worker, out := playSettling(t, chain, f, every, []int{1, 2, 7, 20, settleEvery}[seed%5])
			differ(t, "rows", want.RowLines(), lines(chain, standing(t, out)))
			c := worker.Shard.Counts
			for name, got := range map[string]int64{"duplicate": c.Duplicate, "overflow": c.Overflow, "late": c.Late,
				"conflict": c.Conflict, "unknown_variation": c.UnknownVariation, "late.clock": c.LateClock} {
				if got != want.Counts[name] {
					t.Errorf("%s is %d, want %d", name, got, want.Counts[name])
				}
			}
			if n := worker.Shard.Stats().Sessions; n != 0 {
				t.Errorf("%d sessions are left", n)
			}
			if t.Failed() {
				t.Fatalf("seed %d, progress every %d ms\n%s", seed, every, w)
			}
		}
	}
}

// A beacon that comes out of order makes its session fold anew, beacons of minutes that were closed long ago included.
// Nothing may be published of those minutes any more: another shard may hold them open in stage 2.
func TestAClosedMinuteIsNotPublishedAgain(t *testing.T) {
	chain := load(t, shopYAML)
	var records []oracle.Record
	add := func(id string, ts, ingest int64) {
		records = append(records, oracle.Record{Ingest: ingest, Payload: hit("s", id, ts, `,"visitor":"v"`)})
	}
	add("a", t0, t0)
	add("c", t0+11*minute, t0+11*minute)
	add("b", t0+10*minute, t0+14*minute) // minute 0 was passed by then
	f := newFeed(1)
	f.fill(chain, records, minute)
	_, out := play(t, chain, f, minute)
	cfg := []*tenant.Config{chain.Revs[0].Config}
	differ(t, "rows", oracle.Run(cfg, records, true).RowLines(), lines(chain, standing(t, out)))
}
