package pages

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"tandem/core/evidence"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
)

// In brief an evaluation comes to the same.
func TestBriefEvaluationsComeToTheSame(t *testing.T) {
	m := &made{now: madeNow + 3*read.DayMinutes}
	ctx := context.Background()
	rd, err := m.Open(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := rd.Config()
	long := 0
	for i := range c.Experiments {
		x := c.Experiments[i]
		x.Start -= 5 * read.DayMinutes * 60000
		formulas, err := rd.Formulas(ctx, x.Name, "fm")
		if err != nil {
			t.Fatal(err)
		}
		var e [2]*evaluation
		for k, brief := range []bool{false, true} {
			if e[k], err = evaluate(ctx, rd, &x, formulas, "fm", nil, brief); err != nil {
				t.Fatal(err)
			}
		}
		if e[0].step != e[1].step {
			long++
		}
		if e[0].signs != e[1].signs {
			t.Errorf("%s: %+v in full, %+v in brief", x.Name, e[0].signs, e[1].signs)
		}
		for k, full := range e[0].results {
			brief := e[1].results[k]
			if f := e[0].formulas[full.formula]; f.Stat == nil {
				continue
			}
			if brief.state != full.state || brief.failing != full.failing || math.Abs(brief.value-full.value) > 1e-9 || brief.why != full.why {
				t.Errorf("%s: %+v in full, %+v in brief", x.Name, full, brief)
			}
		}
	}
	if long == 0 {
		t.Error("no experiment is long enough to be evaluated by days")
	}
}

// What an experiment's page confirms the list does too: the tests are the same, those of experiments that run and its own.
func TestListAndPageConfirmTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 1))
	confirmed := map[bool]int{} // by whether the experiment has ended
	for range 300 {
		var all, fresh []*evaluation
		for range 1 + rng.IntN(6) {
			e := evaluation{x: &tenant.Experiment{Name: fmt.Sprint(len(all))}, signs: evidence.Signs{Started: true, Ended: rng.IntN(3) == 0}}
			for range rng.IntN(8) {
				r := result{logE: rng.Float64() * 8}
				switch {
				case rng.IntN(4) == 0:
					r = result{state: "waiting", why: "waits"}
				case r.logE >= math.Log(20):
					r.state = "signal"
				}
				e.results = append(e.results, r)
			}
			again := e
			again.results = slices.Clone(e.results)
			all, fresh = append(all, &e), append(fresh, &again)
		}
		confirmAll(all)
		s := &server{src: &made{now: madeNow}, refresh: time.Hour, lists: map[string]*looks{"shop": {busy: make(chan struct{}, 1)}}}
		s.lists["shop"].last.Store(&list{all: all, at: time.Now()})
		for i, e := range fresh {
			if err := s.confirmAmong(t.Context(), "shop", e); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(e.results, all[i].results) {
				t.Fatalf("ended %v: the page says %+v, the list %+v", e.signs.Ended, e.results, all[i].results)
			}
			if slices.ContainsFunc(e.results, func(r result) bool { return r.state == "confirmed" }) {
				confirmed[e.signs.Ended]++
			}
		}
	}
	if confirmed[false] < 20 || confirmed[true] < 20 {
		t.Errorf("confirmed by whether it has ended: %v", confirmed)
	}
}

// slow is a source whose reads wait for each other while it is told to, and count.
type slow struct {
	*made
	waits atomic.Pointer[chan struct{}]
	opens atomic.Int64
	later atomic.Int64 // minutes that have gone by
}

func (s *slow) Open(ctx context.Context, name string) (Reader, error) {
	rd, err := s.made.Open(ctx, name)
	return slowReader{rd, s}, err
}

type slowReader struct {
	Reader
	s *slow
}

func (r slowReader) Now() time.Time {
	return r.Reader.Now().Add(time.Duration(r.s.later.Load()) * time.Minute)
}

func (r slowReader) Read(ctx context.Context, q Query) (*Answer, error) {
	r.s.opens.Add(1)
	if wait := r.s.waits.Load(); wait != nil {
		select {
		case <-*wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return r.Reader.Read(ctx, q)
}

// A look that is due is made behind the back of those who ask, by one of them, and outlives their request; only one that is
// too old is waited for.
func TestLooksAreMadeBehind(t *testing.T) {
	src := &slow{made: &made{now: madeNow}}
	s := &server{src: src, refresh: time.Hour, lists: map[string]*looks{}}
	ctx := context.Background()
	first, err := s.look(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	age := func(d time.Duration) {
		l := *s.lists["shop"].last.Load()
		l.at = time.Now().Add(-d)
		s.lists["shop"].last.Store(&l)
	}
	wait := make(chan struct{})
	src.waits.Store(&wait)
	before := src.opens.Load()
	if again, err := s.look(ctx, "shop"); err != nil || &again.all[0] != &first.all[0] || src.opens.Load() != before {
		t.Fatalf("a young look is made again: %v", err)
	}
	age(keep/2 + time.Second)
	for range 3 { // none of them waits
		asked, cancel := context.WithCancel(ctx)
		again, err := s.look(asked, "shop")
		cancel()
		if err != nil || &again.all[0] != &first.all[0] {
			t.Fatalf("a look that is good enough is not given: %v", err)
		}
	}
	asked, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	age(2 * time.Hour)
	if _, err := s.look(asked, "shop"); err == nil {
		t.Fatal("an old look is given")
	}
	src.later.Add(1)
	close(wait)
	for s.lists["shop"].last.Load().now.Equal(first.now) && !t.Failed() {
		if next, err := s.look(ctx, "shop"); err != nil || time.Since(s.lists["shop"].last.Load().at) > time.Minute {
			t.Errorf("%v: %v", next, err)
		}
	}
}
