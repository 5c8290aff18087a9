package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

const replayUsage = `usage: tandem replay --config C.yaml|FOLDER [--layer both|stream|batch] [--export ROWS.tsv] [--counts COUNTS.tsv]
                     [--shards N] [--tick 1m] [--ranges N] [--data DIR] RECORDS

What would this config have shown? Takes a records file (INGEST_MS <TAB> BEACON a line, or the beacon alone) through the
whole pipeline: an embedded broker, dispatch, the stream's shards and aggregates, the archive, the batch, and a store. Time
comes from the records alone and the order of the lines does not matter. RECORDS may end in .zst or .gz; - is standard
input. A FOLDER holds the revisions of the tenant's config.

--layer both exports the merged view, which is the batch's when all is covered, and compares the layers: if the stream is
not equal to the batch over the records that are not late, the differences are told and the exit code is 1. --export and
--counts may be -, standard output, and end in .zst or .gz. The store keeps every row, whatever the retention.

Limits: 24 bytes of memory for each record, the whole records of one millisecond, and all rows: as lines, and without --data
in the store too; in the temporary folder (TMPDIR) about four times the size of the records; a tenant's beacons only,
others are counted as unknown_tenant.

example:
  tandem generate --seed 1 --span 1h --out shop.tsv.zst --config shop.yaml
  tandem replay --config shop.yaml --export rows.tsv --counts counts.tsv shop.tsv.zst

`

type replayJob struct {
	config, layer, export, counts, data, records string
	opt                                          embedded.Options
	stdout, stderr                               io.Writer
	progress                                     *phaseProgress
}

// runReplay is `tandem replay`. It returns 0, 1 if something broke or the layers differ, and 2 for a wrong command line.
func runReplay(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	job := replayJob{opt: embedded.Defaults(), stdout: stdout, stderr: stderr}
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	flags.StringVar(&job.config, "config", "", "tenant config: a `file`, or a folder of revisions; required")
	flags.StringVar(&job.layer, "layer", "both", "`layer` to compute and export: both, stream or batch")
	flags.StringVar(&job.export, "export", "", "rows `file` to write")
	flags.StringVar(&job.counts, "counts", "", "counts `file` to write")
	shards := flags.Int("shards", int(job.opt.Shards), "shards of the stream, 1 to 256; changes no row")
	tick := flags.Duration("tick", time.Minute, "how often the stream publishes, 1s to 1h of the records' time; changes no row")
	flags.IntVar(&job.opt.Ranges, "ranges", job.opt.Ranges, "hash ranges that the batch runs side by side, 1 to 64; changes no row")
	flags.StringVar(&job.data, "data", "", "new `folder` that keeps store and archive, as for tandem export; a temporary one if absent")
	rest, code, over := parse(flags, replayUsage, args, stderr)
	switch {
	case over:
		return code
	case job.config == "":
		return wrongUsage(stderr, "replay", "--config is needed")
	case len(rest) != 1:
		return wrongUsage(stderr, "replay", "one RECORDS is needed, not %d", len(rest))
	case job.export == job.counts && job.export != "" && job.export != "-":
		return wrongUsage(stderr, "replay", "--export and --counts are the same file, %s", job.export)
	case !isLayer(job.layer):
		return wrongUsage(stderr, "replay", "--layer %q is none of both, stream and batch", job.layer)
	case *shards < 1 || *shards > 256:
		return wrongUsage(stderr, "replay", "--shards %d is not in 1 to 256", *shards)
	case *tick < time.Second || *tick > time.Hour:
		return wrongUsage(stderr, "replay", "--tick %s is not in 1s to 1h", *tick)
	case job.opt.Ranges < 1 || job.opt.Ranges > batch.Buckets:
		return wrongUsage(stderr, "replay", "--ranges %d is not in 1 to %d", job.opt.Ranges, batch.Buckets)
	}
	job.records = rest[0]
	job.opt.Shards, job.opt.TickMS = int32(*shards), tick.Milliseconds()
	job.opt.Stream, job.opt.Batch = job.layer != "batch", job.layer != "stream"
	job.progress = newPhaseProgress(stderr)
	equal, err := job.run(ctx)
	job.progress.clear()
	if err != nil {
		return failed(stderr, "replay", err)
	}
	if !equal {
		return 1
	}
	return 0
}

