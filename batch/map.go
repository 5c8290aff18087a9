package batch

import (
	"bytes"
	"cmp"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/staterun"
)

// ParseDigest tells when an archived row's parsed form may be used: it is the archiver's function.
type ParseDigest func(*tenant.Rev) uint64

// beacons are the archived rows of a window and a hash range, in order (archive.Sort).
type beacons interface {
	Next() bool
	Row() *archive.Row
	Payload() error // sees to it that the row has its payload
	Err() error
}

// states are the newest state rows of sessions before the window, in order of (hash, session).
type states interface {
	Next() bool
	Hash() uint64
	Session() []byte
	Due() int64
	State() []byte
	Err() error // also of what was asked for since Next
}

// sessions takes the states that a mapper leaves, in order.
type sessions interface {
	Add(hash uint64, session []byte, firstTS, lastTS, due int64, state []byte, about *staterun.About) error
}

// mapper folds one hash range of one window: a merge join of beacons and states, one session after another, in memory
// that does not grow with their number.
type mapper struct {
	chain   *tenant.Chain
	window  int64
	digest  ParseDigest
	onTime  bool         // leave out what is late
	reparse bool         // parse every payload again
	unknown int64        // WindowPlan.Unknown
	rest    func() error // is called every few sessions

	sums    *metric.Sums
	run     sessions
	digests []uint64 // of the range's part of the run: of a bucket the sum over its sessions
	counts  Counts

	folder session.Folder
	state  session.State
	events session.Run
	parser beacon.Parser
	parsed beacon.Beacon
	reader session.Reader
	arena  []byte // parsed forms of the session at hand
	buf    []byte
	hash   xxhash.Digest

	describer describer

	lastTS   int64 // of the last unique used beacon of the session
	late     bool  // the session has had a late one in the window
	lastID   []byte
	minute   int64 // event-time minute, and how many beacons of it count so far
	inMinute int
}

func newMapper(chain *tenant.Chain, window int64, digest ParseDigest, sums *metric.Sums, run sessions) *mapper {
	m := &mapper{chain: chain, sums: sums, window: window, digest: digest, run: run, digests: make([]uint64, Buckets)}
	// A run that is due itself may still speak of visits that ended before the window: their ends belong to windows that
	// will be run again.
	m.folder = session.Folder{Chain: chain, Sums: sums, Beacons: true, Ends: true, Sign: 1, Floor: window / 60000}
	m.describer = newDescriber(chain, window+WindowMS)
	return m
}

// compareSession orders a beacon's session and a state's. Of the latter only the hash is at hand for nothing.
func compareSession(b *archive.Row, st states) int {
	if hash := st.Hash(); b.Hash != hash {
		return cmp.Compare(b.Hash, hash)
	}
	return bytes.Compare(b.Session, st.Session())
}

// restSessions is after how many sessions a mapper asks whether to rest.
const restSessions = 32

