// Package session folds the beacons of sessions into contributions to metrics. There is one Fold (SPEC 7): the stream
// folds what a tick brought, the batch folds a window.
package session

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"

	"tandem/core/tenant"
)

// Event is a used beacon as its revision reads it: names are ids of the tenant.Chain, so an event is valid only with
// the chain that it was read with, or one that goes on from it.
type Event struct {
	TS      int64 // ms since the epoch
	ID      []byte
	Ingest  int64  // ms since the epoch
	Offset  int64  // of the record that it came from
	Digest  uint64 // of the payload
	Size    int    // of the payload, bytes
	Point   int    // point instance, 0: not measured
	Tags    uint32
	Visitor uint64 // hash, 0: none
	Values  []Value
	Exps    []Assignment
	Conds   []uint64 // bit i: condition CondIDs[i] of the revision holds; missing words are zero
}

// Value is a measured value: its place in the point's Values and the scaled integer.
type Value struct {
	Index int
	N     int64
}

// Assignment says that the beacon names an experiment. Variation < 0: one that the revision does not list.
type Assignment struct{ Inst, Variation int }

// Compare orders the events of a session (SPEC 2): 0 means that they are one beacon.
func Compare(a, b *Event) int {
	if c := cmp.Compare(a.TS, b.TS); c != 0 {
		return c
	}
	return bytes.Compare(a.ID, b.ID)
}

// Holds says whether the condition at that place of the revision holds.
func (e *Event) Holds(pos int) bool {
	return pos>>6 < len(e.Conds) && e.Conds[pos>>6]>>(pos&63)&1 != 0
}

// Run holds events and owns what they point to; Reset keeps its memory.
type Run struct {
	Events []Event
	vals   []Value
	exps   []Assignment
	conds  []uint64
	bytes  []byte
}

// Reset empties the run. Events taken from it are no longer valid.
func (r *Run) Reset() {
	r.Events, r.vals, r.exps, r.conds, r.bytes = r.Events[:0], r.vals[:0], r.exps[:0], r.conds[:0], r.bytes[:0]
}

// An event in bytes; all integers are varints (u: unsigned, s: zigzag), digests 8 bytes little-endian:
//
//	u flags  s ts  u len(id)  id  s ingest-ts  u offset  digest  u size  u point  u tags  [visitor]
//	[u n  n * (u index, s n)]  [u n  n * (u inst, u variation+1)]  [u n  n bytes of conditions, low bit first]
const (
	hasVisitor = 1 << iota
	hasValues
	hasExps
	hasConds
)

// AppendEvent appends the event's bytes.
func AppendEvent(b []byte, e *Event) []byte {
	flags := byte(0)
	if e.Visitor != 0 {
		flags |= hasVisitor
	}
	if len(e.Values) > 0 {
		flags |= hasValues
	}
	if len(e.Exps) > 0 {
		flags |= hasExps
	}
	conds := 0
	for i, w := range e.Conds {
		if w != 0 {
			flags |= hasConds
			conds = i + 1
		}
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, e.TS)
	b = binary.AppendUvarint(b, uint64(len(e.ID)))
	b = append(b, e.ID...)
	b = binary.AppendVarint(b, e.Ingest-e.TS)
	b = binary.AppendUvarint(b, uint64(e.Offset))
	b = binary.LittleEndian.AppendUint64(b, e.Digest)
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = binary.AppendUvarint(b, uint64(e.Point))
	b = binary.AppendUvarint(b, uint64(e.Tags))
	if e.Visitor != 0 {
		b = binary.LittleEndian.AppendUint64(b, e.Visitor)
	}
	if len(e.Values) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Values)))
		for _, v := range e.Values {
			b = binary.AppendVarint(binary.AppendUvarint(b, uint64(v.Index)), v.N)
		}
	}
	if len(e.Exps) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Exps)))
		for _, x := range e.Exps {
			b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.Inst)), uint64(x.Variation+1))
		}
	}
	if conds > 0 {
		b = binary.AppendUvarint(b, uint64(conds))
		for _, w := range e.Conds[:conds] {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	return b
}

var errCorrupt = errors.New("bytes are corrupt")

// reader reads varints; the first fault sticks.
type reader struct {
	b   []byte
	at  int // what is before it is read
	err error
}

func (r *reader) u() uint64 {
	if r.at < len(r.b) && r.b[r.at] < 0x80 {
		r.at++
		return uint64(r.b[r.at-1])
	}
	return r.long()
}

func (r *reader) long() uint64 {
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.corrupt()
		return 0
	}
	r.at += n
	return v
}

