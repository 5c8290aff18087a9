package prom

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"tandem/scripts/devstack"
)

// TestPrometheus: a real Prometheus reads a tenant's metrics by remote read, and answers what this API answers.
func TestPrometheus(t *testing.T) {
	devstack.AtLength(t)
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("there is no prometheus here: apt-get install prometheus")
	}
	s := serveWorld(t, 1, DefaultLimits())
	address := devstack.Address(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "remote_read:\n  - url: %s/api/v1/read\n    read_recent: true\n", s.url), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address,
		"--query.lookback-delta=59s", "--log.level=warn") // of Prometheus 2 a range holds both of its ends, of 3 only the later one
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // killed
	}()
	c, err := api.NewClient(api.Config{Address: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	real := v1.NewAPI(c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := real.Buildinfo(ctx); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	lo, hi := int64(1)<<60, int64(0)
	for k := range s.lines(t) {
		var m int64
		fmt.Sscan(k[len(k)-8:], &m)
		lo, hi = min(lo, m), max(hi, m+1)
	}
	r := v1.Range{Start: time.Unix((lo+1)*60, 0), End: time.Unix(min(hi, lo+10_000)*60, 0), Step: time.Minute}
	samples := 0
	for _, q := range []string{`site:visit`, `{__name__=~"(site|fm|assigned):.+"}`, `sum by (experiment, variation) (sum_over_time({__name__=~"assigned:visit"}[3599s]))`, `sum(site:visit{device="nobody"})`} {
		want, _, err := s.client(t).QueryRange(ctx, q, r)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := real.QueryRange(ctx, q, r)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Errorf("%s: Prometheus answers\n%.2000s\nthis API\n%.2000s", q, got, want)
		}
		for _, one := range got.(model.Matrix) {
			samples += len(one.Values)
		}
	}
	if samples == 0 {
		t.Error("no samples")
	}
}
