// Package batch recomputes windows of event time from the archive (DESIGN 6): plan decides from manifests, coverage and
// config which windows are due, map folds a hash range of a window, reduce adds the ranges and writes rows and coverage.
package batch

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/staterun"
)

// WindowMS is the length of a window, ms of event time.
const WindowMS = archive.WindowMillis

// Buckets is the number of hash buckets that the sessions of a map result are summed up in, and of the bounds of hash ranges. A bucket is
// a sum over its sessions, so the runs of plans with other hash ranges compare.
const Buckets = 64

// Topic is a beacons topic of the tenant.
type Topic struct {
	Name, ID   string
	Partitions int32
}

// Span is a range of offsets of a partition, [First, Next).
type Span struct{ First, Next int64 }

// RunRef names a state run and what it holds.
type RunRef struct {
	Window     int64 // ms
	Generation int64
	Digest     Digest `json:"Digests"`
}

// Digest tells a run from others by the sessions that it holds; the zero Digest: not known yet. That two runs that differ have the same
// is as likely as that of 64 bits.
type Digest struct {
	known bool
	sum   uint64 // 0: it has no session
}

// digestOf is the digest of a run by what its sessions come to in each bucket (mapper.digests).
func digestOf(buckets []uint64) Digest {
	if !slices.ContainsFunc(buckets, func(x uint64) bool { return x != 0 }) {
		return Digest{known: true}
	}
	b := make([]byte, 0, 8*Buckets)
	for _, x := range buckets {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return Digest{known: true, sum: max(xxhash.Sum64(b), 1)}
}

// MarshalText writes 16 hex digits, nothing for a run without sessions, and ? for what is not known yet.
func (d Digest) MarshalText() ([]byte, error) {
	switch {
	case !d.known:
		return []byte("?"), nil
	case d.empty():
		return nil, nil
	}
	return fmt.Appendf(nil, "%016x", d.sum), nil
}

// UnmarshalText reads what MarshalText wrote, and what it wrote before: 16 digits for each bucket.
func (d *Digest) UnmarshalText(b []byte) error {
	var sums []uint64
	for rest := b; len(rest) >= 16; rest = rest[16:] {
		x, err := strconv.ParseUint(string(rest[:16]), 16, 64)
		if err != nil {
			return fmt.Errorf("digest: %w", err)
		}
		sums = append(sums, x)
	}
	switch {
	case string(b) == "?":
		*d = Digest{}
	case len(b) == 0:
		*d = Digest{known: true}
	case len(b) == 16 && sums[0] != 0:
		*d = Digest{known: true, sum: sums[0]}
	case len(b) == 16*Buckets:
		*d = digestOf(sums)
	default:
		return fmt.Errorf("digest of %d characters, not 16", len(b))
	}
	return nil
}

// empty says that the run has no session.
func (d Digest) empty() bool { return d.known && d.sum == 0 }

// Inputs of a window: everything that its rows and run are a function of.
type Inputs struct {
	Spans     map[string][]Span // by "topic/partition"; those that hold records of the window
	Revisions []uint64          // digests of the revisions in force over its minutes and the session_ttl before
	// Edges, ms, are where each of these but the first takes over, if that is elsewhere than their configs say: splices may have
	// taken back a part of one. Two lists of revisions may be the same but for that.
	Edges []int64  `json:",omitempty"`
	Runs  []RunRef // of earlier windows, by window; those without sessions are left out
}

// Counts of a window (SPEC 11). Rejected and Unused are of records that dispatch let through and this config does not.
type Counts struct {
	Records, Unused, Duplicate, Overflow, Conflict, UnknownVariation int64
	Late                                                             int64 // records that the stream left out
	// LateSessions are sessions with such records: where coverage ends they may count in both layers (SPEC 9).
	LateSessions int64 `json:",omitempty"`
	Rejected     map[string]int64
	// Uncertain are sessions that may have begun before anything that is known of them (WindowPlan.Unknown).
	Uncertain int64 `json:",omitempty"`
}

func (c *Counts) add(o *Counts) {
	c.Records += o.Records
	c.Unused += o.Unused
	c.Duplicate += o.Duplicate
	c.Overflow += o.Overflow
	c.Conflict += o.Conflict
	c.UnknownVariation += o.UnknownVariation
	c.Late += o.Late
	c.LateSessions += o.LateSessions
	c.Uncertain += o.Uncertain
	for k, n := range o.Rejected {
		if c.Rejected == nil {
			c.Rejected = map[string]int64{}
		}
		c.Rejected[k] += n
	}
}

// Covered is the coverage of a window, as the store keeps it.
type Covered struct {
	Window     int64 // ms
	Generation int64
	Inputs     Inputs
	Run        RunRef             // the window's own run
	Files      []staterun.RunInfo // of the run, by hash range
	Counts     Counts
	Rows       int64
	Fold       int  // FoldVersion of what made it
	Parser     int  // version of the parser, by which payloads were read that had not been by the archiver
	Reparsed   bool `json:",omitempty"` // all payloads were
	// Unknown is that of the plan if the window has rows of sessions that may have begun before anything that is known of
	// them: then it is approximate.
	Unknown int64 `json:",omitempty"`
}

// WindowPlan is a window to be run.
type WindowPlan struct {
	Window    int64
	Spans     map[string][]Span
	Revisions []uint64
	Edges     []int64 `json:",omitempty"`
	// Before lists the earlier windows whose runs are read, by window: those that a coverage names, and those of the
	// same plan, whose digests are not known yet.
	Before []RunRef
	// Again: it had been covered. Late is how many records of it had waited for that.
	Again bool  `json:",omitempty"`
	Late  int64 `json:",omitempty"`
	// Unknown, ms, is a time up to which sessions may have begun earlier than can be known, since windows before are not covered;
	// 0: all is known.
	Unknown int64 `json:",omitempty"`
}

// FoldVersion changes when what Fold computes changes: a plan is gone on with only by the version that made it.
const FoldVersion = 1

// Plan is what a claim holds: all its tasks share it.
type Plan struct {
	Tenant     string
	Generation int64
	Fold       int    // FoldVersion
	Parser     int    // Job.Parser
	Reparse    bool   `json:",omitempty"` // every payload is parsed again, whatever its row's parse digest
	Bounds     []Hash // the first hash of each range, in order, 0 first
	Windows    []WindowPlan
}

// Archive is what the manifests say.
type Archive struct {
	Progress int64    // least progress of every source in every partition's last manifest, ms; math.MinInt64: not known
	Unknown  []string // partitions, or topics, that no progress is known of
	Spans    map[int64]map[string][]Span
	Records  map[int64]int64     // of each window
	Files    map[string][]File   // by "topic/partition", in order of offsets
	Ends     map[string]int64    // offset that the last manifest ends at, by "topic/partition"; none: 0
	From     int64               // ms: files of windows before it are retired, so these are never due
	Arrivals map[int64][]Arrival // of each window, after its end
	// LateEvery, ms, is how long beacons that come after their window was covered wait at most: their pass is due when progress
	// comes to the next multiple of it. 0: they do not wait.
	LateEvery int64
}

// End is the end of the last window that has records, ms; 0: there is none.
func (a *Archive) End() (end int64) {
	for w := range a.Spans {
		end = max(end, w+WindowMS)
	}
	return end
}

// File is an event file and the offsets that its manifest commits.
type File struct {
	Info archive.FileInfo
	Span Span
	// Windows that it holds records of, ms.
	Windows []int64
}

// ReadArchive turns manifest chains, one for each partition of the tenant's topics, into what plan and map need.
func ReadArchive(chains map[string][]archive.Manifest) Archive {
	a := Archive{Progress: math.MaxInt64, Spans: map[int64]map[string][]Span{}, Records: map[int64]int64{}, Files: map[string][]File{},
		Ends: map[string]int64{}, Arrivals: map[int64][]Arrival{}}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		chain := chains[name]
		if len(chain) > 0 {
			a.Ends[name] = chain[len(chain)-1].Next
		}
		ms, known := archive.Progress(chain)
		if !known {
			a.Progress = math.MinInt64
			a.Unknown = append(a.Unknown, name)
			continue
		}
		a.Progress = min(a.Progress, ms)
		for _, m := range chain {
			a.arrivals(name, &m)
			var windows []int64
			for _, w := range m.Windows {
				windows = append(windows, w.Start)
				a.Records[w.Start] += w.Records
				if a.Spans[w.Start] == nil {
					a.Spans[w.Start] = map[string][]Span{}
				}
				a.Spans[w.Start][name] = join(a.Spans[w.Start][name], Span{m.First, m.Next})
			}
			for _, f := range m.Files {
				a.Files[name] = append(a.Files[name], File{f, Span{m.First, m.Next}, windows})
			}
		}
	}
	return a
}

