package site

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tandem/schemas/blob/s3"
	"tandem/schemas/wire"
)

// Bounds of a site file. Beyond one of them it is refused.
const (
	maxFile       = 1 << 20
	maxPartitions = 4096 // of a topic
	maxGroups     = 256  // of a tenant
)

// Load reads the site file, strictly: an unknown key, a key without a value, a wrong type or a bad value is an error as
// FILE:LINE: what is wrong. The tenants' configs are loaded and compiled; files of secrets are not read yet.
func Load(file string) (*Site, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	l := &loader{file: file}
	s := l.load(data)
	if l.first == nil {
		l.tenants(s)
	}
	if l.first != nil {
		return nil, l.first
	}
	return s, nil
}

// load reads what stands in the file itself.
func (l *loader) load(data []byte) *Site {
	s := l.parse(data)
	if l.first == nil {
		s.defaults()
		s.resolve(filepath.Dir(l.file))
		l.check(s)
	}
	return s
}

// loader keeps the first thing that is wrong.
type loader struct {
	file  string
	root  *yaml.Node
	first error
}

func (l *loader) fail(line int, format string, args ...any) {
	if l.first == nil {
		l.first = fmt.Errorf("%s:%d: %w", l.file, line, fmt.Errorf(format, args...))
	}
}

// failAt fails at the line of the key at the end of the path, or of the last thing on the path that is there.
func (l *loader) failAt(at []any, format string, args ...any) {
	l.fail(l.line(at), format, args...)
}

func (l *loader) line(at []any) int {
	n, line := l.root, max(l.root.Line, 1)
	for _, step := range at {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		switch step := step.(type) {
		case int:
			if n.Kind != yaml.SequenceNode || step >= len(n.Content) {
				return line
			}
			n = n.Content[step]
			line = n.Line
		case string:
			i := 0
			for i < len(n.Content) && n.Content[i].Value != step {
				i += 2
			}
			if n.Kind != yaml.MappingNode || i >= len(n.Content) {
				return line
			}
			line, n = n.Content[i].Line, n.Content[i+1]
		}
	}
	return line
}

// parse reads the one document of the file.
func (l *loader) parse(data []byte) *Site {
	s := &Site{}
	if len(data) > maxFile {
		l.fail(1, "the file has %d bytes, at most %d are allowed", len(data), maxFile)
		return s
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		l.yaml(err)
		return s
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		l.fail(1, "a site file is a mapping (`key: value`) that begins with `dc`")
		return s
	}
	l.root = doc.Content[0]
	l.noNulls(l.root, "the file")
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(s); err != nil {
		l.mistyped(l.root, reflect.TypeFor[Site](), nil)
		l.yaml(err)
		return s
	}
	var next yaml.Node
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		l.fail(max(next.Line, 1), "a second YAML document; a file holds one site")
	}
	return s
}

// noNulls refuses a key without a value: `tls:` with nothing behind it would mean no TLS.
func (l *loader) noNulls(n *yaml.Node, what string) {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				continue
			}
			what = "`" + n.Content[i-1].Value + "`"
		}
		if child.Kind == yaml.ScalarNode && child.Tag == "!!null" {
			l.fail(child.Line, "%s has no value; give one, or leave it out", what)
		}
		l.noNulls(child, what)
	}
}

// mistyped fails at the first value below a node that cannot be read as the type of its field. The YAML reader says the line and the
// type, and not the field; that is all that is told of an alias.
func (l *loader) mistyped(n *yaml.Node, t reflect.Type, at []any) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	below := func(child *yaml.Node, t reflect.Type, step any) { l.mistyped(child, t, append(slices.Clone(at), step)) }
	switch {
	case n.Kind == yaml.AliasNode:
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, child := range n.Content {
			below(child, t.Elem(), i)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 0; i+1 < len(n.Content); i += 2 {
			below(n.Content[i+1], t.Elem(), n.Content[i].Value)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		for i := 0; i+1 < len(n.Content); i += 2 {
			for _, f := range reflect.VisibleFields(t) {
				if key := n.Content[i].Value; f.Tag.Get("yaml") == key {
					below(n.Content[i+1], f.Type, key)
				}
			}
		}
	case n.Decode(reflect.New(t).Interface()) != nil && n.Kind == yaml.ScalarNode:
		l.fail(n.Line, "`%s` %q is not %s", dotted(at), n.Value, form(t))
	case n.Decode(reflect.New(t).Interface()) != nil:
		l.fail(n.Line, "`%s` is not %s", dotted(at), form(t))
	}
}

// form says how a value of a type is written.
func form(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list, as [a, b]"
	case reflect.Struct, reflect.Map:
		return "a mapping, as {key: value}"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	}
	if t == reflect.TypeFor[time.Duration]() {
		return "a time with its unit, as 60s, 5m or 24h"
	}
	return fmt.Sprintf("a whole number below %d, as 4", uint64(1)<<(t.Bits()-1))
}

var (
	unknownField = regexp.MustCompile(`^field (.*) not found in type .*$`)
	lineAhead    = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
)

