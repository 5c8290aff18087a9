// Package scripts holds the rules of the house as tests: what DESIGN 3 and the style ask of every file and no compiler
// checks. Each rule reports all faults, and what to do instead.
package scripts

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// corePure are the libraries that the core may import: small, and pure functions.
var corePure = []string{
	"github.com/cespare/xxhash/v2",
	"github.com/expr-lang/expr/ast", "github.com/expr-lang/expr/file", "github.com/expr-lang/expr/parser", "github.com/expr-lang/expr/parser/lexer",
	"go.yaml.in/yaml/v3", "gonum.org/v1/gonum/mathext", "gonum.org/v1/gonum/stat/distuv",
}

// coreTests are those that its tests may import besides: references to compare with.
var coreTests = []string{"github.com/expr-lang/expr"}

// impure are packages of the standard library that the core does without, each with all below it.
var impure = []string{"os", "net", "log", "sync", "math/rand", "crypto/rand", "io/ioutil", "io/fs", "path/filepath", "context", "flag", "runtime",
	"syscall", "testing", "unsafe", "plugin", "embed", "expvar"}

// exceptions are imports that a rule allows, with the reason.
var exceptions = map[string]string{
	"core/oracle/worlds math/rand/v2": "it draws the tests' worlds from a seed, and serves nothing else",
	"scripts/measure jobs/embedded":   "it measures the whole pipeline, and nothing can import a command",
	"scripts/measure jobs/serve":      "it measures what is served, on a store whose time stands still",
}

// excepted says whether an exception is there, of what or of a folder that it lies in.
func excepted(dir, what string) bool {
	return exceptions[dir+" "+what] != "" || exceptions[dir+" "+path.Dir(what)] != ""
}

// mayImport are the folders of this module that each top folder may import. Of jobs only jobs, and of scripts nobody.
var mayImport = map[string][]string{
	"core":    {"core"},
	"schemas": {"core", "schemas"},
	"stream":  {"core", "schemas", "stream"},
	"batch":   {"core", "schemas", "batch"},
	"jobs":    {"core", "schemas", "stream", "batch", "jobs"},
	"scripts": {"core", "schemas", "stream", "batch"},
}

// serversForTests is the package that tests of all but the core may import too: it starts real servers for them.
const serversForTests = "scripts/devstack"

func layers(tr *tree) (faults []string) {
	tr.imports(func(f *source, where, what string) {
		dir, ok := local(what)
		top, _, _ := strings.Cut(f.dir, "/")
		target, _, _ := strings.Cut(dir, "/")
		if !ok || excepted(f.dir, dir) || f.test && top != "core" && dir == serversForTests {
			return
		}
		if !slices.Contains(mayImport[top], target) {
			faults = append(faults, fmt.Sprintf("%s: %s imports %s; it may import %s only: move what both need down to core or schemas, or pass it as a function or an interface",
				where, top, dir, strings.Join(mayImport[top], ", ")))
		}
	})
	return faults
}

func oracleInTests(tr *tree) (faults []string) {
	tr.imports(func(f *source, where, what string) {
		if dir, ok := local(what); ok && within(dir, "core/oracle") && !f.test && !f.under("core/oracle") {
			faults = append(faults, where+": the oracle is what tests compare with; import it in a _test file only")
		}
	})
	return faults
}

func coreImports(tr *tree) (faults []string) {
	tr.imports(func(f *source, where, what string) {
		if _, ok := local(what); ok || !f.under("core") || excepted(f.dir, what) {
			return
		}
		if !standard(what) {
			if !slices.Contains(corePure, what) && !(f.test && slices.Contains(coreTests, what)) {
				faults = append(faults, fmt.Sprintf("%s: %s is not on the core's list of small pure libraries (corePure in scripts/lint_test.go); do without it, or use it in schemas", where, what))
			}
			return
		}
		if !f.test && slices.ContainsFunc(impure, func(p string) bool { return within(what, p) }) {
			faults = append(faults, fmt.Sprintf("%s: the core is pure and does without %s; take what is needed as an argument", where, what))
		}
	})
	return faults
}

