package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/site"
	archived "tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/stream/archive"
)

const batchUsage = `usage: tandem batch --site SITE.yaml [--parallel N] [--once] [--reparse] [--wait 4m]
       tandem batch plan --site SITE.yaml [--from MINUTE --to MINUTE] [--ranges N] [--parts N] [--reparse] [--json]
       tandem batch map --site SITE.yaml [--parallel N] TASK...
       tandem batch reduce --site SITE.yaml WINDOW...
       tandem batch collect --site SITE.yaml [--dry-run]

Recomputes windows of 30 minutes from the archive: finds what is due for every tenant of the site and does it, until nothing
is due. Beacons that come after their window was covered wait for a pass at the next multiple of late_every of the site file (24h
if absent) by the time of the archive; tandem report shows them. For cron: a lease keeps a second run waiting, which gives up after --wait and exits 0; one that meets no store fails after --wait. Killed at any moment, the next
run goes on where it was, after a minute at most, which --wait must be longer than. A store in a folder is one process's at a time: there a second run fails at once. Kafka is not needed. Each plan leaves a report (tandem report).

--reparse is for a change of the parser: what is due is computed from the raw payloads, not from what the archiver made of them.
It makes nothing due.

For a scheduler the same in three steps. plan claims what is due and prints its tasks, a line each: map TASK and reduce WINDOW;
nothing, if nothing is due. With --from and --to it claims what tandem backfill would do; windows after it that come to other state
are the next plan. map runs a share of the hash ranges of a plan; shares may run at once, anywhere, in any order and
again, and need the blobs only; a plan that another config or release has made is refused. reduce, after all maps of the plan, writes a window to the store; windows one after another,
in the order of the plan. collect, at any time, deletes what earlier generations made, rows included, and the state runs and tables
of windows more than a session_ttl before the event files that tandem archive retire has left, an hour after it first saw that
nothing needs them any more; tandem batch does so at its end. --dry-run only says what there is of both, waiting or not. Where only a number tells tasks apart, as in a Kubernetes indexed job, TASK may be I/N, share I (from
0) of N of each tenant's newest plan; and WINDOW may be all: those of the newest plans.

example:
  */5 * * * *  tandem batch --site site.yaml
  tandem batch plan --site site.yaml --parts 8 > tasks
  grep ^map tasks | cut -d' ' -f2 | xargs -r -P 8 -n 1 tandem batch map --site site.yaml --parallel 1
  grep ^reduce tasks | cut -d' ' -f2 | xargs -r tandem batch reduce --site site.yaml
  tandem batch plan --site site.yaml --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z --parts 100 > tasks

`

// batchJob is what all steps of the batch share.
type batchJob struct {
	site     *site.Site
	blobs    blob.Store
	store    store.Store // within withStore
	parallel int
	ranges   int
	reparse  bool
	throttle int           // batch.Job.Throttle
	patience time.Duration // with a store that does not answer when it is opened; 0: any
	log      *slog.Logger
	bar      *bar
}

