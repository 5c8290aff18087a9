package aggregate

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

func config(shards int) Config {
	return Config{Layer: "stream.a", Tenants: []Tenant{{Name: "shop", Topics: []string{"id"}, Shards: shards, RetentionMS: 1000}}}
}

func begin(t testing.TB, cfg Config, offset int64, closed map[string]int64, note string) *State {
	t.Helper()
	s, err := New(cfg, offset, closed, note)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func head(shard int, generation, offset int64) wire.Head {
	return wire.Head{Tenant: "shop", Topic: "id", Partition: int32(shard), Generation: generation, Offset: offset}
}

// sym gives strings numbers, as an encoder wants them.
type syms map[string]wire.Sym

func (s syms) of(text string) wire.Sym {
	if _, ok := s[text]; !ok {
		s[text] = wire.Sym{ID: uint32(len(s)), Text: text}
	}
	return s[text]
}

// rowsOf encodes one row; of a large one there are several messages.
func rowsOf(t testing.TB, h wire.Head, minute int64, metricName string, cells ...wire.SymCell) [][]byte {
	t.Helper()
	var out [][]byte
	var e wire.Encoder
	names := syms{}
	names.of("")
	e.Begin(&h, minute, func(b []byte) error { out = append(out, b); return nil })
	sketch := len(cells) > 0 && cells[0].Sketch != nil
	for i := range cells {
		cells[i].Variation, cells[i].Tags = names.of(cells[i].Variation.Text), names.of(cells[i].Tags.Text)
	}
	if err := e.Row(0, names.of(""), names.of(metricName), sketch, cells); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	return out
}

func value(v int64) wire.SymCell { return wire.SymCell{Value: v} }

// log is a partition of the metrics topic, and a store that keeps the greatest version.
type log struct {
	t    testing.TB
	msgs [][]byte
}

func (l *log) add(msgs ...[]byte) { l.msgs = append(l.msgs, msgs...) }

func (l *log) marker(shard int, generation, offset, watermark int64) {
	h := head(shard, generation, offset)
	l.add(wire.AppendMarker(&h, watermark, 0))
}

func (l *log) records(from, to int) []broker.Record {
	var recs []broker.Record
	for i := from; i < to; i++ {
		recs = append(recs, broker.Record{Offset: int64(i), Value: l.msgs[i]})
	}
	return recs
}

type stored struct {
	version int64
	value   []byte
}

type fakeStore struct {
	rows   map[string]stored
	closed map[string]int64
	writes int
	events []string
}

func newStore() *fakeStore { return &fakeStore{rows: map[string]stored{}, closed: map[string]int64{}} }

func key(metricName string, minute int64) string { return fmt.Sprint(metricName, " ", minute) }

func (s *fakeStore) PutRows(_ context.Context, rows []store.Row) error {
	for _, r := range rows {
		k := key(r.Metric, r.Minute)
		if old, ok := s.rows[k]; !ok || r.Version > old.version || r.Version == old.version && bytes.Compare(r.Value, old.value) > 0 {
			s.rows[k] = stored{r.Version, bytes.Clone(r.Value)}
		}
		s.writes++
	}
	s.events = append(s.events, "rows")
	return nil
}

func (s *fakeStore) PutProgress(_ context.Context, p store.Progress) error {
	s.closed[p.Tenant] = max(s.closed[p.Tenant], p.ClosedBefore)
	s.events = append(s.events, "progress")
	return nil
}

type commits struct {
	at    int64
	note  string
	store *fakeStore
}

func (c *commits) Commit(_ context.Context, _ int32, to broker.Committed) error {
	if to.Offset < c.at {
		return fmt.Errorf("the commit goes back from %d to %d", c.at, to.Offset)
	}
	c.at, c.note = to.Offset, to.Note
	c.store.events = append(c.store.events, "commit")
	return nil
}

// cellsOf returns the cells of a stored row, nil if there is no row.
func (s *fakeStore) cellsOf(t testing.TB, metricName string, minute int64) map[string]int64 {
	t.Helper()
	r, ok := s.rows[key(metricName, minute)]
	if !ok {
		return nil
	}
	cells := map[string]int64{}
	_, err := row.Decode(r.value, func(c row.Cell) error {
		v := c.Value
		if c.Sketch != nil {
			var sk metric.Sketch
			if err := sk.UnmarshalBinary(c.Sketch); err != nil {
				return err
			}
			v = sk.Estimate()
		}
		cells[c.Variation+"/"+c.Tags] = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return cells
}

// run takes all messages, in polls of the given size.
func (l *log) run(shards, poll int) (*fakeStore, *Worker) {
	l.t.Helper()
	st := newStore()
	w := &Worker{State: begin(l.t, config(shards), 0, nil, ""), Store: st, Commits: &commits{store: st}}
	for at := 0; at < len(l.msgs); at += poll {
		if err := w.Handle(context.Background(), l.records(at, min(at+poll, len(l.msgs)))); err != nil {
			l.t.Fatal(err)
		}
	}
	return st, w
}

func (l *log) want(shards int, what, metricName string, minute int64, cells map[string]int64) {
	l.t.Helper()
	for _, poll := range []int{1, 2, 1000} {
		st, _ := l.run(shards, poll)
		got := st.cellsOf(l.t, metricName, minute)
		if (got == nil) != (cells == nil) || fmt.Sprint(got) != fmt.Sprint(cells) {
			l.t.Errorf("%s, polls of %d: %v, want %v", what, poll, got, cells)
		}
	}
}

func one(v int64) map[string]int64 { return map[string]int64{"/": v} }

func TestAMinuteThatAllMarkersPassedIsClosed(t *testing.T) {
	l := &log{t: t}
	l.add(rowsOf(t, head(0, 0, 1), 10, "home", value(3))...)
	l.add(rowsOf(t, head(1, 0, 1), 10, "home", value(4))...)
	l.marker(0, 0, 2, 11)
	l.want(2, "both shards", "site.home", 10, one(7))
	l.add(rowsOf(t, head(0, 0, 3), 10, "home", value(5))...)
	l.want(2, "one marker has passed", "site.home", 10, one(9))
	l.marker(1, 0, 2, 11)
	l.add(rowsOf(t, head(0, 0, 9), 10, "home", value(100))...)
	l.add(rowsOf(t, head(1, 0, 9), 11, "home", value(1))...)
	l.want(2, "both have passed, then a message comes", "site.home", 10, one(9))
	l.want(2, "the next minute", "site.home", 11, one(1))
	l.want(3, "a third shard was not heard: the minute is open", "site.home", 10, one(104))
}

func TestTheGreatestVersionStands(t *testing.T) {
	l := &log{t: t}
	l.add(rowsOf(t, head(0, 0, 5), 10, "home", value(5))...)
	l.add(rowsOf(t, head(0, 0, 4), 10, "home", value(4))...) // a former owner
	l.add(rowsOf(t, head(0, 0, 5), 10, "home", value(5))...)
	l.want(1, "a smaller version", "site.home", 10, one(5))
	l.add(rowsOf(t, head(0, 0, 6), 10, "home")...)
	l.want(1, "all cells vanished", "site.home", 10, map[string]int64{})
	l.add(rowsOf(t, head(0, 0, 7), 10, "home", value(0))...)
	l.want(1, "a zero", "site.home", 10, map[string]int64{})
}

func TestGenerations(t *testing.T) {
	higher := func(shard int, generation, offset, first int64) wire.Head {
		h := head(shard, generation, offset)
		h.FirstMinute = first
		return h
	}
	l := &log{t: t}
	for m := int64(10); m < 14; m++ {
		l.add(rowsOf(t, head(0, 0, 50), m, "home", value(1))...)
		l.add(rowsOf(t, head(1, 0, 50), m, "home", value(10))...)
	}
	h := higher(0, 1, 7, 12)
	l.add(wire.AppendMarker(&h, 5, 0))
	l.want(2, "before its first minute", "site.home", 11, one(11))
	l.want(2, "from its first minute on", "site.home", 12, one(10))
	l.add(rowsOf(t, higher(0, 1, 8, 12), 12, "home", value(2))...)
	l.want(2, "its own row, of a smaller offset", "site.home", 12, one(12))
	l.add(rowsOf(t, head(0, 0, 99), 12, "home", value(77))...)
	l.add(rowsOf(t, head(0, 0, 99), 11, "home", value(3))...)
	l.want(2, "a former owner of the lower generation", "site.home", 12, one(12))
	l.want(2, "who still counts before", "site.home", 11, one(13))
}

// bulky returns a row that takes several messages, with the value in each cell.
func bulky(t testing.TB, h wire.Head, v int64) [][]byte {
	t.Helper()
	var cells []wire.SymCell
	for i := range 6000 {
		cells = append(cells, wire.SymCell{Tags: wire.Sym{Text: fmt.Sprintf("%080d", i)}, Value: v})
	}
	parts := rowsOf(t, h, 10, "home", cells...)
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	return parts
}

func sumOf(cells map[string]int64) (n, sum int64) {
	for _, v := range cells {
		n, sum = n+1, sum+v
	}
	return n, sum
}

func TestAVersionCountsWhenAllItsPartsAreThere(t *testing.T) {
	check := func(what string, msgs [][]byte, wantSum int64) {
		t.Helper()
		for _, poll := range []int{1, 1000} {
			l := &log{t: t, msgs: msgs}
			st, _ := l.run(1, poll)
			if n, sum := sumOf(st.cellsOf(t, "site.home", 10)); sum != wantSum {
				t.Errorf("%s: %d cells with %d in all, want %d", what, n, sum, wantSum)
			}
		}
	}
	v1, v2, v3 := bulky(t, head(0, 0, 1), 1), bulky(t, head(0, 0, 2), 2), bulky(t, head(0, 0, 3), 3)
	last := len(v2) - 1
	check("whole", v1, 6000)
	check("a part is missing", v1[1:], 0)
	check("the old stands until the new is whole", slices.Concat(v1, v2[:last]), 6000)
	check("the new one", slices.Concat(v1, v2), 12_000)
	check("each part twice, out of order", slices.Concat(v1, v2[1:], v2[:1], v2), 12_000)
	check("a version was never finished", slices.Concat(v1, v2[:1], v3), 18_000)
	check("two owners side by side", slices.Concat(v3[:1], v2[:1], v3[:1], v2[1:], v3[1:]), 18_000)
	check("a former owner between the parts of the next", slices.Concat(v1, v3[:1], v2[:1], v3[1:]), 18_000)
	small := rowsOf(t, head(0, 0, 2), 10, "home", value(5))
	check("a former owner's small row between them", slices.Concat(v1, v3[:1], small, v3[1:]), 18_000)
	check("a small one after a large one", slices.Concat(v1, small), 5)
}

func TestVisitorsAreTheUnion(t *testing.T) {
	sketch := func(hashes ...uint64) wire.SymCell {
		var s metric.Sketch
		for _, h := range hashes {
			s.Add(h * 0x9e3779b97f4a7c15)
		}
		return wire.SymCell{Sketch: s.AppendBinary(nil)}
	}
	l := &log{t: t}
	l.add(rowsOf(t, head(0, 0, 1), 10, "visitors", sketch(1, 2, 3))...)
	l.add(rowsOf(t, head(1, 0, 1), 10, "visitors", sketch(3, 4))...)
	l.want(2, "the union", "site.visitors", 10, one(4))
	l.add(rowsOf(t, head(0, 0, 2), 10, "visitors", sketch(1))...)
	l.want(2, "formed anew", "site.visitors", 10, one(3))
	l.add(rowsOf(t, head(0, 0, 3), 10, "visitors")...)
	l.add(rowsOf(t, head(1, 0, 3), 10, "visitors")...)
	l.want(2, "all gone", "site.visitors", 10, map[string]int64{})
}

// A restart anywhere, from what was committed and what the store says is closed, ends with the same rows, and no write
// of it displaces a greater truth.
func TestRestartFromTheCommit(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 5))
		l := &log{t: t}
		offsets, marks := [3]int64{}, [3]int64{10, 10, 10}
		for range 150 {
			s := rng.IntN(3)
			offsets[s]++
			if rng.IntN(4) == 0 {
				marks[s] = max(marks[s], min(marks[s]+rng.Int64N(2), slices.Min(marks[:])+3))
				l.marker(s, 0, offsets[s], marks[s])
				continue
			}
			m := marks[s] + rng.Int64N(4)
			if rng.IntN(20) == 0 {
				m += 40 // a clock that is ahead
			}
			var cells []wire.SymCell
			if v := rng.Int64N(4); v > 0 {
				cells = append(cells, value(v))
			}
			l.add(rowsOf(t, head(s, 0, offsets[s]), m, "home", cells...)...)
		}
		want, _ := l.run(3, 7)
		for _, poll := range []int{1, 7, 40} {
			st := newStore()
			at := &commits{store: st}
			var w *Worker
			read, crashes := 0, 0
			for read < len(l.msgs) {
				if w == nil || crashes < 10 && rng.IntN(8) == 0 {
					crashes++
					w = &Worker{State: begin(t, config(3), at.at, map[string]int64{"shop": st.closed["shop"]}, at.note), Store: st, Commits: at}
					w.commit = at.at
					read = int(at.at)
				}
				to := min(read+1+rng.IntN(poll), len(l.msgs))
				if err := w.Handle(context.Background(), l.records(read, to)); err != nil {
					t.Fatal(err)
				}
				read = to
			}
			if len(st.rows) != len(want.rows) {
				t.Errorf("seed %d: %d rows, want %d", seed, len(st.rows), len(want.rows))
			}
			for k, r := range want.rows {
				if got := st.rows[k]; got.version != r.version || !bytes.Equal(got.value, r.value) {
					t.Errorf("seed %d, polls of %d: row %s has version %d, want %d, or another value", seed, poll, k, got.version, r.version)
				}
			}
		}
	}
}

