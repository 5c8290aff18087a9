package batch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/staterun"
	"tandem/schemas/store"
	"tandem/schemas/tables"
)

// ErrCorrupt marks an object of the batch that is not what was written.
var ErrCorrupt = errors.New("object is corrupt")

// Plan returns the plan to work on, nil if nothing is due: the one claimed last, if what it has left is still due as it
// says, else a generation claimed anew.
func (j *Job) Plan(ctx context.Context) (*Plan, Archive, error) {
	a, covered, err := j.lookWhole(ctx)
	if err != nil {
		return nil, a, err
	}
	p, err := j.planOf(Due(j.Chain, a, covered), covered, covered, a)
	return p, a, err
}

// look reads what there is to plan from: coverage first, since the archive only grows, so that it then has all that coverage was
// made from, whatever other runs do between the two; the config last (Job.Renew). Coverage that no window reads any more for its age,
// which lives as long as rollups, is left out.
func (j *Job) look(ctx context.Context) (Archive, map[int64]*Covered, error) {
	if j.Ranges < 0 || j.Ranges > Buckets {
		return Archive{}, nil, fmt.Errorf("batch of %s: %d hash ranges, want 1 to %d", j.Chain.Tenant, j.Ranges, Buckets)
	}
	kept, err := j.keptFrom()
	if err != nil {
		return Archive{}, nil, err
	}
	covered, err := j.coveredIn(ctx, max(kept, 0)/60000, store.MaxMinute)
	if err != nil {
		return Archive{}, nil, err
	}
	a, err := j.Archived()
	if err == nil && j.Renew != nil {
		err = j.Renew()
	}
	return a, covered, err
}

// lookWhole is look for those who go by it.
func (j *Job) lookWhole(ctx context.Context) (Archive, map[int64]*Covered, error) {
	a, covered, err := j.look(ctx)
	if err == nil {
		err = a.whole(j.Chain.Tenant, covered)
	}
	return a, covered, err
}

// planOf is the plan for what is due by the coverage that is gone by: the one claimed last or a new one, nil if nothing is due.
// Of the coverage that stands, covered may leave some out.
func (j *Job) planOf(due []WindowPlan, covered, stands map[int64]*Covered, a Archive) (*Plan, error) {
	if len(due) == 0 {
		return nil, nil
	}
	p, err := j.Standing()
	if err != nil {
		return nil, err
	}
	if p != nil && !p.lost(covered, stands) && j.goesOn(p, due, covered) {
		return p, nil
	}
	due = j.portion(due, covered, a)
	bounds, err := j.bounds(due, a)
	if err != nil {
		return nil, fmt.Errorf("batch of %s: hash ranges: %w", j.Chain.Tenant, err)
	}
	return j.claim(due, bounds, stands)
}

// portion is as much of what is due as one plan takes: windows that were covered before must not keep new ones waiting.
func (j *Job) portion(due []WindowPlan, covered map[int64]*Covered, a Archive) []WindowPlan {
	if j.Portion == 0 || covered[due[0].Window] == nil {
		return due
	}
	records := a.Records[due[0].Window]
	for i := 1; i < len(due); i++ {
		if records += a.Records[due[i].Window]; records > j.Portion {
			return due[:i]
		}
	}
	return due
}

// Archived reads what the manifests say. While a topic of the tenant is not archived its progress is not known.
func (j *Job) Archived() (Archive, error) {
	chains := map[string][]archive.Manifest{}
	files := map[string][]File{}
	from := int64(math.MinInt64)
	for _, t := range j.Topics {
		known, err := archive.ReadPartitions(j.Blobs, t.Name)
		if errors.Is(err, blob.ErrNotFound) {
			return Archive{Progress: math.MinInt64, Unknown: []string{t.Name}}, nil
		}
		if err != nil {
			return Archive{}, err
		}
		if known.TopicID != t.ID || known.Count != t.Partitions {
			return Archive{}, fmt.Errorf("batch of %s: the archive of %s is of topic %s with %d partitions, not of %s with %d",
				j.Chain.Tenant, t.Name, known.TopicID, known.Count, t.ID, t.Partitions)
		}
	}
	parts := j.partitions()
	if err := j.each(len(parts), func(i int) error { return parts[i].read(j.Blobs) }); err != nil {
		return Archive{}, err
	}
	for i := range parts {
		p := &parts[i]
		name := sourceName(p.topic, p.partition)
		chains[name] = p.chain
		for _, s := range p.sources {
			files[name] = append(files[name], File{s.Info, Span{s.First, s.Next}, s.Windows})
		}
		from = max(from, p.retired.Before)
	}
	a := ReadArchive(chains)
	a.Files, a.From, a.LateEvery = files, from, j.LateEvery.Milliseconds()
	return a, nil
}

