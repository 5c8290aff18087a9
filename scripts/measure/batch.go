package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/store/pebblestore"
	sarchive "tandem/stream/archive"
	"tandem/stream/broker"
)

// archiver returns the archiver of the records' beacons topic, and what it is to be given.
func archiver(b *bench, blobs blob.Store) (batch.Topic, *sarchive.Archiver, []broker.Record, error) {
	topic := batch.Topic{Name: "beacons", ID: "beacons", Partitions: 1}
	a, err := sarchive.Open(sarchive.Config{Topic: topic.Name, TopicID: topic.ID, Partitions: 1,
		MaxRows: sarchive.DefaultRows, MaxBytes: sarchive.DefaultBytes}, b.chain, blobs)
	if err != nil {
		return topic, nil, nil, err
	}
	log := beaconsLog(b, topic.Name)
	end := b.recs[len(b.recs)-1].Ingest + embedded.Closing(b.chain)
	last := progressRecord(topic.Name, end, math.MaxInt32)
	last.Offset = int64(len(log))
	return topic, a, append(log, last), nil
}

// archived has the records' beacons topic archived in blobs, and says which topic it is.
func archived(b *bench, blobs blob.Store) (batch.Topic, error) {
	topic, a, log, err := archiver(b, blobs)
	if err != nil {
		return topic, err
	}
	return topic, a.Handle(log)
}

func archiveAll(_ context.Context, b *bench, m *meter) error {
	blobs, err := blob.OpenDir(filepath.Join(b.dir, "archive"))
	if err != nil {
		return err
	}
	_, a, log, err := archiver(b, blobs)
	if err != nil {
		return err
	}
	return m.run(func() error { return a.Handle(log) })
}

func batchParsed(ctx context.Context, b *bench, m *meter) error {
	return batchRun(ctx, b, m, "batch", false)
}

func batchReparse(ctx context.Context, b *bench, m *meter) error {
	return batchRun(ctx, b, m, "batch-reparse", true)
}

// batchRun measures everything that `tandem batch` does for a tenant: plan, map, reduce, rows written to the embedded store.
func batchRun(ctx context.Context, b *bench, m *meter, name string, reparse bool) error {
	blobs, err := blob.OpenDir(filepath.Join(b.dir, name, "blobs"))
	if err != nil {
		return err
	}
	topic, err := archived(b, blobs)
	if err != nil {
		return err
	}
	st, err := pebblestore.Open(filepath.Join(b.dir, name, "store"), pebblestore.Options{Now: func() time.Time { return time.UnixMilli(b.recs[0].Ingest) }})
	if err != nil {
		return err
	}
	defer st.Close()
	job := &batch.Job{Chain: b.chain, Topics: []batch.Topic{topic}, Blobs: blobs, Store: st, Digest: sarchive.ParseDigest, Reparse: reparse}
	var report *batch.Report
	err = m.run(func() (err error) {
		report, err = job.RunOnce(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if report == nil {
		return fmt.Errorf("nothing was due")
	}
	m.n = int(report.Beacons)
	m.note("%d windows, %d ranges, %d sessions, %d rows; CPU or waiting in ms: plan %d, map %d, reduce %d", report.Windows, report.Ranges, report.Sessions,
		report.Rows, report.Phases.Plan, report.Phases.Map, report.Phases.Reduce)
	return b.checkTotals(ctx, st, "batch.", m)
}

// bareSize is the size of a file of the rows without their payloads.
func bareSize(rows []archive.Row) (int, error) {
	bare := slices.Clone(rows)
	for i := range bare {
		bare[i].Payload = nil
	}
	archive.Sort(bare)
	data, _, err := archive.Write(bare)
	return len(data), err
}
