package campaign

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/scripts/devstack"
)

// What is asked of the server meanwhile, and appended to the live topic.
const (
	besideReads  = 50 * time.Millisecond // a query is due so often, whether the one before was answered or not
	besideLive   = 300                   // beacons a second
	besideSettle = 20 * time.Second      // Cassandra has written and merged what a backfill left
	besideQuiet  = time.Minute
	besideTurns  = 2
)

var measureBinary build

// archived fills the site's blobs with the traffic's beacons as an archiver leaves them, and covers their windows.
func (s *scenario) archived() {
	s.t.Helper()
	folder := filepath.Join(s.dir, "history")
	measure := measureBinary.of(s.t, "measure", repository(s.t), "./scripts/measure")
	s.t.Log(run(s.t, measure, "-records", s.traffic.path, "-config", filepath.Join(s.dir, "tenant.yaml"), "-site", folder))
	entries, err := os.ReadDir(filepath.Join(folder, "blobs"))
	s.must(err)
	for _, e := range entries { // beside the sources that topics apply has written
		if strings.HasPrefix(e.Name(), ".") {
			continue // the store's own
		}
		s.must(os.Rename(filepath.Join(folder, "blobs", e.Name()), filepath.Join(s.dir, "blobs", e.Name())))
	}
	began := time.Now()
	run(s.t, tandem(s.t), "batch", "--site", s.site)
	s.t.Logf("batch over history: %.1f s", time.Since(began).Seconds())
}

// answer is when a query was due, and how long after that it was answered.
type answer struct {
	due  time.Time
	took time.Duration
}

// readers asks a server for an hour of history at fixed times, of an experiment and a metric at random, until the context ends.
func readers(ctx context.Context, t testing.TB, url string, x *traffic) (answers func() []answer) {
	var mu sync.Mutex
	var all []answer
	var asked sync.WaitGroup
	done := make(chan struct{})
	rng := rand.New(rand.NewPCG(3, 5))
	hours := (x.last - x.first) / time.Hour.Milliseconds()
	ask := func(due time.Time, body string) {
		defer asked.Done()
		resp, err := http.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		text, err := io.ReadAll(resp.Body)
		if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(`"values"`)) {
			t.Errorf("status %d, %v: %.300s", resp.StatusCode, err, text)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, answer{due, time.Since(due)})
	}
	go func() {
		defer close(done)
		for due := time.Now(); ctx.Err() == nil; due = due.Add(besideReads) {
			time.Sleep(time.Until(due))
			from := time.UnixMilli(x.first + rng.Int64N(hours)*time.Hour.Milliseconds()).UTC().Truncate(time.Minute)
			asked.Add(1)
			go ask(due, fmt.Sprintf(`{"formulas":[{"expr":%q}],"experiment":"exp_%02d","scope":"fm","step":"1m","from":%q,"to":%q}`,
				allPoints[rng.IntN(len(allPoints))], rng.IntN(20), from.Format(time.RFC3339), from.Add(time.Hour).Format(time.RFC3339)))
		}
	}()
	return func() []answer {
		<-done
		asked.Wait()
		return all
	}
}

// TestBackfillBeside: while a backfill at 25 % runs, readers' p99 stays within 1.5 times of what it is without and the stream is as
// fresh: each in a process of its own, on one Cassandra, all on this machine.
func TestBackfillBeside(t *testing.T) {
	needLong(t)
	devstack.Need(t)
	x := bench(t, 500_000, 2*time.Hour)
	sh := usual()
	sh.kind, sh.tick, sh.fast, sh.raw, sh.beacons = "live", "5s", true, 2, 1
	s := newScenario(t, x, sh)
	s.archived()
	s.services(1, 1)
	serve := startListener(t, tandem(t), filepath.Join(s.dir, "logs"), "serve", "serve", "--site", s.site)
	s.procs = append(s.procs, serve)
	serve.ready(time.Minute)
	l := startLive(t, s.kafka, x, s.shape.raw, besideLive)
	m := startMeasure(s, l)
	ctx, stop := context.WithCancel(context.Background())
	answers := readers(ctx, t, "http://"+serve.addr+"/"+x.tenant, x)
	defer answers() // none may report after the test
	defer stop()
	time.Sleep(30 * time.Second) // all is warm

	type span struct {
		from, to time.Time
	}
	var quiet, busy []span
	rest := func() {
		time.Sleep(besideSettle)
		began := time.Now()
		time.Sleep(besideQuiet)
		quiet = append(quiet, span{began, time.Now()})
	}
	from, to := time.UnixMilli(x.first).UTC().Truncate(time.Hour), time.UnixMilli(x.last).UTC().Truncate(time.Hour).Add(time.Hour)
	rest()
	for turn := range besideTurns {
		// Another limit each time, which no session comes to: the splice changes no number, and all must be computed again.
		stamps := fmt.Sprintf("from: %s\nto: %s\n", from.Format(time.RFC3339), to.Format(time.RFC3339))
		splice := s.file("splice"+strconv.Itoa(turn)+".yaml", stamps+x.config+fmt.Sprintf("\nmax_events_per_minute: %d\n", 1000+turn))
		run(t, tandem(t), "config", "apply", "--site", s.site, splice)
		began := time.Now()
		out := run(t, tandem(t), "backfill", "--site", s.site, "--from", from.Format(time.RFC3339), "--to", to.Format(time.RFC3339), "--throttle", "25")
		if !strings.Contains(out, "backfill is done") {
			t.Errorf("it says %s", out)
		}
		busy = append(busy, span{began, time.Now()})
		t.Logf("backfill of history: %.1f s", time.Since(began).Seconds())
		rest()
	}
	stop()
	all := answers()
	m.end(t, 5*time.Minute)
	figures := func(spans []span) (p50, p99, fresh time.Duration) {
		var took []time.Duration
		for _, p := range spans {
			for _, a := range all {
				if a.due.After(p.from) && a.due.Before(p.to) {
					took = append(took, a.took)
				}
			}
			_, f, _ := m.fresh(t, p.from, p.to)
			fresh = max(fresh, f)
		}
		slices.Sort(took)
		return took[len(took)/2], took[len(took)*99/100], fresh
	}
	quiet50, quiet99, quietFresh := figures(quiet)
	busy50, busy99, busyFresh := figures(busy)
	t.Logf("%d queries; without a backfill p50 %s, p99 %s, freshness p99 %s; beside one p50 %s, p99 %s, freshness p99 %s", len(all), quiet50, quiet99, quietFresh, busy50, busy99, busyFresh)
	if float64(busy99) > 1.5*float64(quiet99) {
		t.Errorf("beside a backfill p99 is %s, %.1f times %s", busy99, float64(busy99)/float64(quiet99), quiet99)
	}
	if busyFresh > quietFresh+5*time.Second {
		t.Errorf("beside a backfill freshness is %s, and %s without", busyFresh, quietFresh)
	}
	s.nothingLost()
	s.done()
}
