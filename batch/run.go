package batch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/staterun"
	"tandem/schemas/store"
)

// Store is the part of the metric store that the batch writes to.
type Store interface {
	PutRows(ctx context.Context, rows []store.Row) error
	PutRollups(ctx context.Context, rows []store.Row) error
	PutCoverage(ctx context.Context, c store.Coverage) error
	Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error
}

// Job is the batch of one tenant.
type Job struct {
	Chain  *tenant.Chain
	Topics []Topic
	Blobs  blob.Store
	Store  Store
	Digest ParseDigest
	Ranges int // hash ranges of a window, 1 to Buckets; they run side by side
	// OnTime leaves out records that are late, as the stream does (SPEC 8): what the stream must come to. Its plans and
	// runs have a folder of their own; Store must be another than that of the batch proper.
	OnTime bool
	// Done, if set, is told of each window that is covered.
	Done func(*Covered)
}

// Layer is the layer of a generation.
func Layer(generation int64) string { return fmt.Sprintf("batch.%d", generation) }

// Run runs what is due until nothing is. It may be ended anywhere, and started again.
func (j *Job) Run(ctx context.Context) error {
	for {
		p, a, err := j.Plan(ctx)
		if err != nil || p == nil {
			return err
		}
		if err := j.run(ctx, p, a); err != nil {
			return err
		}
	}
}

// Plan claims a generation for the windows that are due; nil if there are none.
func (j *Job) Plan(ctx context.Context) (*Plan, Archive, error) {
	if j.Ranges < 1 || j.Ranges > Buckets {
		return nil, Archive{}, fmt.Errorf("batch of %s: %d hash ranges, want 1 to %d", j.Chain.Tenant, j.Ranges, Buckets)
	}
	chains := map[string][]archive.Manifest{}
	for _, t := range j.Topics {
		known, err := archive.ReadPartitions(j.Blobs, t.Name)
		if errors.Is(err, blob.ErrNotFound) {
			return nil, Archive{}, nil // nobody archives it yet
		}
		if err != nil {
			return nil, Archive{}, err
		}
		if known.TopicID != t.ID || known.Count != t.Partitions {
			return nil, Archive{}, fmt.Errorf("batch of %s: the archive of %s is of topic %s with %d partitions, not of %s with %d",
				j.Chain.Tenant, t.Name, known.TopicID, known.Count, t.ID, t.Partitions)
		}
		for p := range t.Partitions {
			c, err := archive.Chain(j.Blobs, t.Name, p)
			if err != nil {
				return nil, Archive{}, err
			}
			chains[sourceName(t.Name, p)] = c
		}
	}
	a := ReadArchive(chains)
	covered, err := j.Covered(ctx)
	if err != nil {
		return nil, a, err
	}
	windows := Due(j.Chain, a, covered)
	if len(windows) == 0 {
		return nil, a, nil
	}
	p, err := j.claim(windows)
	return p, a, err
}

