package campaign

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/schemas/sealed"
)

// partitionsOf lists all partitions of topics as --partitions takes them.
func (s *scenario) partitionsOf(topics map[string]int) string {
	var list []string
	for topic, n := range topics {
		for i := range n {
			list = append(list, fmt.Sprintf("%s/%d", topic, i))
		}
	}
	return strings.Join(list, ",")
}

// doubled is all that the stream works on, for a second owner.
func (s *scenario) doubled() string {
	return s.partitionsOf(map[string]int{s.beaconsTopic(): s.shape.beacons, metricsTopic: s.shape.metrics})
}

// TestTwoOwners: every shard and every aggregate has two owners from beginning to end, of which one is killed now and
// then and one is stopped for a while, so that it goes on with what is old.
func TestTwoOwners(t *testing.T) {
	needLong(t)
	x := few(bench(t, 200_000, 30*time.Minute))
	s := newScenario(t, x, usual())
	rng := random(t)
	want := s.oracle()
	s.watch()
	s.services(1, 2)
	second := s.stream("second", "--partitions", s.doubled())
	produced := s.slowly(2 * time.Minute)
	for range 4 {
		time.Sleep(time.Duration(5+rng.IntN(10)) * time.Second)
		second.kill()
		if err := second.start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+rng.IntN(5)) * time.Second)
		second.freeze()
		time.Sleep(time.Duration(5+rng.IntN(5)) * time.Second)
		second.thaw()
	}
	produced()
	s.closed(limit(x), want)
	s.equal(want)
	s.nothingLost()
	s.done()
	s.sameBytes()
}

