package archive

import (
	"context"
	"errors"
	"fmt"

	"tandem/schemas/blob"
)

// Verified counts what Verify has looked at.
type Verified struct {
	Manifests, Files, Rows, Bytes int64
	Next                          int64 // end offset of the chain
	Retired                       int64 // the manifests before this offset have no files any more
	Lost                          int64 // offsets that the log had forgotten before they were archived (Manifest.Lost)
}

// Verify checks a partition of the archive: the chain of manifests without gap or overlap, the compactions, of every file
// that readers take size, digest, order and ranges, and of every manifest the rows of each window. Each problem names the
// object and the way out, and goes to problem; each file is told to step when it is done. Err is that of storage or context.
func Verify(ctx context.Context, b blob.Store, topic string, partition int32, problem func(error), step func(FileInfo)) (v Verified, err error) {
	summaries, err := b.List(summaryFolder(topic, partition)) // before the chain, which grows
	if err != nil {
		return v, fmt.Errorf("summaries of %s/%d: %w", topic, partition, err)
	}
	if err := CheckChain(b, topic, partition); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return v, err
		}
		problem(fmt.Errorf("%w; restore the missing object from a copy; what follows it can be deleted only if Kafka still has those offsets, and is then archived again", err))
	}
	chain, err := ChainFrom(b, topic, partition, 0)
	if errors.Is(err, ErrCorrupt) {
		return v, nil // as CheckChain told
	}
	if err != nil {
		return v, err
	}
	v.Manifests = int64(len(chain))
	for i := range chain {
		if m := &chain[i]; m.Lost {
			v.Lost += m.Next - m.First
		}
	}
	if len(chain) > 0 {
		v.Next = chain[len(chain)-1].Next
	}
	for _, name := range summaries {
		if err := verifySummary(b, name, chain); errors.Is(err, ErrCorrupt) {
			problem(err)
		} else if err != nil {
			return v, err
		}
	}
	files, retired, err := ReadSources(b, chain)
	if errors.Is(err, ErrCorrupt) {
		problem(fmt.Errorf("%w; restore it from a copy", err))
		return v, nil
	}
	if err != nil {
		return v, err
	}
	counts := newTally(chain)
	for _, s := range files {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		err := verifyFile(b, s, counts)
		if errors.Is(err, blob.ErrNotFound) {
			gone := err
			if retired, err = ReadRetired(b, topic, partition); err != nil {
				return v, err
			}
			if s.Next <= retired.Next {
				continue // it was retired meanwhile
			}
			err = gone
		}
		v.Files++
		v.Rows += s.Info.Rows
		v.Bytes += s.Info.Bytes
		if errors.Is(err, ErrCorrupt) || errors.Is(err, blob.ErrNotFound) {
			problem(fmt.Errorf("%w; restore it from a copy: offsets %d to %d of %s/%d are in it", err, s.First, s.Next-1, topic, partition))
			counts.bad[s.First] = true
		} else if err != nil {
			return v, err
		}
		step(s.Info)
	}
	v.Retired = retired.Next
	bad := int64(-1) // end of the last run with a bad file
	for i := range chain {
		m := &chain[i]
		for _, s := range files {
			if counts.bad[s.First] && s.First <= m.First && m.First < s.Next {
				bad = max(bad, s.Next)
			}
		}
		if n := m.rows(); n > m.Next-m.First {
			problem(fmt.Errorf("manifest %s: %w: its files have %d rows of %d offsets; restore it and its files from a copy", ManifestName(topic, partition, m.First), ErrCorrupt, n, m.Next-m.First))
		}
		if m.Next <= retired.Next || m.First < bad {
			continue
		}
		for _, w := range m.Windows {
			if n := counts.rows[place{m.First, w.Start}]; n != w.Records {
				problem(fmt.Errorf("manifest %s: %w: it counts %d records in the window of %d, its files have %d; restore it and its files from a copy", ManifestName(topic, partition, m.First), ErrCorrupt, w.Records, w.Start, n))
			}
			delete(counts.rows, place{m.First, w.Start})
		}
		for at, n := range counts.rows {
			if at.first == m.First {
				problem(fmt.Errorf("manifest %s: %w: it counts no records in the window of %d, its files have %d; restore it and its files from a copy", ManifestName(topic, partition, m.First), ErrCorrupt, at.window, n))
			}
		}
	}
	return v, nil
}

