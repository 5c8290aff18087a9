package campaign

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/core/metric"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// replay is the oracle: the embedded replay of a records file under a config, as rows of the layer by name. Rows without
// cells are left out: they mean the same as no row.
// The last one is kept: the scenarios of one test often share it.
func replay(t testing.TB, records, config, tenant, tick string) map[rowKey][]byte {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Join([]string{records, string(text), tick}, "\n")
	replayed.Lock()
	defer replayed.Unlock()
	if replayed.rows == nil || replayed.key != key {
		replayed.rows, replayed.key = replayAnew(t, records, config, tenant, tick), key
	}
	return replayed.rows
}

// replayed is the last replay.
var replayed struct {
	sync.Mutex
	key  string
	rows map[rowKey][]byte
}

func replayAnew(t testing.TB, records, config, tenant, tick string) map[rowKey][]byte {
	t.Helper()
	data := filepath.Join(t.TempDir(), "replay")
	began := time.Now()
	run(t, tandem(t), "replay", "--config", config, "--layer", "stream", "--shards", "3", "--tick", tick, "--data", data, records)
	st, err := pebblestore.Open(filepath.Join(data, "store"), pebblestore.Options{Now: func() time.Time { return time.Unix(0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	ctx := context.Background()
	var all []store.Series
	err = st.Catalog(ctx, tenant, func(s store.Series) error {
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[rowKey][]byte{}
	for _, s := range all {
		err := st.Rows(ctx, s, 0, store.MaxMinute+1, func(minute, _ int64, value []byte) error {
			rows[rowKey{s, minute}] = slices.Clone(value)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	maps.DeleteFunc(rows, func(_ rowKey, value []byte) bool { return empty(value) })
	if len(rows) == 0 {
		t.Fatal("the oracle has no rows")
	}
	t.Logf("oracle: %d rows of %d series, replayed in %.1f s", len(rows), len(all), time.Since(began).Seconds())
	return rows
}

// empty says whether a row has no cells, which means the same as its absence.
func empty(value []byte) bool {
	var r row.Reader
	return r.Reset(value) == nil && r.Len() == 0
}

// compare tells how rows differ from what they should be, the first ones by minute in detail.
func compare(t testing.TB, what string, got, want map[rowKey][]byte) {
	t.Helper()
	var differ []rowKey
	for k, value := range got {
		if !empty(value) && !bytes.Equal(value, want[k]) {
			differ = append(differ, k)
		}
	}
	for k := range want {
		if value, ok := got[k]; !ok || empty(value) {
			differ = append(differ, k)
		}
	}
	if len(differ) == 0 {
		t.Logf("%s: %d rows, equal to the byte", what, len(want))
		return
	}
	slices.SortFunc(differ, func(a, b rowKey) int {
		return cmp.Or(cmp.Compare(a.minute, b.minute), strings.Compare(a.Experiment, b.Experiment), strings.Compare(a.Metric, b.Metric))
	})
	minutes := map[int64]int{}
	for _, k := range differ {
		minutes[k.minute]++
	}
	t.Errorf("%s: %d of %d rows differ, in %d minutes; the first:", what, len(differ), len(want), len(minutes))
	for _, k := range differ[:min(len(differ), 8)] {
		t.Errorf("%s (%s):\n   is %s\n  not %s", k, time.Unix(k.minute*60, 0).UTC().Format(time.RFC3339), cells(got, k), cells(want, k))
	}
}

// cells shows a row, cut to what a line holds.
func cells(rows map[rowKey][]byte, k rowKey) string {
	value, ok := rows[k]
	if !ok {
		return "no row"
	}
	var b strings.Builder
	_, err := row.Decode(value, func(c row.Cell) error {
		v := c.Value
		if c.Sketch != nil {
			var sk metric.Sketch
			if err := sk.UnmarshalBinary(c.Sketch); err != nil {
				return err
			}
			v = sk.Estimate()
		}
		fmt.Fprintf(&b, " %s{%s}=%d", c.Variation, c.Tags, v)
		return nil
	})
	if err != nil {
		return err.Error()
	}
	text := strings.TrimSpace(b.String())
	return fmt.Sprintf("%.300s (%d bytes)", text, len(value))
}
