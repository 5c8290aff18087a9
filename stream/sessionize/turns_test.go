package sessionize

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

// player is an owner that stops before each call of the blob storage until it is its turn.
type player struct {
	*blob.Mem
	parked chan bool // it stands before a call; false: it has ended
	turn   chan bool // false: it is killed where it stands
	w      *Worker   // once it is open; to be looked at while it is parked
	began  int64     // where
	tried  int       // to open
	err    error
	lost   int // checkpoints that it found orphaned
}

func (p *player) wait() {
	p.parked <- true
	if !<-p.turn {
		runtime.Goexit()
	}
}

func (p *player) Create(name string, data []byte) error {
	p.wait()
	return p.Mem.Create(name, data)
}

func (p *player) Get(name string) ([]byte, error) {
	p.wait()
	return p.Mem.Get(name)
}

func (p *player) List(prefix string) ([]string, error) {
	p.wait()
	return p.Mem.List(prefix)
}

func (p *player) Delete(name string) error {
	p.wait()
	return p.Mem.Delete(name)
}

// play opens the shard, again while another owner deletes what it is about to read, and reads the log to its end.
func (p *player) play(t testing.TB, cfg Config, chain *tenant.Chain, f *feed, states map[int64][]string) {
	defer close(p.parked)
	for p.tried = 1; ; p.tried++ {
		w, err := Open(cfg, chain, p, &sink{}, f.payload)
		if err == nil {
			p.w = w
			break
		}
		if gone := errors.Is(err, errOrphan) || errors.Is(err, blob.ErrNotFound); !gone || p.tried == 20 {
			p.err = err
			return
		}
	}
	p.began = p.w.Shard.Offset
	if p.began > 0 && !slices.Equal(held(t, p.w.Shard), states[p.began]) {
		p.err = fmt.Errorf("begun at %d it is not the shard", p.began)
		return
	}
	p.w.Ticked = func(st TickStats) {
		switch err := st.Checkpoint.Err; {
		case errors.Is(err, errOrphan):
			p.lost++
		case err != nil:
			p.err = err
		}
	}
	if err := p.w.Handle(context.Background(), f.recs[p.began:]); err != nil {
		p.err = err
	}
}

// game is two owners of one shard in turn.
type game struct {
	t      *testing.T
	cfg    [2]Config
	chain  *tenant.Chain
	f      *feed
	blobs  *blob.Mem
	states map[int64][]string // what the shard holds at each tick
	seat   [2]*player
	title  string
	last   []string // the lineage that began last, of all so far

	anew, again, lost, orphans int
}

// sit has a new owner begin, up to its first call.
func (g *game) sit(k int) {
	p := &player{Mem: g.blobs, parked: make(chan bool), turn: make(chan bool)}
	g.seat[k] = p
	go p.play(g.t, g.cfg[k], g.chain, g.f, g.states)
	<-p.parked
}

// step lets an owner make one call, and says whether it goes on.
func (g *game) step(k int) bool {
	p := g.seat[k]
	p.turn <- true
	if <-p.parked {
		g.check()
		return true
	}
	return false
}

// leave ends an owner: it is killed where it stands, or has come to the end.
func (g *game) leave(k int, kill bool) {
	p := g.seat[k]
	if kill {
		p.turn <- false
		<-p.parked
	}
	if p.err != nil {
		g.t.Fatalf("%s: owner %d: %v", g.title, k, p.err)
	}
	if g.lost += p.lost; p.began > 0 {
		g.anew++
	}
	if p.tried > 1 {
		g.again++
	}
	g.seat[k] = nil
}

