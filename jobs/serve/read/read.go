// Package read is the one read path of serving: it merges layers by coverage and active data centre (SPEC 9), resolved
// once per request, and sums rows over tags and time while they stream by.
package read

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/core/view"
	"tandem/schemas/store"
)

// WindowMinutes is the length of a window of the batch, which is what has a rollup.
const WindowMinutes = batch.WindowMS / 60_000

// Limits are those of one request. Beyond one of them the request is refused with a *LimitError, never cut short.
type Limits struct {
	Series int           // that an answer may have
	Points int64         // of all its series together, and of what rolling values need before it
	Bytes  int64         // of stored values that are read for it
	Time   time.Duration // that it may take
}

// DefaultLimits suit a page of charts over a month, and keep a request below some 100 MB of memory.
func DefaultLimits() Limits {
	return Limits{Series: 5_000, Points: 2_000_000, Bytes: 512 << 20, Time: 30 * time.Second}
}

// LimitError says which limit a request went beyond.
type LimitError struct {
	Name  string // series, points, bytes or time
	Limit int64  // time in ms
	Way   string // out
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("limit %q of a request, %d, is exceeded: %s", e.Name, e.Limit, e.Way)
}

// Bounds of how long a resolution is held. Rows of a generation that newer coverage has replaced are kept for an hour
// (DESIGN 6), so what was resolved MaxHold ago can still be read whole.
const (
	DefaultHold = 2 * time.Second
	MaxHold     = 10 * time.Minute
)

// Options of a Reader.
type Options struct {
	Limits Limits
	Now    func() time.Time // the clock by which rows expire: the store's
	Hold   time.Duration    // how long a resolution is held, at most MaxHold; 0: DefaultHold
}

// Reader reads a metric store. Any number of goroutines may use it.
type Reader struct {
	store store.Store
	opt   Options
	days  *days

	mu   sync.Mutex
	held map[string]*held // by tenant

	histograms struct {
		sync.Mutex
		of map[histogram]buckets
	}
}

// held is a resolution that is shared by the requests of the next seconds.
type held struct {
	mu sync.Mutex // while it is read, so that many requests read it once
	at time.Time
	x  *Resolved
}

// New returns a reader of a store.
func New(st store.Store, o Options) *Reader {
	if o.Hold <= 0 {
		o.Hold = DefaultHold
	}
	o.Hold = min(o.Hold, MaxHold)
	r := &Reader{store: st, opt: o, days: newDays(), held: map[string]*held{}}
	r.histograms.of = map[histogram]buckets{}
	return r
}

// Limits are those of each request.
func (r *Reader) Limits() Limits { return r.opt.Limits }

// Store is what the reader reads, for what is no metric value.
func (r *Reader) Store() store.Store { return r.store }

// Resolved is what a request reads by: which layer stands for which minute, all of it read at one moment. It is
// immutable, and good for MaxHold.
type Resolved struct {
	Chain *tenant.Chain
	View  *view.View
	// CompleteThrough is the first minute that is neither covered nor closed by the active stream: before it nothing is
	// missing but late beacons. 0: nothing is known.
	CompleteThrough int64

	r      *Reader
	closed int64 // the first minute that the active stream has not closed; 0: it has closed none
	now    int64 // ms
	begin  int64 // the first minute of which there is anything: the stream's, of what it keeps, or that of the first window

	uncovered State // of minutes that the batch has not covered
}

// Resolve reads which layers stand for a tenant, or takes what was read within the last seconds (Options.Hold).
func (r *Reader) Resolve(ctx context.Context, chain *tenant.Chain) (*Resolved, error) {
	r.mu.Lock()
	h := r.held[chain.Tenant]
	if h == nil {
		h = &held{}
		r.held[chain.Tenant] = h
	}
	r.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.x != nil && h.x.Chain == chain && time.Since(h.at) < r.opt.Hold {
		return h.x, nil
	}
	at := time.Now()
	x, err := r.resolve(ctx, chain, h.x)
	if err != nil {
		return nil, err
	}
	h.x, h.at = x, at
	return x, nil
}

