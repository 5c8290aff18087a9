package beacon

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// traffic renders n different beacons of web traffic, about 490 bytes each, with pad bytes of a nested field that
// nobody reads. Many different ones keep the branch predictor from learning a single payload by heart.
func traffic(n, pad int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	points := []string{"home_page", "search", "item_page", "add_to_cart", "checkout", "order", "error", "perf"}
	agents := []string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0.0.0 Safari/537.36",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
		"Mozilla/5.0 (iPad; CPU OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
	}
	var filler []byte
	for i := 0; len(filler) < pad; i++ {
		filler = fmt.Appendf(filler, `,{"sku":"%08d","name":"Item \"%d\" of the list","price":{"list":%d.99,"now":%d.49},"seen":[%d,%d,null,true]}`, i*7919, i, i%90, i%80, i, i*3)
	}
	all := make([][]byte, n)
	for i := range all {
		point := points[r.IntN(len(points))]
		b := fmt.Appendf(nil, `{"id":"%016x%08x","tenant":"uswm","session":"%016x%016x","visitor":"%016x%08x","ts":%d,"point":"%s"`,
			r.Uint64(), r.Uint32(), r.Uint64(), r.Uint64(), r.Uint64(), r.Uint32(), 1795305600000+r.Int64N(7200000), point)
		if r.IntN(12) == 0 {
			b = fmt.Appendf(b, `,"experiments":{"exp_%02d":"control","exp_%02d":"treatment","exp_%02d":"control"}`, r.IntN(20), r.IntN(20), r.IntN(20))
		}
		switch point {
		case "order":
			b = fmt.Appendf(b, `,"values":{"revenue":%d.%02d,"units":%d}`, r.IntN(300), r.IntN(100), 1+r.IntN(5))
		case "perf":
			b = fmt.Appendf(b, `,"values":{"ttfb":%d,"load":%d}`, 20+r.IntN(400), 300+r.IntN(4000))
		}
		b = fmt.Appendf(b, `,"attrs":{"url":"https://www.shop.example/%s/%06d?ref=%06x","referrer":"https://www.shop.example/listing?page=%d","user_agent":"%s","page_type":"%s","seq":%d,"bot":false}`,
			point, r.IntN(200000), r.IntN(1<<24), r.IntN(40), agents[r.IntN(3)], point, r.IntN(30))
		if len(filler) > 0 {
			b = fmt.Appendf(b, `,"page":{"items":[%s]}`, filler[1:])
		}
		all[i] = fmt.Appendf(b, `,"device":"%s","login":%t}`, []string{"desktop", "mobile", "tablet"}[r.IntN(3)], r.IntN(3) == 0)
	}
	return all
}

func benchmark(b *testing.B, payloads [][]byte) {
	var p Parser
	var v Beacon
	total := 0
	for _, x := range payloads {
		total += len(x)
	}
	b.SetBytes(int64(total / len(payloads)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if r := p.Parse(payloads[i], &v); r != None {
			b.Fatal(r)
		}
		if i++; i == len(payloads) {
			i = 0
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "beacons/s")
}

func BenchmarkParse(b *testing.B)       { benchmark(b, traffic(1024, 0)) }
func BenchmarkParsePadded(b *testing.B) { benchmark(b, traffic(64, 11_500)) }

// BenchmarkParseMended has thousands of wrong members that later ones mend: about the worst that 64 KiB can do.
func BenchmarkParseMended(b *testing.B) {
	benchmark(b, [][]byte{repeated(3400)})
}

// repeated is a beacon of close to 64 KiB whose n wrong values are each replaced by a later one.
func repeated(n int) []byte {
	b := []byte(`{"id":"a","session":"s","values":{`)
	for i := range n {
		b = fmt.Appendf(b, `"%d":"",`, i)
	}
	for i := range n {
		b = fmt.Appendf(b, `"%d":1,`, i)
	}
	return append(b[:len(b)-1], `}}`...)
}
