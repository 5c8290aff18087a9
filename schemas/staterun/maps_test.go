package staterun

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/cespare/xxhash/v2"

	"tandem/schemas/blob"
	"tandem/schemas/pages"
)

// arrow's table reader must see the same rows, also where no row of a row group has an experiment or a total, or all of one name, and with
// more names than a byte counts.
func TestOtherReader(t *testing.T) {
	rows := testRows(8, 9000)
	nothing := func(*Row) About { return About{Beacons: 1} }
	names := Names{Experiments: []string{"one"}}
	for i := range 70_000 {
		names.Variations, names.Totals = append(names.Variations, fmt.Sprint("v", i)), append(names.Totals, fmt.Sprint("t", i))
	}
	for name, as := range map[string]struct {
		names *Names
		about func(*Row) About
	}{
		"drawn":   {&testNames, testAbout},
		"nothing": {&testNames, nothing},
		"in some row groups": {&testNames, func(r *Row) About {
			if r.Hash < 1<<63 {
				return nothing(r)
			}
			return testAbout(r)
		}},
		"one experiment": {&testNames, func(r *Row) About {
			return About{Experiments: []Experiment{{Name: 1, Variation: 1, Assigned: r.FirstTS}}}
		}},
		"many names": {&names, func(r *Row) (a About) {
			a.Experiments = []Experiment{{Variation: int32(r.Hash % 70_000), Assigned: r.FirstTS, Qualified: r.LastTS, IsQualified: true}}
			for i := range int32(r.Hash % 40) {
				a.Totals = append(a.Totals, Total{Name: int32(r.Hash>>32%69_000) + i, Value: int64(i)})
			}
			return a
		}},
	} {
		data, _, err := writeSaying(rows, as.names, as.about)
		if err != nil {
			t.Fatal(err)
		}
		got, saying := readOther(t, data)
		if !slices.Equal(got, rows) {
			t.Errorf("%s: %d rows, want %d, or they differ", name, len(got), len(rows))
			continue
		}
		for i := range rows {
			if want := said(as.names, as.about(&rows[i])); saying[i] != want {
				t.Fatalf("%s: of row %d it says\n%s, want\n%s", name, i, saying[i], want)
			}
		}
	}
}

// A row group ends too once it tells so many experiments and totals.
func TestRowGroupOfManyEntries(t *testing.T) {
	var rows []Row
	for i := range 10 {
		rows = append(rows, Row{Hash: uint64(i)})
	}
	about := func(*Row) (a About) {
		for range groupEntries / 2 {
			a.Totals = append(a.Totals, Total{Value: 1})
		}
		return a
	}
	data, info, err := writeSaying(rows, &testNames, about)
	if err != nil {
		t.Fatal(err)
	}
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil || len(it.groups) != 5 {
		t.Fatalf("%v, want 5 row groups of two rows", err)
	}
	got, saying := readOther(t, data)
	if !slices.Equal(got, rows) || saying[9] != said(&testNames, about(nil)) {
		t.Error("the rows differ")
	}
}

// readOther reads a run by arrow.
func readOther(t *testing.T, data []byte) (rows []Row, saying []string) {
	t.Helper()
	table, err := pqarrow.ReadTable(context.Background(), bytes.NewReader(data), nil, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	var schema strings.Builder
	for _, f := range table.Schema().Fields() {
		fmt.Fprintf(&schema, "%s %s,", f.Name, f.Type)
	}
	const want = "session_hash int64,session utf8,first_ts timestamp[ms, tz=UTC],last_ts timestamp[ms, tz=UTC],due_ms int64,state binary," +
		"beacons int64,visits int64,pages int64," +
		"experiments map<utf8, struct<variation: utf8, assigned: timestamp[ms, tz=UTC], qualified: timestamp[ms, tz=UTC]>, items_nullable>," +
		"totals map<utf8, int64, items_nullable>,"
	if schema.String() != want {
		t.Fatalf("schema\n%s, want\n%s", schema.String(), want)
	}
	rows = []Row{}
	tr := array.NewTableReader(table, 1000)
	defer tr.Release()
	for tr.Next() {
		rec := tr.Record()
		x, totals := rec.Column(9).(*array.Map), rec.Column(10).(*array.Map)
		item := x.Items().(*array.Struct)
		for i := range int(rec.NumRows()) {
			rows = append(rows, Row{
				unflip(rec.Column(0).(*array.Int64).Value(i)), rec.Column(1).(*array.String).Value(i),
				int64(rec.Column(2).(*array.Timestamp).Value(i)), int64(rec.Column(3).(*array.Timestamp).Value(i)),
				rec.Column(4).(*array.Int64).Value(i), string(rec.Column(5).(*array.Binary).Value(i)),
			})
			var text strings.Builder
			fmt.Fprint(&text, rec.Column(6).(*array.Int64).Value(i), " ", rec.Column(7).(*array.Int64).Value(i), " ", rec.Column(8).(*array.Int64).Value(i))
			for at, end := x.ValueOffsets(i); at < end; at++ {
				fmt.Fprintf(&text, " %s=%s %d", x.Keys().(*array.String).Value(int(at)), item.Field(0).(*array.String).Value(int(at)), item.Field(1).(*array.Timestamp).Value(int(at)))
				if q := item.Field(2).(*array.Timestamp); q.IsValid(int(at)) {
					fmt.Fprint(&text, "/", q.Value(int(at)))
				}
			}
			for at, end := totals.ValueOffsets(i); at < end; at++ {
				fmt.Fprintf(&text, " %s:%d", totals.Keys().(*array.String).Value(int(at)), totals.Items().(*array.Int64).Value(int(at)))
			}
			saying = append(saying, text.String())
		}
	}
	return rows, saying
}

// Each column's digest is of all its bytes, those of maps with their dictionaries, which the reader of states never looks at.
func TestDigestsOfAllColumns(t *testing.T) {
	data, info := mustWrite(t, testRows(4, 2*groupRows))
	it, err := Open(blob.Bytes(data), info, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	for i, digest := range it.digests {
		md := it.groups[i/numColumns].Columns[i%numColumns].MetaData
		if got := xxhash.Sum64(data[pages.Begin(md):][:md.TotalCompressedSize]); got != digest {
			t.Errorf("column %d of row group %d: digest %x, its bytes have %x", i%numColumns, i/numColumns, digest, got)
		}
	}
}
