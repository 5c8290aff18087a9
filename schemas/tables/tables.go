// Package tables holds the tables that SQL engines read: the rows of each covered window and what coverage says of it, as
// small Parquet files in Hive-style folders, one for each (window, generation), created once. Tandem itself reads none of them.
//
//	rows/tenant=T/dt=YYYY-MM-DD/HHMM-GENERATION.parquet
//	coverage/tenant=T/dt=YYYY-MM-DD/HHMM-GENERATION.parquet
//
// dt and HHMM are the window's start in UTC. Of a window the greatest generation in coverage stands; its rows are whole, since
// they are written first. Other generations may lie beside it until they are collected, so a reader joins rows with the standing
// generation of their window (the README has the view).
package tables

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/xitongsys/parquet-go/parquet"

	"tandem/schemas/bitpack"
	"tandem/schemas/pages"
)

// RowsName and CoverageName are the names of a window's objects in a generation; window is in ms since the epoch.
func RowsName(tenant string, window, generation int64) string {
	return name("rows", tenant, window, generation)
}

// CoverageName is RowsName of the coverage table.
func CoverageName(tenant string, window, generation int64) string {
	return name("coverage", tenant, window, generation)
}

// CoverageFolder is where the objects of CoverageName lie.
func CoverageFolder(tenant string) string { return "coverage/tenant=" + tenant + "/" }

// Generation is that of an object of CoverageName.
func Generation(name string) (g int64, err error) {
	if _, err := fmt.Sscanf(path.Base(name), "%04d-%d.parquet", new(int), &g); err != nil || g < 1 {
		return 0, fmt.Errorf("table %s: not a table's name", name)
	}
	return g, nil
}

func name(table, tenant string, window, generation int64) string {
	return fmt.Sprintf("%s/tenant=%s/%s-%012d.parquet", table, tenant, time.UnixMilli(window).UTC().Format("dt=2006-01-02/1504"), generation)
}

// groupRows are a row group: what a writer holds before it is encoded.
const groupRows = 128 << 10

type kind int

const (
	integer kind = iota
	instant      // ms since the epoch, UTC
	text         // listed in a dictionary: few values
	double       // NaN is null
)

// column is a column with the values of the row group at hand.
type column struct {
	name string
	kind kind
	ints []int64

	doubles []float64 // that are no null
	known   []int32   // definition levels: 0 is null

	places  map[string]int32
	values  []string // in order of first use
	after   []int32  // by place: what followed it last; rows side by side list the same values in the same order
	indices []int32
}

func (c *column) text(v string) {
	if n := len(c.indices); n > 0 {
		last := c.indices[n-1]
		if c.values[last] == v {
			c.indices = append(c.indices, last)
			return
		}
		if next := c.after[last]; c.values[next] == v {
			c.indices = append(c.indices, next)
			return
		}
	}
	place, ok := c.places[v]
	if !ok {
		place = int32(len(c.values))
		c.places[v], c.values, c.after = place, append(c.values, v), append(c.after, 0)
	}
	if n := len(c.indices); n > 0 {
		c.after[c.indices[n-1]] = place
	}
	c.indices = append(c.indices, place)
}

func (c *column) double(v float64) {
	if math.IsNaN(v) {
		c.known = append(c.known, 0)
		return
	}
	c.doubles, c.known = append(c.doubles, v), append(c.known, 1)
}

// repeat adds n times a value.
func (c *column) repeat(v string, n int) {
	if n == 0 {
		return
	}
	c.text(v)
	place := c.indices[len(c.indices)-1]
	for range n - 1 {
		c.indices = append(c.indices, place)
	}
}

// repeatInt adds n times a value.
func (c *column) repeatInt(v int64, n int) {
	for range n {
		c.ints = append(c.ints, v)
	}
}

// writer makes a file of columns. The same values give the same bytes. The pages are laid out here, a row group at once, and
// the library has the format's structures: its own writers take values one at a time, which cost more than finding them.
type writer struct {
	columns []*column
	out     []byte
	groups  []*parquet.RowGroup
	rows    int // of the row group at hand
	all     int64
	page    []byte // scratch
	stored  []byte
}

const magic = "PAR1"

func newWriter(columns ...*column) *writer {
	for _, c := range columns {
		c.places = map[string]int32{}
	}
	return &writer{columns: columns, out: []byte(magic)}
}

// reset begins another file in the memory of the one before.
func (w *writer) reset() {
	for _, c := range w.columns {
		c.empty()
	}
	*w = writer{columns: w.columns, out: append(w.out[:0], magic...), page: w.page, stored: w.stored}
}

// empty makes it a column without values.
func (c *column) empty() {
	clear(c.places)
	c.ints, c.doubles, c.known, c.values, c.after, c.indices = c.ints[:0], c.doubles[:0], c.known[:0], c.values[:0], c.after[:0], c.indices[:0]
}

