package archive

import (
	"errors"
	"fmt"

	"tandem/schemas/blob"
)

// Retired says up to where the event files of a partition were deleted for their age. Each is created once, before the
// files go, under a name made of Next, and the greatest stands. Manifests stay.
type Retired struct {
	Version   int    `json:"version"` // ManifestVersion; Retire sets it
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"` // the manifests before this offset have no files any more; 0: all have
	// Before, in ms: only event times before it were in these files, so a window that begins at it or later lacks nothing,
	// and one that begins earlier cannot be run again.
	Before int64 `json:"before_ms"`
}

func retiredFolder(topic string, partition int32) string {
	return fmt.Sprintf("retired/%s/%d/", topic, partition)
}

// ReadRetired reads what stands for a partition; nothing retired is the zero Retired.
func ReadRetired(b blob.Store, topic string, partition int32) (Retired, error) {
	names, err := b.List(retiredFolder(topic, partition))
	if err != nil || len(names) == 0 {
		return Retired{}, err
	}
	name := names[len(names)-1]
	var r Retired
	if _, err := read(b, "retired", name, &r); err != nil {
		return Retired{}, err
	}
	if r.Version != ManifestVersion || r.Topic != topic || r.Partition != partition || r.name() != name {
		return Retired{}, fmt.Errorf("retired %s: %w: it is that of topic %s, partition %d, offset %d, version %d", name, ErrCorrupt, r.Topic, r.Partition, r.Next, r.Version)
	}
	return r, nil
}

func (r *Retired) name() string {
	return fmt.Sprintf("%s%020d.json", retiredFolder(r.Topic, r.Partition), r.Next)
}

// Retirable is the offset up to which the leading files of sources, in order of offsets, hold only event times before a time in ms; 0: no
// file does.
func Retirable(sources []Source, before int64) (next int64) {
	for len(sources) > 0 {
		n := 0
		for n < len(sources) && sources[n].First == sources[0].First {
			if sources[n].Info.MaxTS >= before {
				return next
			}
			n++
		}
		next, sources = sources[0].Next, sources[n:]
	}
	return next
}

// Retire records that files up to offset next go, and deletes those named (Listing.Behind). It may be ended anywhere, and called again.
func Retire(b blob.Store, r Retired, names []string) error {
	r.Version = ManifestVersion
	if err := create(b, "retired", r.name(), r); err != nil && !errors.Is(err, blob.ErrExists) {
		return err
	}
	for _, name := range names {
		if err := b.Delete(name); err != nil {
			return fmt.Errorf("event file %s: %w", name, err)
		}
	}
	return nil
}
