package simulate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/failover"
)

// options are what a seed draws before anything happens. Shrinking makes them smaller.
type options struct {
	Seed                   uint64
	Centres                int
	Raw, Shards, Metrics   int32
	Processes              int // of a role in a data centre
	TickMS, AheadMS        int64
	StepMS                 int64 // most time between two side effects
	CheckpointTicks        int
	ArchiveRows            int
	SummaryEvery           int
	Ranges                 int
	Poll                   int
	Standby                bool
	GateBytes              int
	Rate                   float64 // of faults
	Readers, Batches       int
	Tenants                int
	Retick, Doubled, Moves bool            // the tick changes; producers send again; the active layer moves
	Slow                   bool            // some partitions have no owner at first
	Compact                bool            // a compactor is at work on the archive
	Back                   bool            // brokers' clocks go back
	PatienceMS             int64           // 0: no source is set aside
	Silent                 bool            // a mirror is listed that nobody ever writes
	Rollout                bool            // revisions become known shortly before they are in force
	Collect, Splice, Audit bool            // a collector; a splice and a backfill; an audit in the end
	Cold                   int             // times that a partition of the stream loses what it would go on from
	Rebuild                bool            // what the batch has made is lost in the end
	FromRaw                bool            // splices ask for what is only in the raw topics
	Off                    map[string]bool // faults left out
	Most                   int             // faults at most
}

// loose says that the stream leaves more to the batch than late beacons: what it cannot know to be on time.
func (o *options) loose() bool { return o.Back || o.PatienceMS > 0 }

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// draw draws the options of a seed, for records that take so long.
func draw(seed uint64, horizon int64) options {
	r := rand.New(rand.NewPCG(seed, 0x6f7074))
	o := options{Seed: seed, Centres: pick(r, 1, 1, 2), Raw: pick[int32](r, 1, 1, 2), Shards: pick[int32](r, 1, 2, 3), Metrics: pick[int32](r, 1, 2),
		Processes: pick(r, 1, 2), CheckpointTicks: pick(r, 0, 1, 1, 2, 5), ArchiveRows: pick(r, 1, 3, 10, 1000), Ranges: pick(r, 1, 1, 2, 5),
		Poll: pick(r, 1, 5, 30), Standby: r.IntN(3) > 0, GateBytes: pick(r, 1000, 100_000, 512<<20), Rate: pick(r, .3, 1, 3, 6),
		Readers: pick(r, 1, 2), Batches: pick(r, 1, 1, 2), Retick: r.IntN(4) == 0, Doubled: r.IntN(2) == 0, Moves: r.IntN(2) == 0,
		Slow: r.IntN(3) == 0, Rollout: r.IntN(2) == 0,
		Compact: r.IntN(3) == 0, Back: r.IntN(16) == 0, Tenants: pick(r, 1, 1, 1, 2), Most: 1 << 30}
	ticks := []int64{1000, 10_000, 60_000, 300_000, 1_800_000, 7_200_000}
	ticks = slices.DeleteFunc(ticks, func(ms int64) bool { return horizon/ms > 120 && ms < 7_200_000 })
	o.TickMS = pick(r, ticks[:min(3, len(ticks))]...)
	if o.Retick {
		o.CheckpointTicks = pick(r, 1, 2) // an owner learns at its checkpoints that a later generation was claimed
	}
	if r.IntN(16) == 0 {
		o.PatienceMS = pick(r, 2*o.TickMS, 10*o.TickMS)
	}
	o.AheadMS = pick(r, o.TickMS, 300_000, 3_600_000)
	o.StepMS = max(o.TickMS/pick[int64](r, 50, 200, 1000), 1)
	o.Collect, o.Audit = r.IntN(3) == 0, r.IntN(4) == 0
	if o.Splice = r.IntN(4) == 0; o.Splice {
		o.Rollout = false
	}
	if r.IntN(4) == 0 {
		o.Cold = pick(r, 1, 2, 4)
		o.CheckpointTicks = max(o.CheckpointTicks, 1) // as above: two owners may both begin without state
	}
	o.Rebuild, o.FromRaw = r.IntN(6) == 0, r.IntN(2) == 0
	o.Silent = o.PatienceMS > 0 && r.IntN(2) == 0
	o.SummaryEvery = pick(r, 1, 2, 16)
	return o
}

