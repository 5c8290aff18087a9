package oracle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tandem/core/tenant"
)

const (
	maxPayload = 65_536          // bytes
	maxDepth   = 64              // levels, the beacon's object being the first
	maxID      = 128             // bytes
	year2000   = 946_684_800_000 // ms since the epoch
	year9999   = 253_402_300_799_999
	maxScaled  = 100_000_000_000 // of a measured value
)

// beacon is a payload that is well-formed, with what the revision in force at its ts makes of it (SPEC 1).
type beacon struct {
	payload []byte
	ingest  int64

	id, tenant, session, visitor string // empty: absent
	ts                           int64
	hasTS                        bool
	point, device                any               // string, or nil: absent
	login                        any               // bool, or nil: absent
	experiments                  map[string]string // experiment -> variation, as sent
	values                       map[string]string // value -> number as spelled
	attrs                        map[string]any    // string, bool or json.Number

	revision int              // index of the revision in force at ts
	tags     string           // the tag set, as rows spell it
	measured *tenant.Point    // the point, if it is listed
	scaled   map[string]int64 // the values that the point declares and the beacon carries
}

// read decides a record: the beacon, or the first reason that holds to reject it.
func (h *history) read(r Record) (*beacon, string) {
	if len(r.Payload) > maxPayload {
		return nil, "too_large"
	}
	b, err := parse(r.Payload)
	if err != nil {
		return nil, "malformed"
	}
	b.ingest = r.Ingest
	b.revision = h.inForce(b.ts)
	switch {
	case b.id == "" || len(b.id) > maxID:
		return nil, "bad_id"
	case b.session == "" || len(b.session) > maxID:
		return nil, "bad_session"
	case len(b.visitor) > maxID:
		return nil, "bad_visitor"
	case len(h.revisions) == 0 || b.tenant != h.revisions[0].Tenant:
		return nil, "unknown_tenant"
	case !b.hasTS || b.ts < year2000 || b.ts > year9999:
		return nil, "bad_ts"
	case b.revision < 0:
		return nil, "unknown_tenant" // no config of the tenant is in force yet
	case b.ts-b.ingest > h.at(b).MaxSkew:
		return nil, "bad_ts"
	case b.ingest-b.ts > h.at(b).MaxAge:
		return nil, "too_old"
	}
	b.tags = tagSet(h.at(b), b)
	if name, ok := b.point.(string); ok {
		b.measured = pointOf(h.at(b), name)
	}
	if b.measured != nil {
		b.scaled = map[string]int64{}
		for _, v := range b.measured.Values {
			if text, carried := b.values[v.Name]; carried {
				n, ok := scale(text, v.Decimals)
				if !ok {
					return nil, "bad_value"
				}
				b.scaled[v.Name] = n
			}
		}
	}
	return b, ""
}

// isUsed says whether the beacon is measured or carries an assignment; if neither, it is unused.
func (h *history) isUsed(b *beacon) bool {
	if b.measured != nil {
		return true
	}
	for x := range b.experiments {
		if _, carries := h.carried(b, x); carries {
			return true
		}
	}
	return false
}

// carried gives the variation of x that the beacon carries: one that x lists at the beacon's ts (SPEC 4).
func (h *history) carried(b *beacon, x string) (string, bool) {
	variation, named := b.experiments[x]
	e := experimentOf(h.at(b), x)
	return variation, named && e != nil && slices.Contains(e.Variations, variation)
}

// errMalformed is all that the page tells about a payload that is no beacon.
var errMalformed = errors.New("malformed beacon")

// parse reads a payload of any size into the fields of a beacon, without a config.
func parse(payload []byte) (*beacon, error) {
	root, err := parseJSON(payload)
	if err != nil {
		return nil, err
	}
	object, ok := root.(map[string]any)
	if !ok {
		return nil, errMalformed
	}
	b := &beacon{payload: payload, experiments: map[string]string{}, values: map[string]string{}, attrs: map[string]any{}}
	for name, v := range object {
		if v == nil {
			continue // null is absent
		}
		ok := true
		switch name {
		case "id":
			b.id, ok = v.(string)
		case "tenant":
			b.tenant, ok = v.(string)
		case "session":
			b.session, ok = v.(string)
		case "visitor":
			b.visitor, ok = v.(string)
		case "point":
			b.point = v
			_, ok = v.(string)
		case "device":
			b.device = v
			_, ok = v.(string)
		case "login":
			b.login = v
			_, ok = v.(bool)
		case "ts":
			b.ts, ok = parseTS(v)
			b.hasTS = ok
		case "experiments":
			ok = members(v, func(x string, m any) bool {
				variation, isString := m.(string)
				b.experiments[x] = variation
				return isString
			})
		case "values":
			ok = members(v, func(name string, m any) bool {
				number, isNumber := m.(json.Number)
				b.values[name] = string(number)
				// A finite number, unlike an attr's, is also one as the double that conditions compare.
				return isNumber && !math.IsInf(double(string(number)), 0)
			})
		case "attrs":
			ok = members(v, func(name string, m any) bool {
				switch m.(type) {
				case string, bool, json.Number:
					b.attrs[name] = m
				}
				return true // an object or array is ignored
			})
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s has a wrong type or form", errMalformed, name)
		}
	}
	return b, nil
}

