package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tandem/batch"
	"tandem/jobs/serve"
	"tandem/jobs/serve/pages"
	"tandem/jobs/site"
	"tandem/schemas/store"
)

// pagesRefresh is how often a page that is open asks again: numbers change by the minute.
const pagesRefresh = 30 * time.Second

// promoteLag is how many minutes a layer that is promoted may be behind, promoteWait how long stage 2 of a layer may take to write what it held.
const (
	promoteLag  = 5
	promoteWait = 30 * time.Second
)

// source is where the pages' data come from. A folder of records of the past has neither archive nor services.
func (o *serveOptions) source(audit *serve.AuditLog, st store.Store) (*pages.Stored, error) {
	s := &pages.Stored{Audit: audit}
	for url := range strings.SplitSeq(o.services, ",") {
		if url = strings.TrimSuffix(strings.TrimSpace(url), "/"); url != "" {
			s.Services = append(s.Services, url)
		}
	}
	if o.site == "" {
		return s, nil
	}
	loaded, err := site.Load(o.site)
	if err != nil {
		return nil, err
	}
	s.Now = time.Now
	own := loaded.Layer()
	s.Layers = []string{own}
	open := func(name string) (*batchJob, *site.Tenant, error) {
		b := &batchJob{log: slog.New(slog.DiscardHandler), bar: &bar{}}
		var err error
		if b.site, b.blobs, err = site.Open(o.site); err != nil {
			return nil, nil, err
		}
		if err := b.only(name); err != nil {
			return nil, nil, err
		}
		return b, &b.site.Tenants[0], nil
	}
	s.Batch = func(name string) (*batch.Job, error) {
		b, t, err := open(name)
		if err != nil {
			return nil, err
		}
		return b.job(t)
	}
	s.Explainer = func(ctx context.Context, name string) (*batch.Explain, error) {
		b, t, err := open(name)
		if err != nil {
			return nil, err
		}
		return b.explainer(ctx, t, st)
	}
	s.Promoter = func(ctx context.Context, name, layer string) error {
		j := &failoverJob{store: st, own: own, partitions: int(loaded.Metrics.Partitions), lag: promoteLag, wait: promoteWait,
			log: slog.New(slog.DiscardHandler), now: time.Now}
		if !strings.HasPrefix(layer, "stream.") {
			return fmt.Errorf("%w: %q is no layer of a stream", pages.ErrRequest, layer)
		}
		return j.change(ctx, name, layer, "asked for")
	}
	return s, nil
}
