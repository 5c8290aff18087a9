package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/beacon"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/store"
	"tandem/schemas/traffic"
	"tandem/scripts/devstack"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

const historyRaw = "{topic: old.raw, kind: history, partitions: 3}"

// applied is a site whose topics are there, with the config of the made-up shop.
func applied(t *testing.T, raw string) *siteFixture {
	t.Helper()
	f := newSite(t, raw)
	if err := os.WriteFile(filepath.Join(f.folder, "shop.yaml"), traffic.Config(), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := f.topicsCommand("apply"); code != 0 {
		t.Fatal(stderr)
	}
	return f
}

func (f *siteFixture) produce(ctx context.Context, args ...string) (code int, stderr string) {
	var out, errs bytes.Buffer
	code = runProduce(ctx, append([]string{"--site", f.file}, args...), &out, &errs)
	return code, errs.String()
}

// log is what each partition of a topic holds.
func (f *siteFixture) log(t *testing.T, topic string) [][]broker.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ends, err := f.topics.Ends(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	logs := make([][]broker.Record, len(ends))
	left := int64(0)
	from := map[broker.Partition]int64{}
	for p, end := range ends {
		left += end
		from[broker.Partition{Topic: topic, Partition: p}] = 0
	}
	r, err := broker.NewReader(f.to, from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for left > 0 {
		recs, err := r.Poll(ctx, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			rec.Value = bytes.Clone(rec.Value)
			logs[rec.Partition] = append(logs[rec.Partition], rec)
			left--
		}
	}
	return logs
}

// shopRecords are a few thousand beacons in no order, some without an ingest time and some that cannot be read.
func shopRecords(t *testing.T, f *siteFixture) (path string, raws []embedded.Raw) {
	t.Helper()
	opt := traffic.Defaults()
	opt.Span, opt.SessionsPerMinute, opt.MalformedShare = 20*time.Minute, 20, 0.01
	var lines []string
	err := traffic.Generate(opt, func(r records.Record) error {
		ingest := r.Ingest
		line := fmt.Sprintf("%d\t%s", r.Ingest, r.Payload)
		if len(lines)%5 == 0 {
			var parser beacon.Parser
			var b beacon.Beacon
			ingest, line = max(1, embedded.Ingest(&parser, &b, r.Payload)), string(r.Payload)
		}
		raws = append(raws, embedded.Raw{Ingest: ingest, Payload: bytes.Clone(r.Payload)})
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range lines { // swaps far apart: the file is in no order
		j := i * 7919 % len(lines)
		lines[i], lines[j] = lines[j], lines[i]
	}
	path = filepath.Join(f.folder, "records.tsv")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(raws, byTime)
	return path, raws
}

func byTime(a, b embedded.Raw) int {
	return cmp.Or(cmp.Compare(a.Ingest, b.Ingest), bytes.Compare(a.Payload, b.Payload))
}

func TestProduceHistory(t *testing.T) {
	ctx := context.Background()
	f := applied(t, historyRaw)
	path, raws := shopRecords(t, f)
	code, stderr := f.produce(ctx, "--topic", "old.raw", "--end-heartbeat", path)
	if code != 0 || !strings.Contains(stderr, fmt.Sprintf("produced %d records and ", len(raws))) {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	logs := f.log(t, "old.raw")
	end := raws[len(raws)-1].Ingest + embedded.Closing(mustLoad(t, f).Tenants[0].Chain)
	var got []embedded.Raw
	sessions := map[string]int32{}
	var parser beacon.Parser
	var b beacon.Beacon
	for part, log := range logs {
		beats := map[int64]bool{}
		for i, rec := range log {
			if i > 0 && rec.Time < log[i-1].Time {
				t.Fatalf("%d/%d: time %d after %d", part, i, rec.Time, log[i-1].Time)
			}
			if _, ok := rec.Header(dispatch.HeaderHeartbeat); ok && len(rec.Value) == 0 {
				if beats[rec.Time] {
					t.Errorf("%d: two heartbeats at %d", part, rec.Time)
				}
				beats[rec.Time] = true
				continue
			}
			got = append(got, embedded.Raw{Ingest: rec.Time, Payload: rec.Value})
			if parser.Parse(rec.Value, &b) == beacon.None {
				if other, ok := sessions[string(b.Session)]; ok && other != rec.Partition {
					t.Fatalf("session %s is in partitions %d and %d", b.Session, other, rec.Partition)
				}
				sessions[string(b.Session)] = rec.Partition
			}
		}
		if last := log[len(log)-1]; last.Time != end+endAgain || len(last.Value) != 0 {
			t.Errorf("%d: the last record is of %d, the end heartbeats of %d and %d later", part, last.Time, end, endAgain)
		}
		want := map[int64]bool{end: true, end + endAgain: true}
		for _, r := range raws {
			if n := r.Ingest / 5000 * 5000; n > 0 {
				want[n] = true
			}
		}
		if len(beats) != len(want) {
			t.Errorf("%d: %d heartbeats, want %d", part, len(beats), len(want))
		}
		for ms := range want {
			if !beats[ms] {
				t.Fatalf("%d: no heartbeat at %d", part, ms)
			}
		}
	}
	slices.SortFunc(got, byTime)
	if !slices.EqualFunc(got, raws, func(a, b embedded.Raw) bool { return byTime(a, b) == 0 }) {
		t.Fatalf("%d records were written, %d are there, or others", len(raws), len(got))
	}
	if used := map[int32]int{}; true {
		for _, p := range sessions {
			used[p]++
		}
		if len(used) != 3 {
			t.Errorf("sessions by partition: %v", used)
		}
	}

	// With one partition minutes behind another the rows are those of replay.
	chain := mustLoad(t, f).Tenants[0].Chain
	want, _ := streamed(t, chain, 1, raws)
	rows, counts := streamed(t, chain, 3, skewed(logs))
	if d := difference(want, rows); len(d) > 0 || len(rows) < 100 {
		t.Errorf("%d of %d rows differ, the first: %v", len(d), len(rows), d[:min(1, len(d))])
	}
	if counts["late.clock"] != 0 || counts["redelivered"] != 0 {
		t.Errorf("counts %v", counts)
	}

	// Written again, as after a stop, it changes no row.
	if code, stderr := f.produce(ctx, "--topic", "old.raw", "--end-heartbeat", path); code != 0 {
		t.Fatal(stderr)
	}
	both := f.log(t, "old.raw")
	again := make([][]broker.Record, len(both))
	for p := range both {
		again[p] = both[p][len(logs[p]):]
	}
	rows, counts = streamed(t, chain, 3, append(skewed(logs), skewed(again)...))
	if d := difference(want, rows); len(d) > 0 || counts["late.clock"]+counts["duplicate"] == 0 {
		t.Errorf("repeating changes %d rows; %v", len(d), counts)
	}
}

// skewed interleaves the partitions, each 7 minutes of record time behind the one before.
func skewed(logs [][]broker.Record) []embedded.Raw {
	var raws []embedded.Raw
	for p, log := range logs {
		for _, rec := range log {
			_, beat := rec.Header(dispatch.HeaderHeartbeat)
			raws = append(raws, embedded.Raw{Partition: int32(p), Ingest: rec.Time, Payload: rec.Value, Heartbeat: beat})
		}
	}
	read := func(r embedded.Raw) int64 { return r.Ingest + int64(r.Partition)*7*60_000 }
	slices.SortStableFunc(raws, func(a, b embedded.Raw) int { return cmp.Compare(read(a), read(b)) })
	return raws
}

// streamed is what the embedded stream makes of raw records, in this order.
func streamed(t *testing.T, chain *tenant.Chain, partitions int32, raws []embedded.Raw) ([]string, map[string]int64) {
	t.Helper()
	ctx := context.Background()
	st, err := memoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := embedded.Defaults()
	opt.Batch, opt.Raw = false, partitions
	p, err := embedded.Open(ctx, opt, chain, embedded.NewMemory(), blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(raws, 100) { // Pump reads one raw partition after another
		if err := errors.Join(p.Feed(ctx, part), p.Pump(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	lines, err := embedded.Lines(ctx, st, chain.Tenant, "stream", 0, store.MaxMinute+1)
	if err != nil {
		t.Fatal(err)
	}
	return lines, p.StreamCounts()
}

func TestProduceLive(t *testing.T) {
	devstack.AtLength(t)
	f := applied(t, liveRaw)
	path, raws := shopRecords(t, f)
	began := time.Now().UnixMilli()
	if code, stderr := f.produce(context.Background(), "--topic", "beacons.raw", path); code != 0 || !strings.Contains(stderr, "and 0 heartbeats") {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	lines := readLines(t, path)
	for i, line := range lines {
		if _, payload, ok := strings.Cut(line, "\t"); ok {
			lines[i] = payload
		}
	}
	n := 0
	for part, log := range f.log(t, "beacons.raw") {
		at := 0 // what a partition holds comes in the order of the file
		for _, rec := range log {
			if rec.Time < began || rec.Time > time.Now().UnixMilli() {
				t.Fatalf("time %d, not that of the broker", rec.Time)
			}
			for at < len(lines) && lines[at] != string(rec.Value) {
				at++
			}
			if at++; at > len(lines) {
				t.Fatalf("%d/%d is out of order: %s", part, rec.Offset, rec.Value)
			}
			n++
		}
	}
	if n != len(raws) {
		t.Errorf("%d records, want %d", n, len(raws))
	}

	small := filepath.Join(f.folder, "small.tsv")
	if err := os.WriteFile(small, []byte(strings.Join(readLines(t, path)[:50], "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if code, stderr := f.produce(context.Background(), "--topic", "beacons.raw", "--rate", "100", small); code != 0 {
		t.Fatal(stderr)
	}
	if took := time.Since(start); took < 480*time.Millisecond || took > 20*time.Second {
		t.Errorf("50 records at 100 a second took %s", took)
	}

	// Stopped in the middle: bounded, and it says how far it came.
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start = time.Now()
	code, stderr := f.produce(ctx, "--topic", "beacons.raw", "--rate", "100", path)
	if code != 1 || !strings.Contains(stderr, "produced ") || time.Since(start) > 20*time.Second {
		t.Errorf("stopped: exit code %d after %s, %s", code, time.Since(start), stderr)
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func TestProduceRefuses(t *testing.T) {
	f := applied(t, liveRaw+", "+historyRaw+", {topic: dc2.raw, kind: mirror, cluster: dc2, partitions: 1}")
	now := time.Now().UnixMilli()
	file := func(name, text string) string {
		path := filepath.Join(f.folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fresh := file("fresh.tsv", fmt.Sprintf("%d\t{}\n", now))
	future := file("future.tsv", fmt.Sprintf("1\t{}\n%d\t{}\n", now+2*3_600_000))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--topic", "nothing", fresh}, 1, "topic nothing is no raw topic of"},
		{[]string{"--topic", "beacons.shop.0", fresh}, 1, "is no raw topic of"},
		{[]string{"--topic", "dc2.raw", fresh}, 1, "topic dc2.raw mirrors one of cluster dc2"},
		{[]string{"--topic", "beacons.raw", "--end-heartbeat", fresh}, 1, "is of kind live"},
		{[]string{"--topic", "old.raw", "--end-heartbeat", fresh}, 1, "the end heartbeat would be at 2"},
		{[]string{"--topic", "old.raw", future}, 1, "Kafka refuses records stamped later than"},
		{[]string{"--topic", "old.raw", filepath.Join(f.folder, "no.tsv")}, 1, "no such file"},
		{[]string{"--topic", "beacons.raw", filepath.Join(f.folder, "no.tsv")}, 1, "no such file"},
		{[]string{"--topic", "beacons.raw"}, 2, "one RECORDS is needed, not 0"},
		{[]string{fresh}, 2, "--site and --topic are needed"},
		{[]string{"--topic", "beacons.raw", "--rate", "NaN", fresh}, 2, "--rate NaN is not in"},
		{[]string{"--topic", "beacons.raw", "--rate", "-1", fresh}, 2, "--rate -1 is not in"},
	} {
		if code, stderr := f.produce(context.Background(), c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit code %d, %s; want %d, %q", c.args, code, stderr, c.code, c.want)
		}
	}
	for _, topic := range []string{"old.raw", "beacons.raw", "dc2.raw"} {
		for _, log := range f.log(t, topic) {
			if len(log) > 0 {
				t.Errorf("%s holds %d records", topic, len(log))
			}
		}
	}
	if code, stderr := f.produce(context.Background(), "--topic", "old.raw", fresh); code != 0 || !strings.Contains(stderr, "produced 1 record and 3 heartbeats") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	f.remove(t, "beacons.raw")
	if code, stderr := f.produce(context.Background(), "--topic", "beacons.raw", fresh); code != 1 || !strings.Contains(stderr, "tandem topics apply makes it") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
