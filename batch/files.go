package batch

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"tandem/core/metric"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/staterun"
)

// openFiles keeps event files open while a plan runs: each is wanted by every range of one or two windows, and small ones are held
// in memory as long as there is room.
type openFiles struct {
	job   *Job
	blobs blob.Store

	mu    sync.Mutex // guards what follows, once of an openFile aside
	open  map[string]*openFile
	clock int64
	idle  int   // files that nobody reads
	bytes int64 // that all hold
	room  int64 // for these
	runs  map[runKey]*stateRun
	// parked are readers that have stopped at the end of a range.
	parked map[cursorKey]*cursor
	// Memory of tasks that are done, for the next ones: new memory takes longer to get than to fill.
	written []*staterun.Writer
	writers []*writer
	// What maps of a process that reduces too leave in memory (gather.go): of ranges all but their sums, and these of several at once.
	// forSums is how many bytes they may take, largest what one of them took at most.
	results          map[runKey]*rangeResult
	gathers          []*gathered
	forSums, largest int64

	sums sync.Pool // *metric.Sums of maps that are done; the largest memory of a task, so it is not kept while it has no use
}

// maxIdle bounds the files that are kept open though nobody reads them; beyond, those used longest ago are closed. maxHeldBytes
// bounds what files hold that are held whole: where there is no room, those that nobody reads are closed, and if that is not
// enough the file is read in pieces, as large ones always are.
const (
	maxIdle      = 256
	maxHeldBytes = 64 << 20
)

type openFile struct {
	once    sync.Once
	file    *archive.File
	err     error
	used    int64
	readers int
	bytes   int64
}

// runKey names a run, or one range of it.
type runKey struct {
	generation, window int64
	r                  int
}

const wholeRun = -1

func (j *Job) open() *openFiles {
	return &openFiles{job: j, blobs: j.Blobs, open: map[string]*openFile{}, room: maxHeldBytes, runs: map[runKey]*stateRun{}, parked: map[cursorKey]*cursor{}, results: map[runKey]*rangeResult{}}
}

// run returns what is known of a run, and reads it once. Two that ask at the same time may both read it.
func (o *openFiles) run(k runKey) (*stateRun, error) {
	o.mu.Lock()
	s := o.runs[k]
	o.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := o.job.readRun(k)
	if err != nil {
		return nil, err
	}
	for _, d := range s.Revisions {
		if !knows(o.job.Chain, d) {
			return nil, fmt.Errorf("the run of window %s in generation %d was made under a revision that the config no longer has: its ids mean something else", windowName(k.window), k.generation)
		}
	}
	o.made(k, s)
	return s, nil
}

// reuse takes one of a list of things that were used before, nil if there is none.
func reuse[T any](o *openFiles, from *[]*T) *T {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(*from)
	if n == 0 {
		return nil
	}
	x := (*from)[n-1]
	*from = (*from)[:n-1]
	return x
}

// give gives back what reuse gave, or a new one in its place.
func give[T any](o *openFiles, to *[]*T, x *T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*to = append(*to, x)
}

func (o *openFiles) takeSums() *metric.Sums {
	if s, ok := o.sums.Get().(*metric.Sums); ok {
		return s
	}
	return &metric.Sums{}
}

func (o *openFiles) giveSums(s *metric.Sums) {
	s.Reset()
	o.sums.Put(s)
}

func (o *openFiles) takeWritten() *staterun.Writer {
	if w := reuse(o, &o.written); w != nil {
		return w
	}
	names, _ := sessionNames(o.job.Chain)
	return staterun.NewWriter(names)
}

func (o *openFiles) giveWritten(w *staterun.Writer) {
	w.Reset()
	give(o, &o.written, w)
}

// made keeps what is known of a run.
func (o *openFiles) made(k runKey, s *stateRun) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.runs[k] = s
}

// get opens a file, or takes it as it is open; who got it returns it by done.
func (o *openFiles) get(info archive.FileInfo) (*archive.File, error) {
	o.mu.Lock()
	f := o.open[info.Name]
	switch {
	case f == nil:
		f = &openFile{}
		if info.Bytes <= blob.HoldBytes && o.makeRoom(info.Bytes) {
			f.bytes = info.Bytes
			o.bytes += f.bytes
		}
		o.open[info.Name] = f
	case f.readers == 0:
		o.idle--
	}
	f.readers++
	o.mu.Unlock()
	f.once.Do(func() {
		r, err := o.blobs.Open(info.Name)
		if err != nil {
			f.err = fmt.Errorf("event file %s: %w", info.Name, err)
			return
		}
		if f.bytes > 0 {
			f.file, f.err = archive.OpenFile(r, info)
		} else {
			f.file, f.err = archive.OpenLean(r, info)
		}
	})
	return f.file, f.err
}

func (o *openFiles) done(names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range names {
		f := o.open[name]
		o.clock++
		f.used = o.clock
		if f.readers--; f.readers == 0 {
			o.idle++
		}
	}
	for o.idle > maxIdle {
		o.dropIdle(func(*openFile) bool { return true })
	}
}

// makeRoom says whether so many bytes more may be held, now that files that nobody reads had to make room; under the lock.
func (o *openFiles) makeRoom(bytes int64) bool {
	for o.bytes+bytes > o.room && o.dropIdle(func(f *openFile) bool { return f.bytes > 0 }) {
	}
	return o.bytes+bytes <= o.room
}