// yaml reports what the YAML reader says, which has the line as text.
func (l *loader) yaml(err error) {
	msg := err.Error()
	if typed := (*yaml.TypeError)(nil); errors.As(err, &typed) {
		msg = typed.Errors[0]
	}
	line := 1
	if m := lineAhead.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits, as the expression says
		msg = m[2]
	}
	if m := unknownField.FindStringSubmatch(msg); m != nil {
		msg = "unknown key `" + m[1] + "`"
	}
	l.fail(line, "%s", strings.TrimPrefix(msg, "yaml: "))
}

func (s *Site) defaults() {
	s.Kafka.Replication = cmp.Or(s.Kafka.Replication, 3)
	s.Dead = cmp.Or(s.Dead, "beacons.dead")
	s.Tick = cmp.Or(s.Tick, time.Minute)
	s.LateEvery = cmp.Or(s.LateEvery, 24*time.Hour)
	s.Metrics.Topic = cmp.Or(s.Metrics.Topic, "metrics")
	s.Metrics.Partitions = cmp.Or(s.Metrics.Partitions, 2)
	s.Checkpoints = cmp.Or(s.Checkpoints, s.Blobs)
	for i := range s.Raw {
		s.Raw[i].Cluster = cmp.Or(s.Raw[i].Cluster, s.DC)
	}
	for i := range s.Tenants {
		s.Tenants[i].Groups = cmp.Or(s.Tenants[i].Groups, 1)
	}
	if c := s.Store.Cassandra; c != nil {
		c.Consistency = cmp.Or(c.Consistency, "local_quorum")
	}
}

var (
	dcName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)
)

// Values that are allowed.
var (
	kinds         = []string{wire.KindLive, wire.KindMirror, wire.KindHistory}
	mechanisms    = []string{"plain", "scram-sha-256", "scram-sha-512"}
	consistencies = []string{"local_quorum", "quorum", "one", "local_one", "two", "three", "all", "each_quorum"}
)

func (l *loader) check(s *Site) {
	at := func(path ...any) []any { return path }
	if !dcName.MatchString(s.DC) {
		l.failAt(at("dc"), "`dc` %q is needed: 1 to 64 of A-Z a-z 0-9 _ -", s.DC)
	}
	l.addresses(at("kafka", "brokers"), s.Kafka.Brokers)
	l.tls(at("kafka", "tls"), s.Kafka.TLS)
	if u := s.Kafka.SASL; u != nil {
		l.oneOf(at("kafka", "sasl", "mechanism"), u.Mechanism, mechanisms)
		l.needed(at("kafka", "sasl", "user"), u.User)
		l.needed(at("kafka", "sasl", "password_file"), u.PasswordFile)
	}
	l.between(at("kafka", "replication"), int64(s.Kafka.Replication), 1, 100)
	if len(s.Raw) == 0 {
		l.failAt(at("raw"), "`raw` is needed: a list of topics, as in raw: [{topic: beacons.raw, kind: live, partitions: 4}]")
	}
	for i, r := range s.Raw {
		l.topic(at("raw", i, "topic"), r.Topic)
		l.oneOf(at("raw", i, "kind"), r.Kind, kinds)
		if !dcName.MatchString(r.Cluster) {
			l.failAt(at("raw", i, "cluster"), "`cluster` %q is not 1 to 64 of A-Z a-z 0-9 _ -", r.Cluster)
		}
		l.between(at("raw", i, "partitions"), int64(r.Partitions), 1, maxPartitions)
	}
	if len(s.Tenants) == 0 {
		l.failAt(at("tenants"), "`tenants` is needed: a list, as in tenants: [{config: shop.yaml, partitions: 4}]")
	}
	for i, t := range s.Tenants {
		l.needed(at("tenants", i, "config"), t.Config)
		l.between(at("tenants", i, "partitions"), int64(t.Partitions), 1, maxPartitions)
		l.between(at("tenants", i, "groups"), int64(t.Groups), 1, maxGroups)
	}
	l.topic(at("dead"), s.Dead)
	l.topic(at("metrics", "topic"), s.Metrics.Topic)
	l.between(at("metrics", "partitions"), int64(s.Metrics.Partitions), 1, maxPartitions)
	if s.Tick < time.Second || s.Tick > time.Hour || s.Tick%time.Millisecond != 0 {
		l.failAt(at("tick"), "`tick` %s is not 1s to 1h in whole milliseconds", s.Tick)
	}
	if s.LateEvery < 30*time.Minute || s.LateEvery > 168*time.Hour || s.LateEvery%time.Millisecond != 0 {
		l.failAt(at("late_every"), "`late_every` %s is not 30m to 168h in whole milliseconds", s.LateEvery)
	}
	l.needed(at("blobs"), s.Blobs)
	l.blobs(at("blobs"), s.Blobs)
	l.blobs(at("checkpoints"), s.Checkpoints)
	l.store(at("store"), &s.Store)
	if s.SecondStore != nil {
		l.store(at("second_store"), s.SecondStore)
	} else if s.ReadSecond {
		l.failAt(at("read_second"), "`read_second` needs a `second_store`")
	}
}

