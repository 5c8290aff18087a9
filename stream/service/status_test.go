package service

import (
	"testing"
	"time"

	"tandem/schemas/wire"
	"tandem/stream/sessionize"
)

func TestLag(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	ago := func(s int64) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	for _, c := range []struct {
		what    string
		st      Status
		records int64
		behind  int64 // s
		known   bool
	}{
		{"never opened", Status{Next: -1, End: 7, Since: ago(9)}, 0, 0, false},
		{"Kafka not asked", Status{Next: 7, End: -1, Since: ago(9)}, 0, 0, false},
		{"all handled", Status{Next: 7, End: 7, Since: ago(9), Time: ago(5).UnixMilli()}, 0, 0, true},
		{"an end that is older than what was read", Status{Next: 7, End: 6, Since: ago(9)}, 0, 0, true},
		{"nothing handled yet", Status{Next: 0, End: 7, Since: ago(9)}, 7, 9, true},
		{"one left", Status{Next: 6, End: 7, Since: ago(9), Time: ago(5).UnixMilli()}, 1, 5, true},
		{"the first after a long silence", Status{Next: 6, End: 7, Since: ago(9999), Time: ago(999).UnixMilli(), Even: ago(3)}, 1, 3, true},
		{"never even since", Status{Next: 6, End: 7, Since: ago(9999), Time: ago(5).UnixMilli(), Even: ago(100)}, 1, 5, true},
		{"another clock", Status{Next: 6, End: 7, Since: ago(9), Time: ago(-5).UnixMilli()}, 1, 0, true},
	} {
		records, behind, known := c.st.Lag(now)
		if records != c.records || behind != time.Duration(c.behind)*time.Second || known != c.known {
			t.Errorf("%s: %d records, %s, %v", c.what, records, behind, known)
		}
	}
}

func TestHolder(t *testing.T) {
	list := []wire.Source{{Topic: "raw", Partition: 0}, {Topic: "raw", Partition: 1}, {Topic: "raw", Partition: 2}}
	at := func(ms int64) sessionize.SourceProgress { return sessionize.SourceProgress{Known: true, MS: ms} }
	aside := func(ms int64) sessionize.SourceProgress { p := at(ms); p.Aside = true; return p }
	for _, c := range []struct {
		what     string
		progress []sessionize.SourceProgress
		want     Holder
	}{
		{"nothing heard", nil, Holder{}},
		{"the least", []sessionize.SourceProgress{at(30), at(10), at(20)}, Holder{list[1], 10}},
		{"the first of equals", []sessionize.SourceProgress{at(30), at(10), at(10)}, Holder{list[1], 10}},
		{"none that is set aside", []sessionize.SourceProgress{at(30), aside(10), at(20)}, Holder{list[2], 20}},
		{"one that was not heard of", []sessionize.SourceProgress{at(30), {}, at(20)}, Holder{list[1], 0}},
		{"not that one if it is set aside", []sessionize.SourceProgress{at(30), {Aside: true}, at(20)}, Holder{list[2], 20}},
		{"all set aside", []sessionize.SourceProgress{aside(30), aside(10), aside(20)}, Holder{}},
	} {
		s := &sessionize.Shard{Sources: wire.Sources{List: list}, Progress: c.progress}
		if got := holder(s); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
}
