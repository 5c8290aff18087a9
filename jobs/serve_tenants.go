package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"tandem/core/formula"
	"tandem/core/tenant"
	"tandem/jobs/serve"
	"tandem/jobs/site"
)

// serveLook is how often configs, formulas and tokens are read again.
const serveLook = 5 * time.Second

// servedTenant is what a tenant is served by.
type servedTenant struct {
	chain    *tenant.Chain
	objects  int    // of its chain in storage
	formulas string // file; empty: builtin, and without that those of any tenant
	builtin  []byte
}

// siteTenants are those of a site. Readers see what the batch says of the past, splices included.
func siteTenants(s *site.Site) (all []servedTenant) {
	for i := range s.Tenants {
		t := &s.Tenants[i]
		one := servedTenant{chain: t.Spliced, formulas: t.Formulas}
		if t.Configs != nil {
			one.objects = len(t.Configs.Objects)
		}
		all = append(all, one)
	}
	return all
}

// load reads the tenant's formula repository. A bad one is an error for a tenant that is new; one that is served keeps the
// repository that it has, and tells the trouble.
func (t *servedTenant) load(old *serve.Tenant) (*serve.Tenant, error) {
	out := &serve.Tenant{Chain: t.chain}
	data, name := t.builtin, "the shop's formulas"
	if t.formulas != "" {
		var err error
		name = t.formulas
		if data, err = readFormulas(t.formulas); err != nil {
			return keepFormulas(out, old, err)
		}
	}
	if data == nil {
		out.Formulas = serve.AnyFormulas()
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
	was  map[string]int // objects of each chain that is served
	all  atomic.Pointer[map[string]*serve.Tenant]
}

func newServedTenants(read func() ([]servedTenant, error)) *servedTenants {
	t := &servedTenants{read: read, was: map[string]int{}}
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
		old := t.get(name)
		if old != nil && t.was[name] == list[i].objects {
			list[i].chain = old.Chain // the same: what is held by it stays good
		}
		one, err := list[i].load(old)
		if err != nil {
			return err
		}
		all[name], t.was[name] = one, list[i].objects
	}
	t.all.Store(&all)
	return nil
}

// follow looks every serveLook until the context ends.
func (t *servedTenants) follow(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(serveLook)
	defer tick.Stop()
	told := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := t.look(); err != nil && !errors.Is(err, context.Canceled) {
			log.Error("configs or formulas cannot be read; those in force stay", "err", err)
			continue
		}
		for name, one := range *t.all.Load() {
			if one.Trouble != told[name] && one.Trouble != "" {
				log.Error("formulas cannot be read; those in force stay", "tenant", name, "err", one.Trouble)
			}
			told[name] = one.Trouble
		}
	}
}
