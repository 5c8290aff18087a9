package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/jobs/site"
	"tandem/schemas/sources"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// siteFixture is a site file and an embedded broker that it names.
type siteFixture struct {
	file, folder string
	cluster      *kfake.Cluster
	to           broker.Connection
	topics       *broker.Topics
}

const shopConfig = "tenant: shop\n"

func newSite(t *testing.T, raw string) *siteFixture {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	folder := importFiles(t, map[string]string{"shop.yaml": shopConfig})
	f := &siteFixture{file: filepath.Join(folder, "site.yaml"), folder: folder, cluster: cluster, to: broker.To(cluster.ListenAddrs()...)}
	f.write(t, raw, 2)
	if f.topics, err = broker.NewTopics(f.to); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.topics.Close)
	return f
}

// write writes the site file with these raw topics, and a tenant with so many partitions.
func (f *siteFixture) write(t *testing.T, raw string, partitions int) {
	t.Helper()
	text := fmt.Sprintf("dc: dc1\nkafka: {brokers: [%q], replication: 1}\nraw: [%s]\ntenants: [{config: shop.yaml, partitions: %d}]\nblobs: blobs\nstore: {pebble: store}\n",
		f.to.Seeds[0], raw, partitions)
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *siteFixture) topicsCommand(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = runTopics(context.Background(), append(args, "--site", f.file), &out, &errs)
	return code, out.String(), errs.String()
}

