package read

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/schemas/store"
)

// Query asks for metrics of one experiment, or of the site, over minutes [From, To).
type Query struct {
	Experiment string   // "": the site scope
	Metrics    []string // scope and name, as "fm.order.revenue" or "site.visit.beta"
	From, To   int64    // minutes since the epoch
	Step       int64    // minutes of a point, which begin at From; the last ends at To
	// Rolling, if not 0, makes each point cover the Rolling minutes before its end instead of its own Step: of
	// visitors the union.
	Rolling int64
	Filter  map[string][]string // by tag: the values that count; a tag that is absent here counts whole
	GroupBy []string            // tags that divide the series
}

// Steps are the steps, in minutes, that charts choose from: divisors of a day, most of them of windows or made of whole ones.
var Steps = []int64{1, 5, 10, 30, 60, 180, 360, 720, 1440}

// State says what the values of a point are made of.
type State byte

// States.
const (
	Final       State = iota // of minutes that the batch has covered
	Provisional              // at least one minute is the stream's
	Unknown                  // at least one minute has expired: it has no value
)

// Answer is what a Query comes to.
type Answer struct {
	From, To, Step int64
	States, Seen   []State // by point: of sums, and of visitors, which are known by the minute for a shorter time
	Series         []Series
	// CompleteThrough is that of the resolution; ProvisionalFrom the first minute of the first point that is not final,
	// To if all are.
	CompleteThrough, ProvisionalFrom int64
}

// StatesOf are the states of a metric's points.
func (a *Answer) StatesOf(metric string) []State {
	if isVisitors(metric) {
		return a.Seen
	}
	return a.States
}

// isVisitors says whether a metric counts distinct visitors, which are unions instead of sums (SPEC 6).
func isVisitors(metric string) bool {
	_, name := Split(metric)
	return name == "visitors"
}

// Points is the number of points of each series.
func (a *Answer) Points() int { return len(a.States) }

// Series are the values of a metric in a variation and a group of tag sets. A series that has no row is not there: its
// values are zero wherever they are known.
type Series struct {
	Metric, Variation string
	Tags              []string // values of the query's GroupBy; "": the rows lack the tag
	Values            []int64  // by point: a sum in the scale of its value, or an estimate of distinct visitors
	States            []State  // by point; that of sums is shared with the answer
}

const fetchers = 4 // metrics that a request reads at once

// Budget is what a request may still use of its limits, over all queries that it is answered by.
type Budget struct {
	limits                Limits
	until                 time.Time
	bytes, series, points atomic.Int64 // used
}

// Budget begins a request.
func (x *Resolved) Budget() *Budget {
	l := x.r.opt.Limits
	return &Budget{limits: l, until: time.Now().Add(l.Time)}
}

// Range answers a request of one query.
func (x *Resolved) Range(ctx context.Context, q Query) (*Answer, error) {
	a, err := x.Ranges(ctx, x.Budget(), []Query{q})
	if err != nil {
		return nil, err
	}
	return a[0], nil
}

