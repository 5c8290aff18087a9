package main

import (
	"context"
	"errors"
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

// awayStore answers with an error, as a Cassandra does that has gone.
type awayStore struct{ store.Store }

var errAway = errors.New("no connection")

func (awayStore) Active(context.Context, string) (store.Active, bool, error) {
	return store.Active{}, false, errAway
}

// What cannot be read is told, and not taken for a store that holds nothing.
func TestExportOfAStoreThatIsAway(t *testing.T) {
	if _, err := exported(t.Context(), awayStore{}, "shop", "both", 0, 1); !errors.Is(err, errAway) {
		t.Error(err)
	}
}
