package batch

import (
	"context"
	"fmt"
	"testing"

	"tandem/core/metric"
	"tandem/schemas/blob"
)

// Whatever of a plan's ranges other processes have stored, and however many tasks gather the others, a window comes to the same.
func TestGatheredBesideStored(t *testing.T) {
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(60), 3)
	objects := copyOf(t, blobs)
	j, st := job(t, chain, objects(), 1)
	run(t, j)
	want := outcomeOf(t, j, st)
	for _, parallel := range []int{1, 2, 5} {
		for _, stored := range [][]int{{}, {1}, {0, 2}, {0, 1, 2}} {
			j, st := job(t, chain, objects(), 9)
			j.Parallel = parallel
			p, a := planOf(t, j)
			for _, part := range stored {
				must(t, j.MapPart(context.Background(), p, a, part, 3))
			}
			run(t, j)
			got := outcomeOf(t, j, st)
			got.same(t, fmt.Sprintf("%d tasks, parts %v of 3 stored", parallel, stored), want)
		}
	}
}

// What is gathered stays within its bounds, and serves again once its window is reduced.
func TestGatherBounds(t *testing.T) {
	chain, _ := compiled(t)
	j, _ := job(t, chain, blob.NewMem(), 1)
	const other = t0 + WindowMS
	open := func(tasks int64) *openFiles {
		o := j.open()
		o.forSums = tasks * taskSums
		return o
	}
	gathers := func(o *openFiles, window, records int64) *gathered {
		sums, g := o.sumsFor(window, records)
		if sums == nil || g != nil && g.sums != sums {
			t.Fatal("a map got no sums, or others than it gathers in")
		}
		return g
	}
	key := func(window int64, r int) runKey { return runKey{1, window, r} }

	o := open(2)
	a, b := gathers(o, t0, 1), gathers(o, t0, 1)
	if a == nil || b == nil || a == b {
		t.Fatal("two maps at once do not gather each by itself")
	}
	a.sums.At(t0/60000).Post(metric.To{Scopes: []metric.Key{0}}, metric.NewKey(0, 0, 0, 0), 1, 1, []int64{1}, 0)
	if !o.added(a, key(t0, 0), &result{}) || gathers(o, t0, 1) != a {
		t.Error("the next map does not add to what one before gathered")
	}
	if gathers(o, t0, largeWindow+1) != nil {
		t.Error("a large window is gathered")
	}
	o.largest = taskSums
	if gathers(o, other, 1) != nil {
		t.Error("a third of the largest size is gathered in room for two")
	}
	o.added(a, key(t0, 2), &result{})
	o.added(b, key(t0, 1), &result{})
	if n := len(o.gatheredOf(t0)); n != 2 || len(o.gatheredOf(other)) != 0 {
		t.Errorf("%d are gathered of the window, of another %d", n, len(o.gatheredOf(other)))
	}
	for r := range 3 {
		if o.inMemory(key(t0, r)) == nil {
			t.Errorf("nothing is known of range %d", r)
		}
	}
	o.letGo(t0)
	if len(o.gatheredOf(t0)) != 0 || o.inMemory(key(t0, 0)) != nil {
		t.Error("a window that is reduced is still there")
	}
	if gathers(o, other, 1) == nil {
		t.Error("the room of a window that is reduced is not given back")
	}

	if gathers(j.open(), t0, 1) != nil {
		t.Error("a process that only maps gathers")
	}

	o = open(2)
	a = gathers(o, t0, 1)
	for scope := range 1 << 18 { // of 512 bytes each, so 128 MiB and more
		a.sums.At(t0/60000).Post(metric.To{Scopes: []metric.Key{metric.NewKey(scope%(1<<15), 0, 0, uint32(scope))}}, 0, 60, 1, []int64{1}, 0)
	}
	if o.added(a, key(t0, 0), &result{}) || o.inMemory(key(t0, 0)) != nil || len(o.gatheredOf(t0)) != 0 {
		t.Error("sums of one range that take too much are gathered")
	}
	if gathers(o, t0, 1) != nil {
		t.Error("after a range whose sums take too much the next one is gathered")
	}
}
