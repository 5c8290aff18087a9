package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"tandem/schemas/blob"
	"tandem/schemas/store/cassandra"
	"tandem/stream/service"
)

// Limits of the health server and of what it judges by.
const (
	// hungAfter is how long a loop may be at one thing before the process counts as hung.
	hungAfter = 5 * time.Minute
	// staleAfter is how old the last answer of something outside may be: it is asked every 5 s, and answers within 10.
	staleAfter = 30 * time.Second
	// keptTicks is how many ticks of each stage /ticks tells.
	keptTicks = 100
	// maxReasons is how many reasons /readyz and /healthz give; a process may have hundreds of partitions.
	maxReasons = 20
	// maxConnections are served at once, others wait; maxScrapes of /metrics, others are refused.
	maxConnections = 64
	maxScrapes     = 4
	requestTimeout = 10 * time.Second
	answerTimeout  = 30 * time.Second
	idleTimeout    = 2 * time.Minute // longer than any scrape interval of use
	maxHeader      = 16 << 10
)

// health is what a service tells of itself over HTTP. It reads what the service's goroutines have noted, and asks what
// the service needs every few seconds; nothing of the service waits for it. Without --listen it does nothing.
type health struct {
	bound    time.Duration // of lag, in /readyz
	listener net.Listener  // nil: nobody listens
	server   *http.Server
	metrics  *metrics
	ctx      context.Context // until end
	stop     context.CancelFunc

	mu     sync.Mutex // all below
	stages []*stage
	ticks  map[string][]service.Tick // by stage, the newest last
}

// stage is a service of the process.
type stage struct {
	name  string
	host  *service.Host
	needs []*need // beside Kafka
	read  func(*emitter)
}

// need is something outside that a stage cannot do without.
type need struct {
	name string
	ask  func(context.Context) error
	// retries, if not nil, is how often what was asked of it had to be asked again.
	retries func() int64

	mu    sync.Mutex
	reach service.Reach
	again int64 // retries when it was last asked
}

// retrying is a store that asks again until it is answered.
type retrying interface{ Stats() cassandra.Stats }

// health begins to answer on --listen, before anything else of the service: an address that is taken is an error.
func (f *serviceFlags) health() (*health, error) {
	h := &health{bound: f.ready, ticks: map[string][]service.Tick{}}
	h.ctx, h.stop = context.WithCancel(context.Background())
	if f.listen == "" {
		return h, nil
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", f.listen, err)
	}
	h.listener = l
	registry := prometheus.NewRegistry()
	h.metrics = newMetrics(registry, h)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { verdict(w, "alive", h.hung(time.Now())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { verdict(w, "ready", h.notReady(time.Now())) })
	mux.HandleFunc("GET /ticks", h.tell)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: answerTimeout - time.Second}))
	h.server = &http.Server{Handler: mux, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: log.New(discard{}, "", 0)}
	go h.server.Serve(netutil.LimitListener(l, maxConnections)) // ends with close
	return h, nil
}

// discard drops what http.Server has to say of clients that do not speak HTTP.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// end forgets the stages of a service that has ended, and asks no more for them. The server answers on, for the service that begins
// again: nobody takes its address in between.
func (h *health) end() {
	h.stop()
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.mu.Lock()
	h.stages = nil
	h.mu.Unlock()
}

// close ends the server, whoever is being answered, and the questions to what the service needs.
func (h *health) close() {
	h.stop()
	if h.server != nil {
		h.server.Close()
	}
}

func (h *health) add(s *stage) {
	if h.listener == nil {
		return
	}
	h.mu.Lock()
	h.stages = append(h.stages, s)
	h.mu.Unlock()
	go s.host.Watch(h.ctx)
	for _, n := range s.needs {
		go n.watch(h.ctx)
	}
}

