package broker

import (
	"context"
	"fmt"
)

// Memory is a broker in memory: the same logs, without a network, for tests that need thousands of them. Not safe for
// concurrent use.
type Memory struct{ logs map[Partition][]Record }

// NewMemory returns an empty broker.
func NewMemory() *Memory { return &Memory{logs: map[Partition][]Record{}} }

// Write appends the records.
func (m *Memory) Write(_ context.Context, recs []Record) error {
	for i := range recs {
		r := recs[i]
		p := Partition{r.Topic, r.Partition}
		r.Offset = int64(len(m.logs[p]))
		r.Key = append([]byte(nil), r.Key...)
		r.Value = append([]byte(nil), r.Value...)
		r.Headers = append([]Header(nil), r.Headers...)
		for k := range r.Headers {
			r.Headers[k].Value = append([]byte(nil), r.Headers[k].Value...)
		}
		m.logs[p] = append(m.logs[p], r)
	}
	return nil
}

// Log returns the records of a partition from an offset on.
func (m *Memory) Log(p Partition, from int64) []Record {
	log := m.logs[p]
	return log[min(from, int64(len(log))):]
}

// Payload reads one record's value.
func (m *Memory) Payload(p Partition, offset int64) ([]byte, error) {
	if log := m.logs[p]; offset >= 0 && offset < int64(len(log)) {
		return log[offset].Value, nil
	}
	return nil, fmt.Errorf("%s/%d has no record %d", p.Topic, p.Partition, offset)
}
