package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tandem/schemas/blob"
)

// Compaction names the files that hold the rows of a run of manifests, [First, Next), instead of the manifests' own. The
// compactions of a partition are a chain as its manifests are: each begins where the one before ended, the first at offset
// 0, and is created once under a name made of its first offset, so two compactors never divide the same run in two ways.
// Manifests stay as they are: they say which offsets there are, and what they count.
type Compaction struct {
	Version   int    `json:"version"` // ManifestVersion; AppendCompaction sets it
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	Next      int64  `json:"next"` // where a manifest ends
	// Files in order of their hashes, or, where merging gains nothing, those of the manifests.
	Files []FileInfo `json:"files"`
	// Made is the compactor's clock, ms since the epoch: the files that are not needed any more stay for a while after it,
	// for readers that do not know of the new ones.
	Made int64 `json:"made_ms"`
}

// CompactionName is the name of the compaction that begins at offset first.
func CompactionName(topic string, partition int32, first int64) string {
	return fmt.Sprintf("compactions/%s/%d/%020d.json", topic, partition, first)
}

// AppendCompaction commits c. blob.ErrExists means that another compactor was first.
func AppendCompaction(b blob.Store, c Compaction) error {
	c.Version = ManifestVersion
	name := CompactionName(c.Topic, c.Partition, c.First)
	if err := c.check(); err != nil {
		return fmt.Errorf("compaction %s: %w", name, err)
	}
	return create(b, "compaction", name, c)
}

func (c *Compaction) check() error {
	m := Manifest{Version: c.Version, Partition: c.Partition, First: c.First, Next: c.Next, Files: c.Files}
	for _, f := range c.Files {
		m.Windows = append(m.Windows, Window{Start: int64(len(m.Windows)) * WindowMillis, Records: f.Rows})
	}
	return m.check()
}

