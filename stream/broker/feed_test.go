package broker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// transaction writes records into partition 0 of the topic in one transaction, and commits or aborts it.
func transaction(t *testing.T, seeds []string, commit bool, values ...string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "raw", Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.EndTransaction(t.Context(), kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

// What was aborted is not read, and what is read comes to the end of the log nevertheless.
func TestAbortedTransactionsAreNotRead(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seeds := start(t)
	p := Partition{"raw", 0}
	w, err := NewWriter(To(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write := func(v string) {
		t.Helper()
		if err := w.Write(ctx, []Record{{Topic: "raw", Value: []byte(v)}}); err != nil {
			t.Fatal(err)
		}
	}
	transaction(t, seeds, false, "a", "b")
	write("c")
	transaction(t, seeds, true, "d", "e")
	write("f")
	transaction(t, seeds, false, "g")

	first, next, err := Bounds(ctx, To(seeds...), p)
	if err != nil || first != 0 || next < 7+3 {
		t.Fatalf("the log goes from %d to %d, %v", first, next, err)
	}
	want := strings.Split("cdef", "")
	feed, err := NewFeed(To(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	feed.Add(p, 0)
	var got []string
	for at := int64(0); at < next; {
		for _, b := range feed.Poll(ctx, 2) {
			if b.Err != nil || b.End > next {
				t.Fatalf("of a log to %d: %+v", next, b)
			}
			for i := range b.Records {
				got = append(got, string(b.Records[i].Value))
			}
			at = b.Next
		}
		if ctx.Err() != nil {
			t.Fatalf("it has read %q, to offset %d of %d", got, at, next)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("a feed reads %q, want %q", got, want)
	}

	got = nil
	err = Follow(ctx, To(seeds...), p, 0, func(recs []Record) (enough bool, err error) {
		for i := range recs {
			got = append(got, string(recs[i].Value))
		}
		return len(got) >= len(want), nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("a reader reads %q, want %q, %v", got, want, err)
	}
}
