package tenant

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// lives are since when, in ms, what a revision lists has been there under one definition, by name. A pair's is how long
// it has been listed; its totals may begin later, with those of its sides.
type lives struct{ points, values, pairs map[string]int64 } // values by "point.value", pairs by "A*B"

type builder struct {
	*Chain
	base    []Rev // the revisions, each in force until the next one
	splices []Rev
	segs    []Rev // what is in force: the revisions with the splices laid over them, in order
	slots   map[Slot]int
	before  uint64 // digest of all configs so far
}

// Compile compiles the configs of one tenant's chain, in its order: revisions, ordered by From, the first of which may have
// none, and splices (Config.HasTo) anywhere after the revision that they are first laid over. A splice is in force over
// [From, To) instead of what was; where it says what a revision said that it is laid over, that revision is in force again.
func Compile(configs []*Config) (*Chain, error) {
	b, err := build(configs)
	if err != nil {
		return nil, err
	}
	b.spliced = len(b.splices) > 0
	b.Revs = b.segs
	if !b.spliced {
		b.link(b.Revs)
	}
	return b.checked()
}

// CompileLive is Compile without what splices change: what the stream and the archive read by, which no longer look at the
// past. Ids and digests are the same.
func CompileLive(configs []*Config) (*Chain, error) {
	b, err := build(configs)
	if err != nil {
		return nil, err
	}
	b.Revs = b.base
	b.link(b.Revs)
	return b.checked()
}

func (b *builder) checked() (*Chain, error) {
	c := b.Chain
	if len(c.Groups) > maxGroups || len(c.XNames) > maxXNames || len(c.Tags) > maxTagSets {
		return nil, fmt.Errorf("%s: the chain of revisions has %d metric groups, %d experiment names and %d tag sets; at most %d, %d and %d fit",
			c.Tenant, len(c.Groups), len(c.XNames), len(c.Tags), maxGroups, maxXNames, maxTagSets)
	}
	return c, nil
}

func build(configs []*Config) (*builder, error) {
	if len(configs) == 0 {
		return nil, fmt.Errorf("no revision of any config")
	}
	c := &Chain{
		Tenant:  configs[0].Tenant,
		Points:  []PointInst{{}},
		tagIDs:  map[string]uint32{},
		places:  map[string]Place{},
		xIDs:    map[string]int{},
		condIDs: map[string]int{},
	}
	c.group("visit", "visit.beta", "visit.end", "bounce", "visit.pages", "visit.seconds")
	c.group("visitors")
	b := &builder{Chain: c, slots: map[Slot]int{}}
	for i, cfg := range configs {
		add := b.append
		if cfg.HasTo {
			add = b.splice
		}
		if err := add(i, cfg); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Tenant, err)
		}
	}
	return b, nil
}

// append adds a revision at the end.
func (b *builder) append(object int, cfg *Config) error {
	from := int64(math.MinInt64)
	var prev *Rev
	if n := len(b.base); n > 0 {
		prev = &b.base[n-1]
		if !cfg.HasFrom || cfg.From <= prev.From {
			return fmt.Errorf("revisions are not in the order of `from`")
		}
		prev.To = cfg.From
	}
	if cfg.HasFrom {
		from = cfg.From
	}
	r, err := b.revision(object, cfg, from, math.MaxInt64, prev, nil)
	if err != nil {
		return err
	}
	b.base = append(b.base, r)
	b.overlay()
	return nil
}

// splice lays a config over what is in force.
func (b *builder) splice(object int, cfg *Config) error {
	if len(b.segs) == 0 || !cfg.HasFrom || cfg.From < b.segs[0].From {
		return fmt.Errorf("a splice begins before the first revision")
	}
	var prev, next *Rev
	for i := range b.segs {
		s := &b.segs[i]
		if s.From < cfg.From {
			prev = s
		}
		if s.From <= cfg.To && cfg.To < s.To {
			next = s
		}
	}
	r, err := b.revision(object, cfg, cfg.From, cfg.To, prev, next)
	if err != nil {
		return err
	}
	b.splices = append(b.splices, r)
	b.overlay()
	return nil
}

