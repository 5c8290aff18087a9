package session_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/core/oracle"
	"tandem/core/tenant"
)

// TestCases runs the worked cases of the contract, of one revision and of several.
func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("../oracle/testdata/*/*/records.tsv")
	if err != nil || len(dirs) < 40 {
		t.Fatalf("%d cases: %v", len(dirs), err)
	}
	for _, f := range dirs {
		dir := filepath.Dir(f)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			configs, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var files []tenant.File
			for _, name := range configs {
				files = append(files, tenant.File{Name: name, Data: read(t, name)})
			}
			revisions, err := tenant.LoadChain(files)
			if err != nil {
				t.Fatal(err)
			}
			d := readAll(compile(t, revisions), oracle.ParseRecords(read(t, f)), false)
			sums := d.folder()
			d.fold(sums)
			if diff := differences(lines(t, dir, "rows.tsv"), rows(d.chain, sums.Sums)); diff != "" {
				t.Errorf("rows differ:\n%s", diff)
			}
			if diff := differences(lines(t, dir, "counts.tsv"), d.countLines(sums)); diff != "" {
				t.Errorf("counts differ:\n%s", diff)
			}
		})
	}
}

func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	text := strings.TrimSuffix(string(read(t, filepath.Join(dir, name))), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