// effects are functions of packages that the core may import otherwise.
var effects = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation"},
	"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
}

func coreEffects(tr *tree) (faults []string) {
	for _, f := range tr.code {
		if f.test || !f.under("core") {
			continue
		}
		names := map[string]string{} // of imports in this file
		for _, spec := range f.syntax.Imports {
			what, err := strconv.Unquote(spec.Path.Value)
			if err != nil || effects[what] == nil {
				continue
			}
			names[path.Base(what)] = what
			if spec.Name != nil {
				delete(names, path.Base(what))
				names[spec.Name.Name] = what
			}
			if spec.Name != nil && spec.Name.Name == "." {
				faults = append(faults, tr.at(spec)+": import it under a name, so that it is seen what of it is used")
			}
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				faults = append(faults, tr.at(n)+": the core starts no goroutines; let the caller run things side by side")
			case *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
				faults = append(faults, tr.at(n)+": the core has no channels; return values, or take a function")
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") && id.Obj == nil {
					faults = append(faults, tr.at(n)+": the core prints nothing; return it")
				}
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok && id.Obj == nil && slices.Contains(effects[names[id.Name]], n.Sel.Name) {
					faults = append(faults, fmt.Sprintf("%s: the core knows no clock, zone, input or output: without %s.%s; take the value as an argument", tr.at(n), names[id.Name], n.Sel.Name))
				}
			}
			return true
		})
	}
	return faults
}

// tables are the core's variables of another form that are allowed: never written, read as constants.
var tables = []string{"core/metric.zeros", "core/session.bucketStart"}

// inits are the files that may have an init: archive's library takes codecs in no other way.
var inits = []string{"schemas/archive/codec.go"}

// globals: in the core a package's variables are errors and lookup tables; nowhere does code change one or run in init.
func globals(tr *tree) (faults []string) {
	vars := map[string]*ast.ValueSpec{} // by "folder.name"
	for _, f := range tr.code {
		if f.test {
			continue
		}
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !slices.Contains(inits, f.path) {
				faults = append(faults, tr.at(fn)+": no init; call it, or make a value that holds what it prepares")
			}
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				spec := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					key := f.dir + "." + name.Name
					vars[key] = spec
					if f.under("core") && name.Name != "_" && !slices.Contains(tables, key) && (i >= len(spec.Values) || !constant(spec.Values[i])) {
						faults = append(faults, fmt.Sprintf("%s: the core has no variables but errors.New, lookup tables and regexp.MustCompile; put %s into the value that uses it", tr.at(name), name.Name))
					}
				}
			}
		}
	}
	for _, f := range tr.code {
		if f.test {
			continue
		}
		changed := func(e ast.Expr) {
			id := root(e)
			if id == nil || id.Name == "_" {
				return
			}
			spec := vars[f.dir+"."+id.Name]
			// Objects are resolved within a file: another one's is nil, a local one's is not the variable's.
			if spec != nil && (id.Obj == nil || id.Obj.Decl == spec) {
				faults = append(faults, fmt.Sprintf("%s: %s is a package's variable and stays as it is declared; hold what changes in a value", tr.at(e), id.Name))
			}
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, e := range n.Lhs {
						changed(e)
					}
				}
			case *ast.IncDecStmt:
				changed(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					changed(n.X)
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (id.Name == "delete" || id.Name == "clear") {
					changed(n.Args[0])
				}
			}
			return true
		})
	}
	return faults
}

// constant says whether a variable's value is an error, a table or a regular expression.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CompositeLit:
		return true
	case *ast.CallExpr:
		if sel, ok := e.Fun.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok {
				return id.Name == "errors" && sel.Sel.Name == "New" || id.Name == "regexp" && sel.Sel.Name == "MustCompile"
			}
		}
	}
	return false
}

