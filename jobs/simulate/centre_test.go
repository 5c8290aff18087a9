package simulate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/aggregate"
	"tandem/stream/archive"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/service"
	"tandem/stream/sessionize"
)

const (
	rawTopic     = "beacons.raw"
	deadTopic    = "beacons.dead"
	metricsTopic = "metrics.stream"
)

// shop is a tenant: its configs, and its topic.
type shop struct {
	name    string
	configs []*tenant.Config
	chain   *tenant.Chain // as far as it is known
	whole   *tenant.Chain
	spliced *tenant.Chain // with a splice, which is the batch's only; nil: there is none
	objects []*tenant.Config
	audit   *batch.AuditReport
	topic   string
}

// horizonMS is the longest that nobody is there for a partition at the start.
const horizonMS = 2 * 3600_000

// Roles of processes.
const (
	roleDispatch = "dispatch"
	roleStream   = "stream"
	roleArchive  = "archive"
)

// centre is a data centre: its broker, its blob storage, its processes.
type centre struct {
	s       *sim
	name    string
	layer   string
	kafka   *kafka
	blobs   *blobs
	metrics *metrics
	shops   []*shop
	tickMS  int64
	standby bool

	sources  wire.Sources
	raws     []broker.Partition // by source
	skew     []int64            // of the local raw partitions' clocks, ms
	mirrored map[broker.Partition]int64
	procs    map[string][]*process
	seats    []*seat
	beatMS   int64
	counts   map[string]int64 // late.clock by shard
	cold     bool             // the stream is started with --cold
	holes    []hole
	copied   bool // a mirror has copied records again
}

// process is a process of a role, with what its threads share.
type process struct {
	*proc
	c      *centre
	role   string
	teller *dispatch.Teller
	gate   *service.Gate
	raw    []*tenure // dispatch: its partitions
	at     int64     // dispatch: offset of the next record of the tail
	beat   int64     // dispatch: when the next heartbeat is due
	again  int64     // dispatch: when what waits is told of again
}

// seat is a partition that one process at a time is to work on.
type seat struct {
	c     *centre
	role  string
	p     broker.Partition
	shop  *shop // of a shard and an archiver
	n     int   // source, shard or partition
	epoch int
	now   *tenure
	all   []*tenure // that have not ended
	kind  string
	// incarnation counts how often all claims of a shard were lost.
	incarnation int
}

// tenure is a process's time at a seat. One that is over may not know it.
type tenure struct {
	*seat
	of      *process
	epoch   int
	leaving bool    // it lets go in good order
	lost    bool    // it knows that the seat is another's
	th      *thread // not of dispatch
	next    int64   // dispatch: offset to read next, -1: to be opened
	out     *dispatch.Dispatcher
}

// fenced says that the group does not take commits of the tenure.
func (t *tenure) fenced() bool { return t.epoch != t.seat.epoch || t.of.dead }

func newCentre(s *sim, i int, shops []*shop, m *metrics) *centre {
	c := &centre{s: s, name: fmt.Sprintf("dc%d", i+1), shops: shops, metrics: m, tickMS: s.opt.TickMS, standby: i > 0 && s.opt.Standby,
		mirrored: map[broker.Partition]int64{}, procs: map[string][]*process{}, beatMS: s.opt.TickMS, counts: map[string]int64{}}
	c.layer = "stream." + c.name
	c.kafka, c.blobs = newKafka(s, c.name), newBlobs(s)
	m.layers[c.layer] = int(s.opt.Metrics)
	for dc := range s.opt.Centres {
		topic, kind := rawTopic, wire.KindLive
		if dc != i {
			topic, kind = fmt.Sprintf("dc%d.%s", dc+1, rawTopic), wire.KindMirror
		}
		for p := range s.opt.Raw {
			c.sources.List = append(c.sources.List, wire.Source{Cluster: c.name, Topic: topic, TopicID: topic, Partition: p, Kind: kind})
			c.raws = append(c.raws, broker.Partition{Topic: topic, Partition: p})
		}
	}
	if s.opt.Silent {
		topic := "silent." + rawTopic
		c.sources.List = append(c.sources.List, wire.Source{Cluster: c.name, Topic: topic, TopicID: topic, Kind: wire.KindMirror})
		c.raws = append(c.raws, broker.Partition{Topic: topic})
	}
	c.sources.Revision = 1
	for p := range s.opt.Raw {
		c.skew = append(c.skew, s.r.Int64N(8001)-4000)
		c.kafka.clock[broker.Partition{Topic: rawTopic, Partition: p}] = func() int64 { return s.now + c.skew[p] }
	}
	add := func(role, kind string, p broker.Partition, n int, x *shop) {
		c.seats = append(c.seats, &seat{c: c, role: role, kind: kind, p: p, n: n, shop: x})
	}
	for n, p := range c.raws {
		add(roleDispatch, "raw", p, n, nil)
	}
	for _, x := range shops {
		for n := range s.opt.Shards {
			p := broker.Partition{Topic: x.topic, Partition: n}
			add(roleStream, "shard", p, int(n), x)
			add(roleArchive, "archive", p, int(n), x)
		}
	}
	for n := range s.opt.Metrics {
		add(roleStream, "aggregate", broker.Partition{Topic: metricsTopic, Partition: n}, int(n), nil)
	}
	for _, role := range []string{roleDispatch, roleStream, roleArchive} {
		for range s.opt.Processes {
			c.start(role)
		}
	}
	for _, x := range c.seats {
		if s.opt.Slow && s.r.IntN(3) == 0 { // nobody is there for it yet
			s.at(s.now+s.r.Int64N(pick(s.r, c.tickMS, 5*c.tickMS, horizonMS)), func() { c.begin(x) })
			continue
		}
		c.take(x)
	}
	for dc := range s.opt.Centres {
		if dc != i {
			c.mirror(dc)
		}
	}
	return c
}

