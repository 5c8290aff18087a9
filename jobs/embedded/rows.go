package embedded

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tandem/batch"
	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// Value is one metric value.
type Value struct {
	Scope, Experiment, Variation, Metric, Tags string
	Minute, Value                              int64
}

// Name is the full name of the value's metric (SPEC 6).
func (v *Value) Name(tenantName string) string {
	if v.Experiment == "" {
		return tenantName + ".visit.site." + v.Metric
	}
	return strings.Join([]string{tenantName, "visit", v.Scope, v.Experiment, v.Variation, v.Metric}, ".")
}

// Values calls fn for every value in minutes [from, to) of the layers that want says: it is asked for a layer and a
// minute. Of visitors the value is the estimate.
func Values(ctx context.Context, st store.Store, tenantName string, from, to int64, want func(layer string, minute int64) bool, fn func(*Value) error) error {
	var all []store.Series
	err := st.Catalog(ctx, tenantName, func(s store.Series) error {
		all = append(all, s)
		return nil
	})
	if err != nil {
		return fmt.Errorf("catalog of %s: %w", tenantName, err)
	}
	for _, s := range all {
		scope, name, _ := strings.Cut(s.Metric, ".")
		err := st.Rows(ctx, s, from, to, func(minute, _ int64, value []byte) error {
			if !want(s.Layer, minute) {
				return nil
			}
			_, err := row.Decode(value, func(c row.Cell) error {
				v := Value{Scope: scope, Experiment: s.Experiment, Variation: c.Variation, Metric: name, Tags: c.Tags, Minute: minute, Value: c.Value}
				if c.Sketch != nil {
					var sk metric.Sketch
					if err := sk.UnmarshalBinary(c.Sketch); err != nil {
						return err
					}
					v.Value = sk.Estimate()
				}
				return fn(&v)
			})
			if err != nil {
				return fmt.Errorf("%s, minute %d: %w", s, minute, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Lines returns the lines of a rows file (SPEC 11) for the minutes [from, to) of one layer ("stream", "batch") or of
// the merged view ("both").
func Lines(ctx context.Context, st store.Store, tenantName, which string, from, to int64) ([]string, error) {
	v, err := batch.View(ctx, st, tenantName)
	if err != nil {
		return nil, err
	}
	want := func(layer string, minute int64) bool {
		stands, covered := v.Layer(minute)
		switch which {
		case "stream":
			return layer == v.Active
		case "batch":
			return covered && layer == stands
		}
		return layer == stands
	}
	var lines []string
	err = Values(ctx, st, tenantName, from, to, want, func(x *Value) error {
		if x.Value != 0 {
			lines = append(lines, fmt.Sprintf("%s\t%s\t%d\t%d", x.Name(tenantName), x.Tags, x.Minute, x.Value))
		}
		return nil
	})
	slices.Sort(lines)
	return lines, err
}

// CountLines returns the lines of a counts file.
func CountLines(counts map[string]int64) []string {
	var lines []string
	for name, n := range counts {
		if n != 0 {
			lines = append(lines, fmt.Sprintf("%s\t%d", name, n))
		}
	}
	slices.Sort(lines)
	return lines
}
