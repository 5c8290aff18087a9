package sessionize

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/core/tenant"
	"tandem/schemas/blob"
)

// lineage is a checkpoint with those that it goes on from.
type lineage struct {
	names         []string // the whole one, then deltas; none: no checkpoint that a delta could go on from
	offset        int64    // of the whole one
	whole, deltas int64    // bytes of it, and of the deltas together
	before        []string // the whole ones of the lineages that this one followed, the newest last
}

// mostDeltas of a lineage: a restart reads them one after another.
const mostDeltas = 30

// ended says whether a whole checkpoint is to come next, if it is not too early: since nothing can go on from this, or since its
// deltas have as much as the whole one, so that a restart reads twice what it needs, and all in all twice as much was written.
func (l *lineage) ended() bool {
	return len(l.names) == 0 || len(l.names) > mostDeltas || l.deltas >= l.whole
}

// newest is the last checkpoint.
func (l *lineage) newest() string {
	if len(l.names) == 0 {
		return ""
	}
	return l.names[len(l.names)-1]
}

// add notes a checkpoint that was taken: a whole one begins a lineage.
func (l *lineage) add(name string, whole bool, offset, bytes int64) {
	if !whole {
		l.names = append(l.names, name)
		l.deltas += bytes
		return
	}
	before := l.before
	if len(l.names) > 0 {
		before = append(before, l.names[0])
	}
	*l = lineage{names: []string{name}, offset: offset, whole: bytes, before: before[max(0, len(before)-keepCheckpoints):]}
}

// lost is what remains where nothing can go on from the lineage.
func (l *lineage) lost() lineage {
	if len(l.names) == 0 {
		return *l
	}
	return lineage{before: append(l.before, l.names[0])}
}

// kept is the oldest checkpoint that is still wanted, "" if all are: this lineage and the one before, and more of those before
// that if these are fewer than keepCheckpoints. It is never later than this lineage's own whole one. So of several owners side
// by side the one whose lineage began last never loses any of it to the others, and something to restart from is always there.
func (l *lineage) kept() string {
	if len(l.names) == 0 {
		return ""
	}
	n := len(l.names)
	for i := len(l.before) - 1; i >= 0; i-- {
		if n++; n >= keepCheckpoints {
			return l.before[i]
		}
	}
	return ""
}

// errOrphan: a checkpoint is there, but not all that it goes on from. Another owner, whose own lineage is there, took it for old.
var errOrphan = errors.New("what it goes on from is gone")

// follow reads a checkpoint and, if it is a delta, those that it goes on from, one after another, and hands them to fn.
func follow(name string, get func(name string) ([]byte, error), fn func(c *checkpoint) error) (l lineage, err error) {
	var newest, before *header
	for at := name; at != ""; at = before.Parent {
		b, err := get(at)
		if err != nil {
			if before != nil && errors.Is(err, blob.ErrNotFound) {
				err = fmt.Errorf("%w: %w", errOrphan, err)
			}
			return l, fmt.Errorf("checkpoint %s: %w", at, err)
		}
		c := checkpoint{name: at}
		if err := c.open(b); err != nil {
			return l, err
		}
		if newest == nil {
			newest = &c.head
		} else if c.head.ID != newest.ID || c.head.Offset >= before.Offset {
			return l, c.fail("another one goes on from it, and it is none of the same shard before that one")
		}
		if err := fn(&c); err != nil {
			return l, err
		}
		l.names = append(l.names, at)
		if l.offset, l.whole = c.head.Offset, int64(len(b)); c.head.Parent != "" {
			l.deltas += l.whole
		}
		before = &c.head
	}
	slices.Reverse(l.names)
	return l, nil
}

// newestComplete tries checkpoints, the newest first, which stands last, until one is no orphan. With none it is errOrphan.
func newestComplete(taken []string, try func(name string) error) (err error) {
	for i := len(taken) - 1; i >= 0; i-- {
		if err = try(taken[i]); !errors.Is(err, errOrphan) {
			break
		}
	}
	return err
}

// complete finds the newest of some checkpoints of which all is there.
func complete(taken []string, get func(name string) ([]byte, error)) (l lineage, err error) {
	err = newestComplete(taken, func(name string) (err error) {
		l, err = follow(name, get, func(*checkpoint) error { return nil })
		return err
	})
	return l, err
}

// lasting finds among some checkpoints, the newest last, one that another owner does not delete within its next: the newest of the
// lineage that began last (lineage.kept). errOrphan if none is complete.
func lasting(taken []string, get func(name string) ([]byte, error)) (lineage, error) {
	best, err := complete(taken, get)
	if err != nil {
		return best, err
	}
	for i := len(taken) - 1; i >= 0 && taken[i] > best.names[0]; i-- {
		if slices.Contains(best.names, taken[i]) {
			continue
		}
		l, err := complete(taken[i:i+1], get)
		switch {
		case errors.Is(err, errOrphan):
		case err != nil:
			return best, err
		case l.names[0] > best.names[0]:
			best = l
		}
	}
	return best, nil
}

