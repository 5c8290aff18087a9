package dispatch

import (
	"context"
	"errors"
	"slices"
	"testing"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

const minute = 60 * second

func teller(sources int) (*Teller, *broker.Memory) {
	out := broker.NewMemory()
	t := &Teller{EveryMS: 10 * second, PatienceMS: 60 * minute, BackMS: 5 * minute, Out: out,
		Routes: map[string]*Route{"shop": {Topics: []string{"b.0", "b.1"}, Partitions: 2}}}
	t.SetSources(list(sources))
	return t, out
}

func list(n int) wire.Sources {
	s := wire.Sources{Revision: n}
	for i := range n {
		s.List = append(s.List, wire.Source{Topic: "raw", Partition: int32(i)})
	}
	return s
}

func at(times ...int64) []broker.Record {
	var recs []broker.Record
	for _, ms := range times {
		recs = append(recs, broker.Record{Time: ms})
	}
	return recs
}

func TestNoSourceIsReadFarAheadOfTheSlowest(t *testing.T) {
	x, _ := teller(2)
	ahead := int64(5 * minute)
	recs := at(t0, t0+minute, t0+5*minute, t0+5*minute+1, t0+60*minute)
	allowed := func(src int, want int) {
		t.Helper()
		if got := x.Allowed(src, ahead, recs); got != want {
			t.Errorf("source %d may read %d records, want %d", src, got, want)
		}
	}
	allowed(0, 1) // nothing is known: the first record tells where it begins
	x.Read(0, t0, 1)
	allowed(0, 3) // the other may begin there too
	allowed(1, 3)
	x.Read(0, t0+5*minute, 3)
	allowed(0, 3)
	x.Read(1, t0+minute, 1)
	allowed(0, 4)
	x.Read(1, t0+60*minute, 5)
	allowed(0, 4) // 0 is the slowest now
	if got := x.Allowed(0, ahead, at(t0+600*minute)); got != 1 {
		t.Errorf("the slowest may not go on over a gap: %d", got)
	}
	if got := x.Allowed(1, ahead, at(t0+600*minute)); got != 0 {
		t.Errorf("one that is ahead goes on over a gap: %d", got)
	}
	x.SetSources(list(3)) // a source that nobody has read yet counts as at the slowest of now
	x.Read(0, t0+62*minute, 9)
	if got := x.Allowed(0, ahead, at(t0+64*minute, t0+64*minute+1)); got != 0 {
		t.Errorf("beside a new source %d records are read", got)
	}
	x.Heard(&wire.Progress{Sources: list(3), Aside: []int{2}})
	if got := x.Allowed(0, ahead, at(t0+65*minute, t0+65*minute+1)); got != 1 {
		t.Errorf("beside a source that is set aside %d records are read", got)
	}
}

// A process that has read on, and begins again at its commit before it has told so, reads what it had read again: else its source
// is ahead for itself, and the slowest for all others.
func TestWhatWasReadIsReadAgain(t *testing.T) {
	x, _ := teller(2)
	ahead := int64(5 * minute)
	x.Read(0, t0, 1)
	x.Heard(&wire.Progress{Sources: list(2), At: []wire.SourceAt{{Source: 1, MS: t0 + 2*minute, Offset: 9}}})
	x.Read(0, t0+12*minute, 2) // over a gap, and the write after it fails
	x.Forget(0)
	x.Read(0, t0, 1) // its commit
	if got := x.Allowed(0, ahead, at(t0+12*minute, t0+12*minute+1)); got != 1 {
		t.Errorf("of a record that was read and one after it %d are read, want 1", got)
	}
}

// Whoever begins again does not know the others until it has heard of them. Where it is itself says nothing of where they are: it
// may have come to the end of history, whose last heartbeat nobody reads before all have come there.
func TestWhoBeginsAgainCrossesNoGapBeforeItHasHeardOfAll(t *testing.T) {
	x, _ := teller(3)
	x.Read(0, t0, 9) // its commit
	last := at(t0 + 120*minute)
	for _, c := range []struct {
		what string
		do   func()
		want int
	}{
		{"nothing is heard", func() {}, 0},
		{"some are heard", func() {
			x.Heard(&wire.Progress{Sources: list(3), At: []wire.SourceAt{{Source: 1, MS: t0, Offset: 9}}})
		}, 0},
		{"all are heard, and one is behind", func() {
			x.Heard(&wire.Progress{Sources: list(3), At: []wire.SourceAt{{Source: 2, MS: t0 - minute, Offset: 9}}})
		}, 0},
		{"all have come there", func() {
			x.Heard(&wire.Progress{Sources: list(3), At: []wire.SourceAt{{Source: 2, MS: t0, Offset: 10}}})
		}, 1},
	} {
		c.do()
		if got := x.Allowed(0, 5*minute, last); got != c.want {
			t.Errorf("%s: %d records are read over the gap, want %d", c.what, got, c.want)
		}
	}
	x, _ = teller(2)
	x.Read(0, t0, 9)
	x.Heard(&wire.Progress{Sources: list(2), Aside: []int{1}})
	if got := x.Allowed(0, 5*minute, last); got != 1 {
		t.Errorf("beside a source that is set aside and was never heard of %d records are read, want 1", got)
	}
}

func TestASourceIsSetAsideAndTakenBack(t *testing.T) {
	x, out := teller(2)
	clock := int64(1000)
	told := func(now int64, want ...int) {
		t.Helper()
		if err := x.Tell(context.Background(), now); err != nil {
			t.Fatal(err)
		}
		log := out.Log(broker.Partition{Topic: "b.1", Partition: 1}, 0)
		p, err := wire.ReadProgress(log[len(log)-1].Value)
		if err != nil {
			t.Fatal(err)
		}
		if now == 0 && p.Aside != nil || now > 0 && (p.Aside == nil || !slices.Equal(p.Aside, want)) {
			t.Errorf("told is %v, want %v", p.Aside, want)
		}
	}
	x.Read(0, t0, 1)
	x.Read(1, t0+60*minute, 1)
	told(clock)
	told(clock + 2*lagsFor) // exactly the patience is not too far
	x.Read(1, t0+60*minute+1, 2)
	told(0)
	told(clock)
	told(clock + lagsFor - 1)
	told(clock+lagsFor, 0)
	x.Read(0, t0+50*minute, 2)
	told(clock+lagsFor, 0) // near enough to be waited for, not to be taken back
	x.Read(0, t0+55*minute+1, 3)
	told(clock + lagsFor)
	if x.Due() {
		t.Error("all is told, and due")
	}
	x.Read(0, t0+55*minute+20*second, 4)
	if !x.Due() {
		t.Error("a source behind the furthest is in a new interval, and not due")
	}
	x.Forget(0)
	if x.Due() {
		t.Error("a source that is read no more is due")
	}
}

// lastTold keeps the last progress record.
type lastTold struct{ wire.Progress }

func (l *lastTold) Write(_ context.Context, recs []broker.Record) (err error) {
	l.Progress, err = wire.ReadProgress(recs[0].Value)
	return err
}

// Two sources of a cluster that is gone come to a stop, the other two go on as live ones do, paced. After the patience, by
// the clock, both are set aside at once and the others go on; once they move again and are near, they are taken back. While
// they move, however slowly, they are waited for.
func TestSourcesThatStopAreSetAsideThoughTheOthersArePaced(t *testing.T) {
	x, _ := teller(4)
	told := &lastTold{}
	x.Out, x.PatienceMS, x.BackMS = told, 10*minute, 2*minute
	clock, from := int64(t0), [4]int64{t0, t0 - 3*second, t0, t0}
	run := func(seconds int, reads func(second int) bool) {
		t.Helper()
		for n := range seconds {
			clock += second
			for src := range 4 {
				if src < 2 && !reads(n) {
					continue
				}
				var recs []broker.Record
				for ms := max(from[src], x.view[src].ms()) + second; ms <= clock; ms += second {
					recs = append(recs, broker.Record{Time: ms})
				}
				for _, r := range recs[:x.Allowed(src, x.BackMS, recs)] {
					x.Read(src, r.Time, 0)
				}
			}
			if x.Due() || x.Again() && n%10 == 0 {
				if err := x.Tell(context.Background(), clock); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	state := func(when string, behind int64, aside ...int) {
		t.Helper()
		if is := clock - x.view[3].ms(); !slices.Equal(told.Aside, aside) || is < behind || is > behind+20*second {
			t.Errorf("%s: set aside are %v, want %v; the others are %d s behind, want %d", when, told.Aside, aside, is/second, behind/second)
		}
	}
	always := func(int) bool { return true }
	never := func(int) bool { return false }
	run(100, always)
	state("all live", 0)
	run(600, never)
	state("before the patience is over", 8*minute)
	run(100, never)
	state("set aside", 0, 0, 1)
	run(600, never)
	state("still", 0, 0, 1)
	run(100, always)
	state("back", 0)
	run(1800, func(n int) bool { return n%30 == 0 })
	if len(told.Aside) > 0 {
		t.Errorf("sources that move are set aside: %v", told.Aside)
	}
}

// A topic that is listed and that nobody writes: the others wait for it as for one that has stopped, and then go on; once it is heard of
// it is taken back when it is near them.
func TestASourceThatWasNeverHeardOfIsSetAside(t *testing.T) {
	x, _ := teller(1)
	x.Read(0, t0, 1)
	x.SetSources(list(2))
	began, read := int64(0), int64(0)
	for s := int64(1); s <= 3*3600; s++ {
		now := t0 + s*second
		for read < s && x.Allowed(0, 5*minute, at(t0+(read+1)*second)) > 0 {
			read++
			x.Read(0, t0+read*second, read)
		}
		if aside := x.judge(now); len(aside) > 0 && began == 0 {
			if began = s; !slices.Equal(aside, []int{1}) {
				t.Fatalf("set aside are %v", aside)
			}
		}
	}
	if min := int64(3600); began < min || began > min+70 || read != 3*3600 {
		t.Errorf("set aside after %d s, the other is read up to %d s", began, read)
	}
	if aside := x.Aside(); !slices.Equal(aside, []string{"/raw/1"}) {
		t.Errorf("it is told that %q are set aside", aside)
	}
	if err := x.Tell(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if x.Due() || !x.Again() {
		t.Error("nobody tells again that a source is set aside: who begins in the log behind it would wait for it for good")
	}
	x.Read(1, t0, 1) // it begins with what is old
	if aside := x.judge(t0 + 3*3600*second); !slices.Equal(aside, []int{1}) {
		t.Errorf("far behind, set aside are %v", aside)
	}
	x.Read(1, t0+3*3600*second-minute, 2)
	if aside := x.judge(t0 + 3*3600*second); len(aside) > 0 {
		t.Errorf("near again, set aside are %v", aside)
	}
	if aside := x.Aside(); len(aside) > 0 {
		t.Errorf("near again, it is told that %q are set aside", aside)
	}
}

// A broker whose clock is far ahead holds up its own partition only: the others keep up with the clock.
func TestAClockThatIsAheadSetsNobodyAside(t *testing.T) {
	x, _ := teller(3)
	now := t0
	step := func() []int {
		now += second
		for src := range 2 {
			x.Read(src, now-second, now)
		}
		if fast := now + 61*minute; x.Allowed(2, 5*minute, at(fast)) > 0 {
			x.Read(2, fast, now)
		}
		return x.judge(now)
	}
	for range 2 * 3600 {
		if aside := step(); len(aside) > 0 {
			t.Fatalf("after %d s set aside are %v", (now-t0)/second, aside)
		}
	}
	for range 3600 + 70 { // one of the two stops
		now += second
		x.Read(0, now-second, now)
		if aside := x.judge(now); len(aside) > 0 {
			if !slices.Equal(aside, []int{1}) {
				t.Fatalf("after %d s set aside are %v", (now-t0)/second, aside)
			}
			return
		}
	}
	t.Error("one that has stopped is not set aside")
}

func TestGroupsAndPartitionsAreFunctionsOfTheSession(t *testing.T) {
	one := &Route{Topics: []string{"t"}, Partitions: 5}
	four := &Route{Topics: []string{"a", "b", "c", "d"}, Partitions: 3}
	seen := map[string]map[int32]bool{}
	for i := range uint64(1000) {
		hash := SessionHash([]byte{byte(i), byte(i >> 8)})
		if _, p := one.Place(hash); p != int32(hash%5) {
			t.Fatalf("with one group partition %d", p)
		}
		topic, p := four.Place(hash)
		if seen[topic] == nil {
			seen[topic] = map[int32]bool{}
		}
		seen[topic][p] = true
	}
	for _, topic := range four.Topics {
		if len(seen[topic]) != 3 {
			t.Errorf("topic %s: sessions in %d of 3 partitions", topic, len(seen[topic]))
		}
	}
}

// TestWhatRestsWithinAnIntervalIsToldAgain: it is not due, but somebody may wait for it. And who waits for others is woken by what is heard.
func TestWhatRestsWithinAnIntervalIsToldAgain(t *testing.T) {
	x, _ := teller(1)
	x.Read(0, t0, 1)
	for i, want := range []struct{ due, again bool }{{true, true}, {false, false}, {false, true}, {false, false}} {
		if due, again := x.Due(), x.Again(); due != want.due || again != want.again {
			t.Errorf("step %d: due %t, again %t, want %+v", i, due, again, want)
		}
		if i == 1 {
			x.Read(0, t0+second, 2)
			continue
		}
		if err := x.Tell(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	moved := x.Moved()
	select {
	case <-moved:
		t.Error("something has moved, and nothing was heard")
	default:
	}
	x.Heard(&wire.Progress{Sources: list(1)})
	<-moved
}

type refusing struct{}

func (refusing) Write(context.Context, []broker.Record) error { return errors.New("not written") }

// TestWhatWasNotWrittenIsDueAgain: some partitions may have it and some not, and its source may rest.
func TestWhatWasNotWrittenIsDueAgain(t *testing.T) {
	x, out := teller(1)
	x.Read(0, t0, 1)
	x.Out = refusing{}
	if err := x.Tell(t.Context(), 0); err == nil || !x.Due() {
		t.Errorf("told with the error %v, and due is %t", err, x.Due())
	}
	x.Out = out
	if err := x.Tell(t.Context(), 0); err != nil || x.Due() {
		t.Errorf("told with the error %v, and due is %t", err, x.Due())
	}
}

// stuck is a writer whose Kafka takes nothing.
type stuck struct{ asked chan struct{} }

func (s stuck) Write(ctx context.Context, _ []broker.Record) error {
	s.asked <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// TestWhoHasToLeaveDoesNotWaitForItsTurn: a partition that goes to another process must be let go of though Kafka takes no progress.
func TestWhoHasToLeaveDoesNotWaitForItsTurn(t *testing.T) {
	x, _ := teller(1)
	x.Read(0, t0, 1)
	out := stuck{make(chan struct{})}
	x.Out = out
	first, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- x.Tell(first, 0) }()
	<-out.asked
	leaving, leave := context.WithCancel(t.Context())
	leave()
	if err := x.Tell(leaving, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("told with the error %v, want %v", err, context.Canceled)
	}
	end()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the first ended with the error %v, want %v", err, context.Canceled)
	}
}
