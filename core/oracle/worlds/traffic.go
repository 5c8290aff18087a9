package worlds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"tandem/core/oracle"
)

// beacon is a payload as it is drawn; member values are JSON texts.
type beacon struct {
	id, session string
	ts          int64
	ingest      int64
	fields      []member // the others
}

type member struct{ name, text string }

// traffic draws the records.
func (g *generator) traffic() {
	n := 5 + g.IntN(56)
	if g.chance(3) {
		n = 200
	}
	ids := some(g, 1, "s", "10", "9", "é", "S", "s2")
	if g.narrow {
		ids = ids[:min(2, len(ids))]
	}
	now := make([]int64, len(ids)) // of each session
	for i := range now {
		now[i] = g.moment()
	}
	for len(g.records) < n {
		switch i := g.IntN(len(ids)); {
		case len(g.beacons) > 0 && g.chance(12):
			g.repeat()
		case g.chance(4):
			g.bridge(ids[i], now[i])
		case g.chance(6): // a burst of one millisecond
			for range 2 + g.IntN(3) {
				g.emit(ids[i], now[i], 0)
			}
		case g.chance(2):
			g.reject(ids[i], now[i])
		default:
			now[i] = g.next(now[i])
			g.emit(ids[i], now[i], g.delay(now[i]))
		}
	}
	g.Shuffle(len(g.records), func(i, j int) { g.records[i], g.records[j] = g.records[j], g.records[i] })
}

// at is the revision in force at ts, or the first where none is.
func (g *generator) at(ts int64) *config {
	found := g.configs[0]
	for _, c := range g.configs[1:] {
		if c.from <= ts {
			found = c
		}
	}
	return found
}

// moment draws any time, with a preference for edges.
func (g *generator) moment() int64 {
	if len(g.edges) > 0 && g.chance(60) {
		return pick(g, g.edges...) + pick[int64](g, -1, 0, 1)
	}
	return g.begin + g.Int64N(g.span)
}

// next draws the time of a session's next beacon after one at t.
func (g *generator) next(t int64) int64 {
	c := g.at(t)
	switch g.IntN(16) {
	case 0, 1, 2:
		return t
	case 3:
		return t + 1
	case 4:
		return t + c.gap - 1
	case 5:
		return t + c.gap
	case 6:
		return t + c.gap + 1
	case 7:
		if c.ttl <= g.span {
			return t + c.ttl + pick[int64](g, -1, 0, 1)
		}
		return t + c.gap/2
	case 8:
		return t - t%minute + minute - pick[int64](g, 0, 1)
	case 9, 10:
		return g.moment()
	case 11:
		return t - pick(g, second, minute, c.gap)
	}
	return t + second + g.Int64N(20*second)
}

// delay draws by how much a record is taken in after its event time.
func (g *generator) delay(ts int64) int64 {
	c := g.at(ts)
	kind := g.IntN(40)
	if g.narrow && g.chance(70) {
		kind = 30
	}
	switch kind {
	case 0, 1:
		return c.lateness
	case 2, 3, 4:
		return c.lateness + 1
	case 5:
		return c.age
	case 6:
		return c.age + 1
	case 7:
		return -c.skew
	case 8:
		return -c.skew - 1
	case 9, 10, 11, 12, 13, 14:
		return g.Int64N(c.lateness)
	case 15, 16, 17, 18, 19, 20, 21, 22, 23, 24:
		return second
	}
	return 0
}

// bridge emits two beacons that are more than one gap apart, and later the one that makes one visit of them.
func (g *generator) bridge(session string, t int64) {
	gap := g.at(t).gap
	between := t + pick(g, gap, gap-g.Int64N(min(gap, 5*second)))
	g.emit(session, t, 0)
	g.emit(session, t+gap+1, 0)
	g.emit(session, between, g.at(between).lateness)
}

func (g *generator) emit(session string, ts, delay int64) {
	b := beacon{id: pick(g, "1", "2", "9", "10", "é", "z", "Z", "a"), session: session, ts: ts, ingest: ts + delay}
	b.fields = g.fields(ts)
	g.beacons = append(g.beacons, b)
	g.records = append(g.records, g.record(b))
}

// repeat emits a beacon again, as it was or with another payload.
func (g *generator) repeat() {
	b := pick(g, g.beacons...)
	b.ingest += pick[int64](g, 0, 0, 1, second)
	switch g.IntN(8) {
	case 0, 1:
		b.fields = slices.Clone(b.fields)
		g.Shuffle(len(b.fields), func(i, j int) { b.fields[i], b.fields[j] = b.fields[j], b.fields[i] })
	case 2:
		b.fields = []member{{"point", `"unlisted"`}}
	case 3, 4, 5:
		b.fields = g.fields(b.ts)
	}
	if g.chance(10) {
		b.ingest = b.ts + g.delay(b.ts)
	}
	g.records = append(g.records, g.record(b))
}