func join(spans []Span, s Span) []Span {
	if n := len(spans); n > 0 && spans[n-1].Next == s.First {
		spans[n-1].Next = s.Next
		return spans
	}
	return append(spans, s)
}

// Due returns the windows to run, oldest first: those that have settled and are not covered, or, when there are none,
// those whose inputs are no longer those of their coverage. Windows that were covered under other revisions than those in force
// now are left to a backfill, whatever else has changed of them, but for those whose runs one that is due would read and cannot,
// since their revision is gone: these go with it. Windows that only have records more wait for the late pass. A window reads the
// runs that those before it in the list will leave, else those that coverage names; whether that makes others due shows when
// these are covered. It is a pure function of its arguments; covered is by window.
func Due(chain *tenant.Chain, a Archive, covered map[int64]*Covered) []WindowPlan {
	waiting := a.waiting(covered)
	var fresh, changed, other []int64
	for _, w := range settled(chain, a, covered) {
		if w < a.From {
			continue
		}
		switch why(chain, a, covered, w) {
		case whyNew:
			fresh = append(fresh, w)
		case whyRevisions:
			other = append(other, w)
		case whyLate:
			if in := inputs(chain, a, covered, w); !a.waits(&waiting, &covered[w].Inputs, &in) {
				changed = append(changed, w)
			}
		case whyState:
			changed = append(changed, w)
		}
	}
	due := fresh
	if len(due) == 0 {
		due = changed
	}
	for _, w := range slices.Backward(other) {
		if unreadable(chain, covered[w]) && slices.ContainsFunc(due, func(d int64) bool { return w < d && w >= d-back(chain, d) }) {
			due = append(due, w)
		}
	}
	slices.Sort(due)
	return plans(chain, a, covered, due)
}

