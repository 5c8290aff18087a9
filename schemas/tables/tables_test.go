package tables

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// readAll returns the lines of a file, its columns in order, and its row groups.
func readAll(t *testing.T, data []byte) (names, lines []string, groups int) {
	t.Helper()
	pr, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	sc := pr.MetaData().Schema
	for i := range sc.NumColumns() {
		names = append(names, fmt.Sprintf("%s %s", sc.Column(i).Name(), sc.Column(i).LogicalType()))
	}
	for g := range pr.NumRowGroups() {
		rg := pr.RowGroup(g)
		n := rg.NumRows()
		at := len(lines)
		lines = append(lines, make([]string, n)...)
		for i := range sc.NumColumns() {
			col, err := rg.Column(i)
			if err != nil {
				t.Fatal(err)
			}
			for read := int64(0); read < n; {
				var got int
				switch col := col.(type) {
				case *file.Int64ColumnChunkReader:
					v := make([]int64, n-read)
					_, got, err = col.ReadBatch(n-read, v, nil, nil)
					for k := range got {
						lines[at+int(read)+k] += fmt.Sprint(v[k], " ")
					}
				case *file.Float64ColumnChunkReader:
					v, levels := make([]float64, n-read), make([]int16, n-read)
					total, _, err := col.ReadBatch(n-read, v, levels, nil)
					if err != nil {
						t.Fatal(err)
					}
					for k, next := 0, 0; k < int(total); k++ {
						text := "null "
						if levels[k] == 1 {
							text = fmt.Sprint(v[next], " ")
							next++
						}
						lines[at+int(read)+k] += text
					}
					got = int(total)
				case *file.ByteArrayColumnChunkReader:
					v := make([]parquet.ByteArray, n-read)
					_, got, err = col.ReadBatch(n-read, v, nil, nil)
					for k := range got {
						lines[at+int(read)+k] += string(v[k]) + " "
					}
				}
				if err != nil || got == 0 {
					t.Fatalf("column %d: %d rows, %v", i, got, err)
				}
				read += int64(got)
			}
		}
	}
	return names, lines, pr.NumRowGroups()
}

func TestRows(t *testing.T) {
	w := NewRows() // one for all
	for _, n := range []int{0, 1, 5000, groupRows, groupRows + 3} {
		write := func() ([]byte, []string) {
			w.Start(1_767_225_600_000, 12)
			var want []string
			for i := 0; i < n; {
				r := Row{Minute: int64(i / 1000), Experiment: fmt.Sprint("x", i%3), Scope: []string{"site", "fm"}[i%2], Metric: fmt.Sprint("m", i%50)}
				var cells []Cell
				for ; i < n && len(cells) < 1+i%29; i++ {
					c := Cell{Variation: []string{"red", "blue"}[i%2], Tags: fmt.Sprint("t=", i%700), Value: int64(i*i) - 5000}
					cells = append(cells, c)
					want = append(want, fmt.Sprint(int64(1_767_225_600_000), " ", 12, " ", r.Minute*60000, " ", r.Experiment, " ", r.Scope, " ", c.Variation, " ", r.Metric, " ", c.Tags, " ", c.Value, " "))
				}
				if err := w.Add(&r, cells); err != nil {
					t.Fatal(err)
				}
			}
			data, err := w.Finish()
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Clone(data), want
		}
		data, want := write()
		names, got, groups := readAll(t, data)
		if !slices.Equal(got, want) || groups != (n+groupRows-1)/groupRows {
			t.Errorf("%d rows: %d were read, in %d groups", n, len(got), groups)
		}
		if len(names) != 9 || names[2] != "minute Timestamp(isAdjustedToUTC=true, timeUnit=milliseconds, is_from_converted_type=false, force_set_converted_type=false)" {
			t.Errorf("columns %q", names)
		}
		if again, _ := write(); !bytes.Equal(again, data) {
			t.Errorf("%d rows: other bytes for the same", n)
		}
	}
}

func TestCoverage(t *testing.T) {
	data, err := (&Coverage{Window: 1, Generation: 2, Beacons: 3, Late: 4, Duplicates: 5, Sessions: 6, Rows: 7}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, lines, _ := readAll(t, data); !slices.Equal(lines, []string{"1 2 3 4 5 6 7 "}) {
		t.Errorf("it reads %q", lines)
	}
}

func TestNames(t *testing.T) {
	const window = 1_767_225_600_000 + 86_400_000 - 1_800_000
	if got := RowsName("shop", window, 7); got != "rows/tenant=shop/dt=2026-01-01/2330-000000000007.parquet" {
		t.Error(got)
	}
	if got := CoverageName("shop", window, 7); got != "coverage/tenant=shop/dt=2026-01-01/2330-000000000007.parquet" {
		t.Error(got)
	}
}

func TestPoints(t *testing.T) {
	for _, n := range []int{0, 1, groupRows + 3} {
		p := NewPoints([]string{"device"})
		var want []string
		for i := range n {
			value, text := float64(i)/4, fmt.Sprint(float64(i)/4)
			if i%3 == 0 {
				value, text = math.NaN(), "null"
			}
			if err := p.Add(int64(i), "final", "f", "red", []string{[]string{"mobile", ""}[i%2]}, value); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("%d final f red %s %s ", i, []string{"mobile", ""}[i%2], text))
		}
		data, err := p.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, lines, _ := readAll(t, data); !slices.Equal(lines, want) {
			t.Errorf("%d points: %d lines, or others", n, len(lines))
		}
	}
}