// members hands over the members of an object that are not null, and says whether v is an object and all were taken.
func members(v any, take func(name string, m any) bool) bool {
	object, ok := v.(map[string]any)
	for name, m := range object {
		ok = ok && (m == nil || take(name, m))
	}
	return ok
}

// parseJSON reads one JSON value strictly: valid UTF-8, no lone surrogate, nothing after the value, a limited depth. Of a
// repeated key the last stands. Numbers stay as they are spelled.
func parseJSON(payload []byte) (any, error) {
	if !utf8.Valid(payload) || !json.Valid(payload) || hasLoneSurrogate(payload) {
		return nil, errMalformed
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	return parseValue(d, 1)
}

// parseValue reads the value that comes next, at the given level, from text that is known to be valid JSON.
func parseValue(d *json.Decoder, level int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errMalformed
	}
	opening, nested := token.(json.Delim)
	if !nested {
		return token, nil
	}
	if level > maxDepth {
		return nil, errMalformed
	}
	object, list := map[string]any{}, []any{}
	for d.More() {
		var key any
		if opening == '{' {
			if key, err = d.Token(); err != nil {
				return nil, errMalformed
			}
		}
		v, err := parseValue(d, level+1)
		if err != nil {
			return nil, err
		}
		if opening == '{' {
			object[key.(string)] = v
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errMalformed
	}
	if opening == '{' {
		return object, nil
	}
	return list, nil
}

// surrogates finds, from left to right, each escape of valid JSON text: a pair of surrogates as a whole, else one.
var surrogates = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[^u]`)

func hasLoneSurrogate(payload []byte) bool {
	for _, escape := range surrogates.FindAll(payload, -1) {
		if len(escape) == len(`\ud800`) && (escape[2] == 'd' || escape[2] == 'D') && escape[3] >= '8' {
			return true // d800 to dfff ('9' and the letters, in either case, lie above '8')
		}
	}
	return false
}

var (
	integer = regexp.MustCompile(`^-?[0-9]+$`)
	rfc3339 = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)
)

// parseTS reads a ts; ok says whether it has one of the two forms.
func parseTS(v any) (ms int64, ok bool) {
	switch v := v.(type) {
	case json.Number:
		ms, _ := strconv.ParseInt(string(v), 10, 64) // beyond int64 its greatest or least
		return ms, integer.MatchString(string(v))
	case string:
		t, err := time.Parse(time.RFC3339, v)
		return t.UnixMilli(), err == nil && rfc3339.MatchString(v)
	}
	return 0, false
}

// scale gives the number as an integer of 10^-decimals, rounded half away from zero; ok is false beyond the limit.
func scale(text string, decimals int) (n int64, ok bool) {
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		// With at most 65,536 digits before the e, such an exponent alone decides; 10^exponent would never end.
		const decisive = 70_000
		mantissa, _ := new(big.Rat).SetString(text[:i])
		exponent, _ := new(big.Int).SetString(text[i+1:], 10)
		if mantissa.Sign() == 0 || exponent.Cmp(big.NewInt(-decisive)) < 0 {
			return 0, true
		}
		if exponent.Cmp(big.NewInt(decisive)) > 0 {
			return 0, false
		}
	}
	x, _ := new(big.Rat).SetString(text)
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)
	x.Mul(x, new(big.Rat).SetInt(unit))
	// floor(|x| + 1/2) = (2 num + den) div (2 den)
	num := new(big.Int).Abs(x.Num())
	num.Lsh(num, 1).Add(num, x.Denom())
	rounded := num.Quo(num, new(big.Int).Lsh(x.Denom(), 1))
	if rounded.Cmp(big.NewInt(maxScaled)) > 0 {
		return 0, false
	}
	return rounded.Int64() * int64(x.Sign()), true
}
