package batch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/oracle"
	"tandem/schemas/blob"
)

func TestUniformRanges(t *testing.T) {
	for n := 1; n <= Buckets; n++ {
		bounds := uniform(n)
		next := uint64(0)
		for r := range bounds {
			lo, hi := uint64(bounds[r]), last(bounds, r)
			if lo != next || hi < lo || lo<<6 != 0 || (hi+1)<<6 != 0 {
				t.Fatalf("range %d of %d: hashes %x to %x", r, n, lo, hi)
			}
			next = hi + 1
		}
		if next != 0 {
			t.Errorf("%d ranges end at hash %x", n, next)
		}
	}
}

func TestHashText(t *testing.T) {
	want := []Hash{0, 1, 1 << 63, math.MaxUint64}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got []Hash
	if err := json.Unmarshal(text, &got); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s became %v, %v", text, got, err)
	}
	for _, bad := range []string{`[""]`, `["0"]`, `["00000000000000000"]`, `["000000000000000g"]`, `["-000000000000001"]`, `[1]`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// shares counts a sample by range.
func shares(bounds []Hash, sample []uint64) []int {
	out := make([]int, len(bounds))
	for _, h := range sample {
		r, ok := slices.BinarySearch(bounds, Hash(h))
		if !ok {
			r--
		}
		out[r]++
	}
	return out
}

func TestBalancedRanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	even := make([]uint64, 0, 20_000)
	for range 14_000 {
		even = append(even, rng.Uint64())
	}
	crowded, one, none := slices.Clone(even), slices.Clone(even), []uint64{}
	for range 6000 { // 30 % of all in one bucket of 64
		crowded = append(crowded, 17<<58|rng.Uint64()>>6)
		one = append(one, 17<<58|12345)
	}
	for _, s := range [][]uint64{even, crowded, one} {
		slices.Sort(s)
	}
	for _, c := range []struct {
		name   string
		sample []uint64
		n      int
		most   float64 // the greatest share of a range
		added  bool
	}{
		{"even", even, 64, 0.03, false},
		{"crowded", crowded, 64, 0.035, true},
		{"crowded, 8 ranges", crowded, 8, 0.26, true},
		{"one session", one, 64, 0.32, true},
		{"nothing", none, 64, 0, false},
	} {
		before := uniform(c.n)
		got := balanced(before, c.sample)
		if got[0] != 0 || !rising(got) || len(got) > 2*c.n || (len(got) > c.n) != c.added {
			t.Errorf("%s: %d ranges: %x", c.name, len(got), got)
		}
		for _, b := range before {
			if !slices.Contains(got, b) {
				t.Errorf("%s: bound %x is gone: runs of other plans no longer fit", c.name, b)
			}
		}
		if len(c.sample) > 0 {
			if most := float64(slices.Max(shares(got, c.sample))) / float64(len(c.sample)); most > c.most {
				t.Errorf("%s: a range has %.3f of the sample, more than %.3f", c.name, most, c.most)
			}
		}
	}
}

// crowd draws records of which a good part falls into one bucket, of many sessions.
func crowd(sessions int) []oracle.Record {
	rng := rand.New(rand.NewPCG(7, 8))
	var out []oracle.Record
	var parser beacon.Parser
	var b beacon.Beacon
	for _, r := range traffic(sessions) {
		parser.Parse(r.Payload, &b)
		if bucketOf(xxhash.Sum64(b.Session)) == 5 || rng.IntN(100) < 3 {
			out = append(out, r)
		}
	}
	return out
}

// Whatever the bounds of the ranges, also within a bucket, and whatever the runs before were made by: the same rows and
// digests.
func TestAnyBounds(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	rows, _ := wanted(t, configs, records, false)
	archived := blob.NewMem()
	put(t, archived, chain, records, 3)
	objects := copyOf(t, archived)
	alone, st := job(t, chain, objects(), 1)
	run(t, alone)
	want := outcomeOf(t, alone, st)
	sameLines(t, "rows", want.rows, rows)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 4 {
		bounds := []Hash{0}
		for range 1 + rng.IntN(40) {
			bounds = append(bounds, Hash(rng.Uint64()))
		}
		slices.Sort(bounds)
		j, st := job(t, chain, objects(), 0)
		j.Parallel = 1 + rng.IntN(8)
		a, err := j.Archived()
		if err != nil {
			t.Fatal(err)
		}
		due := Due(chain, a, nil)
		p, err := j.claim(due[:len(due)/2], bounds, nil) // the rest by other bounds
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if _, err := j.run(ctx, p, a, time.Now()); err != nil {
			t.Fatal(err)
		}
		run(t, j)
		got := outcomeOf(t, j, st)
		got.same(t, "other bounds", want)
	}
}

// One hash range with 30 % of the traffic: it is divided, so that with eight at work no range has more than its share.
func TestSkew(t *testing.T) {
	for _, ranges := range []int{0, 16, 64} {
		t.Run(fmt.Sprint(ranges), func(t *testing.T) { skewed(t, ranges) })
	}
}

func skewed(t *testing.T, ranges int) {
	chain, _ := compiled(t)
	records := crowd(5000)
	archived := blob.NewMem()
	put(t, archived, chain, records, 1)
	objects := copyOf(t, archived)
	alone, st := job(t, chain, objects(), 1)
	run(t, alone)
	want := outcomeOf(t, alone, st)
	beacons := map[uint64]int64{}
	j, st := job(t, chain, objects(), ranges)
	a, err := j.Archived()
	if err != nil {
		t.Fatal(err)
	}
	due := Due(chain, a, nil)
	for i := range due {
		a.Records[due[i].Window] *= 10_000 // as if there were so many: the ranges of a window of millions
	}
	bounds, err := j.bounds(due, a)
	if err != nil {
		t.Fatal(err)
	}
	p, err := j.claim(due, bounds, nil)
	if err != nil {
		t.Fatal(err)
	}
	j.Parallel = 8
	ctx := context.Background()
	l := j.line(p, a, []int{0, 1}, everyRange(p))
	if err := l.run(ctx); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for r, n := range l.records {
		beacons[uint64(p.Bounds[r])>>58] += n
		total += n
	}
	if share := float64(beacons[5]) / float64(total); share < 0.25 || share > 0.7 {
		t.Fatalf("bucket 5 has %.2f of %d beacons: the traffic is not what this test needs", share, total)
	}
	if most := float64(slices.Max(l.records)) / float64(total); most > 0.125 {
		t.Errorf("of %d ranges one has %.3f of the traffic: it would set the time of eight", len(p.Bounds), most)
	}
	run(t, j)
	got := outcomeOf(t, j, st)
	got.same(t, "divided ranges", want)
}

func FuzzBalanced(f *testing.F) {
	f.Add([]byte("some hashes of eight bytes each..."), 8)
	f.Add([]byte("0000000X0000000X0000000Y0000000Z0000000a"), 3) // five in one of three ranges
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		if n < 1 || n > Buckets {
			return
		}
		var sample []uint64
		for ; len(data) >= 8; data = data[8:] {
			sample = append(sample, binary.LittleEndian.Uint64(data))
		}
		slices.Sort(sample)
		if got := balanced(uniform(n), sample); got[0] != 0 || !rising(got) || len(got) > 2*n {
			t.Errorf("%x", got)
		}
	})
}
