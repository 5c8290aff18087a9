package mapping

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/records"
)

// real is a beacon of one of the real files, with what the tests look at.
type real struct {
	ID, Session, Visitor, Point string
	TS                          int64
	Experiments                 map[string]string
	Values                      map[string]json.Number
}

func (r real) minute() string { return time.UnixMilli(r.TS).UTC().Format("2006-01-02T15:04Z") }

// root is the repository's root: the first folder above with a go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above")
		}
		dir = up
	}
}

// shared is a file of ../shared/data; the test is skipped where it is absent.
func shared(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(root(t), "..", "shared", "data", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("../shared/data/%s is missing", name)
	}
	return path
}

// importReal runs the shipped mapping of a real file.
func importReal(t *testing.T, example, data string) (beacons []real, refused []string, stats Stats) {
	t.Helper()
	in, err := records.OpenText(shared(t, data))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	m, err := Load(filepath.Join(root(t), "scripts", "examples", "import", example, "mapping.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	stats, err = m.Import(in, func(r records.Record) error {
		var b real
		if err := json.Unmarshal(r.Payload, &b); err != nil {
			return err
		}
		if r.Ingest != b.TS {
			t.Fatalf("ingest time %d of %s", r.Ingest, r.Payload)
		}
		if bytes.ContainsAny(r.Payload, "\n\t") {
			t.Fatalf("%q", r.Payload)
		}
		beacons = append(beacons, b)
		return nil
	}, func(line int64, reason string) { refused = append(refused, fmt.Sprintf("%d: %s", line, reason)) })
	if err != nil {
		t.Fatal(err)
	}
	return beacons, refused, stats
}

// unique leaves of equal (session, id, ts) the first (SPEC 2).
func unique(beacons []real) []real {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(beacons), func(b real) bool {
		key := fmt.Sprintf("%s\t%s\t%d", b.Session, b.ID, b.TS)
		was := seen[key]
		seen[key] = true
		return was
	})
}

// table is a table of expected/: by the columns before the counted ones, joined by commas.
func table(t *testing.T, name string, keys int) map[string][]float64 {
	t.Helper()
	in, err := records.OpenText(shared(t, "expected/"+name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	all, err := csv.NewReader(in).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]float64{}
	for _, line := range all[1:] {
		key := line[0]
		for _, k := range line[1:keys] {
			key += "," + k
		}
		for _, s := range line[keys:] {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			rows[key] = append(rows[key], f)
		}
	}
	return rows
}

// compare reports where counts differ from column i of the expected table, and how often.
func compare(t *testing.T, what string, want map[string][]float64, i int, got map[string]float64) {
	t.Helper()
	bad := 0
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if math.Abs(want[key][i]-got[key]) > 1e-6 {
			if bad++; bad <= 5 {
				t.Errorf("%s in %s: %v, expected %v", what, key, got[key], want[key][i])
			}
		}
	}
	for key, n := range got {
		if _, ok := want[key]; !ok && n != 0 {
			t.Errorf("%s in %s: %v, no such row is expected", what, key, n)
		}
	}
	if bad > 5 {
		t.Errorf("%s: %d of %d minutes differ", what, bad, len(want))
	}
}

func tally(beacons []real, fn func(real) (key string, n float64)) map[string]float64 {
	sums := map[string]float64{}
	for _, b := range beacons {
		key, n := fn(b)
		sums[key] += n
	}
	return sums
}

// visits counts, by the minute of the first one, runs of a session's beacons in which neighbours are at most gap apart,
// and those with one beacon only.
func visits(beacons []real, gap time.Duration) (started, bounced map[string]float64) {
	started, bounced = map[string]float64{}, map[string]float64{}
	all := slices.Clone(beacons)
	slices.SortFunc(all, func(a, b real) int {
		if a.Session != b.Session {
			return bytes.Compare([]byte(a.Session), []byte(b.Session))
		}
		return int(a.TS - b.TS)
	})
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].Session == all[i].Session && all[j].TS-all[j-1].TS <= gap.Milliseconds() {
			j++
		}
		started[all[i].minute()]++
		if j == i+1 {
			bounced[all[i].minute()]++
		}
		i = j
	}
	return started, bounced
}

func sum(m map[string]float64) (n float64) {
	for _, v := range m {
		n += v
	}
	return n
}

func distinct(beacons []real) map[string]float64 {
	seen := map[string]bool{}
	return tally(beacons, func(b real) (string, float64) {
		key := b.minute() + b.Visitor
		if seen[key] {
			return b.minute(), 0
		}
		seen[key] = true
		return b.minute(), 1
	})
}

