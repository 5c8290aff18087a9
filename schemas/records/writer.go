package records

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Writer writes a records file. It is not safe for concurrent use.
type Writer struct {
	out  *bufio.Writer
	zip  io.Closer // nil: not compressed
	head []byte
	n    int64
}

// NewWriter writes records to w, compressed as the ending of name says: .zst, .gz, or not at all. Equal records give
// equal bytes. Close must be called; it does not close w.
func NewWriter(w io.Writer, name string) (*Writer, error) {
	out := &Writer{}
	switch {
	case strings.HasSuffix(name, ".zst"):
		// One goroutine: where blocks end must not depend on how many there are.
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w, out.zip = z, z
	case strings.HasSuffix(name, ".gz"):
		z := gzip.NewWriter(w)
		w, out.zip = z, z
	}
	out.out = bufio.NewWriterSize(w, 1<<16)
	return out, nil
}

// Write appends a record; it keeps nothing of it. A record that a Reader would not give back as it is is refused with
// ErrPayload or ErrIngest and leaves the file as it was.
func (w *Writer) Write(r Record) error {
	w.head = w.head[:0]
	if r.HasIngest {
		if r.Ingest < 0 || r.Ingest > MaxIngest {
			return fmt.Errorf("record %d: %w: %d ms, not within 0 to %d", w.n+1, ErrIngest, r.Ingest, int64(MaxIngest))
		}
		w.head = append(strconv.AppendInt(w.head, r.Ingest, 10), '\t')
	} else if split(r.Payload).HasIngest {
		return fmt.Errorf("record %d: %w: it begins with digits and a tab, which stand for an ingest time; give it one",
			w.n+1, ErrPayload)
	}
	if n := len(w.head) + len(r.Payload); n > MaxLine {
		return fmt.Errorf("record %d: %w: a line of %d bytes, at most %d are kept", w.n+1, ErrPayload, n, MaxLine)
	}
	if bytes.IndexByte(r.Payload, '\n') >= 0 {
		return fmt.Errorf("record %d: %w: it holds a line feed", w.n+1, ErrPayload)
	}
	w.n++
	w.out.Write(w.head)
	w.out.Write(r.Payload)
	return w.out.WriteByte('\n') // a bufio.Writer gives its first error again at every call
}

// Count is the number of records written.
func (w *Writer) Count() int64 { return w.n }

// Close ends the compressed stream and flushes everything to the underlying writer.
func (w *Writer) Close() error {
	err := w.out.Flush()
	if w.zip != nil {
		err = errors.Join(err, w.zip.Close())
	}
	return err
}

// FileWriter is a Writer to a file of its own. A regular file gets its name only when all is written, so that a run
// that breaks off leaves neither a part of a file nor harm to the one that had the name.
type FileWriter struct {
	*Writer
	file *os.File
	path string
	temp string // "": the file is written in place
	done bool
}

// Create makes a records file, compressed by the ending of its name; an existing one is replaced. Use Close or Discard.
func Create(path string) (*FileWriter, error) {
	f := &FileWriter{path: path}
	var err error
	if info, statErr := os.Stat(path); statErr == nil && !info.Mode().IsRegular() {
		f.file, err = os.OpenFile(path, os.O_WRONLY, 0) // a pipe or a device
	} else {
		if target, linkErr := filepath.EvalSymlinks(path); linkErr == nil {
			f.path = target // a link stays one: /dev/stdout, say
		}
		// A name of its own: of two runs that write one file at once the last to end has it, whole.
		f.temp = filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+"."+rand.Text()[:8]+".part")
		f.file, err = os.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return nil, err
	}
	if f.Writer, err = NewWriter(f.file, path); err != nil {
		f.Discard()
		return nil, err
	}
	return f, nil
}

// Close completes the file and gives it its name; on an error there is no file of it. After Discard, and a second
// time, it does nothing.
func (f *FileWriter) Close() error {
	if f.done {
		return nil
	}
	err := f.Writer.Close()
	if err != nil || f.temp == "" {
		return errors.Join(err, f.Discard())
	}
	f.done = true
	if err = f.file.Close(); err == nil {
		err = os.Rename(f.temp, f.path)
	}
	if err != nil {
		os.Remove(f.temp)
	}
	return err
}

// Discard removes what was written. After Close it does nothing, so it may be deferred.
func (f *FileWriter) Discard() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.file.Close()
	if f.temp != "" {
		os.Remove(f.temp)
	}
	return err
}
