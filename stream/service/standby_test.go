package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/failover"
)

const (
	ownLayer    = "stream.dc2"
	otherLayer  = "stream.dc1"
	testWindow  = 5 // minutes
	testTenants = 2
	testShards  = 2
)

// recording is a store in memory that tells what is written to it, and may fail.
type recording struct {
	*pebblestore.Store
	onRow func(r *store.Row)
	fail  func() bool
}

func (s *recording) PutRows(ctx context.Context, rows []store.Row) error {
	for i := range rows {
		if s.fail != nil && s.fail() {
			return errors.New("the store is not there")
		}
		if err := s.Store.PutRows(ctx, rows[i:i+1]); err != nil {
			return err
		}
		if s.onRow != nil {
			s.onRow(&rows[i])
		}
	}
	return nil
}

func (s *recording) PutProgress(ctx context.Context, p store.Progress) error {
	if s.fail != nil && s.fail() {
		return errors.New("the store is not there")
	}
	return s.Store.PutProgress(ctx, p)
}

func newRecording(t testing.TB) *recording {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &recording{Store: st}
}

func tenantName(n int) string { return fmt.Sprint("shop", n) }

func testTenantList() (names []string, all []aggregate.Tenant) {
	for n := range testTenants {
		names = append(names, tenantName(n))
		all = append(all, aggregate.Tenant{Name: tenantName(n), Topics: []string{"id"}, Shards: testShards, RetentionMS: 1e9})
	}
	return names, all
}

