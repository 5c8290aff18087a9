package devstack

import (
	"os"
	"runtime/debug"
	"testing"
)

// Main runs a package's tests.
func Main(m *testing.M) {
	LetGrow()
	os.Exit(m.Run())
}

// LetGrow has garbage collected less often, if GOGC does not say how often: tests have small heaps, which would be collected
// every few milliseconds, a quarter of the time of some packages.
func LetGrow() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// Long says whether tests of many seconds are asked for, as scripts/test does.
func Long() bool { return os.Getenv("TANDEM_SERVERS") == "1" }

// Count is how many seeds or cases a test draws: few, so that go test ./... stays under a minute; many in scripts/test.
func Count(few, many int) int {
	if Long() {
		return many
	}
	return few
}

// AtLength skips a test that takes many seconds, so that go test ./... stays under a minute; scripts/test runs it.
func AtLength(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("it takes many seconds: set TANDEM_SERVERS=1, or run scripts/test")
	}
}
