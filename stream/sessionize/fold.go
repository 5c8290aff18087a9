package sessionize

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"tandem/core/metric"
	"tandem/core/session"
)

func appendUint32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func putUint32(b []byte, v uint32)           { binary.LittleEndian.PutUint32(b, v) }

// settle folds a session's beacons that are not yet: onto its head if all of them are strictly later than what it has,
// else by taking the old run back and adding the new one (SPEC 7), unless there are more than share times as many open
// beacons as came: then nothing is done. One that needs payloads is left to settleRepeats.
func (s *Shard) settle(i uint32, share int) (done bool, err error) {
	sc := &s.scratch
	if err := s.loadPending(i); err != nil {
		return false, err
	}
	en := &s.table.entries[i]
	if s.inOrder(en) {
		if ascending(sc.pend.Events) {
			s.pendingBytes()
			return true, s.extend(i, sc.pend.Events)
		}
		slices.SortFunc(sc.pend.Events, func(a, b session.Event) int { return session.Compare(&a, &b) })
		if ascending(sc.pend.Events) {
			s.eventBytes(sc.pend.Events)
			return true, s.extend(i, sc.pend.Events)
		}
		// The order of arrival decides which of two repeats is counted, so begin again.
		if err := s.loadPending(i); err != nil {
			return false, err
		}
	}
	if int(en.nOpen)/share > int(en.nPend) {
		return false, nil
	}
	sc.old.Reset()
	if err := decodeRun(&sc.old, s.slab.get(en.open)); err != nil {
		return false, s.corrupt(i, err)
	}
	sc.new.Reset()
	counts := s.Counts
	changed, err := s.merge()
	if err != nil {
		return false, err
	}
	if r := &s.repeats; r.asked {
		r.asked, r.waiting, s.Counts = false, append(r.waiting, i), counts // the same again, once they are known
		return true, nil
	}
	if !changed {
		en.pending, en.nPend = 0, 0
		return true, nil
	}
	if added, ok := s.later(); ok {
		s.eventBytes(added)
		return true, s.extend(i, added)
	}
	return true, s.refold(i)
}

// loadPending reads the session's beacons that are not folded yet, in the order in which they came. The entry keeps
// pointing at them until settle is done with it.
func (s *Shard) loadPending(i uint32) error {
	sc, en := &s.scratch, &s.table.entries[i]
	sc.order = sc.order[:0]
	for at := en.pending; at != 0; at = binary.LittleEndian.Uint32(s.arena[at-1:]) {
		sc.order = append(sc.order, at-1)
	}
	sc.pend.Reset()
	for k := len(sc.order) - 1; k >= 0; k-- {
		at := sc.order[k]
		n := binary.LittleEndian.Uint32(s.arena[at+4:])
		if _, err := sc.pend.Decode(s.arena[at+8 : at+8+n]); err != nil {
			return s.corrupt(i, err)
		}
	}
	return nil
}

// inOrder says whether all pending beacons are strictly later than the open ones, and too few for any minute to be
// full.
func (s *Shard) inOrder(en *entry) bool {
	least := s.Chain.Revs[0].Config.MaxEventsPerMinute
	for i := range s.Chain.Revs {
		least = min(least, s.Chain.Revs[i].Config.MaxEventsPerMinute)
	}
	if int(en.nOpen)+int(en.nPend) > least {
		return false
	}
	if en.nOpen == 0 {
		return true
	}
	for i := range s.scratch.pend.Events {
		if s.scratch.pend.Events[i].TS <= en.last {
			return false
		}
	}
	return true
}

// pendingBytes puts the bytes of the session's beacons that are not folded yet, as they came, into the scratch buffer.
func (s *Shard) pendingBytes() {
	sc := &s.scratch
	sc.buf = sc.buf[:0]
	for k := len(sc.order) - 1; k >= 0; k-- {
		at := sc.order[k]
		sc.buf = append(sc.buf, s.arena[at+8:at+8+binary.LittleEndian.Uint32(s.arena[at+4:])]...)
	}
}

// eventBytes puts the bytes of events into the scratch buffer.
func (s *Shard) eventBytes(events []session.Event) {
	sc := &s.scratch
	sc.buf = sc.buf[:0]
	for k := range events {
		sc.buf = session.AppendEvent(sc.buf, &events[k])
	}
}

// ascending says whether the events are in order and none repeats another.
func ascending(events []session.Event) bool {
	for i := 1; i < len(events); i++ {
		if session.Compare(&events[i-1], &events[i]) >= 0 {
			return false
		}
	}
	return true
}

func decodeRun(r *session.Run, b []byte) (err error) {
	for len(b) > 0 {
		if b, err = r.Decode(b); err != nil {
			return err
		}
	}
	return nil
}