// restore makes a shard from a checkpoint and what it goes on from, which get reads. From the newest to the oldest: the first that
// speaks of a session is right.
func restore(name string, get func(name string) ([]byte, error), chain *tenant.Chain, payload PayloadAt) (*Shard, lineage, error) {
	var s *Shard
	sessions := 0
	forgotten := map[string]struct{}{}
	l, err := follow(name, get, func(c *checkpoint) error {
		h := &c.head
		if h.Tenant != chain.Tenant || !goesOn(h.Revisions, chain) {
			return fmt.Errorf("checkpoint %s: %w: it was made under other revisions of the config: its ids mean something else", c.name, ErrRefused)
		}
		newest := s == nil
		if newest {
			s = New(h.ID, chain, h.Offset, payload)
			s.Sources, s.Progress, s.Watermark, s.until, s.tick, s.Counts = h.Sources, h.Progress, h.Watermark, h.Until, h.Tick, h.Counts
			s.closed = s.Watermark // a checkpoint is taken at the end of a tick
			sessions = h.Sessions
		}
		return c.into(s, forgotten, newest)
	})
	if err != nil {
		return nil, l, err
	}
	if s.table.n != sessions {
		return nil, l, fmt.Errorf("checkpoint %s: it has %d sessions, not %d", name, s.table.n, sessions)
	}
	s.Close()
	s.followChanges(true)
	return s, l, nil
}

// checkpoint is one on the way in.
type checkpoint struct {
	name string // for errors
	head header
	rest []byte // not read yet
}

func (c *checkpoint) fail(what string) error { return fmt.Errorf("checkpoint %s: %s", c.name, what) }

// open checks the object and reads its header.
func (c *checkpoint) open(b []byte) error {
	magic := ""
	if len(b) >= checkpointHead {
		magic = string(b[:len(wholeMagic)])
	}
	if magic != wholeMagic && magic != deltaMagic {
		return c.fail("no checkpoint of this version")
	}
	c.rest = b[checkpointHead:]
	if xxhash.Sum64(c.rest) != binary.LittleEndian.Uint64(b[len(magic):]) {
		return c.fail("digest differs: the object is corrupt or cut short")
	}
	head, ok := c.next()
	if !ok || json.Unmarshal(head, &c.head) != nil || (c.head.Parent != "") != (magic == deltaMagic) {
		return c.fail("header is corrupt")
	}
	return nil
}

func (c *checkpoint) next() ([]byte, bool) {
	n, k := binary.Uvarint(c.rest)
	if k <= 0 || n > uint64(len(c.rest)-k) {
		return nil, false
	}
	x := c.rest[k : k+int(n)]
	c.rest = c.rest[k+int(n):]
	return x, true
}

// into puts those sessions into the shard of which no later checkpoint has spoken; there is none later than the newest.
func (c *checkpoint) into(s *Shard, forgotten map[string]struct{}, newest bool) error {
	n := c.head.Sessions
	if c.head.Parent != "" {
		n = c.head.Changed
	}
	for range n {
		core, ok1 := c.next()
		head, ok2 := c.next()
		open, ok3 := c.next()
		if !ok1 || !ok2 || !ok3 {
			return c.fail("a session is corrupt")
		}
		if n, k := binary.Uvarint(core); k <= 0 || n == 0 || n > uint64(len(core)-k) {
			return c.fail("a session without id")
		}
		if _, gone := forgotten[string(sessionID(core))]; gone {
			continue
		}
		found, err := s.restoreSession(core, head, open)
		if err != nil {
			return fmt.Errorf("checkpoint %s: %w", c.name, err)
		}
		if found && newest {
			return fmt.Errorf("checkpoint %s: session %q is there twice", c.name, sessionID(core))
		}
	}
	for range c.head.Forgotten { // a session that came again is among those above
		id, ok := c.next()
		if !ok {
			return c.fail("the id of a session is corrupt")
		}
		forgotten[string(id)] = struct{}{}
	}
	if len(c.rest) != 0 {
		return c.fail("more bytes than sessions")
	}
	return nil
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

// restoreSession puts a session back and adds what its open beacons contribute to open minutes. It is found if it is there.
func (s *Shard) restoreSession(core, head, open []byte) (found bool, err error) {
	sc := &s.scratch
	i, found := s.table.find(&s.slab, sessionID(core))
	if found {
		return true, nil
	}
	en := &s.table.entries[i]
	en.core = s.slab.put(core)
	if err := s.loadSealed(i, &sc.sealed); err != nil {
		return false, err
	}
	sc.old.Reset()
	if err := decodeRun(&sc.old, open); err != nil {
		return false, s.corrupt(i, err)
	}
	if err := sc.old.Check(s.Chain); err != nil {
		return false, s.corrupt(i, err)
	}
	run := sc.old.Events
	if len(run) > 0 && !sc.sealed.Empty && run[0].TS <= sc.sealed.LastTS {
		return false, s.corrupt(i, errors.New("an open beacon is not later than those sealed"))
	}
	if len(run) > 0 {
		en.open, en.head = s.slab.put(open), s.slab.put(head)
		en.nOpen, en.first, en.last = uint32(len(run)), run[0].TS, run[len(run)-1].TS
		sc.head.Copy(&sc.sealed)
		f := s.folder()
		f.Beacons = true
		f.Fold(&sc.head, run)
	}
	s.wake(i, max(s.Watermark+1, s.nextDue(&sc.sealed, run)))
	return false, nil
}
