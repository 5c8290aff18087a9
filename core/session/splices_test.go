package session_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle/worlds"
	"tandem/core/session"
	"tandem/core/tenant"
)

// TestSplices compares chains with splices with plain ones that say the same, and checks what stays as it is by them.
func TestSplices(t *testing.T) {
	failed, edges := 0, 0
	for seed := *worldSeed; seed < *worldSeed+uint64(*worldCount)/4; seed++ {
		w := worlds.Generate(seed)
		check := func(w worlds.World) string {
			revisions, err := w.Chain()
			if err != nil {
				return ""
			}
			objects := worlds.Spliced(seed, revisions, w)
			for n := len(revisions); n <= len(objects); n++ {
				if fault := judgeSplices(objects[:n], w, &edges); fault != "" {
					return fmt.Sprintf("%d objects: %s", n, fault)
				}
			}
			return ""
		}
		if fault := check(w); fault != "" {
			law, _, _ := strings.Cut(fault, "\n")
			w = worlds.Shrink(w, func(w worlds.World) bool {
				l, _, _ := strings.Cut(check(w), "\n")
				return l == law
			})
			revisions, _ := w.Chain()
			text := ""
			for _, c := range worlds.Spliced(seed, revisions, w) {
				i := slices.IndexFunc(revisions, func(r *tenant.Config) bool {
					return slices.EqualFunc(r.Points, c.Points, func(a, b tenant.Point) bool { return a.Name == b.Name && len(a.Values) == len(b.Values) })
				})
				text += fmt.Sprintf("r%d over [%d, %d) %t\n", i+1, c.From, c.To, c.HasTo)
			}
			t.Errorf("seed %d: %s\n%s%s", seed, check(w), text, w)
			if failed++; failed == 2 {
				t.Fatal("that is enough")
			}
		}
	}
	if edges < 50 {
		t.Errorf("only %d sessions go over an edge", edges)
	}
}

func judgeSplices(objects []*tenant.Config, w worlds.World, edges *int) (fault string) {
	name := ""
	defer func() {
		if r := recover(); r != nil {
			fault = fmt.Sprintf("%s: it panics\n%v", name, r)
		}
	}()
	if objects[0].HasTo {
		return ""
	}
	chain, err := tenant.Compile(objects)
	if err != nil {
		return "refused\n" + err.Error()
	}
	for _, law := range []struct {
		name string
		of   func() string
	}{
		{"the batch is not what SPEC says", func() string { return against(worlds.Flat(objects), chain, w, false) }},
		{"a Fold in pieces gives other sums", func() string { return inPieces(nil, chain, w) }},
		{"ids have changed", func() string { return steady(objects, chain, w, edges) }},
	} {
		name = law.name
		if diff := law.of(); diff != "" {
			return name + "\n" + diff
		}
	}
	return ""
}

// steady reads and folds as before the last object was appended: what it does not touch must be the same, to the byte.
func steady(objects []*tenant.Config, chain *tenant.Chain, w worlds.World, edges *int) string {
	live, err := tenant.CompileLive(objects)
	if err != nil {
		return err.Error()
	}
	before, err := tenant.Compile(objects[:len(objects)-1])
	if len(objects) == 1 {
		before = live
	} else if err != nil {
		return err.Error()
	}
	for _, other := range []*tenant.Chain{live, before} {
		a, b := readAll(chain, w.Records, false), readAll(other, w.Records, false)
		same := func(ts int64) bool {
			x, y := chain.At(ts), other.At(ts)
			return x != nil && y != nil && x.Digest == y.Digest
		}
		forms := func(d *batch) unlike {
			out := unlike{}
			for _, run := range d.runs {
				for i := range run {
					if same(run[i].TS) {
						out.put(fmt.Sprint(run[i].TS, string(run[i].ID)), session.AppendEvent(nil, &run[i]))
					}
				}
			}
			return out
		}
		if k := forms(a).differs(forms(b)); k != "" {
			return fmt.Sprintf("the event %s is read otherwise", k)
		}
		states := func(d *batch) unlike {
			f, out := d.folder(), unlike{}
			for _, run := range d.runs {
				var st session.State
				st.Reset()
				f.Fold(&st, run)
				if len(run) == 0 || st.Empty {
					continue
				}
				if len(d.chain.Crossing(st.FirstTS, st.LastTS)) > 0 {
					*edges++
				}
				r := d.chain.At(st.LastTS)
				if d.chain.At(st.FirstTS) == r && len(st.Pending) == 0 {
					out.put(fmt.Sprint(r.StateDigest, st.FirstTS, st.LastTS, string(run[len(run)-1].ID), len(run)), session.AppendState(nil, &st))
				}
			}
			return out
		}
		if k := states(a).differs(states(b)); k != "" {
			return fmt.Sprintf("the state of %s has other bytes", k)
		}
	}
	return ""
}

// unlike holds bytes by a key; nil where two things have one key.
type unlike map[string][]byte

func (u unlike) put(key string, data []byte) {
	if _, ok := u[key]; ok {
		data = nil
	}
	u[key] = data
}

// differs returns a key under which both have bytes, and others.
func (u unlike) differs(o unlike) string {
	for k, a := range u {
		if b := o[k]; a != nil && b != nil && !bytes.Equal(a, b) {
			return k
		}
	}
	return ""
}
