package sessionize

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"

	"tandem/core/session"
)

// repeats are the sessions of a settling that have beacons repeated with other payloads. These are read for many sessions at
// once, in the log's order: clients whose second attempt says that it is one repeat any number of beacons so, and jumps in the
// log for each pair would hold a shard for longer than the beacons take to come.
type repeats struct {
	waiting  []uint32         // sessions, in the order in which they are folded
	payloads map[int64][]byte // by offset; nil: to be read
	bytes    int              // of them
	asked    bool             // by the session that is looked at
	known    bool             // they are read: nobody asks any more
}

// maxRepeats bytes of payloads are read at once: of 500 bytes each those of 32,000 pairs. Once they are asked for, their sessions
// are folded before others are looked at; what one session needs beyond them is read pair by pair.
const maxRepeats = 32 << 20

// smaller says whether a's payload is bytewise smaller than b's. Before payloads are read it asks for them, and does not know.
func (s *Shard) smaller(a, b *session.Event) (bool, error) {
	if a.Digest == b.Digest && a.Size == b.Size {
		return false, nil
	}
	if !s.repeats.known {
		s.repeats.ask(a)
		s.repeats.ask(b)
		return false, nil
	}
	pa, err := s.payload(a.Offset)
	if err != nil {
		return false, err
	}
	pb, err := s.payload(b.Offset)
	return bytes.Compare(pa, pb) < 0, err
}

func (r *repeats) ask(e *session.Event) {
	r.asked = true
	if _, ok := r.payloads[e.Offset]; ok || r.bytes >= maxRepeats {
		return
	}
	if r.payloads == nil {
		r.payloads = map[int64][]byte{}
	}
	r.payloads[e.Offset] = nil
	r.bytes += e.Size
}

// payload returns one that was read, or reads it: beyond maxRepeats, and where the third of three payloads is the first once
// more, so that nobody knew that it would be compared with the second.
func (s *Shard) payload(offset int64) ([]byte, error) {
	if p := s.repeats.payloads[offset]; p != nil {
		return p, nil
	}
	p, err := s.Payload(offset)
	if err != nil {
		return nil, fmt.Errorf("%s/%d: payload of record %d: %w", s.ID.Topic, s.ID.Partition, offset, err)
	}
	return bytes.Clone(p), nil
}

// settleRepeats reads the payloads that were asked for and folds the sessions that wait for them.
func (s *Shard) settleRepeats() (err error) {
	r := &s.repeats
	if len(r.waiting) == 0 {
		return nil
	}
	for _, offset := range slices.Sorted(maps.Keys(r.payloads)) {
		if r.payloads[offset], err = s.payload(offset); err != nil {
			return err
		}
	}
	r.known = true
	for _, i := range r.waiting {
		if _, err := s.settle(i, math.MaxInt); err != nil {
			return err
		}
	}
	*r = repeats{waiting: r.waiting[:0]}
	return nil
}
