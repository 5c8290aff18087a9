package service

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"tandem/schemas/store"
	"tandem/stream/broker"
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

// TestAPartThatIsClosedTellsNothing: a partition is let go of while what another one holds is written. Its rows are forgotten, so
// the store must not learn that its minutes are complete: its next owner reads them again, and a reader would see them change.
func TestAPartThatIsClosedTellsNothing(t *testing.T) {
	ctx := context.Background()
	st, g, first := put(t, heldBytes)
	second := g.Part(1, nil, nil, func(broker.Committed) {})
	other := rowOf(6, 1)
	other.Metric = "site.order"
	for p, r := range map[*GatePart]store.Row{first: rowOf(5, 1), second: other} {
		closed := store.Progress{Layer: ownLayer, Partition: p.partition, Tenant: "shop0", ClosedBefore: 20, Version: 1}
		if err := errors.Join(p.PutRows(ctx, []store.Row{r}), p.PutProgress(ctx, closed)); err != nil {
			t.Fatal(err)
		}
	}
	st.onRow = func(*store.Row) { second.Close() }
	if err := errors.Join(st.PutActive(ctx, store.Active{Tenant: "shop0", Layer: ownLayer}), g.look(ctx, "shop0")); err != nil {
		t.Fatal(err)
	}
	told, err := st.Progress(ctx, ownLayer, "shop0")
	if err != nil || len(told) != 1 || told[0].Partition != 0 || told[0].ClosedBefore != 20 {
		t.Errorf("told is %v, %v; want that of partition 0 alone", told, err)
	}
	if written := allRows(t, st); len(written) != 1 {
		t.Errorf("written are %v, want the row of partition 0", written)
	}
}
