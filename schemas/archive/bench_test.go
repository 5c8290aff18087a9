package archive

import (
	"slices"
	"testing"
)

const benchN = 100_000

func reportRows(b *testing.B, bytes int) {
	b.ReportMetric(float64(b.N)*benchN/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(bytes)/benchN, "B/row")
}

func BenchmarkSort(b *testing.B) {
	rows := benchRows(benchN)
	work := make([]Row, len(rows))
	for b.Loop() {
		copy(work, rows)
		Sort(work)
	}
	reportRows(b, 0)
}

func BenchmarkWrite(b *testing.B) {
	rows := sorted(benchRows(benchN))
	var data []byte
	for b.Loop() {
		data, _ = mustWrite(b, rows)
	}
	reportRows(b, len(data))
}

func benchmarkRead(b *testing.B, cols Columns) {
	data, info := mustWrite(b, sorted(benchRows(benchN)))
	for b.Loop() {
		f := mustOpen(b, data, info)
		n := 0
		if err := f.Scan(0, ^uint64(0), cols, func(r *Row) error { n += len(r.Session); return nil }); err != nil || n == 0 {
			b.Fatal(n, err)
		}
	}
	reportRows(b, len(data))
}

func BenchmarkReadAll(b *testing.B)         { benchmarkRead(b, Columns{Payload: true, Event: true}) }
func BenchmarkReadPayload(b *testing.B)     { benchmarkRead(b, Columns{Payload: true}) }
func BenchmarkReadEvent(b *testing.B)       { benchmarkRead(b, Columns{Event: true}) }
func BenchmarkReadKeysOnly(b *testing.B)    { benchmarkRead(b, Columns{}) }
func BenchmarkMerge8ByEvent(b *testing.B)   { benchmarkMerge(b, Columns{Event: true}) }
func BenchmarkMerge8ByPayload(b *testing.B) { benchmarkMerge(b, Columns{Payload: true}) }

func benchmarkMerge(b *testing.B, cols Columns) {
	rows := benchRows(benchN)
	var files []*File
	for part := range slices.Chunk(rows, benchN/8) {
		data, info := mustWrite(b, sorted(part))
		files = append(files, mustOpen(b, data, info))
	}
	for b.Loop() {
		var iters []*Iter
		for _, f := range files {
			iters = append(iters, f.Rows(0, ^uint64(0), cols))
		}
		n := 0
		m := Merge(iters)
		for m.Next() {
			n++
		}
		if n != benchN || m.Err() != nil {
			b.Fatal(n, m.Err())
		}
	}
	reportRows(b, 0)
}