func (h *health) dispatch(d *service.Dispatch) {
	list := func(context.Context) error { _, err := d.Sources(); return err }
	h.add(&stage{service.StageDispatch, d.Host, []*need{{name: "sources", ask: list}}, func(e *emitter) { e.dispatch(d) }})
}

func (h *health) sessionize(s *service.Sessionize) {
	if h.listener != nil {
		s.Ticked = h.ticked
	}
	h.add(&stage{service.StageSessions, s.Host, []*need{blobs("checkpoints", s.Checkpoints)}, func(e *emitter) { e.sessionize(s) }})
}

func (h *health) aggregate(a *service.Aggregate) {
	if h.listener != nil {
		a.Ticked = h.ticked
	}
	n := &need{name: "store", ask: func(ctx context.Context) error {
		_, err := a.Store.Progress(ctx, a.Layer, a.Tenants[0].Name)
		return err
	}}
	if s, ok := a.Store.(retrying); ok {
		n.retries = func() int64 { return s.Stats().Retries }
	}
	h.add(&stage{service.StageAggregate, a.Host, []*need{n}, func(e *emitter) { e.aggregate(a) }})
}

func (h *health) archive(a *service.Archive) {
	h.add(&stage{service.StageArchive, a.Host, []*need{blobs("blobs", a.Blobs)}, func(e *emitter) { e.archive(a) }})
}

// blobs asks for an object that nobody writes.
func blobs(name string, b interface {
	Get(name string) ([]byte, error)
}) *need {
	return &need{name: name, ask: func(context.Context) error {
		if _, err := b.Get("health/asked"); err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
		return nil
	}}
}

// watch asks until the context ends.
func (n *need) watch(ctx context.Context) {
	every := time.NewTicker(service.AskEvery)
	defer every.Stop()
	for ctx.Err() == nil {
		within, cancel := context.WithTimeout(ctx, service.AskTimeout)
		err := n.ask(within)
		cancel()
		n.mu.Lock()
		n.reach.Saw(time.Now(), err)
		if n.retries != nil {
			// It may answer questions and still refuse to take anything: what is asked of it again and again is
			// waited for, and whoever waits is not hung.
			if again := n.retries(); again > n.again {
				n.again, n.reach.Failed = again, time.Now()
			}
		}
		n.mu.Unlock()
		select {
		case <-every.C:
		case <-ctx.Done():
		}
	}
}

func (n *need) status() service.Reach {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reach
}

func (h *health) all() []*stage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.stages)
}

// hung says what has come to a stop for no reason outside of the process.
func (h *health) hung(now time.Time) (why []string) {
	for _, s := range h.all() {
		var excused time.Time
		for _, n := range s.needs {
			if failed := n.status().Failed; failed.After(excused) {
				excused = failed
			}
		}
		why = append(why, s.host.Hung(now, hungAfter, excused)...)
	}
	return why
}

// notReady says why the process does not do what it is there for, as of now.
func (h *health) notReady(now time.Time) (why []string) {
	all := h.all()
	if len(all) == 0 {
		return []string{"starting: Kafka's topics and the store are looked at"}
	}
	for _, s := range all {
		st := s.host.Status()
		if !st.Joined {
			why = append(why, fmt.Sprintf("group %s: no partitions are given out yet", s.host.Group))
		}
		why = unreached(why, "Kafka", st.Kafka, now)
		for _, n := range s.needs {
			why = unreached(why, n.name, n.status(), now)
		}
		for _, seat := range s.host.Seats() {
			why = h.behind(why, seat, now)
		}
	}
	return why
}

func unreached(why []string, what string, r service.Reach, now time.Time) []string {
	switch {
	case r.Err != nil:
		return append(why, fmt.Sprintf("%s: %v", what, r.Err))
	case r.Answered.IsZero():
		return append(why, what+": has not answered yet")
	case now.Sub(r.Answered) > staleAfter:
		return append(why, fmt.Sprintf("%s: has not answered for %s", what, now.Sub(r.Answered).Round(time.Second)))
	}
	return why
}

