package sessionize

import (
	"math"

	"tandem/core/metric"
	"tandem/core/session"
)

// seal moves a session up to the watermark: beacons before it become part of the sealed state, visits that have ended
// are counted, and a session that nothing can join any more is forgotten.
func (s *Shard) seal(i uint32) error {
	sc, en := &s.scratch, &s.table.entries[i]
	w := s.Watermark * 60000
	if err := s.loadSealed(i, &sc.sealed); err != nil {
		return err
	}
	f := s.folder()
	f.Ends = true
	var run []session.Event
	k, skip := 0, false
	if whole := en.nOpen > 0 && en.last < w; whole && s.oneVisit(i, &sc.sealed) {
		k = int(en.nOpen)
		sc.sealed.Copy(&sc.head)
	} else {
		sc.old.Reset()
		if err := decodeRun(&sc.old, s.slab.get(en.open)); err != nil {
			return s.corrupt(i, err)
		}
		run = sc.old.Events
		for k < len(run) && run[k].TS < w {
			k++
		}
		if whole || len(run) >= sealAt || s.nextEnd(&sc.sealed, run) < w {
			f.Fold(&sc.sealed, run[:k])
		} else {
			skip = k > 0 // an open beacon before the watermark may go on with the sealed visit
			k = 0
		}
		run = run[k:]
	}
	if !skip {
		f.EndVisits(&sc.sealed, w)
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

// oneVisit says whether the head's visit is the only one that the open beacons touch, so that the head may simply
// become the sealed state (it is left in the scratch): no visit was closed that has still to be counted.
func (s *Shard) oneVisit(i uint32, sealed *session.State) bool {
	en := &s.table.entries[i]
	if err := s.loadHead(i, &s.scratch.head); err != nil {
		return false // the full fold will meet the error again, and name it
	}
	head := &s.scratch.head
	if len(sealed.Pending)+len(head.Pending) > 0 {
		return false
	}
	if !sealed.Empty && head.VisitFirst == sealed.VisitFirst {
		return true
	}
	return head.VisitFirst == en.first && (sealed.Empty || sealed.VisitEnded)
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
	sc, en := &s.scratch, &s.table.entries[i]
	if moved {
		sc.buf = sc.buf[:0]
		for k := range run {
			sc.buf = session.AppendEvent(sc.buf, &run[k])
		}
		if len(run) == 0 {
			s.slab.drop(en.open)
			s.slab.drop(en.head)
			en.open, en.head = 0, 0
			en.first, en.last = 0, 0
		} else {
			en.open = s.slab.replace(en.open, sc.buf)
			en.first = run[0].TS
		}
		en.nOpen = uint32(len(run))
	}
	id := sessionID(s.slab.get(en.core))
	sc.buf = session.AppendState(appendCore(sc.buf[:0], id), &sc.sealed)
	en.core = s.slab.replace(en.core, sc.buf)
}

func (s *Shard) forgetSession(i uint32) {
	en := s.table.entries[i]
	s.slab.drop(en.open)
	s.slab.drop(en.head)
	s.table.remove(&s.slab, i)
	s.slab.drop(en.core)
}
