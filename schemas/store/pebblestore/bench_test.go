package pebblestore

import (
	"fmt"
	"slices"
	"testing"

	"tandem/schemas/store"
)

// benchRows are n rows of 100 bytes: 1,000 series, so n/1,000 minutes.
func benchRows(n int) []store.Row {
	rows := make([]store.Row, n)
	for i := range rows {
		rows[i] = store.Row{
			Series: store.Series{Tenant: "uswm", Experiment: fmt.Sprintf("exp_%02d", i%1000/50), Metric: fmt.Sprintf("fm.point_%02d", i%50), Layer: "stream.dc1"},
			Minute: int64(30_000_000 + i/1000), Value: make([]byte, 100),
		}
		for j := range rows[i].Value {
			rows[i].Value[j] = byte(i * j)
		}
	}
	return rows
}

func benchStores(b *testing.B, name string, bench func(b *testing.B, s *Store)) {
	for _, memory := range []bool{false, true} {
		b.Run(name+map[bool]string{false: "/folder", true: "/memory"}[memory], func(b *testing.B) {
			bench(b, open(b, b.TempDir(), Options{InMemory: memory}))
		})
	}
}

// Every call writes 10 minutes of 1,000 series, nine of them again, as ticks do; by series, or by minute.
func BenchmarkPutRows(b *testing.B) {
	for _, order := range []string{"series", "minute"} {
		rows := benchRows(10_000)
		if order == "series" {
			slices.SortStableFunc(rows, func(x, y store.Row) int { return compareSeries(x.Series, y.Series) })
		}
		minutes := make([]int64, len(rows))
		for i := range rows {
			minutes[i] = rows[i].Minute
		}
		benchStores(b, order, func(b *testing.B, s *Store) {
			b.ReportAllocs()
			n := int64(0)
			for b.Loop() {
				n++
				for i := range rows {
					rows[i].Version, rows[i].Minute = n, minutes[i]+n
				}
				if err := s.PutRows(ctx, rows); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(rows))*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// A day of one series, of 50 that were written minute by minute.
func BenchmarkRows(b *testing.B) {
	const minutes = 1440
	for _, compacted := range []bool{false, true} {
		b.Run(map[bool]string{false: "fresh", true: "compacted"}[compacted], func(b *testing.B) {
			s := open(b, b.TempDir(), Options{})
			rows := benchRows(50)
			for k := range int64(minutes) {
				for i := range rows {
					rows[i].Minute = 30_000_000 + k
				}
				if err := s.PutRows(ctx, rows); err != nil {
					b.Fatal(err)
				}
			}
			if compacted {
				if err := s.db.Flush(); err != nil {
					b.Fatal(err)
				}
				if err := s.db.Compact(ctx, []byte{0}, []byte{255}, false); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				err := s.Rows(ctx, rows[0].Series, 0, store.MaxMinute, func(int64, int64, []byte) error { n++; return nil })
				if err != nil || n != minutes {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(minutes)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
