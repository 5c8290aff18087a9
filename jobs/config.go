package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"tandem/core/tenant"
	"tandem/jobs/site"
)

const configUsage = `usage: tandem config check CONFIG.yaml|FOLDER...

Checks tenant configs: each file, or each folder with the revisions of one tenant (*.yaml, *.yml; ` + "`from:`" + ` orders them), is
loaded and compiled as the jobs would. Prints a line for each that is right, and FILE:LINE: what is wrong for each that
is not; then the exit code is 1.

example:
  tandem config check shop.yaml

`

// runConfig is `tandem config`.
func runConfig(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	rest, code, over := parse(flag.NewFlagSet("config", flag.ContinueOnError), configUsage, args, stderr)
	if over {
		return code
	}
	switch {
	case len(rest) == 0 || rest[0] != "check":
		return wrongUsage(stderr, "config", "its one subcommand is check")
	case len(rest) == 1:
		return wrongUsage(stderr, "config", "check needs a file or folder")
	}
	wrong := 0
	for _, path := range rest[1:] {
		if ctx.Err() != nil {
			return failed(stderr, "config", ctx.Err())
		}
		chain, err := site.LoadChain(path)
		if err != nil {
			wrong++
			fmt.Fprintln(stderr, err)
			continue
		}
		fmt.Fprintln(stdout, "OK", path+":", summary(chain))
	}
	if wrong > 0 {
		return failed(stderr, "config", fmt.Errorf("%d of %d configs are wrong", wrong, len(rest)-1))
	}
	return 0
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
