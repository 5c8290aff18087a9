// Package serve is the HTTP service: formulas over the read path (jobs/serve/read), access, limits. The Prometheus-
// compatible API and the pages are mounted into it.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
)

// Tenant is what a tenant's requests are answered from: its chain of configs as the batch reads by it, with splices. It
// is immutable; a newer one replaces it as a whole.
type Tenant struct {
	Chain *tenant.Chain
	// Texts are the configs of the chain's revisions as they were written.
	Texts    []string
	Formulas *formula.Repository
	// Trouble, if not empty, says why the repository's file cannot be read as it is now: Formulas is the one before.
	Trouble string
}

// Config says what a server serves.
type Config struct {
	Reader *read.Reader
	// Tenant gives a tenant as it is now, nil if there is none; Tenants are all names.
	Tenant  func(name string) *Tenant
	Tenants func() []string
	// Tokens gives the tokens as they are now. It is nil where everybody who can connect may read and administer: on
	// loopback only.
	Tokens func() *Tokens
	Limits Limits
	// Prom and Pages are mounted, Prom below /{tenant}/api/v1/, Pages at all paths of GET that are nobody else's. What
	// they get has passed access and limits; FromContext gives the tenant. Nil: not there.
	Prom, Pages http.Handler
	// Frame says which paths of Pages hold nothing of anybody, so that a browser gets them without a token and can ask for one.
	Frame func(path string) bool
	Audit *AuditLog // nil: none is kept
	Log   *slog.Logger
	Now   func() time.Time
}

// NewHandler returns the handler of the whole service.
func NewHandler(c Config) http.Handler {
	s := &server{Config: c, gates: newGates(c.Limits), registry: prometheus.NewRegistry()}
	s.measure()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.ofAll(promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})))
	mux.HandleFunc("GET /openapi.json", openAPI)
	mux.Handle("/", s.observed(http.HandlerFunc(s.route)))
	// Browsers send the cookie of a token along with whatever another site makes them ask for; such acts are refused.
	return headers(http.NewCrossOriginProtection().Handler(mux))
}

type server struct {
	Config
	gates    *gates
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
}

func (s *server) measure() {
	s.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tandem_serve_request_seconds",
		Help: "Time that requests took, by kind and class of status.", Buckets: []float64{.005, .025, .1, .3, 1, 5, 30}}, []string{"kind", "status"})
	s.registry.MustRegister(s.requests, (*tenants)(s))
}

// tenants tells of each tenant what only who reads its store, and its formulas, can tell: that nobody runs the batch, for one.
type tenants server

var (
	staleDesc = prometheus.NewDesc("tandem_serve_formulas_stale", "1 while a tenant's formula repository cannot be read and the one before is served, else 0.", []string{"tenant"}, nil)
	// Whoever compares the two sees a batch that has come to a stop, also where it is a cron job that nobody can scrape.
	completeDesc = prometheus.NewDesc("tandem_serve_complete_timestamp_seconds", "Event time before which readers miss nothing but late beacons; 0 if nothing is known.", []string{"tenant"}, nil)
	coveredDesc  = prometheus.NewDesc("tandem_serve_covered_timestamp_seconds", "End of the last window that the batch has covered; 0 if there is none.", []string{"tenant"}, nil)
)

// scrapeTime bounds what a scrape waits for the store; tenants that are not read by then have no times.
const scrapeTime = 5 * time.Second

// Describe implements prometheus.Collector.
func (*tenants) Describe(out chan<- *prometheus.Desc) {
	out <- staleDesc
	out <- completeDesc
	out <- coveredDesc
}

// Collect implements prometheus.Collector.
func (s *tenants) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	for _, name := range s.Tenants() {
		t := s.Tenant(name)
		if t == nil {
			continue
		}
		gauge := func(d *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
		}
		stale := 0.
		if t.Trouble != "" {
			stale = 1
		}
		gauge(staleDesc, stale)
		x, err := s.Reader.Resolve(ctx, t.Chain)
		if err != nil {
			continue // /readyz tells
		}
		covered := int64(0)
		if w := x.View.Windows; len(w) > 0 {
			covered = w[len(w)-1].To
		}
		gauge(completeDesc, float64(x.CompleteThrough*60))
		gauge(coveredDesc, float64(covered*60))
	}
}

