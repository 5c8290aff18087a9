// Package blob stores immutable objects by name: event files, manifests, state runs, checkpoints, config revisions.
//
// Objects are created once and never changed, so a reader needs no lock and a name says which bytes it means. Who creates
// a name first wins it; that is how claims and manifest chains are decided (DESIGN sections 4 to 6).
package blob

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Errors that callers decide on. They come wrapped, with the name of the object: test with errors.Is.
var (
	// ErrExists: the name is taken. Whatever holds it is complete and durable.
	ErrExists = errors.New("object exists")
	// ErrNotFound: no object has this name.
	ErrNotFound = errors.New("object not found")
	// ErrTooLarge: the object is larger than MaxObjectBytes.
	ErrTooLarge = errors.New("object too large")
	// ErrName: the name or prefix breaks the rules of CheckName.
	ErrName = errors.New("bad object name")
	// ErrFolder: the name is a folder of other objects, or one of its folders is an object.
	ErrFolder = errors.New("a name cannot be both an object and a folder")
)

// Limits. Beyond one of them Create refuses and nothing is written; Get and Open refuse an object that grew past
// MaxObjectBytes by other hands, because Get holds it in memory whole.
const (
	// MaxObjectBytes is the largest object, in bytes.
	MaxObjectBytes = 1 << 30
	// MaxNameBytes is the longest name, in bytes.
	MaxNameBytes = 900
	// MaxPartBytes is the longest part of a name between slashes, in bytes.
	MaxPartBytes = 200
)

// Store holds immutable objects. It is safe for concurrent use, also by several processes.
type Store interface {
	// Create writes an object under a name that must be free: ErrExists if it is taken, even by equal bytes.
	// After nil the object is durable and complete; it is never visible in part. After any other error than
	// ErrExists the object may or may not be there: read it, or create it again. data is not kept.
	Create(name string, data []byte) error
	// Get returns the whole object, which the caller owns, or ErrNotFound.
	Get(name string) ([]byte, error)
	// Open gives random access to an object, or ErrNotFound. The caller closes the reader.
	Open(name string) (Reader, error)
	// Created returns when the object came to be, by the storage's clock, or ErrNotFound. Copying a store to another place
	// gives its objects other times.
	Created(name string) (time.Time, error)
	// List returns the names that begin with prefix, in byte order. The prefix may end inside a part; "" lists
	// everything. No match is an empty list.
	List(prefix string) ([]string, error)
	// Delete removes an object; a missing one is no error. Readers that are open keep working or, of a large object on
	// remote storage, fail; they never see other bytes.
	Delete(name string) error
}

// Reader reads an object at any place; it is safe for concurrent use until Close.
type Reader interface {
	io.ReaderAt
	io.Closer
	// Size is the object's length in bytes.
	Size() int64
}

// Size is how many bytes an object has, or ErrNotFound.
func Size(b Store, name string) (int64, error) {
	r, err := b.Open(name)
	if err != nil {
		return 0, err
	}
	return r.Size(), r.Close()
}

// RequestsAtOnce is how many objects are asked for at once where many are: remote storage takes its time for each request, and little else.
const RequestsAtOnce = 16

// CheckName returns nil for a valid name, else an error that is ErrName. A name has parts of 1 to MaxPartBytes of
// `A-Z a-z 0-9 . _ = -`, none with a leading dot (so neither ".." nor a hidden file), joined by single slashes, and at most
// MaxNameBytes. These are legal on every file system and object store without any escaping.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: it is empty", ErrName)
	}
	if len(name) > MaxNameBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed: %.40q...", ErrName, len(name), MaxNameBytes, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			return fmt.Errorf("%w %q: it has an empty part: use single slashes between parts only", ErrName, name)
		}
		if err := checkPart(name, part); err != nil {
			return err
		}
	}
	return nil
}

// CheckPrefix returns nil for every beginning of a valid name, else an error that is ErrName: a caller that would list
// outside the store is refused.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckName(strings.TrimSuffix(prefix, "/"))
}

func checkPart(name, part string) error {
	if len(part) > MaxPartBytes {
		return fmt.Errorf("%w %q: a part has %d bytes, at most %d are allowed", ErrName, name, len(part), MaxPartBytes)
	}
	if part[0] == '.' {
		return fmt.Errorf("%w %q: part %q begins with a dot", ErrName, name, part)
	}
	for i := range len(part) {
		c := part[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '=', c == '-':
		default:
			return fmt.Errorf("%w %q: character %q is not one of A-Z a-z 0-9 . _ = -", ErrName, name, c)
		}
	}
	return nil
}

// CheckCreate says whether an object of that name and size, in bytes, may be created: an error is ErrName or ErrTooLarge.
func CheckCreate(name string, size int) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if size > MaxObjectBytes {
		return fmt.Errorf("%s: %w: %d bytes, at most %d are allowed", name, ErrTooLarge, size, MaxObjectBytes)
	}
	return nil
}
