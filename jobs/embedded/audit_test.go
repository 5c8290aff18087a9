package embedded

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/traffic"
	"tandem/scripts/devstack"
)

// auditOf audits minutes [from, to) of a layer of a pipeline.
func auditOf(t *testing.T, p *Pipeline, layer string, from, to int64) *batch.AuditReport {
	t.Helper()
	ctx := context.Background()
	closed := int64(math.MaxInt64)
	progress, err := p.Store.Progress(ctx, layer, p.Chain.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range progress {
		closed = min(closed, c.ClosedBefore)
	}
	a := &batch.Audit{Job: p.Job(), Live: p.Job().Chain, Store: p.Store, Temp: blob.NewMem(), Layer: layer, Closed: closed, From: from, To: to,
		Back: 48 * 3600 * 1000}
	report, err := a.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestAuditOfWorlds: whatever the records and the schedule, an audit of any range finds nothing that late records do not
// explain, and the differences that it counts are those of the layers' lines.
func TestAuditOfWorlds(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	explained := int64(0)
	for seed := *worldSeed; seed < *worldSeed+uint64(min(*worldCount/10, 300)); seed++ {
		w, chain, r, s := scheduled(t, seed)
		var minutes []int64
		for _, layer := range []string{"stream", "batch"} {
			lines, err := Lines(context.Background(), s.st, chain.Tenant, layer, 0, store.MaxMinute)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range lines {
				var minute int64
				if _, err := fmt.Sscan(strings.Split(l, "\t")[2], &minute); err != nil {
					t.Fatal(err)
				}
				minutes = append(minutes, minute)
			}
		}
		if len(minutes) == 0 {
			continue
		}
		slices.Sort(minutes)
		from, to := minutes[0], minutes[len(minutes)-1]+1
		if r.IntN(3) > 0 { // a part of it
			from += r.Int64N(to - from)
			to = from + 1 + r.Int64N(to-from)
		}
		rep := auditOf(t, s.p, "stream.dc1", from, to)
		if rep.Faults > 0 || !rep.Exact {
			t.Fatalf("seed %d: minutes %d to %d, exact %t: %d faults, the first %+v\n%s", seed, from, to, rep.Exact, rep.Faults, rep.FirstFaults[0], w)
		}
		want := map[string]int64{}
		stream, batch := valuesOf(t, s.st, chain.Tenant, "stream", rep.From, rep.To), valuesOf(t, s.st, chain.Tenant, "batch", rep.From, rep.To)
		for k, v := range stream {
			switch b, ok := batch[k]; {
			case !ok:
				want["extra"]++
			case b != v:
				want["mismatch"]++
			default:
				want["equal"]++
			}
		}
		for k := range batch {
			if _, ok := stream[k]; !ok {
				want["missing"]++
			}
		}
		// Of visitors an audit compares the sketches, which may differ and be estimated alike.
		got := rep.Total
		if got.Equal+got.Mismatch != want["equal"]+want["mismatch"] || got.Mismatch < want["mismatch"] || got.Missing != want["missing"] || got.Extra != want["extra"] {
			t.Fatalf("seed %d: minutes %d to %d: %+v, want %v\n%s", seed, rep.From, rep.To, got, want, w)
		}
		late := got.Mismatch + got.Missing + got.Extra
		explained += late
		if (late > 0) != (len(rep.Sessions) > 0) {
			t.Fatalf("seed %d: %d values differ, %d sessions are behind it\n%s", seed, late, len(rep.Sessions), w)
		}
		s.st.Close()
	}
	if explained == 0 {
		t.Error("no world has a difference")
	}
}

func valuesOf(t *testing.T, st store.Store, tenantName, layer string, from, to int64) map[string]string {
	t.Helper()
	lines, err := Lines(context.Background(), st, tenantName, layer, from, to)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, l := range lines {
		i := strings.LastIndexByte(l, '\t')
		all[l[:i]] = l[i+1:]
	}
	return all
}

// shopRig is two hours of a shop, in both layers, and the records.
type shopRig struct {
	p     *Pipeline
	raws  []Raw
	begin int64 // minute
}

func newShopRig(t *testing.T, late func(i int, r *Raw)) *shopRig {
	t.Helper()
	cfg, err := tenant.Load("shop.yaml", traffic.Config())
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
	o := traffic.Defaults()
	o.Span, o.SessionsPerMinute = 90*time.Minute, 3
	o.LateShare, o.UnusedShare = 0, 0
	r := &shopRig{begin: o.Start.Unix() / 60}
	err = traffic.Generate(o, func(rec records.Record) error {
		r.raws = append(r.raws, Raw{Ingest: rec.Ingest, Payload: bytes.Clone(rec.Payload)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.raws {
		if late != nil {
			late(i, &r.raws[i])
		}
	}
	r.p = r.stream(t, chain, st, blob.NewMem(), "stream.dc1", func(int) bool { return true })
	if err := r.p.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r
}

// stream runs the records of which keep is true through a pipeline of its own.
func (r *shopRig) stream(t *testing.T, chain *tenant.Chain, st store.Store, blobs blob.Store, layer string, keep func(i int) bool) *Pipeline {
	t.Helper()
	opt := Defaults()
	opt.Layer, opt.Batch = layer, layer == "stream.dc1"
	ctx := context.Background()
	p, err := Open(ctx, opt, chain, NewMemory(), blobs, st)
	if err != nil {
		t.Fatal(err)
	}
	var kept []Raw
	for i, raw := range r.raws {
		if keep(i) {
			kept = append(kept, raw)
		}
	}
	slices.SortStableFunc(kept, func(a, b Raw) int { return int(min(max(a.Ingest-b.Ingest, -1), 1)) })
	if err := p.Feed(ctx, kept); err != nil {
		t.Fatal(err)
	}
	if err := p.Heartbeat(ctx, p.End()); err != nil {
		t.Fatal(err)
	}
	if err := p.Pump(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func (r *shopRig) audit(t *testing.T, layer string) *batch.AuditReport {
	t.Helper()
	return auditOf(t, r.p, layer, r.begin, r.begin+150)
}

// busy is a minute with several values of site.visit.
func (r *shopRig) busy(t *testing.T) (found int64) {
	t.Helper()
	s := store.Series{Tenant: "shop", Metric: "site.visit", Layer: "stream.dc1"}
	err := r.p.Store.Rows(t.Context(), s, r.begin+30, r.begin+80, func(minute, _ int64, value []byte) error {
		var cells row.Reader
		if err := cells.Reset(value); err != nil {
			return err
		}
		if cells.Len() > 1 {
			found = minute
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Fatalf("no busy minute: %v", err)
	}
	return found
}

// change writes a row of a layer anew, as fn changes its cells.
func (r *shopRig) change(t *testing.T, layer, metric string, minute int64, fn func([]row.Cell) []row.Cell) {
	t.Helper()
	ctx := context.Background()
	s := store.Series{Tenant: "shop", Metric: metric, Layer: layer}
	var cells []row.Cell
	var version int64
	err := r.p.Store.Rows(ctx, s, minute, minute+1, func(_, v int64, value []byte) error {
		version = v
		_, err := row.Decode(value, func(c row.Cell) error {
			cells = append(cells, c)
			return nil
		})
		return err
	})
	if err != nil || len(cells) == 0 {
		t.Fatalf("%v has %d cells at %d, %v", s, len(cells), minute, err)
	}
	value, err := row.Append(nil, row.Sums, fn(cells))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.p.Store.PutRows(ctx, []store.Row{{Series: s, Minute: minute, Version: version + 1, Value: value}}); err != nil {
		t.Fatal(err)
	}
}

func TestAuditFindsFaults(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	r := newShopRig(t, nil)
	at := r.busy(t)
	rep := r.audit(t, "stream.dc1")
	if rep.Faults > 0 || rep.Total.Equal < 1000 || rep.Total.Compared() != rep.Total.Equal || rep.Rerun != 0 || !rep.Exact || rep.Covered < 4 {
		t.Fatalf("of a store without faults: %+v", rep)
	}
	first := func(fn func(c *row.Cell)) func([]row.Cell) []row.Cell {
		return func(cells []row.Cell) []row.Cell { fn(&cells[0]); return cells }
	}
	covered, err := r.p.Job().Covered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	generation := batch.Layer(covered[at*60000/batch.WindowMS*batch.WindowMS].Generation)
	for _, c := range []struct {
		name, layer string
		fn          func([]row.Cell) []row.Cell
		want        batch.Outcome
		faults      int64
	}{
		{"changed by one", "stream.dc1", first(func(c *row.Cell) { c.Value++ }), batch.Outcome{Mismatch: 1}, 1},
		{"missing", "stream.dc1", func(cells []row.Cell) []row.Cell { return cells[1:] }, batch.Outcome{Missing: 1}, 1},
		{"extra", "stream.dc1", func(cells []row.Cell) []row.Cell { return append(cells, row.Cell{Tags: "device=zeppelin", Value: 7}) }, batch.Outcome{Extra: 1}, 1},
		{"the batch's changed by one", generation, first(func(c *row.Cell) { c.Value-- }), batch.Outcome{Mismatch: 1}, 1},
		{"the batch's missing", generation, func(cells []row.Cell) []row.Cell { return cells[1:] }, batch.Outcome{Extra: 1}, 1},
	} {
		var before []row.Cell
		r.change(t, c.layer, "site.visit", at, func(cells []row.Cell) []row.Cell {
			before = slices.Clone(cells)
			return c.fn(cells)
		})
		rep := r.audit(t, "stream.dc1")
		got := rep.Total
		if rep.Faults != c.faults || got.Unexplained != c.faults || got.Mismatch != c.want.Mismatch || got.Missing != c.want.Missing || got.Extra != c.want.Extra || got.SMAPE == 0 {
			t.Errorf("%s: %d faults, %+v", c.name, rep.Faults, got)
		} else if f := rep.FirstFaults[0]; f.Layer != c.layer || f.Metric != "site.visit" || f.Minute != at || f.Got == f.Want {
			t.Errorf("%s: the fault is %+v", c.name, f)
		}
		r.change(t, c.layer, "site.visit", at, func([]row.Cell) []row.Cell { return before })
		if again := r.audit(t, "stream.dc1"); again.Faults > 0 {
			t.Fatalf("%s: put back, and still a fault: %+v", c.name, again.FirstFaults)
		}
	}
}

// A late beacon makes a difference, which is explained, and its session is named.
func TestAuditExplainsLate(t *testing.T) {
	t.Parallel()
	var late Raw
	r := newShopRig(t, func(i int, r *Raw) {
		if i == 400 {
			r.Ingest += 15 * 60000
			late = *r
		}
	})
	rep := r.audit(t, "stream.dc1")
	if rep.Faults > 0 || rep.Late != 1 || rep.Total.Compared() == rep.Total.Equal || rep.Rerun == 0 {
		t.Fatalf("%+v", rep)
	}
	if len(rep.Sessions) != 1 || rep.Sessions[0].Why != "late" || !bytes.Contains(late.Payload, []byte(`"`+rep.Sessions[0].Session+`"`)) {
		t.Errorf("the sessions behind it are %+v, want that of %s", rep.Sessions, late.Payload)
	}
	if rep.Sessions[0].Late != 1 || rep.Sessions[0].Values == 0 {
		t.Errorf("%+v", rep.Sessions[0])
	}
}

// A record that the stream has lost is no late one: the audit fails and names its session, though late ones are about.
func TestAuditOfALossyStream(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	r := newShopRig(t, func(i int, r *Raw) {
		if i%97 == 5 {
			r.Ingest += 15 * 60000
		}
	})
	lost := 333
	r.stream(t, r.p.Chain, r.p.Store, blob.NewMem(), "stream.dc2", func(i int) bool { return i != lost })
	rep := r.audit(t, "stream.dc2")
	if rep.Faults == 0 {
		t.Fatalf("a lost record is not seen: %+v", rep.Total)
	}
	if rep.Total.Unexplained != rep.Faults || rep.Total.Mismatch+rep.Total.Missing+rep.Total.Extra <= rep.Faults {
		t.Errorf("%d faults, %+v", rep.Faults, rep.Total)
	}
	if s := rep.Sessions[0]; s.Why != "stream.dc2" || !bytes.Contains(r.raws[lost].Payload, []byte(`"`+s.Session+`"`)) {
		t.Errorf("first is named %+v, want the session of %s", s, r.raws[lost].Payload)
	}
	if late := slices.IndexFunc(rep.Sessions, func(s batch.Behind) bool { return s.Why == "late" }); late < 0 {
		t.Error("no late session is named")
	}
}
