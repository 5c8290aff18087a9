// Package oracle computes a tenant's rows and counts straight from the definitions of SPEC 1 to 6, 8, 10 and 11. It is
// the second, independent implementation that tests compare the real one with, and serves nothing else.
//
// It shares no code and no idea with the fold: each session is a whole sorted list of beacons, every marker, scope,
// "first of" and running total is decided by a quantifier over that list, and nothing is carried from one beacon to the
// next. So it is quadratic in the length of a session, and simple enough to be checked against the page by eye.
package oracle

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"

	"tandem/core/tenant"
)

// Record is a payload with its ingest time in ms since the epoch (SPEC 1).
type Record struct {
	Ingest  int64
	Payload []byte
}

// Row names one metric value (SPEC 6).
type Row struct {
	Name   string // full name, e.g. uswm.visit.fm.btn_color.red.item_page.beta
	Tags   string // by name, e.g. device=mobile,login=none; empty without tags
	Minute int64  // minutes since the epoch
}

// Result is what a set of records gives: rows (of visitors, the exact number) and counts (SPEC 11). Either may hold
// zeros, which the files leave out.
type Result struct {
	Rows   map[Row]int64
	Counts map[string]int64
}

// Run gives the rows and counts of the records, in any order, under the revisions of one tenant, ordered by From. With
// stream it covers only the records that are not late (SPEC 8). The revisions must have passed the loader: a condition
// that it would have refused panics here.
func Run(chain []*tenant.Config, records []Record, stream bool) Result {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Ingest, b.Ingest), bytes.Compare(a.Payload, b.Payload))
	})
	h := newHistory(chain)
	result := Result{Rows: map[Row]int64{}, Counts: map[string]int64{}}
	var used []*beacon
	for _, r := range records {
		b, reason := h.read(r)
		switch {
		case reason != "":
			result.Counts["rejected."+reason]++
		case !h.isUsed(b):
			result.Counts["unused"]++
		case stream && b.ingest-b.ts > h.at(b).Lateness:
			result.Counts["late"]++
		default:
			used = append(used, b)
		}
	}

	unique := withoutRepeats(used)
	kept := h.withoutOverflow(unique)
	if stream {
		result.Counts["duplicate"], result.Counts["overflow"] = h.countAsTheyCome(used)
	} else {
		result.Counts["duplicate"] = int64(len(used) - len(unique))
		result.Counts["overflow"] = int64(len(unique) - len(kept))
	}

	for _, b := range kept {
		for x, variation := range b.experiments {
			if e := experimentOf(h.at(b), x); e != nil && !slices.Contains(e.Variations, variation) {
				result.Counts["unknown_variation"]++
			}
		}
	}
	out := &table{rows: result.Rows, visitors: map[Row]map[string]bool{}}
	for _, beacons := range h.sessions(kept) {
		s := h.newSession(beacons)
		result.Counts["conflict"] += s.conflicts()
		s.emit(out)
	}
	for row, who := range out.visitors {
		result.Rows[row] = int64(len(who))
	}
	return result
}

// identity is what makes two beacons of a tenant one (SPEC 2).
type identity struct {
	session, id string
	ts          int64
}

func (b *beacon) identity() identity { return identity{b.session, b.id, b.ts} }

// inOrder is the order of a session's beacons (SPEC 2).
func inOrder(a, b *beacon) int {
	return cmp.Or(cmp.Compare(a.ts, b.ts), strings.Compare(a.id, b.id))
}

// place is what max_events_per_minute is a limit of.
type place struct {
	session string
	minute  int64
}

func (b *beacon) place() place { return place{b.session, minuteOf(b.ts)} }

// minuteOf is floor(ms / 60 000); every ms that is used lies after 2000.
func minuteOf(ms int64) int64 { return ms / 60_000 }

// withoutRepeats leaves of the beacons that are one the one with the bytewise smallest payload.
func withoutRepeats(beacons []*beacon) []*beacon {
	smallest := map[identity]*beacon{}
	for _, b := range beacons {
		if old := smallest[b.identity()]; old == nil || bytes.Compare(b.payload, old.payload) < 0 {
			smallest[b.identity()] = b
		}
	}
	var unique []*beacon
	for _, b := range smallest {
		unique = append(unique, b)
	}
	return unique
}

// withoutOverflow leaves of each session's minute the smallest by (ts, id), as many as may count.
func (h *history) withoutOverflow(unique []*beacon) []*beacon {
	minutes := map[place][]*beacon{}
	for _, b := range unique {
		minutes[b.place()] = append(minutes[b.place()], b)
	}
	var kept []*beacon
	for _, m := range minutes {
		slices.SortFunc(m, inOrder)
		kept = append(kept, m[:min(len(m), h.at(m[0]).MaxEventsPerMinute)]...)
	}
	return kept
}

// countAsTheyCome counts repeats and overflow as the stream does: record by record, never taken back (SPEC 11).
func (h *history) countAsTheyCome(used []*beacon) (duplicate, overflow int64) {
	minutes := map[place][]*beacon{}
	for _, b := range used {
		m := minutes[b.place()]
		if slices.ContainsFunc(m, func(k *beacon) bool { return k.identity() == b.identity() }) {
			duplicate++
			continue
		}
		m = append(m, b)
		slices.SortFunc(m, inOrder)
		if len(m) > h.at(b).MaxEventsPerMinute {
			m = m[:len(m)-1]
			overflow++ // b itself, or the one that it pushed out
		}
		minutes[b.place()] = m
	}
	return duplicate, overflow
}

// RowLines gives the lines of a rows file, without their LF (SPEC 11).
func (r Result) RowLines() []string {
	var lines []string
	for row, v := range r.Rows {
		if v != 0 {
			minute, value := strconv.FormatInt(row.Minute, 10), strconv.FormatInt(v, 10)
			lines = append(lines, strings.Join([]string{row.Name, row.Tags, minute, value}, "\t"))
		}
	}
	slices.Sort(lines)
	return lines
}

// CountLines gives the lines of a counts file, without their LF (SPEC 11).
func (r Result) CountLines() []string {
	var lines []string
	for name, n := range r.Counts {
		if n != 0 {
			lines = append(lines, name+"\t"+strconv.FormatInt(n, 10))
		}
	}
	slices.Sort(lines)
	return lines
}

// ParseRecords reads a records file, uncompressed (SPEC 11). It takes any bytes: what is no beacon is rejected by Run. An
// ingest time beyond int64 counts as the greatest int64, and a ts that stands in for one as the nearest int64. The
// payloads alias data.
func ParseRecords(data []byte) []Record {
	lines := bytes.Split(data, []byte("\n"))
	if last := len(lines) - 1; len(lines[last]) == 0 {
		lines = lines[:last] // what follows the last LF is no line
	}
	var records []Record
	for _, line := range lines {
		head, payload, found := bytes.Cut(line, []byte("\t"))
		if found && isDigits(head) {
			ingest, _ := strconv.ParseInt(string(head), 10, 64) // out of range: the greatest
			records = append(records, Record{ingest, payload})
			continue
		}
		var ingest int64
		if b, err := parse(line); err == nil && b.hasTS {
			ingest = b.ts
		}
		records = append(records, Record{ingest, line})
	}
	return records
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}