// dropIdle closes, of the files that nobody reads and that are wanted so, the one used longest ago, and says whether there was one; under
// the lock.
func (o *openFiles) dropIdle(of func(*openFile) bool) bool {
	oldest := ""
	for name, f := range o.open {
		if f.readers == 0 && of(f) && (oldest == "" || f.used < o.open[oldest].used) {
			oldest = name
		}
	}
	if oldest == "" {
		return false
	}
	o.idle--
	o.drop(oldest)
	return true
}

func (o *openFiles) drop(name string) {
	o.bytes -= o.open[name].bytes
	if f := o.open[name].file; f != nil {
		f.Close() // it was only read
	}
	delete(o.open, name)
}

// close closes all files. Nobody may be reading.
func (o *openFiles) close() {
	for name := range o.open {
		o.drop(name)
	}
}

// in says whether the file may hold records of a plan's spans and of a window.
func (f *File) in(spans []Span, window int64) bool {
	return slices.Contains(f.Windows, window) &&
		slices.ContainsFunc(spans, func(s Span) bool { return s.First < f.Span.Next && f.Span.First < s.Next })
}

// rows are those of the file that lie in the spans and a hash range. A file that compaction made may hold more than a plan knows.
func (f *File) rows(open *archive.File, spans []Span, lo, hi uint64, cols archive.Columns) *archive.Iter {
	it := open.Rows(lo, hi, cols)
	if slices.ContainsFunc(spans, func(s Span) bool { return s.First <= f.Span.First && f.Span.Next <= s.Next }) {
		return it
	}
	return it.Offsets(func(offset int64) bool {
		return slices.ContainsFunc(spans, func(s Span) bool { return s.First <= offset && offset < s.Next })
	})
}

// beacons gives the beacons of a window and a hash range, of the files that the plan's offsets name: from where the range before
// ended, if a reader has stopped there, else from the files' row groups on. The caller calls release when it has read them.
func (o *openFiles) beacons(w *WindowPlan, a Archive, lo, hi uint64, cols archive.Columns) (in *ranged, release func(), err error) {
	c := o.unpark(cursorKey{w.Window, lo})
	if c == nil {
		if c, err = o.cursor(w, a, lo, cols); err != nil {
			return nil, nil, err
		}
	}
	in = &ranged{cursor: c, hi: hi}
	return in, func() { o.park(in) }, nil
}

// cursor reads the beacons of a window from a hash on, each file from the row group on that holds it. Ranges are smaller than
// row groups, so the reader of one goes on to the next one rather than to begin anew.
type cursor struct {
	*archive.MergeIter
	window int64
	names  []string // of files that it has got
	ahead  bool     // the row at hand was not asked for yet
	parked int64    // when
}

// cursorKey is a place where a reader has stopped: all hashes below are read.
type cursorKey struct {
	window int64
	hash   uint64
}

func (o *openFiles) cursor(w *WindowPlan, a Archive, lo uint64, cols archive.Columns) (*cursor, error) {
	c := &cursor{window: w.Window}
	var iters []*archive.Iter
	for name, spans := range w.Spans {
		for _, f := range a.Files[name] {
			if !f.in(spans, w.Window) || f.Info.MaxHash < lo {
				continue
			}
			c.names = append(c.names, f.Info.Name)
			file, err := o.get(f.Info)
			if err != nil {
				o.done(c.names)
				return nil, err
			}
			iters = append(iters, f.rows(file, spans, lo, math.MaxUint64, cols))
		}
	}
	c.MergeIter = archive.Merge(iters)
	return c, nil
}

// unpark takes the reader that has stopped at a place, nil if there is none.
func (o *openFiles) unpark(k cursorKey) *cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.parked[k]
	delete(o.parked, k)
	return c
}

// stopped says whether a reader has stopped at a place.
func (o *openFiles) stopped(k cursorKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.parked[k] != nil
}

// park keeps the reader of a range for the next one, unless it is at its end or has failed. At most as many are kept as
// tasks run side by side, the newest: each holds pages of all of its files.
func (o *openFiles) park(r *ranged) {
	c := r.cursor
	if !c.ahead {
		o.done(c.names)
		return
	}
	o.mu.Lock()
	o.clock++
	c.parked = o.clock
	o.parked[cursorKey{c.window, r.hi + 1}] = c
	c = nil
	if len(o.parked) > o.job.parallel() {
		var oldest cursorKey
		for k, p := range o.parked {
			if c == nil || p.parked < c.parked {
				oldest, c = k, p
			}
		}
		delete(o.parked, oldest)
	}
	o.mu.Unlock()
	if c != nil {
		o.done(c.names)
	}
}

// forget closes the reader that has stopped at a place: nobody will go on from there.
func (o *openFiles) forget(k cursorKey) {
	if c := o.unpark(k); c != nil {
		o.done(c.names)
	}
}

// ranged gives the rows of a cursor up to a hash, those of the window only.
type ranged struct {
	*cursor
	hi uint64
}

func (r *ranged) Next() bool {
	for r.ahead || r.MergeIter.Next() {
		row := r.Row()
		if r.ahead = row.Hash > r.hi; r.ahead {
			return false
		}
		if row.TS >= r.window && row.TS < r.window+WindowMS {
			return true
		}
	}
	return false
}
