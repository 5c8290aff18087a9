package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"tandem/jobs/site"
	"tandem/schemas/sources"
	"tandem/schemas/wire"
	"tandem/stream/dispatch"
	"tandem/stream/service"
)

// maxAhead is the most that --ahead may be.
const maxAhead = time.Hour

const dispatchUsage = `usage: tandem dispatch --site SITE.yaml [--id NAME] [--listen ADDRESS] [--patience 1h] [--ahead 5m] [--cold]

Takes raw beacons to the tenants' topics, until it is stopped: rejects go to the dead-letter topic with their reason, beacons
that nobody uses are dropped, the others go to the partition of their session. It writes heartbeats into live raw topics and
tells every partition how far the raw ones were read, so that time passes in the log. Any number of processes share the raw
partitions. Killed at any moment it loses nothing: it commits what is acknowledged, and what it sends again is recognised.

--patience is how far a raw partition may lag behind the others before the stream no longer waits for it. --ahead is how
much further than the slowest one any is read: as much time of records as shards hold at most. Through months of few records
1h goes faster, since dispatchers wait for each other that much less often.

A raw topic that was written before its first dispatcher, and has forgotten its beginning, is read from its log's start on with
--cold. So is one whose retention has passed what was not read yet: what lay between is lost. Without it these end the process.
A raw topic that was made anew is refused: its offsets begin again, and what they count would be taken for repeats.

example:
  tandem dispatch --site site.yaml --id dispatch-0 --listen 127.0.0.1:9101

`

// runDispatch is `tandem dispatch`.
func runDispatch(ctx context.Context, args []string, _, stderr io.Writer) int {
	flags := newServiceFlags("dispatch")
	patience := flags.Duration("patience", time.Hour, "lag of a source that is no longer waited for, 1m to 24h")
	ahead := flags.Duration("ahead", 5*time.Minute, "lead over the slowest source at which reading waits, 10s to 1h")
	cold := flags.Bool("cold", false, "begin at the log's start where there is no way to go on")
	s, code, over := flags.check(dispatchUsage, args, stderr, func() error {
		switch {
		case *patience < time.Minute || *patience > 24*time.Hour:
			return fmt.Errorf("--patience %s is not in 1m to 24h", *patience)
		case *ahead < 10*time.Second || *ahead > maxAhead:
			return fmt.Errorf("--ahead %s is not in 10s to 1h", *ahead)
		}
		return nil
	})
	if over {
		return code
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	health, err := flags.health()
	if err != nil {
		return notBegun(ctx, stderr, "dispatch", err)
	}
	defer health.close()
	return follow(ctx, flags, s, log, func(ctx context.Context, s *site.Site, fresh func() bool) int {
		defer health.end()
		w, err := find(ctx, s, flags.layer, log)
		if err != nil {
			return notBegun(ctx, stderr, "dispatch", err)
		}
		list, err := w.sources()
		if err == nil {
			err = w.asListed(list)
		}
		if err != nil {
			return notBegun(ctx, stderr, "dispatch", err)
		}
		var raw []string
		for _, r := range s.Raw {
			raw = append(raw, r.Topic)
		}
		h, err := flags.host(w.to, "tandem.dispatch."+s.DC, raw, log)
		if err != nil {
			return wrongUsage(stderr, "dispatch", "%v", err)
		}
		h.Fresh = fresh
		d := &service.Dispatch{Host: h, Routes: w.routes(), DeadTopic: s.Dead, Tick: s.Tick, Patience: *patience, Ahead: *ahead, Cold: *cold, Sources: list}
		health.dispatch(d)
		return ended(stderr, "dispatch", d.Run(ctx))
	})
}

// asListed says whether the cluster's raw topics are those that are listed as sources. One that was made anew is not: shards and archivers
// know by the progress of the old one which offsets they have had, and would drop what is new as redelivered.
func (w *world) asListed(list func() (wire.Sources, error)) error {
	have, err := list()
	if err != nil {
		return err
	}
	_, err = sources.Added(&have, w.site.Sources(w.found))
	return err
}

func (w *world) routes() map[string]*dispatch.Route {
	routes := map[string]*dispatch.Route{}
	for i := range w.site.Tenants {
		t := &w.site.Tenants[i]
		r := &dispatch.Route{Chain: t.Chain, Partitions: t.Partitions}
		for g := range t.Groups {
			r.Topics = append(r.Topics, w.site.BeaconsTopic(t.Chain.Tenant, g))
		}
		routes[t.Chain.Tenant] = r
	}
	return routes
}
