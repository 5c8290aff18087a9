// Package failover moves the readers of a tenant from one data centre's layer to another's (DESIGN 4, mirrors).
//
// The metric store is the one thing that all data centres share, so whoever asks for a change and stage 2 speak through
// it, in rows of progress under names that are no layers. All are absolute values of which the greatest stands, so a
// repeat changes nothing and nobody needs a lock:
//
//	held.LAYER     stage 2 as a standby: how far it is complete with what it holds, by partition
//	asked.LAYER    Promote: stage 2 shall write this tenant; the version is the sequence that the active layer shall get
//	written.LAYER  stage 2: all that this partition held is written and it goes on writing; the version is that of asked
//
// Only when every partition of the layer has answered does the row of the active layer change. A reader, which resolves
// that row once per request, never sees a layer whose rows are still being held.
package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tandem/schemas/store"
)

// Names of the rows of progress for a layer.
func Held(layer string) string    { return "held." + layer }
func Asked(layer string) string   { return "asked." + layer }
func Written(layer string) string { return "written." + layer }

// Store is the part of the metric store that a failover needs.
type Store interface {
	PutProgress(ctx context.Context, p store.Progress) error
	Progress(ctx context.Context, layer, tenant string) ([]store.Progress, error)
	PutActive(ctx context.Context, a store.Active) error
	Active(ctx context.Context, tenant string) (store.Active, bool, error)
}

// Layer is how far a stream layer is with a tenant. Minutes count since the epoch.
type Layer struct {
	Name string
	// Heard is how many partitions of the metrics topic have told anything yet.
	Heard int
	// Complete: all minutes before it are written, or held by a standby. 0 until all partitions have been heard.
	Complete int64
	// Written: all minutes before it are in the store, or covered by the batch. 0 until all partitions have been heard.
	Written int64
}

// Look reads how far a layer is, whose metrics topic has the given number of partitions.
func Look(ctx context.Context, st Store, tenant, layer string, partitions int) (Layer, error) {
	l := Layer{Name: layer}
	written, err := closed(ctx, st, tenant, layer)
	if err != nil {
		return l, err
	}
	held, err := closed(ctx, st, tenant, Held(layer))
	if err != nil {
		return l, err
	}
	var complete, done []int64
	for p := range int32(partitions) {
		w, isWritten := written[p]
		h, isHeld := held[p]
		if isWritten || isHeld {
			l.Heard++
		}
		complete, done = append(complete, max(w, h)), append(done, w)
	}
	l.Complete, l.Written = least(complete), least(done)
	return l, nil
}

func least(minutes []int64) int64 {
	if len(minutes) == 0 {
		return 0
	}
	m := minutes[0]
	for _, x := range minutes {
		m = min(m, x)
	}
	return m
}

func closed(ctx context.Context, st Store, tenant, layer string) (map[int32]int64, error) {
	all, err := st.Progress(ctx, layer, tenant)
	if err != nil {
		return nil, fmt.Errorf("progress of %s, tenant %s: %w", layer, tenant, err)
	}
	m := map[int32]int64{}
	for _, p := range all {
		m[p.Partition] = p.ClosedBefore
	}
	return m, nil
}

// Errors that a caller decides on. Nothing was changed for readers.
var (
	// ErrBehind: the layer is not as far as the active one.
	ErrBehind = errors.New("the layer is behind the active one")
	// ErrSilent: not every partition of the layer has answered in time.
	ErrSilent = errors.New("stage 2 of the layer does not answer")
)

// Change asks for another active layer.
type Change struct {
	Tenant, Layer string
	Partitions    int   // of the layer's metrics topic
	Lag           int64 // minutes that the layer may be behind the active one
	Force         bool  // though it is behind, or does not answer
	Wait          time.Duration
	Now           func() time.Time
}

// answerEvery is the time between two looks for answers.
const answerEvery = 200 * time.Millisecond

