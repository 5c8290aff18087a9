package dispatch

import (
	"context"
	"slices"
	"sync"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// Teller tells every partition of the beacons topics how far the raw partitions were read: those that this process
// reads, once all that was read of them is acknowledged. Safe for concurrent use.
type Teller struct {
	Routes map[string]*Route
	// EveryMS is the record time between progress records: 10 s, or a tick if that is shorter.
	EveryMS int64
	// PatienceMS is how far a source may lag behind the others before it is set aside, and BackMS how near it must come
	// to be taken back (DESIGN 4). 0: never.
	PatienceMS, BackMS int64
	Out                Writer

	telling sync.Mutex // held while a progress record is written, so that they come in order

	mu      sync.Mutex // all below
	sources wire.Sources
	at      map[int]wire.SourceAt // what this process has read
	told    map[int]int64         // interval of the last progress told, by source
	sent    int64                 // the greatest of them
	view    []seen                // how far each source is known to be, by any dispatcher
}

// seen is what is known of a source.
type seen struct {
	known bool
	ms    int64
	aside bool
}

// SetSources takes a revision of the list of sources, which only ever grows.
func (t *Teller) SetSources(s wire.Sources) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = s
	t.grow(len(s.List))
}

func (t *Teller) grow(n int) {
	for len(t.view) < n {
		t.view = append(t.view, seen{})
	}
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
	v.known, v.ms = true, max(v.ms, ms)
}

// Forget stops telling of a source that this process reads no more.
func (t *Teller) Forget(src int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.at, src)
	delete(t.told, src)
}

// Crosses says whether a record of that time begins a new interval.
func (t *Teller) Crosses(ms int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return ms/t.EveryMS > t.sent
}

// Due says whether some source has come to a new interval since it was told of.
func (t *Teller) Due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for src, a := range t.at {
		if told, ok := t.told[src]; !ok || a.MS/t.EveryMS > told {
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
		v.known, v.ms = true, max(v.ms, a.MS)
	}
	if p.Aside != nil {
		for i := range t.view {
			t.view[i].aside = slices.Contains(p.Aside, i)
		}
	}
}

// Limit is the record time that no raw partition is to be read beyond: so far ahead of the slowest source that is not
// set aside. It bounds what shards hold open. Sources that nobody has told of yet hold back nobody.
func (t *Teller) Limit(aheadMS int64) (ms int64, any bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.view {
		if v.known && !v.aside && (!any || v.ms < ms) {
			ms, any = v.ms, true
		}
	}
	return ms + aheadMS, any
}

// judge says which sources are set aside: those that lag too far behind the one that is furthest, until they are near
// it again.
func (t *Teller) judge() []int {
	greatest := int64(0)
	for _, v := range t.view {
		if v.known {
			greatest = max(greatest, v.ms)
		}
	}
	aside := []int{}
	for i := range t.view {
		v := &t.view[i]
		lag := greatest - v.ms
		if v.aside = t.PatienceMS > 0 && v.known && (lag > t.PatienceMS || v.aside && lag > t.BackMS); v.aside {
			aside = append(aside, i)
		}
	}
	return aside
}

// Tell tells of all sources that this process reads. Only one that hears of the others (current) also says which are set
// aside: it knows how far they are.
func (t *Teller) Tell(ctx context.Context, current bool) error {
	t.telling.Lock()
	defer t.telling.Unlock()
	t.mu.Lock()
	p := wire.Progress{Sources: t.sources}
	greatest := int64(0)
	for i := range t.sources.List {
		if a, ok := t.at[i]; ok {
			p.At = append(p.At, a)
			t.told[i] = a.MS / t.EveryMS
			t.sent = max(t.sent, t.told[i])
			greatest = max(greatest, a.MS)
		}
	}
	if current {
		p.Aside = t.judge()
	}
	t.mu.Unlock()
	if len(p.At) == 0 {
		return nil
	}
	value := wire.AppendProgress(nil, &p)
	var out []broker.Record
	for _, name := range sortedTenants(t.Routes) {
		route := t.Routes[name]
		for _, topic := range route.Topics {
			for part := range route.Partitions {
				out = append(out, broker.Record{Topic: topic, Partition: part, Value: value, Time: greatest,
					Headers: []broker.Header{{Key: wire.HeaderProgress}}})
			}
		}
	}
	return t.Out.Write(ctx, out)
}
