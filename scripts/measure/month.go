package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/serve/read"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	sarchive "tandem/stream/archive"
)

// What a month's store holds: an hour of the traffic as the batch has measured it, over and over. Each of its experiments
// stands for several. Rows by the minute are there for the last days of all experiments and the whole month of a few;
// rollups, which longer ranges are read from, for the whole month of all. All of it by the minute would be some 1,400
// million rows; how much of a series is read does not depend on how many others there are.
const (
	monthHours       = 30 * 24
	monthExperiments = 150
	monthMinutesOf   = 2 * 24 // hours by the minute of all experiments
	monthWholeOf     = 3      // experiments with all hours by the minute
	monthLayer       = "stream.dc1"
	monthOpen        = 10 // minutes after the last covered one that the stream has closed
)

// month is a store of 30 days, and the tenant's configs with all experiments.
type month struct {
	store *pebblestore.Store
	chain *tenant.Chain
	now   time.Time
	note  string
}

// monthChain is the chain of the records' tenant, its experiments under so many names that there are monthExperiments.
func monthChain(b *bench) (*tenant.Chain, error) {
	cfg := *b.chain.Revs[0].Config
	all := cfg.Experiments
	cfg.Experiments = nil
	for i := range monthExperiments {
		x := all[i%len(all)]
		x.Name = monthName(i)
		cfg.Experiments = append(cfg.Experiments, x)
	}
	return tenant.Compile([]*tenant.Config{&cfg})
}

func monthName(i int) string { return fmt.Sprintf("exp_%03d", i) }

// openMonth opens the store of a folder, which it makes if it is not there: minutes of work.
func openMonth(ctx context.Context, b *bench, dir string) (*month, error) {
	chain, err := monthChain(b)
	if err != nil {
		return nil, err
	}
	first := b.recs[0].Ingest/batch.WindowMS*batch.WindowMS/60_000 + read.WindowMinutes // the first window is not whole
	end := first + 60
	m := &month{chain: chain, now: time.UnixMilli((end + monthOpen) * 60_000)}
	if m.store, err = pebblestore.Open(dir, pebblestore.Options{Now: func() time.Time { return m.now }}); err != nil {
		return nil, err
	}
	if _, made, err := m.store.Active(ctx, chain.Tenant); err != nil || made {
		return m, err
	}
	at := time.Now()
	fmt.Fprintf(os.Stderr, "%s: making 30 days of %d experiments\n", dir, monthExperiments)
	hour, layer, err := measuredHour(ctx, b, first)
	if err != nil {
		return nil, err
	}
	n, err := m.fill(ctx, hour, layer, first)
	if err == nil {
		// The active layer is written last: it says that the store is whole.
		err = m.store.PutActive(ctx, store.Active{Tenant: chain.Tenant, Layer: monthLayer, Seq: 1})
	}
	m.note = fmt.Sprintf("%d rows and rollups written in %s", n, time.Since(at).Round(time.Second))
	return m, err
}

// hourSeries are the rows and rollups of a series in an hour.
type hourSeries struct {
	store.Series
	rows, rollups []store.Row
}

// measuredHour has the batch measure the records, and returns the hour from a minute on, by series.
func measuredHour(ctx context.Context, b *bench, first int64) ([]hourSeries, string, error) {
	blobs, err := blob.OpenDir(filepath.Join(b.dir, "month"))
	if err != nil {
		return nil, "", err
	}
	topic, err := archived(b, blobs)
	if err != nil {
		return nil, "", err
	}
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: func() time.Time { return time.UnixMilli(b.recs[0].Ingest) }})
	if err != nil {
		return nil, "", err
	}
	defer st.Close()
	job := &batch.Job{Chain: b.chain, Topics: []batch.Topic{topic}, Blobs: blobs, Store: st, Digest: sarchive.ParseDigest}
	if err := job.Run(ctx); err != nil {
		return nil, "", err
	}
	v, err := batch.View(ctx, st, b.chain.Tenant)
	if err != nil {
		return nil, "", err
	}
	layer, _ := v.Layer(first)
	var hour []hourSeries
	err = st.Catalog(ctx, b.chain.Tenant, func(s store.Series) error {
		if s.Layer != layer {
			return nil
		}
		one := hourSeries{Series: s}
		take := func(into *[]store.Row) func(int64, int64, []byte) error {
			return func(minute, version int64, value []byte) error {
				*into = append(*into, store.Row{Minute: minute, Version: version, Value: slices.Clone(value)})
				return nil
			}
		}
		if err := st.Rows(ctx, s, first, first+60, take(&one.rows)); err != nil {
			return err
		}
		if err := st.Rollups(ctx, s, first, first+60, take(&one.rollups)); err != nil {
			return err
		}
		if len(one.rows)+len(one.rollups) > 0 {
			hour = append(hour, one)
		}
		return nil
	})
	if err == nil && len(hour) == 0 {
		err = fmt.Errorf("the batch has measured nothing from minute %d on: it takes records of more than two hours", first)
	}
	return hour, layer, err
}

