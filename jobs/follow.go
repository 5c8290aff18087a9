package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/configs"
)

// Services look at the tenants' chains of configs every lookEvery, and read records only while their last look is not older
// than freshFor (DESIGN 9): a revision is there for longer than that before the first beacon that it is about.
const (
	lookEvery = 10 * time.Second
	freshFor  = 30 * time.Second
)

// follower looks at the chains of a site that a service goes by.
type follower struct {
	blobs  blob.Store
	chains []*configs.Chain
	open   func() (*site.Site, error) // reads the site anew
	log    *slog.Logger
	grown  func() // is called once a chain has a revision that the service does not know, and next is there

	behind bool       // some chain has grown
	next   *site.Site // by the chains as they are then; who reads it has waited for run to end

	mu     sync.Mutex
	looked time.Time // when the last look began that has read everything
	old    bool      // the service is about to begin again
}

// follow runs a service by the configs of a site. Whenever one of the chains gets a revision, it ends in good order and begins
// again by the new ones, once these and the site file can be read: owners go on from their checkpoints. serve is given the site as
// it is, and what says whether records may be read.
func follow(ctx context.Context, flags *serviceFlags, s *site.Site, log *slog.Logger, serve func(context.Context, *site.Site, func() bool) int) int {
	began := flags.opened
	for {
		blobs, err := s.OpenBlobs()
		if err != nil {
			log.Error("configs", "err", err)
			return 1
		}
		f := &follower{blobs: blobs, log: log, looked: began}
		f.open = func() (*site.Site, error) { next, _, err := site.Open(flags.site); return next, err }
		for i := range s.Tenants {
			own := *s.Tenants[i].Configs
			f.chains = append(f.chains, &own)
		}
		running, stop := context.WithCancelCause(ctx)
		f.grown = func() { stop(errGrown) }
		looking := make(chan struct{})
		go func() { defer close(looking); f.run(running) }()
		code := serve(running, s, f.fresh)
		again := errors.Is(context.Cause(running), errGrown) && ctx.Err() == nil && code == 0
		stop(nil)
		<-looking
		if !again {
			return code
		}
		s, began = f.next, f.looked
		log.Info("a config has a new revision; the service begins again by it")
	}
}

var errGrown = errors.New("a config has a new revision")

func (f *follower) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		grown, err := f.look()
		if f.behind = f.behind || grown; err == nil && f.behind {
			f.next, err = f.open() // a service that cannot begin again is not to end
		}
		if err != nil {
			f.log.Error("configs cannot be read; before long records wait for it", "err", err)
			continue
		}
		f.mu.Lock()
		f.looked, f.old = began, f.behind
		f.mu.Unlock()
		if f.behind {
			f.grown()
			return
		}
	}
}

// look says whether there is a revision that it has not seen before, also where it cannot look at all chains. Splices are of no
// concern to it, nor is how a chain began.
func (f *follower) look() (grown bool, err error) {
	for _, c := range f.chains {
		known := max(len(c.Objects), 1)
		err := c.Grow(f.blobs)
		for i := known; i < len(c.Objects); i++ {
			grown = grown || c.Objects[i].Void == "" && !c.Objects[i].Configs[0].HasTo
		}
		if err != nil {
			return grown, err
		}
	}
	return grown, nil
}

// fresh says whether records may be read.
func (f *follower) fresh() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.old && time.Since(f.looked) < freshFor
}
