package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Bounds returns the first offset of a partition and the offset after its last record that is in no open transaction.
func Bounds(ctx context.Context, to Connection, p Partition) (first, next int64, err error) {
	c, err := to.open()
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	admin := kadm.NewClient(c)
	starts, err := admin.ListStartOffsets(ctx, p.Topic)
	if err != nil {
		return 0, 0, fmt.Errorf("kafka: first offset of %s/%d: %w", p.Topic, p.Partition, err)
	}
	ends, err := admin.ListCommittedOffsets(ctx, p.Topic)
	if err != nil {
		return 0, 0, fmt.Errorf("kafka: end of %s/%d: %w", p.Topic, p.Partition, err)
	}
	start, ok1 := starts.Lookup(p.Topic, p.Partition)
	end, ok2 := ends.Lookup(p.Topic, p.Partition)
	if err := errors.Join(start.Err, end.Err); err != nil || !ok1 || !ok2 {
		return 0, 0, fmt.Errorf("kafka: %s/%d: no offsets: %w", p.Topic, p.Partition, err)
	}
	return start.Offset, end.Offset, nil
}

// followRecords is how many records Follow hands on at once, at most.
const followRecords = 1000

// Follow hands on the records of a partition from an offset on, some at a time, and waits for more, until fn says that it is enough.
// They are valid during the call.
func Follow(ctx context.Context, to Connection, p Partition, from int64, fn func(recs []Record) (enough bool, err error)) error {
	r, err := NewReader(to, map[Partition]int64{p: from})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		recs, err := r.Poll(ctx, followRecords)
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			continue
		}
		if enough, err := fn(recs); enough || err != nil {
			return err
		}
	}
}

// TimeOf reads the time (ms) of one record.
func TimeOf(ctx context.Context, to Connection, p Partition, offset int64) (int64, error) {
	r, err := NewReader(to, map[Partition]int64{p: offset})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	recs, err := r.Poll(ctx, 1)
	if err != nil {
		return 0, err
	}
	if len(recs) == 0 || recs[0].Offset != offset {
		return 0, fmt.Errorf("kafka: %s/%d has no record %d", p.Topic, p.Partition, offset)
	}
	return recs[0].Time, nil
}
