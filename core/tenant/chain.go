package tenant

import (
	"encoding/json"
	"math"
	"sort"

	"github.com/cespare/xxhash/v2"

	"tandem/core/metric"
)

// Chain is a tenant's revisions compiled to dense ids. Ids are given out in the order of the revisions and of their
// files, so a chain that grows at its end keeps every id (state and parsed columns stay valid).
//
// A definition that ends and begins anew (SPEC 10) has several instances under one name. Markers, totals and "first
// of" belong to instances; rows belong to names. Where a splice divides revisions, what comes after it keeps the ids
// that it had, though it may have begun anew: an id then has several lives, and Crossing says what goes on.
// A Chain is immutable: any number of goroutines may read it.
type Chain struct {
	Tenant string
	Revs   []Rev // by From; each in force over [From, To)

	Points []PointInst // Points[0] is "no measured point"
	Slots  []Slot
	Exps   []ExpInst
	XNames []XName
	Groups []Group  // how metrics are laid out in pages of cells
	Tags   []string // text of each tag set: "device=mobile,login=none"
	Conds  []*Condition

	spliced bool    // some revision in force is a splice's
	edges   []*Edge // by revision that they lead to; nil: nothing to do

	tagIDs  map[string]uint32
	places  map[string]Place
	open    int // group that still takes metrics, -1: none
	xIDs    map[string]int
	condIDs map[string]int
}

// Rev is one revision in force over [From, To), in ms of event time.
type Rev struct {
	Config   *Config
	From, To int64
	Cut      int    // revisions of different Cut are divided by a cut (SPEC 10)
	Digest   uint64 // of everything that parsing under this revision depends on, ids included
	// StateDigest is of everything that a session's state means whose last beacon is of this revision: Digest, but where
	// a splice before it has laid out totals otherwise.
	StateDigest uint64

	object int   // which of the configs it is
	cloned bool  // its totals are laid out otherwise than when it was appended
	lives  lives // since when what it lists has been there

	points  map[string]*Point1
	byInst  []*Point1 // by point instance; nil: not in this revision
	exps    map[string]*Exp1
	expInst []*Exp1 // by experiment instance; nil: not in this revision

	CondIDs  []int   // the conditions of this revision, by id
	condPos  []int   // by condition id: its place in CondIDs
	Operands []Name  // what the conditions and the tags read from a beacon
	CondOps  [][]int // per condition of CondIDs: its names as indices into Operands
	tags     []tag1
	tagSets  []uint32 // mixed radix of the tags' values -> tag set id
	attrs    map[string][]int
	attrLens uint64 // bit n: some attr name has n bytes, modulo 64; most attrs are nobody's
	values   map[string][]int
}

type tag1 struct {
	op     int // operand that carries it
	values map[string]int
	radix  int
}

// PointInst is one instance of a point.
type PointInst struct{ Name string }

// Slot is a running total of a session that some metric needs: the count of a point instance, or the sum of one of
// its values, over the beacons from From on.
type Slot struct {
	Point int    // instance
	Value string // "": the count
	From  int64
}

// ExpInst is one instance of an experiment.
type ExpInst struct {
	X       int   // index into XNames
	Qualify []int // condition ids
}

// Life is the time that an experiment is there under one definition, active over [Start, End).
type Life struct {
	From, To    int64 // where the definition comes, and where it is dropped or redefined, whatever its end
	Start, End  int64
	first, last int      // revisions
	varying     bool     // some revision of it lists fewer variations than the name ever had
	off         [][]span // if so, by variation: when it is not listed, in order
}

// span is a time [from, to), ms.
type span struct{ from, to int64 }

// XName is an experiment's name with every variation that it ever listed.
type XName struct {
	Name       string
	Variations []string
	varIDs     map[string]int
}

// Point1 is a point as one revision measures it.
type Point1 struct {
	Inst   int
	Page   bool
	At     Place // of P; P.beta, P.tot, P.hit and P.sq follow
	Stat   int   // slot of the count that `stats` reads, -1
	Counts []int
	Values []Value1
	Pairs  []Pair1
	index  map[string]int
}

// Value1 is a value as one revision measures it.
type Value1 struct {
	Name     string
	Decimals int
	Cap      int64 // 0: none
	At       Place // of P.V; P.V.cap and P.V.cap.sq follow
	Hist     int   // first of HistGroups groups of 8 buckets each, -1
	CapSlot  int   // slot of the sum that the cap reads, -1
	Sums     []int // slots that grow by the value
}

// Pair1 is an entry of `cross` as one revision measures it. A cap of 0 leaves its side unclamped (a count).
type Pair1 struct {
	At         Place
	A, B       int // slots
	CapA, CapB int64
}

// Exp1 is an experiment as one revision knows it.
type Exp1 struct {
	Inst   int
	X      int
	Life   *Life
	listed []bool // by variation id
	vars   map[string]int
}

// Listed says whether the revision lists the variation.
func (e *Exp1) Listed(v int) bool { return v < len(e.listed) && e.listed[v] }

// Groups that every chain has. The first begins with the metrics of visits, in the order of the cells below, and goes
// on with those of points: what one beacon adds to stands together.
const (
	GroupVisit = 0
	GroupSeen  = metric.GroupSeen // visitors: one cell, a sketch

	CellVisit = iota - 2 // visit
	CellVisitBeta
	CellEnd // visit.end
	CellBounce
	CellPages
	CellSeconds

	HistGroups = 37 // of HistCells buckets each
	HistCells  = 8
)

// Group is a run of metrics that stand side by side in a page of cells.
type Group struct{ Names []string }