// tally counts rows by manifest and window.
type tally struct {
	chain []Manifest
	rows  map[place]int64
	bad   map[int64]bool // first offsets of sources with a bad file
}

type place struct{ first, window int64 }

func newTally(chain []Manifest) *tally {
	return &tally{chain, map[place]int64{}, map[int64]bool{}}
}

// add finds the manifest of an offset; at is where the one before was found.
func (t *tally) add(at int, offset, ts int64) int {
	if m := &t.chain[at]; offset < m.First || offset >= m.Next {
		lo, hi := 0, len(t.chain)-1
		for lo < hi {
			mid := (lo + hi + 1) / 2
			if t.chain[mid].First <= offset {
				lo = mid
			} else {
				hi = mid - 1
			}
		}
		at = lo
	}
	t.rows[place{t.chain[at].First, windowStart(ts)}]++
	return at
}

func verifyFile(b blob.Store, s Source, counts *tally) error {
	r, err := b.Open(s.Info.Name)
	if err != nil {
		return fmt.Errorf("event file %s: %w", s.Info.Name, err)
	}
	f, err := OpenFile(r, s.Info)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	if err := f.checkWhole(); err != nil {
		return fmt.Errorf("event file %s: %w", s.Info.Name, err)
	}
	at, rows := 0, int64(0)
	var last Row
	var kept []byte // what last points to
	err = f.Scan(0, ^uint64(0), Columns{Payload: true, Event: true, Names: true}, func(r *Row) error {
		switch {
		case rows > 0 && Compare(&last, r) > 0:
			return fmt.Errorf("event file %s: %w: the row of offset %d is out of order", s.Info.Name, ErrCorrupt, r.Offset)
		case r.Offset < s.Info.MinOffset || r.Offset > s.Info.MaxOffset || r.TS < s.Info.MinTS || r.TS > s.Info.MaxTS || r.Hash < s.Info.MinHash || r.Hash > s.Info.MaxHash:
			return fmt.Errorf("event file %s: %w: the row of offset %d, ts %d, hash %d is outside of what its manifest says", s.Info.Name, ErrCorrupt, r.Offset, r.TS, r.Hash)
		}
		last, kept = *r, kept[:0]
		for _, v := range []*[]byte{&last.Session, &last.ID, &last.Payload} {
			n := len(kept)
			kept = append(kept, *v...)
			*v = kept[n:]
		}
		rows++
		at = counts.add(at, r.Offset, r.TS)
		return nil
	})
	if err == nil && rows != s.Info.Rows {
		err = fmt.Errorf("event file %s: %w: %d rows can be read, its manifest says %d", s.Info.Name, ErrCorrupt, rows, s.Info.Rows)
	}
	return err
}

// verifySummary says what is wrong with a summary of a chain. Nobody goes by one that is, but it tells of manifests that are gone.
func verifySummary(b blob.Store, name string, chain []Manifest) error {
	s, err := readSummary(b, name)
	switch {
	case errors.Is(err, blob.ErrNotFound): // a newer one has replaced it
		return nil
	case errors.Is(err, ErrCorrupt):
		return fmt.Errorf("%w; delete it, it is a copy", err)
	case err != nil:
		return err
	}
	end := int64(0)
	for i := range chain {
		if end = chain[i].Next; end == s.next() && chain[i].Digest == s.Last {
			return nil
		}
	}
	if end < s.next() {
		return fmt.Errorf("summary %s: %w: the chain ends at offset %d, before it: manifests are gone; bring them back from a copy", name, ErrCorrupt, end)
	}
	return fmt.Errorf("summary %s: %w: the manifest that it ends with is another; delete it, it is a copy", name, ErrCorrupt)
}
