package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"tandem/batch"
	"tandem/jobs/site"
	"tandem/schemas/store"
	"tandem/stream/aggregate"
	"tandem/stream/service"
)

const streamUsage = `usage: tandem stream --site SITE.yaml [--id NAME] [--stage 1|2] [--layer NAME] [--listen ADDRESS] [--cold] [--standby]

Measures beacons until it is stopped. Stage 1 keeps the sessions of each partition and publishes its sums every tick; stage 2
adds them up and writes the rows. Any number of processes share the partitions of both stages; --stage runs one of them
alone. Killed at any moment it goes on from its newest checkpoint and comes to the same rows.

--layer NAME writes another layer than the site's, from checkpoints of its own: a new build beside the old one. Its metrics
topic is made by tandem topics apply --layer NAME.

A shard whose state is gone, or whose log no longer has what comes after it, ends the process with an error; so does a
partition of stage 2. With --cold these begin at the end of their log, a shard once every raw partition that is not set aside has
told how far it is (tandem dispatch must run), stage 2 once every shard has, and with the first minute that
they know whole.

With --standby stage 2 does not write the rows of a tenant but holds them in memory, each minute until the batch has covered
it, at most 512 MiB of them and 12 hours back; what is older is written. When its layer becomes the tenant's active one, or
tandem failover asks for that, it writes all that it holds and from then on everything as it comes.

example:
  tandem stream --site site.yaml --id stream-0 --listen 127.0.0.1:9102

`

// checkpointTicks is how many ticks lie between checkpoints at least.
const checkpointTicks = 5

// runStream is `tandem stream`.
func runStream(ctx context.Context, args []string, _, stderr io.Writer) int {
	flags := newServiceFlags("stream")
	stage := flags.Int("stage", 0, "1 or 2: only this stage; both if absent")
	cold := flags.Bool("cold", false, "begin at the end of the log where there is no way to go on")
	standby := flags.Bool("standby", false, "stage 2 holds the rows of tenants whose active layer is another")
	flags.StringVar(&flags.layer, "layer", "", "`layer` to write; stream.<dc> if absent")
	s, code, over := flags.check(streamUsage, args, stderr, func() error {
		switch {
		case *stage < 0 || *stage > 2:
			return fmt.Errorf("--stage %d is none of 1 and 2", *stage)
		case *stage == 1 && *standby:
			return errors.New("--standby is for stage 2")
		}
		return nil
	})
	if over {
		return code
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	health, err := flags.health()
	if err != nil {
		return notBegun(ctx, stderr, "stream", err)
	}
	defer health.close()
	return follow(ctx, flags, s, log, func(ctx context.Context, s *site.Site, fresh func() bool) int {
		defer health.end()
		w, err := find(ctx, s, flags.layer, log)
		if err != nil {
			return notBegun(ctx, stderr, "stream", err)
		}
		var run []func(context.Context) error
		if *stage != 2 {
			one, err := w.sessionize(flags, *cold, log)
			if err != nil {
				return notBegun(ctx, stderr, "stream", err)
			}
			one.Host.Fresh = fresh
			health.sessionize(one)
			run = append(run, one.Run)
		}
		if *stage != 1 {
			st, err := s.OpenStore(ctx)
			if err != nil {
				return notBegun(ctx, stderr, "stream", err)
			}
			defer st.Close()
			two, err := w.aggregate(ctx, flags, st, *cold, *standby, log)
			if err != nil {
				return notBegun(ctx, stderr, "stream", err)
			}
			health.aggregate(two)
			run = append(run, two.Run)
		}
		return ended(stderr, "stream", together(ctx, run...))
	})
}

// together runs services side by side until the context ends or one of them fails, and stops all.
func together(ctx context.Context, run ...func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, len(run))
	for _, f := range run {
		go func() { done <- f(ctx) }()
	}
	var first error
	for range run {
		if err := <-done; err != nil && first == nil {
			first = err
		}
		stop(first)
	}
	return first
}

func (w *world) sessionize(flags *serviceFlags, cold bool, log *slog.Logger) (*service.Sessionize, error) {
	topics, names := w.beacons()
	h, err := flags.host(w.to, "tandem."+w.layer+".1", names, log)
	if err != nil {
		return nil, err
	}
	checkpoints, err := w.site.OpenCheckpoints()
	if err != nil {
		return nil, err
	}
	return &service.Sessionize{Host: h, Topics: topics, Layer: w.layer, MetricsTopic: w.site.MetricsTopic(w.layer),
		MetricsPartitions: int(w.site.Metrics.Partitions), Tick: w.site.Tick, CheckpointTicks: checkpointTicks, Cold: cold,
		Checkpoints: checkpoints}, nil
}

func (w *world) aggregate(ctx context.Context, flags *serviceFlags, st store.Store, cold, standby bool, log *slog.Logger) (*service.Aggregate, error) {
	h, err := flags.host(w.to, "tandem."+w.layer+".2", []string{w.site.MetricsTopic(w.layer)}, log)
	if err != nil {
		return nil, err
	}
	if w.layer == w.site.Layer() && !standby {
		if err := firstActive(ctx, st, w.site); err != nil {
			return nil, err
		}
	}
	return &service.Aggregate{Host: h, Layer: w.layer, Tenants: w.tenants(), Former: w.site.Former, Store: st, Cold: cold, Standby: standby,
		Window: batch.WindowMS / 60000, Tick: w.site.Tick}, nil
}

// firstActive makes the site's layer the one that readers see, of tenants that have none yet. Of two data centres that do so
// at once one wins.
func firstActive(ctx context.Context, st store.Store, s *site.Site) error {
	for i := range s.Tenants {
		name := s.Tenants[i].Chain.Tenant
		if _, ok, err := st.Active(ctx, name); err != nil {
			return fmt.Errorf("active layer of %s: %w", name, err)
		} else if ok {
			continue
		}
		if err := st.PutActive(ctx, store.Active{Tenant: name, Layer: s.Layer()}); err != nil {
			return fmt.Errorf("active layer of %s: %w", name, err)
		}
	}
	return nil
}

// tenants is what stage 2 knows of the tenants.
func (w *world) tenants() []aggregate.Tenant {
	topics, _ := w.beacons()
	var all []aggregate.Tenant
	for i := range w.site.Tenants {
		t := &w.site.Tenants[i]
		a := aggregate.Tenant{Name: t.Chain.Tenant, Shards: int(t.Partitions) * t.Groups}
		for r := range t.Chain.Revs {
			cfg := t.Chain.Revs[r].Config
			a.RetentionMS, a.LeadMS = cfg.Retention, max(a.LeadMS, cfg.MaxSkew+cfg.Lateness+maxAhead.Milliseconds())
		}
		for _, b := range topics {
			if b.Chain == t.Chain {
				a.Topics = append(a.Topics, b.ID)
			}
		}
		all = append(all, a)
	}
	return all
}