func TestRowsThenProgressThenCommit(t *testing.T) {
	l := &log{t: t}
	l.add(rowsOf(t, head(0, 0, 1), 10, "home", value(3))...)
	l.marker(0, 0, 2, 11)
	st, w := l.run(1, 10)
	if fmt.Sprint(st.events) != "[rows progress commit]" || w.commit != 2 {
		t.Errorf("%v, commit %d", st.events, w.commit)
	}
}

// A topic that its tenant does not have any more tells no further, so nothing waits for it.
func TestUnlistedTopics(t *testing.T) {
	l := &log{t: t}
	h := head(0, 0, 3)
	h.Topic = "another"
	l.add(rowsOf(t, h, 10, "home", value(3))...)
	l.add(wire.AppendMarker(&h, 5, 0))
	l.add(rowsOf(t, head(0, 0, 1), 10, "home", value(4))...)
	l.marker(0, 0, 2, 11)
	st, w := l.run(1, 10)
	if got := st.cellsOf(t, "site.home", 10); st.closed["shop"] != 11 || w.State.Counts.Unlisted != 2 || fmt.Sprint(got) != fmt.Sprint(one(4)) {
		t.Errorf("%v, closed before %d, %+v", got, st.closed["shop"], w.State.Counts)
	}
}

func TestWhatIsNotOfThisTopicStops(t *testing.T) {
	s := begin(t, config(1), 5, nil, "")
	h := head(0, 0, 1)
	good := wire.AppendMarker(&h, 1, 0)
	h.Tenant = "stranger"
	for name, c := range map[string]struct {
		offset int64
		value  []byte
	}{
		"an old offset":     {4, good},
		"an unknown tenant": {5, wire.AppendMarker(&h, 1, 0)},
		"a flipped byte":    {6, append(bytes.Clone(good[:len(good)-1]), 99)},
		"no bytes":          {7, nil},
	} {
		if err := s.Take(c.offset, c.value); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestWhatWasToldWholeStands: a higher generation that begins at an older checkpoint tells of a minute anew that a
// lower one had told whole. The minute is closed with what stood, and not with what has been told anew so far.
func TestWhatWasToldWholeStands(t *testing.T) {
	for _, former := range []bool{false, true} {
		l := &log{t: t}
		l.add(rowsOf(t, head(0, 0, 50), 10, "home", value(100))...)
		l.add(rowsOf(t, head(0, 0, 50), 11, "home", value(5))...)
		l.marker(0, 0, 50, 11)
		l.add(rowsOf(t, head(1, 0, 50), 10, "home", value(7))...)
		l.add(rowsOf(t, head(0, 1, 20), 10, "home", value(40))...)
		l.marker(0, 1, 20, 9)
		if former { // it does not know yet that it is a former owner
			l.marker(0, 0, 60, 12)
		}
		l.marker(1, 0, 60, 12)
		l.want(2, "before the new generation has caught up", "site.home", 10, one(107))
		l.add(rowsOf(t, head(0, 1, 50), 11, "home", value(6))...)
		l.marker(0, 1, 50, 12)
		l.want(2, "after it has caught up", "site.home", 11, one(6))
	}
}

// A row that is zero again is written although whoever reads it now never saw it otherwise: a former owner may have written
// what it was in between. A model of the protocol and random schedules hardly meet this.
func TestARowThatIsZeroAgainIsWritten(t *testing.T) {
	l := &log{t: t}
	l.add(rowsOf(t, head(0, 0, 5), 10, "home", value(1))...)
	l.add(rowsOf(t, head(0, 0, 9), 10, "home")...)
	l.marker(0, 0, 9, 11)
	st := newStore()
	former := &Worker{State: begin(t, config(1), 0, nil, ""), Store: st}
	if err := former.Handle(t.Context(), l.records(0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := st.cellsOf(t, "site.home", 10); fmt.Sprint(got) != fmt.Sprint(one(1)) {
		t.Fatalf("the former owner has written %v", got)
	}
	next := &Worker{State: begin(t, config(1), 0, nil, ""), Store: st}
	if err := next.Handle(t.Context(), l.records(0, len(l.msgs))); err != nil {
		t.Fatal(err)
	}
	if got := st.cellsOf(t, "site.home", 10); len(got) > 0 || st.closed["shop"] != 11 {
		t.Errorf("the minute is closed before %d with %v, which was taken back", st.closed["shop"], got)
	}
}
