package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
	"tandem/stream/sessionize"
)

// load is made-up traffic in which one thing can grow while all else stays.
type load struct {
	sessions    int // open, each with beacons of its own
	experiments int // configured
	assigned    int // of them, by session
	points      int
	tagSets     int
	partitions  int
	disorder    int // seconds that a beacon is delayed by, at most
}

var usual = load{sessions: 50_000, experiments: 40, assigned: 4, points: 8, tagSets: 6, partitions: 4}

// curves are what grows, and to what.
var curves = []struct {
	name   string
	values []int
	of     func(*load) *int
}{
	{"open sessions", []int{10_000, 50_000, 200_000, 1_000_000, 5_000_000}, func(l *load) *int { return &l.sessions }},
	{"configured experiments", []int{10, 40, 150, 500}, func(l *load) *int { return &l.experiments }},
	{"assigned experiments a session", []int{1, 4, 12, 40}, func(l *load) *int { return &l.assigned }},
	{"points", []int{8, 25, 75, 200}, func(l *load) *int { return &l.points }},
	{"tag sets", []int{1, 6, 50, 200}, func(l *load) *int { return &l.tagSets }},
	{"partitions", []int{1, 4, 16, 64, 512}, func(l *load) *int { return &l.partitions }},
	{"disorder, s", []int{0, 10, 60, 590}, func(l *load) *int { return &l.disorder }},
}

// growth prints the CPU time of a beacon through a shard against what grows: one curve, or all.
func growth(ctx context.Context, only string) error {
	fmt.Printf("%-32s %10s %12s %8s %10s %12s %8s\n", "what grows", "to", "ns a beacon", "ratio", "B out", "B a session", "RSS MB")
	for _, c := range curves {
		if only != "" && !strings.HasPrefix(c.name, only) {
			continue
		}
		first := 0.0
		for _, v := range c.values {
			l := usual
			*c.of(&l) = v
			r, err := l.run(ctx)
			if err != nil {
				return fmt.Errorf("%s %d: %w", c.name, v, err)
			}
			if first == 0 {
				first = r.nanos
			}
			fmt.Printf("%-32s %10d %12.0f %8.2f %10.0f %12.0f %8d\n", c.name, v, r.nanos, r.nanos/first, r.out, r.held, r.rss>>20)
		}
	}
	return nil
}

// config is the tenant's: of each eight points one is an order with values, four have statistics, three are pages.
func (l load) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tenant: uswm\ntags:\n  tag: [%s]\npoints:\n", names("v", l.tagSets))
	for i := range l.points {
		how := []string{"{kind: page}", "{kind: page}", "{kind: page, stats: true}", "{stats: true}", "{}",
			"{stats: true, values: {revenue: {decimals: 2, cap: 250, histogram: true}, units: {decimals: 0}}}", "{stats: true}",
			"{values: {load: {decimals: 0, histogram: true}}}"}[i%8]
		fmt.Fprintf(&b, "  p%d: %s\n", i, how)
	}
	b.WriteString("experiments:\n")
	for i := range l.experiments {
		fmt.Fprintf(&b, "  x%d: {variations: [control, treatment], qualify: ['point == \"p2\"']}\n", i)
	}
	return b.String()
}

func names(prefix string, n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return strings.Join(list, ", ")
}

func sessionOf(i int) []byte {
	return fmt.Appendf(nil, "%016x", dispatch.SessionHash(fmt.Appendf(nil, "%d", i)))
}

// beacon appends session i's beacon with number n.
func (l load) beacon(buf []byte, rng *rand.Rand, i, n int, ts int64) []byte {
	p := rng.IntN(l.points)
	buf = fmt.Appendf(buf, `{"id":"%x-%x","tenant":"uswm","session":"%s","visitor":"%x","ts":%d,"point":"p%d","tag":"v%d"`,
		i, n, sessionOf(i), i, ts, p, i%l.tagSets)
	switch p % 8 {
	case 5:
		buf = fmt.Appendf(buf, `,"values":{"revenue":%d.%02d,"units":%d}`, rng.IntN(300), rng.IntN(100), 1+rng.IntN(4))
	case 7:
		buf = fmt.Appendf(buf, `,"values":{"load":%d}`, 200+rng.IntN(4000))
	}
	if n == 0 {
		buf = append(buf, `,"experiments":{`...)
		for x := range l.assigned {
			if x > 0 {
				buf = append(buf, ',')
			}
			buf = fmt.Appendf(buf, `"x%d":"%s"`, (i*7+x)%l.experiments, [2]string{"control", "treatment"}[i>>x&1])
		}
		buf = append(buf, '}')
	}
	return append(buf, '}')
}

