package beacon

import "unicode/utf8"

// Parser reads beacons. Its zero value is ready; it is not safe for concurrent use. Once its scratch buffer and
// the lists of the Beacon have grown to what the traffic needs, Parse allocates nothing.
type Parser struct {
	scratch []byte // what unescaped strings alias; never longer than the payload
}

// Parse fills b from payload and gives None, or the first that holds of TooLarge, Malformed, BadID, BadSession
// and BadVisitor (SPEC 1). After TooLarge and Malformed b is empty; after the others all of it is filled.
func (p *Parser) Parse(payload []byte, b *Beacon) Reason {
	b.reset()
	if len(payload) > MaxPayload {
		return TooLarge
	}
	p.scratch = p.scratch[:0]
	if !p.beacon(payload, b) {
		b.reset()
		return Malformed
	}
	switch {
	case len(b.ID) == 0 || len(b.ID) > MaxName:
		return BadID
	case len(b.Session) == 0 || len(b.Session) > MaxName:
		return BadSession
	case len(b.Visitor) > MaxName:
		return BadVisitor
	}
	return None
}

// field is a bit for each field of SPEC 1, 0 for a key that is none.
type field uint16

const (
	fID field = 1 << iota
	fTenant
	fSession
	fVisitor
	fPoint
	fDevice
	fLogin
	fTS
	fExperiments
	fValues
	fAttrs
)

func fieldOf(key []byte) field {
	switch len(key) {
	case 2:
		switch string(key) {
		case "id":
			return fID
		case "ts":
			return fTS
		}
	case 5:
		switch string(key) {
		case "point":
			return fPoint
		case "attrs":
			return fAttrs
		case "login":
			return fLogin
		}
	case 6:
		switch string(key) {
		case "tenant":
			return fTenant
		case "values":
			return fValues
		case "device":
			return fDevice
		}
	case 7:
		switch string(key) {
		case "session":
			return fSession
		case "visitor":
			return fVisitor
		}
	case 11:
		if string(key) == "experiments" {
			return fExperiments
		}
	}
	return 0
}

// beacon reads the whole payload. The fields whose last standing value has a wrong type are collected,
// because a later value of the same key may still mend them.
func (p *Parser) beacon(data []byte, b *Beacon) bool {
	var bad field
	i := space(data, 0)
	if i >= len(data) || data[i] != '{' {
		return false
	}
	i = space(data, i+1)
	if i < len(data) && data[i] == '}' {
		return space(data, i+1) == len(data)
	}
	for {
		var key []byte
		if key, i = p.key(data, i); i < 0 {
			return false
		}
		ok := true
		f := fieldOf(key)
		switch f {
		case 0:
			i = skip(data, i, 1)
		case fExperiments:
			b.Experiments, ok, i = p.members(data, i, b.Experiments[:0], String)
		case fValues:
			b.Values, ok, i = p.members(data, i, b.Values[:0], Number)
		case fAttrs:
			b.Attrs, ok, i = p.members(data, i, b.Attrs[:0], Nil)
		default:
			var kind Kind
			var text []byte
			kind, text, i = p.value(data, i, 1)
			ok = b.set(f, kind, text)
		}
		if i < 0 {
			return false
		}
		if bad |= f; ok {
			bad &^= f
		}
		i = space(data, i)
		if i >= len(data) {
			return false
		}
		switch data[i] {
		case ',':
			i = space(data, i+1)
		case '}':
			return bad == 0 && space(data, i+1) == len(data)
		default:
			return false
		}
	}
}

// set gives field f, one of the scalar ones, a value; false if it is of a wrong type or form. A Nil takes back
// what an earlier value of the same key has set.
func (b *Beacon) set(f field, kind Kind, text []byte) bool {
	if f == fTS {
		b.TS, b.HasTS = 0, false
		switch kind {
		case Number:
			b.TS, b.HasTS = integer(text)
		case String:
			b.TS, b.HasTS = rfc3339(text)
		}
		return b.HasTS || kind == Nil
	}
	if f == fLogin {
		b.HasLogin = kind == Bool
		b.Login = b.HasLogin && text[0] == 't'
		return b.HasLogin || kind == Nil
	}
	if kind != String {
		text = nil
	}
	switch f {
	case fID:
		b.ID = text
	case fTenant:
		b.Tenant = text
	case fSession:
		b.Session = text
	case fVisitor:
		b.Visitor = text
	case fPoint:
		b.Point, b.HasPoint = text, kind == String
	case fDevice:
		b.Device, b.HasDevice = text, kind == String
	}
	return kind == String || kind == Nil
}

