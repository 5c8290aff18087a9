package campaign

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/wire"
)

// prefixes is stage 2 by DESIGN's definition, slowly and with everything kept: the rows that a prefix of a partition of
// the metrics topic gives. It tells whether each value that was seen in the store is the one of the prefix that its
// version names, the offset of the minute's first message and the version together.
type prefixes struct {
	layer     string
	partition int32
	shards    map[string]int // by tenant: how many there are
	tenants   map[string]*telling
	bases     map[int64]int64
	report    func(format string, args ...any)

	seen    map[rowKey]*history // of all partitions
	checked map[rowKey]int      // sightings that a prefix explains
}

// telling is what was told of a tenant.
type telling struct {
	markers     map[shardName]int64
	generations map[shardName][]bound
	minutes     map[int64]map[rowName]told
}

type shardName struct {
	topic     string
	partition int32
}

// bound is a generation and the first minute of which its rows stand.
type bound struct{ generation, first int64 }

type rowName struct{ experiment, metric string }

// touch is a row that a message told, or made another one.
type touch struct {
	minute int64
	rowName
}

// told is a row by shard and version; rows that are not all there are kept beside.
type told struct {
	whole  map[shardName]map[version][]row.Cell
	parts  map[shardName]map[version][][]row.Cell
	sketch bool
}

type version struct{ generation, offset int64 }

func (a version) compare(b version) int {
	return cmp.Or(cmp.Compare(a.generation, b.generation), cmp.Compare(a.offset, b.offset))
}

func newPrefixes(layer string, partition int32, shards map[string]int, seen map[rowKey]*history, report func(string, ...any)) *prefixes {
	p := &prefixes{layer: layer, partition: partition, shards: shards, tenants: map[string]*telling{}, bases: map[int64]int64{},
		report: report, seen: seen, checked: map[rowKey]int{}}
	for name := range shards {
		p.tenants[name] = &telling{map[shardName]int64{}, map[shardName][]bound{}, map[int64]map[rowName]told{}}
	}
	return p
}

var scopeNames = []string{"site.", "assigned.", "fm."}

// take takes the next message.
func (p *prefixes) take(offset int64, value []byte) error {
	m, err := wire.ReadMessage(value)
	if err != nil {
		return fmt.Errorf("%s, metrics partition %d, message %d: %w", p.layer, p.partition, offset, err)
	}
	t := p.tenants[m.Tenant]
	if t == nil {
		return fmt.Errorf("%s, metrics partition %d, message %d: tenant %q", p.layer, p.partition, offset, m.Tenant)
	}
	shard := shardName{m.Topic, m.Partition}
	touched := map[touch]bool{}
	p.raise(t, shard, bound{m.Generation, m.FirstMinute}, touched)
	if m.Marker {
		t.markers[shard] = max(t.markers[shard], t.reaches(shard, m.Generation, m.Minute))
		p.check(t, m.Tenant, touched, offset)
		for minute := range t.minutes {
			if minute < t.closed(p.shards[m.Tenant]) {
				delete(t.minutes, minute) // what comes of it is ignored
			}
		}
		return nil
	}
	if _, ok := p.bases[m.Minute]; !ok {
		p.bases[m.Minute] = offset
	}
	if m.Minute < t.closed(p.shards[m.Tenant]) {
		p.check(t, m.Tenant, touched, offset)
		return nil
	}
	if t.minutes[m.Minute] == nil {
		t.minutes[m.Minute] = map[rowName]told{}
	}
	rows := t.minutes[m.Minute]
	err = m.Rows(func(r *wire.Row) error {
		name := rowName{r.Experiment, scopeNames[r.Scope] + r.Metric}
		told, ok := rows[name]
		if !ok {
			told.whole, told.parts, told.sketch = map[shardName]map[version][]row.Cell{}, map[shardName]map[version][][]row.Cell{}, r.Sketch
			rows[name] = told
		}
		told.add(shard, version{m.Generation, m.Offset}, r)
		touched[touch{m.Minute, name}] = true
		return nil
	})
	p.check(t, m.Tenant, touched, offset)
	return err
}

// add keeps a row that a shard told. Of versions that are whole the greatest of each generation is enough.
func (t told) add(shard shardName, v version, r *wire.Row) {
	if t.whole[shard] == nil {
		t.whole[shard], t.parts[shard] = map[version][]row.Cell{}, map[version][][]row.Cell{}
	}
	cells := []row.Cell{}
	for _, c := range r.Cells {
		c.Sketch = slices.Clone(c.Sketch)
		cells = append(cells, c)
	}
	if r.Parts > 1 {
		parts := t.parts[shard][v]
		if parts == nil {
			parts = make([][]row.Cell, r.Parts)
			t.parts[shard][v] = parts
		}
		parts[r.Part] = cells
		for _, part := range parts {
			if part == nil {
				return
			}
		}
		cells = slices.Concat(parts...)
		delete(t.parts[shard], v)
	}
	for other := range t.whole[shard] {
		if other.generation == v.generation && other.offset > v.offset {
			return
		}
		if other.generation == v.generation {
			delete(t.whole[shard], other)
		}
	}
	t.whole[shard][v] = cells
}

