package embedded_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"tandem/core/oracle"
	"tandem/core/tenant"
	"tandem/jobs/embedded"
	"tandem/scripts/devstack"
	"tandem/stream/broker"
)

// pad makes a payload exactly n bytes long by an attr that nobody reads.
func pad(t testing.TB, payload string, n int) []byte {
	t.Helper()
	head, tail := strings.TrimSuffix(payload, "}")+`,"x":"`, `"}`
	if len(head)+len(tail) > n {
		t.Fatalf("%d bytes are too few", n)
	}
	return []byte(head + strings.Repeat("p", n-len(head)-len(tail)) + tail)
}

func shop(id string, ts int64, more string) string {
	return fmt.Sprintf(`{"id":%q,"tenant":"shop","session":"s","ts":%d,"point":"home"%s}`, id, ts, more)
}

// equalLayers wants both layers to be what the oracle says.
func equalLayers(t testing.TB, cfg *tenant.Config, records []oracle.Record, o outcome) {
	t.Helper()
	for layer, stream := range map[string]bool{"stream": true, "batch": false} {
		want := oracle.Run([]*tenant.Config{cfg}, records, stream)
		compare(t, layer+" rows", want.RowLines(), o.rows[layer])
		compare(t, layer+" counts", want.CountLines(), o.counts[layer])
	}
}

// rejects has records of every reason.
func rejects(t testing.TB) (records []oracle.Record, reasons []string) {
	ts := begin + hour
	add := func(reason string, ingest int64, payload []byte) {
		records = append(records, oracle.Record{Ingest: ingest, Payload: payload})
		reasons = append(reasons, reason)
	}
	add("too_large", ts, pad(t, shop("big", ts, ""), 64<<10+1))
	add("too_large", ts, bytes.Repeat([]byte{0xff, 0, '\n', 'x'}, 1<<18))
	add("malformed", ts, []byte("{\"id\":\"\xff\xfe\"}"))
	add("malformed", ts, nil)
	add("malformed", ts, []byte(shop("a", ts, "")+"\x00"))
	add("malformed", ts, []byte(`"`+strings.Repeat("[", 30_000)))
	add("bad_id", ts, []byte(strings.Replace(shop("a", ts, ""), `"id":"a",`, "", 1)))
	add("bad_id", ts, []byte(shop(strings.Repeat("i", 129), ts, "")))
	add("bad_session", ts, []byte(strings.Replace(shop("a", ts, ""), `"session":"s"`, `"session":""`, 1)))
	add("bad_visitor", ts, []byte(shop("a", ts, `,"visitor":"`+strings.Repeat("v", 129)+`"`)))
	add("unknown_tenant", ts, []byte(strings.Replace(shop("a", ts, ""), "shop", "shöp", 1)))
	add("bad_ts", ts, []byte(shop("a", ts+5*minute+1, "")))
	add("bad_ts", ts, []byte(shop("a", 1, "")))
	add("too_old", ts, []byte(shop("a", ts-48*hour-1, "")))
	add("bad_value", ts, []byte(strings.Replace(shop("a", ts, `,"values":{"revenue":1000000000.01}`), "home", "order", 1)))
	return records, reasons
}

func TestEveryRejectReachesTheDeadLettersWhole(t *testing.T) {
	cfg, chain := chainOf(t, shopYAML)
	records, reasons := rejects(t)
	for i := range int64(20) {
		records = append(records, oracle.Record{Ingest: begin + hour, Payload: []byte(shop(fmt.Sprint("ok", i), begin+hour-i*minute/2, ""))})
	}
	kafka, err := embedded.StartKafka()
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	for name, log := range map[string]embedded.Log{"memory": embedded.NewMemory(), "kafka": kafka} {
		t.Run(name, func(t *testing.T) {
			o := run(t, log, embedded.Defaults(), chain, records)
			equalLayers(t, cfg, records, o)

			// Each dead letter is the raw record that its source header names.
			var dead []broker.Record
			for {
				recs, err := log.Poll(context.Background(), broker.Partition{Topic: "beacons.dead"}, int64(len(dead)))
				if err != nil {
					t.Fatal(err)
				}
				if len(recs) == 0 {
					break
				}
				for _, r := range recs {
					r.Value = bytes.Clone(r.Value)
					dead = append(dead, r)
				}
			}
			want := map[string]int{}
			for i, reason := range reasons {
				want[fmt.Sprintf("%s %d %x", reason, records[i].Ingest, xxhash.Sum64(records[i].Payload))]++
			}
			seen := map[string]bool{}
			for _, d := range dead {
				get := func(key string) string {
					v, ok := d.Header(key)
					if !ok {
						t.Errorf("dead letter %d has no header %q", d.Offset, key)
					}
					return string(v)
				}
				source := get("source")
				at, found := strings.CutPrefix(source, "beacons.raw/0/")
				var offset int64
				if _, err := fmt.Sscan(at, &offset); !found || err != nil || seen[source] {
					t.Fatalf("source %q", source)
				}
				seen[source] = true
				raw, err := log.Payload(context.Background(), broker.Partition{Topic: "beacons.raw"}, offset)
				if err != nil || !bytes.Equal(raw, d.Value) {
					t.Errorf("%s: %d bytes, the raw record has %d (%v)", source, len(d.Value), len(raw), err)
				}
				if len(d.Headers) != 3 || get("ingest") != fmt.Sprint(d.Time) {
					t.Errorf("%s: headers %v, time %d", source, d.Headers, d.Time)
				}
				want[fmt.Sprintf("%s %s %x", get("reason"), get("ingest"), xxhash.Sum64(d.Value))]--
			}
			for k, n := range want {
				if n != 0 {
					t.Errorf("%s: %d missing", k, n)
				}
			}
			if len(dead) != len(reasons) {
				t.Errorf("%d dead letters, want %d", len(dead), len(reasons))
			}
		})
	}
}