// added says that each column has so many values more, of a row or of lines that are alike.
func (w *writer) added(n int) error {
	if w.rows += n; w.rows < groupRows {
		return nil
	}
	return w.flush()
}

// compressor is shared by all writers.
var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithZeroFrames(true), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
})

// flush writes the row group at hand.
func (w *writer) flush() error {
	g := &parquet.RowGroup{NumRows: int64(w.rows)}
	for _, c := range w.columns {
		chunk, err := w.chunk(c)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
		g.Columns = append(g.Columns, chunk)
		g.TotalByteSize += chunk.MetaData.TotalUncompressedSize
	}
	w.groups, w.all, w.rows = append(w.groups, g), w.all+g.NumRows, 0
	return nil
}

// chunk writes a column of the row group: a page of values, and before it of texts one with their dictionary.
func (w *writer) chunk(c *column) (*parquet.ColumnChunk, error) {
	md := &parquet.ColumnMetaData{Type: c.kind.physical(), PathInSchema: []string{c.name}, Codec: parquet.CompressionCodec_ZSTD, NumValues: int64(w.rows)}
	encoding, b := parquet.Encoding_PLAIN, w.page[:0]
	switch c.kind {
	case text:
		encoding = parquet.Encoding_RLE_DICTIONARY
		for _, v := range c.values {
			b = pages.AppendText(b, v)
		}
		stored, err := w.compressed(md, b)
		if err != nil {
			return nil, err
		}
		if w.out, err = pages.AppendDictionary(w.out, md, len(c.values), len(b), stored); err != nil {
			return nil, err
		}
		b = bitpack.AppendPlaces(b[:0], c.indices, len(c.values))
	case double:
		b = pages.AppendLevels(b, c.known, 1)
		for _, v := range c.doubles {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
	default:
		encoding, md.Codec = parquet.Encoding_DELTA_BINARY_PACKED, parquet.CompressionCodec_UNCOMPRESSED
		least := binary.LittleEndian.AppendUint64(nil, uint64(slices.Min(c.ints)))
		greatest := binary.LittleEndian.AppendUint64(nil, uint64(slices.Max(c.ints)))
		md.Statistics = &parquet.Statistics{MinValue: least, MaxValue: greatest}
		b = bitpack.AppendDelta(b, c.ints)
	}
	c.empty()
	md.Encodings = []parquet.Encoding{parquet.Encoding_PLAIN, parquet.Encoding_RLE, encoding}
	w.page = b
	stored, err := w.compressed(md, b)
	if err != nil {
		return nil, err
	}
	if w.out, err = pages.AppendValues(w.out, md, encoding, len(b), stored); err != nil {
		return nil, err
	}
	return &parquet.ColumnChunk{FileOffset: pages.Begin(md), MetaData: md}, nil
}

// compressed is a page as it is stored, valid until the next call.
func (w *writer) compressed(md *parquet.ColumnMetaData, page []byte) ([]byte, error) {
	if md.Codec != parquet.CompressionCodec_ZSTD {
		return page, nil
	}
	enc, err := compressor()
	if err != nil {
		return nil, err
	}
	w.stored = enc.EncodeAll(page, w.stored[:0])
	return w.stored, nil
}

func (k kind) physical() parquet.Type {
	switch k {
	case text:
		return parquet.Type_BYTE_ARRAY
	case double:
		return parquet.Type_DOUBLE
	}
	return parquet.Type_INT64
}

// finish returns the file. A table without rows is one too.
func (w *writer) finish() ([]byte, error) {
	if w.rows > 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	n, by := int32(len(w.columns)), "tandem"
	required := parquet.FieldRepetitionType_REQUIRED
	schema := []*parquet.SchemaElement{{Name: "table", RepetitionType: &required, NumChildren: &n}}
	for _, c := range w.columns {
		physical, repetition := c.kind.physical(), required
		e := &parquet.SchemaElement{Type: &physical, RepetitionType: &repetition, Name: c.name}
		switch c.kind {
		case text:
			utf8 := parquet.ConvertedType_UTF8
			e.ConvertedType, e.LogicalType = &utf8, &parquet.LogicalType{STRING: parquet.NewStringType()}
		case instant:
			e.LogicalType = &parquet.LogicalType{TIMESTAMP: &parquet.TimestampType{IsAdjustedToUTC: true, Unit: &parquet.TimeUnit{MILLIS: parquet.NewMilliSeconds()}}}
		case double:
			repetition = parquet.FieldRepetitionType_OPTIONAL
		}
		schema = append(schema, e)
	}
	foot, err := pages.Compact(&parquet.FileMetaData{Version: 1, Schema: schema, NumRows: w.all, RowGroups: w.groups, CreatedBy: &by})
	if err != nil {
		return nil, err
	}
	w.out = append(binary.LittleEndian.AppendUint32(append(w.out, foot...), uint32(len(foot))), magic...)
	return w.out, nil
}
