package batch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"

	"tandem/core/metric"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/staterun"
	"tandem/schemas/store"
)

// result is what a map task leaves beside its run: counts, digests, and the sums of its range.
type result struct {
	Revisions []uint64
	Run       staterun.RunInfo
	Digests   []uint64 // of the range's part of each bucket
	Counts    Counts
}

const resultMagic = "TDBR1\n"

// Map runs one hash range of one window of a plan, after those before it that the plan names, and returns its counts. It is
// idempotent: what is there already is left.
func (j *Job) Map(ctx context.Context, p *Plan, window, r int, a Archive, files *openFiles) (Counts, error) {
	w := &p.Windows[window]
	if err := ctx.Err(); err != nil {
		return Counts{}, err
	}
	if res, err := j.readResult(p.Generation, w.Window, r); err == nil {
		return res.Counts, nil
	} else if !errors.Is(err, blob.ErrNotFound) {
		return Counts{}, err
	}
	lo, hi := uint64(p.Bounds[r]), last(p.Bounds, r)
	in, release, err := files.beacons(w, a, lo, hi)
	if err != nil {
		return Counts{}, err
	}
	defer release()
	st, closeRuns, err := j.states(w, r, files, lo, hi)
	if err != nil {
		return Counts{}, err
	}
	defer closeRuns()
	m := newMapper(j.Chain, w.Window, j.Digest)
	m.onTime, m.reparse, m.unknown = j.OnTime, p.Reparse, w.Unknown
	pace := j.pace()
	m.rest = func() error { return pace.rest(ctx) }
	if err := m.join(in, st); err != nil {
		return Counts{}, err
	}
	var info staterun.RunInfo
	if len(m.run) > 0 {
		var data []byte
		if data, info, err = staterun.Write(m.run); err != nil {
			return Counts{}, fmt.Errorf("window %d: %w", w.Window, err)
		}
		info.Name = j.outName(p.Generation, w.Window, r, "parquet")
		if err := j.Blobs.Create(info.Name, data); err != nil && !errors.Is(err, blob.ErrExists) {
			return Counts{}, fmt.Errorf("state run: %w", err)
		}
	}
	res := result{Revisions: w.Revisions, Run: info, Digests: digests(m.run), Counts: m.counts}
	data, err := j.encodeResult(&res, &m.sums)
	if err != nil {
		return Counts{}, err
	}
	if err := j.Blobs.Create(j.outName(p.Generation, w.Window, r, "sums"), data); err != nil && !errors.Is(err, blob.ErrExists) {
		return Counts{}, fmt.Errorf("sums: %w", err)
	}
	files.made(runKey{p.Generation, w.Window, r}, &stateRun{Revisions: w.Revisions, Files: []staterun.RunInfo{info}})
	return m.counts, errors.Join(ctx.Err(), pace.rest(ctx))
}

// encodeResult: magic, 8 bytes xxhash64 of the rest, an S2 block of (uvarint length, JSON result, sums).
func (j *Job) encodeResult(res *result, sums *metric.Sums) ([]byte, error) {
	head, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("map result: %w", err)
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

func (j *Job) cellsOf(group int) (int, bool) {
	if group >= len(j.Chain.Groups) {
		return 0, false
	}
	return j.cells(group), true
}

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
	if len(res.Digests) != Buckets {
		return nil, fmt.Errorf("map result %s: %w: %d digests", name, ErrCorrupt, len(res.Digests))
	}
	return res, nil
}

// stateRun is what reduce says of the run of a window in one object, so that nobody has to look at each of its ranges: its
// files, by hash range.
type stateRun struct {
	Revisions []uint64
	Files     []staterun.RunInfo
	Digests   Digests
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
		if b.Digests == nil {
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
		Inputs: Inputs{Spans: w.Spans, Revisions: w.Revisions},
		Run:    RunRef{Window: w.Window, Generation: p.Generation, Digests: make(Digests, Buckets)},
		Fold:   p.Fold, Parser: p.Parser, Reparsed: p.Reparse}
	var sums metric.Sums
	pace := j.pace()
	for r := range p.Bounds {
		if err := errors.Join(ctx.Err(), pace.rest(ctx)); err != nil {
			return nil, err
		}
		res, err := j.readResult(p.Generation, w.Window, r)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(res.Revisions, w.Revisions) {
			return nil, fmt.Errorf("map result %s: %w: it was made under other revisions of the config", j.outName(p.Generation, w.Window, r, "sums"), ErrCorrupt)
		}
		if err := sums.AddBinary(res.sums, j.cellsOf); err != nil {
			return nil, fmt.Errorf("map result %s: %w", j.outName(p.Generation, w.Window, r, "sums"), err)
		}
		for b, d := range res.Digests {
			c.Run.Digests[b] += d
		}
		c.Files = append(c.Files, res.Run)
		c.Counts.add(&res.Counts)
	}
	if w.Window < w.Unknown || c.Counts.Uncertain > 0 {
		c.Unknown = w.Unknown
	}
	for _, b := range w.Before {
		if b.Digests == nil {
			run, err := files.run(runKey{b.Generation, b.Window, wholeRun})
			if err != nil {
				return nil, err
			}
			b.Digests = run.Digests
		}
		if !b.Digests.empty() {
			c.Inputs.Runs = append(c.Inputs.Runs, b)
		}
	}
	run := &stateRun{Revisions: w.Revisions, Files: c.Files, Digests: c.Run.Digests}
	if err := j.keepRun(p.Generation, w.Window, run); err != nil {
		return nil, err
	}
	files.made(runKey{p.Generation, w.Window, wholeRun}, run)
	if err := j.write(ctx, c, &sums, pace); err != nil {
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

// readRun reads what reduce, or with a range map, says of the run of a window.
func (j *Job) readRun(k runKey) (*stateRun, error) {
	if k.r != wholeRun {
		res, err := j.readResult(k.generation, k.window, k.r)
		if err != nil {
			return nil, err
		}
		return &stateRun{Revisions: res.Revisions, Files: []staterun.RunInfo{res.Run}}, nil
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
