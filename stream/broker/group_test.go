package broker

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// syncBuffer is what several goroutines log to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
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
	logged := &syncBuffer{}
	var mu sync.Mutex
	has := map[string]map[Partition]bool{"a": {}, "b": {}}
	join := func(name string) *Group {
		to := To(c.ListenAddrs()...)
		to.Log = slog.New(slog.NewTextHandler(logged, nil))
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
	if text := logged.String(); strings.Contains(text, "OffsetCommitResponse") {
		t.Errorf("it warns of commits that were taken:\n%s", text)
	}
}
