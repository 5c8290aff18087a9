package simulate

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Errors that the fakes give to the code under test. Any other error that ends a thread is a finding.
var (
	errInjected = errors.New("simulated fault")
	errKilled   = errors.New("the process was killed")
	errLeft     = errors.New("the partition was taken away")
)

// thread is code under test on a goroutine of its own, which runs only while the scheduler lets it: from one side effect to
// the next. So whatever the code does side by side happens in an order that the seed decides, and a thread that is not
// resumed any more was killed between two side effects.
type thread struct {
	name   string
	proc   *proc
	resume chan struct{}
	done   bool
	err    error
	killed bool // nothing that it does takes effect any more
	left   bool // its partition is another's: calls end with errLeft
	ready  func() bool
	until  int64 // ms: waits for ready, or for this time
	paused int64 // ms: stopped until then, whatever it waits for
	// background: it looks at something for ever, and is not waited for in the end.
	background bool
}

// proc is a process: its threads are killed together.
type proc struct {
	name    string
	dead    bool
	threads []*thread
}

type event struct {
	at  int64
	seq int
	fn  func()
}

// sim is one run of one seed.
type sim struct {
	opt     options
	r       *rand.Rand // who goes on, and by how much
	now     int64      // ms, the true time
	threads []*thread
	can     []*thread // scratch
	current *thread
	parked  chan struct{}
	events  []event // by (at, seq)
	seq     int
	quiet   bool // no faults any more
	faultN  map[string]int
	faults  int // faults so far
	steps   int
	digest  *xxhash.Digest
	plant   *plant
	bad     error            // the first finding
	met     map[string]int64 // how often happened what a seed does not always bring
	telling bool
	story   []string
}

func newSim(opt options) *sim {
	return &sim{opt: opt, r: rand.New(rand.NewPCG(opt.Seed, 0x73696d)), parked: make(chan struct{}), faultN: map[string]int{}, met: map[string]int64{}, digest: xxhash.New()}
}

// found notes a finding; the first one stands.
func (s *sim) found(format string, args ...any) {
	if s.bad == nil {
		s.bad = fmt.Errorf(format, args...)
		s.tell("FOUND %v", s.bad)
	}
}

// tell adds a line to the story.
func (s *sim) tell(format string, args ...any) {
	if !s.telling {
		return
	}
	who := "-"
	if s.current != nil {
		who = s.current.name
	}
	s.story = append(s.story, fmt.Sprintf("%s  %-22s %s", clock(s.now), who, fmt.Sprintf(format, args...)))
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("02T15:04:05.000") }

func minuteText(m int64) string { return time.Unix(m*60, 0).UTC().Format("02T15:04") }

