// Command tandem is the one binary of Tandem: a command for each job (DESIGN 10).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	// A reader that goes away is an error of the command, which then takes its temporary folders away.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command is a job by the name that it is called by. Its exit code is 0, 1 for what failed, 2 for a wrong command line.
type command struct {
	name, does string
	run        func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"archive", "a service: beacons to Parquet files", runArchive},
		{"backfill", "a date range from the archive again", runBackfill},
		{"audit", "the stream against the batch, and both against the archive", runAudit},
		{"batch", "what is due from the archive, for cron or a scheduler", runBatch},
		{"config", "check tenant configs; show a tenant's chain, price a change, append it", runConfig},
		{"deadletters", "what dispatch has rejected, with the reasons", runDeadletters},
		{"demo", "everything in one process, in time-lapse", runDemo},
		{"dispatch", "a service: raw beacons to the tenants' topics", runDispatch},
		{"explain", "a number or a session: its beacons, markers and contributions in each layer", runExplain},
		{"export", "rows of a store as a rows file", runExport},
		{"failover", "show and change which data centre's layer readers see", runFailover},
		{"formulas", "check a tenant's formula repository", runFormulas},
		{"generate", "records of a made-up shop with a known effect", runGenerate},
		{"import", "CSV, NDJSON or access logs to a records file", runImport},
		{"produce", "a records file to a raw topic", runProduce},
		{"replay", "a records file through the whole pipeline, rows out", runReplay},
		{"report", "the batch's last runs", runReport},
		{"schema", "print or make the tables of the store in Cassandra", runSchema},
		{"serve", "a service: formulas, a Prometheus-compatible API and pages over HTTP", runServe},
		{"stream", "a service: beacons to metrics", runStream},
		{"token", "make a token for serve", runToken},
		{"topics", "make and check the site's Kafka topics", runTopics},
		{"version", "what this binary was built from", runVersion},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		help(stderr)
		return 2
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "--help", "-help", "-h":
		if len(args) == 0 {
			help(stdout)
			return 0
		}
		name, args = args[0], append(args[1:len(args):len(args)], "--help")
	case "--version":
		name = "version"
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(stderr, "tandem: unknown command %q%s; see tandem help\n", name, suggest(name, all))
		return 2
	}
	if len(args) > 0 && isHelp(args[len(args)-1]) {
		stderr = stdout // help that was asked for is output, to be piped and paged
	}
	return all[i].run(ctx, args, stdout, stderr)
}

func isHelp(arg string) bool { return arg == "--help" || arg == "-help" || arg == "-h" }

func help(w io.Writer) {
	fmt.Fprint(w, "Tandem turns click-stream beacons into per-minute A/B-test metrics, by a stream and by a batch.\n\nusage: tandem COMMAND [flags] [arguments]\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.does)
	}
	fmt.Fprint(w, "\ntandem COMMAND --help tells about one of them. Commands exit 0, 1 if they failed, 2 if the command line is wrong.\n\nexample:\n  tandem generate --seed 1 --span 1h --out shop.tsv.zst --config shop.yaml\n  tandem replay --config shop.yaml --export rows.tsv shop.tsv.zst\n")
}

// suggest names the command nearest to a mistyped one, if there is one near enough.
func suggest(name string, all []command) string {
	best := slices.MinFunc(all, func(a, b command) int { return distance(name, a.name) - distance(name, b.name) })
	if distance(name, best.name) > max(2, len(name)/2) && !strings.HasPrefix(best.name, name) {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best.name)
}

// distance is how many bytes must be put in, taken out or changed to make a of b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, before+1)
		}
	}
	return row[len(b)]
}

// parse parses a command's flags, which may stand before, between and after its arguments, and returns the arguments.
// If over, the command is done and exits with code: help was asked for, or a flag is wrong.
func parse(flags *flag.FlagSet, usage string, args []string, stderr io.Writer) (rest []string, code int, over bool) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
			flags.SetOutput(stderr)
			flags.PrintDefaults()
			return nil, 0, true
		} else if err != nil {
			return nil, wrongUsage(stderr, flags.Name(), "%v", err), true
		}
		left := flags.Args()
		if at := len(args) - len(left); len(left) == 0 || at > 0 && args[at-1] == "--" {
			return append(rest, left...), 0, false
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// wrongUsage tells what is wrong with a command line and returns its exit code.
func wrongUsage(stderr io.Writer, command, format string, args ...any) int {
	fmt.Fprintf(stderr, "tandem %s: %s; see tandem %s --help\n", command, fmt.Sprintf(format, args...), command)
	return 2
}

// failed tells why a command failed and returns its exit code.
func failed(stderr io.Writer, command string, err error) int {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(stderr, "tandem %s: stopped by a signal\n", command)
	} else {
		fmt.Fprintf(stderr, "tandem %s: %v\n", command, err)
	}
	return 1
}

// openStdin is standard input whose reads end when the context does, though nothing may come.
func openStdin(ctx context.Context) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, os.Stdin)
		w.CloseWithError(err)
	}()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	return &stdin{r, stop}
}

type stdin struct {
	*io.PipeReader
	stop func() bool
}

func (s *stdin) Close() error {
	s.stop()
	return s.PipeReader.Close()
}

// terminal says whether w is a terminal, where progress is shown.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const versionUsage = `usage: tandem version

Prints the version, the revision of the source and the Go release that this binary was built from.

example:
  tandem version

`

func runVersion(_ context.Context, args []string, stdout, stderr io.Writer) int {
	rest, code, over := parse(flag.NewFlagSet("version", flag.ContinueOnError), versionUsage, args, stderr)
	if over {
		return code
	}
	if len(rest) > 0 {
		return wrongUsage(stderr, "version", "unexpected argument %q", rest[0])
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		fmt.Fprintln(stdout, "tandem, built without module information")
		return 0
	}
	line := "tandem " + info.Main.Version
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			line += " " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			line += " (changed)"
		}
	}
	fmt.Fprintln(stdout, line, info.GoVersion)
	return 0
}
