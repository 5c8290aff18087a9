package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// demoSums are what the table shows of a variation, summed over minutes and tag sets. What the config does not measure
// stays 0 and is shown as a dash.
type demoSums struct {
	visits, sessions, orders, revenue, errors int64 // revenue scaled by its decimals
}

func (s *demoSums) add(o *demoSums) {
	s.visits += o.visits
	s.sessions += o.sessions
	s.orders += o.orders
	s.revenue += o.revenue
	s.errors += o.errors
}

func (s demoSums) minus(o demoSums) demoSums {
	return demoSums{s.visits - o.visits, s.sessions - o.sessions, s.orders - o.orders, s.revenue - o.revenue, s.errors - o.errors}
}

type demoVariation struct {
	name                 string
	soFar, stream, batch demoSums // the stream's over everything; both layers' over the covered minutes
}

type demoExperiment struct {
	name       string          // "": the whole site
	variations []demoVariation // the control first
}

type demoCount struct {
	name string
	n    int64
}

// demoFrame is everything that the table shows.
type demoFrame struct {
	tenant      string
	clock       int64 // record time, ms
	speed       string
	phase       string
	beacons     int64
	perSecond   float64
	counts      []demoCount // unused, sent twice and the like
	rejected    []demoCount
	late        int64
	lateCovered int64
	watermark   int64 // minute; 0: not known yet
	windows     int
	minutes     int64 // covered
	firstAt     int64 // record time at which the first window settles, ms; 0: not known yet
	rows        int64 // of the stream and the batch without late beacons, in the covered minutes
	differ      int64 // of them
	byLate      int64 // rows that differ between the stream and the batch proper

	hasOrder, hasRevenue, hasError bool
	decimals                       int // of revenue
	experiments                    []demoExperiment
}

// Ways to show less where a terminal is too low for everything.
const (
	demoFull    = iota
	demoCompact // no empty lines, and of the stream one line for each variation: so far, or over what is covered
)

func (f *demoFrame) lines(how int) []string {
	out := f.header()
	out = append(out, fmt.Sprintf("%-27s %7s %9s %8s %7s %9s %7s %8s %7s   %s", "", "visits", "sessions", "ordered", "lift", "rev/sess", "lift", "error", "lift", "drift"))
	for i := range f.experiments {
		x := &f.experiments[i]
		if x.name == "" {
			out = append(out, "the whole site: the config has no experiment")
		} else {
			out = append(out, x.name)
		}
		for k := range x.variations {
			v, control := &x.variations[k], &x.variations[0]
			name := v.name
			line := func(label string, s, c demoSums, drift string) {
				out = append(out, strings.TrimRight(fmt.Sprintf("  %-10.10s %-14s ", name, label)+f.cells(s, c, k > 0)+"   "+drift, " "))
				name = ""
			}
			if f.windows == 0 || how == demoFull {
				line("stream so far", v.soFar, control.soFar, "")
			}
			if f.windows > 0 {
				line("stream covered", v.stream, control.stream, "")
				line("batch covered", v.batch, control.batch, f.drift(v.stream.minus(v.batch)))
			}
		}
	}
	out = append(append(out, ""), f.agreement()...)
	if how == demoCompact {
		out = slices.DeleteFunc(out, func(line string) bool { return line == "" })
	}
	return out
}

// fit returns the lines cut to a height, 0 for any. What is cut are experiments at the end, never the agreement.
func (f *demoFrame) fit(height int) []string {
	out := f.lines(demoFull)
	if height <= 0 || len(out) <= height {
		return out
	}
	out = f.lines(demoCompact)
	agreement := f.agreement()
	keep := height - len(agreement) - 1
	if len(out) <= height || keep < 0 {
		return out[:min(len(out), height)]
	}
	cut := len(out) - len(agreement) - keep
	return append(append(out[:keep:keep], fmt.Sprintf("... %s more: make the terminal higher", demoPlural(int64(cut), "line"))), agreement...)
}

func (f *demoFrame) header() []string {
	complete := "stream not yet"
	if f.watermark > 0 {
		complete = "stream before " + demoClock(f.watermark*60_000) + " (its watermark)"
	}
	complete += "   batch " + demoPlural(int64(f.windows), "window") + ", " + demoPlural(f.minutes, "minute")
	beacons := fmt.Sprintf("%s, %s/s", demoGroup(f.beacons), demoGroup(int64(f.perSecond)))
	for _, c := range f.counts {
		beacons += "   " + c.name + " " + demoGroup(c.n)
	}
	rejected, total := "", int64(0)
	for _, c := range f.rejected {
		if total += c.n; rejected != "" {
			rejected += ", "
		}
		rejected += c.name + " " + demoGroup(c.n)
	}
	if rejected != "" {
		rejected = ": " + rejected
	}
	return []string{
		strings.TrimRight(fmt.Sprintf("tenant    %s   record time %s   speed %s   %s", f.tenant, time.UnixMilli(f.clock).UTC().Format(time.DateTime), f.speed, f.phase), " "),
		"beacons   " + beacons,
		"rejected  " + demoGroup(total) + rejected,
		fmt.Sprintf("late      %s, %s in covered windows: they are left to the batch", demoGroup(f.late), demoGroup(f.lateCovered)),
		"complete  " + complete,
		"",
	}
}

