package devstack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parquetReaders are packages of PyPI that read Parquet.
var parquetReaders = []string{"duckdb==2.0.0", "pyarrow==26.0.1"}

// Python returns a Python that has DuckDB and pyarrow, installed once into the user's cache. It skips the test, by name, where
// that is not asked for, as scripts/test does with TANDEM_SERVERS=1, or cannot be.
func Python(t testing.TB) string {
	t.Helper()
	if os.Getenv("TANDEM_SERVERS") != "1" && os.Getenv("TANDEM_NEED_SERVERS") != "1" {
		t.Skip("DuckDB and pyarrow are not asked for: set TANDEM_SERVERS=1, or run scripts/test")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	folder := filepath.Join(cache, "tandem-python-"+strings.NewReplacer("==", "-").Replace(strings.Join(parquetReaders, "-")))
	python := filepath.Join(folder, "bin", "python")
	if _, err := os.Stat(filepath.Join(folder, "complete")); err == nil {
		return python
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"python3", "-m", "venv", folder},
		append([]string{python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"}, parquetReaders...),
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no DuckDB and pyarrow: %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "complete"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return python
}
