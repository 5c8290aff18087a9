package session_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/session"
	"tandem/core/tenant"
)

var (
	worldCount = flag.Int("worlds", 100, "how many random worlds TestWorlds compares")
	worldSeed  = flag.Uint64("seed", 0, "the seed of the first of them")
)

// TestWorlds compares Fold with the definitions, and checks the laws that SPEC 7 promises of it. A world that fails is
// shrunk and shown.
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

// checkWorld ends the test at a world that fails.
func checkWorld(t *testing.T, seed uint64) {
	w := worlds.Generate(seed)
	fault := judge(w)
	if fault == "" {
		return
	}
	// The same law must be broken, else shrinking ends at another fault.
	law, _, _ := strings.Cut(fault, "\n")
	w = worlds.Shrink(w, func(w worlds.World) bool {
		l, _, _ := strings.Cut(judge(w), "\n")
		return l == law
	})
	t.Fatalf("seed %d: %s\n%s", seed, judge(w), w)
}

// laws are what must hold in every world. Each returns what is wrong, or "".
var laws = []struct {
	name string
	of   func(configs []*tenant.Config, chain *tenant.Chain, w worlds.World) string
}{
	{"the batch is not what SPEC says", func(configs []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
		return against(configs, chain, w, false)
	}},
	{"the stream is not what SPEC says", func(configs []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
		return against(configs, chain, w, true)
	}},
	{"a Fold in pieces gives other sums", inPieces},
	{"a Fold beacon by beacon leaves another state", oneByOne},
	{"contributions cannot be taken back", takenBack},
	{"beacons and ends taken apart give other sums", apart},
	{"a chain that grew gives other sums", grown},
	{"dispatch admits otherwise than Read", admitted},
}

// judge returns the first law that the world breaks, on a line of its own, and how; "" if it breaks none.
func judge(w worlds.World) (fault string) {
	name := ""
	defer func() {
		if r := recover(); r != nil {
			fault = fmt.Sprintf("%s: it panics\n%v", name, r)
		}
	}()
	configs, err := w.Chain()
	if err != nil {
		return "the configs are refused\n" + err.Error()
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		return "the chain is refused\n" + err.Error()
	}
	for _, law := range laws {
		name = law.name
		if diff := law.of(configs, chain, w); diff != "" {
			return name + "\n" + diff
		}
	}
	return ""
}

func against(configs []*tenant.Config, chain *tenant.Chain, w worlds.World, stream bool) string {
	want := oracle.Run(configs, w.Records, stream)
	d := readAll(chain, w.Records, stream)
	f := d.folder()
	d.fold(f)
	if diff := differences(want.RowLines(), rows(chain, f.Sums)); diff != "" {
		return diff
	}
	if stream { // it counts these two as records come, which only the shard can
		for _, counts := range []map[string]int64{want.Counts, d.counts} {
			delete(counts, "duplicate")
			delete(counts, "overflow")
		}
	}
	return differences(want.CountLines(), d.countLines(f))
}

// inPieces folds in pieces, with events and states that went through their bytes, ends that are counted as the watermark
// passes, and sessions that are forgotten when they are gone.
func inPieces(_ []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	d := readAll(chain, w.Records, false)
	whole, pieces := d.folder(), d.folder()
	rng := rand.New(rand.NewPCG(w.Seed, 1))
	var st session.State // reused, as the layers do
	for _, run := range d.runs {
		var plain session.State
		plain.Reset()
		whole.Fold(&plain, run)

		st.Reset()
		for from := 0; from < len(run); {
			to := from + 1
			for to < len(run) && (run[to].TS == run[to-1].TS || rng.IntN(3) > 0) {
				to++
			}
			var events session.Run
			for i := range run[from:to] {
				e := &run[from+i]
				rest, err := events.Decode(session.AppendEvent(nil, e))
				if err != nil || len(rest) != 0 {
					return fmt.Sprintf("an event does not come back from its bytes: %v, %d bytes left", err, len(rest))
				}
			}
			pieces.Fold(&st, events.Events)
			data := session.AppendState(nil, &st)
			st.Reset()
			if err := st.Decode(chain, data); err != nil {
				return fmt.Sprintf("a state does not come back from its bytes: %v", err)
			}
			if again := session.AppendState(nil, &st); !bytes.Equal(data, again) {
				return fmt.Sprintf("a state that came back from its bytes has others:\n%x\n%x", data, again)
			}
			if to < len(run) && rng.IntN(2) == 0 {
				watermark := run[to].TS - rng.Int64N(min(3, run[to].TS-run[to-1].TS))
				if fault := pass(chain, pieces, &st, watermark); fault != "" {
					return fault
				}
			}
			from = to
		}
		whole.EndVisits(&plain, forever)
		if fault := pass(chain, pieces, &st, forever); fault != "" {
			return fault
		}
	}
	if whole.Counts != pieces.Counts {
		return fmt.Sprintf("counts %+v, in pieces %+v", whole.Counts, pieces.Counts)
	}
	return differences(rows(chain, whole.Sums), rows(chain, pieces.Sums))
}

