// Package aggregate is stage 2 of the stream (DESIGN 4): for each row of an open minute it keeps the greatest version of
// every shard and writes their sum to the store. State is one partition of the metrics topic, a function of its messages;
// Worker drives it.
package aggregate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"tandem/schemas/store"
	"tandem/schemas/wire"
)

// Tenant is what stage 2 knows of a tenant: how many shards there are must be known before they are heard of.
type Tenant struct {
	Name        string
	Shards      int      // partitions of all its beacons topics
	Topics      []string // their ids: what is told of others is passed over
	RetentionMS int64    // rows expire this long after their minute
	// LeadMS is how far ahead of the last markers minutes may be of which rows were told: max_skew, lateness, and by how much
	// sources are read ahead of each other.
	LeadMS int64
}

// Config of a partition of the metrics topic.
type Config struct {
	Layer     string // "stream.dc1"
	Partition int32
	Tenants   []Tenant
	Former    []string // tenants that were taken out of the site: their messages are passed over
}

// Counts are an aggregate's counters. Unlisted are messages of former tenants, and of topics that their tenant does not have.
type Counts struct {
	Messages, Rows, Closed, Written, Unlisted int64
}

// State is the aggregate of one partition.
type State struct {
	cfg     Config
	tenants map[string]*tenantState
	names   map[string]uint32 // interned experiments, metrics, variations, tag sets
	texts   []string
	metrics [][3]string // by a metric's name: with each scope, once it is asked for
	ids     []uint32    // scratch: the names of a message
	all     told        // scratch: the cells of a row
	due     []due       // scratch of Due, and what it returned
	rows    []store.Row
	forms   forms
	bases   map[int64]int64 // by minute: offset of its first message, of any tenant
	// changes of shards, by offset, that no commit has passed yet: one a tick and shard, 64 bytes each, as long as minutes stay open.
	changes []change

	Offset int64 // of the next message
	Counts Counts
}

type shardID struct {
	topic     string
	partition int32
}

type tenantState struct {
	Tenant
	shards      map[shardID]int
	marks       []int64       // by shard: minutes before it are final there
	generations []generations // by shard
	minutes     map[int64]*minuteState
	closed      int64  // minutes before it are done, and the store knows or is about to be told
	past        []past // by shard: as of the last commit
}

// generations are those heard of a shard, ascending, each with the first minute of which its rows stand: that of its
// claim, but none that a lower generation had told whole. Both come to the same numbers; what was told whole is not
// taken back for what is still being told.
type generations []generation

type generation struct {
	n, first int64
}

// counts says whether the rows that a generation tells of a minute stand.
func (g generations) counts(n, minute int64) bool {
	for _, x := range g {
		if x.n == n && minute < x.first || x.n > n && minute >= x.first {
			return false
		}
	}
	return true
}

// stands returns how far a generation's marker at a minute counts: up to where the next ones begin.
func (g generations) stands(n, minute int64) int64 {
	for _, x := range g {
		if x.n > n {
			minute = min(minute, x.first)
		}
	}
	return minute
}

type minuteState struct {
	rows    map[rowID]*rowState
	touched []*rowState
}

// rowID is a row's name: interned, and its scope.
type rowID struct {
	experiment, metric uint32
	scope              byte
}

type rowState struct {
	id     rowID
	shards []contribution
	last   int64 // offset of the last message that touched it
	dirty  bool
	sketch bool
}

type contribution struct {
	shard      int
	generation int64
	offset     int64 // version within the generation
	told       told
	parts      []*told // of a version that is not all there yet
	partsOf    int64
	partsGen   int64
}

// told are the cells of a row as a shard has told them. There are as many sketches in a row of visitors, and none in others, so
// that these hold no pointers: they are most of the memory.
type told struct {
	cells    []cell
	sketches [][]byte
}

type cell struct {
	variation, tags uint32
	value           int64
}

func (t *told) add(x *told) {
	t.cells, t.sketches = append(t.cells, x.cells...), append(t.sketches, x.sketches...)
}

