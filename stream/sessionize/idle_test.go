package sessionize

import (
	"fmt"
	"strings"
	"testing"

	"tandem/schemas/blob"
)

// TestIdleSessionsAreSmall: a session that is idle, with 4 assignments of which half are qualified, takes at most 300
// bytes, its id and its share of all tables included. scripts/bench says the same of 2 million, by the heap.
func TestIdleSessionsAreSmall(t *testing.T) {
	const sessions, most = 30_000, 300
	yaml := strings.Replace(shopYAML, "experiments:\n", "experiments:\n"+
		"  a: {variations: [control, red], qualify: [point == \"order\"]}\n"+
		"  b: {variations: [control, red]}\n"+
		"  c: {variations: [control, red], qualify: [point == \"home\", point == \"order\"]}\n", 1)
	chain := load(t, yaml)
	f := newFeed(1)
	for i := range int64(sessions) {
		id := fmt.Sprintf("%016x%016x", i*0x9e3779b97f4a7c1, i)
		ts := t0 + i*6*hour/sessions
		f.beacon(ts, hit(id, "1", ts, `,"point":"home","experiments":{"color":"red","a":"red","b":"control","c":"red"}`))
		f.beacon(ts, hit(id, "2", ts+second, `,"point":"home"`))
		if i%500 == 0 {
			f.tell(ts)
		}
	}
	f.tell(t0 + 7*hour)
	var out sink
	w := open(t, config(minute), chain, f, blob.NewMem(), &out)
	handle(t, w, f.recs)
	st := w.Shard.Stats()
	if st.Sessions != sessions {
		t.Fatalf("%d sessions are held, not %d", st.Sessions, sessions)
	}
	if each := st.Bytes / st.Sessions; each > most {
		t.Errorf("%d bytes a session, more than %d", each, most)
	} else {
		t.Logf("%d bytes a session", each)
	}
}
