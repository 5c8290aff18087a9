package mapping

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"tandem/schemas/records"
)

// row is one row of the input: its columns by name, as strings (CSV, access logs) or as JSON values with
// numbers as json.Number.
type row struct {
	line int64 // in the input, from 1, where the row begins
	cols map[string]any
}

// rows reads the rows of an input.
type rows interface {
	// columns are the names that every row has, in order; nil if rows are free in what they have.
	columns() []string
	// next reads the next row into r, whose columns are valid until the next call. Besides io.EOF and errors that
	// end the reading it gives a refusal, with r.line set; then the next row can be read.
	next(r *row) error
}

// refusal is why one row cannot be read or mapped.
type refusal struct{ reason string }

func (r refusal) Error() string { return r.reason }

func refuse(format string, args ...any) error { return refusal{fmt.Sprintf(format, args...)} }

// errLong refuses a line that Lines has cut.
func errLong() error { return refuse("the line is longer than %d bytes", records.MaxLine) }

func openRows(m *Mapping, in io.Reader) (rows, error) {
	lines := records.NewLines(withoutMark(in))
	switch m.format {
	case NDJSON:
		return &ndjsonRows{lines: lines}, nil
	case Combined:
		return &combinedRows{lines: lines, cols: map[string]any{}}, nil
	}
	return openCSV(lines, m.separator, m.columns)
}

// withoutMark passes over the byte order mark that spreadsheets and programs of Windows put before UTF-8: it is of no row.
func withoutMark(in io.Reader) io.Reader {
	const mark = "\ufeff"
	r := bufio.NewReaderSize(in, 1<<16)
	if head, _ := r.Peek(len(mark)); string(head) == mark {
		r.Discard(len(mark))
	}
	return r
}

// csvRows reads RFC 4180: quotes around a column only, doubled inside, line feeds allowed there. Lines end with LF
// or CR LF. Empty lines are passed over.
type csvRows struct {
	lines     *records.Lines
	separator byte
	names     []string
	cols      map[string]any

	pending []textLine // lines that were read as the rest of a broken row, to be read again
	at      int64      // number of the last line taken
	text    []byte     // the row, its lines joined by LF
	spans   [][2]int   // where in text its lines are
	fields  []string
}

type textLine struct {
	text []byte
	cut  bool
}

func openCSV(lines *records.Lines, separator byte, names []string) (*csvRows, error) {
	c := &csvRows{lines: lines, separator: separator, names: names, cols: map[string]any{}}
	if names != nil {
		return c, nil
	}
	line, err := c.row()
	if err == io.EOF {
		return nil, errors.New("the file is empty: there is no header")
	}
	if _, ok := err.(refusal); ok {
		return nil, fmt.Errorf("line %d: header: %w", line, err)
	} else if err != nil {
		return nil, err // of reading, which names the line
	}
	c.names = append([]string(nil), c.fields...)
	if err := checkColumns(c.names); err != nil {
		return nil, fmt.Errorf("line %d: header: %w", line, err)
	}
	return c, nil
}

func (c *csvRows) columns() []string { return c.names }

func (c *csvRows) next(r *row) error {
	var err error
	if r.line, err = c.row(); err != nil {
		return err
	}
	if len(c.fields) != len(c.names) {
		return refuse("%d columns, the header has %d", len(c.fields), len(c.names))
	}
	for i, name := range c.names {
		c.cols[name] = c.fields[i]
	}
	r.cols = c.cols
	return nil
}

// row reads the next row into c.fields.
func (c *csvRows) row() (line int64, err error) {
	c.text = c.text[:0]
	for len(c.text) == 0 {
		c.spans = c.spans[:0]
		if err := c.more(); err != nil {
			return c.at, err
		}
	}
	line = c.at
	open, err := c.split()
	if err == nil && open {
		// A row is whole when its quotes are even in number; so each further line is looked at once, and split once.
		quotes := bytes.Count(c.text, []byte{'"'})
		for err == nil && quotes%2 == 1 {
			before := len(c.text)
			c.text = append(c.text, '\n')
			err = c.more()
			quotes += bytes.Count(c.text[before:], []byte{'"'})
		}
		if err == nil {
			if open, err = c.split(); open {
				err = refuse("a quote that begins a column is never closed")
			}
		} else if _, ok := err.(refusal); ok || err == io.EOF {
			err = refuse("a quote that begins a column is never closed")
		}
		if _, ok := err.(refusal); ok {
			c.giveBack()
		}
	}
	if err == nil && !utf8.Valid(c.text) {
		err = refuse("it is not UTF-8")
	}
	return line, err
}