func (h *health) behind(why []string, seat *service.Seat, now time.Time) []string {
	p, st := seat.Partition, seat.Status()
	if st.State != service.Running {
		text := fmt.Sprintf("%s/%d: %s for %s", p.Topic, p.Partition, st.State, now.Sub(st.Since).Round(time.Second))
		if st.Err != "" {
			text += ", after: " + st.Err
		}
		return append(why, text)
	}
	records, behind, known := st.Lag(now)
	switch {
	case !known:
		return append(why, fmt.Sprintf("%s/%d: the end of its log is not known yet", p.Topic, p.Partition))
	case behind > h.bound:
		return append(why, fmt.Sprintf("%s/%d: %d records behind, for %s; the bound is %s", p.Topic, p.Partition, records, behind.Round(time.Second), h.bound))
	}
	return why
}

// verdict answers 200 and a word, or 503, its negation and why.
func verdict(w http.ResponseWriter, word string, why []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if len(why) == 0 {
		fmt.Fprintln(w, word)
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, "not "+word)
	for _, line := range why[:min(len(why), maxReasons)] {
		fmt.Fprintln(w, strings.ReplaceAll(line, "\n", " "))
	}
	if n := len(why) - maxReasons; n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
}

// ticked is called by any owner.
func (h *health) ticked(t service.Tick) {
	h.metrics.ticked(t)
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.ticks[t.Stage]
	if len(kept) == keptTicks {
		copy(kept, kept[1:])
		kept = kept[:keptTicks-1]
	}
	h.ticks[t.Stage] = append(kept, t)
}

// toldTick is a tick in /ticks.
type toldTick struct {
	Stage           string             `json:"stage"`
	At              time.Time          `json:"at"` // its end
	Topic           string             `json:"topic"`
	Partition       int32              `json:"partition"`
	Offset          int64              `json:"offset"`              // of the next record
	Watermark       *time.Time         `json:"watermark,omitempty"` // absent: not known yet
	Rows            int64              `json:"rows"`
	Bytes           int64              `json:"bytes"`
	Seconds         map[string]float64 `json:"seconds"` // by phase
	CheckpointBytes int64              `json:"checkpoint_bytes,omitempty"`
	CheckpointError string             `json:"checkpoint_error,omitempty"`
}

// tell answers with the last ticks of each stage, the newest last.
func (h *health) tell(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	var ticks []service.Tick
	for _, kept := range h.ticks {
		ticks = append(ticks, kept...)
	}
	h.mu.Unlock()
	slices.SortFunc(ticks, func(a, b service.Tick) int { return a.At.Compare(b.At) })
	told := make([]toldTick, len(ticks))
	for i, t := range ticks {
		told[i] = toldTick{Stage: t.Stage, At: t.At.UTC(), Topic: t.Partition.Topic, Partition: t.Partition.Partition, Offset: t.Offset,
			Rows: t.Rows, Bytes: t.Bytes, Seconds: map[string]float64{}, CheckpointBytes: t.CheckpointBytes}
		if t.Watermark > 0 {
			at := time.UnixMilli(t.Watermark).UTC()
			told[i].Watermark = &at
		}
		for _, p := range phases(&t) {
			told[i].Seconds[p.name] = p.took.Seconds()
		}
		if t.CheckpointErr != nil {
			told[i].CheckpointError = t.CheckpointErr.Error()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(map[string][]toldTick{"ticks": told}) // whoever asked may have gone
}

type phase struct {
	name string
	took time.Duration
}

// phases are those of a tick, and total. A stage that takes no checkpoints has none in any tick.
func phases(t *service.Tick) []phase {
	all := []phase{{"fold", t.Fold}, {"publish", t.Publish}}
	if t.CheckpointBytes > 0 || t.CheckpointErr != nil {
		all = append(all, phase{"checkpoint", t.Checkpoint})
	}
	return append(all, phase{"total", t.Fold + t.Publish + t.Checkpoint})
}
