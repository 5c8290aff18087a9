package batch

import (
	"context"
	"errors"
	"fmt"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/staterun"
	"tandem/schemas/store"
)

// Map runs one hash range of one window of a plan, after those before it that the plan names, and returns its counts. It is
// idempotent: what is there already is left.
func (j *Job) Map(ctx context.Context, p *Plan, window, r int, a Archive, files *openFiles) (Counts, error) {
	w := &p.Windows[window]
	if err := ctx.Err(); err != nil {
		return Counts{}, err
	}
	if res, err := j.checkResult(p.Generation, w.Window, r); err == nil {
		return res.Counts, nil
	} else if !errors.Is(err, blob.ErrNotFound) {
		return Counts{}, err
	}
	lo, hi := uint64(p.Bounds[r]), last(p.Bounds, r)
	in, release, err := files.beacons(w, a, lo, hi, archive.Columns{Event: !p.Reparse, Payload: p.Reparse})
	if err != nil {
		return Counts{}, err
	}
	defer release()
	st, closeRuns, err := j.states(w, r, files, lo, hi)
	if err != nil {
		return Counts{}, err
	}
	defer closeRuns()
	out := &runWriter{job: j, generation: p.Generation, window: w.Window, r: r, w: files.takeWritten()}
	sums, g := files.sumsFor(w.Window, a.Records[w.Window])
	m := newMapper(j.Chain, w.Window, j.Digest, sums, out)
	m.onTime, m.reparse, m.unknown = j.OnTime, p.Reparse, w.Unknown
	pace := j.pace()
	m.rest = func() error { return pace.rest(ctx) }
	if err := m.join(in, st); err != nil {
		return Counts{}, err
	}
	if err := out.end(); err != nil {
		return Counts{}, err
	}
	files.giveWritten(out.w)
	k := runKey{p.Generation, w.Window, r}
	res := result{Revisions: w.Revisions, Run: out.files, Digests: m.digests, Counts: m.counts}
	if g == nil || !files.added(g, k, &res) {
		data, err := j.encodeResult(&res, sums)
		if err != nil {
			return Counts{}, err
		}
		files.giveSums(sums)
		if err := j.Blobs.Create(j.outName(p.Generation, w.Window, r, "sums"), data); err != nil && !errors.Is(err, blob.ErrExists) {
			return Counts{}, fmt.Errorf("sums: %w", err)
		}
	}
	files.made(k, &stateRun{Revisions: w.Revisions, Files: out.files})
	return m.counts, errors.Join(ctx.Err(), pace.rest(ctx))
}

// runBytes is how large a file of a run gets, about: what a map holds of its run.
const runBytes = 8 << 20

// runWriter keeps the run of a range, in as many files as it takes.
type runWriter struct {
	job                *Job
	generation, window int64
	r                  int
	w                  *staterun.Writer
	files              []staterun.RunInfo
	next               int // number of the name to try next
}

func (o *runWriter) Add(hash uint64, session []byte, firstTS, lastTS, due int64, state []byte, about *staterun.About) error {
	if o.w.Size() >= runBytes {
		if err := o.end(); err != nil {
			return err
		}
	}
	return o.w.Add(hash, session, firstTS, lastTS, due, state, about)
}

// name is that of the n-th file.
func (o *runWriter) name(n int) string {
	ext := "parquet"
	if n > 0 {
		ext = fmt.Sprintf("%d.parquet", n)
	}
	return o.job.outName(o.generation, o.window, o.r, ext)
}

// end keeps the file at hand, if it has rows.
func (o *runWriter) end() error {
	if o.w.Rows() == 0 {
		return nil
	}
	data, info, err := o.w.Finish()
	if err != nil {
		return fmt.Errorf("window %d: %w", o.window, err)
	}
	// Other bytes under a name are of a map that was stopped, and of another release: no result names them, and they go with
	// the generation.
	if info.Name, o.next, err = blob.CreateFree(o.job.Blobs, o.name, o.next, data); err != nil {
		return fmt.Errorf("state run: %w", err)
	}
	o.files = append(o.files, info)
	o.w.Reset()
	return nil
}

func (j *Job) cells(group int) int { return len(j.Chain.Groups[group].Names) }

func (j *Job) cellsOf(group int) (int, bool) {
	if group >= len(j.Chain.Groups) {
		return 0, false
	}
	return j.cells(group), true
}

// stateRun is what reduce says of the run of a window in one object, so that nobody has to look at each of its ranges: its
// files, by hash range.
type stateRun struct {
	Revisions []uint64
	Files     []staterun.RunInfo
	Digest    Digest `json:"Digests"`
}