// runBatch is `tandem batch`.
func runBatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("batch", flag.ContinueOnError)
	b := &batchJob{log: slog.New(slog.NewTextHandler(stderr, nil)), bar: &bar{out: stderr, shown: terminal(stderr)}}
	file := flags.String("site", "", "site `file`; required")
	flags.IntVar(&b.parallel, "parallel", 0, "tasks at once in this process, 1 to 1024; 0: one a core")
	flags.IntVar(&b.ranges, "ranges", 0, "hash ranges of a new plan, 1 to 64; 0: by what there is to do")
	flags.BoolVar(&b.reparse, "reparse", false, "a new plan parses every payload again; one that was begun goes on only if it does too")
	once := flags.Bool("once", false, "at most one plan of each tenant, though more may be due after it")
	wait := flags.Duration("wait", 4*time.Minute, "how long to wait for another run to end, or for the store to answer at all, 0s to 24h")
	parts := flags.Int("parts", 8, "map tasks to print for a plan, 1 to 64")
	asJSON := flags.Bool("json", false, "print plans as JSON")
	from, to := minuteFlag{-1}, minuteFlag{-1}
	flags.Var(&from, "from", "first `minute` of a backfill to plan, as 2026-01-01T00:00:00Z")
	flags.Var(&to, "to", "`minute` after its last")
	dry := flags.Bool("dry-run", false, "collect only says what would be deleted")
	rest, code, over := parse(flags, batchUsage, args, stderr)
	step := ""
	if len(rest) > 0 {
		step, rest = rest[0], rest[1:]
	}
	tasks := step == "map" || step == "reduce"
	switch {
	case over:
		return code
	case *file == "":
		return wrongUsage(stderr, "batch", "--site is needed")
	case step != "" && step != "plan" && step != "collect" && !tasks:
		return wrongUsage(stderr, "batch", "%q is none of plan, map, reduce and collect", step)
	case tasks && len(rest) == 0:
		return wrongUsage(stderr, "batch", "%s needs a task; tandem batch plan prints them", step)
	case !tasks && len(rest) > 0:
		return wrongUsage(stderr, "batch", "unexpected argument %q", rest[0])
	case (from.minute >= 0 || to.minute >= 0) && (step != "plan" || from.minute < 0 || to.minute <= from.minute):
		return wrongUsage(stderr, "batch", "--from and a later --to go together, and are for batch plan; see tandem backfill")
	case *dry && step != "collect":
		return wrongUsage(stderr, "batch", "--dry-run is for batch collect")
	case b.parallel < 0 || b.parallel > 1024:
		return wrongUsage(stderr, "batch", "--parallel %d is not in 0 to 1024", b.parallel)
	case b.ranges < 0 || b.ranges > batch.Buckets:
		return wrongUsage(stderr, "batch", "--ranges %d is not in 0 to %d", b.ranges, batch.Buckets)
	case *parts < 1 || *parts > batch.Buckets:
		return wrongUsage(stderr, "batch", "--parts %d is not in 1 to %d", *parts, batch.Buckets)
	case *wait < 0 || *wait > 24*time.Hour:
		return wrongUsage(stderr, "batch", "--wait %s is not in 0s to 24h", *wait)
	}
	err := b.open(*file)
	if err == nil {
		switch step {
		case "":
			err = b.run(ctx, *once, *wait)
		case "plan":
			var ask *batch.Backfill
			if from.minute >= 0 {
				own := backfillOf(from, to)
				own.Reparse, ask = b.reparse, &own
			}
			err = b.plan(ctx, stdout, ask, *parts, *asJSON)
		case "map":
			err = b.mapTasks(ctx, rest)
		case "reduce":
			err = b.reduceWindows(ctx, rest)
		case "collect":
			err = b.withStore(ctx, func(j *batch.Job) error {
				if *dry {
					return removable(ctx, j, stdout)
				}
				return b.collect(ctx, j)
			})
		}
	}
	b.bar.clear()
	if err != nil {
		return failed(stderr, "batch", err)
	}
	return 0
}

// What a batch holds at once is little against what it makes and drops: by itself the heap would grow to twice that. The
// limit is soft, so a config with many more cells than most costs time, not the process; but a task that holds pieces of hundreds of
// files must be allowed these. GOMEMLIMIT overrides it.
const (
	batchMemory = 136 << 20
	taskMemory  = 96 << 20 // for each task at once, as long as its files take no more than half of it
)

// limitMemory limits the heap, of tasks that hold so many bytes of files each.
func (b *batchJob) limitMemory(held int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		n := b.parallel
		if n == 0 {
			n = runtime.GOMAXPROCS(0)
		}
		debug.SetMemoryLimit(batchMemory + int64(n)*(taskMemory+max(held-taskMemory/2, 0)))
	}
}

func (b *batchJob) open(file string) (err error) {
	b.limitMemory(0)
	b.site, b.blobs, err = site.Open(file)
	return err
}

// only leaves one tenant of the site, or all if the name is empty.
func (b *batchJob) only(name string) error {
	if name == "" {
		return nil
	}
	b.site.Tenants = slices.DeleteFunc(b.site.Tenants, func(t site.Tenant) bool { return t.Chain.Tenant != name })
	if len(b.site.Tenants) == 0 {
		return fmt.Errorf("the site has no tenant %q", name)
	}
	return nil
}

// job is the batch of a tenant. Which topics its archive is of, the archive says itself.
func (b *batchJob) job(t *site.Tenant) (*batch.Job, error) {
	j := &batch.Job{Chain: t.Spliced, Blobs: b.blobs, Digest: archive.ParseDigest, Parallel: b.parallel, Ranges: b.ranges, Reparse: b.reparse,
		Parser: archive.ParserVersion, Throttle: b.throttle, Step: b.bar.step, Holds: b.limitMemory, LateEvery: b.site.LateEvery}
	for g := range t.Groups {
		topic := batch.Topic{Name: b.site.BeaconsTopic(t.Chain.Tenant, g), Partitions: t.Partitions}
		known, err := archived.ReadPartitions(b.blobs, topic.Name)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
		topic.ID = known.TopicID // none: nobody archives it yet, and nothing is due
		j.Topics = append(j.Topics, topic)
	}
	brought, err := batch.ReadFromRaw(b.blobs, t.Chain.Tenant)
	for i := range brought {
		j.Topics = append(j.Topics, brought[i].Batched())
	}
	return j, err
}

