package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/scripts/devstack"
)

var rewriteDemo = flag.Bool("rewrite-demo", false, "write the tables of testdata/demo anew")

func demoFixture() demoFrame {
	return demoFrame{
		tenant: "shop", clock: 1767227340000, speed: "60x", beacons: 1234567, perSecond: 2345.6,
		counts:   []demoCount{{"unused", 1016}, {"sent twice", 223}},
		rejected: []demoCount{{"malformed", 20}, {"bad_ts", 7}},
		hasOrder: true, hasRevenue: true, hasError: true, decimals: 2, firstAt: 1767226200000,
		experiments: []demoExperiment{
			{name: "checkout_button", variations: []demoVariation{
				{"control", demoSums{12000, 10000, 1000, 4_000_000, 200}, demoSums{6000, 5000, 500, 2_000_000, 100}, demoSums{6000, 5000, 500, 2_000_000, 100}},
				{"a_variation_with_a_long_name", demoSums{12100, 10100, 1212, 5_000_050, 2100}, demoSums{6100, 5100, 600, 2_400_000, 1122}, demoSums{6101, 5100, 602, 2_405_737, 1122}},
			}},
			{name: "empty", variations: []demoVariation{{name: "control"}, {name: "on"}}},
		},
	}
}

func TestDemoTable(t *testing.T) {
	covered := demoFixture()
	covered.watermark, covered.windows, covered.minutes, covered.rows = 29453789, 2, 60, 266299
	late := covered
	late.late, late.lateCovered, late.byLate = 158, 1, 3939
	differ := late
	differ.differ, differ.phase = 12, "done"
	site := covered
	site.hasError, site.hasRevenue = false, false
	site.experiments = []demoExperiment{{variations: []demoVariation{{name: "all", soFar: demoSums{visits: 3, sessions: 2, orders: 1}}}}}
	start := demoFixture()
	start.rejected, start.counts = nil, nil
	for name, lines := range map[string][]string{
		"start": start.lines(demoFull), "covered": covered.lines(demoFull), "late": late.lines(demoFull), "differ": differ.lines(demoFull),
		"site": site.lines(demoFull), "compact": late.fit(20), "cut": late.fit(12),
	} {
		path := filepath.Join("testdata", "demo", name+".txt")
		got := strings.Join(lines, "\n") + "\n"
		if *rewriteDemo {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: if this is right, go test ./jobs -run TestDemoTable -rewrite-demo\n%s", path, got)
		}
	}
	all := late.lines(demoFull)
	for height := range len(all) + 2 {
		if n := len(late.fit(height)); height > 0 && n > height {
			t.Errorf("%d lines for a height of %d", n, height)
		}
	}
}

// TestDemoScreen: each table is drawn over the one before, wherever that ended.
func TestDemoScreen(t *testing.T) {
	var out bytes.Buffer
	s := demoScreen{out: &out, terminal: true}
	s.draw([]string{"one", "two", "three"})
	s.draw([]string{"four"})
	s.draw(nil)
	want := "\x1b[?7lone\x1b[K\ntwo\x1b[K\nthree\x1b[K\n\x1b[J\x1b[?7h" +
		"\x1b[?7l\x1b[3A\rfour\x1b[K\n\x1b[J\x1b[?7h" +
		"\x1b[?7l\x1b[1A\r\x1b[J\x1b[?7h"
	if out.String() != want {
		t.Errorf("%q", out.String())
	}
}

// runDemoIn runs the command with a temporary folder of its own, which must be empty afterwards.
func runDemoIn(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	code = runDemo(ctx, args, &out, &errs)
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return code, out.String(), errs.String()
}

