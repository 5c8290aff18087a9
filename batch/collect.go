package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// CollectGrace is how long what no coverage names any more is kept after a collector first saw that, in ms. A reader holds a
// resolution for 10 minutes at most; the rest is for the clocks of machines that collect in turn.
const CollectGrace = 3600 * 1000

// Deleter is the part of the metric store that the collector needs.
type Deleter interface {
	DeleteLayerWindow(ctx context.Context, layer, tenant string, from, to int64) error
}

// Collected is what a collection came to.
type Collected struct {
	Deleted int // windows of generations
	Objects int // of these in blob storage, tables left out
	Waiting int // windows of generations that nothing needs, and that are kept until their hour is over
	Plans   int // deleted, that no coverage can come of any more
}

// Removable is what a collection would delete, once its hour is over.
type Removable struct {
	Windows int // of generations
	Objects int // state runs, map results and tables
	Bytes   int64
}

// piece is what a generation has made of a window: state runs, map results, tables and rows of the store.
type piece struct{ Generation, Window int64 }

func comparePieces(a, b piece) int {
	return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Window, b.Window))
}

// spare is a piece that nothing needs, and when a collector first saw so, ms by its clock.
type spare struct {
	piece
	Seen int64
}

// Collect deletes what a generation has made of a window if no standing coverage names it, as its own or as input, and no plan
// in progress, and a collector first saw that CollectGrace ago. What has been seen is remembered in a chain of create-only
// objects, of which the newest stands: of two collectors at once one deletes nothing. clock is the caller's, in ms. It
// may be ended anywhere and called again.
//
// The coverage of a window behind the archive's retention (keptFrom) names nothing: its state runs, map results and tables go,
// its rows and rollups in the store live as long as the store says. That is safe since no window before Archive.From is ever
// planned, audited or explained again, a window reads runs of the session_ttl before it only, and From never goes back: it is
// recorded before the first event file goes. Who planned before that record is a plan in progress for as long as it can bring
// coverage, and whoever looked and has not claimed yet has an hour.
func (j *Job) Collect(ctx context.Context, st Deleter, clock func() int64) (*Collected, error) {
	out := &Collected{}
	made, err := j.pieces()
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	covered, err := j.Covered(ctx)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	kept, err := j.keptFrom()
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	spares, err := j.spares(made, covered, kept)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	if out.Plans, err = j.forgetPlans(covered); err != nil {
		return out, fmt.Errorf("collect: %w", err)
	}
	now := clock() // after coverage, which may have come to name others a moment before it was read
	seen, ok, err := j.remember(spares, now)
	if err != nil || !ok {
		return out, err
	}
	for _, s := range seen {
		if now-s.Seen < CollectGrace {
			out.Waiting++
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if err := j.delete(ctx, st, s.piece, made[s.piece], s.stands(covered)); err != nil {
			return out, fmt.Errorf("collect window %s of generation %d: %w", windowName(s.Window), s.Generation, err)
		}
		out.Deleted++
		out.Objects += len(made[s.piece])
	}
	return out, nil
}

// stands says whether a piece is what coverage names of its window.
func (p piece) stands(covered map[int64]*Covered) bool {
	c := covered[p.Window]
	return c != nil && c.Generation == p.Generation
}

// Removable says what Collect would delete, hour or not: what newer coverage has replaced, and what is behind the retention.
func (j *Job) Removable(ctx context.Context) (replaced, old Removable, err error) {
	made, err := j.pieces()
	if err != nil {
		return replaced, old, err
	}
	covered, err := j.Covered(ctx)
	if err != nil {
		return replaced, old, err
	}
	kept, err := j.keptFrom()
	if err != nil {
		return replaced, old, err
	}
	spares, err := j.spares(made, covered, kept)
	if err != nil {
		return replaced, old, err
	}
	for _, p := range spares {
		of := &replaced
		if p.Window < kept {
			of = &old
		}
		if err := j.count(p, made[p], of); err != nil {
			return replaced, old, err
		}
	}
	return replaced, old, nil
}

// Behind is what there is of windows that would be behind the retention if event files before a time in ms were retired, and
// that time of theirs.
func (j *Job) Behind(before int64) (out Removable, kept int64, err error) {
	kept = j.keptBefore(before)
	made, err := j.pieces()
	if err != nil {
		return out, kept, err
	}
	for p, objects := range made {
		if p.Window < kept {
			if err := j.count(p, objects, &out); err != nil {
				return out, kept, err
			}
		}
	}
	return out, kept, nil
}

// count adds what there is of a piece.
func (j *Job) count(p piece, objects []string, out *Removable) error {
	out.Windows++
	for _, name := range slices.Concat(j.tablesOf(p), objects) {
		n, err := blob.Size(j.Blobs, name)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("count what the batch made: %s: %w", name, err)
		}
		out.Objects++
		out.Bytes += n
	}
	return nil
}

