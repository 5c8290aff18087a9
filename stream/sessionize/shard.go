// Package sessionize is stage 1 of the stream (DESIGN 4): a shard for each partition of a beacons topic. Shard is the
// state machine, a pure function of the records that it was given; Worker drives it.
package sessionize

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/wire"
)

// Limits of a shard. None of them depends on memory or time, only on the prefix of the log, so that every owner does
// the same; another limit that ends a tick is another CoreVersion.
const (
	// MaxTickRecords ends a tick by itself, so that a backlog does not gather in one: a minute of 35,000 beacons/s.
	MaxTickRecords = 1 << 21
	// maxArena bytes of beacons not yet folded end it too: with many values and experiments a beacon can be large.
	maxArena = 512 << 20
	// maxPending beacons of one session are folded at once, in the middle of a tick: they are deduplicated then, and
	// a session that floods holds no more than this beside its limit per minute.
	maxPending = 4096
	// settleEvery records of a tick are folded at once, before it ends: what a tick is late by is the work left at its end,
	// and of a busy shard's minute that would be nearly half of all. Less often than a session's beacons come, so that it
	// is not loaded and stored for each of them.
	settleEvery = 1 << 16
	// refoldShare: a session whose beacons must be folded anew, all that are open, waits for the tick's end while it has more
	// than so many times as many as came. Else a flood, out of order, would cost as often as there are pieces.
	refoldShare = 8
	// sealAt open beacons of a session are sealed as far as the watermark allows although others are still open.
	sealAt = 256
)

// Identity names a shard and what its outputs are versions of.
type Identity struct {
	Layer       string // "stream.dc1"
	Topic       string // topic id of the beacons topic
	Partition   int32
	Generation  int64
	FirstMinute int64 // of the generation; rows of minutes before it are not published
	TickMS      int64 // part of the generation
}

// Counts are a shard's counters; those of session.Counts among them can be taken back.
type Counts struct {
	Beacons, Late, LateClock, Redelivered, Unused, Duplicate, Overflow int64
	Rejected                                                           [16]int64 // by beacon.Reason
	session.Counts
}

// Shard is the state of one partition: a function of the records from the log's start to Offset.
type Shard struct {
	ID      Identity
	Chain   *tenant.Chain
	Payload PayloadAt

	Offset    int64 // of the next record
	Sources   wire.Sources
	Progress  []SourceProgress // by source
	Watermark int64            // minutes; everything before it is final. 0: not known yet
	Counts    Counts

	tick    int64 // index of the tick interval that the greatest progress has reached
	taken   int   // records since the last tick
	every   int   // settleEvery, but in tests
	until   int64 // minutes from it on were never published
	closed  int64 // watermark at the last Close: what is published of minutes before it is final, and no longer held
	slab    slab
	table   *table
	arena   []byte // beacons not yet settled: 4 bytes place+1 of the session's one before, 4 bytes length, event
	dirty   []uint32
	dues    map[int64][]uint32
	sums    metric.Sums
	stale   map[int64]struct{} // minutes whose sketches may hold a visitor that has gone
	repeats repeats
	parser  beacon.Parser
	parsed  beacon.Beacon
	reader  session.Reader
	scratch scratch
	since   changes
	peeked  byte // nobody reads it: it keeps what peek does from being left out
}

// SourceProgress is the progress of a source as this shard has read it.
type SourceProgress struct {
	Known  bool
	MS     int64
	Offset int64
	Aside  bool // it lags too far: the watermark does not wait for it
}

// PayloadAt reads the payload of an earlier record of the partition again: of beacons that repeat each other with
// other payloads the bytewise smallest stands, and payloads are not kept. Many are asked for one after another, mostly in the
// log's order. What it returns is valid until the next call.
type PayloadAt func(offset int64) ([]byte, error)

type scratch struct {
	event          session.Event
	old, new, pend session.Run
	added          session.Run
	sealed, head   session.State
	buf, buf2      []byte
	order          []uint32
	before         session.State
	folder         session.Folder
}

type seenKey struct {
	minute  int64
	key     metric.Key
	visitor uint64
}

// New returns an empty shard that starts at the given offset.
func New(id Identity, chain *tenant.Chain, offset int64, payload PayloadAt) *Shard {
	return &Shard{ID: id, Chain: chain, Offset: offset, Payload: payload, tick: math.MinInt64, every: settleEvery,
		table: newTable(), dues: map[int64][]uint32{}, stale: map[int64]struct{}{}}
}

// Record is one record of a beacons topic.
type Record struct {
	Offset   int64
	Ingest   int64 // ms
	Payload  []byte
	Origin   wire.Origin
	Progress *wire.Progress // not nil: a progress record
	Stray    bool           // neither that nor a beacon that dispatch has written: counted as malformed
}

