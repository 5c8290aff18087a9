package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"tandem/core/beacon"
	"tandem/jobs/embedded"
	"tandem/schemas/records"
)

// sortedRecords are the records of a file in the order in which they are taken, (ingest time, payload) (SPEC 11). It
// holds 24 bytes of memory for each; the payloads are in a file.
type sortedRecords struct {
	file  *os.File
	index []place
	first int
	raws  []embedded.Raw
	bytes []byte
}

type place struct {
	ingest, at int64
	size       int32
}

// Bounds of what is read at once. Records of one millisecond are read together, however many they are, to be put in order;
// but not those of noTime, of which none is valid and there may be a whole file: of another form, say.
const (
	feedRecords = 20_000
	feedBytes   = 16 << 20
)

// maxTime is the last ingest time that is taken, 2200-01-01T00:00:00Z; a later one is read as this (SPEC 12). Kafka's
// client counts ns, which end in 2262, and after the last record time goes on until nothing is open.
const maxTime = 7_258_118_400_000

// noTime stands for an ingest time of 0: a broker takes a record without one for one of now. No beacon is valid in 1970,
// whichever its millisecond.
const noTime = 1

// readRecords reads the records file at path ("-": standard input) into a file in folder. told is called with the
// number of records so far.
func readRecords(ctx context.Context, path, folder string, told func(n int)) (*sortedRecords, error) {
	in, path, err := openRecords(ctx, path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	file, err := os.CreateTemp(folder, "records-")
	if err != nil {
		return nil, err
	}
	s := &sortedRecords{file: file}
	if err := s.read(ctx, in.Reader, told); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	slices.SortFunc(s.index, func(a, b place) int { return cmp.Or(cmp.Compare(a.ingest, b.ingest), cmp.Compare(a.at, b.at)) })
	return s, nil
}

// recordsIn is a records file or standard input.
type recordsIn struct {
	*records.Reader
	io.Closer
}

// openRecords opens a records file ("-": standard input) and returns what messages call it.
func openRecords(ctx context.Context, path string) (in recordsIn, name string, err error) {
	if path == "-" {
		r := openStdin(ctx)
		return recordsIn{records.NewReader(r), r}, "standard input", nil
	}
	f, err := records.Open(path)
	if err != nil {
		return recordsIn{}, path, err
	}
	return recordsIn{f.Reader, f}, path, nil
}

func (s *sortedRecords) read(ctx context.Context, in *records.Reader, told func(n int)) error {
	out := bufio.NewWriterSize(s.file, 1<<20)
	var parser beacon.Parser
	var scratch beacon.Beacon
	at := int64(0)
	for {
		r, err := in.Next()
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		ingest := r.Ingest
		if !r.HasIngest {
			ingest = embedded.Ingest(&parser, &scratch, r.Payload)
		}
		s.index = append(s.index, place{min(max(ingest, noTime), maxTime), at, int32(len(r.Payload))})
		at += int64(len(r.Payload))
		if _, err := out.Write(r.Payload); err != nil {
			return err
		}
		if len(s.index)%1000 == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			told(len(s.index))
		}
	}
}

// next returns the next records, none after the last. They are valid until the next call.
func (s *sortedRecords) next() ([]embedded.Raw, error) {
	s.raws, s.bytes = s.raws[:0], s.bytes[:0]
	last := s.first
	for size := 0; last < len(s.index); last++ {
		p := &s.index[last]
		full := last-s.first >= feedRecords || size >= feedBytes
		if full && (p.ingest != s.index[last-1].ingest || p.ingest == noTime) {
			break
		}
		size += int(p.size)
	}
	chunk := s.index[s.first:last]
	s.first = last
	total := 0
	for _, p := range chunk {
		total += int(p.size)
	}
	s.bytes = slices.Grow(s.bytes, total)
	for _, p := range chunk {
		at := len(s.bytes)
		s.bytes = s.bytes[:at+int(p.size)]
		payload := s.bytes[at:]
		if _, err := s.file.ReadAt(payload, p.at); err != nil {
			return nil, fmt.Errorf("copy of the records: %w", err)
		}
		s.raws = append(s.raws, embedded.Raw{Ingest: p.ingest, Payload: payload[:len(payload):len(payload)]})
	}
	slices.SortFunc(s.raws, func(a, b embedded.Raw) int {
		return cmp.Or(cmp.Compare(a.Ingest, b.Ingest), bytes.Compare(a.Payload, b.Payload))
	})
	return s.raws, nil
}

func (s *sortedRecords) close() error {
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}
