package batch

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"tandem/core/metric"
	"tandem/core/session"
	"tandem/core/tenant"
	"tandem/schemas/archive"
)

// heldRows gives rows that are in memory.
type heldRows struct {
	rows []archive.Row
	at   int
}

func (h *heldRows) Next() bool {
	h.at++
	return h.at <= len(h.rows)
}
func (h *heldRows) Row() *archive.Row { return &h.rows[h.at-1] }
func (h *heldRows) Payload() error    { return nil }
func (h *heldRows) Err() error        { return nil }

// streamParts folds those sessions that can have a part in the number, from the archived records that are not late.
func (e *explaining) streamParts(ctx context.Context, want *target, parts map[string]*[2]part, l *ExplainedLayer) error {
	all, err := e.possible(ctx, want)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return nil
	}
	files := e.Job.open()
	defer files.close()
	exact := true
	for some := range slices.Chunk(all, exploredAtOnce) {
		rows, whole, err := e.history(ctx, files, some, (want.minute+1)*60000, e.archived, archive.Columns{Event: true, Payload: true})
		if err != nil {
			return err
		}
		exact = exact && whole
		for _, s := range some {
			f := newFolding(e.Live, e.Job.Digest, want.minute, func(_ int64, k cellKey, v int64, seen *metric.Sketch) {
				if want.has(k) {
					partsOf(parts, s.id)[ofStream].add(v, seen)
				}
			})
			f.m.onTime = true
			if err := f.fold(rows[s.id], (want.minute+1)*60000); err != nil {
				return err
			}
		}
	}
	if !exact {
		l.Notes = append(l.Notes, "sessions may have begun before the event files that are left: from their beginning on they may count otherwise")
	}
	return nil
}