// renew has a job go by the tenant's chains as they are when it asks, live by the one without splices.
func (b *batchJob) renew(j *batch.Job, live **tenant.Chain) {
	t := b.site.TenantNamed(j.Chain.Tenant)
	j.Renew = func() error {
		err := t.Grow(b.blobs)
		j.Chain, *live = t.Spliced, t.Chain
		return err
	}
}

// withStore calls fn with the job of each tenant, one after another.
func (b *batchJob) withStore(ctx context.Context, fn func(*batch.Job) error) error {
	opening, opened := ctx, func() {}
	if b.patience > 0 {
		opening, opened = context.WithTimeout(ctx, b.patience)
	}
	st, err := b.site.OpenStore(opening)
	opened()
	if err != nil {
		return err
	}
	b.store = st
	for i := range b.site.Tenants {
		var j *batch.Job
		if j, err = b.job(&b.site.Tenants[i]); err == nil {
			j.Store = st
			err = fn(j)
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, st.Close())
}

// holder says for people who holds a lease.
func holder() string {
	host, _ := os.Hostname() // for people only
	return fmt.Sprintf("process %d on %s", os.Getpid(), host)
}

// leastPatience is for a store that is there and takes its time.
const leastPatience = 10 * time.Second

// run does what is due. Before it has the lease, nothing keeps it longer than wait: cron starts the next one regardless.
func (b *batchJob) run(ctx context.Context, once bool, wait time.Duration) error {
	b.patience = max(wait, leastPatience)
	return b.withStore(ctx, func(j *batch.Job) (err error) {
		log := b.log.With("tenant", j.Chain.Tenant)
		release, other, ok, err := j.Lease(holder()).Take(ctx, wait)
		if err != nil {
			return err
		}
		if !ok {
			b.bar.clear()
			log.Info("another run is at it; one that was killed is taken over by a --wait of more than a minute", "holder", other, "waited", wait)
			return nil
		}
		defer func() { err = errors.Join(err, release()) }()
		b.renew(j, new(*tenant.Chain))
		b.logWindows(j, log)
		if err := paceOf(j, batchPortion); err != nil {
			return err
		}
		for {
			r, err := j.RunOnce(ctx)
			if err != nil {
				return err
			}
			b.bar.clear()
			if r != nil {
				log.Info("plan", reportFields(r)...)
				for _, a := range r.Again {
					log.Info("ran again", "generation", r.Generation, "range", againText(&a))
				}
			}
			if r == nil || once {
				return errors.Join(waiting(ctx, j, log), b.collect(ctx, j))
			}
		}
	})
}

// waiting tells what waits for the late pass, and what the batch leaves to a backfill.
func waiting(ctx context.Context, j *batch.Job, log *slog.Logger) error {
	w, left, err := j.Waiting(ctx)
	if w.Windows > 0 {
		log.Info("late", "beacons", w.Beacons, "windows", w.Windows, "since", timeText(w.Since/1000*1000), "pass", timeText(w.Due/1000*1000))
	}
	if len(w.Unknown) > 0 {
		log.Warn("nothing is due before the archive knows how far these are: does tandem archive run for them?", "partitions", strings.Join(w.Unknown, " "))
	}
	if left.Windows > 0 {
		log.Warn("covered under other revisions of the config: they wait for tandem backfill", "windows", left.Windows, "from", timeText(left.First), "to", timeText(left.Last+batch.WindowMS))
	}
	return err
}

// collect deletes what no generation that stands needs.
func (b *batchJob) collect(ctx context.Context, j *batch.Job) error {
	c, err := j.Collect(ctx, b.store, func() int64 { return time.Now().UnixMilli() })
	if err == nil && (c.Deleted > 0 || c.Waiting > 0 || c.Plans > 0) {
		b.log.Info("collected", "tenant", j.Chain.Tenant, "windows", c.Deleted, "objects", c.Objects, "plans", c.Plans, "waiting", c.Waiting)
	}
	return err
}

// removable prints what collect would delete.
func removable(ctx context.Context, j *batch.Job, stdout io.Writer) error {
	replaced, old, err := j.Removable(ctx)
	if err != nil {
		return err
	}
	say := func(what string, r batch.Removable) {
		fmt.Fprintf(stdout, "tenant %s: %s of %d bytes, of %s %s, would be deleted\n", j.Chain.Tenant, count(r.Objects, "object"), r.Bytes, count(r.Windows, "window"), what)
	}
	say("that newer coverage has replaced", replaced)
	say("behind the retention", old)
	return nil
}

// logWindows logs each window that is covered, where no bar is shown.
func (b *batchJob) logWindows(j *batch.Job, log *slog.Logger) {
	if !b.bar.shown {
		j.Done = func(c *batch.Covered) {
			log.Info("window", "start", timeText(c.Window), "generation", c.Generation, "beacons", c.Counts.Records, "rows", c.Rows, "late", c.Counts.Late)
		}
	}
}

// Plans of windows that were covered before take about so long, so that new windows do not wait for them.
const (
	batchPortion    = 5 * time.Minute
	backfillPortion = 2 * time.Minute
	leastPortion    = 100_000 // records
)

// paceOf sets how large a plan of windows that were covered before is, by the speed of the last runs.
func paceOf(j *batch.Job, about time.Duration) error {
	speed, err := j.Speed()
	if err != nil {
		return err
	}
	if j.Throttle > 0 {
		speed = speed * float64(j.Throttle) / 100
	}
	j.Portion = max(int64(speed*about.Seconds()), leastPortion)
	return nil
}

// planned is a plan as `batch plan --json` prints it.
type planned struct {
	Tenant     string          `json:"tenant"`
	Generation int64           `json:"generation"`
	Ranges     int             `json:"ranges"`
	Windows    []plannedWindow `json:"windows"`
	Maps       []string        `json:"maps"`    // tasks of batch map: in any order, at once
	Reduces    []string        `json:"reduces"` // of batch reduce: after all maps, in this order
}

type plannedWindow struct {
	Start   string `json:"start"`
	Records int64  `json:"records"` // in the archive
	Runs    int    `json:"runs"`    // earlier state runs that it reads
}

// plan claims what is due, or what is left of a backfill.
func (b *batchJob) plan(ctx context.Context, stdout io.Writer, ask *batch.Backfill, parts int, asJSON bool) error {
	plans := []planned{}
	err := b.withStore(ctx, func(j *batch.Job) error {
		claim, own := j.Plan, batch.Backfill{}
		if ask != nil {
			own = *ask
			claim = func(ctx context.Context) (*batch.Plan, batch.Archive, error) { return j.PlanBackfill(ctx, &own) }
		}
		b.renew(j, &own.Live)
		p, a, err := claim(ctx)
		if err != nil || p == nil {
			return err
		}
		out := planned{Tenant: p.Tenant, Generation: p.Generation, Ranges: len(p.Bounds)}
		for i := range min(parts, len(p.Bounds)) {
			out.Maps = append(out.Maps, fmt.Sprintf("%s:%d:%d/%d", p.Tenant, p.Generation, i, min(parts, len(p.Bounds))))
		}
		for _, w := range p.Windows {
			out.Windows = append(out.Windows, plannedWindow{timeText(w.Window), a.Records[w.Window], len(w.Before)})
			out.Reduces = append(out.Reduces, fmt.Sprintf("%s:%d:%s", p.Tenant, p.Generation, timeText(w.Window)))
		}
		plans = append(plans, out)
		return nil
	})
	if err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"plans": plans})
	}
	for _, p := range plans {
		for _, m := range p.Maps {
			fmt.Fprintln(stdout, "map", m)
		}
		for _, r := range p.Reduces {
			fmt.Fprintln(stdout, "reduce", r)
		}
	}
	return nil
}

