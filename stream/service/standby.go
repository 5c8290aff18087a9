package service

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"tandem/schemas/store"
	"tandem/stream/aggregate"
	"tandem/stream/broker"
	"tandem/stream/failover"
)

// Metrics is the part of the metric store that stage 2 needs.
type Metrics interface {
	aggregate.Rows
	Progress(ctx context.Context, layer, tenant string) ([]store.Progress, error)
	Active(ctx context.Context, tenant string) (store.Active, bool, error)
	Coverage(ctx context.Context, tenant string, from, to int64, fn func(store.Coverage) error) error
}

// Limits of a gate.
const (
	// heldBytes is what a standby holds in memory for all its partitions together, and heldMinutes how far back from the
	// first minute that is not complete. A partition whose share is full, or that has older minutes, writes the oldest as if
	// it were no standby, until a quarter of the share is free: layers never overwrite each other, so all that is lost is
	// what holding them would have spared the store. Without a batch this also keeps what a restart reads again, which is
	// what was held, well within the retention of the metrics topic.
	heldBytes   = 512 << 20
	heldMinutes = 12 * 60
	// heldRow is about what a held row takes beside its value.
	heldRow = 384
	// flushRows is how many held rows are written at once.
	flushRows = 4096
	// gateEvery is the time between two looks at the active layer and at what is asked; coverage is looked at every
	// coverageLooks times.
	gateEvery     = 2 * time.Second
	coverageLooks = 15
)

// Gate stands between stage 2 and the metric store (DESIGN 4, mirrors). Open for a tenant, it lets rows and progress
// through. Shut, as all of a standby's are at first, it holds the greatest version of each row until coverage has the
// row's minute, and tells how far it is complete under a name that no reader looks at (package failover). It opens
// when its layer is the tenant's active one or is asked to become so: what is held is written, rows first, and for the
// rest of the process everything goes straight through. It never shuts again: a layer that was active goes on being
// written until the process is started anew as a standby.
//
// Offsets are committed only as far as all that came before is written or covered, and before that the store's progress
// is moved to there: a standby that starts again reads what it had held, and nothing of minutes that are done.
type Gate struct {
	// Limit bounds the bytes held, of all partitions together. It is set before the first of them.
	Limit int

	store   Metrics
	layer   string
	tenants []string
	window  int64 // minutes that a coverage covers
	log     *slog.Logger

	mu    sync.Mutex // all below, and the fields of all parts
	open  map[string]bool
	parts map[*GatePart]bool
}

// GatePart is the gate of one partition of the metrics topic: Rows and Commits of its worker.
type GatePart struct {
	gate      *Gate
	partition int32
	commit    func(to broker.Committed)

	bytes    int             // held
	totals   map[string]Held // by tenant; Minutes is not kept
	held     map[heldMinute]map[rowName]heldValue
	closed   map[string]store.Progress // by tenant: how far stage 2 is
	told     map[string]int64          // by tenant: how far the store knows it to be
	answered map[string]int64          // by tenant: the sequence last answered
	marks    []mark                    // ascending, one for each minute: those between the oldest held and the newest closed
}

type heldMinute struct {
	tenant string
	minute int64
}

type rowName struct{ experiment, metric string }

type heldValue struct {
	version, expires int64
	value            []byte
}

// mark says that all messages before an offset are of minutes before one. There is one for each of the heldMinutes at most, with a note
// of 4 KiB at most.
type mark struct {
	broker.Committed
	minute int64
}

// NewGate makes the gate of a process; standby says that it is shut. window is how many minutes a coverage covers.
func NewGate(st Metrics, layer string, tenants []string, standby bool, window int64, log *slog.Logger) *Gate {
	g := &Gate{store: st, layer: layer, tenants: tenants, window: window, Limit: heldBytes, log: log, open: map[string]bool{}, parts: map[*GatePart]bool{}}
	for _, t := range tenants {
		g.open[t] = !standby
	}
	return g
}

