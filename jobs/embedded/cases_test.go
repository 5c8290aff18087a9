package embedded_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

func openStore(t testing.TB) store.Store {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// outcome is everything that a pipeline comes to.
type outcome struct {
	rows, counts map[string][]string // by layer
}

func run(t testing.TB, log embedded.Log, opt embedded.Options, chain *tenant.Chain, records []oracle.Record) outcome {
	t.Helper()
	ctx := context.Background()
	st := openStore(t)
	p, err := embedded.Open(ctx, opt, chain, log, blob.NewMem(), st)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Feed(ctx, raws(records)); err != nil {
		t.Fatal(err)
	}
	if err := p.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	return results(t, p)
}

func results(t testing.TB, p *embedded.Pipeline) outcome {
	t.Helper()
	ctx := context.Background()
	o := outcome{map[string][]string{}, map[string][]string{}}
	for _, layer := range []string{"stream", "batch", "both"} {
		var err error
		if o.rows[layer], err = embedded.Lines(ctx, p.Store, p.Chain.Tenant, layer, 0, store.MaxMinute); err != nil {
			t.Fatal(err)
		}
	}
	o.counts["stream"] = embedded.CountLines(p.StreamCounts())
	counts, err := p.BatchCounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o.counts["batch"] = embedded.CountLines(counts)
	return o
}

func raws(records []oracle.Record) []embedded.Raw {
	var out []embedded.Raw
	for _, r := range records {
		out = append(out, embedded.Raw{Ingest: r.Ingest, Payload: r.Payload})
	}
	slices.SortStableFunc(out, func(a, b embedded.Raw) int {
		if a.Ingest != b.Ingest {
			return int(min(max(a.Ingest-b.Ingest, -1), 1))
		}
		return bytes.Compare(a.Payload, b.Payload)
	})
	return out
}

func loadChain(t testing.TB, file string) *tenant.Chain {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := tenant.Load(file, data)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// readLines reads a case's file, or the one beside it that it stands for when it is not there.
func readLines(t testing.TB, dir, name, fallback string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		data, err = os.ReadFile(filepath.Join(dir, fallback))
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func TestCases(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("../../core/oracle/testdata/cases/*/config.yaml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		chain := loadChain(t, file)
		data, err := os.ReadFile(filepath.Join(dir, "records.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		records := oracle.ParseRecords(data)
		for _, shards := range []int32{1, 7} {
			for _, tick := range []int64{1000, 60_000, 300_000} {
				t.Run(fmt.Sprintf("%s/shards=%d/tick=%d", filepath.Base(dir), shards, tick), func(t *testing.T) {
					opt := embedded.Defaults()
					opt.Shards, opt.TickMS = shards, tick
					o := run(t, embedded.NewMemory(), opt, chain, records)
					compare(t, "stream rows", readLines(t, dir, "rows.stream.tsv", "rows.tsv"), o.rows["stream"])
					compare(t, "batch rows", readLines(t, dir, "rows.tsv", "rows.tsv"), o.rows["batch"])
					compare(t, "merged rows", readLines(t, dir, "rows.tsv", "rows.tsv"), o.rows["both"])
					compare(t, "stream counts", readLines(t, dir, "counts.stream.tsv", "counts.tsv"), o.counts["stream"])
					compare(t, "batch counts", readLines(t, dir, "counts.tsv", "counts.tsv"), o.counts["batch"])
				})
			}
		}
	}
}

// compare reports the lines that one of two lists has and the other has not.
func compare(t testing.TB, what string, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	var b strings.Builder
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintf(&b, "+ %s\n", l)
		}
	}
	t.Errorf("%s differ (- wanted, + there):\n%s", what, b.String())
}
