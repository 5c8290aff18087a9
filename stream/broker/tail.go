package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// Since returns the first offset of a partition whose record is of a time (ms) or later; the end, where there is none.
func Since(ctx context.Context, to Connection, p Partition, ms int64) (int64, error) {
	c, err := to.open()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	all, err := kadm.NewClient(c).ListOffsetsAfterMilli(ctx, ms, p.Topic)
	if err != nil {
		return 0, fmt.Errorf("kafka: offset of a time in %s/%d: %w", p.Topic, p.Partition, err)
	}
	at, ok := all.Lookup(p.Topic, p.Partition)
	if at.Err != nil || !ok {
		return 0, fmt.Errorf("kafka: %s/%d: no offset of a time: %w", p.Topic, p.Partition, at.Err)
	}
	return at.Offset, nil
}

// betweenPoll is how long Between waits for records that are there.
const betweenPoll = time.Minute

// Between hands on the records of a partition from an offset on that lie before another, which is at most that of its end (Bounds).
// A record is valid during the call.
func Between(ctx context.Context, to Connection, p Partition, from, before int64, fn func(r *Record) error) error {
	feed, err := NewFeed(to)
	if err != nil {
		return err
	}
	defer feed.Close()
	feed.Add(p, from)
	for at := from; at < before; {
		poll, cancel := context.WithTimeout(ctx, betweenPoll)
		batches := feed.Poll(poll, 1<<14)
		err := poll.Err()
		cancel()
		if err != nil {
			return fmt.Errorf("%s/%d, offset %d: %w", p.Topic, p.Partition, at, err)
		}
		for _, b := range batches {
			if b.Err != nil {
				return b.Err
			}
			for i := range b.Records {
				if b.Records[i].Offset >= before {
					return nil
				}
				if err := fn(&b.Records[i]); err != nil {
					return err
				}
			}
			at = b.Next
		}
	}
	return nil
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
