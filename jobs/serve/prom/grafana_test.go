package prom

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"tandem/core/tenant"
	"tandem/jobs/serve/read"
	"tandem/schemas/store/pebblestore"
)

const dashboards = "../../../scripts/examples/monitoring/"

// TestDashboards: every expression of the example dashboards parses, those of experiments choose something of the example
// tenant, and each metric of operations is one that the alert rules or the services' definitions name.
func TestDashboards(t *testing.T) {
	data, err := os.ReadFile("../../../scripts/examples/site/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := tenant.Load("shop.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tenant.Compile([]*tenant.Config{cfg})
	if err != nil {
		t.Fatal(err)
	}
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	x, err := read.New(st, read.Options{Limits: read.DefaultLimits(), Now: time.Now}).Resolve(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	q := newQuerier(x, nil, DefaultLimits())
	defined, err := os.ReadFile("../../health_metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dashboards + "grafana/*.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	fill := strings.NewReplacer("$__interval", "5m", "$__rate_interval", "5m", "$experiment", "checkout_button", "$device", ".*")
	n := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID, Title string
			Panels     []struct {
				Title    string
				Interval string
				Targets  []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(data, &board); err != nil || board.UID == "" || board.Title == "" {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range board.Panels {
			for _, target := range p.Targets {
				n++
				e, err := parser.NewParser(parser.Options{}).ParseExpr(fill.Replace(target.Expr))
				if err != nil {
					t.Errorf("%s, %s: %v", file, p.Title, err)
					continue
				}
				parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
					s, ok := node.(*parser.VectorSelector)
					if !ok {
						return nil
					}
					if strings.HasPrefix(s.Name, "tandem_") {
						if !strings.Contains(string(defined), `"`+strings.TrimSuffix(s.Name, "_bucket")+`"`) {
							t.Errorf("%s, %s: no service has %s", file, p.Title, s.Name)
						}
						return nil
					}
					chosen, err := q.choose(t.Context(), s.LabelMatchers)
					if err != nil || len(chosen.families) != 1 {
						t.Errorf("%s, %s: %s chooses %d metrics, %v", file, p.Title, s, len(chosen.families), err)
						return nil
					}
					for _, m := range chosen.rest {
						if !slices.ContainsFunc(q.tags, func(g tag) bool { return g.label == m.Name }) && m.Name != labels.MetricName {
							t.Errorf("%s, %s: no label %s", file, p.Title, m.Name)
						}
					}
					return nil
				})
				if p.Interval != "1m" {
					t.Errorf("%s, %s: a panel's least interval must be a minute, what a sample is of", file, p.Title)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d expressions", n)
	}
}
