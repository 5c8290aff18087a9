package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const testMapping = `format: csv
fields: {id: hash(line), tenant: '"t"', session: s, ts: 'time(at, "unix")'}
`

// importFiles writes the given files into a new folder and returns it.
func importFiles(t *testing.T, named map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range named {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImportCommand(t *testing.T) {
	dir := importFiles(t, map[string]string{
		"m.yaml":      testMapping,
		"wrong.yaml":  "format: csv\nfeilds: {}\n",
		"column.yaml": testMapping + "values: {v: price}\n",
		"in.csv":      "s,at\na,1\nb\nc,3\n",
		"bad.csv":     "s,at\n" + strings.Repeat("x\n", 12),
		"empty.csv":   "s,at\n",
		"no.csv":      "",
		"broken.gz":   "no gzip",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stderr []string
	}{
		{"ok", []string{"--mapping", at("m.yaml"), "--out", at("out.tsv"), at("in.csv")}, 0,
			[]string{at("in.csv") + ":3: 1 columns, the header has 2\n", "imported 2 records, 1 rows refused\n"}},
		{"strict", []string{"--strict", "--mapping", at("m.yaml"), at("in.csv")}, 1, []string{"imported 2 records, 1 rows refused\n"}},
		{"rejects", []string{"--rejects", at("rejects"), "--mapping", at("m.yaml"), at("in.csv")}, 0, []string{"imported 2 records, 1 rows refused\n"}},
		{"all bad", []string{"--mapping", at("m.yaml"), "--out", at("out.tsv"), at("bad.csv")}, 1, []string{"bad.csv:11: 1 columns", "and 2 more", "not one row"}},
		{"no rows", []string{"--mapping", at("m.yaml"), at("empty.csv")}, 1, []string{"not one row"}},
		{"no header", []string{"--mapping", at("m.yaml"), at("no.csv")}, 1, []string{"no.csv: the file is empty"}},
		{"no input", []string{"--mapping", at("m.yaml"), at("none.csv")}, 1, []string{"none.csv"}},
		{"broken input", []string{"--mapping", at("m.yaml"), at("broken.gz")}, 1, []string{"broken.gz: not a gzip file"}},
		{"bad mapping", []string{"--mapping", at("wrong.yaml"), at("in.csv")}, 1, []string{"wrong.yaml:2: unknown key \"feilds\""}},
		{"bad column", []string{"--mapping", at("column.yaml"), at("in.csv")}, 1, []string{"column.yaml:3: values.v: unknown name price", "the columns are s, at"}},
		{"bad folder", []string{"--mapping", at("m.yaml"), "--out", at("none/out.tsv"), at("in.csv")}, 1, []string{"none"}},
		{"no mapping", []string{at("in.csv")}, 2, []string{"--mapping"}},
		{"rejects into the input", []string{"--mapping", at("m.yaml"), "--rejects", at("in.csv"), at("in.csv")}, 2, []string{"in.csv is another of its files too"}},
		{"two inputs", []string{"--mapping", at("m.yaml"), "a", "b"}, 2, []string{"one INPUT"}},
		{"unknown flag", []string{"--maping", "x"}, 2, []string{"flag provided but not defined"}},
		{"help", []string{"--help"}, 0, []string{"example:\n  tandem import"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := runImport(context.Background(), c.args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr.String())
				}
			}
		})
	}
	got, err := os.ReadFile(at("out.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(got), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "3000\t{\"id\":") {
		t.Errorf("records:\n%s", got)
	}
	if got, _ := os.ReadFile(at("rejects")); string(got) != at("in.csv")+":3: 1 columns, the header has 2\n" {
		t.Errorf("rejects: %q", got)
	}
}

func TestImportStops(t *testing.T) {
	dir := importFiles(t, map[string]string{"m.yaml": testMapping, "in.csv": "s,at\na,1\n"})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	out := filepath.Join(dir, "out.tsv")
	if code := runImport(ctx, []string{"--mapping", filepath.Join(dir, "m.yaml"), "--out", out, filepath.Join(dir, "in.csv")}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "*out*")); len(list) != 0 {
		t.Errorf("left behind %v", list)
	}
}