func (t *told) reset() {
	clear(t.sketches)
	t.cells, t.sketches = t.cells[:0], t.sketches[:0]
}

// New makes the state that begins at the given offset; closed: what the store knows of each tenant. note is that of the commit with
// this offset, empty if there is none. An error says that it is damaged: without it a version may come to stand for two values.
func New(cfg Config, offset int64, closed map[string]int64, note string) (*State, error) {
	s := &State{cfg: cfg, tenants: map[string]*tenantState{}, names: map[string]uint32{"": 0}, texts: []string{""},
		bases: map[int64]int64{}, Offset: offset}
	for _, t := range cfg.Tenants {
		s.tenants[t.Name] = &tenantState{Tenant: t, shards: map[shardID]int{}, minutes: map[int64]*minuteState{},
			closed: closed[t.Name]}
	}
	if err := s.recall(note); err != nil {
		return nil, fmt.Errorf("metrics partition %d: the note beside the commit to %d: %w: commit that offset by hand to begin without a note", cfg.Partition, offset, err)
	}
	return s, nil
}

func (s *State) intern(text string) uint32 {
	if n, ok := s.names[text]; ok {
		return n
	}
	text = strings.Clone(text)
	n := uint32(len(s.texts))
	s.texts = append(s.texts, text)
	s.names[text] = n
	return n
}

// Take takes the next message.
func (s *State) Take(offset int64, value []byte) error {
	if offset < s.Offset {
		return fmt.Errorf("metrics partition %d: message %d comes after %d", s.cfg.Partition, offset, s.Offset-1)
	}
	s.Offset = offset + 1
	s.Counts.Messages++
	m, err := wire.ReadMessage(value)
	if err != nil {
		return fmt.Errorf("metrics partition %d, message %d: %w", s.cfg.Partition, offset, err)
	}
	// Versions count from it on, so it must not depend on which tenants and topics are listed.
	if _, ok := s.bases[m.Minute]; !ok && !m.Marker {
		s.bases[m.Minute] = offset
	}
	t := s.tenants[m.Tenant]
	if t == nil && !slices.Contains(s.cfg.Former, m.Tenant) {
		// It may be a new one, and this process's site file an old one: its rows would be lost.
		return fmt.Errorf("metrics partition %d, message %d: tenant %q is not in the site file: start this process with the file that has it; if it was taken out, list it there as former_tenants: [%s]",
			s.cfg.Partition, offset, m.Tenant, m.Tenant)
	}
	if t == nil || !slices.Contains(t.Topics, m.Topic) {
		s.Counts.Unlisted++ // of a topic that the tenant has no more: it will tell no further, and nothing may wait for it
		return nil
	}
	shard, news := t.shard(shardID{m.Topic, m.Partition})
	if t.raise(s, shard, generation{m.Generation, m.FirstMinute}, offset) {
		news = true
	}
	if m.Marker {
		if mark := t.generations[shard].stands(m.Generation, m.Minute); mark > t.marks[shard] {
			t.marks[shard], news = mark, true
		}
	}
	if news {
		s.hear(t, shard, offset)
	}
	if m.Marker {
		return nil
	}
	if m.Minute < max(t.closed, t.passed()) {
		s.Counts.Closed++
		return nil
	}
	ms := t.minutes[m.Minute]
	if ms == nil {
		ms = &minuteState{rows: map[rowID]*rowState{}}
		t.minutes[m.Minute] = ms
	}
	s.ids = s.ids[:0]
	for _, name := range m.Names() {
		s.ids = append(s.ids, s.intern(name))
	}
	err = m.Rows(func(r *wire.Row) error {
		s.row(ms, shard, t.generations[shard], m, r, offset)
		return nil
	})
	if err != nil {
		return fmt.Errorf("metrics partition %d, message %d: %w", s.cfg.Partition, offset, err)
	}
	return nil
}

