package service

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"tandem/schemas/store"
)

// TestAStandbyTellsWhatItHolds, by tenant, whatever comes and goes; of a tenant that is written it tells nothing.
func TestAStandbyTellsWhatItHolds(t *testing.T) {
	ctx := context.Background()
	r := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		st, g, p := put(t, 20*(heldRow+4))
		check := func(when string) {
			t.Helper()
			want, all := map[string]Held{}, int64(0)
			for _, name := range g.tenants {
				if !g.open[name] {
					want[name] = Held{}
				}
			}
			for m, rows := range p.held {
				h := want[m.tenant]
				h.Minutes++
				for _, v := range rows {
					h.Rows++
					h.Bytes += int64(heldRow + len(v.value))
					all += int64(heldRow + len(v.value))
				}
				want[m.tenant] = h
			}
			if got := p.status(); !maps.Equal(got, want) || all != int64(p.bytes) {
				t.Fatalf("%s: %v, want %v; %d bytes, want %d", when, got, want, p.bytes, all)
			}
		}
		check("new")
		for range 60 {
			row := rowOf(r.Int64N(20), r.Int64N(5))
			row.Tenant, row.Value = tenantName(r.IntN(testTenants)), make([]byte, r.IntN(6))
			if err := p.PutRows(ctx, []store.Row{row}); err != nil {
				t.Fatal(err)
			}
			check("a row more")
		}
		if err := errors.Join(st.PutCoverage(ctx, store.Coverage{Tenant: "shop0", Window: 10}), g.cover(ctx, "shop0")); err != nil {
			t.Fatal(err)
		}
		check("covered")
		if err := errors.Join(st.PutActive(ctx, store.Active{Tenant: "shop1", Layer: ownLayer}), g.look(ctx, "shop1")); err != nil {
			t.Fatal(err)
		}
		if check("written"); len(p.status()) != testTenants-1 {
			t.Fatalf("told is %v", p.status())
		}
		p.Close()
		check("let go of")
	}
}
