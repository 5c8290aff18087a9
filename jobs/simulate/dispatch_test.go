package simulate

import (
	"context"
	"slices"

	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// tellEvery is how often a dispatcher tells of sources that wait, ms: one that began to listen later may wait for them in turn
// (seed 1000310 did, for good).
const tellEvery = 10_000

// dispatch is a dispatcher's process (service.Dispatch, with one thread for all that it does): it reads its raw partitions as
// far as pacing allows, tells of progress, hears of others', and writes heartbeats.
func (p *process) dispatch() error {
	c, s := p.c, p.c.s
	tail := p.teller.Tail()
	for {
		did := false
		for _, t := range slices.Clone(p.raw) {
			if t.lost || t.leaving {
				p.letGo(t)
				did = true
				continue
			}
			n, err := p.pump(t)
			if err := s.current.gone(); err != nil {
				return err
			}
			if !expected(err) {
				s.found("errors: %s stops: %v", p.name, err)
				return err
			}
			if err != nil {
				s.tell("%s/%d begins again after: %v", t.p.Topic, t.p.Partition, err)
				p.teller.Forget(t.n)
				t.next = -1
			}
			did = did || n > 0 || err != nil
		}
		p.at = max(p.at, c.kafka.starts[tail])
		if c.kafka.has(tail, p.at) {
			recs, err := c.kafka.poll(tail, p.at, s.batchOf())
			if err := s.current.gone(); err != nil {
				return err
			}
			for i := range recs {
				p.at++
				if _, ok := recs[i].Header(wire.HeaderProgress); ok {
					progress, err := c.kafka.progress(recs[i].Value)
					if err != nil {
						return err
					}
					p.teller.Heard(progress)
				}
			}
			did = did || err == nil
		}
		if p.teller.Due() || p.teller.Again() && s.now >= p.again {
			p.again = s.now + tellEvery
			heard := int64(0) // the clock, where it hears all the others
			if s.opt.PatienceMS > 0 && !c.kafka.has(tail, p.at) {
				heard = s.now
			}
			err := p.teller.Tell(context.Background(), heard)
			if err := s.current.gone(); err != nil {
				return err
			}
			did = did || err == nil // what is not told is told with the next
		}
		if s.now >= p.beat && s.beating(p) {
			p.beat = s.plant.next(s.now, c.beatMS)
			var beats []broker.Record
			for _, t := range p.raw {
				if c.sources.List[t.n].Kind == wire.KindLive {
					beats = append(beats, broker.Record{Topic: t.p.Topic, Partition: t.p.Partition, Headers: []broker.Header{{Key: dispatch.HeaderHeartbeat}}})
				}
			}
			if len(beats) > 0 {
				_ = c.kafka.Write(context.Background(), beats) // the next one comes soon
			}
			if err := s.current.gone(); err != nil {
				return err
			}
		}
		if did {
			continue
		}
		until := int64(1 << 62)
		if s.beating(p) {
			until = p.beat
		}
		behind := false // a partition has records that pacing holds back
		for _, t := range p.raw {
			behind = behind || t.next >= 0 && c.kafka.has(t.p, t.next)
		}
		if behind {
			until = min(until, s.now+c.tickMS/10+1)
		}
		err := s.wait(func() bool {
			if c.kafka.has(tail, p.at) {
				return true
			}
			for _, t := range p.raw {
				if t.next < 0 || t.lost || t.leaving || !behind && c.kafka.has(t.p, t.next) {
					return true
				}
			}
			return false
		}, until)
		if err != nil {
			return err
		}
	}
}

// letGo is the end of a tenure in good order.
func (p *process) letGo(t *tenure) {
	p.raw = slices.DeleteFunc(p.raw, func(x *tenure) bool { return x == t })
	if !slices.ContainsFunc(p.raw, func(x *tenure) bool { return x.n == t.n }) {
		p.teller.Forget(t.n)
	}
	t.ended()
}

// pump opens a raw partition, or dispatches some of its records.
func (p *process) pump(t *tenure) (int, error) {
	c, s := p.c, p.c.s
	g := group("dispatch", t.p)
	if t.next < 0 {
		at, known, err := c.kafka.committed(g)
		if err != nil {
			return 0, err
		}
		from := at.Offset
		if known && from > 0 {
			p.teller.Read(t.n, c.kafka.logs[t.p][from-1].Time, from)
		}
		t.next, t.out = from, &dispatch.Dispatcher{Teller: p.teller, DeadTopic: deadTopic, Out: c.kafka}
		s.tell("%s/%d goes on at %d", t.p.Topic, t.p.Partition, from)
		return 1, nil
	}
	if !c.kafka.has(t.p, t.next) {
		return 0, nil
	}
	recs, err := c.kafka.poll(t.p, t.next, s.batchOf())
	if err != nil {
		return 0, err
	}
	n := p.teller.Allowed(t.n, s.opt.AheadMS, recs)
	if n == 0 {
		return 0, nil
	}
	if err := t.out.Handle(context.Background(), recs[:n]); err != nil {
		return 0, err
	}
	t.next += int64(n)
	c.kafka.commit(g, broker.Committed{Offset: t.next}, t.fenced)
	return n, nil
}
