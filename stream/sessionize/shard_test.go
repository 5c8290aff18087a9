package sessionize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/core/beacon"
	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// bare is a shard without a worker, that closes each tick by itself.
type bare struct {
	*Shard
	t testing.TB
}

func newBare(t testing.TB, chain *tenant.Chain, tick int64) bare {
	payload := func(int64) ([]byte, error) { return nil, fmt.Errorf("no payload is wanted") }
	return bare{New(Identity{Topic: "t", TickMS: tick}, chain, 0, payload), t}
}

func (b bare) take(r Record) (tick bool) {
	b.t.Helper()
	r.Offset = b.Offset
	tick, err := b.Take(&r)
	if err == nil && tick {
		if err = b.EndTick(); err == nil {
			b.Close()
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return tick
}

func (b bare) progress(sources wire.Sources, at ...wire.SourceAt) bool {
	return b.take(Record{Progress: &wire.Progress{Sources: sources, At: at}})
}

func TestWatermarkOverSourcesAndRevisions(t *testing.T) {
	chain := load(t, flat) // lateness 10 min
	s := newBare(t, chain, minute)
	two := newFeed(2).sources
	m := t0 / minute
	want := func(what string, w int64) {
		t.Helper()
		if s.Watermark != w {
			t.Errorf("%s: watermark %d, want %d", what, s.Watermark-m, w-m)
		}
	}
	s.progress(two, wire.SourceAt{Source: 0, MS: t0 + hour})
	want("a source that was never heard of", 0)
	s.progress(two, wire.SourceAt{Source: 1, MS: t0 + 11*minute - 1})
	want("minute 0 ends, and its lateness, 1 ms later", m)
	s.progress(two, wire.SourceAt{Source: 1, MS: t0 + 11*minute})
	want("minute 0 is passed", m+1)
	s.progress(two, wire.SourceAt{Source: 0, MS: t0 + 5*hour})
	want("an idle source holds it", m+1)
	s.progress(two, wire.SourceAt{Source: 1, MS: t0})
	want("it never goes back", m+1)
	three := newFeed(3).sources
	three.Revision = 2
	s.progress(three, wire.SourceAt{Source: 1, MS: t0 + 5*hour})
	want("a new source holds it until it is heard", m+1)
	s.progress(two, wire.SourceAt{Source: 1, MS: t0 + 6*hour})
	want("an older list of sources changes nothing", m+1)
	s.progress(three, wire.SourceAt{Source: 2, MS: t0 + 3*hour})
	want("the new source is heard", m+3*60-10)
	s.take(Record{Origin: wire.Origin{Source: 99, Offset: 3}, Ingest: t0 + 3*hour, Payload: hit("s", "a", t0+3*hour, "")})
	if s.Stats().Sessions != 1 {
		t.Error("a beacon of an unknown source is lost")
	}
	s.take(Record{Origin: wire.Origin{Source: 0, Offset: 3}, Ingest: t0 + 3*hour - 11*minute, Payload: hit("s", "b", t0+3*hour-11*minute, "")})
	if s.Counts.LateClock != 1 || s.Counts.Late != 0 {
		t.Errorf("a beacon on time and behind the watermark: %+v", s.Counts)
	}
	s.take(Record{Origin: wire.Origin{Source: 0, Offset: 4}, Ingest: t0 + 3*hour, Payload: hit("s", "c", t0+2*hour, "")})
	if s.Counts.LateClock != 1 || s.Counts.Late != 1 {
		t.Errorf("a late beacon: %+v", s.Counts)
	}
}

func TestWatermarkWithChangingLateness(t *testing.T) {
	second := func(lateness string) string {
		return strings.Replace(flat, "tenant: shop", "tenant: shop\nfrom: 2026-01-01T01:00:00Z\nlateness: "+lateness, 1)
	}
	m := t0 / minute
	shorter, longer := load(t, flat, second("1m")), load(t, flat, second("30m"))
	for _, c := range []struct {
		chain    *tenant.Chain
		progress int64
		want     int64
	}{
		{shorter, t0 + 30*minute, m + 20},
		{shorter, t0 + 69*minute, m + 59}, // minute 60 would have passed, 59 has not
		{shorter, t0 + 70*minute, m + 69}, // and now all that wait for it
		{longer, t0 + 70*minute, m + 60},
		{longer, t0 + 90*minute, m + 60},
		{longer, t0 + 91*minute, m + 61},
	} {
		if got := Watermark(c.chain, 0, c.progress); got != c.want {
			t.Errorf("progress at minute %d: watermark %d, want %d", (c.progress-t0)/minute, got-m, c.want-m)
		}
		for from := m - 100; from <= c.want; from += 7 {
			if got := Watermark(c.chain, from, c.progress); got != c.want {
				t.Errorf("from %d: watermark %d, want %d", from-m, got-m, c.want-m)
			}
		}
	}
}

func TestRedeliveredRecordsAreDropped(t *testing.T) {
	s := newBare(t, load(t, flat), minute)
	one := newFeed(1).sources
	beacon := func(offset int64, id string) {
		s.take(Record{Origin: wire.Origin{Offset: offset}, Ingest: t0, Payload: hit("s", id, t0, "")})
	}
	beacon(0, "a")
	beacon(1, "b")
	beacon(0, "a") // before progress says so it is a repeat like any other
	s.progress(one, wire.SourceAt{MS: t0, Offset: 2})
	beacon(0, "a")
	beacon(1, "b")
	beacon(2, "c")
	s.progress(one, wire.SourceAt{MS: t0 + minute, Offset: 3})
	if c := s.Counts; c.Redelivered != 2 || c.Duplicate != 1 || c.Beacons != 6 {
		t.Errorf("%+v", c)
	}
	if n := openOf(t, s.Shard); n != 3 {
		t.Errorf("%d beacons are open, want 3", n)
	}
}

func TestATickEndsByItsNumberOfRecords(t *testing.T) {
	s := New(Identity{Topic: "t", TickMS: minute}, load(t, flat), 0, nil)
	p := wire.Progress{Sources: newFeed(1).sources}
	for i := range MaxTickRecords {
		tick, err := s.Take(&Record{Offset: s.Offset, Progress: &p})
		if err != nil || tick != (i == MaxTickRecords-1) {
			t.Fatalf("record %d: tick %v, %v", i, tick, err)
		}
	}
	if _, err := s.Take(&Record{Offset: s.Offset - 1, Progress: &p}); err == nil {
		t.Error("a record comes twice, and no error says so")
	}
}

// Sessions are forgotten once nothing can join them, and visits end on time, also those that a later open beacon has
// closed: lateness is far above visit_gap here.
func TestSealingWithMoreLatenessThanGap(t *testing.T) {
	text := strings.Replace(shopYAML, "visit_gap: 30m", "visit_gap: 2m", 1)
	text = strings.Replace(strings.Replace(text, "lateness: 10m", "lateness: 40m", 1), "session_ttl: 12h", "session_ttl: 20m", 1)
	chain := load(t, text)
	cfg := []*tenant.Config{chain.Revs[0].Config}
	for _, every := range []int64{second, minute, 13 * minute} {
		var records []oracle.Record
		for i := range int64(400) {
			s, ts := i%9, t0+(i*i*7919)%(150*minute)
			if s == 8 {
				s, ts = 100+i, t0+i*20*second // many that come once
			}
			records = append(records, oracle.Record{Ingest: ts + (i*37%40)*minute,
				Payload: hit(fmt.Sprint("s", s), fmt.Sprint(i), ts, `,"visitor":"v","experiments":{"color":"red"}`)})
		}
		f := newFeed(1)
		f.fill(chain, records, every)
		w, out := play(t, chain, f, minute)
		differ(t, "rows", oracle.Run(cfg, records, true).RowLines(), lines(chain, standing(t, out)))
		s := w.Shard
		if st := s.Stats(); st.Sessions != 0 || s.slab.used != 0 {
			t.Errorf("%d sessions and %d bytes are left", st.Sessions, s.slab.used)
		}
		if len(s.dues) > 0 || len(s.sums.Minutes()) > 0 || len(s.stale) > 0 {
			t.Errorf("%d minutes with sessions to look at, %d open and %d stale minutes are left", len(s.dues), len(s.sums.Minutes()), len(s.stale))
		}
	}
}

// A beacon that comes later but is earlier can move an assignment to before a revision that drops the variation, and its scopes end
// there for good: what a later revision, which lists it again, had brought into them goes, its visitor too.
func TestAScopeThatEndsEarlierLosesItsVisitor(t *testing.T) {
	from := func(ms int64, variations string) string {
		return fmt.Sprintf("from: %s\n", time.UnixMilli(ms).UTC().Format(time.RFC3339)) + strings.Replace(shopYAML, "[control, red]", variations, 1)
	}
	texts := []string{shopYAML, from(t0+2*minute, "[control, blue]"), from(t0+4*minute, "[control, red]")}
	chain := load(t, texts...)
	record := func(id string, ts, ingest int64) oracle.Record {
		return oracle.Record{Ingest: ingest, Payload: hit("s", id, ts, `,"visitor":"v","experiments":{"color":"red"}`)}
	}
	var cfg []*tenant.Config
	for i := range chain.Revs {
		cfg = append(cfg, chain.Revs[i].Config)
	}
	for what, records := range map[string][]oracle.Record{
		"in order":          {record("a", t0+minute, t0+minute), record("b", t0+5*minute, t0+5*minute)},
		"the earlier later": {record("b", t0+5*minute, t0+5*minute), record("a", t0+minute, t0+7*minute)},
	} {
		want := oracle.Run(cfg, records, true)
		f := newFeed(1)
		f.fill(chain, records, minute)
		_, out := play(t, chain, f, minute)
		differ(t, what, want.RowLines(), lines(chain, standing(t, out)))
	}
}

// A beacon that is replaced takes its visitor along, unless another one brought the same.
func TestReplacedVisitors(t *testing.T) {
	chain := load(t, shopYAML)
	cfg := []*tenant.Config{chain.Revs[0].Config}
	visitors := rowName{t0 / minute, "site", "", "visitors"}
	for _, others := range []int{0, 1, 98, 99, 100, 101, 300} {
		for _, again := range []bool{false, true} {
			var records []oracle.Record
			add := func(session, visitor string, ingest int64) {
				more := ""
				if visitor != "" {
					more = fmt.Sprintf(`,"visitor":%q`, visitor)
				}
				records = append(records, oracle.Record{Ingest: ingest, Payload: hit(session, "a", t0, more)})
			}
			for i := range others {
				add(fmt.Sprint("o", i), fmt.Sprint("other", i), t0)
			}
			add("s", "zz", t0)
			if again {
				add("u", "zz", t0)
			}
			add("s", "m", t0+3*minute) // bytewise smaller, and so it stands
			add("s", "n", t0+5*minute) // not smaller
			add("s", "b", t0+6*minute)
			f := newFeed(1)
			f.fill(chain, records, minute)
			_, out := play(t, chain, f, minute)
			rows := standing(t, out)
			want := int64(others + 1)
			if again {
				want++
			}
			got := rows[visitors]["\tdevice=none"]
			if others < 98 && got != want {
				t.Errorf("%d others, again %v: %d visitors, want %d", others, again, got, want)
			}
			// Above 100 it is an estimate; the sketch must be that of the set, so compare with a log without the replaced.
			var clean []oracle.Record
			for _, r := range records {
				if s := string(r.Payload); strings.Contains(s, `"session":"s"`) && !strings.Contains(s, `"visitor":"b"`) {
					continue
				}
				clean = append(clean, r)
			}
			g := newFeed(1)
			g.fill(chain, clean, minute)
			_, out2 := play(t, chain, g, minute)
			differ(t, fmt.Sprintf("%d others, again %v", others, again), lines(chain, standing(t, out2)), lines(chain, rows))
			if others < 98 {
				differ(t, "rows", oracle.Run(cfg, records, true).RowLines(), lines(chain, rows))
			}
		}
	}
}

// Records that somebody else wrote into the topic, valid beacons among them, are counted as malformed and change nothing: dispatch has
// not let them through.
func TestStrayRecords(t *testing.T) {
	chain := load(t, shopYAML)
	rows := func(stray bool) ([]string, Counts) {
		f := newFeed(1)
		for i := range int64(30) {
			f.beacon(t0+i*second, hit("s", fmt.Sprint("e", i), t0+i*second, ""))
			for _, value := range [][]byte{[]byte("hello"), nil, hit("s", fmt.Sprint("x", i), t0+i*second, "")} {
				if !stray { // offsets count in versions
					f.tell(t0 + i*second)
					continue
				}
				f.add(broker.Record{Time: t0 + i*second, Value: value})
			}
		}
		f.tell(t0 + hour)
		w, out := play(t, chain, f, minute)
		return lines(chain, standing(t, out)), w.Shard.Counts
	}
	want, _ := rows(false)
	got, counts := rows(true)
	differ(t, "rows beside stray records", want, got)
	if counts.Rejected[beacon.Malformed] != 90 || counts.Beacons != 120 || len(got) == 0 {
		t.Errorf("counts %+v, %d rows", counts, len(got))
	}
}