// Covered returns the standing coverage of every window.
func (j *Job) Covered(ctx context.Context) (map[int64]*Covered, error) {
	covered := map[int64]*Covered{}
	err := j.Store.Coverage(ctx, j.Chain.Tenant, 0, store.MaxMinute, func(c store.Coverage) error {
		var d Covered
		_, err := sealed.Unmarshal(c.Data, &d)
		if err == nil && (d.Window != c.Window*60000 || d.Generation != c.Generation) {
			err = fmt.Errorf("it is that of window %d, generation %d", d.Window/60000, d.Generation)
		}
		if err != nil {
			return fmt.Errorf("coverage of %s, window %d, generation %d: %w: %w", j.Chain.Tenant, c.Window, c.Generation, ErrCorrupt, err)
		}
		covered[d.Window] = &d
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	return covered, nil
}

// claim takes the next generation: one create-only object that holds the plan.
func (j *Job) claim(windows []WindowPlan) (*Plan, error) {
	for {
		names, err := j.Blobs.List(j.folder() + "plans/")
		if err != nil {
			return nil, fmt.Errorf("list plans: %w", err)
		}
		g := int64(1)
		if n := len(names); n > 0 {
			if _, err := fmt.Sscanf(strings.TrimPrefix(names[n-1], j.folder()+"plans/"), "%d.json", &g); err != nil {
				return nil, fmt.Errorf("plan %s: not a plan's name", names[n-1])
			}
			g++
		}
		p := &Plan{Tenant: j.Chain.Tenant, Generation: g, Ranges: j.Ranges, Windows: windows}
		for i := range p.Windows {
			for k := range p.Windows[i].Before {
				if b := &p.Windows[i].Before[k]; b.Digests == nil {
					b.Generation, b.Ranges = g, j.Ranges
				}
			}
		}
		data, err := sealed.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		err = j.Blobs.Create(fmt.Sprintf("%splans/%012d.json", j.folder(), g), data)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, blob.ErrExists) {
			return nil, fmt.Errorf("claim generation %d: %w", g, err)
		}
	}
}

func (j *Job) folder() string {
	if j.OnTime {
		return "batch-ontime/" + j.Chain.Tenant + "/"
	}
	return "batch/" + j.Chain.Tenant + "/"
}

func (j *Job) outName(g, window int64, i int, ext string) string {
	return fmt.Sprintf("%sout/%012d/%014d/%02d.%s", j.folder(), g, window, i, ext)
}

// run runs a plan: the ranges side by side, the windows of a range one after another, and each window's reduce once
// all of its ranges are there.
func (j *Job) run(ctx context.Context, p *Plan, a Archive) error {
	files := j.open()
	defer files.close()
	for i := range p.Windows {
		if err := j.mapWindow(ctx, p, i, a, files); err != nil {
			return err
		}
		c, err := j.Reduce(ctx, p, i, files)
		if err != nil {
			return err
		}
		if j.Done != nil {
			j.Done(c)
		}
	}
	return nil
}

// MapAll runs the map tasks of a plan, window by window, and nothing else.
func (j *Job) MapAll(ctx context.Context, p *Plan, a Archive) error {
	files := j.open()
	defer files.close()
	for i := range p.Windows {
		if err := j.mapWindow(ctx, p, i, a, files); err != nil {
			return err
		}
	}
	return nil
}

// mapWindow runs the ranges of a window side by side.
func (j *Job) mapWindow(ctx context.Context, p *Plan, i int, a Archive, files *openFiles) error {
	var wg sync.WaitGroup
	errs := make([]error, p.Ranges)
	for r := range p.Ranges {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[r] = j.Map(ctx, p, i, r, a, files)
		}()
	}
	wg.Wait()
	files.trim()
	return errors.Join(errs...)
}

// result is what a map task leaves beside its run: counts, digests, and the sums of its range.
type result struct {
	Revisions []uint64
	Run       staterun.RunInfo
	Digests   []uint64
	Counts    Counts
}

const resultMagic = "TDBR1\n"

// Map runs one hash range of one window of a plan. It is idempotent: what is there already is left.
func (j *Job) Map(ctx context.Context, p *Plan, window, r int, a Archive, files *openFiles) error {
	w := &p.Windows[window]
	if _, err := j.readResult(p.Generation, w.Window, r); err == nil {
		return nil
	} else if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	lo, hi, from, to := rangeOf(r, p.Ranges)
	in, err := files.beacons(w, a, lo, hi)
	if err != nil {
		return err
	}
	st, closeRuns, err := j.states(w, files, lo, hi)
	if err != nil {
		return err
	}
	defer closeRuns()
	m := newMapper(j.Chain, w.Window, j.Digest)
	m.onTime = j.OnTime
	if err := m.join(in, st); err != nil {
		return err
	}
	var info staterun.RunInfo
	if len(m.run) > 0 {
		var data []byte
		if data, info, err = staterun.Write(m.run); err != nil {
			return fmt.Errorf("window %d: %w", w.Window, err)
		}
		info.Name = j.outName(p.Generation, w.Window, r, "parquet")
		if err := j.Blobs.Create(info.Name, data); err != nil && !errors.Is(err, blob.ErrExists) {
			return fmt.Errorf("state run: %w", err)
		}
	}
	res := result{Revisions: w.Revisions, Run: info, Digests: digests(m.run, from, to), Counts: m.counts}
	data, err := j.encodeResult(&res, &m.sums)
	if err != nil {
		return err
	}
	if err := j.Blobs.Create(j.outName(p.Generation, w.Window, r, "sums"), data); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("sums: %w", err)
	}
	return ctx.Err()
}

// encodeResult: magic, 8 bytes xxhash64 of the rest, an S2 block of (uvarint length, JSON result, sums).
func (j *Job) encodeResult(res *result, sums *metric.Sums) ([]byte, error) {
	head, err := encode("map result", res)
	if err != nil {
		return nil, err
	}
	body := append(binary.AppendUvarint(nil, uint64(len(head))), head...)
	body = sums.AppendBinary(body, j.cells)
	if len(body) > maxResult {
		return nil, fmt.Errorf("map result: %d bytes, more than %d: use more ranges", len(body), maxResult)
	}
	b := append([]byte(resultMagic), make([]byte, 8)...)
	b = append(b, s2.Encode(nil, body)...)
	binary.LittleEndian.PutUint64(b[len(resultMagic):], xxhash.Sum64(b[len(resultMagic)+8:]))
	return b, nil
}