// newState begins at offset 0.
func newState(t testing.TB, tenants []aggregate.Tenant) *aggregate.State {
	t.Helper()
	s, err := aggregate.New(aggregate.Config{Layer: ownLayer, Tenants: tenants}, 0, map[string]int64{}, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// randomLog is a partition of the metrics topic: shards tell rows of open minutes again and again, and move on at their own pace.
func randomLog(t testing.TB, r *rand.Rand, n int) (msgs [][]byte) {
	t.Helper()
	type shard struct{ mark, offset int64 }
	shards := map[[2]int]*shard{}
	for len(msgs) < n {
		id := [2]int{r.IntN(testTenants), r.IntN(testShards)}
		s := shards[id]
		if s == nil {
			s = &shard{mark: 10}
			shards[id] = s
		}
		s.offset++
		h := wire.Head{Tenant: tenantName(id[0]), Topic: "id", Partition: int32(id[1]), Offset: s.offset}
		for range r.IntN(3) {
			var e wire.Encoder
			e.Begin(&h, s.mark+r.Int64N(4), func(b []byte) error { msgs = append(msgs, b); return nil })
			metric := wire.Sym{ID: 1, Text: fmt.Sprint("m", r.IntN(2))}
			if err := errors.Join(e.Row(0, wire.Sym{}, metric, false, []wire.SymCell{{Value: r.Int64N(1000)}}), e.Flush()); err != nil {
				t.Fatal(err)
			}
		}
		least := s.mark
		for i := range testShards {
			if o := shards[[2]int{id[0], i}]; o == nil {
				least = 10
			} else {
				least = min(least, o.mark)
			}
		}
		s.mark += min(r.Int64N(2), least+3-s.mark)
		msgs = append(msgs, wire.AppendMarker(&h, s.mark, 0))
	}
	return msgs
}

func records(msgs [][]byte, from, to int64) (recs []broker.Record) {
	for i := from; i < to; i++ {
		recs = append(recs, broker.Record{Offset: i, Value: msgs[i]})
	}
	return recs
}

type rowKey struct {
	series store.Series
	minute int64
}

// allRows reads the layer's rows of all tenants.
func allRows(t testing.TB, st *recording) map[rowKey]heldValue {
	t.Helper()
	all := map[rowKey]heldValue{}
	for n := range testTenants {
		err := st.Catalog(context.Background(), tenantName(n), func(s store.Series) error {
			return st.Rows(context.Background(), s, 0, store.MaxMinute, func(minute, version int64, value []byte) error {
				all[rowKey{s, minute}] = heldValue{version: version, value: bytes.Clone(value)}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// standby is a process with a standby's stage 2 of one partition, that may be started again.
type standby struct {
	t      testing.TB
	st     *recording
	gate   *Gate
	part   *GatePart
	worker *aggregate.Worker
	commit int64
	note   string
	msgs   [][]byte
}

func (s *standby) start(limit int) {
	names, _ := testTenantList()
	s.gate = NewGate(s.st, ownLayer, names, true, testWindow, slog.New(slog.NewTextHandler(io.Discard, nil)))
	s.gate.Limit = limit
	s.open()
}

func (s *standby) open() {
	s.t.Helper()
	if s.part != nil {
		s.part.Close()
	}
	names, tenants := testTenantList()
	closed := map[string]int64{}
	for _, n := range names {
		all, err := s.st.Progress(context.Background(), ownLayer, n)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, p := range all {
			closed[n] = p.ClosedBefore
		}
	}
	s.part = s.gate.Part(0, closed, closed, func(to broker.Committed) { s.commit, s.note = to.Offset, to.Note })
	state, err := aggregate.New(aggregate.Config{Layer: ownLayer, Tenants: tenants}, s.commit, closed, s.note)
	if err != nil {
		s.t.Fatal(err)
	}
	s.worker = &aggregate.Worker{State: state, Store: s.part, Commits: s.part}
}

// read takes messages up to an offset; after an error it begins again from the commit.
func (s *standby) read(to int64) {
	s.t.Helper()
	for s.worker.State.Offset < to {
		if err := s.worker.Handle(context.Background(), records(s.msgs, s.worker.State.Offset, to)); err != nil {
			if s.st.fail == nil {
				s.t.Fatal(err)
			}
			s.open()
		}
	}
}

func (s *standby) each(f func(tenant string) error) {
	s.t.Helper()
	names, _ := testTenantList()
	for _, n := range names {
		for err := f(n); err != nil; err = f(n) {
			if s.st.fail == nil {
				s.t.Fatal(err)
			}
		}
	}
}

func (s *standby) look() {
	s.each(func(n string) error { return s.gate.look(context.Background(), n) })
}
func (s *standby) cover() {
	s.each(func(n string) error { return s.gate.cover(context.Background(), n) })
}

// TestStandby: whatever is covered meanwhile, however often it starts again or the store fails, a standby writes no row
// that stage 2 without a gate would not write, nothing at all before it is promoted as long as the limits let it, and when it
// has answered it has written each row of a minute that is not covered.
func TestStandby(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5))
		msgs := randomLog(t, r, 300)
		names, tenants := testTenantList()

		// What stage 2 writes without a gate, message by message: every version of every row.
		direct := newRecording(t)
		values := map[rowKey]map[int64]string{}
		direct.onRow = func(r *store.Row) {
			k := rowKey{r.Series, r.Minute}
			if values[k] == nil {
				values[k] = map[int64]string{}
			}
			values[k][r.Version] = string(r.Value)
		}
		straight := aggregate.Worker{State: newState(t, tenants), Store: direct}

		st := newRecording(t)
		limit := heldBytes
		if seed%3 == 0 {
			limit = 12 * heldRow
		}
		s := &standby{t: t, st: st, msgs: msgs}
		promoted, failing := map[string]bool{}, false
		st.onRow = func(row *store.Row) {
			if value, ok := values[rowKey{row.Series, row.Minute}][row.Version]; !ok || value != string(row.Value) {
				t.Fatalf("seed %d: %v minute %d is written with version %d, which is not what the messages give", seed, row.Series, row.Minute, row.Version)
			}
			if !promoted[row.Tenant] && limit == heldBytes {
				t.Fatalf("seed %d: a standby writes %v minute %d", seed, row.Series, row.Minute)
			}
		}
		s.start(limit)
		covered := map[rowKey]bool{}
		for at := int64(0); at < int64(len(msgs)); {
			to := min(at+1+r.Int64N(20), int64(len(msgs)))
			for ; at < to; at++ {
				if err := straight.Handle(context.Background(), records(msgs, at, at+1)); err != nil {
					t.Fatal(err)
				}
			}
			st.fail = nil
			if failing = r.IntN(4) == 0; failing {
				st.fail = func() bool { return r.IntN(6) == 0 }
			}
			s.read(at)
			switch n := names[r.IntN(testTenants)]; r.IntN(5) {
			case 0:
				// Only windows that the direct one has closed, as the batch is behind.
				done, _ := direct.Progress(context.Background(), ownLayer, n)
				if len(done) == 0 || done[0].ClosedBefore < 10+testWindow {
					break
				}
				w := 10 + r.Int64N((done[0].ClosedBefore-10)/testWindow)*testWindow
				if err := st.PutCoverage(context.Background(), store.Coverage{Tenant: n, Window: w, Generation: 1}); err != nil {
					t.Fatal(err)
				}
				for m := w; m < w+testWindow; m++ {
					covered[rowKey{store.Series{Tenant: n}, m}] = true
				}
				s.cover()
			case 1:
				s.start(limit)
				s.look()
			case 2:
				if r.IntN(4) > 0 {
					break
				}
				promoted[n] = true
				if r.IntN(2) == 0 {
					if err := st.PutActive(context.Background(), store.Active{Tenant: n, Layer: ownLayer, Seq: 3}); err != nil {
						t.Fatal(err)
					}
				} else if err := st.Store.PutProgress(context.Background(), store.Progress{Layer: failover.Asked(ownLayer), Tenant: n, Version: 4}); err != nil {
					t.Fatal(err)
				}
				s.look()
			}
		}
		st.fail = nil
		s.read(int64(len(msgs)))
		for _, n := range names {
			promoted[n] = true
			if err := st.Store.PutProgress(context.Background(), store.Progress{Layer: failover.Asked(ownLayer), Tenant: n, Version: 5}); err != nil {
				t.Fatal(err)
			}
		}
		s.look()
		for _, n := range names {
			answer, err := st.Progress(context.Background(), failover.Written(ownLayer), n)
			if err != nil || len(answer) != 1 || answer[0].Version != 5 {
				t.Errorf("seed %d: the answer for %s is %v, %v", seed, n, answer, err)
			}
			want, _ := direct.Progress(context.Background(), ownLayer, n)
			got, err := st.Progress(context.Background(), ownLayer, n)
			if err != nil || len(got) != len(want) || len(got) > 0 && got[0].ClosedBefore != want[0].ClosedBefore {
				t.Errorf("seed %d: progress of %s is %v, want %v", seed, n, got, want)
			}
		}
		rows := allRows(t, st)
		for k, want := range allRows(t, direct) {
			if covered[rowKey{store.Series{Tenant: k.series.Tenant}, k.minute}] {
				continue
			}
			if got, ok := rows[k]; !ok || got.version != want.version || !bytes.Equal(got.value, want.value) {
				t.Fatalf("seed %d: %v minute %d is %v %v, want %v", seed, k.series, k.minute, ok, got, want)
			}
		}
	}
}

// TestAStandbyCommitsWhatIsCovered, and tells the store of it first: a restart then reads what was held, and no more.
func TestAStandbyCommitsWhatIsCovered(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s := &standby{t: t, st: newRecording(t), msgs: randomLog(t, r, 400)}
	s.start(heldBytes)
	s.read(200)
	if s.commit != 0 {
		t.Fatalf("committed to %d while everything is held", s.commit)
	}
	names, _ := testTenantList()
	for w := int64(10); w < 20; w += testWindow {
		for _, n := range names {
			if err := s.st.PutCoverage(context.Background(), store.Coverage{Tenant: n, Window: w, Generation: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.cover()
	s.read(int64(len(s.msgs)))
	if s.commit == 0 {
		t.Error("nothing is committed of what is covered")
	}
	for _, n := range names {
		p, err := s.st.Progress(context.Background(), ownLayer, n)
		if err != nil || len(p) != 1 || p[0].ClosedBefore > 20 || p[0].ClosedBefore < 11 {
			t.Errorf("progress of %s is %v, %v, want what is covered", n, p, err)
		}
		h, err := s.st.Progress(context.Background(), failover.Held(ownLayer), n)
		if err != nil || len(h) != 1 || h[0].ClosedBefore <= 20 {
			t.Errorf("%s is said to be held to %v, %v", n, h, err)
		}
	}
	if n := len(allRows(t, s.st)); n > 0 {
		t.Errorf("%d rows are written", n)
	}
}

// put is a standby's partition that is given rows by hand.
func put(t *testing.T, limit int) (*recording, *Gate, *GatePart) {
	st := newRecording(t)
	g := NewGate(st, ownLayer, []string{"shop0", "shop1"}, true, testWindow, slog.New(slog.NewTextHandler(io.Discard, nil)))
	g.Limit = limit
	return st, g, g.Part(0, nil, nil, func(broker.Committed) {})
}

func rowOf(minute, version int64) store.Row {
	return store.Row{Series: store.Series{Tenant: "shop0", Metric: "site.visits", Layer: ownLayer}, Minute: minute, Version: version, Value: []byte{byte(minute), byte(version)}}
}

// TestAStandbyAtItsLimit writes its oldest minutes.
func TestAStandbyAtItsLimit(t *testing.T) {
	ctx := context.Background()
	st, g, p := put(t, 8*(heldRow+2))
	for m := range int64(8) {
		if err := p.PutRows(ctx, []store.Row{rowOf(20-m, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(allRows(t, st)); n > 0 {
		t.Fatalf("%d rows are written within the limit", n)
	}
	if err := p.PutRows(ctx, []store.Row{rowOf(30, 1)}); err != nil {
		t.Fatal(err)
	}
	written := allRows(t, st)
	for m := int64(13); m < 16; m++ {
		if _, ok := written[rowKey{rowOf(m, 1).Series, m}]; !ok {
			t.Errorf("minute %d is not written", m)
		}
	}
	if len(written) != 3 || p.bytes != 6*(heldRow+2) {
		t.Errorf("%d rows are written and %d bytes are held, want 3 and %d", len(written), p.bytes, 6*(heldRow+2))
	}
	g.Part(1, nil, nil, func(broker.Committed) {}) // the limit is for both
	if err := p.PutRows(ctx, []store.Row{rowOf(30, 2)}); err != nil {
		t.Fatal(err)
	}
	if p.bytes != 3*(heldRow+2) {
		t.Errorf("with another partition %d bytes are held, want %d", p.bytes, 3*(heldRow+2))
	}
	p.Close()
	if p.bytes != 0 || len(g.parts) != 1 {
		t.Errorf("a partition that was let go of holds %d bytes", p.bytes)
	}
}

// TestAStandbyHoldsHalfADay and writes what is older.
func TestAStandbyHoldsHalfADay(t *testing.T) {
	ctx := context.Background()
	st, _, p := put(t, heldBytes)
	if err := errors.Join(p.PutRows(ctx, []store.Row{rowOf(100, 1), rowOf(99, 1)}),
		p.PutProgress(ctx, store.Progress{Layer: ownLayer, Tenant: "shop0", ClosedBefore: 100 + heldMinutes}), p.PutRows(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	written := allRows(t, st)
	if _, ok := written[rowKey{rowOf(99, 1).Series, 99}]; !ok || len(written) != 1 {
		t.Errorf("written are %v, want minute 99", written)
	}
}

// TestTheGreatestVersionIsHeld, and what is held is a copy.
func TestTheGreatestVersionIsHeld(t *testing.T) {
	ctx := context.Background()
	st, g, p := put(t, heldBytes)
	r := rowOf(5, 2)
	if err := p.PutRows(ctx, []store.Row{rowOf(5, 1), r, rowOf(5, 0)}); err != nil {
		t.Fatal(err)
	}
	r.Value[1] = 99
	if p.bytes != heldRow+2 {
		t.Errorf("%d bytes are held of one row", p.bytes)
	}
	if err := errors.Join(st.PutActive(ctx, store.Active{Tenant: "shop0", Layer: ownLayer}), g.look(ctx, "shop0")); err != nil {
		t.Fatal(err)
	}
	if got := allRows(t, st)[rowKey{r.Series, 5}]; got.version != 2 || !bytes.Equal(got.value, []byte{5, 2}) {
		t.Errorf("written is %v", got)
	}
}

// TestWhatWasDecidedOpensNothing: a question from before the active layer's last change is over.
func TestWhatWasDecidedOpensNothing(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		active store.Active
		asked  int64
		open   bool
	}{
		{store.Active{}, 0, false},
		{store.Active{Layer: otherLayer, Seq: 5}, 0, false},
		{store.Active{Layer: otherLayer, Seq: 5}, 5, false},
		{store.Active{Layer: otherLayer, Seq: 5}, 6, true},
		{store.Active{Layer: ownLayer, Seq: 5}, 5, true},
		{store.Active{Layer: ownLayer, Seq: 5}, 0, true},
		{store.Active{}, 1, true},
	} {
		st, g, _ := put(t, heldBytes)
		if c.active.Layer != "" {
			c.active.Tenant = "shop0"
			if err := st.PutActive(ctx, c.active); err != nil {
				t.Fatal(err)
			}
		}
		if c.asked > 0 {
			if err := st.PutProgress(ctx, store.Progress{Layer: failover.Asked(ownLayer), Tenant: "shop0", Version: c.asked}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(g.look(ctx, "shop0"), g.look(ctx, "shop1")); err != nil {
			t.Fatal(err)
		}
		answers, err := st.Progress(ctx, failover.Written(ownLayer), "shop0")
		if err != nil || g.open["shop0"] != c.open || g.open["shop1"] || (len(answers) == 1) != (c.asked > c.active.Seq) {
			t.Errorf("active %v, asked %d: open %v, answers %v, %v", c.active, c.asked, g.open, answers, err)
		}
	}
}

// TestPromotedWhileItReads: the gate opens between any two calls of stage 2 and nothing is left behind it.
func TestPromotedWhileItReads(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 6))
		msgs := randomLog(t, r, 200)
		_, tenants := testTenantList()
		direct := newRecording(t)
		straight := aggregate.Worker{State: newState(t, tenants), Store: direct}
		if err := straight.Handle(context.Background(), records(msgs, 0, int64(len(msgs)))); err != nil {
			t.Fatal(err)
		}
		s := &standby{t: t, st: newRecording(t), msgs: msgs}
		s.start(heldBytes)
		s.read(r.Int64N(150))
		for n := range testTenants {
			if err := s.st.PutActive(context.Background(), store.Active{Tenant: tenantName(n), Layer: ownLayer}); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.look()
		}()
		for at := s.worker.State.Offset; at < int64(len(msgs)); at++ {
			s.read(at + 1)
		}
		<-done
		rows, want := allRows(t, s.st), allRows(t, direct)
		for k, w := range want {
			if got, ok := rows[k]; !ok || !bytes.Equal(got.value, w.value) {
				t.Fatalf("seed %d: %v minute %d is %v %v, want %v", seed, k.series, k.minute, ok, got, w)
			}
		}
	}
}

// TestWhatComesWhileItIsWritten is written too.
func TestWhatComesWhileItIsWritten(t *testing.T) {
	ctx := context.Background()
	st, g, p := put(t, heldBytes)
	if err := errors.Join(p.PutRows(ctx, []store.Row{rowOf(5, 1)}), st.PutActive(ctx, store.Active{Tenant: "shop0", Layer: ownLayer})); err != nil {
		t.Fatal(err)
	}
	st.onRow = func(r *store.Row) {
		if r.Minute == 5 && r.Version == 1 {
			if err := p.PutRows(ctx, []store.Row{rowOf(5, 2), rowOf(6, 1)}); err != nil {
				t.Error(err)
			}
		}
	}
	if err := g.look(ctx, "shop0"); err != nil {
		t.Fatal(err)
	}
	if got := allRows(t, st); len(got) != 2 || got[rowKey{rowOf(5, 2).Series, 5}].version != 2 || p.bytes != 0 {
		t.Errorf("written are %v, and %d bytes are held", got, p.bytes)
	}
}

// TestAStandbyLetsGoOfWhatIsCovered, to the minute, though what it holds begins in the middle of a window.
func TestAStandbyLetsGoOfWhatIsCovered(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct{ held, left []int64 }{{[]int64{12}, nil}, {[]int64{9, 10, 14, 15}, []int64{9, 15}}, {[]int64{3, 15}, []int64{3, 15}}} {
		st, g, p := put(t, heldBytes)
		for _, m := range c.held {
			if err := p.PutRows(ctx, []store.Row{rowOf(m, 1)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(st.PutCoverage(ctx, store.Coverage{Tenant: "shop0", Window: 10}), st.PutCoverage(ctx, store.Coverage{Tenant: "shop1", Window: 15}),
			g.cover(ctx, "shop0"), g.cover(ctx, "shop1")); err != nil {
			t.Fatal(err)
		}
		var left []int64
		for m := range p.held {
			left = append(left, m.minute)
		}
		if slices.Sort(left); !slices.Equal(left, c.left) || p.bytes != len(left)*(heldRow+2) {
			t.Errorf("of %v there are left %v, want %v; %d bytes", c.held, left, c.left, p.bytes)
		}
	}
}