// raise notes a shard's generation: its rows stand from its first minute on, but for minutes that lower generations had
// told whole.
func (p *prefixes) raise(t *telling, shard shardName, b bound, touched map[touch]bool) {
	known := t.generations[shard]
	if len(known) == 0 {
		known = []bound{{0, math.MinInt64}}
		t.markers[shard] = max(t.markers[shard], 0)
	}
	if b.generation > known[len(known)-1].generation {
		b.first = max(b.first, t.markers[shard])
		known = append(known, b)
		t.generations[shard] = known
		for minute, rows := range t.minutes {
			for name := range rows {
				if minute >= b.first {
					touched[touch{minute, name}] = true
				}
			}
		}
	}
	t.generations[shard] = known
}

// reaches is how far a generation's marker counts: to where the next ones begin.
func (t *telling) reaches(shard shardName, generation, minute int64) int64 {
	for _, b := range t.generations[shard] {
		if b.generation > generation {
			minute = min(minute, b.first)
		}
	}
	return minute
}

// stands says whether what a generation told of a minute stands.
func (t *telling) stands(shard shardName, generation, minute int64) bool {
	for _, b := range t.generations[shard] {
		if b.generation == generation && minute < b.first || b.generation > generation && minute >= b.first {
			return false
		}
	}
	return true
}

// closed: the minutes before it are done, by the markers of all shards.
func (t *telling) closed(shards int) int64 {
	if len(t.markers) < shards {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(t.markers)))
}

// value is a row as the prefix gives it: the sum of the greatest versions of all shards.
func (t *telling) value(minute int64, name rowName) ([]byte, error) {
	told := t.minutes[minute][name]
	sums := map[[2]string]int64{}
	sketches := map[[2]string][][]byte{}
	for shard, versions := range told.whole {
		var best *version
		for v := range versions {
			if t.stands(shard, v.generation, minute) && (best == nil || v.compare(*best) > 0) {
				best = &v
			}
		}
		if best == nil {
			continue
		}
		for _, c := range versions[*best] {
			key := [2]string{c.Variation, c.Tags}
			if told.sketch {
				sketches[key] = append(sketches[key], c.Sketch)
			} else {
				sums[key] += c.Value
			}
		}
	}
	kind := row.Sums
	var cells []row.Cell
	for key, v := range sums {
		if v != 0 {
			cells = append(cells, row.Cell{Variation: key[0], Tags: key[1], Value: v})
		}
	}
	if told.sketch {
		kind = row.Sketches
	}
	for key, all := range sketches {
		var union, one metric.Sketch
		for _, b := range all {
			if err := one.UnmarshalBinary(b); err != nil {
				return nil, err
			}
			union.Merge(&one)
		}
		cells = append(cells, row.Cell{Variation: key[0], Tags: key[1], Sketch: union.AppendBinary(nil)})
	}
	slices.SortFunc(cells, func(a, b row.Cell) int {
		return cmp.Or(cmp.Compare(a.Variation, b.Variation), cmp.Compare(a.Tags, b.Tags))
	})
	return row.Append(nil, kind, cells)
}

// check compares the rows that a message touched with what was seen of them at the version that it gives them.
func (p *prefixes) check(t *telling, tenant string, touched map[touch]bool, offset int64) {
	for x := range touched {
		k := rowKey{store.Series{Tenant: tenant, Experiment: x.experiment, Metric: x.metric, Layer: p.layer}, x.minute}
		h := p.seen[k]
		if h == nil {
			continue
		}
		v := offset - p.bases[x.minute]
		at, ok := slices.BinarySearchFunc(h.sightings, v, func(s sighting, v int64) int { return cmp.Compare(s.version, v) })
		if !ok {
			continue
		}
		p.checked[k]++
		value, err := t.value(x.minute, x.rowName)
		if err != nil {
			p.report("%s, metrics partition %d, message %d: %s: %v", p.layer, p.partition, offset, k, err)
		} else if xxhash.Sum64(value) != h.sightings[at].digest {
			p.report("%s, version %d: what was seen in the store is not what the metrics topic's prefix up to message %d of partition %d gives", k, v, offset, p.partition)
		}
	}
}

// unexplained reports sightings of a layer whose version is that of no message that told the row, and returns how many
// sightings there were.
func unexplained(layer string, seen map[rowKey]*history, partitions []*prefixes, report func(string, ...any)) (sightings int) {
	for k, h := range seen {
		if k.Layer != layer {
			continue
		}
		sightings += len(h.sightings)
		n := 0
		for _, p := range partitions {
			n += p.checked[k]
		}
		if n != len(h.sightings) {
			report("%s: of %d versions that were seen %d are those of a message that tells the row", k, len(h.sightings), n)
		}
	}
	return sightings
}