// Take takes the next record and says whether a tick ends with it. An error says that the shard cannot go on.
func (s *Shard) Take(r *Record) (tick bool, err error) {
	if r.Offset < s.Offset {
		return false, fmt.Errorf("%s/%d: record %d comes after %d", s.ID.Topic, s.ID.Partition, r.Offset, s.Offset-1)
	}
	s.Offset = r.Offset + 1
	s.taken++
	if r.Progress != nil {
		tick = s.progress(r.Progress)
	} else if r.Stray {
		s.Counts.Beacons++
		s.Counts.Rejected[beacon.Malformed]++
	} else if err := s.beacon(r); err != nil {
		return false, err
	}
	if tick || s.taken >= MaxTickRecords || len(s.arena) >= maxArena {
		return true, nil
	}
	if s.taken%s.every == 0 {
		return false, s.settleAll(refoldShare)
	}
	return false, nil
}

func (s *Shard) progress(p *wire.Progress) (tick bool) {
	if p.Sources.Revision > s.Sources.Revision || s.Sources.List == nil {
		s.Sources = p.Sources
	}
	for len(s.Progress) < len(s.Sources.List) {
		s.Progress = append(s.Progress, SourceProgress{})
	}
	for _, a := range p.At {
		if a.Source >= len(s.Progress) {
			continue
		}
		q := &s.Progress[a.Source]
		q.Known = true
		q.MS, q.Offset = max(q.MS, a.MS), max(q.Offset, a.Offset)
	}
	if p.Aside != nil {
		for i := range s.Progress {
			s.Progress[i].Aside = slices.Contains(p.Aside, i)
		}
	}
	least, greatest, all := int64(math.MaxInt64), int64(math.MinInt64), true
	for _, q := range s.Progress {
		if !q.Known {
			all = all && q.Aside // of one that was set aside before the generation began nobody may ever tell again
			continue
		}
		greatest = max(greatest, q.MS)
		if !q.Aside {
			least = min(least, q.MS)
		}
	}
	if all && least != math.MaxInt64 {
		s.Watermark = Watermark(s.Chain, s.Watermark, least)
	}
	if greatest == math.MinInt64 {
		return false
	}
	if n := metric.FloorDiv(greatest, s.ID.TickMS); n > s.tick {
		s.tick = n
		return true
	}
	return false
}

// Watermark returns the first minute, from the given one on, that is not passed: whose end plus the lateness in force
// in it lies after the progress (ms, exclusive).
func Watermark(chain *tenant.Chain, from, progress int64) int64 {
	lateness := func(minute int64) int64 {
		if r := chain.At(minute * 60000); r != nil {
			return r.Config.Lateness
		}
		return chain.Revs[0].Config.Lateness
	}
	passed := func(m int64) bool { return progress >= (m+1)*60000+lateness(m) }
	if len(chain.Revs) == 1 {
		return max(from, metric.FloorDiv(progress-lateness(0), 60000))
	}
	// The greatest lateness bounds from below how far the watermark is; from there on minute by minute.
	most := int64(0)
	for i := range chain.Revs {
		most = max(most, chain.Revs[i].Config.Lateness)
	}
	m := max(from, metric.FloorDiv(progress-most, 60000))
	for passed(m) {
		m++
	}
	return m
}

func (s *Shard) beacon(r *Record) error {
	s.Counts.Beacons++
	if o := r.Origin; o.Source < len(s.Progress) && r.Origin.Offset < s.Progress[o.Source].Offset {
		s.Counts.Redelivered++
		return nil
	}
	reason := s.parser.Parse(r.Payload, &s.parsed)
	e := &s.scratch.event
	var v session.Verdict
	if reason == beacon.None {
		chain := s.Chain
		if string(s.parsed.Tenant) != chain.Tenant {
			chain = nil
		}
		v = s.reader.Read(chain, &s.parsed, r.Ingest, e)
		reason = v.Reason
	}
	switch {
	case reason != beacon.None: // dispatch lets none of these through, but a topic is open to other writers
		s.Counts.Rejected[reason]++
		return nil
	case !v.Used:
		s.Counts.Unused++
		return nil
	case v.Late:
		s.Counts.Late++
		return nil
	case s.Watermark > 0 && e.TS < s.Watermark*60000:
		s.Counts.LateClock++
		return nil
	}
	e.Offset, e.Digest, e.Size = r.Offset, xxhash.Sum64(r.Payload), len(r.Payload)
	i, found := s.table.find(&s.slab, s.parsed.Session)
	if !found {
		s.scratch.buf = appendCore(s.scratch.buf[:0], s.parsed.Session)
		s.table.entries[i].core = s.slab.put(s.scratch.buf)
	}
	s.append(i, e)
	if s.table.entries[i].nPend >= maxPending {
		if _, err := s.settle(i, math.MaxInt); err != nil {
			return err
		}
		return s.settleRepeats()
	}
	return nil
}

func (s *Shard) append(i uint32, e *session.Event) {
	en := &s.table.entries[i]
	if en.pending == 0 {
		s.dirty = append(s.dirty, i)
	}
	at := len(s.arena)
	s.arena = appendUint32(s.arena, en.pending)
	s.arena = appendUint32(s.arena, 0)
	s.arena = session.AppendEvent(s.arena, e)
	putUint32(s.arena[at+4:], uint32(len(s.arena)-at-8))
	en.pending = uint32(at + 1)
	en.nPend++
}