func (l *loader) store(at []any, s *Store) {
	c := s.Cassandra
	if (c != nil) == (s.Pebble != "") {
		l.failAt(at, "`store` is needed, and one of the two: {pebble: FOLDER} or {cassandra: {hosts: [HOST:PORT], keyspace: K, dc: DC}}")
	}
	if c == nil {
		return
	}
	at = append(at, "cassandra")
	in := func(key string) []any { return append(slices.Clone(at), key) }
	l.addresses(in("hosts"), c.Hosts)
	if !regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`).MatchString(c.Keyspace) {
		l.failAt(in("keyspace"), "`keyspace` %q is needed: 1 to 48 of a-z 0-9 _, a letter first", c.Keyspace)
	}
	l.needed(in("dc"), c.DC)
	l.oneOf(in("consistency"), c.Consistency, consistencies)
	for dc, n := range c.Replication {
		l.between(append(in("replication"), dc), int64(n), 1, 100)
	}
	l.tls(in("tls"), c.TLS)
	if (c.User == "") != (c.PasswordFile == "") {
		l.failAt(in("user"), "`user` and `password_file` go together")
	}
}

func (l *loader) blobs(at []any, url string) {
	scheme, _, found := strings.Cut(url, "://")
	if !found {
		return
	}
	if scheme != "s3" {
		l.failAt(at, "%q is neither a folder nor s3://BUCKET/PREFIX?endpoint=URL&region=REGION", url)
		return
	}
	if _, err := s3.Parse(url); err != nil {
		l.failAt(at, "%w", err)
	}
}

func (l *loader) tls(at []any, t *TLS) {
	if t != nil && (t.Cert == "") != (t.Key == "") {
		l.failAt(at, "`cert` and `key` go together")
	}
}

// key is the last name on a path, for messages.
func key(at []any) string {
	name, _ := at[len(at)-1].(string)
	return name
}

// dotted is a path as one writes it in prose.
func dotted(at []any) string {
	var b strings.Builder
	for _, part := range at {
		if i, ok := part.(int); ok {
			fmt.Fprintf(&b, "[%d]", i)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		fmt.Fprint(&b, part)
	}
	return b.String()
}

func (l *loader) needed(at []any, value string) {
	if value == "" {
		l.failAt(at, "`%s` is needed", key(at))
	}
}

func (l *loader) oneOf(at []any, value string, allowed []string) {
	if !slices.Contains(allowed, value) {
		l.failAt(at, "`%s` %q is none of %s", key(at), value, strings.Join(allowed, ", "))
	}
}

func (l *loader) between(at []any, n, least, most int64) {
	if n < least || n > most {
		l.failAt(at, "`%s` %d is not in %d to %d", key(at), n, least, most)
	}
}

func (l *loader) topic(at []any, name string) {
	if !topicName.MatchString(name) || name == "." || name == ".." {
		l.failAt(at, "`%s` %q is no name of a topic: 1 to 249 of A-Z a-z 0-9 . _ -", key(at), name)
	}
}

func (l *loader) addresses(at []any, list []string) {
	if len(list) == 0 {
		l.failAt(at, "`%s` is needed: a list of HOST:PORT, as in %s: {%s: [host-1:1234]}", dotted(at), dotted(at[:len(at)-1]), key(at))
	}
	for i, a := range list {
		host, port, err := net.SplitHostPort(a)
		n, numErr := strconv.Atoi(port)
		if err != nil || numErr != nil || host == "" || n < 1 || n > 65535 {
			l.failAt(append(slices.Clone(at), i), "%q is not HOST:PORT", a)
		}
	}
}

// tenants loads the configs, and checks that no two things of the site have one topic.
func (l *loader) tenants(s *Site) {
	taken := map[string]string{}
	take := func(at []any, topic, what string) {
		if other := taken[topic]; other != "" {
			l.failAt(at, "topic %s is that of %s and of %s; give one of them another name", topic, other, what)
		}
		taken[topic] = what
	}
	for i, r := range s.Raw {
		take([]any{"raw", i}, r.Topic, "raw["+strconv.Itoa(i)+"]")
	}
	take([]any{"dead"}, s.Dead, "dead")
	take([]any{"metrics"}, s.MetricsTopic(s.Layer()), "metrics")
	for i := range s.Tenants {
		t := &s.Tenants[i]
		chain, files, err := LoadWritten(t.Config)
		if err != nil {
			l.failAt([]any{"tenants", i, "config"}, "%w", err)
			return
		}
		t.Chain, t.Spliced, t.files = chain, chain, files
		for g := range t.Groups {
			take([]any{"tenants", i}, s.BeaconsTopic(chain.Tenant, g), "tenant "+chain.Tenant)
		}
	}
	for i, name := range s.Former {
		if s.TenantNamed(name) != nil {
			l.failAt([]any{"former_tenants", i}, "tenant %s is among `tenants`: it is one or the other", name)
		}
	}
}
