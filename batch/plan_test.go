package batch

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tandem/core/tenant"
	"tandem/schemas/archive"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata come to into them")

const (
	t0     = int64(1_767_225_600_000) // a window begins
	minute = int64(60_000)
)

// TestDue runs the scripts: lines of commands (script.do), and below a command, behind "> ", what it says.
func TestDue(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, covered: map[int64]*Covered{}, chains: map[string][]archive.Manifest{}, partitions: 1, ttl: "1h"}
			var out bytes.Buffer
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, ">") {
					continue
				}
				out.WriteString(line)
				if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
					for _, l := range s.do(f[0], f[1:]) {
						fmt.Fprintf(&out, "> %s\n", l)
					}
				}
			}
			if *rewrite {
				if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(out.Bytes(), text) {
				t.Errorf("%s differs (go test ./batch -rewrite, and read the difference); it comes to:\n%s", name, out.Bytes())
			}
		})
	}
}

// script is a tenant whose archive, config and coverage a script builds. Windows are numbered from t0 on, times are
// minutes after it. The first revision has a session_ttl of ttl and a lateness of 10 min.
type script struct {
	t          *testing.T
	ttl        string
	partitions int
	revs       []string // YAML
	digests    []uint64 // of revisions, in order of appearance
	chains     map[string][]archive.Manifest
	covered    map[int64]*Covered
	generation int64
	lateEvery  int64
}

func (s *script) num(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) do(cmd string, args []string) []string {
	switch cmd {
	case "ttl":
		s.ttl = args[0]
	case "partitions":
		s.partitions = int(s.num(args[0]))
	case "rev": // MINUTE [LINE]: a revision from there on, in place of one that begins there
		from := fmt.Sprintf("from: %s\n", at(s.num(args[0])))
		s.revs = slices.DeleteFunc(s.revs, func(r string) bool { return strings.HasPrefix(r, from) })
		text := from + strings.Join(args[1:], " ") + "\n"
		if !strings.Contains(text, "session_ttl") {
			text += "session_ttl: " + s.ttl + "\n"
		}
		s.revs = append(s.revs, text)
	case "file": // PARTITION WINDOW:RECORDS...: a manifest with a file, at the progress of the one before
		m := archive.Manifest{Progress: s.last(args[0])}
		for _, a := range args[1:] {
			w, n, _ := strings.Cut(a, ":")
			m.Windows = append(m.Windows, archive.Window{Start: t0 + s.num(w)*WindowMS, Records: s.num(n)})
		}
		m.Files = []archive.FileInfo{{}}
		s.add(args[0], m)
	case "progress": // PARTITION|* MINUTES...: a manifest without a file; a minute for each source
		for p := range s.partitions {
			if name := strconv.Itoa(p); args[0] == "*" || args[0] == name {
				m := archive.Manifest{Progress: map[string]int64{}}
				for i, a := range args[1:] {
					m.Progress[fmt.Sprint("source", i)] = t0 + s.num(a)*minute
				}
				s.add(name, m)
			}
		}
	case "late_every": // MINUTES
		s.lateEvery = s.num(args[0]) * minute
	case "waiting":
		a := s.archive()
		x := a.waiting(s.covered)
		if x.Windows == 0 {
			return []string{"nothing"}
		}
		return []string{fmt.Sprintf("%d records of windows %d to %d, since minute %d, due at %d", x.Beacons, (x.First-t0)/WindowMS, (x.Last-t0)/WindowMS,
			(x.Since-t0)/minute, (x.Due-t0)/minute)}
	case "due":
		return s.say(s.due())
	case "backfill": // [WINDOW=DIGEST...]: covers all that is due for any reason, as run does
		var all []int64
		chain, a := s.chain(), s.archive()
		for _, w := range settled(chain, a, s.covered) {
			if why(chain, a, s.covered, w) != "" {
				all = append(all, w)
			}
		}
		due := plans(chain, a, s.covered, all)
		s.run(due, args)
		return s.say(due)
	case "run": // [WINDOW=DIGEST...]: covers what is due; 0 is a run without sessions
		plans := s.due()
		s.run(plans, args)
		return s.say(plans)
	case "regenerate": // WINDOW: its run is that of another generation, and holds the same
		c := *s.covered[t0+s.num(args[0])*WindowMS]
		s.generation++
		c.Generation, c.Run.Generation = s.generation, s.generation
		s.covered[c.Window] = &c
	default:
		s.t.Fatalf("no command %s", cmd)
	}
	return nil
}

func at(minutes int64) string {
	return fmt.Sprintf("2026-01-%02dT%02d:%02d:00Z", 1+minutes/1440, minutes/60%24, minutes%60)
}

func (s *script) last(p string) map[string]int64 {
	if c := s.chains[p]; len(c) > 0 {
		return c[len(c)-1].Progress
	}
	return nil
}

// add makes every manifest ten offsets long.
func (s *script) add(p string, m archive.Manifest) {
	if c := s.chains[p]; len(c) > 0 {
		m.First = c[len(c)-1].Next
	}
	m.Next = m.First + 10
	s.chains[p] = append(s.chains[p], m)
}

func (s *script) chain() *tenant.Chain {
	return compile(s.t, slices.Concat([]string{"session_ttl: " + s.ttl + "\n"}, s.revs)...)
}

