package sessionize

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"

	"tandem/core/metric"
	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

var long = flag.Bool("long", false, "run the long tests too")

// t0 is a full half hour.
const (
	t0     = int64(1_767_225_600_000)
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
)

const shopYAML = `
tenant: shop
visit_gap: 30m
session_ttl: 12h
lateness: 10m
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

func load(t testing.TB, texts ...string) *tenant.Chain {
	t.Helper()
	var files []tenant.File
	for i, text := range texts {
		files = append(files, tenant.File{Name: fmt.Sprintf("r%d.yaml", i), Data: []byte(text)})
	}
	configs, err := tenant.LoadChain(files)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// hit is a beacon's payload.
func hit(session, id string, ts int64, more string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"tenant":"shop","session":%q,"ts":%d,"point":"home"%s}`, id, session, ts, more)
}

// feed is the log of one partition.
type feed struct {
	recs    []broker.Record
	sources wire.Sources
}

func newFeed(sources int) *feed {
	f := &feed{sources: wire.Sources{Revision: 1}}
	for i := range sources {
		f.sources.List = append(f.sources.List, wire.Source{Cluster: "c", Topic: "raw", TopicID: "raw", Partition: int32(i), Kind: wire.KindLive})
	}
	return f
}

func (f *feed) add(r broker.Record) {
	r.Topic, r.Offset = "beacons", int64(len(f.recs))
	f.recs = append(f.recs, r)
}

// beacon appends a beacon of source 0, whose offset there is its place in this log.
func (f *feed) beacon(ingest int64, payload []byte) {
	origin := wire.AppendOrigin(nil, wire.Origin{Offset: int64(len(f.recs))})
	f.add(broker.Record{Time: ingest, Value: payload, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: origin}}})
}

func (f *feed) progress(at ...wire.SourceAt) {
	p := wire.Progress{Sources: f.sources, At: at}
	f.add(broker.Record{Value: wire.AppendProgress(nil, &p), Headers: []broker.Header{{Key: wire.HeaderProgress}}})
}

// tell appends the progress of source 0.
func (f *feed) tell(ms int64) {
	f.progress(wire.SourceAt{MS: ms, Offset: int64(len(f.recs))})
}

func (f *feed) payload(offset int64) ([]byte, error) {
	if offset < 0 || offset >= int64(len(f.recs)) {
		return nil, fmt.Errorf("no record %d", offset)
	}
	return f.recs[offset].Value, nil
}

// sink keeps what a worker writes.
type sink struct{ recs []broker.Record }

func (s *sink) Write(_ context.Context, recs []broker.Record) error {
	for _, r := range recs {
		r.Value = bytes.Clone(r.Value)
		s.recs = append(s.recs, r)
	}
	return nil
}

func config(tick int64) Config {
	return Config{Layer: "stream.a", Topic: "beacons", TopicID: "beacons-id", MetricsTopic: "metrics", MetricsPartitions: 3, TickMS: tick, CheckpointTicks: 2}
}

func open(t testing.TB, cfg Config, chain *tenant.Chain, f *feed, blobs Blobs, out Writer) *Worker {
	t.Helper()
	w, err := Open(cfg, chain, blobs, out, f.payload)
	if err != nil {
		t.Fatal(err)
	}
	w.Shard.every = 7 // so that ticks of few records are folded in pieces too
	return w
}

func handle(t testing.TB, w *Worker, recs []broker.Record) {
	t.Helper()
	if err := w.Handle(context.Background(), recs); err != nil {
		t.Fatal(err)
	}
}

// published is a row as a shard published it last, by variation and tags.
type published map[string]int64

type rowName struct {
	minute                     int64
	scope, experiment, metrics string
}

