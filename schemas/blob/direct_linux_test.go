package blob

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An object is what it was given, whatever its size and wherever its data lie, and of a large one the page cache gets no more than
// what no write past it can end with.
func TestLargeObjectsGoPastTheCache(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, directLeast+4*directUnit)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(all); err != nil {
		t.Fatal(err)
	}
	direct := knowsDirect(t, d.root)
	for _, from := range []int{0, 1, 512, directUnit} {
		for _, n := range []int{directLeast - 1, directLeast, directLeast + 1, directLeast + directUnit - 1, directLeast + directUnit} {
			data := all[from : from+n]
			name := fmt.Sprintf("%d/%d", from, n)
			if err := d.Create(name, data); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(d.path(name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var stat unix.Cachestat_t
			cached := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &stat, 0)
			got, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes at %d: %d bytes, which differ, %v", n, from, len(got), err)
			}
			switch aligned := from%directUnit == 0 && n >= directLeast; {
			case errors.Is(cached, unix.ENOSYS):
				t.Log("not looked at: this system does not say what its page cache holds")
			case cached != nil:
				t.Fatal(cached)
			case aligned && stat.Cache > 1 && direct:
				t.Errorf("%d bytes at %d: %d pages are in the cache", n, from, stat.Cache)
			}
		}
	}
}

// knowsDirect says whether the file system of a folder has writes past the cache. That of a memory disk is one.
func knowsDirect(t *testing.T, folder string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(folder, "probe"), os.O_WRONLY|os.O_CREATE|unix.O_DIRECT, 0o644)
	if err != nil {
		return false
	}
	return f.Close() == nil && fs.Type != unix.TMPFS_MAGIC
}
