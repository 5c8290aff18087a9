// Package worlds draws small random worlds, a tenant's revisions and records, whose values lie on the boundaries of
// SPEC 1 to 10: gaps exactly as long as allowed and 1 ms longer, the edges of minutes, experiments and revisions, totals
// that cross their caps. Tests let two implementations loose on one and compare; it serves nothing else.
package worlds

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"tandem/core/oracle"
	"tandem/core/tenant"
)

// World is what a test runs: the YAML texts of the revisions of one tenant, in order, and records in no order. A world
// that Generate gave loads; one that Shrink gave does too.
type World struct {
	Seed    uint64
	Configs []string
	Records []oracle.Record
}

// Generate draws the world of the seed: equal seeds, equal worlds.
func Generate(seed uint64) World {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x776f726c64))}
	g.revisions()
	w := World{Seed: seed}
	for _, c := range g.configs {
		w.Configs = append(w.Configs, c.yaml())
	}
	g.traffic()
	w.Records = g.records
	return w
}

// Chain loads the revisions.
func (w World) Chain() ([]*tenant.Config, error) {
	var files []tenant.File
	for i, text := range w.Configs {
		files = append(files, tenant.File{Name: fmt.Sprintf("r%d.yaml", i+1), Data: []byte(text)})
	}
	return tenant.LoadChain(files)
}

// Compile loads the configs and makes them a chain.
func (w World) Compile() ([]*tenant.Config, *tenant.Chain, error) {
	configs, err := w.Chain()
	if err != nil {
		return nil, nil, err
	}
	chain, err := tenant.Compile(configs)
	return configs, chain, err
}

// String shows the world as the files that it could be stored in. After each record, behind a #, stands its event time
// and how much later it was taken in.
func (w World) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "world of seed %d: %d revisions, %d records\n", w.Seed, len(w.Configs), len(w.Records))
	for i, text := range w.Configs {
		fmt.Fprintf(&b, "--- r%d.yaml\n%s", i+1, text)
	}
	b.WriteString("--- records.tsv\n")
	for _, r := range w.Records {
		payload := string(r.Payload)
		if len(payload) > 1000 {
			payload = payload[:1000] + "..."
		}
		fmt.Fprintf(&b, "%d\t%s", r.Ingest, payload)
		if ts, ok := eventTime(r.Payload); ok {
			fmt.Fprintf(&b, "\t# %s, taken in %s later", time.UnixMilli(ts).UTC().Format("02T15:04:05.000"),
				time.Duration(r.Ingest-ts)*time.Millisecond)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// eventTime reads the ts of a payload, as far as a reader of messages is served by it.
func eventTime(payload []byte) (int64, bool) {
	var head struct {
		TS any `json:"ts"`
	}
	if json.Unmarshal(payload, &head) != nil {
		return 0, false
	}
	switch ts := head.TS.(type) {
	case float64:
		return int64(ts), ts > 0 && ts < 1e15
	case string:
		t, err := time.Parse(time.RFC3339, ts)
		return t.UnixMilli(), err == nil
	}
	return 0, false
}

// generator draws the parts of a world.
type generator struct {
	*rand.Rand
	configs  []*config
	decimals map[string]int // of each point.value, which never change
	narrow   bool           // few things and short times, so that what revisions change meets the same session
	begin    int64          // of the traffic, ms
	span     int64          // its length, ms
	edges    []int64        // moments where something begins or ends
	records  []oracle.Record
	beacons  []beacon
}

// chance is true that often in a hundred.
func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// some draws between least and all of the given, in their order.
func some[T any](g *generator, least int, of ...T) []T {
	n := least + g.IntN(len(of)-least+1)
	var out []T
	for i, v := range of {
		if g.IntN(len(of)-i) < n {
			out = append(out, v)
			n--
		}
	}
	return out
}