// corrupt notes the fault; there is nothing more to read.
func (r *reader) corrupt() { r.err, r.at = errCorrupt, len(r.b) }

func (r *reader) left() int { return len(r.b) - r.at }

func (r *reader) s() int64 {
	u := r.u()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads a length of things of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.u()
	if n > uint64(r.left()/size) {
		r.corrupt()
		return 0
	}
	return int(n)
}

func (r *reader) take(n int) []byte {
	if n > r.left() {
		r.corrupt()
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) fixed() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Decode appends the event at the head of b to the run and returns the rest of b. The event's ID aliases b.
func (r *Run) Decode(b []byte) ([]byte, error) {
	in := reader{b: b}
	r.Events = append(r.Events, Event{})
	e := &r.Events[len(r.Events)-1]
	flags := byte(in.u())
	e.TS = in.s()
	e.ID = in.take(in.count(1))
	e.Ingest = e.TS + in.s()
	e.Offset = int64(in.u())
	e.Digest = in.fixed()
	e.Size = int(in.u())
	e.Point = int(in.u())
	e.Tags = uint32(in.u())
	if flags&hasVisitor != 0 {
		e.Visitor = in.fixed()
	}
	if flags&hasValues != 0 {
		from := len(r.vals)
		for range in.count(2) {
			i := in.u()
			r.vals = append(r.vals, Value{int(i), in.s()})
		}
		e.Values = r.vals[from:len(r.vals):len(r.vals)]
	}
	if flags&hasExps != 0 {
		from := len(r.exps)
		for range in.count(2) {
			i := in.u()
			r.exps = append(r.exps, Assignment{int(i), int(in.u()) - 1})
		}
		e.Exps = r.exps[from:len(r.exps):len(r.exps)]
	}
	if flags&hasConds != 0 {
		from := len(r.conds)
		for range in.count(8) {
			r.conds = append(r.conds, in.fixed())
		}
		e.Conds = r.conds[from:len(r.conds):len(r.conds)]
	}
	if in.err != nil {
		r.Events = r.Events[:len(r.Events)-1]
		return nil, in.err
	}
	return b[in.at:], nil
}

// Check says whether the events are such as a reader of the chain makes, each after the one before: what they name is there, so
// that they can be folded.
func (r *Run) Check(chain *tenant.Chain) error {
	for i := range r.Events {
		e := &r.Events[i]
		if i > 0 && Compare(&r.Events[i-1], e) >= 0 || e.TS < MinTS || e.TS > MaxTS || !e.known(chain) {
			return errCorrupt
		}
	}
	return nil
}

// known says whether the chain has what the event names.
func (e *Event) known(chain *tenant.Chain) bool {
	rev := chain.At(e.TS)
	if rev == nil || int64(e.Tags) >= int64(len(chain.Tags)) || e.Point < 0 || e.Point == 0 && len(e.Values) > 0 {
		return false
	}
	if e.Point > 0 {
		p := rev.Point(e.Point)
		if p == nil {
			return false
		}
		for _, v := range e.Values {
			if v.Index < 0 || v.Index >= len(p.Values) {
				return false
			}
		}
	}
	for _, x := range e.Exps {
		if x.Inst < 0 || rev.Exp(x.Inst) == nil || x.Variation >= 0 && !rev.Exp(x.Inst).Listed(x.Variation) {
			return false
		}
	}
	return true
}

// Append appends a copy of the event, ID included.
func (r *Run) Append(e *Event) *Event {
	c := *e
	n := len(r.bytes)
	r.bytes = append(r.bytes, e.ID...)
	c.ID = r.bytes[n:len(r.bytes):len(r.bytes)]
	n = len(r.vals)
	r.vals = append(r.vals, e.Values...)
	c.Values = r.vals[n:len(r.vals):len(r.vals)]
	n = len(r.exps)
	r.exps = append(r.exps, e.Exps...)
	c.Exps = r.exps[n:len(r.exps):len(r.exps)]
	n = len(r.conds)
	r.conds = append(r.conds, e.Conds...)
	c.Conds = r.conds[n:len(r.conds):len(r.conds)]
	r.Events = append(r.Events, c)
	return &r.Events[len(r.Events)-1]
}
