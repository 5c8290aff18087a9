package serve

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"
)

// Limits are those of a tenant, beside those of each request (read.Limits).
type Limits struct {
	Concurrent int     // requests at once, those that wait for Working and those whose answer is being sent included
	Working    int     // of those, answers that are worked out at once: each takes memory
	PerSecond  float64 // on average
	Burst      float64 // at once beyond that
	Body       int64   // bytes of a request's body
}

// DefaultLimits let a few hundred people look at pages of one tenant.
func DefaultLimits() Limits {
	return Limits{Concurrent: 256, Working: 16, PerSecond: 500, Burst: 1_000, Body: 1 << 20}
}

// gates hold each tenant to its limits. Only tenants that exist have one, so there are few.
type gates struct {
	limits Limits
	mu     sync.Mutex
	of     map[string]*gate
}

type gate struct {
	inside int
	tokens float64
	at     time.Time
	work   chan struct{}
}

// workWait is how long a request waits for its turn to be worked out.
const workWait = 20 * time.Second

// Work waits for the request's turn. The answer is worked out before done is called, and sent after it: a client that reads slowly
// is in the way of nobody.
func (q *Request) Work(ctx context.Context) (done func(), err error) {
	if q.Tenant == nil {
		return func() {}, nil // of no tenant there is nothing to work out
	}
	wait := time.NewTimer(workWait)
	defer wait.Stop()
	select {
	case q.work <- struct{}{}:
		return func() { <-q.work }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		return nil, &Problem{Status: http.StatusTooManyRequests, Title: "Too many requests at once", Limit: "work", after: workWait / 4}
	}
}

func newGates(l Limits) *gates { return &gates{limits: l, of: map[string]*gate{}} }

// enter lets a request in, or says when to come again.
func (g *gates) enter(name string, now time.Time) (work chan struct{}, leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.of[name]
	if one == nil {
		one = &gate{tokens: g.limits.Burst, at: now, work: make(chan struct{}, g.limits.Working)}
		g.of[name] = one
	}
	if past := now.Sub(one.at).Seconds(); past > 0 {
		one.tokens = min(g.limits.Burst, one.tokens+past*g.limits.PerSecond)
		one.at = now
	}
	switch {
	case one.tokens < 1:
		after := time.Duration(math.Ceil((1 - one.tokens) / g.limits.PerSecond * float64(time.Second)))
		return nil, nil, &Problem{Status: http.StatusTooManyRequests, Title: "Too many requests", Limit: "rate", after: after}
	case one.inside >= g.limits.Concurrent:
		return nil, nil, &Problem{Status: http.StatusTooManyRequests, Title: "Too many requests at once", Limit: "concurrency", after: time.Second}
	}
	one.tokens--
	one.inside++
	return one.work, func() {
		g.mu.Lock()
		one.inside--
		g.mu.Unlock()
	}, nil
}
