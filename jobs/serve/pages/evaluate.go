package pages

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"tandem/core/evidence"
	"tandem/core/tenant"
	"tandem/jobs/serve/judge"
	"tandem/jobs/serve/read"
)

const (
	// share is that of false ones among what e-BH confirms.
	share = 0.05
	// recent is how many closed minutes health looks at, silence those of a variation without sessions.
	recent  = 60
	silence = 15
	// slack is how many minutes may pass, after the lateness, until a minute is closed.
	slack = 20
	// From briefDays on a brief evaluation goes by days: the read path holds their sums.
	briefDays = 2
	// points is the most points of a series over an experiment's whole time.
	points = 240
)

// sessions is the n of every analysis.
func sessions(scope string) Base { return Base{Metric: judge.Sessions(scope)} }

// evaluation is what is known of one experiment in one scope under one filter.
type evaluation struct {
	x        *tenant.Experiment
	scope    string
	part     bool  // under a filter
	from, to int64 // minutes: [from, to) is closed, and counts
	step     int64
	closed   int64
	open     int64 // minutes of its time that are not closed yet
	covered  int64
	layer    string
	signs    evidence.Signs
	n        [][]float64
	spark    []float64 // sessions of the last minutes
	results  []result
	last     *Answer // of the last minutes
	fresh    int     // place of the first of these that is of the phase
	formulas []Formula
	begin    int64             // minute of the phase
	whole    map[int64]*Answer // by the minute from which on it counts: the phase's, or a formula's own that is later
	all      *Answer           // one bucket, for what does not add up over time
}

// result is one formula of one treatment against the control.
type result struct {
	formula, variation int // places
	value, control     float64
	estimate           judge.Estimate
	relative           bool // the estimate is a share of the control's
	logE               float64
	state              string // "", "waiting", "signal", "confirmed"
	failing            bool
	why                string
}

// span is the time that an experiment counts over, in minutes.
func span(x *tenant.Experiment, rd Reader) (from, to int64, started, ended bool) {
	minute := rd.Now().Unix() / 60
	from, to = judge.Span(x, 0, minute)
	return rd.Begin(from), to, x.Start == tenant.NoStart || x.Start/60000 <= minute, x.End != tenant.NoEnd && x.End/60000 <= minute
}

// evaluate reads an experiment's sums since its start and says what they prove, up to the last closed minute. In brief it
// does so by whole days where there are some, which is what a look at all experiments can afford.
func evaluate(ctx context.Context, rd Reader, x *tenant.Experiment, formulas []Formula, scope string, filter map[string]string, brief bool) (*evaluation, error) {
	from, to, started, ended := span(x, rd)
	e := &evaluation{x: x, scope: scope, part: len(filter) > 0, formulas: formulas, from: from, to: max(to, from), step: 1}
	e.signs.Started, e.signs.Ended, e.signs.SplitP = started, ended, 1
	e.begin, e.whole = from, map[int64]*Answer{}
	judged, shown, watched := map[int64][]Base{from: nil}, []Base{}, []Base{sessions(scope)}
	for _, f := range formulas {
		if guards(&f) {
			watched = append(watched, Base{Metric: f.Stat.Hits})
		}
		if f.Stat == nil {
			shown = append(shown, f.Bases...)
			continue
		}
		at := e.since(&f)
		judged[at] = append(judged[at], f.Bases...)
		for _, name := range f.Stat.Names() {
			judged[at] = append(judged[at], Base{Metric: name})
		}
	}
	shown = distinct(shown)
	// Closed is known with the first answer only.
	q := Query{Experiment: x.Name, Bases: distinct(watched), From: e.to - recent, To: e.to, Step: 1, Filter: filter}
	var err error
	if e.last, err = rd.Read(ctx, q); err != nil {
		return nil, err
	}
	e.closed, e.covered, e.layer = max(e.last.ClosedBefore, e.last.CoveredBefore), e.last.CoveredBefore, e.last.Layer
	if started && e.closed > 0 {
		c, _ := rd.Config()
		e.open = max(0, to-e.closed)
		e.signs.Behind = e.open > c.Lateness/60000+slack
	}
	if e.closed < e.to {
		e.to = max(e.closed, from)
		q.From, q.To = e.to-recent, e.to
		if e.last, err = rd.Read(ctx, q); err != nil {
			return nil, err
		}
	}
	if !started || e.to == from {
		return e, nil
	}
	e.step = stepOf(e.to-from, points)
	if from < rd.Minutes() {
		e.step = max(e.step, read.WindowMinutes)
	}
	if brief && e.to-from > briefDays*read.DayMinutes {
		e.step = read.DayMinutes
	}
	q.To, q.Step = e.to, e.step
	for at, bases := range judged {
		if at >= e.to {
			continue
		}
		q.Bases, q.From = distinct(append(bases, sessions(scope))), at
		if e.whole[at], err = readFrom(ctx, rd, q); err != nil {
			return nil, err
		}
	}
	if len(shown) > 0 {
		q.Bases, q.From, q.Step = shown, from, e.to-from
		if e.all, err = rd.Read(ctx, q); err != nil {
			return nil, err
		}
	}
	e.from, e.fresh = from-from%e.step, int(max(0, recent-(e.to-from)))
	e.judge(formulas)
	return e, nil
}