// Why a window is due.
const (
	whyNew       = "not covered"
	whyLate      = "beacons came later"
	whyRevisions = "other revisions of the config"
	whyState     = "other state before it"
)

// why says why a window is due, "" if it is not.
func why(chain *tenant.Chain, a Archive, covered map[int64]*Covered, w int64) string {
	c := covered[w]
	if c == nil {
		return whyNew
	}
	in := inputs(chain, a, covered, w)
	switch {
	case !c.Inputs.sameConfig(&in):
		return whyRevisions
	case !maps.EqualFunc(c.Inputs.Spans, in.Spans, slices.Equal[[]Span]):
		return whyLate
	case !c.Inputs.equal(&in):
		return whyState
	}
	return ""
}

// settled are the windows in which anything can happen and that no beacon is expected in any more, oldest first.
func settled(chain *tenant.Chain, a Archive, covered map[int64]*Covered) []int64 {
	if a.Progress == math.MinInt64 || len(a.Spans) == 0 {
		return nil
	}
	all := candidates(chain, a, covered)
	for i, w := range all {
		if a.Progress < w+WindowMS+lateness(chain, w) {
			return all[:i]
		}
	}
	return all
}

// plans says what the windows, in order, read.
func plans(chain *tenant.Chain, a Archive, covered map[int64]*Covered, due []int64) []WindowPlan {
	var plans []WindowPlan
	all := candidates(chain, a, covered)
	for i, w := range due {
		in := inputs(chain, a, covered, w)
		late, _ := a.late(w, covered[w])
		p := WindowPlan{Window: w, Spans: in.Spans, Revisions: in.Revisions, Edges: in.Edges, Before: in.Runs, Again: covered[w] != nil, Late: late}
		from := w - back(chain, w)
		for k, v := range due[:i] {
			if v < from {
				continue
			}
			p.Before = slices.DeleteFunc(p.Before, func(r RunRef) bool { return r.Window == v })
			p.Before = append(p.Before, RunRef{Window: v})
			p.Unknown = max(p.Unknown, plans[k].Unknown)
		}
		slices.SortFunc(p.Before, func(a, b RunRef) int { return cmp.Compare(a.Window, b.Window) })
		p.Unknown = max(p.Unknown, unknown(chain, all, covered, due[:i], w))
		plans = append(plans, p)
	}
	return plans
}

// unknown is WindowPlan.Unknown by what is not covered, nor run before w, of the windows whose runs it would read, and by what
// these say themselves. all are the candidates.
func unknown(chain *tenant.Chain, all []int64, covered map[int64]*Covered, before []int64, w int64) int64 {
	until := int64(0)
	i, _ := slices.BinarySearch(all, w-back(chain, w))
	for ; i < len(all) && all[i] < w; i++ {
		v := all[i]
		if _, own := slices.BinarySearch(before, v); own {
			continue
		}
		if c := covered[v]; c != nil {
			until = max(until, c.Unknown)
		} else {
			until = max(until, v+WindowMS+back(chain, v+WindowMS))
		}
	}
	return until
}