// Ranges answers queries of a request, all of them at once.
func (x *Resolved) Ranges(ctx context.Context, b *Budget, queries []Query) ([]*Answer, error) {
	l := b.limits
	fetches, parts := make([]*fetch, len(queries)), make([][][]Series, len(queries))
	for i := range queries {
		q := &queries[i]
		if q.From < 0 || q.To <= q.From || q.To > store.MaxMinute+1 || q.Step < 1 {
			return nil, fmt.Errorf("from minute %d to %d by %d: it must be from < to, in 0 to %d, by at least 1", q.From, q.To, q.Step, int64(store.MaxMinute)+1)
		}
		p, err := x.plan(q, l)
		if err != nil {
			return nil, err
		}
		fetches[i], parts[i] = &fetch{x: x, q: q, p: p, used: b}, make([][]Series, len(q.Metrics))
	}
	// What reads most begins first, so that it is not alone at the end.
	order := make([]int, len(queries))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(queries[j].Rolling, queries[i].Rolling) })
	ctx, cancel := context.WithDeadlineCause(ctx, b.until, errLimitTime)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fetchers)
	for _, s := range scans(fetches, order) {
		group.Go(func() error {
			t, err := s.fetch.metric(groupCtx, s.metric)
			if err != nil {
				return err
			}
			for _, u := range s.of {
				f := fetches[u.query]
				parts[u.query][u.place] = t.out(s.metric, f.p)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		if errors.Is(context.Cause(ctx), errLimitTime) {
			return nil, &LimitError{"time", l.Time.Milliseconds(), "take a shorter range, a larger step or fewer metrics"}
		}
		return nil, err
	}
	out := make([]*Answer, len(queries))
	for i, f := range fetches {
		out[i] = f.answer(parts[i])
	}
	return out, nil
}

// scan reads a metric once for all queries that it serves.
type scan struct {
	metric string
	fetch  *fetch // the one of them that reads most
	of     []use
}

// use is a metric of a query.
type use struct{ query, place int }

// scans are what is to be read for the queries, in this order: those that reach back furthest are first, and serve others too.
func scans(fetches []*fetch, order []int) []scan {
	var all []scan
	for _, i := range order {
		for k, m := range fetches[i].q.Metrics {
			at := slices.IndexFunc(all, func(s scan) bool { return s.metric == m && s.fetch.serves(fetches[i]) })
			if at < 0 {
				at = len(all)
				all = append(all, scan{metric: m, fetch: fetches[i]})
			}
			all[at].of = append(all[at].of, use{i, k})
		}
	}
	return all
}

// serves says whether the parts of another's query are the last ones of this one's.
func (f *fetch) serves(o *fetch) bool {
	a, b := *f.q, *o.q
	a.Metrics, b.Metrics, a.Rolling, b.Rolling = nil, nil, 0, 0
	return f.p.part == o.p.part && f.p.to == o.p.to && f.p.lead >= o.p.lead && reflect.DeepEqual(a, b)
}

// answer puts the series of all metrics together.
func (f *fetch) answer(parts [][]Series) *Answer {
	q, p := f.q, f.p
	a := &Answer{From: q.From, To: q.To, Step: q.Step, States: p.sumStates, Seen: p.seenStates, CompleteThrough: f.x.CompleteThrough, ProvisionalFrom: q.To}
	for _, s := range parts {
		a.Series = append(a.Series, s...)
	}
	for i, s := range a.States {
		if s != Final {
			a.ProvisionalFrom = q.From + int64(i)*q.Step
			break
		}
	}
	return a
}

type fetch struct {
	x    *Resolved
	q    *Query
	p    *plan
	used *Budget
}

// metric reads a metric.
func (f *fetch) metric(ctx context.Context, name string) (*table, error) {
	t := newTable(f)
	for i := 0; i < len(f.p.pieces); i++ {
		c := &f.p.pieces[i]
		var err error
		switch s := (store.Series{Tenant: f.x.Chain.Tenant, Experiment: f.q.Experiment, Metric: name, Layer: c.layer}); {
		case c.windows != nil:
			var values [][]byte
			if values, err = f.wholeDays(ctx, name, f.p.pieces[i:]); err != nil {
				break
			}
			for k, value := range values {
				if err = f.row(t, s, f.p.pieces[i+k].from, value); err != nil {
					break
				}
			}
			i += len(values) - 1
		case c.layer == "": // no stream has ever been active
		case c.rollup:
			err = f.x.r.store.Rollups(ctx, s, c.from, c.to, func(minute, _ int64, value []byte) error { return f.row(t, s, minute, value) })
		default:
			err = f.x.r.store.Rows(ctx, s, c.from, c.to, func(minute, _ int64, value []byte) error { return f.row(t, s, minute, value) })
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (f *fetch) row(t *table, s store.Series, minute int64, value []byte) error {
	if err := f.count(len(value)); err != nil {
		return err
	}
	err := t.add(int((minute-f.p.from)/f.p.part), value)
	var limit *LimitError
	if err != nil && !errors.As(err, &limit) {
		err = fmt.Errorf("%s, minute %d: %w", s, minute, err)
	}
	return err
}

// count holds the request to its limit of bytes.
func (f *fetch) count(n int) error {
	if f.used.bytes.Add(int64(n)) > f.used.limits.Bytes {
		return &LimitError{"bytes", f.used.limits.Bytes, "take a shorter range, a larger step or fewer metrics"}
	}
	return nil
}

// table sums the cells of one metric by group and part.
type table struct {
	gathered // by group
	f        *fetch
	groups   []groupKey
	index    map[groupKey]int
	sets     map[string]int // tag set -> index into keys, -1: filtered out
	keys     []string       // joined values of the tags grouped by
}

type groupKey struct {
	variation string
	key       int
}

func newTable(f *fetch) *table {
	t := &table{f: f, index: map[groupKey]int{}, sets: map[string]int{}}
	t.gathered = gathered{places: newPlaces(t.group), parts: len(f.p.sums)}
	return t
}

// group is the place of a cell's group, -1 if the filter leaves the cell out.
func (t *table) group(variation, tags string) (int, error) {
	key, known := t.sets[tags]
	if !known {
		key = t.set(tags)
		t.sets[tags] = key
	}
	if key < 0 {
		return -1, nil
	}
	k := groupKey{variation, key}
	i, known := t.index[k]
	if !known {
		used := t.f.used
		l := &used.limits
		if used.series.Add(1) > int64(l.Series) {
			return 0, &LimitError{"series", int64(l.Series), "group by fewer tags, or ask for fewer metrics"}
		}
		if used.points.Add(int64(len(t.f.p.sums))) > l.Points {
			return 0, &LimitError{"points", l.Points, "take a larger step, a shorter range, fewer metrics or fewer tags"}
		}
		i = len(t.groups)
		t.groups = append(t.groups, k)
		t.index[k] = i
	}
	return i, nil
}

// set is the place of a tag set's group in keys.
func (t *table) set(tags string) int {
	values := make([]string, len(t.f.q.GroupBy))
	passed := 0
	for rest := tags; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, ",")
		name, value, _ := strings.Cut(pair, "=")
		if allowed, filtered := t.f.q.Filter[name]; filtered {
			if !slices.Contains(allowed, value) {
				return -1
			}
			passed++
		}
		if i := slices.Index(t.f.q.GroupBy, name); i >= 0 {
			values[i] = value
		}
	}
	if passed < len(t.f.q.Filter) {
		return -1 // the rows lack a tag that is asked for
	}
	key := strings.Join(values, ",")
	if i := slices.Index(t.keys, key); i >= 0 {
		return i
	}
	t.keys = append(t.keys, key)
	return len(t.keys) - 1
}
