package campaign

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/schemas/records"
	"tandem/scripts/devstack"
	"tandem/stream/dispatch"
	"tandem/stream/failover"
)

// mirrors are two data centres: a Kafka each, mirrored both ways by MirrorMaker 2, one Cassandra with a node in each, and
// in each the stream as a layer of its own, dc2 as a standby.
type mirrors struct {
	t        testing.TB
	servers  *devstack.Stack
	brokers  map[string][]string
	one, two *scenario
	auto     *process
	lag      int64 // minutes, of failover auto
}

// mirrorMaker is the example's properties of MirrorMaker 2, for one direction between the test's brokers.
func mirrorMaker(t testing.TB, from, to string, brokers map[string][]string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository(t), "scripts", "examples", "site", "mirror.properties"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("dc2", from, "dc1", to, "factor = 3", "factor = 1", "interval.seconds = 60", "interval.seconds = 5").Replace(string(data))
	for name, at := range brokers {
		line := regexp.MustCompile("(?m)^" + name + `\.bootstrap\.servers = .*$`)
		if !line.MatchString(text) {
			t.Fatalf("mirror.properties has no brokers of %s", name)
		}
		text = line.ReplaceAllString(text, name+".bootstrap.servers = "+strings.Join(at, ","))
	}
	return text
}

func newMirrors(t testing.TB, x *traffic, sh shape, lag int64) *mirrors {
	t.Helper()
	m := &mirrors{t: t, lag: lag, servers: devstack.Start(t, devstack.Options{Brokers: 1, Others: 1, Nodes: 2, DCs: []string{"dc1", "dc2"},
		Env: []string{"START_TIMEOUT=180"}})} // so much at once is slow on a busy machine
	brokers := map[string][]string{"dc1": m.servers.Kafka, "dc2": m.servers.Other.Kafka}
	m.brokers = brokers
	at := func(i int, name, other string) *scenario {
		line := fmt.Sprintf("  - {topic: %s.%s, kind: mirror, cluster: %s, partitions: %d}\n", other, rawTopic, other, sh.raw)
		s := siteOn(t, x, sh, m.servers, datacentre{name, brokers[name], m.servers.Cassandra[i], line, "{dc1: 1, dc2: 1}"})
		run(t, tandem(t), "topics", "apply", "--site", s.site)
		return s
	}
	m.one, m.two = at(0, "dc1", "dc2"), at(1, "dc2", "dc1")
	// Each beside its target, so that it goes with that data centre.
	for _, d := range [][2]string{{"dc1", "dc2"}, {"dc2", "dc1"}} {
		m.one.must(m.servers.Mirror("to-"+d[1], mirrorMaker(t, d[0], d[1], brokers)))
	}
	run(t, tandem(t), "schema", "apply", "--site", m.one.site)
	m.one.db = newDatabase(t, m.servers.Cassandra[0], "dc1")
	m.two.db = newDatabase(t, m.servers.Cassandra[1], "dc2")
	return m
}

// mirrored waits until each cluster has all of the other's raw records.
func (m *mirrors) mirrored() {
	m.t.Helper()
	began := time.Now()
	await(m.t, 3*time.Minute, "all is mirrored", func() (bool, string) {
		a, b := m.one.kafka.ends(rawTopic), m.two.kafka.ends("dc1."+rawTopic)
		c, d := m.two.kafka.ends(rawTopic), m.one.kafka.ends("dc2."+rawTopic)
		behind := func(source, mirror map[int32]int64) bool {
			for p, end := range source {
				if mirror[p] < end {
					return true
				}
			}
			return false
		}
		return !behind(a, b) && !behind(c, d), fmt.Sprint(a, b, c, d)
	})
	m.t.Logf("mirrored after another %.1f s", time.Since(began).Seconds())
}