// fill repeats the hour, whose rows lie in [first, first+60), so often that a month ends with it.
func (m *month) fill(ctx context.Context, hour []hourSeries, layer string, first int64) (n int, err error) {
	var generation int64
	if _, err := fmt.Sscanf(layer, "batch.%d", &generation); err != nil {
		return 0, fmt.Errorf("layer %q: %w", layer, err)
	}
	var rows, rollups []store.Row
	flush := func(least int) error {
		if len(rows) >= least && len(rows) > 0 {
			if err := m.store.PutRows(ctx, rows); err != nil {
				return err
			}
			n += len(rows)
			rows = rows[:0]
		}
		if len(rollups) >= least && len(rollups) > 0 {
			if err := m.store.PutRollups(ctx, rollups); err != nil {
				return err
			}
			n += len(rollups)
			rollups = rollups[:0]
		}
		return nil
	}
	put := func(into *[]store.Row, s store.Series, from []store.Row, shift, keep int64) {
		for _, r := range from {
			r.Series = s
			r.Minute += shift
			r.Expires = r.Minute*60_000 + keep
			*into = append(*into, r)
		}
	}
	experiments := m.chain.Revs[0].Config.Experiments
	sources := sourcesOf(hour)
	for i := range experiments {
		source := sources[i%len(sources)]
		for _, one := range hour {
			name := experiments[i].Name
			if one.Experiment == "" {
				if i > 0 {
					continue
				}
				name = "" // the site's rows are written once
			} else if one.Experiment != source {
				continue
			}
			s := store.Series{Tenant: m.chain.Tenant, Experiment: name, Metric: one.Metric, Layer: layer}
			keep := m.chain.Revs[0].Config.Retention
			if strings.HasSuffix(one.Metric, ".visitors") {
				keep = batch.VisitorsMS
			}
			for k := range int64(monthHours) {
				if k < monthMinutesOf || i < monthWholeOf {
					put(&rows, s, one.rows, -60*k, keep)
				}
				put(&rollups, s, one.rollups, -60*k, batch.RollupMS)
			}
			s.Layer = monthLayer
			put(&rows, s, one.rows, 0, keep)
			put(&rows, s, slices.DeleteFunc(slices.Clone(one.rows), func(r store.Row) bool { return r.Minute >= first+monthOpen }), 60, keep)
			if err := flush(20_000); err != nil {
				return n, err
			}
		}
		if i%10 == 9 {
			fmt.Fprintf(os.Stderr, "%d of %d experiments, %d rows\n", i+1, len(experiments), n)
		}
	}
	if err := flush(1); err != nil {
		return n, err
	}
	end := first + 60
	for w := end - 60*monthHours; w < end; w += read.WindowMinutes {
		if err := m.store.PutCoverage(ctx, store.Coverage{Tenant: m.chain.Tenant, Window: w, Generation: generation}); err != nil {
			return n, err
		}
	}
	return n, m.store.PutProgress(ctx, store.Progress{Layer: monthLayer, Tenant: m.chain.Tenant, ClosedBefore: end + monthOpen, Version: 1})
}

// sourcesOf are the experiments that the hour has.
func sourcesOf(hour []hourSeries) []string {
	var out []string
	for _, one := range hour {
		if one.Experiment != "" && !slices.Contains(out, one.Experiment) {
			out = append(out, one.Experiment)
		}
	}
	return out
}
