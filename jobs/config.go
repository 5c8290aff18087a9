package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/site"
	"tandem/schemas/configs"
)

const configUsage = `usage: tandem config check CONFIG.yaml|FOLDER...
       tandem config show --site SITE.yaml
       tandem config diff --site SITE.yaml CONFIG.yaml
       tandem config apply --site SITE.yaml CONFIG.yaml

check: each file, or each folder with the revisions of one tenant (*.yaml, *.yml; ` + "`from:`" + ` orders them), is loaded and
compiled as the jobs would. It prints a line for each that is right, and FILE:LINE: what is wrong for each that is not; then the
exit code is 1. What is right and hardly meant, as an experiment that qualifies by a point which is not listed, is told beside.

The configs of a site's tenants are chains in blob storage, one for all data centres, that only grow. A chain begins with the
files of the site, and from the first apply on is what counts. apply appends a revision, in force from its ` + "`from:`" + ` on, which lies
max_skew and a minute ahead at least; or a splice, which has a ` + "`to:`" + ` as well: it is in force over a time of the past, for the
batch only, and changes nothing before tandem backfill is run. A splice is undone by one that says what was. show lists a
tenant's chain. diff says what a config would change, and what a backfill under it would cost.

example:
  tandem config check shop.yaml
  tandem config diff  --site site.yaml shop-with-experiment.yaml
  tandem config apply --site site.yaml shop-with-experiment.yaml

`

