package campaign

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem/core/tenant"
	"tandem/scripts/devstack"
)

// shape is what differs between scenarios.
type shape struct {
	kind     string // of the raw topic; history unless given
	raw      int    // its partitions
	beacons  int    // partitions of the tenant's topic
	metrics  int    // partitions of the metrics topic
	tick     string
	sessions string // session timeout of the groups
	ahead    string // how much further than the slowest a raw partition is read
	fast     bool   // the servers compile all they can: for figures; they take longer to start
	brokers  int    // of Kafka: 1, or 3 with as many replicas of which 2 must be in sync
}

func usual() shape {
	return shape{kind: "history", raw: 4, beacons: 4, metrics: 2, tick: "1m", sessions: "6s", ahead: "5m", brokers: 1}
}

// scenario is a site on servers of its own.
type scenario struct {
	t       testing.TB
	shape   shape
	dir     string // site file, tenant's config, blobs, logs
	site    string
	layer   string
	metrics string // topic
	servers *devstack.Stack
	traffic *traffic
	kafka   *kafka
	db      *database
	procs   []*process
	poller  *poller
}

const (
	keyspace     = "campaign"
	rawTopic     = "beacons.raw"
	metricsTopic = "metrics." + layer
)

func (s *scenario) beaconsTopic() string { return "beacons." + s.traffic.tenant + ".0" }

// newScenario makes the site, its topics and its schema.
func newScenario(t testing.TB, x *traffic, sh shape) *scenario {
	t.Helper()
	options := devstack.Options{Brokers: sh.brokers, Nodes: 1}
	if sh.fast {
		options.Env = []string{"DEVSTACK_JIT="}
	}
	servers := devstack.Start(t, options)
	s := siteOn(t, x, sh, servers, datacentre{"dc1", servers.Kafka, servers.Cassandra[0], "", "{dc1: 1}"})
	run(t, tandem(t), "topics", "apply", "--site", s.site)
	run(t, tandem(t), "schema", "apply", "--site", s.site)
	s.db = newDatabase(t, servers.Cassandra[0], "dc1")
	return s
}

// datacentre is what a site file says of where it is.
type datacentre struct {
	name        string
	brokers     []string
	node        string // of Cassandra
	mirror      string // line of a further raw topic, if any
	replication string // of the keyspace
}

// siteOn makes the folder and the site file of a data centre.
func siteOn(t testing.TB, x *traffic, sh shape, servers *devstack.Stack, dc datacentre) *scenario {
	t.Helper()
	s := &scenario{t: t, shape: sh, dir: t.TempDir(), traffic: x, servers: servers, layer: "stream." + dc.name, metrics: "metrics.stream." + dc.name}
	s.kafka = newKafka(t, dc.brokers)
	t.Cleanup(s.keep) // before the client ends, which it asks
	s.file("tenant.yaml", x.config)
	for _, folder := range []string{"logs", "checkpoints"} {
		if err := os.Mkdir(filepath.Join(s.dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.site = s.file("site.yaml", fmt.Sprintf(`dc: %s
kafka: {brokers: ["%s"], replication: %d}
raw:
  - {topic: %s, kind: %s, partitions: %d}
%stenants:
  - {config: tenant.yaml, partitions: %d, groups: 1}
metrics: {topic: metrics, partitions: %d}
tick: %s
blobs: blobs
checkpoints: checkpoints
store: {cassandra: {hosts: [%q], keyspace: %s, dc: %s, consistency: local_quorum, replication: %s}}
`, dc.name, strings.Join(dc.brokers, `", "`), len(dc.brokers), rawTopic, sh.kind, sh.raw, dc.mirror, sh.beacons, sh.metrics, sh.tick, dc.node, keyspace,
		dc.name, dc.replication))
	return s
}

// must ends the test if something that the campaign itself needs fails.
func (s *scenario) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// keep ends what still runs and, if the test failed, copies logs and site file to where they stay.
func (s *scenario) keep() {
	if s.poller != nil {
		s.poller.stop()
	}
	if s.t.Failed() {
		s.state()
	}
	for _, p := range s.procs {
		p.discard()
		if log, err := os.ReadFile(p.log); err == nil && (strings.Contains(string(log), "panic: ") || strings.Contains(string(log), "fatal error: ")) {
			s.t.Errorf("%s panicked: %s", p.name, p.log)
		}
	}
	if !s.t.Failed() {
		return
	}
	kept, err := os.MkdirTemp("", "tandem-campaign-failed-")
	if err == nil {
		err = copyFiles(filepath.Join(s.dir, "logs"), filepath.Join(kept, "logs"))
	}
	if err == nil {
		err = copyFiles(s.dir, kept)
	}
	s.t.Logf("logs and site file of %s: %s (%v)", s.t.Name(), kept, err)
}

// state tells where everything stands when a test has failed: what is committed and written in Kafka, and of each process its
// metrics and its goroutines, which end it.
func (s *scenario) state() {
	for group, topic := range map[string]string{"tandem.dispatch." + strings.TrimPrefix(s.layer, "stream."): rawTopic, "tandem." + s.layer + ".1": s.beaconsTopic(), "tandem." + s.layer + ".2": s.metrics} {
		s.t.Logf("%s", s.kafka.lag(group, topic))
	}
	for _, p := range s.procs {
		if !p.running() {
			continue
		}
		_, metrics, err := p.get("/metrics")
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, "logs", p.name+".metrics"), []byte(metrics), 0o644)
		}
		if err != nil {
			s.t.Logf("%s: %v", p.name, err)
		}
		p.dump(5 * time.Second)
	}
}

