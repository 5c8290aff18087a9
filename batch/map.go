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
	Err() error
}

// states are the newest state rows of sessions before the window, in order of (hash, session).
type states interface {
	Next() bool
	Row() *staterun.Row
	Err() error
}

// mapper folds one hash range of one window: a merge join of beacons and states, one session after another, in memory
// that does not grow with their number but for the sums and the run that it makes.
type mapper struct {
	chain   *tenant.Chain
	window  int64
	digest  ParseDigest
	onTime  bool         // leave out what is late
	reparse bool         // parse every payload again
	unknown int64        // WindowPlan.Unknown
	rest    func() error // is called every few sessions

	sums   metric.Sums
	run    []staterun.Row
	counts Counts

	folder session.Folder
	state  session.State
	events session.Run
	parser beacon.Parser
	parsed beacon.Beacon
	reader session.Reader
	arena  []byte // parsed forms of the session at hand
	buf    []byte

	lastTS   int64 // of the last unique used beacon of the session
	lastID   []byte
	minute   int64 // event-time minute, and how many beacons of it count so far
	inMinute int
}

func newMapper(chain *tenant.Chain, window int64, digest ParseDigest) *mapper {
	m := &mapper{chain: chain, window: window, digest: digest}
	// A run that is due itself may still speak of visits that ended before the window: their ends belong to windows that
	// will be run again.
	m.folder = session.Folder{Chain: chain, Sums: &m.sums, Beacons: true, Ends: true, Sign: 1, Floor: window / 60000}
	return m
}

func compareSession(h1 uint64, s1 []byte, h2 uint64, s2 string) int {
	return cmp.Or(cmp.Compare(h1, h2), cmp.Compare(string(s1), s2))
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
			c = compareSession(in.Row().Hash, in.Row().Session, st.Row().Hash, st.Row().Session)
		}
		m.state.Reset()
		var hash uint64
		if c >= 0 {
			r := st.Row()
			if c > 0 && (r.Due == 0 || r.Due >= m.window+WindowMS) {
				moreStates = st.Next() // nothing of it happens in this window
				continue
			}
			hash, id = r.Hash, append(id[:0], r.Session...)
			if err := m.state.Decode(m.chain, []byte(r.State)); err != nil {
				return fmt.Errorf("window %d: state of session %q: %w", m.window, id, err)
			}
			moreStates = st.Next()
		}
		m.events.Reset()
		m.arena, m.minute, m.lastTS = m.arena[:0], -1, -1
		if c <= 0 {
			r := in.Row()
			hash, id = r.Hash, append(id[:0], r.Session...)
			for moreBeacons && in.Row().Hash == hash && bytes.Equal(in.Row().Session, id) {
				if err := m.take(in.Row()); err != nil {
					return err
				}
				moreBeacons = in.Next()
			}
		}
		m.fold(hash, id, c >= 0)
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
func (m *mapper) take(r *archive.Row) error {
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
func (m *mapper) fold(hash uint64, id []byte, known bool) {
	end := m.window + WindowMS
	if len(m.events.Events) == 0 {
		if due := m.state.Due(m.chain); due == 0 || due >= end {
			return
		}
	}
	if m.uncertain(known) {
		m.counts.Uncertain++
	}
	m.folder.Fold(&m.state, m.events.Events)
	m.folder.EndVisits(&m.state, end)
	if m.state.Gone(m.chain, end) && !known {
		return // one that an earlier run knows must be written, or that run would go on speaking for it
	}
	m.buf = session.AppendState(m.buf[:0], &m.state)
	m.run = append(m.run, staterun.Row{Hash: hash, Session: string(id), FirstTS: m.state.FirstTS, LastTS: m.state.LastTS,
		Due: m.state.Due(m.chain), State: string(m.buf)})
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

// digests returns the digests of a range's part of the run: of a bucket the sum over its sessions.
func digests(run []staterun.Row) Digests {
	out := make(Digests, Buckets)
	d := xxhash.New()
	for i := range run {
		d.Reset()
		d.WriteString(run[i].Session)
		d.Write([]byte{0})
		d.WriteString(run[i].State)
		out[bucketOf(run[i].Hash)] += d.Sum64()
	}
	return out
}

// newest merges runs, the newest first of which wins a session.
type newest struct {
	runs []*staterun.Iter // by window, the newest last
	more []bool
	row  staterun.Row
}

func newNewest(runs []*staterun.Iter) *newest {
	n := &newest{runs: runs, more: make([]bool, len(runs))}
	for i, r := range runs {
		n.more[i] = r.Next()
	}
	return n
}

// Next moves to the next session. With some two dozen runs a linear search for the least is as fast as a heap.
func (n *newest) Next() bool {
	best := -1
	for i := range n.runs {
		if n.more[i] && (best < 0 || staterun.Compare(n.runs[i].Row(), n.runs[best].Row()) <= 0) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	n.row = *n.runs[best].Row()
	for i := range n.runs {
		if n.more[i] && staterun.Compare(n.runs[i].Row(), &n.row) == 0 {
			n.more[i] = n.runs[i].Next()
		}
	}
	return true
}

func (n *newest) Row() *staterun.Row { return &n.row }

func (n *newest) Err() error {
	for _, r := range n.runs {
		if err := r.Err(); err != nil {
			return err
		}
	}
	return nil
}
