package blob_test

import (
	"os"
	"path/filepath"
	"testing"

	"tandem/schemas/blob"
	"tandem/schemas/blob/blobtest"
)

func openDir(t *testing.T, root string) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMem(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return blob.NewMem() })
}

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, filepath.Join(t.TempDir(), "not", "yet")) })
}

func TestDirLeftoversAreNotListed(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root)
	if err := d.Create("a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(root, ".tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("Create left %v, %v", left, err)
	}
	for _, path := range []string{".tmp/LEFTOVER", "a/.hidden", "a/bad name", "b~"} {
		if err := os.WriteFile(filepath.Join(root, path), []byte("part"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names, err := d.List("")
	if err != nil || len(names) != 1 || names[0] != "a/b" {
		t.Errorf("List = %q, %v; want a/b only", names, err)
	}
}

func TestDirKeepsObjectsAcrossOpens(t *testing.T) {
	root := t.TempDir()
	if err := openDir(t, root).Create("a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	data, err := openDir(t, root).Get("a/b")
	if err != nil || string(data) != "x" {
		t.Errorf("Get = %q, %v", data, err)
	}
}

// The name is the one door by which a caller's text reaches the file system.
func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"a/b", "../a", "a//b", ".tmp/x", "tenant=a/dt=2026-01-01/hh=00/x.parquet", "a/..b", "\x00"} {
		f.Add(name)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		if blob.CheckName(name) != nil {
			return
		}
		rel, err := filepath.Rel(root, filepath.Join(root, filepath.FromSlash(name)))
		if err != nil || filepath.ToSlash(rel) != name || !filepath.IsLocal(rel) {
			t.Errorf("accepted name %q is the path %q, %v", name, rel, err)
		}
	})
}
