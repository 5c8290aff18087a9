package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"tandem/batch"
	"tandem/jobs/site"
	"tandem/schemas/store"
)

const explainUsage = `usage: tandem explain --site SITE.yaml [--tenant T] --metric METRIC --minute TIME [--experiment X --variation V] [--tags a=b,...] [--most N] [--json]
       tandem explain --site SITE.yaml [--tenant T] --session ID [--from TIME --to TIME] [--json]

Says where a number comes from: the sessions that have a part in it, and of these the beacons as they lie in the archive,
what each layer does with every one of them (counts, late, duplicate, ...), their markers, and what they contribute. METRIC has its
scope: site.visit, or with an experiment assigned.visit or fm.item_page.beta. --tags may name some tags only; the number is the sum then. The
stream's part is folded from the archived beacons that are not late, the batch's from what its coverage names; a sum that is
not what the store holds is marked. Of a session all contributions are told, by beacon; without --from and --to those of
the last two days that the archive has, at most a week.

It reads the window's event files once, and for the stream those of a session_ttl before it. A store in a folder is one
process's at a time.

example:
  tandem explain --site site.yaml --experiment btn_color --variation red --metric fm.order --minute 2026-01-01T12:34:00Z
  tandem explain --site site.yaml --session 5f2c --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z

`

type explainJob struct {
	number   batch.Number
	session  string
	from, to int64 // minutes; 0: not given
	most     int
}

// runExplain is `tandem explain`.
func runExplain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	name := flags.String("tenant", "", "`tenant`; needed if the site has several")
	var j explainJob
	var minute, from, to minuteFlag
	flags.StringVar(&j.number.Metric, "metric", "", "`metric` with its scope, as fm.item_page.beta")
	flags.StringVar(&j.number.Experiment, "experiment", "", "`experiment`; none is the site scope")
	flags.StringVar(&j.number.Variation, "variation", "", "`variation` of the experiment")
	tags := flags.String("tags", "", "tags that rows must have, as `device=mobile,login=true`; others may be any")
	flags.Var(&minute, "minute", "`minute` of the number, as 2026-01-01T00:00:00Z")
	flags.StringVar(&j.session, "session", "", "session `id`")
	flags.Var(&from, "from", "first `minute` of the session's contributions")
	flags.Var(&to, "to", "`minute` after the last")
	flags.IntVar(&j.most, "most", 20, "sessions of a number that are told in full, 1 to 1000")
	asJSON := flags.Bool("json", false, "print JSON")
	rest, code, over := parse(flags, explainUsage, args, stderr)
	j.number.Minute, j.from, j.to = minute.minute, from.minute, to.minute
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "explain", "unexpected argument %q", rest[0])
	case *file == "":
		return wrongUsage(stderr, "explain", "--site is needed")
	case (j.session == "") == (j.number.Metric == ""):
		return wrongUsage(stderr, "explain", "either --metric and --minute or --session is needed")
	case j.session == "" && j.number.Minute == 0:
		return wrongUsage(stderr, "explain", "--minute is needed with --metric")
	case (j.from == 0) != (j.to == 0) || j.from > j.to || j.from > 0 && j.from == j.to:
		return wrongUsage(stderr, "explain", "--from and --to go together, the earlier first")
	case j.most < 1 || j.most > 1000:
		return wrongUsage(stderr, "explain", "--most %d is not in 1 to 1000", j.most)
	}
	for pair := range strings.SplitSeq(*tags, ",") {
		if pair == "" {
			continue
		}
		tag, value, ok := strings.Cut(pair, "=")
		if !ok {
			return wrongUsage(stderr, "explain", "--tags %q is not name=value,...", *tags)
		}
		if j.number.Tags == nil {
			j.number.Tags = map[string]string{}
		}
		j.number.Tags[tag] = value
	}
	out, err := j.run(ctx, *file, *name)
	if err == nil {
		err = printExplanation(stdout, out, *asJSON)
	}
	if err != nil {
		return failed(stderr, "explain", err)
	}
	return 0
}

func (j *explainJob) run(ctx context.Context, file, name string) (out *batch.Explanation, err error) {
	b := &batchJob{bar: &bar{}}
	if err := b.open(file); err != nil {
		return nil, err
	}
	if err := b.only(name); err != nil {
		return nil, err
	}
	if len(b.site.Tenants) != 1 {
		return nil, errors.New("the site has several tenants: name one by --tenant")
	}
	st, err := b.site.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	t := &b.site.Tenants[0]
	x, err := b.explainer(ctx, t, st)
	if err != nil {
		return nil, err
	}
	x.Most = j.most
	if j.session == "" {
		return x.Number(ctx, j.number)
	}
	if j.to == 0 {
		a, err := x.Job.Archived()
		if err != nil {
			return nil, err
		}
		if len(a.Spans) == 0 {
			return nil, errors.New("the archive is empty")
		}
		j.to = min(a.End()/60000, store.MaxMinute)
		j.from = max(j.to-2*24*60, 0)
	}
	return x.Session(ctx, j.session, j.from, j.to)
}