// start starts a process of a role.
func (c *centre) start(role string) {
	s := c.s
	p := &process{proc: &proc{name: fmt.Sprintf("%s.%s%d", c.name, role, s.seq)}, c: c, role: role}
	s.seq++
	c.procs[role] = append(c.procs[role], p)
	switch role {
	case roleDispatch:
		p.teller = &dispatch.Teller{EveryMS: min(10_000, c.tickMS), PatienceMS: s.opt.PatienceMS, BackMS: min(s.opt.AheadMS, s.opt.PatienceMS), Out: c.kafka, Routes: c.routes()}
		p.teller.SetSources(c.sources)
		s.spawn(p.proc, p.name, func(*thread) error { return p.dispatch() }, nil)
	case roleStream:
		p.gate = service.NewGate(c.metrics, c.layer, c.names(), c.standby, batch.WindowMS/60000, quietLog)
		p.gate.Limit = s.opt.GateBytes
		if c.standby {
			s.spawn(p.proc, p.name+" gate", func(th *thread) error {
				th.background = true
				for n := 0; ; n++ {
					p.gate.Turn(context.Background(), n%3 == 0)
					if err := s.sleep(c.beatMS / 4); err != nil {
						return err
					}
				}
			}, nil)
		}
	}
}

func (c *centre) routes() map[string]*dispatch.Route {
	routes := map[string]*dispatch.Route{}
	for _, x := range c.shops {
		routes[x.name] = &dispatch.Route{Chain: x.chain, Topics: []string{x.topic}, Partitions: c.s.opt.Shards}
	}
	return routes
}

func (c *centre) names() (all []string) {
	for _, x := range c.shops {
		all = append(all, x.name)
	}
	return all
}

// begin gives a seat that nobody has had to one of the processes.
func (c *centre) begin(x *seat) {
	if x.epoch == 0 {
		c.take(x)
	}
}

// take gives a seat to one of the processes.
func (c *centre) take(x *seat) {
	s := c.s
	all := c.procs[x.role]
	if len(all) == 0 {
		s.at(s.now+c.tickMS/4, func() { c.take(x) })
		return
	}
	x.epoch++
	t := &tenure{seat: x, of: all[s.r.IntN(len(all))], epoch: x.epoch, next: -1}
	x.now = t
	s.tell("%s %s/%d is given to %s", c.name, x.kind, x.n, t.of.name)
	if x.role == roleDispatch {
		t.of.raw = append(t.of.raw, t)
		return
	}
	t.th = s.spawn(t.of.proc, fmt.Sprintf("%s %s/%d", t.of.name, x.kind, x.n), func(*thread) error { return t.run() }, func(error) { t.ended() })
	x.all = append(slices.DeleteFunc(x.all, func(t *tenure) bool { return t.th.done }), t)
}

// ended is called when a tenure has let go.
func (t *tenure) ended() {
	s := t.c.s
	if t.seat.now == t && !t.of.dead {
		t.seat.now = nil
		s.at(s.now, func() { t.c.take(t.seat) })
	}
}

