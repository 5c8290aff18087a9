package sessionize

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
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

// WriteCheckpoint writes the state, which must be at a tick's end: all of it, or, of a parent, what has changed since that.
// The parent is the last checkpoint, after which followChanges was called. The object begins with head, of checkpointHead bytes, and
// goes on with what was written; n is how many bytes it has in all.
func (s *Shard) WriteCheckpoint(out io.Writer, parent string) (head []byte, n int64, err error) {
	if s.taken != 0 || len(s.arena) != 0 {
		return nil, 0, fmt.Errorf("BUG: %s/%d: a checkpoint in the middle of a tick", s.ID.Topic, s.ID.Partition)
	}
	h := header{ID: s.ID, Tenant: s.Chain.Tenant, Offset: s.Offset, Sources: s.Sources, Progress: s.Progress,
		Watermark: s.Watermark, Until: s.until, Tick: s.tick, Counts: s.Counts, Sessions: s.table.n}
	for i := range s.Chain.Revs {
		h.Revisions = append(h.Revisions, s.Chain.Revs[i].Digest)
	}
	magic := wholeMagic
	if parent != "" {
		if !s.since.known {
			return nil, 0, fmt.Errorf("BUG: %s/%d: a delta of what nobody followed", s.ID.Topic, s.ID.Partition)
		}
		magic = deltaMagic
		h.Parent, h.Forgotten = parent, s.since.n
		for _, i := range s.since.entries {
			if s.table.entries[i].core != 0 {
				h.Changed++
			}
		}
	}
	text, err := json.Marshal(&h)
	if err != nil {
		return nil, 0, fmt.Errorf("checkpoint header: %w", err)
	}
	digest := xxhash.New()
	w := handing{out: io.MultiWriter(digest, out), n: int64(checkpointHead)}
	w.b = appendBytes(w.b, text)
	if parent == "" {
		for part := range slices.Chunk(s.table.entries, peekAhead) {
			for i := range part {
				s.peeked += s.peekEntry(&part[i])
			}
			for i := range part {
				w.b = s.appendSession(w.b, &part[i])
			}
			w.flush(checkpointPiece)
		}
	} else {
		for part := range slices.Chunk(s.since.entries, peekAhead) {
			s.peek(part)
			for _, i := range part {
				w.b = s.appendSession(w.b, &s.table.entries[i])
			}
			w.flush(checkpointPiece)
		}
		w.b = append(w.b, s.since.forgotten...)
	}
	if w.flush(0); w.n > MaxCheckpoint {
		return nil, 0, fmt.Errorf("%s/%d: a state of %d bytes does not fit a checkpoint: the topic needs more partitions", s.ID.Topic, s.ID.Partition, w.n)
	}
	return binary.LittleEndian.AppendUint64([]byte(magic), digest.Sum64()), w.n, w.err
}

// checkpointSize is about how many bytes WriteCheckpoint writes.
func (s *Shard) checkpointSize(parent string) int {
	if parent != "" {
		return 1024 + 256*len(s.since.entries) + len(s.since.forgotten)
	}
	return 1024 + int(s.slab.used) + 8*s.table.n
}

// checkpointPiece bytes are handed on at once, while a cache has them.
const checkpointPiece = 64 << 10

// handing hands on bytes, until there is an error or there are more than a checkpoint may have: the rest is only counted.
type handing struct {
	out io.Writer
	b   []byte // not handed on yet
	n   int64  // bytes of the object
	err error
}

// flush hands on what there is, if it is so many bytes.
func (w *handing) flush(least int) {
	if len(w.b) < least {
		return
	}
	if w.n += int64(len(w.b)); w.err == nil && w.n <= MaxCheckpoint {
		_, w.err = w.out.Write(w.b)
	}
	w.b = w.b[:0]
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
