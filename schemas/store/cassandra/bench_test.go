package cassandra

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

// BenchmarkPutRows writes what the ticks of a stream do: each call the last 5 minutes of 1,000 series, four of them again.
// Values are as hard to compress as the server's own work allows: random bytes, half of them.
func BenchmarkPutRows(b *testing.B) {
	stack := devstack.Start(b, devstack.Options{Nodes: 1, Env: []string{"DEVSTACK_JIT=", "CASSANDRA_HEAP=1g", "COMMITLOG=periodic"}})
	const series, minutes = 1000, 5
	for _, size := range []int{100, 1500} {
		rows := make([]store.Row, 0, series*minutes)
		for i := range series * minutes {
			value := make([]byte, size)
			for j := 0; j < len(value); j += 2 {
				value[j] = byte(rand.Uint32())
			}
			rows = append(rows, store.Row{Series: store.Series{Tenant: "shop", Experiment: fmt.Sprintf("exp_%02d", i%series/50),
				Metric: fmt.Sprintf("fm.point_%02d", i%50), Layer: "stream.dc1"}, Value: value})
		}
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			s := open(b, newConfig(b, stack))
			n := int64(0)
			for b.Loop() {
				n++
				for i := range rows {
					rows[i].Version, rows[i].Minute = n, 30_000_000+int64(i/series)+n
				}
				if err := s.PutRows(ctx, rows); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(rows))*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
