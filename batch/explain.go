package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"tandem/core/metric"
	"tandem/core/tenant"
	"tandem/schemas/archive"
	"tandem/schemas/row"
	"tandem/schemas/store"
)

// Explain says where numbers come from: of a number its sessions, of a session its beacons, markers and contributions, in
// each layer (SPEC 4 to 8). The stream's part is folded from the archived records that are not late, the batch's from the
// inputs that its coverage names, so what is listed comes to what the layers hold, or shows that they hold something else.
// It changes nothing. Its memory is that of one map and of the records of exploredAtOnce sessions.
type Explain struct {
	Job    *Job // of the batch proper; its Store is not used
	Live   *tenant.Chain
	Store  AuditStore
	Layer  string // of the stream; "" if there is none
	Closed int64  // minutes before it are closed in that layer
	Now    int64  // ms since the epoch: rows that have expired by then are not looked for
	Most   int    // how many sessions of a number are told in full, the greatest part first; 0: 20
}

// ErrNoNumber is wrapped where the tenant's configs come to no number as is asked for.
var ErrNoNumber = errors.New("there is no such number")

// Number is a value of the store, or the sum of some over tags.
type Number struct {
	Experiment string            `json:"experiment,omitempty"` // "" is the site scope
	Variation  string            `json:"variation,omitempty"`
	Metric     string            `json:"metric"`         // with its scope, as in store.Series: "fm.item_page.beta"
	Tags       map[string]string `json:"tags,omitempty"` // those of a row must be these; a tag that is not named may be any
	Minute     int64             `json:"minute"`         // since the epoch
}

// Explanation is what Explain comes to.
type Explanation struct {
	Tenant  string  `json:"tenant"`
	From    int64   `json:"from"` // minutes, [From, To)
	To      int64   `json:"to"`
	Number  *Number `json:"number,omitempty"`
	Session string  `json:"session,omitempty"`
	// Layers are the stream's, then the batch's. Of a session they have neither Stored nor Sum.
	Layers []ExplainedLayer `json:"layers"`
	// Sessions have a part in the number in some layer; More is how many have one and are not told.
	Sessions []ExplainedSession `json:"sessions"`
	More     int                `json:"more,omitempty"`
}

// ExplainedLayer is what a layer has of a number.
type ExplainedLayer struct {
	Layer    string   `json:"layer"`
	Stored   *int64   `json:"stored,omitempty"` // nil: the store does not know it (any more)
	Sum      int64    `json:"sum"`              // of all sessions' parts; of visitors the estimate of their union
	Sessions int      `json:"sessions"`         // that have a part
	Notes    []string `json:"notes,omitempty"`  // what to know before the two are compared
	Open     bool     `json:"open,omitempty"`   // the archive may still get records of the minute: the two cannot be compared yet
}

// ExplainedSession is a session as the archive and the layers have it.
type ExplainedSession struct {
	Session string `json:"session"`
	// Beacons are all that the archive has of it up to the end of what was asked for, from its beginning on, by time; Earlier
	// is how many of these are left out, the first ones.
	Beacons []ExplainedBeacon `json:"beacons"`
	Earlier int               `json:"earlier,omitempty"`
	Layers  []SessionLayer    `json:"layers"`
}

// ExplainedBeacon is an archived record, and what each layer does with it: "counts", or why it does not: "late",
// "duplicate", "overflow", "unused", "rejected: REASON", "not covered" (the batch has not read it yet).
type ExplainedBeacon struct {
	TS      int64  `json:"ts"`     // ms since the epoch
	Ingest  int64  `json:"ingest"` // ms since the epoch
	Offset  int64  `json:"offset"` // in its partition of the beacons topic
	ID      string `json:"id"`
	Point   string `json:"point,omitempty"`
	Stream  string `json:"stream"`
	Batch   string `json:"batch"`
	Payload string `json:"payload"` // the first maxPayload bytes
}

// SessionLayer is a session in a layer: its markers at the end of what was asked for, and what it contributes.
type SessionLayer struct {
	Layer         string         `json:"layer"`
	Sum           int64          `json:"sum"`
	Markers       []Marker       `json:"markers"`
	Contributions []Contribution `json:"contributions"`
}

// Marker is one of SPEC 4.
type Marker struct {
	Experiment string `json:"experiment"`
	Variation  string `json:"variation"`
	Assigned   int64  `json:"assigned"`            // ms since the epoch
	Qualified  *int64 `json:"qualified,omitempty"` // ms since the epoch; nil: not qualified
}

