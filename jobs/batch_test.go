package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/store"
	"tandem/schemas/traffic"
	"tandem/scripts/devstack"
)

const batchSite = `dc: dc1
kafka: {brokers: [127.0.0.1:1]}
raw: [{topic: beacons.raw, kind: history, partitions: 1}]
tenants: [{config: shop.yaml, partitions: 2, groups: 1}]
metrics: {topic: metrics, partitions: 1}
tick: 1m
blobs: blobs
store: {pebble: store}
`

// shopSite makes the folder of a site of the demo's shop.
func shopSite(t *testing.T) (dir string, s *site.Site, blobs blob.Store) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"shop.yaml": string(traffic.Config()), "site.yaml": batchSite} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := site.Load(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if blobs, err = s.OpenBlobs(); err != nil {
		t.Fatal(err)
	}
	return dir, s, blobs
}

// shopTraffic is the shop's traffic over a time whose start it returns, in order of ingest time.
func shopTraffic(t *testing.T, span time.Duration, sessionsPerMinute float64) (raws []embedded.Raw, start time.Time) {
	t.Helper()
	o := traffic.Defaults()
	o.Span, o.SessionsPerMinute = span, sessionsPerMinute
	o.Start = time.Now().UTC().Truncate(time.Hour).Add(-o.Span - 2*time.Hour) // within the retention of the store's rows
	err := traffic.Generate(o, func(r records.Record) error {
		raws = append(raws, embedded.Raw{Ingest: r.Ingest, Payload: bytes.Clone(r.Payload)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return int(min(max(a.Ingest-b.Ingest, -1), 1)) })
	return raws, o.Start
}

// archivedSite makes the folder of a site whose archive holds some hours of traffic.
func archivedSite(t *testing.T, hours int) string {
	t.Helper()
	dir, s, blobs := shopSite(t)
	st, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := embedded.Defaults()
	opt.Stream, opt.ArchiveRows = false, 5000
	p, err := embedded.Open(t.Context(), opt, s.Tenants[0].Chain, embedded.NewMemory(), blobs, st)
	if err != nil {
		t.Fatal(err)
	}
	raws, _ := shopTraffic(t, time.Duration(hours)*time.Hour, traffic.Defaults().SessionsPerMinute)
	for part := range slices.Chunk(raws, 5000) {
		if err := errors.Join(p.Feed(t.Context(), part), p.Pump(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(p.Heartbeat(t.Context(), p.End()), p.Pump(t.Context())); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copySite(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tandem runs the binary on a site and returns what it prints to standard output and to standard error.
func tandemAt(t *testing.T, dir string, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tandem", append(args, "--site", filepath.Join(dir, "site.yaml"))...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, log.String())
	}
	return out.String(), log.String()
}

// written is everything that a batch leaves: its objects, what reports and leases say of times aside, and its rows and coverage.
type written struct {
	objects  map[string]string
	rows     []string
	coverage map[int64]string
}

func writtenAt(t *testing.T, dir string) written {
	t.Helper()
	w := written{objects: map[string]string{}, coverage: map[int64]string{}}
	root := os.DirFS(filepath.Join(dir, "blobs"))
	err := fs.WalkDir(root, "batch", func(path string, d fs.DirEntry, err error) error {
		// A process that reduces what it has mapped itself holds the results in memory.
		if err != nil || d.IsDir() || strings.Contains(path, "/reports/") || strings.Contains(path, "/lease/") || strings.HasSuffix(path, ".sums") {
			return err
		}
		data, err := fs.ReadFile(root, path)
		w.objects[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.Load(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if w.rows, err = embedded.Lines(t.Context(), st, "shop", "batch", 0, store.MaxMinute+1); err != nil {
		t.Fatal(err)
	}
	err = st.Coverage(t.Context(), "shop", 0, store.MaxMinute, func(c store.Coverage) error {
		w.coverage[c.Window] = string(c.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *written) same(t *testing.T, what string, want written) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want.objects)) {
		if got, ok := w.objects[name]; !ok || got != want.objects[name] {
			t.Errorf("%s: object %s: there %t, %d bytes, want %d that differ", what, name, ok, len(got), len(want.objects[name]))
		}
	}
	if len(w.objects) != len(want.objects) {
		t.Errorf("%s: %d objects, want %d", what, len(w.objects), len(want.objects))
	}
	if !slices.Equal(w.rows, want.rows) {
		t.Errorf("%s: %d rows, want %d, or others", what, len(w.rows), len(want.rows))
	}
	if !maps.Equal(w.coverage, want.coverage) {
		t.Errorf("%s: other coverage of %d windows, want %d", what, len(w.coverage), len(want.coverage))
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// mapped counts the state runs of the hash ranges of which keep is true: one is made of each window that holds something.
func mapped(t *testing.T, dir string, keep func(r int) bool) (n int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "blobs/batch/shop/out/*/*/*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		r := 0
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.parquet", &r); err == nil && keep(r) {
			n++
		}
	}
	return n
}

// killed runs the binary, kills it with -9 once when is true, and says whether that was its end.
func killed(t *testing.T, dir string, when func() bool, args ...string) bool {
	t.Helper()
	cmd := exec.Command("tandem", append(args, "--site", filepath.Join(dir, "site.yaml"))...)
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %v", args, err)
			}
			return false
		case <-time.After(time.Millisecond):
			if when() {
				_ = cmd.Process.Kill() // it may have ended just now
				err := <-ended
				var exit *exec.ExitError
				return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			}
		}
	}
}

// One process; eight map processes side by side, of which five are killed with -9 and run again; one that is killed again
// and again: all leave the same bytes.
func TestBatchProcesses(t *testing.T) {
	devstack.AtLength(t)
	dir := archivedSite(t, 5)
	alone, side, mortal := copySite(t, dir), copySite(t, dir), copySite(t, dir)
	_, log := tandemAt(t, alone, "batch", "--ranges", "16", "--parallel", "1")
	if !strings.Contains(log, "msg=window") || !strings.Contains(log, "msg=plan") {
		t.Errorf("the log of a run without a terminal says\n%s", log)
	}
	want := writtenAt(t, alone)
	if len(want.rows) < 1000 || len(want.coverage) < 10 || len(want.objects) < 100 {
		t.Fatalf("%d rows, %d windows, %d objects are too few for this test", len(want.rows), len(want.coverage), len(want.objects))
	}
	if again, _ := tandemAt(t, alone, "batch", "plan"); again != "" {
		t.Errorf("all is covered, and there is to do:\n%s", again)
	}
	report, _ := tandemAt(t, alone, "report")
	if lines := strings.Split(strings.TrimSpace(report), "\n"); len(lines) != 4 || lines[0] != "shop: no late beacons wait" || !strings.Contains(lines[2], "shop") || !strings.HasSuffix(lines[3], " beacons sent again") {
		t.Errorf("the report of one run is\n%s", report)
	}

	plan, _ := tandemAt(t, side, "batch", "plan", "--ranges", "16", "--parts", "8", "--json")
	var got struct{ Plans []planned }
	if err := json.Unmarshal([]byte(plan), &got); err != nil || len(got.Plans) != 1 || len(got.Plans[0].Maps) != 8 || len(got.Plans[0].Reduces) != len(want.coverage) {
		t.Fatalf("the plan is %s, %v", plan, err)
	}
	if again, _ := tandemAt(t, side, "batch", "plan", "--ranges", "16", "--parts", "8", "--json"); again != plan {
		t.Errorf("asked again the plan is %s, it was %s", again, plan)
	}
	var wg sync.WaitGroup
	kills := make([]bool, 8)
	for i, task := range got.Plans[0].Maps {
		wg.Go(func() {
			own := func(r int) bool { return r/2 == i }
			if i < 5 {
				kills[i] = killed(t, side, func() bool { return mapped(t, side, own) > i }, "batch", "map", "--parallel", "1", task)
			}
		})
	}
	wg.Wait()
	if !slices.Equal(kills[:5], []bool{true, true, true, true, true}) {
		t.Errorf("killed: %t: the others had ended before", kills)
	}
	if cmd := exec.Command("tandem", "batch", "reduce", "all", "--site", filepath.Join(side, "site.yaml")); cmd.Run() == nil {
		t.Error("reduce took a plan whose maps had not all run")
	}
	for _, task := range append(got.Plans[0].Maps, "0/3") { // the last: an indexed job with another number of parts
		wg.Go(func() { tandemAt(t, side, "batch", "map", "--parallel", "1", task) })
	}
	wg.Wait()
	tandemAt(t, side, append([]string{"batch", "reduce"}, got.Plans[0].Reduces[:3]...)...)
	tandemAt(t, side, "batch", "reduce", "all")
	tandemAt(t, side, "batch", "reduce", "all")
	w := writtenAt(t, side)
	w.same(t, "eight processes", want)

	kill := 0
	for n := 10; ; n += 40 {
		if !killed(t, mortal, func() bool { return mapped(t, mortal, func(int) bool { return true }) > n }, "batch", "--ranges", "16", "--parallel", "2") {
			break
		}
		kill++
		if err := os.RemoveAll(filepath.Join(mortal, "blobs/batch/shop/lease")); err != nil { // else the next run waits a minute
			t.Fatal(err)
		}
	}
	if kill < 2 {
		t.Errorf("killed only %d times", kill)
	}
	w = writtenAt(t, mortal)
	w.same(t, "killed again and again", want)
}

// A partition that nobody archives keeps everything waiting, and is named.
func TestBatchNamesWhatIsNotArchived(t *testing.T) {
	f := newSite(t, "{topic: beacons.raw, kind: live, partitions: 2}")
	said := func(args ...string) string {
		var out bytes.Buffer
		if code := run(t.Context(), append(args, "--site", f.file), &out, &out); code != 0 {
			t.Fatal(out.String())
		}
		return out.String()
	}
	wantText(t, said("batch"), "nothing is due before the archive knows.*partitions=beacons.shop.0")
	b := keepBeacons(t, f.folder, "id", 3)
	first, err := archive.Chain(b, "beacons.shop.0", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range first {
		if err := b.Delete(archive.ManifestName("beacons.shop.0", 1, m.First)); err != nil {
			t.Fatal(err)
		}
	}
	wantText(t, said("batch"), "nothing is due before the archive knows.*partitions=beacons.shop.0/1")
	wantText(t, said("report"), "shop: nothing is due before the archive knows how far these are: beacons.shop.0/1 ")
}

// A run that finds the lease taken waits, and leaves the work to the other.
func TestBatchWaits(t *testing.T) {
	devstack.AtLength(t)
	dir := archivedSite(t, 1)
	blobs, err := blob.OpenDir(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	chain := &tenant.Chain{Tenant: "shop"}
	release, _, ok, err := (&batch.Job{Chain: chain, Blobs: blobs}).Lease("the first").Take(context.Background(), 0)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, log := tandemAt(t, dir, "batch", "--wait", "10ms"); !strings.Contains(log, "the first") {
		t.Errorf("the second run says\n%s", log)
	}
	if n := len(writtenAt(t, copySite(t, dir)).coverage); n != 0 {
		t.Errorf("it has covered %d windows", n)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tandem", "batch", "reduce", "nope:1:all", "--site", filepath.Join(dir, "site.yaml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `the site has no tenant "nope"`) {
		t.Errorf("reduce of a tenant that is not says %s, %v", out, err)
	}
	tandemAt(t, dir, "batch", "--once")
	if n := len(writtenAt(t, dir).coverage); n == 0 {
		t.Error("no window is covered")
	}
}

func TestBatchCommandLine(t *testing.T) {
	for _, args := range []string{"", "--site x extra", "--site x plan extra", "--site x map", "--site x reduce", "--site x --parallel -1",
		"--site x --ranges 65", "--site x --wait -1s", "--site x plan --parts 0"} {
		if code := runBatch(t.Context(), strings.Fields(args), io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
	for _, text := range []string{"a:1", "a:x:0/1", ":1:0/1", "a:0:0/1", "1/1", "x/2", "-1/2", "2/", "0"} {
		task, err := parseTask(text)
		if err == nil {
			_, _, err = task.part()
		}
		if err == nil {
			t.Errorf("task %q was taken", text)
		}
	}
	if got, err := parseTask("2026-01-01T00:30:00Z"); err != nil || got != (task{what: "2026-01-01T00:30:00Z"}) {
		t.Errorf("a window alone is the task %+v, %v", got, err)
	}
}

func TestOddText(t *testing.T) {
	if got := oddText(&batch.Counts{Records: 9, Late: 3}); got != "" {
		t.Errorf("of nothing odd it says %q", got)
	}
	got := oddText(&batch.Counts{Records: 9, UnknownVariation: 4, Conflict: 1, Overflow: 2, Duplicate: 3, Unused: 5, Rejected: map[string]int64{"no_ts": 1, "json": 6}})
	want := "4 assignments to a variation that the config does not list, 1 assignments to another variation than the session has, " +
		"2 beacons beyond max_events_per_minute, 3 beacons sent again, 5 beacons that the config does not use, 6 rejected as json, 1 rejected as no_ts"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
