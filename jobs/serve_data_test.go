package main

import (
	"strings"
	"testing"

	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

// A folder of another tenant than the config's is not served as one without data.
func TestServeOfAnothersData(t *testing.T) {
	dir := t.TempDir()
	st, err := pebblestore.Open(storeFolder(dir), pebblestore.Options{Now: recordsTime})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.PutActive(t.Context(), store.Active{Tenant: "acme", Layer: "stream.dc1", Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	o := &serveOptions{data: dir}
	if st, err := o.openData(t.Context(), "shop"); err == nil || !strings.Contains(err.Error(), `holds nothing of tenant "shop": --config names`) {
		t.Errorf("%v, %v", st, err)
	}
	own, err := o.openData(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Close(); err != nil {
		t.Error(err)
	}
}