// promote makes a layer the active one, by hand in dc2. It is refused as long as Cassandra's nodes have hints for each other.
func (m *mirrors) promote(layer string) {
	m.t.Helper()
	var last string
	await(m.t, 5*time.Minute, "promote "+layer, func() (bool, string) {
		out, err := exec.Command(tandem(m.t), "failover", "promote", layer, "--site", m.two.site).CombinedOutput()
		if last = string(out); err != nil && !strings.Contains(last, "hints") {
			m.t.Fatalf("%v\n%s", err, last)
		}
		return err == nil, last
	})
	m.t.Log(last)
}

// watchOver starts failover auto in dc2.
func (m *mirrors) watchOver() {
	m.t.Helper()
	m.auto = &process{t: m.t, name: "auto", bin: tandem(m.t), log: filepath.Join(m.two.dir, "logs", "auto.log"),
		args: []string{"failover", "auto", "--site", m.two.site, "--lag", fmt.Sprintf("%dm", m.lag), "--for", "3", "--every", "1s"}}
	if err := m.auto.start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(m.auto.discard)
}

// promotions are the lines of auto's log that tell of one.
func (m *mirrors) promotions() (lines []string) {
	m.t.Helper()
	data, err := os.ReadFile(m.auto.log)
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "msg=promoted") {
			lines = append(lines, line)
		}
	}
	return lines
}

// died kills what a data centre consists of, but for its Kafka, all at once.
func (m *mirrors) died(processes []*process) {
	m.t.Helper()
	kills := []func() error{func() error { return m.servers.KillCassandra(1) }, func() error { return m.servers.KillMirror("to-dc1") }}
	for _, p := range processes {
		kills = append(kills, func() error { p.kill(); return nil })
	}
	failed := make(chan error, len(kills))
	for _, kill := range kills {
		go func() { failed <- kill() }()
	}
	for range kills {
		m.one.must(<-failed)
	}
}

// back starts it again, Kafka too.
func (m *mirrors) back(processes []*process) {
	m.t.Helper()
	node := make(chan error, 1)
	go func() { node <- m.servers.RestartCassandra(1) }()
	m.one.must(m.servers.RestartKafka(1))
	m.one.must(m.servers.Mirror("to-dc1", mirrorMaker(m.t, "dc2", "dc1", m.brokers)))
	m.one.must(<-node)
	for _, p := range processes {
		m.one.must(p.start())
	}
}

// union makes a records file of all that both raw topics hold, with the times that the brokers gave.
func (m *mirrors) union() *traffic {
	m.t.Helper()
	x := *m.one.traffic
	x.path = filepath.Join(m.one.dir, "raw.tsv")
	var all []records.Record
	for _, s := range []*scenario{m.one, m.two} {
		for n := range int32(s.shape.raw) {
			s.kafka.read(rawTopic, n, func(r *kgo.Record) {
				for _, h := range r.Headers {
					if h.Key == dispatch.HeaderHeartbeat && len(r.Value) == 0 {
						return
					}
				}
				all = append(all, records.Record{Ingest: r.Timestamp.UnixMilli(), HasIngest: true, Payload: r.Value})
			})
		}
	}
	write(m.t, x.path, all)
	x.records = len(all)
	return &x
}

// behind waits for the moment at which the policy finds dc1 behind.
func (m *mirrors) behind(limit time.Duration) time.Time {
	m.t.Helper()
	await(m.t, limit, "dc1 is behind", func() (bool, string) {
		one, two, err := m.far()
		return err == nil && two.Complete-one.Written >= m.lag, fmt.Sprintf("%+v %+v %v", one, two, err)
	})
	return time.Now()
}

