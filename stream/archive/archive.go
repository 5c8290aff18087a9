// Package archive keeps a beacons topic in Parquet files and manifests (DESIGN 5): a record is committed by the one
// manifest that its offset lies in, and by nothing else.
package archive

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"tandem/core/beacon"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// Config of the archiver of one partition.
type Config struct {
	Topic, TopicID string
	Partition      int32
	Partitions     int32 // of the topic
	MaxRows        int   // a file rolls at so many beacons
	MaxBytes       int64 // or at so many bytes of payload and parsed form
	SummaryEvery   int   // manifests from one summary of the chain to the next
}

// Limits of a file before compression: what an archiver holds in memory for its partition.
const (
	DefaultRows  = 500_000
	DefaultBytes = 256 << 20
)

// SummaryEvery is after how many manifests a summary of the chain is written: so many are read one after another behind it. Live
// partitions have about one in a window.
const SummaryEvery = 4

// Counts are an archiver's counters.
type Counts struct{ Beacons, Rejected, Redelivered, Files, Manifests int64 }

// Add adds o.
func (c *Counts) Add(o *Counts) {
	c.Beacons += o.Beacons
	c.Rejected += o.Rejected
	c.Redelivered += o.Redelivered
	c.Files += o.Files
	c.Manifests += o.Manifests
}

// Archiver archives one partition. Not safe for concurrent use.
type Archiver struct {
	cfg    Config
	chain  *tenant.Chain
	blobs  blob.Store
	Offset int64 // of the next record
	Counts Counts

	first    int64            // of the manifest at hand
	behind   int              // manifests behind the newest summary
	known    map[string]int64 // progress of the last manifest
	was      []string         // what it says is set aside
	listed   wire.ProgressReader
	sources  []wire.Source
	progress []int64 // by source, math.MinInt64: not known
	aside    []bool  // by source: nobody waits for it
	offsets  []int64
	rows     []archive.Row
	bytes    int64
	arena    archive.Arena // what the rows point to
	event    []byte        // scratch
	window   int64         // the one whose settling closes the file at hand
	parser   beacon.Parser
	parsed   beacon.Beacon
	reader   session.Reader
}

// Open resumes after the partition's last manifest.
func Open(cfg Config, chain *tenant.Chain, blobs blob.Store) (*Archiver, error) {
	if err := archive.RecordPartitions(blobs, archive.Partitions{Topic: cfg.Topic, TopicID: cfg.TopicID, Count: cfg.Partitions}); err != nil {
		return nil, err
	}
	last, behind, err := archive.Last(blobs, cfg.Topic, cfg.Partition)
	if err != nil {
		return nil, err
	}
	a := &Archiver{cfg: cfg, chain: chain, blobs: blobs, window: math.MinInt64, behind: behind}
	if last != nil {
		if last.TopicID != cfg.TopicID {
			return nil, fmt.Errorf("archive of %s/%d is of topic %s, not of %s: a topic that was made anew needs a new name",
				cfg.Topic, cfg.Partition, last.TopicID, cfg.TopicID)
		}
		a.Offset, a.known, a.was = last.Next, last.Progress, last.Aside
	}
	a.first = a.Offset
	return a, nil
}

// Skip goes on at a later offset, before the first record: what lies between is gone from the log, and a manifest says so.
func (a *Archiver) Skip(to int64) error {
	m := archive.Manifest{Topic: a.cfg.Topic, TopicID: a.cfg.TopicID, Partition: a.cfg.Partition, First: a.first, Next: to, Progress: a.known, Aside: a.was, Lost: true}
	if m.Progress == nil {
		m.Progress = map[string]int64{}
	}
	if err := archive.Append(a.blobs, m); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	a.Counts.Manifests++
	a.behind++
	a.first, a.Offset = to, to
	return nil
}

// ParseDigest tells the parsed form of a row from that of another parser or revision.
func ParseDigest(r *tenant.Rev) uint64 { return r.Digest ^ ParserVersion*0x1e3779b97f4a7c15 }

// ParserVersion changes when the same payload may be read otherwise, or its parsed form is written otherwise.
const ParserVersion = 2

// SourceKey names a source in manifests.
func SourceKey(s *wire.Source) string {
	return fmt.Sprintf("%s/%s/%d", s.Cluster, s.TopicID, s.Partition)
}