// join runs the merge join.
func (m *mapper) join(in beacons, st states) error {
	moreBeacons, moreStates := in.Next(), st.Next()
	var id []byte
	for n := 1; moreBeacons || moreStates; n++ {
		if n%restSessions == 0 && m.rest != nil {
			if err := m.rest(); err != nil {
				return err
			}
		}
		c := 0
		switch {
		case !moreStates:
			c = -1
		case !moreBeacons:
			c = 1
		default:
			c = compareSession(in.Row(), st)
		}
		m.state.Reset()
		var hash uint64
		if c >= 0 {
			if due := st.Due(); c > 0 && (due == 0 || due >= m.window+WindowMS) {
				moreStates = st.Next() // nothing of it happens in this window
				continue
			}
			hash, id = st.Hash(), append(id[:0], st.Session()...)
			state := st.State()
			if err := st.Err(); err != nil {
				return err
			}
			if err := m.state.Decode(m.chain, state); err != nil {
				return fmt.Errorf("window %d: state of session %q: %w", m.window, id, err)
			}
			moreStates = st.Next()
		}
		m.events.Reset()
		m.arena, m.minute, m.lastTS, m.late = m.arena[:0], -1, -1, false
		if c <= 0 {
			r := in.Row()
			hash, id = r.Hash, append(id[:0], r.Session...)
			for moreBeacons && in.Row().Hash == hash && bytes.Equal(in.Row().Session, id) {
				if err := m.take(in); err != nil {
					return err
				}
				moreBeacons = in.Next()
			}
		}
		if err := m.fold(hash, id, c >= 0); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	if err := st.Err(); err != nil {
		return err
	}
	m.counts.Conflict, m.counts.UnknownVariation = m.folder.Counts.Conflict, m.folder.Counts.UnknownVariation
	return nil
}

// take reads a row as this config reads it and keeps its event, unless it repeats the one before or its minute is full.
// Rows come in order, of repeats the bytewise smallest payload first (SPEC 2).
func (m *mapper) take(in beacons) error {
	r := in.Row()
	m.counts.Records++
	rev := m.chain.At(r.TS)
	used := false
	n, at := len(m.events.Events), len(m.arena)
	if rev != nil && !m.reparse && r.Digest != 0 && r.Digest == m.digest(rev) {
		if used = len(r.Event) > 0; used {
			m.arena = append(m.arena, r.Event...)
			if rest, err := m.events.Decode(m.arena[at:]); err != nil || len(rest) != 0 {
				return fmt.Errorf("window %d: parsed form of record %d of session %q: %d bytes left, %v", m.window, r.Offset, r.Session, len(rest), err)
			}
			id := len(m.arena)
			m.arena = append(m.arena, r.ID...)
			e := &m.events.Events[n]
			e.TS, e.ID, e.Ingest, e.Offset = r.TS, m.arena[id:], r.Ingest, r.Offset
		}
	} else {
		var e session.Event
		if err := in.Payload(); err != nil {
			return err
		}
		reason := m.parser.Parse(r.Payload, &m.parsed)
		var v session.Verdict
		if reason == beacon.None {
			chain := m.chain
			if string(m.parsed.Tenant) != chain.Tenant {
				chain = nil
			}
			v = m.reader.Read(chain, &m.parsed, r.Ingest, &e)
			reason = v.Reason
		}
		if reason != beacon.None {
			if m.counts.Rejected == nil {
				m.counts.Rejected = map[string]int64{}
			}
			m.counts.Rejected[reason.String()]++
			return nil
		}
		if used = v.Used; used {
			m.events.Append(&e)
		}
	}
	if !used {
		m.counts.Unused++
		return nil
	}
	e := &m.events.Events[n]
	if e.Ingest-e.TS > rev.Config.Lateness {
		m.counts.Late++
		if !m.late {
			m.late = true
			m.counts.LateSessions++
		}
		if m.onTime { // before duplicates are looked for: a late repeat may hold the smaller payload
			m.events.Events, m.arena = m.events.Events[:n], m.arena[:at]
			return nil
		}
	}
	if e.TS == m.lastTS && bytes.Equal(e.ID, m.lastID) {
		m.counts.Duplicate++
		m.events.Events, m.arena = m.events.Events[:n], m.arena[:at]
		return nil
	}
	m.lastTS, m.lastID = e.TS, append(m.lastID[:0], e.ID...)
	if minute := metric.FloorDiv(e.TS, 60000); minute != m.minute {
		m.minute, m.inMinute = minute, 0
	}
	if m.inMinute++; m.inMinute > rev.Config.MaxEventsPerMinute {
		m.counts.Overflow++
		m.events.Events, m.arena = m.events.Events[:n], m.arena[:at]
	}
	return nil
}

// fold folds a session's beacons onto its state, ends what ends in the window, and keeps the state if it changed.
func (m *mapper) fold(hash uint64, id []byte, known bool) error {
	end := m.window + WindowMS
	if len(m.events.Events) == 0 {
		if due := m.state.Due(m.chain); due == 0 || due >= end {
			return nil
		}
	}
	before := int64(noTime)
	if !m.state.Empty {
		before = m.state.LastTS
	}
	if m.uncertain(known) {
		m.counts.Uncertain++
	}
	m.folder.Fold(&m.state, m.events.Events)
	m.folder.EndVisits(&m.state, end)
	// What is gone is judged within the window: a revision from its end on is not among its inputs, and a splice may take back
	// the cut that it brings.
	if m.state.Gone(m.chain, end-1) && !known {
		return nil // one that an earlier run knows must be written, or that run would go on speaking for it
	}
	m.buf = session.AppendState(m.buf[:0], &m.state)
	m.hash.Reset()
	m.hash.Write(id)
	m.hash.Write([]byte{0})
	m.hash.Write(m.buf)
	m.digests[bucketOf(hash)] += m.hash.Sum64()
	return m.run.Add(hash, id, m.state.FirstTS, m.state.LastTS, m.state.Due(m.chain), m.buf, m.describer.about(&m.state, m.events.Events, before))
}

// uncertain says whether the session at hand may have begun before anything that is known of it.
func (m *mapper) uncertain(known bool) bool {
	if m.unknown == 0 {
		return false
	}
	first := m.state.FirstTS
	if !known || m.state.Empty {
		if len(m.events.Events) == 0 {
			return false
		}
		first = m.events.Events[0].TS
	}
	return first < m.unknown
}

// newest merges runs, the newest of which wins a session.
type newest struct {
	runs []*staterun.Iter // by window, the newest last
	// heap has the places in runs of those that have a row, by that row and then the newest first; at are those at the session
	// that Next moved to, the newest first, which are no longer in it.
	heap []head
	at   []int
	err  error
}

type head struct {
	hash uint64
	run  int
}

func newNewest(runs []*staterun.Iter) *newest {
	n := &newest{runs: runs}
	for i := range runs {
		n.at = append(n.at, i)
	}
	return n
}

// Next moves to the next session.
func (n *newest) Next() bool {
	for _, i := range n.at {
		if r := n.runs[i]; r.Next() {
			n.push(head{r.Hash(), i})
		} else if n.err = r.Err(); n.err != nil {
			break
		}
	}
	n.at = n.at[:0]
	if n.err != nil || len(n.heap) == 0 {
		return false
	}
	n.at = append(n.at, n.pop().run)
	for len(n.heap) > 0 && n.heap[0].hash == n.Hash() && bytes.Equal(n.runs[n.heap[0].run].Session(), n.Session()) {
		n.at = append(n.at, n.pop().run)
	}
	return n.failed() == nil
}

// failed looks for an error of a run that was asked for a session.
func (n *newest) failed() error {
	for _, r := range n.runs {
		if n.err == nil {
			n.err = r.Err()
		}
	}
	return n.err
}

func (n *newest) Hash() uint64    { return n.runs[n.at[0]].Hash() }
func (n *newest) Session() []byte { return n.runs[n.at[0]].Session() }
func (n *newest) Due() int64      { return n.runs[n.at[0]].Due() }
func (n *newest) State() []byte   { return n.runs[n.at[0]].State() }
func (n *newest) Err() error      { return n.failed() }

func (n *newest) less(a, b head) bool {
	if a.hash != b.hash {
		return a.hash < b.hash
	}
	if c := bytes.Compare(n.runs[a.run].Session(), n.runs[b.run].Session()); c != 0 {
		return c < 0
	}
	return a.run > b.run
}

func (n *newest) push(x head) {
	n.heap = append(n.heap, x)
	for i := len(n.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !n.less(n.heap[i], n.heap[up]) {
			return
		}
		n.heap[i], n.heap[up] = n.heap[up], n.heap[i]
		i = up
	}
}

func (n *newest) pop() head {
	top, last := n.heap[0], len(n.heap)-1
	n.heap[0] = n.heap[last]
	n.heap = n.heap[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && n.less(n.heap[child+1], n.heap[child]) {
			child++
		}
		if !n.less(n.heap[child], n.heap[i]) {
			return top
		}
		n.heap[i], n.heap[child] = n.heap[child], n.heap[i]
		i = child
	}
}
