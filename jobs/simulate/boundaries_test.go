package simulate

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/schemas/store"
)

const (
	gap      = 30 * time.Minute
	lateness = 10 * time.Minute
	epoch    = 1_767_607_200_000 // ms: time 0 of the table
)

// hit is a beacon of the table: when it happened and when it came.
type hit struct{ ts, came time.Duration }

// TestBoundaries runs each row of the table through both layers, without and with faults, and holds what it says of other
// systems against their rules as its sources have them.
func TestBoundaries(t *testing.T) {
	data, err := os.ReadFile("testdata/boundaries.txt")
	if err != nil {
		t.Fatal(err)
	}
	systems := []func([]hit) [][]time.Duration{flink, spark, kafkaStreams, beam, snowplow}
	names := []string{"Flink", "Spark", "Kafka Streams", "Beam", "Snowplow"}
	rows := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		cells := strings.Split(line, "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 4+len(systems) {
			t.Fatalf("%q has %d cells", cells[0], len(cells))
		}
		rows++
		t.Run(cells[0], func(t *testing.T) {
			hits := readHits(t, cells[1])
			for i, system := range systems {
				if got := showVisits(system(hits)); got != cells[4+i] {
					t.Errorf("%s: the table has %s, its rules give %s", names[i], cells[4+i], got)
				}
			}
			through(t, hits, readVisits(t, cells[2]), readVisits(t, cells[3]))
		})
	}
	if rows < 10 {
		t.Errorf("only %d rows", rows)
	}
}

// through runs beacons through the simulation and compares the visits of both layers.
func through(t *testing.T, hits []hit, stream, batch [][]time.Duration) {
	w := worlds.World{Configs: []string{"tenant: t\nvisit_gap: 30m\nlateness: 10m\npoints:\n  home: {kind: page}\n"}}
	for i, h := range hits {
		w.Records = append(w.Records, oracle.Record{Ingest: epoch + h.came.Milliseconds(),
			Payload: fmt.Appendf(nil, `{"id":"%d","tenant":"t","session":"s","ts":%d,"point":"home"}`, i, epoch+h.ts.Milliseconds())})
	}
	for seed := range uint64(2) {
		opt := draw(seed, 2*3600_000)
		opt.Centres, opt.Doubled, opt.Splice, opt.Cold, opt.Rate = 1, false, false, 0, 3*float64(seed)
		x := run(w, opt, false)
		if x.bad != nil {
			t.Fatalf("seed %d: %v", seed, x.bad)
		}
		if got := x.plant.linesOf("t", "stream.dc1", 0, store.MaxMinute); ends(got) != ends(endLines(stream)) {
			t.Errorf("stream: %s, want %s", ends(got), ends(endLines(stream)))
		}
		got := map[string]int64{}
		for k, c := range x.plant.metrics.coverage {
			for line, v := range x.plant.linesOf("t", batchLayer(c.Generation), k.window, k.window+30) {
				got[line] = v
			}
		}
		if ends(got) != ends(endLines(batch)) {
			t.Errorf("batch: %s, want %s", ends(got), ends(endLines(batch)))
		}
	}
}

// endLines are what the ends of visits add, by SPEC 6: here each beacon is a page.
func endLines(visits [][]time.Duration) map[string]int64 {
	lines := map[string]int64{}
	for _, v := range visits {
		minute := (epoch + (v[len(v)-1] + gap).Milliseconds()) / 60_000
		for name, n := range map[string]int64{"end": 1, "pages": int64(len(v)), "seconds": int64((v[len(v)-1] - v[0]) / time.Second)} {
			lines[fmt.Sprintf("t.visit.site.visit.%s\t\t%d", name, minute)] += n
		}
	}
	return lines
}

