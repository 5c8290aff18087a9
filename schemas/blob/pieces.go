package blob

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// Creator is the part of a Store that creates objects.
type Creator interface {
	Create(name string, data []byte) error
}

// CreateInPieces creates an object as Create does, of bytes that come in pieces, so that a folder's need not be in memory together: it
// holds pieceBytes twice. Other storage is given the object whole, and holds it. The object begins with a head of so many bytes, which
// fill returns once it has written all that follows; hint is about how many bytes those are. An error of fill is returned, wrapped, and
// there is no object then. Of an object that is there fill may not be asked.
func CreateInPieces(s Creator, name string, head, hint int, fill func(w io.Writer) ([]byte, error)) error {
	if d, ok := s.(*Dir); ok {
		if err := CheckName(name); err != nil {
			return err
		}
		return d.create(name, func(temp string, f *os.File) error {
			w := &pieces{path: temp, f: f, piece: make([]byte, head, pieceBytes)}
			begin, err := fill(&limited{w, name, head})
			if err != nil {
				return err
			}
			return w.end(begin)
		})
	}
	buf := whole.Get().(*[]byte)
	w := held{(*buf)[:0]}
	if n := head + hint; cap(w.b) < n {
		w.b = make([]byte, 0, n+n/4) // a quarter more: else the next one, of a state that has grown, does not fit again
	}
	w.b = append(w.b, make([]byte, head)...)
	begin, err := fill(&limited{&w, name, head})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	copy(w.b[:head], begin)
	if err := s.Create(name, w.b); err != nil {
		return err // somebody may still be reading the buffer
	}
	*buf = w.b
	whole.Put(buf)
	return nil
}

// limited refuses what would make an object too large, before it takes memory or goes to a disk.
type limited struct {
	to   io.Writer
	name string
	size int // of the object so far
}

func (l *limited) Write(p []byte) (int, error) {
	if l.size += len(p); l.size > MaxObjectBytes {
		return 0, CheckCreate(l.name, l.size)
	}
	return l.to.Write(p)
}

// whole are buffers of objects that are held whole: to have tens of megabytes cleared and mapped again costs as much as to fill them.
// The collector takes what nobody asks for.
var whole = sync.Pool{New: func() any { return new([]byte) }}

type held struct{ b []byte }

func (h *held) Write(p []byte) (int, error) {
	h.b = append(h.b, p...)
	return len(p), nil
}

// pieceBytes go to a file at once, past the page cache.
const pieceBytes = directLeast

// pieces writes a file. Its pieces have room for pieceBytes.
type pieces struct {
	path  string
	f     *os.File
	first []byte // the first piece, once it is full: it begins with the head, which is known last
	piece []byte // the one at hand
	at    int64  // of it in the file
}

// Write implements io.Writer.
func (w *pieces) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(w.piece) == pieceBytes {
			if err := w.next(); err != nil {
				return 0, err
			}
		}
		k := min(len(p), pieceBytes-len(w.piece))
		w.piece = append(w.piece, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

// next begins a piece.
func (w *pieces) next() error {
	if w.first == nil {
		w.first, w.piece = w.piece, make([]byte, 0, pieceBytes)
	} else if err := writeAt(w.path, w.f, w.piece, w.at); err != nil {
		return err
	}
	w.piece = w.piece[:0]
	w.at += pieceBytes
	return nil
}

// end writes what is left, and the first piece with the head.
func (w *pieces) end(head []byte) error {
	if w.first == nil {
		w.first = w.piece
	} else if err := writeAt(w.path, w.f, w.piece, w.at); err != nil {
		return err
	}
	copy(w.first, head)
	return writeAt(w.path, w.f, w.first, 0)
}