// Compactions reads a partition's compactions for its chain of manifests. One that does not end where a manifest ends, or
// has other rows, is ErrCorrupt. One that reaches beyond the chain was made after the chain was read: it and those behind it are
// left out, since the files that it replaced stay for CompactionGrace.
func Compactions(b blob.Store, chain []Manifest) ([]Compaction, error) {
	var all []Compaction
	for at := 0; at < len(chain); {
		m := &chain[at]
		name := CompactionName(m.Topic, m.Partition, m.First)
		var c Compaction
		if m.compaction != nil {
			c = *m.compaction
		} else if _, err := read(b, "compaction", name, &c); errors.Is(err, blob.ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		err := c.check()
		if err == nil && (c.Topic != m.Topic || c.TopicID != m.TopicID || c.Partition != m.Partition || c.First != m.First) {
			err = fmt.Errorf("it is that of topic %s (%s), partition %d, offset %d", c.Topic, c.TopicID, c.Partition, c.First)
		}
		if end := chain[len(chain)-1].Next; err == nil && c.Next > end {
			switch _, gone := ReadManifest(b, c.Topic, c.Partition, end); {
			case gone == nil:
				return all, nil
			case !errors.Is(gone, blob.ErrNotFound):
				return nil, gone
			}
			err = fmt.Errorf("it ends at offset %d, and the manifests at %d", c.Next, end)
		}
		rows := -c.rows()
		for ; err == nil && at < len(chain) && chain[at].Next <= c.Next; at++ {
			rows += chain[at].rows()
		}
		if err == nil && (chain[at-1].Next != c.Next || rows != 0) {
			err = fmt.Errorf("it ends at offset %d, where no manifest ends, or the manifests have %d more rows", c.Next, rows)
		}
		if err != nil {
			return nil, fmt.Errorf("compaction %s: %w: %w", name, ErrCorrupt, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (c *Compaction) rows() int64 { return rowsOf(c.Files) }

func (m *Manifest) rows() int64 { return rowsOf(m.Files) }

func rowsOf(files []FileInfo) int64 {
	n := int64(0)
	for i := range files {
		n += files[i].Rows
	}
	return n
}

// Source is a file to read for the manifests of [First, Next), whose rows it holds, or a part of them.
type Source struct {
	Info        FileInfo
	First, Next int64
	Windows     []int64 // starts of those that the manifests hold records of, ms, in order
}

// ReadSources returns the files to read for a partition's chain of manifests, each row in one of them: where manifests were
// compacted the new files, which are there before anything says so, and else the manifests' own. A reader that wants some
// manifests only takes the sources that overlap them, and of these the rows by offset (Iter.Offsets). What it has found
// holds for CompactionGrace. Files that are retired are left out.
func ReadSources(b blob.Store, chain []Manifest) ([]Source, Retired, error) {
	if len(chain) == 0 {
		return nil, Retired{}, nil
	}
	r, err := ReadRetired(b, chain[0].Topic, chain[0].Partition)
	if err != nil {
		return nil, Retired{}, err
	}
	compactions, err := Compactions(b, chain)
	if err != nil {
		return nil, Retired{}, err
	}
	return slices.DeleteFunc(sources(chain, compactions), func(s Source) bool { return s.Next <= r.Next }), r, nil
}

func sources(chain []Manifest, compactions []Compaction) []Source {
	var all []Source
	for len(chain) > 0 {
		n, files := 1, chain[0].Files
		if len(compactions) > 0 && compactions[0].First == chain[0].First {
			for n < len(chain) && chain[n].Next <= compactions[0].Next {
				n++
			}
			files, compactions = compactions[0].Files, compactions[1:]
		}
		var windows []int64
		for _, m := range chain[:n] {
			for _, w := range m.Windows {
				windows = append(windows, w.Start)
			}
		}
		slices.Sort(windows)
		windows = slices.Compact(windows)
		for _, f := range files {
			all = append(all, Source{f, chain[0].First, chain[n-1].Next, windows})
		}
		chain = chain[n:]
	}
	return all
}

// CompactionGrace is how long files that a compaction replaced stay at least, ms: no reader holds what Sources told for longer.
const CompactionGrace = 6 * 3600 * 1000

// Compactor merges the small files of a partition into larger ones.
type Compactor struct {
	Blobs  blob.Store
	Tenant string
	// SpanMS is how much time a run of manifests may take, by the progress at their ends; at least WindowMillis. A reader of
	// one window reads the files of its whole run.
	SpanMS int64
	// MaxRows and MaxBytes bound a new file, before compression, and the memory that compacting takes.
	MaxRows  int
	MaxBytes int64
}

// Compacted counts what a call of Compact did.
type Compacted struct {
	Runs, Merged   int   // compactions appended, and those of them that have new files
	From, To       int   // files before and after merging
	BytesFrom      int64 // of these files
	BytesTo        int64
	Deleted, Freed int64 // files deleted, and their bytes
}

// Compact appends the compactions that the chain allows, and deletes the files replaced by those made before
// now - CompactionGrace, in ms. It may be ended anywhere: files that no compaction names are used or passed over by the next
// call, as those of archivers are. A run is complete when a manifest beyond its time span is there.
func (c *Compactor) Compact(ctx context.Context, chain []Manifest, now int64) (Compacted, error) {
	var done Compacted
	compactions, err := Compactions(c.Blobs, chain)
	if err != nil {
		return done, err
	}
	retired := int64(0)
	if len(chain) > 0 {
		r, err := ReadRetired(c.Blobs, chain[0].Topic, chain[0].Partition)
		if err != nil {
			return done, err
		}
		retired = r.Next
	}
	rest := chain
	for i := range compactions {
		n := 0
		for n < len(rest) && rest[n].Next <= compactions[i].Next {
			n++
		}
		if compactions[i].Made <= now-CompactionGrace && compactions[i].Next > retired {
			if err := c.sweep(&compactions[i], rest[:n], &done); err != nil {
				return done, err
			}
		}
		rest = rest[n:]
	}
	for {
		n, gone := c.run(rest, retired)
		if n == 0 {
			return done, nil
		}
		if err := c.compact(ctx, rest[:n], gone, now, &done); err != nil {
			return done, err
		}
		rest = rest[n:]
	}
}

// run is the length of the complete run that chain begins with; 0: there is none yet. What is retired is a run, gone.
func (c *Compactor) run(chain []Manifest, retired int64) (n int, gone bool) {
	for n < len(chain) && chain[n].Next <= retired {
		n++
	}
	if n > 0 {
		return n, true
	}
	begin, known := int64(0), false
	for i := range chain {
		at, ok := chain[i].Least()
		switch {
		case !ok:
		case !known:
			begin, known = at-at%c.SpanMS, true
		case at >= begin+c.SpanMS:
			return i, false
		}
	}
	return 0, false
}

func (c *Compactor) compact(ctx context.Context, run []Manifest, gone bool, now int64, done *Compacted) error {
	m := &run[0]
	made := Compaction{Topic: m.Topic, TopicID: m.TopicID, Partition: m.Partition, First: m.First, Next: run[len(run)-1].Next, Made: now}
	var old []FileInfo
	for i := range run {
		old = append(old, run[i].Files...)
	}
	made.Files = old
	merged := len(old) > 1 && !gone
	if merged {
		at := old[0].MinTS
		if ms, ok := m.Least(); ok {
			at = ms
		}
		var err error
		if made.Files, err = c.merge(ctx, &made, old, at); err != nil {
			return fmt.Errorf("compaction of %s/%d, offsets %d to %d: %w", m.Topic, m.Partition, made.First, made.Next, err)
		}
	}
	if err := AppendCompaction(c.Blobs, made); err != nil {
		if errors.Is(err, blob.ErrExists) {
			return fmt.Errorf("another compactor is at work: %w", err)
		}
		return err
	}
	done.Runs++
	if merged {
		done.Merged++
		done.From, done.To = done.From+len(old), done.To+len(made.Files)
		done.BytesFrom, done.BytesTo = done.BytesFrom+bytesOf(old), done.BytesTo+bytesOf(made.Files)
	}
	return nil
}

func bytesOf(files []FileInfo) int64 {
	n := int64(0)
	for i := range files {
		n += files[i].Bytes
	}
	return n
}

// merge writes the rows of old as new files, in order.
func (c *Compactor) merge(ctx context.Context, run *Compaction, old []FileInfo, at int64) (made []FileInfo, err error) {
	var iters []*Iter
	for _, info := range old {
		r, err := c.Blobs.Open(info.Name)
		if err != nil {
			return nil, fmt.Errorf("event file %s: %w", info.Name, err)
		}
		f, err := OpenFile(r, info)
		if err != nil {
			return nil, err
		}
		defer f.Close() // it was only read
		iters = append(iters, f.Rows(0, ^uint64(0), Columns{Payload: true, Event: true, Names: true}))
	}
	var rows []Row
	var kept Arena
	size, next := int64(0), 0
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		data, info, err := Write(rows)
		if err != nil {
			return err
		}
		if info, next, err = createAs(c.Blobs, func(n int) string {
			return CompactedName(c.Tenant, run.Topic, run.Partition, run.First, run.Next, n, at)
		}, next, data, info); err != nil {
			return err
		}
		made = append(made, info)
		clear(rows)
		kept.Reset()
		rows, size = rows[:0], 0
		return nil
	}
	m := Merge(iters)
	for m.Next() {
		r := *m.Row()
		kept.Keep(&r)
		rows = append(rows, r)
		size += int64(rowBytes(&r))
		if len(rows) >= c.MaxRows || size >= c.MaxBytes {
			if err := flush(); err != nil {
				return nil, err
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	if err := m.Err(); err != nil {
		return nil, err
	}
	return made, flush()
}

// sweep deletes the manifests' files that the compaction does not name.
func (c *Compactor) sweep(of *Compaction, run []Manifest, done *Compacted) error {
	for i := range run {
		for _, f := range run[i].Files {
			if slices.ContainsFunc(of.Files, func(g FileInfo) bool { return g.Name == f.Name }) {
				continue
			}
			r, err := c.Blobs.Open(f.Name)
			if errors.Is(err, blob.ErrNotFound) {
				continue
			}
			if err == nil {
				r.Close() // it was only looked for
				err = c.Blobs.Delete(f.Name)
			}
			if err != nil {
				return fmt.Errorf("event file %s, which a compaction replaced: %w", f.Name, err)
			}
			done.Deleted++
			done.Freed += f.Bytes
		}
	}
	return nil
}

// Add adds o.
func (c *Compacted) Add(o *Compacted) {
	c.Runs += o.Runs
	c.Merged += o.Merged
	c.From += o.From
	c.To += o.To
	c.BytesFrom += o.BytesFrom
	c.BytesTo += o.BytesTo
	c.Deleted += o.Deleted
	c.Freed += o.Freed
}

// Progress is the least progress of any source at the end of a chain, ms; false: not known.
func Progress(chain []Manifest) (int64, bool) {
	if len(chain) == 0 {
		return 0, false
	}
	return chain[len(chain)-1].Least()
}
