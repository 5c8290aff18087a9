package failover

import (
	"math/rand/v2"
	"testing"

	"tandem/schemas/store"
)

const (
	one = "stream.dc1"
	two = "stream.dc2"
)

// seen is an observation in which layer one is the active one, written before a minute, and two is complete before another.
func seen(nowMS, seq, written, complete int64) Observed {
	return Observed{NowMS: nowMS, Active: store.Active{Tenant: "shop", Layer: one, Seq: seq},
		Layers: []Layer{{Name: one, Heard: 2, Complete: written, Written: written}, {Name: two, Heard: 2, Complete: complete}}}
}

func TestDecide(t *testing.T) {
	p := Policy{Lag: 5, For: 3, HoldOffMS: 1000}
	behind, near, level := seen(10_000, 1, 100, 105), seen(10_000, 1, 100, 104), seen(10_000, 1, 100, 100)
	more := func(o Observed, l Layer) Observed {
		o.Layers = append([]Layer{l}, o.Layers...)
		return o
	}
	for _, c := range []struct {
		name string
		all  []Observed
		want []string // after each
	}{
		{"as many minutes as it takes, as often as it takes", []Observed{behind, behind, behind, behind}, []string{"", "", two, ""}},
		{"a minute less", []Observed{near, near, near, near}, []string{"", "", "", ""}},
		{"not in a row", []Observed{behind, behind, level, behind, behind, behind}, []string{"", "", "", "", "", two}},
		{"changed by someone else between", []Observed{behind, behind, seen(10_000, 2, 100, 105), seen(10_000, 2, 100, 105), seen(10_000, 2, 100, 105)}, []string{"", "", "", "", two}},
		{"the last of the hold-off", []Observed{behind, behind, seen(1000, 1, 100, 105)}, []string{"", "", ""}},
		{"the hold-off is over", []Observed{seen(1000, 1, 100, 105), seen(1000, 1, 100, 105), seen(1000, 1, 100, 105), seen(1001, 1, 100, 105)}, []string{"", "", "", two}},
		{"a clock before the change", []Observed{seen(1, 1000, 100, 105), seen(1, 1000, 100, 105), seen(1, 1000, 100, 105), seen(1, 1001, 100, 105)}, []string{"", "", "", ""}},
		{"a clock long before the change", []Observed{seen(1, 1001, 100, 105), seen(1, 1001, 100, 105), seen(1, 1001, 100, 105)}, []string{"", "", two}},
		{"the active one was never heard", []Observed{seen(10_000, 1, 0, 9), seen(10_000, 1, 0, 9), seen(10_000, 1, 0, 9)}, []string{"", "", two}},
		{"none was ever heard", []Observed{seen(10_000, 1, 0, 0), seen(10_000, 1, 0, 0), seen(10_000, 1, 0, 0)}, []string{"", "", ""}},
		{"the furthest of three", []Observed{more(behind, Layer{Name: "stream.dc0", Complete: 106}), more(behind, Layer{Name: "stream.dc0", Complete: 104}),
			more(behind, Layer{Name: "stream.dc0", Complete: 106})}, []string{"", "", "stream.dc0"}},
		{"the first of equal ones", []Observed{more(behind, Layer{Name: "stream.dc0", Complete: 105}), behind, more(behind, Layer{Name: "stream.dc0", Complete: 105})},
			[]string{"", "", "stream.dc0"}},
		{"what the active one holds is not seen by readers", []Observed{{NowMS: 10_000, Active: store.Active{Layer: one, Seq: 1},
			Layers: []Layer{{Name: one, Complete: 105, Written: 100}, {Name: two, Complete: 105}}}}, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Memory
			for i, o := range c.all {
				var got string
				if m, got = Decide(p, m, o); got != c.want[i] {
					t.Errorf("observation %d: promote %q, want %q", i, got, c.want[i])
				}
			}
		})
	}
	if _, got := Decide(Policy{Lag: 5, For: 1}, Memory{}, seen(1, 1, 100, 105)); got != two {
		t.Errorf("without hold-off, at the first sight: %q", got)
	}
	if _, got := Decide(Policy{Lag: 5, For: 1}, Memory{}, Observed{Layers: []Layer{{Name: one, Complete: 105, Written: 100}, {Name: two, Complete: 105}}}); got != one {
		t.Errorf("without any active layer: %q", got)
	}
}

// TestDecideIsItsDefinition: a layer is promoted when each of the last For observations since the last promotion, of one
// sequence, shows a layer that is Lag further than the active one, and the hold-off is over.
func TestDecideIsItsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	promoted := 0
	for range 2000 {
		p := Policy{Lag: 1 + r.Int64N(3), For: 1 + r.IntN(4), HoldOffMS: r.Int64N(6)}
		var m Memory
		var past []Observed // since the last promotion
		now, seq, active := int64(10), int64(0), one
		for range 40 {
			now += r.Int64N(3)
			o := Observed{NowMS: now, Active: store.Active{Layer: active, Seq: seq}}
			for _, name := range []string{one, two, "stream.dc3"} {
				complete := r.Int64N(6)
				o.Layers = append(o.Layers, Layer{Name: name, Complete: complete, Written: complete})
			}
			past = append(past, o)
			far := func(o Observed) (best string, ahead int64) {
				var most, own int64
				for _, l := range o.Layers {
					if l.Name == o.Active.Layer {
						own = l.Written
					} else if l.Complete > most {
						best, most = l.Name, l.Complete
					}
				}
				return best, most - own
			}
			want := ""
			if best, _ := far(o); len(past) >= p.For && (now-seq >= p.HoldOffMS || seq-now >= p.HoldOffMS) {
				want = best
				for _, x := range past[len(past)-p.For:] {
					if _, ahead := far(x); ahead < p.Lag || x.Active.Seq != seq {
						want = ""
					}
				}
			}
			var got string
			if m, got = Decide(p, m, o); got != want {
				t.Fatalf("%+v, %+v: promote %q, want %q", p, past, got, want)
			}
			if got != "" {
				promoted++
				past = nil
				if r.IntN(4) > 0 { // else it failed
					active, seq = got, max(seq+1, now)
				}
			} else if r.IntN(30) == 0 {
				active, seq = one, max(seq+1, now) // someone else
			}
		}
	}
	if promoted < 1000 {
		t.Errorf("only %d promotions: this tests little", promoted)
	}
}
