package records

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory of a zstd stream, in bytes: the most that the reference tool uses without --long.
const maxWindow = 128 << 20

// Lines splits a stream at LF, in constant memory. It is not safe for concurrent use.
type Lines struct {
	in   *bufio.Reader
	line []byte
	n    int64
	err  error
}

// NewLines splits r, which is not compressed.
func NewLines(r io.Reader) *Lines {
	return &Lines{in: bufio.NewReaderSize(r, 1<<16)}
}

// Next gives the next line without its LF, valid until the next call, or io.EOF after the last. A last line without LF
// is one, unless it is empty. Of a line longer than MaxLine it gives the first MaxLine bytes, and cut is true. Any other
// error, of the underlying reader, names the line and comes again at every later call.
func (l *Lines) Next() (line []byte, cut bool, err error) {
	if l.err != nil {
		return nil, false, l.err
	}
	line, cut, err = l.read()
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("line %d: %w", l.n+1, err)
		}
		l.err = err
		return nil, false, err
	}
	l.n++
	return line, cut, nil
}

// Line is the number of the line that Next gave last, from 1.
func (l *Lines) Line() int64 { return l.n }

func (l *Lines) read() (line []byte, cut bool, err error) {
	part, err := l.in.ReadSlice('\n')
	if err == nil {
		return part[:len(part)-1], false, nil // the usual case, without a copy
	}
	l.line = l.line[:0]
	for {
		body := part
		if err == nil {
			body = part[:len(part)-1]
		}
		if room := MaxLine - len(l.line); len(body) > room {
			body, cut = body[:room], true
		}
		l.line = append(l.line, body...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
		part, err = l.in.ReadSlice('\n')
	}
	if err == io.EOF && len(l.line) > 0 {
		err = nil
	}
	return l.line, cut, err
}

// Reader reads the records of a file one by one, in constant memory. It is not safe for concurrent use.
type Reader struct {
	lines *Lines
	cut   int64
}

// NewReader reads records from r, which is not compressed.
func NewReader(r io.Reader) *Reader {
	return &Reader{lines: NewLines(r)}
}

// Next gives the next record, whose payload is valid until the next call, or io.EOF after the last; other errors are
// those of Lines.Next.
func (r *Reader) Next() (Record, error) {
	line, cut, err := r.lines.Next()
	if err != nil {
		return Record{}, err
	}
	if cut {
		r.cut++
	}
	return split(line), nil
}

// Line is the number of the line that Next gave last, from 1.
func (r *Reader) Line() int64 { return r.lines.Line() }

// Cut is the number of lines so far that were longer than MaxLine and lost their end.
func (r *Reader) Cut() int64 { return r.cut }

// File is a Reader over a file that it owns.
type File struct {
	*Reader
	close io.Closer
}

// Open opens a records file; the ending .zst or .gz of its name says how it is compressed.
func Open(path string) (*File, error) {
	in, err := OpenText(path)
	if err != nil {
		return nil, err
	}
	return &File{Reader: NewReader(in), close: in}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.close.Close() }

// OpenText opens any file for reading, decompressed by the ending .zst or .gz of its name. What it needs of memory
// does not depend on the length of the file; a zstd file that asks for a window above 128 MiB is refused.
func OpenText(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	in, err := Decompress(path, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &textFile{ReadCloser: in, file: f}, nil
}

type textFile struct {
	io.ReadCloser
	file *os.File
}

func (t *textFile) Close() error {
	return errors.Join(t.ReadCloser.Close(), t.file.Close())
}

// Decompress reads r as the ending of name says: .zst, .gz, or as it is. Closing the result does not close r.
func Decompress(name string, r io.Reader) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case strings.HasSuffix(name, ".gz"):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("not a gzip file: %w", err)
		}
		return z, nil
	}
	return io.NopCloser(r), nil
}
