package mapping

import (
	"strings"
	"testing"

	"tandem/schemas/records"
)

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", "m.yaml: it is empty"},
		{"no YAML", "format: [", "m.yaml: line 1"},
		{"a list", "- a\n", "m.yaml:1: the mapping must be a list of `key: value` lines"},
		{"two documents", "format: csv\n" + base + "---\nformat: csv\n", "a second document begins"},
		{"no format", base, "m.yaml:1: `format:` is missing"},
		{"format", "format: xml\n" + base, `m.yaml:1: format "xml" is none of csv, ndjson, combined`},
		{"unknown key", "format: csv\n" + base + "value: {a: b}\n", `m.yaml:3: unknown key "value" in the mapping`},
		{"unknown field", "format: csv\nfields: {ids: a}\n", `m.yaml:2: unknown key "ids" in fields`},
		{"unknown option", "format: csv\ncsv:\n  quote: x\n" + base, `m.yaml:3: unknown key "quote" in csv`},
		{"unknown key of a block", "format: csv\n" + base + "beacons:\n  - point: x\n", `m.yaml:4: unknown key "point" in a block of beacons`},
		{"twice", "format: csv\nformat: csv\n" + base, `m.yaml:2: the mapping: key "format" stands already in line 1`},
		{"twice in values", "format: csv\n" + base + "values:\n  a: b\n  a: c\n", `m.yaml:5: values: key "a" stands already in line 4`},
		{"csv of ndjson", "format: ndjson\ncsv: {separator: ;}\n" + base, "m.yaml:2: `csv:` belongs to format csv"},
		{"separator", "format: csv\ncsv: {separator: ab}\n" + base, "m.yaml:2: csv.separator must be one ASCII character"},
		{"columns", "format: csv\ncsv: {columns: [a, a]}\n" + base, `m.yaml:2: csv.columns: column "a" stands twice`},
		{"missing field", "format: csv\nfields: {id: a}\n", "m.yaml:1: fields.tenant is missing"},
		{"missing field of a block", "format: csv\nfields: {tenant: a, session: b, ts: c}\nbeacons:\n  - {}\n", "m.yaml:4: fields.id is missing"},
		{"no blocks", "format: csv\n" + base + "beacons: []\n", "m.yaml:3: beacons must be a list"},
		{"syntax", "format: csv\n" + base + "where: a ==\n", "m.yaml:3: where: unexpected token EOF"},
		{"empty expression", "format: csv\n" + base + "where: ' '\n", "m.yaml:3: where is empty"},
		{"null", "format: csv\n" + base + "where:\n", "m.yaml:3: where must be one text value"},
		{"alias", "format: csv\nfields: {id: &a x, tenant: *a, session: x, ts: x}\n", "m.yaml:2: fields.tenant must be one text value"},
		{"the clock", "format: csv\n" + base + "ingest: now()\n", "m.yaml:3: ingest: there is no function now()"},
		{"arguments", "format: csv\n" + base + "ingest: time(1)\n", "m.yaml:3: ingest: not enough arguments to call time"},
		{"too long", "#" + strings.Repeat("x", maxMapping), "m.yaml: 1048577 bytes, at most 1048576 are read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("m.yaml", []byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestColumnsAreChecked(t *testing.T) {
	for expression, want := range map[string]string{
		"price":              "m.yaml:3: values.v: unknown name price (1:1); the columns are at, n, num",
		"num(price)":         "m.yaml:3: values.v: unknown name price",
		`row["odd price"]`:   `m.yaml:3: values.v: the input has no column "odd price"; the columns are at, n, num`,
		`1 + hash`:           `m.yaml:3: values.v: the input has no column "hash"`,
		`n == 1 ? n : nil`:   "m.yaml:3: values.v: invalid operation: == (mismatched types string and int)",
		`n.x`:                "m.yaml:3: values.v: type string has no field x",
		`num(num) + num(n)`:  "",
		`num(row["num"]) *2`: "",
	} {
		m, err := Parse("m.yaml", []byte("format: csv\n"+base+"values:  {v: '"+expression+"'}\n"))
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		_, err = m.Import(strings.NewReader("at,n,num\n1,2,3\n"), func(records.Record) error { return nil }, func(_ int64, reason string) {
			t.Errorf("%s: refused: %s", expression, reason)
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\ngot  %v\nwant %s", expression, err, want)
		}
	}
}

// FuzzParse: no mapping file makes Parse or Import fail in another way than by an error.
func FuzzParse(f *testing.F) {
	f.Add([]byte("format: csv\n"+base+"values: {v: num(at)}\n"), "at\n1\n")
	f.Add([]byte("format: combined\n"+base+"where: status == \"200\"\n"), "a b c [d] \"e\" 200 7\n")
	f.Add([]byte("format: ndjson\n"+base+"attrs: {v: a?.b}\n"), "{\"at\":1}\n")
	f.Fuzz(func(t *testing.T, mapping []byte, input string) {
		m, err := Parse("m.yaml", mapping)
		if err != nil {
			return
		}
		m.Import(strings.NewReader(input), func(records.Record) error { return nil }, func(int64, string) {})
	})
}
