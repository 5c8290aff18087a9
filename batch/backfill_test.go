package batch

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/store"
	"tandem/schemas/tables"
)

var long = flag.Bool("long", false, "more worlds, and a kill at every single write")

// everything is a range that holds all windows of these tests.
func everything() *Backfill { return &Backfill{To: (session.MaxTS/WindowMS + 1) * WindowMS} }

func backfill(t *testing.T, j *Job, b *Backfill) {
	t.Helper()
	if err := j.Backfill(context.Background(), b, nil); err != nil {
		t.Fatal(err)
	}
}

// quiet checks that neither a backfill nor the batch has anything to do.
func quiet(t *testing.T, what string, j *Job, b *Backfill) {
	t.Helper()
	own := *j
	c := counting(&own)
	backfill(t, &own, b)
	run(t, &own)
	if c.n != 0 {
		t.Errorf("%s: a second backfill writes %d times", what, c.n)
	}
}

// Worlds whose chain grows by revisions and splices: after each splice a backfill comes to what the oracle says, and to what
// an empty store comes to from the archive; then all is quiet.
func TestBackfillWorlds(t *testing.T) {
	spliced, gone := 0, 0
	seeds := uint64(4)
	if *long {
		seeds = 100
	}
	for seed := uint64(0); seed < seeds; seed++ {
		w := worlds.Generate(seed)
		revisions, err := w.Chain()
		if err != nil {
			t.Fatal(err)
		}
		objects := worlds.Spliced(seed, revisions, w)
		if seed%2 == 1 {
			objects = worlds.TakenBack(seed, objects)
		}
		last, err := tenant.CompileLive(objects)
		if err != nil {
			t.Fatal(err)
		}
		// The archive reads by all revisions at once: those of the worlds are in the past.
		archived := blob.NewMem()
		put(t, archived, last, w.Records, 2)
		objectsOf := copyOf(t, archived)
		var j *Job
		for n := len(revisions); n <= len(objects); n++ {
			if objects[0].HasTo || !slices.ContainsFunc(objects[:n], func(c *tenant.Config) bool { return c.HasTo }) && n > len(revisions) {
				continue
			}
			chain, err := tenant.Compile(objects[:n])
			if err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("seed %d, %d of %d objects", seed, n, len(objects))
			var st store.Store
			if j == nil {
				j, st = job(t, chain, objectsOf(), 1+int(seed%3))
				run(t, j)
			} else {
				j.Chain = chain
				st = j.Store.(store.Store)
				before, err := j.Covered(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				j.Portion = int64(seed % 4 * 5)
				run(t, j) // which leaves what the splice has changed
				backfill(t, j, everything())
				after, err := j.Covered(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				for w, c := range after {
					if before[w] != nil && before[w].Generation != c.Generation {
						spliced++
					} else if before[w] != nil {
						gone++
					}
				}
			}
			rows, _ := wanted(t, worlds.Flat(objects[:n]), w.Records, false)
			got := outcomeOf(t, j, st)
			sameLines(t, what, got.rows, rows)
			anew, newStore := job(t, chain, objectsOf(), 2)
			backfill(t, anew, everything())
			want := outcomeOf(t, anew, newStore)
			got.same(t, what+": an empty store", want)
			quiet(t, what, j, everything())
			if t.Failed() {
				t.Fatalf("the world:\n%s", w)
			}
		}
	}
	if spliced < 10 || gone < 10 {
		t.Errorf("only %d windows were run again and %d left", spliced, gone)
	}
}

// lateExperiment is a chain to which an experiment comes at minute 45, and the splice that gives it a start of minute 10.
func lateExperiment(t *testing.T) (before, after []*tenant.Config) {
	t.Helper()
	first := "session_ttl: 1h\ntags: {device: [desktop, mobile]}\npoints: {home: {kind: page, stats: true}, order: {values: {revenue: {cap: 50}}}}\n"
	with := first + "experiments: {color: {variations: [control, red], start: " + at(10) + "}}\n"
	before = load(t, first, "from: "+at(45)+"\n"+with)
	splice := *before[1]
	splice.HasTo, splice.From, splice.To = true, t0+10*minute, t0+45*minute
	return before, append(slices.Clone(before), &splice)
}

func chainOf(t *testing.T, configs []*tenant.Config) *tenant.Chain {
	t.Helper()
	c, err := tenant.Compile(configs)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// covered is a job that has covered all windows of records under these configs.
func covered(t *testing.T, configs []*tenant.Config, records []oracle.Record) (*Job, store.Store) {
	t.Helper()
	chain, blobs := chainOf(t, configs), blob.NewMem()
	put(t, blobs, chain, records, 2)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	return j, st
}

// An experiment that is added with a start in the past.
func TestBackfillOfAnExperiment(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(60)
	j, st := covered(t, before, records)
	count := func() (n int) {
		for _, l := range outcomeOf(t, j, st).rows {
			if strings.HasPrefix(l, "shop.visit.assigned.color") {
				n++
			}
		}
		return n
	}
	few := count()
	j.Chain = chainOf(t, after)
	b := everything()
	b.Live = chainOf(t, before)
	f, err := j.Forecast(context.Background(), b)
	if err != nil || f.Windows == 0 || f.Windows != f.Why[whyRevisions] || f.First != t0 || f.Records == 0 {
		t.Errorf("forecast %+v, %v", f, err)
	}
	backfill(t, j, b)
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	if many := count(); few == 0 || many <= few {
		t.Errorf("%d rows of the experiment, before %d", many, few)
	}
	quiet(t, "after it", j, b)

	// Taken back by a splice that says what was.
	undo := *before[0]
	undo.HasFrom, undo.HasTo, undo.From, undo.To = true, true, t0+10*minute, t0+45*minute
	j.Chain = chainOf(t, append(after, &undo))
	backfill(t, j, b)
	rows, _ = wanted(t, before, records, false)
	sameLines(t, "rows of what was", outcomeOf(t, j, st).rows, rows)
	quiet(t, "after that", j, b)
}

// A backfill as plans whose parts are mapped apart comes to what a backfill in one process does.
func TestBackfillInParts(t *testing.T) {
	ctx := context.Background()
	before, after := lateExperiment(t)
	records := traffic(60)
	j, st := covered(t, before, records)
	j.Chain = chainOf(t, after)
	b := everything()
	b.Live = chainOf(t, before)
	b.To = t0 + WindowMS // windows after it come to other state
	plans := 0
	for {
		p, a, err := j.PlanBackfill(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			break
		}
		if plans++; plans > 5 {
			t.Fatal("it has no end")
		}
		for _, part := range []int{2, 0, 1} {
			if err := j.MapPart(ctx, p, a, part, 3); err != nil {
				t.Fatal(err)
			}
		}
		if again, _, err := j.PlanBackfill(ctx, b); err != nil || again == nil || again.Generation != p.Generation {
			t.Fatalf("a plan that is not done is %+v when asked for again, %v", again, err)
		}
		for _, w := range p.Windows {
			if err := j.ReduceWindow(ctx, p, w.Window); err != nil {
				t.Fatal(err)
			}
		}
	}
	if plans == 0 {
		t.Error("there was nothing to do")
	}
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	quiet(t, "after it", j, b)
}

// What dispatch did not keep is refused, with the revision and the time.
func TestBackfillOfWhatIsNotKept(t *testing.T) {
	before, _ := lateExperiment(t)
	splice := *before[1]
	splice.HasTo, splice.From, splice.To = true, t0+10*minute, t0+45*minute
	splice.Points = append(slices.Clone(splice.Points), tenant.Point{Name: "promo"})
	blobs := blob.NewMem()
	put(t, blobs, chainOf(t, before), traffic(10), 1)
	j, st := job(t, chainOf(t, before), blobs, 2)
	run(t, j)
	j.Chain = chainOf(t, append(slices.Clone(before), &splice))
	b := everything()
	b.Live = chainOf(t, before)
	c := counting(j)
	err := j.Backfill(context.Background(), b, nil)
	if !errors.Is(err, ErrUntold) || !strings.Contains(err.Error(), "point promo from "+windowName(t0+10*minute)+" to "+windowName(t0+45*minute)) {
		t.Errorf("error %v", err)
	}
	if c.n != 0 {
		t.Errorf("it writes %d times", c.n)
	}
	gaps, err := j.Untold(b.Live, b.From, b.To)
	if err != nil || len(gaps) != 1 {
		t.Fatalf("gaps %v, %v", gaps, err)
	}
	k, err := j.KeepRaw(b.Live, gaps, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	records := traffic(10)
	for i, r := range records[:len(records)/2] { // as the raw topic has them
		ts := t0 + 40*minute + int64(i)*minute
		promo := oracle.Record{Ingest: ts, Payload: fmt.Appendf(nil, `{"id":"p%d","tenant":"shop","session":"s%d","ts":%d,"point":"promo"}`, i, i, ts)}
		records = append(records, promo)
		if err := errors.Join(k.Take(r.Payload, r.Ingest), k.Take(promo.Payload, promo.Ingest), k.Take(promo.Payload, promo.Ingest)); err != nil {
			t.Fatal(err)
		}
	}
	made, err := k.Done()
	if err != nil || made.Records != 10 {
		t.Errorf("brought %+v, %v", made, err)
	}
	j.LateEvery = 24 * time.Hour
	if late, _, err := j.Waiting(context.Background()); err != nil || late.Windows > 0 {
		t.Errorf("what is brought waits for the pass: %+v, %v", late, err)
	}
	backfill(t, j, b)
	rows, _ := wanted(t, worlds.Flat(append(slices.Clone(before), &splice)), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	quiet(t, "after it", j, b)
}

// A start whose state is not known is refused, or told.
func TestBackfillWithoutState(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(60)
	archived := blob.NewMem()
	put(t, archived, chain, records, 2)
	objects := copyOf(t, archived)
	rows, _ := wanted(t, configs, records, false)
	ctx := context.Background()
	late := everything()
	late.From = t0 + WindowMS

	j, st := job(t, chain, objects(), 2)
	if err := j.Backfill(ctx, late, nil); !errors.Is(err, ErrUntold) || !strings.Contains(err.Error(), windowName(t0)) {
		t.Errorf("error %v", err)
	}
	if o := outcomeOf(t, j, st); len(o.digests) != 0 {
		t.Errorf("%d windows are covered", len(o.digests))
	}
	late.Approximate = true
	backfill(t, j, late)
	covered, err := j.Covered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := covered[t0+WindowMS]
	if c == nil || c.Unknown != t0+2*WindowMS+3600_000-WindowMS || c.Counts.Uncertain == 0 || covered[t0] != nil {
		t.Fatalf("the first window is %+v", c)
	}
	for w, c := range covered {
		if c.Unknown > 0 && w >= c.Unknown && c.Counts.Uncertain == 0 {
			t.Errorf("window %s is said to be approximate, and has no session that may have begun before", windowName(w))
		}
	}
	reports, err := j.Reports(1)
	if err != nil || len(reports) != 1 || reports[0].Approximate == 0 {
		t.Errorf("reports %+v, %v", reports, err)
	}
	// The batch covers what was left out; then all can be known.
	run(t, j)
	backfill(t, j, everything())
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	if covered, err = j.Covered(ctx); err != nil {
		t.Fatal(err)
	}
	for w, c := range covered {
		if c.Unknown > 0 {
			t.Errorf("window %s is approximate still", windowName(w))
		}
	}
	quiet(t, "at the end", j, everything())

	// A cold start at the archive's first record needs nothing, and changes nothing where all is covered.
	cold := everything()
	cold.From, cold.Cold = t0, true
	quiet(t, "a cold start", j, cold)
	k, kst := job(t, chain, objects(), 3)
	backfill(t, k, cold)
	sameLines(t, "rows of a cold start", outcomeOf(t, k, kst).rows, rows)
	// And one later is refused.
	cold.From = t0 + WindowMS
	if err := j.Backfill(ctx, cold, nil); !errors.Is(err, ErrUntold) {
		t.Errorf("error %v", err)
	}
}

// What the batch keeps of its own is lost, and the store is not; and the other way round.
func TestBackfillOfLosses(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(40)
	blobs := blob.NewMem()
	put(t, blobs, chain, records, 2)
	objects := copyOf(t, blobs)
	rows, _ := wanted(t, configs, records, false)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	lose := func(folder string) {
		names, err := blobs.List(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := blobs.Delete(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	lose("batch/" + chain.Tenant + "/out/") // and the plans stand, which are done by coverage
	backfill(t, j, everything())
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	quiet(t, "runs that were lost", j, everything())
	one, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	lose(one[t0].Files[0].Name) // and what says of the run stands
	backfill(t, j, everything())
	if now, err := j.Covered(context.Background()); err != nil || now[t0].Generation == one[t0].Generation {
		t.Errorf("a window whose run has lost a file is still of generation %d, %v", one[t0].Generation, err)
	}
	quiet(t, "a file that was lost", j, everything())
	lose("batch/")
	before, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	f, err := j.Forecast(context.Background(), everything())
	if err != nil || f.Why[whyGone] == 0 {
		t.Errorf("forecast %+v, %v", f, err)
	}
	backfill(t, j, everything())
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	after, err := j.Covered(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for w, c := range after {
		if !before[w].Run.Digest.empty() && c.Generation <= before[w].Generation {
			t.Errorf("window %s is of generation %d, and was of %d", windowName(w), c.Generation, before[w].Generation)
		}
	}
	quiet(t, "after it", j, everything())

	k, kst := job(t, chain, objects(), 2)
	run(t, k)
	want := outcomeOf(t, k, kst)
	l, lst := job(t, chain, k.Blobs, 2) // plans and runs are there, the store is empty
	backfill(t, l, everything())
	got := outcomeOf(t, l, lst)
	got.same(t, "an empty store", want)

	// Store and batch/ are lost, and tables for SQL are left: what is made now stands above them.
	left := blob.NewMem()
	put(t, left, chain, records, 2)
	if err := left.Create(tables.CoverageName(chain.Tenant, t0, 7), []byte("a table")); err != nil {
		t.Fatal(err)
	}
	m, _ := job(t, chain, left, 2)
	if p, _, err := m.Plan(context.Background()); err != nil || p.Generation != 8 {
		t.Errorf("plan %+v, %v, above tables of generation 7", p, err)
	}
}

// Another parser, and --reparse.
func TestBackfillOfAParser(t *testing.T) {
	chain, _ := compiled(t)
	blobs := blob.NewMem()
	put(t, blobs, chain, traffic(20), 2)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	want := outcomeOf(t, j, st)
	j.Parser++
	b := everything()
	b.From, b.To = t0, t0+WindowMS
	f, err := j.Forecast(context.Background(), b)
	if err != nil || f.Windows != 1 || f.Why[whyReader] != 1 {
		t.Errorf("forecast %+v, %v", f, err)
	}
	for _, reparse := range []bool{false, true} {
		j.Reparse, b.Reparse = reparse, reparse
		backfill(t, j, b)
		covered, err := j.Covered(context.Background())
		if err != nil || covered[t0].Parser != j.Parser || covered[t0].Reparsed != reparse || covered[t0+WindowMS].Parser == j.Parser {
			t.Errorf("reparse %t: %+v, %v", reparse, covered[t0], err)
		}
		got := outcomeOf(t, j, st)
		got.same(t, "rows", want)
		quiet(t, "after it", j, b)
	}
}

// While a backfill goes on, windows that become due go first.
func TestBackfillLetsNewWindowsGoFirst(t *testing.T) {
	before, after := lateExperiment(t)
	records := traffic(40)
	end := t0 + 2*WindowMS
	early := slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest >= end })
	rest := slices.DeleteFunc(slices.Clone(records), func(r oracle.Record) bool { return r.Ingest < end })
	blobs := blob.NewMem()
	chain := chainOf(t, before)
	putUntil(t, blobs, chain, early, 1, end+10*minute)
	j, st := job(t, chain, blobs, 2)
	run(t, j)
	j.Chain, j.Portion = chainOf(t, after), 1
	b := &Backfill{From: t0, To: t0 + WindowMS}
	var order []int64
	err := j.Backfill(context.Background(), b, func(r *Report) {
		if order = append(order, r.First); len(order) == 1 {
			put(t, blobs, chain, rest, 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, j)
	backfill(t, j, everything())
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	if len(order) < 3 || order[0] != t0 || order[1] != end {
		t.Errorf("plans begin with %v", order)
	}
}

// A splice of half an hour changes all of a session that goes on for hours after it: what it drops is dropped for good.
func TestBackfillReachesAsFarAsASession(t *testing.T) {
	text := "session_ttl: 1h\npoints: {home: {stats: true}, cart: {}}\nexperiments: {color: {variations: [%s]}, size: {variations: [s, m]}}\n"
	before := load(t, fmt.Sprintf(text, "control, red"))
	for name, other := range map[string]string{
		"a variation":                fmt.Sprintf(text, "control"),
		"a variation without totals": strings.Replace(fmt.Sprintf(text, "control"), "stats: true", "", 1),
		"an experiment":              "session_ttl: 1h\npoints: {home: {stats: true}, cart: {}}\nexperiments: {color: {variations: [control, red]}}\n",
		"a point":                    "session_ttl: 1h\npoints: {cart: {}}\nexperiments: {color: {variations: [control, red]}, size: {variations: [s, m]}}\n",
		"a definition":               "session_ttl: 1h\npoints: {home: {}, cart: {}}\nexperiments: {color: {variations: [control, red]}, size: {variations: [s, m]}}\n",
	} {
		before := before
		if strings.Contains(name, "without") {
			before = load(t, strings.Replace(fmt.Sprintf(text, "control, red"), "stats: true", "", 1))
		}
		splice := *load(t, other)[0]
		splice.HasFrom, splice.From, splice.HasTo, splice.To = true, t0+40*minute, true, t0+70*minute
		after := append(slices.Clone(before), &splice)
		var records []oracle.Record
		for k := range 30 {
			for s, x := range []string{`,"experiments":{"color":"red","size":"m"}`, `,"experiments":{"color":"control"}`, ``} {
				if k > 0 && s == 0 {
					x = ""
				}
				ts := t0 + int64(k)*20*minute + int64(s)
				records = append(records, oracle.Record{Ingest: ts, Payload: fmt.Appendf(nil,
					`{"id":"e%d","tenant":"shop","session":"s%d","ts":%d,"point":"%s"%s}`, k, s, ts, []string{"home", "home", "cart"}[k%3], x)})
			}
		}
		blobs := blob.NewMem()
		put(t, blobs, chainOf(t, before), records, 2)
		j, st := job(t, chainOf(t, before), blobs, 2)
		run(t, j)
		was := outcomeOf(t, j, st).rows
		j.Chain = chainOf(t, after)
		backfill(t, j, &Backfill{From: t0 + WindowMS, To: t0 + 3*WindowMS})
		rows, _ := wanted(t, worlds.Flat(after), records, false)
		sameLines(t, name, outcomeOf(t, j, st).rows, rows)
		if slices.Equal(was, rows) {
			t.Errorf("%s: the splice changes nothing", name)
		}
		quiet(t, name, j, everything())
	}
}

// A cut where a window ends that a splice takes back: sessions go on over it, though the window before it is as it was.
func TestBackfillTakesACutBack(t *testing.T) {
	short, usual := "visit_gap: 5m\nsession_ttl: 2h\npoints: {order: {}}\n", "from: "+at(30)+"\nsession_ttl: 2h\npoints: {order: {}}\n"
	before := load(t, short, usual)
	splice := *before[0]
	splice.HasFrom, splice.From, splice.HasTo, splice.To = true, t0+30*minute, true, t0+90*minute
	var records []oracle.Record
	for k, m := range []int64{10, 40, 80, 100} {
		ts := t0 + m*minute
		records = append(records, oracle.Record{Ingest: ts, Payload: fmt.Appendf(nil, `{"id":"e%d","tenant":"shop","session":"s","ts":%d,"point":"order"}`, k, ts)})
	}
	j, st := covered(t, before, records)
	was := outcomeOf(t, j, st).rows
	after := append(slices.Clone(before), &splice)
	j.Chain = chainOf(t, after)
	backfill(t, j, everything())
	rows, _ := wanted(t, worlds.Flat(after), records, false)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, rows)
	if slices.Equal(was, rows) {
		t.Error("the splice changes nothing")
	}
	quiet(t, "the cut is gone", j, everything())
}
