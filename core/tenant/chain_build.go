package tenant

import (
	"fmt"
	"slices"
	"strings"
)

// life is a definition that may go on from one revision to the next.
type life struct {
	rev  int // the last revision that had it
	from int64
}

// valueLife is a value's life within a point instance.
type valueLife struct {
	life
	def Value
}

type builder struct {
	*Chain
	prev   *Rev
	values map[string]valueLife // "point.value", of the previous revision
	pairs  map[string]life
	slots  map[Slot]int
}

func (b *builder) revision(cfg *Config, from, to int64) error {
	n := len(b.Revs)
	r := Rev{Config: cfg, From: from, To: to,
		points: map[string]*Point1{}, exps: map[string]*Exp1{}, attrs: map[string][]int{}, values: map[string][]int{}}
	var before uint64
	if b.prev != nil {
		before = b.prev.Digest
		r.Cut = b.prev.Cut
		if isCut(b.prev.Config, cfg) {
			r.Cut++
		}
	}
	r.Digest = digest(before, cfg)
	if b.prev != nil {
		b.open = -1
	}
	b.points(&r, n)
	b.crosses(&r, n)
	if err := b.experiments(&r); err != nil {
		return err
	}
	b.operands(&r)
	b.Revs = append(b.Revs, r)
	b.prev = &b.Revs[len(b.Revs)-1]
	return nil
}

func isCut(a, b *Config) bool {
	return a.VisitGap != b.VisitGap || a.SessionTTL != b.SessionTTL ||
		!slices.EqualFunc(a.Tags, b.Tags, func(x, y Tag) bool { return x.Name == y.Name })
}

func (b *builder) points(r *Rev, n int) {
	values := map[string]valueLife{}
	for i := range r.Config.Points {
		p := &r.Config.Points[i]
		inst := -1
		if b.prev != nil {
			if old := b.prev.points[p.Name]; old != nil && old.Page == p.Page && (old.Stat >= 0) == p.Stats {
				inst = old.Inst
			}
		}
		anew := inst < 0
		if anew {
			inst = len(b.Points)
			b.Points = append(b.Points, PointInst{Name: p.Name, From: r.From})
		}
		p1 := &Point1{Inst: inst, Page: p.Page, Stat: -1, index: map[string]int{},
			At: b.place("p/"+p.Name, p.Name, p.Name+".beta", p.Name+".tot", p.Name+".hit", p.Name+".sq")}
		if p.Stats {
			p1.Stat = b.slot(Slot{inst, "", b.Points[inst].From})
			p1.Counts = append(p1.Counts, p1.Stat)
		}
		for j, v := range p.Values {
			full := p.Name + "." + v.Name
			l := valueLife{life{n, r.From}, v}
			if old, ok := b.values[full]; ok && !anew && old.def == v {
				l.from = old.from
			}
			values[full] = l
			v1 := Value1{Name: v.Name, Decimals: v.Decimals, Cap: v.Cap, Hist: -1, CapSlot: -1,
				At: b.place("v/"+full, full, full+".cap", full+".cap.sq")}
			if v.Cap > 0 {
				v1.CapSlot = b.slot(Slot{inst, v.Name, l.from})
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
	b.values = values
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

// crosses compiles the pairs. The totals of a pair count from the latest start of its two sides and of the pair.
func (b *builder) crosses(r *Rev, n int) {
	for _, pair := range r.Config.Cross {
		name := pair.A + "*" + pair.B
		l, ok := b.pairs[name]
		if !ok || l.rev != n-1 {
			l.from = r.From
		}
		l.rev = n
		b.pairs[name] = l
		from := max(l.from, b.sideFrom(r, pair.A), b.sideFrom(r, pair.B))
		p := Pair1{At: b.place("x/"+name, name)}
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

func (b *builder) sideFrom(r *Rev, side string) int64 {
	if _, _, isValue := strings.Cut(side, "."); isValue {
		return b.values[side].from
	}
	return b.Points[r.points[side].Inst].From
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

func (b *builder) experiments(r *Rev) error {
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
		if b.prev != nil {
			if old := b.prev.exps[e.Name]; old != nil && sameExperiment(b.prev.Config, e, r.From) {
				inst = old.Inst
			}
		}
		if inst < 0 {
			inst = len(b.Exps)
			ex := ExpInst{X: x, From: r.From, Start: max(e.Start, r.From)}
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

// sameExperiment says whether e goes on with the definition that the previous revision has under its name: moving
// the end of an experiment that has not ended is no change, moving that of one that has is (SPEC 10).
func sameExperiment(before *Config, e *Experiment, from int64) bool {
	i := slices.IndexFunc(before.Experiments, func(o Experiment) bool { return o.Name == e.Name })
	old := &before.Experiments[i]
	ended := old.End <= from && old.End != e.End
	return old.Start == e.Start && slices.Equal(old.Qualify, e.Qualify) && !ended
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

// ends sets when each experiment instance stops being active, and whether its variations vary.
func (b *builder) ends() {
	for i := range b.Exps {
		ex := &b.Exps[i]
		ended := false
		for k := range b.Revs {
			r := &b.Revs[k]
			e1 := r.Exp(i)
			if e1 == nil {
				continue
			}
			ex.To = r.To
			if len(e1.vars) < len(b.XNames[ex.X].Variations) {
				ex.varying = true
			}
			if ended {
				continue
			}
			j := slices.IndexFunc(r.Config.Experiments, func(o Experiment) bool { return o.Name == b.XNames[ex.X].Name })
			ex.End = r.To
			if end := r.Config.Experiments[j].End; end <= r.To {
				ex.End = max(end, r.From)
				ended = true
			}
		}
	}
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
