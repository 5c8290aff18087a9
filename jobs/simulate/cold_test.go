package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"tandem/core/oracle"
	"tandem/schemas/sealed"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/sessionize"
)

// coldStart is a generation that began without state.
type coldStart struct {
	generation  int64
	start       int64 // offset
	first       int64 // minute
	told        int64 // minutes before this one had been told whole in all partitions
	most        int64 // and before this one in some
	incarnation int   // of the shard's claims: they may be lost with all else
}

// stands is the first minute whose rows are those of this generation: none that was told whole before.
func (k *coldStart) stands() int64 { return max(k.first, k.told) }

// hole are minutes [from, to) of a tenant that stage 2 may have written in part: some of what was told of them is lost.
type hole struct {
	tenant   string
	from, to int64
}

// disasters have partitions of the stream lose what they would go on from.
func (p *plant) disasters() {
	s := p.sim
	for range s.opt.Cold {
		s.at(s.now+s.r.Int64N(p.last-s.now+1), func() {
			c := pick(s.r, p.centres...)
			x := pick(s.r, c.seats...)
			for x.kind != "shard" && (x.kind != "aggregate" || s.r.IntN(2) == 0) {
				x = pick(s.r, c.seats...)
			}
			p.disaster(c, x)
		})
	}
}

// disaster ends whoever works on a partition, has what it would be gone on from be lost, and has operators begin again, cold.
func (p *plant) disaster(c *centre, x *seat) {
	s := p.sim
	if x.now == nil {
		return // somebody else is at it
	}
	for _, t := range x.all {
		t.th.left, t.th.paused = true, 0
	}
	x.now = nil
	x.epoch++
	c.cold = true
	s.met["disasters"]++
	s.tell("%s %s/%d: its owner is gone, and with it", c.name, x.kind, x.n)
	if x.kind == "aggregate" {
		from := c.kafka.commits[group("stream", x.p)].Offset
		c.kafka.truncate(x.p, from+s.r.Int64N(max(p.lastMarkers(c, x.p)-from, 0)+1))
	} else {
		p.loseShard(c, x)
	}
	// What was on its way from the owner before has arrived by then.
	s.at(s.now+2*s.opt.TickMS+1+s.r.Int64N(2*c.tickMS), func() { c.take(x) })
}

// lastMarkers is the offset from which on a log has the last marker of each shard, by which stage 2 knows how far all are.
func (p *plant) lastMarkers(c *centre, part broker.Partition) int64 {
	last := map[shardKey]int64{}
	for _, r := range c.kafka.logs[part] {
		if m, err := wire.ReadMessage(r.Value); err == nil && m.Marker {
			last[shardKey{c.name, m.Topic, m.Partition}] = r.Offset
		}
	}
	if len(last) == 0 {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(last)))
}

// loseShard has a shard's checkpoints be lost, or the log after them, or both; of the log what is archived.
func (p *plant) loseShard(c *centre, x *seat) {
	s := p.sim
	folder := fmt.Sprintf("checkpoints/%s/%s/%d/", c.layer, x.p.Topic, x.p.Partition)
	names, _ := quietBlobs{c.blobs}.List(folder)
	claims := 0
	for _, name := range names {
		if strings.HasSuffix(name, "/claim.json") {
			claims++
		}
	}
	kind := s.r.IntN(4)
	for _, name := range names {
		// Claims go only where there is but one: of a generation that is claimed again nothing stands that a later one told.
		if claim := strings.HasSuffix(name, "/claim.json"); kind > 0 && !claim || kind == 3 && claims == 1 && claim {
			delete(c.blobs.objects, name)
			s.tell("lost: %s", name)
			if claim {
				x.incarnation++
			}
		}
	}
	if kind < 2 || s.r.IntN(2) == 0 {
		at := p.archived(c, x.p)
		from, ok, err := sessionize.Resume(sessionize.Config{Layer: c.layer, TopicID: x.p.Topic, Partition: x.p.Partition}, quietBlobs{c.blobs})
		// A shard that could go on would ask for payloads of beacons that are still open, and end for good (README, what it found).
		if err != nil || !ok || from < at {
			c.kafka.truncate(x.p, at)
		}
	}
}

// archived is up to which offset manifests have all.
func (p *plant) archived(c *centre, part broker.Partition) (next int64) {
	for _, m := range p.manifests(c, part) {
		next = max(next, m.Next)
	}
	return next
}

