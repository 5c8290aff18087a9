package archive

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

const (
	// ManifestVersion is the only version of manifests and partition records that is read and written.
	ManifestVersion = 1
	// WindowMillis is the length of a window, in ms of event time (DESIGN section 6).
	WindowMillis = 30 * 60 * 1000
)

// Manifest commits the offsets [First, Next) of a partition to the archive: what they hold is in Files, and nowhere else.
// The manifests of a (topic, partition) are a chain, each beginning where the one before ended, the first at offset 0. Each
// is created once, under a name made of its first offset, so of two archivers one wins and the chain can be followed
// by name. A manifest may have no file: then its records were progress only.
type Manifest struct {
	Version   int    `json:"version"` // ManifestVersion; Append sets it
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"` // tells a topic from one of the same name that was deleted
	Partition int32  `json:"partition"`
	First     int64  `json:"first"` // first offset
	Next      int64  `json:"next"`  // end offset, exclusive; above First
	// Files in the order of their offsets or any other; their rows are disjoint.
	Files []FileInfo `json:"files"`
	// Progress of each source at the end: no record of the source with an event time before it, in ms, is to come on time.
	Progress map[string]int64 `json:"progress"`
	// Aside are sources that were set aside (DESIGN 4), known or not: nobody waits for them, and what they still bring is late data.
	Aside []string `json:"aside,omitempty"`
	// Lost says that nothing of these offsets was archived: the log had forgotten them before an archiver came to them.
	Lost bool `json:"lost,omitempty"`
	// Windows says how many of the files' rows have event times in each window; in order of Start, without empty ones.
	Windows []Window `json:"windows"`
	// Digest is the SHA-256 in hex of the manifest's own content as it stands in the object. Reading it fills it; it is no
	// part of that content, and Append ignores it.
	Digest string `json:"-"`

	compaction *Compaction // that begins at it, where a summary tells; nil: not known
}

// Least is the progress of the source that is furthest behind of those that are waited for; false: not known.
func (m *Manifest) Least() (ms int64, known bool) {
	for source, at := range m.Progress {
		if !slices.Contains(m.Aside, source) && (!known || at < ms) {
			ms, known = at, true
		}
	}
	return ms, known
}

// Window counts the archived records of a window of event time.
type Window struct {
	Start   int64 `json:"start"` // ms since the epoch, a multiple of WindowMillis
	Records int64 `json:"records"`
}

// CountWindows returns the windows of rows, as a manifest lists them.
func CountWindows(rows []Row) []Window {
	counts := map[int64]int64{}
	for rest := rows; len(rest) > 0; {
		start := windowStart(rest[0].TS)
		n := 1
		for n < len(rest) && rest[n].TS >= start && rest[n].TS < start+WindowMillis {
			n++
		}
		counts[start] += int64(n)
		rest = rest[n:]
	}
	windows := make([]Window, 0, len(counts))
	for _, start := range slices.Sorted(maps.Keys(counts)) {
		windows = append(windows, Window{Start: start, Records: counts[start]})
	}
	return windows
}

// windowStart rounds down, also before the epoch.
func windowStart(ts int64) int64 {
	start := ts - ts%WindowMillis
	if start > ts {
		start -= WindowMillis
	}
	return start
}

// Append commits m by creating its object. blob.ErrExists means that another archiver committed from the same offset:
// read the chain and go on from its end. Anything that readers would refuse is refused here.
func Append(b blob.Store, m Manifest) error {
	m.Version = ManifestVersion
	name := ManifestName(m.Topic, m.Partition, m.First)
	if err := m.check(); err != nil {
		return fmt.Errorf("manifest %s: %w", name, err)
	}
	return create(b, "manifest", name, m)
}

// ChainFrom reads the manifests themselves from an offset on at which one begins or the chain ends, by name and without listing: from
// 0 on for audits, else for readers that know what lies before.
func ChainFrom(b blob.Store, topic string, partition int32, first int64) ([]Manifest, error) {
	var chain []Manifest
	for next := first; ; {
		m, err := ReadManifest(b, topic, partition, next)
		if errors.Is(err, blob.ErrNotFound) {
			return chain, nil
		}
		if err != nil {
			return nil, err
		}
		if len(chain) > 0 && m.TopicID != chain[0].TopicID {
			return nil, fmt.Errorf("manifest %s: %w: its topic id is %q, that of the chain before it %q", ManifestName(topic, partition, next), ErrCorrupt, m.TopicID, chain[0].TopicID)
		}
		chain = append(chain, m)
		next = m.Next
	}
}

// ReadManifest reads the manifest that begins at offset first, or returns blob.ErrNotFound.
func ReadManifest(b blob.Store, topic string, partition int32, first int64) (Manifest, error) {
	name := ManifestName(topic, partition, first)
	var m Manifest
	digest, err := read(b, "manifest", name, &m)
	if err != nil {
		return Manifest{}, err
	}
	m.Digest = digest
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("manifest %s: %w: %w", name, ErrCorrupt, err)
	}
	if m.Topic != topic || m.Partition != partition || m.First != first {
		return Manifest{}, fmt.Errorf("manifest %s: %w: it is that of topic %s partition %d offset %d", name, ErrCorrupt, m.Topic, m.Partition, m.First)
	}
	return m, nil
}

