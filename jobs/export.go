package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/records"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

const exportUsage = `usage: tandem export --site SITE.yaml|--data DIR --tenant T [--layer both|stream|batch] [--from TIME --to TIME] [--out ROWS.tsv]

Writes the rows of a tenant as a rows file: a metric value a line, NAME <TAB> TAGS <TAB> MINUTE <TAB> VALUE, sorted, zeros
left out. They come from the store of a site, or from the folder DIR that replay --data or demo --data left. --layer both,
the default, is the merged view: the batch's value where the batch has covered the minute, else the stream's; stream is the
active layer. Which that is, and what is covered, is read once. Times are full minutes, RFC 3339; --to is exclusive.
Without --out, or with -, the rows go to standard output; ROWS may end in .zst or .gz. All of them are held in memory,
some three times their size as text.

example:
  tandem export --data shop.data --tenant shop --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z --out rows.tsv

`

// Folders of --data.
func storeFolder(data string) string { return filepath.Join(data, "store") }
func blobFolder(data string) string  { return filepath.Join(data, "archive") }

// recordsTime is the clock of a store whose rows come from a records file. The time of retention is the records': what
// a row's config would have shown is asked at the row's own time, so that no row of a file expires, however long ago it
// was and however long the file is.
func recordsTime() time.Time { return time.UnixMilli(0) }

// runExport is `tandem export`.
func runExport(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("export", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`")
	data := flags.String("data", "", "`folder` that replay --data or demo --data left")
	name := flags.String("tenant", "", "`tenant` whose rows to write; required")
	layer := flags.String("layer", "both", "`layer`: both, stream or batch")
	from := minuteFlag{0}
	to := minuteFlag{store.MaxMinute + 1}
	flags.Var(&from, "from", "first `minute`, as 2026-01-01T00:00:00Z; all if absent")
	flags.Var(&to, "to", "`minute` after the last; all if absent")
	out := flags.String("out", "", "rows `file` to write; standard output if absent")
	rest, code, over := parse(flags, exportUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "export", "unexpected argument %q", rest[0])
	case (*data == "") == (*file == "") || *name == "":
		return wrongUsage(stderr, "export", "--tenant and one of --site and --data are needed")
	case !isLayer(*layer):
		return wrongUsage(stderr, "export", "--layer %q is none of both, stream and batch", *layer)
	case from.minute >= to.minute:
		return wrongUsage(stderr, "export", "--from %s is not before --to %s", &from, &to)
	}
	st, err := openExported(ctx, *file, *data)
	if err != nil {
		return failed(stderr, "export", err)
	}
	defer st.Close()
	lines, err := exported(ctx, st, *name, *layer, from.minute, to.minute)
	if err == nil {
		err = writeLines(*out, stdout, lines)
	}
	if err != nil {
		return failed(stderr, "export", err)
	}
	fmt.Fprintln(stderr, "exported", count(len(lines), "row"))
	if *layer != "stream" {
		n, err := batch.Approximate(ctx, st, *name, from.minute, to.minute)
		if err != nil {
			return failed(stderr, "export", err)
		}
		if n > 0 {
			fmt.Fprintln(stderr, count(n, "window"), "of these approximate: sessions in them may have begun before anything that is known of them")
		}
	}
	return 0
}

func isLayer(s string) bool { return s == "both" || s == "stream" || s == "batch" }

// openExported opens the store of a site file, or of a folder.
func openExported(ctx context.Context, file, data string) (store.Store, error) {
	if file != "" {
		s, err := site.Load(file)
		if err != nil {
			return nil, err
		}
		return s.OpenStore(ctx)
	}
	if _, err := os.Stat(storeFolder(data)); err != nil { // opening it would make it
		return nil, fmt.Errorf("%s holds no store: %w", data, err)
	}
	return pebblestore.Open(storeFolder(data), pebblestore.Options{Now: recordsTime})
}

// holdsOf says whether a store has anything of a tenant.
func holdsOf(ctx context.Context, st store.Store, name string) (bool, error) {
	v, err := batch.View(ctx, st, name)
	if err != nil {
		return false, err
	}
	return v.Active != "" || len(v.Windows) > 0, nil
}

func exported(ctx context.Context, st store.Store, name, layer string, from, to int64) ([]string, error) {
	some, err := holdsOf(ctx, st, name)
	if err != nil {
		return nil, err
	}
	if !some {
		return nil, fmt.Errorf("the store holds nothing of tenant %q", name)
	}
	return embedded.Lines(ctx, st, name, layer, from, to)
}

// linesOut is a file of lines to be written at the end of a job that may take long, opened before it begins.
type linesOut struct{ recordsOut }

// openLines opens path, compressed by its ending; "-" and "" are standard output.
func openLines(path string, stdout io.Writer) (linesOut, error) {
	if path == "-" {
		path = ""
	}
	out, err := openRecordsOut(path, stdout)
	return linesOut{out}, err
}

func (o linesOut) write(lines []string) error {
	for _, l := range lines {
		if err := o.Write(records.Record{Payload: []byte(l)}); err != nil {
			return err
		}
	}
	return o.Close()
}

func writeLines(path string, stdout io.Writer, lines []string) error {
	out, err := openLines(path, stdout)
	if err != nil {
		return err
	}
	defer out.Discard()
	return out.write(lines)
}

// minuteFlag is a full minute as RFC 3339.
type minuteFlag struct{ minute int64 }

func (f *minuteFlag) String() string {
	if f.minute <= 0 || f.minute > store.MaxMinute {
		return "" // an open end
	}
	return time.Unix(f.minute*60, 0).UTC().Format(time.RFC3339)
}

// Set implements flag.Value.
func (f *minuteFlag) Set(s string) error {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("not a time as 2026-01-01T00:00:00Z")
	}
	ms := t.UnixMilli()
	if t.Nanosecond() != 0 || ms%60000 != 0 || ms < 0 {
		return fmt.Errorf("not a full minute since 1970")
	}
	f.minute = ms / 60000
	return nil
}
