package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// expected is what the rows of the whole traffic must come to, by metric: counted here from the payloads, each session's
// repeats left out, with nothing of what is measured. The traffic has no late beacon, no session that begins again, and in
// each session's first beacon its experiments.
func (b *bench) expected() (map[string]int64, error) {
	if b.totals != nil {
		return b.totals, nil
	}
	type payload struct {
		ID, Session, Point string
		Values             map[string]float64
		Experiments        map[string]string
	}
	cfg := b.chain.Revs[0].Config
	decimals := map[string]int{}
	for _, p := range cfg.Points {
		for _, v := range p.Values {
			decimals[p.Name+"."+v.Name] = v.Decimals
		}
	}
	type session struct {
		seen     map[string]bool
		points   map[string]int64
		assigned int64
	}
	sessions := map[string]*session{}
	totals := map[string]int64{}
	for i := range b.recs {
		var x payload
		if err := json.Unmarshal(b.recs[i].Payload, &x); err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		s := sessions[x.Session]
		if s == nil {
			s = &session{seen: map[string]bool{}, points: map[string]int64{}}
			sessions[x.Session] = s
		}
		if s.seen[x.ID] {
			continue
		}
		s.seen[x.ID] = true
		s.assigned += int64(len(x.Experiments))
		s.points[x.Point]++
		totals["site."+x.Point]++
		for name, v := range x.Values {
			if d, ok := decimals[x.Point+"."+name]; ok {
				totals["site."+x.Point+"."+name] += int64(math.Round(v * math.Pow10(d)))
			}
		}
	}
	for _, s := range sessions {
		for point, n := range s.points {
			totals["assigned."+point] += n * s.assigned
		}
	}
	totals["site.visit.beta"] = int64(len(sessions))
	b.totals = totals
	return totals, nil
}

// checkTotals holds the rows of a layer, or of all whose names begin so, against what is expected.
func (b *bench) checkTotals(ctx context.Context, st *pebblestore.Store, layer string, m *meter) error {
	want, err := b.expected()
	if err != nil {
		return err
	}
	var series []store.Series
	err = st.Catalog(ctx, b.chain.Tenant, func(sr store.Series) error {
		if _, ok := want[sr.Metric]; ok && strings.HasPrefix(sr.Layer, layer) {
			series = append(series, sr)
		}
		return nil
	})
	if err != nil {
		return err
	}
	got := map[string]int64{}
	for _, sr := range series {
		err := st.Rows(ctx, sr, 0, store.MaxMinute, func(_, _ int64, value []byte) error {
			_, err := row.Decode(value, func(c row.Cell) error { got[sr.Metric] += c.Value; return nil })
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, metric := range slices.Sorted(maps.Keys(want)) {
		if got[metric] != want[metric] {
			return fmt.Errorf("%s of %s comes to %d, %d is in the records", metric, layer, got[metric], want[metric])
		}
	}
	m.note("the sums of %d metrics are those counted from the records", len(want))
	return nil
}
