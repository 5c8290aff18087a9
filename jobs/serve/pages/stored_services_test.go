package pages

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What services tell of their lag is what the page shows: the sum of the partitions' records and the longest time; nothing while a
// partition's is not known. Who looks at the same time is answered by one question.
func TestServicesLag(t *testing.T) {
	running := func(stage string, partition int) string {
		return fmt.Sprintf("tandem_partition_running{stage=%q,topic=\"a\",partition=\"%d\"} 1\n", stage, partition)
	}
	lag := func(stage string, partition, records int, seconds float64) string {
		labels := fmt.Sprintf("{stage=%q,topic=\"a\",partition=\"%d\"}", stage, partition)
		return fmt.Sprintf("tandem_consumer_lag_records%s %d\ntandem_consumer_lag_seconds%s %g\n", labels, records, labels, seconds)
	}
	asked := atomic.Int64{}
	service := func(metrics string, ready bool) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/readyz":
				asked.Add(1)
				if !ready {
					http.Error(w, "not ready\na/1: opening for 3s", http.StatusServiceUnavailable)
				}
			case "/metrics":
				fmt.Fprint(w, metrics)
			case "/ticks":
				fmt.Fprint(w, `{"ticks":[{"stage":"sessions","at":"2026-01-01T00:00:01Z","partition":1,"rows":7,"seconds":{"fold":0.5,"total":0.5}}]}`)
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	s := &Stored{Services: []string{
		service("# TYPE tandem_consumer_lag_records gauge\n# TYPE tandem_consumer_lag_seconds gauge\n"+running("sessions", 0)+running("aggregate", 1)+lag("sessions", 0, 5, 0.25)+lag("aggregate", 1, 37, 2.5), true),
		service(running("archive", 0)+running("archive", 1)+lag("archive", 0, 5, 0.25), false),
		service("", true), service("no metrics}", true),
	}}
	gone := httptest.NewServer(nil) // the last, or another one is given its port
	gone.Close()
	s.Services = append(s.Services, gone.URL)
	var o Operations
	s.askServices(&o)
	want := []Service{{Kind: "aggregate, sessions", Ready: true, Lag: 42, Behind: 2500}, {Kind: "archive", Reason: "not ready\na/1: opening for 3s", Lag: -1},
		{Ready: true, Lag: -1}, {Ready: true, Lag: -1}, {Reason: "it does not answer", Lag: -1}}
	for i := range want {
		want[i].Name = strings.TrimPrefix(s.Services[i], "http://")
		if o.Services[i] != want[i] {
			t.Errorf("%+v, want %+v", o.Services[i], want[i])
		}
	}
	if len(o.Ticks) != 4 || o.Ticks[0].Rows != 7 || len(o.Ticks[0].Seconds) != 1 || o.Ticks[0].At != time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC).UnixMilli() {
		t.Errorf("ticks %+v", o.Ticks)
	}
	s.askServices(&o)
	if asked.Load() != 4 || len(o.Services) != 10 {
		t.Errorf("asked %d times for two looks", asked.Load())
	}
	// These are the names that services have.
	defined, err := os.ReadFile("../../health_metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tandem_partition_running", "tandem_consumer_lag_records", "tandem_consumer_lag_seconds"} {
		if !strings.Contains(string(defined), `{"`+name+`", `) {
			t.Errorf("no service has %s", name)
		}
	}
}
