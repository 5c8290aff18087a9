package main

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	schema "tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/blob/blobtest"
	"tandem/schemas/blob/s3"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/wire"
	"tandem/stream/archive"
	"tandem/stream/broker"
)

// Four hours by the clock of the records: archivers that hear of progress every ten seconds, a second late, and `tandem batch` every
// five minutes, at the worst moment, just before a window may be covered. Each window is covered within 20 minutes of its end
// (lateness is 10), though one partition has no beacon in an hour. What the run itself takes comes on top. Over S3 all is the same
// as in memory.
func TestWindowsAreCoveredInTime(t *testing.T) {
	for name, value := range blobtest.Credentials {
		t.Setenv(name, value)
	}
	remote, err := s3.Open(blobtest.S3(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	mem := blob.NewMem()
	inMem, overS3 := coveredInTime(t, mem), coveredInTime(t, remote)
	if !reflect.DeepEqual(inMem, overS3) {
		t.Errorf("over S3 %d windows are covered as %+v, in memory %d as %+v", len(overS3), overS3, len(inMem), inMem)
	}
	for _, b := range []blob.Store{mem, remote} {
		for p := range int32(2) {
			if err := schema.CheckChain(b, "beacons.shop.0", p); err != nil {
				t.Error(err)
			}
		}
	}
	var names [2][]string
	for i, b := range []blob.Store{mem, remote} {
		if names[i], err = b.List(""); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(names[0], names[1]) {
		t.Errorf("objects over S3:\n%q\nin memory:\n%q", names[1], names[0])
	}
}

// coveredInTime returns what is covered at the end.
func coveredInTime(t *testing.T, blobs blob.Store) map[int64]*batch.Covered {
	t.Helper()
	const topic, begin, step, end = "beacons.shop.0", archiveBegin, int64(10_000), archiveBegin + 4*3_600_000
	cfg, err := tenant.Load("shop.yaml", []byte("tenant: shop\npoints: {home: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	now := int64(begin)
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(now) }})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	job := &batch.Job{Chain: chain, Topics: []batch.Topic{{Name: topic, ID: "id", Partitions: 2}}, Blobs: blobs, Store: st, Digest: archive.ParseDigest}
	var archivers [2]*archive.Archiver
	var next [2]int64
	for p := range archivers {
		archivers[p], err = archive.Open(archive.Config{Topic: topic, TopicID: "id", Partition: int32(p), Partitions: 2,
			MaxRows: archive.DefaultRows, MaxBytes: archive.DefaultBytes}, chain, blobs)
		if err != nil {
			t.Fatal(err)
		}
	}
	give := func(p int, r broker.Record) {
		t.Helper()
		r.Topic, r.Partition, r.Offset = topic, int32(p), next[p]
		next[p]++
		if err := archivers[p].Handle([]broker.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	took := map[int64]time.Duration{}
	for ; now < end; now += step {
		for p := range archivers {
			if hour := (now - begin) / 3_600_000; p == 0 || hour != 1 {
				give(p, broker.Record{Time: now - 2000, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: wire.AppendOrigin(nil, wire.Origin{Offset: now})}},
					Value: fmt.Appendf(nil, `{"id":"%d","tenant":"shop","session":"s%d","ts":%d,"point":"home"}`, now, p, now-3000)})
			}
			give(p, broker.Record{Headers: []broker.Header{{Key: wire.HeaderProgress}}, Value: wire.AppendProgress(nil, &wire.Progress{
				Sources: wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", TopicID: "raw", Kind: wire.KindLive}}},
				At:      []wire.SourceAt{{MS: now - 1000, Offset: now}}})})
		}
		if (now-begin)%300_000 != 0 {
			continue
		}
		if err := job.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		covered, err := job.Covered(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for w := range covered {
			if _, known := took[w]; !known {
				took[w] = time.Duration(now-w-schema.WindowMillis) * time.Millisecond
			}
		}
	}
	// The last window of which 20 minutes have passed ended 30 minutes before the end.
	for w := int64(begin); w+schema.WindowMillis+20*60_000 <= end-step; w += schema.WindowMillis {
		if d, ok := took[w]; !ok || d > 20*time.Minute {
			t.Errorf("the window from %s on was covered (%t) %v after its end", time.UnixMilli(w).UTC().Format(time.TimeOnly), ok, d)
		} else if d < 10*time.Minute {
			t.Errorf("the window from %s on was covered %v after its end, before its last beacon may come", time.UnixMilli(w).UTC().Format(time.TimeOnly), d)
		}
	}
	covered, err := job.Covered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return covered
}
