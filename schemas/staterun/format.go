package staterun

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/xitongsys/parquet-go/parquet"
)

// The columns of a file, in order: flat, all required, without dictionaries, one page a row group each. session_hash is the
// hash with its top bit flipped, so that the signed order of the column is the unsigned order of the hash (as in event
// files). Integers other than the hash, whose place Parquet readers look at, are differences in few bits; state and the texts
// for SQL are in Snappy, which takes a third of the time of zstd at its fastest and half as much disk again; session ids do
// not repeat, and are as they are. Files of releases before have plain integers and zstd, and are read too.
const (
	colHash = iota
	colSession
	colFirst
	colLast
	colDue
	colState
	// What follows is for SQL: readers here never load it.
	colBeacons
	colVisits
	colPages
	colExperiments
	colTotals
	numColumns
)

type column struct {
	name    string
	kind    parquet.Type
	logical *parquet.LogicalType
	text    bool
	codec   parquet.CompressionCodec
	packed  bool // DELTA_BINARY_PACKED
}

// columns is a function, so that the table cannot be changed.
func columns() [numColumns]column {
	ms := &parquet.LogicalType{TIMESTAMP: &parquet.TimestampType{IsAdjustedToUTC: true, Unit: &parquet.TimeUnit{MILLIS: parquet.NewMilliSeconds()}}}
	const snappy = parquet.CompressionCodec_SNAPPY
	return [numColumns]column{
		colHash:    {name: "session_hash", kind: parquet.Type_INT64},
		colSession: {name: "session", kind: parquet.Type_BYTE_ARRAY, text: true},
		colFirst:   {name: "first_ts", kind: parquet.Type_INT64, logical: ms, packed: true},
		colLast:    {name: "last_ts", kind: parquet.Type_INT64, logical: ms, packed: true},
		colDue:     {name: "due_ms", kind: parquet.Type_INT64, packed: true},
		colState:   {name: "state", kind: parquet.Type_BYTE_ARRAY, codec: snappy},

		colBeacons:     {name: "beacons", kind: parquet.Type_INT64, packed: true},
		colVisits:      {name: "visits", kind: parquet.Type_INT64, packed: true},
		colPages:       {name: "pages", kind: parquet.Type_INT64, packed: true},
		colExperiments: {name: "experiments", kind: parquet.Type_BYTE_ARRAY, text: true, codec: snappy},
		colTotals:      {name: "totals", kind: parquet.Type_BYTE_ARRAY, text: true, codec: snappy},
	}
}

// digestsKey is the footer's entry of the digests: base64 of 8 bytes, the xxhash64, for each column of each row group.
const digestsKey = "tandem.digests"

const magic = "PAR1"

func schemaElements() []*parquet.SchemaElement {
	required, n := parquet.FieldRepetitionType_REQUIRED, int32(numColumns)
	all := []*parquet.SchemaElement{{Name: "sessions", RepetitionType: &required, NumChildren: &n}}
	for _, c := range columns() {
		e := &parquet.SchemaElement{Type: &c.kind, RepetitionType: &required, Name: c.name, LogicalType: c.logical}
		if c.text {
			utf8 := parquet.ConvertedType_UTF8
			e.ConvertedType = &utf8
		}
		all = append(all, e)
	}
	return all
}

func sameSchema(have []*parquet.SchemaElement) error {
	want := schemaElements()
	if len(have) != len(want) {
		return fmt.Errorf("its schema has %d elements, want %d", len(have), len(want))
	}
	for i, e := range want[1:] {
		if h := have[i+1]; h.Name != e.Name || h.GetType() != e.GetType() || h.GetRepetitionType() != e.GetRepetitionType() {
			return fmt.Errorf("column %d is %s %v, want %s %v", i, h.Name, h.Type, e.Name, e.Type)
		}
	}
	return nil
}

func encodeDigests(digests []uint64) string {
	var b []byte
	for _, d := range digests {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return base64.StdEncoding.EncodeToString(b)
}

func decodeDigests(text string) ([]uint64, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b)%8 != 0 {
		return nil, fmt.Errorf("its digests are %d bytes, %v", len(b), err)
	}
	digests := make([]uint64, len(b)/8)
	for i := range digests {
		digests[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return digests, nil
}
