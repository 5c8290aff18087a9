package pages

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tandem/batch"
	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve"
	"tandem/jobs/serve/judge"
	"tandem/jobs/serve/read"
	"tandem/jobs/serve/sums"
)

// Stored is the Source of a service's requests (serve.FromContext): the metric store through its read path, the batch's
// archive, and the services that answer over HTTP. What is nil is told as not there.
type Stored struct {
	// Now is the time that open experiments and charts end at. Nil: after the last session, of records of the past.
	Now func() time.Time
	// Batch is a tenant's batch over the archive, for its reports and what waits; its Store may be nil.
	Batch func(tenant string) (*batch.Job, error)
	// Explainer is ready to explain a tenant's numbers.
	Explainer func(ctx context.Context, tenant string) (*batch.Explain, error)
	// Layers names the stream layers to look at, beside the active one.
	Layers []string
	// Promoter makes a layer the active one of a tenant.
	Promoter func(ctx context.Context, tenant, layer string) error
	// Services are base URLs of the services' health listeners.
	Services []string
	services asking
	// Ticks are those of a pipeline in the same process.
	Ticks func() []Tick
	Audit *serve.AuditLog
}

func asked(ctx context.Context, name string) (*serve.Request, error) {
	q := serve.FromContext(ctx)
	if q == nil || q.Tenant == nil || q.Tenant.Chain.Tenant != name {
		return nil, fmt.Errorf("%w: tenant %q", ErrNotFound, name)
	}
	return q, nil
}

// Tenants is part of Source.
func (s *Stored) Tenants(ctx context.Context) ([]string, error) {
	q := serve.FromContext(ctx)
	if q == nil {
		return nil, ErrNotFound
	}
	return append([]string{}, q.Tenants...), nil
}

// Open is part of Source.
func (s *Stored) Open(ctx context.Context, name string) (Reader, error) {
	q, err := asked(ctx, name)
	if err != nil {
		return nil, err
	}
	x, err := q.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	r := &reader{x: x, texts: q.Tenant.Texts, formulas: q.Tenant.Formulas, schemas: map[string]*formula.Schema{}, trouble: []string{}}
	if s.Now != nil {
		r.now = s.Now()
	} else if r.now, err = end(ctx, x); err != nil {
		return nil, err
	}
	if q.Tenant.Trouble != "" {
		r.trouble = append(r.trouble, "The formulas are those of before: "+q.Tenant.Trouble)
	}
	return r, nil
}

// end is the end of the last minute in which a session began.
func end(ctx context.Context, x *read.Resolved) (time.Time, error) {
	from, to := x.Span()
	from = max(from-from%read.WindowMinutes, 0)
	for _, step := range []int64{read.WindowMinutes, 1} {
		if to <= from {
			break
		}
		a, err := x.Range(ctx, read.Query{Metrics: []string{"site.visit.beta"}, From: from, To: to, Step: step})
		if err != nil {
			return time.Time{}, err
		}
		last := from
		for _, s := range a.Series {
			for i, v := range s.Values {
				if v > 0 {
					last = max(last, from+int64(i)*step)
				}
			}
		}
		from, to = last, min(last+step, to)
	}
	return time.Unix(to*60, 0), nil
}

type reader struct {
	x        *read.Resolved
	texts    []string // of the chain's revisions
	now      time.Time
	formulas *formula.Repository
	schemas  map[string]*formula.Schema // by experiment
	trouble  []string
}

// Now is part of Reader.
func (r *reader) Now() time.Time { return r.now }

// Trouble is part of Reader.
func (r *reader) Trouble() []string { return r.trouble }

// Begin is part of Reader.
func (r *reader) Begin(from int64) int64 {
	first, _ := r.x.Span()
	return r.x.KnownFrom(max(from, first))
}

// Minutes is part of Reader.
func (r *reader) Minutes() int64 { return r.x.Known() }

// Config is part of Reader.
func (r *reader) Config() (c *tenant.Config, text string) {
	c, rev := judge.ConfigAt(r.x.Chain, r.now.UnixMilli())
	if rev < len(r.texts) {
		text = r.texts[rev]
	}
	return c, text
}