// copyFiles copies the files of a folder, not those of the folders in it.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// service starts a service of the site.
func (s *scenario) service(command, name string, args ...string) *process {
	s.t.Helper()
	p := startProcess(s.t, tandem(s.t), filepath.Join(s.dir, "logs"), name, append([]string{command, "--site", s.site}, args...)...)
	s.procs = append(s.procs, p)
	return p
}

// dispatch and stream start services that take part in their groups.
func (s *scenario) dispatch(name string, args ...string) *process {
	return s.service("dispatch", name, append([]string{"--session-timeout", s.shape.sessions, "--ahead", s.shape.ahead}, args...)...)
}

func (s *scenario) stream(name string, args ...string) *process {
	return s.service("stream", name, append([]string{"--session-timeout", s.shape.sessions}, args...)...)
}

// services starts n dispatchers and m streams, and returns when all are ready.
func (s *scenario) services(dispatchers, streams int) (ds, ss []*process) {
	s.t.Helper()
	for i := range dispatchers {
		ds = append(ds, s.dispatch(fmt.Sprintf("d%d", i)))
	}
	for i := range streams {
		ss = append(ss, s.stream(fmt.Sprintf("s%d", i)))
	}
	return ds, ss
}

// produce appends the traffic's records, with heartbeats, and one at the end that closes everything.
func (s *scenario) produce() {
	s.t.Helper()
	s.producing()()
}

// producing starts to produce; the function that it returns waits for the end.
func (s *scenario) producing(args ...string) (wait func()) {
	s.t.Helper()
	all := append([]string{"produce", "--site", s.site, "--topic", rawTopic, "--heartbeats", "--end-heartbeat"}, args...)
	began := time.Now()
	var failed error
	done := make(chan struct{})
	log := filepath.Join(s.dir, "logs", "produce.log")
	go func() {
		defer close(done)
		out, err := exec.Command(tandem(s.t), append(all, s.traffic.path)...).CombinedOutput()
		failed = errors.Join(err, os.WriteFile(log, out, 0o644))
	}()
	return func() {
		s.t.Helper()
		<-done
		if failed != nil {
			s.t.Fatalf("produce: %v\n%s", failed, tail(log, 2000))
		}
		s.t.Logf("%d records produced in %.1f s", s.traffic.records, time.Since(began).Seconds())
	}
}

// slowly produces the records over a time.
func (s *scenario) slowly(over time.Duration) (wait func()) {
	return s.producing("--rate", strconv.Itoa(int(float64(s.traffic.records)/over.Seconds())+1))
}

// oracle is the embedded replay of the same records: its rows as the store keeps them, empty ones left out.
func (s *scenario) oracle() map[rowKey][]byte {
	s.t.Helper()
	return replay(s.t, s.traffic.path, filepath.Join(s.dir, "tenant.yaml"), s.traffic.tenant, s.shape.tick)
}

// closed waits until progress says that the layer is complete past the last row of want.
func (s *scenario) closed(limit time.Duration, want map[rowKey][]byte) {
	s.t.Helper()
	last := int64(0)
	for k := range want {
		last = max(last, k.minute)
	}
	s.closedPast(last, limit)
}

