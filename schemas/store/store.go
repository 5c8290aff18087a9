// Package store is the port to the metric store (DESIGN 7): what the stream and the batch write and what serve reads.
// pebblestore is the embedded store for one machine, storetest the conformance suite of every store.
//
// # Laws
//
// Everything written is an absolute value with a version. Of the writes to one key the greatest version stands, in any
// order, split over any calls, from any writers; repeating a write changes nothing. Writers keep to: equal key and
// version, equal value; where one does not, every store still keeps one of the two values, the same one for every order
// (a row with the later expiry, then the bytewise greater value). There are no counters and no read before write, so a
// store may take writes blindly, each with its version as timestamp (Cassandra: one single-partition batch for a row).
//
// A write is durable when the call returns nil. After an error any part of the call may have been written; the caller
// repeats all of it. Errors that wrap ErrInvalid are the exception: nothing was written, and repeating will not help.
//
// All methods may be called from any number of goroutines.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"tandem/schemas/row"
)

// Limits, checked before anything is written.
const (
	// MaxName is the greatest length of a tenant, experiment, metric or layer in bytes. The longest metric that SPEC 10
	// admits, a cross of two values with its scope, has about 270.
	MaxName = 1024
	// MaxValue is the greatest length of a value: that of an encoded row, or of a coverage's inputs.
	MaxValue = row.MaxBytes
	// MaxMinute is the last minute, in the year 10136.
	MaxMinute = math.MaxUint32
	// MaxVersion is the greatest version of a row. It is added in microseconds to the minute to give the write's
	// timestamp (DESIGN 4), which must stay within an hour of it.
	MaxVersion = math.MaxInt32
)

var (
	// ErrInvalid is wrapped when an argument breaks a rule of this package.
	ErrInvalid = errors.New("store: invalid argument")
	// ErrCorrupt is wrapped when what the store holds is not what was written; the message names the key.
	ErrCorrupt = errors.New("store: corrupt value")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("store: closed")
)

// Series names a line of rows over time. Names are valid UTF-8 of at most MaxName bytes and otherwise arbitrary; only
// Experiment may be empty, which is the site scope. Metric is scope + "." + name, e.g. "site.home_page.beta",
// "fm.item_page", "assigned.visit.end" (SPEC 6). Layer is "stream.<dc>" or "batch.<generation>" (SPEC 9).
type Series struct {
	Tenant, Experiment, Metric, Layer string
}

// String is for messages; names are quoted, so that it is unambiguous.
func (s Series) String() string {
	return fmt.Sprintf("tenant %q experiment %q metric %q layer %q", s.Tenant, s.Experiment, s.Metric, s.Layer)
}

// Compare orders series by tenant, experiment, metric and layer.
func (s Series) Compare(o Series) int {
	return cmp.Or(strings.Compare(s.Tenant, o.Tenant), strings.Compare(s.Experiment, o.Experiment), strings.Compare(s.Metric, o.Metric), strings.Compare(s.Layer, o.Layer))
}

// Check says whether the names keep to the rules. Its error wraps ErrInvalid.
func (s Series) Check() error {
	if err := checkName("tenant", s.Tenant); err != nil {
		return err
	}
	if s.Experiment != "" {
		if err := checkName("experiment", s.Experiment); err != nil {
			return err
		}
	}
	if err := checkName("metric", s.Metric); err != nil {
		return err
	}
	return checkName("layer", s.Layer)
}

// Row is one value of a series.
type Row struct {
	Series
	// Minute is the row's minute since the epoch, 0 to MaxMinute; of a rollup the start of its window.
	Minute int64
	// Version is 0 to MaxVersion; the greatest stands.
	Version int64
	// Expires is in ms since the epoch; from then on readers do not see the row. 0 is never. It follows from the
	// minute and the tenant's retention, so all versions of a row have the same.
	Expires int64
	// Value has at most MaxValue bytes; empty is a value too, not absence. The store keeps no reference to it.
	Value []byte
}

// Check says whether the row keeps to the rules, its series aside. Its error wraps ErrInvalid.
func (r *Row) Check() error {
	switch {
	case r.Minute < 0 || r.Minute > MaxMinute:
		return fmt.Errorf("%w: %s: minute %d is not in 0 to %d", ErrInvalid, r.Series, r.Minute, int64(MaxMinute))
	case r.Version < 0 || r.Version > MaxVersion:
		return fmt.Errorf("%w: %s minute %d: version %d is not in 0 to %d: it counts from the first message of its minute", ErrInvalid, r.Series, r.Minute, r.Version, MaxVersion)
	case r.Expires < 0:
		return fmt.Errorf("%w: %s minute %d: expiry %d is below 0", ErrInvalid, r.Series, r.Minute, r.Expires)
	case len(r.Value) > MaxValue:
		return fmt.Errorf("%w: %s minute %d: value of %d bytes, more than %d", ErrInvalid, r.Series, r.Minute, len(r.Value), MaxValue)
	}
	return nil
}