// EndTick folds what the tick brought, ends visits and seals up to the watermark. The rows touched are then read with
// Rows; Close ends the tick once they are safe.
func (s *Shard) EndTick() error {
	if err := s.settleAll(math.MaxInt); err != nil {
		return err
	}
	s.taken = 0
	if err := s.forget(); err != nil {
		return err
	}
	return s.advance()
}

// settleAll folds the beacons that are not yet, but for those of sessions that wait (settle).
func (s *Shard) settleAll(share int) error {
	wait := s.dirty[:0]
	for part := range slices.Chunk(s.dirty, peekAhead) {
		s.peek(part)
		for _, i := range part {
			if s.table.entries[i].pending == 0 {
				continue // settled by its own number of beacons, and quiet since
			}
			done, err := s.settle(i, share)
			if err != nil {
				return err
			}
			if !done {
				wait = append(wait, i)
			}
			if s.repeats.bytes >= maxRepeats {
				if err := s.settleRepeats(); err != nil {
					return err
				}
			}
		}
	}
	if err := s.settleRepeats(); err != nil {
		return err
	}
	if s.dirty = wait; len(wait) == 0 {
		s.arena = s.arena[:0]
	}
	return nil
}

const (
	// peekAhead is the number of sessions whose memory is asked for together.
	peekAhead = 32
	// peekPending is the number of beacons of each that are asked for: a tick has two or three of a session.
	peekPending = 3
)

// Expect asks for the memory of the sessions that records are about to be taken of, by what are likely their ids: it
// spares time and changes nothing. At most peekAhead are asked for.
func (s *Shard) Expect(n int, id func(i int) []byte) { s.peeked += s.table.peek(&s.slab, n, id) }

// peek asks for the memory of sessions that are about to be looked at: they lie anywhere. At most peekAhead are given.
func (s *Shard) peek(sessions []uint32) {
	var pending [peekAhead]uint32 // the place + 1 of each one's newest beacon, then of the one before, and so on
	sum := byte(0)
	for k, i := range sessions {
		en := &s.table.entries[i]
		pending[k] = en.pending
		sum += s.peekEntry(en)
	}
	for _, i := range sessions {
		en := &s.table.entries[i]
		sum += s.slab.peekEnd(en.core) + s.slab.peekEnd(en.head) + s.slab.peekEnd(en.open)
	}
	for range peekPending {
		for k, at := range pending[:len(sessions)] {
			if at != 0 {
				pending[k] = binary.LittleEndian.Uint32(s.arena[at-1:])
			}
		}
	}
	s.peeked = sum
}

func (s *Shard) peekEntry(en *entry) byte {
	return s.slab.peek(en.core) + s.slab.peek(en.head) + s.slab.peek(en.open)
}

// advance looks at every session that the watermark makes due.
func (s *Shard) advance() error {
	if s.Watermark <= s.closed {
		return nil
	}
	for _, m := range s.dueMinutes() {
		list := s.dues[m]
		delete(s.dues, m)
		for part := range slices.Chunk(list, peekAhead) {
			s.peek(part)
			for _, i := range part {
				if en := &s.table.entries[i]; en.core == 0 || en.due != m {
					continue // forgotten, or to be looked at earlier and done
				}
				if err := s.seal(i); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// dueMinutes returns the minutes up to the watermark that have sessions to look at, in order.
func (s *Shard) dueMinutes() []int64 {
	var due []int64
	for m := range s.dues {
		if m <= s.Watermark {
			due = append(due, m)
		}
	}
	slices.Sort(due)
	return due
}

// Rows calls fn for every minute touched since the last tick. None of them is closed (session.Folder.Floor).
func (s *Shard) Rows(fn func(m *metric.Minute) error) error {
	for _, m := range s.sums.Minutes() {
		if m.Touched && m.Minute >= s.ID.FirstMinute {
			if err := fn(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close ends the tick: its rows and marker are acknowledged.
func (s *Shard) Close() {
	s.closed = s.Watermark
	s.sums.DropBefore(s.Watermark)
	for _, m := range s.sums.Minutes() {
		m.Untouch()
	}
}

// TouchAll touches every open row: the first tick of a generation publishes them all.
func (s *Shard) TouchAll() {
	for _, m := range s.sums.Minutes() {
		m.Touch(s.Cells)
	}
}

// Cells is the number of cells of a group.
func (s *Shard) Cells(group int) int { return len(s.Chain.Groups[group].Names) }

// Stats says how much the shard holds.
type Stats struct {
	Sessions, Bytes int64
}

// Stats returns how much the shard holds: sessions, and the bytes of their state, tables included.
func (s *Shard) Stats() Stats {
	return Stats{
		Sessions: int64(s.table.n),
		Bytes: s.slab.used + int64(len(s.table.slots))*8 + int64(cap(s.table.entries))*48 +
			int64(cap(s.since.entries))*4 + int64(cap(s.since.forgotten)),
	}
}