func (j *Job) cells(group int) int { return len(j.Chain.Groups[group].Names) }

// ErrCorrupt marks an object of the batch that is not what was written.
var ErrCorrupt = errors.New("object is corrupt")

type rangeResult struct {
	result
	sums []byte
}

// maxResult bounds what a map result may inflate to.
const maxResult = 2 << 30

func (j *Job) readResult(g, window int64, r int) (*rangeResult, error) {
	name := j.outName(g, window, r, "sums")
	b, err := j.Blobs.Get(name)
	if err != nil {
		return nil, fmt.Errorf("map result %s: %w", name, err)
	}
	n := len(resultMagic)
	if len(b) < n+8 || string(b[:n]) != resultMagic || xxhash.Sum64(b[n+8:]) != binary.LittleEndian.Uint64(b[n:]) {
		return nil, fmt.Errorf("map result %s: %w: digest differs", name, ErrCorrupt)
	}
	if size, err := s2.DecodedLen(b[n+8:]); err != nil || size > maxResult {
		return nil, fmt.Errorf("map result %s: %w: %d bytes", name, ErrCorrupt, size)
	}
	body, err := s2.Decode(nil, b[n+8:])
	if err != nil {
		return nil, fmt.Errorf("map result %s: %w: %v", name, ErrCorrupt, err)
	}
	size, k := binary.Uvarint(body)
	if k <= 0 || size > uint64(len(body)-k) {
		return nil, fmt.Errorf("map result %s: %w: header", name, ErrCorrupt)
	}
	res := &rangeResult{sums: body[k+int(size):]}
	if err := json.Unmarshal(body[k:k+int(size)], &res.result); err != nil {
		return nil, fmt.Errorf("map result %s: %w: %v", name, ErrCorrupt, err)
	}
	return res, nil
}

// states opens the runs before the window that its plan names.
func (j *Job) states(w *WindowPlan, o *openFiles, lo, hi uint64) (states, func(), error) {
	var runs []*staterun.Iter
	closeAll := func() {
		for _, r := range runs {
			r.Close()
		}
	}
	for _, b := range w.Before {
		files, err := o.run(b)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		for _, f := range files {
			if f.Rows == 0 || f.MaxHash < lo || f.MinHash > hi {
				continue
			}
			r, err := j.Blobs.Open(f.Name)
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("state run %s: %w: its plan is void", f.Name, err)
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

// Reduce adds the ranges of a window, writes its rows and rollups, then its coverage.
func (j *Job) Reduce(ctx context.Context, p *Plan, window int, files *openFiles) (*Covered, error) {
	w := &p.Windows[window]
	c := &Covered{Window: w.Window, Generation: p.Generation,
		Inputs: Inputs{Spans: w.Spans, Revisions: w.Revisions},
		Run:    RunRef{Window: w.Window, Generation: p.Generation, Ranges: p.Ranges, Digests: make(Digests, Buckets)}}
	var sums metric.Sums
	for r := range p.Ranges {
		res, err := j.readResult(p.Generation, w.Window, r)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(res.Revisions, w.Revisions) {
			return nil, fmt.Errorf("window %d, range %d was made under other revisions of the config", w.Window, r)
		}
		if err := sums.AddBinary(res.sums, j.cellsOf); err != nil {
			return nil, fmt.Errorf("map result %s: %w", j.outName(p.Generation, w.Window, r, "sums"), err)
		}
		_, _, from, to := rangeOf(r, p.Ranges)
		copy(c.Run.Digests[from:to], res.Digests)
		c.Files = append(c.Files, res.Run)
		c.Counts.add(&res.Counts)
	}
	for _, b := range w.Before {
		if b.Digests == nil {
			run, err := files.known(b)
			if err != nil {
				return nil, err
			}
			b.Digests = run.digests
		}
		if !b.Digests.empty() {
			c.Inputs.Runs = append(c.Inputs.Runs, b)
		}
	}
	if err := j.write(ctx, c, &sums); err != nil {
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

func (j *Job) cellsOf(group int) (int, bool) {
	if group >= len(j.Chain.Groups) {
		return 0, false
	}
	return j.cells(group), true
}
