package batch

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/oracle"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

const topic = "beacons.shop.0"

const config = `
session_ttl: 1h
tags: {device: [desktop, mobile]}
points:
  home: {kind: page, stats: true}
  order: {values: {revenue: {cap: 50, histogram: true}}}
cross: [[order.revenue, home]]
experiments:
  color:
    variations: [control, red]
    qualify: ['point == "home"']
`

func digest(r *tenant.Rev) uint64 { return max(r.Digest, 1) }

// parse gives the rows of records for two partitions, as an archiver would. Each fifth record is left for the batch to
// parse.
func parse(chain *tenant.Chain, records []oracle.Record) (parts [2][]archive.Row) {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b oracle.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	var parser beacon.Parser
	var reader session.Reader
	var b beacon.Beacon
	for i, r := range records {
		if parser.Parse(r.Payload, &b) != beacon.None || !b.HasTS || b.TS < session.MinTS || b.TS > session.MaxTS {
			continue
		}
		x := archive.Row{Session: bytes.Clone(b.Session), ID: bytes.Clone(b.ID), TS: b.TS, Payload: r.Payload, Ingest: r.Ingest, Hash: xxhash.Sum64(b.Session)}
		var e session.Event
		if string(b.Tenant) == chain.Tenant && i%5 > 0 {
			if v := reader.Read(chain, &b, r.Ingest, &e); v.Reason == beacon.None {
				x.Digest = digest(v.Rev)
				if v.Used {
					x.Event = session.AppendEvent(nil, &e)
				}
			}
		}
		parts[x.Hash%2] = append(parts[x.Hash%2], x)
	}
	return parts
}

// put archives records, with so many manifests a partition, and says that time has passed by all of them.
func put(t testing.TB, blobs blob.Store, chain *tenant.Chain, records []oracle.Record, manifests int) {
	t.Helper()
	putUntil(t, blobs, chain, records, manifests, session.MaxTS)
}

func putUntil(t testing.TB, blobs blob.Store, chain *tenant.Chain, records []oracle.Record, manifests int, progress int64) {
	t.Helper()
	for p, rest := range parse(chain, records) {
		for k := manifests; k > 0; k-- {
			n := len(rest) / k
			add(t, blobs, chain, int32(p), rest[:n], progress)
			rest = rest[n:]
		}
	}
}

