package campaign

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"tandem/scripts/devstack"
)

// TestReplicas: three brokers hold three replicas of everything, of which two must be in sync. Two of them die, and later
// one does while all three are asked for, so that Kafka answers and takes nothing: the services wait, say so, and go on
// when the brokers are back. Nothing is lost.
func TestReplicas(t *testing.T) {
	needLong(t)
	devstack.Need(t)
	x := few(bench(t, 40_000, time.Hour))
	sh := usual()
	sh.brokers = 3
	s := newScenario(t, x, sh)
	want := s.oracle()
	s.watch()
	dispatchers, streams := s.services(1, 2)
	services := slices.Concat(dispatchers, streams)
	readyIn(services)
	all := x.raws(t, sh.raw)
	minutes := func(from, to int64) {
		s.kafka.produce(rawTopic, between(all, x.first+from*60_000, x.first+to*60_000, func(int32) bool { return true }))
	}
	minutes(-1, 15)
	await(t, time.Minute, "minutes are closed", func() (bool, string) {
		at, err := s.complete()
		return err == nil && at > x.first/60_000, fmt.Sprint(at, err)
	})

	t.Log("two brokers die, in the middle of something")
	minutes(15, 25)
	both := func(what func(int) error) {
		done := make(chan error, 2)
		for _, i := range []int{2, 3} {
			go func() { done <- what(i) }()
		}
		s.must(<-done)
		s.must(<-done)
	}
	both(s.servers.KillKafka)
	waiting(services, "Kafka: ")
	time.Sleep(5 * time.Second)
	both(s.servers.RestartKafka)
	readyIn(services)

	t.Log("one dies, and all three replicas are to be in sync")
	s.kafka.needs(3, s.metrics)
	s.must(s.servers.KillKafka(3))
	minutes(25, 35)
	waiting(streams, "Kafka: it has not taken what is written to "+s.metrics, "of 3 replicas in sync and needs 3")
	s.kafka.needs(3, s.beaconsTopic())
	minutes(35, 40)
	waiting(dispatchers, "Kafka: it has not taken what is written to "+s.beaconsTopic(), "of 3 replicas in sync and needs 3")
	dispatchers[0].leave(40 * time.Second) // whoever waits can be stopped
	s.must(dispatchers[0].start())
	s.must(s.servers.RestartKafka(3))
	readyIn(services)
	s.kafka.needs(2, s.beaconsTopic(), s.metrics)

	minutes(40, 1000)
	s.kafka.produce(rawTopic, end(x, sh.raw))
	s.closed(limit(x), want)
	s.equal(want)
	s.nothingLost()
	s.done()
	s.sameBytes()
}

// waiting expects that services soon say that they are not ready, and why, and that they are alive.
func waiting(services []*process, why ...string) {
	for _, p := range services {
		began := time.Now()
		await(p.t, 90*time.Second, p.name+" says that it waits", func() (bool, string) {
			status, body, err := p.get("/readyz")
			for _, text := range why {
				if !strings.Contains(body, text) {
					return false, fmt.Sprintf("%d %s %v", status, body, err)
				}
			}
			return err == nil && status == http.StatusServiceUnavailable, fmt.Sprintf("%d %s %v", status, body, err)
		})
		if status, body, err := p.get("/healthz"); err != nil || status != http.StatusOK {
			p.t.Errorf("%s, which waits for Kafka: /healthz %d %s %v", p.name, status, body, err)
		}
		p.t.Logf("%s says after %.1f s that it waits", p.name, time.Since(began).Seconds())
	}
}

// needs sets how many replicas of topics must be in sync.
func (k *kafka) needs(replicas int, topics ...string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	value := fmt.Sprint(replicas)
	done, err := k.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &value}}, topics...)
	for _, r := range done {
		if err == nil {
			err = r.Err
		}
	}
	if err != nil {
		k.t.Fatal(err)
	}
}
