package prom

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"tandem/core/formula"
	"tandem/jobs/serve/read"
)

// querier is what one request reads: all of its selectors see the same resolution, and share the limits.
type querier struct {
	x       *read.Resolved
	catalog *read.Catalog
	tags    []tag
	limits  Limits
	samples *atomic.Int64 // that were read so far

	formulas   *formula.Repository
	inX, onAll []*formula.Formula // those that can be evaluated in an experiment, and of the site
}

// tag is one of the tenant's tags; values are those that a row may have.
type tag struct {
	name, label string
	values      []string
}

func newQuerier(x *read.Resolved, formulas *formula.Repository, l Limits) *querier {
	q := &querier{x: x, catalog: x.Catalog(), limits: l, samples: new(atomic.Int64), formulas: formulas}
	q.compile()
	for _, t := range q.catalog.Tags {
		q.tags = append(q.tags, tag{t.Name, TagLabel(t.Name), append([]string{"none", "other"}, t.Values...)})
	}
	slices.SortFunc(q.tags, func(a, b tag) int { return strings.Compare(a.name, b.name) })
	return q
}

// Querier implements storage.Queryable: times are asked for by Select's hints.
func (q *querier) Querier(from, to int64) (storage.Querier, error) {
	return &ranged{q, from, to}, nil
}

type ranged struct {
	*querier
	from, to int64 // ms, both inclusive
}

// Close implements storage.Querier.
func (q *ranged) Close() error { return nil }

// family is a metric of an experiment, or of the site.
type family struct {
	metric, name, experiment string // name is Prometheus' name of the metric
	variations               []string
	formula                  *formula.Formula // what it is, instead of a metric
}

// selection is what matchers choose of the catalog.
type selection struct {
	families []family
	rest     []*labels.Matcher // on variation and tags
	sources  []string          // layers: "" is the merged view
	over     int64             // minutes that a value of a formula is of
	overText string            // as the matcher says it; empty: there is none
}

// choose finds the families that the matchers may have series of. Without a matcher on source only the merged view is looked
// at: batch and stream hold the same minutes again.
func (q *querier) choose(ctx context.Context, matchers []*labels.Matcher) (*selection, error) {
	s := &selection{}
	on := map[string][]*labels.Matcher{}
	for _, m := range matchers {
		on[m.Name] = append(on[m.Name], m)
		if m.Name != labels.MetricName && m.Name != labelExperiment && m.Name != labelSource && m.Name != labelOver {
			s.rest = append(s.rest, m)
		}
	}
	all := func(name, value string) bool {
		return !slices.ContainsFunc(on[name], func(m *labels.Matcher) bool { return !m.Matches(value) })
	}
	for _, source := range []string{"", "batch", "stream"} {
		if all(labelSource, source) && (source == "" || len(on[labelSource]) > 0) {
			s.sources = append(s.sources, source)
		}
	}
	if len(s.sources) == 0 {
		return s, nil
	}
	var err error
	if s.over, s.overText, err = over(on[labelOver]); err != nil {
		return nil, err
	}
	add := func(scope, name, experiment string, variations []string) {
		stored := scope + "." + name
		if n := MetricName(stored); s.overText == "" && all(labels.MetricName, n) {
			s.families = append(s.families, family{stored, n, experiment, variations, nil})
		}
	}
	evaluated := func(some []*formula.Formula, experiment string, variations []string) {
		for _, f := range some {
			if n := FormulaName(f.ID); all(labels.MetricName, n) && all(labelExperiment, experiment) {
				s.families = append(s.families, family{"", n, experiment, variations, f})
			}
		}
	}
	each := func(scope, experiment string, variations []string) error {
		if !all(labelExperiment, experiment) {
			return nil
		}
		for _, n := range q.catalog.Names {
			add(scope, n, experiment, variations)
		}
		for _, h := range q.catalog.Histograms {
			buckets, err := q.x.Buckets(ctx, experiment, scope+"."+h)
			if err != nil {
				return err
			}
			for _, b := range buckets {
				add(scope, fmt.Sprintf("%s.h%d", h, b), experiment, variations)
			}
		}
		return nil
	}
	if err := each("site", "", []string{""}); err != nil {
		return nil, err
	}
	evaluated(q.onAll, "", []string{""})
	for i := range q.catalog.Experiments {
		e := &q.catalog.Experiments[i]
		for _, scope := range []string{"assigned", "fm"} {
			if err := each(scope, e.Name, e.All); err != nil {
				return nil, err
			}
		}
		evaluated(q.inX, e.Name, e.All)
	}
	return s, nil
}

// layer is the view of a source.
func (q *querier) layer(ctx context.Context, source string) (*read.Resolved, error) {
	switch {
	case source == "stream":
		return q.x.StreamAlone(ctx)
	case source == "batch" || q.x.View.Active == "":
		return q.x.BatchAlone(), nil
	}
	return q.x, nil
}

