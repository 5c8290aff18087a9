package archive

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

const (
	t0     = int64(1_767_225_600_000) // a window begins
	minute = int64(60_000)
	window = int64(archive.WindowMillis)
	topic  = "beacons.shop.0"
)

func chain(t testing.TB) *tenant.Chain {
	t.Helper()
	cfg, err := tenant.Load("r.yaml", []byte("tenant: shop\npoints: {home: {}}\n")) // lateness is 10 min
	if err != nil {
		t.Fatal(err)
	}
	c, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func config() Config {
	return Config{Topic: topic, TopicID: "id-1", Partitions: 1, MaxRows: DefaultRows, MaxBytes: DefaultBytes}
}

func open(t testing.TB, cfg Config, blobs blob.Store) *Archiver {
	t.Helper()
	a, err := Open(cfg, chain(t), blobs)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func manifests(t testing.TB, blobs blob.Store) []archive.Manifest {
	t.Helper()
	ms, err := archive.Chain(blobs, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.CheckChain(blobs, topic, 0); err != nil {
		t.Fatal(err)
	}
	return ms
}

// partition writes the records of a beacons partition, with offsets from 0.
type partition struct{ recs []broker.Record }

func (p *partition) put(r broker.Record) {
	r.Topic, r.Offset = topic, int64(len(p.recs))
	p.recs = append(p.recs, r)
}

// beacon is one of source 0 at an offset of the raw topic.
func (p *partition) beacon(session string, ts, origin int64) {
	p.payload(fmt.Appendf(nil, `{"id":"e%d","tenant":"shop","session":%q,"ts":%d,"point":"home"}`, origin, session, ts), ts+1000, origin)
}

func (p *partition) payload(value []byte, ingest, origin int64) {
	p.put(broker.Record{Time: ingest, Value: value, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: wire.AppendOrigin(nil, wire.Origin{Offset: origin})}}})
}

// progress tells of the sources 0, 1 and so on; of less than all if at is shorter than n.
func (p *partition) progress(n int, at ...wire.SourceAt) {
	pr := wire.Progress{Sources: wire.Sources{Revision: n}, At: at}
	for i := range n {
		pr.Sources.List = append(pr.Sources.List, wire.Source{Cluster: "c", TopicID: "raw", Partition: int32(i), Kind: wire.KindLive})
	}
	p.put(broker.Record{Value: wire.AppendProgress(nil, &pr), Headers: []broker.Header{{Key: wire.HeaderProgress}}})
}

// aside is progress of n sources that says which are set aside: at least one.
func (p *partition) aside(n int, aside []int, at ...wire.SourceAt) {
	p.progress(n, at...)
	pr, err := wire.ReadProgress(p.recs[len(p.recs)-1].Value)
	if err != nil {
		panic(err)
	}
	pr.Aside = aside
	p.recs[len(p.recs)-1].Value = wire.AppendProgress(nil, &pr)
}

func at(source int, ms, offset int64) wire.SourceAt {
	return wire.SourceAt{Source: source, MS: ms, Offset: offset}
}

// say writes a manifest in one line: offsets, rows, windows in minutes after t0, progress in minutes after t0.
func say(m *archive.Manifest) string {
	rows := int64(0)
	for _, f := range m.Files {
		rows += f.Rows
	}
	var w, p []string
	for _, x := range m.Windows {
		w = append(w, fmt.Sprintf("%d:%d", (x.Start-t0)/minute, x.Records))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Progress)) {
		p = append(p, fmt.Sprintf("%s=%d", k, (m.Progress[k]-t0)/minute))
	}
	text := fmt.Sprintf("[%d,%d) rows %d, windows %s, progress %s", m.First, m.Next, rows, strings.Join(w, " "), strings.Join(p, " "))
	if len(m.Aside) > 0 {
		text += ", aside " + strings.Join(m.Aside, " ")
	}
	return text
}

