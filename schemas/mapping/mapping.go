// Package mapping turns rows of other systems (CSV, NDJSON, Apache access logs) into records by a mapping file: YAML whose
// expressions over a row's columns say what the fields of its beacons are. It is what `tandem import` runs.
//
// The same input gives the same bytes, on any machine: expressions see neither the clock nor the time zone.
package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxMapping is the largest mapping file, in bytes: far above any that a person writes.
const maxMapping = 1 << 20

// Format is the shape of the input.
type Format string

// The formats. Combined reads Apache's combined log and also the common one, which is the same without its last two columns.
const (
	CSV      Format = "csv"
	NDJSON   Format = "ndjson"
	Combined Format = "combined"
)

// Mapping is a mapping file, checked as far as it can be without the input's columns. It is immutable.
type Mapping struct {
	format    Format
	separator byte     // of CSV
	columns   []string // of CSV: the header, when the file has none
	blocks    []block  // at least one
}

// block is what one beacon of a row is made of.
type block struct {
	where                      []*source // all must be true
	ingest                     *source   // nil: ts
	fields                     [len(fieldNames)]*source
	values, attrs, experiments []named // by name
	line                       int     // where it begins in the mapping file
}

// named is an entry of values, attrs or experiments.
type named struct {
	name string
	src  *source
}

// source is an expression as written.
type source struct {
	text string
	what string // its place, as "fields.id"
	at   string // "mapping.yaml:12"
}

func (s *source) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %s", s.at, s.what, fmt.Sprintf(format, args...))
}

// The fields of a beacon that a mapping gives, in the order in which they are worked out.
const (
	fID = iota
	fTenant
	fSession
	fVisitor
	fTS
	fPoint
	fDevice
	fLogin
)

var fieldNames = [...]string{"id", "tenant", "session", "visitor", "ts", "point", "device", "login"}

// Load reads and parses a mapping file.
func Load(path string) (*Mapping, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse parses the bytes of a mapping file. An unknown key, a key used twice, a value of a wrong kind or an expression with
// a syntax error is an error that names the file (as name) and the line.
func Parse(name string, data []byte) (*Mapping, error) {
	if len(data) > maxMapping {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", name, len(data), maxMapping)
	}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	err := d.Decode(&doc)
	if err == io.EOF {
		return nil, fmt.Errorf("%s: it is empty; a mapping has at least `format:` and `fields:`", name)
	}
	var second yaml.Node
	if err == nil {
		if err = d.Decode(&second); err == io.EOF {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("line %d: a second document begins; a file has one", second.Line)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return loader{name: name}.mapping(doc.Content[0])
}

// loader walks the YAML nodes, which know their lines.
type loader struct{ name string }

func (p loader) errorf(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.name, n.Line, fmt.Sprintf(format, args...))
}

// each calls fn for the members of a YAML mapping; keys are unique strings.
func (p loader) each(n *yaml.Node, what string, fn func(key string, k, v *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return p.errorf(n, "%s must be a list of `key: value` lines", what)
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			return p.errorf(k, "%s: a key must be plain text", what)
		}
		if line, ok := seen[k.Value]; ok {
			return p.errorf(k, "%s: key %q stands already in line %d", what, k.Value, line)
		}
		seen[k.Value] = k.Line
		if err := fn(k.Value, k, v); err != nil {
			return err
		}
	}
	return nil
}

func (p loader) scalar(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", p.errorf(n, "%s must be one text value", what)
	}
	return n.Value, nil
}

func (p loader) unknown(k *yaml.Node, what string, known ...string) error {
	return p.errorf(k, "unknown key %q in %s; known are %s", k.Value, what, strings.Join(known, ", "))
}

