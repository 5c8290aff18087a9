package broker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// warnings counts what is logged of commits.
type warnings struct {
	slog.Handler
	n atomic.Int64
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "OffsetCommitResponse") {
		w.n.Add(1)
	}
	return nil
}

// A member that has let go of some of its partitions commits those that it keeps, each second, for as long as it lives: nothing is
// wrong, so nothing is to be warned of.
func TestCommitsAfterARebalanceAreNoWarnings(t *testing.T) {
	const topic, group = "raw", "g"
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	warned := &warnings{Handler: slog.DiscardHandler}
	var mu sync.Mutex
	has := map[string]map[Partition]bool{"a": {}, "b": {}}
	join := func(name string) *Group {
		to := To(c.ListenAddrs()...)
		to.Log = slog.New(warned)
		change := func(parts []Partition, to bool) {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range parts {
				has[name][p] = to
			}
		}
		g, err := Join(to, Membership{Group: group, Instance: name, Topics: []string{topic}, SessionTimeout: 6 * time.Second,
			Assigned: func(parts []Partition) { change(parts, true) },
			Released: func(parts []Partition, _ bool) { change(parts, false) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Close)
		return g
	}
	kept := func(name string, n int) (p Partition, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		for q, is := range has[name] {
			if is {
				n, p = n-1, q
			}
		}
		return p, n == 0
	}
	until := func(name string, n int) (p Partition) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if p, ok := kept(name, n); ok {
				return p
			}
			if time.Now().After(end) {
				t.Fatalf("%s never has %d partitions", name, n)
			}
		}
	}
	a := join("a")
	until("a", 2)
	join("b")
	until("b", 1)
	p := until("a", 1)
	for at := range int64(3) {
		if err := a.Commit(t.Context(), map[Partition]Committed{p: {Offset: at + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if to, ok, err := a.Committed(t.Context(), p); err != nil || !ok || to.Offset != 3 {
		t.Errorf("committed is %v, %t, %v", to, ok, err)
	}
	if n := warned.n.Load(); n > 0 {
		t.Errorf("it warns %d times of commits that were taken", n)
	}
}
