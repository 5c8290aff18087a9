package pages

import (
	"os"
	"path/filepath"
	"testing"

	"tandem/core/tenant"
	"tandem/schemas/traffic"
)

// What is shown as a config's text says what the config says.
func TestConfigText(t *testing.T) {
	texts := map[string][]byte{"traffic": traffic.Config(), "made up": []byte(configText)}
	files, err := filepath.Glob("../../../core/oracle/testdata/cases/*/config.yaml")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		if texts[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		want, err := tenant.Load(name, text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tenant.Load(name, []byte(configYAML(want)))
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, configYAML(want))
		} else if !got.Equal(want) {
			t.Errorf("%s: %+v, want %+v\n%s", name, got, want, configYAML(want))
		}
	}
}