// fault says whether a fault of a kind happens here. It depends on the seed, the kind, and how many times the kind was asked
// for, so that leaving out another kind of fault changes little.
func (s *sim) fault(kind string, p float64) bool {
	n := s.faultN[kind] + 1
	s.faultN[kind] = n
	if s.quiet || s.opt.Off[kind] || s.faults >= s.opt.Most {
		return false
	}
	if float64(mix(s.opt.Seed^xxhash.Sum64String(kind)+uint64(n)*0x9e3779b97f4a7c15)>>11)/(1<<53) >= p*s.opt.Rate {
		return false
	}
	s.faults++
	return true
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// note puts what happens into the digest, which tells whether two runs were the same.
func (s *sim) note(parts ...string) {
	for _, p := range parts {
		s.digest.WriteString(p)
		s.digest.Write([]byte{0})
	}
}

// at has something happen at a time.
func (s *sim) at(ms int64, fn func()) {
	s.seq++
	e := event{ms, s.seq, fn}
	i, _ := slices.BinarySearchFunc(s.events, e, func(a, b event) int {
		if a.at != b.at {
			return int(min(max(a.at-b.at, -1), 1))
		}
		return a.seq - b.seq
	})
	s.events = slices.Insert(s.events, i, e)
}

// spawn starts a thread. ended, if set, is called by the scheduler when it has ended by itself.
func (s *sim) spawn(p *proc, name string, body func(th *thread) error, ended func(err error)) *thread {
	th := &thread{name: name, proc: p, resume: make(chan struct{})}
	p.threads = append(p.threads, th)
	s.threads = append(s.threads, th)
	go func() {
		<-th.resume
		defer func() {
			if x := recover(); x != nil {
				th.err = fmt.Errorf("panic: %v\n%s", x, debug.Stack())
				s.found("%s: %v", th.name, th.err)
			}
			th.done = true
			if ended != nil && !th.killed {
				ended(th.err)
			}
			s.parked <- struct{}{}
		}()
		th.err = body(th)
	}()
	return th
}

// park gives the turn back until the scheduler resumes the thread.
func (s *sim) park(th *thread) error {
	s.parked <- struct{}{}
	<-th.resume
	th.ready, th.until = nil, 0
	return th.gone()
}

func (th *thread) gone() error {
	switch {
	case th.killed:
		return errKilled
	case th.left:
		return errLeft
	}
	return nil
}

// step stands before a side effect: others may go on here, the thread may be stopped, and never be resumed.
func (s *sim) step(what string) error {
	th := s.current
	if th == nil {
		return nil // the checkers and the environment
	}
	if err := th.gone(); err != nil {
		return err
	}
	s.note(th.name, what)
	return s.park(th)
}

// wait waits until something is so, at most until a time.
func (s *sim) wait(ready func() bool, until int64) error {
	th := s.current
	if err := th.gone(); err != nil {
		return err
	}
	th.ready, th.until = ready, until
	return s.park(th)
}

func (s *sim) sleep(ms int64) error { return s.wait(nil, s.now+max(ms, 1)) }

func (th *thread) runnable(now int64) bool {
	if th.done || th.paused > now {
		return false
	}
	return th.killed || th.left || th.until <= now || th.ready != nil && th.ready()
}

// turn lets one thread go on to its next side effect, or time pass to the next thing that happens. It says whether there was
// anything.
func (s *sim) turn() bool {
	can := s.can[:0]
	for _, th := range s.threads {
		if th.runnable(s.now) {
			can = append(can, th)
		}
	}
	s.can = can
	if len(can) == 0 {
		next := int64(math.MaxInt64)
		if len(s.events) > 0 {
			next = s.events[0].at
		}
		for _, th := range s.threads {
			if th.paused > s.now {
				next = min(next, th.paused)
			} else if th.until > s.now {
				next = min(next, th.until)
			}
		}
		if next == math.MaxInt64 {
			return false
		}
		s.advance(max(next, s.now))
		return true
	}
	s.advance(s.now + s.r.Int64N(s.opt.StepMS+1))
	th := can[s.r.IntN(len(can))]
	if th.done || th.paused > s.now { // an event has ended or stopped it
		return true
	}
	s.steps++
	s.run(th)
	return true
}

func (s *sim) run(th *thread) {
	s.current = th
	th.resume <- struct{}{}
	<-s.parked
	s.current = nil
	if th.done {
		s.threads = slices.DeleteFunc(s.threads, func(x *thread) bool { return x == th })
		th.proc.threads = slices.DeleteFunc(th.proc.threads, func(x *thread) bool { return x == th })
	}
}

// advance moves the time on, and has happen what falls due.
func (s *sim) advance(to int64) {
	for len(s.events) > 0 && s.events[0].at <= to {
		e := s.events[0]
		s.events = s.events[1:]
		s.now = max(s.now, e.at)
		e.fn()
	}
	s.now = max(s.now, to)
}

// kill ends a process: what its threads were about to do is not done.
func (s *sim) kill(p *proc) {
	p.dead = true
	for len(p.threads) > 0 {
		th := p.threads[0]
		th.killed = true
		for !th.done {
			s.run(th)
		}
	}
}

// end releases all goroutines.
func (s *sim) end() {
	for len(s.threads) > 0 {
		s.kill(s.threads[0].proc)
	}
}

// expected says whether an error is one that the fakes gave.
func expected(err error) bool {
	return err == nil || errors.Is(err, errInjected) || errors.Is(err, errKilled) || errors.Is(err, errLeft)
}

// tellStory gives the last lines of the story.
func (s *sim) tellStory(most int) string {
	lines := s.story
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return strings.Join(lines, "\n")
}
