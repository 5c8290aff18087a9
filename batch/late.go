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

// arrivals notes what of a manifest came after its window's end. What a backfill brought from raw topics came at no time, and waits
// for nothing.
func (a *Archive) arrivals(partition string, m *archive.Manifest) {
	at, known := m.Least()
	for _, w := range m.Windows {
		if known && at < math.MaxInt64 && at >= w.Start+WindowMS {
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
	// Unknown are partitions, or topics, of which the archive knows no progress: until it does nothing is due.
	Unknown []string `json:"unknown,omitempty"`
}

// late is how many records of a window its coverage does not know, and when the first of them came (Arrival.At): none of one
// that is not covered, or whose files are retired.
func (a *Archive) late(w int64, c *Covered) (n, since int64) {
	since = math.MaxInt64
	if c == nil || w < a.From {
		return 0, since
	}
	for _, x := range a.Arrivals[w] {
		known := slices.ContainsFunc(c.Inputs.Spans[x.Partition], func(s Span) bool { return s.First <= x.Span.First && x.Span.Next <= s.Next })
		if !known {
			n, since = n+x.Records, min(since, x.At)
		}
	}
	return n, since
}

// waiting is what waits of all windows.
func (a *Archive) waiting(covered map[int64]*Covered) Waiting {
	all := Waiting{Since: math.MaxInt64, First: math.MaxInt64, Last: math.MinInt64}
	for w := range a.Arrivals {
		n, since := a.late(w, covered[w])
		all.Since = min(all.Since, since)
		if n > 0 {
			all.Windows++
			all.Beacons += n
			all.First, all.Last = min(all.First, w), max(all.Last, w)
		}
	}
	if all.Windows == 0 {
		return Waiting{}
	}
	all.Due = all.Since
	if a.LateEvery > 0 {
		all.Due = (metric.FloorDiv(all.Since, a.LateEvery) + 1) * a.LateEvery
	}
	return all
}

// waits says whether a window whose inputs are now others than those of its coverage waits for the pass: only records that came
// late make it due, and the pass is not.
func (a *Archive) waits(all *Waiting, was, is *Inputs) bool {
	same := *is
	same.Spans = was.Spans
	return was.equal(&same) && a.Progress < all.Due
}

// Left are the windows that the batch leaves to a backfill: those that were covered under other revisions than those in force
// now.
type Left struct {
	Windows     int
	First, Last int64 // windows, ms
}

// Waiting is what waits for the late pass, without windows if nothing does, and what is left to a backfill.
func (j *Job) Waiting(ctx context.Context) (late Waiting, left Left, err error) {
	a, covered, err := j.look(ctx)
	if err != nil {
		return late, left, err
	}
	for _, w := range settled(j.Chain, a, covered) {
		if w >= a.From && why(j.Chain, a, covered, w) == whyRevisions {
			if left.Windows == 0 {
				left.First = w
			}
			left.Windows, left.Last = left.Windows+1, w
		}
	}
	late = a.waiting(covered)
	late.Unknown = a.Unknown
	return late, left, nil
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
	read := map[int64]Digest{}
	for _, b := range covered[v].Inputs.Runs {
		if b.Window >= first && b.Window <= last {
			read[b.Window] = b.Digest
		}
	}
	for w := first; w <= last; w += WindowMS {
		var now Digest
		if c := covered[w]; c != nil && !c.Run.Digest.empty() {
			now = c.Run.Digest
		}
		if read[w] != now {
			return false
		}
	}
	return true
}
