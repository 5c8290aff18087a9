package site

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob/blobtest"
	"tandem/schemas/configs"
	"tandem/schemas/wire"
)

const least = `dc: dc1
kafka: {brokers: [k:9092]}
raw: [{topic: beacons.raw, kind: live, partitions: 4}]
tenants: [{config: shop.yaml, partitions: 4}]
blobs: blobs
store: {pebble: store}
`

// folder writes the files, shop.yaml and site.yaml among them, and returns the path of the site file.
func folder(t *testing.T, text string, more ...string) string {
	t.Helper()
	dir := t.TempDir()
	files := append([]string{"site.yaml", text, "shop.yaml", "tenant: shop\n"}, more...)
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.yaml")
}

func mustLoad(t *testing.T, text string) *Site {
	t.Helper()
	s, err := Load(folder(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLoadDefaults(t *testing.T) {
	file := folder(t, least)
	s, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(filepath.Dir(file), name) }
	chain := s.Tenants[0].Chain
	if chain == nil || chain.Tenant != "shop" {
		t.Fatalf("chain %+v", chain)
	}
	want := &Site{DC: "dc1", Kafka: Kafka{Brokers: []string{"k:9092"}, Replication: 3},
		Raw:     []Raw{{"beacons.raw", wire.KindLive, "dc1", 4}},
		Tenants: []Tenant{{Config: at("shop.yaml"), Partitions: 4, Groups: 1, Chain: chain, Spliced: chain, files: s.Tenants[0].files}},
		Dead:    "beacons.dead", Metrics: Metrics{"metrics", 2}, Tick: time.Minute, LateEvery: 24 * time.Hour,
		Blobs: at("blobs"), Checkpoints: at("blobs"), Store: Store{Pebble: at("store")}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("loaded\n%+v, want\n%+v", s, want)
	}
	if s.Layer() != "stream.dc1" || s.BeaconsTopic("shop", 0) != "beacons.shop.0" || s.MetricsTopic(s.Layer()) != "metrics.stream.dc1" || s.History() {
		t.Errorf("%s, %s, %s, history %v", s.Layer(), s.BeaconsTopic("shop", 0), s.MetricsTopic(s.Layer()), s.History())
	}
}

func TestLoadAll(t *testing.T) {
	dir := t.TempDir()
	s := mustLoad(t, `dc: dc1
kafka:
  brokers: [127.0.1.1:9092, "[::1]:9093"]
  tls: {ca: ca.pem, cert: c.pem, key: `+dir+`/k.pem, server_name: kafka}
  sasl: {mechanism: scram-sha-512, user: u, password_file: pw}
  replication: 1
raw:
  - {topic: beacons.raw, kind: live, cluster: dc1, partitions: 4}
  - {topic: dc2.beacons.raw, kind: mirror, cluster: dc2, partitions: 2}
  - {topic: old, kind: history, partitions: 1}
tenants:
  - {config: shop.yaml, partitions: 4, groups: 2}
dead: bad
metrics: {topic: m, partitions: 3}
tick: 5s
late_every: 6h
blobs: s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1
checkpoints: /var/lib/tandem
store:
  cassandra: {hosts: [127.0.0.1:9042], keyspace: tandem, dc: dc1, consistency: one, replication: {dc1: 3, dc2: 3}, tls: {}, user: u, password_file: pw}
`)
	if tls := s.Kafka.TLS; tls.Key != dir+"/k.pem" || filepath.Dir(tls.CA) != filepath.Dir(s.Kafka.SASL.PasswordFile) || !filepath.IsAbs(tls.CA) {
		t.Errorf("paths %+v, %+v", tls, s.Kafka.SASL)
	}
	if s.Blobs != "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1" || s.Checkpoints != "/var/lib/tandem" {
		t.Errorf("blobs %s, checkpoints %s", s.Blobs, s.Checkpoints)
	}
	if c := s.Store.Cassandra; c.TLS == nil || c.Replication["dc2"] != 3 || c.Consistency != "one" {
		t.Errorf("%+v", c)
	}
	if s.Tick != 5*time.Second || s.LateEvery != 6*time.Hour || !s.History() || s.Raw[1].Cluster != "dc2" || s.Raw[2].Cluster != "dc1" {
		t.Errorf("%+v", s)
	}
	var names []string
	for _, topic := range s.Topics("stream.x") {
		if topic.Config["retention.bytes"] != "-1" || (topic.Config[ahead] == anyTime) != slices.Contains([]string{"beacons", "dead", "metrics"}, topic.Use) {
			t.Errorf("topic %s: settings %v", topic.Name, topic.Config)
		}
		names = append(names, fmt.Sprintf("%s %s %d %s %s", topic.Name, topic.Use, topic.Partitions, topic.Config["message.timestamp.type"], topic.Config["retention.ms"]))
	}
	want := []string{"beacons.raw raw live 4 LogAppendTime 604800000", "dc2.beacons.raw raw mirror 2 CreateTime 604800000", "old raw history 1 CreateTime -1",
		"beacons.shop.0 beacons 4 CreateTime -1", "beacons.shop.1 beacons 4 CreateTime -1", "bad dead 1 CreateTime -1", "m.stream.x metrics 3 CreateTime -1"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("topics %q", names)
	}
}

func TestLoadRefuses(t *testing.T) {
	with := func(old, new string) string {
		if !strings.Contains(least, old) {
			t.Fatalf("%q is not in the least file", old)
		}
		return strings.Replace(least, old, new, 1)
	}
	for _, c := range []struct{ text, want string }{
		{"", ":1: a site file is a mapping"},
		{"- a\n", ":1: a site file is a mapping"},
		{"dc: [\n", ":1: did not find expected node content"},
		{least + "---\n" + least, "a second YAML document"},
		{least + "tock: 1m\n", ":7: unknown key `tock`"},
		{with("brokers: [k:9092]", "brokers: [k:9092], tsl: {}"), ":2: unknown key `tsl`"},
		{least + "dc: dc2\n", `:7: mapping key "dc" already defined at line 1`},
		{with("{brokers: [k:9092]}", "\n  brokers: [k:9092]\n  tls:"), ":4: `tls` has no value"},
		{with("partitions: 4}]\nblobs", "partitions: many}]\nblobs"), ":4: `tenants[0].partitions` \"many\" is not a whole number below 2147483648, as 4"},
		{with("partitions: 4}]\nblobs", "partitions: 4000000000}]\nblobs"), ":4: `tenants[0].partitions` \"4000000000\" is not a whole number below 2147483648, as 4"},
		{with("shop.yaml,", "[shop.yaml],"), ":4: `tenants[0].config` is not text"},
		{with("kind: live,", "kind: {live: true},"), ":3: `raw[0].kind` is not text"},
		{with("[k:9092]", "k:9092"), ":2: `kafka.brokers` \"k:9092\" is not a list, as [a, b]"},
		{with("[k:9092]", "[k:9092], tls: on"), ":2: `kafka.tls` \"on\" is not a mapping, as {key: value}"},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: k, dc: d, replication: {d: x}}"), ":6: `store.cassandra.replication.d` \"x\" is not a whole number"},
		{with("[k:9092]", "[&k k:9092], replication: *k"), ":2: cannot unmarshal !!str `k:9092`"},
		{least + "read_second: maybe\n", ":7: `read_second` \"maybe\" is not true or false"},
		{with("dc: dc1", "dc: a.b"), ":1: `dc` \"a.b\" is needed"},
		{with("dc: dc1\n", ""), ":1: `dc` \"\" is needed"},
		{with("k:9092", "k"), `:2: "k" is not HOST:PORT`},
		{with("{brokers: [k:9092]}", "\n  brokers:\n    - k:1\n    - k:0"), `:5: "k:0" is not HOST:PORT`},
		{with("brokers: [k:9092]", "replication: 1"), ":2: `kafka.brokers` is needed: a list of HOST:PORT, as in kafka: {brokers: [host-1:1234]}"},
		{with("[k:9092]", "[k:9092], replication: -1"), ":2: `replication` -1 is not in 1 to 100"},
		{with("[k:9092]", "[k:9092], tls: {cert: a}"), ":2: `cert` and `key` go together"},
		{with("[k:9092]", "[k:9092], sasl: {mechanism: gssapi, user: u, password_file: p}"), ":2: `mechanism` \"gssapi\" is none of plain, scram-sha-256, scram-sha-512"},
		{with("[k:9092]", "[k:9092], sasl: {mechanism: plain, user: u}"), ":2: `password_file` is needed"},
		{with("[k:9092]", "[k:9092], sasl: {mechanism: plain, user: u, password: p}"), ":2: unknown key `password`"},
		{with("raw: [{topic: beacons.raw, kind: live, partitions: 4}]\n", ""), ":1: `raw` is needed"},
		{with("kind: live", "kind: alive"), ":3: `kind` \"alive\" is none of live, mirror, history"},
		{with("beacons.raw,", "a b,"), ":3: `topic` \"a b\" is no name of a topic"},
		{with("partitions: 4}]\ntenants", "partitions: 0}]\ntenants"), ":3: `partitions` 0 is not in 1 to 4096"},
		{with("tenants: [{config: shop.yaml, partitions: 4}]\n", ""), ":1: `tenants` is needed"},
		{least + "former_tenants: [outlet, shop]\n", ":7: tenant shop is among `tenants`: it is one or the other"},
		{with("config: shop.yaml, ", ""), ":4: `config` is needed"},
		{with("shop.yaml,", "no.yaml,"), "no.yaml: no such file"},
		{with("shop.yaml,", "bad.yaml,"), "bad.yaml:1: "},
		{with("shop.yaml,", "shop.yaml, groups: 300,"), ":4: `groups` 300 is not in 1 to 256"},
		{with("partitions: 4}]\nblobs", "partitions: 4}, {config: shop.yaml, partitions: 1}]\nblobs"), ":4: topic beacons.shop.0 is that of tenant shop and of tenant shop"},
		{least + "dead: beacons.raw\n", ":7: topic beacons.raw is that of raw[0] and of dead"},
		{least + "tick: 60\n", ":7: `tick` \"60\" is not a time with its unit, as 60s, 5m or 24h"},
		{least + "tick: 999ms\n", ":7: `tick` 999ms is not 1s to 1h"},
		{least + "tick: 1000500us\n", ":7: `tick` 1.0005s is not 1s to 1h in whole milliseconds"},
		{least + "tick: 61m\n", ":7: `tick` 1h1m0s is not 1s to 1h"},
		{least + "late_every: 29m\n", ":7: `late_every` 29m0s is not 30m to 168h"},
		{least + "late_every: 169h\n", ":7: `late_every` 169h0m0s is not 30m to 168h"},
		{least + "tick: fast\n", ":7: `tick` \"fast\" is not a time with its unit, as 60s, 5m or 24h"},
		{with("blobs: blobs\n", ""), ":1: `blobs` is needed"},
		{with("blobs: blobs", "blobs: gs://b"), ":5: \"gs://b\" is neither a folder nor s3://"},
		{with("blobs: blobs", "blobs: s3:///p"), ":5: s3:///p: "},
		{least + "checkpoints: s3://b?regoin=x\n", ":7: s3://b?regoin=x: "},
		{with("store: {pebble: store}\n", ""), ":1: `store` is needed"},
		{with("pebble: store", "pebble: store, cassandra: {hosts: [c:9042], keyspace: k, dc: d}"), ":6: `store` is needed, and one of the two"},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: K, dc: d}"), ":6: `keyspace` \"K\""},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: k}"), ":6: `dc` is needed"},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: k, dc: d, consistency: any}"), ":6: `consistency` \"any\" is none of"},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: k, dc: d, user: u}"), ":6: `user` and `password_file` go together"},
		{with("pebble: store", "cassandra: {hosts: [c:9042], keyspace: k, dc: d, replication: {d: 0}}"), ":6: `d` 0 is not in 1 to 100"},
	} {
		file := folder(t, c.text, "bad.yaml", "nothing: 1\n")
		s, err := Load(file)
		if err == nil {
			t.Errorf("%q: loaded %+v", c.text, s)
			continue
		}
		if rest, ok := strings.CutPrefix(err.Error(), file+":"); !ok || !strings.Contains(":"+rest, c.want) {
			t.Errorf("%q:\n%v\nwant %q", c.text, err, c.want)
		}
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string // the secret, or a part of the error
		ok   bool
	}{
		{"pw\n", 0o600, "pw", true}, {"pw\r\n", 0o400, "pw", true}, {" p w ", 0o640, " p w ", true}, {"pw\n\n", 0o600, "pw\n", true},
		{"pw", 0o644, "has mode 0644: others can read or change it; chmod o= ", false},
		{"pw", 0o602, "has mode 0602: others can read or change it", false},
		{"", 0o600, "a password of 0 bytes", false}, {"\n", 0o600, "a password of 0 bytes", false},
		{strings.Repeat("x", 5000), 0o600, "1 to 4096 are allowed", false},
	} {
		got, err := secret(write("pw", c.text, c.mode))
		switch {
		case c.ok && (err != nil || got != c.want):
			t.Errorf("%q, %o: %q, %v", c.text, c.mode, got, err)
		case !c.ok && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q, %o: %v, want %q", c.text, c.mode, err, c.want)
		}
		os.Remove(filepath.Join(dir, "pw"))
	}
	site := func(kafka string) error {
		_, err := mustLoad(t, strings.Replace(least, "brokers: [k:9092]", "brokers: [k:9092], "+kafka, 1)).Connection()
		return err
	}
	open := write("open", "pw", 0o644)
	for kafka, want := range map[string]string{
		"sasl: {mechanism: plain, user: u, password_file: " + open + "}": "others can read",
		"tls: {ca: " + open + "}":                      open + " has no PEM certificate",
		"tls: {ca: /no/such}":                          "no such file",
		"tls: {cert: " + open + ", key: " + open + "}": "others can read",
	} {
		if err := site(kafka); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", kafka, err, want)
		}
	}
	if err := site("tls: {}"); err != nil {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	s := mustLoad(t, least+"checkpoints: other\n")
	for what, open := range map[string]func() error{
		"blobs":       func() error { _, err := s.OpenBlobs(); return err },
		"checkpoints": func() error { _, err := s.OpenCheckpoints(); return err },
		"store": func() error {
			st, err := s.OpenStore(context.Background())
			if err == nil {
				err = st.Close()
			}
			return err
		},
	} {
		if err := open(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, f := range []string{s.Blobs, s.Checkpoints, s.Store.Pebble} {
		if info, err := os.Stat(f); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestOpenS3(t *testing.T) {
	for name, value := range blobtest.Credentials {
		t.Setenv(name, value)
	}
	s := mustLoad(t, strings.Replace(least, "blobs: blobs", "blobs: "+blobtest.S3(t, nil), 1))
	blobs, err := s.OpenBlobs()
	if err != nil {
		t.Fatal(err)
	}
	if err := blobs.Create("a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	checkpoints, err := s.OpenCheckpoints()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := checkpoints.Get("a/b"); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
}

// FuzzLoad: whatever a site file holds, it is taken as it is checked, or refused at a line.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte("dc: &a dc1\nkafka: {brokers: [*a], tls: {<<: *a}}\nraw: [*a, ~]\n"))
	f.Add([]byte("dc: dc1\n---\n"))
	f.Add([]byte("? [a]\n: {b: c}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &loader{file: "site.yaml"}
		s := l.load(data)
		if l.first == nil {
			if len(s.Raw) == 0 || len(s.Kafka.Brokers) == 0 || s.Tick < time.Second || s.Blobs == "" || (s.Store.Pebble == "") == (s.Store.Cassandra == nil) {
				t.Errorf("loaded %+v", s)
			}
			return
		}
		rest, ok := strings.CutPrefix(l.first.Error(), "site.yaml:")
		number, _, _ := strings.Cut(rest, ":")
		if n, err := strconv.Atoi(number); !ok || err != nil || n < 1 || n > bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r"))+2 {
			t.Errorf("error %q", l.first)
		}
	})
}

// Who opens a site again has the same chains while they say the same, and what is new otherwise; texts are those of the files.
func TestAgain(t *testing.T) {
	file := folder(t, least)
	s, blobs, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	again := func() *Site {
		t.Helper()
		next, same, err := Again(file, s, blobs)
		if err != nil || same != blobs {
			t.Fatal(err)
		}
		return next
	}
	config := s.Tenants[0].Config
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	next := again()
	if next.Tenants[0].Spliced != s.Tenants[0].Spliced || !reflect.DeepEqual(next.Tenants[0].Texts(), []string{string(text)}) {
		t.Errorf("another chain, or not its text: %q", next.Tenants[0].Texts())
	}
	// A comment is another text of the same chain; a point is another chain.
	for more, same := range map[string]bool{"# new\n": true, "max_events_per_minute: 601\n": false} {
		if err := os.WriteFile(config, append(text, more...), 0o600); err != nil {
			t.Fatal(err)
		}
		if next := again(); (next.Tenants[0].Spliced == s.Tenants[0].Spliced) != same || next.Tenants[0].Texts()[0] != string(text)+more {
			t.Errorf("with %q: the same chain %v, text %q", more, !same, next.Tenants[0].Texts())
		}
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Tenants[0].Begin(blobs); err != nil {
		t.Fatal(err)
	}
	chain := s.Tenants[0].Spliced
	// A revision is appended by somebody else.
	from := time.Now().Add(time.Hour).Truncate(time.Minute)
	appended := append(append([]byte{}, text...), fmt.Sprintf("from: %s # theirs\n", from.UTC().Format(time.RFC3339))...)
	if again().Tenants[0].Spliced != chain {
		t.Error("another chain before anything is appended")
	}
	if _, err := configs.Append(blobs, "shop", tenant.File{Name: "new", Data: appended}, time.Now()); err != nil {
		t.Fatal(err)
	}
	next = again()
	if n := len(next.Tenants[0].Spliced.Revs); n != 2 || next.Tenants[0].Texts()[1] != string(appended) || len(s.Tenants[0].Configs.Objects) != 1 {
		t.Errorf("%d revisions, texts %q, %d objects known before", n, next.Tenants[0].Texts(), len(s.Tenants[0].Configs.Objects))
	}
	own := &s.Tenants[0]
	for range 2 {
		if err := own.Grow(blobs); err != nil || len(own.Chain.Revs) != 2 || len(own.Spliced.Revs) != 2 || own.Texts()[1] != string(appended) {
			t.Errorf("it grows to %d revisions, %v", len(own.Spliced.Revs), err)
		}
	}
}