// possible are the sessions with a beacon in the minute, or of what is counted at a visit's end one whose visit could end in
// it, in order of hash.
func (e *explaining) possible(ctx context.Context, want *target) ([]who, error) {
	from := []int64{want.minute * 60000}
	if want.group == tenant.GroupVisit && want.cell >= tenant.CellEnd && want.cell <= tenant.CellSeconds {
		from = nil
		for i := range e.Live.Revs {
			from = append(from, want.minute*60000-e.Live.Revs[i].Config.VisitGap)
		}
		slices.Sort(from)
		from = slices.Compact(from)
	}
	windows := map[int64]bool{}
	for _, ms := range from {
		windows[windowOf(ms)], windows[windowOf(ms+59999)] = true, true
	}
	files := e.Job.open()
	defer files.close()
	found := map[who]bool{}
	for w := range windows {
		err := e.scan(ctx, files, &WindowPlan{Window: w, Spans: e.archived(w)}, 0, math.MaxUint64, archive.Columns{}, func(in *ranged) error {
			r := in.Row()
			if slices.ContainsFunc(from, func(ms int64) bool { return r.TS >= ms && r.TS < ms+60000 }) {
				found[who{r.Hash, string(r.Session)}] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	all := make([]who, 0, len(found))
	for s := range found {
		all = append(all, s)
	}
	slices.SortFunc(all, compareWho)
	return all, nil
}

// archived are all offsets that hold records of a window.
func (e *explaining) archived(w int64) map[string][]Span { return e.archive.Spans[w] }

// read are those that the batch has read of a window.
func (e *explaining) read(w int64) map[string][]Span {
	if c := e.covered[w]; c != nil {
		return c.Inputs.Spans
	}
	return nil
}

// scan calls fn for the rows of a window and a hash range.
func (e *explaining) scan(ctx context.Context, files *openFiles, w *WindowPlan, lo, hi uint64, cols archive.Columns, fn func(*ranged) error) error {
	if len(w.Spans) == 0 {
		return nil
	}
	in, release, err := files.beacons(w, e.archive, lo, hi, cols)
	if err != nil {
		return err
	}
	defer release()
	for n := 0; in.Next(); n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fn(in); err != nil {
			return err
		}
	}
	return in.Err()
}

// history reads the records of sessions, which are in order of hash, before a time, back to where a session_ttl has none
// of it. It says whether the event files reach back so far.
func (e *explaining) history(ctx context.Context, files *openFiles, some []who, until int64, spans func(int64) map[string][]Span, cols archive.Columns) (map[string][]archive.Row, bool, error) {
	type known struct {
		pieces [][]archive.Row // by window, the last first
		window int64           // of the last piece
		first  int64           // ts of the first record, ms
	}
	live := map[string]*known{}
	for _, s := range some {
		live[s.id] = &known{first: until}
	}
	out := map[string][]archive.Row{}
	least := int64(math.MaxInt64)
	for w := range e.archive.Spans {
		least = min(least, w)
	}
	n, whole := 0, true
	w := windowOf(until - 1)
	for ; len(live) > 0 && w >= least; w -= WindowMS {
		ttl := max(back(e.Live, w), back(e.Job.Chain, w), back(e.Live, w+WindowMS), back(e.Job.Chain, w+WindowMS))
		for id, k := range live {
			// Records of earlier minutes do not count, but a window's worth of them more does no harm.
			if w+WindowMS <= k.first-ttl-60000 {
				out[id] = joined(k.pieces)
				delete(live, id)
			}
		}
		err := e.scan(ctx, files, &WindowPlan{Window: w, Spans: spans(w)}, some[0].hash, some[len(some)-1].hash, cols, func(in *ranged) error {
			r := in.Row()
			k := live[string(r.Session)]
			if k == nil || r.TS >= until {
				return nil
			}
			if n++; n > exploredRows {
				return fmt.Errorf("explain: the sessions at hand have more than %d beacons", exploredRows)
			}
			if cols.Payload {
				if err := in.Payload(); err != nil {
					return err
				}
			}
			if len(k.pieces) == 0 || k.window != w {
				k.pieces, k.window = append(k.pieces, nil), w
			}
			last := &k.pieces[len(k.pieces)-1]
			*last = append(*last, copied(r))
			k.first = min(k.first, r.TS)
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		if w < e.archive.From {
			whole = false
		}
	}
	for id, k := range live {
		out[id] = joined(k.pieces)
	}
	return out, whole, nil
}

func joined(pieces [][]archive.Row) (rows []archive.Row) {
	for _, p := range slices.Backward(pieces) {
		rows = append(rows, p...)
	}
	return rows
}

func copied(r *archive.Row) archive.Row {
	c := *r
	c.Session, c.ID, c.Payload, c.Point = bytes.Clone(r.Session), bytes.Clone(r.ID), bytes.Clone(r.Payload), bytes.Clone(r.Point)
	c.Visitor, c.Event = bytes.Clone(r.Visitor), bytes.Clone(r.Event)
	return c
}

// folding folds one session, and says what its beacons contribute, those of one ts after those of another.
type folding struct {
	m   *mapper
	fn  func(at int64, k cellKey, v int64, seen *metric.Sketch)
	did []string // by row, what was done with it
}

func newFolding(chain *tenant.Chain, digest ParseDigest, floor int64, fn func(at int64, k cellKey, v int64, seen *metric.Sketch)) *folding {
	f := &folding{m: newMapper(chain, floor*60000, digest, &metric.Sums{}, noSessions{}), fn: fn}
	f.m.state.Reset()
	f.m.lastTS, f.m.minute = -1, -1
	return f
}

// fold folds rows onto the state, and ends the visits that have ended before a time.
func (f *folding) fold(rows []archive.Row, until int64) error {
	if err := f.take(rows); err != nil {
		return err
	}
	events := f.m.events.Events
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].TS == events[0].TS {
			n++
		}
		f.m.folder.Fold(&f.m.state, events[:n])
		if err := f.told(events[0].TS); err != nil {
			return err
		}
		events = events[n:]
	}
	f.m.folder.EndVisits(&f.m.state, until)
	return f.told(0)
}

// take reads rows, and notes what is done with each.
func (f *folding) take(rows []archive.Row) error {
	for in := (&heldRows{rows: rows}); in.Next(); {
		was := f.m.counts
		f.m.counts.Rejected = nil
		if err := f.m.take(in); err != nil {
			return err
		}
		is := &f.m.counts
		did := "counts"
		switch {
		case is.Unused > was.Unused:
			did = "unused"
		case is.Duplicate > was.Duplicate:
			did = "duplicate"
		case is.Overflow > was.Overflow:
			did = "overflow"
		case is.Late > was.Late && f.m.onTime:
			did = "late"
		}
		for reason := range is.Rejected {
			did = "rejected: " + reason
		}
		f.did = append(f.did, did)
	}
	return nil
}

func (f *folding) told(at int64) error {
	return f.m.contributed(func(k cellKey, v int64, seen *metric.Sketch) { f.fn(at, k, v, seen) })
}

// contributed calls fn for what the sums hold, and empties them.
func (m *mapper) contributed(fn func(k cellKey, v int64, seen *metric.Sketch)) error {
	for _, at := range m.sums.Minutes() {
		err := at.Rows(func(g int) int { return len(m.chain.Groups[g].Names) }, func(scope, group, cell int, cells []metric.Cell) error {
			for _, c := range cells {
				v := c.Value
				if c.Sketch != nil {
					v = c.Sketch.Estimate()
				}
				fn(cellKey{at.Minute, metric.NewKey(scope, group, c.Variation, c.Tags), cell}, v, c.Sketch)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	m.sums.DropBefore(math.MaxInt64)
	return nil
}

// tell tells a session in full, of each layer what is wanted.
func (e *explaining) tell(ctx context.Context, id string, stream, batched *target) (*ExplainedSession, error) {
	files := e.Job.open()
	defer files.close()
	s, until := []who{whoIs(id)}, e.out.To*60000
	cols := archive.Columns{Event: true, Payload: true, Names: true}
	all, _, err := e.history(ctx, files, s, until, e.archived, cols)
	if err != nil {
		return nil, err
	}
	rows := all[id]
	out := &ExplainedSession{Session: id, Beacons: []ExplainedBeacon{}, Layers: []SessionLayer{}}
	f := e.telling(e.Live, stream)
	f.m.onTime = true
	if err := f.fold(rows, until); err != nil {
		return nil, err
	}
	if e.Layer != "" {
		out.Layers = append(out.Layers, f.layer(e.Layer))
	}
	did, err := e.tellBatch(ctx, files, s[0], batched, out)
	if err != nil {
		return nil, err
	}
	out.Earlier = max(len(rows)-maxBeacons, 0)
	for i := out.Earlier; i < len(rows); i++ {
		r := &rows[i]
		b := ExplainedBeacon{TS: r.TS, Ingest: r.Ingest, Offset: r.Offset, ID: string(r.ID), Point: string(r.Point), Stream: f.did[i], Batch: did[idOf(r)],
			Payload: strings.ToValidUTF8(string(r.Payload[:min(len(r.Payload), maxPayload)]), "\uFFFD")}
		if b.Batch == "" {
			b.Batch = "not covered"
		}
		out.Beacons = append(out.Beacons, b)
	}
	return out, nil
}

// rowID tells an archived record from the others of its session.
type rowID struct {
	ts, ingest, offset int64
	id                 string
}

func idOf(r *archive.Row) rowID { return rowID{r.TS, r.Ingest, r.Offset, string(r.ID)} }

// tellBatch tells a session as the batch has it, window by window: each from the state that its coverage names.
func (e *explaining) tellBatch(ctx context.Context, files *openFiles, s who, want *target, out *ExplainedSession) (map[rowID]string, error) {
	until := e.out.To * 60000
	rows, _, err := e.history(ctx, files, []who{s}, until, e.read, archive.Columns{Event: true, Payload: true, Names: true})
	if err != nil {
		return nil, err
	}
	seen := newFolding(e.Job.Chain, e.Job.Digest, 0, nil)
	if err := seen.take(rows[s.id]); err != nil {
		return nil, err
	}
	did := map[rowID]string{}
	for i := range rows[s.id] {
		did[idOf(&rows[s.id][i])] = seen.did[i]
	}
	for w := windowOf(e.out.From * 60000); w < until; w += WindowMS {
		c := e.covered[w]
		if c == nil || w < e.archive.From { // what it was computed from is gone
			continue
		}
		var own []archive.Row
		for _, r := range rows[s.id] {
			if r.TS >= w && r.TS < w+WindowMS {
				own = append(own, r)
			}
		}
		f := e.telling(e.Job.Chain, want)
		f.m.reparse = c.Reparsed
		if err := e.stateBefore(files, c, s, &f.m.state); err != nil {
			return nil, err
		}
		if err := f.fold(own, min(until, w+WindowMS)); err != nil {
			return nil, err
		}
		l := f.layer(Layer(c.Generation))
		if last := len(out.Layers) - 1; last >= 0 && out.Layers[last].Layer == l.Layer {
			l.Contributions = append(out.Layers[last].Contributions, l.Contributions...)
			l.Sum += out.Layers[last].Sum
			out.Layers[last] = l
			continue
		}
		out.Layers = append(out.Layers, l)
	}
	return did, nil
}

// stateBefore reads a session's state before a window, as its coverage names it.
func (e *explaining) stateBefore(files *openFiles, c *Covered, s who, into *session.State) error {
	st, done, err := e.Job.states(c.standing(e.covered), 0, files, s.hash, s.hash)
	if err != nil {
		return err
	}
	defer done()
	for st.Next() {
		if string(st.Session()) == s.id {
			state := st.State()
			if err := st.Err(); err != nil {
				return err
			}
			return into.Decode(e.Job.Chain, state)
		}
	}
	return st.Err()
}

// telling is a folding that notes contributions by name.
type telling struct {
	*folding
	list SessionLayer
	part part
}

func (e *explaining) telling(chain *tenant.Chain, want *target) *telling {
	t := &telling{list: SessionLayer{Markers: []Marker{}, Contributions: []Contribution{}}}
	t.folding = newFolding(chain, e.Job.Digest, e.out.From, func(at int64, k cellKey, v int64, seen *metric.Sketch) {
		if !want.has(k) || k.minute < e.out.From || k.minute >= e.out.To {
			return
		}
		t.part.add(v, seen)
		t.list.Contributions = append(t.list.Contributions, contribution(chain, at, k, v))
	})
	return t
}

func contribution(chain *tenant.Chain, at int64, k cellKey, v int64) Contribution {
	c := Contribution{At: at, Minute: k.minute, Tags: chain.Tags[k.page.Tags()], Value: v}
	scope, experiment := chain.ScopeName(k.page.Scope())
	c.Experiment, c.Metric = experiment, scope+"."+chain.Groups[k.page.Group()].Names[k.cell]
	if experiment != "" {
		c.Variation = chain.XNames[(k.page.Scope()-1)/2].Variations[k.page.Variation()]
	}
	return c
}

// layer is what was noted, with the markers that the state has now.
func (t *telling) layer(name string) SessionLayer {
	t.list.Layer = name
	t.list.Sum = t.part.sum
	chain := t.m.chain
	for i := range t.m.state.Marks {
		m := &t.m.state.Marks[i]
		x := &chain.XNames[chain.Exps[m.Inst].X]
		mark := Marker{Experiment: x.Name, Variation: x.Variations[m.Variation], Assigned: m.Assigned}
		if m.IsQualified {
			mark.Qualified = &m.Qualified
		}
		t.list.Markers = append(t.list.Markers, mark)
	}
	return t.list
}
