// Package sources is the chain of source lists (DESIGN 4): which partitions of which raw topics a data centre reads. Each
// revision is a create-only object that adds to the end of the one before, found by its name and not by listing.
package sources

import (
	"errors"
	"fmt"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/wire"
)

// maxRevision is the last revision: its name has six digits.
const maxRevision = 999_999

func name(dc string, revision int) string { return fmt.Sprintf("sources/%s/%06d.json", dc, revision) }

// Read returns the newest revision; one of revision 0 without sources where there is none.
func Read(blobs blob.Store, dc string) (wire.Sources, error) {
	var s wire.Sources
	for s.Revision < maxRevision {
		data, err := blobs.Get(name(dc, s.Revision+1))
		if errors.Is(err, blob.ErrNotFound) {
			return s, nil
		}
		if err != nil {
			return wire.Sources{}, fmt.Errorf("sources: %w", err)
		}
		var next wire.Sources
		if _, err := sealed.Unmarshal(data, &next); err != nil {
			return wire.Sources{}, fmt.Errorf("sources: %s: %w", name(dc, s.Revision+1), err)
		}
		if err := follows(&s, &next); err != nil {
			return wire.Sources{}, fmt.Errorf("sources: %s: %w", name(dc, s.Revision+1), err)
		}
		s = next
	}
	return s, nil
}

// follows says whether b may be the revision after a.
func follows(a, b *wire.Sources) error {
	if b.Revision != a.Revision+1 {
		return fmt.Errorf("it says that it is revision %d", b.Revision)
	}
	if len(b.List) <= len(a.List) {
		return fmt.Errorf("it has %d sources, the revision before %d; each adds some", len(b.List), len(a.List))
	}
	for i := range a.List {
		if a.List[i] != b.List[i] {
			return fmt.Errorf("source %d is %+v, and was %+v", i, b.List[i], a.List[i])
		}
	}
	return check(b.List)
}

// place is what there is one source of.
type place struct {
	cluster, topic string
	partition      int32
}

func of(s *wire.Source) place { return place{s.Cluster, s.Topic, s.Partition} }

func (p place) String() string {
	return fmt.Sprintf("%s/%d of cluster %s", p.topic, p.partition, p.cluster)
}

func check(list []wire.Source) error {
	seen := map[place]bool{}
	for i := range list {
		s := &list[i]
		switch {
		case s.Kind != wire.KindLive && s.Kind != wire.KindMirror && s.Kind != wire.KindHistory:
			return fmt.Errorf("source %d, %s, is of kind %q", i, of(s), s.Kind)
		case s.Cluster == "" || s.Topic == "" || s.TopicID == "" || s.Partition < 0:
			return fmt.Errorf("source %d is not whole: %+v", i, *s)
		case seen[of(s)]:
			return fmt.Errorf("source %d: %s is there twice", i, of(s))
		}
		seen[of(s)] = true
	}
	return nil
}

// Append adds to the chain, as one revision, those of the sources that it has not; all that it has must be among them,
// as they are. It returns the revision that then is the newest. Two that append at once both succeed if they agree.
func Append(blobs blob.Store, dc string, want []wire.Source) (wire.Sources, error) {
	if err := check(want); err != nil {
		return wire.Sources{}, fmt.Errorf("sources: %w", err)
	}
	for {
		s, err := Read(blobs, dc)
		if err != nil {
			return s, err
		}
		fresh, err := Added(&s, want)
		if err != nil || len(fresh) == 0 {
			return s, err
		}
		if s.Revision == maxRevision {
			return s, fmt.Errorf("sources: revision %d is the last one possible", maxRevision)
		}
		next := wire.Sources{Revision: s.Revision + 1, List: append(s.List[:len(s.List):len(s.List)], fresh...)}
		data, err := sealed.Marshal(next)
		if err != nil {
			return s, fmt.Errorf("sources: %w", err)
		}
		if err := blobs.Create(name(dc, next.Revision), data); err == nil {
			return next, nil
		} else if !errors.Is(err, blob.ErrExists) {
			return s, fmt.Errorf("sources: revision %d: %w", next.Revision, err)
		}
		// Another one was faster; the revision that it made stands, so this comes to an end.
	}
}

// Added lists what a list has beyond a revision. It is an error if that revision does not stand in it as it is: a source
// without a topic id is one whose topic is gone.
func Added(have *wire.Sources, want []wire.Source) ([]wire.Source, error) {
	wanted := map[place]wire.Source{}
	for i := range want {
		wanted[of(&want[i])] = want[i]
	}
	known := map[place]bool{}
	for i := range have.List {
		h := &have.List[i]
		w, ok := wanted[of(h)]
		known[of(h)] = true
		switch {
		case !ok:
			return nil, fmt.Errorf("sources: %s is in revision %d and not in the site file: sources are only ever added", of(h), have.Revision)
		case w.TopicID == "":
			return nil, fmt.Errorf("sources: topic %s of cluster %s, id %s, is in revision %d and gone: what was not read of it is lost, and without it no minute closes",
				h.Topic, h.Cluster, h.TopicID, have.Revision)
		case w.TopicID != h.TopicID:
			return nil, fmt.Errorf("sources: topic %s of cluster %s was made anew: its id is %s, and %s in revision %d; offsets of the old one mean nothing in it. Give the new topic another name, and add it to the site file",
				h.Topic, h.Cluster, w.TopicID, h.TopicID, have.Revision)
		case w.Kind != h.Kind:
			return nil, fmt.Errorf("sources: %s is of kind %s, and %s in revision %d: the kind of a source never changes", of(h), w.Kind, h.Kind, have.Revision)
		}
	}
	var fresh []wire.Source
	for i := range want {
		if !known[of(&want[i])] {
			fresh = append(fresh, want[i])
		}
	}
	return fresh, nil
}
