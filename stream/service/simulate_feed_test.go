package service

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"tandem/stream/broker"
)

// logFeed is a feed of a plant's logs.
type logFeed struct {
	m  *member
	mu sync.Mutex // held for as long as a call takes: one goroutine uses a feed

	parts []*fedPart
}

type fedPart struct {
	p      broker.Partition
	next   int64
	paused bool
	broken bool // it has told of an error, and reads no more
}

// Feed implements client.
func (m *member) Feed() (feed, error) { return &logFeed{m: m}, nil }

func (f *logFeed) use() func() {
	if !f.mu.TryLock() {
		f.m.p.mu.Lock()
		f.m.p.found("%s: the feed is used by two at once", f.m.name)
		f.m.p.mu.Unlock()
		return func() {}
	}
	return f.mu.Unlock
}

func (f *logFeed) at(p broker.Partition) int {
	return slices.IndexFunc(f.parts, func(x *fedPart) bool { return x.p == p })
}

func (f *logFeed) Add(p broker.Partition, from int64) {
	defer f.use()()
	if f.at(p) >= 0 {
		f.m.p.mu.Lock()
		f.m.p.found("%s: partition %d is read already", f.m.name, p.Partition)
		f.m.p.mu.Unlock()
	}
	f.parts = append(f.parts, &fedPart{p: p, next: from})
}

func (f *logFeed) Remove(p broker.Partition) {
	defer f.use()()
	f.parts = slices.DeleteFunc(f.parts, func(x *fedPart) bool { return x.p == p })
}

func (f *logFeed) Pause(p broker.Partition, pause bool) {
	defer f.use()()
	if i := f.at(p); i >= 0 {
		f.parts[i].paused = pause
	}
}

func (f *logFeed) Close() { defer f.use()() }

// Poll waits for records of any partition.
func (f *logFeed) Poll(ctx context.Context, most int) []broker.Batch {
	defer f.use()()
	p := f.m.p
	for {
		p.mu.Lock()
		var batches []broker.Batch
		for _, x := range f.parts {
			log := p.logs[x.p.Partition]
			if x.paused || x.broken || f.m.dead || x.next >= int64(len(log)) {
				continue
			}
			if p.chance(.002) {
				x.broken = true
				batches = append(batches, broker.Batch{Partition: x.p, End: int64(len(log)), Err: errors.New("cannot be read")})
				continue
			}
			n := min(1+p.r.Int64N(500), int64(len(log))-x.next, int64(most))
			batches = append(batches, broker.Batch{Partition: x.p, Records: slices.Clone(log[x.next : x.next+n]), End: int64(len(log))})
			x.next += n
		}
		written := p.written
		p.mu.Unlock()
		if len(batches) > 0 {
			time.Sleep(p.upTo(time.Second / 20))
			return batches
		}
		select {
		case <-ctx.Done():
			return nil
		case <-written:
		}
	}
}
