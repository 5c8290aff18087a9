package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/tables"
)

const archiveBegin = 1_760_000_400_000 // ms; a full hour

// keepBeacons writes an archive of the site's tenant: n files of ten minutes each in each of two partitions.
func keepBeacons(t *testing.T, folder, topicID string, n int) blob.Store {
	t.Helper()
	b, err := blob.OpenDir(filepath.Join(folder, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	const topic = "beacons.shop.0"
	if err := archive.RecordPartitions(b, archive.Partitions{Topic: topic, TopicID: topicID, Count: 2}); err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		for i := range n {
			end := int64(archiveBegin + (i+1)*600_000)
			rows := make([]archive.Row, 10)
			for k := range rows {
				rows[k] = archive.Row{Hash: uint64(k) << 60, Session: fmt.Appendf(nil, "s%d", k), TS: end - 1000, Offset: int64(20*i + k), Payload: []byte("{}")}
			}
			data, info, err := archive.Write(rows)
			if err != nil {
				t.Fatal(err)
			}
			m := archive.Manifest{Topic: topic, TopicID: topicID, Partition: p, First: int64(20 * i), Next: int64(20*i + 20),
				Progress: map[string]int64{"a": end}, Windows: archive.CountWindows(rows)}
			if info, _, err = archive.Create(b, "shop", topic, p, m.First, 0, end, data, info); err != nil {
				t.Fatal(err)
			}
			m.Files = []archive.FileInfo{info}
			if err := archive.Append(b, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

func archiveCommand(t *testing.T, wantCode int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), append([]string{"archive"}, args...), &out, &errs); code != wantCode {
		t.Fatalf("archive %q exits %d, want %d: %s%s", args, code, wantCode, &out, &errs)
	}
	return out.String(), errs.String()
}

func wantText(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%q, want %q", text, pattern)
	}
}

func TestArchiveIsLookedAfter(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	if code, _, stderr := f.topicsCommand("apply", "--site", f.file); code != 0 {
		t.Fatal(stderr)
	}
	found, err := f.topics.Describe(t.Context(), "beacons.shop.0")
	if err != nil {
		t.Fatal(err)
	}
	b := keepBeacons(t, f.folder, found["beacons.shop.0"].ID, 20)
	out, _ := archiveCommand(t, 0, "verify", "--site", f.file)
	wantText(t, out, "^400 beacons in 40 files, 40 manifests: [0-9]+ bytes in 2 partitions\n$")

	out, _ = archiveCommand(t, 1, "verify", "--site", f.file, "--kafka") // the topic holds nothing
	wantText(t, out, "topic beacons.shop.0/1 ends at offset 0, its archive at 400: the topic lost records")

	out, _ = archiveCommand(t, 0, "compact", "--site", f.file)
	wantText(t, out, "^34 files of [0-9]+ bytes became 6 files of [0-9]+; 0 files of 0 bytes")
	out, _ = archiveCommand(t, 0, "compact", "--site", f.file)
	wantText(t, out, "^0 files of 0 bytes became 0 files of 0; 0 files")
	out, _ = archiveCommand(t, 0, "verify", "--site", f.file)
	wantText(t, out, "^400 beacons in 12 files, 40 manifests")

	_, errs := archiveCommand(t, 1, "retire", "--site", f.file, "--keep", "24h")
	wantText(t, errs, "tenant shop: --keep 24h0m0s is less than its retention \\+ max_age, 768h0m0s")
	out, _ = archiveCommand(t, 0, "retire", "--site", f.file)
	wantText(t, out, "tenant shop: 0 files of 0 bytes deleted")

	all, err := b.List("events/")
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndex(strings.Join(all, "\n")+"\n", "-0.parquet")
	if i < 0 {
		t.Fatal(all)
	}
	if err := os.Remove(filepath.Join(f.folder, "blobs", all[len(all)-1])); err != nil {
		t.Fatal(err)
	}
	out, errs = archiveCommand(t, 1, "verify", "--site", f.file)
	wantText(t, out, regexp.QuoteMeta(all[len(all)-1])+".*object not found; restore it from a copy: offsets")
	wantText(t, errs, "1 problem")
}

// What is archived after a topic was asked for its ends is not held against it.
func TestVerifyBesideAnArchiver(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	if code, _, stderr := f.topicsCommand("apply", "--site", f.file); code != 0 {
		t.Fatal(stderr)
	}
	id := f.describe(t, "beacons.shop.0").ID
	b := keepBeacons(t, f.folder, id, 0)
	asked := false
	f.cluster.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		asked = true
		if err := archive.Append(b, archive.Manifest{Topic: "beacons.shop.0", TopicID: id, Partition: 1, Next: 20, Progress: map[string]int64{"a": archiveBegin}}); err != nil {
			t.Error(err)
		}
		return nil, nil, false
	})
	archiveCommand(t, 0, "verify", "--site", f.file, "--kafka")
	if !asked {
		t.Error("no ends are asked for")
	}
}

