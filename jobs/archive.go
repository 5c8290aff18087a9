package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"tandem/jobs/site"
	"tandem/stream/archive"
	"tandem/stream/service"
)

const archiveUsage = `usage: tandem archive --site SITE.yaml [--id NAME] [--listen ADDRESS] [--rows N] [--memory MIB] [--cold]
       tandem archive verify|compact|retire --site SITE.yaml ...

Keeps every beacon of the tenants' topics in Parquet files, until it is stopped. Any number of processes share the partitions.
A record is archived once the manifest that its offset lies in is written; killed at any moment it goes on from the last
one.

--memory bounds what the files at hand of all partitions of this process hold; a file is written when its share is full, at
so many --rows, and when a window has settled.

Where Kafka has forgotten what comes after the last manifest, it ends with an error. With --cold it goes on at the log's start, and a
manifest says which offsets were lost; archive verify counts them.

verify, compact and retire look after what is archived: see tandem archive verify --help, and so on.

example:
  tandem archive --site site.yaml --id archive-0 --listen 127.0.0.1:9103

`

// runArchive is `tandem archive`.
func runArchive(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "verify":
			return runArchiveVerify(ctx, args[1:], stdout, stderr)
		case "compact":
			return runArchiveCompact(ctx, args[1:], stdout, stderr)
		case "retire":
			return runArchiveRetire(ctx, args[1:], stdout, stderr)
		}
	}
	flags := newServiceFlags("archive")
	rows := flags.Int("rows", archive.DefaultRows, "beacons of a file at most, 1 to 4194304")
	memory := flags.Int64("memory", 1024, "`MiB` of beacons held, 16 to 65536")
	cold := flags.Bool("cold", false, "go on at the log's start where there is no other way")
	s, code, over := flags.check(archiveUsage, args, stderr, func() error {
		switch {
		case *rows < 1 || *rows > 1<<22:
			return fmt.Errorf("--rows %d is not in 1 to 4194304", *rows)
		case *memory < 16 || *memory > 1<<16:
			return fmt.Errorf("--memory %d is not in 16 to 65536", *memory)
		}
		return nil
	})
	if over {
		return code
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	health, err := flags.health()
	if err != nil {
		return notBegun(ctx, stderr, "archive", err)
	}
	defer health.close()
	return follow(ctx, flags, s, log, func(ctx context.Context, s *site.Site, fresh func() bool) int {
		defer health.end()
		w, err := find(ctx, s, flags.layer, log)
		if err != nil {
			return notBegun(ctx, stderr, "archive", err)
		}
		blobs, err := s.OpenBlobs()
		if err != nil {
			return notBegun(ctx, stderr, "archive", err)
		}
		topics, names := w.beacons()
		partitions := int64(0)
		for _, t := range topics {
			partitions += int64(t.Partitions)
		}
		h, err := flags.host(w.to, "tandem.archive."+s.DC, names, log)
		if err != nil {
			return wrongUsage(stderr, "archive", "%v", err)
		}
		h.Fresh = fresh
		a := &service.Archive{Host: h, Topics: topics, Blobs: blobs, MaxRows: *rows, Cold: *cold,
			MaxBytes: min(archive.DefaultBytes, *memory<<20/partitions)}
		health.archive(a)
		return ended(stderr, "archive", a.Run(ctx))
	})
}