// oneByOne folds a session at once, and ts by ts with the state through its bytes between: both must leave the same bytes, by which the
// batch knows that a range has not changed.
func oneByOne(_ []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	d := readAll(chain, w.Records, false)
	f := d.folder()
	for _, run := range d.runs {
		var whole, st session.State
		whole.Reset()
		f.Fold(&whole, run)
		st.Reset()
		for from := 0; from < len(run); {
			to := from + 1
			for to < len(run) && run[to].TS == run[from].TS {
				to++
			}
			f.Fold(&st, run[from:to])
			if err := st.Decode(chain, session.AppendState(nil, &st)); err != nil {
				return fmt.Sprintf("a state does not come back from its bytes: %v", err)
			}
			from = to
		}
		if want, got := session.AppendState(nil, &whole), session.AppendState(nil, &st); !bytes.Equal(want, got) {
			return fmt.Sprintf("%x, beacon by beacon\n%x", want, got)
		}
	}
	return ""
}

// pass lets the watermark pass, and forgets the session if it is gone.
func pass(chain *tenant.Chain, f *session.Folder, st *session.State, watermark int64) string {
	before := st.Due(chain)
	f.EndVisits(st, watermark)
	due := st.Due(chain)
	if before >= watermark && due != before {
		return fmt.Sprintf("an end due at %d was counted at %d", before, watermark)
	}
	if due != 0 && due < watermark {
		return fmt.Sprintf("after all ends before %d were counted, one is due at %d", watermark, due)
	}
	for _, e := range st.Pending {
		if e.At < watermark {
			return fmt.Sprintf("an end due at %d is left behind at %d", e.At, watermark)
		}
	}
	if st.Gone(chain, watermark) {
		*st = session.State{}
		st.Reset()
	} else if watermark == forever {
		return "a session is not gone when everything is over"
	}
	return ""
}

// takenBack folds everything, and then with the other sign, in one order and another.
func takenBack(_ []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	d := readAll(chain, w.Records, false)
	f := d.folder()
	type sight struct {
		minute  int64
		key     metric.Key
		visitor uint64
	}
	seen := map[sight]int64{}
	f.Seen = func(minute int64, k metric.Key, visitor uint64) { seen[sight{minute, k, visitor}] += f.Sign }
	d.fold(f)
	f.Sign = -1
	slices.Reverse(d.runs)
	d.fold(f)
	for s, n := range seen {
		if n != 0 {
			return fmt.Sprintf("%+v was seen %d times more than taken back", s, n)
		}
	}
	if f.Counts != (session.Counts{}) {
		return fmt.Sprintf("counts are left: %+v", f.Counts)
	}
	return differences(nil, rows(chain, f.Sums))
}

// apart folds once for beacons and once for ends, as the stream does.
func apart(_ []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	d := readAll(chain, w.Records, false)
	whole, parts := d.folder(), d.folder()
	d.fold(whole)
	parts.Ends = false
	for _, run := range d.runs {
		var st session.State
		st.Reset()
		parts.Fold(&st, run) // no end but the pending ones is left
	}
	parts.Beacons, parts.Ends = false, true
	d.fold(parts)
	if whole.Counts != parts.Counts {
		return fmt.Sprintf("counts %+v, apart %+v", whole.Counts, parts.Counts)
	}
	return differences(rows(chain, whole.Sums), rows(chain, parts.Sums))
}

// grown folds each beacon with the chain as it was when its revision was the last: ids must stay, and what later
// revisions say must not matter.
func grown(configs []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	d := readAll(chain, w.Records, false)
	whole, grown := d.folder(), d.folder()
	d.fold(whole)
	for i := range configs {
		early, err := tenant.Compile(configs[:i+1])
		if err != nil {
			return "the chain without its last revisions is refused: " + err.Error()
		}
		if early.Revs[i].Digest != chain.Revs[i].Digest {
			return "the digest of a revision depends on later ones"
		}
	}
	for _, run := range d.runs {
		var st session.State
		st.Reset()
		for len(run) > 0 {
			rev := slices.IndexFunc(chain.Revs, func(r tenant.Rev) bool { return run[0].TS < r.To })
			n := 1
			for n < len(run) && run[n].TS < chain.Revs[rev].To {
				n++
			}
			early, err := tenant.Compile(configs[:rev+1])
			if err != nil {
				return err.Error()
			}
			data := session.AppendState(nil, &st)
			if err := st.Decode(early, data); err != nil {
				return "a state is refused after the chain grew: " + err.Error()
			}
			grown.Chain = early
			grown.Fold(&st, run[:n])
			run = run[n:]
		}
		grown.EndVisits(&st, forever)
	}
	return differences(rows(chain, whole.Sums), rows(chain, grown.Sums))
}

// admitted reads each record as dispatch does: the same reason, and nothing left out that Read would use.
func admitted(_ []*tenant.Config, chain *tenant.Chain, w worlds.World) string {
	var p beacon.Parser
	var b beacon.Beacon
	var r session.Reader
	for _, record := range w.Records {
		if p.Parse(record.Payload, &b) != beacon.None {
			continue
		}
		var e session.Event
		full := r.Read(chain, &b, record.Ingest, &e)
		light := r.Admit(chain, &b, record.Ingest)
		if full.Reason != light.Reason || full.Late != light.Late || full.Used && !light.Used {
			return fmt.Sprintf("%s: read as %+v, admitted as %+v", record.Payload, full, light)
		}
	}
	return ""
}
