package beacon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSharedCases reads the records of all worked cases: each as the reference does, and of each case as many
// rejects as its counts.tsv says, for the reasons that lie in the payload.
func TestSharedCases(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(root)
		if up == root {
			t.Skip("no go.mod above the test's folder")
		}
		root = up
	}
	files, _ := filepath.Glob(filepath.Join(root, "..", "shared", "cases", "*", "records.tsv"))
	if len(files) == 0 {
		t.Skip("no ../shared/cases/*/records.tsv beside the repository")
	}
	var p Parser
	var b Beacon
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := map[Reason]int{}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
			if head, payload, ok := bytes.Cut(line, []byte("\t")); ok && digits(head, 0) == len(head) {
				line = payload
			}
			agree(t, &p, &b, line)
			got[p.Parse(line, &b)]++
		}
		counts, err := os.ReadFile(filepath.Join(filepath.Dir(file), "counts.tsv"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, r := range []Reason{TooLarge, Malformed, BadID, BadSession, BadVisitor} {
			want := 0
			for line := range strings.Lines(string(counts)) {
				fmt.Sscanf(line, "rejected."+r.String()+"\t%d", &want)
			}
			if got[r] != want {
				t.Errorf("%s: %d records are %v, want %d", file, got[r], r, want)
			}
		}
	}
}
