package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tandem/batch"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/store"
	"tandem/stream/broker"
)

// resolved is how long a reader may go by what it has resolved, ms: the collector counts on it (batch.CollectGrace).
const resolved = 600_000

// ref is what a generation has made of a window, ms.
type ref struct{ Generation, Window int64 }

// runsOf are the runs that a coverage names: its own, and those that it went on from.
func runsOf(c store.Coverage) (refs []ref, err error) {
	var d batch.Covered
	_, err = sealed.Unmarshal(c.Data, &d)
	refs = append(refs, ref{d.Generation, d.Window})
	for _, r := range d.Inputs.Runs {
		refs = append(refs, ref{r.Generation, r.Window})
	}
	return refs, err
}

// needed are the runs that a tenant's standing coverage names.
func (p *plant) needed(name string) map[ref]bool {
	all := map[ref]bool{}
	for k, c := range p.metrics.coverage {
		if k.tenant != name {
			continue
		}
		refs, err := runsOf(c)
		if err != nil {
			p.found("coverage: window %s of %s: %v", minuteText(k.window), name, err)
		}
		for _, r := range refs {
			all[r] = true
		}
	}
	return all
}

// made says which run an object of the batch belongs to.
func made(name string) (shop string, r ref, ok bool) {
	if _, err := fmt.Sscanf(strings.ReplaceAll(name, "/", " "), "batch %s out %d %d", &shop, &r.Generation, &r.Window); err != nil {
		return "", r, false
	}
	return shop, r, true
}

// deleted is told of each object that is deleted.
func (p *plant) deleted(name string) {
	if shop, r, ok := made(name); ok && p.needed(shop)[r] {
		p.found("collector: %s is deleted, and coverage names it", name)
	}
}

// collector deletes from time to time what no coverage names any more.
func (p *plant) collector(every int64) {
	s, c := p.sim, p.centres[0]
	p.again(c.name+".collector", every, func(x *shop) error {
		_, err := c.job(x).Collect(context.Background(), p.metrics, func() int64 { return s.now })
		return err
	})
}

// compactor merges the archive's files from time to time.
func (p *plant) compactor(every int64) {
	s, c := p.sim, p.centres[0]
	proc := &proc{name: c.name + ".compactor"}
	p.passing = append(p.passing, proc)
	s.spawn(proc, proc.name, func(*thread) error {
		for !s.quiet {
			if err := s.sleep(s.r.Int64N(3 * every)); err != nil {
				return err
			}
			x := pick(s.r, p.shops...)
			n := s.r.Int32N(s.opt.Shards)
			chain, err := archive.Chain(c.blobs, x.topic, n)
			if err == nil {
				k := &archive.Compactor{Blobs: c.blobs, Tenant: x.name, SpanMS: pick[int64](s.r, 1, 2) * archive.WindowMillis, MaxRows: s.opt.ArchiveRows * 3, MaxBytes: 16 << 20}
				_, err = k.Compact(context.Background(), chain, s.now)
			}
			if err := s.current.gone(); err != nil {
				return err
			}
			s.tell("compacted %s/%d: %v", x.topic, n, err)
			if !expected(err) {
				s.found("errors: compactor: %v", err)
			}
		}
		return nil
	}, nil)
}

// again runs something from time to time, killed with the others that pass.
func (p *plant) again(name string, every int64, do func(x *shop) error) {
	s := p.sim
	proc := &proc{name: name}
	p.passing = append(p.passing, proc)
	s.spawn(proc, name, func(*thread) error {
		for !s.quiet {
			if err := s.sleep(s.r.Int64N(3 * every)); err != nil {
				return err
			}
			err := do(pick(s.r, p.shops...))
			if err := s.current.gone(); err != nil {
				return err
			}
			s.tell("%s ends: %v", name, err)
			if !p.allowed(err) {
				s.found("errors: %s: %v", name, err)
			}
		}
		return nil
	}, nil)
}

// allowed says whether a batch may end so: what a compactor has replaced and a collector seen unneeded goes after hours, so one
// that was stopped for longer begins anew.
func (p *plant) allowed(err error) bool {
	return expected(err) || (p.opt.Compact || p.opt.Collect) && errors.Is(err, blob.ErrNotFound)
}

// splices have a revision of a shop be in force over some of the past, and a backfill come after it.
func (p *plant) splices(every int64) {
	s, first := p.sim, p.sim.now
	for _, x := range p.shops {
		if s.r.IntN(2) == 0 {
			continue // it comes when all is covered
		}
		s.at(s.now+s.r.Int64N(p.last-s.now+1), func() { p.splice(x, first-3600_000, s.now, false) })
	}
	p.again("backfill", every, func(x *shop) error {
		if x.spliced == nil {
			return nil
		}
		err := p.backfill(x)
		if errors.Is(err, batch.ErrUntold) { // windows before it that are not covered yet
			return nil
		}
		return err
	})
}