// manifests are those of a partition, by first offset.
func (p *plant) manifests(c *centre, part broker.Partition) (all []manifest) {
	names, _ := quietBlobs{c.blobs}.List(fmt.Sprintf("manifests/%s/%d/", part.Topic, part.Partition))
	for _, name := range names {
		data, err := c.blobs.find(name)
		var m manifest
		if err == nil {
			_, err = sealed.Unmarshal(data, &m)
		}
		if err != nil {
			p.found("archive: %s: %v", name, err)
			return nil
		}
		all = append(all, m)
	}
	return all
}

// truncate has a log begin at an offset. Checkers still see what was before.
func (k *kafka) truncate(p broker.Partition, at int64) {
	if k.starts[p] = max(k.starts[p], at); k.starts[p] > 0 {
		k.s.tell("%s begins at %d of %d", k.place(p, 0), k.starts[p], len(k.logs[p]))
	}
}

// logOf implements service.Log for the owner of a partition, of that partition.
type logOf struct{ *tenure }

func (t logOf) Bounds(_ context.Context, p broker.Partition) (first, next int64, err error) {
	k := t.c.kafka
	if err := k.s.step("bounds"); err != nil {
		return 0, 0, err
	}
	if k.s.fault("poll", .003) {
		return 0, 0, fmt.Errorf("bounds of %s: %w", p.Topic, errInjected)
	}
	return k.starts[p], int64(len(k.logs[p])), nil
}

func (t logOf) Follow(_ context.Context, _ broker.Partition, from int64, fn func(recs []broker.Record) (bool, error)) error {
	for {
		recs, err := t.feed(from)
		if err != nil {
			return err
		}
		if t.leaving {
			return errLeft
		}
		from += int64(len(recs))
		if enough, err := fn(recs); enough || err != nil {
			return err
		}
	}
}

// claimed is what a checker reads of a claim.
type claimed struct {
	Start       int64
	From        string
	FirstMinute int64
	TickMS      int64
	Core        int
	Metrics     int
}

// shardKey names a shard of a data centre.
type shardKey struct {
	centre, topic string
	partition     int32
}

// claimMade checks a claim that begins without state as it is made, by the log itself.
func (p *plant) claimMade(c *centre, name string, data []byte) {
	if !strings.HasSuffix(name, "/claim.json") {
		return
	}
	var topic string
	var n int32
	var generation int64
	if _, err := fmt.Sscanf(strings.ReplaceAll(strings.TrimPrefix(name, "checkpoints/"+c.layer+"/"), "/", " "), "%s %d %d", &topic, &n, &generation); err != nil {
		p.found("cold: %s: %v", name, err)
		return
	}
	var is claimed
	if _, err := sealed.Unmarshal(data, &is); err != nil {
		p.found("cold: %s: %v", name, err)
		return
	}
	k, part := shardKey{c.name, topic, n}, broker.Partition{Topic: topic, Partition: n}
	known := p.checks.colds[k]
	if is.From != "" || is.Start == 0 && is.FirstMinute == 0 || len(known) > 0 && is.Start == known[len(known)-1].start && is.FirstMinute == known[len(known)-1].first {
		return // it goes on from something
	}
	log := c.kafka.logs[part]
	if !c.cold || is.Start > int64(len(log)) || is.Start < c.kafka.starts[part] {
		p.found("cold: %s begins without state at %d, of a log of %d to %d; asked for: %t", name, is.Start, c.kafka.starts[part], len(log), c.cold)
		return
	}
	// More than a minute after anything that a beacon before it can be of.
	skew, moment := int64(0), int64(0)
	x := p.shopOf(topic)
	for _, cfg := range x.configs {
		skew = max(skew, cfg.MaxSkew)
	}
	again := c.comesAgain(log[:is.Start])
	for i := range log[:is.Start] {
		if r := &log[i]; !again(r) {
			moment = max(moment, r.Time)
		}
	}
	if is.FirstMinute*60_000 <= moment+skew+60_000 {
		p.found("cold: %s begins with minute %s, and a beacon before it is of %s", name, minuteText(is.FirstMinute), clock(moment))
	}
	told, most := p.toldWhole(c, topic, n)
	incarnation := 0
	for _, s := range c.seats {
		if s.kind == "shard" && s.p == part {
			incarnation = s.incarnation
		}
	}
	p.met["cold starts"]++
	p.tell("%s begins without state at %d with minute %s; before %s all was told", name, is.Start, minuteText(is.FirstMinute), minuteText(told))
	p.checks.colds[k] = append(known, coldStart{generation, is.Start, is.FirstMinute, told, most, incarnation})
}