// Formulas is part of Reader.
func (r *reader) Formulas(ctx context.Context, experiment, scope string) ([]Formula, error) {
	schema := r.schemas[experiment]
	if schema == nil {
		var err error
		if schema, err = sums.SchemaIn(ctx, r.x, experiment); err != nil {
			return nil, err
		}
		r.schemas[experiment] = schema
	}
	// What has ended is judged by what was in force then.
	at := r.now.UnixMilli()
	c, _ := r.Config()
	if i := slices.IndexFunc(c.Experiments, func(x tenant.Experiment) bool { return x.Name == experiment }); i >= 0 {
		at = min(at, c.Experiments[i].End-1)
	}
	_, rev := judge.ConfigAt(r.x.Chain, at)
	inForce := sums.SchemaAt(r.x.Chain, rev)
	out := []Formula{}
	for _, f := range r.formulas.Formulas {
		plan := formula.NewPlan(schema)
		c, err := r.formulas.Compile(plan, formula.Ask{ID: f.ID, Scope: scope})
		one := Formula{ID: f.ID, Title: f.Title, Unit: f.Unit, Format: f.Format, Chart: f.Chart, Good: f.Good, Role: f.Role, Description: f.Description, Owner: f.Owner, Expr: f.Expr}
		if err != nil {
			one.Trouble = err.Error()
			one.Eval = func(points int, _ func(Base) []float64) []float64 {
				return slices.Repeat([]float64{math.NaN()}, points)
			}
			out = append(out, one)
			continue
		}
		one.Title = c.Title
		one.Bases = plan.Bases
		one.Eval = func(points int, of func(Base) []float64) []float64 {
			return c.Eval(formula.Columns{Points: points, Of: of})
		}
		if one.Stat = judge.Of(c.Shape, scope, inForce, f.Minimum); one.Stat != nil {
			if since := one.Stat.Since(r.x.Chain, rev); since > 0 {
				one.Since = r.Begin(since)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// Read is part of Reader.
func (r *reader) Read(ctx context.Context, q Query) (*Answer, error) {
	a := &Answer{Sums: map[Key][]float64{}, ClosedBefore: r.x.CompleteThrough, Layer: r.x.View.Active}
	for _, w := range r.x.View.Windows {
		a.CoveredBefore = max(a.CoveredBefore, w.To)
	}
	filter := map[string][]string{}
	for tag, v := range q.Filter {
		filter[tag] = []string{v}
	}
	of := map[int64][]string{}
	for _, b := range q.Bases {
		of[b.Rolling] = append(of[b.Rolling], b.Metric)
	}
	from := max(q.From, 0)
	from += (q.Step - (from-q.From)%q.Step) % q.Step
	skip := int((from - q.From) / q.Step) // buckets before all time
	var queries []read.Query
	var rollings []int64
	for rolling, metrics := range of {
		rq := read.Query{Experiment: q.Experiment, Metrics: metrics, From: from, To: q.To, Step: q.Step, Rolling: rolling, Filter: filter}
		if rolling > 0 && q.Step == q.To-q.From {
			// One value is asked for, which needs nothing but the time before its end.
			rq.From, rq.Step = q.To-rolling, rolling
		}
		if rq.From < 0 || rq.From >= rq.To {
			continue
		}
		queries, rollings = append(queries, rq), append(rollings, rolling)
	}
	answers, err := r.x.Ranges(ctx, r.x.Budget(), queries)
	if err != nil {
		return nil, err
	}
	for i, got := range answers {
		for _, s := range got.Series {
			k := Key{s.Variation, Base{Metric: s.Metric, Rolling: rollings[i]}}
			values := make([]float64, skip, skip+len(s.Values))
			for i, v := range s.Values {
				if s.States[i] == read.Unknown {
					values = append(values, math.NaN())
				} else {
					values = append(values, float64(v))
				}
			}
			a.Sums[k] = values
		}
	}
	return a, nil
}

// Explain is part of Source.
func (s *Stored) Explain(ctx context.Context, q Explain) (any, error) {
	if _, err := asked(ctx, q.Tenant); err != nil {
		return nil, err
	}
	if s.Explainer == nil {
		return nil, fmt.Errorf("%w: numbers are explained from the archive, and this service has none", ErrNotFound)
	}
	x, err := s.Explainer(ctx, q.Tenant)
	if err != nil {
		return nil, err
	}
	if q.Session != "" {
		to := q.Minute + 60
		if q.Minute == 0 {
			a, err := x.Job.Archived()
			if err != nil {
				return nil, err
			}
			to = max(to, a.End()/60000)
		}
		return x.Session(ctx, q.Session, max(0, to-2*24*60), to)
	}
	scope := q.Scope
	if scope == "" {
		scope = "fm"
		if q.Experiment == "" {
			scope = "site"
		}
	}
	e, err := x.Number(ctx, batch.Number{Experiment: q.Experiment, Variation: q.Variation, Metric: scope + "." + q.Metric, Minute: q.Minute, Tags: q.Tags})
	if errors.Is(err, batch.ErrNoNumber) {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return e, err
}

// Promote is part of Source.
func (s *Stored) Promote(ctx context.Context, name, layer string) error {
	q, err := asked(ctx, name)
	if err != nil {
		return err
	}
	if q.Who.Role != serve.RoleAdmin {
		return fmt.Errorf("%w: it takes a token of role admin", ErrForbidden)
	}
	if s.Promoter == nil {
		return fmt.Errorf("%w: this service cannot promote; use tandem failover promote", ErrRequest)
	}
	act := serve.Act{Time: time.Now().UTC(), Who: q.Who.Name, From: q.From, Tenant: name, Act: "promote", Detail: layer}
	if s.Audit != nil {
		// Nothing is done that the log cannot tell of.
		if err := s.Audit.Note(act); err != nil {
			return err
		}
	}
	err = s.Promoter(ctx, name, layer)
	if err != nil && s.Audit != nil {
		act.Time, act.Error = time.Now().UTC(), err.Error()
		err = errors.Join(err, s.Audit.Note(act))
	}
	return err
}
