package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tandem/schemas/archive"
	sarchive "tandem/stream/archive"
)

const archiveCompactUsage = `usage: tandem archive compact --site SITE.yaml [--tenant T] [--span 1h] [--memory MIB]

Merges the event files of each partition, --span of records together, into files of full size. It is for cron, and may
run beside all else and be killed at any moment; of two at once one stops with an error. Manifests stay as they are; a
compaction record names the new files, which readers take from then on. The files that they replace are deleted by a
run that comes at least 6 hours later.

A reader of one window reads the files of its whole span: more than an hour or two makes sense for quiet tenants only.

example:
  tandem archive compact --site site.yaml

`

// runArchiveCompact is `tandem archive compact`.
func runArchiveCompact(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newArchiveFlags("compact")
	span := flags.Duration("span", time.Hour, "records that are merged together: 30m to 24h")
	memory := flags.Int64("memory", sarchive.DefaultBytes>>20, "`MiB` of beacons held, which also bounds a file before compression: 16 to 512")
	_, blobs, all, code, over := flags.open(archiveCompactUsage, args, stderr)
	switch {
	case over:
		return code
	case *span < 30*time.Minute || *span > 24*time.Hour:
		return wrongUsage(stderr, flags.Name(), "--span %s is not in 30m to 24h", *span)
	case *memory < 16 || *memory > 512:
		return wrongUsage(stderr, flags.Name(), "--memory %d is not in 16 to 512", *memory)
	}
	progress := newPhaseProgress(stderr)
	defer progress.clear()
	var sum archive.Compacted
	for i, a := range all {
		progress.show("compacting", int64(i), fmt.Sprintf("of %s", count(len(all), "partition")))
		chain, err := archive.Chain(blobs, a.Topic, a.partition)
		if err != nil {
			return failed(stderr, flags.Name(), err)
		}
		c := &archive.Compactor{Blobs: blobs, Tenant: a.chain.Tenant, SpanMS: span.Milliseconds(), MaxRows: sarchive.DefaultRows, MaxBytes: *memory << 20}
		done, err := c.Compact(ctx, chain, time.Now().UnixMilli())
		sum.Add(&done)
		if err != nil {
			return failed(stderr, flags.Name(), err)
		}
	}
	progress.clear()
	fmt.Fprintf(stdout, "%s of %d bytes became %s of %d; %s of %d bytes, replaced earlier, deleted\n",
		count(sum.From, "file"), sum.BytesFrom, count(sum.To, "file"), sum.BytesTo, count(int(sum.Deleted), "file"), sum.Freed)
	return 0
}
