package dispatch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// Teller tells every partition of the beacons topics how far the raw partitions were read: those that this process
// reads, once all that was read of them is acknowledged. Safe for concurrent use.
type Teller struct {
	Routes map[string]*Route
	// EveryMS is the record time between progress records.
	EveryMS int64
	// PatienceMS is how far a source may lag behind the others before it is set aside, and BackMS how near it must come
	// to be taken back (DESIGN 4). 0: never.
	PatienceMS, BackMS int64
	Out                Writer

	sent atomic.Int64 // the greatest interval told of; asked for every record

	mu      sync.Mutex    // all below
	turn    chan struct{} // full while a progress record is written, so that they come in order
	sources wire.Sources
	at      map[int]wire.SourceAt // what this process has read
	told    map[int]int64         // ms that was last told, by source
	waiting map[int]int64         // by source that may not be read on: the time of its next record; others may wait for it to be told to the ms
	view    []seen                // how far each source is known to be, of what any dispatcher has told or this one has read
	moved   chan struct{}         // closed when something is heard; nil: nobody waits for it
}

// seen is what is known of a source.
type seen struct {
	known bool
	first int64 // ms when it was first known of; before that, the least of the others when it was listed, 0: none was known
	heard int64 // ms that was told
	read  int64 // ms that this process has read, of a source of its own; nobody else need know of it yet
	aside bool
	asked int64 // ms of the clock when it was first found to be waited for where it is; 0: nobody waits, or it has moved since
	left  int64 // where it was when it was set aside
	since int64 // when it was first found too far behind; 0: it is not
}

func (v *seen) ms() int64 { return max(v.heard, v.read) }

// at raises one of the two to ms.
func (v *seen) at(which *int64, ms int64) {
	if !v.known {
		v.known, v.first = true, ms
	}
	if ms > v.ms() {
		v.asked = 0
	}
	*which = max(*which, ms)
}

// set notes whether the source is set aside.
func (v *seen) set(aside bool) {
	if aside && !v.aside {
		v.left = v.ms()
	}
	v.aside = aside
}

// SetSources takes a revision of the list of sources, which only ever grows.
func (t *Teller) SetSources(s wire.Sources) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = s
	t.grow(len(s.List))
}

func (t *Teller) grow(n int) {
	least, _ := t.least()
	for len(t.view) < n {
		t.view = append(t.view, seen{first: least})
	}
}

// least returns how far the slowest of the sources is that are known and not set aside, and where the first of them began;
// both 0 if there is none.
func (t *Teller) least() (ms, first int64) {
	for _, v := range t.view {
		if v.known && !v.aside {
			if at := v.ms(); first == 0 || at < ms {
				ms = at
			}
			if first == 0 || v.first < first {
				first = v.first
			}
		}
	}
	return ms, first
}

// waited is how far the slowest source is that is waited for, and where the first of those that are known began; both 0 if none is
// known.
func (t *Teller) waited() (ms, first int64) {
	ms, first = t.least()
	if first == 0 {
		return 0, 0
	}
	for i := range t.view {
		if v := &t.view[i]; !v.aside {
			ms = min(ms, v.counts(first))
		}
	}
	return ms, first
}

// counts is where a source counts as being: one of which nothing was read yet where the slowest was when it was listed, or where the
// first of all began, which is 0 if none is known. Without it there is no watermark.
func (v *seen) counts(first int64) int64 {
	if v.known {
		return v.ms()
	}
	return cmp.Or(v.first, first)
}

// placed says whether it is known of all sources that are waited for where they are, or where the slowest was when they were listed.
// A process that has just begun does not, until it has heard of them all: others may have read them, far behind where it is itself.
func (t *Teller) placed() bool {
	return !slices.ContainsFunc(t.view, func(v seen) bool { return !v.known && !v.aside && v.first == 0 })
}

// Source returns the index of a raw partition in the list, or -1.
func (t *Teller) Source(topic string, partition int32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.IndexFunc(t.sources.List, func(s wire.Source) bool { return s.Topic == topic && s.Partition == partition })
}

