package main

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/batch"
)

func TestExplainCommand(t *testing.T) {
	dir, _, begin := layeredSite(t)
	explain := func(want int, more ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(t.Context(), append([]string{"explain", "--site", filepath.Join(dir, "site.yaml")}, more...), &out, &errs); code != want {
			t.Fatalf("exit code %d, want %d:\n%s%s", code, want, &out, &errs)
		}
		return out.String() + errs.String()
	}
	minute := begin.Add(33 * time.Minute).Format(time.RFC3339)
	text := explain(0, "--metric", "site.visit", "--minute", minute, "--most", "1")
	for _, want := range []string{"shop site.visit, minute " + minute, "stream.dc1: ", "batch.", "the store holds that", "\nsession ", "  counts", "+1 site.visit", "--most tells"} {
		if !strings.Contains(text, want) {
			t.Errorf("it says\n%swhich has no %q", text, want)
		}
	}
	if strings.Contains(text, "NOT THE SAME") {
		t.Error(text)
	}
	later := explain(0, "--metric", "site.visit", "--minute", begin.Add(200*24*time.Hour).Format(time.RFC3339))
	if !strings.Contains(later, "stream.dc1: the archive is written up to ") || !strings.Contains(later, "it may still get records of this time") {
		t.Errorf("of a minute that is not archived yet it says\n%s", later)
	}
	if none := explain(0, "--session", "nope"); !strings.Contains(none, "the archive has no beacon of this session") {
		t.Errorf("of a session that is not it says\n%s", none)
	}
	var got batch.Explanation
	if err := json.Unmarshal([]byte(explain(0, "--metric", "site.visit", "--minute", minute, "--json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Layers) != 2 || got.Layers[0].Stored == nil || *got.Layers[0].Stored != got.Layers[0].Sum || got.Layers[0].Sum == 0 || len(got.Sessions) == 0 {
		t.Fatalf("%+v", got)
	}
	text = explain(0, "--session", got.Sessions[0].Session)
	for _, want := range []string{"shop session " + got.Sessions[0].Session, "stream.dc1:\n", "batch.1:\n", "site.visit.beta", "at the end of a visit:\n", "+1 site.visit.end"} {
		if !strings.Contains(text, want) {
			t.Errorf("it says\n%swhich has no %q", text, want)
		}
	}
	for args, want := range map[string]string{
		"--metric site.visits --minute " + minute:                 `no metric "visits"`,
		"--metric visit --minute " + minute:                       "site.NAME",
		"--metric fm.visit --experiment no --minute " + minute:    `no experiment "no"`,
		"--metric site.visit --tags device=pc --minute " + minute: "no tag set",
	} {
		if text := explain(1, strings.Fields(args)...); !strings.Contains(text, want) {
			t.Errorf("%s: %s, want %q", args, text, want)
		}
	}
}

func TestExplainCommandLine(t *testing.T) {
	for _, args := range []string{"", "--site x", "--site x --metric site.visit", "--site x --metric site.visit --minute 2026-01-01T00:00:00Z --session s",
		"--site x --session s --from 2026-01-01T00:00:00Z", "--site x --session s --from 2026-01-01T00:00:00Z --to 2026-01-01T00:00:00Z",
		"--site x --session s extra", "--site x --metric site.visit --minute 2026-01-01T00:00:00Z --tags device", "--site x --session s --most 0"} {
		if code := runExplain(t.Context(), strings.Fields(args), io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}
