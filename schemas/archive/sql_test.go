package archive

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/parquet/file"

	"tandem/schemas/blob"
	"tandem/scripts/devstack"
)

// The sums that both programs print, a line for each tenant and hour of the folders: what SQL readers see must be what
// this package reads. Strings are compared by their lengths and extremes, which only a UTF-8 column has.
const sqlSums = `
import sys, duckdb, pyarrow.dataset as ds, pyarrow.compute as pc
duckdb.sql("set enable_progress_bar = false") # it prints one where a query takes 2 s
folder = sys.argv[1]
for row in duckdb.sql(f"""
    select tenant, dt::varchar, hh::varchar, count(*), count(distinct session), sum(session_hash::hugeint)::varchar,
           sum(epoch_ms(ts)), sum(ingest_ms), sum("offset"), sum(octet_length(payload)), sum(octet_length(event)),
           sum(strlen(id)), min(point), max(point), max(visitor), sum(digest::hugeint)::varchar
    from read_parquet('{folder}/events/**/*.parquet', hive_partitioning = true)
    group by all order by all""").fetchall():
    print("duckdb", *row, sep="|")
table = ds.dataset(folder + "/events", format="parquet", partitioning="hive").to_table()
print("pyarrow", table.num_rows, pc.sum(pc.cast(table["ts"], "int64")), pc.sum(table["ingest_ms"]), pc.sum(table["offset"]),
      pc.sum(pc.binary_length(table["payload"])), pc.min(table["point"]), len(pc.unique(table["session"])), sep="|")
`

func TestOtherProgramsReadTheSame(t *testing.T) {
	python := devstack.Python(t)
	folder := t.TempDir()
	b, err := blob.OpenDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := archived(t, b, rand.New(rand.NewPCG(4, 4)), 20)
	check := func(what string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), python, "-c", sqlSums, folder).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		if want := goSums(t, b); string(out) != want {
			t.Errorf("%s: they read\n%swant\n%s", what, out, want)
		}
	}
	check("as archived")
	mustCompact(t, b, chain, 0)
	mustCompact(t, b, chain, CompactionGrace)
	// Several row groups, pages and dictionaries.
	data, _ := mustWrite(t, sorted(benchRows(80_000)))
	if err := b.Create("events/tenant=uswm/dt=2025-10-10/hh=00/beacons-1-0.parquet", data); err != nil {
		t.Fatal(err)
	}
	check("compacted, and a large file")
}

// goSums reads the same folders with this package, file by file.
func goSums(t *testing.T, b blob.Store) string {
	t.Helper()
	type sums struct {
		rows, ts, ingest, offset, payload, event, id int64
		hash, digest                                 *big.Int
		sessions                                     map[string]bool
		minPoint, maxPoint, maxVisitor               string
	}
	newSums := func() *sums { return &sums{hash: new(big.Int), digest: new(big.Int), sessions: map[string]bool{}} }
	add := func(s *sums, r *Row) {
		if p := string(r.Point); s.rows == 0 || p < s.minPoint {
			s.minPoint = p
		}
		s.rows++
		s.ts, s.ingest, s.offset = s.ts+r.TS, s.ingest+r.Ingest, s.offset+r.Offset
		s.payload, s.event, s.id = s.payload+int64(len(r.Payload)), s.event+int64(len(r.Event)), s.id+int64(len(r.ID))
		s.hash.Add(s.hash, big.NewInt(flip(r.Hash)))
		s.digest.Add(s.digest, big.NewInt(int64(r.Digest)))
		s.sessions[string(r.Session)] = true
		s.maxPoint, s.maxVisitor = max(s.maxPoint, string(r.Point)), max(s.maxVisitor, string(r.Visitor))
	}
	all, by := newSums(), map[string]*sums{}
	names, err := b.List("events/")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := b.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		pr, err := file.NewParquetReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		info := describe(make([]Row, 1), data, footerOf(data)) // its size and digests
		info.Name, info.Rows = name, pr.NumRows()
		parts := strings.Split(name, "/")
		key := strings.Join([]string{strings.TrimPrefix(parts[1], "tenant="), strings.TrimPrefix(parts[2], "dt="), strings.TrimPrefix(parts[3], "hh=")}, "|")
		if by[key] == nil {
			by[key] = newSums()
		}
		for _, r := range readAll(t, mustOpen(t, data, info), 0, math.MaxUint64, everything) {
			add(all, &r)
			add(by[key], &r)
		}
	}
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(by)) {
		s := by[key]
		fmt.Fprintf(&out, "duckdb|%s|%d|%d|%d|%d|%d|%d|%d|%d|%d|%s|%s|%s|%d\n", key, s.rows, len(s.sessions), s.hash, s.ts, s.ingest, s.offset,
			s.payload, s.event, s.id, s.minPoint, s.maxPoint, s.maxVisitor, s.digest)
	}
	fmt.Fprintf(&out, "pyarrow|%d|%d|%d|%d|%d|%s|%d\n", all.rows, all.ts, all.ingest, all.offset, all.payload, all.minPoint, len(all.sessions))
	return out.String()
}
