// Package records is the records file of SPEC 11: one record a line, `ingest_ms <TAB> payload` or the payload alone,
// plain or compressed; and the JSON in which this project writes a beacon's native form itself (SPEC 1).
package records

import "errors"

// Record is one line of a records file.
type Record struct {
	Ingest    int64  // ms since the epoch, 0 to MaxIngest; 0 without HasIngest
	HasIngest bool   // false: the line has no ingest time, and what stands for it is decided by who reads the payload
	Payload   []byte // any bytes but LF; usually a beacon
}

const (
	// MaxLine is the longest line that is kept whole, in bytes without its LF. It is far above the largest beacon,
	// so that a payload too large for one is still a record, rejected by its reason like any other. Of a longer line
	// the reader keeps the first MaxLine bytes and drops the rest up to the LF: it stays one record and is rejected
	// as too_large all the same. The writer refuses such a line.
	MaxLine = 1 << 20

	// MaxIngest is the greatest ingest time, in ms since the epoch; a greater one is read as this, and refused
	// by the writer. It leaves room to add any duration of a config.
	MaxIngest = 1 << 53
)

// Errors of Writer.Write, wrapped with the record's number; test with errors.Is.
var (
	// ErrPayload: the payload holds an LF, is longer than a line can be, or would be read back as an ingest time
	// and another payload.
	ErrPayload = errors.New("payload does not fit a line of a records file")
	// ErrIngest: the ingest time is below 0 or above MaxIngest.
	ErrIngest = errors.New("ingest time out of range")
)

// split parses a line without its LF. The payload aliases it.
func split(line []byte) Record {
	var ms int64
	for i, c := range line {
		switch {
		case '0' <= c && c <= '9':
			ms = min(ms*10+int64(c-'0'), MaxIngest)
		case c == '\t' && i > 0:
			return Record{Ingest: ms, HasIngest: true, Payload: line[i+1:]}
		default:
			return Record{Payload: line}
		}
	}
	return Record{Payload: line}
}