// compile compiles revisions of the tenant shop, which all have the point home.
func compile(t testing.TB, revs ...string) *tenant.Chain {
	t.Helper()
	c, err := tenant.Compile(load(t, revs...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func load(t testing.TB, revs ...string) []*tenant.Config {
	t.Helper()
	var files []tenant.File
	for i, r := range revs {
		if !strings.Contains(r, "points:") {
			r += "points: {home: {}}\n"
		}
		files = append(files, tenant.File{Name: fmt.Sprintf("r%d.yaml", i), Data: []byte("tenant: shop\n" + r)})
	}
	configs, err := tenant.LoadChain(files)
	if err != nil {
		t.Fatal(err)
	}
	return configs
}

func (s *script) archive() Archive {
	chains := map[string][]archive.Manifest{}
	for p := range s.partitions {
		chains[strconv.Itoa(p)] = s.chains[strconv.Itoa(p)]
	}
	a := ReadArchive(chains)
	a.LateEvery = s.lateEvery
	return a
}

func (s *script) due() []WindowPlan { return Due(s.chain(), s.archive(), s.covered) }

// run covers windows as Reduce does.
func (s *script) run(plans []WindowPlan, digests []string) {
	s.generation++
	for _, p := range plans {
		w := (p.Window - t0) / WindowMS
		d := uint64(1000 + w)
		for _, a := range digests {
			if k, v, _ := strings.Cut(a, "="); s.num(k) == w {
				d = uint64(s.num(v))
			}
		}
		c := &Covered{Window: p.Window, Generation: s.generation, Inputs: Inputs{Spans: p.Spans, Revisions: p.Revisions},
			Run: RunRef{Window: p.Window, Generation: s.generation, Digest: Digest{true, d}}}
		for _, b := range p.Before {
			if !b.Digest.known {
				b = s.covered[b.Window].Run
			}
			if !b.Digest.empty() {
				c.Inputs.Runs = append(c.Inputs.Runs, b)
			}
		}
		data, err := json.Marshal(c) // as the store keeps it
		if err != nil {
			s.t.Fatal(err)
		}
		kept := &Covered{}
		if err := json.Unmarshal(data, kept); err != nil {
			s.t.Fatal(err)
		}
		s.covered[p.Window] = kept
	}
}

// say writes a window a line: number, spans, revisions, and the runs it reads with their generation, or * if the same
// plan makes them.
func (s *script) say(plans []WindowPlan) []string {
	if len(plans) == 0 {
		return []string{"nothing"}
	}
	var out []string
	for _, p := range plans {
		var b strings.Builder
		fmt.Fprintf(&b, "%d:", (p.Window-t0)/WindowMS)
		for part := range s.partitions {
			for _, x := range p.Spans[strconv.Itoa(part)] {
				fmt.Fprintf(&b, " %d[%d,%d)", part, x.First, x.Next)
			}
		}
		for _, d := range p.Revisions {
			i := slices.Index(s.digests, d)
			if i < 0 {
				i = len(s.digests)
				s.digests = append(s.digests, d)
			}
			fmt.Fprintf(&b, " r%d", i)
		}
		for _, r := range p.Before {
			g := "*"
			if r.Digest.known {
				g = fmt.Sprintf("g%d", r.Generation)
			}
			fmt.Fprintf(&b, " %d%s", (r.Window-t0)/WindowMS, g)
		}
		out = append(out, b.String())
	}
	return out
}

func TestDigestText(t *testing.T) {
	full := make([]uint64, Buckets)
	before := ""
	for i := range full {
		full[i] = uint64(i) * 0x9e3779b97f4a7c15
		before += fmt.Sprintf("%016x", full[i])
	}
	for _, d := range []Digest{{}, digestOf(make([]uint64, Buckets)), digestOf(full)} {
		text, err := d.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Digest
		if err := back.UnmarshalText(text); err != nil || back != d || len(text) > 16 {
			t.Errorf("%q became %v, %v, want %v", text, back, err, d)
		}
	}
	var old Digest // of coverage that an earlier release wrote
	if err := old.UnmarshalText([]byte(before)); err != nil || old != digestOf(full) {
		t.Errorf("%v, %v, want %v", old, err, digestOf(full))
	}
	for _, text := range []string{"0", "0000000000000000", strings.Repeat("0", 15), strings.Repeat("1", 17), strings.Repeat("1", 32), strings.Repeat("0", 1023) + "g", strings.Repeat("0", 1023) + "-"} {
		if err := new(Digest).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%d characters that are no digest were taken", len(text))
		}
	}
}

// Sources that are set aside are not waited for; where all are, nothing is known.
func TestProgressWithoutWhatIsSetAside(t *testing.T) {
	chains := func(aside ...string) map[string][]archive.Manifest {
		return map[string][]archive.Manifest{"t/0": {{Next: 1, Progress: map[string]int64{"dead": 5, "slow": 70, "live": 100}, Aside: aside}},
			"t/1": {{Next: 1, Progress: map[string]int64{"live": 90}, Aside: []string{"never"}}}}
	}
	for _, c := range []struct {
		aside []string
		want  int64
	}{{nil, 5}, {[]string{"dead"}, 70}, {[]string{"dead", "slow"}, 90}, {[]string{"dead", "live", "slow"}, math.MinInt64}} {
		a := ReadArchive(chains(c.aside...))
		if unknown := c.want == math.MinInt64; a.Progress != c.want || slices.Equal(a.Unknown, []string{"t/0"}) != unknown {
			t.Errorf("aside %v: progress %d, unknown %v; want %d", c.aside, a.Progress, a.Unknown, c.want)
		}
	}
}