// lose has a seat given to another while its owner does not know it.
func (x *seat) lose() {
	s, t := x.c.s, x.now
	if t == nil {
		return
	}
	s.tell("%s %s/%d is taken from %s, which goes on", x.c.name, x.kind, x.n, t.of.name)
	x.now = nil
	knows := s.now + s.r.Int64N(4*x.c.tickMS)
	if t.th != nil && s.r.IntN(2) == 0 {
		t.th.paused = max(t.th.paused, s.now+s.r.Int64N(3*x.c.tickMS))
	}
	s.at(knows, func() {
		t.lost = true
		if t.th != nil {
			t.th.left = true
		}
	})
	x.c.take(x)
}

// kill kills a process; its seats go to others after a while, and it is started again.
func (c *centre) kill(p *process) {
	s := c.s
	s.tell("%s is killed", p.name)
	c.procs[p.role] = slices.DeleteFunc(c.procs[p.role], func(x *process) bool { return x == p })
	s.kill(p.proc)
	for _, x := range c.seats {
		if x.now != nil && x.now.of == p {
			x.now = nil
			s.at(s.now+s.r.Int64N(2*c.tickMS), func() { c.take(x) })
		}
	}
	s.at(s.now+s.r.Int64N(2*c.tickMS), func() { c.start(p.role) })
}

// run works on a seat until it is let go.
func (t *tenure) run() error {
	s := t.c.s
	serve := map[string]func() error{"shard": t.shard, "aggregate": t.aggregate, "archive": t.archive}[t.kind]
	for !t.leaving {
		err := serve()
		if t.leaving || t.th.gone() != nil {
			return nil
		}
		allowed := t.kind == "archive" && errors.Is(err, blob.ErrExists) || t.kind == "shard" && (errors.Is(err, blob.ErrNotFound) || errors.Is(err, sessionize.ErrSuperseded))
		if !expected(err) && !allowed && !t.beyond(err) {
			s.found("errors: %s stops: %v", t.th.name, err)
			return err
		}
		s.tell("begins again after: %v", err)
		if err := s.sleep(t.c.tickMS / 50); err != nil {
			return err
		}
	}
	return nil
}

// batchOf draws how many records are handed over at once.
func (s *sim) batchOf() int {
	if s.quiet {
		return 1 << 10
	}
	return 1 + s.r.IntN(s.opt.Poll)
}

// feed reads records from an offset on and waits for the first; none says that the seat is to be let go.
func (t *tenure) feed(from int64) ([]broker.Record, error) {
	s := t.c.s
	for {
		recs, err := t.c.kafka.poll(t.p, from, s.batchOf())
		if err != nil || len(recs) > 0 || t.leaving {
			return recs, err
		}
		if err := s.wait(func() bool { return t.leaving || t.c.kafka.has(t.p, from) }, 1<<62); err != nil {
			return nil, err
		}
	}
}

func (t *tenure) shard() error {
	c := t.c
	cfg := sessionize.Config{Layer: c.layer, Topic: t.p.Topic, TopicID: t.p.Topic, Partition: t.p.Partition,
		MetricsTopic: metricsTopic, MetricsPartitions: int(c.s.opt.Metrics), TickMS: c.tickMS, CheckpointTicks: c.s.opt.CheckpointTicks}
	if c.cold {
		if err := service.ColdShard(context.Background(), logOf{t}, cfg, t.shop.chain, c.blobs, t.p, quietLog); err != nil {
			return err
		}
	}
	w, err := sessionize.Open(cfg, t.shop.chain, c.blobs, c.kafka, func(offset int64) ([]byte, error) { return c.kafka.payload(t.p, offset) })
	if err != nil {
		return err
	}
	c.s.tell("shard %d goes on at %d, generation %d", t.n, w.Shard.Offset, w.Shard.ID.Generation)
	for !t.leaving {
		recs, err := t.feed(w.Shard.Offset)
		if err != nil || len(recs) == 0 {
			return err
		}
		if err := w.Handle(context.Background(), recs); err != nil {
			return err
		}
		c.counts[fmt.Sprintf("late.clock %s %s/%d", c.name, t.p.Topic, t.n)] = w.Shard.Counts.LateClock
	}
	return nil
}

