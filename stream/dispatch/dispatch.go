// Package dispatch takes raw records to the tenants' beacons topics (DESIGN 4): it rejects, drops what nobody uses,
// routes the rest by session, and tells every partition how far it has read.
package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strconv"

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

// Route is where a tenant's beacons go.
type Route struct {
	Chain      *tenant.Chain
	Topic      string
	Partitions int32
}

// Decision is what becomes of a raw record.
type Decision struct {
	Reason beacon.Reason // not None: to the dead-letter topic
	Unused bool          // dropped
	Route  *Route        // else: where it goes
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
		return Decision{Unused: true}
	}
	return Decision{Route: route, Hash: SessionHash(d.parsed.Session), Key: d.parsed.Session}
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

// Dispatcher dispatches the raw partitions that it is given. Not safe for concurrent use.
type Dispatcher struct {
	Sources   wire.Sources
	Routes    map[string]*Route
	DeadTopic string
	// EveryMS is the record time between progress records: 10 s, or a tick if that is shorter.
	EveryMS int64
	Out     Writer

	Counts  Counts
	decider Decider
	sent    int64 // interval that the greatest progress told so far lies in
	at      map[int]wire.SourceAt
	out     []broker.Record
	bytes   []byte
}

// maxOut bounds what is on its way: beyond it the dispatcher waits for acks before it reads on.
const maxOut = 1 << 14

// Handle dispatches records of one poll. On return all that it wrote is acknowledged, so their offsets may be
// committed.
func (d *Dispatcher) Handle(ctx context.Context, recs []broker.Record) error {
	if d.at == nil {
		d.at = map[int]wire.SourceAt{}
	}
	for i := range recs {
		r := &recs[i]
		src := d.source(r)
		if src < 0 {
			return fmt.Errorf("dispatch: %s/%d is not listed as a source", r.Topic, r.Partition)
		}
		d.decide(r, src)
		a := d.at[src]
		d.at[src] = wire.SourceAt{Source: src, MS: max(a.MS, r.Time), Offset: r.Offset + 1}
		if n := r.Time / d.EveryMS; n > d.sent {
			d.sent = n
			if err := d.Progress(ctx); err != nil {
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

func (d *Dispatcher) source(r *broker.Record) int {
	for i := range d.Sources.List {
		if s := &d.Sources.List[i]; s.Topic == r.Topic && s.Partition == r.Partition {
			return i
		}
	}
	return -1
}

func (d *Dispatcher) decide(r *broker.Record, src int) {
	d.Counts.Records++
	if _, ok := r.Header(HeaderHeartbeat); ok && len(r.Value) == 0 {
		d.Counts.Heartbeats++
		return
	}
	dec := d.decider.Decide(d.Routes, r.Value, r.Time)
	switch {
	case dec.Reason != beacon.None:
		d.Counts.Rejected[dec.Reason]++
		d.out = append(d.out, broker.Record{Topic: d.DeadTopic, Time: r.Time, Value: r.Value, Headers: []broker.Header{
			{Key: wire.HeaderReason, Value: []byte(dec.Reason.String())},
			{Key: wire.HeaderSource, Value: fmt.Appendf(nil, "%s/%d/%d", r.Topic, r.Partition, r.Offset)},
			{Key: wire.HeaderIngest, Value: strconv.AppendInt(nil, r.Time, 10)},
		}})
	case dec.Unused:
		d.Counts.Unused++
	default:
		d.Counts.Routed++
		n := len(d.bytes)
		d.bytes = wire.AppendOrigin(d.bytes, wire.Origin{Source: src, Offset: r.Offset})
		origin := d.bytes[n:len(d.bytes):len(d.bytes)]
		n = len(d.bytes)
		d.bytes = append(d.bytes, dec.Key...)
		key := d.bytes[n:len(d.bytes):len(d.bytes)]
		d.out = append(d.out, broker.Record{Topic: dec.Route.Topic, Partition: int32(dec.Hash % uint64(dec.Route.Partitions)),
			Time: r.Time, Key: key, Value: r.Value, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: origin}}})
	}
}

func (d *Dispatcher) flush(ctx context.Context) error {
	err := d.Out.Write(ctx, d.out)
	d.out, d.bytes = d.out[:0], d.bytes[:0]
	return err
}

// Progress waits for the acks of everything before and then tells every partition how far each source was read. It
// counts only once Handle has returned or goes on: a progress record is never sent before what it covers.
func (d *Dispatcher) Progress(ctx context.Context) error {
	if err := d.flush(ctx); err != nil {
		return err
	}
	p := wire.Progress{Sources: d.Sources}
	for i := range d.Sources.List {
		if a, ok := d.at[i]; ok {
			p.At = append(p.At, a)
		}
	}
	value := wire.AppendProgress(nil, &p)
	for _, name := range sortedTenants(d.Routes) {
		route := d.Routes[name]
		for part := range route.Partitions {
			d.out = append(d.out, broker.Record{Topic: route.Topic, Partition: part, Value: value, Time: d.greatest(),
				Headers: []broker.Header{{Key: wire.HeaderProgress}}})
		}
	}
	return d.flush(ctx)
}

func (d *Dispatcher) greatest() int64 {
	g := int64(0)
	for _, a := range d.at {
		g = max(g, a.MS)
	}
	return g
}

func sortedTenants(routes map[string]*Route) []string {
	names := make([]string, 0, len(routes))
	for name := range routes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