// add goes on where the partition's manifests end.
func add(t testing.TB, blobs blob.Store, chain *tenant.Chain, partition int32, rows []archive.Row, progress int64) {
	t.Helper()
	first := int64(0)
	before, err := archive.Chain(blobs, topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(before); n > 0 {
		first = before[n-1].Next
	}
	if err := archive.RecordPartitions(blobs, archive.Partitions{Topic: topic, TopicID: "id", Count: 2}); err != nil {
		t.Fatal(err)
	}
	m := archive.Manifest{Topic: topic, TopicID: "id", Partition: partition, First: first, Next: first + int64(len(rows)) + 1,
		Progress: map[string]int64{"source": progress}}
	if len(rows) > 0 {
		rows = slices.Clone(rows)
		for i := range rows {
			rows[i].Offset = first + int64(i)
		}
		archive.Sort(rows)
		data, info, err := archive.Write(rows)
		if err != nil {
			t.Fatal(err)
		}
		if info, _, err = archive.Create(blobs, chain.Tenant, topic, partition, first, 0, t0, data, info); err != nil {
			t.Fatal(err)
		}
		m.Files, m.Windows = []archive.FileInfo{info}, archive.CountWindows(rows)
	}
	if err := archive.Append(blobs, m); err != nil {
		t.Fatal(err)
	}
}

func job(t testing.TB, chain *tenant.Chain, blobs blob.Store, ranges int) (*Job, store.Store) {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &Job{Chain: chain, Topics: []Topic{{Name: topic, ID: "id", Partitions: 2}}, Blobs: blobs, Store: st, Digest: digest, Ranges: ranges}, st
}

func run(t testing.TB, j *Job) {
	t.Helper()
	if err := j.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// outcome is what a reader sees: the lines of a rows file in the generations that coverage names, the counts, and the
// digests of the runs by window.
type outcome struct {
	rows    []string
	counts  map[string]int64
	digests map[int64]Digest
}

func outcomeOf(t testing.TB, j *Job, st store.Store) outcome {
	t.Helper()
	ctx := context.Background()
	covered, err := j.Covered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := outcome{counts: map[string]int64{}, digests: map[int64]Digest{}}
	for w, c := range covered {
		if !c.Run.Digest.empty() { // one without sessions may be of a window that another config does not know
			o.digests[w] = c.Run.Digest
		}
		for name, n := range map[string]int64{"records": c.Counts.Records, "unused": c.Counts.Unused, "duplicate": c.Counts.Duplicate,
			"overflow": c.Counts.Overflow, "conflict": c.Counts.Conflict, "unknown_variation": c.Counts.UnknownVariation, "late": c.Counts.Late} {
			o.counts[name] += n
		}
	}
	var series []store.Series
	if err := st.Catalog(ctx, j.Chain.Tenant, func(s store.Series) error { series = append(series, s); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, s := range series {
		err := st.Rows(ctx, s, 0, store.MaxMinute, func(m, _ int64, value []byte) error {
			c := covered[m*minute/WindowMS*WindowMS]
			if c == nil || Layer(c.Generation) != s.Layer {
				return nil
			}
			scope, name, _ := strings.Cut(s.Metric, ".")
			_, err := row.Decode(value, func(c row.Cell) error {
				full := j.Chain.Tenant + ".visit.site." + name
				if s.Experiment != "" {
					full = strings.Join([]string{j.Chain.Tenant, "visit", scope, s.Experiment, c.Variation, name}, ".")
				}
				if c.Sketch != nil {
					var sk metric.Sketch
					if err := sk.UnmarshalBinary(c.Sketch); err != nil {
						return err
					}
					c.Value = sk.Estimate()
				}
				if c.Value != 0 {
					o.rows = append(o.rows, fmt.Sprintf("%s\t%s\t%d\t%d", full, c.Tags, m, c.Value))
				}
				return nil
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(o.rows)
	return o
}

func (o *outcome) same(t testing.TB, what string, want outcome) {
	t.Helper()
	sameLines(t, what, o.rows, want.rows)
	if !maps.Equal(o.counts, want.counts) {
		t.Errorf("%s: counts %v, want %v", what, o.counts, want.counts)
	}
	if !maps.Equal(o.digests, want.digests) {
		t.Errorf("%s: the runs have other digests", what)
	}
}

func sameLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: %d lines, want %d; the first that differs is %d:\n%q\nwant\n%q", what, len(got), len(want), i,
				got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
			return
		}
	}
}

// traffic draws records of some sessions over two windows: repeats, late ones, conflicts, values, visitors.
func traffic(sessions int) []oracle.Record {
	return trafficOver(rand.New(rand.NewPCG(1, 2)), sessions, 40*minute)
}

// trafficOver draws sessions that begin within so many ms.
func trafficOver(rng *rand.Rand, sessions int, span int64) []oracle.Record {
	var out []oracle.Record
	for s := range sessions {
		ts := t0 + rng.Int64N(span)
		for k := range 1 + rng.IntN(6) {
			text := fmt.Sprintf(`{"id":"e%d","tenant":"shop","session":"s%d","visitor":"v%d","ts":%d,"device":"%s"`, k, s, s/2, ts, []string{"desktop", "mobile", "tv"}[rng.IntN(3)])
			switch rng.IntN(4) {
			case 0:
				text += fmt.Sprintf(`,"point":"order","values":{"revenue":%d.5}`, rng.IntN(90))
			case 1:
				text += `,"point":"elsewhere"`
			default:
				text += `,"point":"home"`
			}
			if rng.IntN(2) == 0 {
				text += fmt.Sprintf(`,"experiments":{"color":"%s"}`, []string{"red", "control", "blue"}[rng.IntN(3)])
			}
			delay := []int64{0, 1000, 10 * minute, 10*minute + 1, 60 * minute}[rng.IntN(5)]
			out = append(out, oracle.Record{Ingest: ts + delay, Payload: []byte(text + "}")})
			if rng.IntN(5) == 0 {
				out = append(out, oracle.Record{Ingest: ts + 20*minute, Payload: []byte(text + `,"attrs":{"again":1}}`)})
			}
			ts += rng.Int64N(20 * minute)
		}
	}
	return out
}

// wanted is what the oracle says.
func wanted(t testing.TB, configs []*tenant.Config, records []oracle.Record, onTime bool) ([]string, map[string]int64) {
	t.Helper()
	res := oracle.Run(configs, records, onTime)
	return res.RowLines(), res.Counts
}

// compiled is the chain of the config of these tests.
func compiled(t testing.TB) (*tenant.Chain, []*tenant.Config) {
	t.Helper()
	configs := load(t, config)
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	return chain, configs
}