// plant is all of it.
type plant struct {
	*sim
	world   worlds.World
	shops   []*shop
	metrics *metrics
	centres []*centre
	first   int64 // the first record's time
	last    int64 // the last record's time
	end     int64 // heartbeats go on until then
	readers []*reader
	batches []*proc // by number
	every   int64   // ms between their starts
	passing []*proc // those that end when faults do
	checks  *checks
	keepers int64 // of raw records so far
}

// beating says whether a dispatcher has heartbeats to write. The last ones, at the end, may come a little late.
func (s *sim) beating(p *process) bool {
	return p.beat <= s.plant.end && s.now <= s.plant.end+10_000
}

// next is when a dispatcher's next heartbeats are due. The last ones of all sources come at the end, together: one that had its
// last earlier than others by more than the pacing allows would be waited for, for good.
func (p *plant) next(now, every int64) int64 {
	if !p.sim.quiet {
		return now + every
	}
	if now >= p.end {
		return p.end + 1
	}
	return p.end - (p.end-now-1)/every*every
}

// run runs a world under the options; the sim that it returns has ended, and says what was found.
func run(w worlds.World, opt options, telling bool) *sim {
	s := newSim(opt)
	s.telling = telling
	defer s.end()
	p := &plant{sim: s, world: w, metrics: newMetrics(s), checks: newChecks()}
	for _, name := range []string{"t", "u"}[:opt.Tenants] {
		x := &shop{name: name, topic: "beacons." + name + ".0"}
		var err error
		if x.configs, err = named(w, name).Chain(); err != nil {
			return s
		}
		if x.chain, err = tenant.Compile(x.configs); err != nil {
			return s
		}
		x.whole = x.chain
		p.shops = append(p.shops, x)
	}
	s.plant = p
	recs := slices.Clone(w.Records)
	for _, x := range p.shops[1:] { // the same traffic once more, not all of it
		for i, r := range named(w, x.name).Records {
			if i%3 > 0 {
				recs = append(recs, r)
			}
		}
	}
	slices.SortStableFunc(recs, func(a, b oracle.Record) int {
		return cmp.Or(cmp.Compare(a.Ingest, b.Ingest), bytes.Compare(a.Payload, b.Payload))
	})
	if len(recs) == 0 {
		return s
	}
	s.now = max(recs[0].Ingest-60_000, 0)
	p.first = recs[0].Ingest
	p.last = recs[len(recs)-1].Ingest + 10_000
	p.end = p.last
	for i := range opt.Centres {
		p.centres = append(p.centres, newCentre(s, i, p.shops, p.metrics))
	}
	for _, x := range p.shops {
		p.metrics.active[x.name] = store.Active{Tenant: x.name, Layer: p.centres[0].layer, Seq: 1}
	}
	p.watch()
	p.produce(recs)
	p.operate()
	p.rollouts()
	p.disasters()
	for s.now < p.last && s.bad == nil {
		p.mischief()
		if !s.turn() {
			break
		}
	}
	if s.bad == nil {
		p.drain()
	}
	return s
}

// named is the world of another tenant.
func named(w worlds.World, name string) worlds.World {
	out := worlds.World{Seed: w.Seed}
	for _, text := range w.Configs {
		out.Configs = append(out.Configs, strings.Replace(text, "tenant: t\n", "tenant: "+name+"\n", 1))
	}
	for _, r := range w.Records {
		r.Payload = bytes.Replace(r.Payload, []byte(`"tenant":"t"`), []byte(`"tenant":"`+name+`"`), 1)
		out.Records = append(out.Records, r)
	}
	return out
}