// change makes the config of a splice another than what it was taken from, mostly.
func (s *sim) change(c *tenant.Config) {
	c.Experiments, c.Points = slices.Clone(c.Experiments), slices.Clone(c.Points)
	switch s.r.IntN(5) {
	case 0:
		if n := len(c.Experiments); n > 0 {
			i := s.r.IntN(n)
			c.Experiments = slices.Delete(c.Experiments, i, i+1)
		}
	case 1:
		if n := len(c.Points); n > 0 {
			i := s.r.IntN(n)
			c.Points[i].Stats = !c.Points[i].Stats
		}
	case 2:
		c.VisitGap = max(c.VisitGap/2/1000, 1) * 1000
	case 3:
		c.MaxEventsPerMinute = 1 + s.r.IntN(3)
	}
}

// splice draws a splice of which the archive can tell all, or the raw topics can.
func (p *plant) splice(x *shop, first, last int64, fromRaw bool) {
	s := p.sim
	for range 8 {
		c := *pick(s.r, x.configs...)
		a, b := first+s.r.Int64N(last-first), first+s.r.Int64N(last-first)
		if fromRaw && s.r.IntN(2) == 0 {
			a, b = first, last
		}
		c.HasFrom, c.HasTo = true, true
		c.From, c.To = min(a, b)/60_000*60_000, max(a, b)/60_000*60_000
		if s.r.IntN(2) == 0 { // where a window ends, and its run is handed on
			c.From, c.To = c.From/batch.WindowMS*batch.WindowMS, c.To/batch.WindowMS*batch.WindowMS
		}
		s.change(&c)
		if name := pick(s.r, "unlisted", "unlisted", "item", "cart"); fromRaw && !slices.ContainsFunc(c.Points, func(p tenant.Point) bool { return p.Name == name }) {
			c.Points = append(c.Points, tenant.Point{Name: name, Page: s.r.IntN(2) == 0})
		}
		objects := append(slices.Clone(x.configs), &c)
		if c.From >= c.To || x.configs[0].HasFrom && c.From < x.configs[0].From ||
			slices.ContainsFunc(x.configs, func(o *tenant.Config) bool { return o.MaxAge != c.MaxAge || o.MaxSkew != c.MaxSkew }) {
			continue // dispatch has rejected by other limits
		}
		chain, err := tenant.Compile(objects)
		if err != nil || !fromRaw && len(chain.Gaps(x.whole, math.MinInt64, math.MaxInt64)) > 0 {
			continue
		}
		s.tell("a splice of %s from %s to %s: as from %s on", x.name, clock(c.From), clock(c.To), clock(c.From))
		x.spliced, x.objects = chain, objects
		s.met["splices"]++
		return
	}
}

func (p *plant) backfill(x *shop) error {
	all := batch.Backfill{To: (session.MaxTS/batch.WindowMS + 1) * batch.WindowMS, Live: x.whole}
	return p.centres[0].job(x).Backfill(context.Background(), &all, func(r *batch.Report) { p.met["windows backfilled"] += int64(r.Windows) })
}

// bringRaw brings what a splice asks for and dispatch had dropped from the raw topics to the archive, though it fails and is given
// up on the way.
func (p *plant) bringRaw(c *centre, x *shop) error {
	return p.harmed(func() error {
		j := c.job(x)
		gaps, err := j.Untold(x.whole, math.MinInt64, math.MaxInt64)
		if err != nil || len(gaps) == 0 {
			return err
		}
		p.met["from raw"]++
		p.tell("gaps of %s: %v", x.name, gaps)
		p.keepers++
		k, err := j.KeepRaw(x.whole, gaps, time.Unix(0, p.keepers))
		if err != nil {
			return err
		}
		for _, part := range c.raws {
			for _, r := range c.kafka.logs[part] {
				if err := k.Take(r.Value, r.Time); err != nil {
					return err
				}
			}
			if p.fault("kill keeper", .1) {
				p.tell("given up in the middle")
				return errInjected
			}
		}
		made, err := k.Done()
		p.met["beacons from raw"] += made.Records
		return err
	})
}

// rebuild has what the batch has made be lost, and made again from nothing but the archive.
func (p *plant) rebuild(c *centre, x *shop) error {
	first := int64(math.MaxInt64)
	for _, t := range c.job(x).Topics {
		for n := range t.Partitions {
			for _, m := range p.manifests(c, broker.Partition{Topic: t.Name, Partition: n}) {
				for _, w := range m.Windows {
					first = min(first, w.Start)
				}
			}
		}
	}
	if first == math.MaxInt64 {
		return nil
	}
	p.loseBatch(c, x)
	all := batch.Backfill{From: first, To: (session.MaxTS/batch.WindowMS + 1) * batch.WindowMS, Cold: true, Live: x.whole}
	if err := p.harmed(func() error { return c.job(x).Backfill(context.Background(), &all, nil) }); err != nil {
		return err
	}
	return c.job(x).Run(context.Background())
}