// Read notes that everything of a source before an offset, whose last record has that time, is acknowledged.
func (t *Teller) Read(src int, ms, offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at, t.told = map[int]wire.SourceAt{}, map[int]int64{}
	}
	a := t.at[src]
	t.at[src] = wire.SourceAt{Source: src, MS: max(a.MS, ms), Offset: max(a.Offset, offset)}
	v := &t.view[src]
	v.at(&v.read, ms)
}

// Forget stops telling of a source that this process reads no more. What it has read of it and not told its next reader reads again,
// from the commit on, so it does not count any longer.
func (t *Teller) Forget(src int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.at, src)
	delete(t.told, src)
	delete(t.waiting, src)
	v := &t.view[src]
	v.read, v.known = 0, v.heard > 0
}

// Crosses says whether a record of that time begins a new interval.
func (t *Teller) Crosses(ms int64) bool { return ms/t.EveryMS > t.sent.Load() }

// Due says whether some source has come to a new interval since it was told of, or waits for others, which may wait for
// it: of sources in the same interval only one that is told to the ms is known to be the slowest.
func (t *Teller) Due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for src, a := range t.at {
		_, waits := t.waiting[src]
		if told, ok := t.told[src]; !ok || a.MS/t.EveryMS > told/t.EveryMS || a.MS > told && waits {
			return true
		}
	}
	return false
}

// Again says whether to tell now and then though nothing is due: of a source of this process that waits for slower ones, and has
// not moved, since whether those are to be set aside is judged when telling, and only while telling is heard; of one that has come
// to rest within an interval, since a shard that begins without state waits for it; and of any that is set aside, since who begins
// in the log after that was told has not read it.
func (t *Teller) Again() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) > 0 || slices.ContainsFunc(t.view, func(v seen) bool { return v.aside }) {
		return true
	}
	for src, a := range t.at {
		if a.MS > t.told[src] {
			return true
		}
	}
	return false
}

// Heard takes a progress record of any dispatcher, this one included.
func (t *Teller) Heard(p *wire.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.grow(len(p.Sources.List))
	for _, a := range p.At {
		v := &t.view[a.Source]
		v.at(&v.heard, a.MS)
	}
	if p.Aside != nil {
		for i := range t.view {
			t.view[i].set(slices.Contains(p.Aside, i))
		}
	}
	if t.moved != nil {
		close(t.moved)
		t.moved = nil
	}
}

// Moved returns a channel that is closed when the next progress record is heard. Who asks for it before Allowed misses none.
func (t *Teller) Moved() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.moved == nil {
		t.moved = make(chan struct{})
	}
	return t.moved
}

// Allowed is how many of the next records of a source may be read: up to a record time so far ahead of the slowest source
// that is not set aside, which bounds what shards hold open. The slowest itself always goes on, over any gap, once it is known to be
// the slowest. What was told may always be read again: a process that begins again at a commit that is behind what was told must come
// to where all others take it to be, else it waits for them, and they for it.
func (t *Teller) Allowed(src int, aheadMS int64, recs []broker.Record) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	least, first := t.waited()
	if first == 0 {
		return min(len(recs), 1)
	}
	n, own := 0, t.view[src]
	for n < len(recs) && recs[n].Time <= max(least+aheadMS, own.ms()) {
		n++
	}
	if n == 0 && len(recs) > 0 && (!own.known || own.ms() <= least && t.placed()) {
		n = 1
	}
	if n == 0 && len(recs) > 0 {
		if t.waiting == nil {
			t.waiting = map[int]int64{}
		}
		t.waiting[src] = recs[0].Time
	} else {
		delete(t.waiting, src)
	}
	return n
}

// Aside names the sources that are set aside, as CLUSTER/TOPIC/PARTITION, in the list's order.
func (t *Teller) Aside() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var aside []string
	for i, v := range t.view {
		if v.aside && i < len(t.sources.List) {
			s := &t.sources.List[i]
			aside = append(aside, fmt.Sprintf("%s/%s/%d", s.Cluster, s.Topic, s.Partition))
		}
	}
	return aside
}

// lagsFor is how long (ms) a source must have lagged too far before it is set aside: over a gap in the records one source is
// ahead of the others for as long as they take to come to it.
const lagsFor = 60_000

