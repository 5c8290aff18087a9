package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tandem/scripts/devstack"
	"tandem/stream/broker"
)

var (
	hostSeeds = flag.Int("seeds", devstack.Count(30, 1000), "number of seeds that the hosts are run with")
	hostSeed  = flag.Uint64("seed", 1, "the first seed")
)

// Times of a run, all virtual.
const (
	faultsFor = 4 * time.Minute
	// restFor is how long hosts may take, once nothing goes wrong any more, until all is read: a session time-out, a rebalance that
	// waits for whoever does not let go, the longest wait between attempts.
	restFor      = 4 * time.Minute
	groupSession = 10 * time.Second
	groupWaits   = time.Minute // a rebalance, for those that are to let go
	commitTakes  = 4 * time.Second
)

// TestHostsInVirtualTime runs real hosts beside a group and logs of our own through rebalances, crashes, time-outs, owners that
// fail or hang and graceful stops. Whoever has let go publishes nothing, an owner is given every record in order, what is committed
// was published, no partition is left without an owner for good, and a host that is stopped ends, with all that it began: a
// goroutine that is left makes the bubble fail.
func TestHostsInVirtualTime(t *testing.T) {
	for n := range *hostSeeds {
		seed := *hostSeed + uint64(n)
		var bad string
		synctest.Test(t, func(t *testing.T) { bad = runHosts(seed) })
		if bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
	}
}

// plant is a group, its logs and its processes.
type plant struct {
	mu      sync.Mutex // all below
	r       *rand.Rand
	quiet   bool
	bad     string
	logs    [][]broker.Record
	sent    []int         // of each log, to kfake
	written chan struct{} // closed when a log grows
	done    []int64       // by partition: all before it are published
	commits []int64
	owner   []*member // of the group's
	members []*member
	turn    lock // of rebalances
}

// lock is a mutex that is held over waits: in a bubble time passes only while nobody waits for a sync.Mutex.
type lock chan struct{}

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }

// member is a process in the group.
type member struct {
	p       *plant
	name    string
	host    *Host
	m       broker.Membership
	has     []broker.Partition
	in      bool // takes part
	fenced  bool // the group has given it up, and it does not know
	dead    bool // nothing that it does has any effect
	closed  bool
	calls   <-chan struct{} // of Assigned and Released, one after another: closed once the last of them has returned
	stop    context.CancelFunc
	ended   chan struct{}
	working map[int32]*work
}

// work is an owner's.
type work struct {
	m    *member
	n    int32
	next int64
	over bool // the group was told that it has let go
}

func (p *plant) found(format string, args ...any) {
	if p.bad == "" {
		p.bad = fmt.Sprintf(format, args...)
	}
}

// chance draws whether something goes wrong. The caller has the lock.
func (p *plant) chance(x float64) bool { return !p.quiet && p.r.Float64() < x }

func (p *plant) upTo(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.r.Int64N(int64(d) + 1))
}

func runHosts(seed uint64) string {
	p := &plant{r: rand.New(rand.NewPCG(seed, 0x686f7374)), written: make(chan struct{}), turn: make(lock, 1)}
	parts := 1 + p.r.IntN(5)
	p.logs, p.done, p.commits, p.owner = make([][]broker.Record, parts), make([]int64, parts), make([]int64, parts), make([]*member, parts)
	for i := range p.commits {
		p.commits[i] = -1
	}
	names := []string{"a", "b", "c"}[:1+p.r.IntN(3)]
	for _, name := range names {
		p.start(name)
	}
	began := time.Now()
	for time.Since(began) < faultsFor {
		time.Sleep(p.upTo(8 * time.Second))
		p.mischief(names)
	}
	p.mu.Lock()
	p.quiet = true
	p.mu.Unlock()
	for _, name := range names { // those that are down are started again
		if p.member(name) == nil {
			p.start(name)
		}
	}
	p.write(20)
	p.rests()
	for _, m := range p.all() {
		p.end(m)
	}
	time.Sleep(groupSession + 2*groupWaits) // of the group's own
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bad
}

