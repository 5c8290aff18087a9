package batch

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// FromRaw is what a backfill has brought to the archive from the raw topics: beacons that dispatch had dropped, as the revision
// in force then did not count them, and that a splice counts. They are archived as a topic of their own.
type FromRaw struct {
	Topic   string
	Gaps    []tenant.Gap // that it fills
	Records int64
}

// fromRawID is the id of topics that no broker has.
const fromRawID = "from-raw"

func fromRawName(tenant string, n int) string { return fmt.Sprintf("fromraw/%s/%06d.json", tenant, n) }

// ReadFromRaw returns all that was brought from raw topics for a tenant.
func ReadFromRaw(blobs blob.Store, name string) (all []FromRaw, err error) {
	for {
		data, err := blobs.Get(fromRawName(name, len(all)+1))
		if errors.Is(err, blob.ErrNotFound) {
			return all, nil
		}
		var f FromRaw
		if err == nil {
			_, err = sealed.Unmarshal(data, &f)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fromRawName(name, len(all)+1), err)
		}
		all = append(all, f)
	}
}

// Batched is the topic as the batch reads it.
func (f *FromRaw) Batched() Topic { return Topic{Name: f.Topic, ID: fromRawID, Partitions: 1} }

// Untold are the gaps of a backfill that nothing was brought for yet.
func (j *Job) Untold(live *tenant.Chain, from, to int64) ([]tenant.Gap, error) {
	known, err := ReadFromRaw(j.Blobs, j.Chain.Tenant)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(j.Chain.Gaps(live, from, to), func(g tenant.Gap) bool {
		return slices.ContainsFunc(known, func(f FromRaw) bool {
			return slices.ContainsFunc(f.Gaps, func(k tenant.Gap) bool { return k.What == g.What && k.From <= g.From && k.To >= g.To })
		})
	}), nil
}

// RawKeeper archives raw beacons that fill gaps. Nothing of it counts before Done; one that is ended before leaves files that
// nobody reads. Not safe for concurrent use.
type RawKeeper struct {
	job   *Job
	live  *tenant.Chain
	made  FromRaw
	rows  []archive.Row
	bytes int
	next  int64 // offset

	parser beacon.Parser
	parsed beacon.Beacon
	reader session.Reader
}

// A keeper writes a file of so many rows or bytes of payloads, whichever comes first.
const (
	rawRows  = 1 << 20
	rawBytes = 256 << 20
)

// KeepRaw begins to fill gaps of the job's chain, against live, by which dispatch read. The moment names the topic: of no two may
// it be the same.
func (j *Job) KeepRaw(live *tenant.Chain, gaps []tenant.Gap, moment time.Time) (*RawKeeper, error) {
	k := &RawKeeper{job: j, live: live, made: FromRaw{Topic: fmt.Sprintf("fromraw.%s.%d", j.Chain.Tenant, moment.UnixNano()), Gaps: gaps}}
	return k, archive.RecordPartitions(j.Blobs, archive.Partitions{Topic: k.made.Topic, TopicID: fromRawID, Count: 1})
}

// Take takes a raw record, and keeps it if it fills a gap.
func (k *RawKeeper) Take(payload []byte, ingest int64) error {
	b := &k.parsed
	if k.parser.Parse(payload, b) != beacon.None || string(b.Tenant) != k.live.Tenant || !b.HasTS ||
		!slices.ContainsFunc(k.made.Gaps, func(g tenant.Gap) bool { return b.TS >= g.From && b.TS < g.To }) {
		return nil
	}
	if v := k.reader.Admit(k.live, b, ingest); v.Reason == beacon.None && v.Used {
		return nil // it is in the archive
	}
	var e session.Event
	if v := k.reader.Read(k.job.Chain, b, ingest, &e); v.Reason != beacon.None || !v.Used {
		return nil
	}
	k.rows = append(k.rows, archive.Row{Session: bytes.Clone(b.Session), ID: bytes.Clone(b.ID), TS: b.TS, Payload: bytes.Clone(payload),
		Ingest: ingest, Hash: xxhash.Sum64(b.Session), Offset: k.next + int64(len(k.rows))})
	if k.bytes += len(payload); len(k.rows) < rawRows && k.bytes < rawBytes {
		return nil
	}
	return k.flush()
}

func (k *RawKeeper) flush() error {
	n := int64(len(k.rows))
	m := archive.Manifest{Topic: k.made.Topic, TopicID: fromRawID, First: k.next, Next: k.next + max(n, 1), Progress: map[string]int64{fromRawID: math.MaxInt64}}
	if n > 0 {
		at := k.rows[0].TS
		archive.Sort(k.rows)
		data, info, err := archive.Write(k.rows)
		if err != nil {
			return err
		}
		if info, _, err = archive.Create(k.job.Blobs, k.job.Chain.Tenant, k.made.Topic, 0, k.next, 0, at, data, info); err != nil {
			return err
		}
		m.Files, m.Windows = []archive.FileInfo{info}, archive.CountWindows(k.rows)
	}
	if err := archive.Append(k.job.Blobs, m); err != nil {
		return err
	}
	k.next, k.made.Records = m.Next, k.made.Records+n
	k.rows, k.bytes = nil, 0
	return nil
}

// Done has what was taken count, and the job read it. Of two that fill a gap at once the first stands.
func (k *RawKeeper) Done() (FromRaw, error) {
	if err := k.flush(); err != nil {
		return k.made, err
	}
	data, err := sealed.Marshal(k.made)
	if err != nil {
		return k.made, fmt.Errorf("from raw: %w", err)
	}
	known, err := ReadFromRaw(k.job.Blobs, k.job.Chain.Tenant)
	if err != nil {
		return k.made, err
	}
	if err := k.job.Blobs.Create(fromRawName(k.job.Chain.Tenant, len(known)+1), data); err != nil {
		return k.made, fmt.Errorf("from raw: %w", err)
	}
	k.job.Topics = append(k.job.Topics, k.made.Batched())
	return k.made, nil
}
