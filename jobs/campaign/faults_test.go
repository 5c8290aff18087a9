package campaign

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestFaults: processes are killed, stopped past their session timeout, joined and let go, servers killed and started
// again, the checkpoint folder full and read-only, all while records come in. In the end every row is the oracle's, to the
// byte; every message between the stages is one that an undisturbed shard publishes; and the poller has seen no closed
// value change, no version or progress go back, and no value but those that some prefix of the metrics topic gives.
func TestFaults(t *testing.T) {
	alongside(t)
	n, span, stop, kills := 100_000, 30*time.Minute, 9*time.Second, 6
	if *long {
		n, span, stop, kills = 1_000_000, 2*time.Hour, 36*time.Second, 10
	}
	x := bench(t, n, span)
	if !*long {
		x = few(x)
	}
	s := newScenario(t, x, usual())
	f := &faults{s: s, rng: random(t), stop: stop}
	f.mountCheckpoints()
	want := s.oracle()
	s.watch()
	f.dispatchers, f.streams = s.services(2, 3)

	plan := f.plan(kills)
	// The records take as long as the faults, so that each of them meets work.
	per := 4 * time.Second
	if *long {
		per = 20 * time.Second
	}
	produced := s.slowly(time.Duration(len(plan)) * per)
	began := time.Now()
	for i, step := range plan {
		// Each at a random moment of its share of the time.
		due := time.Duration((float64(i) + f.rng.Float64()) * float64(per))
		time.Sleep(due - time.Since(began))
		f.log("%s", step.name)
		step.do()
	}
	f.log("no more faults")
	produced()
	s.closed(limit(x)+stop, want)
	s.equal(want)
	s.nothingLost()
	s.notes()
	s.done()
	s.sameBytes()
}

// faults does harm, and logs it.
type faults struct {
	s                    *scenario
	rng                  *rand.Rand
	stop                 time.Duration // of a process: longer than its session timeout
	dispatchers, streams []*process
	joined               int
	checkpoints          string // a file system of its own, or empty where none can be mounted
	start                time.Time
}

type step struct {
	name string
	do   func()
}

func (f *faults) log(format string, args ...any) {
	if f.start.IsZero() {
		f.start = time.Now()
	}
	f.s.t.Logf("%6.1f s: %s", time.Since(f.start).Seconds(), fmt.Sprintf(format, args...))
}

// plan shuffles the faults; what belongs together stays in order.
func (f *faults) plan(kills int) []step {
	var plan []step
	add := func(name string, do func()) { plan = append(plan, step{name, do}) }
	for i := range kills {
		if i%3 == 2 {
			add("kill a dispatcher", func() { f.kill(f.dispatchers) })
		} else {
			add("kill a stream", func() { f.kill(f.streams) })
		}
	}
	add("stop a stream past its session timeout", func() { f.freeze(f.streams) })
	add("stop a dispatcher past its session timeout", func() { f.freeze(f.dispatchers) })
	add("a stream joins", f.join)
	add("a stream leaves", f.leave)
	add("kill Kafka", func() { f.s.must(f.s.servers.KillKafka(1)); f.pause(2); f.s.must(f.s.servers.RestartKafka(1)) })
	add("kill Cassandra", func() { f.s.must(f.s.servers.KillCassandra(1)); f.pause(3); f.s.must(f.s.servers.RestartCassandra(1)) })
	if f.checkpoints != "" {
		add("the checkpoint folder is full", f.full)
		add("the checkpoint folder is read-only", f.readOnly)
	}
	f.rng.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan
}

// pause waits up to so many seconds.
func (f *faults) pause(seconds float64) {
	time.Sleep(time.Duration(f.rng.Float64() * seconds * float64(time.Second)))
}

func (f *faults) some(of []*process) *process { return of[f.rng.IntN(len(of))] }

// kill kills a process with -9, and starts it again at once or a little later.
func (f *faults) kill(of []*process) {
	p := f.some(of)
	f.log("%s is killed", p.name)
	p.kill()
	f.pause(2)
	if err := p.start(); err != nil {
		f.s.t.Fatal(err)
	}
}

// freeze stops a process for longer than its session timeout, so that others have its partitions when it goes on.
func (f *faults) freeze(of []*process) {
	p := f.some(of)
	f.log("%s is stopped for %s", p.name, f.stop)
	p.freeze()
	time.Sleep(f.stop)
	p.thaw()
	f.log("%s goes on", p.name)
}

func (f *faults) join() {
	f.joined++
	name := fmt.Sprintf("s%d", 10+f.joined)
	f.log("%s joins", name)
	f.streams = append(f.streams, f.s.stream(name))
}

func (f *faults) leave() {
	p := f.some(f.streams)
	f.log("%s leaves", p.name)
	p.leave(30 * time.Second)
	f.streams = slices.DeleteFunc(f.streams, func(q *process) bool { return q == p })
}

// mountCheckpoints gives the checkpoints a small file system of their own, which can be full or read-only for root too.
func (f *faults) mountCheckpoints() {
	dir := filepath.Join(f.s.dir, "checkpoints")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"); err != nil {
		f.s.t.Logf("LEFT OUT: the checkpoint folder full or read-only: no file system can be mounted on it: %v", err)
		return
	}
	f.checkpoints = dir
	f.s.t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			f.s.t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

func (f *faults) full() {
	filler := filepath.Join(f.checkpoints, "filler")
	out, err := os.Create(filler)
	if err != nil {
		f.s.t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = out.Write(block)
	}
	out.Close()
	time.Sleep(f.stop)
	if err := os.Remove(filler); err != nil {
		f.s.t.Fatal(err)
	}
	f.log("the checkpoint folder has room again")
}

func (f *faults) readOnly() {
	await(f.s.t, 10*time.Second, "remount read-only", func() (bool, string) { // busy while a file is being written
		err := syscall.Mount("", f.checkpoints, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		return err == nil, fmt.Sprint(err)
	})
	time.Sleep(f.stop)
	if err := syscall.Mount("", f.checkpoints, "", syscall.MS_REMOUNT, "size=256m"); err != nil {
		f.s.t.Fatal(err)
	}
	f.log("the checkpoint folder can be written again")
}
