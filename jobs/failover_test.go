package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/jobs/embedded"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/both"
	"tandem/schemas/store/cassandra"
	"tandem/schemas/store/pebblestore"
	"tandem/stream/failover"
)

const (
	dc1 = "stream.dc1"
	dc2 = "stream.dc2"
)

// TestTwoDataCentres runs the stream in two data centres over the same beacons, with one store: dc2 as a standby that writes no
// row. Stage 2 of dc1 goes away in the middle; failover auto then promotes dc2, whose rows are those of the embedded pipeline,
// and a reader that polls all the while sees them only when all are there.
func TestTwoDataCentres(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	shared, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	one, two := newServiceRig(t, 2, 2), newServiceRigOf(t, "dc2", 2, 2)
	chain := one.site.Tenants[0].Chain
	raws := one.traffic(t, 3000)
	want, end := replayed(t, ctx, chain, raws)

	for _, dc := range []*serviceRig{one, two} {
		dc.start(t, "dispatch", "--id", "d")
		dc.start(t, "stream", "--stage", "1", "--id", "a")
	}
	stopOne := one.aggregate(t, ctx, shared, false)
	two.aggregate(t, ctx, shared, true)

	// The first half: both are complete as far, one in the store and one in memory.
	half := len(raws) / 2
	middle := raws[half].Ingest
	both := []*serviceRig{one, two}
	for _, dc := range both {
		dc.write(t, ctx, raws[:half], middle)
	}
	look := func(layer string) failover.Layer {
		l, err := failover.Look(ctx, shared, chain.Tenant, layer, 2)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one.await(t, ctx, "both are complete as far as can be", func() bool {
		return min(look(dc1).Written, look(dc2).Complete) >= middle/60000-12
	})
	// Of minutes before the first that has rows nothing is held, so a standby may tell that they are done.
	first := firstMinute(want)
	if l := look(dc2); l.Written > first {
		t.Errorf("the standby tells readers to be complete before %s, and holds rows of %s", failover.Clock(l.Written), failover.Clock(first))
	}
	err = shared.Catalog(ctx, chain.Tenant, func(s store.Series) error {
		if s.Layer != dc1 {
			return fmt.Errorf("the standby has written %s", s)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	// dc1 goes away, and the second half comes. Whoever reads dc2 then sees all minutes before the moment at which dc1 ended.
	stopOne()
	before := look(dc1).Written
	expected := linesBefore(want, before)
	polled, stopPolling := make(chan error, 1), make(chan struct{})
	go func() { polled <- pollLines(ctx, shared, chain.Tenant, before, expected, stopPolling) }()

	var logs syncBuffer
	auto := &failoverJob{store: shared, tenants: []string{chain.Tenant}, own: dc2, partitions: 2, lag: 5, wait: 20 * time.Second,
		log: slog.New(slog.NewTextHandler(&logs, nil)), now: time.Now}
	autoCtx, stopAuto := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- auto.auto(autoCtx, failover.Policy{Lag: 5, For: 3, HoldOffMS: time.Hour.Milliseconds()}, 50*time.Millisecond, false)
	}()
	for _, dc := range both {
		dc.produce(t, ctx, raws[half:], end)
	}
	var behind time.Time // since when it is seen that dc1 is
	one.await(t, ctx, "dc2 is promoted", func() bool {
		if behind.IsZero() && look(dc2).Complete-look(dc1).Written >= 5 {
			behind = time.Now()
		}
		a, ok, err := shared.Active(ctx, chain.Tenant)
		return err == nil && ok && a.Layer == dc2
	})
	if took := time.Since(behind); took > 10*time.Second {
		t.Errorf("readers followed after %s", took)
	} else {
		t.Logf("readers followed after %s", took.Round(time.Millisecond))
	}
	one.await(t, ctx, "dc2 has written all", func() bool { return look(dc2).Written >= end/60000-12 })
	close(stopPolling)
	if err := <-polled; err != nil {
		t.Error(err)
	}
	stopAuto()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("auto ended with %v", err)
	}
	if n := strings.Count(logs.String(), "msg=promoted"); n != 1 || !strings.Contains(logs.String(), "from=stream.dc1 to=stream.dc2") {
		t.Errorf("%d promotions are logged:\n%s", n, logs.String())
	}
	var shown strings.Builder
	if err := auto.show(ctx, &shown); err != nil || !strings.Contains(shown.String(), "active, sequence") || !strings.Contains(shown.String(), "2 of 2") {
		t.Errorf("%v, shown:\n%s", err, shown.String())
	}
	one.stopAll()
	two.stopAll()
	got, err := exported(ctx, shared, chain.Tenant, "stream", 0, store.MaxMinute+1)
	if err != nil {
		t.Fatal(err)
	}
	if d := difference(want, got); len(d) > 0 {
		t.Errorf("%d lines differ of %d, the first: %s\nlogs:\n%s", len(d), len(want), d[0], two.logs.String())
	}
}

// aggregate runs stage 2 with a store of the test's until the function that it returns is called, or stopAll.
func (s *serviceRig) aggregate(t *testing.T, ctx context.Context, st store.Store, standby bool) (stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(&s.logs, nil))
	flags := newServiceFlags("stream")
	if _, code, over := flags.check(streamUsage, []string{"--site", s.file, "--id", "b", "--session-timeout", "6s"}, io.Discard, func() error { return nil }); over {
		t.Fatalf("exit code %d", code)
	}
	w, err := find(ctx, s.site, s.site.Layer(), log)
	if err != nil {
		t.Fatal(err)
	}
	two, err := w.aggregate(ctx, flags, st, false, standby, log)
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- two.Run(running) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stage 2 of %s: %v", s.site.DC, err)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stops = append(s.stops, stop)
	return stop
}

// linesBefore are the lines of minutes before one.
func linesBefore(lines []string, minute int64) (before []string) {
	for _, l := range lines {
		if minuteOf(l) < minute {
			before = append(before, l)
		}
	}
	return before
}

func firstMinute(lines []string) int64 {
	first := int64(math.MaxInt64)
	for _, l := range lines {
		first = min(first, minuteOf(l))
	}
	return first
}

// minuteOf is the minute of an exported line.
func minuteOf(line string) (minute int64) {
	if f := strings.Split(line, "\t"); len(f) == 4 {
		fmt.Sscan(f[2], &minute)
	}
	return minute
}

// pollLines reads minutes again and again, and each time expects the same.
func pollLines(ctx context.Context, st store.Store, tenant string, before int64, want []string, stop <-chan struct{}) error {
	for n := 0; ; n++ {
		lines, err := embedded.Lines(ctx, st, tenant, "both", 0, before)
		if err != nil {
			return err
		}
		if d := difference(want, lines); len(d) > 0 {
			return fmt.Errorf("read %d: %d lines differ, the first: %s", n, len(d), d[0])
		}
		select {
		case <-stop:
			if n < 3 {
				return fmt.Errorf("only %d reads: this tests little", n)
			}
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestAReaderSeesOneLayer: while the active layer changes back and forth, no answer has values of two.
func TestAReaderSeesOneLayer(t *testing.T) {
	ctx := context.Background()
	st, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var rows []store.Row
	for value, layer := range []string{dc1, dc2} {
		cells, err := row.Append(nil, row.Sums, []row.Cell{{Value: int64(value) + 1}})
		if err != nil {
			t.Fatal(err)
		}
		for m := range int64(50) {
			for _, name := range []string{"site.a", "site.b", "site.c"} {
				rows = append(rows, store.Row{Series: store.Series{Tenant: "shop", Metric: name, Layer: layer}, Minute: m, Value: cells})
			}
		}
	}
	if err := st.PutRows(ctx, rows); err != nil {
		t.Fatal(err)
	}
	activate := func(layer string, seq int64) {
		if err := st.PutActive(ctx, store.Active{Tenant: "shop", Layer: layer, Seq: seq}); err != nil {
			t.Error(err)
		}
	}
	activate(dc1, 1)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for seq := int64(2); ; seq += 2 {
			activate(dc2, seq)
			activate(dc1, seq+1)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	defer func() { close(stop); <-done }()
	seen := map[string]int{}
	for end := time.Now().Add(10 * time.Second); min(seen["1"], seen["2"]) < 5; {
		if time.Now().After(end) {
			t.Fatalf("the reader saw %v in 10 s", seen)
		}
		lines, err := exported(ctx, st, "shop", "both", 0, 100)
		if err != nil || len(lines) != 150 {
			t.Fatalf("%d lines, %v", len(lines), err)
		}
		first := lines[0][strings.LastIndexByte(lines[0], '\t')+1:]
		seen[first]++
		for _, l := range lines {
			if !strings.HasSuffix(l, "\t"+first) {
				t.Fatalf("%q and %q in one answer", lines[0], l)
			}
		}
	}
}

// TestFailoverCommand takes the command line with the store of a site.
func TestFailoverCommand(t *testing.T) {
	ctx := context.Background()
	s := newServiceRig(t, 1, 1)
	put := func(f func(st store.Store) error) {
		t.Helper()
		st, err := pebblestore.Open(s.site.Store.Pebble, pebblestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f(st), st.Close()); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().Unix() / 60
	put(func(st store.Store) error {
		cells, err := row.Append(nil, row.Sums, []row.Cell{{Value: 7}})
		err = errors.Join(err, st.PutActive(ctx, store.Active{Tenant: "shop", Layer: dc1, Seq: 4}),
			st.PutRows(ctx, []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visits", Layer: dc2}, Minute: now, Value: cells}}))
		for p := range int32(2) {
			err = errors.Join(err, st.PutProgress(ctx, store.Progress{Layer: dc1, Tenant: "shop", Partition: p, ClosedBefore: now - 3}),
				st.PutProgress(ctx, store.Progress{Layer: failover.Held(dc2), Tenant: "shop", Partition: p, ClosedBefore: now - 9}))
		}
		return err
	})
	run := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := runFailover(ctx, append(args, "--site", s.file), &out, &out); got != code {
			t.Errorf("%v: exit code %d, want %d\n%s", args, got, code, out.String())
		}
		return out.String()
	}
	has := func(out string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("no %q in:\n%s", p, out)
			}
		}
	}
	export := func() string {
		t.Helper()
		var out, log bytes.Buffer
		if code := runExport(ctx, []string{"--site", s.file, "--tenant", "shop"}, &out, &log); code != 0 {
			t.Errorf("export: exit code %d\n%s", code, log.String())
		}
		return out.String()
	}
	has(run(0, "show", "--layers", "stream.dc2,stream.dc3"), "stream.dc1", "active, sequence 4", "2 of 2", "0 of 2", "all", failover.Clock(now-9))
	if rows := export(); rows != "" {
		t.Errorf("exported is a layer that is not active: %s", rows)
	}
	has(run(1, "promote", dc2), "behind the active one", "6 minutes more; 5 are allowed")
	has(run(1, "promote", dc2, "--lag", "6m", "--wait", "300ms"), "stage 2 of the layer does not answer", "[0 1]")
	has(run(0, "promote", dc2, "--wait", "300ms", "--force", "--tenant", "shop"), "msg=promoted", "from=stream.dc1 to=stream.dc2 from_sequence=4")
	has(run(0, "promote", dc2), "already")
	has(export(), fmt.Sprintf("shop.visit.site.visits\t\t%d\t7\n", now))
	put(func(st store.Store) error {
		a, _, err := st.Active(ctx, "shop")
		if age := time.Now().UnixMilli() - a.Seq; a.Layer != dc2 || age < 0 || age > 60_000 {
			t.Errorf("active is %+v", a)
		}
		return err
	})
	has(run(1, "show", "--tenant", "nobody"), `no tenant "nobody"`)
	for _, wrong := range [][]string{{}, {"shove"}, {"promote"}, {"promote", "batch.1"}, {"show", dc1}, {"auto", "--lag", "90s"}, {"auto", "--lag", "0"},
		{"auto", "--for", "0"}, {"auto", "--every", "1ms"}, {"show", "--layers", "dc1"}} {
		run(2, wrong...)
	}
}

// TestFailoverDryRun says what it would do and does nothing; an observation that fails begins the count anew.
func TestFailoverDryRun(t *testing.T) {
	ctx := context.Background()
	st, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := errors.Join(st.PutActive(ctx, store.Active{Tenant: "shop", Layer: dc1}),
		st.PutProgress(ctx, store.Progress{Layer: dc1, Tenant: "shop", ClosedBefore: 100}),
		st.PutProgress(ctx, store.Progress{Layer: dc2, Tenant: "shop", ClosedBefore: 200})); err != nil {
		t.Fatal(err)
	}
	var logs syncBuffer
	j := &failoverJob{store: st, tenants: []string{"shop"}, own: dc2, partitions: 1, lag: 5, wait: time.Second, now: time.Now,
		log: slog.New(slog.NewTextHandler(&logs, nil))}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- j.auto(running, failover.Policy{Lag: 5, For: 2}, time.Millisecond, true)
	}()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(logs.String(), "would promote") && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if a, _, err := st.Active(ctx, "shop"); err != nil || a.Layer != dc1 || !strings.Contains(logs.String(), "would promote") {
		t.Errorf("active is %+v, %v\n%s", a, err, logs.String())
	}
}

// withHints is a store whose nodes keep writes for each other.
type withHints struct {
	store.Store
	hints []cassandra.Hint
}

func (s withHints) Hints(context.Context) ([]cassandra.Hint, []error, error) {
	return s.hints, []error{errors.New("node d: no route")}, nil
}

// TestPromoteWaitsForHints: what is on its way to a node that is there again holds a change back, what waits for one that is away
// does not.
func TestPromoteWaitsForHints(t *testing.T) {
	shared, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	var log bytes.Buffer
	in := func(st store.Store, force bool) error {
		log.Reset()
		j := &failoverJob{store: st, force: force, log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now}
		return j.promote(t.Context(), dc2)
	}
	promote := func(force bool, hints ...cassandra.Hint) error { return in(withHints{shared, hints}, force) }
	away := cassandra.Hint{At: "a", For: "b", DC: "dc1", Files: 2}
	up := away
	up.Up = true
	if err := promote(false, away); err != nil || !strings.Contains(log.String(), "node d: no route") {
		t.Errorf("with hints for a node that is away: %v, %s", err, &log)
	}
	if err := promote(false, away, up); err == nil || !strings.Contains(err.Error(), "node a keeps 2 files of hints for b in dc1") {
		t.Errorf("with hints for a node that is there again: %v", err)
	}
	if err := in(both.New(shared, withHints{shared, []cassandra.Hint{up}}), false); err == nil || !strings.Contains(err.Error(), "node a keeps 2 files") {
		t.Errorf("with hints of the second store: %v", err)
	}
	if err := promote(true, up); err != nil || !strings.Contains(log.String(), "on their way") {
		t.Errorf("by force: %v, %s", err, &log)
	}
}
