package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tandem/jobs/site"
	"tandem/schemas/records"
	"tandem/scripts/devstack"
)

func TestMain(m *testing.M) {
	devstack.LetGrow()
	testscript.Main(m, map[string]func(){"tandem": main})
}

// TestScripts runs the binary as a user does. `code N COMMAND...` wants an exit code; `compress FROM TO` makes a file of
// TO's ending; `[length]` is so where tests of seconds are asked for (each start of the binary costs some 50 ms).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cli",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, ".tmp"))
			return os.MkdirAll(filepath.Join(env.WorkDir, ".tmp"), 0o755)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "length" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			return devstack.Long(), nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"code": exitCode, "compress": compress},
	})
}

func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = strings.TrimPrefix(exit.ProcessState.String(), "exit status ")
	} else if err != nil {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if got != args[0] {
		ts.Fatalf("%v: exit code %s, want %s", args[1:], got, args[0])
	}
}

func compress(ts *testscript.TestScript, neg bool, args []string) {
	w, err := records.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	r := records.NewReader(strings.NewReader(ts.ReadFile(args[0])))
	for rec, err := r.Next(); err == nil; rec, err = r.Next() {
		ts.Check(w.Write(rec))
	}
	ts.Check(w.Close())
}

// TestReplayCases takes worked cases over the Kafka protocol.
func TestReplayCases(t *testing.T) {
	for _, name := range []string{"rejects", "visitors"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("../core/oracle/testdata/cases", name)
			want := func(name, other string) []byte {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if errors.Is(err, os.ErrNotExist) {
					data, err = os.ReadFile(filepath.Join(dir, other))
				}
				if err != nil {
					t.Fatal(err)
				}
				return data
			}
			for layer, files := range map[string][2]string{"both": {"rows.tsv", "counts.tsv"}, "stream": {"rows.stream.tsv", "counts.stream.tsv"}} {
				rows, counts := replay(t, "--layer", layer, "--config", filepath.Join(dir, "config.yaml"), filepath.Join(dir, "records.tsv"))
				if !bytes.Equal(rows, want(files[0], "rows.tsv")) {
					t.Errorf("%s rows:\n%s", layer, rows)
				}
				if !bytes.Equal(counts, want(files[1], "counts.tsv")) {
					t.Errorf("%s counts:\n%s", layer, counts)
				}
			}
		})
	}
}

// TestReplayRevisions takes a chain of revisions, from a folder that holds other files too.
func TestReplayRevisions(t *testing.T) {
	dir := "../core/oracle/testdata/revisions/tags_changed"
	rows, _ := replay(t, "--config", dir, filepath.Join(dir, "records.tsv"))
	if want, err := os.ReadFile(filepath.Join(dir, "rows.tsv")); err != nil || !bytes.Equal(rows, want) {
		t.Errorf("rows differ (%v):\n%s", err, rows)
	}
}

