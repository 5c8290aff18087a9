package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"tandem/batch"
	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

const auditUsage = `usage: tandem audit --site SITE.yaml --from TIME --to TIME [--tenant T] [--back 48h] [--parallel N] [--json]

Compares the layers of a tenant, the active stream's and the batch's, value by value as in a rows file, and says of each
metric how many are equal, differ, are missing in the stream or too much in it, and how far they are apart (sMAPE, 0 to
200 %). Late beacons explain a difference and nothing else does: the stream must be what the archived records that are not
late come to, which is recomputed, and the batch what the inputs of its coverage come to, which is recomputed where the two
differ. It exits 1 if anything is left unexplained, also if a window that differs is due again for another config or run, by which
its batch cannot be checked: run tandem batch or tandem backfill first. Sessions behind the differences are named, at most 96 windows deep:
those with late beacons; and of values that are wrong those that have a part in most of them, with the number of values that are
off by exactly their part.

To know a session from its beginning the recomputation begins before --from: a session_ttl, or as far as sessions reach
without a gap, but at most --back; if that is not enough, it says so. What has not been closed, has expired, or is retired from
the archive is left out, and said. It costs about as much as to run these windows by batch, twice where there are late
beacons and twice more for the names; memory is that of a batch; the runs that it makes are in the temporary folder (TMPDIR).
A store in a folder is one process's at a time.

--stores compares instead the two stores of a site that has a second_store: every row and rollup of the range with its version,
coverage, progress and active layer must be the same. Writers that are at work show as differences of the last minutes.

example:
  tandem audit --site site.yaml --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z

`

// runAudit is `tandem audit`.
func runAudit(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("audit", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	name := flags.String("tenant", "", "`tenant` to audit; all of the site if absent")
	var from, to minuteFlag
	flags.Var(&from, "from", "first `minute`, as 2026-01-01T00:00:00Z; required")
	flags.Var(&to, "to", "`minute` after the last; required")
	look := flags.Duration("back", 48*time.Hour, "how far before --from beginnings of sessions are looked for, 0s to 9600h; at least a session_ttl")
	parallel := flags.Int("parallel", 0, "tasks at once, 1 to 1024; 0: one a core")
	stores := flags.Bool("stores", false, "compare the site's two stores")
	asJSON := flags.Bool("json", false, "print reports as JSON, with all metrics")
	rest, code, over := parse(flags, auditUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "audit", "unexpected argument %q", rest[0])
	case *file == "" || from.minute == 0 || to.minute == 0:
		return wrongUsage(stderr, "audit", "--site, --from and --to are needed")
	case from.minute >= to.minute:
		return wrongUsage(stderr, "audit", "--from %s is not before --to %s", &from, &to)
	case *look < 0 || *look > 9600*time.Hour:
		return wrongUsage(stderr, "audit", "--back %s is not in 0s to 9600h", *look)
	case *parallel < 0 || *parallel > 1024:
		return wrongUsage(stderr, "audit", "--parallel %d is not in 0 to 1024", *parallel)
	}
	if *stores {
		return auditStores(ctx, *file, *name, from.minute, to.minute, stdout, stderr)
	}
	j := &auditJob{from: from.minute, to: to.minute, back: *look, progress: newPhaseProgress(stderr)}
	reports, err := j.run(ctx, *file, *name, *parallel)
	j.progress.clear()
	if err == nil {
		err = printAudits(stdout, reports, *asJSON)
	}
	if err != nil {
		return failed(stderr, "audit", err)
	}
	for _, r := range reports {
		if r.Faults > 0 || r.Unchecked > 0 {
			code = 1
		}
	}
	return code
}

type auditJob struct {
	from, to int64 // minutes
	back     time.Duration
	progress *phaseProgress
}

func (j *auditJob) run(ctx context.Context, file, name string, parallel int) (reports []*batch.AuditReport, err error) {
	b := &batchJob{parallel: parallel, bar: &bar{}}
	if err := b.open(file); err != nil {
		return nil, err
	}
	if err := b.only(name); err != nil {
		return nil, err
	}
	st, err := b.site.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	for i := range b.site.Tenants {
		t := &b.site.Tenants[i]
		bj, err := b.job(t)
		if err != nil {
			return nil, err
		}
		r, err := j.tenant(ctx, b, t, bj, st)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func (j *auditJob) tenant(ctx context.Context, b *batchJob, t *site.Tenant, job *batch.Job, st store.Store) (*batch.AuditReport, error) {
	name := job.Chain.Tenant
	active, ok, err := st.Active(ctx, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("tenant %s has no active layer of the stream; see tandem failover show", name)
	}
	closed, err := closedBefore(ctx, st, active.Layer, name, b.site.Metrics.Partitions)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "tandem-audit-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder) // a leftover in the temporary folder harms nobody
	temp, err := blob.OpenDir(folder)
	if err != nil {
		return nil, err
	}
	a := &batch.Audit{Job: job, Live: t.Chain, Store: st, Temp: temp, Layer: active.Layer, Closed: closed, From: j.from, To: j.to,
		Back: j.back.Milliseconds(), Now: time.Now().UnixMilli(),
		Step: func(s batch.AuditStep) {
			j.progress.show(name+": "+s.Phase, int64(s.Done), fmt.Sprintf("of %d", s.Of))
		}}
	b.renew(job, &a.Live)
	return a.Run(ctx)
}

// closedBefore is the minute up to which a layer is complete: 0 while a partition of the metrics topic has not said it yet.
func closedBefore(ctx context.Context, st store.Store, layer, tenant string, partitions int32) (int64, error) {
	all, err := st.Progress(ctx, layer, tenant)
	if err != nil || len(all) < int(partitions) {
		return 0, err
	}
	least := int64(store.MaxMinute)
	for _, p := range all {
		least = min(least, p.ClosedBefore)
	}
	return least, nil
}

// What a report shows without --json.
const (
	shownMetrics  = 40
	shownFaults   = 20
	shownSessions = 20
)

func printAudits(stdout io.Writer, reports []*batch.AuditReport, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"audits": reports})
	}
	var b strings.Builder
	for i, r := range reports {
		if i > 0 {
			b.WriteByte('\n')
		}
		auditText(&b, r)
	}
	_, err := io.WriteString(stdout, b.String())
	return err
}

