package sessionize

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/blob"
)

// repeated is a log in which every beacon of many sessions comes again, minutes later, as another attempt: the payload is another.
// It returns the records too.
func repeated(chain *tenant.Chain, sessions, each int) (*feed, []oracle.Record) {
	rng := rand.New(rand.NewPCG(1, 1))
	var records []oracle.Record
	for k := range sessions * each {
		ts := t0 + int64(k)*10
		for attempt := range 2 + rng.IntN(2) {
			more := fmt.Sprintf(`,"visitor":"v%d","device":%q,"attempt":%d`, k%50, []string{"mobile", "desktop"}[rng.IntN(2)], rng.IntN(10))
			records = append(records, oracle.Record{Ingest: ts + int64(attempt)*rng.Int64N(5*minute), Payload: hit(fmt.Sprint("s", k%sessions), fmt.Sprint(k), ts, more)})
		}
	}
	f := newFeed(1)
	f.fill(chain, records, minute)
	return f, records
}

// Payloads are asked for in the log's order, with few jumps back, and each about once: one by one they would cost a shard more
// than all else, and it would stand still while a client sends everything again.
func TestPayloadsAreAskedForInTheLogsOrder(t *testing.T) {
	chain := load(t, shopYAML)
	f, records := repeated(chain, 100, 40)
	asked, back, last, ticks := 0, 0, int64(0), 0
	payload := func(offset int64) ([]byte, error) {
		if offset < last {
			back++
		}
		asked, last = asked+1, offset
		return f.payload(offset)
	}
	var out sink
	w, err := Open(config(minute), chain, blob.NewMem(), &out, payload)
	if err != nil {
		t.Fatal(err)
	}
	w.Ticked = func(TickStats) { ticks++ }
	handle(t, w, f.recs)
	want := oracle.Run([]*tenant.Config{chain.Revs[0].Config}, records, true)
	differ(t, "rows", want.RowLines(), lines(chain, standing(t, out.recs)))
	if got := w.Shard.Counts.Duplicate; got != want.Counts["duplicate"] || got == 0 {
		t.Errorf("%d duplicates, want %d", got, want.Counts["duplicate"])
	}
	if asked == 0 || asked > 2*int(w.Shard.Counts.Duplicate) || back > ticks {
		t.Errorf("%d payloads were asked for, with %d jumps back in %d ticks, of %d repeats", asked, back, ticks, w.Shard.Counts.Duplicate)
	}
}

// What stands does not depend on how many payloads fit: one session's beyond maxRepeats, and those of many that fill it again
// and again.
func TestMorePayloadsThanAreReadAtOnce(t *testing.T) {
	chain := load(t, shopYAML)
	pad := strings.Repeat("x", 60<<10)
	for _, sessions := range []int{1, 400} {
		f := newFeed(1)
		var records []oracle.Record
		for k := range 400 {
			ts := t0 + int64(k)
			for attempt := range 2 {
				more := fmt.Sprintf(`,"device":%q,"attempt":%d,"pad":%q`, []string{"mobile", "desktop"}[(k+attempt)%2], (k*7+attempt*5)%10, pad)
				records = append(records, oracle.Record{Ingest: ts, Payload: hit(fmt.Sprint("s", k%sessions), fmt.Sprint(k), ts, more)})
			}
		}
		f.fill(chain, records, minute)
		held := 0
		var out sink
		w, err := Open(config(minute), chain, blob.NewMem(), &out, f.payload)
		if err != nil {
			t.Fatal(err)
		}
		w.Shard.Payload = func(offset int64) ([]byte, error) {
			held = max(held, w.Shard.repeats.bytes)
			return f.payload(offset)
		}
		handle(t, w, f.recs)
		want := oracle.Run([]*tenant.Config{chain.Revs[0].Config}, records, true)
		differ(t, "rows", want.RowLines(), lines(chain, standing(t, out.recs)))
		if held < maxRepeats || held > maxRepeats+2<<16 {
			t.Errorf("%d sessions: %d bytes of payloads were to be read at once, of %d", sessions, held, 2*400*len(pad))
		}
	}
}
