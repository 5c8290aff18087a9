package blob

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tempFolder holds objects that are being written, and what a crash left of them. Its leading dot keeps it out of every
// name and every list. Nothing reads it, so it may be emptied while no process writes.
const tempFolder = ".tmp"

// Dir is a Store in a local folder, one file for each object. The folder must be on one file system that has hard links.
type Dir struct {
	root string
}

// OpenDir returns the store in the folder root, which it makes if need be.
func OpenDir(root string) (*Dir, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("blob folder %s: %w", root, err)
	}
	d := &Dir{root: abs}
	if err := makeFolder(filepath.Join(abs, tempFolder)); err != nil {
		return nil, fmt.Errorf("blob folder %s: %w", root, err)
	}
	return d, nil
}

func (d *Dir) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// Create implements Store. The object is written and synced under another name, then linked to its own: link(2) fails
// when the name is taken, also between processes, and shows the file whole or not at all.
func (d *Dir) Create(name string, data []byte) error {
	if err := CheckCreate(name, len(data)); err != nil {
		return err
	}
	return d.create(name, func(temp string, f *os.File) error { return writeAt(temp, f, data, 0) })
}

// create creates an object of what write writes to a file.
func (d *Dir) create(name string, write func(temp string, f *os.File) error) error {
	path := d.path(name)
	// Spares the loser of an old race the write; the link below is what decides.
	if err := d.taken(name, path); err != nil {
		return err
	}
	if err := makeFolder(filepath.Dir(path)); err != nil {
		if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", name, ErrFolder)
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	temp := filepath.Join(d.root, tempFolder, rand.Text())
	if err := writeSynced(temp, write); err != nil {
		return fmt.Errorf("%s: %w", name, errors.Join(err, removeIfThere(temp)))
	}
	linkErr := os.Link(temp, path)
	// A leftover of this remove costs disk space only, and the object stands: no reason to report failure.
	_ = os.Remove(temp)
	if linkErr != nil {
		if !errors.Is(linkErr, fs.ErrExist) {
			return fmt.Errorf("%s: %w", name, linkErr)
		}
		if err := d.taken(name, path); err != nil {
			return err
		}
		return fmt.Errorf("%s: it was there and is deleted: %w", name, linkErr)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// taken returns ErrExists or ErrFolder if something stands at path. Whoever is told ErrExists builds on the object, so
// its folder entry is synced here: the winner may not have come so far yet.
func (d *Dir) taken(name, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w", name, ErrFolder)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case info.IsDir():
		return fmt.Errorf("%s: %w", name, ErrFolder)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Errorf("%s: %w", name, ErrExists)
}

// Get implements Store.
func (d *Dir) Get(name string) ([]byte, error) {
	r, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, r.Size())
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, r.Size()), data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// Open implements Store.
func (d *Dir) Open(name string) (Reader, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s: %w", name, ErrNotFound)
	case info.Size() > MaxObjectBytes:
		err = fmt.Errorf("%s: %w: %d bytes, at most %d are allowed", name, ErrTooLarge, info.Size(), MaxObjectBytes)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dirReader{File: f, size: info.Size()}, nil
}

// Created implements Store: it is when the file was last written, and it is written once.
func (d *Dir) Created(name string) (time.Time, error) {
	if err := CheckName(name); err != nil {
		return time.Time{}, err
	}
	info, err := os.Lstat(d.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && !info.Mode().IsRegular():
		return time.Time{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	case err != nil:
		return time.Time{}, fmt.Errorf("%s: %w", name, err)
	}
	return info.ModTime(), nil
}

type dirReader struct {
	*os.File
	size int64
}

func (r *dirReader) Size() int64 { return r.size }

// List implements Store. It walks only the deepest folder that the prefix names.
func (d *Dir) List(prefix string) ([]string, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	folder := prefix[:strings.LastIndexByte(prefix, '/')+1]
	names := []string{}
	err := filepath.WalkDir(d.path(folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			// Folders do not go away by this store; a missing one was never there, or other hands remove it now.
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(d.root, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if entry.IsDir() {
			if name != "." && CheckName(name) != nil {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.Type().IsRegular() && strings.HasPrefix(name, prefix) && CheckName(name) == nil {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	slices.Sort(names)
	return names, nil
}

// Delete implements Store. Empty folders stay: removing one could break a Create that has just made it.
func (d *Dir) Delete(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	path := d.path(name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// directLeast is the least size of an object that is written past the page cache: checkpoints, which only a restart reads, archive files
// and state runs, which other tasks read later, by ranges. To copy them into pages of the cache took a twentieth of the stream's and of
// the batch's time, and what else is in the cache has to go for them.
const directLeast = 1 << 20

// writeSynced makes a file of what write writes, and returns once both are on the disk.
func writeSynced(path string, write func(path string, f *os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err = write(path, f); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// writeAt writes data at a place of a file, which is a multiple of directUnit.
func writeAt(path string, f *os.File, data []byte, at int64) error {
	written := 0
	if len(data) >= directLeast {
		var err error
		if written, err = writeDirect(path, data, at); err != nil {
			return err
		}
	}
	_, err := f.WriteAt(data[written:], at+int64(written))
	return err
}

// makeFolder makes path and its missing parents, and syncs the parent of each: a file in a folder whose own entry is lost
// is lost with it.
func makeFolder(path string) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent == path {
		return err
	}
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
