package archive

import (
	"fmt"

	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/schema"
)

// The columns of a file, in order: those that the batch reads come first and lie side by side, the payload last. All are required; what is absent is empty. Strings are annotated as UTF-8 and ts as a
// UTC timestamp, for SQL readers; payload and event are plain bytes.
//
// session_hash is the hash with its top bit flipped (see flip), so that the signed order of the column, in which every
// reader keeps statistics, is the unsigned order of the hash.
const (
	colHash = iota
	colSession
	colTS
	colIngest
	colOffset
	colDigest
	colID
	colEvent
	colPoint
	colVisitor
	colPayload
	numColumns
)

type columnKind int

const (
	kindInt columnKind = iota
	kindTime
	kindString
	kindBytes
)

// columnEncoding is how a column is laid out.
type columnEncoding byte

const (
	plain  columnEncoding = iota // compressed
	listed                       // as places in a list of the row group's values, compressed; plain, if these do not repeat
	packed                       // as differences in few bits, which compression would not make smaller
)

type columnSpec struct {
	name     string
	kind     columnKind
	encoding columnEncoding
}

// columnSpecs is a function, so that the table cannot be changed.
func columnSpecs() [numColumns]columnSpec {
	return [numColumns]columnSpec{
		colHash:    {"session_hash", kindInt, listed},
		colSession: {"session", kindString, listed},
		colTS:      {"ts", kindTime, packed},
		colIngest:  {"ingest_ms", kindInt, packed},
		colOffset:  {"offset", kindInt, packed},
		colDigest:  {"digest", kindInt, listed},
		colID:      {"id", kindString, plain},
		colEvent:   {"event", kindBytes, plain},
		colPoint:   {"point", kindString, listed},
		colVisitor: {"visitor", kindString, listed},
		colPayload: {"payload", kindBytes, plain},
	}
}

func (k columnKind) physical() parquet.Type {
	if k == kindInt || k == kindTime {
		return parquet.Types.Int64
	}
	return parquet.Types.ByteArray
}

// flip maps the unsigned order of hashes to the signed order of int64, and unflip back.
func flip(hash uint64) int64 { return int64(hash ^ 1<<63) }

func unflip(column int64) uint64 { return uint64(column) ^ 1<<63 }

func newSchema() (*schema.GroupNode, error) {
	specs := columnSpecs()
	fields := make(schema.FieldList, 0, len(specs))
	for _, spec := range specs {
		var logical schema.LogicalType = schema.NoLogicalType{}
		switch spec.kind {
		case kindTime:
			logical = schema.NewTimestampLogicalType(true, schema.TimeUnitMillis)
		case kindString:
			logical = schema.StringLogicalType{}
		}
		node, err := schema.NewPrimitiveNodeLogical(spec.name, parquet.Repetitions.Required, logical, spec.kind.physical(), -1, -1)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", spec.name, err)
		}
		fields = append(fields, node)
	}
	return schema.NewGroupNode("events", parquet.Repetitions.Required, fields, -1)
}

// checkSchema refuses a file whose columns are not exactly these: reading by position would give wrong values.
func checkSchema(sc *schema.Schema) error {
	specs := columnSpecs()
	if sc.NumColumns() != len(specs) {
		return fmt.Errorf("it has %d columns, want %d", sc.NumColumns(), len(specs))
	}
	for i, spec := range specs {
		col := sc.Column(i)
		if col.Path() != spec.name || col.PhysicalType() != spec.kind.physical() {
			return fmt.Errorf("column %d is %s %s, want %s %s", i, col.Path(), col.PhysicalType(), spec.name, spec.kind.physical())
		}
		if col.MaxDefinitionLevel() != 0 || col.MaxRepetitionLevel() != 0 {
			return fmt.Errorf("column %s is optional or repeated, want required", spec.name)
		}
	}
	return nil
}