func compare(t *testing.T, got []archive.Manifest, want []string) {
	t.Helper()
	var lines []string
	for i := range got {
		lines = append(lines, say(&got[i]))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("manifests:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func handle(t testing.TB, a *Archiver, recs []broker.Record) {
	t.Helper()
	if err := a.Handle(recs); err != nil {
		t.Fatal(err)
	}
}

func TestRoll(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  func(*Config)
		in   func(*partition)
		want []string
		rest int // rows of no manifest yet
	}{
		{"by rows", func(c *Config) { c.MaxRows = 2 }, func(p *partition) {
			for i := range int64(5) {
				p.beacon("s", t0+i*20*minute, i)
			}
		}, []string{"[0,2) rows 2, windows 0:2, progress ", "[2,4) rows 2, windows 30:1 60:1, progress "}, 1},
		{"by bytes", func(c *Config) { c.MaxBytes = 1 }, func(p *partition) {
			p.beacon("s", t0, 0)
			p.beacon("s", t0-1, 1)
		}, []string{"[0,1) rows 1, windows 0:1, progress ", "[1,2) rows 1, windows -30:1, progress "}, 0},
		{"by settled window: its end and the lateness, and the first progress", nil, func(p *partition) {
			p.beacon("s", t0, 0)
			p.progress(1, at(0, t0+minute, 1))
			p.beacon("s", t0+2*minute, 1)
			p.progress(1, at(0, t0+10*minute-1, 2))
			p.progress(1, at(0, t0+10*minute, 2)) // the window before t0 settles
			p.progress(1, at(0, t0+40*minute-1, 2))
			p.beacon("s", t0+39*minute, 2)
			p.progress(1, at(0, t0+40*minute, 3)) // that of t0
			p.beacon("s", t0+41*minute, 3)
			p.progress(1, at(0, t0+30*minute, 3)) // never goes back
		}, []string{
			"[0,2) rows 1, windows 0:1, progress c/raw/0=1",
			"[2,5) rows 1, windows 0:1, progress c/raw/0=10",
			"[5,8) rows 1, windows 30:1, progress c/raw/0=40",
		}, 1},
		{"progress only", nil, func(p *partition) {
			p.progress(1, at(0, t0, 0))
			p.progress(1, at(0, t0+2*window, 0))
			p.progress(1, at(0, t0+2*window+1, 0))
		}, []string{"[0,1) rows 0, windows , progress c/raw/0=0", "[1,2) rows 0, windows , progress c/raw/0=60"}, 0},
		{"the least progress of all sources settles", nil, func(p *partition) {
			p.progress(2, at(0, t0+5*window, 0))
			p.progress(2, at(1, t0+minute, 0)) // now both are known
			p.progress(2, at(1, t0+9*minute, 0))
			p.progress(2, at(1, t0+11*minute, 0))
		}, []string{"[0,2) rows 0, windows , progress c/raw/0=150 c/raw/1=1", "[2,4) rows 0, windows , progress c/raw/0=150 c/raw/1=11"}, 0},
		{"a source that is listed and has not been heard of: no progress is known", func(c *Config) { c.MaxRows = 1 }, func(p *partition) {
			p.progress(2, at(0, t0+5*window, 0))
			p.beacon("s", t0, 0)
			p.progress(2, at(1, t0+window, 0))
			p.progress(3, at(0, t0+6*window, 0))
			p.beacon("s", t0, 1)
		}, []string{
			"[0,2) rows 1, windows 0:1, progress ",
			"[2,3) rows 0, windows , progress c/raw/0=150 c/raw/1=30",
			"[3,5) rows 1, windows 0:1, progress ",
		}, 0},
		{"a source that is set aside, whether it was heard of or not, is not waited for until it is taken back", nil, func(p *partition) {
			p.progress(3, at(0, t0+5*window, 0), at(1, t0+minute, 0))
			p.aside(3, []int{1, 2}, at(0, t0+5*window, 0))
			p.beacon("s", t0, 0)
			p.progress(3, at(0, t0+6*window+10*minute, 1)) // says nothing of it
			p.aside(3, []int{}, at(0, t0+7*window+10*minute, 1), at(1, t0+7*window, 0), at(2, t0+7*window, 0))
			p.aside(3, []int{0, 1, 2}, at(0, t0+9*window, 1)) // of none is anything known that counts
		}, []string{
			"[0,2) rows 0, windows , progress c/raw/0=150 c/raw/1=1, aside c/raw/1 c/raw/2",
			"[2,4) rows 1, windows 0:1, progress c/raw/0=190 c/raw/1=1, aside c/raw/1 c/raw/2",
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			if c.cfg != nil {
				c.cfg(&cfg)
			}
			var p partition
			c.in(&p)
			for _, step := range []int{1, 3, len(p.recs)} { // how they were polled changes nothing
				blobs := blob.NewMem()
				a := open(t, cfg, blobs)
				for part := range slices.Chunk(p.recs, step) {
					handle(t, a, part)
				}
				compare(t, manifests(t, blobs), c.want)
				if len(a.Rows()) != c.rest {
					t.Errorf("%d rows are of no manifest, want %d", len(a.Rows()), c.rest)
				}
			}
		})
	}
}

// Whatever the number of records before an archiver dies, the next one ends with the same records in the archive.
func TestResume(t *testing.T) {
	var p partition
	for i := range int64(12) {
		p.beacon(fmt.Sprint("s", i%3), t0+i*15*minute, i)
		switch {
		case i == 1:
			p.progress(2, at(0, t0+i*15*minute, i+1), at(1, t0+3000*minute, 0))
		case i%2 == 1: // another dispatcher has the other source
			p.progress(2, at(0, t0+i*15*minute, i+1))
		}
	}
	for _, rows := range []int{1, 3} {
		t.Run(fmt.Sprint(rows, " rows a file"), func(t *testing.T) { resume(t, &p, rows) })
	}
}

func resume(t *testing.T, p *partition, rows int) {
	cfg := config()
	cfg.MaxRows = rows
	offsets := func(blobs blob.Store, a *Archiver) []int64 {
		var all []int64
		for _, m := range manifests(t, blobs) {
			for _, info := range m.Files {
				r, err := blobs.Open(info.Name)
				if err != nil {
					t.Fatal(err)
				}
				f, err := archive.OpenFile(r, info)
				if err != nil {
					t.Fatal(err)
				}
				err = f.Scan(0, 1<<64-1, archive.Columns{}, func(r *archive.Row) error { all = append(all, r.Offset); return nil })
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
		}
		for _, r := range a.Rows() {
			all = append(all, r.Offset)
		}
		slices.Sort(all)
		return all
	}
	blobs := blob.NewMem()
	a := open(t, cfg, blobs)
	handle(t, a, p.recs)
	want := offsets(blobs, a)
	if len(want) != 12 {
		t.Fatalf("%d records in the archive, want 12: %v", len(want), want)
	}
	for n := range len(p.recs) {
		blobs := blob.NewMem()
		first := open(t, cfg, blobs)
		handle(t, first, p.recs[:n])
		before := manifests(t, blobs)
		second := open(t, cfg, blobs)
		if next := int64(0); len(before) > 0 {
			if next = before[len(before)-1].Next; second.Offset != next {
				t.Errorf("after %d records: resumes at %d, the last manifest ends at %d", n, second.Offset, next)
			}
		}
		handle(t, second, p.recs) // what lies before is passed over
		if got := offsets(blobs, second); !slices.Equal(got, want) {
			t.Errorf("after %d records: offsets %v, want %v", n, got, want)
		}
		// Progress never goes back along the chain, and is never lost.
		var last map[string]int64
		for _, m := range manifests(t, blobs) {
			for k, ms := range last {
				if have, ok := m.Progress[k]; !ok || have < ms {
					t.Errorf("after %d records: manifest %d: progress of %s is %d, was %d", n, m.First, k, have, ms)
				}
			}
			last = m.Progress
		}
	}
}

func TestResumeRefusesATopicMadeAnew(t *testing.T) {
	blobs := blob.NewMem()
	var p partition
	p.progress(1, at(0, t0, 0))
	handle(t, open(t, config(), blobs), p.recs)
	cfg := config()
	cfg.TopicID = "id-2"
	if _, err := Open(cfg, chain(t), blobs); err == nil || !strings.Contains(err.Error(), "id-1") || !strings.Contains(err.Error(), "id-2") {
		t.Errorf("error %v, want one that names both topics", err)
	}
}

func TestRedelivered(t *testing.T) {
	var p partition
	p.beacon("s", t0, 0)
	p.beacon("s", t0+1, 1)
	p.progress(2, at(0, t0+minute, 2))
	p.beacon("s", t0+1, 1) // below what progress says was written
	p.beacon("s", t0+2, 2)
	p.beacon("s", t0+2, 2)             // a repeat above it: the batch finds it
	p.progress(2, at(0, t0+minute, 1)) // an offset never goes back
	p.beacon("s", t0, 0)
	p.put(broker.Record{Time: t0, Value: p.recs[0].Value, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: wire.AppendOrigin(nil, wire.Origin{Source: 1})}}})
	a := open(t, config(), blob.NewMem())
	handle(t, a, p.recs)
	var got []int64
	for _, r := range a.Rows() {
		got = append(got, r.Offset)
	}
	if want := []int64{0, 1, 4, 5, 8}; !slices.Equal(got, want) || a.Counts.Redelivered != 2 || a.Counts.Beacons != 5 {
		t.Errorf("offsets %v, want %v; counts %+v", got, want, a.Counts)
	}
	handle(t, a, p.recs) // what a poll brings again is not even counted
	if a.Counts.Redelivered != 2 || len(a.Rows()) != 5 {
		t.Errorf("after a repeated poll: %d rows, counts %+v", len(a.Rows()), a.Counts)
	}
}

