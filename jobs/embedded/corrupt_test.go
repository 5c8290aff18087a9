package embedded_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/sealed"
	"tandem/schemas/store"
	"tandem/stream/broker"
)

const (
	begin  = int64(1_767_225_600_000) // a full half hour
	minute = int64(60_000)
	hour   = 60 * minute
)

const shopYAML = `
tenant: shop
tags:
  device: [desktop, mobile]
points:
  home: {kind: page, stats: true}
  order: {values: {revenue: {cap: 500}}}
experiments:
  color:
    variations: [control, red]
    qualify: [point == "home"]
`

func chainOf(t testing.TB, text string) (*tenant.Config, *tenant.Chain) {
	t.Helper()
	cfg, err := tenant.Load("shop.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, chain
}

// traffic is some sessions over some hours, a beacon each 30 s, none late.
func traffic(from, to int64) (records []oracle.Record) {
	for ts := from; ts < to; ts += 30_000 {
		i := ts / 30_000
		payload := fmt.Sprintf(`{"id":"%d","tenant":"shop","session":"s%d","visitor":"v%d","ts":%d,"point":"home","device":"mobile","experiments":{"color":"red"}}`, i, i%11, i%5, ts)
		records = append(records, oracle.Record{Ingest: ts, Payload: []byte(payload)})
	}
	return records
}

// site is a pipeline whose objects can be tampered with.
type site struct {
	t     testing.TB
	log   embedded.Memory
	blobs *blob.Mem
	store store.Store
	chain *tenant.Chain
	opt   embedded.Options
	p     *embedded.Pipeline
}

func newSite(t testing.TB) *site {
	_, chain := chainOf(t, shopYAML)
	s := &site{t: t, log: embedded.NewMemory(), blobs: blob.NewMem(), store: openStore(t), chain: chain, opt: embedded.Defaults()}
	s.opt.Shards, s.opt.CheckpointTicks = 1, 5
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens the jobs anew over what is stored.
func (s *site) open() (err error) {
	s.p, err = embedded.Open(context.Background(), s.opt, s.chain, s.log, s.blobs, s.store)
	return err
}

func (s *site) feed(records []oracle.Record) {
	s.t.Helper()
	if err := s.p.Feed(context.Background(), raws(records)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.p.Pump(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) batch() error { return s.p.Job().Run(context.Background()) }

// replaced puts other bytes in place of an object.
func (s *site) replace(name string, data []byte) {
	s.t.Helper()
	if err := s.blobs.Delete(name); err != nil {
		s.t.Fatal(err)
	}
	if err := s.blobs.Create(name, data); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) names(part ...string) (names []string) {
	s.t.Helper()
	all, err := s.blobs.List("")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range all {
		if !slices.ContainsFunc(part, func(p string) bool { return !strings.Contains(n, p) }) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		s.t.Fatalf("no object with %q in its name: %q", part, all)
	}
	return names
}

// damages are what may happen to bytes: bits flipped in places all over, the end cut off, nothing left, a tail too many. Of a
// Parquet file the places are in what every reader reads: the first column's first page and the footer.
func damages(name string, data []byte) [][]byte {
	var out [][]byte
	places := []int{0, 1, 7, len(data) / 4, len(data) / 2, 3 * len(data) / 4, len(data) - 9, len(data) - 1}
	if strings.HasSuffix(name, ".parquet") {
		foot := len(data) - 8 - int(binary.LittleEndian.Uint32(data[len(data)-8:]))
		places = []int{4, 7, 40, foot, (foot + len(data)) / 2, len(data) - 9, len(data) - 8, len(data) - 1}
	}
	for _, at := range places {
		if at >= 0 && at < len(data) {
			bad := bytes.Clone(data)
			bad[at] ^= 1 << (at % 7)
			out = append(out, bad)
		}
	}
	return append(out, data[:len(data)/2], data[:len(data)-1], nil, append(bytes.Clone(data), 0))
}

// refused damages an object in every way and wants what to fail each time, naming it, with nothing wrong published.
func (s *site) refused(name string, what func() error) {
	s.t.Helper()
	good, err := s.blobs.Get(name)
	if err != nil {
		s.t.Fatal(err)
	}
	good = bytes.Clone(good)
	for i, bad := range damages(name, good) {
		s.replace(name, bad)
		if err := what(); err == nil || !strings.Contains(err.Error(), name) {
			s.t.Errorf("%s, damage %d: %v", name, i, err)
		}
	}
	s.replace(name, good)
}

// right says that all that is published is what the oracle says.
func (s *site) right(records []oracle.Record) {
	s.t.Helper()
	want := map[string]bool{}
	for _, l := range oracle.Run([]*tenant.Config{s.chain.Revs[0].Config}, records, false).RowLines() {
		want[l] = true
	}
	lines, err := embedded.Lines(context.Background(), s.store, "shop", "batch", 0, store.MaxMinute)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range lines {
		if !want[l] {
			s.t.Errorf("published, and wrong: %s", l)
		}
	}
}

func TestDamagedInputsOfTheBatchAreNamed(t *testing.T) {
	s := newSite(t)
	first, second := traffic(begin, begin+2*hour), traffic(begin+2*hour, begin+4*hour)
	s.feed(first)
	if err := s.batch(); err != nil {
		t.Fatal(err)
	}
	covered, err := s.p.Job().Covered(context.Background())
	if err != nil || len(covered) < 3 {
		t.Fatalf("%d windows, %v", len(covered), err)
	}
	// Every damage below meets windows that are due, so that all of these are read.
	s.feed(second)
	events, manifests := s.names("events/"), s.names("manifests/")
	s.refused(events[len(events)-1], s.batch)
	s.right(slices.Concat(first, second))
	s.refused(manifests[0], s.batch)
	s.refused(manifests[len(manifests)-1], s.batch)
	s.refused(manifests[len(manifests)/2], func() error { return s.open() })
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	// What was covered on the way is read on.
	if covered, err = s.p.Job().Covered(context.Background()); err != nil {
		t.Fatal(err)
	}
	run := ""
	for _, w := range slices.Sorted(maps.Keys(covered)) {
		if files := covered[w].Files; files[0].Rows > 0 {
			run = files[0].Name
		}
	}
	s.refused(run, s.batch)
	s.refused(path.Dir(run)+"/run.json", s.batch)
	s.right(slices.Concat(first, second))
	if err := s.batch(); err != nil {
		t.Fatalf("all is mended, and yet: %v", err)
	}
	s.right(slices.Concat(first, second))
}

func TestPlansAreSealed(t *testing.T) {
	s := newSite(t)
	s.feed(traffic(begin, begin+2*hour))
	if err := s.batch(); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.names("batch/", "plans/") {
		data, err := s.blobs.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		var plan map[string]any
		if _, err := sealed.Unmarshal(data, &plan); err != nil || plan["Windows"] == nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, bad := range damages(name, data) {
			if _, err := sealed.Unmarshal(bad, &plan); err == nil {
				t.Errorf("%s: damage is not seen", name)
			}
		}
	}
}

func TestDamagedCoverageIsNamed(t *testing.T) {
	s := newSite(t)
	s.feed(traffic(begin, begin+2*hour))
	if err := s.batch(); err != nil {
		t.Fatal(err)
	}
	var last store.Coverage
	err := s.store.Coverage(context.Background(), "shop", 0, store.MaxMinute, func(c store.Coverage) error {
		c.Data = bytes.Clone(c.Data)
		last = c
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	good := last.Data
	wrongPlace := last
	wrongPlace.Window += 30
	for i, bad := range append(damages("", good), good) {
		c := last
		c.Data = bad
		if i == len(damages("", good)) {
			c = wrongPlace // good bytes, of another window
		}
		last.Generation++ // the store keeps the greatest
		c.Generation = last.Generation
		if err := s.store.PutCoverage(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		if err := s.batch(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("coverage of shop, window %d", last.Window)) {
			t.Errorf("damage %d: %v", i, err)
		}
	}
}

func TestDamagedCheckpointsAndClaimsAreNamed(t *testing.T) {
	s := newSite(t)
	s.feed(traffic(begin, begin+2*hour))
	checkpoints := s.names("checkpoints/", ".checkpoint")
	s.refused(checkpoints[len(checkpoints)-1], s.open)
	for _, claim := range s.names("checkpoints/", "claim.json") {
		s.refused(claim, s.open)
	}
	if err := s.open(); err != nil {
		t.Fatalf("all is mended, and yet: %v", err)
	}
}

func TestDamagedMetricsMessagesAreNamed(t *testing.T) {
	s := newSite(t)
	s.feed(traffic(begin, begin+10*minute))
	for p := range s.opt.Metrics {
		log := s.log.Log(broker.Partition{Topic: "metrics.stream", Partition: p}, 0)
		for _, at := range []int{0, len(log) / 2, len(log) - 1} {
			good := log[at].Value
			for i, bad := range damages("", good) {
				log[at].Value = bad
				empty := openStore(t)
				again, err := embedded.Open(context.Background(), s.opt, s.chain, s.log, s.blobs, empty)
				if err == nil {
					err = again.Pump(context.Background())
				}
				if want := fmt.Sprintf("metrics partition %d, message %d", p, at); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("damage %d of %s: %v", i, want, err)
				}
			}
			log[at].Value = good
		}
	}
}

func TestDamagedRowsAreNamed(t *testing.T) {
	s := newSite(t)
	s.feed(traffic(begin, begin+hour))
	series := store.Series{Tenant: "shop", Metric: "site.home", Layer: s.opt.Layer}
	at := (begin + 10*minute) / minute
	var good []byte
	version := int64(0)
	err := s.store.Rows(context.Background(), series, at, at+1, func(_, v int64, value []byte) error {
		good, version = bytes.Clone(value), v
		return nil
	})
	if err != nil || good == nil {
		t.Fatalf("no row: %v", err)
	}
	for i, bad := range damages("", good) {
		version++
		if err := s.store.PutRows(context.Background(), []store.Row{{Series: series, Minute: at, Version: version, Value: bad}}); err != nil {
			t.Fatal(err)
		}
		lines, err := embedded.Lines(context.Background(), s.store, "shop", "stream", 0, store.MaxMinute)
		if !errors.Is(err, row.ErrCorrupt) && !errors.Is(err, row.ErrVersion) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("minute %d", at)) {
			t.Errorf("damage %d: %d lines, %v", i, len(lines), err)
		}
	}
}
