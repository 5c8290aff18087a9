package archive

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// maxSummary bounds what a summary may inflate to: some 500,000 manifests.
const maxSummary = 256 << 20

// summary says in one object what a partition's manifests from offset 0 on say, and its compactions, so that who follows the
// chain does not read as many objects as the partition is old. It is a copy: where there is none, or it is not of this chain, the
// objects themselves are read, as they are for audits.
type summary struct {
	Version   int    `json:"version"` // ManifestVersion
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	// Manifests are the chain. Of all but the last one Progress has only the source that is furthest behind (Least), since there are as
	// many sources as raw partitions. Those at the beginning that are compacted and retired are one without files.
	Manifests   []Manifest   `json:"manifests"`
	Last        string       `json:"last"` // digest of the last one
	Compactions []Compaction `json:"compactions"`
}

func summaryFolder(topic string, partition int32) string {
	return fmt.Sprintf("summaries/%s/%d/", topic, partition)
}

func (s *summary) name() string {
	return fmt.Sprintf("%s%020d.json.zst", summaryFolder(s.Topic, s.Partition), s.next())
}

func (s *summary) next() int64 { return s.Manifests[len(s.Manifests)-1].Next }

func (s *summary) check() error {
	if s.Version != ManifestVersion {
		return fmt.Errorf("version is %d, this program reads %d", s.Version, ManifestVersion)
	}
	if len(s.Manifests) == 0 {
		return errors.New("it has no manifests")
	}
	next := int64(0)
	for i := range s.Manifests {
		m := &s.Manifests[i]
		if err := m.check(); err != nil {
			return fmt.Errorf("manifests[%d]: %w", i, err)
		}
		if m.Topic != s.Topic || m.TopicID != s.TopicID || m.Partition != s.Partition || m.First != next {
			return fmt.Errorf("manifests[%d] is that of topic %s (%s), partition %d, offset %d", i, m.Topic, m.TopicID, m.Partition, m.First)
		}
		next = m.Next
	}
	return nil
}

// Chain reads the manifests of a partition from offset 0, by name and without listing but for the summary that they begin with. No
// manifest at all is an empty chain. An object that is corrupt or does not belong to the chain is ErrCorrupt, named in the error. A
// manifest that is missing ends the chain: CheckChain tells such a gap from the end. Those that are compacted and retired may be one
// without files, and of the others but the last Progress may have only what Least tells.
func Chain(b blob.Store, topic string, partition int32) ([]Manifest, error) {
	chain, _, err := follow(b, topic, partition)
	return chain, err
}

// Last is the last manifest of a partition, nil if it has none, and how many there are behind the newest summary.
func Last(b blob.Store, topic string, partition int32) (last *Manifest, behind int, err error) {
	chain, behind, err := follow(b, topic, partition)
	if len(chain) > 0 {
		last = &chain[len(chain)-1]
	}
	return last, behind, err
}

func follow(b blob.Store, topic string, partition int32) (chain []Manifest, behind int, err error) {
	s, err := newestSummary(b, topic, partition)
	if err != nil {
		return nil, 0, err
	}
	next := int64(0)
	if s != nil {
		chain, next = s.chain(), s.next()
	}
	rest, err := ChainFrom(b, topic, partition, next)
	if err != nil {
		return nil, 0, err
	}
	if len(chain) > 0 && len(rest) > 0 && rest[0].TopicID != chain[0].TopicID {
		return nil, 0, fmt.Errorf("manifest %s: %w: its topic id is %q, that of the chain before it %q", ManifestName(topic, partition, next), ErrCorrupt, rest[0].TopicID, chain[0].TopicID)
	}
	return append(chain, rest...), len(rest), nil
}

// chain is that of the summary; each manifest at which a compaction begins knows it.
func (s *summary) chain() []Manifest {
	at := 0
	for i := range s.Compactions {
		c := &s.Compactions[i]
		for at < len(s.Manifests) && s.Manifests[at].First < c.First {
			at++
		}
		if at < len(s.Manifests) && s.Manifests[at].First == c.First {
			s.Manifests[at].compaction = c
		}
	}
	s.Manifests[len(s.Manifests)-1].Digest = s.Last
	return s.Manifests
}