// grown is what a run measures.
type grown struct {
	nanos float64 // of CPU, a beacon
	out   float64 // bytes published, a beacon
	held  float64 // bytes, a session
	rss   int64   // bytes, when all are open
}

// measured is the number of beacons in the five minutes that are measured.
const measured = 300_000

// run brings each session its first beacon, and measures what more of them cost then.
func (l load) run(ctx context.Context) (*grown, error) {
	cfg, err := tenant.Load("growth", []byte(l.config()))
	if err != nil {
		return nil, err
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		return nil, err
	}
	var g grown
	shards := make([]*shardLog, l.partitions)
	for i := range shards {
		w, err := sessionize.Open(sessionize.Config{Layer: "stream.bench", Topic: "beacons", TopicID: "beacons", Partition: int32(i),
			MetricsTopic: "metrics", MetricsPartitions: 4, TickMS: 60_000}, chain, blob.NewMem(), &discard{}, noPayload)
		if err != nil {
			return nil, err
		}
		shards[i] = &shardLog{w: w}
	}
	const start = 1767607200000
	rng := rand.New(rand.NewPCG(1, 1))
	add := func(i, n int, ts, ingest int64) {
		shards[i%l.partitions].add(sessionOf(i), l.beacon(nil, rng, i, n, ts), ingest)
	}
	flush := func(ingest int64) error {
		for _, s := range shards {
			s.progress(ingest)
			if err := s.handle(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range l.sessions {
		add(i, 0, start, start)
		if i%100_000 == 99_999 {
			if err := flush(start); err != nil {
				return nil, err
			}
		}
	}
	if err := flush(start + 660_000); err != nil {
		return nil, err
	}
	for _, s := range shards {
		s.w.Ticked = func(t sessionize.TickStats) { g.out += float64(t.Bytes) / measured }
	}
	runtime.GC()
	var cpu time.Duration
	for n := range measured {
		ingest := start + 660_000 + int64(n)*300_000/measured
		late := int64(0)
		if l.disorder > 0 {
			late = rng.Int64N(int64(l.disorder) * 1000)
		}
		add(rng.IntN(l.sessions), 1+n, ingest-late, ingest)
		if n%(measured/30) == measured/30-1 { // 10 s
			begin := cpuTime()
			if err := flush(ingest); err != nil {
				return nil, err
			}
			cpu += cpuTime() - begin
		}
	}
	g.nanos = float64(cpu) / measured
	held := int64(0)
	for _, s := range shards {
		held += s.w.Shard.Stats().Bytes
	}
	g.held = float64(held) / float64(l.sessions)
	g.rss, err = residentBytes()
	runtime.KeepAlive(shards)
	return &g, err
}

// shardLog is a shard, and what it has not been given yet.
type shardLog struct {
	w    *sessionize.Worker
	next int64
	recs []broker.Record
}

func (s *shardLog) add(key, payload []byte, ingest int64) {
	s.recs = append(s.recs, broker.Record{Offset: s.next, Time: ingest, Key: key, Value: payload,
		Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: wire.AppendOrigin(nil, wire.Origin{Offset: s.next})}}})
	s.next++
}

func (s *shardLog) progress(ms int64) {
	r := progressRecord("beacons", ms, s.next)
	r.Offset = s.next
	s.recs = append(s.recs, r)
	s.next++
}

func (s *shardLog) handle(ctx context.Context) error {
	if err := inPolls(ctx, s.recs, s.w.Handle); err != nil {
		return err
	}
	clear(s.recs)
	s.recs = s.recs[:0]
	return nil
}

// residentBytes is the process's resident memory now.
func residentBytes() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}