// root is the variable that an expression is a part of.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

const maxLines = 600

func sizes(tr *tree) (faults []string) {
	for _, f := range tr.code {
		if n := bytes.Count(tr.files[f.path], []byte("\n")); n > maxLines && !ast.IsGenerated(f.syntax) {
			faults = append(faults, fmt.Sprintf("%s: %d lines, more than %d; split it by what belongs together", f.path, n, maxLines))
		}
	}
	return faults
}

// The words stand in pieces, so that this file has none of them.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func finished(tr *tree) (faults []string) {
	tr.text(func(where, line string) {
		if word := unfinished.FindString(line); word != "" {
			faults = append(faults, fmt.Sprintf("%s: %s; do it, or say in plain words what is not done", where, word))
		}
	})
	return faults
}

var machinePath = regexp.MustCompile(`(^|[^\w./*~-])/(wo` + `rk|ro` + `ot|ho` + `me)/\w`)

func paths(tr *tree) (faults []string) {
	tr.text(func(where, line string) {
		if machinePath.MatchString(line) {
			faults = append(faults, where+": a path of one machine; make it relative to the repository, or an argument")
		}
	})
	return faults
}

func skips(tr *tree) (faults []string) {
	for _, f := range tr.code {
		if !f.test {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if sel.Sel.Name == "Fuzz" {
				return false // an input that a fuzz target passes over is no test left out
			}
			id, ok := sel.X.(*ast.Ident)
			if ok && len(call.Args) == 0 && (sel.Sel.Name == "Skip" || sel.Sel.Name == "SkipNow") && slices.Contains([]string{"t", "b", "f", "tb"}, id.Name) {
				faults = append(faults, tr.at(call)+": say in the call of Skip what is missing")
			}
			return true
		})
	}
	return faults
}

var topLevel = []string{"core", "stream", "batch", "schemas", "jobs", "scripts", "go.mod", "go.sum", "README.md"}

func topNames(tr *tree) (faults []string) {
	seen := map[string]bool{}
	for name := range tr.files {
		top, _, _ := strings.Cut(name, "/")
		if !seen[top] && !strings.HasPrefix(top, ".") && !slices.Contains(topLevel, top) {
			faults = append(faults, top+": DESIGN 3 fixes the top level; put it into one of its folders, or into .gitignore")
		}
		seen[top] = true
	}
	slices.Sort(faults)
	return faults
}

func formatted(tr *tree) (faults []string) {
	for _, f := range tr.code {
		want, err := format.Source(tr.files[f.path])
		if err != nil {
			faults = append(faults, f.path+": "+err.Error())
		} else if !bytes.Equal(want, tr.files[f.path]) {
			faults = append(faults, f.path+": run gofmt -w on it")
		}
	}
	return faults
}

