package session_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/core/oracle/worlds"
	"tandem/core/session"
	"tandem/core/tenant"
)

// full is a chain and states of it with everything that a state can hold.
func full(t testing.TB) (*tenant.Chain, [][]byte) {
	for seed := uint64(0); ; seed++ {
		w := worlds.Generate(seed)
		_, chain, err := w.Compile()
		if err != nil {
			t.Fatal(err)
		}
		var states [][]byte
		marks, pending := false, false
		d := readAll(chain, w.Records, false)
		f := d.folder()
		for _, run := range d.runs {
			var st session.State
			st.Reset()
			for i := range run {
				if i > 0 && run[i].TS == run[i-1].TS {
					continue // a Fold takes up strictly later than it left off
				}
				f.Fold(&st, run[i:i+1])
				states = append(states, session.AppendState(nil, &st))
				marks, pending = marks || len(st.Marks) > 0, pending || len(st.Pending) > 0
			}
		}
		if marks && pending {
			return chain, states
		}
	}
}

// beyondInt gives states with one mark whose instance, variation or step is negative once it is an int.
func beyondInt() [][]byte {
	const negative = 1 << 63
	var states [][]byte
	for at := range 3 {
		b := []byte{0, 2, 0, 0, 0, 0, 0, 0, 0, 1} // LastTS, no points, no totals, one mark
		parts := [5]uint64{}                      // inst, variation, age, flags, step
		parts[[]int{0, 1, 4}[at]] = negative
		for _, u := range parts {
			b = binary.AppendUvarint(b, u)
		}
		states = append(states, append(b, 0, 0, 0, 0, 0, 0))
	}
	return states
}

// FuzzStateDecode checks that no bytes make Decode panic, and that what it takes comes back from its own bytes.
func FuzzStateDecode(f *testing.F) {
	chain, states := full(f)
	for _, data := range states {
		f.Add(data)
	}
	for _, data := range beyondInt() {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var st, again session.State
		if st.Decode(chain, data) != nil {
			return
		}
		canonical := session.AppendState(nil, &st)
		o, err := session.ReadOutline(canonical)
		want := session.Outline{Empty: st.Empty, VisitEnded: st.VisitEnded, HasPending: len(st.Pending) > 0}
		if !want.Empty && !want.HasPending {
			want.LastTS, want.VisitFirst = st.LastTS, st.VisitFirst
		}
		if err != nil || o != want {
			t.Fatalf("%x has the outline %+v (%v), want %+v", canonical, o, err, want)
		}
		if err := again.Decode(chain, canonical); err != nil {
			t.Fatalf("%x is taken as %x, which is refused: %v", data, canonical, err)
		}
		if b := session.AppendState(nil, &again); !bytes.Equal(b, canonical) {
			t.Fatalf("%x is taken as %x, and that as %x", data, canonical, b)
		}
	})
}

// FuzzEventDecode checks the same of events.
func FuzzEventDecode(f *testing.F) {
	for seed := range uint64(5) {
		w := worlds.Generate(seed)
		_, chain, err := w.Compile()
		if err != nil {
			f.Fatal(err)
		}
		for _, run := range readAll(chain, w.Records, false).runs {
			for i := range run {
				f.Add(session.AppendEvent(nil, &run[i]))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var run, again session.Run
		if _, err := run.Decode(data); err != nil {
			return
		}
		canonical := session.AppendEvent(nil, &run.Events[0])
		if rest, err := again.Decode(canonical); err != nil || len(rest) != 0 {
			t.Fatalf("%x is taken as %x, which is refused: %v, %d bytes left", data, canonical, err, len(rest))
		}
		if b := session.AppendEvent(nil, &again.Events[0]); !bytes.Equal(b, canonical) {
			t.Fatalf("%x is taken as %x, and that as %x", data, canonical, b)
		}
	})
}