// newestSummary is the newest one of the chain as it is, nil if there is none. One that is corrupt or gone is passed over, and one whose
// last manifest is another or gone: of a bucket that was brought back in part.
func newestSummary(b blob.Store, topic string, partition int32) (*summary, error) {
	names, err := b.List(summaryFolder(topic, partition))
	if err != nil {
		return nil, fmt.Errorf("summaries of %s/%d: %w", topic, partition, err)
	}
	for _, name := range slices.Backward(names) {
		s, err := readSummary(b, name)
		if errors.Is(err, blob.ErrNotFound) || errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := ReadManifest(b, topic, partition, s.Manifests[len(s.Manifests)-1].First)
		switch {
		case err == nil && m.Digest == s.Last:
			return s, nil
		case err != nil && !errors.Is(err, blob.ErrNotFound):
			return nil, err
		}
	}
	return nil, nil
}

var summaryInflater = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxSummary))
})

func readSummary(b blob.Store, name string) (*summary, error) {
	packed, err := b.Get(name)
	if err != nil {
		return nil, fmt.Errorf("summary: %w", err)
	}
	dec, err := summaryInflater()
	if err != nil {
		return nil, fmt.Errorf("summary: %w", err)
	}
	s := &summary{}
	data, err := dec.DecodeAll(packed, nil)
	if err == nil {
		_, err = sealed.Unmarshal(data, s)
	}
	if err == nil {
		err = s.check()
	}
	if err == nil && s.name() != name {
		err = fmt.Errorf("it is %s", s.name())
	}
	if err != nil {
		return nil, fmt.Errorf("summary %s: %w: %w", name, ErrCorrupt, err)
	}
	return s, nil
}

// Summarize writes a summary of a partition's chain as it is, if it has a manifest, and deletes those that are older than the one before
// it: who has listed that one is still to find it.
func Summarize(b blob.Store, topic string, partition int32) error {
	chain, err := Chain(b, topic, partition)
	if err != nil || len(chain) == 0 {
		return err
	}
	compactions, err := Compactions(b, chain)
	if err != nil {
		return err
	}
	retired, err := ReadRetired(b, topic, partition)
	if err != nil {
		return err
	}
	s := summarized(chain, compactions, retired.Next)
	data, err := sealed.Marshal(s)
	if err != nil {
		return fmt.Errorf("summary %s: %w", s.name(), err)
	}
	if len(data) > maxSummary {
		return fmt.Errorf("summary %s: it has %d bytes, more than %d: compact the archive, and retire what is too old", s.name(), len(data), maxSummary)
	}
	enc, err := compressor()
	if err != nil {
		return fmt.Errorf("summary %s: %w", s.name(), err)
	}
	if err := b.Create(s.name(), enc.EncodeAll(data, nil)); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("summary: %w", err)
	}
	names, err := b.List(summaryFolder(topic, partition))
	if err != nil {
		return fmt.Errorf("summaries of %s/%d: %w", topic, partition, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name >= s.name() })
	for len(names) > 1 {
		if err := b.Delete(names[0]); err != nil {
			return fmt.Errorf("summary %s: %w", names[0], err)
		}
		names = names[1:]
	}
	return nil
}

// summarized is the summary of a chain. What is compacted up to where it is retired becomes one manifest and one compaction, without
// files: nobody reads these, and where a compactor goes on stays.
func summarized(chain []Manifest, compactions []Compaction, retired int64) *summary {
	last := chain[len(chain)-1]
	s := &summary{Version: ManifestVersion, Topic: last.Topic, TopicID: last.TopicID, Partition: last.Partition, Last: last.Digest}
	gone := 0
	for gone < len(compactions) && compactions[gone].Next <= min(retired, last.First) {
		gone++
	}
	if gone > 0 {
		c := compactions[gone-1]
		c.First, c.Files = 0, nil
		s.Compactions = append(s.Compactions, c)
		n := 0
		for chain[n].Next < c.Next {
			n++
		}
		m := slim(chain[n])
		m.First, m.Files, m.Windows, m.Lost = 0, nil, nil, false
		s.Manifests = append(s.Manifests, m)
		chain = chain[n+1:]
	}
	for _, m := range chain[:len(chain)-1] {
		s.Manifests = append(s.Manifests, slim(m))
	}
	s.Manifests = append(s.Manifests, last)
	s.Compactions = append(s.Compactions, compactions[gone:]...)
	return s
}

// slim keeps of the progress what Least tells.
func slim(m Manifest) Manifest {
	least := map[string]int64{}
	if ms, known := m.Least(); known {
		for _, source := range slices.Sorted(maps.Keys(m.Progress)) {
			if m.Progress[source] == ms && !slices.Contains(m.Aside, source) {
				least[source] = ms
				break
			}
		}
	}
	m.Progress, m.Aside = least, nil
	return m
}
