package campaign

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/core/beacon"
	"tandem/schemas/records"
)

// traffic is a records file in order of ingest time, every line with one, and the config of its tenant.
type traffic struct {
	tenant  string
	config  string // YAML; its retention keeps all of the records' minutes
	path    string // of the records file
	records int
	first   int64 // ingest time of the first and the last record, ms
	last    int64
}

// made holds what was made in this run already, by name.
var made struct {
	sync.Mutex
	traffic map[string]*traffic
}

func once(t testing.TB, name string, mk func(path string) *traffic) *traffic {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if x := made.traffic[name]; x != nil {
		return x
	}
	x := mk(filepath.Join(needWork(t), name+".tsv"))
	if made.traffic == nil {
		made.traffic = map[string]*traffic{}
	}
	made.traffic[name] = x
	return x
}

// shared is a file or folder beside the repository; the test is skipped where it is absent.
func shared(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(repository(t), "..", "shared", filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("../shared/%s is missing", name)
	}
	return path
}

// examples are the data sets of ../shared/data, by the folder of their mapping.
var examples = map[string]string{
	"rees46": "rees46_2019oct_slice.csv.zst", "wikipedia": "wikipedia_session_dataset.csv.zst",
	"zozo": "zozo_open_bandit_ab_40k.csv.zst", "apache": "apache_10k.log.zst",
}

// real is a data set through `tandem import` with its example's mapping.
func real(t testing.TB, example string) *traffic {
	t.Helper()
	input := shared(t, "data/"+examples[example])
	return once(t, example, func(path string) *traffic {
		folder := filepath.Join(repository(t), "scripts", "examples", "import", example)
		run(t, tandem(t), "import", "--mapping", filepath.Join(folder, "mapping.yaml"), "--out", path, input)
		return finished(t, example, filepath.Join(folder, "config.yaml"), path)
	})
}

// bench is the traffic of the benchmarks: n records, sessions over the span.
func bench(t testing.TB, n int, span time.Duration) *traffic {
	t.Helper()
	folder := shared(t, "bench")
	return once(t, fmt.Sprintf("bench-%d-%s", n, span), func(path string) *traffic {
		start := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
		run(t, benchBinary.of(t, "bench", folder, "."), "-records", "-n", fmt.Sprint(n), "-span", span.String(),
			"-start", start.Format(time.RFC3339), "-out", path)
		return finished(t, "uswm", filepath.Join(folder, "config.yaml"), path)
	})
}

// few is the traffic with the first four of its experiments only, which have all that the others have: a fifth of the rows.
func few(x *traffic) *traffic {
	y := *x
	y.config = ""
	for line := range strings.Lines(x.config) {
		if !strings.HasPrefix(line, "  exp_") || line < "  exp_04" {
			y.config += line
		}
	}
	return &y
}

// run runs a command to its end; a failure ends the test.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// finished sorts the records of a file by ingest time and finds out about them. Minutes of the records are kept for
// another 40 days, and no longer: Cassandra refuses expiries after its own end of time.
func finished(t testing.TB, tenant, config, path string) *traffic {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	x := &traffic{tenant: tenant, path: path}
	all := x.read(t)
	slices.SortStableFunc(all, func(a, b records.Record) int { return cmp.Compare(a.Ingest, b.Ingest) })
	write(t, path, all)
	x.records, x.first, x.last = len(all), all[0].Ingest, all[len(all)-1].Ingest
	days := int(time.Since(time.UnixMilli(x.first)).Hours())/24 + 40
	x.config = fmt.Sprintf("%s\nretention: %dd\n", text, days)
	return x
}

// read reads all records. One without an ingest time was ingested at its ts (SPEC 11).
func (x *traffic) read(t testing.TB) []records.Record {
	t.Helper()
	in, err := records.OpenText(x.path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var parser beacon.Parser
	var parsed beacon.Beacon
	var all []records.Record
	for r := records.NewReader(in); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		rec.Payload = bytes.Clone(rec.Payload)
		if parser.Parse(rec.Payload, &parsed); !rec.HasIngest && parsed.HasTS {
			rec.Ingest = parsed.TS
		}
		rec.HasIngest = true
		all = append(all, rec)
	}
}

// cut is the part of the records whose ingest time is wanted.
func (x *traffic) cut(t testing.TB, name string, want func(ingest int64) bool) *traffic {
	t.Helper()
	y := *x
	y.path = strings.TrimSuffix(x.path, ".tsv") + "-" + name + ".tsv"
	all := slices.DeleteFunc(x.read(t), func(r records.Record) bool { return !want(r.Ingest) })
	write(t, y.path, all)
	y.records, y.first, y.last = len(all), all[0].Ingest, all[len(all)-1].Ingest
	return &y
}

func write(t testing.TB, path string, all []records.Record) {
	t.Helper()
	var b bytes.Buffer
	for _, r := range all {
		fmt.Fprintf(&b, "%d\t%s\n", r.Ingest, r.Payload)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
