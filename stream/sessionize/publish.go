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
	rows       []rowNames // by scope and cell of all groups
	firstCell  []int      // by group
	allCells   int
	syms       map[string]wire.Sym
	none       wire.Sym
	tags       []wire.Sym   // by tag set
	variations [][]wire.Sym // by experiment name
	encoders   []wire.Encoder
	cells      []wire.SymCell
	sketches   []byte
}

type rowKey struct {
	scope, group, cell int
}

// rowNames is what every message says of a row: asked for every row of every tick, formed once.
type rowNames struct {
	known              bool
	partition          int32
	scope              byte
	experiment, metric wire.Sym
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

func (p *publisher) use(chain *tenant.Chain) {
	p.chain, p.syms, p.tags, p.variations = chain, map[string]wire.Sym{}, nil, nil
	p.firstCell, p.allCells = nil, 0
	for i := range chain.Groups {
		p.firstCell = append(p.firstCell, p.allCells)
		p.allCells += len(chain.Groups[i].Names)
	}
	p.rows = make([]rowNames, p.allCells*(1+2*len(chain.XNames)))
	p.none = p.sym("")
	for _, t := range chain.Tags {
		p.tags = append(p.tags, p.sym(t))
	}
	for i := range chain.XNames {
		var syms []wire.Sym
		for _, v := range chain.XNames[i].Variations {
			syms = append(syms, p.sym(v))
		}
		p.variations = append(p.variations, syms)
	}
}

func (p *publisher) sym(text string) wire.Sym {
	s, ok := p.syms[text]
	if !ok {
		s = wire.Sym{ID: uint32(len(p.syms)), Text: text}
		p.syms[text] = s
	}
	return s
}

func (p *publisher) names(k rowKey) *rowNames {
	n := &p.rows[k.scope*p.allCells+p.firstCell[k.group]+k.cell]
	if !n.known {
		scope, x := p.chain.ScopeName(k.scope)
		name := p.chain.Groups[k.group].Names[k.cell]
		*n = rowNames{true, Partition(p.chain.Tenant, x, scope+"."+name, p.partitions), 0, p.sym(x), p.sym(name)}
		if k.scope > 0 {
			n.scope = byte(2 - k.scope%2)
		}
	}
	return n
}

// messages encodes the rows that the tick touched, and calls emit for each message.
func (p *publisher) messages(s *Shard, emit func(Message) error) error {
	if p.chain != s.Chain {
		p.use(s.Chain)
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
	n := p.names(k)
	sketch := k.group == tenant.GroupSeen
	for i := range row {
		c := wire.SymCell{Variation: p.none, Tags: p.tags[row[i].Tags], Value: row[i].Value}
		if k.scope > 0 {
			c.Variation = p.variations[(k.scope-1)/2][row[i].Variation]
		}
		if sketch {
			at := len(p.sketches)
			p.sketches = row[i].Sketch.AppendBinary(p.sketches)
			c.Sketch = p.sketches[at:len(p.sketches):len(p.sketches)]
		}
		p.cells = append(p.cells, c)
	}
	return p.encoders[n.partition].Row(n.scope, n.experiment, n.metric, sketch, p.cells)
}

func (s *Shard) head() wire.Head {
	return wire.Head{Tenant: s.Chain.Tenant, Topic: s.ID.Topic, Partition: s.ID.Partition,
		Generation: s.ID.Generation, FirstMinute: s.ID.FirstMinute, Offset: s.Offset}
}