// run replays, writes what was asked for and says whether the layers are equal.
func (j *replayJob) run(ctx context.Context) (equal bool, err error) {
	began := time.Now()
	chain, err := site.LoadChain(j.config)
	if err != nil {
		return false, err
	}
	var outs [2]*linesOut
	for i, path := range []string{j.export, j.counts} {
		if path == "" {
			continue
		}
		out, err := openLines(path, j.stdout)
		if err != nil {
			return false, err
		}
		defer out.Discard()
		outs[i] = &out
	}
	temp, err := os.MkdirTemp("", "tandem-replay-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(temp) // a leftover in the temporary folder harms nobody

	recs, err := readRecords(ctx, j.records, temp, func(n int) { j.progress.show("reading", int64(n), "records") })
	if err != nil {
		return false, err
	}
	defer recs.close()
	st, blobs, err := j.openStores(temp)
	if err != nil {
		return false, err
	}
	defer st.Close()
	log, err := embedded.StartKafka()
	if err != nil {
		return false, err
	}
	defer log.Close()
	p, err := embedded.Open(ctx, j.opt, chain, log, blobs, st)
	if err != nil {
		return false, err
	}
	if err := j.feed(ctx, p, recs); err != nil {
		return false, err
	}
	res, err := j.results(ctx, p)
	if err != nil {
		return false, err
	}
	for i, lines := range [][]string{res.rows[j.layer], res.counts} {
		if outs[i] != nil {
			if err := outs[i].write(lines); err != nil {
				return false, err
			}
		}
	}
	j.progress.clear()
	j.summary(chain, len(recs.index), res, time.Since(began))
	return len(res.differences) == 0, nil
}

// openStores opens the store and the folder of the archive. Without --data the store is in memory.
func (j *replayJob) openStores(temp string) (store.Store, blob.Store, error) {
	if j.data == "" {
		blobs, err := blob.OpenDir(blobFolder(temp))
		if err != nil {
			return nil, nil, err
		}
		st, err := memoryStore()
		return st, blobs, err
	}
	if entries, err := os.ReadDir(j.data); err == nil && len(entries) > 0 {
		return nil, nil, fmt.Errorf("folder %s is not empty: --data wants a new one", j.data)
	}
	blobs, err := blob.OpenDir(blobFolder(j.data))
	if err != nil {
		return nil, nil, err
	}
	st, err := pebblestore.Open(storeFolder(j.data), pebblestore.Options{Now: recordsTime})
	return st, blobs, err
}

func memoryStore() (store.Store, error) {
	return pebblestore.Open("", pebblestore.Options{InMemory: true, Now: recordsTime})
}

// feed takes all records through the pipeline, a part at a time so that broker and jobs take turns, and ends time.
func (j *replayJob) feed(ctx context.Context, p *embedded.Pipeline, recs *sortedRecords) error {
	for n := 0; ; {
		raws, err := recs.next()
		if err != nil {
			return err
		}
		if len(raws) == 0 {
			break
		}
		for part := range slices.Chunk(raws, feedRecords) {
			if err := p.Feed(ctx, part); err != nil {
				return err
			}
			if err := p.Pump(ctx); err != nil {
				return err
			}
		}
		n += len(raws)
		j.progress.show("replaying", int64(n), "of "+strconv.Itoa(len(recs.index))+" records")
	}
	if err := p.Feed(ctx, []embedded.Raw{{Ingest: p.End(), Heartbeat: true}}); err != nil {
		return err
	}
	if err := p.Pump(ctx); err != nil {
		return err
	}
	if !j.opt.Batch {
		return nil
	}
	return j.batch(ctx, p.Job(), "batch:")
}

func (j *replayJob) batch(ctx context.Context, job *batch.Job, phase string) error {
	windows := int64(0)
	job.Done = func(*batch.Covered) {
		windows++
		j.progress.show(phase, windows, "windows")
	}
	return job.Run(ctx)
}

// results of a replay.
type results struct {
	rows        map[string][]string // by layer, those that were computed
	counts      []string
	late        int64
	byLate      int      // lines in which stream and batch differ
	differences []string // of the stream against the batch over what is not late
}

func (j *replayJob) results(ctx context.Context, p *embedded.Pipeline) (*results, error) {
	res := &results{rows: map[string][]string{}}
	for _, layer := range []string{"stream", "batch", "both"} {
		if j.layer != "both" && layer != j.layer {
			continue
		}
		var err error
		if res.rows[layer], err = embedded.Lines(ctx, p.Store, p.Chain.Tenant, layer, 0, store.MaxMinute+1); err != nil {
			return nil, err
		}
	}
	stream := p.StreamCounts()
	counts := stream
	if j.opt.Batch {
		var err error
		if counts, err = p.BatchCounts(ctx); err != nil {
			return nil, err
		}
	}
	res.counts, res.late = embedded.CountLines(counts), stream["late"]
	if j.layer != "both" {
		return res, nil
	}
	want := res.rows["batch"]
	if res.late > 0 {
		res.byLate = len(difference(want, res.rows["stream"]))
		var err error
		if want, err = j.onTime(ctx, p); err != nil {
			return nil, err
		}
	}
	res.differences = difference(want, res.rows["stream"])
	return res, nil
}

// onTime returns the rows of a second batch, over the records that are not late: what the stream must come to.
func (j *replayJob) onTime(ctx context.Context, p *embedded.Pipeline) ([]string, error) {
	st, err := memoryStore()
	if err != nil {
		return nil, err
	}
	defer st.Close()
	job := p.Job()
	job.OnTime, job.Store = true, st
	if err := j.batch(ctx, job, "batch without late records:"); err != nil {
		return nil, err
	}
	return embedded.Lines(ctx, st, p.Chain.Tenant, "batch", 0, store.MaxMinute+1)
}

// difference lists what only one of two sorted lists has: "- " of a, "+ " of b.
func difference(a, b []string) []string {
	var d []string
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			d, a = append(d, "- "+a[0]), a[1:]
		case len(a) == 0 || b[0] < a[0]:
			d, b = append(d, "+ "+b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return d
}

// shownDifferences is how many lines of a difference standard error tells.
const shownDifferences = 20

func (j *replayJob) summary(chain *tenant.Chain, n int, res *results, took time.Duration) {
	fmt.Fprintf(j.stderr, "replayed %s in %.1f s, %.0f/s: %s", count(n, "record"), took.Seconds(), float64(n)/took.Seconds(), count(sessions(chain, res.rows[j.layer]), "session"))
	if j.opt.Stream {
		fmt.Fprintf(j.stderr, ", %s of the stream", count(len(res.rows["stream"]), "row"))
	}
	if j.opt.Batch {
		fmt.Fprintf(j.stderr, ", %s of the batch", count(len(res.rows["batch"]), "row"))
	}
	if j.opt.Stream {
		fmt.Fprintf(j.stderr, ", %d late", res.late)
	}
	rejected := int64(0)
	for _, l := range res.counts {
		if rest, ok := strings.CutPrefix(l, "rejected."); ok {
			rejected += lastNumber(rest)
		}
	}
	fmt.Fprintf(j.stderr, ", %d rejected\n", rejected)
	if j.layer != "both" {
		return
	}
	switch {
	case len(res.differences) > 0:
		over := ""
		if res.late > 0 {
			over = " over the records that are not late"
		}
		fmt.Fprintf(j.stderr, "tandem replay: the stream differs from the batch%s, %s (- batch, + stream):\n", over, count(len(res.differences), "line"))
		for _, l := range res.differences[:min(shownDifferences, len(res.differences))] {
			fmt.Fprintln(j.stderr, l)
		}
		if more := len(res.differences) - shownDifferences; more > 0 {
			fmt.Fprintf(j.stderr, "and %d more\n", more)
		}
	case res.late > 0:
		fmt.Fprintf(j.stderr, "the stream equals the batch over the records that are not late; late ones make a difference of %s\n", count(res.byLate, "line"))
	default:
		fmt.Fprintln(j.stderr, "the stream equals the batch")
	}
}

// sessions is the sum of visit.beta over the site.
func sessions(chain *tenant.Chain, rows []string) int64 {
	n := int64(0)
	for _, l := range rows {
		if strings.HasPrefix(l, chain.Tenant+".visit.site.visit.beta\t") {
			n += lastNumber(l)
		}
	}
	return n
}

// lastNumber reads the number at the end of a line of a rows or counts file that this process made.
func lastNumber(line string) int64 {
	n, _ := strconv.ParseInt(line[strings.LastIndexByte(line, '\t')+1:], 10, 64)
	return n
}

// phaseProgress shows on a terminal how far a job is, and nothing elsewhere.
type phaseProgress struct {
	out   io.Writer // nil: no terminal
	phase string
	began time.Time
	last  time.Time
}

func newPhaseProgress(w io.Writer) *phaseProgress {
	if !terminal(w) {
		w = nil
	}
	return &phaseProgress{out: w}
}

func (p *phaseProgress) show(phase string, n int64, what string) {
	now := time.Now()
	if phase != p.phase {
		p.phase, p.began = phase, now
	}
	if p.out == nil || now.Sub(p.last) < 200*time.Millisecond {
		return
	}
	p.last = now
	fmt.Fprintf(p.out, "\r\x1b[K%s %d %s", phase, n, what)
	if s := now.Sub(p.began).Seconds(); s >= 1 {
		fmt.Fprintf(p.out, ", %.0f/s", float64(n)/s)
	}
}

func (p *phaseProgress) clear() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
