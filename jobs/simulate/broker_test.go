package simulate

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// kafka is the broker of one data centre: logs of partitions, and what groups have committed. Appends of one Write to several
// partitions come in any order, in pieces, each a side effect of its own; a piece that is not acknowledged may have been
// appended, may be appended later, or never.
type kafka struct {
	s      *sim
	name   string // of the data centre
	logs   map[broker.Partition][]broker.Record
	starts map[broker.Partition]int64 // where a log begins by now
	// clock gives the broker's time for a partition whose records get the append time; nil: the writer's time stands.
	clock   map[broker.Partition]func() int64
	commits map[broker.Partition]broker.Committed // by the group's name before the topic
	checked func(p broker.Partition, r *broker.Record)
	told    map[string]*wire.Progress // by the record's value: the same goes to many partitions
}

func newKafka(s *sim, name string) *kafka {
	return &kafka{s: s, name: name, logs: map[broker.Partition][]broker.Record{}, starts: map[broker.Partition]int64{}, clock: map[broker.Partition]func() int64{}, commits: map[broker.Partition]broker.Committed{}, told: map[string]*wire.Progress{}}
}

// progress reads a progress record; what it gives is not to be changed.
func (k *kafka) progress(value []byte) (*wire.Progress, error) {
	if p := k.told[string(value)]; p != nil {
		return p, nil
	}
	p, err := wire.ReadProgress(value)
	if err == nil {
		k.told[string(value)] = &p
	}
	return &p, err
}

// append appends a record, as the environment: it is there at once.
func (k *kafka) append(r broker.Record) {
	p := broker.Partition{Topic: r.Topic, Partition: r.Partition}
	r.Offset = int64(len(k.logs[p]))
	if now := k.clock[p]; now != nil {
		r.Time = now()
	}
	k.logs[p] = append(k.logs[p], r)
	if k.checked != nil {
		k.checked(p, &r)
	}
	k.s.note(r.Topic, string(r.Value))
	if k.s.telling {
		k.s.tell("-> %s %s", k.place(p, r.Offset), describeRecord(&r))
	}
}

func (k *kafka) place(p broker.Partition, offset int64) string {
	return fmt.Sprintf("%s %s/%d@%d", k.name, p.Topic, p.Partition, offset)
}

func describeRecord(r *broker.Record) string {
	if _, ok := r.Header(wire.HeaderProgress); ok {
		p, err := wire.ReadProgress(r.Value)
		if err != nil {
			return err.Error()
		}
		var b bytes.Buffer
		b.WriteString("progress")
		for _, a := range p.At {
			fmt.Fprintf(&b, " source %d: %s @%d", a.Source, clock(a.MS), a.Offset)
		}
		return b.String()
	}
	if m, err := wire.ReadMessage(r.Value); err == nil {
		if m.Marker {
			return fmt.Sprintf("marker of shard %d, version %d.%d: all before %s", m.Partition, m.Generation, m.Offset, minuteText(m.Minute))
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "rows of shard %d, version %d.%d, minute %s:", m.Partition, m.Generation, m.Offset, minuteText(m.Minute))
		_ = m.Rows(func(row *wire.Row) error {
			fmt.Fprintf(&b, " %s.%s(", row.Experiment, row.Metric)
			for i, c := range row.Cells {
				if i > 0 {
					b.WriteByte(' ')
				}
				fmt.Fprintf(&b, "%s/%s=%d", c.Variation, c.Tags, c.Value)
			}
			b.WriteByte(')')
			return nil
		})
		return b.String()
	}
	if len(r.Value) == 0 {
		return "heartbeat " + clock(r.Time)
	}
	return fmt.Sprintf("%s %.200s", clock(r.Time), r.Value)
}

// piece is what one request appends to one partition.
type piece struct {
	p    broker.Partition
	recs []broker.Record
}