// candidates are the windows in which anything can happen, oldest first: those that hold records, those after them
// in which sessions of these can still be ended, and those without records that coverage says something of: the config that they were
// covered under may have let visits last for longer. Time may stand still or leap between records; the windows that it leaps over need no coverage, since nothing
// is in them in any layer.
func candidates(chain *tenant.Chain, a Archive, covered map[int64]*Covered) []int64 {
	var all []int64
	for _, v := range slices.Sorted(maps.Keys(a.Spans)) {
		w := v
		if n := len(all); n > 0 {
			w = max(w, all[n-1]+WindowMS)
		}
		for ; w <= v+back(chain, v)+WindowMS; w += WindowMS {
			all = append(all, w)
		}
	}
	for w, c := range covered {
		if len(c.Inputs.Spans) == 0 && (c.Rows > 0 || !c.Run.Digest.empty()) {
			all = append(all, w)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func lateness(chain *tenant.Chain, w int64) int64 {
	most := int64(0)
	for i := range chain.Revs {
		if r := &chain.Revs[i]; r.From < w+WindowMS && r.To > w {
			most = max(most, r.Config.Lateness)
		}
	}
	if most == 0 {
		most = chain.Revs[0].Config.Lateness
	}
	return most
}

// back returns how far before w, in whole windows, runs can hold sessions that matter to w.
func back(chain *tenant.Chain, w int64) int64 {
	ttl := int64(0)
	for i := range chain.Revs {
		r := &chain.Revs[i]
		if r.From < w+WindowMS && (r.To == math.MaxInt64 || r.To+r.Config.SessionTTL > w) {
			ttl = max(ttl, r.Config.SessionTTL)
		}
	}
	return (ttl + WindowMS - 1) / WindowMS * WindowMS
}

func inputs(chain *tenant.Chain, a Archive, covered map[int64]*Covered, w int64) Inputs {
	in := Inputs{Spans: a.Spans[w]}
	from := w - back(chain, w)
	moved := false
	for i := range chain.Revs {
		r := &chain.Revs[i]
		if r.From >= w+WindowMS || r.To <= from {
			continue
		}
		if len(in.Revisions) > 0 {
			said := r.Config.From
			if p := chain.Revs[i-1].Config; p.HasTo && !r.Config.HasTo {
				said = p.To
			}
			in.Edges, moved = append(in.Edges, r.From), moved || r.From != said
		}
		in.Revisions = append(in.Revisions, r.StateDigest)
	}
	if !moved {
		in.Edges = nil
	}
	for v := from; v < w; v += WindowMS {
		if c := covered[v]; c != nil && !c.Run.Digest.empty() {
			in.Runs = append(in.Runs, c.Run)
		}
	}
	return in
}

// unreadable says whether a window's run was made under a revision that the chain no longer has.
func unreadable(chain *tenant.Chain, c *Covered) bool {
	return !c.Run.Digest.empty() && slices.ContainsFunc(c.Inputs.Revisions, func(d uint64) bool { return !knows(chain, d) })
}

// knows says whether the chain has the revision; if so, all ids up to it are the same (tenant.Chain).
func knows(chain *tenant.Chain, digest uint64) bool {
	return slices.ContainsFunc(chain.Revs, func(r tenant.Rev) bool { return r.StateDigest == digest })
}

// sameConfig says whether two inputs are read by the same configs.
func (a *Inputs) sameConfig(b *Inputs) bool {
	return slices.Equal(a.Revisions, b.Revisions) && slices.Equal(a.Edges, b.Edges)
}

// equal says whether two inputs give the same rows: a run may have another generation if it holds the same.
func (a *Inputs) equal(b *Inputs) bool {
	return maps.EqualFunc(a.Spans, b.Spans, slices.Equal[[]Span]) && a.sameConfig(b) &&
		slices.EqualFunc(a.Runs, b.Runs, func(x, y RunRef) bool { return x.Window == y.Window && x.Digest == y.Digest })
}

func bucketOf(hash uint64) int { return int(hash >> 58) }

func sourceName(topic string, partition int32) string {
	return topic + "/" + strconv.Itoa(int(partition))
}
