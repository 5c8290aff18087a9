package service

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"

	"tandem/scripts/devstack"
)

// TestSparseHistoryIsReadFast: two dispatchers through a day of which little happened. They wait for each other at each step of --ahead, and
// for Kafka's acknowledgement of what they tell: once for each tick and step, not for each ten seconds of record time.
func TestSparseHistoryIsReadFast(t *testing.T) {
	devstack.AtLength(t)
	const (
		begin, minute = int64(1_767_225_600_000), int64(60_000)
		hours         = 24
		routed        = "beacons.shop.0"
		partitions    = 4
	)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic, routed))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := broker.To(c.ListenAddrs()...)
	out, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var recs []broker.Record
	var sources wire.Sources
	for p := range int32(partitions) {
		sources.List = append(sources.List, wire.Source{Cluster: "c", Topic: topic, TopicID: topic, Partition: p, Kind: wire.KindHistory})
		for at := int64(0); at < hours*60*minute; at += minute / 6 {
			recs = append(recs, broker.Record{Topic: topic, Partition: p, Time: begin + at, Headers: []broker.Header{{Key: dispatch.HeaderHeartbeat}}})
		}
	}
	sources.Revision = 1
	if err := out.Write(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	var all []*Dispatch
	for i := range 2 {
		d := &Dispatch{Host: host(to, fmt.Sprint(i), nil), Tick: time.Minute, Patience: time.Hour, Ahead: 5 * time.Minute,
			Routes:  map[string]*dispatch.Route{"shop": {Chain: chain(t, "tenant: shop\npoints:\n  home: {kind: page}\n"), Topics: []string{routed}, Partitions: partitions}},
			Sources: func() (wire.Sources, error) { return sources, nil }}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		all = append(all, d)
	}
	read := func() (n int64) {
		for _, d := range all {
			n += d.Status().Counts.Records
		}
		return n
	}
	await(t, "it is begun", func() bool { return read() > 0 })
	began := time.Now()
	await(t, "all is read", func() bool { return read() == int64(len(recs)) })
	took, told := time.Since(began), all[0].Told.Load()+all[1].Told.Load()
	t.Logf("%d hours in %s, %d progress records", hours, took.Round(time.Millisecond), told)
	if most := int64(hours * 60 * partitions * 3); told > most {
		t.Errorf("%d progress records, more than %d", told, most)
	}
}
