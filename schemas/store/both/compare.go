package both

import (
	"bytes"
	"context"
	"fmt"

	"tandem/schemas/store"
)

// Difference is what is not the same in two stores.
type Difference struct {
	What   string // "row", "rollup", "coverage", "progress" or "active layer"
	Key    string
	Detail string // only in the first, only in the second, or what differs
}

// Report counts what was compared.
type Report struct {
	Equal, Differ, OnlyFirst, OnlySecond int64
	Examples                             []Difference // the first ones
}

// maxExamples bounds a report.
const maxExamples = 20

// Faults is how many are not the same.
func (r *Report) Faults() int64 { return r.Differ + r.OnlyFirst + r.OnlySecond }

func (r *Report) note(count *int64, d Difference) {
	*count++
	if len(r.Examples) < maxExamples {
		r.Examples = append(r.Examples, d)
	}
}

// record is what a store has under a key.
type record struct {
	version int64
	value   []byte
}

// Compare compares all that two stores hold of a tenant in minutes [from, to): rows and rollups with their versions,
// coverage, progress of the layers that have rows, and the active layer. A series of a day's length is held in memory.
func Compare(ctx context.Context, a, b store.Store, tenant string, from, to int64) (*Report, error) {
	r := &Report{}
	series := map[store.Series]bool{}
	layers := map[string]bool{}
	for _, st := range []store.Store{a, b} {
		err := st.Catalog(ctx, tenant, func(s store.Series) error {
			series[s], layers[s.Layer] = true, true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	const day = 24 * 60
	for s := range series {
		for at := from; at < to; at += day {
			until := min(to, at+day)
			if err := r.records("row", s.String(), func(st store.Store, fn func(int64, int64, []byte) error) error {
				return st.Rows(ctx, s, at, until, fn)
			}, a, b); err != nil {
				return nil, err
			}
			if err := r.records("rollup", s.String(), func(st store.Store, fn func(int64, int64, []byte) error) error {
				return st.Rollups(ctx, s, at, until, fn)
			}, a, b); err != nil {
				return nil, err
			}
		}
	}
	if err := r.records("coverage", tenant, func(st store.Store, fn func(int64, int64, []byte) error) error {
		return st.Coverage(ctx, tenant, from, to, func(c store.Coverage) error { return fn(c.Window, c.Generation, c.Data) })
	}, a, b); err != nil {
		return nil, err
	}
	for layer := range layers {
		if err := r.records("progress", layer, func(st store.Store, fn func(int64, int64, []byte) error) error {
			all, err := st.Progress(ctx, layer, tenant)
			for _, p := range all {
				if err == nil {
					err = fn(int64(p.Partition), p.ClosedBefore, nil)
				}
			}
			return err
		}, a, b); err != nil {
			return nil, err
		}
	}
	return r, r.records("active layer", tenant, func(st store.Store, fn func(int64, int64, []byte) error) error {
		active, ok, err := st.Active(ctx, tenant)
		if err != nil || !ok {
			return err
		}
		return fn(0, active.Seq, []byte(active.Layer))
	}, a, b)
}

// records compares what read finds in both.
func (r *Report) records(what, key string, read func(st store.Store, fn func(at, version int64, value []byte) error) error, a, b store.Store) error {
	first := map[int64]record{}
	err := read(a, func(at, version int64, value []byte) error {
		first[at] = record{version, bytes.Clone(value)}
		return nil
	})
	if err != nil {
		return err
	}
	err = read(b, func(at, version int64, value []byte) error {
		d := Difference{What: what, Key: fmt.Sprintf("%s at %d", key, at)}
		have, ok := first[at]
		delete(first, at)
		switch {
		case !ok:
			d.Detail = "only in the second store"
			r.note(&r.OnlySecond, d)
		case have.version != version || !bytes.Equal(have.value, value):
			d.Detail = fmt.Sprintf("versions %d and %d, %d and %d bytes", have.version, version, len(have.value), len(value))
			r.note(&r.Differ, d)
		default:
			r.Equal++
		}
		return nil
	})
	for at := range first {
		r.note(&r.OnlyFirst, Difference{what, fmt.Sprintf("%s at %d", key, at), "only in the first store"})
	}
	return err
}
