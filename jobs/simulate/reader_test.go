package simulate

import (
	"context"
	"fmt"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/schemas/store"
)

// reader polls as a page does: it resolves once which layer stands for which minute, and then reads, slowly.
type reader struct {
	name string
	last map[string]map[int64]answer // by tenant and minute
}

// answer is what a reader saw of a closed or covered minute.
type answer struct {
	layer string
	rows  map[string]int64
}

func (p *plant) reader(n int, every int64) {
	s := p.sim
	rd := &reader{name: fmt.Sprintf("reader%d", n), last: map[string]map[int64]answer{}}
	p.readers = append(p.readers, rd)
	proc := &proc{name: rd.name}
	p.passing = append(p.passing, proc)
	s.spawn(proc, rd.name, func(*thread) error {
		for !s.quiet {
			if err := s.sleep(s.r.Int64N(every)); err != nil {
				return err
			}
			if err := p.look(rd, pick(s.r, p.shops...).name); err != nil {
				if gone := s.current.gone(); gone != nil {
					return gone
				}
				if !expected(err) {
					s.found("errors: %s: %v", rd.name, err)
				}
			}
		}
		return nil
	}, nil)
}

// look is one request, and what must hold of its answer.
func (p *plant) look(rd *reader, tenant string) error {
	s, ctx := p.sim, context.Background()
	v, err := batch.View(ctx, p.metrics, tenant)
	if err != nil {
		return err
	}
	began := s.now
	// What is closed is asked for before the rows: what is closed by then must not change while they are read.
	progress, err := p.metrics.Progress(ctx, v.Active, tenant)
	if err != nil {
		return err
	}
	closed := int64(0)
	if len(progress) == int(s.opt.Metrics) {
		closed = store.MaxMinute
		for _, x := range progress {
			closed = min(closed, x.ClosedBefore)
		}
	}
	minutes := map[int64]map[string]int64{}
	layers := map[int64]string{}
	err = embedded.Values(ctx, p.metrics, tenant, 0, store.MaxMinute, func(layer string, minute int64) bool {
		stands, _ := v.Layer(minute)
		return stands == layer
	}, func(x *embedded.Value) error {
		if minutes[x.Minute] == nil {
			minutes[x.Minute] = map[string]int64{}
		}
		layers[x.Minute], _ = v.Layer(x.Minute)
		if x.Value != 0 {
			minutes[x.Minute][x.Name(tenant)+"\t"+x.Tags+"\t"+fmt.Sprint(x.Minute)] = x.Value
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.now-began > resolved && s.opt.Collect {
		return nil // it resolves again
	}
	s.tell("reads %d minutes as of %s, of %s, closed before %s", len(minutes), clock(began), v.Active, minuteText(closed))
	last := rd.last[tenant]
	if last == nil {
		last = map[int64]answer{}
		rd.last[tenant] = last
	}
	for minute := range last { // what was there and is not any more
		if minutes[minute] == nil {
			minutes[minute] = map[string]int64{}
			layers[minute], _ = v.Layer(minute)
		}
	}
	for minute, rows := range minutes {
		layer, covered := v.Layer(minute)
		if layer != layers[minute] {
			s.found("reader: %s mixes layers in minute %s", rd.name, minuteText(minute))
		}
		switch {
		case covered:
			p.coveredMinute(rd, tenant, minute, layer, rows)
		case minute < closed:
			p.checks.seen = append(p.checks.seen, sight{rd.name, s.now, tenant, layer, minute, rows})
		default:
			continue
		}
		was, ok := last[minute]
		if ok && was.layer == layer && fmt.Sprint(was.rows) != fmt.Sprint(rows) {
			s.found("reader: %s: closed minute %s changes in layer %s from %v to %v", rd.name, minuteText(minute), layer, was.rows, rows)
		}
		last[minute] = answer{layer, rows}
	}
	return nil
}

// coveredMinute holds a covered minute against what stood in the store when its coverage was written.
func (p *plant) coveredMinute(rd *reader, tenant string, minute int64, layer string, rows map[string]int64) {
	var generation int64
	fmt.Sscanf(layer, "batch.%d", &generation)
	all, ok := p.checks.covers[coverKey{tenant, minute - minute%30, generation}]
	if !ok {
		p.found("reader: %s: minute %s is of %s, which covers nothing there", rd.name, minuteText(minute), layer)
		return
	}
	want := map[string]int64{}
	for line, x := range all {
		if minuteOf(line) == minute {
			want[line] = x
		}
	}
	p.compare("reader: "+rd.name+" in "+layer, want, rows, every)
}