// comesAgain says of the records of a log which are no beacons, or ones that dispatch is to send again: it had begun further back
// in their source before the log's end.
func (c *centre) comesAgain(log []broker.Record) func(r *broker.Record) bool {
	told := map[int]int64{}
	for i := range log {
		if _, ok := log[i].Header(wire.HeaderProgress); !ok {
			continue
		}
		progress, err := c.kafka.progress(log[i].Value)
		if err != nil {
			c.s.found("cold: %v", err)
			break
		}
		for _, a := range progress.At {
			told[a.Source] = a.Offset
		}
	}
	return func(r *broker.Record) bool {
		if _, ok := r.Header(wire.HeaderProgress); ok {
			return true
		}
		o, _ := r.Header(wire.HeaderOrigin)
		origin, err := wire.ReadOrigin(o)
		next, known := told[origin.Source]
		return err == nil && known && origin.Offset >= next
	}
}

// toldWhole is the minute before which a shard has told all in every partition, and the one in that which is furthest. What a
// generation tells after a later one counts only before the later one's first minute.
func (p *plant) toldWhole(c *centre, topic string, n int32) (whole, most int64) {
	whole = math.MaxInt64
	for part := range p.opt.Metrics {
		told, newest := int64(0), int64(0)
		firsts := map[int64]int64{}
		for _, r := range c.kafka.logs[broker.Partition{Topic: metricsTopic, Partition: part}] {
			m, err := wire.ReadMessage(r.Value)
			if err != nil || m.Topic != topic || m.Partition != n {
				continue
			}
			if m.Generation > newest {
				newest = m.Generation
				firsts[newest] = max(m.FirstMinute, told)
			}
			if m.Marker {
				minute := m.Minute
				for g, first := range firsts {
					if g > m.Generation {
						minute = min(minute, first)
					}
				}
				told = max(told, minute)
			}
		}
		whole, most = min(whole, told), max(most, told)
	}
	return whole, most
}

func (p *plant) shopOf(topic string) *shop {
	return p.shops[slices.IndexFunc(p.shops, func(x *shop) bool { return x.topic == topic })]
}

// told checks that a shard that began without state tells of no minute before its first one.
func (p *plant) told(c *centre, m *wire.Message, place string) {
	all := p.checks.colds[shardKey{c.name, m.Topic, m.Partition}]
	for i := len(all) - 1; i >= 0; i-- {
		if k := all[i]; m.Generation >= k.generation && k.incarnation == all[len(all)-1].incarnation {
			if m.Minute < k.first {
				p.found("cold: %s: generation %d of shard %d tells of minute %s, and its first is %s", place, m.Generation, m.Partition, minuteText(m.Minute), minuteText(k.first))
			}
			return
		}
	}
}

// lossy notes that stage 2 of a partition begins at an offset without having read what is before it.
func (p *plant) lossy(c *centre, part broker.Partition, next int64, closed map[string]int64) {
	p.met["cold aggregates"]++
	last := map[string]int64{}
	for _, r := range c.kafka.logs[part][:next] {
		if m, err := wire.ReadMessage(r.Value); err == nil && !m.Marker {
			last[m.Tenant] = max(last[m.Tenant], m.Minute)
		}
	}
	for _, x := range p.shops {
		from := p.metrics.progress[progressKey{x.name, c.layer, part.Partition}].ClosedBefore
		c.holes = append(c.holes, hole{x.name, from, max(last[x.name]+1, closed[x.name])})
	}
}

// untold says whether stage 2 of a layer may tell of a minute after it has told that all before a later one is closed: after a cold
// start, as a former owner that does not know yet that it is one.
func (p *plant) untold(tenant, layer string, minute int64) bool {
	return slices.ContainsFunc(p.centres, func(c *centre) bool {
		return c.layer == layer && slices.ContainsFunc(c.holes, func(g hole) bool { return g.tenant == tenant && minute >= g.from && minute < g.to })
	})
}

// isCold says whether anything of a tenant in a data centre began without state.
func (p *plant) isCold(c *centre, x *shop) bool {
	for n := range p.opt.Shards {
		if len(p.checks.colds[shardKey{c.name, x.topic, n}]) > 0 {
			return true
		}
	}
	return len(c.holes) > 0
}