// promoted expects that the reader follows within 10 s once the policy is met, by one promotion of dc2 that is logged.
func (m *mirrors) promoted(r *reader) {
	m.t.Helper()
	met := m.behind(5 * time.Minute).Add(2 * time.Second) // it takes three looks
	took := m.follows(r, m.two.layer, 30*time.Second).Sub(met)
	m.t.Logf("the reader follows %.1f s after dc1 was found to be %d minutes behind for three looks", took.Seconds(), m.lag)
	if took > 10*time.Second {
		m.t.Errorf("the reader followed after %s", took)
	}
	if lines := m.promotions(); len(lines) != 1 || !strings.Contains(lines[0], "from=stream.dc1 to=stream.dc2") {
		m.t.Errorf("the log tells of %q", lines)
	}
	shown := run(m.t, tandem(m.t), "failover", "show", "--site", m.two.site)
	for line := range strings.Lines(shown) {
		if strings.Contains(line, m.two.layer) != strings.Contains(line, "active, sequence") {
			m.t.Errorf("shown:\n%s", shown)
			break
		}
	}
}

// far is how far the layers are as dc2 knows it, by the campaign's own reading.
func (m *mirrors) far() (one, two failover.Layer, err error) {
	progress, err := m.two.db.progress()
	at := map[string]map[int32]int64{}
	for _, p := range progress {
		if at[p.Layer] == nil {
			at[p.Layer] = map[int32]int64{}
		}
		at[p.Layer][p.Partition] = p.ClosedBefore
	}
	of := func(layer string) (l failover.Layer) {
		l.Written = closedBefore(at[layer], m.two.shape.metrics)
		l.Complete = max(l.Written, closedBefore(at[failover.Held(layer)], m.two.shape.metrics))
		return l
	}
	return of(m.one.layer), of(m.two.layer), err
}

// standing expects that dc2 holds everything and writes no row.
func (m *mirrors) standing(standby *process) {
	m.t.Helper()
	if rows := m.two.rows(); len(rows) > 0 {
		m.t.Errorf("the standby has written %d rows", len(rows))
	}
	for _, name := range []string{"tandem_stream_held_minutes", "tandem_stream_held_rows", "tandem_stream_held_bytes"} {
		if v, n, err := standby.metric(name, ""); err != nil || v == 0 || n != m.two.shape.metrics {
			m.t.Errorf("%s is %v in %d partitions, %v", name, v, n, err)
		} else {
			m.t.Logf("%s: %v", name, v)
		}
	}
}

// same expects the rows of both layers, read in both data centres, to be the oracle's.
func (m *mirrors) same(want map[rowKey][]byte) {
	m.t.Helper()
	for _, where := range []*scenario{m.one, m.two} {
		for _, layer := range []string{m.one.layer, m.two.layer} {
			of := map[rowKey][]byte{}
			for k, value := range want {
				k.Layer = layer
				of[k] = value
			}
			at := *where
			at.layer = layer
			// What dc2 wrote while dc1's node was away comes there with the hints.
			await(m.t, 2*time.Minute, fmt.Sprintf("%s has all of %s", where.layer, layer), func() (bool, string) {
				n := 0
				for _, value := range at.rows() {
					if !empty(value) {
						n++
					}
				}
				return n >= len(of), fmt.Sprintf("%d of %d rows", n, len(of))
			})
			compare(m.t, layer+" read beside "+where.layer, at.rows(), of)
		}
	}
}

// finish ends both data centres and holds what the poller saw against the topics.
func (m *mirrors) finish(p *poller) {
	m.t.Helper()
	p.stop()
	p.report(m.t)
	m.auto.leave(30 * time.Second)
	for _, s := range []*scenario{m.one, m.two} {
		s.nothingLost()
		for _, q := range s.procs {
			q.leave(30 * time.Second)
		}
		if p.watch.only == "" || p.watch.only == s.layer {
			s.poller = p
			s.explain()
		}
		s.sameBytes()
	}
}

// readyIn waits until the services of a data centre are ready.
func readyIn(processes []*process) {
	for _, p := range processes {
		p.ready(time.Minute)
	}
}

