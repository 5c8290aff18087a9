package campaign

import (
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"

	"tandem/schemas/row"
	"tandem/schemas/store"
)

// rowKey names a row of the store.
type rowKey struct {
	store.Series
	minute int64
}

func (k rowKey) String() string { return fmt.Sprintf("%s minute %d", k.Series, k.minute) }

// sighting is a row's value at a version, as somebody saw it.
type sighting struct {
	version int64
	digest  uint64 // of the value's bytes
}

// history is all that was seen of a row.
type history struct {
	sightings []sighting // by version, ascending, each once
	scan      int        // the last in which it was seen
	final     bool       // it was seen while progress said that its minute is closed
	empty     bool       // the last sighting has no cells
}

func (h *history) last() sighting { return h.sightings[len(h.sightings)-1] }

// watch holds what is seen in the store against the laws of DESIGN 4: no version and no progress goes back, equal
// versions are equal values, nothing of a closed minute changes, comes or goes. Progress is told before the scan that it
// is to be held against. Not safe for concurrent use, but for the reading of faults.
type watch struct {
	partitions int    // of the metrics topic: a layer is complete as far as the least of so many
	only       string // the layer that is watched; empty: all
	rows       map[rowKey]*history
	progress   map[string]map[int32]int64 // by layer and tenant: closed before
	scans      int
	whole      map[string]int64 // by layer and tenant: the progress at the start of the last scan that saw everything
	begun      map[string]int64 // and of the scan that is running
	reader     row.Reader

	mu     sync.Mutex
	faults []string
}

// maxFaults are kept; the first ones tell most.
const maxFaults = 20

func newWatch(partitions int) *watch {
	return &watch{partitions: partitions, rows: map[rowKey]*history{}, progress: map[string]map[int32]int64{}, whole: map[string]int64{}}
}

func (w *watch) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

func layerOf(layer, tenant string) string { return layer + "/" + tenant }

// begin begins a scan with the progress that was read just before.
func (w *watch) begin(progress []store.Progress) {
	w.scans++
	told := map[string]map[int32]int64{}
	for _, p := range progress {
		of := layerOf(p.Layer, p.Tenant)
		if told[of] == nil {
			told[of] = map[int32]int64{}
		}
		told[of][p.Partition] = p.ClosedBefore
	}
	for of, partitions := range w.progress {
		for p, before := range partitions {
			if now, ok := told[of][p]; !ok || now < before {
				w.fault("scan %d: progress of %s in metrics partition %d goes back from %d to %d (there: %v)", w.scans, of, p, before, now, ok)
			}
		}
	}
	w.progress = told
	w.begun = map[string]int64{}
	for of, partitions := range told {
		w.begun[of] = closedBefore(partitions, w.partitions)
	}
}

// closedBefore is the least of all partitions, 0 while some have none.
func closedBefore(partitions map[int32]int64, n int) int64 {
	if len(partitions) < n {
		return 0
	}
	least := int64(store.MaxMinute)
	for _, m := range partitions {
		least = min(least, m)
	}
	return least
}

// row takes a row of the running scan.
func (w *watch) row(k rowKey, version int64, value []byte) {
	if w.only != "" && k.Layer != w.only {
		return
	}
	now := sighting{version, xxhash.Sum64(value)}
	h := w.rows[k]
	if h != nil && h.last() == now {
		h.scan, h.final = w.scans, h.final || k.minute < w.begun[layerOf(k.Layer, k.Tenant)]
		return
	}
	if err := w.reader.Reset(value); err != nil {
		w.fault("scan %d: %s version %d: %v", w.scans, k, version, err)
		return
	}
	empty := w.reader.Len() == 0
	of := layerOf(k.Layer, k.Tenant)
	if h == nil {
		h = &history{sightings: []sighting{now}}
		w.rows[k] = h
		if k.minute < w.whole[of] && !empty {
			w.fault("scan %d: %s comes with version %d, after a scan that began when all before %d was closed", w.scans, k, version, w.whole[of])
		}
	} else {
		last := h.last()
		switch {
		case version < last.version:
			w.fault("scan %d: %s goes back from version %d to %d", w.scans, k, last.version, version)
		case version == last.version:
			w.fault("scan %d: %s has two values of version %d", w.scans, k, version)
		case h.final && now.digest != last.digest:
			w.fault("scan %d: %s, closed, changes from version %d to %d", w.scans, k, last.version, version)
		}
		if version > last.version {
			h.sightings = append(h.sightings, now)
		}
	}
	h.scan, h.empty = w.scans, empty
	h.final = h.final || k.minute < w.begun[of]
}

// end ends a scan; whole: it saw every row that there is.
func (w *watch) end(whole bool) {
	if !whole {
		return
	}
	for k, h := range w.rows {
		if h.scan != w.scans && !h.empty {
			w.fault("scan %d: %s is gone; its version was %d", w.scans, k, h.last().version)
			h.empty = true // told once
		}
	}
	w.whole = w.begun
}

// summary is for the log: what was watched.
func (w *watch) summary() string {
	final, sightings := 0, 0
	for _, h := range w.rows {
		sightings += len(h.sightings)
		if h.final {
			final++
		}
	}
	return fmt.Sprintf("%d scans, %d rows in %d versions, %d of them seen when closed", w.scans, len(w.rows), sightings, final)
}
