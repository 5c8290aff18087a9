package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"

	"tandem/schemas/store"
)

const (
	firstWait = 50 * time.Millisecond
	lastWait  = 2 * time.Second
	logEvery  = 10 * time.Second
)

// retrier does things until they succeed. The driver has retries too, but none for the loss of every connection.
type retrier struct {
	log     *slog.Logger
	retries atomic.Int64
	logged  atomic.Int64 // when something was logged, in ns since the epoch
}

// permanent is an error that trying again does not help.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// refusals are the servers' answers to a request that is wrong, now and later.
var refusals = []int{gocql.ErrCodeProtocol, gocql.ErrCodeCredentials, gocql.ErrCodeSyntax, gocql.ErrCodeUnauthorized,
	gocql.ErrCodeInvalid, gocql.ErrCodeConfig, gocql.ErrCodeAlreadyExists}

func hopeless(err error) bool {
	var p permanent
	var answer gocql.RequestError
	var marshal gocql.MarshalError
	return errors.As(err, &p) || errors.As(err, &marshal) || errors.Is(err, gocql.ErrSessionClosed) || errors.Is(err, store.ErrCorrupt) ||
		errors.As(err, &answer) && slices.Contains(refusals, answer.Code())
}

// retry calls try until it succeeds, fails for good, or ctx ends.
func (r *retrier) retry(ctx context.Context, what string, try func() error) error {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		err := try()
		if err == nil {
			return nil
		}
		if hopeless(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ctx.Err() == nil {
			r.retries.Add(1)
			r.tell(what, err)
			select {
			case <-time.After(wait/2 + rand.N(wait)):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w; before that: %v", what, ctx.Err(), err)
		}
	}
}

func (r *retrier) tell(what string, err error) {
	now, before := time.Now().UnixNano(), r.logged.Load()
	if r.log != nil && now-before >= int64(logEvery) && r.logged.CompareAndSwap(before, now) {
		r.log.Warn("trying again", "what", what, "error", err, "retries", r.retries.Load())
	}
}