// archived is what the archive has of a partition.
type archived struct {
	topic     string
	partition int32
	chain     []archive.Manifest
	sources   []archive.Source
	retired   archive.Retired
}

// partitions are those of the tenant's topics, of which nothing is read yet.
func (j *Job) partitions() (all []archived) {
	for _, t := range j.Topics {
		for p := range t.Partitions {
			all = append(all, archived{topic: t.Name, partition: p})
		}
	}
	return all
}

func (p *archived) read(b blob.Store) (err error) {
	if p.chain, err = archive.Chain(b, p.topic, p.partition); err != nil {
		return err
	}
	p.sources, p.retired, err = archive.ReadSources(b, p.chain)
	return err
}

// each does something for each of n partitions, side by side but where the job does nothing so.
func (j *Job) each(n int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(blob.RequestsAtOnce)
	for i := range n {
		if j.parallel() > 1 {
			g.Go(func() error { return do(i) })
		} else if err := do(i); err != nil {
			return err
		}
	}
	return g.Wait()
}

// goesOn says whether all that a plan has left is due, with the inputs that the plan names: then what it has made already
// counts, whoever made it.
func (j *Job) goesOn(p *Plan, due []WindowPlan, covered map[int64]*Covered) bool {
	if p.Fold != FoldVersion || p.Parser != j.Parser || j.Reparse && !p.Reparse || j.Ranges > 0 && !areOf(p.Bounds, j.Ranges) {
		return false
	}
	own := map[int64]bool{} // windows of the plan that are left, or were done by it
	left := 0
	for i := range p.Windows {
		w := &p.Windows[i]
		own[w.Window] = true
		if p.done(i, covered) {
			continue
		}
		left++
		at, ok := slices.BinarySearchFunc(due, w.Window, func(d WindowPlan, ms int64) int { return int(min(max(d.Window-ms, -1), 1)) })
		if !ok || !w.sameInputs(&due[at], p.Generation, own, covered) {
			return false
		}
	}
	return left > 0
}

// lost says whether a plan has covered a window and what it made is not gone by: nobody would make it again under that plan.
func (p *Plan) lost(covered, stands map[int64]*Covered) bool {
	return slices.ContainsFunc(p.Windows, func(w WindowPlan) bool {
		c := stands[w.Window]
		return c != nil && c.Generation == p.Generation && covered[w.Window] == nil
	})
}

// done says whether window i is covered by the plan's own generation.
func (p *Plan) done(i int, covered map[int64]*Covered) bool {
	c := covered[p.Windows[i].Window]
	return c != nil && c.Generation == p.Generation
}

// sameInputs says whether w, of the plan of a generation, reads what d reads, which is what is due now: the same offsets,
// revisions and runs, a run of the plan's own windows being the same whether it is covered by now or not.
func (w *WindowPlan) sameInputs(d *WindowPlan, generation int64, own map[int64]bool, covered map[int64]*Covered) bool {
	a, b := Inputs{Spans: w.Spans, Revisions: w.Revisions, Edges: w.Edges}, Inputs{Spans: d.Spans, Revisions: d.Revisions, Edges: d.Edges}
	if !a.equal(&b) {
		return false
	}
	now := map[int64]RunRef{}
	for _, r := range d.Before {
		now[r.Window] = r
	}
	for _, r := range w.Before {
		n, there := now[r.Window]
		delete(now, r.Window)
		c := covered[r.Window]
		switch {
		case r.Digest.known:
			if !there || n.Generation != r.Generation || n.Digest != r.Digest {
				return false
			}
		case there && !n.Digest.known: // due itself, and of this plan
			if !own[r.Window] {
				return false
			}
		case c == nil || c.Generation != generation: // a run without sessions is not among what is read
			return false
		}
	}
	return len(now) == 0
}

// Standing is the plan that was claimed last, nil if there is none or it is void.
func (j *Job) Standing() (*Plan, error) {
	g, err := j.lastClaim()
	if err != nil || g == 0 {
		return nil, err
	}
	if void, err := j.isVoid(g); err != nil || void {
		return nil, err
	}
	return j.ReadPlan(g)
}

// isVoid says whether the plan of a generation was made void.
func (j *Job) isVoid(generation int64) (bool, error) {
	_, err := j.Blobs.Get(j.voidName(generation))
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("plan %d: %w", generation, err)
	}
	return true, nil
}

// ReadPlan reads the plan of a generation.
func (j *Job) ReadPlan(generation int64) (*Plan, error) {
	name := j.planName(generation)
	data, err := j.Blobs.Get(name)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p := &Plan{}
	if _, err := sealed.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("plan %s: %w: %w", name, ErrCorrupt, err)
	}
	if p.Tenant != j.Chain.Tenant || p.Generation != generation || len(p.Windows) == 0 || len(p.Bounds) == 0 || p.Bounds[0] != 0 || !rising(p.Bounds) {
		return nil, fmt.Errorf("plan %s: %w: it is of tenant %q, generation %d, with %d ranges", name, ErrCorrupt, p.Tenant, p.Generation, len(p.Bounds))
	}
	return p, nil
}

