// Package simulate runs the whole pair in one process and in virtual time, under faults that a seed decides. README.md
// beside it says how, and what it found.
package simulate

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/core/oracle/worlds"
)

var (
	seeds = flag.Int("seeds", 12, "number of seeds that are run")
	seed  = flag.Uint64("seed", 1, "the first seed")
	fails = flag.Int("failures", 1, "end after so many seeds that fail")
	tell  = flag.Bool("tell", false, "print the story of each seed")
	small = flag.Bool("shrink", true, "shrink what fails, and tell its story")
)

// TestMain lets garbage grow: a run keeps a few MB, and much of what it makes is gone at its next step.
func TestMain(m *testing.M) {
	debug.SetGCPercent(1000)
	debug.SetMemoryLimit(1 << 30)
	m.Run()
}

// slow is how long a seed may take without being named.
const slow = 3 * time.Second

// TestSimulate runs seeds. One that fails is shrunk, and its story printed.
func TestSimulate(t *testing.T) {
	lanes := runtime.GOMAXPROCS(0)
	began := time.Now()
	var mu sync.Mutex
	done, steps, failed, met := 0, 0, 0, map[string]int64{}
	t.Run("seeds", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				for n := lane; n < *seeds; n += lanes {
					s := *seed + uint64(n)
					w := worldOf(s)
					opt := draw(s, horizon(w))
					from := time.Now()
					x := run(w, opt, *tell)
					if took := time.Since(from); took > slow {
						t.Logf("seed %d took %s, %d side effects: %+v", s, took.Round(time.Millisecond), x.steps, opt)
					}
					mu.Lock()
					done++
					steps += x.steps
					for what, n := range x.met {
						met[what] += n
					}
					if x.bad != nil {
						failed++
					}
					enough := failed >= *fails
					mu.Unlock()
					if *tell {
						fmt.Fprintln(os.Stderr, x.tellStory(1<<30))
					}
					if x.bad != nil {
						story := ""
						if *small {
							story = "\n" + explain(w, opt, x.bad)
						}
						t.Errorf("seed %d, the %dth: %v%s", s, n+1, x.bad, story)
					}
					if enough {
						return
					}
				}
			})
		}
	})
	t.Logf("%d seeds, %.0f a minute, %d side effects a seed; %v", done, float64(done)/time.Since(began).Minutes(), steps/max(done, 1), met)
}

// worldOf draws the world of a seed. Most are of a few hours, since the time that passes costs steps, and none of more than two
// weeks: some have a record in the year 9999.
func worldOf(seed uint64) worlds.World {
	w := worlds.Generate(seed)
	for n := uint64(1); n < 8 && horizon(w) > 6*3600_000 || horizon(w) > 14*24*3600_000; n++ {
		w = worlds.Generate(seed + n<<32)
	}
	w.Seed = seed
	return w
}

// horizon is how long the records of a world take to come, ms.
func horizon(w worlds.World) int64 {
	if len(w.Records) == 0 {
		return 0
	}
	first, last := w.Records[0].Ingest, w.Records[0].Ingest
	for _, r := range w.Records {
		first, last = min(first, r.Ingest), max(last, r.Ingest)
	}
	return last - first + 2*3600_000
}

// law is the part of a finding that names what does not hold.
func law(err error) string {
	if err == nil {
		return ""
	}
	head, _, _ := strings.Cut(err.Error(), ":")
	return head
}

// explain shrinks a failing run and tells its story.
func explain(w worlds.World, opt options, bad error) string {
	fails := func(w worlds.World, o options) bool { return law(run(w, o, false).bad) == law(bad) }
	w, opt = shrink(w, opt, fails)
	x := run(w, opt, true)
	return fmt.Sprintf("shrunk: %v\n%+v\n%s\n%s", x.bad, opt, w, x.tellStory(400))
}

// TestReplay runs seeds twice: all that happened must have happened alike.
func TestReplay(t *testing.T) {
	for s := *seed; s < *seed+uint64(max(4, *seeds/40)); s++ {
		w := worldOf(s)
		opt := draw(s, horizon(w))
		a, b := run(w, opt, false), run(w, opt, false)
		if a.digest.Sum64() != b.digest.Sum64() || a.steps != b.steps {
			t.Errorf("seed %d: two runs differ: %d and %d side effects", s, a.steps, b.steps)
		}
	}
}

// TestPartitionsMove runs seeds in which nothing goes wrong but that partitions move all the time, with and without their
// owner's knowledge: what is published then is rare among all other faults.
func TestPartitionsMove(t *testing.T) {
	for s := *seed; s < *seed+uint64(*seeds)/8; s++ {
		w := worldOf(s)
		opt := draw(s, horizon(w))
		opt.Centres, opt.Rate, opt.Retick, opt.Cold = 1, 20, false, 0
		opt.CheckpointTicks = 1
		opt.Off = map[string]bool{}
		for _, kind := range kinds {
			opt.Off[kind] = kind != "lose" && kind != "revoke"
		}
		if x := run(w, opt, false); x.bad != nil {
			t.Fatalf("seed %d: %v\n%s", s, x.bad, explain(w, opt, x.bad))
		}
	}
}
