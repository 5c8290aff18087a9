package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/tenant"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

const (
	t0     = int64(1_767_225_600_000)
	second = int64(1000)
	hour   = 3600 * second
)

func chain(t testing.TB, name string) *tenant.Chain {
	t.Helper()
	file := "r.yaml"
	cfg, err := tenant.Load(file, []byte("tenant: "+name+"\npoints:\n  home: {}\n  order: {values: {revenue: {}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dispatcher(t testing.TB) (*Dispatcher, *broker.Memory) {
	t.Helper()
	out := broker.NewMemory()
	d := &Dispatcher{DeadTopic: "dead", Out: out, Teller: &Teller{EveryMS: 10 * second, Out: out, Routes: map[string]*Route{}}}
	d.Teller.SetSources(wire.Sources{Revision: 1, List: []wire.Source{{Topic: "raw"}, {Topic: "raw", Partition: 1}}})
	for _, name := range []string{"shop", "news"} {
		d.Teller.Routes[name] = &Route{Chain: chain(t, name), Topics: []string{"beacons." + name}, Partitions: 3}
	}
	return d, out
}

func hit(tenantName, session, id string, ts int64, more string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"tenant":%q,"session":%q,"ts":%d%s}`, id, tenantName, session, ts, more)
}

func TestEachRecordGoesToOnePlace(t *testing.T) {
	d, out := dispatcher(t)
	home := `,"point":"home"`
	records := []struct {
		payload []byte
		dead    string // reason
		topic   string // else
		unused  bool
	}{
		{bytes.Repeat([]byte("x"), beacon.MaxPayload+1), "too_large", "", false},
		{[]byte("{"), "malformed", "", false},
		{nil, "malformed", "", false},
		{hit("shop", "s", "", t0, home), "bad_id", "", false},
		{hit("shop", "", "a", t0, home), "bad_session", "", false},
		{hit("shop", "s", "a", t0, `,"visitor":"`+strings.Repeat("v", 129)+`"`), "bad_visitor", "", false},
		{hit("nobody", "s", "a", t0, home), "unknown_tenant", "", false},
		{hit("shop", "s", "a", t0+300*second+1, home), "bad_ts", "", false},
		{hit("shop", "s", "a", t0-48*hour-1, home), "too_old", "", false},
		{hit("shop", "s", "a", t0, `,"point":"order","values":{"revenue":1e30}`), "bad_value", "", false},
		{hit("shop", "s", "a", t0, `,"point":"other"`), "", "", true},
		{hit("shop", "s", "a", t0, `,"point":"other","experiments":{"later":null}`), "", "", true},
		{hit("shop", "s", "a", t0, `,"experiments":{"not yet":"x"}`), "", "beacons.shop", false},
		{hit("shop", "s", "a", t0-48*hour, home), "", "beacons.shop", false},
		{hit("news", "s2", "a", t0+300*second, home), "", "beacons.news", false},
	}
	var in []broker.Record
	for i, r := range records {
		in = append(in, broker.Record{Topic: "raw", Partition: 1, Offset: int64(100 + i), Time: t0, Value: r.payload})
	}
	if err := d.Handle(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	dead := out.Log(broker.Partition{Topic: "dead"}, 0)
	routed := map[string]int{}
	for i, r := range records {
		switch {
		case r.dead != "":
			if len(dead) == 0 {
				t.Fatalf("record %d: no dead letter", i)
			}
			want := []broker.Header{{Key: "reason", Value: []byte(r.dead)}, {Key: "source", Value: fmt.Appendf(nil, "raw/1/%d", 100+i)}, {Key: "ingest", Value: fmt.Append(nil, t0)}}
			if !bytes.Equal(dead[0].Value, r.payload) || fmt.Sprint(dead[0].Headers) != fmt.Sprint(want) || dead[0].Time != t0 {
				t.Errorf("record %d: dead letter of %d bytes, headers %s", i, len(dead[0].Value), dead[0].Headers)
			}
			dead = dead[1:]
		case !r.unused:
			session := "s"
			if r.topic == "beacons.news" {
				session = "s2"
			}
			p := broker.Partition{Topic: r.topic, Partition: int32(xxhash.Sum64String(session) % 3)}
			found := false
			for _, got := range out.Log(p, 0) {
				o, ok := got.Header(wire.HeaderOrigin)
				origin, err := wire.ReadOrigin(o)
				if ok && err == nil && origin == (wire.Origin{Source: 1, Offset: int64(100 + i)}) {
					found = bytes.Equal(got.Value, r.payload) && string(got.Key) == session && got.Time == t0
				}
			}
			if !found {
				t.Errorf("record %d is not in %v", i, p)
			}
			routed[r.topic]++
		}
	}
	if len(dead) != 0 {
		t.Errorf("%d dead letters too many", len(dead))
	}
	if c := d.Counts; c.Unused != 2 || c.Routed != 3 || c.Records != int64(len(records)) || c.Heartbeats != 0 {
		t.Errorf("%+v", c)
	}
}

func TestAHeartbeatHasNoValue(t *testing.T) {
	d, out := dispatcher(t)
	header := []broker.Header{{Key: HeaderHeartbeat}}
	err := d.Handle(context.Background(), []broker.Record{
		{Topic: "raw", Offset: 0, Time: t0, Headers: header},
		{Topic: "raw", Offset: 1, Time: t0, Headers: header, Value: []byte("no heartbeat, no beacon")},
		{Topic: "raw", Offset: 2, Time: t0, Headers: header, Value: hit("shop", "s", "a", t0, `,"point":"home"`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.Counts.Heartbeats != 1 || d.Counts.Routed != 1 || d.Counts.Rejected[beacon.Malformed] != 1 || len(out.Log(broker.Partition{Topic: "dead"}, 0)) != 1 {
		t.Errorf("%+v", d.Counts)
	}
}

// A progress record stands behind all that it covers, in every partition of every tenant, and never says more.
func TestProgressCoversWhatIsBeforeIt(t *testing.T) {
	d, out := dispatcher(t)
	var in []broker.Record
	for i := range int64(500) {
		tenantName := []string{"shop", "news"}[i%2]
		in = append(in, broker.Record{Topic: "raw", Partition: int32(i % 2), Offset: i / 2, Time: t0 + i*second,
			Value: hit(tenantName, fmt.Sprint("s", i%17), fmt.Sprint(i), t0+i*second, `,"point":"home"`)})
	}
	for len(in) > 0 {
		n := min(len(in), 7)
		if err := d.Handle(context.Background(), in[:n]); err != nil {
			t.Fatal(err)
		}
		in = in[n:]
	}
	for _, topic := range []string{"beacons.shop", "beacons.news"} {
		for p := range int32(3) {
			told, last := map[int]wire.SourceAt{}, 0
			for i, r := range out.Log(broker.Partition{Topic: topic, Partition: p}, 0) {
				if _, ok := r.Header(wire.HeaderProgress); !ok {
					o, _ := r.Header(wire.HeaderOrigin)
					origin, err := wire.ReadOrigin(o)
					if err != nil {
						t.Fatal(err)
					}
					if at := told[origin.Source]; origin.Offset < at.Offset || r.Time < at.MS {
						t.Errorf("%s/%d: record %d of source %d comes after progress %+v", topic, p, origin.Offset, origin.Source, at)
					}
					continue
				}
				progress, err := wire.ReadProgress(r.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, at := range progress.At {
					if at.MS < told[at.Source].MS || at.Offset < told[at.Source].Offset {
						t.Errorf("progress goes back: %+v", at)
					}
					told[at.Source] = at
				}
				last = i
			}
			if last == 0 || told[0].Offset < 240 || told[1].Offset < 240 {
				t.Errorf("%s/%d: progress ends at %+v", topic, p, told)
			}
		}
	}
}

func TestARawPartitionThatIsNotListed(t *testing.T) {
	d, _ := dispatcher(t)
	err := d.Handle(context.Background(), []broker.Record{{Topic: "raw", Partition: 9, Time: t0}})
	if err == nil || !strings.Contains(err.Error(), "raw/9") {
		t.Errorf("%v", err)
	}
}

type failing struct{ after int }

var errWrite = errors.New("not acknowledged")

func (f *failing) Write(context.Context, []broker.Record) error {
	if f.after--; f.after < 0 {
		return errWrite
	}
	return nil
}

// After a failed write nothing more is sent by that Handle.
func TestAFailedWriteStops(t *testing.T) {
	var in []broker.Record
	for i := range int64(100) {
		in = append(in, broker.Record{Topic: "raw", Offset: i, Time: t0 + i*second, Value: hit("shop", "s", fmt.Sprint(i), t0+i*second, `,"point":"home"`)})
	}
	for after := range 5 {
		d, _ := dispatcher(t)
		out := &failing{after}
		d.Out = out
		if err := d.Handle(context.Background(), in); !errors.Is(err, errWrite) || out.after != -1 {
			t.Errorf("%d writes succeed: %v, and %d more were tried", after, err, -1-out.after)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(hit("shop", "s", "a", t0, `,"point":"home"`), t0)
	f.Add([]byte(`{"ts":"2026-01-01T00:00:00Z"}`), int64(-1))
	routes := map[string]*Route{"shop": {Chain: chain(f, "shop"), Topics: []string{"b"}, Partitions: 3}}
	var d Decider
	f.Fuzz(func(t *testing.T, payload []byte, ingest int64) {
		dec := d.Decide(routes, payload, ingest)
		routed := dec.Route != nil && !dec.Unused
		if n := map[bool]int{true: 1}; n[dec.Reason != beacon.None]+n[dec.Unused]+n[routed] != 1 {
			t.Fatalf("%q: %+v", payload, dec)
		}
	})
}
