package cassandra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"tandem/schemas/store"
)

type stored struct {
	minute int32
	part   int16
	time   int64
	cell   []byte
}

// assemble gives what an assembler makes of cells, and the minutes that it wants to read again.
func assemble(cells []stored) (values map[int32]string, again []int32, err error) {
	values = map[int32]string{}
	a := assembler{
		emit: func(minute int32, time int64, value []byte) error {
			values[minute] = fmt.Sprint(time, " ", string(value))
			return nil
		},
		again: func(minute int32) error {
			again = append(again, minute)
			return nil
		},
	}
	for _, c := range cells {
		if err := a.add(c.minute, c.part, c.time, c.cell); err != nil {
			return values, again, err
		}
	}
	return values, again, a.finish()
}

// What a table holds after writes of some versions, in any order, is the standing value, whatever their sizes.
func TestAssembleAnySizes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	sizes := []int{0, 1, partBytes - 1, partBytes, partBytes + 1, 2*partBytes - 1, 2 * partBytes, 2*partBytes + 1, 5 * partBytes}
	for range 200 {
		type at struct {
			minute int32
			part   int16
		}
		held, want := map[at]stored{}, map[int32]string{}
		best := map[int32]int64{}
		for range 12 {
			minute, time := int32(r.IntN(3)), r.Int64N(1000)
			if _, ok := best[minute]; ok && best[minute] == time {
				continue
			}
			value := bytes.Repeat([]byte{byte(r.IntN(256))}, sizes[r.IntN(len(sizes))])
			for part, c := range appendParts(nil, value) {
				if old, ok := held[at{minute, int16(part)}]; !ok || time > old.time {
					held[at{minute, int16(part)}] = stored{minute, int16(part), time, c}
				}
			}
			if old, ok := best[minute]; !ok || time > old {
				best[minute], want[minute] = time, fmt.Sprint(time, " ", string(value))
			}
		}
		var cells []stored
		for _, c := range held {
			cells = append(cells, c)
		}
		slices.SortFunc(cells, func(a, b stored) int { return int(a.minute-b.minute)*1000 + int(a.part-b.part) })
		got, again, err := assemble(cells)
		if err != nil || len(again) > 0 || len(got) != len(want) {
			t.Fatalf("%d values, again %v, %v; want %d", len(got), again, err, len(want))
		}
		for minute, v := range want {
			if got[minute] != v {
				t.Fatalf("minute %d: got %.40q, want %.40q", minute, got[minute], v)
			}
		}
	}
}

