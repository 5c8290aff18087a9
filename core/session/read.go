package session

import (
	"strconv"

	"github.com/cespare/xxhash/v2"

	"tandem/core/beacon"
	"tandem/core/tenant"
)

// Event times of a valid beacon: from 2000-01-01 (SPEC 1) to the last millisecond that RFC 3339 can tell, which only a
// records file without ingest times comes near.
const (
	MinTS = 946684800000
	MaxTS = 253402300799999
)

// Reader turns beacons into events. It is scratch memory only: reading is a pure function of the beacon, its ingest
// time and the chain. Not safe for concurrent use; the zero value is ready.
type Reader struct {
	ops   []tenant.Operand
	args  []tenant.Operand
	vals  []Value
	exps  []Assignment
	conds []uint64
	num   [32]byte
}

// Verdict is what a beacon that is valid JSON comes to.
type Verdict struct {
	Reason beacon.Reason // not None: rejected
	Used   bool          // a measured point, or an assignment of a configured experiment (SPEC 1)
	Late   bool          // more than lateness after its ts: the stream leaves it to the batch (SPEC 8)
	Rev    *tenant.Rev
}

// Check decides what does not depend on points and experiments: the tenant and the times. chain is the one of the
// beacon's tenant, nil if there is none.
func Check(chain *tenant.Chain, b *beacon.Beacon, ingest int64) Verdict {
	if chain == nil {
		return Verdict{Reason: beacon.UnknownTenant}
	}
	if !b.HasTS || b.TS < MinTS || b.TS > MaxTS {
		return Verdict{Reason: beacon.BadTS}
	}
	rev := chain.At(b.TS)
	if rev == nil {
		return Verdict{Reason: beacon.UnknownTenant}
	}
	switch cfg := rev.Config; {
	case b.TS-ingest > cfg.MaxSkew:
		return Verdict{Reason: beacon.BadTS}
	case ingest-b.TS > cfg.MaxAge:
		return Verdict{Reason: beacon.TooOld}
	}
	return Verdict{Rev: rev, Late: ingest-b.TS > rev.Config.Lateness}
}

// Read fills the event from the beacon, which aliases the beacon's bytes and the reader's scratch: both are valid
// until the next call. Offset, Digest and Size are the caller's.
func (r *Reader) Read(chain *tenant.Chain, b *beacon.Beacon, ingest int64, e *Event) Verdict {
	v := Check(chain, b, ingest)
	if v.Reason != beacon.None {
		return v
	}
	rev := v.Rev
	*e = Event{TS: b.TS, ID: b.ID, Ingest: ingest}
	var point *tenant.Point1
	if b.HasPoint {
		point = rev.PointNamed(b.Point)
	}
	if point != nil {
		v.Used = true
		e.Point = point.Inst
		if !r.values(point, b, e) {
			v.Reason = beacon.BadValue
			return v
		}
	}
	r.assignments(rev, b, e)
	for _, x := range e.Exps {
		v.Used = v.Used || x.Variation >= 0
	}
	if !v.Used {
		return v
	}
	if len(b.Visitor) > 0 {
		e.Visitor = max(xxhash.Sum64(b.Visitor), 1)
	}
	r.operands(rev, b)
	e.Tags = rev.TagSet(r.ops)
	r.conditions(chain, rev, e)
	return v
}

func (r *Reader) values(p *tenant.Point1, b *beacon.Beacon, e *Event) bool {
	r.vals = r.vals[:0]
	if len(p.Values) == 0 {
		return true
	}
	for i := len(b.Values) - 1; i >= 0; i-- { // of a repeated name the last stands
		m := &b.Values[i]
		k := p.ValueNamed(m.Key)
		if k < 0 || r.hasValue(k) {
			continue
		}
		n := int64(0)
		if m.Kind != beacon.Nil {
			var ok bool
			if n, ok = beacon.Fixed(m.Text, p.Values[k].Decimals); !ok {
				return false
			}
		}
		r.vals = append(r.vals, Value{k, n})
		if m.Kind == beacon.Nil {
			r.vals[len(r.vals)-1].Index = -k - 1 // seen, and absent
		}
	}
	n := 0
	for _, v := range r.vals {
		if v.Index >= 0 {
			r.vals[n] = v
			n++
		}
	}
	e.Values = r.vals[:n]
	return true
}