func TestTheLargestPayloadIsUsed(t *testing.T) {
	cfg, chain := chainOf(t, shopYAML)
	var records []oracle.Record
	for i, n := range []int{64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		records = append(records, oracle.Record{Ingest: begin, Payload: pad(t, shop(fmt.Sprint("b", i), begin, ""), n)})
	}
	o := run(t, embedded.NewMemory(), embedded.Defaults(), chain, records)
	equalLayers(t, cfg, records, o)
	for layer, counts := range o.counts {
		if !slices.Contains(counts, "rejected.too_large\t2") {
			t.Errorf("%s: %v", layer, counts)
		}
		if !slices.ContainsFunc(o.rows[layer], func(l string) bool {
			return strings.HasPrefix(l, "shop.visit.site.home\t") && strings.HasSuffix(l, "\t2")
		}) {
			t.Errorf("%s: %v", layer, o.rows[layer])
		}
	}
}

// nested is a value of that many levels.
func nested(open, leaf, close string, levels int) string {
	return strings.Repeat(open, levels) + leaf + strings.Repeat(close, levels)
}

func TestNesting(t *testing.T) {
	cfg, chain := chainOf(t, shopYAML)
	for _, kind := range [][3]string{{"[", "", "]"}, {"[", "1", "]"}, {`{"k":`, "null", "}"}, {`[{"k":`, `""`, "}]"}} {
		per := strings.Count(kind[0], "[") + strings.Count(kind[0], "{")
		for _, c := range []struct {
			levels int // of the whole beacon, its object being the first
			good   bool
		}{{63, true}, {64, true}, {65, false}, {66, false}, {30_000, false}} {
			for _, field := range []string{"ignored", "attrs", "experiments"} {
				around := 1
				value := func(n int) string { return nested(kind[0], kind[1], kind[2], n/per) }
				var more string
				switch field {
				case "ignored":
					more = `,"anything":` + value(c.levels-around)
				case "attrs":
					around = 2
					more = `,"attrs":{"a":` + value(c.levels-around) + `}`
				case "experiments":
					around = 2
					more = `,"experiments":{"color":` + value(c.levels-around) + `}`
				}
				if (c.levels-around)%per != 0 || c.levels > 1000 && len(more) > 60_000 && per > 1 {
					continue
				}
				payload := shop("a", begin, more)
				good := c.good && field != "experiments" // an experiment's variation is a string
				records := []oracle.Record{{Ingest: begin, Payload: []byte(payload)}, {Ingest: begin, Payload: []byte(shop("b", begin, ""))}}
				o := run(t, embedded.NewMemory(), embedded.Defaults(), chain, records)
				malformed := slices.Contains(o.counts["stream"], "rejected.malformed\t1") && slices.Contains(o.counts["batch"], "rejected.malformed\t1")
				if len(payload) <= 64<<10 && malformed == good {
					t.Errorf("%d levels of %s in %s: malformed %v", c.levels, kind[0], field, malformed)
				}
				equalLayers(t, cfg, records, o)
			}
		}
	}
}

func TestAFloodThroughThePipeline(t *testing.T) {
	devstack.AtLength(t)
	_, chain := chainOf(t, "tenant: shop\npoints:\n  home: {}\n")
	const n = 50_000
	rng := rand.New(rand.NewPCG(1, 1))
	for name, beacon := range map[string]func(i int) (string, int64){
		"unique ids":      func(i int) (string, int64) { return fmt.Sprint(rng.Uint64()), begin },
		"one id":          func(int) (string, int64) { return "a", begin },
		"over 10 minutes": func(i int) (string, int64) { return fmt.Sprint(rng.Uint64()), begin + rng.Int64N(10*minute) },
	} {
		t.Run(name, func(t *testing.T) {
			rng = rand.New(rand.NewPCG(1, 1))
			var records []oracle.Record
			for i := range n {
				id, ts := beacon(i)
				records = append(records, oracle.Record{Ingest: ts, Payload: []byte(shop(id, ts, ""))})
			}
			start := time.Now()
			o := run(t, embedded.NewMemory(), embedded.Defaults(), chain, records)
			t.Logf("%d beacons in %v", n, time.Since(start).Round(time.Millisecond))
			compare(t, "rows", o.rows["stream"], o.rows["batch"])
			compare(t, "counts", o.counts["stream"], o.counts["batch"])
			kept := 0
			for _, l := range o.rows["stream"] {
				if f := strings.Split(l, "\t"); f[0] == "shop.visit.site.home" {
					var v int
					fmt.Sscan(f[3], &v)
					kept += v
				}
			}
			want := map[string]int{"unique ids": 600, "one id": 1, "over 10 minutes": min(n, 6000)}[name]
			if kept != want {
				t.Errorf("%d beacons count, want %d", kept, want)
			}
			for _, c := range o.counts["stream"] {
				var v int
				if f := strings.Split(c, "\t"); f[0] == "overflow" || f[0] == "duplicate" {
					fmt.Sscan(f[1], &v)
					kept += v
				}
			}
			if kept != n {
				t.Errorf("%d beacons are accounted for, of %d", kept, n)
			}
		})
	}
}

