package tenant

import (
	"bytes"
	"errors"
	"io"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// document reads the one document of a file and returns its root.
func document(file string, data []byte) (*yaml.Node, error) {
	fail := func(line int, msg string) (*yaml.Node, error) {
		return nil, &LoadError{File: file, Line: line, Msg: msg}
	}
	if len(data) > maxFileBytes {
		return fail(1, "the file has "+strconv.Itoa(len(data))+" bytes; at most 1 MiB is allowed")
	}
	if i := invalidUTF8(data); i >= 0 {
		return fail(lineOf(data, i), "not valid UTF-8")
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return fail(1, "the file is empty; it needs at least `tenant`")
	}
	if err != nil {
		return fail(yamlError(data, err))
	}
	root := doc.Content[0]
	if isNull(root) {
		return fail(1, "the file is empty; it needs at least `tenant`")
	}
	switch err := d.Decode(&next); {
	case err == nil:
		return fail(next.Line, "a second YAML document; a file holds one config")
	case !errors.Is(err, io.EOF):
		return fail(yamlError(data, err))
	}
	return root, nil
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func lineOf(data []byte, offset int) int { return 1 + bytes.Count(data[:offset], []byte{'\n'}) }

// yamlError finds the line in an error of the YAML reader, which has it as text, or not at all.
func yamlError(data []byte, err error) (line int, msg string) {
	msg = strings.TrimPrefix(err.Error(), "yaml: ")
	line = 1
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if number, what, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, msg = n, what
			}
		}
	} else if rest, ok := strings.CutPrefix(msg, "unknown anchor '"); ok {
		name, _, _ := strings.Cut(rest, "'")
		if i := bytes.Index(data, []byte("*"+name)); i >= 0 {
			line = lineOf(data, i)
		}
		return line, "YAML aliases (`*" + name + "`) are not allowed: write it out, or quote the text"
	} else if strings.HasPrefix(msg, "control characters") {
		if i := bytes.IndexFunc(data, isControl); i >= 0 {
			line = lineOf(data, i)
		}
	}
	if strings.HasPrefix(msg, "did not find expected") {
		line = brokenLine(data, err.Error())
	}
	return line, "not valid YAML: " + msg
}

// brokenLine finds the first line after which the text is broken in this way: what the YAML reader reports is a line
// before. It never looks back, so the error is the same for any text cut off behind that line, and another or none
// for one cut off before. Of a list or mapping that is not closed it is the line that opens it.
func brokenLine(data []byte, text string) int {
	var ends []int
	for i, c := range data {
		if c == '\n' || i == len(data)-1 {
			ends = append(ends, i+1)
		}
	}
	return 1 + sort.Search(len(ends)-1, func(i int) bool {
		d := yaml.NewDecoder(bytes.NewReader(data[:ends[i]]))
		for {
			var n yaml.Node
			if err := d.Decode(&n); err != nil {
				return err.Error() == text
			}
		}
	})
}

func isControl(r rune) bool {
	return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff
}

// plain refuses, everywhere in the tree, what a config has no use for and what would make it mean something else
// than what stands there.
func (l *loader) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		l.fail(n, "YAML aliases (`*%s`) are not allowed: write it out, or quote the text", n.Value)
	case n.Anchor != "":
		l.fail(n, "YAML anchors (`&%s`) are not allowed: remove it, or quote the text", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		l.fail(n, "YAML tags (`%s`) are not allowed: remove it, or quote the text", n.Tag)
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Tag == "!!merge" {
			l.fail(child, "YAML merge keys (`<<`) are not allowed: write it out")
		}
		l.plain(child)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// pair is a key of a mapping and its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping in order, without repeated keys. null is an empty mapping.
func (l *loader) pairs(n *yaml.Node, what string, named bool) []pair {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		l.fail(n, "%s: %s instead of a mapping (`key: value`)", what, kindOf(n))
		return nil
	}
	var ps []pair
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			l.fail(key, "%s: %s as a key; a key is a name", what, kindOf(key))
			continue
		}
		if line := seen[key.Value]; line > 0 {
			thing := "the key"
			if named {
				thing = "the name"
			}
			l.fail(key, "%s: %s %s is there twice; first on line %d", what, thing, clip(key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		ps = append(ps, pair{key, n.Content[i+1]})
	}
	return ps
}

// keys returns the entries of a mapping whose keys are fixed.
func (l *loader) keys(n *yaml.Node, what string, allowed ...string) map[string]pair {
	found := map[string]pair{}
	for _, p := range l.pairs(n, what, false) {
		known := false
		for _, a := range allowed {
			known = known || a == p.key.Value
		}
		if !known && p.key.Tag != "!!merge" && l.wanted(p.key.Line) {
			l.fail(p.key, "%s: unknown key `%s`%s; allowed are %s", what, clip(p.key.Value), didYouMean(p.key.Value, allowed...), strings.Join(allowed, ", "))
		}
		found[p.key.Value] = p
	}
	return found
}

// items returns the items of a list.
func (l *loader) items(n *yaml.Node, what, form string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		l.fail(n, "%s: %s instead of a list, as in %s", what, kindOf(n), form)
		return nil
	}
	return n.Content
}

// text returns a string. YAML reads an unquoted 1, true or 2026-01-01 as something else: what is meant must be quoted.
func (l *loader) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return n.Value, true
	}
	if n.Kind == yaml.ScalarNode && n.Value != "" {
		l.fail(n, "%s is a string: write \"%s\" in quotes instead of %s", what, clip(n.Value), kindOf(n))
	} else {
		l.fail(n, "%s is a string, not %s", what, kindOf(n))
	}
	return "", false
}

// kindOf names what a node is, for messages.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the boolean " + clip(n.Value)
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!timestamp":
		return "the time " + clip(n.Value)
	}
	return "the text " + strconv.Quote(clip(n.Value))
}

// clip shortens what a message quotes.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	n := most
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// didYouMean names the nearest of the candidates if it is near: the same but for case, `_`, `-` and `.`, or at most
// two edits (one in a word of up to four letters) away.
func didYouMean(s string, candidates ...string) string {
	best, least := "", 3
	if len(s) <= 4 {
		least = 2
	}
	if len(s) > maxName {
		return ""
	}
	for _, c := range candidates {
		d := edits(s, c, least)
		if squash(s) == squash(c) {
			d = 0
		}
		if d < least {
			best, least = c, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

func squash(s string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(s))
}

// edits is the Levenshtein distance, or at least `enough` if the lengths already differ by as much.
func edits(a, b string, enough int) int {
	if len(a)-len(b) >= enough || len(b)-len(a) >= enough {
		return enough
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