// Contribution is what a session adds to a value. At is the ts of the beacons that add it, in ms; 0 is a visit's end that no
// later beacon has shown.
type Contribution struct {
	At         int64  `json:"at,omitempty"`
	Minute     int64  `json:"minute"` // since the epoch
	Experiment string `json:"experiment,omitempty"`
	Variation  string `json:"variation,omitempty"`
	Metric     string `json:"metric"`
	Tags       string `json:"tags,omitempty"`
	Value      int64  `json:"value"`
}

const (
	// exploredAtOnce is how many sessions are held in memory at once, exploredRows how many of their records.
	exploredAtOnce = 1024
	exploredRows   = 2_000_000
	maxBeacons     = 1000 // of a session that are listed
	maxPayload     = 4096 // bytes of a beacon that are listed
	maxExplained   = 7 * 24 * 60
	defaultMost    = 20
)

// explaining is an explanation in the making.
type explaining struct {
	*Explain
	archive Archive
	covered map[int64]*Covered
	out     Explanation
}

func (x *Explain) begin(ctx context.Context, from, to int64) (*explaining, error) {
	e := &explaining{Explain: x, out: Explanation{Tenant: x.Job.Chain.Tenant, From: from, To: to}}
	if from < 0 || to <= from || to-from > maxExplained {
		return nil, fmt.Errorf("explain: minutes %d to %d are no range of 1 to %d minutes", from, to, maxExplained)
	}
	var err error
	far := max(back(x.Job.Chain, from*60000), back(x.Live, from*60000))
	e.covered, err = (&Job{Chain: x.Job.Chain, Store: reading{x.Store}}).coveredIn(ctx, max(0, from-far/60000-2*WindowMS/60000), to)
	if err != nil {
		return nil, err
	}
	e.archive, err = x.Job.Archived() // after coverage, which so is of no more than it has
	return e, err
}

// Number explains a number. An unknown name is an error that wraps ErrNoNumber.
func (x *Explain) Number(ctx context.Context, n Number) (*Explanation, error) {
	e, err := x.begin(ctx, n.Minute, n.Minute+1)
	if err != nil {
		return nil, err
	}
	e.out.Number = &n
	streamWant, errLive := targetOf(x.Live, &n)
	batchWant, err := targetOf(x.Job.Chain, &n)
	if err != nil && errLive != nil {
		return nil, fmt.Errorf("explain: %w: %w", ErrNoNumber, err)
	}
	parts := map[string]*[2]part{}
	if x.Layer != "" {
		l := ExplainedLayer{Layer: x.Layer}
		if n.Minute >= x.Closed {
			l.Notes = append(l.Notes, "the minute is not closed: both the number and the archive may still grow")
		}
		if e.archive.Progress < (n.Minute+1)*60000+lateness(x.Live, windowOf(n.Minute*60000)) {
			l.Open = true
			l.Notes = append(l.Notes, e.known())
		}
		if errLive == nil {
			if err := e.streamParts(ctx, streamWant, parts, &l); err != nil {
				return nil, err
			}
		}
		if err := e.layer(ctx, l, ofStream, parts); err != nil {
			return nil, err
		}
	}
	if c := e.covered[windowOf(n.Minute*60000)]; c != nil {
		l := ExplainedLayer{Layer: Layer(c.Generation)}
		if c.Unknown > 0 {
			l.Notes = append(l.Notes, "approximate: sessions may have begun before anything that the batch knows of them")
		}
		if c.Window < e.archive.From {
			l.Notes = append(l.Notes, "event files of the window are retired: it is not computed again")
		} else if batchWant != nil {
			if err := e.batchParts(ctx, c, batchWant, parts); err != nil {
				return nil, err
			}
		}
		if err := e.layer(ctx, l, ofBatch, parts); err != nil {
			return nil, err
		}
	}
	return &e.out, e.tellMost(ctx, parts, streamWant, batchWant)
}

// tellMost tells those sessions in full that have most part in the number.
func (e *explaining) tellMost(ctx context.Context, parts map[string]*[2]part, stream, batched *target) error {
	size := func(id string) int64 { return max(abs(parts[id][ofStream].sum), abs(parts[id][ofBatch].sum)) }
	differs := func(id string) int64 { return abs(parts[id][ofStream].sum - parts[id][ofBatch].sum) }
	ids := slices.SortedFunc(maps.Keys(parts), func(a, b string) int {
		return cmp.Or(-cmp.Compare(differs(a), differs(b)), -cmp.Compare(size(a), size(b)), cmp.Compare(a, b))
	})
	most := cmp.Or(e.Most, defaultMost)
	e.out.More = max(len(ids)-most, 0)
	e.out.Sessions = []ExplainedSession{}
	for _, id := range ids[:min(most, len(ids))] {
		s, err := e.tell(ctx, id, stream, batched)
		if err != nil {
			return err
		}
		e.out.Sessions = append(e.out.Sessions, *s)
	}
	return nil
}