// Place is where a metric stands.
type Place struct{ Group, Cell int }

// Bounds of the packed keys of cells (core/metric). A chain beyond them is refused: start a new one.
const (
	maxGroups  = 1 << 15
	maxXNames  = 1<<14 - 1
	maxTagSets = 1 << 20
	maxVars    = 1 << 12
)

func (c *Chain) group(names ...string) int {
	c.Groups = append(c.Groups, Group{Names: names})
	return len(c.Groups) - 1
}

// place returns where metrics stand that are always together. Groups are filled up, but only by one revision: pages of
// a group have the same size for ever.
func (c *Chain) place(key string, names ...string) Place {
	if p, ok := c.places[key]; ok {
		return p
	}
	if c.open < 0 || len(c.Groups[c.open].Names)+len(names) > metric.MaxCells {
		c.open = c.group()
	}
	g := &c.Groups[c.open]
	p := Place{c.open, len(g.Names)}
	g.Names = append(g.Names, names...)
	c.places[key] = p
	return p
}

// At returns the revision in force at ts (ms), or nil before the first.
func (c *Chain) At(ts int64) *Rev {
	if last := &c.Revs[len(c.Revs)-1]; ts >= last.From {
		return last
	}
	i := sort.Search(len(c.Revs), func(i int) bool { return c.Revs[i].From > ts })
	if i == 0 {
		return nil
	}
	return &c.Revs[i-1]
}

// Point returns the point of that instance in this revision, or nil.
func (r *Rev) Point(inst int) *Point1 {
	if inst < len(r.byInst) {
		return r.byInst[inst]
	}
	return nil
}

// Exp returns the experiment of that instance in this revision, or nil.
func (r *Rev) Exp(inst int) *Exp1 {
	if inst < len(r.expInst) {
		return r.expInst[inst]
	}
	return nil
}

// PointNamed returns the point of that name in this revision, or nil.
func (r *Rev) PointNamed(name []byte) *Point1 { return r.points[string(name)] }

// ExpNamed returns the experiment of that name in this revision, or nil.
func (r *Rev) ExpNamed(name []byte) *Exp1 { return r.exps[string(name)] }

// ValueNamed returns the index into Values of the value of that name, or -1.
func (p *Point1) ValueNamed(name []byte) int {
	if i, ok := p.index[string(name)]; ok {
		return i
	}
	return -1
}

// Variation returns the id of a variation that this revision lists, or -1.
func (e *Exp1) Variation(name []byte) int {
	if v, ok := e.vars[string(name)]; ok {
		return v
	}
	return -1
}

// AttrOperands returns the operands that read the attr of that name.
func (r *Rev) AttrOperands(name []byte) []int {
	if r.attrLens>>(len(name)&63)&1 == 0 {
		return nil
	}
	return r.attrs[string(name)]
}

// ValueOperands returns the operands that read the value of that name.
func (r *Rev) ValueOperands(name []byte) []int { return r.values[string(name)] }

// TagSet returns the id of the tag set that the operands spell.
func (r *Rev) TagSet(ops []Operand) uint32 {
	n := 0
	for i := range r.tags {
		t := &r.tags[i]
		v := 0
		if op := &ops[t.op]; op.Kind != OperandNil {
			v = 1
			if k, ok := t.values[string(op.Text)]; ok {
				v = k
			}
		}
		n = n*t.radix + v
	}
	return r.tagSets[n]
}

// CondPos returns the place of a condition of this revision in CondIDs.
func (r *Rev) CondPos(id int) int { return r.condPos[id] }

// ScopeEnds returns until when the scopes of an experiment instance and a variation, assigned at t, hold beacons
// (end), and until when they are known at all (life): what a revision drops ends there for good (SPEC 10), also
// where a later one lists the same name again. r is the revision in force at the session's last beacon; of an instance
// that it does not have, both are over.
func (c *Chain) ScopeEnds(r *Rev, inst, variation int, t int64) (end, life int64) {
	e := r.Exp(inst)
	if e == nil {
		return math.MinInt64, math.MinInt64
	}
	l := e.Life
	if !l.varying {
		return l.End, l.To
	}
	life = max(l.To, t)
	off := l.off[variation]
	if i := sort.Search(len(off), func(i int) bool { return off[i].to > t }); i < len(off) {
		life = max(off[i].from, t)
	}
	return min(l.End, life), life
}

// Scope ids: 0 is the site; an experiment's name has two, assigned and fm.
func AssignedScope(x int) int { return 1 + 2*x }

// FmScope is the scope of the beacons from t_qualified on (SPEC 5).
func FmScope(x int) int { return 2 + 2*x }

// ScopeName returns the scope's name and the experiment's, "" for the site.
func (c *Chain) ScopeName(scope int) (name, experiment string) {
	if scope == 0 {
		return "site", ""
	}
	x := c.XNames[(scope-1)/2].Name
	if scope%2 == 1 {
		return "assigned", x
	}
	return "fm", x
}

// Cut says whether a cut lies between two times.
func (c *Chain) Cut(a, b int64) bool {
	if len(c.Revs) == 1 {
		return false
	}
	ra, rb := c.At(a), c.At(b)
	return ra == nil || rb == nil || ra.Cut != rb.Cut
}

func digest(before uint64, cfg *Config) uint64 {
	data, err := json.Marshal(struct {
		Before uint64
		Config *Config
	}{before, cfg})
	if err != nil {
		// Config holds only strings, integers and finite weights.
		panic("BUG: a config that does not marshal: " + err.Error())
	}
	return xxhash.Sum64(data)
}
