package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/batch"
)

const backfillUsage = `usage: tandem backfill --site SITE.yaml --from TIME --to TIME [--tenant T] [--dry-run] [--throttle PERCENT] [--parallel N]
                       [--reparse] [--cold] [--approximate] [--from-raw] [--wait 4m]

Brings the windows of a date range to what the archive and the config say now, and those after it whose sessions change by
that: after a splice (tandem config apply), a change of the parser or of what is computed, the loss of the store, or of what
the batch keeps. Readers see each window as it was until it is whole. It may be killed anywhere: given again, it goes on, and
when it is done it writes nothing. New windows that fall due meanwhile go first.

--dry-run says what there is to do and how long it will take, by the speed of the last runs. --throttle is how much of the time
it works, in percent, and has rows written in small pieces: for readers and the stream beside it. --reparse takes all payloads
again, not what the archiver made of them. --cold begins without what is known from before --from, which is exact only at the
archive's first record. --approximate begins where the state of the sessions is not known: those windows are marked, and shown
by report and export. Times are RFC 3339; whole windows of 30 minutes are run.

What the archive cannot tell is refused, with the revision and the time: a point that a splice lists and that was not listed
then, a start without state, windows whose event files are retired. --from-raw first brings the beacons that dispatch dropped
for that from the raw topics, which must reach back so far, to the archive; it needs Kafka.

example:
  tandem backfill --site site.yaml --from 2026-01-01T00:00:00Z --to 2026-01-08T00:00:00Z --dry-run
  tandem backfill --site site.yaml --from 2026-01-01T00:00:00Z --to 2026-01-08T00:00:00Z --throttle 50

`

// runBackfill is `tandem backfill`.
func runBackfill(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("backfill", flag.ContinueOnError)
	b := &batchJob{log: slog.New(slog.NewTextHandler(stderr, nil)), bar: &bar{out: stderr, shown: terminal(stderr)}}
	file := flags.String("site", "", "site `file`; required")
	name := flags.String("tenant", "", "`tenant`; all of the site if absent")
	from, to := minuteFlag{-1}, minuteFlag{-1}
	flags.Var(&from, "from", "first `minute`, as 2026-01-01T00:00:00Z; required")
	flags.Var(&to, "to", "`minute` after the last; required")
	dry := flags.Bool("dry-run", false, "only say what there is to do")
	flags.IntVar(&b.throttle, "throttle", 100, "`percent` of the time that it works, 1 to 100")
	flags.IntVar(&b.parallel, "parallel", 0, "tasks at once in this process, 1 to 1024; 0: one a core")
	flags.BoolVar(&b.reparse, "reparse", false, "parse every payload again")
	cold := flags.Bool("cold", false, "begin without what is known from before --from")
	approximate := flags.Bool("approximate", false, "begin also where the state of the sessions is not known")
	raw := flags.Bool("from-raw", false, "bring what dispatch dropped from the raw topics first")
	wait := flags.Duration("wait", 4*time.Minute, "how long to wait for another run to end, 0s to 24h")
	rest, code, over := parse(flags, backfillUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "backfill", "unexpected argument %q", rest[0])
	case *file == "" || from.minute < 0 || to.minute < 0:
		return wrongUsage(stderr, "backfill", "--site, --from and --to are needed")
	case from.minute >= to.minute:
		return wrongUsage(stderr, "backfill", "--from %s is not before --to %s", &from, &to)
	case b.throttle < 1 || b.throttle > 100:
		return wrongUsage(stderr, "backfill", "--throttle %d is not in 1 to 100", b.throttle)
	case b.parallel < 0 || b.parallel > 1024:
		return wrongUsage(stderr, "backfill", "--parallel %d is not in 0 to 1024", b.parallel)
	case *wait < 0 || *wait > 24*time.Hour:
		return wrongUsage(stderr, "backfill", "--wait %s is not in 0s to 24h", *wait)
	}
	b.throttle %= 100
	ask := backfillOf(from, to)
	ask.Cold, ask.Approximate, ask.Reparse = *cold, *approximate, b.reparse
	err := b.open(*file)
	if err == nil {
		err = b.only(*name)
	}
	if err == nil {
		err = b.withStore(ctx, func(j *batch.Job) error {
			own := ask
			own.Live = b.site.TenantNamed(j.Chain.Tenant).Chain
			b.renew(j, &own.Live)
			if *dry {
				return b.forecast(ctx, j, &own, stdout)
			}
			return b.backfill(ctx, j, &own, *raw, *wait)
		})
	}
	b.bar.clear()
	if err != nil {
		return failed(stderr, "backfill", err)
	}
	return 0
}