// shardFolders are the folders of the shards' claims and checkpoints, in the checkpoint folder.
func (s *scenario) shardFolders() []string {
	s.t.Helper()
	folders, err := filepath.Glob(filepath.Join(s.dir, "checkpoints", "checkpoints", layer, "*", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return folders
}

// checkpointsOf are the checkpoints of a shard, the oldest first.
func checkpointsOf(t testing.TB, folder string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*", "*.checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// claims are the claims of a shard by generation.
func claims(t testing.TB, folder string) []claimed {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*", "claim.json"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var all []claimed
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var c claimed
		if _, err := sealed.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, c)
	}
	return all
}

// claimed is what a claim says, as far as the campaign reads it.
type claimed struct {
	Start       int64
	From        string
	FirstMinute int64
	TickMS      int64
	Core        int
	Metrics     int
}

// TestOlderCheckpoints: again and again the streams are stopped and their newest checkpoints are deleted, so that they go
// on from older ones. What they publish again has the same versions, and nobody sees a smaller one.
func TestOlderCheckpoints(t *testing.T) {
	needLong(t)
	x := few(bench(t, 200_000, time.Hour))
	s := newScenario(t, x, usual())
	want := s.oracle()
	s.watch()
	_, streams := s.services(1, 2)
	produced := s.slowly(100 * time.Second)
	restored := 0
	for range 5 {
		time.Sleep(15 * time.Second)
		for _, p := range streams {
			p.leave(30 * time.Second)
		}
		for _, folder := range s.shardFolders() {
			all := checkpointsOf(t, folder)
			for len(all) > 1 {
				restored++
				if err := os.Remove(all[len(all)-1]); err != nil {
					t.Fatal(err)
				}
				all = all[:len(all)-1]
			}
		}
		for _, p := range streams {
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produced()
	if restored < s.shape.beacons {
		t.Errorf("only %d checkpoints were there to be deleted", restored)
	}
	s.closed(limit(x), want)
	s.equal(want)
	s.nothingLost()
	s.done()
	s.sameBytes()
}

// TestAGenerationClaimedTwice: the tick changes, and two processes that own all the same shards start at once. Each shard
// has one new generation, and all is as it would have been.
func TestAGenerationClaimedTwice(t *testing.T) {
	needLong(t)
	x := few(bench(t, 100_000, 30*time.Minute))
	s := newScenario(t, x, usual())
	want := s.oracle()
	s.watch()
	_, streams := s.services(1, 1)
	produced := s.slowly(90 * time.Second)
	generations := 1
	for _, tick := range []string{"30s", "2m", "1m"} {
		time.Sleep(20 * time.Second)
		for _, p := range streams {
			p.leave(30 * time.Second)
		}
		text, err := os.ReadFile(s.site)
		if err != nil {
			t.Fatal(err)
		}
		s.file("site.yaml", strings.Replace(string(text), "\ntick: "+s.shape.tick+"\n", "\ntick: "+tick+"\n", 1))
		s.shape.tick = tick
		generations++
		streams = nil
		for i := range 2 {
			streams = append(streams, s.stream(fmt.Sprintf("twin%d-%d", generations, i), "--partitions", s.doubled()))
		}
	}
	produced()
	s.closed(limit(x), want)
	s.equal(want)
	folders := s.shardFolders()
	if len(folders) != s.shape.beacons {
		t.Errorf("%d shards have claims, want %d", len(folders), s.shape.beacons)
	}
	for _, folder := range folders {
		if all := claims(t, folder); len(all) != generations {
			t.Errorf("%s: %d generations are claimed, want %d: %+v", folder, len(all), generations, all)
		}
	}
	s.nothingLost()
	s.done()
}

// TestCold: in the middle of a day all checkpoints are lost, and the log from which they could be made. The stream refuses
// to go on; with --cold it begins at the log's end. No minute from before its first one changes.
func TestCold(t *testing.T) {
	needLong(t)
	t.Run("the log has its last records", func(t *testing.T) { cold(t, 500) })
	t.Run("the log is empty", func(t *testing.T) { cold(t, 0) })
}

// cold leaves so many records in each partition of the log.
func cold(t *testing.T, left int64) {
	x := few(bench(t, 100_000, time.Hour))
	half := x.cut(t, "first", func(ingest int64) bool { return ingest < (x.first+x.last)/2 })
	rest := x.cut(t, "second", func(ingest int64) bool { return ingest >= (x.first+x.last)/2 })
	s := newScenario(t, half, usual())
	s.watch()
	_, streams := s.services(1, 1)
	run(t, tandem(t), "produce", "--site", s.site, "--topic", rawTopic, "--heartbeats", half.path)
	s.settled()
	streams[0].leave(30 * time.Second)

	before := s.rows()
	s.kafka.deleteRecords(s.beaconsTopic(), left)
	for _, folder := range s.shardFolders() {
		for _, name := range checkpointsOf(t, folder) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := s.stream("refused")
	if code := refused.exit(time.Minute); code != 1 {
		t.Errorf("a stream without a state to go on from exits with %d, want 1", code)
	}
	s.stream("cold", "--cold")
	// A log without records does not tell the time: it comes with the next progress, ten seconds later at most.
	var beats []raw
	for p := range s.shape.raw {
		beats = append(beats, raw{int32(p), half.last + 20_000, nil})
	}
	s.kafka.produce(rawTopic, beats)
	await(t, time.Minute, "every shard claims a generation at the log's end", func() (bool, string) {
		n := 0
		for _, folder := range s.shardFolders() {
			n += len(claims(t, folder))
		}
		return n == 2*s.shape.beacons, fmt.Sprintf("%d claims", n)
	})
	run(t, tandem(t), "produce", "--site", s.site, "--topic", rawTopic, "--heartbeats", "--end-heartbeat", rest.path)
	s.closedPast(rest.last/60_000, 3*time.Minute)

	first := int64(0)
	for _, folder := range s.shardFolders() {
		all := claims(t, folder)
		if len(all) != 2 {
			t.Fatalf("%s: %d generations, want 2: %+v", folder, len(all), all)
		}
		first = max(first, all[1].FirstMinute)
	}
	if moment := half.last / 60_000; first <= moment+5 {
		t.Errorf("the first minute is %d, of a log that ends in minute %d: max_skew is 5 min", first, moment)
	}
	after := s.rows()
	changed, told := 0, 0
	for k, value := range after {
		if k.minute >= first {
			told++
		} else if string(before[k]) != string(value) && !(empty(value) && before[k] == nil) {
			if changed++; changed < maxFaults {
				t.Errorf("%s, before the first minute %d, changes from %s to %s", k, first, cells(before, k), cells(after, k))
			}
		}
	}
	// Of the minutes after it nothing is missing that does not hang on what sessions did before.
	lost := 0
	for k, value := range replay(t, x.path, filepath.Join(s.dir, "tenant.yaml"), x.tenant, s.shape.tick) {
		if point, ok := strings.CutPrefix(k.Metric, "site."); ok && k.minute >= first && slices.Contains(allPoints, point) && string(after[k]) != string(value) {
			if lost++; lost < maxFaults {
				t.Errorf("%s, after the first minute %d, is %s, not %s", k, first, cells(after, k), cells(map[rowKey][]byte{k: value}, k))
			}
		}
	}
	t.Logf("first minute %d; %d rows of it and later, %d before", first, told, len(before))
	if told == 0 {
		t.Error("nothing is told after the cold start")
	}
	s.done()
}
