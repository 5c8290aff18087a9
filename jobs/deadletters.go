package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tandem/core/beacon"
	"tandem/jobs/site"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

const deadlettersUsage = `usage: tandem deadletters --site SITE.yaml [--reason REASON] [--from TIME] [--max 1000]

Prints the records that dispatch has rejected, a JSON object a line, in the order in which they were: the offset in the
dead-letter topic of the site, the reason, where the record is in its raw topic (TOPIC/PARTITION/OFFSET), its ingest time,
and the payload: as text, or as base64 where it is no UTF-8. A site has one such topic, since of what cannot be parsed
nobody knows the tenant. It reads up to where the topic ends when it begins, and changes nothing.

example:
  tandem deadletters --site site.yaml --reason bad_ts --from 2026-01-01T12:00:00Z

`

// deadLetter is a line.
type deadLetter struct {
	Offset  int64  `json:"offset"`
	Reason  string `json:"reason"`
	Source  string `json:"source"`
	Ingest  string `json:"ingest"`
	Payload string `json:"payload"`
	Base64  []byte `json:"base64,omitempty"`
}

// errEnough ends reading where as many are printed as are wanted.
var errEnough = errors.New("enough")

// runDeadletters is `tandem deadletters`.
func runDeadletters(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var reasons []string
	for r := beacon.None + 1; r <= beacon.BadValue; r++ {
		reasons = append(reasons, r.String())
	}
	flags := flag.NewFlagSet("deadletters", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	reason := flags.String("reason", "", "`reason` for which they were rejected: "+strings.Join(reasons, ", ")+"; any if absent")
	from := flags.String("from", "", "ingest `time` of the first, RFC 3339; all that the topic still has if absent")
	most := flags.Int("max", 1000, "records that are printed at most, 1 to 1000000000")
	rest, code, over := parse(flags, deadlettersUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) > 0:
		return wrongUsage(stderr, "deadletters", "unexpected argument %q", rest[0])
	case *file == "":
		return wrongUsage(stderr, "deadletters", "--site is needed")
	case *reason != "" && !slices.Contains(reasons, *reason):
		return wrongUsage(stderr, "deadletters", "--reason %q is none of %s", *reason, strings.Join(reasons, ", "))
	case *most < 1 || *most > 1_000_000_000:
		return wrongUsage(stderr, "deadletters", "--max %d is not in 1 to 1000000000", *most)
	}
	since := int64(0)
	if *from != "" {
		t, err := time.Parse(time.RFC3339, *from)
		if err != nil {
			return wrongUsage(stderr, "deadletters", "--from %q is not as 2026-01-01T12:00:00Z", *from)
		}
		since = t.UnixMilli()
	}
	out := bufio.NewWriter(stdout)
	err := printDeadletters(ctx, *file, *reason, since, *most, out)
	enough := errors.Is(err, errEnough)
	if enough {
		err = nil
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		return failed(stderr, "deadletters", err)
	}
	if enough {
		fmt.Fprintf(stderr, "there are more than --max %d\n", *most)
	}
	return 0
}

// printDeadletters prints those of a reason, any if empty, taken in since a time (ms). It ends with errEnough before one more than most.
func printDeadletters(ctx context.Context, file, reason string, since int64, most int, out io.Writer) error {
	s, err := site.Load(file)
	if err != nil {
		return err
	}
	to, err := s.Connection()
	if err != nil {
		return err
	}
	p := broker.Partition{Topic: s.Dead}
	first, end, err := broker.Bounds(ctx, to, p)
	if err == nil && since > 0 {
		first, err = broker.Since(ctx, to, p, since)
	}
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	return broker.Between(ctx, to, p, first, end, func(r *broker.Record) error {
		why, _ := r.Header(wire.HeaderReason)
		if r.Time < since || reason != "" && string(why) != reason { // several raw partitions are dispatched side by side: times go back and forth
			return nil
		}
		if most--; most < 0 {
			return errEnough
		}
		source, _ := r.Header(wire.HeaderSource)
		ingest, _ := r.Header(wire.HeaderIngest)
		ms, err := strconv.ParseInt(string(ingest), 10, 64)
		if err != nil {
			return fmt.Errorf("%s/0, offset %d: no dead letter of dispatch: header %s is %q", s.Dead, r.Offset, wire.HeaderIngest, ingest)
		}
		l := deadLetter{Offset: r.Offset, Reason: string(why), Source: string(source), Ingest: time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")}
		if utf8.Valid(r.Value) {
			l.Payload = string(r.Value)
		} else {
			l.Base64 = r.Value
		}
		return lines.Encode(l)
	})
}
