package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve"
	"tandem/jobs/site"
	"tandem/schemas/blob"
)

// serveLook is how often configs, formulas and tokens are read again.
const serveLook = 5 * time.Second

// servedTenant is what a tenant is served by.
type servedTenant struct {
	chain    *tenant.Chain
	texts    []string // of its revisions
	formulas string   // file; empty: builtin, and without that those of any tenant
	builtin  []byte
}

// servedSite is a site that is served, as its file and its chains say it now. Its metric store is the one that the service began with.
type servedSite struct {
	file string

	mu    sync.Mutex
	site  *site.Site
	blobs blob.Store
}

// openServed opens a site.
func openServed(file string) (*servedSite, error) {
	s := &servedSite{file: file}
	var err error
	s.site, s.blobs, err = site.Open(file)
	return s, err
}

// now is the site as it was last read.
func (s *servedSite) now() (*site.Site, blob.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.site, s.blobs
}

// look reads the file again, and gives the tenants. Readers see what the batch says of the past, splices included.
func (s *servedSite) look() ([]servedTenant, error) {
	was, blobs := s.now()
	next, blobs, err := site.Again(s.file, was, blobs)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.site, s.blobs = next, blobs
	s.mu.Unlock()
	var all []servedTenant
	for i := range next.Tenants {
		t := &next.Tenants[i]
		all = append(all, servedTenant{chain: t.Spliced, texts: t.Texts(), formulas: t.Formulas})
	}
	return all, nil
}

// batch is what a tenant's batch and archive are reached by.
func (s *servedSite) batch(name string) (*batchJob, *site.Tenant, error) {
	b := &batchJob{log: slog.New(slog.DiscardHandler), bar: &bar{}}
	b.site, b.blobs = s.now()
	for i := range b.site.Tenants {
		if t := &b.site.Tenants[i]; t.Chain.Tenant == name {
			return b, t, nil
		}
	}
	return nil, nil, fmt.Errorf("the site has no tenant %q", name)
}

// load reads the tenant's formula repository. A bad one is an error for a tenant that is new; one that is served keeps the
// repository that it has, and tells the trouble.
func (t *servedTenant) load(old *serve.Tenant) (*serve.Tenant, error) {
	out := &serve.Tenant{Chain: t.chain, Texts: t.texts}
	data, name := t.builtin, "the shop's formulas"
	if t.formulas != "" {
		var err error
		name = t.formulas
		if data, err = readFormulas(t.formulas); err != nil {
			return keepFormulas(out, old, err)
		}
	}
	if data == nil {
		out.Formulas = serve.AnyFormulas(t.chain)
		return out, nil
	}
	r, err := formula.Load(name, data)
	if err == nil && r.Tenant != t.chain.Tenant {
		err = fmt.Errorf("%s: these are formulas of tenant %q, not of %q", name, r.Tenant, t.chain.Tenant)
	}
	if err != nil {
		return keepFormulas(out, old, err)
	}
	out.Formulas = r
	return out, nil
}

func keepFormulas(out, old *serve.Tenant, err error) (*serve.Tenant, error) {
	if old == nil {
		return nil, err
	}
	out.Formulas, out.Trouble = old.Formulas, err.Error()
	return out, nil
}

func readFormulas(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, formula.MaxBytes+1))
}

// servedTenants are the tenants as they are now.
type servedTenants struct {
	read func() ([]servedTenant, error)
	all  atomic.Pointer[map[string]*serve.Tenant]
}

func newServedTenants(read func() ([]servedTenant, error)) *servedTenants {
	t := &servedTenants{read: read}
	t.all.Store(&map[string]*serve.Tenant{})
	return t
}

func (t *servedTenants) get(name string) *serve.Tenant { return (*t.all.Load())[name] }

func (t *servedTenants) names() (all []string) {
	for n := range *t.all.Load() {
		all = append(all, n)
	}
	return all
}

// look reads everything again. What cannot be read leaves all as it is.
func (t *servedTenants) look() error {
	list, err := t.read()
	if err != nil {
		return err
	}
	all := map[string]*serve.Tenant{}
	for i := range list {
		name := list[i].chain.Tenant
		if all[name], err = list[i].load(t.get(name)); err != nil {
			return err
		}
	}
	t.all.Store(&all)
	return nil
}

// follow looks every so often until the context ends. A trouble is logged once.
func (t *servedTenants) follow(ctx context.Context, every time.Duration, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	told, toldAll := map[string]string{}, ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := t.look(); err != nil {
			if err.Error() != toldAll {
				log.Error("configs or formulas cannot be read; those in force stay", "err", err)
			}
			toldAll = err.Error()
			continue
		}
		toldAll = ""
		for name, one := range *t.all.Load() {
			if one.Trouble != told[name] && one.Trouble != "" {
				log.Error("formulas cannot be read; those in force stay", "tenant", name, "err", one.Trouble)
			} else if one.Trouble != told[name] {
				log.Info("formulas can be read again", "tenant", name)
			}
			told[name] = one.Trouble
		}
	}
}