// merge brings the pending beacons, in order of arrival, into a copy of the open ones: sections 2's duplicates and
// overflow. It says whether anything changed.
func (s *Shard) merge() (changed bool, err error) {
	sc := &s.scratch
	run := append(sc.new.Events[:0], sc.old.Events...)
	for k := range sc.pend.Events {
		e := &sc.pend.Events[k]
		at, found := slices.BinarySearchFunc(run, e, func(a session.Event, b *session.Event) int { return session.Compare(&a, b) })
		if found {
			s.Counts.Duplicate++
			smaller, err := s.smaller(e, &run[at])
			if err != nil {
				return false, err
			}
			if smaller {
				run[at] = *e
				changed = true
			}
			continue
		}
		minute := metric.FloorDiv(e.TS, 60000)
		from, to := before(run, minute*60000), before(run, (minute+1)*60000)
		if to-from >= s.Chain.At(e.TS).Config.MaxEventsPerMinute {
			s.Counts.Overflow++
			if at == to {
				continue
			}
			copy(run[at+1:to], run[at:to-1]) // the last of the minute makes room
			run[at] = *e
		} else {
			run = slices.Insert(run, at, *e)
		}
		changed = true
	}
	sc.new.Events = run
	return changed, nil
}

// before returns how many events of the run are before ts.
func before(run []session.Event, ts int64) int {
	return sort.Search(len(run), func(i int) bool { return run[i].TS >= ts })
}

// later returns what the new run has beyond the old one, if the old one is its head and all else is strictly later.
func (s *Shard) later() ([]session.Event, bool) {
	old, run := s.scratch.old.Events, s.scratch.new.Events
	if len(run) < len(old) {
		return nil, false
	}
	for k := range old {
		if session.Compare(&old[k], &run[k]) != 0 || old[k].Offset != run[k].Offset {
			return nil, false
		}
	}
	if len(old) > 0 && len(run) > len(old) && run[len(old)].TS <= old[len(old)-1].TS {
		return nil, false
	}
	return run[len(old):], true
}

// folder returns the shard's folder, set to take part in neither beacons nor ends.
func (s *Shard) folder() *session.Folder {
	f := &s.scratch.folder
	f.Chain, f.Sums, f.Sign, f.Floor = s.Chain, &s.sums, 1, s.closed
	f.Beacons, f.Ends, f.Seen, f.Counts = false, false, nil, session.Counts{}
	return f
}

// extend folds beacons that are strictly later than all of the session's onto its head. Their bytes are in the scratch
// buffer.
func (s *Shard) extend(i uint32, added []session.Event) error {
	sc, en := &s.scratch, &s.table.entries[i]
	if err := s.loadHead(i, &sc.head); err != nil {
		return err
	}
	f := s.folder()
	f.Beacons = true
	f.Fold(&sc.head, added)
	s.addCounts(f)
	en.open = s.slab.extend(en.open, sc.buf)
	if en.nOpen == 0 {
		en.first = added[0].TS
	}
	s.keep(i, f.Closed > 0, en.first, added[len(added)-1].TS, int(en.nOpen)+len(added))
	return nil
}

// refold takes the contributions of the old run back and adds those of the new one. Where both begin alike they
// contribute alike, so that part only moves the state on.
func (s *Shard) refold(i uint32) error {
	sc := &s.scratch
	if err := s.loadSealed(i, &sc.sealed); err != nil {
		return err
	}
	old, run := sc.old.Events, sc.new.Events
	n := alike(old, run)
	f := s.folder()
	sc.head.Copy(&sc.sealed)
	f.Fold(&sc.head, run[:n])
	closed, restarted := f.Closed, f.Restarted
	f.Beacons, f.Sign = true, -1
	f.Seen = func(int64, metric.Key, uint64) {} // sketches only grow
	sc.before.Copy(&sc.head)
	f.Fold(&sc.before, old[n:])
	restarted += f.Restarted
	f.Sign, f.Seen = 1, nil
	f.Fold(&sc.head, run[n:])
	closed, restarted = closed+f.Closed, restarted+f.Restarted
	s.addCounts(f)
	if restarted > 0 || !s.kept() || !sc.head.Covers(&sc.before) {
		s.unsee()
	}
	s.eventBytes(run)
	en := &s.table.entries[i]
	en.open = s.slab.replace(en.open, sc.buf)
	s.keep(i, closed > 0, run[0].TS, run[len(run)-1].TS, len(run))
	return nil
}

// alike returns how many beacons two runs begin with alike, such that neither goes on with one of the same ts (SPEC 7:
// those belong together).
func alike(a, b []session.Event) int {
	n := 0
	for n < len(a) && n < len(b) && session.Compare(&a[n], &b[n]) == 0 && a[n].Offset == b[n].Offset {
		n++
	}
	for n > 0 && (n < len(a) && a[n].TS == a[n-1].TS || n < len(b) && b[n].TS == b[n-1].TS) {
		n--
	}
	return n
}