func (f *siteFixture) describe(t *testing.T, name string) broker.Topic {
	t.Helper()
	found, err := f.topics.Describe(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return found[name]
}

const liveRaw = "{topic: beacons.raw, kind: live, partitions: 3}"

func TestTopicsApply(t *testing.T) {
	f := newSite(t, liveRaw)
	code, stdout, stderr := f.topicsCommand("show")
	if code != 0 || strings.Count(stdout, "(missing)") != 4 || !strings.Contains(stdout, "sources: revision 0, 0 partitions\nsources: apply adds 3 partitions\n") {
		t.Fatalf("show: %d, %s%s", code, stdout, stderr)
	}
	if found := f.describe(t, "beacons.raw"); found.Name != "" {
		t.Fatalf("show made %+v", found)
	}
	code, stdout, stderr = f.topicsCommand("apply")
	if code != 0 || !strings.HasSuffix(stdout, "sources: revision 1, 3 partitions\n") || strings.Contains(stdout, "apply") {
		t.Fatalf("apply: %d, %s%s", code, stdout, stderr)
	}
	const week, mib4 = "604800000", "4194304"
	for name, want := range map[string][4]string{ // partitions, time, retention, message
		"beacons.raw": {"3", "LogAppendTime", week, "1052672"}, "beacons.shop.0": {"2", "CreateTime", week, mib4},
		"beacons.dead": {"1", "CreateTime", week, mib4}, "metrics.stream.dc1": {"2", "CreateTime", week, mib4},
	} {
		is := f.describe(t, name)
		if got := [4]string{fmt.Sprint(is.Partitions), is.Config["message.timestamp.type"], is.Config["retention.ms"], is.Config["max.message.bytes"]}; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	blobs, err := mustLoad(t, f).OpenBlobs()
	if err != nil {
		t.Fatal(err)
	}
	s, err := sources.Read(blobs, "dc1")
	if err != nil || len(s.List) != 3 {
		t.Fatalf("sources %+v, %v", s, err)
	}
	if want := (wire.Source{Cluster: "dc1", Topic: "beacons.raw", TopicID: f.describe(t, "beacons.raw").ID, Partition: 2, Kind: wire.KindLive}); s.List[2] != want {
		t.Errorf("source %+v, want %+v", s.List[2], want)
	}

	// Again, with a setting that other hands changed and a second raw topic.
	if err := f.topics.Set(context.Background(), "beacons.shop.0", map[string]string{"retention.ms": "1000", "retention.bytes": "1000000"}); err != nil {
		t.Fatal(err)
	}
	f.write(t, liveRaw+", {topic: dc2.raw, kind: mirror, cluster: dc2, partitions: 2}", 2)
	told := `beacons.shop.0: retention.bytes is "1000000", apply sets "-1"` + "\n" + `beacons.shop.0: retention.ms is "1000", apply sets "604800000"`
	if code, stdout, _ = f.topicsCommand("show"); code != 0 || !strings.Contains(stdout, told) {
		t.Errorf("show: %d, %s", code, stdout)
	}
	if code, stdout, stderr = f.topicsCommand("apply", "--layer", "stream.canary"); code != 0 || !strings.Contains(stdout, "sources: revision 2, 5 partitions\n") {
		t.Errorf("apply: %d, %s%s", code, stdout, stderr)
	}
	if is := f.describe(t, "beacons.shop.0"); is.Config["retention.ms"] != week || is.Config["retention.bytes"] != "-1" {
		t.Errorf("retention is %s ms, %s bytes", is.Config["retention.ms"], is.Config["retention.bytes"])
	}
	if is := f.describe(t, "dc2.raw"); is.Config["message.timestamp.type"] != "CreateTime" {
		t.Errorf("a mirror has %s", is.Config["message.timestamp.type"])
	}
	if is := f.describe(t, "metrics.stream.canary"); is.Partitions != 2 {
		t.Errorf("the canary's topic is %+v", is)
	}
}

func mustLoad(t *testing.T, f *siteFixture) *site.Site {
	t.Helper()
	s, err := site.Load(f.file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTopicsOfHistoryForgetNothing(t *testing.T) {
	f := newSite(t, "{topic: old.raw, kind: history, partitions: 1}")
	if code, _, stderr := f.topicsCommand("apply"); code != 0 {
		t.Fatal(stderr)
	}
	for _, name := range []string{"old.raw", "beacons.shop.0", "beacons.dead", "metrics.stream.dc1"} {
		if is := f.describe(t, name); is.Config["retention.ms"] != "-1" || is.Config["message.timestamp.type"] != "CreateTime" {
			t.Errorf("%s: %v", name, is.Config)
		}
	}
}

// TestTopicsRefuse: what cannot be set right is told, and nothing is changed.
func TestTopicsRefuse(t *testing.T) {
	ctx := context.Background()
	create := func(f *siteFixture, t *testing.T, name string, partitions int32) {
		t.Helper()
		if _, err := f.topics.Create(ctx, name, partitions); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(f *siteFixture, t *testing.T) {
		t.Helper()
		if code, _, stderr := f.topicsCommand("apply"); code != 0 {
			t.Fatal(stderr)
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, f *siteFixture)
		want    string
	}{
		{"partitions", func(t *testing.T, f *siteFixture) { create(f, t, "beacons.shop.0", 5) }, `topic beacons\.shop\.0 has 5 partitions, the site file says 2`},
		{"time of records that are there", func(t *testing.T, f *siteFixture) {
			create(f, t, "beacons.raw", 3)
			w, err := broker.NewWriter(f.to)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := w.Write(ctx, []broker.Record{{Topic: "beacons.raw", Partition: 1, Value: []byte("x")}}); err != nil {
				t.Fatal(err)
			}
		}, `topic beacons\.raw has message\.timestamp\.type CreateTime and holds records; as raw live it needs LogAppendTime`},
		{"made anew", func(t *testing.T, f *siteFixture) {
			apply(f, t)
			f.remove(t, "beacons.raw")
			create(f, t, "beacons.raw", 3)
		}, `topic beacons\.raw of cluster dc1 was made anew: its id is \S+, and \S+ in revision 1`},
		{"gone", func(t *testing.T, f *siteFixture) {
			apply(f, t)
			f.remove(t, "beacons.raw")
		}, `topic beacons\.raw of cluster dc1, id \S+, is in revision 1 and gone`},
		{"taken from the file", func(t *testing.T, f *siteFixture) {
			apply(f, t)
			f.write(t, "{topic: other.raw, kind: live, partitions: 3}", 2)
		}, `beacons\.raw/0 of cluster dc1 is in revision 1 and not in the site file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newSite(t, liveRaw)
			c.prepare(t, f)
			_, before, _ := f.topicsCommand("show")
			for _, sub := range []string{"apply", "show"} {
				code, _, stderr := f.topicsCommand(sub)
				if code != 1 || !regexp.MustCompile(c.want).MatchString(stderr) {
					t.Errorf("%s: code %d, %q; want %q", sub, code, stderr, c.want)
				}
			}
			if _, after, _ := f.topicsCommand("show"); after != before {
				t.Errorf("changed:\n%sfrom\n%s", after, before)
			}
		})
	}
	// Of an empty topic the time type is set.
	f := newSite(t, liveRaw)
	create(f, t, "beacons.raw", 3)
	apply(f, t)
	if is := f.describe(t, "beacons.raw"); is.Config["message.timestamp.type"] != "LogAppendTime" {
		t.Errorf("time type %s", is.Config["message.timestamp.type"])
	}
}

func TestTopicsCommandLine(t *testing.T) {
	for _, args := range [][]string{{}, {"show"}, {"list", "--site", "x"}, {"show", "apply", "--site", "x"}} {
		var stdout, stderr bytes.Buffer
		if code := runTopics(context.Background(), args, &stdout, &stderr); code != 2 {
			t.Errorf("%q: exit code %d, %s", args, code, stderr.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if code := runTopics(context.Background(), []string{"show", "--site", "no/such.yaml"}, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "no/such.yaml") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

// remove deletes a topic, which no part of Tandem ever does.
func (f *siteFixture) remove(t *testing.T, name string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.to.Seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := kadm.NewClient(c).DeleteTopic(context.Background(), name); err != nil {
		t.Fatal(err)
	}
}

// A cluster with too few brokers is told by what to change.
func TestTopicsApplyWithTooFewBrokers(t *testing.T) {
	f := newSite(t, liveRaw)
	text, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.file, bytes.Replace(text, []byte(", replication: 1"), nil, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := f.topicsCommand("apply")
	if code != 1 || !strings.Contains(stderr, "create topic beacons.raw: INVALID_REPLICATION_FACTOR") || !strings.Contains(stderr, "It is to have 3 replicas: kafka.replication of the site file") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
