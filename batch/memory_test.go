package batch

import (
	"fmt"
	"runtime"
	"testing"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/staterun"
)

// drawn are sessions in order, each with beacons or a state or both, made when they are asked for. It looks at the heap on the
// way.
type drawn struct {
	n, i    int
	of      int // beacons or states a session
	k       int
	row     archive.Row
	event   []byte
	encoded []byte
	digest  uint64
	m       *mapper
	heap    uint64 // the most that lives
}

func (d *drawn) Next() bool {
	if d.k++; d.k >= d.of {
		d.k, d.i = 0, d.i+1
	}
	if d.i >= d.n {
		return false
	}
	if d.m != nil && d.k == 0 && d.i%(d.n/8) == 0 {
		d.look()
	}
	name := fmt.Sprintf("session-%09d", d.i)
	d.row.Hash, d.row.Session = uint64(d.i), append(d.row.Session[:0], name...)
	d.row.TS, d.row.ID = t0+int64(d.k)*1000, fmt.Appendf(d.row.ID[:0], "%d", d.k)
	return true
}

// look takes the live heap.
func (d *drawn) look() {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	d.heap = max(d.heap, m.HeapAlloc)
}

func (d *drawn) Row() *archive.Row { return &d.row }
func (d *drawn) Payload() error    { return nil }
func (d *drawn) Err() error        { return nil }

type drawnStates struct{ *drawn }

func (d drawnStates) Hash() uint64    { return d.row.Hash }
func (d drawnStates) Session() []byte { return d.row.Session }
func (d drawnStates) Due() int64      { return 0 }
func (d drawnStates) State() []byte   { return d.encoded }

// counted counts the rows of a run.
type counted struct{ rows int }

func (c *counted) Add(uint64, []byte, int64, int64, int64, []byte, *staterun.About) error {
	c.rows++
	return nil
}

// parsedRow is an archived beacon of the test's config, as an archiver would keep it.
func parsedRow(t *testing.T, chain *tenant.Chain) archive.Row {
	t.Helper()
	var b beacon.Beacon
	var e session.Event
	payload := fmt.Appendf(nil, `{"id":"e","tenant":"shop","session":"s","visitor":"v","ts":%d,"point":"home","experiments":{"color":"red"}}`, t0)
	if reason := new(beacon.Parser).Parse(payload, &b); reason != beacon.None {
		t.Fatal(reason)
	}
	v := new(session.Reader).Read(chain, &b, t0, &e)
	if !v.Used {
		t.Fatal("the beacon is not used")
	}
	return archive.Row{Payload: payload, Ingest: t0, Digest: digest(v.Rev), Event: session.AppendEvent(nil, &e)}
}

// The merge join holds one session at a time: with ten times as many sessions, of which some have beacons, some a state
// and some both,
// no more of the heap lives.
func TestJoinInConstantMemory(t *testing.T) {
	chain, _ := compiled(t)
	row := parsedRow(t, chain)
	joined := func(sessions int) (heap uint64, rows int) {
		out := &counted{}
		m := newMapper(chain, t0, digest, &metric.Sums{}, out)
		in := &drawn{n: sessions, of: 4, k: -1, row: row, m: m}
		var state session.State
		st := &drawn{n: 2 * sessions, of: 1, i: -1, encoded: session.AppendState(nil, &state)} // the second half without beacons
		if err := m.join(in, drawnStates{st}); err != nil {
			t.Fatal(err)
		}
		if m.counts.Records != int64(4*sessions) {
			t.Fatalf("%d records, want %d", m.counts.Records, 4*sessions)
		}
		return in.heap, out.rows
	}
	joined(1000)
	few, rows := joined(4000)
	if rows != 4000 {
		t.Fatalf("%d sessions changed", rows)
	}
	many, _ := joined(40_000)
	t.Logf("live heap with 4,000 sessions %d KiB, with 40,000 %d KiB", few>>10, many>>10)
	if many > few+1<<20 {
		t.Errorf("the live heap grew from %d to %d bytes with ten times the sessions", few, many)
	}
}
