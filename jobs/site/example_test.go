package site

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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

// The instances that the head of a unit starts listen on ports that a user without privileges may take, each on its own.
func TestPortsOfUnits(t *testing.T) {
	units, err := filepath.Glob("../../scripts/examples/site/*@.service")
	if err != nil || len(units) != 3 {
		t.Fatalf("units %q, %v", units, err)
	}
	taken := map[int]string{}
	for _, unit := range units {
		data, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(unit), ".service")
		head, _, _ := strings.Cut(string(data), "\n")
		listen := regexp.MustCompile(`--listen 127\.0\.0\.1:(\S+)`).FindStringSubmatch(string(data))
		instances := regexp.MustCompile(regexp.QuoteMeta(name)+`(\w+)`).FindAllStringSubmatch(head, -1)
		if len(listen) != 2 || len(instances) != 2 {
			t.Fatalf("%s: listens at %q, instances %q", unit, listen, instances)
		}
		for _, i := range instances {
			port, err := strconv.Atoi(strings.ReplaceAll(listen[1], "%i", i[1]))
			if err != nil || port < 1024 || port > 65535 || taken[port] != "" {
				t.Errorf("%s listens at port %d, %v, also of %q", i[0], port, err, taken[port])
			}
			taken[port] = i[0]
		}
	}
}