// Select implements storage.Querier. A sample's time is the end of its minute: at t it is known what was before t, and
// sum_over_time over (t-5m, t] is of the five minutes before t.
func (q *ranged) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	from, to := q.from, q.to
	if hints != nil {
		from, to = hints.Start, hints.End
	}
	all, err := q.read(ctx, from, to, matchers)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	return &seriesSet{all: all, at: -1}
}

// read gives series, sorted by labels, of samples in [from, to] ms.
func (q *querier) read(ctx context.Context, from, to int64, matchers []*labels.Matcher) ([]*series, error) {
	s, err := q.choose(ctx, matchers)
	if err != nil || len(s.families) == 0 {
		return nil, err
	}
	if len(s.families)*len(s.sources) > q.limits.Families {
		return nil, &read.LimitError{Name: "metrics", Limit: int64(q.limits.Families), Way: "name the metric and the experiment in the selector"}
	}
	first, last := q.minutes(from, to)
	if first >= last {
		return nil, nil
	}
	filter, none := q.filter(s.rest)
	if none {
		return nil, nil
	}
	found := map[string]*series{}
	for _, source := range s.sources {
		x, err := q.layer(ctx, source)
		if err != nil {
			return nil, err
		}
		begin, end := x.Span()
		for lo := 0; lo < len(s.families); {
			hi := lo + 1
			for hi < len(s.families) && s.families[hi].experiment == s.families[lo].experiment && (s.families[hi].formula == nil) == (s.families[lo].formula == nil) {
				hi++
			}
			ask, first, last := q.experiment, first, last
			if s.families[lo].formula != nil {
				// What is summed is zero where there is no row, so values are of what is complete only.
				ask, first, last = q.evaluate, max(first, begin), min(last, end)
			}
			for at := first; at < last; at += piece { // the read path's tables are dense, what is kept of them is not
				if err := ask(ctx, x, source, s, s.families[lo:hi], at, min(at+piece, last), filter, found); err != nil {
					return nil, err
				}
				if len(found) > q.limits.Series {
					return nil, &read.LimitError{Name: "series", Limit: int64(q.limits.Series), Way: "name more labels in the selector"}
				}
			}
			lo = hi
		}
	}
	all := slices.Collect(maps.Values(found))
	slices.SortFunc(all, func(a, b *series) int { return labels.Compare(a.labels, b.labels) })
	return all, nil
}

// minutes are those whose samples lie in [from, to], cut to where there can be anything: a stream alone has rows as far back as
// they are kept, and some beyond what is complete.
func (q *querier) minutes(from, to int64) (first, last int64) {
	const day = 24 * 60
	first, last = (from+59_999)/60_000-1, to/60_000
	revs := q.x.Chain.Revs
	kept := max(revs[len(revs)-1].Config.Retention/60_000, 2*day)
	return max(first, min(q.catalog.From, q.catalog.To-kept)-day, 0), min(last, q.catalog.To+day)
}

// piece is how many minutes are asked of the read path at once.
const piece = 360

// filter says which values of tags the matchers leave; none: no row can match.
func (q *querier) filter(rest []*labels.Matcher) (filter map[string][]string, none bool) {
	filter = map[string][]string{}
	for _, t := range q.tags {
		var allowed []string
		asked := false
		for _, m := range rest {
			if m.Name == t.label && !m.Matches("") { // else a row without the tag may match
				asked = true
			}
		}
		if !asked {
			continue
		}
		for _, v := range t.values {
			if !slices.ContainsFunc(rest, func(m *labels.Matcher) bool { return m.Name == t.label && !m.Matches(v) }) {
				allowed = append(allowed, v)
			}
		}
		if len(allowed) == 0 {
			return nil, true
		}
		filter[t.name] = allowed
	}
	return filter, false
}

func (q *querier) experiment(ctx context.Context, x *read.Resolved, source string, s *selection, some []family, first, last int64, filter map[string][]string, found map[string]*series) error {
	ask := read.Query{Experiment: some[0].experiment, From: first, To: last, Step: 1, Filter: filter}
	for _, t := range q.tags {
		ask.GroupBy = append(ask.GroupBy, t.name)
	}
	names := map[string]string{}
	for _, f := range some {
		ask.Metrics = append(ask.Metrics, f.metric)
		names[f.metric] = f.name
	}
	answer, err := x.Range(ctx, ask)
	if err != nil {
		return err
	}
	for i := range answer.Series {
		in := &answer.Series[i]
		set := q.labels(names[in.Metric], some[0].experiment, in.Variation, source, s.overText, ask.GroupBy, in.Tags)
		value := func(i int) (float64, bool) {
			return float64(in.Values[i]), in.Values[i] != 0 && in.States[i] != read.Unknown
		}
		if err := q.add(found, s, set, first, len(in.Values), value); err != nil {
			return err
		}
	}
	return nil
}

