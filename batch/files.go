package batch

import (
	"fmt"
	"slices"
	"sync"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/staterun"
)

// openFiles keeps event files open while a plan runs: opening one reads it whole, to compare its digest, and each is
// wanted by every range of one or two windows. At most maxOpen are open; the one used longest ago is closed.
type openFiles struct {
	job   *Job
	blobs blob.Store
	mu    sync.Mutex // guards what follows
	open  map[string]*openFile
	clock int64
	runs  map[runKey]*stateRun
}

type runKey struct{ generation, window int64 }

// stateRun is what the map results of a window say of its run.
type stateRun struct {
	files   []staterun.RunInfo
	digests Digests
}

func (j *Job) open() *openFiles {
	return &openFiles{job: j, blobs: j.Blobs, open: map[string]*openFile{}, runs: map[runKey]*stateRun{}}
}

// run returns the files of a run.
func (o *openFiles) run(ref RunRef) ([]staterun.RunInfo, error) {
	r, err := o.known(ref)
	if err != nil {
		return nil, err
	}
	return r.files, nil
}

// known reads the map results that made a run, once.
func (o *openFiles) known(ref RunRef) (*stateRun, error) {
	k := runKey{ref.Generation, ref.Window}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.runs[k]; r != nil {
		return r, nil
	}
	s := &stateRun{}
	for r := range ref.Ranges {
		res, err := o.job.readResult(ref.Generation, ref.Window, r)
		if err != nil {
			return nil, err
		}
		for _, d := range res.Revisions {
			if !knows(o.job.Chain, d) {
				return nil, fmt.Errorf("the run of window %d in generation %d was made under a revision that the config no longer has: its ids mean something else", ref.Window, ref.Generation)
			}
		}
		s.files = append(s.files, res.Run)
		s.digests = append(s.digests, res.Digests...)
	}
	o.runs[k] = s
	return s, nil
}

type openFile struct {
	once sync.Once
	file *archive.File
	err  error
	used int64
}

const maxOpen = 256

func (o *openFiles) get(info archive.FileInfo) (*archive.File, error) {
	o.mu.Lock()
	f := o.open[info.Name]
	if f == nil {
		f = &openFile{}
		o.open[info.Name] = f
	}
	o.clock++
	f.used = o.clock
	o.mu.Unlock()
	f.once.Do(func() {
		r, err := o.blobs.Open(info.Name)
		if err != nil {
			f.err = fmt.Errorf("event file %s: %w", info.Name, err)
			return
		}
		f.file, f.err = archive.OpenFile(r, info)
	})
	return f.file, f.err
}

// trim closes files beyond maxOpen. No range may be reading.
func (o *openFiles) trim() {
	for len(o.open) > maxOpen {
		oldest := ""
		for name, f := range o.open {
			if oldest == "" || f.used < o.open[oldest].used {
				oldest = name
			}
		}
		o.drop(oldest)
	}
}

func (o *openFiles) drop(name string) {
	if f := o.open[name].file; f != nil {
		f.Close() // it was only read
	}
	delete(o.open, name)
}

func (o *openFiles) close() {
	for name := range o.open {
		o.drop(name)
	}
}

// beacons merges the beacons of a window and a hash range from the files that the plan's offsets name.
func (o *openFiles) beacons(w *WindowPlan, a Archive, lo, hi uint64) (beacons, error) {
	in := &windowed{from: w.Window, to: w.Window + WindowMS}
	var iters []*archive.Iter
	for name, spans := range w.Spans {
		for _, f := range a.Files[name] {
			inPlan := slices.ContainsFunc(spans, func(s Span) bool { return s.First <= f.Span.First && f.Span.Next <= s.Next })
			if !inPlan || !slices.Contains(f.Windows, w.Window) || f.Info.MaxHash < lo || f.Info.MinHash > hi {
				continue
			}
			file, err := o.get(f.Info)
			if err != nil {
				return nil, err
			}
			iters = append(iters, file.Rows(lo, hi, archive.Columns{Payload: true, Event: true}))
		}
	}
	in.MergeIter = archive.Merge(iters)
	return in, nil
}

// windowed leaves out what is not of the window.
type windowed struct {
	*archive.MergeIter
	from, to int64
}

func (w *windowed) Next() bool {
	for w.MergeIter.Next() {
		if ts := w.Row().TS; ts >= w.from && ts < w.to {
			return true
		}
	}
	return false
}
