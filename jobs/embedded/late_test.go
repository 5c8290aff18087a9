package embedded

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// lateRig is a pipeline with five hours of sessions, one a minute, all of them covered.
type lateRig struct {
	t    *testing.T
	p    *Pipeline
	cfg  *tenant.Config
	t0   int64
	recs []oracle.Record
}

func newLateRig(t *testing.T) *lateRig {
	t.Helper()
	cfg, err := tenant.Load("t.yaml", []byte("tenant: t\npoints:\n  p: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r := &lateRig{t: t, cfg: cfg, t0: 1767225600000}
	if r.p, err = Open(context.Background(), Defaults(), chain, NewMemory(), blob.NewMem(), st); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		r.feed(fmt.Sprint("s", i), i, i)
	}
	r.settle(302)
	r.batch(context.Background())
	return r
}

// feed has a session's beacon at minute ts come in at minute ingest.
func (r *lateRig) feed(session string, ts, ingest int) {
	r.t.Helper()
	at := r.t0 + int64(ts)*60000
	rec := oracle.Record{Ingest: r.t0 + int64(ingest)*60000,
		Payload: fmt.Appendf(nil, `{"id":"%s-%d","tenant":"t","session":"%s","ts":%d,"point":"p"}`, session, at, session, at)}
	r.recs = append(r.recs, rec)
	if err := r.p.Feed(context.Background(), []Raw{{Ingest: rec.Ingest, Payload: rec.Payload}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *lateRig) settle(minute int) {
	r.t.Helper()
	if err := r.p.Heartbeat(context.Background(), r.t0+int64(minute)*60000); err != nil {
		r.t.Fatal(err)
	}
	if err := r.p.Pump(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *lateRig) batch(ctx context.Context) {
	r.t.Helper()
	if err := r.p.Job().Run(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// check compares the batch, once all is covered, with the oracle over everything.
func (r *lateRig) check() {
	r.t.Helper()
	ctx := context.Background()
	if err := r.p.Finish(ctx); err != nil {
		r.t.Fatal(err)
	}
	got, err := Lines(ctx, r.p.Store, "t", "batch", 0, store.MaxMinute)
	if err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	diffLines(&b, "batch rows", oracle.Run([]*tenant.Config{r.cfg}, r.recs, false).RowLines(), got)
	if b.Len() > 0 {
		r.t.Error(b.String())
	}
}

// TestTwoLateWindowsApart: between two windows that late beacons make due lies one that is due only once the first has
// been run again. The visit that a late beacon begins in the first ends in it.
func TestTwoLateWindowsApart(t *testing.T) {
	t.Parallel()
	r := newLateRig(t)
	r.feed("L1", 45, 303)
	r.feed("L2", 130, 303)
	r.settle(334)
	r.batch(context.Background())
	r.check()
}

// TestStoppedBetweenLateWindows: the batch stops after the window of the late beacon and before those that its run
// makes due; then a new window comes first.
func TestStoppedBetweenLateWindows(t *testing.T) {
	t.Parallel()
	r := newLateRig(t)
	r.feed("L1", 45, 303)
	r.settle(334)
	ctx, stop := context.WithCancel(context.Background())
	job := r.p.Job()
	job.Done = func(c *batch.Covered) { stop() }
	if err := job.Run(ctx); err == nil {
		t.Fatal("the batch was not stopped")
	}
	for i := range 3 {
		r.feed(fmt.Sprint("n", i), 343+40*i, 343+40*i)
		r.settle(343 + 40*i + 72)
		r.batch(context.Background())
	}
	r.check()
}

// TestWindowsWaitForEverySource: while one raw partition is unread, no window is covered, whatever the other says.
func TestWindowsWaitForEverySource(t *testing.T) {
	t.Parallel()
	r := newLateRig(t)
	opt := Defaults()
	opt.Raw, opt.Shards, opt.ArchiveRows = 2, 1, 10
	ctx := context.Background()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	p, err := Open(ctx, opt, r.p.Chain, NewMemory(), blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	var raw []Raw
	for i, rec := range r.recs {
		raw = append(raw, Raw{Partition: int32(i % 2), Ingest: rec.Ingest, Payload: rec.Payload})
	}
	if err := p.Feed(ctx, raw); err != nil {
		t.Fatal(err)
	}
	stages := p.stages() // raw 0, raw 1, shard, archiver
	for _, k := range []int{0, 3} {
		if _, err := stages[k](ctx, len(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Job().Run(ctx); err != nil {
		t.Fatal(err)
	}
	covered, err := p.Job().Covered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(covered) > 0 {
		t.Errorf("%d windows are covered although a source was not read", len(covered))
	}
}
