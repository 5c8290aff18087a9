package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A service that waits at its start for a server that does not answer stops as any other: in good order.
func TestServicesStopWhileTheyWait(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"shop.yaml": "tenant: shop\npoints:\n  home: {kind: page}\n",
		"site.yaml": `dc: dc1
kafka: {brokers: [127.0.0.1:1]}
raw: [{topic: raw, kind: live, partitions: 1}]
tenants: [{config: shop.yaml, partitions: 1}]
blobs: blobs
store: {cassandra: {hosts: [127.0.0.1:1], keyspace: tandem, dc: dc1}}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	site := filepath.Join(dir, "site.yaml")
	for _, args := range [][]string{
		{"dispatch", "--site", site, "--id", "d0"}, {"stream", "--site", site, "--id", "s0"}, {"stream", "--stage", "2", "--site", site, "--id", "s1"},
		{"archive", "--site", site, "--id", "a0"}, {"serve", "--site", site, "--listen", "127.0.0.1:0"}, {"failover", "auto", "--site", site, "--lag", "1m"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			t.Parallel()
			ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer stop()
			signalled, signal := context.WithCancel(t.Context())
			context.AfterFunc(ctx, signal)
			var stdout, stderr strings.Builder
			if code := run(signalled, args, &stdout, &stderr); code != 0 {
				t.Errorf("%v: exit code %d: %s", args, code, stderr.String())
			}
			if ctx.Err() == nil {
				t.Errorf("%v: did not wait: %s", args, stderr.String())
			}
		})
	}
}