func (s *scenario) closedPast(last int64, limit time.Duration) {
	s.t.Helper()
	began := time.Now()
	await(s.t, limit, fmt.Sprintf("%s closed past minute %d", s.layer, last), func() (bool, string) {
		at, err := s.complete()
		return err == nil && at > last, fmt.Sprintf("closed before %d; %v", at, err)
	})
	s.t.Logf("closed after another %.1f s", time.Since(began).Seconds())
}

// complete says how far the layer is closed.
func (s *scenario) complete() (int64, error) {
	progress, err := s.db.progress()
	at := map[int32]int64{}
	for _, p := range progress {
		if p.Layer == s.layer && p.Tenant == s.traffic.tenant {
			at[p.Partition] = p.ClosedBefore
		}
	}
	return closedBefore(at, s.shape.metrics), err
}

// settled waits until progress and the ends of all topics have stood still for a while: all that was written is processed.
func (s *scenario) settled() {
	s.t.Helper()
	last, since := "", time.Now()
	await(s.t, 3*time.Minute, "all is processed", func() (bool, string) {
		at, err := s.complete()
		now := fmt.Sprint(at, err, s.kafka.ends(s.beaconsTopic()), s.kafka.ends(s.metrics))
		if now != last {
			last, since = now, time.Now()
		}
		return at > 0 && time.Since(since) > 10*time.Second, now
	})
}

// rows reads every row of the layer.
func (s *scenario) rows() map[rowKey][]byte {
	s.t.Helper()
	got := map[rowKey][]byte{}
	torn, err := s.db.scan(context.Background(), func(k rowKey, _ int64, value []byte) {
		if k.Layer == s.layer {
			got[k] = slices.Clone(value)
		}
	})
	if err != nil || torn > 0 {
		s.t.Fatalf("%d rows are not whole: %v", torn, err)
	}
	return got
}

// equal compares every row of the layer with what it should be, to the byte.
func (s *scenario) equal(want map[rowKey][]byte) {
	s.t.Helper()
	compare(s.t, "Cassandra", s.rows(), want)
}

// counter adds up a counter over all processes that run. None that has it is a fault, once they have had time to be given their
// partitions: what a test waits for may be done before.
func (s *scenario) counter(name, labels string) float64 {
	s.t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		sum, lines := 0.0, 0
		for _, p := range s.procs {
			if !p.running() {
				continue
			}
			v, n, err := p.metric(name, labels)
			if err != nil {
				s.t.Error(err)
			}
			sum, lines = sum+v, lines+n
		}
		if lines > 0 {
			return sum
		}
		if time.Now().After(until) {
			s.t.Errorf("no process has a metric %s{%s}", name, labels)
			return 0
		}
	}
}

// watch starts the poller.
func (s *scenario) watch() *poller {
	s.poller = startPoller(s.t, s.db, s.shape.metrics, "")
	return s.poller
}

// done ends the services one after another, each cleanly, and holds everything against the laws.
func (s *scenario) done() {
	s.t.Helper()
	if s.poller != nil {
		s.poller.stop()
		s.poller.report(s.t)
	}
	for _, p := range s.procs {
		if p.running() {
			p.leave(30 * time.Second)
		}
	}
	if s.poller != nil {
		s.explain()
	}
}

// explain holds every value that the poller saw against the prefix of the metrics topic that its version names.
func (s *scenario) explain() {
	s.t.Helper()
	told := 0
	report := func(format string, args ...any) {
		if told++; told <= maxFaults {
			s.t.Errorf(format, args...)
		}
	}
	var all []*prefixes
	_, partitions := s.kafka.topic(s.metrics)
	for _, n := range partitions {
		p := newPrefixes(s.layer, n, map[string]int{s.traffic.tenant: s.shape.beacons}, s.poller.watch.rows, report)
		s.kafka.each(s.metrics, n, func(offset int64, value []byte) {
			if err := p.take(offset, value); err != nil {
				s.t.Fatal(err)
			}
		})
		all = append(all, p)
	}
	n := unexplained(s.layer, s.poller.watch.rows, all, report)
	s.t.Logf("%d sightings held against the prefixes of the metrics topic, %d of them wrong", n, told)
	if n == 0 {
		s.t.Error("the poller has seen nothing")
	}
}

// chain is the tenant's compiled config.
func (s *scenario) chain() *tenant.Chain {
	s.t.Helper()
	configs, err := tenant.LoadChain([]tenant.File{{Name: "tenant.yaml", Data: []byte(s.traffic.config)}})
	if err != nil {
		s.t.Fatal(err)
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		s.t.Fatal(err)
	}
	return chain
}
