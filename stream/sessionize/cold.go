package sessionize

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// Resume says at which offset a shard would go on, if it has any state, or a claim that begins without one.
func Resume(cfg Config, blobs Blobs) (offset int64, ok bool, err error) {
	w := &Worker{cfg: cfg, blobs: blobs}
	g, c, taken, err := w.newest()
	if err != nil || g < 0 {
		return 0, false, err
	}
	taken = c.checkpoints(taken)
	if len(taken) == 0 {
		return c.Start, true, nil
	}
	l, err := complete(taken, blobs.Get)
	if errors.Is(err, errOrphan) || errors.Is(err, blob.ErrNotFound) {
		return 0, false, nil // nothing can make it again, though the log still has what comes after it
	}
	if err != nil {
		return 0, false, err
	}
	newest := l.newest()
	at, err := strconv.ParseInt(strings.TrimSuffix(path.Base(newest), ".checkpoint"), 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("checkpoint %s: its name has no offset: %w", newest, err)
	}
	return at, true, nil
}

// ClaimCold claims a generation that begins empty at an offset, where the log's records are of that moment (ms), and
// returns its first minute: beacons of minutes before it may lie before the offset.
func ClaimCold(cfg Config, chain *tenant.Chain, blobs Blobs, offset, moment int64) (firstMinute int64, err error) {
	skew := int64(0)
	for i := range chain.Revs {
		skew = max(skew, chain.Revs[i].Config.MaxSkew)
	}
	w := &Worker{cfg: cfg, blobs: blobs}
	for {
		g, _, _, err := w.newest()
		if err != nil {
			return 0, err
		}
		c := claim{Start: offset, FirstMinute: FirstColdMinute(skew, moment), TickMS: cfg.TickMS, Core: CoreVersion, Metrics: cfg.MetricsPartitions}
		data, err := sealed.Marshal(c)
		if err != nil {
			return 0, fmt.Errorf("claim: %w", err)
		}
		err = blobs.Create(w.claimName(g+1), data)
		if errors.Is(err, blob.ErrExists) {
			continue // another owner claims too: what it claimed is looked at, and a generation after it claimed
		}
		if err != nil {
			return 0, fmt.Errorf("claim generation %d: %w", g+1, err)
		}
		return c.FirstMinute, nil
	}
}

// FirstColdMinute is the first minute that begins more than a minute after anything that a log's records before a moment
// (ms) can be of: a clock may be ahead by so many ms (DESIGN 4).
func FirstColdMinute(maxSkewMS, moment int64) int64 {
	return metric.FloorDiv(moment+maxSkewMS+60_000, 60_000) + 1
}