// shard is a shard's number, and whether it was given out just now.
func (t *tenantState) shard(id shardID) (i int, fresh bool) {
	if i, ok := t.shards[id]; ok {
		return i, false
	}
	i = len(t.marks)
	t.shards[id] = i
	t.marks = append(t.marks, 0)
	t.generations = append(t.generations, generations{{0, math.MinInt64}})
	return i, true
}

// raise notes a shard's generation, and says whether it is new. Rows held of lower ones go, from its first minute on.
func (t *tenantState) raise(s *State, shard int, g generation, offset int64) bool {
	known := t.generations[shard]
	if g.n <= known[len(known)-1].n {
		return false
	}
	g.first = max(g.first, t.marks[shard])
	t.generations[shard] = append(known, g)
	for minute, ms := range t.minutes {
		if minute < g.first {
			continue
		}
		for _, r := range ms.rows {
			for i := range r.shards {
				if r.shards[i].shard == shard && r.shards[i].generation < g.n {
					r.shards = slices.Delete(r.shards, i, i+1)
					ms.touch(r, offset)
					break
				}
			}
		}
	}
	return true
}

// passed is the least marker of all shards, or 0 while some have not been heard.
func (t *tenantState) passed() int64 {
	if len(t.marks) < t.Shards {
		return 0
	}
	return slices.Min(t.marks)
}

func (ms *minuteState) touch(r *rowState, offset int64) {
	r.last = offset
	if !r.dirty {
		r.dirty = true
		ms.touched = append(ms.touched, r)
	}
}

func (s *State) row(ms *minuteState, shard int, known generations, m *wire.Message, r *wire.Row, offset int64) {
	s.Counts.Rows++
	if !known.counts(m.Generation, m.Minute) {
		return
	}
	id := rowID{s.ids[r.ExperimentAt], s.ids[r.MetricAt], r.Scope}
	rs := ms.rows[id]
	if rs == nil {
		rs = &rowState{id: id, sketch: r.Sketch}
		ms.rows[id] = rs
	}
	c := rs.of(shard)
	if !newer(m.Generation, m.Offset, c.generation, c.offset) {
		return
	}
	if c.parts != nil && newer(c.partsGen, c.partsOf, m.Generation, m.Offset) {
		return // a former owner writes while parts of a greater version are on their way
	}
	if r.Parts == 1 {
		s.cells(&c.told, r)
		c.parts = nil
	} else {
		if c.parts == nil || c.partsGen != m.Generation || c.partsOf != m.Offset || len(c.parts) != r.Parts {
			c.partsGen, c.partsOf, c.parts = m.Generation, m.Offset, make([]*told, r.Parts)
		}
		c.parts[r.Part] = &told{}
		s.cells(c.parts[r.Part], r)
		if slices.Contains(c.parts, nil) {
			return // a version counts only when all of it is there
		}
		c.told = told{}
		for _, p := range c.parts {
			c.told.add(p)
		}
		c.parts = nil
	}
	c.generation, c.offset = m.Generation, m.Offset
	ms.touch(rs, offset)
}

var scopes = [...]string{"site.", "assigned.", "fm."}

func newer(g1, o1, g2, o2 int64) bool {
	return cmp.Or(cmp.Compare(g1, g2), cmp.Compare(o1, o2)) > 0
}

func (r *rowState) of(shard int) *contribution {
	for i := range r.shards {
		if r.shards[i].shard == shard {
			return &r.shards[i]
		}
	}
	r.shards = append(r.shards, contribution{shard: shard, generation: -1, offset: -1})
	return &r.shards[len(r.shards)-1]
}

func (s *State) cells(to *told, r *wire.Row) {
	to.reset()
	to.cells = slices.Grow(to.cells, len(r.Cells))
	for i := range r.Cells {
		c, at := &r.Cells[i], r.CellsAt[i]
		to.cells = append(to.cells, cell{variation: s.ids[at.Variation], tags: s.ids[at.Tags], value: c.Value})
		if r.Sketch {
			to.sketches = append(to.sketches, slices.Clone(c.Sketch))
		}
	}
}