// CheckRows checks all rows of a call; nothing is written unless it returns nil.
func CheckRows(rows []Row) error {
	for i := range rows {
		if i == 0 || rows[i].Series != rows[i-1].Series {
			if err := rows[i].Series.Check(); err != nil {
				return err
			}
		}
		if err := rows[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// Coverage says that the batch has finished a window of a tenant, in which generation and from which inputs (DESIGN 6).
type Coverage struct {
	Tenant string
	// Window is its start in minutes since the epoch, 0 to MaxMinute.
	Window int64
	// Generation is at least 0; the greatest stands.
	Generation int64
	// Data are the inputs, opaque here, at most MaxValue bytes.
	Data []byte
}

// Check says whether the coverage keeps to the rules. Its error wraps ErrInvalid.
func (c *Coverage) Check() error {
	if err := checkName("tenant", c.Tenant); err != nil {
		return err
	}
	switch {
	case c.Window < 0 || c.Window > MaxMinute:
		return fmt.Errorf("%w: coverage of tenant %q: window %d is not in 0 to %d", ErrInvalid, c.Tenant, c.Window, int64(MaxMinute))
	case c.Generation < 0:
		return fmt.Errorf("%w: coverage of tenant %q window %d: generation %d is below 0", ErrInvalid, c.Tenant, c.Window, c.Generation)
	case len(c.Data) > MaxValue:
		return fmt.Errorf("%w: coverage of tenant %q window %d: %d bytes, more than %d", ErrInvalid, c.Tenant, c.Window, len(c.Data), MaxValue)
	}
	return nil
}

// Progress says how far a layer of a tenant is complete in one partition of the metrics topic (DESIGN 4): all minutes
// before ClosedBefore. The layer is complete as far as the least of its partitions.
type Progress struct {
	Layer     string
	Partition int32 // at least 0
	Tenant    string
	// ClosedBefore is a minute since the epoch, 0 to MaxMinute. The greatest stands; of equal ones the greatest Version.
	ClosedBefore int64
	Version      int64 // at least 0
}

// Check says whether the progress keeps to the rules. Its error wraps ErrInvalid.
func (p *Progress) Check() error {
	if err := checkName("layer", p.Layer); err != nil {
		return err
	}
	if err := checkName("tenant", p.Tenant); err != nil {
		return err
	}
	if p.Partition < 0 || p.ClosedBefore < 0 || p.ClosedBefore > MaxMinute || p.Version < 0 {
		return fmt.Errorf("%w: progress of layer %q tenant %q: partition %d, closed before %d (at most %d) and version %d must not be below 0",
			ErrInvalid, p.Layer, p.Tenant, p.Partition, p.ClosedBefore, int64(MaxMinute), p.Version)
	}
	return nil
}

// Active names the stream layer that readers of a tenant see (DESIGN 4, mirrors).
type Active struct {
	Tenant, Layer string
	// Seq is at least 0; the greatest stands.
	Seq int64
}

// Check says whether the names and the sequence keep to the rules. Its error wraps ErrInvalid.
func (a *Active) Check() error {
	if err := checkName("tenant", a.Tenant); err != nil {
		return err
	}
	if err := checkName("layer", a.Layer); err != nil {
		return err
	}
	if a.Seq < 0 {
		return fmt.Errorf("%w: active layer of tenant %q: sequence %d is below 0", ErrInvalid, a.Tenant, a.Seq)
	}
	return nil
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: %s is empty", ErrInvalid, what)
	case len(name) > MaxName:
		return fmt.Errorf("%w: %s %.40q... has %d bytes, more than %d", ErrInvalid, what, name, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: %s %q is not UTF-8", ErrInvalid, what, name)
	}
	return nil
}

// Store is the port. Where a method takes fn, fn is called for one value after another and the first error of fn ends
// the call and is returned as it is; slices given to fn are valid only until fn returns. fn may read the store, but must
// not write to it. A cancelled context ends a call with its error.
type Store interface {
	// PutRows writes rows, of any series and in any order. A row that has expired already is not written. The call is
	// not atomic; each row is.
	PutRows(ctx context.Context, rows []Row) error
	// Rows calls fn for the rows of minutes [from, to) that have not expired, by minute ascending. Bounds outside 0 to
	// MaxMinute are no error.
	Rows(ctx context.Context, s Series, from, to int64, fn func(minute, version int64, value []byte) error) error

	// PutRollups and Rollups are PutRows and Rows of another table: one value for each window, by the window's start.
	PutRollups(ctx context.Context, rows []Row) error
	Rollups(ctx context.Context, s Series, from, to int64, fn func(window, version int64, value []byte) error) error

	// Catalog calls fn for the series of a tenant, bytewise by (experiment, metric, layer). A series is listed at least
	// while it has a row or a rollup that readers see, and may stay a few days longer.
	Catalog(ctx context.Context, tenant string, fn func(Series) error) error

	// Metrics calls fn for the metrics of an experiment's series whose names begin with a prefix of ASCII characters, ascending, each
	// once in however many layers it is: of the catalog it takes what is asked for, and not all of its layers.
	Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error

	// PutProgress writes progress; Progress gives that of all partitions, by partition.
	PutProgress(ctx context.Context, p Progress) error
	Progress(ctx context.Context, layer, tenant string) ([]Progress, error)

	// PutCoverage writes coverage; Coverage calls fn for the standing one of each window in [from, to), ascending. Generations is
	// Coverage without its data, which is much more than a reader of values needs.
	PutCoverage(ctx context.Context, c Coverage) error
	Coverage(ctx context.Context, tenant string, from, to int64, fn func(Coverage) error) error
	Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error

	// PutActive writes the active layer; Active gives the standing one and says whether there is any.
	PutActive(ctx context.Context, a Active) error
	Active(ctx context.Context, tenant string) (Active, bool, error)

	// DeleteLayerWindow deletes the rows and rollups of minutes [from, to) of a layer, and its series from the catalog
	// where nothing of them is left. It is for generations that no coverage names any more: a store may let later
	// writes to what was deleted vanish or show.
	DeleteLayerWindow(ctx context.Context, layer, tenant string, from, to int64) error

	// Close waits for the calls that are running and releases the store.
	Close() error
}

// ClampMinutes cuts a range of minutes to those that exist; from >= to when none is left.
func ClampMinutes(from, to int64) (int64, int64) {
	return max(from, 0), min(to, MaxMinute+1)
}