// collide returns a session id of 16 ASCII bytes whose xxhash64 is h: the hash is a bijection of the last 8 bytes once
// the first 8 are chosen, and one in 256 of those is ASCII. So can anybody.
func collide(h uint64, rng *rand.Rand) string {
	const (
		p1 = 11400714785074694791
		p2 = 14029467366897019727
		p3 = 1609587929392839161
		p4 = 9650029242287828579
		p5 = 2870177450012600261
	)
	inverse := func(a uint64) uint64 {
		x := a
		for range 6 {
			x *= 2 - a*x
		}
		return x
	}
	unshift := func(x uint64, n uint) uint64 {
		y := x
		for range 64 / n {
			y = x ^ y>>n
		}
		return y
	}
	round := func(k uint64) uint64 { return bits.RotateLeft64(k*p2, 31) * p1 }
	unround := func(k uint64) uint64 { return bits.RotateLeft64(k*inverse(p1), -31) * inverse(p2) }
	step := func(acc, k uint64) uint64 { return bits.RotateLeft64(acc^round(k), 27)*p1 + p4 }
	// Back through the avalanche.
	acc := unshift(h, 32)
	acc = unshift(acc*inverse(p3), 29)
	acc = unshift(acc*inverse(p2), 33)
	acc = bits.RotateLeft64((acc-p4)*inverse(p1), -27)
	for {
		first := rng.Uint64()&0x1f1f1f1f1f1f1f1f | 0x4040404040404040
		seed := uint64(p5)
		last := unround(acc ^ step(seed+16, first))
		if last&0x8080808080808080 != 0 {
			continue
		}
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], first)
		binary.LittleEndian.PutUint64(b[8:], last)
		return string(b[:])
	}
}

// Sessions chosen so that they all fall into one place: one hash bucket, one prefix of 20 bits, one hash.
func TestSessionsOfOneHash(t *testing.T) {
	devstack.AtLength(t)
	cfg, chain := chainOf(t, shopYAML)
	rng := rand.New(rand.NewPCG(2, 1))
	for name, c := range map[string]struct {
		sessions int
		hash     func() uint64
	}{
		"one bucket of 64":    {20_000, func() uint64 { return 37<<58 | rng.Uint64()>>6 }},
		"the same 20 bits":    {1000, func() uint64 { return 0xabcde<<44 | rng.Uint64()>>20 }},
		"the very same hash":  {1000, func() uint64 { return 0x0123456789abcdef }},
		"the greatest hashes": {200, func() uint64 { return ^uint64(0) - rng.Uint64N(3) }},
	} {
		t.Run(name, func(t *testing.T) {
			rng = rand.New(rand.NewPCG(2, 1))
			var records []oracle.Record
			for range c.sessions {
				h := c.hash()
				s := collide(h, rng)
				if xxhash.Sum64String(s) != h {
					t.Fatalf("%q has another hash", s)
				}
				for i := range int64(2) { // in two windows, so that states are read again
					ts := begin + rng.Int64N(minute) + i*50*minute
					payload := fmt.Sprintf(`{"id":"%d","tenant":"shop","session":%s,"visitor":"v","ts":%d,"point":"home"}`, i, quote(s), ts)
					records = append(records, oracle.Record{Ingest: ts, Payload: []byte(payload)})
				}
			}
			start := time.Now()
			opt := embedded.Defaults()
			opt.ArchiveRows = 1000
			o := run(t, embedded.NewMemory(), opt, chain, records)
			t.Logf("%d sessions in %v", c.sessions, time.Since(start).Round(time.Millisecond))
			if c.sessions <= 1000 {
				equalLayers(t, cfg, records, o)
				return
			}
			compare(t, "rows", o.rows["stream"], o.rows["batch"])
			compare(t, "counts", o.counts["stream"], o.counts["batch"])
			first := fmt.Sprintf("shop.visit.site.visit.beta\tdevice=none\t%d\t%d", begin/minute, c.sessions)
			if !slices.Contains(o.rows["batch"], first) {
				t.Errorf("%s is missing", first)
			}
		})
	}
}

// quote is s, all of it ASCII, as a JSON string.
func quote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\u%04x`, c)
	}
	return `"` + b.String() + `"`
}
