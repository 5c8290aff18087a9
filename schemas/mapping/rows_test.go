package mapping

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"tandem/schemas/records"
)

// readCSV gives each row as its line and columns, or its line and the reason that it is refused.
func readCSV(t testing.TB, text string, columns []string) (got []string) {
	t.Helper()
	c, err := openCSV(records.NewLines(strings.NewReader(text)), ',', columns)
	if err != nil {
		return []string{err.Error()}
	}
	for {
		line, err := c.row()
		var no refusal
		switch {
		case err == io.EOF:
			return got
		case errors.As(err, &no):
			got = append(got, fmt.Sprintf("%d: %s", line, no.reason))
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%d %q", line, c.fields))
		}
	}
}

func TestCSVRows(t *testing.T) {
	closed := ": a quote that begins a column is never closed"
	long := strings.Repeat("x", records.MaxLine)
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"plain", "a,b\nc,\n,d", []string{`1 ["a" "b"]`, `2 ["c" ""]`, `3 ["" "d"]`}},
		{"empty lines", "\n\r\na\n\nb\r\n\n", []string{`3 ["a"]`, `5 ["b"]`}},
		{"quotes", `"a,""b""",c,""`, []string{`1 ["a,\"b\"" "c" ""]`}},
		{"lines in quotes", "\"a\n\r\n\nb\r\",c\r\nd\n", []string{`1 ["a\n\r\n\nb\r" "c"]`, `5 ["d"]`}},
		{"two quoted columns over lines", "\"a\nb\",\"c\nd\"\ne\n", []string{`1 ["a\nb" "c\nd"]`, `4 ["e"]`}},
		{"quote in a column", "a\"b,c\nd\n", []string{"1: column 1: a quote within a column that does not begin with one", `2 ["d"]`}},
		{"text behind a quote", "x,\"a\"b\nd\n", []string{"1: column 2: text after the closing quote", `2 ["d"]`}},
		{"never closed", "\"a\nb\nc\n", []string{"1" + closed, `2 ["b"]`, `3 ["c"]`}},
		{"never closed, empty lines", "\"a\n\n\n", []string{"1" + closed}},
		{"never closed, then closed wrongly", "\"a\nb\n\"c\nd\n", []string{"1: column 1: text after the closing quote", `2 ["b"]`, "3" + closed, `4 ["d"]`}},
		{"long line", long + "x\na\n", []string{"1: the line is longer than 1048576 bytes", `2 ["a"]`}},
		{"never closed before a long line", "\"a\nb\n" + long + "x\nc\n",
			[]string{"1" + closed, `2 ["b"]`, "3: the line is longer than 1048576 bytes", `4 ["c"]`}},
		{"never closed before too much", "\"a\nb\n\"" + long[2:] + "\"\nc\n",
			[]string{"1" + closed, `2 ["b"]`, fmt.Sprintf("3 [%q]", long[2:]), `4 ["c"]`}},
		{"no UTF-8", "a\xff\nb\n", []string{"1: it is not UTF-8", `2 ["b"]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := readCSV(t, c.in, []string{"x"}); !slices.Equal(got, c.want) {
				t.Errorf("got  %.300q\nwant %.300q", got, c.want)
			}
		})
	}
}

func TestCSVHeader(t *testing.T) {
	for in, want := range map[string]string{
		"":         "the file is empty: there is no header",
		"\n\n":     "the file is empty: there is no header",
		"\na,,b\n": "line 2: header: a column has no name",
		"a,a\n":    `line 1: header: column "a" stands twice`,
		"\"a\n":    "line 1: header: a quote that begins a column is never closed",
	} {
		if got := readCSV(t, in, nil); !slices.Equal(got, []string{want}) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestCSVHeaderUnread: what the reader says has the line already.
func TestCSVHeaderUnread(t *testing.T) {
	_, err := openCSV(records.NewLines(iotest.ErrReader(errors.New("broken"))), ',', nil)
	if err == nil || err.Error() != "line 1: broken" {
		t.Errorf("got %v", err)
	}
}

// FuzzCSV: what the standard library reads strictly is read the same here; and no line is lost or read twice.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"a,b\n", "\"a\n\"\"b\",c\r\n\n", "\"a\nb\n", "a\"b\n", "\"a\"b\n\"c\n", "\r\n\r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := readCSV(t, text, []string{"x"})
		last := int64(0)
		for _, g := range got {
			var line int64
			if _, err := fmt.Sscanf(g, "%d", &line); err != nil || line <= last {
				t.Fatalf("%q: rows %q", text, got)
			}
			last = line
		}
		if strings.ContainsRune(text, '\r') || strings.Contains(strings.Join(got, ""), "UTF-8") {
			return // encoding/csv turns CR LF within quotes into LF
		}
		std := csv.NewReader(strings.NewReader(text))
		std.FieldsPerRecord = -1
		all, err := std.ReadAll()
		if err != nil {
			return
		}
		if len(all) != len(got) {
			t.Fatalf("%q: %d rows %q, encoding/csv has %d", text, len(got), got, len(all))
		}
		for i, fields := range all {
			if _, rest, _ := strings.Cut(got[i], " "); rest != fmt.Sprintf("%q", fields) {
				t.Errorf("%q: row %d is %s, encoding/csv has %q", text, i, got[i], fields)
			}
		}
	})
}
