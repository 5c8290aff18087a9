package batch

import (
	"context"
	"testing"
)

// A range may begin before the tenant's first config is in force.
func TestAuditOfATimeBeforeTheFirstConfig(t *testing.T) {
	chain := chainOf(t, load(t, "from: "+at(90)+"\npoints: {home: {}}\n"))
	r := &auditing{Audit: &Audit{Job: &Job{Chain: chain}, Live: chain}, report: &AuditReport{From: t0/minute + 40}}
	if err := r.begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	if want := windowOf(t0 + 40*minute); r.report.Start != want || !r.report.Exact {
		t.Errorf("recomputing begins at %d, exact %t; want %d, exact", r.report.Start, r.report.Exact, want)
	}
}

// Where the batch differs in a window that is due again for another config, nothing says what it must be: that is not explained.
func TestAuditOfAWindowThatIsDueAgain(t *testing.T) {
	chain := chainOf(t, load(t, "points: {home: {}}\n"))
	r := &auditing{Audit: &Audit{Job: &Job{Chain: chain}, Live: chain}, report: &AuditReport{}, drifts: map[int64]bool{t0: true},
		covered: map[int64]*Covered{t0: {Window: t0, Inputs: Inputs{Revisions: []uint64{1}}}}}
	if err := r.again(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r.report.Unchecked != 1 || r.report.Rerun != 0 {
		t.Errorf("%+v", r.report)
	}
}

// Rows that are gone since their window was covered anew meanwhile are told as that.
func TestAuditOfAWindowThatIsCoveredAnew(t *testing.T) {
	before, after := lateExperiment(t)
	j, st := covered(t, before, traffic(20))
	ctx := context.Background()
	r := &auditing{Audit: &Audit{Job: j, Store: st}, report: &AuditReport{}, faults: map[int64]*windowFaults{}}
	var err error
	if r.covered, err = j.Covered(ctx); err != nil {
		t.Fatal(err)
	}
	wrong := func() *windowFaults {
		f := &windowFaults{}
		f[ofBatch] = map[cellKey]int64{{}: 1}
		return f
	}
	r.faults[t0] = wrong()
	if err := r.moved(ctx); err != nil || len(r.report.Less) > 0 {
		t.Errorf("%q, %v", r.report.Less, err)
	}
	j.Chain = chainOf(t, after)
	backfill(t, j, everything())
	if err := r.moved(ctx); err != nil || len(r.report.Less) != 1 {
		t.Errorf("%q, %v", r.report.Less, err)
	}
}

// An audit goes by the config as it is after it has read the archive, which may hold what came under a revision that it did not know.
func TestAuditRenewsTheConfig(t *testing.T) {
	before, after := lateExperiment(t)
	j, st := covered(t, before, traffic(20))
	live, spliced := chainOf(t, before), chainOf(t, after)
	r := &auditing{Audit: &Audit{Job: j, Store: st, Closed: t0/minute + 60, From: t0 / minute, To: t0/minute + 30}, known: map[seriesName]bool{}}
	r.report = &AuditReport{From: r.From, To: r.To}
	j.Renew = func() error {
		if r.archive.Progress == 0 {
			t.Error("the config is read before the archive")
		}
		j.Chain, r.Live = spliced, live
		return nil
	}
	if err := r.open(context.Background()); err != nil || r.Live != live {
		t.Errorf("%v", err)
	}
}