// ofAll answers those only who may see all tenants: what h tells names them.
func (s *server) ofAll(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.identify(r)
		if err == nil && !who.may("*") {
			err = &Problem{Status: http.StatusForbidden, Title: "This takes a token of all tenants", Detail: `it names tenants; send a token whose tenants in the tokens file are "*"`}
		}
		if err != nil {
			Fail(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// route finds whose request it is: of a tenant, or of the pages of no tenant.
func (s *server) route(w http.ResponseWriter, r *http.Request) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if s.frame(r) {
		mounted(s.Pages, w, r)
		return
	}
	if first == "" {
		s.front(w, r)
		return
	}
	who, err := s.identify(r)
	if err != nil {
		Fail(w, err)
		return
	}
	// A tenant that is none and one that is not the caller's are answered the same, and take the same way to there.
	t := s.Tenant(first)
	if allowed := who.may(first); t == nil || !allowed {
		Fail(w, errNotFound)
		return
	}
	work, leave, err := s.gates.enter(first, s.Now())
	if err != nil {
		Fail(w, err)
		return
	}
	defer leave()
	r = r.WithContext(context.WithValue(r.Context(), contextKey{}, &Request{Tenant: t, Reader: s.Reader, Who: who, From: r.RemoteAddr, Audit: s.Audit, work: work}))
	switch {
	case rest == "" && r.Method == http.MethodPost:
		s.formulas(w, r)
	case (rest == "download.csv" || rest == "download.parquet") && r.Method == http.MethodGet:
		s.download(w, r, strings.TrimPrefix(rest, "download."))
	case strings.HasPrefix(rest, "api/v1/"):
		mounted(s.Prom, w, r)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		mounted(s.Pages, w, r)
	case r.Method == http.MethodPost:
		if who.Role != RoleAdmin {
			Fail(w, &Problem{Status: http.StatusForbidden, Title: "This takes a token of role admin"})
			return
		}
		mounted(s.Pages, w, r)
	default:
		Fail(w, &Problem{Status: http.StatusMethodNotAllowed, Title: "No such method here"})
	}
}

// frame says whether a request is for something that holds nothing of anybody. The front page is asked for data too.
func (s *server) frame(r *http.Request) bool {
	return r.Method == http.MethodGet && s.Frame != nil && s.Frame(r.URL.Path) && (r.URL.Path != "/" || !strings.Contains(r.Header.Get("Accept"), "application/json"))
}

// front serves the front page, which belongs to no tenant.
func (s *server) front(w http.ResponseWriter, r *http.Request) {
	who, err := s.identify(r)
	if err != nil {
		Fail(w, err)
		return
	}
	var names []string
	for _, n := range s.Tenants() {
		if who.may(n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	mounted(s.Pages, w, r.WithContext(context.WithValue(r.Context(), contextKey{}, &Request{Reader: s.Reader, Who: who, Tenants: names})))
}

func mounted(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if h == nil {
		Fail(w, errNotFound)
		return
	}
	h.ServeHTTP(w, r)
}

// Request is what a mounted handler is told of a request.
type Request struct {
	Tenant  *Tenant // nil at paths of no tenant
	Reader  *read.Reader
	Who     *Identity
	From    string    // address of who is connected: of a proxy, where one stands before
	Audit   *AuditLog // nil: none is kept
	Tenants []string  // at paths of no tenant: those that the caller may see, by name

	work chan struct{} // of the tenant
}

// Resolve reads which layers stand for the request's tenant.
func (q *Request) Resolve(ctx context.Context) (*read.Resolved, error) {
	return q.Reader.Resolve(ctx, q.Tenant.Chain)
}

type contextKey struct{}

// FromContext gives what a mounted handler is told of its request.
func FromContext(ctx context.Context) *Request {
	q, _ := ctx.Value(contextKey{}).(*Request)
	return q
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	for _, n := range s.Tenants() {
		t := s.Tenant(n)
		if t == nil {
			continue
		}
		if _, err := s.Reader.Resolve(ctx, t.Chain); err != nil {
			s.Log.Warn("not ready", "error", err)
			http.Error(w, "not ready: the store does not answer", http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ready")
}

// headers are those of every answer.
func headers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
		header.Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// observed measures requests and outlives what panics.
func (s *server) observed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		o := &observer{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.Log.Error("a request panicked", "path", r.URL.Path, "panic", p)
				if !o.wrote {
					Fail(o, errors.New("panic"))
				}
			}
			kind := "page"
			switch {
			case strings.Contains(r.URL.Path, "/api/v1/"):
				kind = "prom"
			case r.Method == http.MethodPost:
				kind = "formulas"
			}
			s.requests.WithLabelValues(kind, fmt.Sprintf("%dxx", o.status/100)).Observe(time.Since(at).Seconds())
		}()
		h.ServeHTTP(o, r)
	})
}

type observer struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (o *observer) WriteHeader(status int) {
	o.status, o.wrote = status, true
	o.ResponseWriter.WriteHeader(status)
}

func (o *observer) Write(b []byte) (int, error) {
	o.wrote = true
	return o.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (o *observer) Unwrap() http.ResponseWriter { return o.ResponseWriter }