// keptFrom is the first window, ms, whose runs and tables are kept for their age: those that windows read whose event files
// are not retired.
func (j *Job) keptFrom() (int64, error) {
	parts := j.partitions()
	err := j.each(len(parts), func(i int) (err error) {
		p := &parts[i]
		p.retired, err = archive.ReadRetired(j.Blobs, p.topic, p.partition)
		return err
	})
	if err != nil {
		return 0, err
	}
	before := int64(math.MinInt64)
	for i := range parts {
		before = max(before, parts[i].retired.Before)
	}
	return j.keptBefore(before), nil
}

// keptBefore goes back from a window by the longest session_ttl of any revision: by that a session of one of them ends at a cut.
func (j *Job) keptBefore(window int64) int64 {
	ttl := int64(0)
	for i := range j.Chain.Revs {
		ttl = max(ttl, j.Chain.Revs[i].Config.SessionTTL)
	}
	ttl = (ttl + WindowMS - 1) / WindowMS * WindowMS
	if window < math.MinInt64+ttl {
		return math.MinInt64
	}
	return window - ttl
}

// made are the objects that generations have made of windows.
func (j *Job) made() ([]string, error) {
	names, err := j.Blobs.List(j.folder() + "out/")
	if err != nil {
		return nil, fmt.Errorf("list what was made: %w", err)
	}
	return names, nil
}

// pieces are the pieces that there are, with their objects.
func (j *Job) pieces() (map[piece][]string, error) {
	names, err := j.made()
	if err != nil {
		return nil, err
	}
	folder, made := j.folder()+"out/", map[piece][]string{}
	for _, name := range names {
		var p piece
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, folder), "%d/%d/", &p.Generation, &p.Window); err != nil {
			return nil, fmt.Errorf("object %s: it is not named as one that the batch makes", name)
		}
		made[p] = append(made[p], name)
	}
	return made, nil
}

// spares are the pieces that neither the coverage of a window from kept on nor a plan in progress names, in order.
func (j *Job) spares(made map[piece][]string, covered map[int64]*Covered, kept int64) ([]piece, error) {
	free := map[piece]bool{}
	for p := range made {
		free[p] = true
	}
	for _, c := range covered {
		if c.Window < kept {
			continue
		}
		delete(free, piece{c.Generation, c.Window})
		for _, r := range c.Inputs.Runs {
			delete(free, piece{r.Generation, r.Window})
		}
	}
	least := int64(math.MaxInt64)
	for p := range free {
		least = min(least, p.Generation)
	}
	// A plan reads only what its own generation makes and what stood when it was claimed, which is older.
	last, err := j.lastClaim()
	if err != nil {
		return nil, err
	}
	for g := least; g <= last && len(free) > 0; g++ {
		p, err := j.ReadPlan(g)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !p.mayCover(covered) {
			continue
		}
		if void, err := j.isVoid(g); err != nil {
			return nil, err
		} else if void {
			continue
		}
		for i := range p.Windows {
			delete(free, piece{g, p.Windows[i].Window})
			for _, r := range p.Windows[i].Before {
				delete(free, piece{r.Generation, r.Window})
			}
		}
	}
	return slices.SortedFunc(maps.Keys(free), comparePieces), nil
}