// agreement are the lines that all this is about.
func (f *demoFrame) agreement() []string {
	switch {
	case f.windows == 0 && f.firstAt == 0:
		return []string{"layers: the batch has covered nothing yet"}
	case f.windows == 0:
		return []string{"layers: the batch has covered nothing yet; its first window settles at " + demoClock(f.firstAt)}
	}
	word := "layers agree: "
	if f.differ > 0 {
		word = "LAYERS DIFFER: "
	}
	lines := []string{fmt.Sprintf("%s%s of %s rows equal over %s covered %s", word, demoGroup(f.rows-f.differ), demoGroup(f.rows),
		demoGroup(f.minutes), demoWord(f.minutes, "minute", "minutes"))}
	if f.lateCovered > 0 {
		lines = append(lines, fmt.Sprintf("late beacons aside: %s that only the batch has %s %s", demoPlural(f.lateCovered, "late beacon"),
			demoWord(f.lateCovered, "changes", "change"), demoPlural(f.byLate, "row")))
	}
	return lines
}

// cells are the columns from visits to the errors' lift. c is the control's sums over the same minutes.
func (f *demoFrame) cells(s, c demoSums, lift bool) string {
	scale := math.Pow10(f.decimals)
	share := func(has bool, n int64) string {
		if !has || s.sessions == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f%%", 100*float64(n)/float64(s.sessions))
	}
	lifted := func(has bool, n, m int64) string {
		if !has || !lift || s.sessions == 0 || c.sessions == 0 || m == 0 {
			return ""
		}
		x := 100 * ((float64(n)/float64(s.sessions))/(float64(m)/float64(c.sessions)) - 1)
		if math.Abs(x) >= 1000 {
			return fmt.Sprintf("%+.0f%%", x) // as wide as its column
		}
		return fmt.Sprintf("%+.1f%%", x)
	}
	revenue := "-"
	if f.hasRevenue && s.sessions > 0 {
		revenue = strconv.FormatFloat(float64(s.revenue)/scale/float64(s.sessions), 'f', 3, 64)
	}
	return fmt.Sprintf("%7s %9s %8s %7s %9s %7s %8s %7s", demoGroup(s.visits), demoGroup(s.sessions),
		share(f.hasOrder, s.orders), lifted(f.hasOrder, s.orders, c.orders),
		revenue, lifted(f.hasRevenue, s.revenue, c.revenue),
		share(f.hasError, s.errors), lifted(f.hasError, s.errors, c.errors))
}

// drift names the sums in which the stream is not the batch; "0" if there are none.
func (f *demoFrame) drift(d demoSums) string {
	var parts []string
	for _, p := range []demoCount{{"visits", d.visits}, {"sessions", d.sessions}, {"ordered", d.orders}, {"error", d.errors}} {
		if p.n != 0 {
			parts = append(parts, fmt.Sprintf("%s %+d", p.name, p.n))
		}
	}
	if d.revenue != 0 {
		parts = append(parts, fmt.Sprintf("revenue %+.*f", f.decimals, float64(d.revenue)/math.Pow10(f.decimals)))
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, ", ")
}

func demoClock(ms int64) string { return time.UnixMilli(ms).UTC().Format("15:04") }

func demoWord(n int64, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func demoPlural(n int64, word string) string { return demoGroup(n) + " " + demoWord(n, word, word+"s") }

// demoGroup writes 1234567 as 1,234,567.
func demoGroup(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// demoScreen keeps a table in one place of a terminal, or writes blocks one below the other.
type demoScreen struct {
	out      io.Writer
	terminal bool
	shown    int // lines of the table that stand above the cursor
}

func newDemoScreen(out io.Writer) *demoScreen {
	s := &demoScreen{out: out}
	_, s.terminal = s.height()
	if os.Getenv("TERM") == "dumb" {
		s.terminal = false
	}
	return s
}

// height is that of the terminal less the cursor's line, 0 if it does not tell; false: it is none.
func (s *demoScreen) height() (int, bool) {
	f, ok := s.out.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return max(int(size.Row)-1, 0), true
}

// show draws the table over the one before. Wrapping is off meanwhile: a narrow terminal cuts lines at its edge, and a
// line stays one line.
func (s *demoScreen) show(f *demoFrame) error {
	if !s.terminal {
		_, err := io.WriteString(s.out, strings.Join(f.lines(demoFull), "\n")+"\n\n")
		return err
	}
	height, _ := s.height()
	return s.draw(f.fit(height))
}

// last draws the whole table, also where it is higher than the terminal.
func (s *demoScreen) last(f *demoFrame) error {
	if !s.terminal {
		return s.show(f)
	}
	return s.draw(append(f.lines(demoFull), ""))
}

func (s *demoScreen) draw(lines []string) error {
	var b strings.Builder
	b.WriteString("\x1b[?7l")
	if s.shown > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", s.shown)
	}
	for _, l := range lines {
		b.WriteString(l)
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?7h")
	s.shown = len(lines)
	_, err := io.WriteString(s.out, b.String())
	return err
}
