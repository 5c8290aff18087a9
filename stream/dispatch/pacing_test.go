package dispatch

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// However sources are read, and by however many dispatchers that know of each other's only what is told, some source can
// always go on: pacing never stops all of them, over whatever gaps. And the last heartbeat of history comes to every partition behind
// what says that all sources have come to the one before it: else the last tick comes too early there, and the end is never closed.
// Also when dispatchers begin again at what they have committed, wherever in the log they begin to hear, when sources go from one to
// another, and while what one tells is in some partitions and not yet in others.
func TestPacingNeverStopsAll(t *testing.T) {
	for seed := range uint64(2000) {
		newPaced(t, seed).run()
	}
}

const paceAhead, paceEnd = 5 * minute, t0 + 10_000*minute

// paced are sources that some dispatchers read.
type paced struct {
	t           *testing.T
	seed        uint64
	rng         *rand.Rand
	out         *broker.Memory
	dispatchers []*pacedDispatcher
	logs        [][]broker.Record
	owner       []int // by source
	next        []int // of the records of each
	read        []int // the most that it ever was
	quiet       int   // rounds in which nothing was read
	forgets     bool  // some dispatcher has not heard all that was told
}

type pacedDispatcher struct {
	*paced
	teller *Teller
	heard  int  // of what is told
	busy   bool // in the middle of something
}

func newPaced(t *testing.T, seed uint64) *paced {
	p := &paced{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), out: broker.NewMemory()}
	n := 1 + p.rng.IntN(4)
	for range 1 + p.rng.IntN(3) {
		d := &pacedDispatcher{paced: p}
		d.begin(n)
		p.dispatchers = append(p.dispatchers, d)
	}
	for i := range n {
		ms, log := t0+p.rng.Int64N(10)*minute, []broker.Record(nil)
		for range 1 + p.rng.IntN(20) {
			log = append(log, broker.Record{Time: ms})
			ms += []int64{0, 1, second, paceAhead, paceAhead + 1, 300 * minute}[p.rng.IntN(6)]
		}
		p.logs = append(p.logs, append(log, at(paceEnd, paceEnd+121*minute)...)) // as produce --end-heartbeat makes it
		p.owner = append(p.owner, i%len(p.dispatchers))
	}
	p.next, p.read = make([]int, n), make([]int, n)
	return p
}

func (d *pacedDispatcher) begin(sources int) {
	d.teller, _ = teller(sources)
	d.teller.Out = d
}

// Write brings records to one partition after another, in any order, and in between others go on.
func (d *pacedDispatcher) Write(ctx context.Context, recs []broker.Record) error {
	for _, i := range d.rng.Perm(len(recs)) {
		if d.rng.IntN(4) == 0 {
			d.dispatchers[d.rng.IntN(len(d.dispatchers))].work()
		}
		if err := d.out.Write(ctx, recs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// work reads what may be read, tells what is due and hears what was told.
func (d *pacedDispatcher) work() {
	if d.busy {
		return
	}
	d.busy = true
	defer func() { d.busy = false }()
	for _, i := range d.rng.Perm(len(d.logs)) {
		if d.owner[i] != d.index() {
			continue
		}
		k := d.teller.Allowed(i, paceAhead, d.logs[i][d.next[i]:])
		for range k {
			ms := d.logs[i][d.next[i]].Time
			d.next[i]++
			d.read[i] = max(d.read[i], d.next[i])
			d.teller.Read(i, ms, int64(d.next[i]))
			d.quiet = 0
			if d.teller.Crosses(ms) {
				d.tell()
			}
		}
	}
	if d.rng.IntN(3) > 0 && d.teller.Due() { // each second, and now and then a source is taken away before
		d.tell()
	}
	log := d.out.Log(d.teller.Tail(), int64(d.heard))
	for _, rec := range log {
		p, err := wire.ReadProgress(rec.Value)
		if err != nil {
			d.t.Fatal(err)
		}
		d.teller.Heard(&p)
	}
	d.heard += len(log)
}

func (d *pacedDispatcher) tell() {
	if err := d.teller.Tell(context.Background(), 0); err != nil {
		d.t.Fatal(err)
	}
}

func (d *pacedDispatcher) index() int { return slices.Index(d.dispatchers, d) }

// open has a dispatcher read a source from what was committed of it, some records ago.
func (d *pacedDispatcher) open(i int) {
	d.owner[i] = d.index()
	if d.next[i] = max(0, d.read[i]-d.rng.IntN(3)); d.next[i] > 0 {
		d.teller.Read(i, d.logs[i][d.next[i]-1].Time, int64(d.next[i]))
	}
}

// restart forgets all that a dispatcher knows.
func (d *pacedDispatcher) restart() {
	d.begin(len(d.logs))
	if d.heard = 0; d.rng.IntN(2) == 0 {
		d.heard, d.forgets = d.rng.IntN(len(d.out.Log(d.teller.Tail(), 0))+1), true
	}
	for i := range d.logs {
		if d.owner[i] == d.index() {
			d.open(i)
		}
	}
}

func (p *paced) left() (n int) {
	for i := range p.logs {
		n += len(p.logs[i]) - p.next[i]
	}
	return n
}

func (p *paced) run() {
	const maxQuiet = 30
	faults := p.rng.IntN(6)
	for ; p.left() > 0; p.quiet++ {
		if p.quiet == maxQuiet && p.forgets {
			break // it waits for what only those tell who have come to their ends
		}
		if p.quiet == maxQuiet {
			p.t.Fatalf("seed %d: nothing may be read, of %d sources %d records are left", p.seed, len(p.logs), p.left())
		}
		for _, i := range p.rng.Perm(len(p.dispatchers)) {
			p.dispatchers[i].work()
		}
		if faults > 0 && p.rng.IntN(8) == 0 {
			faults--
			p.quiet = 0
			d := p.dispatchers[p.rng.IntN(len(p.dispatchers))]
			if i := p.rng.IntN(len(p.logs)); p.rng.IntN(2) == 0 {
				p.dispatchers[p.owner[i]].teller.Forget(i)
				d.open(i)
			} else {
				d.restart()
			}
		}
	}
	for part := range int32(2) {
		p.check(broker.Partition{Topic: "b.0", Partition: part})
		p.check(broker.Partition{Topic: "b.1", Partition: part})
	}
}

// check is what a shard sees of a partition.
func (p *paced) check(part broker.Partition) {
	come := map[int]bool{} // to the end
	for _, rec := range p.out.Log(part, 0) {
		told, err := wire.ReadProgress(rec.Value)
		if err != nil {
			p.t.Fatal(err)
		}
		last := false
		for _, a := range told.At {
			if a.MS >= paceEnd {
				come[a.Source] = true
			}
			last = last || a.MS > paceEnd
		}
		if last && len(come) < len(p.logs) {
			p.t.Fatalf("seed %d: %v: the last heartbeat is told, and not all of %d sources have come to the end: %v", p.seed, part, len(p.logs), come)
		}
	}
}
