package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve"
	"tandem/jobs/serve/pages"
	"tandem/jobs/serve/prom"
	"tandem/jobs/serve/read"
	"tandem/jobs/site"
	"tandem/schemas/store"
	"tandem/schemas/traffic"
)

const serveUsage = `usage: tandem serve --site SITE.yaml | --data DIR [--config C.yaml] [--formulas F.yaml] [--listen 127.0.0.1:8080] [--tokens TOKENS.yaml] [--cert CERT.pem --key KEY.pem]

Answers over HTTP, until it is stopped, what a site's store holds, or the folder DIR that replay --data or demo --data left:
POST /{tenant} for formulas, GET /{tenant}/api/v1/... as Prometheus does, and pages. /openapi.json describes the API;
/healthz, /readyz and /metrics are for whoever runs it; /metrics names tenants and takes a token of all of them, "*".

Without --tokens everybody who can connect reads everything, so it then listens on loopback only. tandem token new prints a
token and its entry of the tokens file, which is read again when it changes. Of --data, --config names the tenant config;
absent, it is that of the made-up shop.

example:
  tandem serve --data shop.data --listen 127.0.0.1:8080
  tandem serve --site site.yaml --listen :8443 --tokens tokens.yaml --cert serve.pem --key serve.key --audit audit.log

`

// Limits of the server.
const (
	serveConnections = 1_024
	serveDrain       = 10 * time.Second // for what is being answered, after SIGTERM
)

// patience is how long the server waits for a client. One that sends or reads too slowly is cut off, and holds up nobody.
type patience struct {
	header time.Duration // to send the header of a request
	body   time.Duration // and all of it
	answer time.Duration // to work out an answer and read it
	work   time.Duration // to work it out: a store that does not answer is waited for no longer, and 503 says so
}

var servePatience = patience{header: 10 * time.Second, body: 20 * time.Second, answer: 90 * time.Second, work: time.Minute}

type serveOptions struct {
	services                                                       string
	look                                                           time.Duration // between looks at files
	site, data, config, formulas, listen, tokens, cert, key, audit string
}