// fields draws what a beacon carries beside who and when.
func (g *generator) fields(ts int64) []member {
	c := g.at(ts)
	var fields []member
	add := func(name, text string) { fields = append(fields, member{name, text}) }
	if g.chance(90) {
		name := "unlisted"
		if len(c.points) > 0 && !g.chance(6) {
			name = pick(g, c.points...).name
		} else if g.chance(50) {
			name = pick(g, pointNames...)
		}
		add("point", text(name))
	}
	if g.chance(35) {
		var members []string
		for _, x := range some(g, 1, "x", "y", "z", "other") {
			variation := text(pick(g, variationNames...))
			if i := slices.IndexFunc(c.experiments, func(e experiment) bool { return e.name == x }); i >= 0 && g.chance(70) {
				variation = text(pick(g, c.experiments[i].variations...))
			}
			if g.chance(5) {
				variation = pick(g, `"unknown"`, "null", `""`)
			}
			members = append(members, text(x)+":"+variation)
		}
		if g.chance(5) { // a repeated key: the last stands
			members = append(members, text(pick(g, "x", "y", "z"))+":"+text(pick(g, variationNames...)))
		}
		add("experiments", "{"+strings.Join(members, ",")+"}")
	}
	if g.chance(50) {
		var members []string
		for _, v := range some(g, 1, "rev", "n") {
			members = append(members, text(v)+":"+g.number())
		}
		if g.chance(5) {
			members = append(members, `"rev":`+g.number())
		}
		add("values", "{"+strings.Join(members, ",")+"}")
	}
	if g.chance(50) {
		add("visitor", text(pick(g, "v1", "v2", "v3", "")))
	}
	if g.chance(50) {
		add("device", text(pick(g, "desktop", "mobile", "tv", "")))
	}
	if g.chance(30) {
		add("login", pick(g, "true", "false", "null"))
	}
	if g.chance(30) {
		var members []string
		for _, name := range some(g, 1, "k", "device", "login", "visitor", "point") {
			members = append(members, text(name)+":"+pick(g, `"a"`, "1", "1.5", "1.50", "true", "null", `"mobile"`, "[1]", `"v1"`))
		}
		add("attrs", "{"+strings.Join(members, ",")+"}")
	}
	g.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return fields
}

// number draws a measured value: small ones that cross the caps both ways, halves that are rounded, and the limits.
func (g *generator) number() string {
	if g.chance(2) {
		return pick(g, "100000000", "1000000000", "100000000000", "-100000000000", "100000000000.5", "1e12", "1e40")
	}
	return pick(g, "0", "-0", "1", "1", "-1", "2", "0.5", "-0.5", "0.05", "0.005", "-0.005", "0.0049", "0.004999999999999999999",
		"1.005", "2.5", "-2.5", "5", "-5", "4.99", "5.01", "1e1", "5e-1", "12.345", "-7", "null")
}

func (g *generator) record(b beacon) oracle.Record {
	ts := fmt.Sprint(b.ts)
	if g.chance(5) {
		ts = text(time.UnixMilli(b.ts).UTC().Format("2006-01-02T15:04:05.000") + pick(g, "Z", "9Z", "+00:00"))
	}
	fields := append([]member{{"id", text(b.id)}, {"tenant", `"t"`}, {"session", text(b.session)}, {"ts", ts}}, b.fields...)
	var members []string
	for _, f := range fields {
		members = append(members, text(f.name)+":"+f.text)
	}
	return oracle.Record{Ingest: b.ingest, Payload: []byte("{" + strings.Join(members, ",") + "}")}
}

// reject emits a record that no config would take, or one that only its own revision refuses.
func (g *generator) reject(session string, ts int64) {
	b := beacon{id: "r", session: session, ts: ts, ingest: ts, fields: []member{{"point", `"home"`}}}
	switch g.IntN(8) {
	case 0:
		g.records = append(g.records, oracle.Record{Ingest: ts, Payload: []byte(pick(g, "", "{", "[]", `{"id":1}`, "null", "\xff"))})
		return
	case 1:
		b.fields = append(b.fields, member{"tenant", `"nobody"`})
	case 2:
		b.id = pick(g, "", strings.Repeat("i", 129))
	case 3:
		b.session = pick(g, "", strings.Repeat("s", 129))
	case 4:
		b.fields = append(b.fields, member{"visitor", text(strings.Repeat("v", 129))})
	case 5:
		b.ts = pick[int64](g, 1, 946_684_799_999, 253_402_300_799_999, 253_402_300_800_000)
		b.ingest = b.ts
		if g.chance(30) {
			b.fields = append(b.fields, member{"ts", pick(g, "null", "99999999999999999999", "-99999999999999999999", `"x"`)})
		}
	case 6:
		b.fields = append(b.fields, member{"pad", text(strings.Repeat("p", 1<<16))})
	case 7:
		b.fields = append(b.fields, member{"values", pick(g, `{"rev":1e300}`, `{"rev":"1"}`, `{"rev":1e999}`)})
	}
	g.records = append(g.records, g.record(b))
}

// text is the JSON text of a string.
func text(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string that does not marshal: " + err.Error())
	}
	return string(data)
}