func TestDemoCommand(t *testing.T) {
	devstack.AtLength(t)
	kept := filepath.Join(t.TempDir(), "kept")
	cases := filepath.Join("..", "core", "oracle", "testdata", "cases")
	of := func(name string, more ...string) []string {
		return append([]string{"--speed", "max", "--records", filepath.Join(cases, name, "records.tsv"), "--config", filepath.Join(cases, name, "config.yaml")}, more...)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string // in either output
	}{
		{"traffic", []string{"--speed", "max", "--span", "35m", "--rate", "3", "--start", "2026-01-01T00:00:00Z"}, 0, "The layers agree: without late beacons all "},
		{"experiments", of("two_experiments"), 0, "\nlayers agree: "},
		{"late", of("late", "--data", kept), 0, "3 late beacons, which the stream leaves to the batch: with them 44 rows of the batch differ"},
		{"data again", of("late", "--data", kept), 1, "the folder is not empty"},
		{"no ingest times", of("no_ingest_time", "--shards", "3"), 0, "layers agree: 12 of 12 rows equal"},
		{"no file", []string{"--records", "none.tsv", "--config", filepath.Join(cases, "late", "config.yaml")}, 1, "none.tsv"},
		{"no record", []string{"--records", os.DevNull, "--config", filepath.Join(cases, "late", "config.yaml")}, 1, "there is no record in it"},
		{"no config", []string{"--records", "x.tsv"}, 2, "--records and --config go together"},
		{"both", of("late", "--rate", "3"), 2, "--rate is of made-up traffic"},
		{"speed", []string{"--speed", "-1"}, 2, "it must be max or a number above 0"},
		{"shards", []string{"--shards", "0"}, 2, "it must be 1 to 64"},
		{"start", []string{"--start", "now"}, 2, "--start"},
		{"no traffic", []string{"--speed", "max", "--span", "1ns"}, 1, "made-up traffic: there is no record in it"},
		{"rate", []string{"--rate", "0"}, 2, "rate 0"},
		{"argument", []string{"x"}, 2, `unexpected argument "x"`},
		{"help", []string{"--help"}, 0, "example:\n  tandem demo\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := runDemoIn(t, context.Background(), c.args...)
			if code != c.code || !strings.Contains(stdout+stderr, c.want) {
				t.Errorf("exit code %d, want %d and %q:\n%s%s", code, c.code, c.want, stdout, stderr)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(kept, "archive", "batch-ontime")); !os.IsNotExist(err) {
		t.Errorf("the batch of the comparison was kept: %v", err)
	}
}

func TestDemoStops(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	code, _, stderr := runDemoIn(t, ctx, "--rate", "20")
	if code != 1 || time.Since(began) > 20*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), stderr)
	}
}

// TestDemoSeesDifferences: a row of the stream that is changed, and one that the batch does not have, are found.
func TestDemoSeesDifferences(t *testing.T) {
	ctx := context.Background()
	folder := filepath.Join("..", "core", "oracle", "testdata", "cases", "two_experiments")
	chain, err := site.LoadChain(filepath.Join(folder, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := readRecords(ctx, filepath.Join(folder, "records.tsv"), t.TempDir(), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	records, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	open := func() *pebblestore.Store {
		st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
	st := open()
	opt := embedded.Defaults()
	p, err := embedded.Open(ctx, opt, chain, embedded.NewMemory(), blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Feed(ctx, records); err != nil {
		t.Fatal(err)
	}
	if err := p.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	d := demo{pipeline: p, chain: chain, onTime: open()}
	d.values = newDemoValues(p, d.onTime, opt.Layer)
	if err := d.without(ctx); err != nil {
		t.Fatal(err)
	}
	if d.values.differ != 0 || d.values.rows == 0 {
		t.Fatalf("%d of %d rows differ", d.values.differ, d.values.rows)
	}

	minute := records[0].Ingest / 60_000
	value, err := row.Append(nil, row.Sums, []row.Cell{{Value: 77}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site.visit", "site.invented"} {
		err := st.PutRows(ctx, []store.Row{{Series: store.Series{Tenant: chain.Tenant, Metric: name, Layer: opt.Layer},
			Minute: minute, Version: 1 << 30, Value: value}})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows := d.values.rows
	d.values = newDemoValues(p, d.onTime, opt.Layer)
	if err := d.without(ctx); err != nil {
		t.Fatal(err)
	}
	if v := d.values; v.differ != 2 || v.byLate != 2 || v.rows != rows+1 || !strings.Contains(strings.Join(v.examples, "\n"), "stream 77, batch 0") {
		t.Errorf("%d of %d rows differ, %d by the batch proper: %q", v.differ, v.rows, v.byLate, v.examples)
	}
}