// judge says which sources are set aside: those that have lagged too far behind the one that is furthest, until they
// are near it again. One of which nothing was ever heard is judged too: a topic that nobody writes yet must not stop all. One that keeps up with the clock (BackMS) is never behind: where another's broker has a
// clock that is far ahead, it is that one that waits.
//
// Pacing keeps the others from getting further ahead of sources that have come to a stop, as those of a cluster that is
// gone do. So for these the time counts too for which a source of this process has waited for them: of live sources that
// is what it would be ahead. They are judged as one, or each of them would be waited for after the other.
func (t *Teller) judge(now int64) []int {
	greatest, next := int64(0), int64(0) // of what was read, of what may not be read yet
	for _, v := range t.view {
		if v.known {
			greatest = max(greatest, v.ms())
		}
	}
	for _, ms := range t.waiting {
		next = max(next, ms)
	}
	least, first := t.waited()
	aside := []int{}
	for i := range t.view {
		v := &t.view[i]
		at := v.counts(first)
		lag := greatest - at
		_, waits := t.waiting[i]
		// One that is nearer to those that wait than to the slowest may itself wait, at another dispatcher.
		if next == 0 || waits || at-least > (next-least)/2 {
			v.asked = 0
		} else if !v.aside {
			v.asked = cmp.Or(v.asked, now)
			lag = max(greatest, next) - least + now - v.asked
		}
		switch {
		case t.PatienceMS > 0 && v.aside && v.ms() == v.left: // it may not be far behind yet
		case t.PatienceMS == 0 || at == 0 || v.known && max(now-at, at-now) <= t.BackMS || lag <= t.BackMS || lag <= t.PatienceMS && !v.aside:
			v.set(false)
			v.since = 0
		case v.since == 0:
			v.since = now
		case now-v.since >= lagsFor:
			v.set(true)
		}
		if v.aside {
			aside = append(aside, i)
		}
	}
	return aside
}

// Tell tells of all sources that this process reads. A process that hears of the others also says which are set aside: it
// gives its clock (ms), which decides of nothing else; 0 says that it does not know how far the others are.
func (t *Teller) Tell(ctx context.Context, now int64) error {
	turn := t.turns()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done(): // a write before may wait for Kafka for long
		return ctx.Err()
	}
	t.mu.Lock()
	p := wire.Progress{Sources: t.sources}
	greatest := int64(0)
	for i := range t.sources.List {
		if a, ok := t.at[i]; ok {
			p.At = append(p.At, a)
			t.told[i] = a.MS
			t.sent.Store(max(t.sent.Load(), a.MS/t.EveryMS))
			greatest = max(greatest, a.MS)
		}
	}
	if now > 0 {
		p.Aside = t.judge(now)
	}
	t.mu.Unlock()
	if len(p.At) == 0 {
		return nil
	}
	value, tail := wire.AppendProgress(nil, &p), t.Tail()
	var out, last []broker.Record
	for _, name := range sortedTenants(t.Routes) {
		route := t.Routes[name]
		for _, topic := range route.Topics {
			for part := range route.Partitions {
				r := broker.Record{Topic: topic, Partition: part, Value: value, Time: greatest, Headers: []broker.Header{{Key: wire.HeaderProgress}}}
				if (broker.Partition{Topic: topic, Partition: part}) == tail {
					last = append(last, r)
				} else {
					out = append(out, r)
				}
			}
		}
	}
	err := t.Out.Write(ctx, out)
	if err == nil {
		err = t.Out.Write(ctx, last)
	}
	if err != nil {
		t.mu.Lock()
		for _, a := range p.At { // some partitions may not have it: it is due again, though its source may rest
			delete(t.told, a.Source)
		}
		t.mu.Unlock()
	}
	return err
}

// Tail is the partition where dispatchers hear of each other. What is told comes there last, once it is acknowledged in all others:
// what a dispatcher tells because of what it has heard comes after that in every partition.
func (t *Teller) Tail() broker.Partition {
	var first string
	for _, r := range t.Routes {
		if first == "" || r.Topics[0] < first {
			first = r.Topics[0]
		}
	}
	return broker.Partition{Topic: first}
}

func (t *Teller) turns() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turn == nil {
		t.turn = make(chan struct{}, 1)
	}
	return t.turn
}