// members reads the value at data[i] of experiments, values or attrs into ms, whose members must be of the kind
// want (Nil: any). It gives the index behind the value, -1 if that is no JSON; ok is false if it has a wrong type,
// or the last standing member of some key has.
func (p *Parser) members(data []byte, i int, ms []Member, want Kind) (_ []Member, ok bool, next int) {
	if i >= len(data) || data[i] != '{' {
		kind, _, next := p.value(data, i, 1)
		return ms, kind == Nil, next
	}
	i = space(data, i+1)
	if i < len(data) && data[i] == '}' {
		return ms, true, i + 1
	}
	ok = true
	for {
		var m Member
		if m.Key, i = p.key(data, i); i < 0 {
			return ms, false, -1
		}
		if m.Kind, m.Text, i = p.value(data, i, 2); i < 0 {
			return ms, false, -1
		}
		switch {
		case want == Nil:
			if m.Kind == composite {
				m.Kind = Nil
			}
		case m.Kind != Nil && (m.Kind != want || want == Number && !finite(m.Text)):
			m.Kind = wrong
			ok = false
		}
		ms = append(ms, m)
		i = space(data, i)
		if i >= len(data) {
			return ms, false, -1
		}
		switch data[i] {
		case ',':
			i = space(data, i+1)
		case '}':
			return ms, ok || mended(ms), i + 1
		default:
			return ms, false, -1
		}
	}
}

// mended says whether each wrong member is replaced by a later one of its key, and makes those Nil. The map
// keeps a hostile payload of thousands of them linear; honest ones never come here.
func mended(ms []Member) bool {
	later := make(map[string]struct{}, len(ms))
	for i := len(ms) - 1; i >= 0; i-- {
		m := &ms[i]
		if m.Kind == wrong {
			if _, ok := later[string(m.Key)]; !ok {
				return false
			}
			m.Kind, m.Text = Nil, nil
			continue
		}
		later[string(m.Key)] = struct{}{}
	}
	return true
}

// key reads a member's key at data[i] and its colon, and gives the index of its value, -1 if it is malformed.
func (p *Parser) key(data []byte, i int) (key []byte, next int) {
	if i >= len(data) || data[i] != '"' {
		return nil, -1
	}
	if key, i = p.str(data, i+1); i < 0 {
		return nil, -1
	}
	i = space(data, i)
	if i >= len(data) || data[i] != ':' {
		return nil, -1
	}
	return key, space(data, i+1)
}

// value reads the value at data[i] in a container of the given level, and gives the index behind it, -1 if it is
// malformed. Of an object or array it checks the form only.
func (p *Parser) value(data []byte, i, level int) (kind Kind, text []byte, next int) {
	if i >= len(data) {
		return Nil, nil, -1
	}
	switch data[i] {
	case '"':
		text, next = p.str(data, i+1)
		return String, text, next
	case '{', '[':
		return composite, nil, skip(data, i, level)
	case 't', 'f':
		if next = literal(data, i); next < 0 {
			return Nil, nil, -1
		}
		return Bool, data[i:next:next], next
	case 'n':
		return Nil, nil, literal(data, i)
	}
	if next = number(data, i); next < 0 {
		return Nil, nil, -1
	}
	return Number, data[i:next:next], next
}

// str reads the string whose first byte is data[i], behind the quote, and gives the index behind its end, -1 if
// it is malformed. Without an escape it aliases data.
func (p *Parser) str(data []byte, i int) (s []byte, next int) {
	j, seen := run(data, i)
	if seen&high != 0 && !utf8.Valid(data[i:j]) {
		return nil, -1
	}
	if j < len(data) && data[j] == '"' {
		return data[i:j:j], j + 1
	}
	start := len(p.scratch)
	for {
		if j >= len(data) || data[j] != '"' && data[j] != '\\' {
			return nil, -1
		}
		p.scratch = append(p.scratch, data[i:j]...)
		if data[j] == '"' {
			return p.scratch[start:len(p.scratch):len(p.scratch)], j + 1
		}
		var r rune
		if r, i = escape(data, j); i < 0 {
			return nil, -1
		}
		p.scratch = utf8.AppendRune(p.scratch, r)
		j, seen = run(data, i)
		if seen&high != 0 && !utf8.Valid(data[i:j]) {
			return nil, -1
		}
	}
}