func (t *tenure) aggregate() error {
	c, s := t.c, t.c.s
	g := group("stream", t.p)
	at, _, err := c.kafka.committed(g)
	if err != nil {
		return err
	}
	closed := map[string]int64{}
	cfg := aggregate.Config{Layer: c.layer, Partition: t.p.Partition}
	for _, shop := range c.shops {
		all, err := c.metrics.Progress(context.Background(), c.layer, shop.name)
		if err != nil {
			return err
		}
		for _, x := range all {
			if x.Partition == t.p.Partition {
				closed[shop.name] = x.ClosedBefore
			}
		}
		revs, most := shop.chain.Revs, int64(0)
		for i := range revs {
			most = max(most, revs[i].Config.MaxSkew+revs[i].Config.Lateness+s.opt.AheadMS)
		}
		cfg.Tenants = append(cfg.Tenants, aggregate.Tenant{Name: shop.name, Topics: []string{shop.topic}, Shards: int(s.opt.Shards), RetentionMS: revs[len(revs)-1].Config.Retention, LeadMS: most})
		s.tell("aggregate %d begins at %d, %s is closed before %s", t.n, at.Offset, shop.name, minuteText(closed[shop.name]))
	}
	told := maps.Clone(closed)
	if c.cold {
		next, err := service.ColdAggregate(context.Background(), logOf{t}, cfg.Tenants, t.p, at, closed, quietLog)
		if err != nil {
			return err
		}
		if next != at {
			s.plant.lossy(c, t.p, next.Offset, closed)
			s.tell("aggregate %d begins without what came before %d: %v", t.n, next.Offset, closed)
		}
		at = next
	}
	part := t.of.gate.Part(t.p.Partition, told, maps.Clone(closed), func(to broker.Committed) { c.kafka.commit(g, to, t.fenced) })
	defer part.Close()
	state, err := aggregate.New(cfg, at.Offset, closed, at.Note)
	if err != nil {
		return err
	}
	w := &aggregate.Worker{Store: part, Commits: part, State: state}
	for !t.leaving {
		recs, err := t.feed(w.State.Offset)
		if err != nil || len(recs) == 0 {
			return err
		}
		if err := w.Handle(context.Background(), recs); err != nil {
			return err
		}
	}
	return nil
}

func (t *tenure) archive() error {
	c := t.c
	a, err := archive.Open(archive.Config{Topic: t.p.Topic, TopicID: t.p.Topic, Partition: t.p.Partition, Partitions: c.s.opt.Shards,
		MaxRows: c.s.opt.ArchiveRows, MaxBytes: archive.DefaultBytes, SummaryEvery: c.s.opt.SummaryEvery}, t.shop.chain, c.blobs)
	if err != nil {
		return err
	}
	for !t.leaving {
		recs, err := t.feed(a.Offset)
		if err != nil || len(recs) == 0 {
			return err
		}
		if err := a.Handle(recs); err != nil {
			return err
		}
		if n := len(a.Rows()); n > c.s.opt.ArchiveRows {
			c.s.found("memory: archiver of %s/%d holds %d rows, more than %d", t.p.Topic, t.p.Partition, n, c.s.opt.ArchiveRows)
		}
		if err := a.Summarize(); !expected(err) {
			return err
		}
	}
	return nil
}

// mirror copies the raw partitions of another data centre, from time to time some records again.
func (c *centre) mirror(dc int) {
	s := c.s
	for n := range s.opt.Raw {
		p := &proc{name: fmt.Sprintf("%s.mirror of dc%d/%d", c.name, dc+1, n)}
		from := broker.Partition{Topic: rawTopic, Partition: n}
		to := broker.Partition{Topic: fmt.Sprintf("dc%d.%s", dc+1, rawTopic), Partition: n}
		at := int64(0)
		s.spawn(p, p.name, func(*thread) error {
			for {
				src := s.plant.centres[dc].kafka
				if err := s.wait(func() bool { return src.has(from, at) }, 1<<62); err != nil {
					return err
				}
				if s.fault("mirror again", .01) {
					at = max(0, at-s.r.Int64N(6))
					c.copied = true
					s.tell("copies again from %d", at)
				}
				for _, r := range src.logs[from][at:] {
					r.Topic = to.Topic
					c.kafka.append(r)
					at++
				}
				if err := s.sleep(s.r.Int64N(s.opt.TickMS/4 + 1)); err != nil {
					return err
				}
			}
		}, nil)
	}
}

// job is the batch of a tenant over this data centre's archive.
func (c *centre) job(x *shop) *batch.Job {
	chain := x.chain
	if x.spliced != nil {
		chain = x.spliced
	}
	topics := []batch.Topic{{Name: x.topic, ID: x.topic, Partitions: c.s.opt.Shards}}
	brought, err := batch.ReadFromRaw(quietBlobs{c.blobs}, x.name)
	if err != nil {
		c.s.found("from raw: %v", err)
	}
	for i := range brought {
		topics = append(topics, brought[i].Batched())
	}
	return &batch.Job{Chain: chain, Topics: topics, Blobs: c.blobs,
		Store: c.metrics, Digest: archive.ParseDigest, Ranges: c.s.opt.Ranges, Parallel: 1}
}

var _ store.Store = (*metrics)(nil)
