package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"tandem/schemas/store"
)

// Tables: the first byte of a key.
const (
	tableRows     = 'r'
	tableRollups  = 'w'
	tableCatalog  = 'k'
	tableLayers   = 'l'
	tableProgress = 'p'
	tableCoverage = 'c'
	tableActive   = 'a'
)

const numberBytes = 4

func appendName(b []byte, name string) []byte {
	for {
		i := strings.IndexByte(name, 0)
		if i < 0 {
			b = append(b, name...)
			return append(b, 0, 1)
		}
		b = append(b, name[:i]...)
		b = append(b, 0, 255)
		name = name[i+1:]
	}
}

func appendNames(b []byte, table byte, names ...string) []byte {
	b = append(b, table)
	for _, name := range names {
		b = appendName(b, name)
	}
	return b
}

func appendSeries(b []byte, table byte, s *store.Series) []byte {
	b = append(b, table)
	b = appendName(b, s.Tenant)
	if table == tableLayers {
		b = appendName(b, s.Layer)
		b = appendName(b, s.Experiment)
		return appendName(b, s.Metric)
	}
	b = appendName(b, s.Experiment)
	b = appendName(b, s.Metric)
	return appendName(b, s.Layer)
}

func appendNumber(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// span gives the bounds of the keys of prefix with numbers in [from, to). Both are within what a number holds, to may
// be one above it.
func span(prefix []byte, from, to int64) (lower, upper []byte) {
	lower = appendNumber(bytes.Clone(prefix), from)
	if to > store.MaxMinute {
		return lower, after(prefix)
	}
	return lower, appendNumber(bytes.Clone(prefix), to)
}

// after is the least key that is greater than all that begin with prefix. Prefixes end with a table's letter or a
// terminator, whose bytes have a next one.
func after(prefix []byte) []byte {
	b := bytes.Clone(prefix)
	b[len(b)-1]++
	return b
}

var errKey = errors.New("not a key of this store")

func readName(b []byte) (name string, rest []byte, err error) {
	var escaped []byte
	for {
		i := bytes.IndexByte(b, 0)
		if i < 0 || i+1 == len(b) {
			return "", nil, errKey
		}
		switch b[i+1] {
		case 1:
			if escaped == nil {
				return string(b[:i]), b[i+2:], nil
			}
			return string(append(escaped, b[:i]...)), b[i+2:], nil
		case 255:
			escaped = append(append(escaped, b[:i]...), 0)
			b = b[i+2:]
		default:
			return "", nil, errKey
		}
	}
}

// readSeries reads the series of a key of rows, rollups, the catalog or layers, and what follows it.
func readSeries(key []byte) (s store.Series, rest []byte, err error) {
	if len(key) == 0 {
		return s, nil, errKey
	}
	names := []*string{&s.Tenant, &s.Experiment, &s.Metric, &s.Layer}
	if key[0] == tableLayers {
		names = []*string{&s.Tenant, &s.Layer, &s.Experiment, &s.Metric}
	}
	rest = key[1:]
	for _, name := range names {
		if *name, rest, err = readName(rest); err != nil {
			return store.Series{}, nil, err
		}
	}
	return s, rest, nil
}

// readNumber reads the number that a key of the given prefix ends with.
func readNumber(key []byte, prefix int) (int64, error) {
	if len(key) != prefix+numberBytes {
		return 0, errKey
	}
	return int64(binary.BigEndian.Uint32(key[prefix:])), nil
}

// describe names a key for messages.
func describe(key []byte) string {
	if len(key) == 0 {
		return "empty key"
	}
	table := map[byte]string{
		tableRows: "row", tableRollups: "rollup", tableCatalog: "catalog", tableLayers: "layer catalog",
		tableProgress: "progress", tableCoverage: "coverage", tableActive: "active layer",
	}[key[0]]
	var b strings.Builder
	fmt.Fprintf(&b, "%s of", table)
	rest := key[1:]
	names := map[byte][]string{
		tableRows: {"tenant", "experiment", "metric", "layer"}, tableRollups: {"tenant", "experiment", "metric", "layer"},
		tableCatalog: {"tenant", "experiment", "metric", "layer"}, tableLayers: {"tenant", "layer", "experiment", "metric"},
		tableProgress: {"layer", "tenant"}, tableCoverage: {"tenant"}, tableActive: {"tenant"},
	}[key[0]]
	for _, what := range names {
		name, r, err := readName(rest)
		if err != nil {
			return fmt.Sprintf("key %q", key)
		}
		fmt.Fprintf(&b, " %s %q", what, name)
		rest = r
	}
	switch {
	case table == "" || len(rest) != 0 && len(rest) != numberBytes:
		return fmt.Sprintf("key %q", key)
	case len(rest) == 0:
		return b.String()
	}
	n := binary.BigEndian.Uint32(rest)
	if key[0] == tableProgress {
		fmt.Fprintf(&b, " partition %d", n)
	} else {
		fmt.Fprintf(&b, " minute %d", n)
	}
	return b.String()
}
