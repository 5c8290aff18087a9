package broker

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"tandem/scripts/devstack"
)

func start(t *testing.T) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// bomb produces one batch to partition 1 that inflates to about the given number of bytes.
func bomb(t *testing.T, seeds []string, codec kgo.CompressionCodec, size int) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(512<<20), kgo.BrokerMaxWriteBytes(1<<30), kgo.MaxBufferedRecords(1<<20), kgo.ProducerLinger(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := &kgo.Record{Topic: "raw", Partition: 1, Value: bytes.Repeat([]byte("a"), size)}
	if err := c.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		t.Fatalf("the broker refuses the batch: %v", err)
	}
}

// A small batch that inflates beyond MaxBatch stops its partition with an error that names it. It is never skipped, and
// never inflated.
func TestABatchThatInflatesTooFar(t *testing.T) {
	devstack.AtLength(t)
	for name, codec := range map[string]kgo.CompressionCodec{"zstd": kgo.ZstdCompression(), "gzip": kgo.GzipCompression(), "lz4": kgo.Lz4Compression()} {
		t.Run(name, func(t *testing.T) {
			seeds := start(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			w, err := NewWriter(To(seeds...))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := w.Write(ctx, []Record{{Topic: "raw", Partition: 0, Value: []byte("before")}, {Topic: "raw", Partition: 1, Value: []byte("before")}}); err != nil {
				t.Fatal(err)
			}
			times := 6
			if name == "lz4" {
				times = 3 // it makes no batch so small that the broker would take more
			}
			bomb(t, seeds, codec, times*MaxBatch)
			if err := w.Write(ctx, []Record{{Topic: "raw", Partition: 1, Value: []byte("after")}}); err != nil {
				t.Fatal(err)
			}

			defer debug.SetGCPercent(debug.SetGCPercent(5)) // so that what is held is seen, not what is garbage
			var before runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			stop, peak := make(chan bool), make(chan uint64)
			go func() {
				most := uint64(0)
				for {
					select {
					case <-stop:
						peak <- most
						return
					case <-time.After(5 * time.Millisecond):
						var m runtime.MemStats
						runtime.ReadMemStats(&m)
						most = max(most, m.HeapAlloc)
					}
				}
			}()
			r, err := NewReader(To(seeds...), map[Partition]int64{{"raw", 0}: 0, {"raw", 1}: 0})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var failed error
			for failed == nil {
				var recs []Record
				recs, failed = r.Poll(ctx, 100)
				for _, rec := range recs {
					if string(rec.Value) != "before" {
						t.Errorf("record %d of partition %d is handed on", rec.Offset, rec.Partition)
					}
				}
			}
			close(stop)
			most := <-peak
			if !strings.Contains(failed.Error(), "raw/1") || !errors.Is(failed, kgo.ErrMaxDecompress) {
				t.Errorf("the error is %v", failed)
			}
			t.Logf("at most %d MB more: %v", (most-min(most, before.HeapAlloc))>>20, failed)
			// A decoder grows its output by doubling, so that it holds the old and the new for a moment.
			if most > before.HeapAlloc+4*MaxBatch {
				t.Errorf("%d MB more were held", (most-before.HeapAlloc)>>20)
			}
			// A reader that begins at it stops too; one that is told to go past it goes on.
			again, err := NewReader(To(seeds...), map[Partition]int64{{"raw", 1}: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if recs, err := again.Poll(ctx, 100); err == nil {
				t.Errorf("a reader that begins at the batch gets %d records", len(recs))
			}
			past, err := NewReader(To(seeds...), map[Partition]int64{{"raw", 1}: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer past.Close()
			if recs, err := past.Poll(ctx, 100); err != nil || len(recs) != 1 || string(recs[0].Value) != "after" {
				t.Errorf("past the batch: %d records, %v", len(recs), err)
			}
		})
	}
}

func TestAnOffsetOutOfRangeIsAnError(t *testing.T) {
	seeds := start(t)
	r, err := NewReader(To(seeds...), map[Partition]int64{{"raw", 1}: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if recs, err := r.Poll(ctx, 10); err == nil || !strings.Contains(err.Error(), "raw/1") {
		t.Errorf("%d records, %v", len(recs), err)
	}
}

func TestARecordTooLargeToWriteIsAnError(t *testing.T) {
	w, err := NewWriter(To(start(t)...))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Write(context.Background(), []Record{{Topic: "raw", Value: make([]byte, MaxMessage+1)}}); err == nil {
		t.Error("it is written")
	}
}

func TestMemory(t *testing.T) {
	m, ctx := NewMemory(), context.Background()
	value := []byte("a")
	if err := m.Write(ctx, []Record{{Topic: "t", Value: value}, {Topic: "t", Partition: 1}, {Topic: "t", Value: []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	log := m.Log(Partition{"t", 0}, 0)
	if len(log) != 2 || string(log[0].Value) != "a" || log[1].Offset != 1 || len(m.Log(Partition{"t", 0}, 9)) != 0 {
		t.Errorf("%v", log)
	}
	for _, offset := range []int64{-1, 2} {
		if _, err := m.Payload(Partition{"t", 0}, offset); err == nil || !strings.Contains(err.Error(), "t/0") {
			t.Errorf("record %d: %v", offset, err)
		}
	}
}
