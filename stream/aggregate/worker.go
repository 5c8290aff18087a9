package aggregate

import (
	"context"
	"fmt"

	"tandem/schemas/store"
	"tandem/stream/broker"
)

// Rows is the part of the store that stage 2 writes to.
type Rows interface {
	PutRows(ctx context.Context, rows []store.Row) error
	PutProgress(ctx context.Context, p store.Progress) error
}

// Commits keeps from where a partition must be read again after a restart, and what New is to know of the messages before.
type Commits interface {
	Commit(ctx context.Context, partition int32, to broker.Committed) error
}

// Worker drives the aggregate of one partition: rows, then how far they are complete, then the commit, each after the
// acknowledgement of what came before. Not safe for concurrent use.
type Worker struct {
	State   *State
	Store   Rows
	Commits Commits // nil: nothing is committed, a restart reads everything
	commit  int64
}

// Handle takes the messages of one poll and writes what they touched.
func (w *Worker) Handle(ctx context.Context, recs []broker.Record) error {
	for i := range recs {
		if recs[i].Offset < w.State.Offset {
			continue
		}
		if err := w.State.Take(recs[i].Offset, recs[i].Value); err != nil {
			return err
		}
	}
	rows, err := w.State.Due()
	if err != nil {
		return err
	}
	if err := w.Store.PutRows(ctx, rows); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	for _, p := range w.State.Close() {
		if err := w.Store.PutProgress(ctx, p); err != nil {
			return fmt.Errorf("write progress: %w", err)
		}
	}
	at := w.State.Commit()
	if at <= w.commit {
		return nil
	}
	to := broker.Committed{Offset: at, Note: w.State.Heard(at)}
	if w.Commits != nil {
		if err := w.Commits.Commit(ctx, w.State.cfg.Partition, to); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	w.commit = at
	return nil
}