// TestMirrors: two data centres with a Kafka each, mirrored, and a Cassandra across both. dc1 dies, but for its Kafka;
// failover auto promotes dc2, and a reader there follows. Then dc1's Kafka dies too, all comes back, and dc1 is promoted
// again. The rows of both layers are the oracle's to the byte.
func TestMirrors(t *testing.T) {
	devstack.Need(t) // alone: how soon a reader follows is looked at
	n := 40_000
	if *long {
		n = 400_000
	}
	minute := time.Minute.Milliseconds()
	x := few(bench(t, n, time.Hour))
	sh := usual()
	sh.raw, sh.beacons = 2, 2
	began := time.Now()
	m := newMirrors(t, x, sh, 5)
	one, two := m.one, m.two
	all := x.raws(t, 2*sh.raw) // partitions of dc1, then of dc2
	in := func(from, to int64, s *scenario) {
		var some []raw
		for _, r := range between(all, x.first+from*minute, x.first+to*minute, func(p int32) bool { return (p < int32(sh.raw)) == (s == one) }) {
			r.partition %= int32(sh.raw)
			some = append(some, r)
		}
		s.kafka.produce(rawTopic, some)
	}
	// A minute of records each second, in both, or as long as it takes.
	play := func(from, to int64, dcs ...*scenario) {
		for at := from; at < to; at++ {
			began := time.Now()
			for _, s := range dcs {
				in(at, at+1, s)
			}
			time.Sleep(time.Second - time.Since(began))
		}
	}
	in(-1, 0, one) // the first heartbeats
	in(-1, 0, two)
	in(0, 1, one)
	in(0, 1, two)
	m.mirrored()
	t.Logf("all is up after %.1f s", time.Since(began).Seconds())
	want := one.oracle()
	first := []*process{one.dispatch("d1"), one.stream("s1")}
	await(t, time.Minute, "dc1 is active, in dc2", func() (bool, string) {
		out, err := exec.Command(tandem(t), "failover", "show", "--site", two.site).CombinedOutput()
		return err == nil && strings.Contains(string(out), "active, sequence"), string(out)
	})
	second := []*process{two.dispatch("d2"), two.stream("s2", "--standby")}
	p := startPoller(t, two.db, sh.metrics, "")
	r := m.read(want)
	readyIn(append(slices.Clone(first), second...))
	// Before a layer has told anything it is behind every other, so auto begins when both have.
	both := func(at int64) {
		t.Helper()
		await(t, time.Minute, "both are complete as far", func() (bool, string) {
			a, b, err := m.far()
			least := x.first/minute + at
			return err == nil && a.Written > least && b.Complete > least, fmt.Sprintf("%+v %+v %v", a, b, err)
		})
	}
	play(1, 13, one, two)
	both(0)
	m.watchOver()
	play(13, 19, one, two)
	both(4)
	m.standing(second[1])
	if lines := m.promotions(); len(lines) > 0 {
		t.Errorf("promoted without need: %s", lines)
	}

	// MirrorMaker mirrors again what it has not noted as mirrored when it is killed. Here a second is a minute of record
	// time, so without a pause that would be more than the lateness: repeats that come when their minutes are closed.
	m.mirrored()
	time.Sleep(3 * time.Second)
	played := make(chan struct{})
	go func() { defer close(played); play(19, 33, one, two) }()
	time.Sleep(time.Second)
	t.Log("dc1 dies, but for its Kafka")
	m.died(first)
	m.promoted(r)
	<-played
	await(t, time.Minute, "dc2 goes on without dc1", func() (bool, string) {
		_, b, err := m.far()
		return err == nil && b.Written > x.first/minute+20, fmt.Sprintf("%+v %v", b, err)
	})
	if v, n, err := second[1].metric("tandem_stream_held_rows", ""); err != nil || n > 0 {
		t.Errorf("promoted, it tells of %v rows that it holds: %v", v, err)
	}

	t.Log("dc1's Kafka dies too")
	one.must(m.servers.KillKafka(1))
	play(33, 36, two)
	for _, q := range second {
		if status, body, err := q.get("/readyz"); err != nil || status != http.StatusOK {
			t.Errorf("%s without the other Kafka: %d %s %v", q.name, status, body, err)
		}
	}
	m.back(first)
	t.Log("dc1 is back")
	in(33, 36, one)
	play(36, 38, one, two)
	const rest = 1000 // minutes: all that come late too
	in(38, rest, one)
	in(38, rest, two)
	for _, s := range []*scenario{one, two} {
		s.kafka.produce(rawTopic, end(x, sh.raw))
	}
	m.mirrored()
	one.closed(limit(x), want)
	two.closed(limit(x), want)
	m.promote(one.layer)
	m.follows(r, one.layer, 10*time.Second)
	r.end(t, want)
	if lines := m.promotions(); len(lines) != 1 {
		t.Errorf("auto has changed what was asked for: %s", lines)
	}

	one.traffic = m.union()
	m.same(one.oracle())
	m.finish(p)
}

