// Package dispatch takes raw records to the tenants' beacons topics (DESIGN 4): it rejects, drops what nobody uses,
// routes the rest by session, and tells every partition how far it has read.
package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// HeaderHeartbeat marks a raw record that only tells the time; it has no value. One with a value is a beacon like any
// other: no header makes a beacon vanish.
const HeaderHeartbeat = "heartbeat"

// Route is where a tenant's beacons go: to the topic of their traffic group, which is a function of the session like the
// partition there.
type Route struct {
	Chain      *tenant.Chain
	Topics     []string // by traffic group
	Partitions int32    // of each
	Counts     RouteCounts
}

// RouteCounts are counters of a tenant's beacons, of all dispatchers that use the route. Safe for concurrent use.
type RouteCounts struct {
	Routed atomic.Int64
	// Unused ones without a point, and with one that the tenant does not measure.
	NoPoint, OtherPoint atomic.Int64
}

// Place is where the beacons of a session go.
func (r *Route) Place(hash uint64) (topic string, partition int32) {
	groups := uint64(len(r.Topics))
	return r.Topics[hash%groups], int32(hash / groups % uint64(r.Partitions))
}

// Decision is what becomes of a raw record.
type Decision struct {
	Reason beacon.Reason // not None: to the dead-letter topic
	Unused bool          // dropped
	Point  bool          // it has a point
	Route  *Route        // not rejected: the tenant's, where it goes if it is used
	Hash   uint64        // of the session id
	Key    []byte        // the session id, valid until the next decision
}

// Decider decides about records. It is scratch memory only; the decision depends on its arguments alone.
type Decider struct {
	parser beacon.Parser
	parsed beacon.Beacon
	reader session.Reader
}

// SessionHash is the hash that routing, archive and batch order sessions by. It never changes.
func SessionHash(id []byte) uint64 { return xxhash.Sum64(id) }

// Decide decides about one record.
func (d *Decider) Decide(routes map[string]*Route, payload []byte, ingest int64) Decision {
	if reason := d.parser.Parse(payload, &d.parsed); reason != beacon.None {
		return Decision{Reason: reason}
	}
	route := routes[string(d.parsed.Tenant)]
	var chain *tenant.Chain
	if route != nil {
		chain = route.Chain
	}
	v := d.reader.Admit(chain, &d.parsed, ingest)
	switch {
	case v.Reason != beacon.None:
		return Decision{Reason: v.Reason}
	case !v.Used:
		return Decision{Unused: true, Point: d.parsed.HasPoint, Route: route}
	}
	return Decision{Point: d.parsed.HasPoint, Route: route, Hash: SessionHash(d.parsed.Session), Key: d.parsed.Session}
}

// Writer is the part of a broker that dispatch writes to. After an error nothing more is written.
type Writer interface {
	Write(ctx context.Context, recs []broker.Record) error
}

// Counts are a dispatcher's counters.
type Counts struct {
	Records, Heartbeats, Unused, Routed int64
	Rejected                            [16]int64 // by beacon.Reason
}

// Add adds o.
func (c *Counts) Add(o *Counts) {
	c.Records += o.Records
	c.Heartbeats += o.Heartbeats
	c.Unused += o.Unused
	c.Routed += o.Routed
	for r, n := range o.Rejected {
		c.Rejected[r] += n
	}
}

// Dispatcher dispatches raw records: all partitions, or one, with a Teller in common. Not safe for concurrent use.
type Dispatcher struct {
	Teller    *Teller
	DeadTopic string
	Out       Writer

	Counts  Counts
	decider Decider
	reads   []read // by partition of the poll at hand
	out     []broker.Record
	bytes   []byte
}

// read is how far a source was read, not all of it acknowledged yet.
type read struct {
	topic     string
	partition int32
	source    int
	ms, next  int64
}

// maxDead is how much of a rejected record is kept: more than any producer may send in one piece, but a small batch can
// inflate to more than the dead-letter topic takes, and such a record must not stop its partition. `source` tells where it is whole.
const maxDead = 2 << 20