func TestTwoArchivers(t *testing.T) {
	blobs := blob.NewMem()
	one, other := open(t, config(), blobs), open(t, config(), blobs)
	var p partition
	p.beacon("s", t0, 0)
	p.progress(1, at(0, t0, 1))
	handle(t, one, p.recs)
	p.beacon("s", t0, 2)
	err := other.Handle(p.recs[:2])
	if !errors.Is(err, blob.ErrExists) || !strings.Contains(err.Error(), topic+"/0") || !strings.Contains(err.Error(), "offset 0") {
		t.Errorf("error %v, want one that names partition and offset", err)
	}
	if ms := manifests(t, blobs); len(ms) != 1 || len(ms[0].Files) != 1 {
		t.Errorf("manifests %v, want that of the first archiver alone", ms)
	}
	if names, _ := blobs.List("events/"); len(names) != 1 {
		t.Errorf("event files %v: equal ones need one object", names)
	}
}

// A file without a manifest, of an archiver that died between the two, is neither used nor in the way.
func TestLeftover(t *testing.T) {
	blobs := blob.NewMem()
	left := archive.FileName("shop", topic, 0, 0, 0, t0)
	if err := blobs.Create(left, []byte("half of a file")); err != nil {
		t.Fatal(err)
	}
	var p partition
	p.beacon("s", t0-1, 0)
	p.progress(1, at(0, t0, 1))
	handle(t, open(t, config(), blobs), p.recs)
	ms := manifests(t, blobs)
	if len(ms) != 1 || len(ms[0].Files) != 1 || ms[0].Files[0].Name == left {
		t.Errorf("manifests %+v, want one with a file of another name than %s", ms, left)
	}
}