// kept says whether the new run has every beacon of the old one, as it was.
func (s *Shard) kept() bool {
	run := s.scratch.new.Events
	k := 0
	for i := range s.scratch.old.Events {
		e := &s.scratch.old.Events[i]
		for k < len(run) && session.Compare(&run[k], e) < 0 {
			k++
		}
		if k == len(run) || session.Compare(&run[k], e) != 0 || run[k].Offset != e.Offset {
			return false
		}
	}
	return true
}

// unsee marks the minutes whose sketches hold a visitor that the old run showed there and the new one does not: others
// may have shown it too, so they are formed anew.
func (s *Shard) unsee() {
	sc := &s.scratch
	seen := func(run []session.Event) map[seenKey]struct{} {
		keys := map[seenKey]struct{}{}
		var sums metric.Sums // only who was seen is wanted
		f := session.Folder{Chain: s.Chain, Sums: &sums, Beacons: true, Sign: 1, Floor: s.closed}
		f.Seen = func(minute int64, k metric.Key, v uint64) { keys[seenKey{minute, k, v}] = struct{}{} }
		sc.before.Copy(&sc.sealed)
		f.Fold(&sc.before, run)
		return keys
	}
	came := seen(sc.new.Events)
	for k := range seen(sc.old.Events) {
		if _, still := came[k]; !still {
			s.stale[k.minute] = struct{}{}
		}
	}
}

// forget forms the sketches anew of every minute from which a visitor may have gone. It looks at every session, so it
// is done once a tick, for all of them together.
func (s *Shard) forget() error {
	if len(s.stale) == 0 {
		return nil
	}
	minutes := s.stale
	defer clear(minutes)
	for m := range minutes {
		s.sums.At(m).ForgetSeen()
	}
	var sums metric.Sums // only the sketches of those minutes are wanted
	f := session.Folder{Chain: s.Chain, Sums: &sums, Beacons: true, Sign: 1, Floor: s.closed}
	f.Seen = func(minute int64, k metric.Key, v uint64) {
		if _, ok := minutes[minute]; ok {
			s.sums.At(minute).Seen(metric.To{Scopes: []metric.Key{k}}, 0, v)
		}
	}
	var run session.Run
	var st session.State
	for i := range s.table.entries {
		en := &s.table.entries[i]
		if en.core == 0 || en.nOpen == 0 {
			continue
		}
		run.Reset()
		if err := decodeRun(&run, s.slab.get(en.open)); err != nil {
			return s.corrupt(uint32(i), err)
		}
		if err := s.loadSealed(uint32(i), &st); err != nil {
			return err
		}
		f.Fold(&st, run.Events)
	}
	return nil
}

func (s *Shard) addCounts(f *session.Folder) {
	s.Counts.Conflict += f.Counts.Conflict
	s.Counts.UnknownVariation += f.Counts.UnknownVariation
}

// keep stores the head of a session and what its open run is, and when to look at it next.
func (s *Shard) keep(i uint32, closed bool, first, last int64, n int) {
	s.changed(i)
	sc, en := &s.scratch, &s.table.entries[i]
	sc.buf = session.AppendState(sc.buf[:0], &sc.head)
	en.head = s.slab.replace(en.head, sc.buf)
	en.first, en.last, en.nOpen = first, last, uint32(n)
	en.pending, en.nPend = 0, 0
	due := metric.FloorDiv(last, 60000) + 1
	if closed || n >= sealAt {
		due = metric.FloorDiv(first, 60000) + 1 // no visit with an open beacon ends before
	}
	s.wake(i, due)
}

func (s *Shard) loadSealed(i uint32, st *session.State) error {
	_, sealed := split(s.slab.get(s.table.entries[i].core))
	if len(sealed) == 0 {
		st.Reset()
		return nil
	}
	if err := st.Decode(s.Chain, sealed); err != nil {
		return s.corrupt(i, err)
	}
	return nil
}

func (s *Shard) loadHead(i uint32, st *session.State) error {
	head := s.table.entries[i].head
	if head == 0 {
		return s.loadSealed(i, st)
	}
	if err := st.Decode(s.Chain, s.slab.get(head)); err != nil {
		return s.corrupt(i, err)
	}
	return nil
}

func (s *Shard) corrupt(i uint32, err error) error {
	id := sessionID(s.slab.get(s.table.entries[i].core))
	return fmt.Errorf("%s/%d: state of session %q: %w", s.ID.Topic, s.ID.Partition, id, err)
}

// wake has the session looked at once the watermark is past the minute before due.
func (s *Shard) wake(i uint32, due int64) {
	en := &s.table.entries[i]
	if en.due != 0 && en.due <= due {
		return
	}
	en.due = due
	s.dues[due] = append(s.dues[due], i)
}