// What is lost of an archive is not verified as if it had never been.
func TestVerifyMissesManifests(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	out, _ := archiveCommand(t, 1, "verify", "--site", f.file)
	wantText(t, out, "topic beacons.shop.0 is not archived in .*: is `blobs` of .* right")
	b := keepBeacons(t, f.folder, "id", 5)
	archiveCommand(t, 0, "verify", "--site", f.file)
	chain, err := archive.Chain(b, "beacons.shop.0", 1)
	if err != nil || len(chain) != 5 {
		t.Fatal(len(chain), err)
	}
	for _, m := range chain {
		if err := b.Delete(archive.ManifestName("beacons.shop.0", 1, m.First)); err != nil {
			t.Fatal(err)
		}
	}
	out, errs := archiveCommand(t, 1, "verify", "--site", f.file)
	wantText(t, out, fmt.Sprintf("event file .*-1-%020d-0.parquet lies behind the end of the chain of beacons.shop.0/1, offset 0: manifests are gone", chain[1].First))
	wantText(t, errs, "1 problem")
	if err := b.Delete(archive.PartitionsName("beacons.shop.0")); err != nil {
		t.Fatal(err)
	}
	out, _ = archiveCommand(t, 1, "verify", "--site", f.file)
	wantText(t, out, "topic beacons.shop.0 has event files, but manifests/beacons.shop.0/partitions.json is gone")

	other := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	keepBeacons(t, other.folder, "id", 2)
	other.write(t, "{topic: beacons.raw, kind: live, partitions: 2}", 3)
	out, _ = archiveCommand(t, 1, "verify", "--site", other.file)
	wantText(t, out, "topic beacons.shop.0 has 3 partitions in .*, the archive is of 2: their number never changes")
}

func TestArchiveRetiresByTheArchivesTime(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	b := keepBeacons(t, f.folder, "id", 3)
	const month = 32 * 24 * 3600_000
	for p := range int32(2) {
		if err := archive.Append(b, archive.Manifest{Topic: "beacons.shop.0", TopicID: "id", Partition: p, First: 60, Next: 61,
			Progress: map[string]int64{"a": archiveBegin + month + 30*60_000}}); err != nil {
			t.Fatal(err)
		}
	}
	// What the batch made of a window a session_ttl before that, and of one after.
	old, kept := int64(archiveBegin-12*3600_000), int64(archiveBegin-11*3600_000)
	for _, name := range []string{fmt.Sprintf("batch/shop/out/%012d/%014d/run.json", 1, old), fmt.Sprintf("batch/shop/out/%012d/%014d/000.parquet", 1, old),
		tables.RowsName("shop", old, 1), fmt.Sprintf("batch/shop/out/%012d/%014d/run.json", 1, kept)} {
		if err := b.Create(name, []byte("ten bytes.")); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := archiveCommand(t, 0, "retire", "--site", f.file, "--dry-run")
	wantText(t, out, "tenant shop: 6 files of [0-9]+ bytes would be deleted, of event times before 2025-10-09T09:30:00Z")
	wantText(t, out, "tenant shop: 3 objects of 30 bytes, state runs and tables of 1 window before 2025-10-08T21:30:00Z, are left to the batch to delete")
	archiveCommand(t, 0, "verify", "--site", f.file)
	out, _ = archiveCommand(t, 0, "retire", "--site", f.file, "--keep", "769h")
	wantText(t, out, "tenant shop: 0 files")
	out, _ = archiveCommand(t, 0, "retire", "--site", f.file)
	wantText(t, out, "tenant shop: 6 files of [0-9]+ bytes deleted")
	// What an earlier run had recorded and not deleted when it was killed.
	if err := b.Create(archive.FileName("shop", "beacons.shop.0", 1, 20, 0, archiveBegin), []byte("ten bytes.")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1 file of 10 bytes", "0 files of 0 bytes"} {
		out, _ = archiveCommand(t, 0, "retire", "--site", f.file)
		wantText(t, out, "tenant shop: "+n+" deleted")
	}
	var said bytes.Buffer
	if code := run(t.Context(), []string{"batch", "collect", "--site", f.file, "--dry-run"}, &said, &said); code != 0 {
		t.Fatal(said.String())
	}
	wantText(t, said.String(), "^tenant shop: 1 object of 10 bytes, of 1 window that newer coverage has replaced, would be deleted\n"+
		"tenant shop: 3 objects of 30 bytes, of 1 window behind the retention, would be deleted\n$")
	out, _ = archiveCommand(t, 0, "verify", "--site", f.file)
	wantText(t, out, "^0 beacons in 0 files, 8 manifests")
}

func TestArchiveRefuses(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"verify"}, 2, "--site is needed"},
		{[]string{"compact", "--site", f.file, "--span", "1m"}, 2, "--span 1m0s is not in 30m to 24h"},
		{[]string{"compact", "--site", f.file, "--memory", "1"}, 2, "--memory 1 is not in 16 to 512"},
		{[]string{"retire", "--site", f.file, "--keep", "-1h"}, 2, "is below 0"},
		{[]string{"verify", "--site", f.file, "x"}, 2, `unexpected argument "x"`},
		{[]string{"verify", "--site", f.file, "--tenant", "none"}, 1, `has no tenant "none"`},
	} {
		_, errs := archiveCommand(t, test.code, test.args...)
		wantText(t, errs, regexp.QuoteMeta(test.want))
	}
}
