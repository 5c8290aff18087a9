// Package beacon reads one beacon, a JSON object of at most MaxPayload bytes (SPEC 1), in one strict pass.
//
// It knows nothing of tenants: names are not looked up, and ts is read but not judged. Of the reasons
// for a rejection it finds those that lie in the payload alone.
package beacon

import "strconv"

// Limits of a payload (SPEC 1).
const (
	MaxPayload = 65_536 // bytes; one more is TooLarge
	MaxDepth   = 64     // levels of nesting, the beacon's own object being the first
	MaxName    = 128    // bytes of id, session and visitor, after unescaping
	MaxScaled  = 100_000_000_000
)

// Kind is the JSON type of a Member as SPEC 1 sees it.
type Kind uint8

// The kinds. Nil stands for null and for absent, which are the same.
const (
	Nil Kind = iota
	String
	Number
	Bool

	// composite and wrong never leave the parser: an object or array, and a member
	// that is malformed unless a later one of its key replaces it.
	composite
	wrong
)

// String is the kind's name for messages.
func (k Kind) String() string {
	switch k {
	case Nil:
		return "nil"
	case String:
		return "string"
	case Number:
		return "number"
	case Bool:
		return "bool"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Reason says why a beacon is rejected. The order is that of SPEC 1: of several that hold, the least stands.
type Reason uint8

// The reasons. Parse gives those up to BadVisitor; the others need the tenant's config and the ingest time.
const (
	None Reason = iota
	TooLarge
	Malformed
	BadID
	BadSession
	BadVisitor
	UnknownTenant
	BadTS
	TooOld
	BadValue
)

// String is the reason's name in counts and on the dead-letter topic, such as "too_large" (SPEC 11).
func (r Reason) String() string {
	switch r {
	case None:
		return "none"
	case TooLarge:
		return "too_large"
	case Malformed:
		return "malformed"
	case BadID:
		return "bad_id"
	case BadSession:
		return "bad_session"
	case BadVisitor:
		return "bad_visitor"
	case UnknownTenant:
		return "unknown_tenant"
	case BadTS:
		return "bad_ts"
	case TooOld:
		return "too_old"
	case BadValue:
		return "bad_value"
	}
	return "Reason(" + strconv.Itoa(int(r)) + ")"
}

// Reasons lists all reasons but None, in the order of SPEC 1.
func Reasons() []Reason {
	return []Reason{TooLarge, Malformed, BadID, BadSession, BadVisitor, UnknownTenant, BadTS, TooOld, BadValue}
}

// Member is one member of experiments, values or attrs.
type Member struct {
	Key  []byte // unescaped
	Text []byte // the unescaped string, the number as spelled, "true" or "false"; nil for Nil
	Kind Kind
}

// Beacon holds the fields of the native form (SPEC 1). Its byte slices alias the payload or the parser that
// filled it, and are valid until that parser's next Parse.
type Beacon struct {
	ID, Tenant, Session, Visitor []byte // absent and "" are both empty
	Point, Device                []byte
	HasPoint, HasDevice          bool // "" is present
	HasLogin, Login              bool
	HasTS                        bool
	TS                           int64 // ms since the epoch, at most 1<<59 either way; digits past the millisecond are cut

	// All members of the last standing object, in order. Of a repeated key the last stands, also if it is Nil:
	// use Last, or let later ones overwrite. A Nil member was null, or of attrs an object or array.
	Experiments []Member // String or Nil
	Values      []Member // Number, finite as a double, or Nil
	Attrs       []Member
}

// reset empties b and keeps the room of its lists, which MaxPayload bounds.
func (b *Beacon) reset() {
	*b = Beacon{Experiments: b.Experiments[:0], Values: b.Values[:0], Attrs: b.Attrs[:0]}
}

// Last finds the last member named key; ok is false if there is none or it is Nil.
func Last(ms []Member, key string) (m Member, ok bool) {
	for i := len(ms) - 1; i >= 0; i-- {
		if string(ms[i].Key) == key {
			return ms[i], ms[i].Kind != Nil
		}
	}
	return Member{}, false
}
