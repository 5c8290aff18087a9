package blob

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

// directUnit is a multiple of the block size of every disk: where a write past the page cache begins and ends, and where its data lie.
const directUnit = 4096

// writeDirect writes data to an existing file past the page cache, at a multiple of directUnit, as much of it as can be so, and returns
// how much that is: 0 if the file system knows no such writes, or if the data do not begin at a multiple of directUnit (those of an allocation of
// their own do).
func writeDirect(path string, data []byte, at int64) (int, error) {
	whole := len(data) / directUnit * directUnit
	if whole == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(data)))%directUnit != 0 {
		return 0, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0)
	if notSo(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := f.WriteAt(data[:whole], at)
	if notSo(err) { // a disk of larger blocks
		err = nil
	}
	return n, errors.Join(err, f.Close())
}

// notSo says whether an error tells that a file system, or its disk, does not take such writes.
func notSo(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported)
}
