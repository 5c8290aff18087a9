package service

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"tandem/stream/broker"
)

// over notes that a member's owners have let go.
func (m *member) over(parts []broker.Partition) {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	for _, part := range parts {
		if w := m.working[part.Partition]; w != nil && !m.dead {
			m.p.found("%s has let go of partition %d, and its owner is not closed", m.name, part.Partition)
			w.over = true
		}
	}
}

// balance shares partitions out anew after a change of who takes part: those that move are let go of first.
func (p *plant) balance(change func()) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.mu.Lock()
	if change != nil {
		change()
	}
	var in []*member
	for _, m := range p.members {
		if m.in {
			in = append(in, m)
		}
	}
	give, take := map[*member][]broker.Partition{}, map[*member][]broker.Partition{}
	for n, o := range p.owner {
		if len(in) == 0 {
			break
		}
		to := in[(n+p.r.IntN(len(in)))%len(in)]
		if o != nil && (slices.Contains(in, o) && p.r.IntN(2) == 0 || !slices.Contains(in, o)) {
			continue // it stays, also with one that is about to come back or to be given up
		}
		if o == to {
			continue
		}
		part := broker.Partition{Topic: topic, Partition: int32(n)}
		if o != nil {
			take[o] = append(take[o], part)
		}
		give[to] = append(give[to], part)
	}
	p.mu.Unlock()
	var left sync.WaitGroup
	for m, parts := range take {
		released := m.release(parts)
		left.Go(func() {
			select {
			case <-released:
			case <-time.After(groupWaits): // others get them all the same
			}
		})
	}
	left.Wait()
	p.mu.Lock()
	for m, parts := range give {
		for _, part := range parts {
			p.owner[part.Partition] = m
		}
	}
	p.mu.Unlock()
	for m, parts := range give {
		m.assign(parts)
	}
}

// call calls a process once all calls before have returned: a group's client calls in the order in which the group decides. The
// channel is closed when this one has.
func (m *member) call(f func()) <-chan struct{} {
	done := make(chan struct{})
	m.p.mu.Lock()
	before := m.calls
	m.calls = done
	m.p.mu.Unlock()
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		f()
	}()
	return done
}

func (m *member) release(parts []broker.Partition) (released <-chan struct{}) {
	return m.call(func() {
		m.p.mu.Lock()
		if m.closed || m.fenced {
			m.p.mu.Unlock()
			return
		}
		m.has = slices.DeleteFunc(m.has, func(p broker.Partition) bool { return slices.Contains(parts, p) })
		m.p.mu.Unlock()
		m.m.Released(parts, false)
		m.over(parts)
	})
}

// drop takes all from a process that it has.
func (m *member) drop() (released <-chan struct{}) {
	return m.call(func() {
		m.p.mu.Lock()
		has, lost := m.has, m.fenced
		m.has = nil
		m.p.mu.Unlock()
		if len(has) > 0 {
			m.m.Released(has, lost)
			m.over(has)
		}
	})
}

func (m *member) assign(parts []broker.Partition) {
	m.call(func() {
		m.p.mu.Lock()
		parts = slices.DeleteFunc(parts, func(p broker.Partition) bool { return m.p.owner[p.Partition] != m || slices.Contains(m.has, p) })
		gone := m.closed || m.fenced
		if !gone {
			m.has = append(m.has, parts...)
		}
		m.p.mu.Unlock()
		if !gone && len(parts) > 0 {
			m.m.Assigned(parts)
		}
	})
}

// Join implements client. One that comes back under its name within its session has what it had.
func (m *member) Join(x broker.Membership) (offsets, error) {
	m.m = x
	go m.p.balance(func() {
		for n, o := range m.p.owner {
			if o != nil && o != m && o.name == m.name {
				m.p.owner[n] = nil
			}
		}
		m.in = !m.closed
	})
	return m, nil
}

// Committed implements offsets.
func (m *member) Committed(ctx context.Context, part broker.Partition) (broker.Committed, bool, error) {
	time.Sleep(m.p.upTo(time.Second / 10))
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	if m.p.chance(.1) {
		return broker.Committed{}, false, errors.New("not now")
	}
	at := m.p.commits[part.Partition]
	return broker.Committed{Offset: at}, at >= 0, ctx.Err()
}

// Commit implements offsets.
func (m *member) Commit(ctx context.Context, at map[broker.Partition]broker.Committed) error {
	took := time.Second / 10
	m.p.mu.Lock()
	if m.p.r.IntN(10) == 0 {
		took = commitTakes
	}
	m.p.mu.Unlock()
	time.Sleep(m.p.upTo(took))
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	if m.p.chance(.1) || m.fenced || m.closed || m.dead || ctx.Err() != nil {
		return errors.New("refused")
	}
	for part, c := range at {
		offset := c.Offset
		if offset > m.p.done[part.Partition] {
			m.p.found("%s commits %d of partition %d, of which all before %d is published", m.name, offset, part.Partition, m.p.done[part.Partition])
		}
		m.p.commits[part.Partition] = offset
	}
	return nil
}

// Close implements offsets: what it has been given is let go of.
func (m *member) Close() {
	m.p.mu.Lock()
	m.closed, m.in = true, false
	m.p.mu.Unlock()
	<-m.drop()
}
