package oracle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tandem/core/tenant"
)

// TestCases runs the worked cases of the contract: one config each.
func TestCases(t *testing.T) {
	folders(t, "testdata/cases", 35, func(t *testing.T, dir string) {
		checkCase(t, dir, []string{filepath.Join(dir, "config.yaml")})
	})
}

// TestRevisions runs the worked cases with a chain of revisions r1.yaml, r2.yaml, ... each. Their READMEs say why each
// number is what it is.
func TestRevisions(t *testing.T) {
	folders(t, "testdata/revisions", 7, func(t *testing.T, dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "r*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		checkCase(t, dir, files)
	})
}

func folders(t *testing.T, root string, atLeast int, run func(t *testing.T, dir string)) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if e.IsDir() {
			n++
			t.Run(e.Name(), func(t *testing.T) { run(t, filepath.Join(root, e.Name())) })
		}
	}
	if n < atLeast {
		t.Fatalf("%s holds %d cases, expected at least %d", root, n, atLeast)
	}
}

// checkCase compares both layers with the files of the folder; a stream that has no files of its own equals the batch.
func checkCase(t *testing.T, dir string, configs []string) {
	chain := loadChain(t, configs)
	records := ParseRecords(read(t, filepath.Join(dir, "records.tsv")))
	reversed := slices.Clone(records)
	slices.Reverse(reversed)
	for _, stream := range []bool{false, true} {
		rows, counts := filepath.Join(dir, "rows.tsv"), filepath.Join(dir, "counts.tsv")
		if stream {
			rows, counts = orElse(filepath.Join(dir, "rows.stream.tsv"), rows), orElse(filepath.Join(dir, "counts.stream.tsv"), counts)
		}
		for _, order := range [][]Record{records, reversed} {
			got := Run(chain, order, stream)
			compareLines(t, rows, got.RowLines())
			compareLines(t, counts, got.CountLines())
		}
	}
}

func orElse(file, other string) string {
	if _, err := os.Stat(file); err != nil {
		return other
	}
	return file
}

func loadChain(t *testing.T, names []string) []*tenant.Config {
	t.Helper()
	var files []tenant.File
	for _, name := range names {
		files = append(files, tenant.File{Name: name, Data: read(t, name)})
	}
	chain, err := tenant.LoadChain(files)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// compareLines reports the lines that only the file, or only the result, has.
func compareLines(t *testing.T, file string, got []string) {
	t.Helper()
	var want []string
	if text := string(read(t, file)); text != "" {
		want = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	}
	if slices.Equal(want, got) {
		return
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing %q", file, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: not expected %q", file, line)
		}
	}
	if !t.Failed() {
		t.Errorf("%s: the order of the lines differs", file)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
