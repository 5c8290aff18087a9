package pages

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// askWithin is how long services have to answer, askedHold how long their answers serve all who look at the page.
	askWithin = 2 * time.Second
	askedHold = 2 * time.Second
	// mostTold is how much of an answer of a service is read.
	mostTold = 4 << 20
)

// told is what a service said.
type told struct {
	service Service
	ticks   []Tick
}

// asking holds what the services said last.
type asking struct {
	mu   sync.Mutex
	at   time.Time
	told []told
}

// askServices adds what each service tells of itself.
func (s *Stored) askServices(o *Operations) {
	a := &s.services
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) >= askedHold {
		// Not within the request of one who looks: others wait for the same answers.
		ctx, cancel := context.WithTimeout(context.Background(), askWithin)
		defer cancel()
		a.told = make([]told, len(s.Services))
		var all sync.WaitGroup
		for i, url := range s.Services {
			all.Go(func() { a.told[i] = askService(ctx, url) })
		}
		all.Wait()
		a.at = time.Now()
	}
	for _, t := range a.told {
		o.Services = append(o.Services, t.service)
		o.Ticks = append(o.Ticks, t.ticks...)
	}
}

// askService asks a service how it is: /readyz, /metrics for what it has still to do, /ticks.
func askService(ctx context.Context, url string) told {
	t := told{service: Service{Name: strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://"), Lag: -1}}
	body, status, err := fetch(ctx, url+"/readyz")
	switch {
	case err != nil:
		t.service.Reason = "it does not answer"
		return t
	case status == http.StatusOK:
		t.service.Ready = true
	default:
		t.service.Reason = strings.TrimSpace(string(body))
	}
	if body, status, err := fetch(ctx, url+"/metrics"); err == nil && status == http.StatusOK {
		t.service.lags(body)
	}
	var ticks struct {
		Ticks []struct {
			Stage     string
			At        time.Time
			Partition int32
			Watermark *time.Time
			Rows      int64
			Seconds   map[string]float64
		}
	}
	if body, _, err := fetch(ctx, url+"/ticks"); err == nil && json.Unmarshal(body, &ticks) == nil {
		for _, k := range ticks.Ticks {
			delete(k.Seconds, "total")
			tick := Tick{Stage: k.Stage, Partition: k.Partition, At: k.At.UnixMilli(), Rows: k.Rows, Seconds: k.Seconds}
			if k.Watermark != nil {
				tick.Watermark = k.Watermark.UnixMilli()
			}
			t.ticks = append(t.ticks, tick)
		}
	}
	return t
}

// lags reads a service's metrics: its stages, and how far its partitions are behind the ends of their logs. While that is not known of
// all of them, it is not known of the service.
func (s *Service) lags(metrics []byte) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(metrics))
	if err != nil {
		return
	}
	var stages []string
	partitions := 0
	for _, m := range families["tandem_partition_running"].GetMetric() {
		partitions++
		for _, l := range m.GetLabel() {
			if l.GetName() == "stage" && !slices.Contains(stages, l.GetValue()) {
				stages = append(stages, l.GetValue())
			}
		}
	}
	slices.Sort(stages)
	s.Kind = strings.Join(stages, ", ")
	records := families["tandem_consumer_lag_records"].GetMetric()
	if partitions == 0 || len(records) < partitions {
		return
	}
	s.Lag = 0
	for _, m := range records {
		s.Lag += int64(m.GetGauge().GetValue())
	}
	for _, m := range families["tandem_consumer_lag_seconds"].GetMetric() {
		s.Behind = max(s.Behind, int64(m.GetGauge().GetValue()*1000))
	}
}

func fetch(ctx context.Context, url string) ([]byte, int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostTold))
	return body, resp.StatusCode, err
}