// resolve reads it; last is what was read before, if anything was.
func (r *Reader) resolve(ctx context.Context, chain *tenant.Chain, last *Resolved) (*Resolved, error) {
	name := chain.Tenant
	v, err := batch.View(ctx, r.store, name)
	if err != nil {
		return nil, err
	}
	x := &Resolved{Chain: chain, View: v, r: r, now: r.opt.Now().UnixMilli(), uncovered: Provisional}
	if v.Active != "" {
		all, err := r.store.Progress(ctx, v.Active, name)
		if err != nil {
			return nil, fmt.Errorf("progress of %s of %s: %w", v.Active, name, err)
		}
		for i, p := range all {
			if i == 0 || p.ClosedBefore < x.CompleteThrough {
				x.CompleteThrough = p.ClosedBefore
			}
		}
		x.closed = x.CompleteThrough
	}
	for _, w := range v.Windows {
		if x.CompleteThrough == 0 || w.From <= x.CompleteThrough {
			x.CompleteThrough = max(x.CompleteThrough, w.To)
		}
	}
	x.begin = x.closed
	if len(v.Windows) > 0 {
		x.begin = v.Windows[0].From
	}
	if x.closed > 0 && x.closed >= x.begin { // else the stream's minutes before it are not whole
		if x.begin, err = x.first(ctx, x.begin, last); err != nil {
			return nil, fmt.Errorf("begin of %s of %s: %w", v.Active, name, err)
		}
	}
	return x, nil
}

var errFound = errors.New("found")

// first is the first minute before another in which the active stream has a visit, of those that it keeps; the other if there is none.
func (x *Resolved) first(ctx context.Context, to int64, last *Resolved) (int64, error) {
	revs := x.Chain.Revs
	from := max(0, x.Known(), x.CompleteThrough-revs[len(revs)-1].Config.Retention/60_000)
	if last != nil && last.View.Active == x.View.Active && len(last.View.Windows) > 0 && last.View.Windows[0].From == to && last.begin >= from {
		return last.begin, nil // nothing comes before minutes that are covered
	}
	first := to
	err := x.r.store.Rows(ctx, store.Series{Tenant: x.Chain.Tenant, Metric: "site.visit", Layer: x.View.Active}, from, to,
		func(minute, _ int64, _ []byte) error {
			first = minute
			return errFound
		})
	if errors.Is(err, errFound) {
		err = nil
	}
	return first, err
}

// Span is the time of which the view has anything, minutes [from, to): the covered windows, and the stream before them and as far
// as it is complete. It is empty if nothing is known.
func (x *Resolved) Span() (from, to int64) {
	to = x.CompleteThrough
	if w := x.View.Windows; len(w) > 0 {
		to = max(to, w[len(w)-1].To)
	}
	return x.begin, to
}

// KnownFrom is the first minute from another on from which on all sums are known: those of minutes that have expired by the
// rollups of whole windows, which are kept for longer.
func (x *Resolved) KnownFrom(minute int64) int64 {
	known, oldest := x.Known(), x.knownFor(batch.RollupMS)
	w := x.View.Windows
	for i := sort.Search(len(w), func(i int) bool { return w[i].From >= known }) - 1; i >= 0; i-- {
		if w[i].To < known || w[i].From < max(minute, oldest) {
			break
		}
		known = w[i].From
	}
	return max(minute, known)
}

// Known is the first minute whose sums have not expired. Rollups of whole windows may be known for longer.
func (x *Resolved) Known() int64 {
	revs := x.Chain.Revs
	return x.knownFor(revs[len(revs)-1].Config.Retention)
}

// knownFor is from which minute on minutes that are kept for so many ms have not expired; one more, since time goes on while they
// are read.
func (x *Resolved) knownFor(keep int64) int64 { return (x.now-keep)/60_000 + 1 }

// Split divides a stored metric name, as "fm.order.revenue", in scope and name.
func Split(metric string) (scope, name string) {
	scope, name, _ = strings.Cut(metric, ".")
	return scope, name
}

// errLimitTime is the cause of a context that ended by Limits.Time.
var errLimitTime = errors.New("time limit of a request")
