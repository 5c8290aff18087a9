package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// tailRecords is how many records before the end tell the moment of a log at first. Their times go back and forth by what the
// sources lag behind each other.
const tailRecords = 1000

// LastRecords asks Tail for the last records.
const LastRecords = -1

// Tail returns the first offset of a partition, the offset after its last record, and its last records, if it has any; or, given an
// offset, those from there on, and waits for the first of them.
func Tail(ctx context.Context, to Connection, p Partition, after int64) (first, next int64, recs []Record, err error) {
	c, err := to.open()
	if err != nil {
		return 0, 0, nil, err
	}
	defer c.Close()
	admin := kadm.NewClient(c)
	starts, err := admin.ListStartOffsets(ctx, p.Topic)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("kafka: first offset of %s/%d: %w", p.Topic, p.Partition, err)
	}
	ends, err := admin.ListEndOffsets(ctx, p.Topic)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("kafka: end of %s/%d: %w", p.Topic, p.Partition, err)
	}
	start, ok1 := starts.Lookup(p.Topic, p.Partition)
	end, ok2 := ends.Lookup(p.Topic, p.Partition)
	if err := errors.Join(start.Err, end.Err); err != nil || !ok1 || !ok2 {
		return 0, 0, nil, fmt.Errorf("kafka: %s/%d: no offsets: %w", p.Topic, p.Partition, err)
	}
	first, next = start.Offset, end.Offset
	from := max(first, next-tailRecords)
	if after != LastRecords {
		from = max(first, after)
	} else if from >= next {
		return first, next, nil, nil
	}
	r, err := NewReader(to, map[Partition]int64{p: from})
	if err != nil {
		return 0, 0, nil, err
	}
	defer r.Close()
	for from < next || len(recs) == 0 {
		more, err := r.Poll(ctx, tailRecords)
		if err != nil {
			return 0, 0, nil, err
		}
		recs = append(recs, more...)
		if len(more) > 0 {
			from = more[len(more)-1].Offset + 1
		}
	}
	return first, from, recs, nil
}

// Payload reads the value of one record, with a connection of its own: it is rare.
func Payload(ctx context.Context, to Connection, p Partition, offset int64) ([]byte, error) {
	r, err := one(ctx, to, p, offset)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), r.Value...), nil
}

// TimeOf reads the time (ms) of one record.
func TimeOf(ctx context.Context, to Connection, p Partition, offset int64) (int64, error) {
	r, err := one(ctx, to, p, offset)
	return r.Time, err
}

func one(ctx context.Context, to Connection, p Partition, offset int64) (Record, error) {
	r, err := NewReader(to, map[Partition]int64{p: offset})
	if err != nil {
		return Record{}, err
	}
	defer r.Close()
	recs, err := r.Poll(ctx, 1)
	if err != nil {
		return Record{}, err
	}
	if len(recs) == 0 || recs[0].Offset != offset {
		return Record{}, fmt.Errorf("kafka: %s/%d has no record %d", p.Topic, p.Partition, offset)
	}
	return recs[0], nil
}
