package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"tandem/schemas/records"
	"tandem/schemas/traffic"
)

const generateUsage = `usage: tandem generate [--seed N] [--start TIME] [--span 1h] [--rate 300] [--out RECORDS] [--config OUT.yaml]

Writes the records of a web shop that does not exist: the same flags give the same records. Its three experiments have
known effects: checkout_button raises the share of checkouts that become an order by 15 %, hero_image does nothing, and
variation instant of new_search is broken. A few beacons are late, sent twice, malformed or unused. --config writes the
tenant config that fits. RECORDS may end in .zst or .gz; without --out the records go to standard output.

example:
  tandem generate --seed 1 --span 1h --rate 300 --out shop.tsv.zst --config shop.yaml

`

// runGenerate is `tandem generate`. It returns 0, 1 if something broke, and 2 for a wrong command line.
func runGenerate(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := traffic.Defaults()
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	flags.Uint64Var(&o.Seed, "seed", o.Seed, "`number` that decides everything random")
	flags.TextVar(&o.Start, "start", o.Start, "`time` of the first minute, RFC 3339")
	flags.DurationVar(&o.Span, "span", o.Span, "how long sessions go on, as 90m or 24h")
	flags.Float64Var(&o.SessionsPerMinute, "rate", 300, "sessions a minute, on average")
	flags.Float64Var(&o.LateShare, "late", o.LateShare, "`share` of beacons that come more than 10 minutes late")
	flags.Float64Var(&o.DuplicateShare, "duplicate", o.DuplicateShare, "`share` of beacons that are sent twice")
	flags.Float64Var(&o.MalformedShare, "malformed", o.MalformedShare, "records to be rejected, for each beacon")
	flags.Float64Var(&o.UnusedShare, "unused", o.UnusedShare, "beacons on a point that is not measured, for each page")
	out := flags.String("out", "", "records `file` to write; standard output if absent")
	config := flags.String("config", "", "`file` for the tenant config")
	rest, code, over := parse(flags, generateUsage, args, stderr)
	if over {
		return code
	}
	err := o.Check()
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected argument %q", rest[0])
	}
	if err != nil {
		return wrongUsage(stderr, "generate", "%v", err)
	}
	n, err := generateTo(ctx, o, *out, *config, stdout, stderr)
	if err != nil {
		return failed(stderr, "generate", err)
	}
	fmt.Fprintf(stderr, "generated %d records from %s to %s\n", n,
		o.Start.UTC().Format(time.RFC3339), o.Start.Add(o.Span).UTC().Format(time.RFC3339))
	return 0
}

func generateTo(ctx context.Context, o traffic.Options, path, config string, stdout, stderr io.Writer) (int64, error) {
	out, err := openRecordsOut(path, stdout)
	if err != nil {
		return 0, err
	}
	defer out.Discard()
	progress := newRecordProgress(stderr, "records")
	err = traffic.Generate(o, func(r records.Record) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d records: %w", out.Count(), err)
		}
		progress.step()
		return out.Write(r)
	})
	progress.clear()
	if err != nil {
		return 0, err
	}
	if config != "" {
		if err := os.WriteFile(config, traffic.Config(), 0o644); err != nil {
			return 0, err
		}
	}
	return out.Count(), out.Close()
}
