// Package staterun holds the state runs of DESIGN section 6: the sessions that a window changed, sorted, in immutable
// Parquet files, so that any SQL engine can look at them.
//
// What belongs to the whole run, such as the table of names that the states were encoded by, is the caller's Meta: it
// stands in the RunInfo beside the run, under the run's own digest, and not in the file.
package staterun

import (
	"cmp"
	"errors"
	"strings"
)

// ErrCorrupt: a run is not what its RunInfo says. The error around it names the run and what is wrong. The way out is to
// restore the object, or to run the window again.
var ErrCorrupt = errors.New("corrupt")

// Limits; a Writer refuses what is beyond them, naming the row or the size.
const (
	// MaxSessionBytes is the longest session id, in bytes (SPEC section 1 allows 128).
	MaxSessionBytes = 1 << 10
	// MaxStateBytes is the largest state of a session, in bytes.
	MaxStateBytes = 1 << 20
	// MaxEntries is how many experiments a row may tell, and how many totals: more experiments than a config can have, and as many totals as no
	// chain of configs comes to.
	MaxEntries = 1 << 16
	// MaxRunBytes is the most that the sessions and states of a file may have together. Begin another file before: a run may
	// have several, each with the sessions after those of the one before it.
	MaxRunBytes = 1 << 30
)

// Row is the state of one session at the end of a window. Times are in ms since the epoch.
type Row struct {
	Hash    uint64 // hash of the session id: runs are sorted and split by it
	Session string // session id, UTF-8
	FirstTS int64  // of the session's first beacon
	LastTS  int64  // of its last beacon
	Due     int64  // the next visit end still to come; 0 if there is none
	State   string // encoded state, opaque bytes
}

// About is what a row says of the session for SQL, beside the state. It is no part of the state: a reader of states does not
// even load it. A session is the one that first_ts begins; one that another beacon closed in the same window is not told of.
type About struct {
	// What the window brought of the session: beacons, visits begun, beacons of a point with kind page. A session's are the
	// sums over the rows of its windows.
	Beacons, Visits, Pages int64
	// Experiments are those that the session is assigned to as of the window's end, each once.
	Experiments []Experiment
	// Totals are the session's running totals, as of the window's end, of the points and values that the config has a total
	// for (stats, cap, cross), each once; zeros are left out.
	Totals []Total
}

// Names are what those of experiments, variations and totals are places in. A Writer puts those that it is given into its file, in the order of
// their first use, and no others.
type Names struct {
	Experiments, Variations, Totals []string
}

// Experiment is an assignment of a session: names of a Writer, times in ms since the epoch.
type Experiment struct {
	Name, Variation     int32
	Assigned, Qualified int64
	IsQualified         bool // else Qualified says nothing
}

// Total is a running total of a session; its name is one of a Writer.
type Total struct {
	Name  int32
	Value int64
}

// RunInfo is what a reader must know before it opens a run. A Writer fills all but Name and Meta.
type RunInfo struct {
	Name string `json:"name"` // the object's name
	// Bytes is the size of the object, and RawBytes that of its sessions and states.
	Bytes    int64 `json:"bytes"`
	RawBytes int64 `json:"raw_bytes"`
	// Digest is the SHA-256 in hex of the object's last Tail bytes, its footer. The footer holds the digests of everything
	// before it, by pieces, so that a reader checks what it reads and no more. Wrong bytes would crash the decoder, so each
	// piece is checked before it is decoded.
	Digest  string `json:"digest"`
	Tail    int64  `json:"tail"`
	Rows    int64  `json:"rows"`
	MinHash uint64 `json:"min_hash,string"` // strings, for JSON readers that hold numbers as doubles
	MaxHash uint64 `json:"max_hash,string"` // both are 0 if there are no rows
	Meta    []byte `json:"meta,omitempty"`  // the caller's, not looked at
}

// Compare orders rows by hash, then session id: the order of a run, and the order of event files.
func Compare(a, b *Row) int {
	if c := cmp.Compare(a.Hash, b.Hash); c != 0 {
		return c
	}
	return strings.Compare(a.Session, b.Session)
}

func flip(hash uint64) int64 { return int64(hash ^ 1<<63) }

func unflip(column int64) uint64 { return uint64(column) ^ 1<<63 }
