package embedded

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/batch"
	"tandem/core/beacon"
	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

// splicedWorld is a world of which the stream knows the revisions, and the batch, after a backfill, splices of its past too.
type splicedWorld struct {
	text      string
	s         *schedule
	job       *batch.Job
	live      *tenant.Chain
	records   []oracle.Record
	revisions []*tenant.Config
	flat      []*tenant.Config // what the batch reads by, as plain revisions
	told      bool             // the archive holds all that the splices ask for
	minutes   []int64          // of rows of either layer, in order
}

// newSplicedWorld returns nil for a world without splices, or without rows.
func newSplicedWorld(t *testing.T, seed uint64) (*splicedWorld, *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	w := worlds.Generate(seed)
	revisions, err := w.Chain()
	if err != nil {
		t.Fatal(err)
	}
	objects := worlds.Spliced(seed, revisions, w)
	if len(objects) == len(revisions) {
		return nil, nil
	}
	live, err := tenant.CompileLive(objects)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := tenant.Compile(objects)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 0x776f726c64))
	s, err := newSchedule(r, live, w.Records)
	if err == nil {
		err = s.run()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.st.Close() })
	x := &splicedWorld{text: w.String(), s: s, job: s.p.Job(), live: live, records: w.Records, revisions: revisions, flat: worlds.Flat(objects)}
	x.job.Chain = whole
	if err := x.job.Run(ctx); err != nil { // as cron does meanwhile
		t.Fatal(err)
	}
	b := &batch.Backfill{From: 0, To: 4102444800000 / batch.WindowMS * batch.WindowMS}
	if err := x.job.Backfill(ctx, b, nil); err != nil {
		t.Fatalf("seed %d: backfill: %v", seed, err)
	}
	gaps, err := x.job.Untold(live, math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	x.told = len(gaps) == 0
	for _, layer := range []string{"stream", "batch"} {
		lines, err := Lines(ctx, s.st, live.Tenant, layer, 0, store.MaxMinute)
		if err != nil {
			t.Fatal(err)
		}
		if layer == "stream" || x.told {
			configs := map[string][]*tenant.Config{"stream": revisions, "batch": x.flat}[layer]
			var b strings.Builder
			if diffLines(&b, layer, oracle.Run(configs, w.Records, layer == "stream").RowLines(), lines); b.Len() > 0 {
				t.Fatalf("seed %d: %s\n%s", seed, b.String(), w)
			}
		}
		for _, l := range lines {
			var minute int64
			if _, err := fmt.Sscan(strings.Split(l, "\t")[2], &minute); err != nil {
				t.Fatal(err)
			}
			x.minutes = append(x.minutes, minute)
		}
	}
	slices.Sort(x.minutes)
	if len(x.minutes) == 0 {
		return nil, nil
	}
	return x, r
}

