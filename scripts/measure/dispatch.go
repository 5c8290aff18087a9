package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// unusedOf are the beacons of a hundred that get a point which nobody measures, as many as Expo's dispatch drops.
const unusedOf = 43

// rawLog is the records as producers send them, to partition 0 of topic, and how many of them nobody uses.
func rawLog(b *bench, topic string) ([]broker.Record, int64, error) {
	unused := int64(0)
	out := make([]broker.Record, len(b.recs))
	key := []byte(`"point":"`)
	for i := range b.recs {
		r := &b.recs[i]
		out[i] = broker.Record{Topic: topic, Offset: int64(i), Time: r.Ingest, Value: r.Payload}
		if unused*100 >= int64(i)*unusedOf || bytes.Contains(r.Payload, []byte(`"experiments"`)) {
			continue // one that assigns is used
		}
		at := bytes.Index(r.Payload, key)
		if at < 0 {
			return nil, 0, fmt.Errorf("record %d has no point", i)
		}
		v := bytes.Clone(r.Payload)
		v[at+len(key)] = 'x' // no point of the config begins with it
		out[i].Value = v
		unused++
	}
	return out, unused, nil
}

func dispatcherOf(b *bench, raw, beacons, dead string, out dispatch.Writer) *dispatch.Dispatcher {
	teller := &dispatch.Teller{EveryMS: 10_000, Out: out,
		Routes: map[string]*dispatch.Route{b.chain.Tenant: {Chain: b.chain, Topics: []string{beacons}, Partitions: 4}}}
	teller.SetSources(wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", Topic: raw, TopicID: raw, Kind: wire.KindHistory}}})
	return &dispatch.Dispatcher{Teller: teller, DeadTopic: dead, Out: out}
}

func checkDispatched(c *dispatch.Counts, records int, unused int64) error {
	if c.Records != int64(records) || c.Unused != unused || c.Routed != c.Records-unused {
		return fmt.Errorf("dispatched %+v of %d records, %d of them unused", *c, records, unused)
	}
	return nil
}

func dispatchMemory(ctx context.Context, b *bench, m *meter) error {
	log, unused, err := rawLog(b, "raw")
	if err != nil {
		return err
	}
	d := dispatcherOf(b, "raw", "beacons", "dead", &discard{})
	err = m.run(func() error { return inPolls(ctx, log, d.Handle) })
	if err != nil {
		return err
	}
	return checkDispatched(&d.Counts, len(b.recs), unused)
}

// dispatchReal consumes from and writes to the Kafka of b.kafka, in topics of this run alone, which it leaves there.
func dispatchReal(ctx context.Context, b *bench, m *meter) error {
	to := broker.To(strings.Split(b.kafka, ",")...)
	run := fmt.Sprintf(".measure-%d", time.Now().UnixNano())
	raw, beacons, dead := "raw"+run, "beacons"+run, "dead"+run
	if err := createTopics(ctx, to, map[string]int32{raw: 1, beacons: 4, dead: 1}); err != nil {
		return err
	}
	out, err := broker.NewWriter(to)
	if err != nil {
		return err
	}
	defer out.Close()
	log, unused, err := rawLog(b, raw)
	if err != nil {
		return err
	}
	if err := inPolls(ctx, log, out.Write); err != nil {
		return err
	}
	end := int64(len(log))
	log = nil
	d := dispatcherOf(b, raw, beacons, dead, out)
	err = m.run(func() error {
		return consume(ctx, to, raw, func() bool { return d.Counts.Records < end }, d.Handle)
	})
	if err != nil {
		return err
	}
	return checkDispatched(&d.Counts, len(b.recs), unused)
}
