package service

import (
	"cmp"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// TestARevokedShardTellsNothing: what it tells in the middle of a tick may be of rows that the rest of the tick takes back. Its
// next owner folds the tick at once and never touches them, so they would stand for ever.
func TestARevokedShardTellsNothing(t *testing.T) {
	const (
		begin, minute = int64(1_767_225_600_000), int64(60_000)
		metricsTopic  = "metrics"
	)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic, metricsTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	to := broker.To(c.ListenAddrs()...)
	chain := chain(t, `
tenant: shop
visit_gap: 30m
session_ttl: 12h
lateness: 10m
tags:
  device: [desktop, mobile]
points:
  home: {kind: page}
experiments:
  color:
    variations: [control, red]
    qualify: [point == "home"]
`)

	out, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	logged := int64(0)
	add := func(at int64, value []byte, h broker.Header) {
		t.Helper()
		if err := out.Write(t.Context(), []broker.Record{{Topic: topic, Time: at, Value: value, Headers: []broker.Header{h}}}); err != nil {
			t.Fatal(err)
		}
		logged++
	}
	beacon := func(at int64, more string) {
		add(at, fmt.Appendf(nil, `{"id":"a","tenant":"shop","session":"s","ts":%d,"point":"home",%s}`, begin, more),
			broker.Header{Key: wire.HeaderOrigin, Value: wire.AppendOrigin(nil, wire.Origin{Offset: logged})})
	}
	sources := wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", Topic: "raw", TopicID: "raw", Kind: wire.KindLive}}}
	tell := func(at int64) {
		add(at, wire.AppendProgress(nil, &wire.Progress{Sources: sources, At: []wire.SourceAt{{MS: at, Offset: logged}}}), broker.Header{Key: wire.HeaderProgress})
	}
	blobs := blob.NewMem()
	// own has an owner read to the log's end, and then lets go of it.
	own := func() {
		t.Helper()
		h := host(to, "a", nil)
		h.Fixed = []broker.Partition{{Topic: topic}}
		s := &Sessionize{Host: h, Topics: []BeaconsTopic{{Name: topic, ID: topic, Partitions: 1, Chain: chain}}, Layer: ownLayer,
			MetricsTopic: metricsTopic, MetricsPartitions: 1, Tick: time.Minute, CheckpointTicks: 10, Checkpoints: blobs}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		await(t, "all is read", func() bool {
			seats := h.Seats()
			return len(seats) == 1 && seats[0].Status().Next == logged
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	tell(begin)
	beacon(begin+1000, `"experiments":{"color":"red"}`)
	own()
	beacon(begin+2000, `"device":"mobile"`) // the same beacon, bytewise smaller: it stands
	tell(begin + minute)
	tell(begin + 60*minute)
	own()

	topics, err := broker.NewTopics(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(topics.Close)
	ends, err := topics.Ends(t.Context(), metricsTopic)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := broker.NewReader(to, map[broker.Partition]int64{{Topic: metricsTopic}: 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	type row struct {
		experiment, metric string
		minute             int64
	}
	stand, versions := map[row]int64{}, map[row]int64{}
	for next := int64(0); next < ends[0]; {
		recs, err := reader.Poll(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range recs {
			next = recs[i].Offset + 1
			m, err := wire.ReadMessage(recs[i].Value)
			if err != nil {
				t.Fatal(err)
			}
			if m.Marker {
				continue
			}
			err = m.Rows(func(r *wire.Row) error {
				k := row{r.Experiment, r.Metric, m.Minute}
				if versions[k] <= m.Offset {
					stand[k], versions[k] = 0, m.Offset
					for _, c := range r.Cells {
						stand[k] += c.Value
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	site := 0
	for k, v := range stand {
		if k.experiment != "" && v != 0 {
			t.Errorf("%s %s stands at %d with version %d, and the beacon that it came of has been replaced", k.experiment, k.metric, v, versions[k])
		}
		if k.experiment == "" {
			site += cmp.Compare(v, 0)
		}
	}
	if site == 0 {
		t.Error("no row of the site: this tests nothing")
	}
}
