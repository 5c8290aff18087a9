package embedded_test

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/mapping"
	"tandem/schemas/records"
	"tandem/schemas/store"
)

// The tests of this file take real traffic through the shipped mappings and configs (scripts/examples/import) and both
// layers, and compare each minute with tables that other software computed from the same files (expected/). Where the
// tables' definitions differ from SPEC's, each difference stands here as a number.
//
// The tables count a bounce in the minute in which its visit starts, SPEC 6 in that in which it ends. A visit of one
// beacon ends exactly visit_gap after it starts, so the table's minute m is minute m + visit_gap here.

// series is one metric: minute to value.
type series map[int64]int64

func (s series) sum() (n int64) {
	for _, v := range s {
		n += v
	}
	return n
}

func (s series) later(minutes int64) series {
	out := series{}
	for m, v := range s {
		out[m+minutes] = v
	}
	return out
}

// plus adds up the minutes of several metrics.
func plus(all ...series) series {
	out := series{}
	for _, s := range all {
		for m, v := range s {
			out[m] += v
		}
	}
	return out
}

// realRoot is the repository's root: the first folder above with a go.mod.
func realRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above")
		}
		dir = up
	}
}

// realFile opens a file of ../shared/data; the test is skipped where it is absent.
func realFile(t testing.TB, name string) *csvOrText {
	t.Helper()
	path := filepath.Join(realRoot(t), "..", "shared", "data", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("../shared/data/%s is missing", name)
	}
	in, err := records.OpenText(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return &csvOrText{in}
}

type csvOrText struct{ r interface{ Read([]byte) (int, error) } }

func (c *csvOrText) Read(p []byte) (int, error) { return c.r.Read(p) }
