package beacon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The reference reads a beacon the slow way, from encoding/json's tokens and SPEC 1, sharing no code with Parse.

// node is a JSON value: nil, bool, json.Number, string, object or array.
type node any

type object []pairOf

type pairOf struct {
	key   string
	value node
}

type array struct{}

// tree reads the next value of dec, which json.Valid has already checked, and the depth of its containers.
func tree(dec *json.Decoder) (node, int) {
	t, err := dec.Token()
	if err != nil {
		panic(err)
	}
	d, ok := t.(json.Delim)
	if !ok {
		return t, 0
	}
	deepest := 0
	var o object
	for dec.More() {
		var key string
		if d == '{' {
			k, err := dec.Token()
			if err != nil {
				panic(err)
			}
			key = k.(string)
		}
		v, depth := tree(dec)
		deepest = max(deepest, depth)
		if d == '{' {
			o = append(o, pairOf{key, v})
		}
	}
	if _, err := dec.Token(); err != nil {
		panic(err)
	}
	if d == '{' {
		return o, deepest + 1
	}
	return array{}, deepest + 1
}

// loneSurrogate looks for \u escapes of valid JSON that form no pair; backslashes stand in strings only.
func loneSurrogate(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		i++
		if s[i] != 'u' {
			continue
		}
		u, _ := strconv.ParseUint(s[i+1:i+5], 16, 16)
		i += 4
		if u < 0xd800 || u > 0xdfff {
			continue
		}
		if u >= 0xdc00 || !strings.HasPrefix(s[i+1:], `\u`) {
			return true
		}
		if low, _ := strconv.ParseUint(s[i+3:i+7], 16, 16); low < 0xdc00 || low > 0xdfff {
			return true
		}
		i += 6
	}
	return false
}

var (
	wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)
	instant     = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
)

// referenceTS reads a standing ts.
func referenceTS(v node) (ms int64, ok bool) {
	switch v := v.(type) {
	case json.Number:
		if !wholeNumber.MatchString(string(v)) {
			return 0, false
		}
		n, _ := new(big.Int).SetString(string(v), 10)
		const limit = 1 << 59 // where an integer saturates
		switch {
		case n.Cmp(big.NewInt(limit)) > 0:
			return limit, true
		case n.Cmp(big.NewInt(-limit)) < 0:
			return -limit, true
		}
		return n.Int64(), true
	case string:
		m := instant.FindStringSubmatch(v)
		if m == nil {
			return 0, false
		}
		t, err := time.Parse("2006-01-02T15:04:05Z07:00", m[1]+m[3])
		if err != nil {
			return 0, false
		}
		milli, _ := strconv.Atoi((m[2] + "000")[:3])
		return t.Unix()*1000 + int64(milli), true
	}
	return 0, false
}

// referenceParse gives what Parse must: the reason and, unless that is TooLarge or Malformed, the rendering that
// render gives of the Beacon.
func referenceParse(payload []byte) (Reason, string) {
	if len(payload) > MaxPayload {
		return TooLarge, ""
	}
	if !utf8.Valid(payload) || !json.Valid(payload) || loneSurrogate(string(payload)) {
		return Malformed, ""
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	root, depth := tree(dec)
	top, ok := root.(object)
	if !ok || depth > MaxDepth {
		return Malformed, ""
	}
	last := map[string]node{}
	for _, p := range top {
		last[p.key] = p.value
	}
	var out strings.Builder
	length := map[string]int{}
	for _, name := range []string{"id", "tenant", "session", "visitor", "point", "device"} {
		s, isString := last[name].(string)
		if !isString && last[name] != nil {
			return Malformed, ""
		}
		length[name] = len(s)
		if optional := name == "point" || name == "device"; isString && (s != "" || optional) {
			fmt.Fprintf(&out, "%s=%q ", name, s)
		}
	}
	if v := last["login"]; v != nil {
		login, ok := v.(bool)
		if !ok {
			return Malformed, ""
		}
		fmt.Fprintf(&out, "login=%t ", login)
	}
	if v := last["ts"]; v != nil {
		ts, ok := referenceTS(v)
		if !ok {
			return Malformed, ""
		}
		fmt.Fprintf(&out, "ts=%d ", ts)
	}
	for _, name := range []string{"experiments", "values", "attrs"} {
		if last[name] == nil {
			continue
		}
		o, ok := last[name].(object)
		if !ok {
			return Malformed, ""
		}
		standing := map[string]node{}
		for _, m := range o {
			standing[m.key] = m.value
		}
		for _, m := range o {
			v, ok := standing[m.key]
			if !ok {
				continue
			}
			delete(standing, m.key)
			switch v := v.(type) {
			case nil:
			case string:
				if name == "values" {
					return Malformed, ""
				}
				fmt.Fprintf(&out, "%s.%q=string:%q ", name, m.key, v)
			case json.Number:
				if _, err := strconv.ParseFloat(string(v), 64); name == "experiments" || name == "values" && err != nil {
					return Malformed, ""
				}
				fmt.Fprintf(&out, "%s.%q=number:%q ", name, m.key, string(v))
			case bool:
				if name != "attrs" {
					return Malformed, ""
				}
				fmt.Fprintf(&out, "%s.%q=bool:\"%t\" ", name, m.key, v)
			default:
				if name != "attrs" {
					return Malformed, ""
				}
			}
		}
	}
	switch {
	case length["id"] < 1 || length["id"] > 128:
		return BadID, out.String()
	case length["session"] < 1 || length["session"] > 128:
		return BadSession, out.String()
	case length["visitor"] > 128:
		return BadVisitor, out.String()
	}
	return None, out.String()
}

// render shows a Beacon, of repeated members the last at the place of the first.
func render(b *Beacon) string {
	var out strings.Builder
	show := func(name string, s []byte, has bool) {
		if has {
			fmt.Fprintf(&out, "%s=%q ", name, s)
		}
	}
	show("id", b.ID, len(b.ID) > 0)
	show("tenant", b.Tenant, len(b.Tenant) > 0)
	show("session", b.Session, len(b.Session) > 0)
	show("visitor", b.Visitor, len(b.Visitor) > 0)
	show("point", b.Point, b.HasPoint)
	show("device", b.Device, b.HasDevice)
	if b.HasLogin {
		fmt.Fprintf(&out, "login=%t ", b.Login)
	}
	if b.HasTS {
		fmt.Fprintf(&out, "ts=%d ", b.TS)
	}
	for _, l := range []struct {
		name string
		ms   []Member
	}{{"experiments", b.Experiments}, {"values", b.Values}, {"attrs", b.Attrs}} {
		seen := map[string]bool{}
		for _, m := range l.ms {
			if m.Kind > Bool {
				fmt.Fprintf(&out, "%s.%q has the inner kind %d ", l.name, m.Key, m.Kind)
			}
			if seen[string(m.Key)] {
				continue
			}
			seen[string(m.Key)] = true
			if m, ok := Last(l.ms, string(m.Key)); ok {
				fmt.Fprintf(&out, "%s.%q=%s:%q ", l.name, m.Key, m.Kind, m.Text)
			}
		}
	}
	return out.String()
}