// runConfig is `tandem config`.
func runConfig(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("config", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`, for show, diff and apply")
	rest, code, over := parse(flags, configUsage, args, stderr)
	if over {
		return code
	}
	step := ""
	if len(rest) > 0 {
		step, rest = rest[0], rest[1:]
	}
	switch step {
	case "check":
		if len(rest) == 0 || *file != "" {
			return wrongUsage(stderr, "config", "check needs a file or folder, and no --site")
		}
		return checkConfigs(ctx, rest, stdout, stderr)
	case "show", "diff", "apply":
	default:
		return wrongUsage(stderr, "config", "it needs one of check, show, diff and apply")
	}
	if *file == "" {
		return wrongUsage(stderr, "config", "%s needs --site", step)
	}
	if want := map[string]int{"show": 0, "diff": 1, "apply": 1}[step]; len(rest) != want {
		return wrongUsage(stderr, "config", "%s takes %s", step, count(want, "file"))
	}
	b := &batchJob{log: slog.New(slog.NewTextHandler(stderr, nil)), bar: &bar{out: stderr}}
	err := b.open(*file)
	if err == nil {
		switch step {
		case "show":
			b.showChains(stdout)
		case "diff":
			err = b.diff(ctx, rest[0], stdout)
		case "apply":
			err = b.apply(rest[0], stdout)
		}
	}
	if err != nil {
		return failed(stderr, "config", err)
	}
	return 0
}

func checkConfigs(ctx context.Context, paths []string, stdout, stderr io.Writer) int {
	wrong := 0
	for _, path := range paths {
		if ctx.Err() != nil {
			return failed(stderr, "config", ctx.Err())
		}
		chain, err := checkConfig(path)
		if err != nil {
			wrong++
			fmt.Fprintln(stderr, err)
			continue
		}
		fmt.Fprintln(stdout, "OK", path+":", summary(chain))
		for i := range chain.Revs {
			for _, hint := range chain.Revs[i].Config.Hints() {
				fmt.Fprintf(stderr, "%s: %s\n", path, hint)
			}
		}
	}
	if wrong > 0 {
		return failed(stderr, "config", fmt.Errorf("%d of %d configs are wrong", wrong, len(paths)))
	}
	return 0
}

// checkConfig compiles a config, or a folder of revisions; of a splice what it says, as if it were the first revision.
func checkConfig(path string) (*tenant.Chain, error) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if cfg, err := tenant.Load(path, data); err == nil && cfg.HasTo {
			cfg.HasTo, cfg.To = false, 0
			return tenant.Compile([]*tenant.Config{cfg})
		}
	}
	return site.LoadChain(path)
}

// showChains prints the chain of each tenant.
func (b *batchJob) showChains(stdout io.Writer) {
	for i := range b.site.Tenants {
		t := &b.site.Tenants[i]
		if t.Configs.Empty() {
			fmt.Fprintf(stdout, "tenant %s: no chain in storage yet, %s counts\n", t.Chain.Tenant, filepath.Base(t.Config))
		}
		for _, o := range t.Configs.Objects {
			for _, cfg := range o.Configs {
				fmt.Fprintf(stdout, "tenant %s: %d %s", t.Chain.Tenant, o.Revision, overText(cfg))
				if o.Revision > 1 {
					fmt.Fprintf(stdout, ", created %s", o.Created.Format(time.RFC3339))
				}
				if o.Void != "" {
					fmt.Fprintf(stdout, ", void: %s", o.Void)
				}
				fmt.Fprintln(stdout)
			}
		}
	}
}

// overText says when a config is in force.
func overText(cfg *tenant.Config) string {
	switch {
	case cfg.HasTo:
		return fmt.Sprintf("splice over %s to %s", timeText(cfg.From), timeText(cfg.To))
	case cfg.HasFrom:
		return "revision from " + timeText(cfg.From)
	}
	return "revision from the beginning"
}

// change is a config that is to be appended.
type change struct {
	tenant *site.Tenant
	file   tenant.File
	cfg    *tenant.Config
}

// change reads a config for a tenant of the site.
func (b *batchJob) change(path string) (*change, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &change{file: tenant.File{Name: path, Data: data}}
	if c.cfg, err = tenant.Load(path, data); err != nil {
		return nil, err
	}
	if c.tenant = b.site.TenantNamed(c.cfg.Tenant); c.tenant == nil {
		return nil, fmt.Errorf("%s: the site has no tenant %s", path, c.cfg.Tenant)
	}
	return c, nil
}

func (b *batchJob) apply(path string, stdout io.Writer) error {
	c, err := b.change(path)
	if err != nil {
		return err
	}
	if err := c.tenant.Begin(b.blobs); err != nil {
		return err
	}
	chain, err := configs.Append(b.blobs, c.cfg.Tenant, c.file, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "tenant %s: %d %s\n", c.cfg.Tenant, len(chain.Objects), overText(c.cfg))
	if c.cfg.HasTo {
		fmt.Fprintf(stdout, "nothing changes before tandem backfill --from %s --to %s\n", timeText(c.cfg.From), timeText(c.cfg.To))
	}
	return nil
}

// diff prices a change.
func (b *batchJob) diff(ctx context.Context, path string, stdout io.Writer) error {
	c, err := b.change(path)
	if err != nil {
		return err
	}
	next, err := c.tenant.Try(c.file, time.Now())
	if err != nil {
		return err
	}
	live, spliced, err := next.Compile()
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "tenant %s: %s\n", c.cfg.Tenant, overText(c.cfg))
	if before := c.tenant.Spliced.At(c.cfg.From - 1); before != nil {
		printChanges(stdout, timeText(c.cfg.From), tenant.Diff(before.Config, c.cfg, c.cfg.From))
	}
	if !c.cfg.HasTo {
		return nil
	}
	if after := c.tenant.Spliced.At(c.cfg.To); after != nil {
		printChanges(stdout, timeText(c.cfg.To), tenant.Diff(c.cfg, after.Config, c.cfg.To))
	}
	return b.withStore(ctx, func(j *batch.Job) error {
		if j.Chain.Tenant != c.cfg.Tenant {
			return nil
		}
		j.Chain = spliced
		f, err := j.Forecast(ctx, &batch.Backfill{From: c.cfg.From - c.cfg.From%batch.WindowMS,
			To: (c.cfg.To + batch.WindowMS - 1) / batch.WindowMS * batch.WindowMS, Live: live})
		if errors.Is(err, batch.ErrUntold) {
			fmt.Fprintln(stdout, err)
			return nil
		}
		if err == nil {
			fmt.Fprintln(stdout, "a backfill:", forecastText(f))
		}
		return err
	})
}

func printChanges(w io.Writer, at string, c tenant.Changes) {
	if c.None() {
		fmt.Fprintf(w, "at %s: nothing changes\n", at)
		return
	}
	for _, x := range []struct {
		what  string
		names []string
	}{{"adds", c.Adds}, {"drops", c.Drops}, {"begins anew", c.Anew}, {"changes", c.Alters}} {
		if len(x.names) > 0 {
			fmt.Fprintf(w, "at %s: %s %s\n", at, x.what, strings.Join(x.names, ", "))
		}
	}
	if c.Cut {
		fmt.Fprintf(w, "at %s: a cut: sessions and visits end there\n", at)
	}
}

// summary tells what the newest revision of a chain has.
func summary(chain *tenant.Chain) string {
	cfg := chain.Revs[len(chain.Revs)-1].Config
	sets := 1
	for _, t := range cfg.Tags {
		sets *= len(t.Values) + 2 // none and other
	}
	return fmt.Sprintf("tenant %s, %s, %s, %s, %s", chain.Tenant, count(len(chain.Revs), "revision"), count(len(cfg.Points), "point"),
		count(len(cfg.Experiments), "experiment"), count(sets, "tag set"))
}

func count[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