// rests waits until all is published and committed.
func (p *plant) rests() {
	for end := time.Now().Add(restFor); !p.allDone() && time.Now().Before(end); {
		time.Sleep(time.Second)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, log := range p.logs {
		if p.done[n] < int64(len(log)) || p.commits[n] < int64(len(log)) {
			p.found("partition %d is published up to %d and committed up to %d of %d, %s after the last fault; it is %s\n%s", n, p.done[n], p.commits[n], len(log),
				restFor, p.whose(n), p.state())
		}
	}
}

// state tells what the group knows of each process, and what each process does. The caller has the lock.
func (p *plant) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "balancing %d\n", len(p.turn))
	for _, m := range p.members {
		fmt.Fprintf(&b, "%s: in %t, fenced %t, dead %t, closed %t, has %v\n", m.name, m.in, m.fenced, m.dead, m.closed, m.has)
		for _, s := range m.host.Seats() {
			s.mu.Lock()
			fmt.Fprintf(&b, "  %v: %+v, %d queued, paused %t, broken %v, gone %t\n", s.Partition, s.status, len(s.queue), s.paused, s.broken, s.gone)
			s.mu.Unlock()
		}
		m.host.mu.Lock()
		fmt.Fprintf(&b, "  to commit: %v, committing %d\n", m.host.commits, len(m.host.committing))
		m.host.mu.Unlock()
	}
	buf := make([]byte, 1<<20)
	b.Write(buf[:runtime.Stack(buf, true)])
	return b.String()
}

// whose says whose a partition is. The caller has the lock.
func (p *plant) whose(n int) string {
	if p.owner[n] == nil {
		return "nobody's"
	}
	return p.owner[n].name + "'s"
}

func (p *plant) all() []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.members)
}

