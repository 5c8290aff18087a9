package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/row"
)

// A metrics message: rows of one minute from one shard, absolute values, whole or in parts. Rows travel many to a
// message, since at low traffic there are more rows than beacons; that changes nothing of what a row's version means:
// the offset of the message that it came in. All integers are uvarints unless said otherwise:
//
//	byte version (1)  8 bytes xxhash64 of all that follows
//	byte kind (1 rows, 2 marker)  len+tenant  len+shard topic id  shard partition  generation  first minute
//	input offset  minute (rows) or watermark (marker), in minutes
//	marker: until, in minutes; in messages of before it is missing
//	rows: u n  n * len+string (the dictionary)
//	      until the end: byte scope  u experiment  u metric  u part  u parts  u n
//	      n * (u variation, u tags, zigzag value | u len+sketch)
//
// Strings of a row are indices into the dictionary. A scope byte of 0x80 or more marks cells that are sketches.
const (
	metricsVersion = 1
	kindRows       = 1
	kindMarker     = 2
	headSize       = 9
	sketchBit      = 0x80
	maxScope       = 2 // site, assigned, fm

	// MaxMessage bounds a message: the largest part of a row that travels alone (DESIGN 4).
	MaxMessage = 256 << 10
	// maxParts is far above what the largest row can need, so that a number that was never written is not believed.
	maxParts = 1 << 14
	// cellRoom is what a cell takes at most beside its strings and sketch.
	cellRoom = 32
	// reserve is kept free for the names of a row.
	reserve = 2048
)

// Head is what every message of a shard carries.
type Head struct {
	Tenant      string
	Topic       string // the shard's topic id
	Partition   int32
	Generation  int64
	FirstMinute int64 // of the generation
	Offset      int64 // of the input prefix: with Generation, the version
}

// Cell is one value of a row.
type Cell = row.Cell

// Sym is a string with a small number, one for each string: what is written over and over is looked up by number.
type Sym struct {
	ID   uint32
	Text string
}

// SymCell is one value of a row.
type SymCell struct {
	Variation, Tags Sym
	Value           int64
	Sketch          []byte
}

// Encoder packs the rows of one minute into messages.
type Encoder struct {
	places []place // by Sym.ID: its place in the dictionary of this epoch
	epoch  uint32  // of the message at hand
	strs   []string
	size   int // of the dictionary, bytes
	rows   []byte
	pairs  [128]pair // by a mix of the two: neighbouring rows have the same cells
	emit   func([]byte) error
	ident  []byte
}

type place struct{ epoch, index uint32 }

// pair is how a variation and a tag set are written in the message of the epoch: two uvarints, n bytes, the first byte
// lowest. They fit, since no dictionary has more strings than a message has bytes.
type pair struct {
	variation, tags uint32 // Sym.ID
	epoch           uint32
	n               uint32
	bytes           uint64
}

// Begin starts the rows of a minute; emit takes each message (a fresh slice).
func (e *Encoder) Begin(h *Head, minute int64, emit func([]byte) error) {
	e.ident = appendHead(e.ident[:0], kindRows, h, minute)
	e.emit = emit
	e.clear()
}

func (e *Encoder) clear() {
	e.epoch++
	e.strs, e.rows, e.size = e.strs[:0], e.rows[:0], 1
}