// lastClaim is the greatest generation claimed, 0 if there is none.
func (j *Job) lastClaim() (int64, error) {
	names, err := j.Blobs.List(j.folder() + "plans/")
	if err != nil {
		return 0, fmt.Errorf("list plans: %w", err)
	}
	if len(names) == 0 {
		return 0, nil
	}
	return j.generationOf(names[len(names)-1])
}

// generationOf is the generation of a plan by its name.
func (j *Job) generationOf(name string) (g int64, err error) {
	if _, err := fmt.Sscanf(strings.TrimPrefix(name, j.folder()+"plans/"), "%d.json", &g); err != nil || g < 1 {
		return 0, fmt.Errorf("plan %s: not a plan's name", name)
	}
	return g, nil
}

// lastTable is the greatest generation that tables for SQL are of. They outlive the loss of both the store and what the batch keeps,
// and of a window the greatest generation stands for who reads them.
func (j *Job) lastTable() (last int64, err error) {
	names, err := j.Blobs.List(tables.CoverageFolder(j.Chain.Tenant))
	if err != nil {
		return 0, fmt.Errorf("list tables: %w", err)
	}
	for _, name := range names {
		g, err := tables.Generation(name)
		if err != nil {
			return 0, err
		}
		last = max(last, g)
	}
	return last, nil
}

// claim takes the next generation: one create-only object that holds the plan. It is above all that are covered, also where
// the plans of these are lost, and, where both are, above those of which there are tables.
func (j *Job) claim(windows []WindowPlan, bounds []Hash, covered map[int64]*Covered) (*Plan, error) {
	g, err := j.lastClaim()
	if err != nil {
		return nil, err
	}
	for _, c := range covered {
		g = max(g, c.Generation)
	}
	if g == 0 {
		if g, err = j.lastTable(); err != nil {
			return nil, err
		}
	}
	for g++; ; g++ { // listing may be behind: names that are taken are passed over
		p := &Plan{Tenant: j.Chain.Tenant, Generation: g, Fold: FoldVersion, Parser: j.Parser, Reparse: j.Reparse, Bounds: bounds, Windows: windows}
		for i := range p.Windows {
			for k := range p.Windows[i].Before {
				if b := &p.Windows[i].Before[k]; !b.Digest.known {
					b.Generation = g
				}
			}
		}
		data, err := sealed.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		err = j.Blobs.Create(j.planName(g), data)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, blob.ErrExists) {
			return nil, fmt.Errorf("claim generation %d: %w", g, err)
		}
	}
}

// voided makes a plan void if the error says that what it needs or has made is missing or wrong: nobody goes on with it, and
// what is due is planned anew from what there is. It returns the error.
func (j *Job) voided(p *Plan, err error) error {
	for _, lost := range []error{blob.ErrNotFound, ErrCorrupt, archive.ErrCorrupt, staterun.ErrCorrupt} {
		if !errors.Is(err, lost) {
			continue
		}
		data, sealErr := sealed.Marshal(map[string]string{"why": err.Error()})
		if sealErr == nil {
			sealErr = j.Blobs.Create(j.voidName(p.Generation), data)
		}
		if sealErr != nil && !errors.Is(sealErr, blob.ErrExists) {
			err = errors.Join(err, fmt.Errorf("make the plan void: %w", sealErr))
		}
		if lost == staterun.ErrCorrupt {
			err = fmt.Errorf("%w; restore it from a copy, or delete it and have tandem backfill make that window's run anew", err)
		}
		return fmt.Errorf("plan %d of %s is void: %w", p.Generation, p.Tenant, err)
	}
	return err
}

func (j *Job) folder() string {
	if j.OnTime {
		return "batch-ontime/" + j.Chain.Tenant + "/"
	}
	return "batch/" + j.Chain.Tenant + "/"
}

func (j *Job) planName(g int64) string { return fmt.Sprintf("%splans/%012d.json", j.folder(), g) }
func (j *Job) voidName(g int64) string { return fmt.Sprintf("%svoid/%012d.json", j.folder(), g) }

// outName is the name of an object that map makes of a range of a window.
func (j *Job) outName(g, window int64, r int, ext string) string {
	return fmt.Sprintf("%s%03d.%s", j.outFolder(g, window), r, ext)
}

func (j *Job) outFolder(g, window int64) string {
	return fmt.Sprintf("%sout/%012d/%014d/", j.folder(), g, window)
}