func (p *plant) member(name string) *member {
	for _, m := range p.all() {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (p *plant) allDone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, log := range p.logs {
		if p.done[n] < int64(len(log)) || p.commits[n] < int64(len(log)) {
			return false
		}
	}
	return true
}

// mischief is one thing that happens.
func (p *plant) mischief(names []string) {
	p.mu.Lock()
	what, name, n := p.r.IntN(10), names[p.r.IntN(len(names))], 1+p.r.IntN(200)
	p.mu.Unlock()
	m := p.member(name)
	switch {
	case what < 4:
		p.write(n)
	case m == nil:
		p.start(name)
	case what == 4:
		p.end(m)
	case what == 5:
		p.crash(m)
	case what == 6:
		go p.timeout(m)
	default:
		go p.balance(nil)
	}
}

// write appends records to each log.
func (p *plant) write(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.logs {
		for range p.r.IntN(n) + 1 {
			at := int64(len(p.logs[i]))
			p.logs[i] = append(p.logs[i], broker.Record{Topic: topic, Partition: int32(i), Offset: at, Time: at, Value: make([]byte, 10)})
		}
	}
	close(p.written)
	p.written = make(chan struct{})
}

// start starts a process.
func (p *plant) start(name string) {
	m := &member{p: p, name: name, ended: make(chan struct{}), working: map[int32]*work{}}
	m.host = host(broker.Connection{}, name, m.open)
	m.host.via, m.host.Session = m, groupSession
	p.mu.Lock()
	p.members = append(p.members, m)
	if p.r.IntN(3) == 0 {
		m.host.Fresh = func() bool { return time.Now().Unix()%60 > 20 }
	}
	if p.r.IntN(2) == 0 {
		m.host.Gather = time.Duration(p.r.Int64N(int64(3 * time.Second)))
	}
	p.mu.Unlock()
	m.run()
}

// run runs the host until it is stopped.
func (m *member) run() {
	p, name := m.p, m.name
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() {
		err := m.host.Run(ctx)
		p.mu.Lock()
		if err != nil && !m.dead {
			p.found("%s ends: %v", name, err)
		}
		for n, w := range m.working {
			if !m.dead {
				p.found("%s has ended, and works on partition %d, at %d", name, n, w.next)
			}
		}
		p.mu.Unlock()
		close(m.ended)
	}()
}

// end stops a process in good order. Its partitions stay its own until its session ends.
func (p *plant) end(m *member) {
	p.mu.Lock()
	began := time.Now()
	p.members = slices.DeleteFunc(p.members, func(x *member) bool { return x == m })
	p.mu.Unlock()
	m.stop()
	<-m.ended
	p.mu.Lock()
	if took := time.Since(began); took > graceTime+2*groupWaits {
		p.found("%s takes %s to end", m.name, took)
	}
	p.mu.Unlock()
	go p.expire(m)
}

// crash has nothing that a process does have any effect from now on.
func (p *plant) crash(m *member) {
	p.mu.Lock()
	p.members = slices.DeleteFunc(p.members, func(x *member) bool { return x == m })
	m.dead = true
	p.mu.Unlock()
	m.stop()
	<-m.ended
	go p.expire(m)
}

// expire gives away what a member has that is gone, unless its name has come back by then.
func (p *plant) expire(m *member) {
	time.Sleep(groupSession)
	p.balance(func() {
		for n, o := range p.owner {
			if o == m {
				p.owner[n] = nil
			}
		}
		m.in = false
	})
}

// timeout has the group give up a member, which goes on for a while without knowing it, and joins again.
func (p *plant) timeout(m *member) {
	ok := false
	p.balance(func() {
		if ok = m.in && !m.closed && !m.fenced && !m.dead; !ok {
			return
		}
		m.fenced, m.in = true, false
		for n, o := range p.owner {
			if o == m {
				p.owner[n] = nil
			}
		}
	})
	if !ok {
		return
	}
	time.Sleep(p.upTo(20 * time.Second))
	<-m.drop()
	p.balance(func() {
		m.fenced = false
		m.in = !m.closed
	})
}

// open opens an owner.
func (m *member) open(ctx context.Context, s *Seat) (Owner, int64, error) {
	c, _, err := s.Committed(ctx)
	if err != nil {
		return nil, 0, err
	}
	n := s.Partition.Partition
	m.p.mu.Lock()
	slow := m.p.chance(.05)
	m.p.mu.Unlock()
	if slow {
		if err := wait(ctx, m.p.upTo(40*time.Second)); err != nil {
			return nil, 0, err
		}
	}
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	if m.working[n] != nil {
		m.p.found("%s opens partition %d, and works on it already", m.name, n)
	}
	w := &work{m: m, n: n, next: max(c.Offset, 0)}
	m.working[n] = w
	return closer{ownerFunc(func(ctx context.Context, recs []broker.Record) error { return w.handle(ctx, s, recs) }), func() {
		m.p.mu.Lock()
		defer m.p.mu.Unlock()
		delete(m.working, n)
	}}, w.next, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// handle publishes records, some at once.
func (w *work) handle(ctx context.Context, s *Seat, recs []broker.Record) error {
	p := w.m.p
	for len(recs) > 0 {
		p.mu.Lock()
		n := 1 + p.r.IntN(len(recs))
		took := time.Duration(p.r.Int64N(int64(time.Second / 20)))
		fails := p.chance(.02)
		if p.chance(.01) {
			took = time.Duration(p.r.Int64N(int64(90 * time.Second))) // the store is away
		}
		p.mu.Unlock()
		if err := wait(ctx, took); err != nil {
			return err
		}
		if fails {
			return errors.New("not written")
		}
		p.mu.Lock()
		for _, r := range recs[:n] {
			switch {
			case r.Offset != w.next || r.Partition != w.n:
				p.found("%s, partition %d: record %d of partition %d comes, want %d", w.m.name, w.n, r.Offset, r.Partition, w.next)
			case w.over && !w.m.dead:
				p.found("%s publishes record %d of partition %d after it has let go", w.m.name, r.Offset, w.n)
			}
			w.next = r.Offset + 1
		}
		if !w.m.dead && recs[0].Offset <= p.done[w.n] {
			p.done[w.n] = max(p.done[w.n], w.next)
		}
		if recs[0].Offset > p.done[w.n] && !w.m.dead {
			p.found("%s publishes partition %d from %d on, and %d is not published", w.m.name, w.n, recs[0].Offset, p.done[w.n])
		}
		p.mu.Unlock()
		s.Commit(recs[n-1].Offset + 1)
		recs = recs[n:]
	}
	return nil
}
