package batch

import (
	"context"
	"maps"
	"math"
	"slices"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/archive"
)

// Arrival is records of a window that a manifest brought when the window had ended.
type Arrival struct {
	Partition string // "topic/partition"
	Span      Span
	Records   int64
	At        int64 // least progress at the manifest's end, ms
}

// arrivals notes what of a manifest came after its window's end.
func (a *Archive) arrivals(partition string, m *archive.Manifest) {
	at := int64(math.MaxInt64)
	for _, ms := range m.Progress {
		at = min(at, ms)
	}
	for _, w := range m.Windows {
		if at >= w.Start+WindowMS && len(m.Progress) > 0 {
			a.Arrivals[w.Start] = append(a.Arrivals[w.Start], Arrival{partition, Span{m.First, m.Next}, w.Records, at})
		}
	}
}

// Waiting is what has reached the archive after its windows were covered (DESIGN 6, late files).
type Waiting struct {
	Windows     int   `json:"windows"`
	Beacons     int64 `json:"beacons"` // records of the archive
	First, Last int64 `json:"-"`       // windows, ms
	Since       int64 `json:"since"`   // when the first of them came, ms of the archive's progress
	Due         int64 `json:"due"`     // when the pass is due, ms of the archive's progress; Since if late beacons do not wait
}

// waiting is how many records of each covered window its coverage does not know.
func (a *Archive) waiting(covered map[int64]*Covered) (by map[int64]int64, all Waiting) {
	by = map[int64]int64{}
	all = Waiting{Since: math.MaxInt64, First: math.MaxInt64, Last: math.MinInt64}
	for w, list := range a.Arrivals {
		c := covered[w]
		if c == nil || w < a.From {
			continue
		}
		for _, x := range list {
			known := slices.ContainsFunc(c.Inputs.Spans[x.Partition], func(s Span) bool { return s.First <= x.Span.First && x.Span.Next <= s.Next })
			if !known {
				by[w] += x.Records
				all.Since = min(all.Since, x.At)
			}
		}
		if n := by[w]; n > 0 {
			all.Windows++
			all.Beacons += n
			all.First, all.Last = min(all.First, w), max(all.Last, w)
		}
	}
	if all.Windows == 0 {
		return by, Waiting{}
	}
	all.Due = all.Since
	if a.LateEvery > 0 {
		all.Due = (metric.FloorDiv(all.Since, a.LateEvery) + 1) * a.LateEvery
	}
	return by, all
}

// waits says whether a window whose inputs are now others than those of its coverage waits for the pass: only records that came
// late make it due, and the pass is not.
func (a *Archive) waits(all *Waiting, was, is *Inputs) bool {
	same := *is
	same.Spans = was.Spans
	return was.equal(&same) && a.Progress < all.Due
}

// Waiting is what waits for the late pass, without windows if nothing does.
func (j *Job) Waiting(ctx context.Context) (Waiting, error) {
	a, err := j.Archived()
	if err != nil {
		return Waiting{}, err
	}
	covered, err := j.Covered(ctx)
	if err != nil {
		return Waiting{}, err
	}
	_, all := a.waiting(covered)
	return all, nil
}

// Again is a range of neighbouring windows that a plan ran though they had been covered.
type Again struct {
	First, Last int64 // windows, ms
	Late        int64 // records that had waited
	// Next is the window that is due next since its run, or one before it, came out other than it was; 0: the range ended
	// here, the digests agree again.
	Next int64
}

// again are the ranges of a plan whose windows are covered by now.
func (p *Plan) again(chain *tenant.Chain, covered map[int64]*Covered) (ranges []Again) {
	for i := range p.Windows {
		w := &p.Windows[i]
		if !w.Again || !p.done(i, covered) {
			continue
		}
		if n := len(ranges); n > 0 && ranges[n-1].Last+WindowMS == w.Window {
			ranges[n-1].Last = w.Window
			ranges[n-1].Late += w.Late
			continue
		}
		ranges = append(ranges, Again{First: w.Window, Last: w.Window, Late: w.Late})
	}
	later := slices.Sorted(maps.Keys(covered))
	for i := range ranges {
		r := &ranges[i]
		at, _ := slices.BinarySearch(later, r.Last+1)
		for _, v := range later[at:] {
			if v > r.Last+back(chain, v) {
				break
			}
			if stands(covered, v, max(r.First, v-back(chain, v)), r.Last) {
				continue
			}
			r.Next = v
			break
		}
	}
	return ranges
}

// stands says whether a window read the runs of windows first to last as they are now.
func stands(covered map[int64]*Covered, v, first, last int64) bool {
	read := map[int64]Digests{}
	for _, b := range covered[v].Inputs.Runs {
		if b.Window >= first && b.Window <= last {
			read[b.Window] = b.Digests
		}
	}
	for w := first; w <= last; w += WindowMS {
		var now Digests
		if c := covered[w]; c != nil && !c.Run.Digests.empty() {
			now = c.Run.Digests
		}
		if !slices.Equal(read[w], now) {
			return false
		}
	}
	return true
}
