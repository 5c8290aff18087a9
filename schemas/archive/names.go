package archive

import (
	"errors"
	"fmt"
	"time"

	"tandem/schemas/blob"
)

// ManifestName is the name of the manifest that begins at offset first. The offset has 20 digits, so names sort as offsets.
func ManifestName(topic string, partition int32, first int64) string {
	return fmt.Sprintf("%s%020d.json", manifestFolder(topic, partition), first)
}

func manifestFolder(topic string, partition int32) string {
	return fmt.Sprintf("manifests/%s/%d/", topic, partition)
}

// PartitionsName is the name of a topic's partition record.
func PartitionsName(topic string) string { return fmt.Sprintf("manifests/%s/partitions.json", topic) }

// FileName is the name of the n-th event file of the manifest that begins at offset first:
//
//	events/tenant=<t>/dt=YYYY-MM-DD/hh=HH/<topic>-<partition>-<first>-<n>.parquet
//
// dt and hh are the UTC hour of at, in ms since the epoch: the file's least progress, or where it has none the ingest time of
// its first record. Files are not split by event hour (one manifest is usually one file), so a query for an event hour reads
// the folders of that hour and of the ones after it until the lateness that it wants to cover, and filters by ts.
func FileName(tenant, topic string, partition int32, first int64, n int, at int64) string {
	return fmt.Sprintf("events/tenant=%s/%s/%s-%d-%020d-%d.parquet", tenant, folder(at), topic, partition, first, n)
}

// Create stores data, as Write made it, under the first free FileName from n on, and returns info with its name, and the n
// after it. A name that is taken is a leftover of an archiver that died or lost before it committed: no manifest names it,
// or this archiver loses at Append too. One with the very same bytes is used as it is.
func Create(b blob.Store, tenant, topic string, partition int32, first int64, n int, at int64, data []byte, info FileInfo) (FileInfo, int, error) {
	return createAs(b, func(n int) string { return FileName(tenant, topic, partition, first, n, at) }, n, data, info)
}

// CompactedName is the name of the n-th file of the compaction of [first, next); at is as in FileName.
func CompactedName(tenant, topic string, partition int32, first, next int64, n int, at int64) string {
	return fmt.Sprintf("events/tenant=%s/%s/%s-%d-%020d-%020d-%d.parquet", tenant, folder(at), topic, partition, first, next, n)
}

func folder(at int64) string { return time.UnixMilli(at).UTC().Format("dt=2006-01-02/hh=15") }

func createAs(b blob.Store, name func(n int) string, n int, data []byte, info FileInfo) (FileInfo, int, error) {
	var err error
	info.Name, n, err = blob.CreateFree(b, name, n, data)
	switch {
	case errors.Is(err, blob.ErrExists):
		return FileInfo{}, 0, fmt.Errorf("event file %s: this name and the %d before it are taken: delete those that no manifest names", info.Name, blob.MaxTaken-1)
	case err != nil:
		return FileInfo{}, 0, fmt.Errorf("event file: %w", err)
	}
	return info, n, nil
}
