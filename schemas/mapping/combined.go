package mapping

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"tandem/schemas/records"
)

// combinedColumns are the columns of an access log. A "-" is an empty text. method, path and protocol are the parts
// of request, empty where it has another form; of the common log referer and agent are empty.
var combinedColumns = []string{"address", "ident", "user", "time", "request", "method", "path", "protocol",
	"status", "bytes", "referer", "agent"}

// combinedRows reads Apache's combined log: address ident user [time] "request" status bytes "referer" "agent". The line may
// end within the agent, as loggers cut long lines.
type combinedRows struct {
	lines *records.Lines
	cols  map[string]any
}

func (c *combinedRows) columns() []string { return combinedColumns }

func (c *combinedRows) next(r *row) error {
	for {
		line, cut, err := c.lines.Next()
		if err != nil {
			return err
		}
		r.line = c.lines.Line()
		if cut {
			return errLong()
		}
		if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) == 0 {
			continue
		}
		if !utf8.Valid(line) {
			return refuse("it is not UTF-8")
		}
		r.cols = c.cols
		return c.split(string(line))
	}
}

func (c *combinedRows) split(line string) error {
	rest := line
	for _, name := range []string{"address", "ident", "user", "time", "request", "status", "bytes", "referer", "agent"} {
		if name == "referer" && rest == "" { // the common log
			c.cols["referer"], c.cols["agent"] = "", ""
			break
		}
		var value string
		var ok bool
		switch name {
		case "time":
			value, rest, ok = strings.Cut(strings.TrimPrefix(rest, "["), "]")
			if rest != "" {
				ok = ok && rest[0] == ' '
				rest = rest[1:]
			}
		case "request", "referer", "agent":
			if name == "agent" && openEnd(rest) {
				rest += `"`
			}
			value, rest, ok = quoted(rest)
		default:
			value, rest, ok = strings.Cut(rest, " ")
			ok = ok || name == "bytes"
			ok = ok && value != ""
		}
		if !ok {
			return refuse("%s is missing: the form is address ident user [time] \"request\" status bytes \"referer\" \"agent\"", name)
		}
		if value == "-" {
			value = ""
		}
		c.cols[name] = value
	}
	if rest != "" {
		return refuse("text after the user agent")
	}
	request := c.cols["request"].(string)
	parts := strings.Split(request, " ")
	if len(parts) != 3 {
		parts = []string{"", "", ""}
	}
	c.cols["method"], c.cols["path"], c.cols["protocol"] = parts[0], parts[1], parts[2]
	return nil
}

// openEnd says whether s begins with a quote and has no other. Loggers cut long lines, which hits the last column: what is
// left of a user agent is still one, and the request a request.
func openEnd(s string) bool { return s != "" && s[0] == '"' && strings.Count(s, `"`) == 1 }

// quoted takes a quoted text and the space behind it. Apache writes \" and \\ for those two; its other escapes,
// as \x16, are left as they stand.
func quoted(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	var out []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			out = append(out, s[i])
		case c == '"':
			rest = s[i+1:]
			if rest != "" && rest[0] != ' ' {
				return "", "", false
			}
			return string(out), strings.TrimPrefix(rest, " "), true
		default:
			out = append(out, c)
		}
	}
	return "", "", false
}
