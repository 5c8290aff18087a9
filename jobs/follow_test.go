package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/configs"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/schemas/traffic"
)

// Services that run while a revision is appended go by it without being restarted, and come to what a replay comes to.
func TestServicesFollowTheChain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := newServiceRig(t, 2, 2)
	raws := s.traffic(t, 1000)
	s.start(t, "dispatch", "--id", "d1")
	s.start(t, "stream", "--stage", "1", "--id", "a1")
	s.start(t, "stream", "--stage", "2", "--id", "b1")
	s.start(t, "archive", "--id", "r1")
	s.write(t, ctx, raws)
	s.await(t, ctx, "stage 1 has read something", func() bool { return s.committed(ctx, "tandem.stream.dc1.1", "beacons.shop.0", 2) > 0 })

	from := time.Date(2124, 1, 1, 0, 0, 0, 0, time.UTC)
	next := filepath.Join(s.dir, "next.yaml")
	text := "from: " + from.Format(time.RFC3339) + "\n" + strings.Replace(string(traffic.Config()), "\npoints:\n", "\npoints:\n  promo: {}\n", 1)
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := runConfig(ctx, []string{"apply", "--site", s.file, next}, &s.logs, &s.logs); code != 0 {
		t.Fatalf("apply: exit code %d\n%s", code, s.logs.String())
	}
	s.await(t, ctx, "all have begun again", func() bool { return strings.Count(s.logs.String(), "begins again by it") == 4 })
	var after []embedded.Raw
	for k := range 200 {
		ts := from.UnixMilli() + int64(k)*1000
		after = append(after, embedded.Raw{Partition: int32(k % 2), Ingest: ts,
			Payload: fmt.Appendf(nil, `{"id":"n%d","tenant":"shop","session":"n%d","ts":%d,"point":"promo"}`, k, k%20, ts)})
	}
	grown, _, err := site.Open(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if len(grown.Tenants[0].Chain.Revs) != 2 {
		t.Fatalf("the chain has %d revisions", len(grown.Tenants[0].Chain.Revs))
	}
	want, end := replayed(t, ctx, grown.Tenants[0].Chain, slices.Concat(raws, after))
	s.produce(t, ctx, after, end)
	s.awaitAll(t, ctx, end, "dispatch.dc1", "stream.dc1.1", "stream.dc1.2")
	s.stopAll()
	st, err := pebblestore.Open(s.site.Store.Pebble, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	got, err := embedded.Lines(ctx, st, "shop", "stream", 0, store.MaxMinute+1)
	if err != nil {
		t.Fatal(err)
	}
	if d := difference(want, got); len(d) > 0 {
		t.Errorf("%d lines differ of %d, the first: %s\nlogs:\n%s", len(d), len(want), d[0], s.logs.String())
	}
	if !slices.ContainsFunc(want, func(l string) bool { return strings.HasPrefix(l, "shop.visit.site.promo\t") }) {
		t.Error("the new point shows nothing")
	}
}

// unreadable is a storage whose objects cannot be read.
type unreadable struct{ blob.Store }

func (unreadable) Get(string) ([]byte, error) { return nil, errors.New("no answer") }

// Records are read only while the last look at the chains is not too old.
func TestFollowerIsFresh(t *testing.T) {
	f := &follower{looked: time.Now()}
	if !f.fresh() {
		t.Error("just looked, and not fresh")
	}
	f.looked = time.Now().Add(-freshFor)
	if f.fresh() {
		t.Error("half a minute later it is still fresh")
	}
	f.looked, f.old = time.Now(), true
	if f.fresh() {
		t.Error("the chain has grown, and it is fresh")
	}
	dir := siteFolder(t)
	s, blobs, err := site.Open(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	own := *s.Tenants[0].Configs
	g := &follower{blobs: unreadable{blobs}}
	g.chains = append(g.chains, &own)
	if _, err := g.look(); err == nil {
		t.Error("a storage that does not answer has been looked at")
	}
	g.blobs = blobs
	for _, c := range []struct {
		text  string
		grown bool
	}{
		{"from: 2026-01-01T00:00:00Z\nto: 2026-01-02T00:00:00Z\npoints: {home: {}}\n", false},
		{"from: 2124-01-01T00:00:00Z\npoints: {home: {}}\n", true},
	} {
		file := filepath.Join(dir, "next.yaml")
		if err := os.WriteFile(file, []byte("tenant: shop\n"+c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out syncBuffer
		if code := runConfig(t.Context(), []string{"apply", "--site", filepath.Join(dir, "site.yaml"), file}, &out, &out); code != 0 {
			t.Fatalf("apply: exit code %d\n%s", code, out.String())
		}
		if grown, err := g.look(); err != nil || grown != c.grown {
			t.Errorf("after %q: grown %t, %v", c.text, grown, err)
		}
	}
}

// A service does not end for a revision before what it begins again by is read.
func TestFollowerReadsTheSiteFirst(t *testing.T) {
	dir := siteFolder(t)
	file, next := filepath.Join(dir, "site.yaml"), filepath.Join(dir, "next.yaml")
	s, blobs, err := site.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next, []byte("tenant: shop\nfrom: 2124-01-01T00:00:00Z\npoints: {home: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	if code := runConfig(t.Context(), []string{"apply", "--site", file, next}, &out, &out); code != 0 {
		t.Fatalf("apply: exit code %d\n%s", code, out.String())
	}
	synctest.Test(t, func(t *testing.T) {
		own := *s.Tenants[0].Configs
		began, opened, grown := time.Now(), 0, time.Duration(0)
		f := &follower{blobs: blobs, chains: []*configs.Chain{&own}, log: slog.New(slog.NewTextHandler(&out, nil)), looked: began,
			grown: func() { grown = time.Since(began) }}
		f.open = func() (*site.Site, error) {
			if opened++; opened <= 4 {
				return nil, errors.New("half of a site file")
			}
			next, _, err := site.Open(file)
			return next, err
		}
		go f.run(t.Context())
		time.Sleep(2*lookEvery + lookEvery/2)
		if !f.fresh() || grown > 0 {
			t.Errorf("soon after the revision, which nobody's records are of yet: fresh %t, ended after %s", f.fresh(), grown)
		}
		time.Sleep(lookEvery)
		if f.fresh() || grown > 0 {
			t.Errorf("long after it: fresh %t, ended after %s", f.fresh(), grown)
		}
		time.Sleep(2 * lookEvery)
		if grown != 5*lookEvery || len(f.next.Tenants[0].Chain.Revs) != 2 || f.fresh() {
			t.Errorf("once the file is whole: ended after %s, by %+v; fresh %t", grown, f.next, f.fresh())
		}
	})
	if n := strings.Count(out.String(), "half of a site file"); n != 4 {
		t.Errorf("it is told %d times, want 4", n)
	}
}

// siteFolder makes the folder of a site.
func siteFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"site.yaml": batchSite, "shop.yaml": "tenant: shop\npoints: {home: {}}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A point that nobody listed last hour: dispatch has dropped its beacons, and a backfill under a splice that lists it refuses
// until they are brought from the raw topic.
func TestBackfillFromRaw(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := newServiceRig(t, 2, 2)
	raws := s.traffic(t, 600)
	from := time.UnixMilli(raws[0].Ingest).UTC().Truncate(time.Minute)
	for k := range 100 {
		ts := from.UnixMilli() + int64(k)*7000
		raws = append(raws, embedded.Raw{Partition: int32(k % 2), Ingest: ts,
			Payload: fmt.Appendf(nil, `{"id":"n%d","tenant":"shop","session":"n%d","ts":%d,"point":"promo"}`, k, k%20, ts)})
	}
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return int(min(max(a.Ingest-b.Ingest, -1), 1)) })
	stamps := func(a, b time.Time) string {
		return "from: " + a.Format(time.RFC3339) + "\nto: " + b.Format(time.RFC3339) + "\n"
	}
	text := strings.Replace(string(traffic.Config()), "\npoints:\n", "\npoints:\n  promo: {}\n", 1)
	splice := filepath.Join(s.dir, "splice.yaml")
	if err := os.WriteFile(splice, []byte(stamps(from.Add(2*time.Minute), from.Add(8*time.Minute))+text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t, "dispatch", "--id", "d1")
	s.start(t, "archive", "--id", "r1")
	end := from.Add(5 * time.Hour).UnixMilli()
	s.produce(t, ctx, raws, end)
	s.awaitAll(t, ctx, end, "dispatch.dc1", "archive.dc1")
	s.stopAll()
	s.abort(t, ctx, raws[:100]) // the raw topic ends with what nobody is to count
	do := func(code int, run func(context.Context, []string, io.Writer, io.Writer) int, args ...string) {
		t.Helper()
		if got := run(ctx, append([]string{"--site", s.file}, args...), &s.logs, &s.logs); got != code {
			t.Fatalf("%v: exit code %d, want %d\n%s", args, got, code, s.logs.String())
		}
	}
	do(0, runBatch)
	do(0, runConfig, "apply", splice)
	args := []string{"--from", from.Format(time.RFC3339), "--to", from.Add(time.Hour).Format(time.RFC3339)}
	do(1, runBackfill, args...)
	if !strings.Contains(s.logs.String(), "the archive cannot tell of point promo from ") {
		t.Errorf("it says\n%s", s.logs.String())
	}
	do(0, runBackfill, append(args, "--from-raw")...)

	// The same records under plain revisions that say the same.
	plain := func(at time.Time, text string) *tenant.Config {
		head := ""
		if !at.IsZero() {
			head = "from: " + at.Format(time.RFC3339) + "\n"
		}
		cfg, err := tenant.Load("c.yaml", []byte(head+text))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	chain, err := tenant.Compile([]*tenant.Config{plain(time.Time{}, string(traffic.Config())), plain(from.Add(2*time.Minute), text), plain(from.Add(8*time.Minute), string(traffic.Config()))})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := pipelined(t, ctx, chain, raws, "batch")
	got := rowsAt(t, s.dir)
	if d := difference(want, got); len(d) > 0 {
		t.Errorf("%d lines differ of %d, the first: %s", len(d), len(want), d[0])
	}
	if !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "shop.visit.site.promo\t") }) {
		t.Error("the point shows nothing")
	}
	before := len(s.logs.String())
	do(0, runBackfill, append(args, "--dry-run")...)
	if text := s.logs.String()[before:]; !strings.Contains(text, "nothing to do") {
		t.Errorf("after it a dry run says %s", text)
	}

	// What was brought is looked after as the rest of the archive is.
	verified := func() string {
		before := len(s.logs.String())
		do(0, runArchiveVerify, "--kafka")
		return s.logs.String()[before:]
	}
	was := verified()
	do(0, runArchiveCompact)
	do(0, runArchiveRetire, "--dry-run")
	if now := verified(); !strings.Contains(was, " in 3 partitions") || !strings.Contains(now, " in 3 partitions") {
		t.Errorf("verified\n%s%s", was, now)
	}
	kept, err := site.Load(s.file)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := kept.OpenBlobs()
	if err != nil {
		t.Fatal(err)
	}
	brought, err := batch.ReadFromRaw(blobs, "shop")
	if err != nil || len(brought) != 1 {
		t.Fatalf("brought %v, %v", brought, err)
	}
	chain1, err := archive.Chain(blobs, brought[0].Topic, 0)
	if err != nil || len(chain1[0].Files) == 0 {
		t.Fatalf("chain %v, %v", chain1, err)
	}
	if err := blobs.Delete(chain1[0].Files[0].Name); err != nil {
		t.Fatal(err)
	}
	do(1, runArchiveVerify)
}