func appendHead(b []byte, kind byte, h *Head, minute int64) []byte {
	b = append(b, metricsVersion, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	b = appendString(b, h.Tenant)
	b = appendString(b, h.Topic)
	for _, v := range []int64{int64(h.Partition), h.Generation, h.FirstMinute, h.Offset, minute} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func seal(b []byte) []byte {
	binary.LittleEndian.PutUint64(b[1:], xxhash.Sum64(b[headSize:]))
	return b
}

// Row adds a row. Cells are in the order of the encoder's caller, the same for equal rows.
func (e *Encoder) Row(scope byte, experiment, metric Sym, sketch bool, cells []SymCell) error {
	if sketch {
		scope |= sketchBit
	}
	room := MaxMessage - len(e.ident) - e.size - len(e.rows) - reserve
	if room < MaxMessage/16 && len(e.rows) > 0 {
		if err := e.Flush(); err != nil {
			return err
		}
		room = MaxMessage - len(e.ident) - reserve
	}
	// Cut the row into parts that fit a message each. The common row is one part in the message at hand.
	var one [1]int
	ends := e.parts(one[:0], cells, room)
	from := 0
	for p, to := range ends {
		if p > 0 {
			if err := e.Flush(); err != nil {
				return err
			}
		}
		e.rows = append(e.rows, scope)
		e.uvarint(e.place(experiment))
		e.uvarint(e.place(metric))
		e.uvarint(uint32(p))
		e.uvarint(uint32(len(ends)))
		e.uvarint(uint32(to - from))
		if sketch {
			e.sketches(cells[from:to])
		} else {
			e.values(cells[from:to])
		}
		from = to
	}
	return nil
}

func (e *Encoder) uvarint(v uint32) { e.rows = binary.AppendUvarint(e.rows, uint64(v)) }

func (e *Encoder) values(cells []SymCell) {
	at := len(e.rows)
	e.rows = slices.Grow(e.rows, cellRoom*len(cells))
	b := e.rows[:at+cellRoom*len(cells)]
	for i := range cells {
		c := &cells[i]
		at = e.names(b, at, c)
		if u := uint64(c.Value<<1) ^ uint64(c.Value>>63); u < 0x80 {
			b[at] = byte(u)
			at++
		} else {
			at += binary.PutUvarint(b[at:], u)
		}
	}
	e.rows = b[:at]
}

func (e *Encoder) sketches(cells []SymCell) {
	for i := range cells {
		c := &cells[i]
		at := len(e.rows)
		e.rows = slices.Grow(e.rows, cellRoom+len(c.Sketch))[:at+cellRoom]
		e.rows = e.rows[:e.names(e.rows, at, c)]
		e.uvarint(uint32(len(c.Sketch)))
		e.rows = append(e.rows, c.Sketch...)
	}
}

// names writes the names of a cell at b[at:], which has cellRoom, and returns where they end.
func (e *Encoder) names(b []byte, at int, c *SymCell) int {
	p := &e.pairs[(c.Variation.ID+c.Tags.ID<<1)%uint32(len(e.pairs))]
	if p.epoch != e.epoch || p.variation != c.Variation.ID || p.tags != c.Tags.ID {
		e.pair(p, c)
	}
	binary.LittleEndian.PutUint64(b[at:], p.bytes)
	return at + int(p.n)
}

func (e *Encoder) pair(p *pair, c *SymCell) {
	var b [2 * binary.MaxVarintLen32]byte
	n := binary.PutUvarint(b[:], uint64(e.place(c.Variation)))
	n += binary.PutUvarint(b[n:], uint64(e.place(c.Tags)))
	*p = pair{c.Variation.ID, c.Tags.ID, e.epoch, uint32(n), binary.LittleEndian.Uint64(b[:])}
}

// parts appends where each part of the row ends. Sizes count every string as new.
func (e *Encoder) parts(ends []int, cells []SymCell, room int) []int {
	size := 0
	for i := range cells {
		c := &cells[i]
		n := len(c.Variation.Text) + len(c.Tags.Text) + len(c.Sketch) + cellRoom
		if size+n > room && size > 0 {
			ends = append(ends, i)
			size, room = 0, MaxMessage-len(e.ident)-reserve
		}
		size += n
	}
	return append(ends, len(cells))
}

// place returns the string's place in the dictionary of the message at hand.
func (e *Encoder) place(s Sym) uint32 {
	for int(s.ID) >= len(e.places) {
		e.places = append(e.places, place{})
	}
	p := &e.places[s.ID]
	if p.epoch != e.epoch {
		*p = place{e.epoch, uint32(len(e.strs))}
		e.strs = append(e.strs, s.Text)
		e.size += len(s.Text) + 5
	}
	return p.index
}

// Flush emits what there is.
func (e *Encoder) Flush() error {
	if len(e.rows) == 0 {
		return nil
	}
	b := make([]byte, 0, len(e.ident)+e.size+len(e.rows)+8)
	b = append(b, e.ident...)
	b = binary.AppendUvarint(b, uint64(len(e.strs)))
	for _, s := range e.strs {
		b = appendString(b, s)
	}
	b = append(b, e.rows...)
	e.clear()
	return e.emit(seal(b))
}

// AppendMarker appends a marker: this shard has published, at this version, all that it will of minutes before the
// watermark (in minutes), and has told of none from until on.
func AppendMarker(h *Head, watermark, until int64) []byte {
	return seal(binary.AppendUvarint(appendHead(nil, kindMarker, h, watermark), uint64(until)))
}

// Message is a message that was read. Its strings and cells alias the bytes.
type Message struct {
	Head
	Marker bool
	Minute int64 // of the rows; for a marker the watermark
	Until  int64 // of a marker: the shard has told of no minute from this one on; 0: it is not known
	dict   []string
	rows   []byte
}

// Names are the strings of the message's rows, each once.
func (m *Message) Names() []string { return m.dict }

// Row is one row, or a part of one.
type Row struct {
	Scope       byte
	Experiment  string
	Metric      string
	Part, Parts int
	Sketch      bool
	Cells       []Cell

	// The same by their places in Names.
	ExperimentAt, MetricAt uint32
	CellsAt                []CellAt
}

// CellAt are the places of a cell's names.
type CellAt struct{ Variation, Tags uint32 }

// ErrCorrupt marks a metrics message that is not what was written.
var ErrCorrupt = errors.New("metrics message is corrupt")

type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) u() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad = true
		c.b = nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) upTo(most uint64) uint64 {
	v := c.u()
	if v > most {
		c.bad = true
	}
	return v
}

