package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/batch"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/row"
	"tandem/schemas/store"
	"tandem/scripts/devstack"
)

// layeredSite makes the folder of a site whose store has both layers of two hours of traffic, which begin at the time that it
// returns.
func layeredSite(t *testing.T) (dir string, s *site.Site, begin time.Time) {
	t.Helper()
	dir, s, blobs := shopSite(t)
	st, err := s.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opt := embedded.Defaults()
	opt.Metrics = s.Metrics.Partitions
	p, err := embedded.Open(t.Context(), opt, s.Tenants[0].Chain, embedded.NewMemory(), blobs, st)
	if err != nil {
		t.Fatal(err)
	}
	raws, begin := shopTraffic(t, 2*time.Hour, 3)
	if err := errors.Join(p.Feed(t.Context(), raws), p.Pump(t.Context()), p.Finish(t.Context()), st.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, s, begin
}

func TestAuditCommand(t *testing.T) {
	devstack.AtLength(t)
	t.Setenv("TMPDIR", t.TempDir())
	dir, s, begin := layeredSite(t)
	audit := func(want int, more ...string) (string, string) {
		t.Helper()
		var out, errs bytes.Buffer
		args := append([]string{"audit", "--site", filepath.Join(dir, "site.yaml"), "--from", begin.Format(time.RFC3339),
			"--to", begin.Add(24 * time.Hour).Format(time.RFC3339)}, more...)
		if code := run(t.Context(), args, &out, &errs); code != want {
			t.Fatalf("exit code %d, want %d:\n%s%s", code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	text, _ := audit(0)
	for _, want := range []string{"shop, ", "layer stream.dc1", "less than asked for: ", "all sessions from their beginnings", " all\n", "explained: the stream's"} {
		if !strings.Contains(text, want) {
			t.Errorf("without faults it says\n%swhich has no %q", text, want)
		}
	}
	report := func(code int) *batch.AuditReport {
		t.Helper()
		text, _ := audit(code, "--json")
		var got struct{ Audits []*batch.AuditReport }
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Audits) != 1 {
			t.Fatalf("%v:\n%s", err, text)
		}
		return got.Audits[0]
	}
	if r := report(0); r.Faults != 0 || r.Total.Equal < 1000 || len(r.Metrics) < 20 {
		t.Errorf("%+v", r.Total)
	}

	st, err := s.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	value, err := row.Append(nil, row.Sums, []row.Cell{{Tags: "device=none,login=none", Value: 7}})
	if err != nil {
		t.Fatal(err)
	}
	minute := begin.Unix()/60 + 33
	err = errors.Join(st.PutRows(t.Context(), []store.Row{{Series: store.Series{Tenant: "shop", Metric: "site.visit", Layer: "stream.dc1"},
		Minute: minute, Version: 1 << 20, Expires: (minute + 100_000) * 60000, Value: value}}), st.Close())
	if err != nil {
		t.Fatal(err)
	}
	text, _ = audit(1)
	for _, want := range []string{"UNEXPLAINED: ", begin.Add(33*time.Minute).Format(time.RFC3339) + " stream.dc1 site.visit ", "site.visit\n", "sessions behind it:\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("with a fault it says\n%swhich has no %q", text, want)
		}
	}
	if r := report(1); r.Faults == 0 || r.Total.Unexplained != r.Faults {
		t.Errorf("%d faults, %+v", r.Faults, r.Total)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "tandem-audit-*")); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
	if _, errs := audit(1, "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"); !strings.Contains(errs, "new end 2020-01-02T00:00:00Z: rows before the range's new start have expired\n") {
		t.Error(errs)
	}
	if _, errs := audit(1, "--tenant", "nobody"); !strings.Contains(errs, "nobody") {
		t.Error(errs)
	}
	_, errs := audit(1, "--from", begin.Add(12*time.Hour).Format(time.RFC3339))
	if !strings.Contains(errs, ": the stream has closed no minute from the range's new end on, and the archive may still get records") {
		t.Error(errs)
	}
}

func TestAuditCommandLine(t *testing.T) {
	for _, args := range []string{"", "--site x", "--site x --from 2026-01-01T00:00:00Z", "--site x --from 2026-01-01T00:00:00Z --to 2026-01-01T00:00:00Z",
		"--site x --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z extra", "--site x --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z --back -1s"} {
		if code := runAudit(t.Context(), strings.Fields(args), io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}
