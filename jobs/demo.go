package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/traffic"
)

const demoUsage = `usage: tandem demo [--speed 60x] [--span 1h] [--rate 300] [--seed 1] [--start TIME]
       tandem demo --records RECORDS --config C.yaml [--speed 60x]

Runs all of Tandem in this process, in time-lapse: broker, stream, archive, batch and store. The traffic is that of a web
shop that does not exist; its three experiments have known effects: checkout_button raises the share of checkouts that
become an order by 15 %, hero_image does nothing, and variation instant of new_search is broken. Or it is a records file.

A table shows what the stream says of each variation so far, and what stream and batch say of the minutes that the batch
has covered. Windows of 30 minutes are covered 10 minutes of record time after their end; the first, of which the traffic
has the second half, after 25 seconds at 60x. The stream leaves late beacons to the batch, so with them the two differ a
little; therefore the batch also runs without them, beside, and every row of the stream is compared with that. Exit code
0: all rows agree. Nothing is left behind, unless --data is given.

On a terminal, or with --listen, it also serves what tandem serve does, on this machine only, and goes on with that after
the end until it is stopped. --table leaves that out.

example:
  tandem demo
  tandem demo --speed max --span 3h --rate 60
  tandem generate --out shop.tsv.zst --config shop.yaml && tandem demo --records shop.tsv.zst --config shop.yaml

`

const (
	maxDemoSpeed  = 1e6
	maxDemoShards = 64
	// demoSliceMS is the record time of a step: at 60x there are six in a second. demoFastMS is that of one without a wait.
	demoSliceMS = 10_000
	demoFastMS  = 60_000
	// demoChunk bounds the records of a step that are fed at once.
	demoChunk = 20_000
	// demoIdle is the longest wait for a record: time without traffic jumps to the next one instead.
	demoIdle = 5 * time.Second
)

// demoOptions are the flags of `tandem demo`.
type demoOptions struct {
	traffic              traffic.Options
	speed                float64 // record time by wall time; 0: as fast as it goes
	shards               int
	records, config, dir string
	listen               string
	table                bool
}

// runDemo is `tandem demo`. It returns 0 if the layers agree, 1 if not, if something broke or if it was stopped, and 2
// for a wrong command line.
func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := demoOptions{traffic: traffic.Defaults(), speed: 60, shards: 2}
	o.traffic.SessionsPerMinute = 300
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.Func("speed", "how many times faster than real time, as `60x`, or max (default 60x)", func(s string) (err error) {
		o.speed, err = demoSpeed(s)
		return err
	})
	flags.DurationVar(&o.traffic.Span, "span", o.traffic.Span, "how long sessions go on, as 90m or 24h")
	flags.Float64Var(&o.traffic.SessionsPerMinute, "rate", o.traffic.SessionsPerMinute, "sessions a minute of record time, on average")
	flags.Uint64Var(&o.traffic.Seed, "seed", o.traffic.Seed, "`number` that decides everything random")
	start := flags.String("start", "", "`time` of the first minute, RFC 3339 (default: so that the traffic ends within the last hour)")
	flags.IntVar(&o.shards, "shards", o.shards, "partitions of the beacons topic, and shards of the stream, 1 to "+strconv.Itoa(maxDemoShards))
	flags.StringVar(&o.records, "records", "", "records `file` to take instead of made-up traffic")
	flags.StringVar(&o.config, "config", "", "tenant config for --records: a `file`, or a folder of revisions")
	flags.StringVar(&o.dir, "data", "", "new `folder` that keeps the archive and the store")
	flags.StringVar(&o.listen, "listen", "", "loopback `address` to serve on (default 127.0.0.1:8080, or any port if that is taken)")
	flags.BoolVar(&o.table, "table", false, "the table only, nothing is served")
	rest, code, over := parse(flags, demoUsage, args, stderr)
	if over {
		return code
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := o.check(rest, given, *start); err != nil {
		return wrongUsage(stderr, "demo", "%v", err)
	}
	agree, err := o.run(ctx, stdout, stderr)
	switch {
	case err != nil:
		return failed(stderr, "demo", err)
	case !agree:
		return 1
	}
	return 0
}

func demoSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	x, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || !(x > 0 && x <= maxDemoSpeed) {
		return 0, fmt.Errorf("it must be max or a number above 0 and at most %.0f", maxDemoSpeed)
	}
	return x, nil
}

func (o *demoOptions) check(rest []string, given map[string]bool, start string) (err error) {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q", rest[0])
	}
	if (o.records == "") != (o.config == "") {
		return errors.New("--records and --config go together")
	}
	if o.listen != "" && (o.table || !loopback(o.listen)) {
		return fmt.Errorf("--listen %s: it must be an address of loopback, as 127.0.0.1:8080, and without --table", o.listen)
	}
	if o.shards < 1 || o.shards > maxDemoShards {
		return fmt.Errorf("--shards %d: it must be 1 to %d", o.shards, maxDemoShards)
	}
	if o.records != "" {
		for _, name := range []string{"span", "rate", "seed", "start"} {
			if given[name] {
				return fmt.Errorf("--%s is of made-up traffic and does not go with --records", name)
			}
		}
		return nil
	}
	// In the middle of a window, so that the first coverage does not have to wait for all of one.
	o.traffic.Start = time.Now().UTC().Add(-o.traffic.Span).Truncate(batch.WindowMS * time.Millisecond).Add(-batch.WindowMS * time.Millisecond / 2)
	if start != "" {
		if o.traffic.Start, err = time.Parse(time.RFC3339, start); err != nil {
			return fmt.Errorf("--start %q: it must be as 2026-01-01T00:00:00Z", start)
		}
	}
	return o.traffic.Check()
}

// run sets everything up, plays the records and takes everything down again.
func (o *demoOptions) run(ctx context.Context, stdout, stderr io.Writer) (agree bool, err error) {
	folder, temp, err := o.folders()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	d := &demo{opt: o, screen: newDemoScreen(stdout), began: time.Now(), until: math.MaxInt64}
	if err := d.source(ctx, temp, stderr); err != nil {
		return false, err
	}
	defer d.stop()
	if d.next == nil {
		return false, errors.New(cmp.Or(o.records, "made-up traffic") + ": there is no record in it")
	}

	// Rows expire by their minute, and traffic may be of any time: here nothing expires.
	now := func() time.Time { return time.UnixMilli(0) }
	blobs, err := blob.OpenDir(filepath.Join(folder, "archive"))
	if err != nil {
		return false, err
	}
	st, err := pebblestore.Open(filepath.Join(folder, "store"), pebblestore.Options{Now: now})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	d.onTime, err = pebblestore.Open("", pebblestore.Options{Now: now, InMemory: true})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.onTime.Close()) }()
	log, err := embedded.StartKafka()
	if err != nil {
		return false, err
	}
	defer log.Close()
	opt := embedded.Defaults()
	opt.Shards = int32(o.shards)
	if d.pipeline, err = embedded.Open(ctx, opt, d.chain, log, blobs, st); err != nil {
		return false, err
	}
	d.values = newDemoValues(d.pipeline, d.onTime, opt.Layer)
	served, err := d.serve(ctx, stderr)
	if err != nil {
		return false, err
	}
	if err := d.play(ctx); err != nil {
		return false, errors.Join(err, served.end())
	}
	if err := d.summary(ctx, stdout); err != nil {
		return false, errors.Join(err, served.end())
	}
	if err := served.wait(ctx, stderr); err != nil {
		return false, err
	}
	// Of a folder that is kept: the batch without late beacons was for this comparison only.
	return d.values.differ == 0, os.RemoveAll(filepath.Join(folder, "archive", "batch-ontime"))
}