// overlay lays the splices over the revisions.
func (b *builder) overlay() {
	b.segs = b.base
	if len(b.splices) == 0 {
		return
	}
	b.segs = slices.Clone(b.base)
	for i := range b.splices {
		s := &b.splices[i]
		var before, inside, after []Rev
		for _, r := range b.base {
			p := *s
			if r.Config.says(s.Config) {
				p = r
			}
			if p.From, p.To = max(r.From, s.From), min(r.To, s.To); p.From < p.To {
				inside = append(inside, p)
			}
		}
		for _, r := range b.segs {
			p := r
			if p.To = min(r.To, s.From); p.From < p.To {
				before = append(before, p)
			}
			p = r
			if p.From = max(r.From, s.To); p.From < p.To {
				after = append(after, p)
			}
		}
		b.segs = nil
		for _, r := range slices.Concat(before, inside, after) {
			if n := len(b.segs); n > 0 && b.segs[n-1].object == r.object {
				b.segs[n-1].To = r.To
				continue
			}
			b.segs = append(b.segs, r)
		}
	}
	for i := range b.segs {
		b.segs[i].copyExperiments()
	}
	b.link(b.segs)
	b.edges = make([]*Edge, len(b.segs))
	for i := 1; i < len(b.segs); i++ {
		if p, r := &b.segs[i-1], &b.segs[i]; p.cloned || r.cloned || !b.neighbours(p.object, r.object) {
			b.edges[i] = b.edge(p, r)
		}
	}
}

// neighbours says whether two objects are revisions that follow one another: then what begins anew has new ids.
func (b *builder) neighbours(p, r int) bool {
	i := slices.IndexFunc(b.base, func(x Rev) bool { return x.object == p })
	return i >= 0 && i+1 < len(b.base) && b.base[i+1].object == r
}

// copyExperiments gives the revision experiments of its own, since their lives are.
func (r *Rev) copyExperiments() {
	r.exps, r.expInst = maps.Clone(r.exps), slices.Clone(r.expInst)
	for name, e := range r.exps {
		own := *e
		r.exps[name], r.expInst[own.Inst] = &own, &own
	}
}

// revision compiles a config. What goes on from prev has the ids that it has there; what does not, and goes on to next, those
// that it has there.
func (b *builder) revision(object int, cfg *Config, from, to int64, prev, next *Rev) (Rev, error) {
	r := Rev{Config: cfg, From: from, To: to, object: object,
		points: map[string]*Point1{}, exps: map[string]*Exp1{}, attrs: map[string][]int{}, values: map[string][]int{}}
	r.Digest = digest(b.before, cfg)
	b.before, r.StateDigest = r.Digest, r.Digest
	b.open = -1
	if prev == nil && len(b.base) == 0 {
		b.open = GroupVisit
	}
	r.lives = livesAfter(prev, &r)
	insts := map[string]int{}
	for i := range cfg.Points {
		p := &cfg.Points[i]
		switch {
		case prev != nil && samePoint(prev.points[p.Name], p):
			insts[p.Name] = prev.points[p.Name].Inst
		case next != nil && samePoint(next.points[p.Name], p):
			insts[p.Name] = next.points[p.Name].Inst
		default:
			insts[p.Name] = len(b.Points)
			b.Points = append(b.Points, PointInst{Name: p.Name})
		}
	}
	b.tables(&r, insts)
	if err := b.experiments(&r, prev, next); err != nil {
		return r, err
	}
	b.operands(&r)
	return r, nil
}

// livesAfter says since when what r lists has been there, after prev.
func livesAfter(prev, r *Rev) lives {
	l := lives{map[string]int64{}, map[string]int64{}, map[string]int64{}}
	pairs := map[Pair]bool{}
	if prev != nil {
		for _, pair := range prev.Config.Cross {
			pairs[pair] = true
		}
	}
	for i := range r.Config.Points {
		p := &r.Config.Points[i]
		var old *Point1
		l.points[p.Name] = r.From
		if prev != nil && samePoint(prev.points[p.Name], p) {
			old = prev.points[p.Name]
			l.points[p.Name] = prev.lives.points[p.Name]
		}
		for _, v := range p.Values {
			full := p.Name + "." + v.Name
			l.values[full] = r.From
			if old != nil && old.has(v) {
				l.values[full] = prev.lives.values[full]
			}
		}
	}
	for _, pair := range r.Config.Cross {
		name := pair.A + "*" + pair.B
		l.pairs[name] = r.From
		if pairs[pair] {
			l.pairs[name] = prev.lives.pairs[name]
		}
	}
	return l
}

func samePoint(old *Point1, p *Point) bool {
	return old != nil && old.Page == p.Page && (old.Stat >= 0) == p.Stats
}

// has says whether the point has a value of that definition.
func (p *Point1) has(v Value) bool {
	i, ok := p.index[v.Name]
	if !ok {
		return false
	}
	o := &p.Values[i]
	return o.Decimals == v.Decimals && o.Cap == v.Cap && (o.Hist >= 0) == v.Histogram
}

func isCut(a, b *Config) bool {
	return a.VisitGap != b.VisitGap || a.SessionTTL != b.SessionTTL ||
		!slices.EqualFunc(a.Tags, b.Tags, func(x, y Tag) bool { return x.Name == y.Name })
}