func TestLeftOutAndUnused(t *testing.T) {
	var p partition
	for i, text := range []string{
		`{"id":"a","tenant":"shop","session":"s","ts":1767225600000,"point":"home"}`,
		`no JSON`, ``,
		`{"id":"a","tenant":"shop","session":"s","point":"home"}`,                          // no place in event time
		`{"id":"a","tenant":"shop","session":"s","ts":946684799999,"point":"home"}`,        // before it
		`{"id":"a","tenant":"shop","session":"s","ts":9223372036854775807,"point":"home"}`, // after it
		`{"id":"a","tenant":"shop","session":"","ts":1767225600000,"point":"home"}`,
		`{"id":"b","tenant":"shop","session":"s","ts":1767225600000,"point":"cart","visitor":"v"}`, // unused
		`{"id":"c","tenant":"shop","session":"s","ts":1767000000000,"point":"home"}`,               // too old: the batch counts it
	} {
		p.payload([]byte(text), t0, int64(i))
	}
	a := open(t, config(), blob.NewMem())
	handle(t, a, p.recs)
	if a.Counts.Rejected != 6 || a.Counts.Beacons != 3 || len(a.Rows()) != 3 {
		t.Fatalf("%d rows, counts %+v; want 3 rows, 6 left out", len(a.Rows()), a.Counts)
	}
	parsed, unused, refused := a.Rows()[0], a.Rows()[1], a.Rows()[2]
	digest := ParseDigest(a.chain.At(t0))
	if parsed.Digest != digest || len(parsed.Event) == 0 || string(parsed.Point) != "home" || parsed.Ingest != t0 {
		t.Errorf("parsed row %+v", parsed)
	}
	if unused.Digest != digest || len(unused.Event) != 0 || string(unused.Visitor) != "v" {
		t.Errorf("unused row %+v: it has a digest and no parsed form", unused)
	}
	if refused.Digest != 0 || len(refused.Event) != 0 || refused.TS != 1_767_000_000_000 || len(refused.Payload) == 0 {
		t.Errorf("refused row %+v: it has its payload, and neither digest nor parsed form", refused)
	}
}

// A record that somebody else wrote into the topic is counted and left out.
func TestStrayRecords(t *testing.T) {
	var p partition
	p.beacon("s", t0, 0)
	p.put(broker.Record{Value: []byte("hello")})
	p.put(broker.Record{Value: p.recs[0].Value})
	p.put(broker.Record{})
	p.beacon("s", t0+1, 1)
	p.progress(1, at(0, t0+minute, 2))
	blobs := blob.NewMem()
	a := open(t, config(), blobs)
	handle(t, a, p.recs)
	compare(t, manifests(t, blobs), []string{"[0,6) rows 2, windows 0:2, progress c/raw/0=1"})
	if a.Counts.Rejected != 3 || a.Counts.Beacons != 2 {
		t.Errorf("counts %+v", a.Counts)
	}
}

func TestHandleNamesTheRecord(t *testing.T) {
	for name, r := range map[string]broker.Record{
		"corrupt origin":   {Value: []byte("{}"), Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: []byte{0x80}}}},
		"corrupt progress": {Value: []byte("{"), Headers: []broker.Header{{Key: wire.HeaderProgress}}},
	} {
		var p partition
		p.beacon("s", t0, 0)
		p.put(r)
		if err := open(t, config(), blob.NewMem()).Handle(p.recs); err == nil || !strings.Contains(err.Error(), topic+"/0, record 1") {
			t.Errorf("%s: error %v, want one that names the record", name, err)
		}
	}
}