// readFrom reads buckets that begin on multiples of the step, so that rollups serve them; the first has only what is from
// q.From on: before it another phase may have been.
func readFrom(ctx context.Context, rd Reader, q Query) (*Answer, error) {
	over := q.From % q.Step
	if over == 0 {
		return rd.Read(ctx, q)
	}
	first := q
	first.Step -= over
	first.To = min(first.From+first.Step, q.To)
	a, err := rd.Read(ctx, first)
	if q.From = first.To; err != nil || q.From == q.To {
		return a, err
	}
	rest, err := rd.Read(ctx, q)
	if err != nil {
		return nil, err
	}
	n := int((q.To - q.From + q.Step - 1) / q.Step)
	for k := range a.Sums {
		if rest.Sums[k] == nil {
			rest.Sums[k] = make([]float64, n)
		}
	}
	for k, row := range rest.Sums {
		head := a.Sums[k]
		if head == nil {
			head = []float64{0}
		}
		rest.Sums[k] = append(head, row...)
	}
	return rest, nil
}

// distinct sorts them and leaves out what is there twice.
func distinct(b []Base) []Base {
	slices.SortFunc(b, func(a, b Base) int { return cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Rolling, b.Rolling)) })
	return slices.Compact(b)
}

// stepOf is the shortest of read.Steps that cuts so many minutes into at most n buckets.
func stepOf(minutes int64, n int64) int64 {
	for _, step := range read.Steps {
		if minutes <= step*n {
			return step
		}
	}
	return read.Steps[len(read.Steps)-1]
}

// cumulative gives sums up to and including each bucket.
func (e *evaluation) cumulative(v string, b Base) []float64 {
	n := (e.to - e.from + e.step - 1) / e.step
	out := make([]float64, n)
	sum := 0.
	row := e.whole[e.begin].Sums[Key{v, b}]
	for i := range out {
		if i < len(row) && !math.IsNaN(row[i]) {
			sum += row[i]
		}
		out[i] = sum
	}
	return out
}

// total leaves out what has expired.
func total(row []float64) (sum float64) {
	for _, v := range row {
		if !math.IsNaN(v) {
			sum += v
		}
	}
	return sum
}

func (e *evaluation) judge(formulas []Formula) {
	x := e.x
	lately := make([]float64, len(x.Variations))
	e.spark = make([]float64, recent)
	for i, v := range x.Variations {
		e.n = append(e.n, e.cumulative(v, sessions(e.scope)))
		row := e.last.Sums[Key{v, sessions(e.scope)}]
		for m, c := range row {
			e.spark[m] += total([]float64{c})
		}
		lately[i] = total(row[min(max(len(row)-silence, e.fresh), len(row)):])
		e.signs.Sessions += e.n[i][len(e.n[i])-1]
	}
	e.signs.Recent = total(e.spark)
	counts := make([]float64, len(x.Variations))
	for b := range e.n[0] {
		if end := e.from + int64(b+1)*e.step; e.to-e.begin > briefDays*read.DayMinutes && end < e.to && end%read.DayMinutes != 0 {
			continue // the least p depends on when it is looked at, and in brief there are days only
		}
		for i := range counts {
			counts[i] = e.n[i][b]
		}
		e.signs.SplitP = min(e.signs.SplitP, evidence.P(evidence.SplitLogE(counts, x.Weights, evidence.SplitC)))
	}
	if !e.signs.Ended {
		e.signs.Silent = slices.Contains(evidence.Silent(lately, x.Weights, evidence.SilentAlpha), true)
	}
	control := slices.Index(x.Variations, x.Control)
	for fi := range formulas {
		f := &formulas[fi]
		for v := range x.Variations {
			if v == control {
				continue
			}
			r := e.compare(f, v, control, len(e.n[0])-1)
			r.formula, r.variation = fi, v
			e.results = append(e.results, r)
			e.signs.Failing = e.signs.Failing || r.failing
			if guards(f) && !e.signs.Ended && !(e.part && f.Stat.Unfrozen != "") {
				e.signs.Broken = e.signs.Broken || e.broken(f.Stat.Hits, v, control)
			}
		}
	}
}

// guards says whether a formula's events are watched by the minute.
func guards(f *Formula) bool {
	return f.Role == "guardrail" && f.Stat != nil && f.Stat.Kind == judge.Proportion
}

// byBeacon says whether the value has sums under each beacon's own tags, where what is judged stands under those of the session's
// first.
func (f *Formula) byBeacon() bool {
	if f.Stat == nil {
		return false
	}
	names := f.Stat.Names()
	return slices.ContainsFunc(f.Bases, func(b Base) bool {
		return !strings.HasSuffix(b.Metric, ".visit.beta") && !slices.Contains(names, b.Metric)
	})
}

