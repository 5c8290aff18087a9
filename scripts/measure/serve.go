package main

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tandem/core/formula"
	"tandem/jobs/serve"
	"tandem/jobs/serve/pages"
	"tandem/jobs/serve/prom"
	"tandem/jobs/serve/read"
)

//go:embed formulas.yaml
var benchFormulas []byte

const (
	asksEach = 200 // requests of each kind, one after another, as many as there is time for
	asksTime = 20 * time.Second
	// Readers look at an experiment's page, which asks again twice a minute, for some minutes, and then at the list and at
	// another; one in ten asks by formulas instead.
	readers       = 200
	readerRefresh = 30 * time.Second
	readerStays   = 5 // refreshes
	// readersMemory is what the process may take, which makes the requests too.
	readersMemory = 2 << 30
)

// serving is a server of a month on loopback, and what asks it.
type serving struct {
	url    string
	client *http.Client
	now    time.Time
	asked  []serve.Ask // formulas
}

// startServing serves a month as tandem serve does, without tokens. The clock goes on from the month's end.
func startServing(m *month) (*serving, func() error, error) {
	formulas, err := formula.Load("formulas.yaml", benchFormulas)
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	begin := time.Now()
	now := func() time.Time { return m.now.Add(time.Since(begin)) }
	source := &pages.Stored{Now: now}
	shown, err := pages.New(source, readerRefresh, log)
	if err != nil {
		return nil, nil, err
	}
	one := &serve.Tenant{Chain: m.chain, Formulas: formulas}
	limits := serve.DefaultLimits()
	handler := serve.NewHandler(serve.Config{
		Reader: read.New(m.store, read.Options{Limits: read.DefaultLimits(), Now: now}),
		Tenant: func(name string) *serve.Tenant {
			if name == m.chain.Tenant {
				return one
			}
			return nil
		},
		Tenants: func() []string { return []string{m.chain.Tenant} },
		Limits:  limits, Pages: shown, Frame: pages.Frame, Log: log, Now: time.Now,
		Prom: prom.New(prom.Config{Fail: serve.Fail, Now: now, Limits: prom.DefaultLimits(),
			Resolve: func(r *http.Request) (*read.Resolved, error) {
				return serve.FromContext(r.Context()).Resolve(r.Context())
			},
			Formulas: func(*http.Request) *formula.Repository { return formulas },
			Work:     func(r *http.Request) (func(), error) { return serve.FromContext(r.Context()).Work(r.Context()) },
		}),
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	server := &http.Server{Handler: handler}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = readers
	s := &serving{url: "http://" + l.Addr().String(), client: &http.Client{Timeout: time.Minute, Transport: transport}, now: m.now}
	for _, f := range formulas.Formulas[:20] {
		s.asked = append(s.asked, serve.Ask{ID: f.ID})
	}
	return s, func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

// ask is one request, made of an experiment's number.
type ask struct {
	name string
	make func(s *serving, i int) (*http.Request, error)
}

func page(path string) func(*serving, int) (*http.Request, error) {
	return func(s *serving, i int) (*http.Request, error) {
		return http.NewRequest(http.MethodGet, s.url+strings.ReplaceAll(path, "EXP", monthName(i)), nil)
	}
}

func (s *serving) formulas(i int, span time.Duration, step string) (*http.Request, error) {
	b := serve.Batch{Formulas: s.asked}
	to := s.now.Truncate(time.Hour)
	b.Experiment, b.Step, b.Compare = monthName(i), step, true
	b.From, b.To = to.Add(-span).UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)
	body, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, s.url+"/uswm", bytes.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

var asks = []ask{
	{"experiments list", page("/uswm/page/experiments")},
	{"experiment page", page("/uswm/page/experiment/EXP")},
	{"the same, all of its time", page("/uswm/page/experiment/EXP?range=all")},
	{"24 h of 20 formulas", func(s *serving, i int) (*http.Request, error) { return s.formulas(i, 24*time.Hour, "5m") }},
	{"24 h of 20 formulas by the minute", func(s *serving, i int) (*http.Request, error) { return s.formulas(i, 24*time.Hour, "1m") }},
	{"30 days of 20 formulas", func(s *serving, i int) (*http.Request, error) { return s.formulas(i, 29*24*time.Hour, "6h") }},
	{"PromQL, 24 h", func(s *serving, i int) (*http.Request, error) {
		q := url.Values{"query": {`sum by (variation) (fm:order{experiment="` + monthName(i) + `"})`}, "step": {"300"},
			"start": {strconv.FormatInt(s.now.Add(-24*time.Hour).Unix(), 10)}, "end": {strconv.FormatInt(s.now.Unix(), 10)}}
		return http.NewRequest(http.MethodGet, s.url+"/uswm/api/v1/query_range?"+q.Encode(), nil)
	}},
}

// do makes a request as a browser does, and returns the bytes that came over the wire.
func (s *serving) do(ctx context.Context, r *http.Request) (int, error) {
	r.Header.Set("Accept-Encoding", "gzip") // asked for by hand, it is not unpacked
	resp, err := s.client.Do(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
			data, _ = io.ReadAll(z) // what can be read of an error's text
		}
		return 0, fmt.Errorf("%s: %s: %.300s", r.URL.Path, resp.Status, data)
	}
	return len(data), nil
}

// serveMonth measures what people and programs ask of a month of 150 experiments.
func serveMonth(ctx context.Context, b *bench, m *meter) error {
	dir := filepath.Join(b.keep, "month")
	month, err := openMonth(ctx, b, dir)
	if err != nil {
		return err
	}
	defer month.store.Close()
	b.recs = nil                                      // what memory the server takes is its own
	defer debug.SetGCPercent(debug.SetGCPercent(200)) // as tandem serve sets it
	s, stop, err := startServing(month)
	if err != nil {
		return err
	}
	if month.note != "" {
		m.note("%s", month.note)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	m.n = 0
	err = m.run(func() error {
		for _, a := range asks {
			var took []time.Duration
			bytes := 0
			for begin := time.Now(); len(took) < asksEach && time.Since(begin) < asksTime; {
				r, err := a.make(s, rng.IntN(monthExperiments))
				if err != nil {
					return err
				}
				sent := time.Now()
				n, err := s.do(ctx, r)
				if err != nil {
					return fmt.Errorf("%s: %w", a.name, err)
				}
				took = append(took, time.Since(sent))
				bytes = max(bytes, n)
			}
			m.n += len(took)
			m.note("%-34s first %s; of %d p50 %s, p95 %s, p99 %s, most %d kB", a.name, took[0].Round(10*time.Microsecond), len(took), at(took, 50), at(took, 95), at(took, 99), bytes/1000)
			fmt.Fprintln(os.Stderr, m.notes[len(m.notes)-1])
		}
		return nil
	})
	if err == nil {
		err = s.weigh(ctx, m)
	}
	if err == nil && b.readers > 0 {
		err = s.crowd(ctx, b.readers, m)
	}
	return errors.Join(err, stop())
}

// weigh tells how many bytes the page of an experiment takes that a browser has never seen.
func (s *serving) weigh(ctx context.Context, m *meter) error {
	total := 0
	paths := []string{"/uswm/experiment/EXP", "/uswm/page/experiment/EXP"}
	for _, name := range []string{"app.js", "charts.js", "experiment.js", "theme.js", "ui.js", "uplot.js", "style.css", "uplot.css", "icon.svg"} {
		paths = append(paths, "/static/"+name)
	}
	for _, path := range paths {
		r, err := page(path)(s, 7)
		if err != nil {
			return err
		}
		n, err := s.do(ctx, r)
		if err != nil {
			return err
		}
		total += n
	}
	m.note("page weight: %d kB compressed", total/1000)
	return nil
}

// crowd has people look at pages at once for a while.
func (s *serving) crowd(ctx context.Context, length time.Duration, m *meter) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var mu sync.Mutex
	var took []time.Duration
	var failed []error
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(i)))
			looked := 0
			for n := 0; ; n++ {
				pause := readerRefresh
				if n == 0 {
					pause = time.Duration(rng.Int64N(int64(readerRefresh)))
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
				what := "experiment page"
				switch {
				case n%readerStays == 0:
					what, looked = "experiments list", rng.IntN(monthExperiments)
				case i%10 == 0:
					what = "24 h of 20 formulas"
				}
				a := asks[slices.IndexFunc(asks, func(a ask) bool { return a.name == what })]
				r, err := a.make(s, looked)
				at := time.Now()
				if err == nil {
					_, err = s.do(context.WithoutCancel(ctx), r)
				}
				mu.Lock()
				took = append(took, time.Since(at))
				if err != nil {
					failed = append(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	peak, err := peakBytes()
	if err != nil {
		return err
	}
	m.note("%d readers for %s: %d requests, p50 %s, p95 %s, p99 %s; %d failed; peak %d MB", readers, length, len(took), at(took, 50), at(took, 95), at(took, 99),
		len(failed), peak>>20)
	if peak > readersMemory {
		return fmt.Errorf("%d MB of memory, more than %d", peak>>20, readersMemory>>20)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d requests failed, one of them: %w", len(failed), failed[0])
	}
	return nil
}