// explainer is ready to explain a tenant's numbers, of the store's layers as they are now.
func (b *batchJob) explainer(ctx context.Context, t *site.Tenant, st store.Store) (*batch.Explain, error) {
	j, err := b.job(t)
	if err != nil {
		return nil, err
	}
	return explainerOf(ctx, &batch.Explain{Job: j, Live: t.Chain, Store: st, Now: time.Now().UnixMilli()}, st, b.site.Metrics.Partitions)
}

// explainerOf fills in the active layer and how far it is closed.
func explainerOf(ctx context.Context, x *batch.Explain, st store.Store, partitions int32) (*batch.Explain, error) {
	active, _, err := st.Active(ctx, x.Live.Tenant)
	if err != nil {
		return nil, err
	}
	if x.Layer = active.Layer; x.Layer != "" {
		x.Closed, err = closedBefore(ctx, st, x.Layer, x.Live.Tenant, partitions)
	}
	return x, err
}

func printExplanation(stdout io.Writer, x *batch.Explanation, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(x)
	}
	var b strings.Builder
	if n := x.Number; n != nil {
		fmt.Fprintf(&b, "%s %s", x.Tenant, faultName(&batch.Fault{Experiment: n.Experiment, Metric: n.Metric, Variation: n.Variation}))
		for tag, value := range n.Tags {
			fmt.Fprintf(&b, " %s=%s", tag, value)
		}
		fmt.Fprintf(&b, ", minute %s\n", timeText(n.Minute*60000))
	} else {
		fmt.Fprintf(&b, "%s session %s, %s to %s\n", x.Tenant, x.Session, timeText(x.From*60000), timeText(x.To*60000))
	}
	for i := range x.Layers {
		l := &x.Layers[i]
		if x.Number != nil {
			fmt.Fprintf(&b, "%s: %s come to %d; the store ", l.Layer, count(l.Sessions, "session"), l.Sum)
			switch {
			case l.Stored == nil:
				b.WriteString("does not know it any more\n")
			case *l.Stored == l.Sum:
				b.WriteString("holds that\n")
			case l.Open:
				fmt.Fprintf(&b, "holds %d: they cannot be compared yet\n", *l.Stored)
			default:
				fmt.Fprintf(&b, "holds %d: NOT THE SAME\n", *l.Stored)
			}
		}
		for _, note := range l.Notes {
			fmt.Fprintf(&b, "%s: %s\n", l.Layer, note)
		}
	}
	if len(x.Layers) == 0 {
		b.WriteString("no layer has anything of it\n")
	}
	for i := range x.Sessions {
		sessionText(&b, &x.Sessions[i])
	}
	if x.More > 0 {
		fmt.Fprintf(&b, "\nand %s more; --most tells more of them\n", count(x.More, "session"))
	}
	_, err := io.WriteString(stdout, b.String())
	return err
}

func msText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

func sessionText(b *strings.Builder, s *batch.ExplainedSession) {
	fmt.Fprintf(b, "\nsession %s\n", s.Session)
	if s.Earlier > 0 {
		fmt.Fprintf(b, "  %s before these\n", count(s.Earlier, "beacon"))
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i := range s.Beacons {
		if i == 0 {
			fmt.Fprint(w, "  time\ttaken in\tid\tpoint\tstream\tbatch\n")
		}
		e := &s.Beacons[i]
		fmt.Fprintf(w, "  %s\t%+.1fs\t%q\t%s\t%s\t%s\n", msText(e.TS), float64(e.Ingest-e.TS)/1000, e.ID, e.Point, e.Stream, e.Batch)
	}
	w.Flush() // into memory
	for i := range s.Layers {
		l := &s.Layers[i]
		fmt.Fprintf(b, "  %s:\n", l.Layer)
		for _, m := range l.Markers {
			fmt.Fprintf(b, "    %s %s: assigned %s", m.Experiment, m.Variation, msText(m.Assigned))
			if m.Qualified != nil {
				fmt.Fprintf(b, ", qualified %s", msText(*m.Qualified))
			}
			b.WriteByte('\n')
		}
		at := int64(-1)
		for k := range l.Contributions {
			c := &l.Contributions[k]
			if c.At != at || k == 0 {
				at = c.At
				if at == 0 {
					b.WriteString("    at the end of a visit:\n")
				} else {
					fmt.Fprintf(b, "    at %s:\n", msText(at))
				}
			}
			fmt.Fprintf(b, "      %+d %s, minute %s\n", c.Value,
				faultName(&batch.Fault{Experiment: c.Experiment, Metric: c.Metric, Variation: c.Variation, Tags: c.Tags}), timeText(c.Minute*60000))
		}
	}
}