// folders returns where the archive and the store go, and the temporary folder, which may be the same.
func (o *demoOptions) folders() (folder, temp string, err error) {
	if o.dir != "" {
		entries, err := os.ReadDir(o.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
		if len(entries) > 0 {
			return "", "", fmt.Errorf("--data %s: the folder is not empty; name a new one, the demo begins from nothing", o.dir)
		}
	}
	if temp, err = os.MkdirTemp("", "tandem-demo-"); err != nil {
		return "", "", err
	}
	if o.dir == "" {
		return temp, temp, nil
	}
	return o.dir, temp, nil
}

// demo is a run. Everything happens in one goroutine, one step after another.
type demo struct {
	opt      *demoOptions
	chain    *tenant.Chain
	texts    []string // of its revisions
	pipeline *embedded.Pipeline
	onTime   *pebblestore.Store // the batch over the records that are not late
	values   *demoValues
	screen   *demoScreen

	next  *embedded.Raw // nil: there is none
	pull  func() (*embedded.Raw, error)
	stop  func()
	until int64 // record time up to which the speed is kept; after the traffic's end there are only late beacons

	began    time.Time
	wall     time.Time // when record time was at from
	from     int64
	clock    int64        // record time up to which everything is fed, ms
	seen     atomic.Int64 // the clock as pages see it, which stays where the records end
	settled  int64        // windows by their number that had settled at the last batch
	beacons  int64        // records without heartbeats
	raws     []embedded.Raw
	drawn    time.Time
	measured time.Time // when perSecond was measured, and at which count
	counted  int64
	phase    string
	frame    demoFrame
	agreedAt time.Duration // wall time at which the first covered minutes agreed
}

// source opens the records.
func (d *demo) source(ctx context.Context, temp string, stderr io.Writer) (err error) {
	if d.opt.records == "" {
		if d.chain, err = shopChain(); err != nil {
			return err
		}
		d.texts = []string{string(traffic.Config())}
		d.until = d.opt.traffic.Start.Add(d.opt.traffic.Span).UnixMilli()
		d.pull, d.stop = demoTraffic(d.opt.traffic)
	} else {
		var files []tenant.File
		if d.chain, files, err = site.LoadWritten(d.opt.config); err != nil {
			return err
		}
		d.texts = site.Texts(files, d.chain)
		progress := newRecordProgress(stderr, "records")
		s, err := readRecords(ctx, d.opt.records, temp, func(int) { progress.step() })
		progress.clear()
		if err != nil {
			return err
		}
		d.pull, d.stop = demoSorted(s)
	}
	if d.next, err = d.pull(); err != nil {
		d.stop()
	}
	return err
}

// demoTraffic gives the records of made-up traffic one by one, nil after the last.
func demoTraffic(o traffic.Options) (pull func() (*embedded.Raw, error), stop func()) {
	enough := errors.New("enough")
	next, stop := iter.Pull2(func(yield func(*embedded.Raw, error) bool) {
		err := traffic.Generate(o, func(r records.Record) error {
			if !yield(&embedded.Raw{Ingest: r.Ingest, Payload: r.Payload}, nil) {
				return enough
			}
			return nil
		})
		if err != nil && err != enough {
			yield(nil, err)
		}
	})
	return func() (*embedded.Raw, error) {
		r, err, _ := next()
		return r, err
	}, stop
}

// demoSorted gives the records of a file one by one, nil after the last. Payloads are copied: those of a chunk are gone
// with the next.
func demoSorted(s *sortedRecords) (pull func() (*embedded.Raw, error), stop func()) {
	var chunk []embedded.Raw
	pull = func() (*embedded.Raw, error) {
		if len(chunk) == 0 {
			var err error
			if chunk, err = s.next(); err != nil || len(chunk) == 0 {
				return nil, err
			}
		}
		r := embedded.Raw{Ingest: chunk[0].Ingest, Payload: append([]byte(nil), chunk[0].Payload...)}
		chunk = chunk[1:]
		return &r, nil
	}
	return pull, func() { s.close() } // it lies in the temporary folder
}

// play feeds all records at the speed that is wanted, and then lets time pass until everything is closed and covered.
func (d *demo) play(ctx context.Context) error {
	d.clock = d.next.Ingest / demoSliceMS * demoSliceMS
	d.seen.Store(d.clock)
	d.from, d.wall, d.measured = d.clock, time.Now(), time.Now()
	d.settled = math.MinInt64
	for d.next != nil {
		if err := d.step(ctx); err != nil {
			return err
		}
	}
	d.phase = "no record is left: time passes until all is closed"
	if err := d.draw(ctx, d.screen.terminal); err != nil {
		return err
	}
	d.clock = d.pipeline.End()
	if err := d.pipeline.Finish(ctx); err != nil {
		return err
	}
	d.phase = "done"
	return d.without(ctx)
}

// step feeds the records of the next slice and does what is due then.
func (d *demo) step(ctx context.Context) error {
	over := d.clock >= d.until
	slice := int64(demoSliceMS)
	if over || d.opt.speed == 0 {
		slice = demoFastMS
	}
	end := d.clock/slice*slice + slice
	if at := d.next.Ingest; at >= end && (d.opt.speed == 0 || float64(at-end)/d.opt.speed > float64(demoIdle.Milliseconds())) {
		end = at/slice*slice + slice
		d.from, d.wall = end, time.Now()
	}
	d.phase = ""
	if over {
		d.phase = "the traffic is over: its late beacons, as fast as they go"
	} else if err := d.pace(ctx, end); err != nil {
		return err
	}
	for d.next != nil && d.next.Ingest < end {
		d.raws = append(d.raws, *d.next)
		var err error
		if d.next, err = d.pull(); err != nil {
			return err
		}
		if len(d.raws) >= demoChunk {
			if err := d.feed(ctx); err != nil {
				return err
			}
		}
	}
	d.raws = append(d.raws, embedded.Raw{Ingest: end, Heartbeat: true}) // time passes also without traffic
	d.beacons--
	if err := d.feed(ctx); err != nil {
		return err
	}
	d.clock = end
	d.seen.Store(min(end, d.until))
	if n := d.settledAt(end); n > d.settled {
		d.settled = n
		if d.screen.terminal {
			d.phase = "batch"
			if err := d.draw(ctx, true); err != nil {
				return err
			}
		}
		if err := d.pipeline.Job().Run(ctx); err != nil {
			return err
		}
		if err := d.without(ctx); err != nil {
			return err
		}
		d.phase = ""
		return d.draw(ctx, d.values.fresh)
	}
	return d.draw(ctx, false)
}

func (d *demo) feed(ctx context.Context) error {
	d.beacons += int64(len(d.raws))
	err := d.pipeline.Feed(ctx, d.raws)
	d.raws = d.raws[:0]
	if err != nil {
		return err
	}
	return d.pipeline.Pump(ctx)
}

// without runs the batch without the late beacons and compares every row of the covered minutes that are new.
func (d *demo) without(ctx context.Context) error {
	job := d.pipeline.Job()
	job.Store, job.OnTime = d.onTime, true
	if err := job.Run(ctx); err != nil {
		return fmt.Errorf("batch without late beacons: %w", err)
	}
	if err := d.values.compare(ctx); err != nil {
		return err
	}
	if d.agreedAt == 0 && d.values.rows > 0 && d.values.differ == 0 {
		d.agreedAt = time.Since(d.began)
	}
	return nil
}

// settledAt numbers the last window that has settled at a record time, as the archive does when it rolls.
func (d *demo) settledAt(ms int64) int64 {
	rev := d.chain.At(ms)
	if rev == nil {
		rev = &d.chain.Revs[0]
	}
	return (ms - rev.Config.Lateness) / batch.WindowMS
}

// pace waits until the records before end are due, and draws meanwhile.
func (d *demo) pace(ctx context.Context, end int64) error {
	if d.opt.speed == 0 {
		return ctx.Err()
	}
	due := d.wall.Add(time.Duration(float64(end-d.from) / d.opt.speed * float64(time.Millisecond)))
	for {
		left := time.Until(due)
		if left <= 0 {
			return ctx.Err()
		}
		if err := d.draw(ctx, false); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, demoFrameEvery)):
		}
	}
}

