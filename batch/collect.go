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
	Objects int // of these in blob storage
	Waiting int // windows of generations that nothing needs, and that are kept until their hour is over
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
// objects, of which the newest stands: of two collectors at once one deletes nothing. now is the caller's clock, in ms. It
// may be ended anywhere and called again.
func (j *Job) Collect(ctx context.Context, st Deleter, now int64) (*Collected, error) {
	out := &Collected{}
	made, err := j.pieces()
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	covered, err := j.Covered(ctx)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	spares, err := j.spares(made, covered)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
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
		if err := j.delete(ctx, st, s.piece, made[s.piece]); err != nil {
			return out, fmt.Errorf("collect window %s of generation %d: %w", windowName(s.Window), s.Generation, err)
		}
		out.Deleted++
		out.Objects += len(made[s.piece])
	}
	return out, nil
}

// pieces are the pieces that there are, with their objects.
func (j *Job) pieces() (map[piece][]string, error) {
	folder := j.folder() + "out/"
	names, err := j.Blobs.List(folder)
	if err != nil {
		return nil, fmt.Errorf("list what was made: %w", err)
	}
	made := map[piece][]string{}
	for _, name := range names {
		var p piece
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, folder), "%d/%d/", &p.Generation, &p.Window); err != nil {
			return nil, fmt.Errorf("object %s: it is not named as one that the batch makes", name)
		}
		made[p] = append(made[p], name)
	}
	return made, nil
}

// spares are the pieces that neither coverage nor a plan in progress names, in order.
func (j *Job) spares(made map[piece][]string, covered map[int64]*Covered) ([]piece, error) {
	free := map[piece]bool{}
	for p := range made {
		free[p] = true
	}
	for _, c := range covered {
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
		if _, err := j.Blobs.Get(j.voidName(g)); err == nil {
			continue
		} else if !errors.Is(err, blob.ErrNotFound) {
			return nil, fmt.Errorf("plan %d: %w", g, err)
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

// mayCover says whether some coverage by the plan would stand that is not there yet: it may be in progress.
func (p *Plan) mayCover(covered map[int64]*Covered) bool {
	return slices.ContainsFunc(p.Windows, func(w WindowPlan) bool {
		c := covered[w.Window]
		return c == nil || c.Generation < p.Generation
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

// delete deletes a piece. The objects that tell of it go last, so that one that is stopped is found again.
func (j *Job) delete(ctx context.Context, st Deleter, p piece, objects []string) error {
	if err := st.DeleteLayerWindow(ctx, Layer(p.Generation), j.Chain.Tenant, p.Window/60000, (p.Window+WindowMS)/60000); err != nil {
		return err
	}
	for _, name := range append(j.tablesOf(p), objects...) {
		if err := j.Blobs.Delete(name); err != nil {
			return err
		}
	}
	return nil
}