// tables compiles the points, values and pairs of a revision, the instances of its points being given.
func (b *builder) tables(r *Rev, insts map[string]int) {
	r.points, r.byInst = map[string]*Point1{}, nil
	for i := range r.Config.Points {
		p := &r.Config.Points[i]
		inst := insts[p.Name]
		p1 := &Point1{Inst: inst, Page: p.Page, Stat: -1, index: map[string]int{},
			At: b.place("p/"+p.Name, p.Name, p.Name+".beta", p.Name+".tot", p.Name+".hit", p.Name+".sq")}
		if p.Stats {
			p1.Stat = b.slot(Slot{inst, "", r.lives.points[p.Name]})
			p1.Counts = append(p1.Counts, p1.Stat)
		}
		for j, v := range p.Values {
			full := p.Name + "." + v.Name
			v1 := Value1{Name: v.Name, Decimals: v.Decimals, Cap: v.Cap, Hist: -1, CapSlot: -1,
				At: b.place("v/"+full, full, full+".cap", full+".cap.sq")}
			if v.Cap > 0 {
				v1.CapSlot = b.slot(Slot{inst, v.Name, r.lives.values[full]})
				v1.Sums = append(v1.Sums, v1.CapSlot)
			}
			if v.Histogram {
				v1.Hist = b.histogram(full)
			}
			p1.index[v.Name] = j
			p1.Values = append(p1.Values, v1)
		}
		r.points[p.Name] = p1
		for len(r.byInst) <= inst {
			r.byInst = append(r.byInst, nil)
		}
		r.byInst[inst] = p1
	}
	b.crosses(r)
}

func (b *builder) slot(s Slot) int {
	if i, ok := b.slots[s]; ok {
		return i
	}
	i := len(b.Slots)
	b.Slots = append(b.Slots, s)
	b.slots[s] = i
	return i
}

func (b *builder) histogram(full string) int {
	key := "h/" + full
	if p, ok := b.places[key]; ok {
		return p.Group
	}
	first := len(b.Groups)
	for g := range HistGroups {
		names := make([]string, HistCells)
		for i := range names {
			names[i] = fmt.Sprintf("%s.h%d", full, g*HistCells+i)
		}
		b.group(names...)
	}
	b.places[key] = Place{Group: first}
	return first
}

// crosses compiles the pairs.
func (b *builder) crosses(r *Rev) {
	for _, pair := range r.Config.Cross {
		from := r.pairFrom(pair)
		p := Pair1{At: b.place("x/"+pair.A+"*"+pair.B, pair.A+"*"+pair.B)}
		p.A, p.CapA = b.side(r, pair.A, from)
		p.B, p.CapB = b.side(r, pair.B, from)
		pa, _, _ := strings.Cut(pair.A, ".")
		pb, _, _ := strings.Cut(pair.B, ".")
		r.points[pa].Pairs = append(r.points[pa].Pairs, p)
		if pb != pa {
			r.points[pb].Pairs = append(r.points[pb].Pairs, p)
		}
	}
}

// pairFrom is from when on the totals of a pair count: the latest start of its two sides and of the pair.
func (r *Rev) pairFrom(p Pair) int64 {
	return max(r.lives.pairs[p.A+"*"+p.B], r.sideFrom(p.A), r.sideFrom(p.B))
}

func (r *Rev) sideFrom(side string) int64 {
	if _, _, isValue := strings.Cut(side, "."); isValue {
		return r.lives.values[side]
	}
	return r.lives.points[side]
}

// side returns the slot of one side of a pair, which the side's beacons are made to grow.
func (b *builder) side(r *Rev, side string, from int64) (slot int, cap int64) {
	point, value, isValue := strings.Cut(side, ".")
	p := r.points[point]
	slot = b.slot(Slot{p.Inst, value, from})
	if !isValue {
		if !slices.Contains(p.Counts, slot) {
			p.Counts = append(p.Counts, slot)
		}
		return slot, 0
	}
	v := &p.Values[p.index[value]]
	if !slices.Contains(v.Sums, slot) {
		v.Sums = append(v.Sums, slot)
	}
	return slot, v.Cap
}

