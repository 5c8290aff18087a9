package staterun

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/xitongsys/parquet-go/parquet"
)

// The columns of a file, in order: one page a row group each. The first are flat, required, without dictionaries. session_hash is the
// hash with its top bit flipped, so that the signed order of the column is the unsigned order of the hash (as in event
// files). Integers other than the hash, whose place Parquet readers look at, are differences in few bits; session ids and
// states are as they are: ids do not repeat, and Snappy made a file smaller by a tenth for a twenty-fifth of a batch's time. Files of
// releases before have plain integers, Snappy, zstd, and texts of JSON for maps, and are read too.
//
// Experiments and totals are maps, of which Parquet has the keys and each part of the values as columns of their own: names are places in a
// dictionary of the row group, few bits each. As texts of JSON they took a tenth of a batch, of sessions with 12 experiments a fifth.
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
	numFlat
)

// numColumns is how many there are with those of maps: of experiments four, of totals two. numTop is how many fields a row has, and how many
// columns files of before: a text for each map.
const (
	numColumns = numFlat + 6
	numTop     = numFlat + 2
)

type column struct {
	name    string
	kind    parquet.Type
	logical *parquet.LogicalType
	text    bool
	packed  bool // DELTA_BINARY_PACKED
}

func timestamp() *parquet.LogicalType {
	return &parquet.LogicalType{TIMESTAMP: &parquet.TimestampType{IsAdjustedToUTC: true, Unit: &parquet.TimeUnit{MILLIS: parquet.NewMilliSeconds()}}}
}

// flat is a function, so that the table cannot be changed.
func flat() [numFlat]column {
	return [numFlat]column{
		colHash:    {name: "session_hash", kind: parquet.Type_INT64},
		colSession: {name: "session", kind: parquet.Type_BYTE_ARRAY, text: true},
		colFirst:   {name: "first_ts", kind: parquet.Type_INT64, logical: timestamp(), packed: true},
		colLast:    {name: "last_ts", kind: parquet.Type_INT64, logical: timestamp(), packed: true},
		colDue:     {name: "due_ms", kind: parquet.Type_INT64, packed: true},
		colState:   {name: "state", kind: parquet.Type_BYTE_ARRAY},

		colBeacons: {name: "beacons", kind: parquet.Type_INT64, packed: true},
		colVisits:  {name: "visits", kind: parquet.Type_INT64, packed: true},
		colPages:   {name: "pages", kind: parquet.Type_INT64, packed: true},
	}
}

func leaf(name string, kind parquet.Type, of parquet.FieldRepetitionType, text bool, logical *parquet.LogicalType) *parquet.SchemaElement {
	e := &parquet.SchemaElement{Type: &kind, RepetitionType: &of, Name: name, LogicalType: logical}
	if text {
		utf8 := parquet.ConvertedType_UTF8
		e.ConvertedType = &utf8
	}
	return e
}

func group(name string, of parquet.FieldRepetitionType, children int32) *parquet.SchemaElement {
	return &parquet.SchemaElement{RepetitionType: &of, Name: name, NumChildren: &children}
}

const required, optional, repeated = parquet.FieldRepetitionType_REQUIRED, parquet.FieldRepetitionType_OPTIONAL, parquet.FieldRepetitionType_REPEATED

// schemaElements is the schema, depth first; with texts for maps that of before.
func schemaElements(texts bool) []*parquet.SchemaElement {
	all := []*parquet.SchemaElement{group("sessions", required, numTop)}
	for _, c := range flat() {
		all = append(all, leaf(c.name, c.kind, required, c.text, c.logical))
	}
	if texts {
		return append(all, leaf("experiments", parquet.Type_BYTE_ARRAY, required, true, nil), leaf("totals", parquet.Type_BYTE_ARRAY, required, true, nil))
	}
	mapping := func(name string) []*parquet.SchemaElement {
		e, is := group(name, required, 1), parquet.ConvertedType_MAP
		e.ConvertedType, e.LogicalType = &is, &parquet.LogicalType{MAP: parquet.NewMapType()}
		return []*parquet.SchemaElement{e, group("key_value", repeated, 2), leaf("key", parquet.Type_BYTE_ARRAY, required, true, nil)}
	}
	all = append(append(all, mapping("experiments")...), group("value", required, 3),
		leaf("variation", parquet.Type_BYTE_ARRAY, required, true, nil),
		leaf("assigned", parquet.Type_INT64, required, false, timestamp()),
		leaf("qualified", parquet.Type_INT64, optional, false, timestamp()))
	return append(append(all, mapping("totals")...), leaf("value", parquet.Type_INT64, required, false, nil))
}

// columnsOf is how many columns a file of that schema has.
func columnsOf(have []*parquet.SchemaElement) (int, error) {
	if texts := schemaElements(true); len(have) == len(texts) {
		return numTop, sameSchema(have, texts)
	}
	return numColumns, sameSchema(have, schemaElements(false))
}

func sameSchema(have, want []*parquet.SchemaElement) error {
	if len(have) != len(want) {
		return fmt.Errorf("its schema has %d elements, want %d", len(have), len(want))
	}
	say := func(e *parquet.SchemaElement) string {
		kind := "group"
		if e.IsSetType() {
			kind = e.GetType().String()
		}
		return fmt.Sprintf("%s %s %s of %d", e.Name, e.GetRepetitionType(), kind, e.GetNumChildren())
	}
	for i, e := range want[1:] {
		if h := have[i+1]; say(h) != say(e) {
			return fmt.Errorf("element %d of its schema is %s, want %s", i+1, say(h), say(e))
		}
	}
	return nil
}

// digestsKey is the footer's entry of the digests: base64 of 8 bytes, the xxhash64, for each column of each row group.
const digestsKey = "tandem.digests"

const magic = "PAR1"

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
