package batch

import (
	"context"
	"math"
	"slices"

	"tandem/core/metric"
	"tandem/schemas/archive"
)

// startRecords is for how many records of a session_ttl one hash range is looked at at once: 8 bytes of memory for each
// session of them.
const startRecords = 4 << 20

// begin finds where the recomputation must begin so that every session of the range is known from its first beacon on: a
// session_ttl before the range, or more, if a session that is open there has beacons in the session_ttl before that, and
// so on; at the latest where the archive begins.
func (r *auditing) begin(ctx context.Context) error {
	from := windowOf(r.report.From * 60000)
	ttl := max(back(r.Job.Chain, from), back(r.Live, from))
	if ttl == 0 { // no config is in force before the range: no session begins there
		r.report.Start, r.report.Exact = from, true
		return nil
	}
	first := from
	for w := range r.archive.Spans {
		first = min(first, w)
	}
	limit := from - max((r.Back+ttl-1)/ttl, 1)*ttl
	exact := first >= limit && r.archive.From <= first // nothing lies before what is looked at
	limit = max(limit, first, min(r.archive.From, from))
	records := int64(0)
	for w, n := range r.archive.Records {
		if w >= from-ttl && w < from {
			records += n
		}
	}
	bounds := uniform(int(min(max((records+startRecords-1)/startRecords, 1), Buckets)))
	files := r.Job.open()
	defer files.close()
	r.report.Start, r.report.Exact = from, true
	for i := range bounds {
		r.told("looking for beginnings", i, len(bounds))
		var open []uint64
		at := from
		for at > limit {
			next := max(at-ttl, limit)
			hashes, err := r.hashes(ctx, files, next, at, uint64(bounds[i]), last(bounds, i))
			if err != nil {
				return err
			}
			if next > at-ttl && !exact {
				hashes = append(hashes, open...) // what lies before the limit may go on in all of them
			} else if at < from {
				hashes = slices.DeleteFunc(hashes, func(h uint64) bool { _, ok := slices.BinarySearch(open, h); return !ok })
			}
			if open = compacted(hashes); len(open) == 0 {
				break
			}
			at = next
		}
		r.report.Start = min(r.report.Start, at)
		if len(open) > 0 && !exact {
			r.report.Exact = false
			r.report.Before += int64(len(open))
		}
	}
	return nil
}

// hashes are those of sessions with a record in [from, to) ms, sorted. Whether the stream counts it is not asked: it costs
// more, and a beginning that is looked for too far back does no harm.
func (r *auditing) hashes(ctx context.Context, o *openFiles, from, to int64, lo, hi uint64) ([]uint64, error) {
	var all []uint64
	for _, files := range r.archive.Files {
		for _, f := range files {
			if f.Info.MinTS >= to || f.Info.MaxTS < from || f.Info.MinHash > hi || f.Info.MaxHash < lo {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			file, err := o.get(f.Info)
			if err == nil {
				it := file.Rows(lo, hi, archive.Columns{})
				last := uint64(math.MaxUint64)
				for it.Next() {
					if row := it.Row(); row.TS >= from && row.TS < to && (row.Hash != last || len(all) == 0) {
						last = row.Hash
						all = append(all, last)
					}
				}
				err = it.Err()
			}
			o.done([]string{f.Info.Name})
			if err != nil {
				return nil, err
			}
			if len(all) > 2*startRecords {
				all = compacted(all)
			}
		}
	}
	return compacted(all), nil
}

func compacted(hashes []uint64) []uint64 {
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// retention of the rows of a tenant, ms, as both layers write them.
func (j *Job) retention() int64 {
	revs := j.Chain.Revs
	return revs[len(revs)-1].Config.Retention
}

// expired says whether the batch's or the stream's row of a metric and a minute may have expired.
func (r *auditing) expired(n seriesName, minute int64) bool {
	return isVisitors(n.metric) && minute < metric.FloorDiv(r.Now-min(VisitorsMS, r.Job.retention())+expiryMargin, 60000)
}