// rules, each with a bad tree and, in order, what each of its faults must name: a rule that cannot fail is none.
var rules = []struct {
	name   string
	faults func(*tree) []string
	bad    map[string]string
	want   []string
}{
	{"layers", layers, map[string]string{
		"batch/a.go":           "package batch\n\nimport \"tandem/stream/archive\"\n",
		"core/x/a_test.go":     "package x\n\nimport \"tandem/schemas/row\"\n",
		"jobs/a.go":            "package main\n\nimport \"tandem/scripts/measure\"\n",
		"schemas/row/a.go":     "package row\n\nimport (\n\t\"tandem/batch\"\n\t\"tandem/core/metric\"\n)\n",
		"scripts/other/a.go":   "package main\n\nimport \"tandem/jobs/embedded\"\n",
		"stream/x/a_test.go":   "package x\n\nimport (\n\t\"tandem/batch\"\n\t\"tandem/schemas/row\"\n)\n",
		"stream/y/a_test.go":   "package y\n\nimport \"tandem/jobs/embedded\"\n",
		"stream/z/a.go":        "package z\n\nimport \"tandem/scripts/devstack\"\n",
		"stream/z/a_test.go":   "package z\n\nimport \"tandem/scripts/devstack\"\n",
		"core/y/a_test.go":     "package y\n\nimport \"tandem/scripts/devstack\"\n",
		"scripts/measure/a.go": "package main\n\nimport \"tandem/jobs/embedded\"\n",
	}, []string{"batch/a.go:3: batch imports stream/archive", "core/x/a_test.go:3", "core/y/a_test.go:3", "jobs/a.go:3", "schemas/row/a.go:4: schemas imports batch",
		"scripts/other/a.go:3", "stream/x/a_test.go:4: stream imports batch", "stream/y/a_test.go:3", "stream/z/a.go:3"}},
	{"oracle in tests only", oracleInTests, map[string]string{
		"core/session/a.go":      "package session\n\nimport \"tandem/core/oracle\"\n",
		"core/session/a_test.go": "package session\n\nimport \"tandem/core/oracle\"\n",
		"jobs/a.go":              "package main\n\nimport \"tandem/core/oracle/worlds\"\n",
	}, []string{"core/session/a.go:3", "jobs/a.go:3"}},
	{"core imports", coreImports, map[string]string{
		"core/x/a.go": "package x\n\nimport (\n\t\"github.com/expr-lang/expr\"\n\t\"log/slog\"\n\t\"math/rand/v2\"\n\t\"net\"\n\t\"os\"\n\t\"strings\"\n\t\"sync/atomic\"\n\t\"time\"\n\n" +
			"\t\"github.com/cespare/xxhash/v2\"\n)\n",
		"core/x/a_test.go": "package x\n\nimport (\n\t\"os\"\n\n\t\"github.com/expr-lang/expr\"\n\t\"github.com/twmb/franz-go/pkg/kgo\"\n)\n",
	}, []string{"core/x/a.go:4: github.com/expr-lang/expr", "a.go:5: the core is pure", "a.go:6", "a.go:7", "a.go:8", "a.go:10", "a_test.go:7: github.com/twmb"}},
	{"core has no effects", coreEffects, map[string]string{
		"core/x/a.go": "package x\n\nimport (\n\tclock \"time\"\n\t\"fmt\"\n)\n\nfunc f() {\n\tgo f()\n\t_ = clock.Now()\n\tfmt.Println()\n\tprintln()\n\t_, _ = clock.Parse(clock.RFC3339, \"\")\n" +
			"\tsince := clock.Since\n\t_ = since\n\tvar c chan int\n\tselect {}\n}\n",
	}, []string{"a.go:9: the core starts no goroutines", "a.go:10: the core knows no clock, zone, input or output: without time.Now", "a.go:11", "a.go:12: the core prints",
		"a.go:14", "a.go:16: the core has no channels", "a.go:17"}},
	{"globals", globals, map[string]string{
		"core/x/a.go": "package x\n\nimport \"errors\"\n\nvar (\n\terrA = errors.New(\"a\")\n\ttable = [...]int{1, 2}\n\tn int\n\tcache = map[string]int{}\n\tbuf = make([]byte, 9)\n)\n\nvar _ = f\n\n" +
			"func f(table []int) {\n\ttable[0] = 1\n\tcache[\"a\"]++\n\terrA := 1\n\terrA = 2\n\t_ = errA\n}\n",
		"core/x/b.go":   "package x\n\nfunc g() {\n\ttable[1] = 3\n\tclear(cache)\n\treturn\n}\n",
		"stream/x/a.go": "package x\n\nvar seen int\n\nfunc init() { p := &seen; *p = 1 }\n",
	}, []string{"core/x/a.go:8", "core/x/a.go:10", "stream/x/a.go:5: no init", "core/x/a.go:17: cache is a package's variable", "core/x/b.go:4: table is", "core/x/b.go:5: cache is", "stream/x/a.go:5: seen is"}},
	{"file sizes", sizes, map[string]string{
		"core/x/a_test.go": "package x\n" + strings.Repeat("\n", maxLines),
		"core/x/b.go":      "package x\n" + strings.Repeat("\n", maxLines-1),
		"core/x/c.go":      "// Code generated by hand. DO NOT EDIT.\n\npackage x\n" + strings.Repeat("\n", maxLines),
	}, []string{"core/x/a_test.go: 601 lines"}},
	{"nothing unfinished", finished, map[string]string{
		"README.md":   "mastodon\n(TO" + "DO: more)\n",
		"core/x/a.go": "package x\n\n// FIX" + "ME\n",
		"scripts/bin": "\x00\nXX" + "X\n",
		"scripts/run": "# XX" + "X\n",
	}, []string{"README.md:2", "core/x/a.go:3", "scripts/run:1"}},
	{"no machine paths", paths, map[string]string{
		"README.md":   "cd /wo" + "rk/main\nhttp://a/ho" + "me/x ./ro" + "ot/x ~/wo" + "rk/x\n",
		"core/x/a.go": "package x\n\nconst a = \"/ro" + "ot/x\"\nconst b = \"/ho" + "me\"\n",
		"scripts/run": "cat </ho" + "me/me/x\n",
	}, []string{"README.md:1", "core/x/a.go:3", "scripts/run:1"}},
	{"skips say why", skips, map[string]string{
		"core/x/a_test.go": "package x\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {\n\tt.Skip(\"no data\")\n\tt.Skip()\n\tt.SkipNow()\n\tscanner.Skip()\n}\n\n" +
			"func FuzzA(f *testing.F) {\n\tf.Fuzz(func(t *testing.T, s string) { t.Skip() })\n\tf.Skip()\n}\n",
	}, []string{"core/x/a_test.go:7", "core/x/a_test.go:8", "core/x/a_test.go:14"}},
	{"top level", topNames, map[string]string{
		".ci/run": "", "README.md": "", "core/x/a.go": "package x\n", "docs/a.md": "", "docs/b.md": "", "notes.md": "",
	}, []string{"docs: DESIGN 3", "notes.md: DESIGN 3"}},
	{"gofmt", formatted, map[string]string{
		"core/x/a.go": "package x\n\nfunc f() {\n}\n", "core/x/b.go": "package x\nfunc f() {\n}\n",
	}, []string{"core/x/b.go: run gofmt"}},
}

