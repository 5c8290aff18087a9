package session_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/oracle"
	"tandem/core/session"
	"tandem/core/tenant"
)

// foldAll is the smallest driver of Fold there can be: everything sorted, deduplicated and folded at once.
func foldAll(t *testing.T, chain *tenant.Chain, recs []oracle.Record) *metric.Sums {
	t.Helper()
	type item struct {
		e       session.Event
		payload []byte
	}
	sessions := map[string][]item{}
	var p beacon.Parser
	var b beacon.Beacon
	var r session.Reader
	for _, rec := range recs {
		if p.Parse(rec.Payload, &b) != beacon.None || string(b.Tenant) != chain.Tenant {
			continue
		}
		var e session.Event
		if v := r.Read(chain, &b, rec.Ingest, &e); v.Reason != beacon.None || !v.Used {
			continue
		}
		var run session.Run
		c := run.Append(&e)
		sessions[string(b.Session)] = append(sessions[string(b.Session)], item{*c, rec.Payload})
	}
	sums := &metric.Sums{}
	f := session.Folder{Chain: chain, Sums: sums, Beacons: true, Ends: true, Sign: 1}
	for _, items := range sessions {
		sort.SliceStable(items, func(i, j int) bool {
			if c := session.Compare(&items[i].e, &items[j].e); c != 0 {
				return c < 0
			}
			return bytes.Compare(items[i].payload, items[j].payload) < 0
		})
		var run []session.Event
		minute, n := int64(-1), 0
		for i := range items {
			e := items[i].e
			if len(run) > 0 && session.Compare(&run[len(run)-1], &e) == 0 {
				continue
			}
			if i > 0 && session.Compare(&items[i-1].e, &e) == 0 {
				continue
			}
			if m := e.TS / 60000; m != minute {
				minute, n = m, 0
			}
			if n++; n <= chain.At(e.TS).Config.MaxEventsPerMinute {
				run = append(run, e)
			}
		}
		var st session.State
		st.Reset()
		f.Fold(&st, run)
		st2 := session.State{}
		if err := st2.Decode(chain, session.AppendState(nil, &st)); err != nil {
			t.Fatal(err)
		}
		f.EndVisits(&st2, 1<<60)
	}
	return sums
}

func rowLines(t *testing.T, chain *tenant.Chain, sums *metric.Sums) []string {
	t.Helper()
	var lines []string
	cells := func(g int) int { return len(chain.Groups[g].Names) }
	for _, m := range sums.Minutes() {
		err := m.Rows(true, cells, func(scope, group, cell int, row []metric.Cell) error {
			for _, c := range row {
				s, x := chain.ScopeName(scope)
				name := chain.Tenant + ".visit." + s
				if x != "" {
					name += "." + x + "." + chain.XNames[(scope-1)/2].Variations[c.Variation]
				}
				v := c.Value
				if c.Sketch != nil {
					v = c.Sketch.Estimate()
				}
				lines = append(lines, fmt.Sprintf("%s.%s\t%s\t%d\t%d", name, chain.Groups[group].Names[cell], chain.Tags[c.Tags], m.Minute, v))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("../oracle/testdata/cases/*/config.yaml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, f := range dirs {
		dir := filepath.Dir(f)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := tenant.Load(f, data)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := tenant.Compile([]*tenant.Config{cfg})
			if err != nil {
				t.Fatal(err)
			}
			records, err := os.ReadFile(filepath.Join(dir, "records.tsv"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, "rows.tsv"))
			if err != nil {
				t.Fatal(err)
			}
			got := rowLines(t, chain, foldAll(t, chain, oracle.ParseRecords(records)))
			if g, w := strings.Join(got, "\n")+"\n", string(want); g != w {
				t.Errorf("rows differ:\n%s", diff(w, g))
			}
		})
	}
}

func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintf(&b, "+ %s\n", l)
		}
	}
	return b.String()
}
