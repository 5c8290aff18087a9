package scripts

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tree is the files of the repository, or of a rule's self-test, by slash-separated path.
type tree struct {
	files map[string][]byte
	fset  *token.FileSet
	code  []*source
}

type source struct {
	path   string
	dir    string
	test   bool
	syntax *ast.File
}

func (s *source) under(dir string) bool { return within(s.dir, dir) }

func within(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }

func newTree(files map[string][]byte) (*tree, error) {
	tr := &tree{files: files, fset: token.NewFileSet()}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		syntax, err := parser.ParseFile(tr.fset, name, files[name], parser.ParseComments)
		if err != nil {
			return nil, err
		}
		tr.code = append(tr.code, &source{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), syntax})
	}
	return tr, nil
}

// readTree reads what git tracks or would track, or, without git, all but dot-folders.
func readTree(t *testing.T) *tree {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil {
		names = strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	} else {
		err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			if d.IsDir() {
				if rel != "." && rel != ".ci" && strings.HasPrefix(d.Name(), ".") {
					return filepath.SkipDir
				}
				return nil
			}
			names = append(names, filepath.ToSlash(rel))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	tr, err := newTree(files)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.code) < 50 {
		t.Fatalf("only %d Go files under %s: this is not the whole repository", len(tr.code), root)
	}
	return tr
}

// at is the place of a node, as FILE:LINE.
func (tr *tree) at(n ast.Node) string {
	p := tr.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// text calls fn with each line of each file that is text.
func (tr *tree) text(fn func(where, line string)) {
	for _, name := range slices.Sorted(maps.Keys(tr.files)) {
		data := tr.files[name]
		if bytes.IndexByte(data[:min(len(data), 8000)], 0) >= 0 {
			continue
		}
		for i, line := range strings.Split(string(data), "\n") {
			fn(fmt.Sprintf("%s:%d", name, i+1), line)
		}
	}
}

// imports calls fn with each import of each file.
func (tr *tree) imports(fn func(f *source, where, what string)) {
	for _, f := range tr.code {
		for _, spec := range f.syntax.Imports {
			if what, err := strconv.Unquote(spec.Path.Value); err == nil {
				fn(f, tr.at(spec), what)
			}
		}
	}
}

const module = "tandem/"

// local is the folder of an import of this module.
func local(what string) (dir string, ok bool) { return strings.CutPrefix(what, module) }

func standard(what string) bool {
	first, _, _ := strings.Cut(what, "/")
	return !strings.Contains(first, ".") && first+"/" != module
}