// produce has the records come at their time by the broker's clock; some are delayed, some sent twice since their first
// acknowledgement was lost.
func (p *plant) produce(recs []oracle.Record) {
	s := p.sim
	for _, r := range recs {
		c := p.centres[s.r.IntN(len(p.centres))]
		part := s.r.Int32N(s.opt.Raw)
		at := r.Ingest - c.skew[part]
		if s.opt.Doubled && s.r.IntN(20) == 0 {
			at += s.r.Int64N(pick[int64](s.r, 30_000, 300_000, 3600_000))
		}
		send := func() {
			c.kafka.append(broker.Record{Topic: rawTopic, Partition: part, Value: r.Payload})
		}
		s.at(at, send)
		p.last = max(p.last, at+10_000)
		if s.opt.Doubled && s.r.IntN(15) == 0 {
			other := p.centres[s.r.IntN(len(p.centres))]
			again := s.r.Int32N(s.opt.Raw)
			at += s.r.Int64N(20_000)
			s.at(at, func() {
				s.tell("sent again:")
				other.kafka.append(broker.Record{Topic: rawTopic, Partition: again, Value: r.Payload})
			})
			p.last = max(p.last, at+10_000)
		}
	}
	p.end = p.last
}

// rollouts have all processes begin anew with each revision, shortly before the first record that it can concern.
func (p *plant) rollouts() {
	s := p.sim
	if !s.opt.Rollout {
		return
	}
	for _, x := range p.shops {
		skew := int64(0)
		for _, c := range x.configs {
			skew = max(skew, c.MaxSkew)
		}
		known := 0
		for n, c := range x.configs {
			at := c.From - skew - 60_000
			if n == 0 || at <= s.now {
				known = n
				continue
			}
			s.at(min(at, p.last-1), func() {
				s.tell("revision %d of %s is known", n+1, x.name)
				p.know(x, n)
			})
		}
		p.know(x, known)
	}
}

// know has every process begin anew with the revisions of a tenant up to one.
func (p *plant) know(x *shop, n int) {
	chain, err := tenant.Compile(x.configs[:n+1])
	if err != nil {
		p.found("config: %v", err)
		return
	}
	if x.chain = chain; n == len(x.configs)-1 {
		x.chain = x.whole
	}
	for _, c := range p.centres {
		for _, role := range []string{roleDispatch, roleStream, roleArchive} {
			for _, proc := range slices.Clone(c.procs[role]) {
				c.kill(proc)
			}
		}
	}
	for i, proc := range p.batches {
		if proc != nil {
			p.kill(proc)
		}
		p.batch(i, p.every)
	}
}

// mischief is what goes wrong by itself: processes are killed or stopped, partitions move.
func (p *plant) mischief() {
	s := p.sim
	if s.fault("kill", .002) {
		c := pick(s.r, p.centres...)
		role := pick(s.r, roleDispatch, roleStream, roleStream, roleArchive)
		if all := c.procs[role]; len(all) > 0 {
			c.kill(pick(s.r, all...))
		}
	}
	if s.fault("kill batch", .001) && len(p.batches) > 0 {
		n := s.r.IntN(len(p.batches))
		s.tell("%s is killed", p.batches[n].name)
		s.kill(p.batches[n])
		p.batch(n, p.every)
	}
	if s.fault("pause", .004) {
		th := pick(s.r, s.threads...)
		th.paused = s.now + s.r.Int64N(pick(s.r, 1, s.opt.TickMS/4+1, s.opt.TickMS, 5*s.opt.TickMS))
		s.tell("%s is stopped until %s", th.name, clock(th.paused))
	}
	if s.fault("lose", .002) {
		pick(s.r, pick(s.r, p.centres...).seats...).lose()
	}
	if s.fault("revoke", .002) {
		if x := pick(s.r, pick(s.r, p.centres...).seats...); x.now != nil {
			s.tell("%s %s/%d is to let go", x.c.name, x.kind, x.n)
			x.now.leaving = true
		}
	}
	if s.opt.Retick && s.fault("retick", .001) {
		c := pick(s.r, p.centres...)
		c.tickMS = max(s.opt.TickMS*pick[int64](s.r, 1, 2, 3, 6)/pick[int64](s.r, 1, 2), 1)
		s.tell("%s: the tick is %d ms from now on", c.name, c.tickMS)
	}
}