// Run opens the gate when its time has come, answers those who ask, and lets go of what coverage has, until the context
// ends. What fails is logged and done again: the rows held stay held.
func (g *Gate) Run(ctx context.Context) {
	tick := time.NewTicker(gateEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		g.Turn(ctx, n%coverageLooks == 0)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Turn is one look at the active layers and at what is asked, and with coverage also at that.
func (g *Gate) Turn(ctx context.Context, coverage bool) {
	for _, t := range g.tenants {
		err := g.look(ctx, t)
		if err == nil && coverage {
			err = g.cover(ctx, t)
		}
		if err != nil && ctx.Err() == nil {
			g.log.Warn("the gate to the store stays as it is for now", "layer", g.layer, "tenant", t, "err", err)
		}
	}
}

// look opens the gate for a tenant if its layer is the active one or is asked to become so, and answers.
func (g *Gate) look(ctx context.Context, tenant string) error {
	active, _, err := g.store.Active(ctx, tenant)
	if err != nil {
		return fmt.Errorf("active layer: %w", err)
	}
	all, err := g.store.Progress(ctx, failover.Asked(g.layer), tenant)
	if err != nil {
		return fmt.Errorf("what is asked of %s: %w", g.layer, err)
	}
	asked := int64(0)
	for _, p := range all {
		asked = max(asked, p.Version)
	}
	pending := asked > active.Seq // else it was decided, whichever way
	if !pending && active.Layer != g.layer {
		return nil
	}
	if err := g.opens(ctx, tenant, active); err != nil {
		return fmt.Errorf("write what is held: %w", err)
	}
	if !pending {
		return nil
	}
	for _, p := range g.all() {
		g.mu.Lock()
		known := p.answered[tenant]
		g.mu.Unlock()
		if known >= asked {
			continue
		}
		answer := store.Progress{Layer: failover.Written(g.layer), Partition: p.partition, Tenant: tenant, Version: asked}
		if err := g.store.PutProgress(ctx, answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		g.mu.Lock()
		p.answered[tenant] = asked
		g.mu.Unlock()
	}
	return nil
}

func (g *Gate) all() (parts []*GatePart) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.parts {
		parts = append(parts, p)
	}
	inOrder(parts)
	return parts
}

// inOrder sorts parts, so that what is done of several of them is done in the same order every time.
func inOrder(parts []*GatePart) {
	slices.SortFunc(parts, func(a, b *GatePart) int { return cmp.Compare(a.partition, b.partition) })
}

// opens writes all that is held of a tenant, also what comes in meanwhile, until nothing is left; then it opens the gate.
func (g *Gate) opens(ctx context.Context, tenant string, active store.Active) error {
	began, n := time.Now(), 0
	for {
		g.mu.Lock()
		if g.open[tenant] {
			g.mu.Unlock()
			return nil
		}
		var todo []*GatePart
		for p := range g.parts {
			if p.holds(tenant) || p.closed[tenant].ClosedBefore > p.told[tenant] {
				todo = append(todo, p)
			}
		}
		inOrder(todo)
		if len(todo) == 0 {
			g.open[tenant] = true
			g.mu.Unlock()
			g.log.Info("a standby writes from now on", "layer", g.layer, "tenant", tenant, "active", active.Layer, "seq", active.Seq,
				"rows", n, "took", time.Since(began).Round(time.Millisecond))
			return nil
		}
		g.mu.Unlock()
		for _, p := range todo {
			rows, err := p.flush(ctx, tenant)
			if n += rows; err != nil {
				return err
			}
		}
	}
}

// flush writes what is held of a tenant, and then how far that goes.
func (p *GatePart) flush(ctx context.Context, tenant string) (n int, err error) {
	p.gate.mu.Lock()
	if !p.gate.parts[p] { // closed since: what it held is gone, so nothing is to be told either
		p.gate.mu.Unlock()
		return 0, nil
	}
	var minutes []heldMinute
	for m := range p.held {
		if m.tenant == tenant {
			minutes = append(minutes, m)
		}
	}
	rows, progress := p.rows(minutes), p.closed[tenant]
	p.gate.mu.Unlock()
	if err := p.write(ctx, rows); err != nil {
		return 0, err
	}
	return len(rows), p.tell(ctx, progress)
}

// tell moves the store's progress on, if it is not so far yet.
func (p *GatePart) tell(ctx context.Context, progress store.Progress) error {
	p.gate.mu.Lock()
	known := p.told[progress.Tenant]
	p.gate.mu.Unlock()
	if progress.ClosedBefore <= known {
		return nil
	}
	if err := p.gate.store.PutProgress(ctx, progress); err != nil {
		return fmt.Errorf("write progress: %w", err)
	}
	p.gate.mu.Lock()
	p.told[progress.Tenant] = max(p.told[progress.Tenant], progress.ClosedBefore)
	p.gate.mu.Unlock()
	return nil
}

// holds says whether rows of a tenant are held. The caller has the lock.
func (p *GatePart) holds(tenant string) bool {
	for m := range p.held {
		if m.tenant == tenant {
			return true
		}
	}
	return false
}

// rows are those held of some minutes, in order. They stay held until they are written. The caller has the lock.
func (p *GatePart) rows(minutes []heldMinute) (rows []store.Row) {
	for _, m := range minutes {
		for name, v := range p.held[m] {
			rows = append(rows, store.Row{Series: store.Series{Tenant: m.tenant, Experiment: name.experiment, Metric: name.metric, Layer: p.gate.layer},
				Minute: m.minute, Version: v.version, Expires: v.expires, Value: v.value})
		}
	}
	slices.SortFunc(rows, func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(a.Minute, b.Minute), a.Series.Compare(b.Series))
	})
	return rows
}

