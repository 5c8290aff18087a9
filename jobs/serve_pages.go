package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tandem/batch"
	"tandem/jobs/serve"
	"tandem/jobs/serve/pages"
	"tandem/schemas/store"
	"tandem/stream/failover"
)

// pagesRefresh is how often a page that is open asks again: numbers change by the minute.
const pagesRefresh = 30 * time.Second

// promoteLag is how many minutes a layer that is promoted may be behind, promoteWait how long stage 2 of a layer may take to write what it held.
const (
	promoteLag  = 5
	promoteWait = 30 * time.Second
)

// source is where the pages' data come from. A folder of records of the past has neither archive nor services.
func (o *serveOptions) source(audit *serve.AuditLog, st store.Store, served *servedSite) *pages.Stored {
	s := &pages.Stored{Audit: audit}
	for url := range strings.SplitSeq(o.services, ",") {
		if url = strings.TrimSuffix(strings.TrimSpace(url), "/"); url != "" {
			s.Services = append(s.Services, url)
		}
	}
	if served == nil {
		return s
	}
	began, _ := served.now()
	own := began.Layer()
	s.Now, s.Layers = time.Now, []string{own}
	s.Batch = func(name string) (*batch.Job, error) {
		b, t, err := served.batch(name)
		if err != nil {
			return nil, err
		}
		return b.job(t)
	}
	s.Explainer = func(ctx context.Context, name string) (*batch.Explain, error) {
		b, t, err := served.batch(name)
		if err != nil {
			return nil, err
		}
		return b.explainer(ctx, t, st)
	}
	s.Promoter = func(ctx context.Context, name, layer string) error {
		if !strings.HasPrefix(layer, "stream.") {
			return fmt.Errorf("%w: %q is no layer of a stream", pages.ErrRequest, layer)
		}
		j := &failoverJob{store: st, own: own, partitions: int(began.Metrics.Partitions), lag: promoteLag, wait: promoteWait,
			log: slog.New(slog.DiscardHandler), now: time.Now}
		err := j.change(ctx, name, layer, "asked for")
		if errors.Is(err, failover.ErrBehind) || errors.Is(err, failover.ErrSilent) {
			err = fmt.Errorf("%w: %w", pages.ErrRequest, err)
		}
		return err
	}
	return s
}