// note is what is to be known of a formula's interval.
func (e *evaluation) note(f *Formula) string {
	var notes []string
	if f.Stat != nil && f.Stat.Capped() {
		notes = append(notes, "The interval is of sessions' totals as capped in the config; the values are not.")
	}
	if e.part && f.byBeacon() {
		notes = append(notes, "Under a tag the values are of the beacons that carry it, the interval of the sessions that began with it.")
	}
	if f.Since > e.begin {
		notes = append(notes, "Counted from "+time.Unix(f.Since*60, 0).UTC().Format("2006-01-02 15:04 UTC")+" on: its definition changed then.")
	}
	return strings.Join(notes, " ")
}

func (e *evaluation) shareOf(v, control int) float64 {
	w := e.x.Weights
	return w[v] / (w[v] + w[control])
}

// broken runs the break alarm over the last closed minutes of the phase: before it the split was another.
func (e *evaluation) broken(hits string, v, control int) bool {
	share := e.shareOf(v, control)
	if !(share > 0 && share < 1) {
		return false
	}
	t, c := e.last.Sums[Key{e.x.Variations[v], Base{Metric: hits}}], e.last.Sums[Key{e.x.Variations[control], Base{Metric: hits}}]
	var b evidence.Break
	for m := e.fresh; m < recent; m++ {
		at := func(row []float64) float64 {
			if m < len(row) {
				return total(row[m : m+1])
			}
			return 0
		}
		b.Add(at(t), at(c), share)
	}
	return b.Alarm
}

// since is the minute from which on a formula is judged.
func (e *evaluation) since(f *Formula) int64 { return max(e.begin, f.Since) }

// sumAt returns the sums of a variation up to and including a bucket, from the minute on that the formula is judged from.
func (e *evaluation) sumAt(f *Formula, variation string, bucket int) func(metric string) float64 {
	at := e.since(f)
	a := e.whole[at]
	if a == nil { // it has not begun
		return func(string) float64 { return 0 }
	}
	last := bucket - int(at/e.step-e.from/e.step)
	return func(metric string) float64 {
		row := a.Sums[Key{variation, Base{Metric: metric}}]
		return total(row[:max(min(last+1, len(row)), 0)])
	}
}

// valueAt is a formula's value in a variation up to and including a bucket; of what is for charts only, over all.
func (e *evaluation) valueAt(f *Formula, variation string, bucket int) float64 {
	sum := e.sumAt(f, variation, bucket)
	return f.Eval(1, func(b Base) []float64 {
		if f.Stat == nil {
			if row := e.all.Sums[Key{variation, b}]; len(row) > 0 {
				return row[len(row)-1:]
			}
			return []float64{0}
		}
		return []float64{sum(b.Metric)}
	})[0]
}

// compare says what is known of a formula in a treatment after a bucket.
func (e *evaluation) compare(f *Formula, v, control, bucket int) (r result) {
	sum, base := e.sumAt(f, e.x.Variations[v], bucket), e.sumAt(f, e.x.Variations[control], bucket)
	r.value, r.control = e.valueAt(f, e.x.Variations[v], bucket), e.valueAt(f, e.x.Variations[control], bucket)
	st := f.Stat
	if st == nil {
		r.why = "chart only"
		if f.Trouble != "" {
			r.why = f.Trouble
		}
		return r
	}
	n := judge.Sessions(e.scope)
	proven := st.Compare(judge.Side{N: sum(n), Sum: sum, Part: e.part}, judge.Side{N: base(n), Sum: base, Part: e.part},
		judge.Guard{Role: f.Role, Good: f.Good, Share: e.shareOf(v, control)})
	if proven.Why != "" {
		r.state, r.why, r.failing, r.estimate.Diff = "waiting", proven.Why, proven.Failing, math.NaN()
		return r
	}
	r.logE, r.failing, r.estimate, r.relative = proven.LogE, proven.Failing, proven.Absolute, proven.Steady
	if proven.Steady {
		r.estimate = proven.Relative
	}
	if proven.Signal {
		r.state = "signal"
	}
	return r
}

// confirmAll judges the tests of all experiments of the tenant: of those that run among each other, of one that has ended among them.
func confirmAll(all []*evaluation) {
	running := slices.DeleteFunc(slices.Clone(all), func(e *evaluation) bool { return e.signs.Ended })
	confirm(running, running)
	for _, e := range all {
		if e.signs.Ended {
			confirm([]*evaluation{e}, append(slices.Clip(running), e))
		}
	}
}

// confirm marks the signals of some evaluations that survive e-BH over the tests of all; the others are left as they are.
func confirm(some, all []*evaluation) {
	var tests []*result
	var logE []float64
	var mine []bool
	for _, e := range all {
		asked := slices.Contains(some, e)
		for i := range e.results {
			if r := &e.results[i]; r.why == "" {
				tests, logE, mine = append(tests, r), append(logE, r.logE), append(mine, asked)
			}
		}
	}
	for i, stands := range evidence.EBH(logE, share) {
		if stands && mine[i] && tests[i].state == "signal" {
			tests[i].state = "confirmed"
		}
	}
}