// Handle takes the partition's next records. Files and manifests are made on the way, whenever one is full or a window
// has settled.
func (a *Archiver) Handle(recs []broker.Record) error {
	for i := range recs {
		r := &recs[i]
		if r.Offset < a.Offset {
			continue
		}
		a.Offset = r.Offset + 1
		if _, ok := r.Header(wire.HeaderProgress); ok {
			p, err := a.listed.Read(r.Value)
			if err != nil {
				return fmt.Errorf("archive: %s/%d, record %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			if a.told(&p) {
				if err := a.roll(); err != nil {
					return err
				}
			}
			continue
		}
		origin, ok := r.Header(wire.HeaderOrigin)
		if !ok { // of another writer, which must not stop the partition
			a.Counts.Rejected++
			continue
		}
		o, err := wire.ReadOrigin(origin)
		if err != nil {
			return fmt.Errorf("archive: %s/%d, record %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
		if o.Source < len(a.offsets) && o.Offset < a.offsets[o.Source] {
			a.Counts.Redelivered++
			continue
		}
		a.add(r)
		if len(a.rows) >= a.cfg.MaxRows || a.bytes >= a.cfg.MaxBytes {
			if err := a.roll(); err != nil {
				return err
			}
		}
	}
	return nil
}

// told takes progress and says whether a window has settled since the file at hand was begun.
func (a *Archiver) told(p *wire.Progress) bool {
	if len(p.Sources.List) > len(a.sources) {
		a.sources = p.Sources.List
	}
	for len(a.progress) < len(a.sources) {
		key := SourceKey(&a.sources[len(a.progress)])
		ms, ok := a.known[key]
		if !ok {
			ms = math.MinInt64
		}
		a.progress, a.offsets, a.aside = append(a.progress, ms), append(a.offsets, 0), append(a.aside, slices.Contains(a.was, key))
	}
	if p.Aside != nil {
		for i := range a.aside {
			a.aside[i] = slices.Contains(p.Aside, i)
		}
	}
	for _, at := range p.At {
		a.progress[at.Source] = max(a.progress[at.Source], at.MS)
		a.offsets[at.Source] = max(a.offsets[at.Source], at.Offset)
	}
	least := int64(math.MaxInt64)
	for i, ms := range a.progress {
		if !a.aside[i] {
			least = min(least, ms)
		}
	}
	if least == math.MinInt64 || least == math.MaxInt64 {
		return false
	}
	rev := a.chain.At(least)
	if rev == nil {
		rev = &a.chain.Revs[0]
	}
	settled := (least - rev.Config.Lateness) / archive.WindowMillis
	if a.window == math.MinInt64 {
		a.window = settled
		return true // so that the archive's progress is known from its first window on
	}
	if settled > a.window {
		a.window = settled
		return true
	}
	return false
}

// add parses a beacon and keeps its row. A beacon that is not used has no parsed form; one that the config refuses has
// no digest either, so that the batch reads it again and counts it. What has no place in event time, which dispatch
// lets through never, is counted and left out.
func (a *Archiver) add(r *broker.Record) {
	b := &a.parsed
	if a.parser.Parse(r.Value, b) != beacon.None || !b.HasTS || b.TS < session.MinTS || b.TS > session.MaxTS {
		a.Counts.Rejected++
		return
	}
	a.Counts.Beacons++
	row := archive.Row{Ingest: r.Time, Offset: r.Offset, TS: b.TS, Hash: dispatch.SessionHash(b.Session)}
	var e session.Event
	a.event = a.event[:0]
	if v := a.reader.Read(a.chain, b, r.Time, &e); v.Reason == beacon.None {
		row.Digest = ParseDigest(v.Rev)
		if v.Used {
			// What the row has is not written twice.
			e.TS, e.ID, e.Ingest, e.Size = 0, nil, 0, len(r.Value)
			a.event = session.AppendEvent(a.event, &e)
		}
	}
	row.Session, row.ID, row.Point, row.Visitor, row.Event, row.Payload = b.Session, b.ID, b.Point, b.Visitor, a.event, r.Value
	a.arena.Keep(&row)
	a.rows = append(a.rows, row)
	a.bytes += int64(len(row.Payload) + len(row.Event))
}

// roll commits everything taken since the last manifest: a file, if there are beacons, and the manifest.
func (a *Archiver) roll() error {
	if a.Offset == a.first {
		return nil
	}
	m := archive.Manifest{Topic: a.cfg.Topic, TopicID: a.cfg.TopicID, Partition: a.cfg.Partition, First: a.first, Next: a.Offset}
	m.Progress, m.Aside = a.reached()
	if len(a.rows) > 0 {
		at, known := m.Least()
		if !known {
			at = a.rows[0].Ingest
		}
		archive.Sort(a.rows)
		data, info, err := archive.Write(a.rows)
		if err != nil {
			return fmt.Errorf("archive: %s/%d: %w", a.cfg.Topic, a.cfg.Partition, err)
		}
		if info, _, err = archive.Create(a.blobs, a.chain.Tenant, a.cfg.Topic, a.cfg.Partition, a.first, 0, at, data, info); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		m.Files = []archive.FileInfo{info}
		m.Windows = archive.CountWindows(a.rows)
		a.Counts.Files++
	}
	if err := archive.Append(a.blobs, m); err != nil {
		if errors.Is(err, blob.ErrExists) {
			return fmt.Errorf("archive: %s/%d: another archiver has committed from offset %d: %w", a.cfg.Topic, a.cfg.Partition, a.first, err)
		}
		return fmt.Errorf("archive: %w", err)
	}
	a.Counts.Manifests++
	a.behind++
	a.first, a.known, a.was = a.Offset, m.Progress, m.Aside
	clear(a.rows)
	a.rows, a.bytes = a.rows[:0], 0
	a.arena.Reset()
	return nil
}

// reached is the progress of every source that is known, and which are set aside. It is empty while one has not been heard of that is listed
// and not set aside: a reader that saw the others only would take windows for settled in which that source still has beacons to write
// (DESIGN 4). Until the first progress record after a restart it is that of the last manifest.
func (a *Archiver) reached() (at map[string]int64, aside []string) {
	if len(a.sources) == 0 && a.known != nil {
		return a.known, a.was
	}
	at = map[string]int64{}
	for i := range a.sources {
		key := SourceKey(&a.sources[i])
		if a.aside[i] {
			aside = append(aside, key)
		}
		switch {
		case a.progress[i] != math.MinInt64:
			at[key] = a.progress[i]
		case !a.aside[i]:
			return map[string]int64{}, nil
		}
	}
	return at, aside
}

// Summarize writes a summary of the chain when enough manifests have come since the last one. An error takes nothing from the archive, and
// it is tried again with the manifest after as many more.
func (a *Archiver) Summarize() error {
	if a.behind < a.cfg.SummaryEvery {
		return nil
	}
	a.behind = 0
	return archive.Summarize(a.blobs, a.cfg.Topic, a.cfg.Partition)
}

// Committed is the offset up to which manifests have everything.
func (a *Archiver) Committed() int64 { return a.first }

// Rows are the beacons taken since the last manifest, in order of offset.
func (a *Archiver) Rows() []archive.Row { return a.rows }