// task is a task as plan prints it.
type task struct {
	tenant     string // empty: every one
	generation int64  // 0: the newest
	what       string
}

func parseTask(text string) (task, error) {
	f := strings.SplitN(text, ":", 3)
	if _, err := time.Parse(time.RFC3339, text); err == nil || len(f) == 1 {
		return task{what: text}, nil
	}
	if len(f) == 3 {
		if g, err := strconv.ParseInt(f[1], 10, 64); err == nil && g > 0 && f[0] != "" {
			return task{f[0], g, f[2]}, nil
		}
	}
	return task{}, fmt.Errorf("task %q is not as tandem batch plan prints them", text)
}

// eachPlan calls fn with the plan of each tenant that the task means. Those without one have nothing to do.
func (t *task) eachPlan(jobs []*batch.Job, fn func(*batch.Job, *batch.Plan) error) error {
	found := false
	for _, j := range jobs {
		if t.tenant != "" && t.tenant != j.Chain.Tenant {
			continue
		}
		found = true
		p, err := j.Standing()
		if t.generation > 0 {
			p, err = j.ReadPlan(t.generation)
		}
		if err == nil && p != nil {
			err = fn(j, p)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("the site has no tenant %q", t.tenant)
	}
	return nil
}

// part reads I/N.
func (t *task) part() (i, n int, err error) {
	a, b, ok := strings.Cut(t.what, "/")
	if ok {
		i, err = strconv.Atoi(a)
	}
	if ok && err == nil {
		n, err = strconv.Atoi(b)
	}
	if !ok || err != nil || i < 0 || i >= n {
		return 0, 0, fmt.Errorf("map task %q is no share I/N with I from 0 to N-1", t.what)
	}
	return i, n, nil
}

func (b *batchJob) mapTasks(ctx context.Context, args []string) error {
	var jobs []*batch.Job
	for i := range b.site.Tenants {
		j, err := b.job(&b.site.Tenants[i])
		if err != nil {
			return err
		}
		jobs = append(jobs, j)
	}
	for _, arg := range args {
		t, err := parseTask(arg)
		if err != nil {
			return err
		}
		part, of, err := t.part()
		if err != nil {
			return err
		}
		err = t.eachPlan(jobs, func(j *batch.Job, p *batch.Plan) error {
			a, err := j.Archived()
			if err != nil {
				return err
			}
			return j.MapPart(ctx, p, a, part, of)
		})
		if err != nil {
			return fmt.Errorf("map %s: %w", arg, err)
		}
		b.bar.clear()
		b.log.Info("mapped", "task", arg)
	}
	return nil
}

func (b *batchJob) reduceWindows(ctx context.Context, args []string) error {
	var tasks []task
	for _, arg := range args {
		t, err := parseTask(arg)
		if err != nil {
			return err
		}
		if t.tenant != "" && b.site.TenantNamed(t.tenant) == nil {
			return fmt.Errorf("reduce %s: the site has no tenant %q", arg, t.tenant)
		}
		tasks = append(tasks, t)
	}
	return b.withStore(ctx, func(j *batch.Job) error {
		for _, t := range tasks {
			if t.tenant != "" && t.tenant != j.Chain.Tenant {
				continue
			}
			err := t.eachPlan([]*batch.Job{j}, func(j *batch.Job, p *batch.Plan) error {
				return b.reduce(ctx, j, p, t.what)
			})
			if err != nil {
				return fmt.Errorf("reduce %s: %w", t.what, err)
			}
		}
		return nil
	})
}

// reduce covers one window of a plan, or all.
func (b *batchJob) reduce(ctx context.Context, j *batch.Job, p *batch.Plan, what string) error {
	var windows []int64
	for _, w := range p.Windows {
		if what == "all" || what == timeText(w.Window) {
			windows = append(windows, w.Window)
		}
	}
	if len(windows) == 0 {
		return fmt.Errorf("plan %d of %s has no such window", p.Generation, p.Tenant)
	}
	for _, w := range windows {
		if err := j.ReduceWindow(ctx, p, w); err != nil {
			return err
		}
		b.bar.clear()
		b.log.Info("covered", "tenant", p.Tenant, "generation", p.Generation, "window", timeText(w))
	}
	return nil
}

func timeText(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// bar shows on a terminal how far a plan is, and nothing elsewhere.
type bar struct {
	out        io.Writer
	shown      bool
	generation int64
	began      time.Time
	last       time.Time
}

const barWidth = 30

func (b *bar) step(s batch.Step) {
	now := time.Now()
	if s.Generation != b.generation {
		b.generation, b.began = s.Generation, now
	}
	if !b.shown || now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.last = now
	done, all := s.Tasks+s.Windows, s.AllTasks+s.AllWindows
	full := barWidth * done / max(all, 1)
	fmt.Fprintf(b.out, "\r\x1b[K%s, plan %d [%s%s] %d of %d windows, %d beacons", s.Tenant, s.Generation,
		strings.Repeat("#", full), strings.Repeat(".", barWidth-full), s.Windows, s.AllWindows, s.Records)
	if took := now.Sub(b.began); took >= time.Second && done > 0 {
		fmt.Fprintf(b.out, ", %.0f/s, %s left", float64(s.Records)/took.Seconds(), (took * time.Duration(all-done) / time.Duration(done)).Round(time.Second))
	}
}

func (b *bar) clear() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}
