package batch

import (
	"context"
	"strings"
	"testing"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
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
