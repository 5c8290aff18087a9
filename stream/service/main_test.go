package service

import (
	"testing"

	"tandem/core/tenant"

	"tandem/scripts/devstack"
)

func TestMain(m *testing.M) { devstack.Main(m) }

// chain compiles a config.
func chain(t *testing.T, config string) *tenant.Chain {
	t.Helper()
	configs, err := tenant.LoadChain([]tenant.File{{Name: "shop.yaml", Data: []byte(config)}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
