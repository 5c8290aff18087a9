// Package site is the site file: what one data centre's Tandem consists of, and how its services reach Kafka, blob
// storage and the metric store.
package site

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/configs"
	"tandem/schemas/wire"
)

// Site is a loaded site file. Relative paths in it are relative to the file's folder; the fields here are resolved.
// It is immutable: any number of goroutines may read it.
type Site struct {
	DC          string        `yaml:"dc"`
	Kafka       Kafka         `yaml:"kafka"`
	Raw         []Raw         `yaml:"raw"` // in order; the file only ever appends to them
	Tenants     []Tenant      `yaml:"tenants"`
	Former      []string      `yaml:"former_tenants"` // taken out of Tenants: what is left of their metrics messages is passed over
	Dead        string        `yaml:"dead"`           // topic of dead letters, one partition
	Metrics     Metrics       `yaml:"metrics"`
	Tick        time.Duration `yaml:"tick"`        // 1s to 1h, whole ms
	LateEvery   time.Duration `yaml:"late_every"`  // of the batch: how long late beacons wait at most for their pass, 30m to 168h
	Blobs       string        `yaml:"blobs"`       // a folder or s3://BUCKET/PREFIX?...
	Checkpoints string        `yaml:"checkpoints"` // where claims and checkpoints live; as Blobs
	Store       Store         `yaml:"store"`
	// SecondStore, if there, is written to beside Store; readers take it with ReadSecond. For a move to another database.
	SecondStore *Store `yaml:"second_store"`
	ReadSecond  bool   `yaml:"read_second"`
}

// Kafka is the cluster of the site.
type Kafka struct {
	Brokers     []string `yaml:"brokers"` // host:port of some of them
	TLS         *TLS     `yaml:"tls"`     // nil: not encrypted
	SASL        *SASL    `yaml:"sasl"`    // nil: no user
	Replication int16    `yaml:"replication"`
}

// TLS says how a connection is encrypted. Empty: by the system's roots, without a certificate of one's own.
type TLS struct {
	CA         string `yaml:"ca"`   // file of PEM certificates that are trusted, instead of the system's
	Cert       string `yaml:"cert"` // file of one's own certificate, with Key
	Key        string `yaml:"key"`
	ServerName string `yaml:"server_name"` // expected of every server; empty: the host that is dialled
}

// SASL is a user of Kafka. With plain and without TLS the password crosses the network as it is.
type SASL struct {
	Mechanism    string `yaml:"mechanism"` // plain, scram-sha-256 or scram-sha-512
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
}

// Raw is a topic of raw beacons.
type Raw struct {
	Topic      string `yaml:"topic"`
	Kind       string `yaml:"kind"`    // wire.KindLive, KindMirror or KindHistory
	Cluster    string `yaml:"cluster"` // where its records were first written
	Partitions int32  `yaml:"partitions"`
}

// Tenant is a tenant whose beacons are taken.
type Tenant struct {
	Config     string `yaml:"config"`     // a file, or a folder of revisions: what its chain begins with
	Partitions int32  `yaml:"partitions"` // of each of its beacons topics
	Groups     int    `yaml:"groups"`     // beacons topics that its sessions are spread over
	Formulas   string `yaml:"formulas"`   // file of its formula repository, for serve; empty: those of any tenant

	Chain   *tenant.Chain  `yaml:"-"` // as the stream and the archive read by it
	Spliced *tenant.Chain  `yaml:"-"` // as the batch does, with what splices say of the past
	Configs *configs.Chain `yaml:"-"` // in storage; nil as Load leaves it, Open reads it

	files []tenant.File // of Config, as they were read
}

// Metrics is the topic between the stages of the stream, less the layer.
type Metrics struct {
	Topic      string `yaml:"topic"`
	Partitions int32  `yaml:"partitions"`
}

// Store is the metric store: one of the two.
type Store struct {
	Pebble    string     `yaml:"pebble"` // folder; one process at a time
	Cassandra *Cassandra `yaml:"cassandra"`
}

// Cassandra is a metric store in Cassandra.
type Cassandra struct {
	Hosts        []string       `yaml:"hosts"`       // host:port of some nodes
	Keyspace     string         `yaml:"keyspace"`    // of this site
	DC           string         `yaml:"dc"`          // Cassandra's name of the local data centre
	Consistency  string         `yaml:"consistency"` // of reads and writes; local_quorum if absent
	Replication  map[string]int `yaml:"replication"` // replicas by data centre, for schema apply
	TLS          *TLS           `yaml:"tls"`
	User         string         `yaml:"user"`
	PasswordFile string         `yaml:"password_file"`
}

// Layer is the layer that this site's stream writes unless it is told another.
func (s *Site) Layer() string { return "stream." + s.DC }

// TenantNamed is the tenant of that name, nil if the site has none.
func (s *Site) TenantNamed(name string) *Tenant {
	for i := range s.Tenants {
		if s.Tenants[i].Chain.Tenant == name {
			return &s.Tenants[i]
		}
	}
	return nil
}

// BeaconsTopic is the topic of a group of a tenant's sessions.
func (s *Site) BeaconsTopic(tenant string, group int) string {
	return fmt.Sprintf("beacons.%s.%d", tenant, group)
}

// MetricsTopic is the topic between the stages of a layer.
func (s *Site) MetricsTopic(layer string) string { return s.Metrics.Topic + "." + layer }

// History says whether records of the past come in: then no topic that they pass may forget by record time.
func (s *Site) History() bool {
	for _, r := range s.Raw {
		if r.Kind == wire.KindHistory {
			return true
		}
	}
	return false
}

// Stores are the site's metric stores, one or two.
func (s *Site) Stores() []*Store {
	if s.SecondStore == nil {
		return []*Store{&s.Store}
	}
	return []*Store{&s.Store, s.SecondStore}
}

// path resolves a path of the file.
func path(folder, p string) string {
	if p == "" || filepath.IsAbs(p) || strings.Contains(p, "://") {
		return p
	}
	return filepath.Join(folder, p)
}

func (s *Site) resolve(folder string) {
	files := []*string{&s.Blobs, &s.Checkpoints}
	encrypted := []*TLS{s.Kafka.TLS}
	for _, st := range s.Stores() {
		files = append(files, &st.Pebble)
		if c := st.Cassandra; c != nil {
			files = append(files, &c.PasswordFile)
			encrypted = append(encrypted, c.TLS)
		}
	}
	for _, t := range encrypted {
		if t != nil {
			files = append(files, &t.CA, &t.Cert, &t.Key)
		}
	}
	if s.Kafka.SASL != nil {
		files = append(files, &s.Kafka.SASL.PasswordFile)
	}
	for i := range s.Tenants {
		files = append(files, &s.Tenants[i].Config, &s.Tenants[i].Formulas)
	}
	for _, f := range files {
		*f = path(folder, *f)
	}
}