const (
	demoFrameEvery = 250 * time.Millisecond
	demoBlockEvery = 10 * time.Second
	demoReadEvery  = time.Second
)

// draw shows the table if it is time for it, or at once. What it shows is read from the store at most once a second.
func (d *demo) draw(ctx context.Context, now bool) error {
	every := demoBlockEvery
	if d.screen.terminal {
		every = demoFrameEvery
	}
	if d.drawn.IsZero() {
		d.drawn = time.Now().Add(-every + min(every, demoReadEvery))
	}
	if !now && time.Since(d.drawn) < every {
		return nil
	}
	if err := d.fill(ctx, now); err != nil {
		return err
	}
	d.drawn = time.Now()
	return d.screen.show(&d.frame)
}

// fill brings the frame up to date.
func (d *demo) fill(ctx context.Context, now bool) error {
	f := &d.frame
	past := time.Since(d.measured)
	if past >= demoReadEvery {
		f.perSecond = float64(d.beacons-d.counted) / past.Seconds()
		d.measured, d.counted = time.Now(), d.beacons
	}
	if past >= demoReadEvery || now {
		if err := d.values.read(ctx, f); err != nil {
			return err
		}
	}
	f.clock, f.beacons, f.phase = d.clock, d.beacons, d.phase
	f.speed = "max"
	if d.opt.speed > 0 {
		f.speed = strconv.FormatFloat(d.opt.speed, 'g', -1, 64) + "x"
	}
	if d.opt.records == "" {
		f.firstAt = (d.opt.traffic.Start.UnixMilli()/batch.WindowMS+1)*batch.WindowMS + d.chain.Revs[0].Config.Lateness
	}
	return nil
}