// states opens the runs before the window that its plan names: of those of the plan itself only the same range.
func (j *Job) states(w *WindowPlan, r int, o *openFiles, lo, hi uint64) (states, func(), error) {
	var runs []*staterun.Iter
	closeAll := func() {
		for _, r := range runs {
			r.Close()
		}
	}
	for _, b := range w.Before {
		k := runKey{b.Generation, b.Window, wholeRun}
		if !b.Digest.known {
			k.r = r
		}
		run, err := o.run(k)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		for _, f := range run.Files {
			if f.Rows == 0 || f.MaxHash < lo || f.MinHash > hi {
				continue
			}
			r, err := j.Blobs.Open(f.Name)
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("state run %s: %w", f.Name, err)
			}
			it, err := staterun.Open(r, f, lo, hi)
			if err != nil {
				closeAll()
				return nil, nil, err
			}
			runs = append(runs, it)
		}
	}
	return newNewest(runs), closeAll, nil
}

// Reduce adds the ranges of a window, says what its run is, writes its rows and rollups, then its coverage. The windows
// before it whose runs it read must be reduced.
func (j *Job) Reduce(ctx context.Context, p *Plan, window int, files *openFiles) (*Covered, error) {
	w := &p.Windows[window]
	c := &Covered{Window: w.Window, Generation: p.Generation,
		Inputs: Inputs{Spans: w.Spans, Revisions: w.Revisions, Edges: w.Edges},
		Run:    RunRef{Window: w.Window, Generation: p.Generation},
		Fold:   p.Fold, Parser: p.Parser, Reparsed: p.Reparse}
	pace := j.pace()
	results, closeResults, err := j.openResults(ctx, p, w, files)
	if err != nil {
		return nil, err
	}
	defer closeResults()
	buckets := make([]uint64, Buckets)
	for _, res := range results {
		for b, d := range res.Digests {
			buckets[b] += d
		}
		c.Files = append(c.Files, res.Run...)
		c.Counts.add(&res.Counts)
	}
	c.Run.Digest = digestOf(buckets)
	if w.Window < w.Unknown || c.Counts.Uncertain > 0 {
		c.Unknown = w.Unknown
	}
	for _, b := range w.Before {
		if !b.Digest.known {
			run, err := files.run(runKey{b.Generation, b.Window, wholeRun})
			if err != nil {
				return nil, err
			}
			b.Digest = run.Digest
		}
		if !b.Digest.empty() {
			c.Inputs.Runs = append(c.Inputs.Runs, b)
		}
	}
	run := &stateRun{Revisions: w.Revisions, Files: c.Files, Digest: c.Run.Digest}
	if err := j.keepRun(p.Generation, w.Window, run); err != nil {
		return nil, err
	}
	files.made(runKey{p.Generation, w.Window, wholeRun}, run)
	if err := j.write(ctx, c, results, files, pace); err != nil {
		return nil, err
	}
	data, err := sealed.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("coverage: %w", err)
	}
	if err := j.Store.PutCoverage(ctx, store.Coverage{Tenant: p.Tenant, Window: w.Window / 60000, Generation: p.Generation, Data: data}); err != nil {
		return nil, fmt.Errorf("write coverage: %w", err)
	}
	return c, nil
}

func (j *Job) runName(g, window int64) string { return j.outFolder(g, window) + "run.json" }

func (j *Job) keepRun(g, window int64, run *stateRun) error {
	data, err := sealed.Marshal(run)
	if err != nil {
		return fmt.Errorf("state run: %w", err)
	}
	if err := j.Blobs.Create(j.runName(g, window), data); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("state run: %w", err)
	}
	return nil
}

// readRun reads what reduce, or with a range map, says of the run of a window. Of a range whose result is not there, since
// the process that mapped it had it in memory, it is what reduce says.
func (j *Job) readRun(k runKey) (*stateRun, error) {
	if k.r != wholeRun {
		res, err := j.openResult(k.generation, k.window, k.r)
		if err == nil {
			if err := res.close(); err != nil {
				return nil, fmt.Errorf("map result %s: %w", res.name, err)
			}
			return &stateRun{Revisions: res.Revisions, Files: res.Run}, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
	}
	name := j.runName(k.generation, k.window)
	data, err := j.Blobs.Get(name)
	if err != nil {
		return nil, fmt.Errorf("state run: %w", err)
	}
	run := &stateRun{}
	if _, err := sealed.Unmarshal(data, run); err != nil {
		return nil, fmt.Errorf("state run %s: %w: %w", name, ErrCorrupt, err)
	}
	return run, nil
}
