package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
)

const archiveRetireUsage = `usage: tandem archive retire --site SITE.yaml [--tenant T] [--keep DURATION] [--dry-run]

Deletes the event files that nothing can need any more: those that hold only event times more than retention + max_age of the
tenant's config before the least progress of the tenant's archive, so that no reader sees a row of theirs, and no late
beacon can change one. Time is the archive's: while it stands still, nothing is deleted. --keep keeps them for longer, to
backfill from; less is refused. Manifests stay, and a record tells the batch which windows cannot be run again. What the batch
made of windows more than a session_ttl before that, state runs and tables, goes with it: the next tandem batch, or batch collect,
deletes it, an hour after it first saw that.

example:
  tandem archive retire --site site.yaml --keep 9600h --dry-run

`

// runArchiveRetire is `tandem archive retire`.
func runArchiveRetire(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newArchiveFlags("retire")
	keep := flags.Duration("keep", 0, "how long files are kept at least; retention + max_age if absent")
	dry := flags.Bool("dry-run", false, "only say what would be deleted")
	_, blobs, all, code, over := flags.open(archiveRetireUsage, args, stderr)
	if over {
		return code
	}
	if *keep < 0 {
		return wrongUsage(stderr, flags.Name(), "--keep %s is below 0", *keep)
	}
	for len(all) > 0 {
		n := 0
		for n < len(all) && all[n].chain == all[0].chain {
			n++
		}
		if err := retire(ctx, blobs, all[:n], *keep, *dry, stdout); err != nil {
			return failed(stderr, flags.Name(), err)
		}
		all = all[n:]
	}
	return 0
}

// retire deletes what is too old of a tenant's partitions.
func retire(ctx context.Context, blobs blob.Store, all []keptPartition, keep time.Duration, dry bool, stdout io.Writer) error {
	least := keptAtLeast(all[0].chain)
	if keep == 0 {
		keep = least
	}
	if keep < least {
		return fmt.Errorf("tenant %s: --keep %s is less than its retention + max_age, %s", all[0].chain.Tenant, keep, least)
	}
	chains := make([][]archive.Manifest, len(all))
	progress := int64(math.MaxInt64)
	for i, a := range all {
		var err error
		if chains[i], err = archive.Chain(blobs, a.Topic, a.partition); err != nil {
			return err
		}
		at, ok := archive.Progress(chains[i])
		if !ok {
			fmt.Fprintf(stdout, "tenant %s: nothing to delete: progress of %s/%d is not known\n", a.chain.Tenant, a.Topic, a.partition)
			return nil
		}
		progress = min(progress, at)
	}
	before := progress - keep.Milliseconds()
	before -= before % archive.WindowMillis
	listed, err := archive.ListFiles(blobs, all[0].chain.Tenant)
	if err != nil {
		return err
	}
	files, bytes := 0, int64(0)
	for i, a := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		sources, r, err := archive.ReadSources(blobs, chains[i])
		if err != nil {
			return err
		}
		if next := archive.Retirable(sources, before); next > 0 {
			r = archive.Retired{Topic: a.Topic, Partition: a.partition, Next: next, Before: before}
		}
		old := listed.Behind(a.Topic, a.partition, r.Next)
		size, err := sizeOf(blobs, old)
		if err != nil {
			return err
		}
		files, bytes = files+len(old), bytes+size
		if dry || len(old) == 0 {
			continue
		}
		if err := archive.Retire(blobs, r, old); err != nil {
			return err
		}
	}
	what := "deleted"
	if dry {
		what = "would be deleted"
	}
	fmt.Fprintf(stdout, "tenant %s: %s of %d bytes %s, of event times before %s\n", all[0].chain.Tenant, count(files, "file"), bytes, what, timeText(before))
	if files == 0 {
		return nil
	}
	j := &batch.Job{Chain: all[0].spliced, Blobs: blobs}
	made, kept, err := j.Behind(before)
	if err == nil && made.Windows > 0 {
		fmt.Fprintf(stdout, "tenant %s: %s of %d bytes, state runs and tables of %s before %s, are left to the batch to delete\n",
			all[0].chain.Tenant, count(made.Objects, "object"), made.Bytes, count(made.Windows, "window"), timeText(kept))
	}
	return err
}

// sizeOf is how many bytes objects have, those that are gone left out.
func sizeOf(blobs blob.Store, names []string) (bytes int64, err error) {
	for _, name := range names {
		n, err := blob.Size(blobs, name)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}

// keptAtLeast is the longest retention + max_age of any revision.
func keptAtLeast(chain *tenant.Chain) time.Duration {
	most := int64(0)
	for i := range chain.Revs {
		c := chain.Revs[i].Config
		most = max(most, c.Retention+c.MaxAge)
	}
	return time.Duration(most) * time.Millisecond
}
