package sessionize

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
)

// A checkpoint is a shard's state at a tick's end, in one immutable object:
//
//	"TDCP2\n"  8 bytes xxhash64 of all that follows
//	uvarint length, JSON header; then each session, in the order of the table's entries:
//	         uvarint length, core; uvarint length, head; uvarint length, open beacons
//
// Open minutes are not in it: they are what the open beacons contribute, and are formed anew on the way in. Nor is it
// compressed: sessions are random ids and small numbers, so that S2 took off a fifth and cost more than all the rest.
// The header names the revisions that ids belong to (tenant.Rev.Digest). Ids of a chain that goes on from them stay
// good; any other chain is refused, and the shard begins a new generation from the archive.
const (
	checkpointMagic = "TDCP2\n"
	checkpointHead  = len(checkpointMagic) + 8
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
	Sessions  int
}

// MaxCheckpoint bounds a checkpoint, in bytes. A shard that comes near it (some 14 million sessions) needs more partitions.
const MaxCheckpoint = blob.MaxObjectBytes

// AppendCheckpoint appends the state, which must be at a tick's end.
func (s *Shard) AppendCheckpoint(b []byte) ([]byte, error) {
	if s.taken != 0 || len(s.arena) != 0 {
		return nil, fmt.Errorf("BUG: %s/%d: a checkpoint in the middle of a tick", s.ID.Topic, s.ID.Partition)
	}
	h := header{ID: s.ID, Tenant: s.Chain.Tenant, Offset: s.Offset, Sources: s.Sources, Progress: s.Progress,
		Watermark: s.Watermark, Until: s.until, Tick: s.tick, Counts: s.Counts, Sessions: s.table.n}
	for i := range s.Chain.Revs {
		h.Revisions = append(h.Revisions, s.Chain.Revs[i].Digest)
	}
	head, err := json.Marshal(&h)
	if err != nil {
		return nil, fmt.Errorf("checkpoint header: %w", err)
	}
	from := len(b)
	if n := from + checkpointHead + len(head) + int(s.slab.used) + 8*s.table.n; n > cap(b) {
		// slices.Grow would copy and clear what the buffer held before. A quarter more: else the next one, of a state that has
		// grown, does not fit again.
		b = append(make([]byte, 0, n+n/4), b...)
	}
	b = append(b, checkpointMagic...)
	b = append(b, make([]byte, 8)...)
	b = appendBytes(b, head)
	for part := range slices.Chunk(s.table.entries, peekAhead) {
		for i := range part {
			s.peeked += s.peekEntry(&part[i])
		}
		for i := range part {
			en := &part[i]
			if en.core == 0 {
				continue
			}
			b = appendBytes(b, s.slab.get(en.core))
			b = appendBytes(b, s.slab.get(en.head))
			b = appendBytes(b, s.slab.get(en.open))
		}
	}
	if len(b)-from > MaxCheckpoint {
		return nil, fmt.Errorf("%s/%d: a state of %d bytes does not fit a checkpoint: the topic needs more partitions", s.ID.Topic, s.ID.Partition, len(b)-from)
	}
	binary.LittleEndian.PutUint64(b[from+len(checkpointMagic):], xxhash.Sum64(b[from+checkpointHead:]))
	return b, nil
}

func appendBytes(b, x []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(x))), x...)
}

// Restore makes a shard from a checkpoint. name is the object's, for errors.
func Restore(name string, b []byte, chain *tenant.Chain, payload PayloadAt) (*Shard, error) {
	fail := func(what string) error { return fmt.Errorf("checkpoint %s: %s", name, what) }
	if len(b) < checkpointHead || string(b[:len(checkpointMagic)]) != checkpointMagic {
		return nil, fail("no checkpoint of this version")
	}
	body := b[checkpointHead:]
	if xxhash.Sum64(body) != binary.LittleEndian.Uint64(b[len(checkpointMagic):]) {
		return nil, fail("digest differs: the object is corrupt or cut short")
	}
	next := func() ([]byte, bool) {
		n, k := binary.Uvarint(body)
		if k <= 0 || n > uint64(len(body)-k) {
			return nil, false
		}
		x := body[k : k+int(n)]
		body = body[k+int(n):]
		return x, true
	}
	head, ok := next()
	var h header
	if !ok || json.Unmarshal(head, &h) != nil {
		return nil, fail("header is corrupt")
	}
	if h.Tenant != chain.Tenant || !goesOn(h.Revisions, chain) {
		return nil, fmt.Errorf("checkpoint %s: %w: it was made under other revisions of the config: its ids mean something else", name, ErrRefused)
	}
	s := New(h.ID, chain, h.Offset, payload)
	s.Sources, s.Progress, s.Watermark, s.until, s.tick, s.Counts = h.Sources, h.Progress, h.Watermark, h.Until, h.Tick, h.Counts
	for range h.Sessions {
		core, ok1 := next()
		head, ok2 := next()
		open, ok3 := next()
		if !ok1 || !ok2 || !ok3 {
			return nil, fail("a session is corrupt")
		}
		if err := s.restoreSession(core, head, open); err != nil {
			return nil, fmt.Errorf("checkpoint %s: %w", name, err)
		}
	}
	if len(body) != 0 {
		return nil, fail("more bytes than sessions")
	}
	s.Close()
	return s, nil
}

// goesOn says whether the chain begins with the given revisions.
func goesOn(revisions []uint64, chain *tenant.Chain) bool {
	if len(revisions) > len(chain.Revs) {
		return false
	}
	for i, d := range revisions {
		if chain.Revs[i].Digest != d {
			return false
		}
	}
	return true
}

// restoreSession puts a session back and adds what its open beacons contribute to open minutes.
func (s *Shard) restoreSession(core, head, open []byte) error {
	sc := &s.scratch
	n, k := binary.Uvarint(core)
	if k <= 0 || n == 0 || n > uint64(len(core)-k) {
		return fmt.Errorf("a session without id")
	}
	i, found := s.table.find(&s.slab, sessionID(core))
	if found {
		return fmt.Errorf("session %q is there twice", sessionID(core))
	}
	en := &s.table.entries[i]
	en.core = s.slab.put(core)
	if err := s.loadSealed(i, &sc.sealed); err != nil {
		return err
	}
	sc.old.Reset()
	if err := decodeRun(&sc.old, open); err != nil {
		return s.corrupt(i, err)
	}
	run := sc.old.Events
	if len(run) > 0 {
		en.open, en.head = s.slab.put(open), s.slab.put(head)
		en.nOpen, en.first, en.last = uint32(len(run)), run[0].TS, run[len(run)-1].TS
		sc.head.Copy(&sc.sealed)
		f := s.folder()
		f.Beacons = true
		f.Fold(&sc.head, run)
	}
	s.wake(i, max(s.Watermark+1, s.nextDue(&sc.sealed, run)))
	return nil
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