// backfillOf is a backfill of the windows that hold the minutes [from, to).
func backfillOf(from, to minuteFlag) batch.Backfill {
	ask := batch.Backfill{From: from.minute * 60000, To: to.minute*60000 + batch.WindowMS - 1}
	ask.From -= ask.From % batch.WindowMS
	ask.To -= ask.To % batch.WindowMS
	return ask
}

// forecast says what a backfill would do.
func (b *batchJob) forecast(ctx context.Context, j *batch.Job, ask *batch.Backfill, stdout io.Writer) error {
	f, err := j.Forecast(ctx, ask)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "tenant %s: %s\n", j.Chain.Tenant, forecastText(f))
	return nil
}

// forecastText is a forecast in words.
func forecastText(f *batch.Forecast) string {
	switch {
	case f.Windows == 0 && f.Beside:
		return fmt.Sprintf("nothing to do: the archive holds beacons of %s to %s", timeText(f.HoldsFrom), timeText(f.HoldsTo))
	case f.Windows == 0:
		return "nothing to do"
	}
	text := fmt.Sprintf("%s from %s to %s", count(f.Windows, "window"), timeText(f.First), timeText(f.Last+batch.WindowMS))
	var whys []string
	for _, why := range slices.Sorted(maps.Keys(f.Why)) {
		whys = append(whys, fmt.Sprintf("%d: %s", f.Why[why], why))
	}
	text += " (" + strings.Join(whys, "; ") + "), " + count(f.Records, "beacon")
	if f.Took > 0 {
		text += fmt.Sprintf(", about %s", max(f.Took.Round(time.Second), time.Second))
	} else {
		text += ", for how long is not known before a first run"
	}
	text += "; and those after it that come to other state"
	if f.Approximate > 0 {
		text += fmt.Sprintf("; %d of them would be approximate", f.Approximate)
	}
	if f.New > 0 {
		text += fmt.Sprintf("; beside the range %s are not covered, which tandem batch runs", count(f.New, "window"))
	}
	return text
}

func (b *batchJob) backfill(ctx context.Context, j *batch.Job, ask *batch.Backfill, raw bool, wait time.Duration) (err error) {
	log := b.log.With("tenant", j.Chain.Tenant)
	release, other, ok, err := j.Lease(holder()).Take(ctx, wait)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("another run is at it, %s, and was not done after %s; one that was killed is taken over by a --wait of more than a minute", other, wait)
	}
	defer func() { err = errors.Join(err, release()) }()
	if raw {
		if err := b.bringRaw(ctx, j, ask, log); err != nil {
			return err
		}
	}
	f, err := j.Forecast(ctx, ask)
	if err != nil {
		return err
	}
	log.Info("backfill", "what", forecastText(f))
	if err := paceOf(j, backfillPortion); err != nil {
		return err
	}
	b.logWindows(j, log)
	windows, beacons, began := 0, int64(0), time.Now()
	err = j.Backfill(ctx, ask, func(r *batch.Report) {
		windows, beacons = windows+r.Windows, beacons+r.Beacons
		b.bar.clear()
		log.Info("plan", reportFields(r)...)
	})
	if err != nil {
		return err
	}
	b.bar.clear()
	log.Info("backfill is done", "windows", windows, "beacons", beacons, "took", time.Since(began).Round(time.Millisecond))
	return nil
}