func auditText(b *strings.Builder, r *batch.AuditReport) {
	fmt.Fprintf(b, "%s, %s to %s: layer %s against the batch\n", r.Tenant, timeText(r.From*60000), timeText(r.To*60000), r.Layer)
	for _, why := range r.Less {
		fmt.Fprintln(b, "less than asked for:", why)
	}
	fmt.Fprintf(b, "windows: %d, of them %d covered", r.Windows, r.Covered)
	if r.Due > 0 {
		fmt.Fprintf(b, ", %d due again for another config or run", r.Due)
	}
	fmt.Fprintf(b, "; beacons: %d, of them %d late\n", r.Records, r.Late)
	fmt.Fprintf(b, "recomputed from %s on: ", timeText(r.Start))
	if r.Exact {
		b.WriteString("all sessions from their beginnings\n")
	} else {
		fmt.Fprintf(b, "NOT EXACT, up to %s may have begun before that; a greater --back, or a part of the archive that is retired, would tell\n", count(int(r.Before), "session"))
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "equal\tmismatch\tmissing\textra\tsMAPE %\tunexplained\t  metric\n")
	line := func(o *batch.Outcome, name string) {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%.4f\t%d\t  %s\n", o.Equal, o.Mismatch, o.Missing, o.Extra, o.SMAPE, o.Unexplained, name)
	}
	line(&r.Total, "all")
	differ := 0
	for _, wrong := range []bool{true, false} { // those with something unexplained first
		for i := range r.Metrics {
			m := &r.Metrics[i]
			if m.Equal == m.Compared() && m.Unexplained == 0 || wrong != (m.Unexplained > 0) {
				continue
			}
			if differ++; differ <= shownMetrics {
				line(&m.Outcome, strings.TrimSpace(m.Experiment+" "+m.Metric))
			}
		}
	}
	w.Flush() // into memory
	if differ > shownMetrics {
		fmt.Fprintf(b, "and %d more metrics that differ\n", differ-shownMetrics)
	}
	if apart := r.Total.Compared() - r.Total.Equal; r.Faults == 0 {
		fmt.Fprintf(b, "explained: the stream's %s are what the records that are not late come to", count(int(r.Checked), "value"))
		switch {
		case apart > 0 && r.Spliced > 0:
			fmt.Fprintf(b, "; late ones, and splices of the config in %s of the batch, make a difference of %s", count(r.Spliced, "window"), count(int(apart), "value"))
		case apart > 0:
			fmt.Fprintf(b, "; late ones make a difference of %s", count(int(apart), "value"))
		}
		b.WriteByte('\n')
		if r.Unchecked > 0 {
			fmt.Fprintf(b, "NOT CHECKED: the batch of %s of these that differ, since they are due again: tandem batch or tandem backfill first, then audit again\n", count(r.Unchecked, "window"))
		}
	} else {
		fmt.Fprintf(b, "UNEXPLAINED: %s not what the archive comes to:\n", areNot(r.Faults))
		for _, f := range r.FirstFaults[:min(shownFaults, len(r.FirstFaults))] {
			fmt.Fprintf(b, "  %s %s %s is %d, must be %d\n", timeText(f.Minute*60000), f.Layer, faultName(&f), f.Got, f.Want)
		}
		if more := r.Faults - shownFaults; more > 0 {
			fmt.Fprintf(b, "  and %d more\n", more)
		}
	}
	for i := range r.Sessions[:min(shownSessions, len(r.Sessions))] {
		s := &r.Sessions[i]
		if i == 0 {
			b.WriteString("sessions behind it:\n")
		}
		if s.Why == "late" || s.Why == "splice" {
			fmt.Fprintf(b, "  %s: %s, which makes a difference of %s from %s on\n", s.Session, s.Why, count(s.Values, "value"), timeText(s.Window))
		} else {
			fmt.Fprintf(b, "  %s: a part in %s of these in %s, of which %d off by exactly that\n", s.Session, count(s.Values, "value"), s.Why, s.Exact)
		}
	}
	if more := len(r.Sessions) - shownSessions; more > 0 {
		fmt.Fprintf(b, "  and %d more\n", more)
	}
	if r.Unnamed > 0 {
		fmt.Fprintf(b, "of %s more with differences no sessions were looked for: audit a shorter range\n", count(r.Unnamed, "window"))
	}
}

func areNot(n int64) string {
	if n == 1 {
		return "1 value is"
	}
	return fmt.Sprintf("%d values are", n)
}

// faultName is the value's name as in a rows file, less the tenant.
func faultName(f *batch.Fault) string {
	scope, name, _ := strings.Cut(f.Metric, ".")
	full := scope + "." + name
	if f.Experiment != "" {
		full = strings.Join([]string{scope, f.Experiment, f.Variation, name}, ".")
	}
	if f.Tags != "" {
		full += " " + f.Tags
	}
	return full
}
