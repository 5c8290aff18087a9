package records

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readAll(t *testing.T, r *Reader) []Record {
	t.Helper()
	var all []Record
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		rec.Payload = bytes.Clone(rec.Payload)
		all = append(all, rec)
	}
}

func TestReaderLines(t *testing.T) {
	with := func(ms int64, p string) Record { return Record{Ingest: ms, HasIngest: true, Payload: []byte(p)} }
	bare := func(p string) Record { return Record{Payload: []byte(p)} }
	for _, c := range []struct {
		name, in string
		want     []Record
	}{
		{"empty file", "", nil},
		{"one empty line", "\n", []Record{bare("")}},
		{"two empty lines and no LF", "\n\n{}", []Record{bare(""), bare(""), bare("{}")}},
		{"head", "17\t{}\n", []Record{with(17, "{}")}},
		{"head and no LF", "17\t{}", []Record{with(17, "{}")}},
		{"head and empty payload", "17\t\n", []Record{with(17, "")}},
		{"head of zeros", "000\tx\n", []Record{with(0, "x")}},
		{"payload alone", "{\"a\":1}\n", []Record{bare("{\"a\":1}")}},
		{"digits alone are payload", "17\n", []Record{bare("17")}},
		{"no digits before the tab", "\t{}\n", []Record{bare("\t{}")}},
		{"sign", "-1\t{}\n", []Record{bare("-1\t{}")}},
		{"space", "1 \t{}\n", []Record{bare("1 \t{}")}},
		{"arabic digits", "١\t{}\n", []Record{bare("١\t{}")}},
		{"CR is payload", "1\t{}\r\n\r\n", []Record{with(1, "{}\r"), bare("\r")}},
		{"second tab is payload", "1\t2\t{}\n", []Record{with(1, "2\t{}")}},
		{"greatest", "9007199254740992\t\n", []Record{with(MaxIngest, "")}},
		{"above the greatest", "9007199254740993\t\n" + strings.Repeat("9", 100) + "\t\n",
			[]Record{with(MaxIngest, ""), with(MaxIngest, "")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(c.in))
			got := readAll(t, r)
			if len(got) != len(c.want) {
				t.Fatalf("got %d records %v, want %d", len(got), got, len(c.want))
			}
			for i := range got {
				if !same(got[i], c.want[i]) {
					t.Errorf("record %d is %+v (%q), want %+v (%q)", i, got[i], got[i].Payload, c.want[i], c.want[i].Payload)
				}
			}
			if r.Line() != int64(len(got)) || r.Cut() != 0 {
				t.Errorf("Line %d, Cut %d after %d records", r.Line(), r.Cut(), len(got))
			}
		})
	}
}

func same(a, b Record) bool {
	return a.HasIngest == b.HasIngest && a.Ingest == b.Ingest && bytes.Equal(a.Payload, b.Payload)
}

func TestReaderLongLines(t *testing.T) {
	for _, n := range []int{1<<16 - 1, 1 << 16, 1<<16 + 1, MaxLine - 1, MaxLine, MaxLine + 1, 3*MaxLine + 7} {
		for _, end := range []string{"\n", "\nafter\n", ""} {
			r := NewReader(strings.NewReader(strings.Repeat("x", n) + end))
			rec, err := r.Next()
			if err != nil || len(rec.Payload) != min(n, MaxLine) {
				t.Fatalf("line of %d bytes: got %d, %v", n, len(rec.Payload), err)
			}
			if want := int64(0); n > MaxLine {
				want = 1
				if r.Cut() != want {
					t.Errorf("line of %d bytes: Cut is %d", n, r.Cut())
				}
			}
			rest := readAll(t, r)
			if end == "\nafter\n" && (len(rest) != 1 || string(rest[0].Payload) != "after") {
				t.Errorf("line of %d bytes: then %v", n, rest)
			}
		}
	}
}