// operate starts what is run from time to time: the batch, failovers, readers.
func (p *plant) operate() {
	s := p.sim
	every := max((p.last-s.now)/pick[int64](s.r, 3, 8, 20), 1000)
	p.every, p.batches = every, make([]*proc, s.opt.Batches)
	for i := range s.opt.Batches {
		p.batch(i, every)
	}
	for i := range s.opt.Readers {
		p.reader(i, every)
	}
	if s.opt.Moves && len(p.centres) > 1 {
		p.operator(every)
	}
	if s.opt.Compact {
		p.compactor(every)
	}
	if s.opt.Collect {
		p.collector(every)
	}
	if s.opt.Splice {
		p.splices(every)
	}
	if s.opt.Back {
		for _, c := range p.centres {
			for n := range c.skew {
				s.at(s.now+s.r.Int64N(p.last-s.now+1), func() {
					c.skew[n] -= s.r.Int64N(4 * 60_000)
					s.tell("%s: the clock of raw partition %d goes back to %s", c.name, n, clock(s.now+c.skew[n]))
				})
			}
		}
	}
}

// batch is a batch that cron starts, killed and started again.
func (p *plant) batch(n int, every int64) {
	s, c := p.sim, p.centres[0]
	proc := &proc{name: fmt.Sprintf("%s.batch%d", c.name, n)}
	p.passing = append(p.passing, proc)
	p.batches[n] = proc
	s.spawn(proc, proc.name, func(*thread) error {
		for !s.quiet {
			wait := s.r.Int64N(2 * every)
			if s.r.IntN(2) == 0 {
				wait = every - s.now%every // cron starts it everywhere at once
			}
			if err := s.sleep(wait); err != nil {
				return err
			}
			if s.quiet {
				break
			}
			ctx := context.Background()
			var err error
			x := pick(s.r, p.shops...)
			switch j := c.job(x); s.r.IntN(3) {
			case 0:
				err = p.tasks(ctx, x)
			case 1:
				_, err = j.RunOnce(ctx)
			default:
				err = j.Run(ctx)
			}
			if err := s.current.gone(); err != nil {
				return err
			}
			if err != nil {
				s.tell("the batch ends: %v", err)
			}
			if !p.allowed(err) {
				s.found("errors: batch: %v", err)
			}
		}
		return nil
	}, nil)
}

// tasks runs a plan as a scheduler does: maps in shares, then reduces.
func (p *plant) tasks(ctx context.Context, x *shop) error {
	j := p.centres[0].job(x)
	plan, a, err := j.Plan(ctx)
	if err != nil || plan == nil {
		return err
	}
	n := 1 + p.r.IntN(len(plan.Bounds))
	for _, i := range p.r.Perm(n) {
		if err := j.MapPart(ctx, plan, a, i, n); err != nil {
			return err
		}
	}
	for _, w := range plan.Windows {
		if err := j.ReduceWindow(ctx, plan, w.Window); err != nil {
			return err
		}
	}
	return nil
}

