package sessionize

import (
	"math"

	"tandem/core/metric"
	"tandem/core/session"
)

// seal moves a session up to the watermark: beacons before it become part of the sealed state, visits that have ended
// are counted, and a session that nothing can join any more is forgotten.
func (s *Shard) seal(i uint32) error {
	if done, err := s.sealHead(i); done || err != nil {
		return err
	}
	sc, en := &s.scratch, &s.table.entries[i]
	w := s.Watermark * 60000
	if err := s.loadSealed(i, &sc.sealed); err != nil {
		return err
	}
	sc.old.Reset()
	if err := decodeRun(&sc.old, s.slab.get(en.open)); err != nil {
		return s.corrupt(i, err)
	}
	f := s.folder()
	f.Ends = true
	run := sc.old.Events
	k := 0
	for k < len(run) && run[k].TS < w {
		k++
	}
	if k == len(run) || len(run) >= sealAt || s.nextEnd(&sc.sealed, run) < w {
		f.Fold(&sc.sealed, run[:k])
		f.EndVisits(&sc.sealed, w)
		run = run[k:]
	} else {
		if k == 0 {
			f.EndVisits(&sc.sealed, w)
		} // else an open beacon before the watermark may go on with the sealed visit
		k = 0
	}
	en.due = 0
	if len(run) == 0 && sc.sealed.Gone(s.Chain, w) {
		s.forgetSession(i)
		return nil
	}
	s.storeSealed(i, run, k > 0)
	s.wake(i, max(s.Watermark+1, s.nextDue(&sc.sealed, run)))
	return nil
}

// sealHead does what seal does where the outlines of the states are enough, which is nearly always: the open beacons
// are of one visit, the one that the head is in, and it has not ended. Then either all of them are before the watermark
// and the head becomes the sealed state, byte for byte, or there is nothing to do yet.
func (s *Shard) sealHead(i uint32) (done bool, err error) {
	en := &s.table.entries[i]
	if en.nOpen == 0 || en.head == 0 {
		return false, nil
	}
	state := s.slab.get(en.head)
	head, err := session.ReadOutline(state)
	if err != nil {
		return false, s.corrupt(i, err)
	}
	id, before := split(s.slab.get(en.core))
	sealed, err := session.ReadOutline(before)
	if err != nil {
		return false, s.corrupt(i, err)
	}
	if head.HasPending || sealed.HasPending || head.Empty || head.VisitEnded {
		return false, nil
	}
	goesOn := !sealed.Empty && head.VisitFirst == sealed.VisitFirst
	begins := head.VisitFirst == en.first && (sealed.Empty || sealed.VisitEnded)
	if !goesOn && !begins {
		return false, nil
	}
	w := s.Watermark * 60000
	if en.last >= w {
		if en.nOpen >= sealAt {
			return false, nil
		}
		en.due = 0
		s.wake(i, max(s.Watermark+1, metric.FloorDiv(en.last, 60000)+1))
		return true, nil
	}
	end := head.LastTS + s.gap(head.LastTS)
	if end < w {
		return false, nil
	}
	s.changed(i)
	s.scratch.buf = append(appendCore(s.scratch.buf[:0], id), state...)
	en.core = s.slab.replace(en.core, s.scratch.buf)
	s.dropOpen(en)
	en.due = 0
	s.wake(i, max(s.Watermark+1, metric.FloorDiv(end, 60000)+1))
	return true, nil
}

// dropOpen forgets the open beacons of a session and the state after them.
func (s *Shard) dropOpen(en *entry) {
	s.slab.drop(en.open)
	s.slab.drop(en.head)
	en.open, en.head, en.nOpen = 0, 0, 0
	en.first, en.last = 0, 0
}

// nextEnd returns the time of the earliest visit end still to be counted, of visits that a later open beacon or a cut
// has closed, and of the sealed one; math.MaxInt64 if there is none. The visit of the last open beacon is not looked
// at: it is due when that beacon is sealed.
func (s *Shard) nextEnd(sealed *session.State, run []session.Event) int64 {
	next := int64(math.MaxInt64)
	if len(sealed.Pending) > 0 {
		next = sealed.Pending[0].At
	}
	last, ended := sealed.LastTS, sealed.Empty || sealed.VisitEnded
	for k := range run {
		if gap := s.gap(last); !ended && (run[k].TS-last > gap || s.Chain.Cut(last, run[k].TS)) {
			next = min(next, last+gap)
		}
		last, ended = run[k].TS, false
	}
	if len(run) == 0 && !ended {
		next = min(next, last+s.gap(last))
	}
	return next
}

func (s *Shard) gap(ts int64) int64 {
	if r := s.Chain.At(ts); r != nil {
		return r.Config.VisitGap
	}
	return 0
}

// nextDue returns the minute after which the session must be looked at again.
func (s *Shard) nextDue(sealed *session.State, run []session.Event) int64 {
	if end := s.nextEnd(sealed, run); end != math.MaxInt64 {
		due := metric.FloorDiv(end, 60000) + 1
		if len(run) > 0 {
			due = min(due, metric.FloorDiv(run[len(run)-1].TS, 60000)+1)
		}
		return due
	}
	if len(run) > 0 {
		if len(run) >= sealAt {
			return metric.FloorDiv(run[0].TS, 60000) + 1
		}
		return metric.FloorDiv(run[len(run)-1].TS, 60000) + 1
	}
	if sealed.Empty {
		return 0
	}
	return metric.FloorDiv(sealed.LastTS+s.Chain.At(sealed.LastTS).Config.SessionTTL, 60000) + 2
}

// storeSealed stores the sealed state (in the scratch) and the beacons that stay open.
func (s *Shard) storeSealed(i uint32, run []session.Event, moved bool) {
	s.changed(i)
	sc, en := &s.scratch, &s.table.entries[i]
	if moved {
		sc.buf = sc.buf[:0]
		for k := range run {
			sc.buf = session.AppendEvent(sc.buf, &run[k])
		}
		if len(run) == 0 {
			s.dropOpen(en)
		} else {
			en.open = s.slab.replace(en.open, sc.buf)
			en.first, en.nOpen = run[0].TS, uint32(len(run))
		}
	}
	id := sessionID(s.slab.get(en.core))
	sc.buf = session.AppendState(appendCore(sc.buf[:0], id), &sc.sealed)
	en.core = s.slab.replace(en.core, sc.buf)
}

func (s *Shard) forgetSession(i uint32) {
	en := s.table.entries[i]
	s.forgotten(sessionID(s.slab.get(en.core)))
	s.slab.drop(en.open)
	s.slab.drop(en.head)
	s.table.remove(&s.slab, i)
	s.slab.drop(en.core)
}
