package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/scripts/devstack"
)

// A batch that meets no store ends: cron starts the next one regardless, and each would wait beside the others for as long as the
// store is away.
func TestBatchesDoNotPileUp(t *testing.T) {
	devstack.AtLength(t)
	dir, _, _ := shopSite(t)
	file := filepath.Join(dir, "site.yaml")
	text, _, found := strings.Cut(batchSite, "store:")
	text += `store: {cassandra: {hosts: ["127.0.0.1:1"], keyspace: tandem, dc: dc1}}` + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil || !found {
		t.Fatal(err, found)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*leastPatience)
	defer cancel()
	began := time.Now()
	var out, errs bytes.Buffer
	code := runBatch(ctx, []string{"--site", file, "--wait", "0s"}, &out, &errs)
	if took := time.Since(began); code != 1 || ctx.Err() != nil || took < leastPatience || !strings.Contains(errs.String(), "tandem batch: store: connect to Cassandra at [127.0.0.1:1]") {
		t.Errorf("exit code %d after %s: %s", code, took, errs.String())
	}
}