func TestAssembleTornAndCorrupt(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), partBytes/16*3)
	old, young := appendParts(nil, large), appendParts(nil, bytes.Repeat([]byte("x"), partBytes*3))
	cells := func(c ...[]byte) (all []stored) {
		for i, v := range c {
			all = append(all, stored{4, int16(i), 1, v})
		}
		return append(all, stored{5, 0, 1, []byte{formWhole, 'n'}})
	}
	whole := cells(old...)
	later := slices.Clone(whole)
	later[2].time = 2
	for _, c := range []struct {
		name  string
		cells []stored
		again bool
	}{
		{"whole", whole, false},
		{"a part of a later write", later, true},
		{"a part of another value at the same time", cells(old[0], young[1], old[2]), true},
		{"the last part is missing", cells(old[0], old[1]), true},
		{"only part 0", cells(old[0]), true},
	} {
		values, again, err := assemble(c.cells)
		if err != nil || values[5] != "1 n" || c.again != slices.Equal(again, []int32{4}) || c.again == (values[4] != "") {
			t.Errorf("%s: %d values, again %v, %v", c.name, len(values), again, err)
		}
	}
	// Parts without part 0, left over from a row that was longer, are nothing.
	if values, again, err := assemble(whole[1:]); err != nil || len(again) > 0 || len(values) != 1 {
		t.Errorf("without part 0: %d values, %v, %v", len(values), again, err)
	}
	damaged := slices.Clone(old[1])
	damaged[partHeader+5] ^= 1
	for name, c := range map[string][]stored{
		"a damaged part":  cells(old[0], damaged, old[2]),
		"an empty cell":   cells([]byte{}),
		"an unknown form": cells([]byte{7, 1, 2}),
		"a short header":  cells(old[0][:partHeader]),
	} {
		if _, _, err := assemble(c); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLife(t *testing.T) {
	now := time.Unix(1_800_000_000, 999_000_000)
	for _, c := range []struct {
		expires int64
		ttl     int32
		alive   bool
	}{
		{0, 0, true},
		{1_800_000_000_000, 0, false},
		{1_800_000_000_999, 0, false},
		{1_800_000_001_000, 1, true}, // by the server's second: it may go up to a second early, never late
		{1_800_000_001_999, 1, true},
		{1_800_000_030_500, 30, true},
		{1, 0, false},
		{now.Add(MaxLife).UnixMilli(), int32(MaxLife / time.Second), true},
		{now.Add(MaxLife).UnixMilli() + 1000, 0, true},
		{1<<63 - 1, 0, true},
	} {
		if ttl, alive := life(c.expires, now); alive != c.alive || alive && ttl != c.ttl {
			t.Errorf("expires %d: %d %v, want %d %v", c.expires, ttl, alive, c.ttl, c.alive)
		}
	}
}

// An entry of the catalog lives at least as long as each row of its partition, and there is one for all of them.
func TestUntil(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, table := range []*table{rowsTable, rollupsTable} {
		first := table.start(now.Unix()/60) + table.span
		want := int64(0)
		for _, minute := range []int64{first, first + 1, first + table.span/2, first + table.span - 1} {
			r := store.Row{Minute: minute, Expires: (minute + 30*dayMinutes) * 60_000}
			until := table.until(&r, now)
			if want == 0 {
				want = until
			}
			if until != want || until%dayMillis != 0 || until < r.Expires || until > r.Expires+(table.span*60_000)+dayMillis {
				t.Errorf("minute %d: until %d, the first until %d, expires %d", minute, until, want, r.Expires)
			}
		}
		for _, expires := range []int64{0, 1<<63 - 1} {
			if until := table.until(&store.Row{Minute: first, Expires: expires}, now); until != never {
				t.Errorf("expires %d: until %d", expires, until)
			}
		}
	}
}

func TestBatches(t *testing.T) {
	var rows []store.Row
	put := func(metric string, minute int64, size int) {
		rows = append(rows, store.Row{Series: store.Series{Tenant: "t", Metric: metric, Layer: "l"}, Minute: minute, Value: make([]byte, size)})
	}
	for i := range int64(3 * batchRows) {
		put("many", i, 1)
		put("large", i%7, batchBytes/3)
	}
	put("huge", 0, 10*batchBytes)
	put("huge", 1, 1)
	put("days", dayMinutes-1, 1)
	put("days", dayMinutes, 1)
	seen := 0
	for _, b := range batches(rowsTable, rows) {
		size := 0
		for _, r := range b.rows {
			size += len(r.Value)
			if r.Series != b.rows[0].Series || rowsTable.start(r.Minute) != b.start {
				t.Errorf("a batch of %s from %d has %s minute %d", b.rows[0].Series, b.start, r.Series, r.Minute)
			}
		}
		if size != b.bytes || len(b.rows) > batchRows || len(b.rows) > 1 && size > batchBytes {
			t.Errorf("a batch of %d rows, %d bytes (says %d)", len(b.rows), size, b.bytes)
		}
		seen += len(b.rows)
	}
	if seen != len(rows) {
		t.Errorf("%d of %d rows", seen, len(rows))
	}
}

type answer struct {
	gocql.RequestError
	code int
}

func (a answer) Code() int     { return a.code }
func (a answer) Error() string { return fmt.Sprint("code ", a.code) }

func TestRetry(t *testing.T) {
	for _, passing := range []error{gocql.ErrNoConnections, gocql.ErrTimeoutNoResponse, answer{code: gocql.ErrCodeUnavailable},
		answer{code: gocql.ErrCodeWriteTimeout}, answer{code: gocql.ErrCodeOverloaded}, errors.New("connection reset")} {
		r, n := &retrier{}, 0
		err := r.retry(ctx, "x", func() error {
			if n++; n < 3 {
				return passing
			}
			return nil
		})
		if err != nil || n != 3 || r.retries.Load() != 2 {
			t.Errorf("%v: %v after %d tries, %d retries", passing, err, n, r.retries.Load())
		}
	}
	for _, lasting := range []error{answer{code: gocql.ErrCodeInvalid}, answer{code: gocql.ErrCodeUnauthorized}, permanent{errors.New("p")},
		gocql.ErrSessionClosed, store.ErrCorrupt, fmt.Errorf("wrapped: %w", answer{code: gocql.ErrCodeSyntax})} {
		n := 0
		err := (&retrier{}).retry(ctx, "what", func() error { n++; return lasting })
		if !errors.Is(err, lasting) || n != 1 || !strings.HasPrefix(err.Error(), "what: ") {
			t.Errorf("%v: %v after %d tries", lasting, err, n)
		}
	}
	short, cancel := context.WithTimeout(ctx, 120*time.Millisecond)
	defer cancel()
	err := (&retrier{}).retry(short, "what", func() error { return gocql.ErrNoConnections })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no hosts available") {
		t.Errorf("at the end of the context: %v", err)
	}
}

func TestSchema(t *testing.T) {
	all, err := Schema("tandem", map[string]int{"dc2": 2, "dc1": 3})
	if err != nil {
		t.Fatal(err)
	}
	if want := "CREATE KEYSPACE IF NOT EXISTS tandem WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3, 'dc2': 2}"; all[0] != want {
		t.Errorf("got %s", all[0])
	}
	for _, s := range all {
		if strings.HasSuffix(s, ";") || strings.Contains(s, "{keyspace}") || !strings.Contains(s, "IF NOT EXISTS tandem") {
			t.Errorf("statement: %s", s)
		}
	}
	if all, err = Schema("tandem", nil); err != nil || strings.Contains(all[0], "KEYSPACE") {
		t.Errorf("without replication: %v %v", all[:1], err)
	}
	for _, c := range []struct {
		keyspace string
		replicas map[string]int
	}{{"", nil}, {"Tandem", nil}, {"t;", nil}, {"1t", nil}, {"t", map[string]int{"dc1": 0}}, {"t", map[string]int{"d'c": 1}}, {"t", map[string]int{"class": 1}}} {
		if _, err := Schema(c.keyspace, c.replicas); err == nil {
			t.Errorf("%v is taken", c)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Hosts: []string{"h"}, Keyspace: "k"}
	for name, change := range map[string]func(*Config){
		"hosts": func(c *Config) { c.Hosts = nil }, "keyspace": func(c *Config) { c.Keyspace = "K" },
		"in flight": func(c *Config) { c.MaxInFlight = 2000 }, "consistency": func(c *Config) { c.Consistency = "any" },
	} {
		c := good
		change(&c)
		if _, err := Open(ctx, c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Apply(ctx, c); err == nil {
			t.Errorf("%s: Apply takes it", name)
		}
	}
}