// Promote makes a layer the active one of a tenant, once stage 2 of it has written all that it held: it returns the rows
// before and after, which are the same if it is the active one already. A layer that is further behind than it may be is
// refused before anything is asked, and again when all is written.
func Promote(ctx context.Context, st Store, c Change) (before, after store.Active, err error) {
	before, _, err = st.Active(ctx, c.Tenant)
	if err != nil {
		return before, before, fmt.Errorf("active layer of %s: %w", c.Tenant, err)
	}
	if before.Layer == c.Layer {
		return before, before, nil
	}
	if err := c.compare(ctx, st, before.Layer, func(l Layer) int64 { return l.Complete }); err != nil {
		return before, before, err
	}
	after = store.Active{Tenant: c.Tenant, Layer: c.Layer, Seq: NextSeq(before, c.Now().UnixMilli())}
	ask := store.Progress{Layer: Asked(c.Layer), Tenant: c.Tenant, Version: after.Seq}
	if err := st.PutProgress(ctx, ask); err != nil {
		return before, before, fmt.Errorf("ask %s to write %s: %w", c.Layer, c.Tenant, err)
	}
	if err := c.answers(ctx, st, after.Seq); err != nil && !(c.Force && errors.Is(err, ErrSilent)) {
		return before, before, err
	}
	if err := c.compare(ctx, st, before.Layer, func(l Layer) int64 { return l.Written }); err != nil {
		return before, before, err
	}
	if err := st.PutActive(ctx, after); err != nil {
		return before, before, fmt.Errorf("make %s the active layer of %s: %w", c.Layer, c.Tenant, err)
	}
	return before, after, nil
}

// NextSeq is the sequence of the row that follows the active one. It is the clock, in ms, and always greater than the one
// known: a change that the other data centre made just before it went away may not have come here, and must lose when it
// does. So it also tells when the last change was made.
func NextSeq(active store.Active, nowMS int64) int64 { return max(active.Seq+1, nowMS) }

// compare refuses a layer that is further behind than it may be.
func (c *Change) compare(ctx context.Context, st Store, active string, far func(Layer) int64) error {
	if c.Force || active == "" {
		return nil
	}
	to, err := Look(ctx, st, c.Tenant, c.Layer, c.Partitions)
	if err != nil {
		return err
	}
	from, err := Look(ctx, st, c.Tenant, active, c.Partitions)
	if err != nil {
		return err
	}
	if to.Heard < c.Partitions {
		return fmt.Errorf("%w: of %d partitions of %s only %d have told how far tenant %s is", ErrBehind, c.Partitions, c.Layer, to.Heard, c.Tenant)
	}
	if behind := from.Written - far(to); behind > c.Lag {
		return fmt.Errorf("%w: %s is complete to %s with tenant %s and %s to %s, %d minutes more; %d are allowed", ErrBehind,
			c.Layer, Clock(far(to)), c.Tenant, active, Clock(from.Written), behind, c.Lag)
	}
	return nil
}

// answers waits until every partition of the layer writes.
func (c *Change) answers(ctx context.Context, st Store, seq int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Wait, ErrSilent)
	defer cancel()
	tick := time.NewTicker(answerEvery)
	defer tick.Stop()
	var silent []int32
	var failed error
	for {
		// What fails is read again; the time that there is decides.
		if all, err := st.Progress(ctx, Written(c.Layer), c.Tenant); err == nil {
			answered := map[int32]bool{}
			for _, p := range all {
				answered[p.Partition] = p.Version >= seq
			}
			silent, failed = silent[:0], nil
			for p := range int32(c.Partitions) {
				if !answered[p] {
					silent = append(silent, p)
				}
			}
			if len(silent) == 0 {
				return nil
			}
		} else if ctx.Err() == nil {
			failed = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, ErrSilent) {
				return cause
			}
			if failed != nil {
				return fmt.Errorf("answers of %s for tenant %s: %w", c.Layer, c.Tenant, failed)
			}
			return fmt.Errorf("%w: partitions %v of %s, tenant %s, within %s: does tandem stream run there?", ErrSilent, silent, c.Layer, c.Tenant, c.Wait)
		}
	}
}

// Clock shows a minute as RFC 3339; "-" is none.
func Clock(minute int64) string {
	if minute <= 0 {
		return "-"
	}
	return time.Unix(minute*60, 0).UTC().Format("2006-01-02T15:04Z")
}
