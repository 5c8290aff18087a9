package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/schemas/records"
	"tandem/schemas/traffic"
)

func TestGenerateCommand(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	short := []string{"--span", "5m", "--rate", "30"}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"ok", append([]string{"--out", at("a.tsv.zst"), "--config", at("c.yaml")}, short...), 0, "records from 2026-01-01T00:00:00Z to 2026-01-01T00:05:00Z\n"},
		{"again", append([]string{"--out", at("b.tsv.zst")}, short...), 0, "generated "},
		{"another seed", append([]string{"--out", at("c.tsv.zst"), "--seed", "2", "--start", "2026-02-01T00:00:00+01:00"}, short...), 0, "from 2026-01-31T23:00:00Z"},
		{"no folder", append([]string{"--out", at("none/a.tsv")}, short...), 1, "none"},
		{"no folder for the config", append([]string{"--out", at("d.tsv"), "--config", at("none/c.yaml")}, short...), 1, "none"},
		{"rate", []string{"--rate", "0"}, 2, "rate 0: it must be above 0"},
		{"span", []string{"--span", "-1h"}, 2, "span -1h0m0s: it must be above 0"},
		{"start", []string{"--start", "soon"}, 2, "invalid value"},
		{"argument", []string{"file"}, 2, `unexpected argument "file"`},
		{"help", []string{"--help"}, 0, "example:\n  tandem generate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := runGenerate(context.Background(), c.args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(stderr.String(), c.want) || stdout.Len() > 0 {
				t.Errorf("stderr lacks %q:\n%s", c.want, stderr.String())
			}
		})
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if a := read("a.tsv.zst"); !bytes.Equal(a, read("b.tsv.zst")) || bytes.Equal(a, read("c.tsv.zst")) {
		t.Error("the same flags must give the same bytes, and another seed others")
	}
	if !bytes.Equal(read("c.yaml"), traffic.Config()) {
		t.Error("another config")
	}
	if _, err := os.Stat(at("d.tsv")); err == nil {
		t.Error("records were left without their config")
	}
	var stdout, stderr bytes.Buffer
	runGenerate(context.Background(), short, &stdout, &stderr)
	r := records.NewReader(&stdout)
	if rec, err := r.Next(); err != nil || !rec.HasIngest {
		t.Errorf("standard output begins with %+v, %v", rec, err)
	}
}
