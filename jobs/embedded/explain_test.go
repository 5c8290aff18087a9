package embedded

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"tandem/batch"
	"tandem/schemas/store"
)

// TestExplainOfWorlds: whatever the records and the schedule, what explain lists of any number of either layer comes to that
// number: the parts of its sessions, and of each told session the contributions of its beacons.
func TestExplainOfWorlds(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	checked, apart, ends := 0, 0, 0
	for seed := *worldSeed; seed < *worldSeed+uint64(min(*worldCount/30, 300)); seed++ {
		w, chain, r, s := scheduled(t, seed)
		var all []Value
		view, err := batch.View(ctx, s.st, chain.Tenant)
		if err != nil {
			t.Fatal(err)
		}
		err = Values(ctx, s.st, chain.Tenant, 0, store.MaxMinute, func(layer string, minute int64) bool {
			stands, _ := view.Layer(minute)
			return layer == view.Active || layer == stands
		}, func(v *Value) error {
			all = append(all, *v)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		x := &batch.Explain{Job: s.p.Job(), Live: chain, Store: s.st, Layer: view.Active, Closed: math.MaxInt64}
		for range min(12, len(all)) {
			v := all[r.IntN(len(all))]
			n := batch.Number{Experiment: v.Experiment, Variation: v.Variation, Metric: v.Scope + "." + v.Metric, Minute: v.Minute}
			if r.IntN(2) == 0 {
				n.Tags = tagsOf(v.Tags)
			}
			x.Most = pick(r, 1, 1000)
			got, err := x.Number(ctx, n)
			if err != nil {
				t.Fatalf("seed %d: %+v: %v\n%s", seed, n, err, w)
			}
			for i, l := range got.Layers {
				checked++
				if l.Stored == nil && v.Metric == "visitors" && l.Sum == 0 {
					continue // no row: it may have expired
				}
				if l.Stored == nil || *l.Stored != l.Sum {
					t.Fatalf("seed %d: %+v: layer %s holds %v, its sessions' parts are %d\n%s", seed, n, l.Layer, l.Stored, l.Sum, w)
				}
				if i > 0 && l.Sum != got.Layers[0].Sum {
					apart++
				}
				if got.More > 0 || v.Metric == "visitors" {
					continue
				}
				sum := int64(0)
				for _, told := range got.Sessions {
					for _, in := range told.Layers {
						if in.Layer != l.Layer {
							continue
						}
						for _, c := range in.Contributions {
							sum += c.Value
							if c.At == 0 {
								ends++
							}
						}
					}
				}
				if sum != l.Sum {
					t.Fatalf("seed %d: %+v: layer %s: contributions come to %d, parts to %d\n%s", seed, n, l.Layer, sum, l.Sum, w)
				}
			}
			if len(got.Sessions) > 0 {
				checkSession(t, x, &all, got.Sessions[0].Session, v.Minute)
			}
		}
		s.st.Close()
	}
	if checked == 0 || apart == 0 || ends == 0 {
		t.Errorf("%d numbers, %d that differ by layer, %d ends of visits", checked, apart, ends)
	}
}

// checkSession: all that a session contributes in some minutes, each value alone, is what its number's explanation says of it.
func checkSession(t *testing.T, x *batch.Explain, all *[]Value, id string, minute int64) {
	t.Helper()
	got, err := x.Session(context.Background(), id, max(minute-7, 0), minute+8)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range got.Sessions[0].Layers {
		for _, c := range l.Contributions {
			// Each is a part of some row of the store, unless others take it back to nothing.
			found := slices.ContainsFunc(*all, func(v Value) bool {
				return v.Minute == c.Minute && v.Experiment == c.Experiment && v.Scope+"."+v.Metric == c.Metric && v.Variation == c.Variation && v.Tags == c.Tags
			})
			if found || c.Value == 0 {
				continue
			}
			number, err := x.Number(context.Background(), batch.Number{Experiment: c.Experiment, Variation: c.Variation, Metric: c.Metric, Minute: c.Minute, Tags: tagsOf(c.Tags)})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range number.Layers {
				if n.Layer == l.Layer && n.Sum != 0 {
					t.Fatalf("session %s: %+v is in no row, and the parts come to %d", id, c, n.Sum)
				}
			}
		}
	}
}

func tagsOf(set string) map[string]string {
	tags := map[string]string{}
	for p := range strings.SplitSeq(set, ",") {
		if name, value, ok := strings.Cut(p, "="); ok {
			tags[name] = value
		}
	}
	return tags
}
