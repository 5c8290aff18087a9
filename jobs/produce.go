package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"tandem/core/beacon"
	"tandem/jobs/embedded"
	"tandem/jobs/site"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

const produceUsage = `usage: tandem produce --site SITE.yaml --topic TOPIC [--heartbeats=false] [--end-heartbeat] [--rate N] RECORDS

Writes a records file (INGEST_MS <TAB> BEACON a line, or the beacon alone) to a raw topic of the site. RECORDS may end in
.zst or .gz; - is standard input. Beacons of one session go to one partition. What the topic's kind says decides about time:

  history  a record's time is its ingest time, or the beacon's ts where there is none. The records go out in order of time,
           with a heartbeat in every partition for every 5 s in which there are some, so that time passes. --end-heartbeat
           adds last ones in every partition, so late that every minute and every window of the records closes.
           It needs 24 bytes of memory for each record, and in the temporary folder (TMPDIR) as much as all beacons.
  live     the broker gives the time when it takes the record. The records go out as they come, and heartbeats are
           dispatch's. This is for tests and benchmarks, with --rate.

Kafka refuses records that are stamped more than message.timestamp.after.max.ms (1 hour) ahead of its clock: then nothing is
written. A run that was stopped may be repeated whole: what was written before counts once.

example:
  tandem produce --site site.yaml --topic old.raw --end-heartbeat shop.tsv.zst

`

const (
	// beatMS is the record time between heartbeats.
	beatMS = 5000
	// queuedRecords is how many records of a live file wait to be sent; then reading waits.
	queuedRecords = 1 << 12
	// aheadMS is how far ahead of its clock Kafka takes records, if a topic does not say.
	aheadMS = 3_600_000
	// paceStep is the least time between two writes under --rate.
	paceStep = 20 * time.Millisecond
)