// write writes held rows and then lets go of those that have not become others meanwhile.
func (p *GatePart) write(ctx context.Context, rows []store.Row) error {
	for some := range slices.Chunk(rows, flushRows) {
		if err := p.gate.store.PutRows(ctx, some); err != nil {
			return fmt.Errorf("write held rows: %w", err)
		}
		p.gate.mu.Lock()
		for i := range some {
			m, name := heldMinute{some[i].Tenant, some[i].Minute}, rowName{some[i].Experiment, some[i].Metric}
			if v, ok := p.held[m][name]; ok && v.version <= some[i].Version {
				p.count(m.tenant, -1, len(v.value))
				if delete(p.held[m], name); len(p.held[m]) == 0 {
					delete(p.held, m)
				}
			}
		}
		p.gate.mu.Unlock()
	}
	return nil
}

// cover lets go of the minutes of a tenant that coverage has: readers see the batch's rows there.
func (g *Gate) cover(ctx context.Context, tenant string) error {
	first, last := int64(math.MaxInt64), int64(-1)
	g.mu.Lock()
	for p := range g.parts {
		for m := range p.held {
			if m.tenant == tenant {
				first, last = min(first, m.minute), max(last, m.minute)
			}
		}
	}
	g.mu.Unlock()
	if last < 0 {
		return nil
	}
	err := g.store.Coverage(ctx, tenant, first-g.window+1, last+1, func(c store.Coverage) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for p := range g.parts {
			for minute := c.Window; minute < c.Window+g.window; minute++ {
				m := heldMinute{tenant, minute}
				for _, v := range p.held[m] {
					p.count(tenant, -1, len(v.value))
				}
				delete(p.held, m)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("coverage: %w", err)
	}
	return nil
}

// Part is the gate of a partition whose progress the store knows to be told, and stage 2 begins with closed. commit takes
// the offset from which a restart is to read. The caller closes it.
func (g *Gate) Part(partition int32, told, closed map[string]int64, commit func(to broker.Committed)) *GatePart {
	p := &GatePart{gate: g, partition: partition, commit: commit, totals: map[string]Held{}, held: map[heldMinute]map[rowName]heldValue{},
		closed: map[string]store.Progress{}, told: map[string]int64{}, answered: map[string]int64{}}
	for _, t := range g.tenants {
		p.told[t] = told[t]
		p.closed[t] = store.Progress{Layer: g.layer, Partition: partition, Tenant: t, ClosedBefore: closed[t]}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parts[p] = true
	return p
}

// Close forgets what is held: the partition's next owner reads it again.
func (p *GatePart) Close() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	delete(p.gate.parts, p)
	p.held, p.bytes, p.totals = map[heldMinute]map[rowName]heldValue{}, 0, map[string]Held{}
}

// count counts a row that is held from now on (rows is 1) or no more (-1). The caller has the lock.
func (p *GatePart) count(tenant string, rows int64, value int) {
	bytes := rows * int64(heldRow+value)
	p.bytes += int(bytes)
	t := p.totals[tenant]
	t.Rows, t.Bytes = t.Rows+rows, t.Bytes+bytes
	p.totals[tenant] = t
}

// Held is what the gate of a partition keeps from the store for a tenant.
type Held struct {
	Minutes, Rows, Bytes int64 // minutes that have rows; bytes as the gate's limit counts them
}

// status is what is held, by tenant; tenants whose gate is open are not in it.
func (p *GatePart) status() map[string]Held {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	all := map[string]Held{}
	for _, t := range p.gate.tenants {
		if !p.gate.open[t] {
			all[t] = p.totals[t]
		}
	}
	for m := range p.held {
		if h, ok := all[m.tenant]; ok {
			h.Minutes++
			all[m.tenant] = h
		}
	}
	return all
}

// PutRows implements aggregate.Rows: it writes the rows of tenants whose gate is open, and holds the others.
func (p *GatePart) PutRows(ctx context.Context, rows []store.Row) error {
	direct := rows
	p.gate.mu.Lock()
	for i := range rows {
		switch open := p.gate.open[rows[i].Tenant]; {
		case !open && len(direct) == len(rows):
			direct = slices.Clone(rows[:i])
			p.hold(&rows[i])
		case !open:
			p.hold(&rows[i])
		case len(direct) < len(rows):
			direct = append(direct, rows[i])
		}
	}
	old := p.rows(p.old())
	p.gate.mu.Unlock()
	if err := p.gate.store.PutRows(ctx, direct); err != nil {
		return err
	}
	return p.write(ctx, old)
}

// hold keeps a row unless a greater version is held. The caller has the lock.
func (p *GatePart) hold(r *store.Row) {
	m, name := heldMinute{r.Tenant, r.Minute}, rowName{r.Experiment, r.Metric}
	if p.held[m] == nil {
		p.held[m] = map[rowName]heldValue{}
	}
	is, ok := p.held[m][name]
	if ok && is.version > r.Version {
		return
	}
	if ok {
		p.count(r.Tenant, -1, len(is.value))
	}
	p.count(r.Tenant, 1, len(r.Value))
	p.held[m][name] = heldValue{r.Version, r.Expires, slices.Clone(r.Value)}
}

// old are the minutes that are beyond the limits, the oldest first. The caller has the lock.
func (p *GatePart) old() (minutes []heldMinute) {
	share := p.gate.Limit / max(len(p.gate.parts), 1)
	excess := 0
	if p.bytes > share {
		excess = p.bytes - share/4*3
	}
	var all []heldMinute
	for m := range p.held {
		if excess > 0 || m.minute < p.closed[m.tenant].ClosedBefore-heldMinutes {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b heldMinute) int {
		return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.tenant, b.tenant))
	})
	for _, m := range all {
		if excess <= 0 && m.minute >= p.closed[m.tenant].ClosedBefore-heldMinutes {
			break
		}
		for _, v := range p.held[m] {
			excess -= heldRow + len(v.value)
		}
		minutes = append(minutes, m)
	}
	return minutes
}

