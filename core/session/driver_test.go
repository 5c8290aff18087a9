package session_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"tandem/core/beacon"
	"tandem/core/metric"
	"tandem/core/oracle"
	"tandem/core/session"
	"tandem/core/tenant"
)

// batch is the smallest driver of Fold there can be: a whole set of records, read, sorted, deduplicated and limited at
// once. Runs holds the events of each session id that count, in order.
type batch struct {
	chain  *tenant.Chain
	runs   [][]session.Event
	counts map[string]int64
}

// readAll reads the records; with stream it leaves out those that are late.
func readAll(chain *tenant.Chain, records []oracle.Record, stream bool) *batch {
	type item struct {
		e       session.Event
		payload []byte
	}
	d := &batch{chain: chain, counts: map[string]int64{}}
	sessions := map[string][]item{}
	var names []string
	var p beacon.Parser
	var b beacon.Beacon
	var r session.Reader
	for _, record := range records {
		reason := p.Parse(record.Payload, &b)
		if reason == beacon.None && string(b.Tenant) != chain.Tenant {
			reason = beacon.UnknownTenant
		}
		var e session.Event
		var v session.Verdict
		if reason == beacon.None {
			v = r.Read(chain, &b, record.Ingest, &e)
			reason = v.Reason
		}
		switch {
		case reason != beacon.None:
			d.counts["rejected."+reason.String()]++
		case !v.Used:
			d.counts["unused"]++
		case stream && v.Late:
			d.counts["late"]++
		default:
			name := string(b.Session)
			if sessions[name] == nil {
				names = append(names, name)
			}
			var run session.Run
			sessions[name] = append(sessions[name], item{*run.Append(&e), record.Payload})
		}
	}
	for _, name := range names {
		items := sessions[name]
		slices.SortStableFunc(items, func(a, b item) int {
			if c := session.Compare(&a.e, &b.e); c != 0 {
				return c
			}
			return bytes.Compare(a.payload, b.payload)
		})
		var run []session.Event
		minute, n := int64(-1), 0
		for i := range items {
			e := items[i].e
			if i > 0 && session.Compare(&items[i-1].e, &e) == 0 {
				d.counts["duplicate"]++
				continue
			}
			if m := e.TS / 60000; m != minute {
				minute, n = m, 0
			}
			if n++; n > chain.At(e.TS).Config.MaxEventsPerMinute {
				d.counts["overflow"]++
				continue
			}
			run = append(run, e)
		}
		d.runs = append(d.runs, run)
	}
	return d
}

// forever is a watermark past every visit's end.
const forever = 1 << 60

func (d *batch) folder() *session.Folder {
	return &session.Folder{Chain: d.chain, Sums: &metric.Sums{}, Beacons: true, Ends: true, Sign: 1}
}

// fold folds each session at once.
func (d *batch) fold(f *session.Folder) {
	for _, run := range d.runs {
		var st session.State
		st.Reset()
		f.Fold(&st, run)
		f.EndVisits(&st, forever)
	}
}

// countLines gives the counts file of what was read and folded.
func (d *batch) countLines(f *session.Folder) []string {
	counts := oracle.Result{Counts: map[string]int64{"conflict": f.Counts.Conflict, "unknown_variation": f.Counts.UnknownVariation}}
	for name, n := range d.counts {
		counts.Counts[name] = n
	}
	return counts.CountLines()
}

// rows gives the rows file of the sums.
func rows(chain *tenant.Chain, sums *metric.Sums) []string {
	var lines []string
	cells := func(g int) int { return len(chain.Groups[g].Names) }
	for _, m := range sums.Minutes() {
		err := m.Rows(cells, func(scope, group, cell int, row []metric.Cell) error {
			for _, c := range row {
				s, x := chain.ScopeName(scope)
				name := chain.Tenant + ".visit." + s
				if x != "" {
					name += "." + x + "." + chain.XNames[(scope-1)/2].Variations[c.Variation]
				}
				v := c.Value
				if c.Sketch != nil {
					v = c.Sketch.Estimate()
				}
				lines = append(lines, fmt.Sprintf("%s.%s\t%s\t%d\t%d", name, chain.Groups[group].Names[cell], chain.Tags[c.Tags], m.Minute, v))
			}
			return nil
		})
		if err != nil {
			panic("BUG: Rows passes on an error that no row gave: " + err.Error())
		}
	}
	slices.Sort(lines)
	return lines
}

// differences shows the lines that only one of the two has, up to a few.
func differences(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	var b bytes.Buffer
	show := func(sign string, of, other []string) {
		n := 0
		for _, l := range of {
			if !slices.Contains(other, l) {
				if n++; n <= 20 {
					fmt.Fprintf(&b, "%s %s\n", sign, l)
				}
			}
		}
		if n > 20 {
			fmt.Fprintf(&b, "%s ... and %d more\n", sign, n-20)
		}
	}
	show("-", want, got)
	show("+", got, want)
	if b.Len() == 0 {
		return "the same lines, in another order or number"
	}
	return b.String()
}

func compile(t *testing.T, configs []*tenant.Config) *tenant.Chain {
	t.Helper()
	chain, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}