func (r *Reader) hasValue(k int) bool {
	for _, v := range r.vals {
		if v.Index == k || v.Index == -k-1 {
			return true
		}
	}
	return false
}

// assignments reads the experiments of the beacon that the revision has. The last of a repeated name stands, so it
// reads from the end; more members than any config can have experiments are looked at only until all are found.
func (r *Reader) assignments(rev *tenant.Rev, b *beacon.Beacon, e *Event) {
	r.exps = r.exps[:0]
	for i := len(b.Experiments) - 1; i >= 0; i-- {
		m := &b.Experiments[i]
		x := rev.ExpNamed(m.Key)
		if x == nil || r.hasExp(x.Inst) {
			continue
		}
		a := Assignment{Inst: x.Inst, Variation: absent}
		if m.Kind != beacon.Nil {
			a.Variation = x.Variation(m.Text)
		}
		r.exps = append(r.exps, a)
	}
	n := 0
	for _, a := range r.exps {
		if a.Variation != absent {
			r.exps[n] = a
			n++
		}
	}
	e.Exps = r.exps[:n]
}

const absent = -2 // a member that is null, and hides an earlier one of its name

func (r *Reader) hasExp(inst int) bool {
	for _, a := range r.exps {
		if a.Inst == inst {
			return true
		}
	}
	return false
}

// operands gathers what the revision's tags and conditions read. A field of the beacon goes before the attr of its
// name (SPEC 4, 6).
func (r *Reader) operands(rev *tenant.Rev, b *beacon.Beacon) {
	r.ops = r.ops[:0]
	for range rev.Operands {
		r.ops = append(r.ops, tenant.Operand{})
	}
	if len(rev.Operands) == 0 {
		return
	}
	for i := range b.Attrs { // in order, so that the last stands
		m := &b.Attrs[i]
		for _, k := range rev.AttrOperands(m.Key) {
			r.ops[k] = operand(m)
		}
	}
	for i := range b.Values {
		m := &b.Values[i]
		for _, k := range rev.ValueOperands(m.Key) {
			r.ops[k] = operand(m)
		}
	}
	for k := range rev.Operands {
		n := &rev.Operands[k]
		if n.Space != tenant.Field {
			continue
		}
		switch n.Key {
		case "point":
			text(&r.ops[k], b.Point, b.HasPoint)
		case "device":
			text(&r.ops[k], b.Device, b.HasDevice)
		case "visitor":
			text(&r.ops[k], b.Visitor, len(b.Visitor) > 0)
		case "login":
			if b.HasLogin {
				r.ops[k] = tenant.Operand{Kind: tenant.OperandBool, Bool: b.Login, Text: strconv.AppendBool(r.num[:0], b.Login)}
			}
		}
	}
}

func text(op *tenant.Operand, s []byte, has bool) {
	if has {
		*op = tenant.Operand{Kind: tenant.OperandStr, Text: s}
	}
}

func operand(m *beacon.Member) tenant.Operand {
	switch m.Kind {
	case beacon.String:
		return tenant.Operand{Kind: tenant.OperandStr, Text: m.Text}
	case beacon.Bool:
		return tenant.Operand{Kind: tenant.OperandBool, Bool: len(m.Text) == 4, Text: m.Text}
	case beacon.Number:
		f, _ := strconv.ParseFloat(string(m.Text), 64) // beyond the doubles it is an infinity, which compares as one
		return tenant.Operand{Kind: tenant.OperandNum, Num: f, Text: m.Text}
	}
	return tenant.Operand{}
}

func (r *Reader) conditions(chain *tenant.Chain, rev *tenant.Rev, e *Event) {
	r.conds = r.conds[:0]
	for pos, id := range rev.CondIDs {
		if pos&63 == 0 {
			r.conds = append(r.conds, 0)
		}
		r.args = r.args[:0]
		for _, k := range rev.CondOps[pos] {
			r.args = append(r.args, r.ops[k])
		}
		if chain.Conds[id].Eval(r.args) {
			r.conds[pos>>6] |= 1 << (pos & 63)
		}
	}
	e.Conds = r.conds
}