// keepPlans are kept, the newest: some three weeks of one for each window. So many that no storage lists so late that somebody
// would claim the generation of one that is deleted.
const keepPlans = 1000

// forgetPlans deletes plans before the newest ones of which no coverage can come any more.
func (j *Job) forgetPlans(covered map[int64]*Covered) (n int, err error) {
	names, err := j.Blobs.List(j.folder() + "plans/")
	if err != nil {
		return 0, fmt.Errorf("list plans: %w", err)
	}
	for _, name := range names[:max(len(names)-keepPlans, 0)] {
		g, err := j.generationOf(name)
		if err != nil {
			return n, err
		}
		p, err := j.ReadPlan(g)
		if errors.Is(err, blob.ErrNotFound) {
			continue // another collector was here
		}
		if err != nil {
			return n, err
		}
		if p.mayCover(covered) {
			continue
		}
		for _, name := range []string{j.voidName(g), name} {
			if err := j.Blobs.Delete(name); err != nil {
				return n, fmt.Errorf("forget plan %d: %w", g, err)
			}
		}
		n++
	}
	return n, nil
}

// mayCover says whether some coverage by the plan would stand that is not there yet: it may be in progress.
func (p *Plan) mayCover(covered map[int64]*Covered) bool {
	return mayCover(p.Windows, p.Generation, covered)
}

func mayCover(windows []WindowPlan, generation int64, covered map[int64]*Covered) bool {
	return slices.ContainsFunc(windows, func(w WindowPlan) bool {
		c := covered[w.Window]
		return c == nil || c.Generation < generation
	})
}

// remember says since when each of the spares has been seen, and keeps that. Not ok: another collector is at it.
func (j *Job) remember(spares []piece, now int64) (seen []spare, ok bool, err error) {
	names, err := j.Blobs.List(j.folder() + "collect/")
	if err != nil {
		return nil, false, fmt.Errorf("list what was seen: %w", err)
	}
	number := int64(0)
	var before []spare
	if n := len(names); n > 0 {
		name := names[n-1]
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, j.folder()+"collect/"), "%d.json", &number); err != nil {
			return nil, false, fmt.Errorf("object %s: it is not named as one of the collector", name)
		}
		data, err := j.Blobs.Get(name)
		if errors.Is(err, blob.ErrNotFound) {
			return nil, false, nil
		}
		if err == nil {
			_, err = sealed.Unmarshal(data, &before)
		}
		if err != nil {
			return nil, false, fmt.Errorf("what was seen, %s: %w", name, err)
		}
	}
	since := map[piece]int64{}
	for _, s := range before {
		since[s.piece] = s.Seen
	}
	for _, p := range spares {
		at, known := since[p]
		if !known || at > now { // in the future: a clock was wrong
			at = now
		}
		seen = append(seen, spare{p, at})
	}
	if slices.Equal(seen, before) {
		return seen, true, nil
	}
	data, err := sealed.Marshal(seen)
	if err == nil {
		err = j.Blobs.Create(fmt.Sprintf("%scollect/%012d.json", j.folder(), number+1), data)
	}
	if errors.Is(err, blob.ErrExists) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("remember what was seen: %w", err)
	}
	for _, name := range names {
		if err := j.Blobs.Delete(name); err != nil {
			return nil, false, fmt.Errorf("forget what was seen: %w", err)
		}
	}
	return seen, true, nil
}

// delete deletes a piece, but for the rows of one that stands. What tells of others goes before these, so that no line of the
// coverage table is without its rows, and no run without its files; any object that is left has the rest found again.
func (j *Job) delete(ctx context.Context, st Deleter, p piece, objects []string, stands bool) error {
	if !stands {
		if err := st.DeleteLayerWindow(ctx, Layer(p.Generation), j.Chain.Tenant, p.Window/60000, (p.Window+WindowMS)/60000); err != nil {
			return err
		}
	}
	run := j.runName(p.Generation, p.Window)
	names := append(j.tablesOf(p), run)
	for _, name := range objects {
		if name != run {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if err := j.Blobs.Delete(name); err != nil {
			return err
		}
	}
	return nil
}