// labels are those of a series; what is empty is not there.
func (q *querier) labels(name, experiment, variation, source, over string, tags, values []string) labels.Labels {
	b := labels.NewScratchBuilder(8)
	add := func(name, value string) {
		if value != "" {
			b.Add(name, value)
		}
	}
	add(labels.MetricName, name)
	add(labelExperiment, experiment)
	add(labelVariation, variation)
	add(labelSource, source)
	add(labelOver, over)
	for i, v := range values {
		add(TagLabel(tags[i]), v)
	}
	b.Sort()
	return b.Labels()
}

// add adds the values of n minutes to a series, if it is one that the matchers choose.
func (q *querier) add(found map[string]*series, s *selection, set labels.Labels, first int64, n int, value func(int) (float64, bool)) error {
	if slices.ContainsFunc(s.rest, func(m *labels.Matcher) bool { return !m.Matches(set.Get(m.Name)) }) {
		return nil
	}
	key := set.String()
	one := found[key]
	if one == nil {
		one = &series{labels: set}
	}
	before := len(one.points)
	for i := range n {
		if v, ok := value(i); ok {
			one.points = append(one.points, point{(first + int64(i) + 1) * 60_000, v})
		}
	}
	if len(one.points) == before {
		return nil
	}
	if n := q.samples.Add(int64(len(one.points) - before)); n > int64(q.limits.Samples) {
		return &read.LimitError{Name: "samples", Limit: int64(q.limits.Samples), Way: "take a shorter range or name more labels"}
	}
	found[key] = one
	return nil
}

// LabelNames implements storage.Querier, from the catalog alone.
func (q *ranged) LabelNames(ctx context.Context, _ *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	s, err := q.choose(ctx, matchers)
	if err != nil || len(s.families) == 0 {
		return nil, nil, err
	}
	names := []string{labels.MetricName}
	for _, t := range q.tags {
		names = append(names, t.label)
	}
	if slices.ContainsFunc(s.families, func(f family) bool { return f.experiment != "" }) {
		names = append(names, labelExperiment, labelVariation)
	}
	if s.sources[0] != "" || len(s.sources) > 1 {
		names = append(names, labelSource)
	}
	slices.Sort(names)
	return names, nil, nil
}

// LabelValues implements storage.Querier, from the catalog alone: a value is listed if some row may have it.
func (q *ranged) LabelValues(ctx context.Context, name string, _ *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	s, err := q.choose(ctx, matchers)
	if err != nil || len(s.families) == 0 {
		return nil, nil, err
	}
	found := map[string]bool{}
	fits := func(v string) bool {
		return v != "" && !slices.ContainsFunc(s.rest, func(m *labels.Matcher) bool { return m.Name == name && !m.Matches(v) })
	}
	for _, f := range s.families {
		switch name {
		case labels.MetricName:
			found[f.name] = true
		case labelExperiment:
			found[f.experiment] = f.experiment != ""
		case labelVariation:
			for _, v := range f.variations {
				found[v] = fits(v)
			}
		}
	}
	for _, t := range q.tags {
		if t.label == name {
			for _, v := range t.values {
				found[v] = fits(v)
			}
		}
	}
	if name == labelSource {
		found["batch"], found["stream"] = true, true
	}
	maps.DeleteFunc(found, func(_ string, ok bool) bool { return !ok })
	return slices.Sorted(maps.Keys(found)), nil, nil
}

type point struct {
	t int64 // ms
	v float64
}

type series struct {
	labels labels.Labels
	points []point
}

// Labels implements storage.Series.
func (s *series) Labels() labels.Labels { return s.labels }

// Iterator implements storage.Series.
func (s *series) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	return storage.NewListSeriesIterator(s)
}

// Len and Get implement storage.Samples.
func (s *series) Len() int                { return len(s.points) }
func (s *series) Get(i int) chunks.Sample { return &s.points[i] }

// A point is a chunks.Sample: a float, without the time at which it began.
func (p *point) T() int64                      { return p.t }
func (p *point) ST() int64                     { return 0 }
func (p *point) F() float64                    { return p.v }
func (p *point) H() *histogram.Histogram       { return nil }
func (p *point) FH() *histogram.FloatHistogram { return nil }
func (p *point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p *point) Copy() chunks.Sample           { return &point{p.t, p.v} }

type seriesSet struct {
	all []*series
	at  int
}

// Next implements storage.SeriesSet.
func (s *seriesSet) Next() bool {
	s.at++
	return s.at < len(s.all)
}

// At implements storage.SeriesSet.
func (s *seriesSet) At() storage.Series { return s.all[s.at] }

// Err implements storage.SeriesSet.
func (s *seriesSet) Err() error { return nil }

// Warnings implements storage.SeriesSet.
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

var errNoSelector = errors.New("no match[] parameter provided")
