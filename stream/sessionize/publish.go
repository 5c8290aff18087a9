package sessionize

import (
	"github.com/cespare/xxhash/v2"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/wire"
)

// publisher turns the touched rows of a tick into metrics messages.
type publisher struct {
	chain      *tenant.Chain
	partitions int
	place      map[rowKey]int32 // metrics partition of a row: it is asked for every row of every tick
	encoders   []wire.Encoder
	cells      []wire.Cell
	sketches   []byte
}

type rowKey struct {
	scope, group, cell int
}

// Message is a metrics message on its way.
type Message struct {
	Partition int32
	Value     []byte
}

// Partition is the partition of the metrics topic for a row, by (tenant, experiment, metric) where metric includes
// the scope. One owner holds all cells of a row.
func Partition(tenantName, experiment, metricName string, partitions int) int32 {
	d := xxhash.New()
	for _, s := range []string{tenantName, experiment, metricName} {
		d.WriteString(s)
		d.Write([]byte{0})
	}
	return int32(d.Sum64() % uint64(partitions))
}

func (p *publisher) partition(k rowKey) int32 {
	if at, ok := p.place[k]; ok {
		return at
	}
	scope, x := p.chain.ScopeName(k.scope)
	at := Partition(p.chain.Tenant, x, scope+"."+p.chain.Groups[k.group].Names[k.cell], p.partitions)
	p.place[k] = at
	return at
}

// messages encodes the rows that the tick touched, and calls emit for each message.
func (p *publisher) messages(s *Shard, emit func(Message) error) error {
	if p.chain != s.Chain {
		p.chain, p.place = s.Chain, map[rowKey]int32{}
	}
	if p.encoders == nil {
		p.encoders = make([]wire.Encoder, p.partitions)
	}
	h := s.head()
	return s.Rows(func(m *metric.Minute) error {
		for i := range p.encoders {
			at := int32(i)
			p.encoders[i].Begin(&h, m.Minute, func(b []byte) error { return emit(Message{at, b}) })
		}
		err := m.Rows(false, s.Cells, func(scope, group, cell int, row []metric.Cell) error {
			return p.row(rowKey{scope, group, cell}, row)
		})
		if err != nil {
			return err
		}
		for i := range p.encoders {
			if err := p.encoders[i].Flush(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *publisher) row(k rowKey, row []metric.Cell) error {
	p.cells, p.sketches = p.cells[:0], p.sketches[:0]
	var variations []string
	x := ""
	if k.scope > 0 {
		xn := &p.chain.XNames[(k.scope-1)/2]
		variations, x = xn.Variations, xn.Name
	}
	sketch := k.group == tenant.GroupSeen
	for i := range row {
		c := wire.Cell{Tags: p.chain.Tags[row[i].Tags], Value: row[i].Value}
		if variations != nil {
			c.Variation = variations[row[i].Variation]
		}
		if sketch {
			at := len(p.sketches)
			p.sketches = row[i].Sketch.AppendBinary(p.sketches)
			c.Sketch = p.sketches[at:len(p.sketches):len(p.sketches)]
		}
		p.cells = append(p.cells, c)
	}
	scope := byte(0)
	if k.scope > 0 {
		scope = byte(2 - k.scope%2)
	}
	return p.encoders[p.partition(k)].Row(scope, x, p.chain.Groups[k.group].Names[k.cell], sketch, p.cells)
}

func (s *Shard) head() wire.Head {
	return wire.Head{Tenant: s.Chain.Tenant, Topic: s.ID.Topic, Partition: s.ID.Partition,
		Generation: s.ID.Generation, FirstMinute: s.ID.FirstMinute, Offset: s.Offset}
}
