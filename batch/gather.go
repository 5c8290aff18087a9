package batch

import (
	"maps"
	"slices"

	"tandem/core/metric"
)

// gathered are sums of ranges of a window, in the memory of a process that reduces too: a map adds its range to those of ranges before,
// if no other map is at it, and a reduce finds few instead of one for each range, to be stored, read and added up.
type gathered struct {
	window int64
	sums   *metric.Sums
	bytes  int64 // that they took when the last range was added
	busy   bool  // a map adds to them
}

// taskSums bounds what is gathered, for each task that runs at once: a range that would need sums beyond that, for another window or
// beside another map, is mapped by itself and its result stored, as all are where another process may reduce. So are all ranges of
// configs whose sums of one take more, and of windows of more than largeWindow records: sketches of distinct visitors grow with the
// ranges that they have, and a plan that is stopped in the middle of such a window goes on where it was. Of other windows a plan maps
// again what is neither stored nor covered. Sums that there are take all further ranges of their window and may grow beyond the bound:
// a window below largeWindow has few.
const (
	taskSums    = 96 << 20
	largeWindow = 4 << 20
)

// sumsFor gives a map the sums that its range of a window of so many records is added to, and what they are gathered in, nil if its
// result is to be stored.
func (o *openFiles) sumsFor(window, records int64) (*metric.Sums, *gathered) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.forSums == 0 || records > largeWindow {
		return o.takeSums(), nil
	}
	taken := o.largest
	for _, g := range o.gathers {
		if g.window == window && !g.busy {
			g.busy = true
			return g.sums, g
		}
		taken += max(g.bytes, o.largest)
	}
	if taken > o.forSums {
		return o.takeSums(), nil
	}
	g := &gathered{window: window, sums: o.takeSums(), busy: true}
	o.gathers = append(o.gathers, g)
	return g.sums, g
}

// added says that a range has been added, and what there is to know of it beside. It is false if the range is the first one and its
// sums take too much: then nothing was gathered, and nothing will be.
func (o *openFiles) added(g *gathered, k runKey, res *result) bool {
	bytes := g.sums.Bytes()
	o.mu.Lock()
	defer o.mu.Unlock()
	if g.bytes == 0 && bytes > taskSums {
		o.forSums = 0
		o.gathers = slices.DeleteFunc(o.gathers, func(x *gathered) bool { return x == g })
		return false
	}
	g.bytes, g.busy = bytes, false
	o.largest = max(o.largest, bytes)
	o.results[k] = &rangeResult{result: *res, name: o.job.outName(k.generation, k.window, k.r, "sums"), job: o.job}
	return true
}

// inMemory gives a result that is not stored, nil if there is none: it has no sums of its own.
func (o *openFiles) inMemory(k runKey) *rangeResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.results[k]
}

// gatheredOf gives what was gathered of a window whose ranges are all mapped.
func (o *openFiles) gatheredOf(window int64) (all []*metric.Sums) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.gathers {
		if g.window == window {
			all = append(all, g.sums)
		}
	}
	return all
}

// letGo takes back the memory of what was gathered of a window, which is reduced, and forgets its results.
func (o *openFiles) letGo(window int64) {
	all := o.gatheredOf(window)
	o.mu.Lock()
	maps.DeleteFunc(o.results, func(k runKey, _ *rangeResult) bool { return k.window == window })
	o.gathers = slices.DeleteFunc(o.gathers, func(g *gathered) bool { return g.window == window })
	o.mu.Unlock()
	for _, sums := range all {
		o.giveSums(sums) // not under the lock: to empty them takes a while
	}
}