func (c *cursor) bytes() []byte {
	n := c.u()
	if n > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

// ReadMessage checks the digest and reads the head.
func ReadMessage(b []byte) (*Message, error) {
	if len(b) < headSize+1 || b[0] != metricsVersion {
		return nil, fmt.Errorf("%w: %d bytes, not of version %d", ErrCorrupt, len(b), metricsVersion)
	}
	if xxhash.Sum64(b[headSize:]) != binary.LittleEndian.Uint64(b[1:]) {
		return nil, fmt.Errorf("%w: digest differs", ErrCorrupt)
	}
	kind := b[headSize]
	if kind != kindRows && kind != kindMarker {
		return nil, fmt.Errorf("%w: kind %d", ErrCorrupt, kind)
	}
	m := &Message{Marker: kind == kindMarker}
	c := cursor{b: b[headSize+1:]}
	m.Tenant, m.Topic = string(c.bytes()), string(c.bytes())
	m.Partition = int32(c.upTo(math.MaxInt32))
	for _, v := range []*int64{&m.Generation, &m.FirstMinute, &m.Offset, &m.Minute} {
		*v = int64(c.upTo(math.MaxInt64))
	}
	if m.Marker {
		if len(c.b) > 0 {
			m.Until = int64(c.upTo(math.MaxInt64))
		}
		c.bad = c.bad || len(c.b) > 0
	} else {
		n := c.u()
		if n > uint64(len(c.b)) {
			return nil, fmt.Errorf("%w: dictionary", ErrCorrupt)
		}
		m.dict = make([]string, n)
		for i := range m.dict {
			m.dict[i] = string(c.bytes())
		}
	}
	if c.bad {
		return nil, fmt.Errorf("%w: head", ErrCorrupt)
	}
	m.rows = c.b
	return m, nil
}

// Rows calls fn for each row; the row is valid during the call.
func (m *Message) Rows(fn func(*Row) error) error {
	c := cursor{b: m.rows}
	var r Row
	name := func() (string, uint32) {
		i := c.u()
		if i >= uint64(len(m.dict)) {
			c.bad = true
			return "", 0
		}
		return m.dict[i], uint32(i)
	}
	for len(c.b) > 0 && !c.bad {
		r.Scope = c.b[0] &^ sketchBit
		r.Sketch = c.b[0]&sketchBit != 0
		c.b = c.b[1:]
		r.Experiment, r.ExperimentAt = name()
		r.Metric, r.MetricAt = name()
		r.Part, r.Parts = int(c.upTo(maxParts)), int(c.upTo(maxParts))
		n := c.u()
		if n > uint64(len(c.b)) || r.Part >= r.Parts || r.Scope > maxScope {
			c.bad = true
			break
		}
		r.Cells, r.CellsAt = r.Cells[:0], r.CellsAt[:0]
		for range n {
			var cell Cell
			var at CellAt
			cell.Variation, at.Variation = name()
			cell.Tags, at.Tags = name()
			if r.Sketch {
				cell.Sketch = c.bytes()
			} else {
				u := c.u()
				cell.Value = int64(u>>1) ^ -int64(u&1)
			}
			r.Cells, r.CellsAt = append(r.Cells, cell), append(r.CellsAt, at)
		}
		if c.bad {
			break
		}
		if err := fn(&r); err != nil {
			return err
		}
	}
	if c.bad {
		return fmt.Errorf("%w: rows", ErrCorrupt)
	}
	return nil
}