// CheckChain lists the manifests of a partition and returns ErrCorrupt, naming the object, if one is not on the chain from
// offset 0: then a manifest before it is missing. It is for audits; readers follow names.
func CheckChain(b blob.Store, topic string, partition int32) error {
	names, err := b.List(manifestFolder(topic, partition)) // before the chain, which an archiver may be at
	if err != nil {
		return fmt.Errorf("manifests of %s/%d: %w", topic, partition, err)
	}
	chain, err := ChainFrom(b, topic, partition, 0)
	if err != nil {
		return err
	}
	end := int64(0)
	linked := make(map[string]bool, len(chain))
	for _, m := range chain {
		linked[ManifestName(topic, partition, m.First)] = true
		end = m.Next
	}
	for _, name := range names {
		if !linked[name] {
			return fmt.Errorf("manifest %s: %w: it is not on the chain, which ends at offset %d: %s is missing or overlaps it", name, ErrCorrupt, end, ManifestName(topic, partition, end))
		}
	}
	return nil
}

func (m *Manifest) check() error {
	if m.Version != ManifestVersion {
		return fmt.Errorf("version is %d, this program reads %d", m.Version, ManifestVersion)
	}
	if m.Partition < 0 {
		return fmt.Errorf("partition is %d, below 0", m.Partition)
	}
	if m.First < 0 || m.Next <= m.First {
		return fmt.Errorf("offsets [%d, %d) are empty or below 0", m.First, m.Next)
	}
	if m.Lost && len(m.Files)+len(m.Windows) > 0 {
		return fmt.Errorf("it is lost, and has %d files and %d windows", len(m.Files), len(m.Windows))
	}
	var rows int64
	for i := range m.Files {
		info := &m.Files[i]
		if err := blob.CheckName(info.Name); err != nil {
			return fmt.Errorf("files[%d]: %w", i, err)
		}
		if err := info.check(); err != nil {
			return fmt.Errorf("files[%d] %s: %w", i, info.Name, err)
		}
		if info.MinOffset < m.First || info.MaxOffset >= m.Next {
			return fmt.Errorf("files[%d] %s: offsets %d to %d are outside [%d, %d)", i, info.Name, info.MinOffset, info.MaxOffset, m.First, m.Next)
		}
		rows += info.Rows
	}
	for i, w := range m.Windows {
		if w.Start != windowStart(w.Start) || w.Records <= 0 {
			return fmt.Errorf("windows[%d]: start %d is no multiple of %d, or records %d is not above 0", i, w.Start, WindowMillis, w.Records)
		}
		if i > 0 && w.Start <= m.Windows[i-1].Start {
			return fmt.Errorf("windows[%d]: start %d is not after the one before", i, w.Start)
		}
		rows -= w.Records
	}
	if rows != 0 {
		return fmt.Errorf("files have %d more rows than windows count", rows)
	}
	return nil
}

// Partitions records how many partitions a topic has, so that one that has no manifest yet is known to be missing.
type Partitions struct {
	Version int    `json:"version"` // ManifestVersion; RecordPartitions sets it
	Topic   string `json:"topic"`
	TopicID string `json:"topic_id"`
	Count   int32  `json:"partitions"` // at least 1; never changes (DESIGN section 4, fixed partitions)
}

// RecordPartitions creates the record. The same record again is nil; a different one is an error that says both.
func RecordPartitions(b blob.Store, p Partitions) error {
	p.Version = ManifestVersion
	name := PartitionsName(p.Topic)
	if err := p.check(); err != nil {
		return fmt.Errorf("partitions %s: %w", name, err)
	}
	err := create(b, "partitions", name, p)
	if !errors.Is(err, blob.ErrExists) {
		return err
	}
	held, err := ReadPartitions(b, p.Topic)
	if err != nil {
		return err
	}
	if held != p {
		return fmt.Errorf("partitions %s: it says %d partitions of topic id %q, not %d of %q: growth is a new topic", name, held.Count, held.TopicID, p.Count, p.TopicID)
	}
	return nil
}

// ReadPartitions reads the record of a topic, or returns blob.ErrNotFound.
func ReadPartitions(b blob.Store, topic string) (Partitions, error) {
	name := PartitionsName(topic)
	var p Partitions
	if _, err := read(b, "partitions", name, &p); err != nil {
		return Partitions{}, err
	}
	err := p.check()
	if err == nil && p.Topic != topic {
		err = fmt.Errorf("it is that of topic %s", p.Topic)
	}
	if err != nil {
		return Partitions{}, fmt.Errorf("partitions %s: %w: %w", name, ErrCorrupt, err)
	}
	return p, nil
}

func (p *Partitions) check() error {
	if p.Version != ManifestVersion {
		return fmt.Errorf("version is %d, this program reads %d", p.Version, ManifestVersion)
	}
	if p.Count < 1 {
		return fmt.Errorf("partitions is %d, below 1", p.Count)
	}
	return nil
}

func create(b blob.Store, kind, name string, v any) error {
	data, err := sealed.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, name, err)
	}
	if err := b.Create(name, data); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

func read(b blob.Store, kind, name string, v any) (digest string, err error) {
	data, err := b.Get(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", kind, err)
	}
	digest, err = sealed.Unmarshal(data, v)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %w", kind, name, ErrCorrupt, err)
	}
	return digest, nil
}