// PutProgress implements aggregate.Rows.
func (p *GatePart) PutProgress(ctx context.Context, progress store.Progress) error {
	p.gate.mu.Lock()
	p.closed[progress.Tenant] = progress
	open := p.gate.open[progress.Tenant]
	p.gate.mu.Unlock()
	if open {
		return p.tell(ctx, progress)
	}
	progress.Layer = failover.Held(progress.Layer)
	return p.gate.store.PutProgress(ctx, progress)
}

// Commit implements aggregate.Commits: it commits the last offset before which everything is written or covered.
func (p *GatePart) Commit(ctx context.Context, _ int32, to broker.Committed) error {
	p.gate.mu.Lock()
	minute := int64(math.MaxInt64) // all messages before the offset are of minutes before it
	for _, c := range p.closed {
		minute = min(minute, c.ClosedBefore)
	}
	if n := len(p.marks); n > 0 && p.marks[n-1].minute == minute {
		p.marks[n-1].Committed = to
	} else {
		p.marks = append(p.marks, mark{to, minute})
	}
	oldest := int64(math.MaxInt64)
	for m := range p.held {
		oldest = min(oldest, m.minute)
	}
	n := 0
	for n < len(p.marks) && p.marks[n].minute <= oldest {
		n++
	}
	if n == 0 {
		p.gate.mu.Unlock()
		return nil
	}
	done := p.marks[n-1]
	p.marks = slices.Delete(p.marks, 0, n)
	var progress []store.Progress
	for _, tenant := range p.gate.tenants {
		c := p.closed[tenant]
		if !p.gate.open[tenant] {
			c.ClosedBefore, c.Version = done.minute, done.Offset
		}
		progress = append(progress, c)
	}
	p.gate.mu.Unlock()
	for _, c := range progress {
		if err := p.tell(ctx, c); err != nil {
			return err
		}
	}
	p.commit(done.Committed)
	return nil
}
