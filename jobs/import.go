package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"tandem/schemas/mapping"
	"tandem/schemas/records"
)

const importUsage = `usage: tandem import --mapping M.yaml [--out RECORDS] [--rejects FILE] [--strict] INPUT

Turns CSV, NDJSON or an Apache access log into a records file by a mapping file. INPUT and RECORDS may end in .zst or .gz;
INPUT - is standard input, and without --out the records go to standard output. A row that cannot be read or mapped is
refused: told by its line, counted, and left out; the import goes on.

A mapping has a ` + "`format:`" + ` (csv, ndjson or combined), and ` + "`fields:`" + ` (id, tenant, session and ts; visitor, point, device and
login), ` + "`values:`, `attrs:` and `experiments:`" + ` with an expression for each name, in the language of expr-lang, over the columns
of the row: name, row["any name"], and line, its number. ` + "`ingest:`" + ` is the ingest time, ts if absent; ` + "`where:`" + ` leaves out rows;
` + "`beacons:`" + ` lists blocks with all of these, for several beacons of a row; ` + "`csv: {separator: \";\", columns: [a, b]}`" + ` is for files of
another form, or without a header. Beside the language's functions there are hash(a, ...), bucket(a, ..., n), num(text),
occurrence(a, ...), which counts equal rows, and time(column, LAYOUT): unix, unixms, rfc3339, apache, or as Go writes it.

example:
  tandem import --mapping scripts/examples/import/rees46/mapping.yaml --out rees46.tsv.zst rees46.csv.zst

`

// shownRefusals is how many refused rows standard error tells about when there is no file for them.
const shownRefusals = 10

// runImport is `tandem import`. It returns 0, 1 if nothing could be read, something broke, or with --strict a row was
// refused, and 2 for a wrong command line.
func runImport(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	var job importJob
	flags.StringVar(&job.mapping, "mapping", "", "mapping `file` (YAML); required")
	flags.StringVar(&job.out, "out", "", "records `file` to write; standard output if absent")
	flags.StringVar(&job.rejects, "rejects", "", "`file` for refused rows, each as FILE:LINE: reason; the first 10 go to standard error if absent")
	flags.BoolVar(&job.strict, "strict", false, "exit 1 if any row is refused; the records are written all the same")
	rest, code, over := parse(flags, importUsage, args, stderr)
	if over {
		return code
	}
	if job.mapping == "" || len(rest) != 1 {
		return wrongUsage(stderr, "import", "--mapping and one INPUT are needed")
	}
	if job.rejects != "" && (job.rejects == rest[0] || job.rejects == job.out) {
		return wrongUsage(stderr, "import", "--rejects %s is another of its files too", job.rejects)
	}
	job.input, job.stdout, job.stderr = rest[0], stdout, stderr
	stats, err := job.run(ctx)
	if err != nil {
		return failed(stderr, "import", err)
	}
	fmt.Fprintf(stderr, "imported %d records, %d rows refused", stats.Records, stats.Refused)
	if stats.LeftOut > 0 {
		fmt.Fprintf(stderr, ", %d left out by where", stats.LeftOut)
	}
	fmt.Fprintln(stderr)
	if job.strict && stats.Refused > 0 {
		return 1
	}
	return 0
}

type importJob struct {
	mapping, out, rejects, input string
	strict                       bool
	stdout, stderr               io.Writer
}

// run imports and completes the files; after an error the file of --out is as it was.
func (j *importJob) run(ctx context.Context) (stats mapping.Stats, err error) {
	m, err := mapping.Load(j.mapping)
	if err != nil {
		return stats, err
	}
	var in io.ReadCloser
	if j.input == "-" {
		in = openStdin(ctx)
	} else if in, err = records.OpenText(j.input); err != nil {
		return stats, err
	}
	defer in.Close()
	out, err := openRecordsOut(j.out, j.stdout)
	if err != nil {
		return stats, err
	}
	defer out.Discard()

	shown := int64(0)
	tell := func(line int64, reason string) {
		if shown++; shown <= shownRefusals {
			fmt.Fprintf(j.stderr, "%s:%d: %s\n", j.input, line, reason)
		}
	}
	var rejects *bufio.Writer
	if j.rejects != "" {
		f, err := os.Create(j.rejects)
		if err != nil {
			return stats, err
		}
		defer f.Close()
		rejects = bufio.NewWriter(f)
		tell = func(line int64, reason string) { fmt.Fprintf(rejects, "%s:%d: %s\n", j.input, line, reason) }
	}
	progress := newRecordProgress(j.stderr, "records")
	stats, err = m.Import(in, func(r records.Record) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d records: %w", out.Count(), err)
		}
		progress.step()
		return out.Write(r)
	}, tell)
	progress.clear()
	if rejects != nil {
		if flushErr := rejects.Flush(); err == nil && flushErr != nil {
			return stats, fmt.Errorf("%s: %w", j.rejects, flushErr)
		}
	}
	if err != nil {
		return stats, fmt.Errorf("%s: %w", j.input, err)
	}
	if more := shown - shownRefusals; more > 0 {
		fmt.Fprintf(j.stderr, "and %d more; --rejects FILE keeps all of them\n", more)
	}
	if stats.Rows == stats.Refused {
		return stats, fmt.Errorf("%s: not one row could be read", j.input)
	}
	return stats, out.Close()
}

// recordsOut is where records go: a file that exists only once it is closed, or standard output.
type recordsOut struct {
	*records.Writer
	file *records.FileWriter
}

func openRecordsOut(path string, stdout io.Writer) (recordsOut, error) {
	if path == "" {
		w, err := records.NewWriter(stdout, "")
		return recordsOut{Writer: w}, err
	}
	f, err := records.Create(path)
	if err != nil {
		return recordsOut{}, err
	}
	return recordsOut{Writer: f.Writer, file: f}, nil
}

// Close completes the records.
func (o recordsOut) Close() error {
	if o.file != nil {
		return o.file.Close()
	}
	return o.Writer.Close()
}

// Discard gives up a file that is not closed yet.
func (o recordsOut) Discard() {
	if o.file != nil {
		o.file.Discard()
	}
}

// recordProgress shows a count on a terminal, and nothing elsewhere.
type recordProgress struct {
	out  io.Writer // nil: no terminal
	what string
	n    int64
	last time.Time
}

func newRecordProgress(w io.Writer, what string) *recordProgress {
	p := &recordProgress{what: what}
	if terminal(w) {
		p.out = w
	}
	return p
}

func (p *recordProgress) step() {
	p.n++
	if p.out == nil || p.n%1000 != 0 || time.Since(p.last) < 200*time.Millisecond {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.out, "\r%d %s", p.n, p.what)
}

func (p *recordProgress) clear() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