func (x *splicedWorld) audit(t *testing.T, from, to int64) *batch.AuditReport {
	t.Helper()
	a := &batch.Audit{Job: x.job, Live: x.live, Store: x.s.st, Temp: blob.NewMem(), Layer: "stream.dc1", Closed: math.MaxInt64, From: from, To: to,
		Back: 48 * 3600 * 1000}
	rep, err := a.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// differ says by the oracle what of a session's records makes a difference between the layers.
func (x *splicedWorld) differ(session string) (late, splice bool) {
	var p beacon.Parser
	var b beacon.Beacon
	var own []oracle.Record
	for _, r := range x.records {
		if p.Parse(r.Payload, &b) == beacon.None && string(b.Session) == session {
			own = append(own, r)
		}
	}
	stream, between, all := oracle.Run(x.revisions, own, true).RowLines(), oracle.Run(x.flat, own, true).RowLines(), oracle.Run(x.flat, own, false).RowLines()
	return !slices.Equal(between, all), !slices.Equal(stream, between)
}

// An audit over splices of the past tells the stream's chain from the batch's: without faults it finds none, counts the
// differences of the layers' lines, and gives as a session's reason what the oracle says of it: late records, a splice. A row
// of either layer that is changed is found.
func TestAuditOfSplices(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	var late, spliced, doctored int
	for seed := *worldSeed; seed < *worldSeed+uint64(min(*worldCount/5, 600)); seed++ {
		x, r := newSplicedWorld(t, seed)
		if x == nil {
			continue
		}
		from, to := x.minutes[0], x.minutes[len(x.minutes)-1]+1
		if r.IntN(3) == 0 { // a part of it
			from += r.Int64N(to - from)
			to = from + 1 + r.Int64N(to-from)
		}
		rep := x.audit(t, from, to)
		if rep.Faults > 0 || !rep.Exact || rep.Due > 0 {
			t.Fatalf("seed %d: minutes %d to %d, exact %t, %d due: %d faults, the first %+v\n%s", seed, from, to, rep.Exact, rep.Due, rep.Faults, rep.FirstFaults, x.text)
		}
		stream, batched := valuesOf(t, x.s.st, x.live.Tenant, "stream", rep.From, rep.To), valuesOf(t, x.s.st, x.live.Tenant, "batch", rep.From, rep.To)
		apart := int64(0)
		for k, v := range stream {
			if batched[k] != v {
				apart++
			}
		}
		for k := range batched {
			if _, ok := stream[k]; !ok {
				apart++
			}
		}
		// Of visitors an audit compares the sketches, which may differ and be estimated alike.
		if got := rep.Total.Compared() - rep.Total.Equal; got < apart || apart == 0 && got > 0 && rep.Spliced == 0 {
			t.Fatalf("seed %d: minutes %d to %d: %d values differ, want %d\n%s", seed, rep.From, rep.To, got, apart, x.text)
		}
		if apart > 0 && len(rep.Sessions) == 0 {
			t.Fatalf("seed %d: %d values differ, and no session is behind it\n%s", seed, apart, x.text)
		}
		for _, b := range rep.Sessions {
			if !x.told {
				break // the oracle would count what dispatch has dropped
			}
			isLate, isSpliced := x.differ(b.Session)
			switch {
			case b.Why == "late" && isLate:
				late++
			case b.Why == "splice" && isSpliced && rep.Spliced > 0:
				spliced++
			default:
				t.Fatalf("seed %d: session %+v; by the oracle late %t, splice %t, %d windows spliced\n%s", seed, b, isLate, isSpliced, rep.Spliced, x.text)
			}
		}
		doctored += x.doctor(t, seed, r, rep)
	}
	if late == 0 || spliced == 0 || doctored < 10 {
		t.Errorf("of all worlds only %d sessions are late, %d read by a splice, %d rows were changed", late, spliced, doctored)
	}
}

// doctor changes a value of a random row of the range, and has the audit find it. It returns how many rows it changed.
func (x *splicedWorld) doctor(t *testing.T, seed uint64, r *rand.Rand, clean *batch.AuditReport) int {
	t.Helper()
	ctx := context.Background()
	covered, err := x.job.Covered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ofBatch := r.IntN(2) == 0
	type found struct {
		store.Row
		cells []row.Cell
	}
	var rows []found
	err = x.s.st.Catalog(ctx, x.live.Tenant, func(s store.Series) error {
		if strings.HasPrefix(s.Layer, "batch.") != ofBatch || strings.HasSuffix(s.Metric, ".visitors") {
			return nil
		}
		return x.s.st.Rows(ctx, s, clean.From, clean.To, func(minute, version int64, value []byte) error {
			if c := covered[minute*60000/batch.WindowMS*batch.WindowMS]; c == nil || ofBatch && batch.Layer(c.Generation) != s.Layer {
				return nil
			}
			f := found{Row: store.Row{Series: s, Minute: minute, Version: version + 1}}
			_, err := row.Decode(value, func(c row.Cell) error { f.cells = append(f.cells, c); return nil })
			if len(f.cells) > 0 {
				rows = append(rows, f)
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		return 0
	}
	f := rows[r.IntN(len(rows))]
	cell := &f.cells[r.IntN(len(f.cells))]
	was := cell.Value
	cell.Value += 1000
	if f.Value, err = row.Append(nil, row.Sums, f.cells); err != nil {
		t.Fatal(err)
	}
	if err := x.s.st.PutRows(ctx, []store.Row{f.Row}); err != nil {
		t.Fatal(err)
	}
	rep := x.audit(t, clean.From, clean.To)
	if rep.Faults != 1 || rep.Total.Unexplained != 1 {
		t.Fatalf("seed %d: %+v is changed from %d to %d: %d faults\n%s", seed, f.Row, was, cell.Value, rep.Faults, x.text)
	}
	got := rep.FirstFaults[0]
	want := batch.Fault{Layer: f.Layer, Experiment: f.Experiment, Metric: f.Metric, Variation: cell.Variation, Tags: cell.Tags, Minute: f.Minute, Got: was + 1000, Want: was}
	if got != want {
		t.Fatalf("seed %d: the fault is %+v, want %+v", seed, got, want)
	}
	why := "stream.dc1"
	if ofBatch {
		why = "batch"
	}
	// Sums may be zero, or of sessions whose parts cancel out; else somebody has a part in it.
	if was != 0 && !slices.ContainsFunc(rep.Sessions, func(b batch.Behind) bool { return b.Why == why }) {
		t.Fatalf("seed %d: nobody has a part in %+v\n%+v\n%s", seed, got, rep.Sessions, x.text)
	}
	return 1
}