func TestHouseRules(t *testing.T) {
	tr := readTree(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, fault := range r.faults(tr) {
				t.Error(fault)
			}
		})
	}
}

// TestRulesCanFail gives each rule a bad tree.
func TestRulesCanFail(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			files := map[string][]byte{}
			for name, text := range r.bad {
				files[name] = []byte(text)
			}
			tr, err := newTree(files)
			if err != nil {
				t.Fatal(err)
			}
			faults := r.faults(tr)
			for i := range max(len(faults), len(r.want)) {
				switch {
				case i >= len(faults):
					t.Errorf("no fault is found for %q", r.want[i])
				case i >= len(r.want):
					t.Errorf("too much: %q", faults[i])
				case !strings.Contains(faults[i], r.want[i]):
					t.Errorf("fault %q, want %q", faults[i], r.want[i])
				}
			}
		})
	}
}

// TestExceptionsAreUsed: one that nothing needs any more goes.
func TestExceptionsAreUsed(t *testing.T) {
	used := map[string]bool{}
	readTree(t).imports(func(f *source, _, what string) {
		dir, ok := local(what)
		if !ok {
			dir = what
		}
		used[f.dir+" "+dir] = true
	})
	for e, why := range exceptions {
		if !used[e] {
			t.Errorf("%s (%s): nothing needs this exception; remove it", e, why)
		}
	}
}
