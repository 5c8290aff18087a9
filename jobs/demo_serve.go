package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"golang.org/x/net/netutil"

	"tandem/batch"
	"tandem/jobs/serve"
	"tandem/jobs/serve/pages"
	"tandem/jobs/serve/read"
	"tandem/schemas/traffic"
)

// demoAddress is where a demo is served if it may be.
const demoAddress = "127.0.0.1:8080"

// demoRefresh is how often a page of a demo asks again: in time-lapse numbers change by the second.
const demoRefresh = 2 * time.Second

// pagesSource is where the pages' data come from.
func (d *demo) pagesSource() *pages.Stored {
	st := d.pipeline.Store
	return &pages.Stored{
		Now:   func() time.Time { return time.UnixMilli(d.seen.Load()) },
		Batch: func(string) (*batch.Job, error) { return d.pipeline.Job(), nil },
		Explainer: func(ctx context.Context, _ string) (*batch.Explain, error) {
			return explainerOf(ctx, &batch.Explain{Job: d.pipeline.Job(), Live: d.chain, Store: st}, st, 1)
		},
	}
}

// demoServed is the server of a demo; nil: there is none.
type demoServed struct {
	url  string
	stop context.CancelFunc
	done chan error
}

// serve begins to serve the demo's store, if somebody may look at it.
func (d *demo) serve(ctx context.Context, stderr io.Writer) (*demoServed, error) {
	if d.opt.table || d.opt.listen == "" && !d.screen.terminal {
		return nil, nil
	}
	l, err := net.Listen("tcp", cmp.Or(d.opt.listen, demoAddress))
	if err != nil && d.opt.listen == "" {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, err
	}
	one := servedTenant{chain: d.chain, texts: d.texts}
	if d.opt.records == "" {
		one.builtin = traffic.Formulas()
	}
	tenants := newServedTenants(func() ([]servedTenant, error) { return []servedTenant{one}, nil })
	if err := tenants.look(); err != nil {
		return nil, err
	}
	shown, err := pages.New(d.pagesSource(), demoRefresh, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	handler := serve.NewHandler(serve.Config{
		Prom: asPrometheus(), Pages: shown, Frame: pages.Frame,
		Reader: read.New(d.pipeline.Store, read.Options{Limits: read.DefaultLimits(), Now: recordsTime}),
		Tenant: tenants.get, Tenants: tenants.names,
		Limits: serve.DefaultLimits(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	going, stop := context.WithCancel(ctx)
	s := &demoServed{url: "http://" + l.Addr().String() + "/", stop: stop, done: make(chan error, 1)}
	go func() { s.done <- serveHTTP(going, netutil.LimitListener(l, serveConnections), handler, servePatience) }()
	fmt.Fprintf(stderr, "Serving on %s, on this machine only.\n", s.url)
	return s, nil
}

// wait goes on serving what has come to its end until the context does.
func (s *demoServed) wait(ctx context.Context, stderr io.Writer) error {
	if s == nil {
		return nil
	}
	fmt.Fprintf(stderr, "%s stays until you press Ctrl-C.\n", s.url)
	<-ctx.Done()
	return s.end()
}

// end stops serving; the store is closed after it.
func (s *demoServed) end() error {
	if s == nil {
		return nil
	}
	s.stop()
	return <-s.done
}