// TestReplayFarTimes: whatever time a line tells, both layers come to the same, and every record is counted.
func TestReplayFarTimes(t *testing.T) {
	dir := t.TempDir()
	beacon := func(id, ts string) string {
		return fmt.Sprintf(`{"id":%q,"tenant":"shop","session":%q,"ts":%s,"point":"home"}`+"\n", id, id, ts)
	}
	files := map[string]string{
		"config.yaml": "tenant: shop\npoints: {home: }\n",
		"records.tsv": beacon("last", `"2200-01-01T00:05:00Z"`) + beacon("after", `"2200-01-01T00:05:00.001Z"`) +
			beacon("ns end", "9223372036854") + beacon("calendar ends", "253402300799999") +
			"99999999999999999999\t" + beacon("head", "1767607200000"),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rows, counts := replay(t, "--config", filepath.Join(dir, "config.yaml"), filepath.Join(dir, "records.tsv"))
	if !strings.Contains(string(rows), "shop.visit.site.visit.end\t\t120968675\t1\n") || strings.Count(string(rows), "home\t") != 1 {
		t.Errorf("rows:\n%s", rows)
	}
	if want := "rejected.bad_ts\t3\nrejected.too_old\t1\n"; string(counts) != want {
		t.Errorf("counts %q, want %q", counts, want)
	}
}

func replay(t *testing.T, args ...string) (rows, counts []byte) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	out := t.TempDir()
	at := []string{filepath.Join(out, "rows"), filepath.Join(out, "counts")}
	var stdout, stderr bytes.Buffer
	if code := runReplay(context.Background(), append([]string{"--export", at[0], "--counts", at[1]}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind in the temporary folder: %v, %v", left, err)
	}
	var data [2][]byte
	for i := range at {
		if data[i], err = os.ReadFile(at[i]); err != nil {
			t.Fatal(err)
		}
	}
	return data[0], data[1]
}

func TestDifference(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""}, {"a b", "a b", ""}, {"a", "", "- a"}, {"", "a", "+ a"}, {"a c d", "b c e", "- a,+ b,- d,+ e"},
	} {
		if got := difference(strings.Fields(c.a), strings.Fields(c.b)); strings.Join(got, ",") != c.want {
			t.Errorf("%q against %q: %v, want %s", c.a, c.b, got, c.want)
		}
	}
}

// TestSortedRecords: parts end between milliseconds, and records of one are in order of their bytes.
func TestSortedRecords(t *testing.T) {
	var in bytes.Buffer
	for i := range feedRecords + 10 {
		in.WriteString("7\tb\n7\ta\n"[4*(i%2):][:4])
	}
	in.WriteString("5\tz\n8\tc\n{}\n")
	var last string
	sizes := sortedParts(t, in.Bytes(), func(ingest int64, payload []byte) {
		this := string(rune('0'+ingest)) + string(payload)
		if this < last {
			t.Fatalf("%s comes after %s", this, last)
		}
		last = this
	})
	if want := []int{feedRecords + 12, 1}; !slices.Equal(sizes, want) {
		t.Errorf("parts of %v records, want %v", sizes, want)
	}
}

// TestSortedRecordsWithoutTime: a file that is none of records is not held in memory as one millisecond.
func TestSortedRecordsWithoutTime(t *testing.T) {
	sizes := sortedParts(t, bytes.Repeat([]byte("a,b\n"), feedRecords+10), func(int64, []byte) {})
	if want := []int{feedRecords, 10}; !slices.Equal(sizes, want) {
		t.Errorf("parts of %v records, want %v", sizes, want)
	}
}

// sortedParts gives fn the records of a file in their order, and returns the sizes of the parts that they come in.
func sortedParts(t *testing.T, file []byte, fn func(ingest int64, payload []byte)) (sizes []int) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "r.tsv")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readRecords(context.Background(), path, dir, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for {
		raws, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if len(raws) == 0 {
			return sizes
		}
		sizes = append(sizes, len(raws))
		for _, r := range raws {
			fn(r.Ingest, r.Payload)
		}
	}
}

// TestSummaryTellsDifferences: what a stream that is wrong would look like.
func TestSummaryTellsDifferences(t *testing.T) {
	chain, err := site.LoadChain("../core/oracle/testdata/cases/late/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	res := &results{rows: map[string][]string{"both": {"shop.visit.site.visit.beta\t\t1\t3"}}, counts: []string{"rejected.malformed\t2"}, late: 1}
	for i := range shownDifferences + 5 {
		res.differences = append(res.differences, "- line "+string(rune('a'+i)))
	}
	j := replayJob{layer: "both", stderr: &stderr}
	j.summary(chain, 9, res, 1e9)
	for _, want := range []string{"replayed 9 records in 1.0 s, 9/s: 3 sessions", ", 2 rejected\n", "not late, 25 lines", "- line t\nand 5 more\n"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, stderr.String())
		}
	}
}