// summary draws the table a last time and says what it all came to.
func (d *demo) summary(ctx context.Context, stdout io.Writer) error {
	wall := time.Since(d.began)
	if err := d.fill(ctx, true); err != nil {
		return err
	}
	d.frame.perSecond = float64(d.beacons) / wall.Seconds()
	if err := d.screen.last(&d.frame); err != nil {
		return err
	}
	v := d.values
	fmt.Fprintf(stdout, "%s in %.1f s: %s of the stream, %s covered in %s.\n", demoPlural(d.beacons, "record"), wall.Seconds(),
		demoPlural(v.rows, "row"), demoPlural(int64(len(v.covered)), "window"), demoPlural(v.generations(), "run")+" of the batch")
	if d.agreedAt > 0 {
		fmt.Fprintf(stdout, "The first covered minutes agreed after %.1f s.\n", d.agreedAt.Seconds())
	}
	if v.byLate > 0 {
		fmt.Fprintf(stdout, "%s, which the stream leaves to the batch: with them %s of the batch differ from the stream's.\n",
			demoPlural(v.late, "late beacon"), demoPlural(v.byLate, "row"))
	}
	if v.differ > 0 {
		fmt.Fprintf(stdout, "The layers do NOT agree: without late beacons %s differ, as\n", demoPlural(v.differ, "row"))
		for _, line := range v.examples {
			fmt.Fprintln(stdout, "  "+line)
		}
	} else {
		fmt.Fprintf(stdout, "The layers agree: without late beacons all %s are equal.\n", demoPlural(v.rows, "row"))
	}
	if d.opt.dir != "" {
		fmt.Fprintf(stdout, "Archive and store are in %s.\n", d.opt.dir)
	}
	return nil
}