// TestMirrorsLive is the same with live topics, to which the brokers give the times, and dc1's Kafka away for longer than
// dc2 is patient: dc2 goes on without it, and takes it back.
func TestMirrorsLive(t *testing.T) {
	needLong(t)
	devstack.Need(t)
	const rate = 300
	x := quick(few(bench(t, 100_000, 30*time.Minute)), "30s", "40s")
	sh := usual()
	sh.kind, sh.tick, sh.raw, sh.beacons = "live", "2s", 2, 2
	m := newMirrors(t, x, sh, 1)
	one, two := m.one, m.two
	first := []*process{one.dispatch("d1"), one.stream("s1")}
	second := []*process{two.dispatch("d2", "--patience", "1m", "--ahead", "30s"), two.stream("s2", "--standby")}
	// Rows and progress that dc1 writes reach dc2 in any order, by hints after its store was away: what dc2 sees of minutes of
	// that layer is final only once all has come.
	p := startPoller(t, two.db, sh.metrics, two.layer)
	reader := m.read(one.oracle()) // of its names
	l1, l2 := startLive(t, one.kafka, x, sh.raw, rate), startLive(t, two.kafka, x, sh.raw, rate)
	both := func(at time.Time) {
		t.Helper()
		await(t, 5*time.Minute, "both are complete as far", func() (bool, string) {
			a, b, err := m.far()
			return err == nil && min(a.Written, b.Complete) > at.Unix()/60, fmt.Sprintf("%d %+v %+v %v", at.Unix()/60, a, b, err)
		})
	}
	both(time.Now())
	m.watchOver()
	both(time.Now())
	m.standing(second[1])

	t.Log("dc1 dies, but for its Kafka")
	m.died(first)
	m.promoted(reader)

	t.Log("dc1's Kafka dies too, after all of it is mirrored")
	l1.rate.Store(0)
	time.Sleep(10 * time.Second)
	one.must(m.servers.KillKafka(1))
	dead := time.Now()
	await(t, 10*time.Minute, "dc2 goes on without dc1's Kafka", func() (bool, string) {
		_, b, err := m.far()
		return err == nil && b.Written > dead.Unix()/60+1, fmt.Sprintf("%d %+v %v", dead.Unix()/60, b, err)
	})
	t.Logf("dc2 has closed the minute after after %.0f s", time.Since(dead).Seconds())
	if v, _, err := second[0].metric("tandem_dispatch_source_aside", "dc1."+rawTopic); err != nil || v != float64(sh.raw) {
		t.Errorf("%v sources are set aside, %v", v, err)
	}

	m.back(first)
	t.Log("dc1 is back")
	await(t, 3*time.Minute, "its sources are taken back", func() (bool, string) {
		v, n, err := second[0].metric("tandem_dispatch_source_aside", "dc1."+rawTopic)
		return err == nil && n == sh.raw && v == 0, fmt.Sprint(v, n, err)
	})
	l1.rate.Store(rate)
	both(time.Now())
	l1.stop(t)
	l2.stop(t)
	one.traffic = m.union()
	two.traffic = one.traffic
	want := one.oracle()
	one.closed(5*time.Minute, want)
	two.closed(5*time.Minute, want)
	m.promote(one.layer)
	m.follows(reader, one.layer, 10*time.Second)
	reader.end(t, want)
	m.same(want)
	m.finish(p)
}
