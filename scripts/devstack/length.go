package devstack

import (
	"os"
	"testing"
)

// AtLength skips a test that takes many seconds, so that go test ./... stays under a minute; scripts/test runs it.
func AtLength(t testing.TB) {
	t.Helper()
	if os.Getenv("TANDEM_SERVERS") != "1" {
		t.Skip("it takes many seconds: set TANDEM_SERVERS=1, or run scripts/test")
	}
}
