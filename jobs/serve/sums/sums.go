// Package sums reads what formulas are evaluated from: the sums of their metrics, all from one view, for all formulas at once.
package sums

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
)

// SchemaOf says what formulas of a chain's tenant may name; of histograms it knows no bucket.
func SchemaOf(chain *tenant.Chain) *formula.Schema { return schemaFor(chain, read.CatalogOf(chain)) }

// SchemaAt is what of it one revision of the chain has.
func SchemaAt(chain *tenant.Chain, rev int) *formula.Schema {
	return SchemaOf(&tenant.Chain{Tenant: chain.Tenant, Revs: chain.Revs[rev : rev+1]})
}

func schemaFor(chain *tenant.Chain, c *read.Catalog) *formula.Schema {
	s := &formula.Schema{Names: map[string]bool{}, Points: map[string]bool{}, Decimals: c.Decimals, Histograms: map[string]bool{},
		Buckets: func(string) []int { return nil }}
	for _, n := range c.Names {
		s.Names[n] = true
	}
	for _, h := range c.Histograms {
		s.Histograms[h] = true
	}
	for i := range chain.Revs {
		for _, p := range chain.Revs[i].Config.Points {
			s.Points[p.Name] = true
		}
	}
	return s
}

// SchemaIn says what formulas may name in an experiment, or in the site, as it is now.
func SchemaIn(ctx context.Context, x *read.Resolved, experiment string) (*formula.Schema, error) {
	c := x.Catalog()
	s := schemaFor(x.Chain, c)
	buckets := map[string][]int{}
	for _, h := range c.Histograms {
		for _, scope := range []string{"site", "assigned", "fm"} {
			list, err := x.Buckets(ctx, experiment, scope+"."+h)
			if err != nil {
				return nil, err
			}
			buckets[scope+"."+h] = list
		}
	}
	s.Buckets = func(value string) []int { return buckets[value] }
	return s, nil
}

// Fetched is what was read for some formulas together.
type Fetched struct {
	Answer *read.Answer // of what is not rolling
	Points int
	Keys   []Key

	known  map[string]bool
	values map[formula.Base]map[string][]int64
}

// Key is a variation and the values of the tags that were grouped by.
type Key struct {
	Variation string
	Tags      []string

	text string
}

// Of is the key of another variation and the same tags.
func (k Key) Of(variation string) Key { return Key{variation, k.Tags, keyText(variation, k.Tags)} }

func keyText(variation string, tags []string) string {
	return variation + "\x00" + strings.Join(tags, "\x00")
}

// Add makes sure that there is a key, whether it has a row or not.
func (f *Fetched) Add(variation string, tags []string) string {
	text := keyText(variation, tags)
	if !f.known[text] {
		f.known[text] = true
		f.Keys = append(f.Keys, Key{variation, tags, text})
	}
	return text
}

// Sort brings the keys in order.
func (f *Fetched) Sort() {
	slices.SortFunc(f.Keys, func(a, b Key) int { return strings.Compare(a.text, b.text) })
}

// maxRollings is how many lengths of rolling values may be fetched together: each is a query of its own.
const maxRollings = 24

// Fetch reads all bases, those of each length of rolling together; q.Rolling holds for those that have none of their own. Of q the
// metrics count for nothing.
func Fetch(ctx context.Context, x *read.Resolved, budget *read.Budget, q read.Query, bases []formula.Base) (*Fetched, error) {
	f := &Fetched{known: map[string]bool{}, values: map[formula.Base]map[string][]int64{}}
	by := map[int64][]string{0: nil}
	for _, b := range bases {
		by[b.Rolling] = append(by[b.Rolling], b.Metric)
	}
	if len(by) > maxRollings {
		return nil, &read.LimitError{Name: "rollings", Limit: maxRollings, Way: "ask for fewer lengths of rolling values at once"}
	}
	rollings := slices.Sorted(maps.Keys(by))
	queries := make([]read.Query, len(rollings))
	for i, rolling := range rollings {
		queries[i] = q
		if queries[i].Metrics = by[rolling]; rolling > 0 {
			queries[i].Rolling = rolling
		}
	}
	answers, err := x.Ranges(ctx, budget, queries)
	if err != nil {
		var limit *read.LimitError
		if errors.As(err, &limit) || ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("read: %w", err)
	}
	for i, rolling := range rollings {
		a := answers[i]
		for _, b := range bases {
			if b.Rolling == rolling {
				f.values[b] = map[string][]int64{"": withStates(make([]int64, a.Points()), a.StatesOf(b.Metric))}
			}
		}
		for _, s := range a.Series {
			f.values[formula.Base{Metric: s.Metric, Rolling: rolling}][f.Add(s.Variation, s.Tags)] = withStates(s.Values, s.States)
		}
		if rolling == 0 {
			f.Answer, f.Points = a, a.Points()
		}
	}
	return f, nil
}

const unknown = math.MinInt64

// withStates marks what is not known.
func withStates(values []int64, states []read.State) []int64 {
	for i, s := range states {
		if s == read.Unknown {
			values[i] = unknown
		}
	}
	return values
}

// Columns are the values of a key.
func (f *Fetched) Columns(k Key) formula.Columns {
	return formula.Columns{Points: f.Points, Of: func(b formula.Base) []float64 {
		values, ok := f.values[b][k.text]
		if !ok {
			values = f.values[b][""]
		}
		out := make([]float64, len(values))
		for i, v := range values {
			out[i] = float64(v)
			if v == unknown {
				out[i] = math.NaN()
			}
		}
		return out
	}}
}