// ends shows what lines say of the ends of visits.
func ends(lines map[string]int64) string {
	var all []string
	for line, n := range lines {
		for _, name := range []string{".visit.end\t", ".visit.pages\t", ".visit.seconds\t"} {
			if strings.Contains(line, name) && n != 0 {
				all = append(all, fmt.Sprintf("%s=%d", strings.TrimPrefix(strings.ReplaceAll(line, "\t", " "), "t.visit.site."), n))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func readHits(t *testing.T, text string) (hits []hit) {
	for _, f := range strings.Fields(text) {
		ts, came, found := strings.Cut(f, "@")
		if !found {
			came = ts
		}
		hits = append(hits, hit{duration(t, ts), duration(t, came)})
	}
	return hits
}

func readVisits(t *testing.T, text string) (visits [][]time.Duration) {
	for part := range strings.SplitSeq(text, "(") {
		var v []time.Duration
		for _, f := range strings.Fields(strings.Trim(part, " )")) {
			v = append(v, duration(t, f))
		}
		if len(v) > 0 {
			visits = append(visits, v)
		}
	}
	return visits
}

func duration(t *testing.T, text string) time.Duration {
	if text == "0" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func showVisits(visits [][]time.Duration) string {
	slices.SortFunc(visits, func(a, b []time.Duration) int { return cmp.Compare(a[0], b[0]) })
	var all []string
	for _, v := range visits {
		slices.Sort(v)
		var times []string
		for _, d := range v {
			times = append(times, short(d))
		}
		all = append(all, "("+strings.Join(times, " ")+")")
	}
	return strings.Join(all, " ")
}

// short is a time as the table writes it: minutes and seconds.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%dm%gs", int(d.Minutes()), (d % time.Minute).Seconds())
}

// arrivals are the beacons in the order in which they come.
func arrivals(hits []hit) []hit {
	hits = slices.Clone(hits)
	slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(a.came, b.came) })
	return hits
}

// windows is a system of session windows [first, last+gap): touch says whether windows that only touch merge, own that a late
// beacon is judged by its own window and not by the merged one, over when a window that ends then is done at a watermark.
func windows(hits []hit, touch, own bool, over func(end, watermark time.Duration) bool) (done [][]time.Duration) {
	end := func(v []time.Duration) time.Duration { return slices.Max(v) + gap }
	var open [][]time.Duration
	for _, h := range arrivals(hits) {
		watermark := h.came - lateness
		open = slices.DeleteFunc(open, func(v []time.Duration) bool {
			if over(end(v), watermark) {
				done = append(done, v)
				return true
			}
			return false
		})
		merged := []time.Duration{h.ts}
		var rest [][]time.Duration
		from, to := h.ts, h.ts+gap
		for _, v := range open {
			a, b := slices.Min(v), end(v)
			if a < to && from < b || touch && (a == to || b == from) {
				merged = append(merged, v...)
			} else {
				rest = append(rest, v)
			}
		}
		judged := end(merged)
		if own {
			judged = h.ts + gap
		}
		if over(judged, watermark) {
			continue // too late
		}
		open = append(rest, merged)
	}
	return append(done, open...)
}

func flink(hits []hit) [][]time.Duration {
	return windows(hits, true, false, func(end, watermark time.Duration) bool { return end-time.Millisecond <= watermark })
}

func spark(hits []hit) [][]time.Duration {
	return windows(hits, true, true, func(end, watermark time.Duration) bool { return end <= watermark })
}

func beam(hits []hit) [][]time.Duration {
	return windows(hits, false, true, func(end, watermark time.Duration) bool { return end-time.Millisecond < watermark })
}

// kafkaStreams: sessions stay in the store, and are merged with, for gap + grace after their end; what was told of them before
// stands.
func kafkaStreams(hits []hit) (sessions [][]time.Duration) {
	for _, h := range arrivals(hits) {
		streamTime := h.came
		merged := []time.Duration{h.ts}
		var rest [][]time.Duration
		for _, v := range sessions {
			kept := slices.Max(v) >= streamTime-gap-lateness
			if kept && slices.Max(v) >= h.ts-gap && slices.Min(v) <= h.ts+gap {
				merged = append(merged, v...)
			} else {
				rest = append(rest, v)
			}
		}
		if slices.Max(merged) >= streamTime-gap-lateness {
			sessions = append(rest, merged)
		}
	}
	return sessions
}

func snowplow(hits []hit) (sessions [][]time.Duration) {
	var order []time.Duration
	for _, h := range hits {
		order = append(order, h.ts)
	}
	slices.Sort(order)
	for i, ts := range order {
		if i == 0 || ts-order[i-1] > gap {
			sessions = append(sessions, nil)
		}
		n := len(sessions) - 1
		sessions[n] = append(sessions[n], ts)
	}
	return sessions
}
