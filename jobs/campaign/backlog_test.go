package campaign

import (
	"testing"
	"time"
)

// parts splits records in order of ingest time into raw records: by turns over partitions, each with a heartbeat in
// every partition every 5 s of record time.
func (x *traffic) raws(t testing.TB, partitions int) []raw {
	t.Helper()
	var all []raw
	next := x.first - x.first%5000
	for i, r := range x.read(t) {
		for ; next <= r.Ingest; next += 5000 {
			for p := range partitions {
				all = append(all, raw{int32(p), next, nil})
			}
		}
		all = append(all, raw{int32(i % partitions), r.Ingest, r.Payload})
	}
	return all
}

// between picks raw records by time and partition.
func between(all []raw, from, to int64, in func(partition int32) bool) []raw {
	var some []raw
	for _, r := range all {
		if r.ms >= from && r.ms < to && in(r.partition) {
			some = append(some, r)
		}
	}
	return some
}

// end is heartbeats in every partition: so late that nothing before them is open, and for a while after, since a tick ends
// with the first progress past it of any partition.
func end(x *traffic, partitions int) []raw {
	var all []raw
	for i := range int64(15) {
		for p := range partitions {
			all = append(all, raw{int32(p), x.last + 3*time.Hour.Milliseconds() + i*time.Minute.Milliseconds(), nil})
		}
	}
	return all
}

// TestBacklog: two minutes without a record, an hour's backlog at once, then one raw partition half an hour behind the
// others, a dispatcher stopped meanwhile. No beacon becomes late by it.
func TestBacklog(t *testing.T) {
	alongside(t)
	n, stop := 60_000, 10*time.Second
	if *long {
		n, stop = 500_000, time.Minute
	}
	minute := time.Minute.Milliseconds()
	x := few(bench(t, n, 2*time.Hour))
	silence := x.first + 20*minute
	x = x.cut(t, "silence", func(ingest int64) bool { return ingest < silence || ingest >= silence+2*minute })
	s := newScenario(t, x, usual())
	want := s.oracle()
	s.watch()
	dispatchers, _ := s.services(2, 2)
	all := x.raws(t, s.shape.raw)
	every := func(int32) bool { return true }
	last := int32(s.shape.raw - 1)

	s.kafka.produce(rawTopic, between(all, 0, silence, every))
	time.Sleep(stop / 2)
	hour := silence + 62*minute
	s.kafka.produce(rawTopic, between(all, silence+2*minute, hour, every))
	dispatchers[0].freeze()
	time.Sleep(stop)
	dispatchers[0].thaw()
	behind := hour + 30*minute
	s.kafka.produce(rawTopic, between(all, hour, behind, func(p int32) bool { return p != last }))
	time.Sleep(stop / 2)
	dispatchers[1].freeze()
	s.kafka.produce(rawTopic, between(all, hour, behind, func(p int32) bool { return p == last }))
	s.kafka.produce(rawTopic, between(all, behind, x.last+1, every))
	time.Sleep(stop)
	dispatchers[1].thaw()
	s.kafka.produce(rawTopic, end(x, s.shape.raw))

	s.closed(limit(x), want)
	s.equal(want)
	s.nothingLost()
	s.done()
	s.sameBytes()
}

// TestLive: a live topic, to which the broker gives the times: traffic, silence, the dispatchers gone for a while and a
// backlog at once when they are back, with the stream killed in between. What comes of it is what the raw topic's records
// give with the times that the broker gave them.
func TestLive(t *testing.T) {
	alongside(t)
	phase, rate := 9*time.Second, int64(500)
	if *long {
		phase, rate = 2*time.Minute, 2000
	}
	x := quick(few(bench(t, 100_000, 30*time.Minute)), "10s", "15s")
	sh := usual()
	sh.kind, sh.tick = "live", "2s"
	s := newScenario(t, x, sh)
	s.watch()
	dispatchers, streams := s.services(2, 2)
	l := startLive(t, s.kafka, x, s.shape.raw, rate)
	time.Sleep(phase)
	l.rate.Store(0)
	time.Sleep(phase) // nothing but heartbeats
	l.rate.Store(rate)
	for _, p := range dispatchers {
		p.leave(30 * time.Second)
	}
	time.Sleep(phase)
	for _, p := range dispatchers {
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	streams[0].kill()
	if err := streams[0].start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(phase)
	l.stop(t)
	s.traffic = s.history()
	want := s.oracle()
	s.closed(3*time.Minute, want)
	s.equal(want)
	s.nothingLost()
	s.done()
	s.sameBytes()
}
