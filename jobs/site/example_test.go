package site

import (
	"os"
	"path/filepath"
	"testing"
)

// The example is a site file that loads; the files that it names are the operator's.
func TestTheExampleLoads(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"site.yaml", "shop.yaml", "shop.formulas.yaml"} {
		data, err := os.ReadFile(filepath.Join("../../scripts/examples/site", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Layer() != "stream.dc1" || len(s.Raw) != 2 || s.Tenants[0].Chain == nil || s.Store.Cassandra.Replication["dc2"] != 3 {
		t.Errorf("%+v", s)
	}
}
