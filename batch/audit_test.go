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