// Write implements the writers of dispatch and sessionize.
func (k *kafka) Write(_ context.Context, recs []broker.Record) error {
	s := k.s
	var parts []broker.Partition
	by := map[broker.Partition][]broker.Record{}
	bytesOut := 0
	for i := range recs {
		r := recs[i]
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		r.Headers = slices.Clone(r.Headers)
		for h := range r.Headers {
			r.Headers[h].Value = bytes.Clone(r.Headers[h].Value)
		}
		p := broker.Partition{Topic: r.Topic, Partition: r.Partition}
		if by[p] == nil {
			parts = append(parts, p)
		}
		by[p] = append(by[p], r)
		bytesOut += len(r.Value)
	}
	if len(recs) > writeRecords || bytesOut > writeBytes {
		s.found("memory: %s writes %d records of %d bytes at once", s.current.name, len(recs), bytesOut)
	}
	for len(parts) > 0 {
		i := s.r.IntN(len(parts))
		p := parts[i]
		n := len(by[p])
		if s.r.IntN(4) == 0 {
			n = 1 + s.r.IntN(n)
		}
		now := piece{p, by[p][:n]}
		if by[p] = by[p][n:]; len(by[p]) == 0 {
			parts = slices.Delete(parts, i, i+1)
		}
		if err := s.step("write " + p.Topic); err != nil {
			if s.r.IntN(2) == 0 && err == errKilled && !s.quiet {
				k.later(now) // it was on its way
			}
			return err
		}
		if s.fault("write", .01) {
			s.tell("not acknowledged: %d records to %s", n, k.place(p, int64(len(k.logs[p]))))
			k.lose(now)
			for _, q := range parts { // requests to other partitions were under way
				if s.r.IntN(2) == 0 {
					k.lose(piece{q, by[q][:1+s.r.IntN(len(by[q]))]})
				}
			}
			return fmt.Errorf("write to %s: %w", p.Topic, errInjected)
		}
		for _, r := range now.recs {
			k.append(r)
		}
	}
	return nil
}

// Limits of one Write: those of dispatch (records) and sessionize (bytes), with what one more record adds.
const (
	writeRecords = 1<<14 + 1
	writeBytes   = 9 << 20
)

// lose makes of a piece that is not acknowledged what may come of it.
func (k *kafka) lose(p piece) {
	switch k.s.r.IntN(3) {
	case 0:
	case 1:
		for _, r := range p.recs {
			k.append(r)
		}
	default:
		k.later(p)
	}
}

func (k *kafka) later(p piece) {
	s := k.s
	s.at(s.now+s.r.Int64N(2*s.opt.TickMS+1), func() {
		s.tell("appended though its writer had given it up:")
		for _, r := range p.recs {
			k.append(r)
		}
	})
}

// poll reads records from an offset on, at most so many.
func (k *kafka) poll(p broker.Partition, from int64, most int) ([]broker.Record, error) {
	if err := k.s.step("poll " + p.Topic); err != nil {
		return nil, err
	}
	if k.s.fault("poll", .003) {
		return nil, fmt.Errorf("poll %s: %w", p.Topic, errInjected)
	}
	log := k.logs[p]
	if from < k.starts[p] {
		return nil, fmt.Errorf("%s: %w: it begins at %d", k.place(p, from), errNoRange, k.starts[p])
	}
	if from > int64(len(log)) {
		return nil, fmt.Errorf("%s: offset %d is beyond the end, %d", k.place(p, from), from, len(log))
	}
	log = log[from:]
	log = slices.Clone(log[:min(len(log), most)])
	return log, nil
}

func (k *kafka) has(p broker.Partition, from int64) bool { return int64(len(k.logs[p])) > from }

// payload reads one record's value again.
func (k *kafka) payload(p broker.Partition, offset int64) ([]byte, error) {
	if err := k.s.step("payload"); err != nil {
		return nil, err
	}
	if k.s.fault("payload", .05) {
		return nil, fmt.Errorf("payload: %w", errInjected)
	}
	if offset < k.starts[p] {
		return nil, fmt.Errorf("%s: %w: it begins at %d", k.place(p, offset), errNoRange, k.starts[p])
	}
	return k.logs[p][offset].Value, nil
}

// group is a group's partition.
func group(name string, p broker.Partition) broker.Partition {
	return broker.Partition{Topic: name + " " + p.Topic, Partition: p.Partition}
}

// commit commits an offset, soon, if its owner is still the group's.
func (k *kafka) commit(g broker.Partition, to broker.Committed, fenced func() bool) {
	s := k.s
	do := func() {
		if !fenced() {
			k.commits[g] = to
			s.note("commit", g.Topic)
			s.tell("committed %s/%d: %d", g.Topic, g.Partition, to.Offset)
		}
	}
	if s.quiet || s.r.IntN(3) > 0 {
		do()
		return
	}
	if s.r.IntN(2) == 0 { // else the process ends before
		s.at(s.now+s.r.Int64N(s.opt.TickMS+1), func() {
			if to.Offset >= k.commits[g].Offset {
				do()
			}
		})
	}
}

func (k *kafka) committed(g broker.Partition) (broker.Committed, bool, error) {
	if err := k.s.step("committed"); err != nil {
		return broker.Committed{}, false, err
	}
	if k.s.fault("committed", .02) {
		return broker.Committed{}, false, fmt.Errorf("committed: %w", errInjected)
	}
	n, ok := k.commits[g]
	return n, ok, nil
}
