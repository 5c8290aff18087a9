package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	sarchive "tandem/stream/archive"
)

// What readers and the stream do while a backfill runs, and while none does, in turn.
const (
	turns        = 4
	turnLength   = 12 * time.Second
	readsEvery   = 10 * time.Millisecond // one reader, at fixed times: what waits counts
	chunkEvery   = 250 * time.Millisecond
	chunkRecords = 250
	backfillPart = 25 // percent
)

// beside measures how long reads of an hour of a series take, coverage included, and how long a piece of the stream takes to
// the store, beside a throttled backfill of everything and without.
func beside(ctx context.Context, b *bench, m *meter) error {
	dir := filepath.Join(b.dir, "backfill")
	blobs, err := blob.OpenDir(filepath.Join(dir, "blobs"))
	if err != nil {
		return err
	}
	topic, err := archived(b, blobs)
	if err != nil {
		return err
	}
	st, err := pebblestore.Open(filepath.Join(dir, "store"), pebblestore.Options{Now: func() time.Time { return time.UnixMilli(b.recs[0].Ingest) }})
	if err != nil {
		return err
	}
	defer st.Close()
	job := &batch.Job{Chain: b.chain, Topics: []batch.Topic{topic}, Blobs: blobs, Store: st, Digest: sarchive.ParseDigest}
	if err := job.Run(ctx); err != nil {
		return err
	}
	opt := embedded.Defaults()
	opt.Batch = false
	p, err := embedded.Open(ctx, opt, b.chain, embedded.NewMemory(), blob.NewMem(), st)
	if err != nil {
		return err
	}
	next := 0
	all := map[bool]*times{false: {}, true: {}}
	windows := 0
	err = m.run(func() error {
		for turn := range 2 * turns {
			with := turn%2 == 1
			running, stop := context.WithTimeout(ctx, turnLength)
			defer stop()
			ended := make(chan error, 1)
			go func() {
				if !with {
					ended <- nil
					return
				}
				own := *job
				own.Throttle, own.Parallel, own.Portion = backfillPart, 1, 100_000
				own.Done = func(*batch.Covered) { windows++ }
				for running.Err() == nil {
					own.Parser++ // so that all is due again
					ask := &batch.Backfill{To: (b.recs[len(b.recs)-1].Ingest/batch.WindowMS + 100) * batch.WindowMS}
					if err := own.Backfill(running, ask, nil); err != nil && running.Err() == nil {
						ended <- err
						return
					}
				}
				job.Parser = own.Parser
				ended <- nil
			}()
			reads := make(chan error, 1)
			go func() { reads <- all[with].reads(running, st, b) }()
			for tick := time.Now(); running.Err() == nil && next+chunkRecords <= len(b.recs); tick = tick.Add(chunkEvery) {
				time.Sleep(time.Until(tick))
				var raw []embedded.Raw
				for _, r := range b.recs[next : next+chunkRecords] {
					raw = append(raw, embedded.Raw{Ingest: r.Ingest, Payload: r.Payload})
				}
				next += chunkRecords
				if err := p.Feed(ctx, raw); err != nil {
					return err
				}
				if err := p.Pump(ctx); err != nil {
					return err
				}
				all[with].stream = append(all[with].stream, time.Since(tick))
			}
			<-running.Done()
			for _, err := range []error{<-reads, <-ended} {
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, what := range []struct {
		name string
		of   func(*times) []time.Duration
	}{{"reads", func(t *times) []time.Duration { return t.read }}, {"stream", func(t *times) []time.Duration { return t.stream }}} {
		without, with := what.of(all[false]), what.of(all[true])
		m.note("%s: %d without, p50 %s, p99 %s; %d beside a backfill at %d %%, p50 %s, p99 %s", what.name, len(without), at(without, 50), at(without, 99),
			len(with), backfillPart, at(with, 50), at(with, 99))
	}
	m.note("%d windows run again in %s", windows, turns*turnLength)
	m.n = next
	return nil
}

// times are how long things took, from when they were due.
type times struct{ read, stream []time.Duration }

func at(list []time.Duration, percent int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)*percent/100, len(list)-1)].Round(10 * time.Microsecond)
}

// reads reads an hour of some series of the standing layers at fixed times until the context ends.
func (t *times) reads(ctx context.Context, st store.Store, b *bench) error {
	series := map[store.Series]bool{}
	err := st.Catalog(ctx, b.chain.Tenant, func(s store.Series) error {
		s.Layer = ""
		series[s] = true
		return nil
	})
	if err != nil {
		return err
	}
	var names []store.Series
	for s := range series {
		names = append(names, s)
	}
	if len(names) == 0 {
		return fmt.Errorf("the store has no series")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	first := b.recs[0].Ingest / 60000
	for due := time.Now(); ctx.Err() == nil; due = due.Add(readsEvery) {
		time.Sleep(time.Until(due))
		v, err := batch.View(ctx, st, b.chain.Tenant)
		if err != nil {
			break
		}
		s := names[rng.IntN(len(names))]
		from := first + rng.Int64N(60)
		layers := map[string]bool{}
		for m := from; m < from+60; m++ {
			l, _ := v.Layer(m)
			layers[l] = true
		}
		for l := range layers {
			s.Layer = l
			if err := st.Rows(ctx, s, from, from+60, func(int64, int64, []byte) error { return nil }); err != nil && ctx.Err() == nil {
				return err
			}
		}
		t.read = append(t.read, time.Since(due))
	}
	return nil
}
