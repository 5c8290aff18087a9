package scripts

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// A known fault that no longer applies would no longer be held against the simulation, and only scripts/mutants, which takes
// long, would say so.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	patches, err := filepath.Glob("../jobs/simulate/mutants/*.patch")
	if err != nil || len(patches) < 24 {
		t.Fatalf("%d patches, %v", len(patches), err)
	}
	for _, p := range patches {
		cmd := exec.Command("git", "apply", "--check", filepath.Join("jobs/simulate/mutants", filepath.Base(p)))
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(p), err, out)
		}
	}
}