// runProduce is `tandem produce`. It returns 0, 1 if not everything was written, and 2 for a wrong command line.
func runProduce(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("produce", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	topic := flags.String("topic", "", "raw `topic` of the site; required")
	beats := flags.Bool("heartbeats", true, "write heartbeats, for a topic of kind history")
	end := flags.Bool("end-heartbeat", false, "write a last heartbeat that closes everything, for a topic of kind history")
	rate := flags.Float64("rate", 0, "records a `second` at most; 0 is as fast as Kafka takes them")
	rest, code, over := parse(flags, produceUsage, args, stderr)
	switch {
	case over:
		return code
	case *file == "" || *topic == "":
		return wrongUsage(stderr, "produce", "--site and --topic are needed")
	case len(rest) != 1:
		return wrongUsage(stderr, "produce", "one RECORDS is needed, not %d", len(rest))
	case !(*rate >= 0 && *rate <= 1e9):
		return wrongUsage(stderr, "produce", "--rate %v is not in 0 to 1e9", *rate)
	}
	p := &produceJob{path: rest[0], beats: *beats, end: *end, rate: *rate, progress: newPhaseProgress(stderr)}
	began := time.Now()
	err := p.open(ctx, *file, *topic)
	if err == nil {
		defer p.writer.Close()
		err = p.run(ctx)
	}
	p.progress.clear()
	if p.written > 0 || err == nil {
		s := time.Since(began).Seconds()
		fmt.Fprintf(stderr, "produced %s and %s to %s in %.1f s, %.0f/s\n", count(p.written, "record"), count(p.beaten, "heartbeat"), *topic, s, float64(p.written)/s)
	}
	if err != nil {
		return failed(stderr, "produce", err)
	}
	return 0
}

type produceJob struct {
	path       string
	beats, end bool
	rate       float64
	progress   *phaseProgress

	raw     site.Raw
	closing int64 // ms from the last record to the end heartbeat
	ahead   int64 // ms that Kafka takes records ahead of its clock
	writer  *broker.Writer

	parser beacon.Parser
	parsed beacon.Beacon
	began  time.Time // of sending

	// What is to be written next: at most feedRecords records or feedBytes, then it is.
	out    []broker.Record
	bytes  int
	queued int64 // records in it, the others are heartbeats
	beat   int64 // interval of the last heartbeats

	written, beaten int64 // acknowledged
}

// open finds the topic and checks that it is what the site says.
func (p *produceJob) open(ctx context.Context, file, topic string) error {
	s, err := site.Load(file)
	if err != nil {
		return err
	}
	want := site.Topic{}
	for i, t := range s.Topics(s.Layer())[:len(s.Raw)] {
		if t.Name == topic {
			p.raw, want = s.Raw[i], t
		}
	}
	switch p.raw.Kind {
	case wire.KindHistory, wire.KindLive:
	case wire.KindMirror:
		return fmt.Errorf("topic %s mirrors one of cluster %s: produce to that", topic, p.raw.Cluster)
	default:
		return fmt.Errorf("topic %s is no raw topic of %s", topic, file)
	}
	if p.raw.Kind == wire.KindLive && p.end {
		return fmt.Errorf("topic %s is of kind live, where the broker gives the time: no heartbeat of it can lie ahead", topic)
	}
	for i := range s.Tenants {
		p.closing = max(p.closing, embedded.Closing(s.Tenants[i].Chain))
	}
	to, err := s.Connection()
	if err != nil {
		return err
	}
	topics, err := broker.NewTopics(to)
	if err != nil {
		return err
	}
	defer topics.Close()
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	found, err := topics.Describe(ctx, topic)
	if err != nil {
		return err
	}
	is, ok := found[topic]
	if !ok {
		return fmt.Errorf("topic %s is not there: tandem topics apply makes it", topic)
	}
	if err := want.Check(is, 1, false); err != nil {
		return err
	}
	p.ahead = aheadMS
	if ms, err := strconv.ParseInt(is.Config["message.timestamp.after.max.ms"], 10, 64); err == nil {
		p.ahead = ms
	}
	p.writer, err = broker.NewRawWriter(to)
	return err
}

func (p *produceJob) run(ctx context.Context) error {
	var err error
	if p.raw.Kind == wire.KindLive {
		err = p.live(ctx)
	} else {
		err = p.history(ctx)
	}
	if errors.Is(err, kerr.InvalidTimestamp) {
		err = fmt.Errorf("%w: the times of these records lie outside what the topic's message.timestamp.before.max.ms and message.timestamp.after.max.ms admit", err)
	}
	return err
}

func (p *produceJob) history(ctx context.Context) error {
	temp, err := os.MkdirTemp("", "tandem-produce-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // a leftover in the temporary folder harms nobody
	recs, err := readRecords(ctx, p.path, temp, func(n int) { p.progress.show("reading", int64(n), "records") })
	if err != nil {
		return err
	}
	defer recs.close()
	if len(recs.index) == 0 {
		return nil
	}
	last := recs.index[len(recs.index)-1].ingest
	if err := p.checkAhead(last); err != nil {
		return err
	}
	p.began = time.Now()
	for {
		raws, err := recs.next()
		if err != nil {
			return err
		}
		if len(raws) == 0 {
			break
		}
		for i := range raws {
			if n := raws[i].Ingest / beatMS; p.beats && n > p.beat {
				p.beat = n
				p.heartbeats(n * beatMS)
			}
			if err := p.add(ctx, raws[i].Ingest, raws[i].Payload); err != nil {
				return err
			}
		}
		if err := p.flush(ctx); err != nil {
			return err
		}
		p.progress.show("producing", p.written, "of "+strconv.Itoa(len(recs.index))+" records")
	}
	if p.end {
		p.heartbeats(last + p.closing)
		p.heartbeats(last + p.closing + endAgain)
	}
	return p.flush(ctx)
}

// endAgain is how long (ms) after the end the last heartbeat is. A tick ends when the furthest source comes to a new interval;
// this one does so once all sources have come to the end, as none is read further ahead of the others than --ahead of
// dispatch (1 h at most) and none ticks more seldom than once an hour.
const endAgain = 2*3_600_000 + 60_000

// checkAhead refuses what Kafka would refuse, before anything is written. last is the time of the last record.
func (p *produceJob) checkAhead(last int64) error {
	now := time.Now()
	most := now.UnixMilli() + p.ahead
	text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	refuses := fmt.Sprintf("Kafka refuses records stamped later than %s (message.timestamp.after.max.ms of topic %s is %s)",
		text(most), p.raw.Topic, time.Duration(p.ahead)*time.Millisecond)
	switch {
	case p.ahead > 1<<53: // no limit
	case last > most:
		return fmt.Errorf("%s: the last record has ingest time %s; %s", p.path, text(last), refuses)
	case p.end && last+p.closing+endAgain > most:
		return fmt.Errorf("%s: the end heartbeat would be at %s; %s: try again in %s, or leave out --end-heartbeat", p.path, text(last+p.closing+endAgain), refuses,
			time.Duration(last+p.closing+endAgain-most)*time.Millisecond)
	}
	return nil
}

// live sends the records as they come. They wait for nobody but Kafka and --rate.
func (p *produceJob) live(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	in, name, err := openRecords(ctx, p.path)
	if err != nil {
		stop()
		return err
	}
	lines := make(chan []byte, queuedRecords)
	var readErr error // set before lines is closed
	defer func() {
		stop()
		for range lines { // until its reader has stopped
		}
		in.Close()
	}()
	go func() {
		defer close(lines)
		for {
			r, err := in.Next()
			if err != nil {
				readErr = err
				return
			}
			select {
			case lines <- bytes.Clone(r.Payload):
			case <-ctx.Done():
				readErr = ctx.Err()
				return
			}
		}
	}()
	p.began = time.Now()
	for {
		if len(lines) == 0 {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
		var payload []byte
		more := false
		select {
		case payload, more = <-lines:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !more {
			break
		}
		if err := p.add(ctx, 0, payload); err != nil {
			return err
		}
		p.progress.show("producing", p.written, "records")
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	if readErr != io.EOF {
		return fmt.Errorf("%s: %w", name, readErr)
	}
	return nil
}

// heartbeats adds one for each partition.
func (p *produceJob) heartbeats(ms int64) {
	for i := range p.raw.Partitions {
		p.out = append(p.out, broker.Record{Topic: p.raw.Topic, Partition: i, Time: ms, Headers: []broker.Header{{Key: dispatch.HeaderHeartbeat}}})
	}
}

// add adds a record to what is written next. The payload must stay until the next flush. 0 is no time.
func (p *produceJob) add(ctx context.Context, ms int64, payload []byte) error {
	if p.rate > 0 {
		due := time.Duration(float64(p.written+p.queued) / p.rate * float64(time.Second))
		if wait := due - time.Since(p.began); wait > 0 {
			if err := p.flush(ctx); err != nil {
				return err
			}
			select {
			case <-time.After(max(wait, paceStep)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	p.out = append(p.out, broker.Record{Topic: p.raw.Topic, Partition: p.partition(payload), Time: ms, Value: payload})
	p.queued++
	p.bytes += len(payload)
	if len(p.out) >= feedRecords || p.bytes >= feedBytes {
		return p.flush(ctx)
	}
	return nil
}

// partition is that of the session, so that its beacons keep their order; of what has none, that of the payload.
func (p *produceJob) partition(payload []byte) int32 {
	key := payload
	if p.parser.Parse(payload, &p.parsed) == beacon.None {
		key = p.parsed.Session
	}
	return int32(dispatch.SessionHash(key) % uint64(p.raw.Partitions))
}

// flush writes and waits for the acks.
func (p *produceJob) flush(ctx context.Context) error {
	if err := p.writer.Write(ctx, p.out); err != nil {
		return err
	}
	p.written += p.queued
	p.beaten += int64(len(p.out)) - p.queued
	p.out, p.bytes, p.queued = p.out[:0], 0, 0
	return nil
}
