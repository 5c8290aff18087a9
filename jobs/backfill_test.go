package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/store"
	"tandem/schemas/traffic"
	"tandem/scripts/devstack"
)

// rowsAt are the batch's rows of a site's store.
func rowsAt(t *testing.T, dir string) []string {
	t.Helper()
	s, err := site.Load(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	lines, err := embedded.Lines(t.Context(), st, "shop", "batch", 0, store.MaxMinute+1)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// The life of a backfill: a splice without an experiment, priced, run, killed, run again, undone; then the store is lost.
func TestBackfillOfASite(t *testing.T) {
	devstack.AtLength(t)
	const hours, kills = 4, 3
	dir := archivedSite(t, hours)
	tandemAt(t, dir, "batch")
	was := rowsAt(t, dir)
	now := time.Now().UTC().Truncate(time.Hour)
	from, to := now.Add(-time.Duration(hours+1)*time.Hour), now.Add(-time.Duration(hours)*time.Hour-15*time.Minute)
	stamps := "from: " + from.Format(time.RFC3339) + "\nto: " + to.Format(time.RFC3339) + "\n"
	former := string(traffic.Config())
	without := regexp.MustCompile(`(?s)\nexperiments:.*`).ReplaceAllString(former, "\n")
	if without == former {
		t.Fatal("the config of the traffic has no experiments at its end")
	}
	for name, text := range map[string]string{"without.yaml": stamps + without, "former.yaml": stamps + former} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	diff, _ := tandemAt(t, dir, "config", "diff", filepath.Join(dir, "without.yaml"))
	if !strings.Contains(diff, ": drops experiment ") || !strings.Contains(diff, "a backfill: ") || !strings.Contains(diff, "other revisions of the config), ") || strings.Contains(diff, " 0 beacons") {
		t.Errorf("the price is\n%s", diff)
	}
	tandemAt(t, dir, "config", "apply", filepath.Join(dir, "without.yaml"))
	if _, log := tandemAt(t, dir, "batch"); !strings.Contains(log, "they wait for tandem backfill") {
		t.Errorf("the batch says\n%s", log)
	}
	if !slices.Equal(rowsAt(t, dir), was) {
		t.Error("the batch has changed rows")
	}
	args := []string{"backfill", "--from", from.Format(time.RFC3339), "--to", to.Format(time.RFC3339)}
	if dry, _ := tandemAt(t, dir, append(args, "--dry-run")...); !strings.HasPrefix(dry, "tenant shop: ") || strings.Contains(dry, "nothing") {
		t.Errorf("a dry run says %s", dry)
	}
	all := func(int) bool { return true }
	for range kills {
		n := mapped(t, dir, all)
		if !killed(t, dir, func() bool { return mapped(t, dir, all) > n }, append(args, "--throttle", "20")...) {
			t.Log("it had ended before it could be killed")
		}
		if err := os.RemoveAll(filepath.Join(dir, "blobs/batch/shop/lease")); err != nil { // else the next run waits a minute
			t.Fatal(err)
		}
	}
	_, log := tandemAt(t, dir, append(args, "--throttle", "80")...)
	if !strings.Contains(log, "backfill is done") {
		t.Errorf("it says\n%s", log)
	}
	spliced := rowsAt(t, dir)
	if slices.Equal(spliced, was) {
		t.Error("no row has changed")
	}
	beside, _ := tandemAt(t, dir, "backfill", "--from", "1999-01-01T00:00:00Z", "--to", "1999-01-02T00:00:00Z", "--dry-run")
	wantText(t, beside, "^tenant shop: nothing to do: the archive holds beacons of 20.* to 20")
	if dry, _ := tandemAt(t, dir, append(args, "--dry-run")...); dry != "tenant shop: nothing to do\n" {
		t.Errorf("after it a dry run says %s", dry)
	}

	// The store is lost.
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	whole := []string{"backfill", "--from", now.Add(-1000 * time.Hour).Format(time.RFC3339), "--to", now.Add(1000 * time.Hour).Format(time.RFC3339)}
	cmd := exec.Command("tandem", "backfill", "--from", to.Format(time.RFC3339), "--to", now.Format(time.RFC3339), "--site", filepath.Join(dir, "site.yaml"))
	var refused strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &refused
	if exit := (*exec.ExitError)(nil); !errors.As(cmd.Run(), &exit) || exit.ExitCode() != 1 || !strings.Contains(refused.String(), "the archive cannot tell how the sessions go on") {
		t.Errorf("a start without state: %s", refused.String())
	}
	tandemAt(t, dir, whole...)
	if !slices.Equal(rowsAt(t, dir), spliced) {
		t.Error("from the archive it comes to other rows")
	}

	// And what was.
	tandemAt(t, dir, "config", "apply", filepath.Join(dir, "former.yaml"))
	tandemAt(t, dir, args...)
	if !slices.Equal(rowsAt(t, dir), was) {
		t.Error("undone it comes to other rows")
	}
	report, _ := tandemAt(t, dir, "report")
	if strings.Count(report, "\n") < 4 {
		t.Errorf("the report is\n%s", report)
	}
}