func (p loader) mapping(root *yaml.Node) (*Mapping, error) {
	m := &Mapping{separator: ','}
	top := block{line: root.Line}
	var beacons, options *yaml.Node
	err := p.each(root, "the mapping", func(key string, k, v *yaml.Node) error {
		switch key {
		case "format":
			s, err := p.scalar(v, key)
			if err != nil {
				return err
			}
			if m.format = Format(s); m.format != CSV && m.format != NDJSON && m.format != Combined {
				return p.errorf(v, "format %q is none of csv, ndjson, combined", s)
			}
		case "csv":
			options = v
			return p.csv(v, m)
		case "beacons":
			beacons = v
		default:
			ok, err := p.blockKey(&top, key, v)
			if err == nil && !ok {
				err = p.unknown(k, "the mapping", append([]string{"format", "csv", "beacons"}, blockKeys...)...)
			}
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m.format == "" {
		return nil, p.errorf(root, "`format:` is missing; it is one of csv, ndjson, combined")
	}
	if options != nil && m.format != CSV {
		return nil, p.errorf(options, "`csv:` belongs to format csv, not to %s", m.format)
	}
	if m.blocks, err = p.blocks(top, beacons); err != nil {
		return nil, err
	}
	for _, b := range m.blocks {
		for _, f := range []int{fID, fTenant, fSession, fTS} {
			if b.fields[f] == nil {
				return nil, fmt.Errorf("%s:%d: fields.%s is missing; every beacon has one", p.name, b.line, fieldNames[f])
			}
		}
		for _, src := range b.sources() {
			if err := src.check(); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// blocks gives the blocks of `beacons:`, each on top of what stands outside of it; without it, that alone.
func (p loader) blocks(top block, list *yaml.Node) ([]block, error) {
	if list == nil {
		return []block{top}, nil
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, p.errorf(list, "beacons must be a list with at least one block")
	}
	var all []block
	for _, n := range list.Content {
		own := block{line: n.Line}
		err := p.each(n, "a block of beacons", func(key string, k, v *yaml.Node) error {
			ok, err := p.blockKey(&own, key, v)
			if err == nil && !ok {
				err = p.unknown(k, "a block of beacons", blockKeys...)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, top.with(own))
	}
	return all, nil
}

// with is b, changed by what own says.
func (b block) with(own block) block {
	b.line = own.line
	b.where = append(slices.Clone(b.where), own.where...)
	if own.ingest != nil {
		b.ingest = own.ingest
	}
	for i, src := range own.fields {
		if src != nil {
			b.fields[i] = src
		}
	}
	b.values = merge(b.values, own.values)
	b.attrs = merge(b.attrs, own.attrs)
	b.experiments = merge(b.experiments, own.experiments)
	return b
}

func merge(base, own []named) []named {
	all := slices.Clone(own)
	for _, n := range base {
		if !slices.ContainsFunc(own, func(o named) bool { return o.name == n.name }) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return all
}

func (b *block) sources() []*source {
	all := slices.Clone(b.where)
	for _, src := range append(b.fields[:], b.ingest) {
		if src != nil {
			all = append(all, src)
		}
	}
	for _, list := range [][]named{b.values, b.attrs, b.experiments} {
		for _, n := range list {
			all = append(all, n.src)
		}
	}
	return all
}

var blockKeys = []string{"where", "ingest", "fields", "values", "attrs", "experiments"}

// blockKey reads a key that may stand in a block; false if it is none.
func (p loader) blockKey(b *block, key string, v *yaml.Node) (bool, error) {
	switch key {
	case "where":
		src, err := p.source(v, key)
		b.where = append(b.where, src)
		return true, err
	case "ingest":
		src, err := p.source(v, key)
		b.ingest = src
		return true, err
	case "fields":
		return true, p.each(v, key, func(name string, k, v *yaml.Node) error {
			i := slices.Index(fieldNames[:], name)
			if i < 0 {
				return p.unknown(k, key, fieldNames[:]...)
			}
			src, err := p.source(v, "fields."+name)
			b.fields[i] = src
			return err
		})
	case "values":
		return true, p.named(v, key, &b.values)
	case "attrs":
		return true, p.named(v, key, &b.attrs)
	case "experiments":
		return true, p.named(v, key, &b.experiments)
	}
	return false, nil
}

func (p loader) named(n *yaml.Node, what string, list *[]named) error {
	err := p.each(n, what, func(name string, k, v *yaml.Node) error {
		src, err := p.source(v, what+"."+name)
		*list = append(*list, named{name, src})
		return err
	})
	*list = merge(nil, *list)
	return err
}

func (p loader) source(n *yaml.Node, what string) (*source, error) {
	text, err := p.scalar(n, what)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, p.errorf(n, "%s is empty; leave the line out instead", what)
	}
	return &source{text: text, what: what, at: fmt.Sprintf("%s:%d", p.name, n.Line)}, nil
}

func (p loader) csv(n *yaml.Node, m *Mapping) error {
	return p.each(n, "csv", func(key string, k, v *yaml.Node) error {
		switch key {
		case "separator":
			s, err := p.scalar(v, "csv.separator")
			if err != nil {
				return err
			}
			if len(s) != 1 || s[0] >= 0x80 || strings.ContainsAny(s, "\"\r\n") {
				return p.errorf(v, "csv.separator must be one ASCII character, as \",\" or \"\\t\" in double quotes; it is %q", s)
			}
			m.separator = s[0]
		case "columns":
			if v.Kind != yaml.SequenceNode || len(v.Content) == 0 {
				return p.errorf(v, "csv.columns must be a list of column names, for a file without a header")
			}
			for _, c := range v.Content {
				s, err := p.scalar(c, "csv.columns")
				if err != nil {
					return err
				}
				m.columns = append(m.columns, s)
			}
			if err := checkColumns(m.columns); err != nil {
				return p.errorf(v, "csv.columns: %s", err)
			}
		default:
			return p.unknown(k, "csv", "separator", "columns")
		}
		return nil
	})
}

func checkColumns(names []string) error {
	seen := make(map[string]bool, len(names))
	for _, s := range names {
		if s == "" {
			return errors.New("a column has no name")
		}
		if seen[s] {
			return fmt.Errorf("column %q stands twice", s)
		}
		seen[s] = true
	}
	return nil
}
