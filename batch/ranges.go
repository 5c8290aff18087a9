package batch

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"tandem/schemas/archive"
)

// Hash is a session hash; as text 16 hex digits.
type Hash uint64

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	x, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil || len(b) != 16 {
		return fmt.Errorf("hash %q is not 16 hex digits", b)
	}
	*h = Hash(x)
	return nil
}

const (
	// rangeRecords is how many records of a plan's largest window a hash range is made for. Each range makes its own sums of
	// nearly all of a window's cells, which are written and added again: with fewer records that would cost more than folding
	// them. With one range, tasks side by side are the reduce of a window and the map of the next one.
	rangeRecords = 512 << 10
	// fileRecords is how many of each of its files, beyond fewRanges ranges: a range that is small against a row group pays
	// for reading the group.
	fileRecords = 16 << 10
	fewRanges   = 16
	// sampleFiles is how many files are looked at for hash ranges that have more than their share, and sampleRows how many
	// rows of each.
	sampleFiles = 4
	sampleRows  = 1 << 16
)

// uniform divides the hashes into n equal ranges of whole buckets.
func uniform(n int) []Hash {
	bounds := make([]Hash, n)
	for i := range bounds {
		bounds[i] = Hash(uint64(i*Buckets/n) << 58)
	}
	return bounds
}

func rising(bounds []Hash) bool {
	for i := 1; i < len(bounds); i++ {
		if bounds[i] <= bounds[i-1] {
			return false
		}
	}
	return true
}

// last is the last hash of range r.
func last(bounds []Hash, r int) uint64 {
	if r+1 == len(bounds) {
		return math.MaxUint64
	}
	return uint64(bounds[r+1]) - 1
}

// areOf says whether bounds may be those of a plan of n ranges.
func areOf(bounds []Hash, n int) bool {
	return len(bounds) <= 2*n && !slices.ContainsFunc(uniform(n), func(h Hash) bool { return !slices.Contains(bounds, h) })
}

// bounds chooses the hash ranges of a plan: Ranges, else as many as its largest window is worth, up to Buckets, and more where a
// sample of the archive shows that some have more than their share. They set the time of a run and change nothing that it writes.
func (j *Job) bounds(windows []WindowPlan, a Archive) ([]Hash, error) {
	largest := slices.MaxFunc(windows, func(v, w WindowPlan) int { return cmp.Compare(a.Records[v.Window], a.Records[w.Window]) })
	files := filesOf(&largest, a)
	records, n := a.Records[largest.Window], 1
	for n < Buckets && int64(n)*rangeRecords < records && (n < fewRanges || int64(n*len(files))*fileRecords < records) {
		n *= 2
	}
	if j.Ranges > 0 {
		n = j.Ranges
	}
	if n == 1 {
		return uniform(1), nil
	}
	hashes, err := j.sample(files)
	if err != nil {
		return nil, err
	}
	return balanced(uniform(n), hashes), nil
}

// filesOf returns the files that may hold records of a window.
func filesOf(w *WindowPlan, a Archive) []archive.FileInfo {
	var files []archive.FileInfo
	for name, spans := range w.Spans {
		for _, f := range a.Files[name] {
			if f.in(spans, w.Window) {
				files = append(files, f.Info)
			}
		}
	}
	return files
}

// sample returns hashes of the largest of some files, sorted.
func (j *Job) sample(files []archive.FileInfo) ([]uint64, error) {
	slices.SortFunc(files, func(x, y archive.FileInfo) int {
		return cmp.Or(-cmp.Compare(x.Rows, y.Rows), cmp.Compare(x.Name, y.Name))
	})
	var hashes []uint64
	for _, info := range files[:min(len(files), sampleFiles)] {
		step := max(info.Rows/sampleRows, 1)
		r, err := j.Blobs.Open(info.Name)
		if err != nil {
			return nil, fmt.Errorf("event file %s: %w", info.Name, err)
		}
		f, err := archive.OpenFile(r, info)
		if err != nil {
			return nil, err
		}
		it := f.Rows(0, math.MaxUint64, archive.Columns{})
		for i := int64(0); it.Next(); i++ {
			if i%step == 0 {
				hashes = append(hashes, it.Row().Hash)
			}
		}
		f.Close() // it was only read
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	slices.Sort(hashes)
	return hashes, nil
}

// balanced divides those ranges further that have more than twice their share of the sample, between hashes: one session
// is never divided. At most twice as many ranges come of it.
func balanced(bounds []Hash, sample []uint64) []Hash {
	share := max((len(sample)+len(bounds)-1)/len(bounds), 1) // rounded up, or the ranges may be more than twice as many
	var out []Hash
	from := 0
	for r, lo := range bounds {
		out = append(out, lo)
		to, _ := slices.BinarySearch(sample, last(bounds, r))
		for to < len(sample) && sample[to] == last(bounds, r) {
			to++
		}
		if n := to - from; n > 2*share {
			parts := n / share
			for k := 1; k < parts; k++ {
				if cut := Hash(sample[from+k*n/parts]); cut > out[len(out)-1] {
					out = append(out, cut)
				}
			}
		}
		from = to
	}
	return out
}