// expectCold is what a data centre's stream has of a tenant after cold starts, and of which minutes that is known: for each minute,
// the oracle's over what each shard has read since the last cold start that stands for it. Not known are the minutes in between:
// some of what they count was told, or is lost.
func (p *plant) expectCold(c *centre, x *shop) (map[string]int64, func(minute int64) bool) {
	holes := slices.Clone(c.holes)
	bounds := map[int64]bool{math.MinInt64: true}
	for n := range p.opt.Shards {
		for _, k := range p.checks.colds[shardKey{c.name, x.topic, n}] {
			bounds[k.stands()] = true
			holes = append(holes, hole{x.name, k.told, k.first}, hole{x.name, k.stands(), k.most})
		}
	}
	lines := map[string]int64{}
	order := slices.Sorted(maps.Keys(bounds))
	for i, from := range order {
		to := int64(math.MaxInt64)
		if i+1 < len(order) {
			to = order[i+1]
		}
		var records []oracle.Record
		for n := range p.opt.Shards {
			start := int64(0)
			for _, k := range p.checks.colds[shardKey{c.name, x.topic, n}] {
				if k.stands() <= from {
					start = k.start
				}
			}
			records = append(records, c.readFrom(broker.Partition{Topic: x.topic, Partition: n}, start)...)
		}
		for row, v := range oracle.Run(x.configs, records, true).Rows {
			if v != 0 && row.Minute >= from && row.Minute < to {
				lines[row.Name+"\t"+row.Tags+"\t"+strconv.FormatInt(row.Minute, 10)] = v
			}
		}
	}
	return lines, func(minute int64) bool {
		return !slices.ContainsFunc(holes, func(g hole) bool { return g.tenant == x.name && minute >= g.from && minute < g.to })
	}
}

// countCold counts the values that are compared of shards that began without state.
func (p *plant) countCold(c *centre, x *shop, want map[string]int64, known func(minute int64) bool) {
	first := int64(math.MaxInt64)
	for n := range p.opt.Shards {
		for _, k := range p.checks.colds[shardKey{c.name, x.topic, n}] {
			first = min(first, k.stands())
		}
	}
	for line := range want {
		if m := minuteOf(line); m >= first && known(m) {
			p.met["cold values"]++
		}
	}
}

// readFrom are the beacons of a log from an offset on, but for those that progress records since then tell to be repeats.
func (c *centre) readFrom(part broker.Partition, start int64) (records []oracle.Record) {
	told := map[int]int64{}
	for _, r := range c.kafka.logs[part][start:] {
		if _, ok := r.Header(wire.HeaderProgress); ok {
			progress, err := c.kafka.progress(r.Value)
			if err != nil {
				c.s.found("cold: %v", err)
				return nil
			}
			for _, a := range progress.At {
				told[a.Source] = max(told[a.Source], a.Offset)
			}
			continue
		}
		o, _ := r.Header(wire.HeaderOrigin)
		if origin, err := wire.ReadOrigin(o); err == nil && origin.Offset >= told[origin.Source] {
			records = append(records, oracle.Record{Ingest: r.Time, Payload: r.Value})
		}
	}
	return records
}

// streamOf is what the stream of a data centre is to have of a tenant, and of which minutes that is known.
func (p *plant) streamOf(c *centre, x *shop, without map[string]int64) (map[string]int64, func(minute int64) bool) {
	switch {
	case !p.isCold(c, x):
		return without, every
	case c.copied: // what a mirror has copied again may be behind the watermark, and its first copy before the beginning
		return nil, func(int64) bool { return false }
	}
	return p.expectCold(c, x)
}

var errNoRange = fmt.Errorf("%w: simulated", broker.ErrOutOfRange)

// beyond says whether a log no longer has what somebody was at.
func (t *tenure) beyond(err error) bool {
	return errors.Is(err, broker.ErrOutOfRange) && t.c.kafka.starts[t.p] > 0
}

var quietLog = slog.New(slog.DiscardHandler)

// loseBatch has all be lost that the batch has made: its runs, or what the store holds of it, or both.
func (p *plant) loseBatch(c *centre, x *shop) {
	kind := p.r.IntN(3)
	p.met["rebuilt"]++
	p.tell("what the batch has made of %s is lost: %s", x.name, [...]string{"runs", "coverage and rows", "all"}[kind])
	if kind != 1 {
		for name := range c.blobs.objects {
			if shop, _, ok := made(name); ok && shop == x.name {
				delete(c.blobs.objects, name)
			}
		}
	}
	if kind == 0 {
		return
	}
	m := p.metrics
	maps.DeleteFunc(m.coverage, func(k windowKey, _ store.Coverage) bool { return k.tenant == x.name })
	m.names = slices.DeleteFunc(m.names, func(y store.Series) bool {
		gone := y.Tenant == x.name && strings.HasPrefix(y.Layer, "batch.")
		if gone {
			delete(m.rows, y)
			delete(m.rollups, y)
			delete(m.series, y)
		}
		return gone
	})
}