func abs(n int64) int64 { return max(n, -n) }

// layer sums up the parts of a layer and looks for the stored value.
func (e *explaining) layer(ctx context.Context, l ExplainedLayer, of int, parts map[string]*[2]part) (err error) {
	var union *metric.Sketch
	for _, p := range parts {
		if !p[of].any {
			continue
		}
		l.Sessions++
		l.Sum += p[of].sum
		if p[of].seen != nil {
			if union == nil {
				union = &metric.Sketch{}
			}
			union.Merge(p[of].seen)
		}
	}
	if union != nil {
		l.Sum = union.Estimate()
	}
	l.Stored, err = e.stored(ctx, l.Layer)
	e.out.Layers = append(e.out.Layers, l)
	return err
}

// stored reads the number from the store.
func (e *explaining) stored(ctx context.Context, layer string) (*int64, error) {
	n := e.out.Number
	s := store.Series{Tenant: e.out.Tenant, Experiment: n.Experiment, Metric: n.Metric, Layer: layer}
	sum, found := int64(0), false
	var union metric.Sketch
	err := e.Store.Rows(ctx, s, n.Minute, n.Minute+1, func(_, _ int64, value []byte) error {
		found = true
		_, err := row.Decode(value, func(c row.Cell) error {
			if c.Variation != n.Variation || !hasTags(c.Tags, n.Tags) {
				return nil
			}
			if c.Sketch != nil {
				var sk metric.Sketch
				if err := sk.UnmarshalBinary(c.Sketch); err != nil {
					return err
				}
				union.Merge(&sk)
				sum = union.Estimate()
				return nil
			}
			sum += c.Value
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	_, name, _ := strings.Cut(n.Metric, ".")
	if !found && (name == "visitors" || n.Minute*60000 < e.Now-e.Job.retention()) {
		return nil, nil
	}
	return &sum, nil
}

// hasTags says whether a tag set ("device=mobile,login=none") has these values.
func hasTags(set string, want map[string]string) bool {
	found := 0
	for set != "" && len(want) > 0 {
		var pair string
		pair, set, _ = strings.Cut(set, ",")
		name, value, _ := strings.Cut(pair, "=")
		if w, ok := want[name]; ok && w == value {
			found++
		}
	}
	return found == len(want)
}

// Session explains a session over minutes [from, to), at most a week.
func (x *Explain) Session(ctx context.Context, id string, from, to int64) (*Explanation, error) {
	if id == "" {
		return nil, errors.New("explain: the session has no id")
	}
	e, err := x.begin(ctx, from, to)
	if err != nil {
		return nil, err
	}
	e.out.Session = id
	s, err := e.tell(ctx, id, allCells, allCells)
	if err != nil {
		return nil, err
	}
	e.out.Sessions = []ExplainedSession{*s}
	for _, l := range s.Layers {
		e.out.Layers = append(e.out.Layers, ExplainedLayer{Layer: l.Layer, Sessions: 1})
	}
	var notes []string
	if e.archive.From/60000 > from {
		notes = append(notes, "event files of the range's beginning are retired")
	}
	if len(s.Beacons) == 0 {
		notes = append(notes, "the archive has no beacon of this session up to the range's end")
	}
	if e.archive.Progress < to*60000 {
		notes = append(notes, e.known())
	}
	for i := range e.out.Layers {
		e.out.Layers[i].Notes = append(e.out.Layers[i].Notes, notes...)
	}
	return &e.out, nil
}

// known says how far the archive is.
func (e *explaining) known() string {
	if e.archive.Progress == math.MinInt64 {
		return "it is not known how far the archive is: it may still get records of this time"
	}
	return fmt.Sprintf("the archive is written up to %s: it may still get records of this time", windowName(e.archive.Progress/1000*1000))
}

// who is a session by its place in files.
type who struct {
	hash uint64
	id   string
}

func whoIs(id string) who { return who{xxhash.Sum64String(id), id} }

func compareWho(a, b who) int {
	return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.id, b.id))
}

// target are the cells of a number by a chain's ids; nil are none, allCells all.
type target struct {
	scope, group, cell, variation int
	minute                        int64
	tags                          []bool
	all                           bool
}

var allCells = &target{all: true}

// targetOf finds the ids of a number.
func targetOf(chain *tenant.Chain, n *Number) (*target, error) {
	scopeName, name, ok := strings.Cut(n.Metric, ".")
	w := &target{minute: n.Minute, group: -1}
	switch {
	case !ok || scopeName != "site" && scopeName != "assigned" && scopeName != "fm" || (scopeName == "site") != (n.Experiment == ""):
		return nil, fmt.Errorf("metric %q: a metric is site.NAME, or with an experiment assigned.NAME or fm.NAME", n.Metric)
	case n.Experiment == "" && n.Variation != "":
		return nil, errors.New("a variation needs its experiment")
	}
	if n.Experiment != "" {
		x := slices.IndexFunc(chain.XNames, func(x tenant.XName) bool { return x.Name == n.Experiment })
		if x < 0 {
			return nil, fmt.Errorf("the config of %s has no experiment %q", chain.Tenant, n.Experiment)
		}
		if w.variation = slices.Index(chain.XNames[x].Variations, n.Variation); w.variation < 0 {
			return nil, fmt.Errorf("experiment %s has no variation %q, only %s", n.Experiment, n.Variation, strings.Join(chain.XNames[x].Variations, ", "))
		}
		if w.scope = tenant.AssignedScope(x); scopeName == "fm" {
			w.scope = tenant.FmScope(x)
		}
	}
	for g := range chain.Groups {
		if c := slices.Index(chain.Groups[g].Names, name); c >= 0 {
			w.group, w.cell = g, c
		}
	}
	if w.group < 0 {
		return nil, fmt.Errorf("the config of %s comes to no metric %q", chain.Tenant, name)
	}
	for _, set := range chain.Tags {
		w.tags = append(w.tags, hasTags(set, n.Tags))
	}
	if !slices.Contains(w.tags, true) {
		return nil, fmt.Errorf("no tag set of %s has %v", chain.Tenant, n.Tags)
	}
	return w, nil
}

func (w *target) has(k cellKey) bool {
	if w == nil || w.all {
		return w != nil
	}
	return k.minute == w.minute && k.cell == w.cell && k.page.Group() == w.group && k.page.Scope() == w.scope && k.page.Variation() == w.variation &&
		w.tags[k.page.Tags()]
}

// part is what a session has in a number.
type part struct {
	any  bool
	sum  int64
	seen *metric.Sketch
}

func (p *part) add(v int64, seen *metric.Sketch) {
	p.any = true
	if seen == nil {
		p.sum += v
		return
	}
	if p.seen == nil {
		p.seen = &metric.Sketch{}
	}
	p.seen.Merge(seen)
	p.sum = p.seen.Estimate()
}

func partsOf(parts map[string]*[2]part, id string) *[2]part {
	if parts[id] == nil {
		parts[id] = &[2]part{}
	}
	return parts[id]
}

// standing is what coverage says that a window was made from, as a plan of it. A run that was made again since and came to the
// same is taken as it is now: what is named may have been made under a revision that the chain no longer has.
func (c *Covered) standing(covered map[int64]*Covered) *WindowPlan {
	w := &WindowPlan{Window: c.Window, Spans: c.Inputs.Spans, Revisions: c.Inputs.Revisions, Edges: c.Inputs.Edges, Before: slices.Clone(c.Inputs.Runs), Unknown: c.Unknown}
	for i := range w.Before {
		if now := covered[w.Before[i].Window]; now != nil && now.Run.Digest == w.Before[i].Digest {
			w.Before[i] = now.Run
		}
	}
	return w
}

// batchParts folds all sessions of the window as the batch did.
func (e *explaining) batchParts(ctx context.Context, c *Covered, want *target, parts map[string]*[2]part) error {
	files := e.Job.open()
	defer files.close()
	w := c.standing(e.covered)
	in, release, err := files.beacons(w, e.archive, 0, math.MaxUint64, archive.Columns{Event: true})
	if err != nil {
		return err
	}
	defer release()
	st, closeRuns, err := e.Job.states(w, 0, files, 0, math.MaxUint64)
	if err != nil {
		return err
	}
	defer closeRuns()
	s := newSide(e.Job, w.Window, in, st)
	s.m.reparse = c.Reparsed
	for n := 0; ; n++ {
		hash, id, ok := least([]*side{s})
		if !ok {
			return nil
		}
		if n%restSessions == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.fold(hash, id); err != nil {
			return err
		}
		err := s.m.contributed(func(k cellKey, v int64, seen *metric.Sketch) {
			if want.has(k) {
				partsOf(parts, id)[ofBatch].add(v, seen)
			}
		})
		if err != nil {
			return err
		}
	}
}