// runServe is `tandem serve`.
func runServe(ctx context.Context, args []string, _, stderr io.Writer) int {
	o := serveOptions{look: serveLook}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.StringVar(&o.site, "site", "", "site `file`")
	flags.StringVar(&o.data, "data", "", "`folder` that replay --data or demo --data left")
	flags.StringVar(&o.config, "config", "", "tenant config of --data: a `file`, or a folder of revisions")
	flags.StringVar(&o.formulas, "formulas", "", "formula repository of --data: a `file`")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address`")
	flags.StringVar(&o.tokens, "tokens", "", "tokens `file`")
	flags.StringVar(&o.cert, "cert", "", "PEM `file` of the server's certificate, with --key")
	flags.StringVar(&o.key, "key", "", "PEM `file` of its key")
	flags.StringVar(&o.audit, "audit", "", "`file` to append a line to for each act of an admin")
	flags.StringVar(&o.services, "services", "", "base URLs of the services' --listen, with commas, for the page of operations")
	rest, code, over := parse(flags, serveUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "serve", "unexpected argument %q", rest[0])
	case (o.site == "") == (o.data == ""):
		return wrongUsage(stderr, "serve", "one of --site and --data is needed")
	case o.config+o.formulas != "" && o.data == "":
		return wrongUsage(stderr, "serve", "--config and --formulas go with --data; a site names those of its tenants itself")
	case (o.cert == "") != (o.key == ""):
		return wrongUsage(stderr, "serve", "--cert and --key go together")
	case o.tokens == "" && !loopback(o.listen):
		return wrongUsage(stderr, "serve", "--listen %s is not of loopback, and without --tokens everybody could read everything", o.listen)
	}
	return ended(stderr, "serve", o.run(ctx, slog.New(slog.NewTextHandler(stderr, nil))))
}

// loopback says whether an address to listen on can be reached from this machine only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// serveGC lets garbage come to twice what is held, a few 100 MB at most: requests make much and hold little.
const serveGC = 200

func (o *serveOptions) run(ctx context.Context, log *slog.Logger) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serveGC)
	}
	c := serve.Config{Limits: serve.DefaultLimits(), Log: log, Now: time.Now}
	going, stop := context.WithCancel(ctx)
	defer stop()
	if o.tokens != "" {
		var now atomic.Pointer[serve.Tokens]
		first, err := serve.ReadTokens(o.tokens)
		if err != nil {
			return err
		}
		now.Store(first)
		c.Tokens = now.Load
		go o.followTokens(going, log, &now)
	}
	if o.audit != "" {
		f, err := os.OpenFile(o.audit, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		c.Audit = serve.NewAuditLog(f)
	}
	st, tenants, served, now, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	c.Reader = read.New(st, read.Options{Limits: read.DefaultLimits(), Now: now})
	c.Tenant, c.Tenants = tenants.get, tenants.names
	if c.Pages, err = pages.New(o.source(c.Audit, st, served), pagesRefresh, log); err != nil {
		return err
	}
	c.Frame = pages.Frame
	c.Prom = asPrometheus()
	go tenants.follow(going, o.look, log)
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	l = netutil.LimitListener(l, serveConnections)
	scheme := "http"
	if o.cert != "" {
		scheme = "https"
		if _, err := tls.LoadX509KeyPair(o.cert, o.key); err != nil {
			return errors.Join(err, l.Close())
		}
		// Read for each connection, so that a certificate can be renewed.
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(o.cert, o.key)
				return &pair, err
			}})
	}
	log.Info("serving", "url", fmt.Sprintf("%s://%s/", scheme, l.Addr()), "tenants", len(tenants.names()))
	return serveHTTP(ctx, l, serve.NewHandler(c), servePatience)
}

// asPrometheus answers for the tenant of a request as Prometheus does.
func asPrometheus() http.Handler {
	return prom.New(prom.Config{Fail: serve.Fail, Now: time.Now, Limits: prom.DefaultLimits(),
		Resolve: func(r *http.Request) (*read.Resolved, error) {
			return serve.FromContext(r.Context()).Resolve(r.Context())
		},
		Formulas: func(r *http.Request) *formula.Repository { return serve.FromContext(r.Context()).Tenant.Formulas },
		Work:     func(r *http.Request) (func(), error) { return serve.FromContext(r.Context()).Work(r.Context()) },
	})
}

// followTokens reads the tokens file again every so often. While it cannot be read, the tokens stay as they are.
func (o *serveOptions) followTokens(ctx context.Context, log *slog.Logger, now *atomic.Pointer[serve.Tokens]) {
	tick := time.NewTicker(o.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if next, err := serve.ReadTokens(o.tokens); err != nil {
			log.Error("tokens cannot be read; those in force stay", "err", err)
		} else {
			now.Store(next)
		}
	}
}

// serveHTTP serves until the context ends, and then what has begun.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, p patience) error {
	within := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), p.work)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	}
	s := &http.Server{Handler: http.HandlerFunc(within), ReadHeaderTimeout: p.header, ReadTimeout: p.body, WriteTimeout: p.answer, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: log.New(discard{}, "", 0)}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), serveDrain)
	defer cancel()
	if err := s.Shutdown(drain); err != nil {
		return s.Close()
	}
	return nil
}

// open opens the store, and says which tenants there are and by which clock its rows expire; served is nil of a folder.
func (o *serveOptions) open(ctx context.Context) (st store.Store, t *servedTenants, served *servedSite, now func() time.Time, err error) {
	if o.data != "" {
		one, err := o.dataTenant()
		if err != nil {
			return nil, nil, nil, nil, err
		}
		t = newServedTenants(func() ([]servedTenant, error) { return []servedTenant{one}, nil })
		if err = t.look(); err == nil {
			st, err = o.openData(ctx, one.chain.Tenant)
		}
		return st, t, nil, recordsTime, err
	}
	if served, err = openServed(o.site); err != nil {
		return nil, nil, nil, nil, err
	}
	t = newServedTenants(served.look)
	if err = t.look(); err == nil {
		st, err = served.site.OpenStore(ctx)
	}
	return st, t, served, time.Now, err
}

// openData opens the store of --data, which must hold something of the tenant.
func (o *serveOptions) openData(ctx context.Context, name string) (store.Store, error) {
	st, err := openExported(ctx, "", o.data)
	if err != nil {
		return nil, err
	}
	some, err := holdsOf(ctx, st, name)
	if err == nil && !some {
		err = fmt.Errorf("%s holds nothing of tenant %q: --config names the config that it was made with, without it that is the made-up shop's", o.data, name)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// dataTenant is the tenant of --data.
func (o *serveOptions) dataTenant() (one servedTenant, err error) {
	one.formulas = o.formulas
	if o.config != "" {
		var files []tenant.File
		one.chain, files, err = site.LoadWritten(o.config)
		if err == nil {
			one.texts = site.Texts(files, one.chain)
		}
		return one, err
	}
	if one.formulas == "" {
		one.builtin = traffic.Formulas()
	}
	one.texts = []string{string(traffic.Config())}
	one.chain, err = shopChain()
	return one, err
}

// shopChain is that of the made-up shop.
func shopChain() (*tenant.Chain, error) {
	cfg, err := tenant.Load("the shop's config", traffic.Config())
	if err != nil {
		return nil, err
	}
	return tenant.Compile([]*tenant.Config{cfg})
}