// maxOut bounds what is on its way: beyond it the dispatcher waits for acks before it reads on.
const maxOut = 1 << 14

// Handle dispatches records of one poll. On return all that it wrote is acknowledged, so their offsets may be
// committed.
func (d *Dispatcher) Handle(ctx context.Context, recs []broker.Record) error {
	d.reads = d.reads[:0]
	for i := range recs {
		r := &recs[i]
		at, err := d.read(r)
		if err != nil {
			return err
		}
		d.decide(r, at.source)
		at.ms, at.next = max(at.ms, r.Time), r.Offset+1
		if d.Teller.Crosses(r.Time) {
			if err := d.flush(ctx); err != nil {
				return err
			}
			if err := d.Teller.Tell(ctx, 0); err != nil {
				return err
			}
		}
		if len(d.out) >= maxOut {
			if err := d.flush(ctx); err != nil {
				return err
			}
		}
	}
	return d.flush(ctx)
}

// read returns where a record's source is noted.
func (d *Dispatcher) read(r *broker.Record) (*read, error) {
	for i := range d.reads {
		if a := &d.reads[i]; a.partition == r.Partition && a.topic == r.Topic {
			return a, nil
		}
	}
	src := d.Teller.Source(r.Topic, r.Partition)
	if src < 0 {
		return nil, fmt.Errorf("dispatch: %s/%d is not listed as a source", r.Topic, r.Partition)
	}
	d.reads = append(d.reads, read{topic: r.Topic, partition: r.Partition, source: src, ms: r.Time})
	return &d.reads[len(d.reads)-1], nil
}

func (d *Dispatcher) decide(r *broker.Record, src int) {
	d.Counts.Records++
	if _, ok := r.Header(HeaderHeartbeat); ok && len(r.Value) == 0 {
		d.Counts.Heartbeats++
		return
	}
	dec := d.decider.Decide(d.Teller.Routes, r.Value, r.Time)
	switch {
	case dec.Reason != beacon.None:
		d.Counts.Rejected[dec.Reason]++
		d.out = append(d.out, broker.Record{Topic: d.DeadTopic, Time: r.Time, Value: r.Value[:min(len(r.Value), maxDead)], Headers: []broker.Header{
			{Key: wire.HeaderReason, Value: []byte(dec.Reason.String())},
			{Key: wire.HeaderSource, Value: fmt.Appendf(nil, "%s/%d/%d", r.Topic, r.Partition, r.Offset)},
			{Key: wire.HeaderIngest, Value: strconv.AppendInt(nil, r.Time, 10)},
		}})
	case dec.Unused:
		d.Counts.Unused++
		if dec.Point {
			dec.Route.Counts.OtherPoint.Add(1)
		} else {
			dec.Route.Counts.NoPoint.Add(1)
		}
	default:
		d.Counts.Routed++
		dec.Route.Counts.Routed.Add(1)
		n := len(d.bytes)
		d.bytes = wire.AppendOrigin(d.bytes, wire.Origin{Source: src, Offset: r.Offset})
		origin := d.bytes[n:len(d.bytes):len(d.bytes)]
		n = len(d.bytes)
		d.bytes = append(d.bytes, dec.Key...)
		key := d.bytes[n:len(d.bytes):len(d.bytes)]
		topic, partition := dec.Route.Place(dec.Hash)
		d.out = append(d.out, broker.Record{Topic: topic, Partition: partition,
			Time: r.Time, Key: key, Value: r.Value, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: origin}}})
	}
}

// flush waits until all is acknowledged, and tells the teller.
func (d *Dispatcher) flush(ctx context.Context) error {
	err := d.Out.Write(ctx, d.out)
	d.out, d.bytes = d.out[:0], d.bytes[:0]
	if err != nil {
		return err
	}
	for _, a := range d.reads {
		d.Teller.Read(a.source, a.ms, a.next)
	}
	return nil
}

func sortedTenants(routes map[string]*Route) []string {
	names := make([]string, 0, len(routes))
	for name := range routes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