// TestExamples: the shipped mappings and the configs beside them load, also where the data is absent.
func TestExamples(t *testing.T) {
	dir := filepath.Join(root(t), "scripts", "examples", "import")
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 4 {
		t.Fatalf("%d examples, %v", len(list), err)
	}
	for _, e := range list {
		if _, err := Load(filepath.Join(dir, e.Name(), "mapping.yaml")); err != nil {
			t.Error(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), "config.yaml"))
		if err != nil {
			t.Error(err)
			continue
		}
		if c, err := tenant.Load(e.Name()+"/config.yaml", data); err != nil || c.Tenant != e.Name() {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
}

func TestRees46(t *testing.T) {
	beacons, refused, stats := importReal(t, "rees46", "rees46_2019oct_slice.csv.zst")
	check(t, refused, "17436: 8 columns, the header has 9") // the cut last row, and nothing else
	if stats != (Stats{Rows: 17_435, Records: 17_434, Refused: 1}) {
		t.Errorf("stats %+v", stats)
	}
	once := unique(beacons)
	points := tally(once, func(b real) (string, float64) { return b.Point, 1 })
	if want := map[string]float64{"view": 17_051, "cart": 164, "purchase": 214}; !maps.Equal(points, want) {
		t.Errorf("points %v, want %v", points, want)
	}
	cents := int64(0)
	arms := map[string]string{}
	for _, b := range once {
		if v, ok := b.Values["revenue"]; ok {
			f, err := v.Float64()
			if err != nil || b.Point != "purchase" {
				t.Fatalf("%+v", b)
			}
			cents += int64(math.Round(f * 100))
		}
		if was, ok := arms[b.Visitor]; ok && was != b.Experiments["aa"] {
			t.Fatalf("visitor %s is in two variations", b.Visitor)
		}
		arms[b.Visitor] = b.Experiments["aa"]
	}
	if cents != 5_944_263 {
		t.Errorf("revenue %d cents", cents)
	}
	split := map[string]int{}
	for _, arm := range arms {
		split[arm]++
	}
	if len(split) != 2 || split["a"]+split["b"] != 4504 || math.Abs(float64(split["a"]-split["b"])) > 4*math.Sqrt(4504) {
		t.Errorf("split %v of 4,504 visitors", split)
	}

	// The tables hold the cut row (a view of 02:50) and the duplicates.
	want := table(t, "rees46_minute.csv.zst", 1)
	all := tally(beacons, func(b real) (string, float64) { return b.minute(), 1 })
	all["2019-10-01T02:50Z"]++
	compare(t, "events", want, 0, all)
	compare(t, "carts", want, 4, tally(beacons, func(b real) (string, float64) { return b.minute(), count(b.Point == "cart") }))
	compare(t, "purchases", want, 5, tally(beacons, func(b real) (string, float64) { return b.minute(), count(b.Point == "purchase") }))
	compare(t, "revenue", want, 6, tally(beacons, func(b real) (string, float64) {
		f, _ := b.Values["revenue"].Float64()
		return b.minute(), f
	}))
	started, bounced := visits(beacons, time.Hour)
	t.Logf("%v sessions, %v of one event; with the duplicates as one %v", sum(started), sum(bounced), sumOf(visits(once, time.Hour)))
	compare(t, "sessions", want, 2, started)
	compare(t, "bounces", want, 3, bounced)
	visitors := distinct(beacons)
	visitors["2019-10-01T02:50Z"]++ // the cut row ends within the visitor's id
	compare(t, "visitors", want, 1, visitors)
}

func sumOf(started, bounced map[string]float64) [2]float64 {
	return [2]float64{sum(started), sum(bounced)}
}

func count(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func TestWikipedia(t *testing.T) {
	beacons, refused, stats := importReal(t, "wikipedia", "wikipedia_session_dataset.csv.zst")
	check(t, refused)
	if stats != (Stats{Rows: 63_524, Records: 63_524}) || len(unique(beacons)) != 63_524 {
		t.Errorf("stats %+v, %d unique", stats, len(unique(beacons)))
	}
	want := table(t, "wikipedia_minute.csv.zst", 1)
	compare(t, "events", want, 0, tally(beacons, func(b real) (string, float64) { return b.minute(), 1 }))
	compare(t, "visitors", want, 1, distinct(beacons))
	started, bounced := visits(beacons, 30*time.Minute)
	compare(t, "visits", want, 2, started)
	compare(t, "bounces", want, 3, bounced)
	if sum(started) != 22_224 || sum(bounced) != 13_138 {
		t.Errorf("%v visits, %v bounces", sum(started), sum(bounced))
	}
}

func TestZozo(t *testing.T) {
	beacons, refused, stats := importReal(t, "zozo", "zozo_open_bandit_ab_40k.csv.zst")
	check(t, refused)
	if stats != (Stats{Rows: 40_000, Records: 40_207}) || len(unique(beacons)) != 40_207 {
		t.Errorf("stats %+v, %d unique", stats, len(unique(beacons)))
	}
	arm := func(b real) string {
		for x, v := range b.Experiments {
			return x + "," + v
		}
		return ""
	}
	want := table(t, "zozo_minute.csv.zst", 3)
	for i, point := range []string{"impression", "click"} {
		compare(t, point, want, i, tally(beacons, func(b real) (string, float64) {
			return b.minute() + "," + arm(b), count(b.Point == point)
		}))
	}
	clicks := tally(beacons, func(b real) (string, float64) { return arm(b), count(b.Point == "click") })
	if want := map[string]float64{"men,bts": 69, "men,random": 46, "women,bts": 46, "women,random": 46}; !maps.Equal(clicks, want) {
		t.Errorf("clicks %v, want %v", clicks, want)
	}
}

func TestApache(t *testing.T) {
	beacons, refused, stats := importReal(t, "apache", "apache_10k.log.zst")
	check(t, refused)
	if stats != (Stats{Rows: 10_000, Records: 10_000}) || len(unique(beacons)) != 10_000 {
		t.Errorf("stats %+v, %d unique", stats, len(unique(beacons)))
	}
	want := table(t, "apache_minute.csv.zst", 1)
	compare(t, "requests", want, 0, tally(beacons, func(b real) (string, float64) { return b.minute(), 1 }))
	compare(t, "errors", want, 2, tally(beacons, func(b real) (string, float64) { return b.minute(), count(b.Point == "error") }))
	started, _ := visits(beacons, 30*time.Minute)
	compare(t, "visits", want, 3, started)
	if sum(started) != 3224 {
		t.Errorf("%v visits", sum(started))
	}
}