// standing returns the greatest version of every row. It ignores markers: what a shard says of a minute must stay right
// for as long as it says anything of it, since other shards may hold the minute open.
func standing(t testing.TB, recs []broker.Record) map[rowName]published {
	t.Helper()
	rows := map[rowName]published{}
	at := map[rowName][2]int64{}
	for i := range recs {
		m, err := wire.ReadMessage(recs[i].Value)
		if err != nil {
			t.Fatal(err)
		}
		if m.Marker {
			continue
		}
		err = m.Rows(func(r *wire.Row) error {
			k := rowName{m.Minute, []string{"site", "assigned", "fm"}[r.Scope], r.Experiment, r.Metric}
			v := [2]int64{m.Generation, m.Offset}
			if r.Part > 0 {
				v = at[k]
			} else if slices.Compare(v[:], append([]int64(nil), at[k][0], at[k][1])) < 0 {
				return nil
			} else {
				rows[k], at[k] = published{}, v
			}
			for _, c := range r.Cells {
				value := c.Value
				if r.Sketch {
					var s metric.Sketch
					if err := s.UnmarshalBinary(c.Sketch); err != nil {
						return err
					}
					value = s.Estimate()
				}
				rows[k][c.Variation+"\t"+c.Tags] = value
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// lines returns rows as lines of a rows file (SPEC 11).
func lines(chain *tenant.Chain, rows map[rowName]published) []string {
	var out []string
	for k, cells := range rows {
		for c, v := range cells {
			if v == 0 {
				continue
			}
			variation, tags, _ := bytes.Cut([]byte(c), []byte("\t"))
			name := chain.Tenant + ".visit.site." + k.metrics
			if k.scope != "site" {
				name = fmt.Sprintf("%s.visit.%s.%s.%s.%s", chain.Tenant, k.scope, k.experiment, variation, k.metrics)
			}
			out = append(out, fmt.Sprintf("%s\t%s\t%d\t%d", name, tags, k.minute, v))
		}
	}
	slices.Sort(out)
	return out
}

// differ lists what only one of two sorted lists has.
func differ(t testing.TB, what string, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	w, g := map[string]bool{}, map[string]bool{}
	for _, l := range want {
		w[l] = true
	}
	for _, l := range got {
		g[l] = true
	}
	n := 0
	for _, l := range slices.Sorted(maps.Keys(w)) {
		if !g[l] && n < 20 {
			n++
			t.Errorf("%s: missing %s", what, l)
		}
	}
	for _, l := range slices.Sorted(maps.Keys(g)) {
		if !w[l] && n < 40 {
			n++
			t.Errorf("%s: too many %s", what, l)
		}
	}
	if n == 0 {
		t.Errorf("%s: repeated lines", what)
	}
}

// fill makes the log of records, as dispatch does: in order of ingest time, with progress every so many ms, and in the
// end time enough for everything to end.
func (f *feed) fill(chain *tenant.Chain, records []oracle.Record, every int64) {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b oracle.Record) int {
		return cmp.Or(cmp.Compare(a.Ingest, b.Ingest), bytes.Compare(a.Payload, b.Payload))
	})
	told, last := int64(0), int64(0)
	for _, r := range records {
		if wellFormed(chain, r.Payload) {
			f.beacon(r.Ingest, r.Payload)
		}
		if n := r.Ingest / every; n > told {
			told = n
			f.tell(r.Ingest)
		}
		last = max(last, r.Ingest)
	}
	for range 40 {
		last += hour
		f.tell(last)
	}
}

// wellFormed leaves out what dispatch would reject by its form or tenant.
func wellFormed(chain *tenant.Chain, payload []byte) bool {
	var b struct{ Tenant any }
	return json.Unmarshal(payload, &b) == nil && b.Tenant == chain.Tenant
}

// play runs a whole log through a fresh worker and returns it with what it wrote.
func play(t testing.TB, chain *tenant.Chain, f *feed, tick int64) (*Worker, []broker.Record) {
	t.Helper()
	return playSettling(t, chain, f, tick, settleEvery)
}

// playSettling is play, with so many records folded at once in the middle of ticks.
func playSettling(t testing.TB, chain *tenant.Chain, f *feed, tick int64, every int) (*Worker, []broker.Record) {
	t.Helper()
	var out sink
	w := open(t, config(tick), chain, f, blob.NewMem(), &out)
	w.Shard.every = every
	handle(t, w, f.recs)
	return w, out.recs
}