// harmed does something under faults, until it is done.
func (p *plant) harmed(do func() error) error {
	s := p.sim
	s.quiet = false
	for n := 0; ; n++ {
		if n == 10 {
			s.quiet = true
		}
		err := do()
		if gone := s.current.gone(); gone != nil {
			return gone
		}
		if err == nil || !errors.Is(err, errInjected) {
			s.quiet = true
			return errors.Join(err, s.sleep(2*s.opt.TickMS+2)) // what is still on its way arrives
		}
		p.tell("once more after: %v", err)
	}
}

// lastRuns are the last ones of a tenant: nothing goes wrong any more.
func (p *plant) lastRuns(x *shop) error {
	ctx, c := context.Background(), p.centres[0]
	if err := c.job(x).Run(ctx); err != nil {
		return err
	}
	if p.opt.Splice {
		if x.spliced == nil {
			if p.splice(x, p.first-1800_000, p.last, p.opt.FromRaw); x.spliced != nil {
				if err := c.job(x).Run(ctx); err != nil { // which leaves the splice to the backfill
					return err
				}
			}
		}
		if err := p.bringRaw(c, x); err != nil {
			return fmt.Errorf("from raw: %w", err)
		}
		if err := p.backfill(x); err != nil {
			return fmt.Errorf("backfill: %w", err)
		}
	}
	if p.opt.Rebuild {
		if err := p.rebuild(c, x); err != nil {
			return fmt.Errorf("rebuild: %w", err)
		}
	}
	if p.opt.Collect {
		for _, at := range []int64{p.now, p.now + 2*batch.CollectGrace} {
			if _, err := c.job(x).Collect(ctx, p.metrics, func() int64 { return at }); err != nil {
				return err
			}
		}
		p.collected(c, x)
	}
	if !p.opt.Audit || p.opt.loose() || p.isCold(c, x) {
		return nil
	}
	a := &batch.Audit{Job: c.job(x), Live: x.whole, Store: p.metrics, Temp: blob.NewMem(), Layer: c.layer, Closed: p.metrics.complete(x.name, c.layer),
		To: p.end / 60_000, Now: p.now}
	var err error
	x.audit, err = a.Run(ctx)
	return err
}

// collected checks that nothing is left that nobody needs. What a plan makes and reads is kept for as long as one of its windows
// is not covered in its generation or a later one, even if none will ever be: nobody knows that its tasks are gone.
func (p *plant) collected(c *centre, x *shop) {
	needed := p.needed(x.name)
	j := c.job(x)
	plans, _ := quietBlobs{c.blobs}.List("batch/" + x.name + "/plans/")
	for g := int64(1); g <= int64(len(plans)); g++ {
		plan, err := j.ReadPlan(g)
		if err != nil {
			p.found("collector: plan %d of %d: %v", g, len(plans), err)
			return
		}
		if !slices.ContainsFunc(plan.Windows, func(w batch.WindowPlan) bool {
			is, ok := p.metrics.coverage[windowKey{x.name, w.Window / 60_000}]
			return !ok || is.Generation < g
		}) {
			continue
		}
		for _, w := range plan.Windows {
			needed[ref{Generation: g, Window: w.Window}] = true
			for _, r := range w.Before {
				needed[ref{Generation: r.Generation, Window: r.Window}] = true
			}
		}
	}
	names, _ := quietBlobs{c.blobs}.List("batch/" + x.name + "/out/")
	for _, name := range names {
		if _, r, ok := made(name); !ok || !needed[r] {
			p.found("collector: %s is left, and no coverage names it", name)
			return
		}
	}
}

// checkAudit holds an audit's report against the oracle's values of both layers.
func (p *plant) checkAudit(x *shop, stream, all map[string]int64) {
	r := x.audit
	if r.Faults > 0 || r.Total.Unexplained > 0 {
		p.found("audit: of %s: %d faults, %d values unexplained, where none are: %+v", x.name, r.Faults, r.Total.Unexplained, r.FirstFaults[:min(len(r.FirstFaults), 3)])
		return
	}
	if !r.Exact {
		return
	}
	// Of visitors an audit compares the sketches, of which a line has the estimate only.
	in := func(line string) bool {
		m := minuteOf(line)
		name, _, _ := strings.Cut(line, "\t")
		return m >= r.From && m < r.To && !strings.HasSuffix(name, ".visitors")
	}
	var want, got [4]int64
	for _, m := range r.Metrics {
		if !strings.HasSuffix(m.Metric, ".visitors") {
			got[0], got[1], got[2], got[3] = got[0]+m.Equal, got[1]+m.Mismatch, got[2]+m.Missing, got[3]+m.Extra
		}
	}
	for line, v := range all {
		if !in(line) {
			continue
		}
		switch is, ok := stream[line]; {
		case !ok:
			want[2]++
		case is == v:
			want[0]++
		default:
			want[1]++
		}
	}
	for line := range stream {
		if _, ok := all[line]; !ok && in(line) {
			want[3]++
		}
	}
	p.met["audits"]++
	p.met["values audited"] += want[0] + want[1] + want[2] + want[3]
	if want != got {
		p.found("audit: of %s: %v values are equal, differ, are missing, too many; it is %v", x.name, got, want)
	}
}
