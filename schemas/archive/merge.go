package archive

import (
	"bytes"
	"cmp"
)

// Merge gives the rows of several iterators as one sequence in the order of Sort; equal rows come in the order of iters.
//
// Rows of two iterators that are equal in hash, session, ts and id, which are one beacon (SPEC section 2), are told apart by
// their payloads, which are read for that also where an iterator is without.
func Merge(iters []*Iter) *MergeIter {
	m := &MergeIter{}
	for i, it := range iters {
		m.inputs = append(m.inputs, input{it: it, place: i})
	}
	return m
}

// MergeIter walks merged rows: call Next until it is false, then Err. It is for one goroutine.
type MergeIter struct {
	// inputs is a heap by their current rows once started; until then the list of all.
	inputs  []input
	started bool
	err     error
}

// input is an iterator and what nearly always tells its row from another's.
type input struct {
	hash  uint64
	ts    int64
	it    *Iter
	place int
}

// Next moves to the next row and tells if there is one. It is false at the end and after an error of any iterator.
func (m *MergeIter) Next() bool {
	switch {
	case m.err != nil:
		return false
	case !m.started:
		m.started = true
		return m.start()
	case len(m.inputs) == 0:
		return false
	}
	// Only now, so that the row given last stayed valid until this call.
	if !m.advance(0) {
		return false
	}
	m.down(0)
	return m.err == nil && len(m.inputs) > 0
}

// Row is the row that Next moved to, valid until the next call of Next.
func (m *MergeIter) Row() *Row { return &m.inputs[0].it.row }

// Payload sees to it that the row that Next moved to has its payload. After an error, which it returns and Err too, the
// merge is over.
func (m *MergeIter) Payload() error { return m.payload(m.inputs[0].it) }

// Err is the error of the iterator that ended the merge, nil at its regular end.
func (m *MergeIter) Err() error { return m.err }

func (m *MergeIter) start() bool {
	for i := len(m.inputs) - 1; i >= 0; i-- {
		if !m.advance(i) {
			return false
		}
	}
	for i := len(m.inputs)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m.err == nil && len(m.inputs) > 0
}

// advance moves input i on and drops it at its end; false after an error.
func (m *MergeIter) advance(i int) bool {
	in := &m.inputs[i]
	if in.it.Next() {
		in.hash, in.ts = in.it.row.Hash, in.it.row.TS
		return true
	}
	if m.err = in.it.Err(); m.err != nil {
		m.inputs = nil
		return false
	}
	last := len(m.inputs) - 1
	m.inputs[i] = m.inputs[last]
	m.inputs = m.inputs[:last]
	return true
}

func (m *MergeIter) payload(it *Iter) error {
	if err := it.Payload(); err != nil && m.err == nil {
		m.err = err
	}
	return m.err
}

func (m *MergeIter) less(a, b *input) bool {
	if a.hash != b.hash {
		return a.hash < b.hash
	}
	ra, rb := &a.it.row, &b.it.row
	c := bytes.Compare(ra.Session, rb.Session)
	if c == 0 {
		c = cmp.Compare(a.ts, b.ts)
	}
	if c == 0 {
		c = bytes.Compare(ra.ID, rb.ID)
	}
	if c == 0 && m.payload(a.it) == nil && m.payload(b.it) == nil {
		c = Compare(ra, rb)
	}
	if c != 0 {
		return c < 0
	}
	return a.place < b.place
}

func (m *MergeIter) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(m.inputs) {
			return
		}
		if right := child + 1; right < len(m.inputs) && m.less(&m.inputs[right], &m.inputs[child]) {
			child = right
		}
		if !m.less(&m.inputs[child], &m.inputs[i]) {
			return
		}
		m.inputs[i], m.inputs[child] = m.inputs[child], m.inputs[i]
		i = child
	}
}
