package sessionize

import (
	"math/bits"

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
	columns    []wire.SymCell // the cells of a run's pages, without values
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
		s.until = max(s.until, m.Minute+1)
		for i := range p.encoders {
			at := int32(i)
			p.encoders[i].Begin(&h, m.Minute, func(b []byte) error { return emit(Message{at, b}) })
		}
		if err := m.Runs(p.run); err != nil {
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

// run encodes the touched rows of a run. A row all of whose cells are zero has none, and still says something: what was
// there is gone.
func (p *publisher) run(r *metric.Run) error {
	p.columns = p.columns[:0]
	for i := range r.Pages {
		variation, tags := r.Page(i)
		c := wire.SymCell{Variation: p.none, Tags: p.tags[tags]}
		if r.Scope > 0 {
			c.Variation = p.variations[(r.Scope-1)/2][variation]
		}
		p.columns = append(p.columns, c)
	}
	for touched := r.Touched; touched != 0; touched &= touched - 1 {
		cell := bits.TrailingZeros64(touched)
		p.cells = p.cells[:0]
		if r.Group == tenant.GroupSeen {
			p.sketched(r)
		} else {
			for i := range p.columns {
				if v := r.Value(i, cell); v != 0 {
					p.cells = append(p.cells, p.columns[i])
					p.cells[len(p.cells)-1].Value = v
				}
			}
		}
		n := p.names(rowKey{r.Scope, r.Group, cell})
		if err := p.encoders[n.partition].Row(n.scope, n.experiment, n.metric, r.Group == tenant.GroupSeen, p.cells); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) sketched(r *metric.Run) {
	p.sketches = p.sketches[:0]
	for i := range p.columns {
		if sketch := r.Sketch(i); sketch != nil && !sketch.Empty() {
			at := len(p.sketches)
			p.sketches = sketch.AppendBinary(p.sketches)
			p.cells = append(p.cells, p.columns[i])
			p.cells[len(p.cells)-1].Sketch = p.sketches[at:len(p.sketches):len(p.sketches)]
		}
	}
}

func (s *Shard) head() wire.Head {
	return wire.Head{Tenant: s.Chain.Tenant, Topic: s.ID.Topic, Partition: s.ID.Partition,
		Generation: s.ID.Generation, FirstMinute: s.ID.FirstMinute, Offset: s.Offset}
}