func (b *builder) experiments(r, prev, next *Rev) error {
	for i := range r.Config.Experiments {
		e := &r.Config.Experiments[i]
		x, ok := b.xIDs[e.Name]
		if !ok {
			x = len(b.XNames)
			b.XNames = append(b.XNames, XName{Name: e.Name, varIDs: map[string]int{}})
			b.xIDs[e.Name] = x
		}
		xn := &b.XNames[x]
		inst := -1
		switch {
		case prev != nil && sameExperiment(prev, e, r.From):
			inst = prev.exps[e.Name].Inst
		case next != nil && next.exps[e.Name] != nil && sameExperiment(r, next.experiment(e.Name), next.From):
			inst = next.exps[e.Name].Inst
		default:
			inst = len(b.Exps)
			ex := ExpInst{X: x}
			for _, src := range e.Qualify {
				id, err := b.condition(src)
				if err != nil {
					return fmt.Errorf("experiment %s: %w", e.Name, err)
				}
				ex.Qualify = append(ex.Qualify, id)
			}
			b.Exps = append(b.Exps, ex)
		}
		e1 := &Exp1{Inst: inst, X: x, vars: map[string]int{}}
		for _, v := range e.Variations {
			id, ok := xn.varIDs[v]
			if !ok {
				id = len(xn.Variations)
				if id >= maxVars {
					return fmt.Errorf("experiment %s: more than %d variations over all revisions", e.Name, maxVars)
				}
				xn.Variations = append(xn.Variations, v)
				xn.varIDs[v] = id
			}
			for len(e1.listed) <= id {
				e1.listed = append(e1.listed, false)
			}
			e1.listed[id] = true
			e1.vars[v] = id
		}
		r.exps[e.Name] = e1
		for len(r.expInst) <= inst {
			r.expInst = append(r.expInst, nil)
		}
		r.expInst[inst] = e1
		for _, id := range b.Exps[inst].Qualify {
			if !slices.Contains(r.CondIDs, id) {
				r.CondIDs = append(r.CondIDs, id)
			}
		}
	}
	slices.Sort(r.CondIDs)
	r.condPos = make([]int, len(b.Conds))
	for i, id := range r.CondIDs {
		r.condPos[id] = i
	}
	return nil
}

// experiment is the config of an experiment that the revision has, nil if it has none of that name.
func (r *Rev) experiment(name string) *Experiment {
	i := slices.IndexFunc(r.Config.Experiments, func(o Experiment) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Config.Experiments[i]
}

// sameExperiment says whether e goes on with the definition that the previous revision has under its name: moving
// the end of an experiment that has not ended is no change, moving that of one that has is (SPEC 10).
func sameExperiment(before *Rev, e *Experiment, from int64) bool {
	old := before.experiment(e.Name)
	return old != nil && old.goesOn(e, from)
}

func (x *Experiment) goesOn(e *Experiment, from int64) bool {
	ended := x.End <= from && x.End != e.End
	return x.Start == e.Start && slices.Equal(x.Qualify, e.Qualify) && !ended
}

func (b *builder) condition(src string) (int, error) {
	if id, ok := b.condIDs[src]; ok {
		return id, nil
	}
	cond, err := ParseCondition(src)
	if err != nil {
		return 0, err
	}
	id := len(b.Conds)
	b.Conds = append(b.Conds, cond)
	b.condIDs[src] = id
	return id, nil
}

// operands lists what the conditions and tags read, once each. Tags read the attr of their name, `device` and
// `login` the field first, exactly as the names of conditions do.
func (b *builder) operands(r *Rev) {
	op := func(n Name) int {
		if i := slices.Index(r.Operands, n); i >= 0 {
			return i
		}
		r.Operands = append(r.Operands, n)
		i := len(r.Operands) - 1
		switch n.Space {
		case ValuesSpace:
			r.values[n.Key] = append(r.values[n.Key], i)
		default:
			r.attrs[n.Key] = append(r.attrs[n.Key], i)
			r.attrLens |= 1 << (len(n.Key) & 63)
		}
		return i
	}
	for _, id := range r.CondIDs {
		var ops []int
		for _, n := range b.Conds[id].Names {
			ops = append(ops, op(n))
		}
		r.CondOps = append(r.CondOps, ops)
	}
	sets := []string{""}
	for _, t := range r.Config.Tags {
		n := Name{Space: AttrsSpace, Key: t.Name}
		if t.Name == "device" || t.Name == "login" {
			n.Space = Field
		}
		t1 := tag1{op: op(n), values: map[string]int{}, radix: len(t.Values) + 2}
		texts := []string{"none", "other"}
		for i, v := range t.Values {
			t1.values[v] = i + 2
			texts = append(texts, v)
		}
		var next []string
		for _, s := range sets {
			for _, v := range texts {
				pair := t.Name + "=" + v
				if s != "" {
					pair = s + "," + pair
				}
				next = append(next, pair)
			}
		}
		sets = next
		r.tags = append(r.tags, t1)
	}
	for _, s := range sets {
		id, ok := b.tagIDs[s]
		if !ok {
			id = uint32(len(b.Tags))
			b.tagIDs[s] = id
			b.Tags = append(b.Tags, s)
		}
		r.tagSets = append(r.tagSets, id)
	}
}
