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
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"
)

// RowsName and CoverageName are the names of a window's objects in a generation; window is in ms since the epoch.
func RowsName(tenant string, window, generation int64) string {
	return name("rows", tenant, window, generation)
}

// CoverageName is RowsName of the coverage table.
func CoverageName(tenant string, window, generation int64) string {
	return name("coverage", tenant, window, generation)
}

func name(table, tenant string, window, generation int64) string {
	return fmt.Sprintf("%s/tenant=%s/%s-%012d.parquet", table, tenant, time.UnixMilli(window).UTC().Format("dt=2006-01-02/1504"), generation)
}

const (
	groupRows        = 128 << 10 // of a row group: what a writer holds before it is encoded
	compressionLevel = 1
)

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
	known   []int16   // definition levels: 0 is null

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

// writer makes a file of columns. The same values give the same bytes.
type writer struct {
	columns []*column
	out     bytes.Buffer
	file    *file.Writer
	rows    int // of the row group at hand
}

func newWriter(columns ...*column) (*writer, error) {
	w := &writer{columns: columns}
	props := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(compressionLevel),
		parquet.WithDictionaryDefault(false),
	}
	var fields schema.FieldList
	for _, c := range columns {
		var logical schema.LogicalType = schema.NoLogicalType{}
		physical, repetition := parquet.Types.Int64, parquet.Repetitions.Required
		switch c.kind {
		case double:
			physical, repetition = parquet.Types.Double, parquet.Repetitions.Optional
		case instant:
			logical = schema.NewTimestampLogicalType(true, schema.TimeUnitMillis)
		case text:
			logical, physical = schema.StringLogicalType{}, parquet.Types.ByteArray
			c.places = map[string]int32{}
			props = append(props, parquet.WithDictionaryFor(c.name, true), parquet.WithStatsFor(c.name, false))
		}
		if c.kind == integer || c.kind == instant {
			props = append(props, parquet.WithEncodingFor(c.name, parquet.Encodings.DeltaBinaryPacked), parquet.WithCompressionFor(c.name, compress.Codecs.Uncompressed))
		}
		node, err := schema.NewPrimitiveNodeLogical(c.name, repetition, logical, physical, -1, -1)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.name, err)
		}
		fields = append(fields, node)
	}
	root, err := schema.NewGroupNode("table", parquet.Repetitions.Required, fields, -1)
	if err != nil {
		return nil, err
	}
	w.file = file.NewParquetWriter(&w.out, root, file.WithWriterProps(parquet.NewWriterProperties(props...)))
	return w, nil
}

// added says that each column has a value more.
func (w *writer) added() error {
	if w.rows++; w.rows < groupRows {
		return nil
	}
	return w.flush()
}

// flush writes the row group at hand.
func (w *writer) flush() (err error) {
	// The library reports some errors by panic.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parquet writer failed: %v", p)
		}
	}()
	group := w.file.AppendRowGroup()
	for _, c := range w.columns {
		cw, err := group.NextColumn()
		if err == nil {
			err = c.write(cw)
		}
		if err == nil {
			err = cw.Close()
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	w.rows = 0
	return group.Close()
}

func (c *column) write(cw file.ColumnChunkWriter) error {
	switch cw := cw.(type) {
	case *file.Int64ColumnChunkWriter:
		_, err := cw.WriteBatch(c.ints, nil, nil)
		c.ints = c.ints[:0]
		return err
	case *file.Float64ColumnChunkWriter:
		_, err := cw.WriteBatch(c.doubles, c.known, nil)
		c.doubles, c.known = c.doubles[:0], c.known[:0]
		return err
	case *file.ByteArrayColumnChunkWriter:
		encoder, ok := cw.CurrentEncoder().(interface{ PutDictionary(arrow.Array) error })
		if !ok {
			return errors.New("the library's encoder takes no dictionary")
		}
		b := array.NewBinaryBuilder(memory.DefaultAllocator, arrow.BinaryTypes.Binary)
		defer b.Release()
		for _, v := range c.values {
			b.AppendString(v)
		}
		values := b.NewArray()
		defer values.Release()
		if err := encoder.PutDictionary(values); err != nil {
			return err
		}
		numbers := array.NewInt32Data(array.NewData(arrow.PrimitiveTypes.Int32, len(c.indices),
			[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(c.indices))}, nil, 0, 0))
		defer numbers.Release()
		err := cw.WriteDictIndices(numbers, nil, nil)
		clear(c.places)
		c.values, c.after, c.indices = c.values[:0], c.after[:0], c.indices[:0]
		return err
	}
	return nil
}

// finish returns the file. A table without rows is one too.
func (w *writer) finish() ([]byte, error) {
	if w.rows > 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	// Not Close, which loses the error of writing the footer.
	if err := w.file.FlushWithFooter(); err != nil {
		return nil, err
	}
	return w.out.Bytes(), nil
}
