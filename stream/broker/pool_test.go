package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A feed's records are what was written, however often their memory comes back and is used again.
func TestRecycledMemoryIsUsedAgain(t *testing.T) {
	seeds := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w, err := NewWriter(To(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	feed, err := NewFeed(To(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	feed.Add(Partition{"raw", 0}, 0)
	value := func(i int) string { return fmt.Sprintf("%d%s", i, strings.Repeat(string(rune('a'+i%26)), i%90)) }
	const rounds, each = 20, 300
	next := 0
	var kept [][]byte // of records that are never recycled: nobody may overwrite them
	for round := range rounds {
		var recs []Record
		for i := range each {
			v := []byte(value(round*each + i))
			recs = append(recs, Record{Topic: "raw", Key: v, Value: v, Headers: []Header{{Key: "o", Value: v}}})
		}
		if err := w.Write(ctx, recs); err != nil {
			t.Fatal(err)
		}
		for next < (round+1)*each {
			for _, b := range feed.Poll(ctx, 1<<10) {
				if b.Err != nil {
					t.Fatal(b.Err)
				}
				for i := range b.Records {
					r := &b.Records[i]
					h, _ := r.Header("o")
					if want := value(next); r.Offset != int64(next) || string(r.Value) != want || string(r.Key) != want || string(h) != want {
						t.Fatalf("record %d at %d: key %q, value %q, header %q", next, r.Offset, r.Key, r.Value, h)
					}
					next++
				}
				if round%4 == 0 {
					for i := range b.Records {
						kept = append(kept, b.Records[i].Value)
					}
				} else {
					Recycle(b.Records)
				}
			}
			if ctx.Err() != nil {
				t.Fatal(ctx.Err())
			}
		}
	}
	for i, v := range kept {
		if at := i/each*4*each + i%each; string(v) != value(at) {
			t.Fatalf("record %d, not recycled, is now %q", at, v)
		}
	}
}

// What is used again fits the batch: a small batch holds no large piece, and odd pieces are left to the collector.
func TestPoolsGoBySize(t *testing.T) {
	var p pools
	says := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	for n, want := range map[uint64]int{1: 0, 2048: 0, 2049: 4096, 4096: 4096, 4097: 8192, 8 << 20: 8 << 20, 8<<20 + 1: 0, 1 << 40: 0} {
		if b := p.GetDecompressBytes(says(n), kgo.CodecSnappy); cap(b) != want {
			t.Errorf("%d bytes for a batch of %d, not %d", cap(b), n, want)
		}
	}
	if b := p.GetDecompressBytes(says(5000), kgo.CodecZstd); b != nil {
		t.Error("memory for a batch of unknown size")
	}
	if b := p.GetDecompressBytes(append(xerial, 0, 0), kgo.CodecSnappy); b != nil {
		t.Error("memory for blocks of unknown size")
	}
	for _, n := range []int{0, 100, 5000, 16 << 20} {
		p.PutDecompressBytes(make([]byte, n))
		p.PutRecords(make([]kgo.Record, n/100))
	}
	for _, n := range []uint64{2049, 5000, 8 << 20} {
		if b := p.GetDecompressBytes(says(n), kgo.CodecSnappy); uint64(cap(b)) < n || uint64(cap(b)) >= 2*n {
			t.Errorf("%d bytes for a batch of %d", cap(b), n)
		}
	}
	for n, want := range map[int]int{0: 0, 1: 0, 8: 0, 9: 16, 16: 16, 17: 32, 1 << 14: 1 << 14, 1<<14 + 1: 0} {
		if r := p.GetRecords(n); cap(r) != want {
			t.Errorf("%d records for %d, not %d", cap(r), n, want)
		}
	}
}
