package batch

import (
	"context"
	"strings"
	"testing"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/store"
)

// An archive that lost manifests is gone by neither by the batch nor by a backfill: windows stay as they stand until it is whole.
func TestAnArchiveThatLostManifests(t *testing.T) {
	ctx := context.Background()
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(40), 3)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	want := outcomeOf(t, j, st)
	manifests, err := archive.Chain(blobs, topic, 1)
	if err != nil || len(manifests) != 3 {
		t.Fatalf("%d manifests, %v", len(manifests), err)
	}
	lose := map[string][]string{"all, and the partitions": {archive.PartitionsName(topic)}}
	for _, m := range manifests {
		name := archive.ManifestName(topic, 1, m.First)
		lose["all, and the partitions"] = append(lose["all, and the partitions"], name)
		lose[name] = []string{name}
	}
	for what, names := range lose {
		kept := map[string][]byte{}
		for _, name := range names {
			data, err := blobs.Get(name)
			if err == nil {
				err = blobs.Delete(name)
			}
			if err != nil {
				t.Fatal(err)
			}
			kept[name] = data
		}
		f, forecast := j.Forecast(ctx, everything())
		for kind, err := range map[string]error{"batch": j.Run(ctx), "backfill": j.Backfill(ctx, everything(), nil), "forecast": forecast} {
			if err == nil || !strings.Contains(err.Error(), "manifests are gone") {
				t.Errorf("%s without %s: %v, %+v", kind, what, err, f)
			}
		}
		for name, data := range kept {
			if err := blobs.Create(name, data); err != nil {
				t.Fatal(err)
			}
		}
		run(t, j)
		got := outcomeOf(t, j, st)
		got.same(t, "brought back: "+what, want)
	}
}

// meanwhile does something once, before coverage is read.
type meanwhile struct {
	Store
	do func()
}

func (m *meanwhile) Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error {
	if do := m.do; do != nil {
		m.do = nil
		do()
	}
	return m.Store.Coverage(ctx, tenant, from, to, fn)
}

// A run that is held up while another one covers what has been archived since: it goes by no archive from before that.
func TestAnotherRunBetweenTwoLooks(t *testing.T) {
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(40), 1)
	j, _ := job(t, chain, blobs, 2)
	run(t, j)
	claimed := func() int64 {
		g, err := j.lastClaim()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	slow, between := *j, int64(0)
	slow.Store = &meanwhile{Store: j.Store, do: func() {
		put(t, blobs, chain, traffic(60), 1)
		run(t, j)
		between = claimed()
	}}
	run(t, &slow)
	if g := claimed(); between < 2 || g != between {
		t.Errorf("%d plans, %d of them made before and between, though nothing has come since", g, between)
	}
}