func TestFilesRoundTrip(t *testing.T) {
	want := []Record{
		{Ingest: 0, HasIngest: true, Payload: []byte("{}")},
		{Payload: nil},
		{Ingest: MaxIngest, HasIngest: true, Payload: []byte("a\tb\r")},
		{Payload: []byte("{\"id\":\"é\x00\xff\"}")},
		{Ingest: 5, HasIngest: true, Payload: bytes.Repeat([]byte("y"), MaxLine-2)},
	}
	for _, name := range []string{"r.tsv", "r.tsv.gz", "r.tsv.zst"} {
		path := filepath.Join(t.TempDir(), name)
		var files [2][]byte
		for i := range files {
			w, err := Create(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range want {
				if err := w.Write(r); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if files[i], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(files[0], files[1]) {
			t.Errorf("%s: the same records gave other bytes", name)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, f.Reader)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d records", name, len(got))
		}
		for i := range got {
			if !same(got[i], want[i]) {
				t.Errorf("%s: record %d differs", name, i)
			}
		}
		if list, _ := os.ReadDir(filepath.Dir(path)); len(list) != 1 {
			t.Errorf("%s: left behind: %v", name, list)
		}
		if strings.HasSuffix(name, "tsv") {
			continue
		}
		if err := os.WriteFile(path, files[0][:len(files[0])/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err = Open(path); err != nil {
			continue
		}
		for err == nil {
			_, err = f.Next()
		}
		if err == io.EOF {
			t.Errorf("%s: half a file reads as a whole one", name)
		}
		f.Close()
	}
}

func TestCreateWritesThroughLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	f, err := Create(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Write(Record{Payload: []byte("new")}), f.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "new\n" {
		t.Errorf("its target holds %q, %v", got, err)
	}
}

func TestDiscardKeepsTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.tsv")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Record{Payload: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	w.Discard()
	if got, _ := os.ReadFile(path); string(got) != "old\n" {
		t.Errorf("the file holds %q", got)
	}
}

// Two runs that write one file at once are not in each other's way: it is one's and then the other's, whole.
func TestTwoWritersOfOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.tsv")
	var both [2]*FileWriter
	for i := range both {
		var err error
		if both[i], err = Create(path); err != nil {
			t.Fatal(err)
		}
		defer both[i].Discard()
	}
	for i, text := range []string{"first, which is the longer", "second"} {
		for range 10_000 { // more than is buffered
			if err := both[1-i].Write(Record{Payload: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, text := range []string{"second\n", "first, which is the longer\n"} {
		if err := both[i].Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != strings.Repeat(text, 10_000) {
			t.Errorf("after close %d it has %d bytes and not only %q, %v", i, len(got), text, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestWriterRefuses(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, "x.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r    Record
		want error
	}{
		{Record{Payload: []byte("a\nb")}, ErrPayload},
		{Record{Payload: []byte("12\tb")}, ErrPayload},
		{Record{Payload: make([]byte, MaxLine+1)}, ErrPayload},
		{Record{HasIngest: true, Payload: make([]byte, MaxLine-1)}, ErrPayload},
		{Record{HasIngest: true, Ingest: -1}, ErrIngest},
		{Record{HasIngest: true, Ingest: MaxIngest + 1}, ErrIngest},
	} {
		if err := w.Write(c.r); !errors.Is(err, c.want) {
			t.Errorf("%d bytes: %v, want %v", len(c.r.Payload), err, c.want)
		}
	}
	if w.Close(); out.Len() != 0 || w.Count() != 0 {
		t.Errorf("wrote %d records, %d bytes", w.Count(), out.Len())
	}
}

func TestBrokenInputNamesTheLine(t *testing.T) {
	r := NewReader(io.MultiReader(strings.NewReader("a\nb\nc"), failing{}))
	r.Next()
	r.Next()
	for range 2 {
		if _, err := r.Next(); err == nil || !strings.Contains(err.Error(), "line 3: disk") {
			t.Errorf("got %v", err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk") }

func TestBeaconJSON(t *testing.T) {
	full := Beacon{ID: "1", Tenant: "shop", Session: "s", Visitor: "v", TS: 17, Point: "order", Device: "mobile", Login: False,
		Experiments: []Member{Text("x", "a")}, Values: []Member{Number("v", "33.20"), Number("w", "-1")}, Attrs: []Member{Text("q", "<&>")}}
	for _, c := range []struct {
		b    Beacon
		want string
	}{
		{Beacon{ID: "1", Session: "s"}, `{"id":"1","session":"s","ts":0}`},
		{full, `{"id":"1","tenant":"shop","session":"s","visitor":"v","ts":17,"point":"order","experiments":{"x":"a"},` +
			`"values":{"v":33.20,"w":-1},"attrs":{"q":"<&>"},"device":"mobile","login":false}`},
	} {
		if got := string(c.b.AppendJSON(nil)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a\"b\\c/\b\f\n\r\t\x00\x1f\x7f", "é\u2028\u2029😀", "\xff\xed\xa0\x80", "<script>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			t.Fatal(err)
		}
		if got := string(appendString(nil, s)) + "\n"; got != want.String() {
			t.Errorf("%q: got %s want %s", s, got, want.String())
		}
	})
}

// FuzzReader: whatever the file, its lines come back whole, and writing them again gives lines that read the same.
func FuzzReader(f *testing.F) {
	f.Add([]byte("1\t{}\n\n\r\n2\n3\tx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		first := readAll(t, NewReader(bytes.NewReader(data)))
		var out bytes.Buffer
		w, _ := NewWriter(&out, "")
		for _, r := range first {
			if err := w.Write(r); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		again := readAll(t, NewReader(&out))
		if len(again) != len(first) {
			t.Fatalf("%d records, then %d", len(first), len(again))
		}
		for i := range first {
			if !same(first[i], again[i]) {
				t.Errorf("record %d: %+v, then %+v", i, first[i], again[i])
			}
		}
	})
}
