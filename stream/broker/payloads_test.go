package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// payloadLog is a broker of a topic t with the given values in its partition 1, written 100 at a time, and counts of what it is
// asked from then on.
func payloadLog(t *testing.T, ctx context.Context, brokers int, values [][]byte) (c *kfake.Cluster, all *Payloads, fetches, clients *atomic.Int64) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.SeedTopics(2, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	to := To(c.ListenAddrs()...)
	w, err := NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for len(values) > 0 {
		var recs []Record
		for _, v := range values[:min(100, len(values))] {
			recs = append(recs, Record{Topic: "t", Partition: 1, Value: v})
		}
		if err := w.Write(ctx, recs); err != nil {
			t.Fatal(err)
		}
		values = values[len(recs):]
	}
	fetches, clients = new(atomic.Int64), new(atomic.Int64)
	for key, n := range map[kmsg.Key]*atomic.Int64{kmsg.Fetch: fetches, kmsg.ApiVersions: clients} {
		c.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			n.Add(1)
			return nil, nil, false
		})
	}
	if all, err = NewPayloads(to); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Close)
	return c, all, fetches, clients
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Payloads that lie together come with few fetches, whatever the order, and all with one client: its connections are those to
// a seed and to the broker.
func TestPayloadsAreNotFetchedOneByOne(t *testing.T) {
	ctx := testContext(t)
	var values [][]byte
	for i := range 3000 {
		values = append(values, fmt.Appendf(nil, "%d %s", i, strings.Repeat("payload ", 40)))
	}
	_, all, fetches, clients := payloadLog(t, ctx, 1, values)
	r := all.Of(Partition{"t", 1})
	ask := func(order []int) {
		t.Helper()
		for _, i := range order {
			if got, err := r.Payload(ctx, int64(i)); err != nil || !bytes.Equal(got, values[i]) {
				t.Fatalf("record %d: %q, %v", i, got, err)
			}
		}
	}
	inOrder := make([]int, len(values))
	for i := range inOrder {
		inOrder[i] = i
	}
	ask(inOrder)
	if n := fetches.Load(); n == 0 || n > 30 {
		t.Errorf("%d fetches for 3,000 payloads in order", n)
	}
	before := fetches.Load()
	ask(rand.New(rand.NewPCG(1, 1)).Perm(len(values)))
	r = all.Of(Partition{"t", 1}) // another owner of the process
	ask(inOrder)
	if n := fetches.Load() - before; n > 0 {
		t.Errorf("%d fetches for payloads that were there", n)
	}
	if n := clients.Load(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

// What is kept is bounded, and what was forgotten is fetched again.
func TestKeptPayloadsAreBounded(t *testing.T) {
	ctx := testContext(t)
	rng := rand.NewChaCha8([32]byte{})
	var values [][]byte
	for range payloadBytes/(9<<10) + 500 {
		v := make([]byte, 9<<10)
		rng.Read(v)
		values = append(values, v)
	}
	_, all, fetches, _ := payloadLog(t, ctx, 1, values)
	for range 2 {
		r := all.Of(Partition{"t", 1})
		for i, v := range values {
			if got, err := r.Payload(ctx, int64(i)); err != nil || !bytes.Equal(got, v) {
				t.Fatalf("record %d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	held := 0
	for _, f := range all.kept {
		held += len(f.batches)
	}
	if held != all.bytes || held > payloadBytes || held < payloadBytes/2 {
		t.Errorf("%d bytes are kept, %d are noted", held, all.bytes)
	}
	if n, batches := int(fetches.Load()), (len(values)+99)/100; n <= batches {
		t.Errorf("%d fetches of %d batches: nothing was forgotten", n, batches)
	}
}

// What retention has taken, and what was never there, is an error that names the partition.
func TestAPayloadThatIsNotThere(t *testing.T) {
	ctx := testContext(t)
	_, all, _, _ := payloadLog(t, ctx, 1, [][]byte{[]byte("a"), []byte("b"), []byte("c")})
	offsets := kadm.Offsets{}
	offsets.AddOffset("t", 1, 2, -1)
	if _, err := kadm.NewClient(all.client).DeleteRecords(ctx, offsets); err != nil {
		t.Fatal(err)
	}
	r := all.Of(Partition{"t", 1})
	for _, offset := range []int64{0, 99} {
		if _, err := r.Payload(ctx, offset); !errors.Is(err, kerr.OffsetOutOfRange) || !strings.Contains(err.Error(), "t/1") {
			t.Errorf("record %d: %v", offset, err)
		}
	}
	if _, err := r.Payload(ctx, 3); err == nil || !strings.Contains(err.Error(), "t/1") {
		t.Errorf("the record at the end: %v", err)
	}
	if got, err := r.Payload(ctx, 2); err != nil || string(got) != "c" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPayloadsOfAPartitionThatMoves(t *testing.T) {
	ctx := testContext(t)
	c, all, _, _ := payloadLog(t, ctx, 2, [][]byte{[]byte("a"), []byte("b")})
	for _, node := range []int32{0, 1, 0} {
		if err := c.MoveTopicPartition("t", 1, node); err != nil {
			t.Fatal(err)
		}
		all.kept = nil
		if got, err := all.Of(Partition{"t", 1}).Payload(ctx, 1); err != nil || string(got) != "b" {
			t.Errorf("%q, %v", got, err)
		}
	}
}
