package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	archived "tandem/schemas/archive"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/tables"
	"tandem/scripts/devstack"
	"tandem/stream/archive"
)

// standingSums are those of the batch's standing values by what tells a metric apart, as lines, visitors left out.
func standingSums(t *testing.T, st store.Store) []string {
	t.Helper()
	v, err := batch.View(context.Background(), st, "shop")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	want := func(layer string, minute int64) bool {
		stands, covered := v.Layer(minute)
		return covered && layer == stands
	}
	err = embedded.Values(context.Background(), st, "shop", 0, store.MaxMinute+1, want, func(x *embedded.Value) error {
		if x.Metric != "visitors" {
			all[strings.Join([]string{x.Experiment, x.Scope, x.Variation, x.Metric, x.Tags}, "|")] += x.Value
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for k, n := range all {
		lines = append(lines, fmt.Sprint(k, "|", n))
	}
	slices.Sort(lines)
	return lines
}

// readmeSQL is the block of SQL of the README.
func readmeSQL(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(text, -1)
	if len(m) != 1 {
		t.Fatalf("README has %d blocks of SQL", len(m))
	}
	return string(m[0][1])
}

// duckdb runs SQL in a folder, and prints the lines of what it gives after a word for each of its queries.
func duckdb(t *testing.T, python, folder, sql string) []string {
	t.Helper()
	const program = `
import sys, duckdb
db = duckdb.connect()
db.execute("set timezone = 'UTC'")
db.execute("set enable_progress_bar = false") # it prints one where a query takes 2 s
for statement in sys.argv[1].split(";"):
    if not statement.strip():
        continue
    result = db.execute(statement)
    if statement.lstrip().lower().startswith("select"):
        for row in result.fetchall():
            print(*row, sep="|")
`
	cmd := exec.CommandContext(t.Context(), python, "-c", program, sql)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// The views and the query of the README over a site's blobs, in DuckDB: what they see is what the store's readers see, before and
// after windows are run again, with the old generation's files there or collected.
func TestTablesInDuckDB(t *testing.T) {
	python := devstack.Python(t)
	dir, s, begin := layeredSite(t)
	blobs := filepath.Join(dir, "blobs")
	views, query, ok := strings.Cut(readmeSQL(t), "select variation, m.")
	if !ok {
		t.Fatal("the README's SQL does not end in a query by variation")
	}
	check := func(what string, sessions bool) {
		t.Helper()
		st, err := s.OpenStore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := standingSums(t, st)
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		got := duckdb(t, python, blobs, views+`select experiment, scope, variation, metric, tags, sum(value)::bigint from metric_rows where metric <> 'visitors' group by all`)
		slices.Sort(got)
		// Visits begin, and visits' pages are counted at their ends, in the one as in the other.
		both := duckdb(t, python, blobs, views+`select (select sum(visits) from sessions)::bigint, (select sum(value) from metric_rows where scope = 'site' and metric = 'visit')::bigint,
			(select sum(pages) from sessions)::bigint, (select sum(value) from metric_rows where scope = 'site' and metric = 'visit.pages')::bigint,
			(select count(*) from sessions), (select sum(value) from metric_rows where scope = 'site' and metric = 'visit.beta')::bigint`)
		var v, w, p, q, n, m int64
		if _, err := fmt.Sscanf(both[0], "%d|%d|%d|%d|%d|%d", &v, &w, &p, &q, &n, &m); err != nil || sessions && (v != w || p != q || n != m) || v == 0 || p == 0 {
			t.Errorf("%s: visits, pages and sessions of both tables: %s, %v", what, both[0], err)
		}
		if len(want) < 100 || !slices.Equal(got, want) {
			t.Errorf("%s: DuckDB sees %d sums, the store has %d, or others", what, len(got), len(want))
		}
	}
	check("as covered", true)
	maps := duckdb(t, python, blobs, views+`select (select sum(totals['item_page']) from sessions)::bigint, (select sum(value) from metric_rows where scope = 'site' and metric = 'item_page')::bigint,
		(select sum(x.value) from (select unnest(map_entries(totals)) as x from sessions) where x.key = 'order.revenue')::bigint, (select sum(value) from metric_rows where scope = 'site' and metric = 'order.revenue')::bigint,
		count(*), count(*) filter (assigned between first_ts and last_ts), count(qualified), count(*) filter (qualified between assigned and last_ts)
		from (select first_ts, last_ts, unnest(experiments['checkout_button']) from sessions where experiments['checkout_button'] is not null)`)
	var item, items, revenue, revenues, assigned, within, qualified, after int64
	if _, err := fmt.Sscanf(maps[0], "%d|%d|%d|%d|%d|%d|%d|%d", &item, &items, &revenue, &revenues, &assigned, &within, &qualified, &after); err != nil ||
		item == 0 || item != items || revenue == 0 || revenue != revenues || assigned == 0 || assigned != within || qualified == 0 || qualified >= assigned || qualified != after {
		t.Errorf("totals beside metrics, and the times of assignments: %s, %v", maps[0], err)
	}
	beacons := func() (files, view int64) {
		got := duckdb(t, python, blobs, views+`select (select count(*) from read_parquet('events/*/*/*/*.parquet')), (select count(*) from beacons)`)
		if _, err := fmt.Sscanf(got[0], "%d|%d", &files, &view); err != nil {
			t.Fatal(got, err)
		}
		return files, view
	}
	in, before := beacons()
	archiveCommand(t, 0, "compact", "--site", filepath.Join(dir, "site.yaml"))
	if twice, after := beacons(); before == 0 || in != before || after != before || twice <= in {
		t.Errorf("the view of beacons has %d of %d rows in files, compacted %d of %d", before, in, after, twice)
	}

	// A newer generation of a window in both: the greatest stands.
	st, err := s.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j := siteJob(t, s, st)
	covered, err := j.Covered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := begin.UnixMilli() + batch.WindowMS
	g := covered[w].Generation + 1000
	rows := tables.NewRows()
	rows.Start(w, g)
	if err := rows.Add(&tables.Row{Minute: w / 60000, Scope: "site", Metric: "visit"}, []tables.Cell{{Value: 42}}); err != nil {
		t.Fatal(err)
	}
	data, err := rows.Finish()
	if err != nil {
		t.Fatal(err)
	}
	value, err := row.Append(nil, row.Sums, []row.Cell{{Value: 42}})
	if err != nil {
		t.Fatal(err)
	}
	cov, err := (&tables.Coverage{Window: w, Generation: g}).Encode()
	for _, err := range []error{err,
		j.Blobs.Create(tables.RowsName("shop", w, g), data), j.Blobs.Create(tables.CoverageName("shop", w, g), cov),
		st.PutRows(t.Context(), []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visit", Layer: batch.Layer(g)}, Minute: w / 60000, Value: value}}),
		st.PutCoverage(t.Context(), store.Coverage{Tenant: "shop", Window: w / 60000, Generation: g}),
		st.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check("with a newer generation", false) // which has no run

	got := duckdb(t, python, blobs, strings.ReplaceAll(views+"select variation, m."+query, "2026-01-01", begin.Format("2006-01-02")))
	if len(got) != 2 || !strings.HasPrefix(got[0], "control|") || !strings.HasPrefix(got[1], "green|") {
		t.Errorf("the README's query gives\n%s", strings.Join(got, "\n"))
	}
	t.Log(strings.Join(got, "\n"))
}

// siteJob is the batch of the site's one tenant.
func siteJob(t *testing.T, s *site.Site, st store.Store) *batch.Job {
	t.Helper()
	blobs, err := s.OpenBlobs()
	if err != nil {
		t.Fatal(err)
	}
	topic := s.BeaconsTopic("shop", 0)
	known, err := archived.ReadPartitions(blobs, topic)
	if err != nil {
		t.Fatal(err)
	}
	return &batch.Job{Chain: s.Tenants[0].Chain, Topics: []batch.Topic{{Name: topic, ID: known.TopicID, Partitions: known.Count}},
		Blobs: blobs, Store: st, Digest: archive.ParseDigest}
}
