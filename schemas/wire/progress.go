// Package wire is what crosses Kafka between the jobs: beacons with their origin, progress records, dead letters,
// metrics messages and markers. Each format is drawn where it is written.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// Header keys of records on beacons topics. A record has exactly one of the two.
const (
	HeaderOrigin   = "o" // a beacon: AppendOrigin's bytes
	HeaderProgress = "p" // a progress record: no bytes; the value is a Progress
)

// Kinds of sources (DESIGN 4): who gives a raw record its time.
const (
	KindLive    = "live"    // the broker: append time
	KindMirror  = "mirror"  // another cluster's broker, carried along
	KindHistory = "history" // the producer: records of the past
)

// Source is one partition of a raw topic.
type Source struct {
	Cluster   string `json:"cluster"`
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Kind      string `json:"kind"`
}

// Sources is the list of all sources; a revision only adds to its end, so an index stays good.
type Sources struct {
	Revision int      `json:"revision"`
	List     []Source `json:"list"`
}

// Progress says how far dispatch has read: of each source that it owns the record time of the last record (exclusive,
// ms) and the next offset. Everything before either has been appended to this partition.
type Progress struct {
	Sources Sources    `json:"sources"`
	At      []SourceAt `json:"at"`
	// Aside are the sources that are set aside from here on, because they lag too far (DESIGN 4); null: the dispatcher
	// does not know, and what was said before stands.
	Aside []int `json:"aside"`
}

// SourceAt is the progress of Sources.List[Source].
type SourceAt struct {
	Source int   `json:"source"`
	MS     int64 `json:"ms"`
	Offset int64 `json:"offset"`
}

// AppendProgress appends the progress record's value (JSON: few, and read by people).
func AppendProgress(b []byte, p *Progress) []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("BUG: a progress record that does not marshal: " + err.Error())
	}
	return append(b, data...)
}

// ReadProgress reads a progress record.
func ReadProgress(b []byte) (Progress, error) {
	var p Progress
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("progress record: %w", err)
	}
	return p, p.check()
}

// ProgressReader reads the progress records of a log. Each has the list of all sources, some 90 bytes a source, and nearly always that of
// the one before: then it is not decoded again.
type ProgressReader struct {
	head    []byte // of a record with the list, up to its end
	sources Sources
}

// Read reads the next one, as ReadProgress does. Its list is shared: it is not to be changed.
func (r *ProgressReader) Read(b []byte) (Progress, error) {
	if n := len(r.head); n > 0 && bytes.HasPrefix(b, r.head) && bytes.HasPrefix(b[n:], []byte(`,"`)) {
		var rest struct {
			At    []SourceAt `json:"at"`
			Aside []int      `json:"aside"`
		}
		after := append([]byte{'{'}, b[n+1:]...)
		d := json.NewDecoder(bytes.NewReader(after))
		d.DisallowUnknownFields() // another list among them
		if err := d.Decode(&rest); err == nil && d.InputOffset() == int64(len(after)) {
			p := Progress{Sources: r.sources, At: rest.At, Aside: rest.Aside}
			return p, p.check()
		}
	}
	p, err := ReadProgress(b)
	if err != nil {
		return p, err
	}
	list, err := json.Marshal(p.Sources)
	if err != nil {
		return p, fmt.Errorf("progress record: %w", err)
	}
	if head := append([]byte(`{"sources":`), list...); bytes.HasPrefix(b, head) {
		r.head, r.sources = head, p.Sources
	}
	return p, nil
}

// check refuses sources that the list does not have.
func (p *Progress) check() error {
	for _, a := range p.At {
		if a.Source < 0 || a.Source >= len(p.Sources.List) {
			return fmt.Errorf("progress record: source %d of %d", a.Source, len(p.Sources.List))
		}
	}
	for _, i := range p.Aside {
		if i < 0 || i >= len(p.Sources.List) {
			return fmt.Errorf("progress record: source %d of %d is set aside", i, len(p.Sources.List))
		}
	}
	return nil
}

// Origin is where a beacon was read: its source and its offset there.
type Origin struct {
	Source int
	Offset int64
}

// AppendOrigin appends the header value: uvarint source, uvarint offset.
func AppendOrigin(b []byte, o Origin) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(o.Source)), uint64(o.Offset))
}

// ReadOrigin reads what AppendOrigin wrote.
func ReadOrigin(b []byte) (Origin, error) {
	s, n := binary.Uvarint(b)
	if n <= 0 || s > 1<<20 {
		return Origin{}, fmt.Errorf("origin header is corrupt: % x", b)
	}
	o, k := binary.Uvarint(b[n:])
	if k <= 0 || n+k != len(b) || o > math.MaxInt64 {
		return Origin{}, fmt.Errorf("origin header is corrupt: % x", b)
	}
	return Origin{int(s), int64(o)}, nil
}

// Headers of a dead letter, whose value is the rejected record whole (SPEC 1).
const (
	HeaderReason = "reason"
	HeaderSource = "source" // "topic/partition/offset" of the raw record
	HeaderIngest = "ingest" // ms since the epoch, decimal
)
