package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tandem/batch"
)

const reportUsage = `usage: tandem report --site SITE.yaml [--last N] [--json]

Prints how many late beacons wait for their pass, since when, and when it is due (late_every of the site file, by the time
of the archive), then the reports of the last plans that the batch has run, the newest first. Below them stands what was odd about a
plan's beacons, misspelled variations for one, and the ranges of windows that it ran again, with the late beacons that had waited for that, and where each ended: where the runs agree
again with what later windows have read. Beacons are archived records, sessions those
that a window changed, late those that the stream left out, approx windows that hold
sessions which may have begun before anything that is known of them (backfill --approximate). The times of map and reduce are sums over tasks, which run side
by side: map 80s took 10s with --parallel 8. slowest is the hash range that took longest, with its share of map. Of a plan
whose tasks ran in several processes the times are those of the last one.

example:
  tandem report --site site.yaml --last 5

`

// runReport is `tandem report`.
func runReport(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	n := flags.Int("last", 10, "reports of each tenant, 1 to 1000")
	asJSON := flags.Bool("json", false, "print them as JSON")
	rest, code, over := parse(flags, reportUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "report", "unexpected argument %q", rest[0])
	case *file == "":
		return wrongUsage(stderr, "report", "--site is needed")
	case *n < 1 || *n > 1000:
		return wrongUsage(stderr, "report", "--last %d is not in 1 to 1000", *n)
	}
	b := &batchJob{log: slog.New(slog.NewTextHandler(stderr, nil)), bar: &bar{out: stderr}}
	err := b.open(*file)
	reports, waits := []*batch.Report{}, []tenantWaiting{}
	if err == nil {
		err = b.withStore(ctx, func(j *batch.Job) error {
			of, err := j.Reports(*n)
			if err != nil {
				return err
			}
			reports = append(reports, of...)
			w, _, err := j.Waiting(ctx)
			waits = append(waits, tenantWaiting{j.Chain.Tenant, w})
			return err
		})
	}
	if err == nil {
		err = printReports(stdout, waits, reports, *asJSON)
	}
	if err != nil {
		return failed(stderr, "report", err)
	}
	return 0
}

// tenantWaiting is what waits of a tenant.
type tenantWaiting struct {
	Tenant string `json:"tenant"`
	batch.Waiting
}

func printReports(stdout io.Writer, waits []tenantWaiting, reports []*batch.Report, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"reports": reports, "waiting": waits})
	}
	for _, w := range waits {
		if _, err := fmt.Fprintf(stdout, "%s: %s\n", w.Tenant, waitingText(&w.Waiting)); err != nil {
			return err
		}
	}
	if len(reports) == 0 {
		_, err := fmt.Fprintln(stdout, "no plan has been run yet")
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "tenant\tplan\tbegan\twindows\tfrom\tto\tbeacons\tsessions\trows\tlate\tapprox\ttook\tplan\tmap\treduce\tslowest\t\n")
	for _, r := range reports {
		slowest := "-"
		if s := r.Slowest; s != nil {
			slowest = fmt.Sprintf("%d of %d: %s, %d %%", s.Range, r.Ranges, ms(s.TookMS), 100*s.TookMS/max(r.Phases.Map, 1))
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t\n", r.Tenant, r.Generation, timeText(r.Began/1000*1000),
			r.Windows, timeText(r.First), timeText(r.Last+batch.WindowMS), r.Beacons, r.Sessions, r.Rows, r.Counts.Late, r.Approximate,
			ms(r.TookMS), ms(r.Phases.Plan), ms(r.Phases.Map), ms(r.Phases.Reduce), slowest)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if text := oddText(&r.Counts); text != "" {
			if _, err := fmt.Fprintf(stdout, "%s, plan %d: %s\n", r.Tenant, r.Generation, text); err != nil {
				return err
			}
		}
		for _, a := range r.Again {
			if _, err := fmt.Fprintf(stdout, "%s, plan %d ran again %s\n", r.Tenant, r.Generation, againText(&a)); err != nil {
				return err
			}
		}
	}
	return nil
}

// oddText tells of what a plan's beacons had that a producer may want to know of.
func oddText(c *batch.Counts) string {
	var odd []string
	for _, x := range []struct {
		n    int64
		what string
	}{
		{c.UnknownVariation, "assignments to a variation that the config does not list"}, {c.Conflict, "assignments to another variation than the session has"},
		{c.Overflow, "beacons beyond max_events_per_minute"}, {c.Duplicate, "beacons sent again"}, {c.Unused, "beacons that the config does not use"},
	} {
		if x.n > 0 {
			odd = append(odd, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(c.Rejected)) {
		odd = append(odd, fmt.Sprintf("%d rejected as %s", c.Rejected[reason], reason))
	}
	return strings.Join(odd, ", ")
}

func waitingText(w *batch.Waiting) string {
	if len(w.Unknown) > 0 {
		return "nothing is due before the archive knows how far these are: " + strings.Join(w.Unknown, " ") + " (does tandem archive run for them?)"
	}
	if w.Windows == 0 {
		return "no late beacons wait"
	}
	return fmt.Sprintf("%s of %s, %s to %s, since %s, for the pass at %s", waitFor(w.Beacons), count(w.Windows, "window"),
		timeText(w.First), timeText(w.Last+batch.WindowMS), timeText(w.Since/1000*1000), timeText(w.Due/1000*1000))
}

func waitFor(n int64) string {
	if n == 1 {
		return "1 late beacon waits"
	}
	return fmt.Sprintf("%d late beacons wait", n)
}

// againText says of a range that was run again how far it went, and whether it is over.
func againText(a *batch.Again) string {
	ended := "the runs agree again"
	if a.Next != 0 {
		ended = "its run changed, so next is " + timeText(a.Next)
	}
	return fmt.Sprintf("%s to %s, with %s: %s", timeText(a.First), timeText(a.Last+batch.WindowMS), count(a.Late, "late beacon"), ended)
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// reportFields are what a log says of a plan that was run.
func reportFields(r *batch.Report) []any {
	fields := []any{"generation", r.Generation, "windows", r.Windows, "from", timeText(r.First), "to", timeText(r.Last + batch.WindowMS),
		"beacons", r.Beacons, "sessions", r.Sessions, "rows", r.Rows, "late", r.Counts.Late, "took", ms(r.TookMS),
		"plan", ms(r.Phases.Plan), "map", ms(r.Phases.Map), "reduce", ms(r.Phases.Reduce)}
	if s := r.Slowest; s != nil {
		fields = append(fields, "slowest_range", s.Range, "slowest_took", ms(s.TookMS), "slowest_beacons", s.Beacons)
	}
	if r.Approximate > 0 {
		fields = append(fields, "approximate", r.Approximate)
	}
	return fields
}
