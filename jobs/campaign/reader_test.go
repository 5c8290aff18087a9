package campaign

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/jobs/site"
	"tandem/stream/failover"
)

// reader reads a few series in dc2 as whoever serves pages there does: it resolves the active layer once, at LOCAL_QUORUM,
// and takes the rows of that. Minutes of which it knows that they are closed must never change, whatever the layer.
type reader struct {
	series []rowName
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // all below
	layers  []seenLayer
	closed  map[rowKey][]byte // by row, without its layer: what a closed minute was first read as
	faults  []string
	answers int
	longest time.Duration
}

type seenLayer struct {
	layer string
	at    time.Time // of the first answer with it
}

// read starts a reader of some of the rows that are to come.
func (m *mirrors) read(want map[rowKey][]byte) *reader {
	m.t.Helper()
	names := map[rowName]int{}
	for k := range want {
		names[rowName{k.Experiment, k.Metric}]++
	}
	// Those with the most minutes.
	all := slices.SortedFunc(maps.Keys(names), func(a, b rowName) int { return names[b] - names[a] })
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{series: all[:min(len(all), 12)], cancel: cancel, done: make(chan struct{}), closed: map[rowKey][]byte{}}
	s, err := site.Load(m.two.site)
	if err != nil {
		m.t.Fatal(err)
	}
	st, err := s.OpenStore(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		defer st.Close()
		closed := int64(0)
		for ctx.Err() == nil {
			began := time.Now()
			active, ok, err := st.Active(ctx, m.one.traffic.tenant)
			if err == nil && ok {
				var l failover.Layer
				if l, err = failover.Look(ctx, st, m.one.traffic.tenant, active.Layer, m.two.shape.metrics); err == nil {
					closed = max(closed, l.Written)
					rows := map[rowKey][]byte{}
					for _, name := range r.series {
						k := rowKey{}
						k.Tenant, k.Experiment, k.Metric, k.Layer = m.one.traffic.tenant, name.experiment, name.metric, active.Layer
						err = st.Rows(ctx, k.Series, 0, closed, func(minute, _ int64, value []byte) error {
							if k.minute = minute; !empty(value) {
								rows[k] = slices.Clone(value)
							}
							return nil
						})
						if err != nil {
							break
						}
					}
					if err == nil {
						r.take(active.Layer, closed, rows, time.Since(began))
					}
				}
			}
			if err != nil && ctx.Err() == nil {
				r.fault("it cannot read: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	m.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (r *reader) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, time.Now().UTC().Format(time.TimeOnly)+": "+fmt.Sprintf(format, args...))
	}
}

// take takes an answer: all rows of minutes before closed.
func (r *reader) take(layer string, closed int64, rows map[rowKey][]byte, took time.Duration) {
	r.mu.Lock()
	r.answers++
	r.longest = max(r.longest, took)
	if n := len(r.layers); n == 0 || r.layers[n-1].layer != layer {
		r.layers = append(r.layers, seenLayer{layer, time.Now()})
	}
	known := r.closed
	r.mu.Unlock()
	bare := func(k rowKey) rowKey { k.Layer = ""; return k }
	for k, value := range rows {
		if before, ok := known[bare(k)]; !ok {
			known[bare(k)] = value
		} else if string(before) != string(value) {
			r.fault("answer %d: %s is not what it was when it was closed", r.answers, k)
		}
	}
	for k := range known {
		full := k
		if full.Layer = layer; rows[full] == nil {
			r.fault("answer %d: %s was there when it was closed, and is not", r.answers, full)
		}
	}
}

// follows waits for an answer with a layer.
func (m *mirrors) follows(r *reader, layer string, limit time.Duration) time.Time {
	m.t.Helper()
	var at time.Time
	await(m.t, limit, "the reader follows to "+layer, func() (bool, string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		last := r.layers[len(r.layers)-1]
		at = last.at
		return last.layer == layer, fmt.Sprint(r.layers)
	})
	return at
}

// end stops it and holds what it has read against the oracle.
func (r *reader) end(t testing.TB, want map[rowKey][]byte) {
	t.Helper()
	r.cancel()
	<-r.done
	if len(r.faults) > 0 {
		t.Errorf("the reader has found %d faults or more:\n%s", len(r.faults), strings.Join(r.faults, "\n"))
	}
	bare := map[rowKey][]byte{}
	for k, value := range want {
		k.Layer = ""
		bare[k] = value
	}
	wrong := 0
	for k, value := range r.closed {
		if string(bare[k]) != string(value) {
			if wrong++; wrong <= maxFaults {
				t.Errorf("the reader has read %s as\n%s, not\n%s", k, cells(r.closed, k), cells(bare, k))
			}
		}
	}
	if wrong > 0 || len(r.closed) == 0 {
		t.Errorf("of %d rows read when closed %d are not the oracle's", len(r.closed), wrong)
	}
	t.Logf("reader: %d answers of %d series, the longest after %.1f s; %d rows read when closed", r.answers, len(r.series), r.longest.Seconds(), len(r.closed))
}