// metric is a metric's name with its scope.
func (s *State) metric(id rowID) string {
	for int(id.metric) >= len(s.metrics) {
		s.metrics = append(s.metrics, [3]string{})
	}
	name := &s.metrics[id.metric][id.scope]
	if *name == "" {
		*name = scopes[id.scope] + s.texts[id.metric]
	}
	return *name
}

// due is a row that was touched, of a minute. rank orders those of a tenant: by series, as the names came.
type due struct {
	rank   [2]uint64
	minute int64
	row    *rowState
}

func newDue(minute int64, r *rowState) due {
	return due{[2]uint64{uint64(r.id.experiment)<<32 | uint64(r.id.metric), uint64(r.id.scope)}, minute, r}
}

func (a due) compare(b due) int {
	for i := range a.rank {
		if a.rank[i] != b.rank[i] {
			return cmp.Compare(a.rank[i], b.rank[i])
		}
	}
	return cmp.Compare(a.minute, b.minute)
}

// dueMost rows and fewer: their memory is kept for the next call.
const dueMost = 1 << 16

// Due returns the rows touched since the last call, as they are to be written, those of a series side by side: so a store finds
// where they go once. The slice is valid until the next call.
func (s *State) Due() ([]store.Row, error) {
	clear(s.rows) // their values
	if len(s.rows) > dueMost {
		s.rows, s.due = nil, nil
	}
	rows := s.rows[:0]
	for _, t := range s.tenants {
		list := s.due[:0]
		for minute, ms := range t.minutes {
			for _, r := range ms.touched {
				r.dirty = false
				list = append(list, newDue(minute, r))
			}
			ms.touched = ms.touched[:0]
		}
		s.due = list
		slices.SortFunc(list, due.compare)
		for _, d := range list {
			experiment, name := s.texts[d.row.id.experiment], s.metric(d.row.id)
			value, err := s.encode(d.row)
			if err != nil {
				return nil, fmt.Errorf("metrics partition %d: %s %s minute %d: %w", s.cfg.Partition, experiment, name, d.minute, err)
			}
			rows = append(rows, store.Row{
				Series:  store.Series{Tenant: t.Name, Experiment: experiment, Metric: name, Layer: s.cfg.Layer},
				Minute:  d.minute,
				Version: d.row.last - s.bases[d.minute],
				Expires: (d.minute+1)*60000 + t.RetentionMS,
				Value:   value,
			})
		}
		clear(list)
	}
	s.rows = rows
	s.Counts.Written += int64(len(rows))
	return rows, nil
}

// Close closes the minutes that all markers have passed, once their rows (Due) are acknowledged, and returns the
// progress to write to the store.
func (s *State) Close() []store.Progress {
	var done []store.Progress
	for _, t := range s.tenants {
		if p := t.passed(); p > t.closed {
			t.closed = p
			for m := range t.minutes {
				if m < p {
					delete(t.minutes, m)
				}
			}
			done = append(done, store.Progress{Layer: s.cfg.Layer, Partition: s.cfg.Partition, Tenant: t.Name, ClosedBefore: p, Version: s.Offset})
		}
	}
	slices.SortFunc(done, func(a, b store.Progress) int { return strings.Compare(a.Tenant, b.Tenant) })
	return done
}

// Commit is the least offset of any message of a minute that is open for some tenant: from there a restarted aggregate
// must read again. To be asked once the progress of Close is acknowledged.
func (s *State) Commit() int64 {
	least := s.least()
	commit := s.Offset
	for minute, first := range s.bases {
		if minute < least {
			delete(s.bases, minute)
			continue
		}
		commit = min(commit, first)
	}
	return commit
}

// least is the minute before which all is closed of every tenant.
func (s *State) least() int64 {
	least := int64(math.MaxInt64)
	for _, t := range s.tenants {
		least = min(least, t.closed)
	}
	return least
}
