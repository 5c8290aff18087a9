// Package pages is what people look at: the experiments of a tenant with their health, one experiment with what its
// numbers prove, the state of the pipeline, and the way from a number to its sessions. The files of the pages are embedded
// and served as they are; the data are JSON from what a Source reads.
package pages

import (
	"context"
	"errors"
	"time"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/judge"
)

// Source is where the pages' data come from. Access is decided before: the context is of a request that may see the tenant.
type Source interface {
	// Tenants lists those that the request may see, in order.
	Tenants(ctx context.Context) ([]string, error)
	// Open decides which layers stand for a tenant; all that a page tells is read through what it returns. Its error wraps
	// ErrNotFound if there is no such tenant.
	Open(ctx context.Context, tenant string) (Reader, error)
	// Operations tells how the pipeline is doing for a tenant.
	Operations(ctx context.Context, tenant string) (*Operations, error)
	// Explain goes from a number to what it consists of; the answer is encoded as it is. Its error wraps ErrNotFound or
	// ErrRequest where that is what is wrong.
	Explain(ctx context.Context, q Explain) (any, error)
	// Promote makes readers see another layer, and is told in the audit log.
	Promote(ctx context.Context, tenant, layer string) error
}

// Reader sums rows into buckets, all from the same generations and the same data centre.
type Reader interface {
	// Now is the time that open experiments and charts end at.
	Now() time.Time
	// Begin is the first minute, from another on, from which on sums are known: of which the store has anything, and that has not
	// expired. Before Minutes they are known by whole windows only.
	Begin(from int64) int64
	Minutes() int64
	// Config is the revision in force, and its text as it was written.
	Config() (*tenant.Config, string)
	// Formulas are the tenant's, in the order of its repository, over the sessions of an experiment's scope: "fm" or
	// "assigned".
	Formulas(ctx context.Context, experiment, scope string) ([]Formula, error)
	// Trouble is what the tenant should be told, such as a repository that cannot be read.
	Trouble() []string
	Read(ctx context.Context, q Query) (*Answer, error)
}

var (
	// ErrNotFound is wrapped when what is asked for is not there.
	ErrNotFound = errors.New("not found")
	// ErrRequest is wrapped when it is the request that is wrong.
	ErrRequest = errors.New("wrong request")
	// ErrForbidden is wrapped when the request's token does not allow it.
	ErrForbidden = errors.New("not allowed")
)

// Formula is one of a tenant's repository, with what the pages need of it.
type Formula struct {
	ID, Title, Unit, Format, Chart, Good, Role, Description, Owner, Expr string
	// Bases are the metrics that Eval asks for.
	Bases []Base
	// Eval computes it by point; NaN where it has no value (division by nothing). of gives as
	// many values of a base.
	Eval func(points int, of func(Base) []float64) []float64
	// Trouble says why it cannot be computed; then it has no value.
	Trouble string
	// Stat says what its sums can prove; nil: nothing, it is for charts only.
	Stat *judge.Stat
	// Since is the minute from which on what Stat asks for has its definition; 0: always.
	Since int64
}

// Base is a metric with its scope, as "fm.order.beta".
type Base = formula.Base

// Query asks for sums. Times are minutes since the epoch, [From, To) in buckets of Step minutes from From on.
type Query struct {
	Experiment     string
	Bases          []Base
	From, To, Step int64
	Filter         map[string]string // tag to value
}

// Answer holds the sums. Scaled values are the integers of SPEC 6.
type Answer struct {
	Sums map[Key][]float64 // by bucket, in the scale of SPEC 6; absent is zero, NaN not known
	// ClosedBefore and CoveredBefore: minutes before them are final in the stream, and come from the batch.
	ClosedBefore, CoveredBefore int64
	Layer                       string // the stream's layer that readers see
}

// Key names the sums of a metric in one variation.
type Key struct {
	Variation string
	Base
}

// Explain names a number (Metric with its variation, minute and tags) or a session.
type Explain struct {
	Tenant, Session                      string
	Experiment, Scope, Variation, Metric string
	Minute                               int64
	Tags                                 map[string]string
}
