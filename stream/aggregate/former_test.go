package aggregate

import (
	"strings"
	"testing"

	"tandem/schemas/wire"
)

// Messages of a tenant that is not in the site file: it may be a new one, so they are passed over only of one that is listed as former.
func TestFormerTenants(t *testing.T) {
	l := &log{t: t}
	gone := wire.Head{Tenant: "outlet", Topic: "idgone", Offset: 3}
	l.add(rowsOf(t, gone, 50, "order", value(1))...)
	l.add(wire.AppendMarker(&gone, 100, 0))
	l.marker(0, 0, 5, 100)
	s := begin(t, config(1), 0, map[string]int64{}, "")
	if err := s.Take(0, l.msgs[0]); err == nil || !strings.Contains(err.Error(), `tenant "outlet" is not in the site file`) || !strings.Contains(err.Error(), "former_tenants: [outlet]") {
		t.Errorf("of a tenant that is not listed: %v", err)
	}
	cfg := config(1)
	cfg.Former = []string{"outlet"}
	s = begin(t, cfg, 0, map[string]int64{}, "")
	for i, m := range l.msgs {
		if err := s.Take(int64(i), m); err != nil {
			t.Fatal(err)
		}
	}
	if s.Counts.Unlisted != 2 {
		t.Errorf("%d messages are passed over, want 2", s.Counts.Unlisted)
	}
	if rows, err := s.Due(); err != nil || len(rows) != 0 {
		t.Errorf("rows %v, %v", rows, err)
	}
}

// A topic, or a tenant, that is listed no more leaves the versions of what others told of the same minute where they count from: a newer
// row would get a lower version, and the store keep the old one.
func TestVersionsDoNotDependOnWhatIsListed(t *testing.T) {
	l := &log{t: t}
	put := func(tenant, topic string, offset, v int64) {
		l.add(rowsOf(t, wire.Head{Tenant: tenant, Topic: topic, Offset: offset}, 5, "order", value(v))...)
	}
	put("outlet", "idgone", 1, 1) // the first of minute 5
	put("shop", "old", 1, 1)
	for i := int64(2); i < 10; i++ {
		put("shop", "old", i, 1)
	}
	put("shop", "id", 1, 7)
	all := config(2)
	all.Tenants[0].Topics = []string{"id", "old"}
	all.Tenants = append(all.Tenants, Tenant{Name: "outlet", Topics: []string{"idgone"}, Shards: 1, RetentionMS: 1000})
	version := func(s *State) (v int64) {
		t.Helper()
		for i := int(s.Offset); i < len(l.msgs); i++ {
			if err := s.Take(int64(i), l.msgs[i]); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := s.Due()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Tenant == "shop" {
				v = r.Version
			}
		}
		return v
	}
	s := begin(t, all, 0, map[string]int64{}, "")
	before := version(s)
	put("shop", "id", 2, 8)
	less := config(1)
	less.Former = []string{"outlet"}
	after := version(begin(t, less, s.Commit(), map[string]int64{}, s.Heard(s.Commit())))
	if before != 10 || after != 11 {
		t.Errorf("versions %d, then %d; want 10 and 11", before, after)
	}
}
