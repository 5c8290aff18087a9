package serve

import (
	"math"
	"net/http"
	"sync"
	"time"
)

// Limits are those of a tenant, beside those of each request (read.Limits).
type Limits struct {
	Concurrent int     // requests at once
	PerSecond  float64 // on average
	Burst      float64 // at once beyond that
	Body       int64   // bytes of a request's body
}

// DefaultLimits let a few hundred people look at pages of one tenant.
func DefaultLimits() Limits {
	return Limits{Concurrent: 256, PerSecond: 500, Burst: 1_000, Body: 1 << 20}
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
}

func newGates(l Limits) *gates { return &gates{limits: l, of: map[string]*gate{}} }

// enter lets a request in, or says when to come again.
func (g *gates) enter(name string, now time.Time) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.of[name]
	if one == nil {
		one = &gate{tokens: g.limits.Burst, at: now}
		g.of[name] = one
	}
	if past := now.Sub(one.at).Seconds(); past > 0 {
		one.tokens = min(g.limits.Burst, one.tokens+past*g.limits.PerSecond)
		one.at = now
	}
	switch {
	case one.tokens < 1:
		after := time.Duration(math.Ceil((1 - one.tokens) / g.limits.PerSecond * float64(time.Second)))
		return nil, &Problem{Status: http.StatusTooManyRequests, Title: "Too many requests", Limit: "rate", after: after}
	case one.inside >= g.limits.Concurrent:
		return nil, &Problem{Status: http.StatusTooManyRequests, Title: "Too many requests at once", Limit: "concurrency", after: time.Second}
	}
	one.tokens--
	one.inside++
	return func() {
		g.mu.Lock()
		one.inside--
		g.mu.Unlock()
	}, nil
}