// check: something complete is there, once there was, and the lineage that began last has lost nothing.
func (g *game) check() {
	names, err := g.blobs.List("checkpoints/")
	if err != nil {
		g.t.Fatal(err)
	}
	taken := slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".checkpoint") })
	if len(taken) > 0 {
		l, err := complete(taken, g.blobs.Get)
		if err != nil {
			g.t.Fatalf("%s: nothing to begin with: %v\n%q", g.title, err, taken)
		}
		if l.newest() != taken[len(taken)-1] {
			g.orphans++
		}
	}
	for _, p := range g.seat {
		if p != nil && p.w != nil && len(p.w.line.names) > 0 && (len(g.last) == 0 || p.w.line.names[0] >= g.last[0]) {
			g.last = slices.Clone(p.w.line.names)
		}
	}
	for _, n := range g.last {
		if !slices.Contains(taken, n) {
			g.t.Fatalf("%s: the lineage that began last, %q, lost %s", g.title, g.last, n)
		}
	}
}

// run plays one schedule: the first owner makes so many calls, then the second, then the first again, which is killed then or
// not; then both go on to the end.
func (g *game) run(calls [3]int, kill bool) {
	g.title = fmt.Sprintf("calls %v, kill %t", calls, kill)
	g.blobs = blob.NewMem()
	g.seat, g.last = [2]*player{}, nil
	alive := [2]bool{true, true}
	g.sit(0)
	for i, k := range []int{0, 1, 0} {
		if i == 1 {
			g.sit(1)
		}
		for n := 0; n < calls[i] && alive[k]; n++ {
			alive[k] = g.step(k)
		}
	}
	if kill && alive[0] {
		g.leave(0, true)
		g.sit(0)
	}
	for _, k := range []int{1, 0} {
		for alive[k] {
			alive[k] = g.step(k)
		}
		g.leave(k, false)
	}
}

// Two owners of one shard that take turns between calls of the blob storage, at any places (a stride apart), the first killed or
// not: what TestOwnersSideBySideDeleteNothingThatIsWanted draws at random and at ticks only, here call by call.
func TestOwnersInAnyTurn(t *testing.T) {
	devstack.AtLength(t)
	chain := load(t, strings.Replace(shopYAML, "session_ttl: 12h", "session_ttl: 31m", 1))
	f := newFeed(1)
	for i := range int64(100) {
		f.beacon(t0, hit(fmt.Sprint("idle", i), "1", t0, `,"visitor":"v"`))
	}
	for at := t0; at < t0+40*minute; at += minute {
		f.beacon(at, hit(fmt.Sprint("new", at), fmt.Sprint(at), at, `,"visitor":"v"`))
		for range 40 { // a whole checkpoint waits for as many records as sessions
			f.tell(at)
		}
		f.tell(at + minute)
	}
	g := &game{t: t, chain: chain, f: f, states: map[int64][]string{}, cfg: [2]Config{everyTick(), everyTick()}}
	g.cfg[0].CheckpointTicks, g.cfg[1].CheckpointTicks = 2, 3 // so that most checkpoints of one are not the other's
	alone := open(t, everyTick(), chain, f, blob.NewMem(), &sink{})
	wholes, deltas := 0, 0
	alone.Ticked = func(st TickStats) {
		g.states[st.Offset] = held(t, alone.Shard)
		if st.Checkpoint.Whole {
			wholes++
		} else if st.Checkpoint.Taken {
			deltas++
		}
	}
	handle(t, alone, f.recs)
	const most = 80
	stride := 13
	if *long {
		stride = 5
	}
	n := 0
	for a := 0; a < most; a += stride {
		for b := 0; b < most; b += stride {
			for c := 0; c < most; c += stride {
				g.run([3]int{a, b, c}, false)
				g.run([3]int{a, b, c}, true)
				n += 2
			}
		}
	}
	if wholes < 5 || deltas < 30 || g.orphans == 0 || g.lost == 0 {
		t.Error("this tests too little")
	}
	t.Logf("%d schedules; alone: %d whole ones, %d deltas; begun anew %d times, again at once %d; orphans seen %d, by their owner %d", n, wholes, deltas, g.anew, g.again, g.orphans, g.lost)
}