// more appends the next line to c.text; one that does not fit is refused, and left for the next row unless it is the first.
func (c *csvRows) more() error {
	var l textLine
	if len(c.pending) > 0 {
		l, c.pending = c.pending[0], c.pending[1:]
	} else {
		var err error
		if l.text, l.cut, err = c.lines.Next(); err != nil {
			return err
		}
	}
	if l.cut || len(c.text)+len(l.text) > records.MaxLine {
		if len(c.spans) == 0 {
			c.at++
		} else {
			c.pending = append([]textLine{{bytes.Clone(l.text), l.cut}}, c.pending...)
		}
		return errLong()
	}
	c.at++
	start := len(c.text)
	c.text = append(c.text, l.text...)
	if len(c.spans) == 0 && string(c.text) == "\r" {
		c.text = c.text[:0]
	}
	c.spans = append(c.spans, [2]int{start, len(c.text)})
	return nil
}

// giveBack makes all lines of the row but the first unread again: a quote that is never closed must not
// take good rows with it.
func (c *csvRows) giveBack() {
	var back []textLine
	for _, span := range c.spans[1:] {
		back = append(back, textLine{text: bytes.Clone(c.text[span[0]:span[1]])})
	}
	c.at -= int64(len(back))
	c.pending = append(back, c.pending...)
}

// split fills c.fields from c.text; open means that it ends within quotes.
func (c *csvRows) split() (open bool, err error) {
	c.fields = c.fields[:0]
	rest := bytes.TrimSuffix(c.text, []byte{'\r'})
	for {
		var field []byte
		if len(rest) > 0 && rest[0] == '"' {
			rest = rest[1:]
			for {
				i := bytes.IndexByte(rest, '"')
				if i < 0 {
					return true, nil
				}
				field, rest = append(field, rest[:i]...), rest[i+1:]
				if len(rest) == 0 || rest[0] != '"' {
					break
				}
				field, rest = append(field, '"'), rest[1:]
			}
			c.fields = append(c.fields, string(field))
			if len(rest) == 0 {
				return false, nil
			}
			if rest[0] != c.separator {
				return false, refuse("column %d: text after the closing quote", len(c.fields))
			}
			rest = rest[1:]
			continue
		}
		i := bytes.IndexByte(rest, c.separator)
		if field = rest; i >= 0 {
			field = rest[:i]
		}
		if bytes.IndexByte(field, '"') >= 0 {
			return false, refuse("column %d: a quote within a column that does not begin with one", len(c.fields)+1)
		}
		c.fields = append(c.fields, string(field))
		if i < 0 {
			return false, nil
		}
		rest = rest[i+1:]
	}
}

// ndjsonRows reads one JSON object a line; empty lines are passed over.
type ndjsonRows struct{ lines *records.Lines }

func (n *ndjsonRows) columns() []string { return nil }

func (n *ndjsonRows) next(r *row) error {
	for {
		line, cut, err := n.lines.Next()
		if err != nil {
			return err
		}
		r.line = n.lines.Line()
		if cut {
			return errLong()
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if !utf8.Valid(line) {
			return refuse("it is not UTF-8")
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		r.cols = nil
		if err := d.Decode(&r.cols); err != nil {
			return refuse("no JSON object: %s", err)
		}
		if r.cols == nil {
			return refuse("no JSON object: null")
		}
		if _, err := d.Token(); err != io.EOF {
			return refuse("text after the JSON object")
		}
		if loneSurrogate(line) {
			return refuse("it holds half of a pair of surrogates")
		}
		return nil
	}
}

// loneSurrogate looks in valid JSON for what encoding/json reads as U+FFFD, which would make different ids one.
func loneSurrogate(line []byte) bool {
	unit := func(i int) rune { // of the escape at i
		if i+6 > len(line) || line[i] != '\\' || line[i+1] != 'u' {
			return 0
		}
		r, _ := strconv.ParseUint(string(line[i+2:i+6]), 16, 16)
		return rune(r)
	}
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' {
			continue
		}
		if r := unit(i); !utf16.IsSurrogate(r) {
			i++ // what is escaped may be a backslash
		} else if utf16.DecodeRune(r, unit(i+6)) != utf8.RuneError {
			i += 11
		} else {
			return true
		}
	}
	return false
}
