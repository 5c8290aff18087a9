package sessionize

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/core/session"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
)

// A checkpoint is a shard's state at a tick's end, in one immutable object:
//
//	"TDCP2\n"  8 bytes xxhash64 of all that follows
//	uvarint length, JSON header; then each session, in the order of the table's entries:
//	         uvarint length, core; uvarint length, head; uvarint length, open beacons
//
// or what has changed since another checkpoint of the generation, its parent, which the header names: "TDCD1\n", the same, but
// for those sessions only that were touched since; then of each that was forgotten: uvarint length, id.
//
// Open minutes are not in it: they are what the open beacons contribute, and are formed anew on the way in. Nor is it
// compressed: sessions are random ids and small numbers, so that S2 took off a fifth and cost more than all the rest.
// The header names the revisions that ids belong to (tenant.Rev.Digest). Ids of a chain that goes on from them stay
// good; any other chain is refused, and the shard begins a new generation from the archive.
const (
	wholeMagic     = "TDCP2\n"
	deltaMagic     = "TDCD1\n"
	checkpointHead = len(wholeMagic) + 8
)

type header struct {
	ID        Identity
	Tenant    string
	Revisions []uint64
	Offset    int64
	Sources   wire.Sources
	Progress  []SourceProgress
	Watermark int64
	Until     int64
	Tick      int64
	Counts    Counts
	Sessions  int // that the shard has

	Parent    string `json:",omitempty"` // of a delta
	Changed   int    `json:",omitempty"` // sessions in a delta
	Forgotten int    `json:",omitempty"`
}

// MaxCheckpoint bounds a checkpoint, in bytes. A shard that comes near it (some 14 million sessions) needs more partitions.
const MaxCheckpoint = blob.MaxObjectBytes

// changes are what a delta has to say: what became of sessions since the last checkpoint.
type changes struct {
	known     bool     // else there is no such checkpoint, or more has changed than a delta is good for
	entries   []uint32 // that were touched, each once; some may be free
	forgotten []byte   // ids: uvarint length, bytes
	n         int      // of them
}

// changed notes that what a checkpoint says of a session changes.
func (s *Shard) changed(i uint32) {
	en := &s.table.entries[i]
	if en.changed || !s.since.known {
		return
	}
	en.changed = true
	s.since.entries = append(s.since.entries, i)
	s.limitChanges()
}

// forgotten notes that a session is about to be forgotten.
func (s *Shard) forgotten(id []byte) {
	if !s.since.known {
		return
	}
	s.since.forgotten = appendBytes(s.since.forgotten, id)
	s.since.n++
	s.limitChanges()
}

// limitChanges gives up where a delta would have more than half of what a whole checkpoint has.
func (s *Shard) limitChanges() {
	if 2*(len(s.since.entries)+s.since.n) > s.table.n+s.since.n {
		s.followChanges(false)
	}
}

// followChanges begins anew to note what changes, or does so no longer.
func (s *Shard) followChanges(follow bool) {
	for _, i := range s.since.entries {
		s.table.entries[i].changed = false
	}
	s.since = changes{known: follow, entries: s.since.entries[:0], forgotten: s.since.forgotten[:0]}
}

// AppendCheckpoint appends the state, which must be at a tick's end: all of it, or, of a parent, what has changed since that.
// The parent is the last checkpoint, after which followChanges was called.
func (s *Shard) AppendCheckpoint(b []byte, parent string) ([]byte, error) {
	if s.taken != 0 || len(s.arena) != 0 {
		return nil, fmt.Errorf("BUG: %s/%d: a checkpoint in the middle of a tick", s.ID.Topic, s.ID.Partition)
	}
	h := header{ID: s.ID, Tenant: s.Chain.Tenant, Offset: s.Offset, Sources: s.Sources, Progress: s.Progress,
		Watermark: s.Watermark, Until: s.until, Tick: s.tick, Counts: s.Counts, Sessions: s.table.n}
	for i := range s.Chain.Revs {
		h.Revisions = append(h.Revisions, s.Chain.Revs[i].Digest)
	}
	magic, size := wholeMagic, int(s.slab.used)+8*s.table.n
	if parent != "" {
		if !s.since.known {
			return nil, fmt.Errorf("BUG: %s/%d: a delta of what nobody followed", s.ID.Topic, s.ID.Partition)
		}
		magic, size = deltaMagic, 256*len(s.since.entries)+len(s.since.forgotten)
		h.Parent, h.Forgotten = parent, s.since.n
		for _, i := range s.since.entries {
			if s.table.entries[i].core != 0 {
				h.Changed++
			}
		}
	}
	head, err := json.Marshal(&h)
	if err != nil {
		return nil, fmt.Errorf("checkpoint header: %w", err)
	}
	from := len(b)
	if n := from + checkpointHead + len(head) + size; n > cap(b) {
		// slices.Grow would copy and clear what the buffer held before. A quarter more: else the next one, of a state that has
		// grown, does not fit again.
		b = append(make([]byte, 0, n+n/4), b...)
	}
	b = append(b, magic...)
	b = append(b, make([]byte, 8)...)
	b = appendBytes(b, head)
	if parent == "" {
		for part := range slices.Chunk(s.table.entries, peekAhead) {
			for i := range part {
				s.peeked += s.peekEntry(&part[i])
			}
			for i := range part {
				b = s.appendSession(b, &part[i])
			}
		}
	} else {
		for part := range slices.Chunk(s.since.entries, peekAhead) {
			s.peek(part)
			for _, i := range part {
				b = s.appendSession(b, &s.table.entries[i])
			}
		}
		b = append(b, s.since.forgotten...)
	}
	if len(b)-from > MaxCheckpoint {
		return nil, fmt.Errorf("%s/%d: a state of %d bytes does not fit a checkpoint: the topic needs more partitions", s.ID.Topic, s.ID.Partition, len(b)-from)
	}
	binary.LittleEndian.PutUint64(b[from+len(magic):], xxhash.Sum64(b[from+checkpointHead:]))
	return b, nil
}

func (s *Shard) appendSession(b []byte, en *entry) []byte {
	if en.core == 0 {
		return b
	}
	b = appendBytes(b, s.slab.get(en.core))
	b = appendBytes(b, s.slab.get(en.head))
	return appendBytes(b, s.slab.get(en.open))
}

func appendBytes(b, x []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(x))), x...)
}

// Sessions calls fn for each session with its id, its sealed state and its open beacons, in no order. They are valid
// during the call.
func (s *Shard) Sessions(fn func(id []byte, sealed *session.State, open []session.Event) error) error {
	var st session.State
	var run session.Run
	for i := range s.table.entries {
		en := &s.table.entries[i]
		if en.core == 0 {
			continue
		}
		if err := s.loadSealed(uint32(i), &st); err != nil {
			return err
		}
		run.Reset()
		if err := decodeRun(&run, s.slab.get(en.open)); err != nil {
			return s.corrupt(uint32(i), err)
		}
		if err := fn(sessionID(s.slab.get(en.core)), &st, run.Events); err != nil {
			return err
		}
	}
	return nil
}
