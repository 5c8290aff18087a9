package read

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/core/tenant"
)

// Catalog is what there is to ask for: what the tenant's configs list, whenever they did.
type Catalog struct {
	Tenant      string
	Experiments []Experiment // by name
	// Names are those of metrics without scope, as "order.revenue", buckets of histograms aside. Each exists as
	// "site.NAME", and of each experiment as "assigned.NAME" and "fm.NAME".
	Names []string
	Tags  []tenant.Tag // by name, with the values of all revisions; `none` and `other` go without saying
	// Decimals of each metric whose values are scaled, by name: a value divided by 10^decimals is what beacons carried.
	Decimals map[string]int
	// Histograms are the values that have one, as "perf.load", and their buckets are of the scaled value.
	Histograms []string
	From, To   int64 // minutes of which the view has anything
}

// Experiment is an experiment as the newest config says that lists it.
type Experiment struct {
	tenant.Experiment
	// All are all variations that it ever listed, by the order in which they came.
	All []string
	// Listed says whether the newest config still lists the experiment.
	Listed bool
}

// Catalog lists what there is.
func (x *Resolved) Catalog() *Catalog {
	c := CatalogOf(x.Chain)
	c.From, c.To = x.Span()
	return c
}

// CatalogOf lists what the configs of a chain do; nothing is known of the time.
func CatalogOf(chain *tenant.Chain) *Catalog {
	c := &Catalog{Tenant: chain.Tenant, Decimals: map[string]int{}}
	names, experiments, tags := map[string]bool{}, map[string]*Experiment{}, map[string]tenant.Tag{}
	for _, n := range []string{"visit", "visit.beta", "visit.end", "bounce", "visit.pages", "visit.seconds", "visitors"} {
		names[n] = true
	}
	for i := range chain.Revs {
		cfg := chain.Revs[i].Config
		for _, e := range cfg.Experiments {
			experiments[e.Name] = &Experiment{Experiment: e, Listed: i == len(chain.Revs)-1}
		}
		for _, t := range cfg.Tags {
			t.Values = slices.Clone(t.Values)
			for _, v := range tags[t.Name].Values { // rows may have what is no longer listed
				if !slices.Contains(t.Values, v) {
					t.Values = append(t.Values, v)
				}
			}
			tags[t.Name] = t
		}
		c.points(cfg, names)
	}
	for i := range chain.XNames {
		if e := experiments[chain.XNames[i].Name]; e != nil {
			e.All = chain.XNames[i].Variations
		}
	}
	for _, e := range experiments {
		c.Experiments = append(c.Experiments, *e)
	}
	slices.SortFunc(c.Experiments, func(a, b Experiment) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range tags {
		c.Tags = append(c.Tags, t)
	}
	slices.SortFunc(c.Tags, func(a, b tenant.Tag) int { return strings.Compare(a.Name, b.Name) })
	for n := range names {
		c.Names = append(c.Names, n)
	}
	slices.Sort(c.Names)
	slices.Sort(c.Histograms)
	c.Histograms = slices.Compact(c.Histograms)
	return c
}

func (c *Catalog) points(cfg *tenant.Config, names map[string]bool) {
	decimals := map[string]int{} // of the sides of pairs
	for _, p := range cfg.Points {
		names[p.Name], names[p.Name+".beta"] = true, true
		if p.Stats {
			names[p.Name+".tot"], names[p.Name+".hit"], names[p.Name+".sq"] = true, true, true
		}
		for _, v := range p.Values {
			full := p.Name + "." + v.Name
			decimals[full] = v.Decimals
			names[full], c.Decimals[full] = true, v.Decimals
			if v.Cap > 0 {
				names[full+".cap"], c.Decimals[full+".cap"] = true, v.Decimals
				names[full+".cap.sq"], c.Decimals[full+".cap.sq"] = true, 2*v.Decimals
			}
			if v.Histogram {
				c.Histograms = append(c.Histograms, full)
			}
		}
	}
	for _, p := range cfg.Cross {
		full := p.A + "*" + p.B
		names[full], c.Decimals[full] = true, decimals[p.A]+decimals[p.B]
	}
}

// bucketsHold is how long it is held which buckets a histogram has; beyond maxHistograms of them all are asked for anew.
const (
	bucketsHold   = time.Minute
	maxHistograms = 10_000
)

type histogram struct{ tenant, experiment, value string }

type buckets struct {
	at   time.Time
	list []int
}

// Buckets returns which buckets of a value's histogram have any row, ascending: value is "fm.perf.load", a bucket's
// metric "fm.perf.load.h<i>" (SPEC 6). A bucket that is new may be missing for a minute.
func (x *Resolved) Buckets(ctx context.Context, experiment, value string) ([]int, error) {
	r, k := x.r, histogram{x.Chain.Tenant, experiment, value}
	r.histograms.Lock()
	b, ok := r.histograms.of[k]
	r.histograms.Unlock()
	if ok && time.Since(b.at) < bucketsHold {
		return b.list, nil
	}
	b = buckets{at: time.Now()}
	prefix := value + ".h"
	err := r.store.Metrics(ctx, k.tenant, experiment, prefix, func(metric string) error {
		if n, err := strconv.Atoi(metric[len(prefix):]); err == nil {
			b.list = append(b.list, n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("catalog of %s: %w", k.tenant, err)
	}
	slices.Sort(b.list)
	r.histograms.Lock()
	defer r.histograms.Unlock()
	if len(r.histograms.of) >= maxHistograms {
		clear(r.histograms.of)
	}
	r.histograms.of[k] = b
	return b.list, nil
}