// operator moves the active layer.
func (p *plant) operator(every int64) {
	s := p.sim
	proc := &proc{name: "operator"}
	p.passing = append(p.passing, proc)
	s.spawn(proc, proc.name, func(*thread) error {
		for !s.quiet {
			if err := s.sleep(s.r.Int64N(3 * every)); err != nil {
				return err
			}
			c, x := pick(s.r, p.centres...), pick(s.r, p.shops...)
			// The time that a promotion takes is that of its attempts: each is asked for under the same sequence.
			at, lag := time.UnixMilli(s.now), pick[int64](s.r, 0, 5, 60)
			for range 5 {
				seen := p.metrics.complete(x.name, p.metrics.active[x.name].Layer)
				was, now, err := failover.Promote(context.Background(), p.metrics, failover.Change{Tenant: x.name, Layer: c.layer,
					Partitions: int(s.opt.Metrics), Lag: lag, Wait: 1, Now: func() time.Time { return at }})
				if err := s.current.gone(); err != nil {
					return err
				}
				s.tell("promote %s for %s: %v", c.layer, x.name, err)
				if is := p.metrics.complete(x.name, c.layer); err == nil && was != now && is < seen-lag {
					s.found("failover: %s is active for %s and complete before %s, readers had seen minutes closed before %s, and it may lag by %d", c.layer, x.name,
						minuteText(is), minuteText(seen), lag)
				}
				if err == nil || errors.Is(err, failover.ErrBehind) {
					break
				}
				if !expected(err) && !errors.Is(err, failover.ErrSilent) {
					s.found("errors: promote: %v", err)
				}
				if err := s.sleep(c.tickMS / 2); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
}

// drain lets time pass without faults until nothing is open, and then runs the batch to its end.
func (p *plant) drain() {
	s := p.sim
	s.quiet = true
	s.opt.StepMS = min(s.opt.StepMS, 20) // what is behind is caught up long before heartbeats end
	s.tell("no faults any more")
	for _, x := range p.shops {
		x.chain = x.whole
	}
	for _, th := range s.threads {
		th.paused = min(th.paused, s.now+s.opt.TickMS)
		if th.ready != nil {
			th.until = s.now // heartbeats go on
		}
	}
	for _, proc := range p.passing {
		s.kill(proc)
	}
	p.end = s.now + 10_000 + embedded.Closing(p.shops[0].chain) + 20*s.opt.TickMS // a tick may be six times as long meanwhile
	for _, c := range p.centres {
		c.beatMS = max((p.end-s.now)/16, 1)
		for _, proc := range c.procs[roleDispatch] {
			proc.beat = 0
		}
		for _, x := range c.seats { // some begin anew without any fault
			c.begin(x)
			if x.now != nil && s.r.IntN(3) == 0 {
				x.now.leaving = true
			}
		}
	}
	limit := s.steps + 400_000
	for s.bad == nil && s.turn() {
		if s.steps > limit {
			s.found("stuck: it does not come to rest; now %s, the end of heartbeats was %s", clock(s.now), clock(p.end))
		}
		if s.now > p.end && !p.moving() {
			break
		}
	}
	if s.bad != nil {
		return
	}
	proc := &proc{name: "dc1.last batch"}
	var err error
	s.spawn(proc, proc.name, func(*thread) error {
		for _, x := range p.shops {
			if err = p.lastRuns(x); err != nil {
				break
			}
		}
		return err
	}, nil)
	for len(proc.threads) > 0 && s.bad == nil && s.turn() {
		if s.steps > limit {
			s.found("stuck: the batch does not come to an end")
		}
	}
	if err != nil {
		s.found("errors: the last batch: %v", err)
	}
	if s.bad == nil {
		p.checkAll()
	}
}

// moving says whether anything is left to read.
func (p *plant) moving() bool {
	for _, th := range p.threads {
		if !th.background && (th.paused > p.now || th.until < 1<<62 || th.ready != nil && th.ready()) {
			return true
		}
	}
	return len(p.events) > 0
}

// watch sets what is checked while things happen.
func (p *plant) watch() {
	for _, c := range p.centres {
		c.kafka.checked = func(part broker.Partition, r *broker.Record) {
			if part.Topic == metricsTopic {
				p.message(c, part, r)
			}
		}
		c.blobs.deleted = p.deleted
		c.blobs.made = func(name string, data []byte) { p.claimMade(c, name, data) }
		c.blobs.changed = func(name string, is, other []byte) { p.checks.recreated(p.sim, c, name, is, other) }
	}
	p.metrics.covered = p.snapshot
	p.metrics.untold = p.untold
}

// message checks a metrics message as it is appended: equal version, equal value.
func (p *plant) message(c *centre, part broker.Partition, r *broker.Record) {
	m, err := wire.ReadMessage(r.Value)
	if err != nil {
		p.found("messages: %s: %v", c.kafka.place(part, r.Offset), err)
		return
	}
	if m.Marker {
		return
	}
	p.told(c, m, c.kafka.place(part, r.Offset))
	err = m.Rows(func(row *wire.Row) error {
		name := [...]string{"site.", "assigned.", "fm."}[row.Scope] + row.Metric
		p.metrics.place[placeKey{m.Tenant, c.layer, row.Experiment, name}] = part.Partition
		k := messageKey{c.name, m.Topic, m.Partition, m.Generation, m.Offset, m.Minute, row.Experiment, name, row.Part}
		value := fmt.Sprint(row.Parts, row.Cells)
		if was, ok := p.checks.messages[k]; ok && was != value {
			p.found("versions: %s, shard %d, version %d.%d of %s %s, minute %s, stands for two values: %s and %s", c.name, m.Partition, m.Generation,
				m.Offset, row.Experiment, name, minuteText(m.Minute), was, value)
		}
		p.checks.messages[k] = value
		return nil
	})
	if err != nil {
		p.found("messages: %s: %v", c.kafka.place(part, r.Offset), err)
	}
}

var _ blob.Store = (*blobs)(nil)
