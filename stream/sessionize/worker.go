package sessionize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// CoreVersion changes when what Fold computes changes, what a tick touches, where it ends or when a minute is passed: a new generation (DESIGN 4).
const CoreVersion = 4

// Config of a shard's worker.
type Config struct {
	Layer             string
	Topic, TopicID    string
	Partition         int32
	MetricsTopic      string
	MetricsPartitions int
	TickMS            int64
	// CheckpointTicks is the least number of ticks between checkpoints; 0: none.
	CheckpointTicks int
}

// Writer is the part of a broker that a shard publishes to: it returns once everything is acknowledged, and after an
// error nothing more may be written.
type Writer interface {
	Write(ctx context.Context, recs []broker.Record) error
}

// Blobs holds claims and checkpoints.
type Blobs interface {
	Create(name string, data []byte) error
	Get(name string) ([]byte, error)
	List(prefix string) ([]string, error)
	Delete(name string) error
}

// Worker drives a shard: it publishes what a tick touched, then markers, then takes a checkpoint. Not safe for
// concurrent use.
type Worker struct {
	Shard *Shard
	// Ticked, if set, is told of each tick that is done (monitoring).
	Ticked func(TickStats)
	// End, if it is kept up, is the offset after the last record that there is to read: checkpoints are fewer while catching up.
	End int64

	cfg      Config
	out      Writer
	blobs    Blobs
	pub      publisher
	progress wire.ProgressReader
	all      bool  // the next tick publishes every open row
	ticks    int   // since the last checkpoint
	last     int64 // offset of the last checkpoint, or where the worker began
	from     int64 // offset of the last whole checkpoint
	line     lineage
	recs     []broker.Record
	bytes    int
}

// TickStats describes a tick.
type TickStats struct {
	Offset, Watermark int64
	Rows, Bytes       int64
	Fold, Publish     time.Duration // Fold: of what was left at its end
	Checkpoint        CheckpointStats
}

// CheckpointStats describes a checkpoint, if the tick took one.
type CheckpointStats struct {
	Taken bool
	Whole bool  // else it has what changed since the last one
	Bytes int64 // 0 if another owner had taken it already
	Took  time.Duration
	Err   error // it was not taken, and is due again at the next tick: a shard can go on without, only a restart is longer
}

// ErrRefused is wrapped when a shard's state and what it is opened with do not belong together. Trying again does not
// help.
var ErrRefused = errors.New("refused")

// ErrSuperseded is wrapped when a later generation was claimed while this one's owner was at work: by one that took itself for
// the owner too, with another tick. What this one tells no longer stands, so it is to be opened anew.
var ErrSuperseded = errors.New("a later generation was claimed")

// claim names where a generation begins. It is created once.
type claim struct {
	Start       int64  // offset of its first record
	From        string // checkpoint that it begins with; "": an empty shard
	FirstMinute int64
	TickMS      int64
	Core        int
	Metrics     int // partitions of the metrics topic: a row's place in it never changes
}

// checkpoints are those that the generation goes on from, the newest last: its own, or the one that it began with. None: an
// empty shard.
func (c *claim) checkpoints(taken []string) []string {
	if len(taken) == 0 && c.From != "" {
		return []string{c.From}
	}
	return taken
}

// keepCheckpoints at least are kept, of two lineages or more; older ones are deleted.
const keepCheckpoints = 3

// Open finds where the shard goes on: at its newest checkpoint, or where its generation was claimed to begin. Two
// owners that open at once come to the same.
func Open(cfg Config, chain *tenant.Chain, blobs Blobs, out Writer, payload PayloadAt) (*Worker, error) {
	w := &Worker{cfg: cfg, out: out, blobs: blobs, pub: publisher{partitions: cfg.MetricsPartitions}}
	for {
		g, c, taken, err := w.newest()
		if err != nil {
			return nil, err
		}
		if g >= 0 && c.Metrics != cfg.MetricsPartitions {
			return nil, fmt.Errorf("%w: %s/%d publishes to %d partitions of the metrics topic, not to %d: the number never changes, growth is a new topic",
				ErrRefused, cfg.Topic, cfg.Partition, c.Metrics, cfg.MetricsPartitions)
		}
		if g >= 0 && c.TickMS == cfg.TickMS && c.Core == CoreVersion {
			return w, w.restore(g, c, taken, chain, payload)
		}
		next := claim{TickMS: cfg.TickMS, Core: CoreVersion, Metrics: cfg.MetricsPartitions}
		if g >= 0 {
			next.Start, next.FirstMinute = c.Start, c.FirstMinute
			if taken := c.checkpoints(taken); len(taken) > 0 {
				// Minutes before the watermark there are closed in the shard, so only the generation before can have told
				// of them: what it told stands.
				line, err := lasting(taken, w.blobs.Get)
				if err != nil {
					return nil, err
				}
				from, _, err := restore(line.newest(), w.blobs.Get, chain, payload)
				if err != nil {
					return nil, err
				}
				next.From, next.Start, next.FirstMinute = line.newest(), from.Offset, max(c.FirstMinute, from.Watermark)
			}
		}
		data, err := sealed.Marshal(next)
		if err != nil {
			return nil, fmt.Errorf("claim: %w", err)
		}
		if err := blobs.Create(w.claimName(g+1), data); err != nil && !errors.Is(err, blob.ErrExists) {
			return nil, fmt.Errorf("claim generation %d: %w", g+1, err)
		}
	}
}

func (w *Worker) folder() string {
	return fmt.Sprintf("checkpoints/%s/%s/%d", w.cfg.Layer, w.cfg.TopicID, w.cfg.Partition)
}

func (w *Worker) claimName(g int64) string { return fmt.Sprintf("%s/%010d/claim.json", w.folder(), g) }

func (w *Worker) checkpointName(g, offset int64) string {
	return fmt.Sprintf("%s/%010d/%020d.checkpoint", w.folder(), g, offset)
}

// newest returns the greatest claimed generation (-1: none), its claim and its checkpoints, the newest last.
func (w *Worker) newest() (g int64, c claim, taken []string, err error) {
	names, err := w.blobs.List(w.folder() + "/")
	if err != nil {
		return 0, c, nil, fmt.Errorf("list checkpoints: %w", err)
	}
	g = -1
	for _, name := range names {
		if strings.HasSuffix(name, "/claim.json") {
			g++
		}
	}
	// Listing may be behind. An owner in a generation that is not the newest would tell nothing that stands, so claims are
	// followed by name.
	for next := max(g, 0); ; next++ {
		data, err := w.blobs.Get(w.claimName(next))
		if errors.Is(err, blob.ErrNotFound) && next != g {
			break
		}
		if err != nil {
			return 0, c, nil, fmt.Errorf("claim %s: %w", w.claimName(next), err)
		}
		c, g = claim{}, next
		if _, err := sealed.Unmarshal(data, &c); err != nil {
			return 0, c, nil, fmt.Errorf("claim %s: %w", w.claimName(g), err)
		}
	}
	if g < 0 {
		return g, c, nil, nil
	}
	for _, name := range names { // sorted, so that the last is the newest
		if strings.HasPrefix(name, path.Dir(w.claimName(g))+"/") && strings.HasSuffix(name, ".checkpoint") {
			taken = append(taken, name)
		}
	}
	return g, c, taken, nil
}

func (w *Worker) restore(g int64, c claim, taken []string, chain *tenant.Chain, payload PayloadAt) error {
	id := Identity{Layer: w.cfg.Layer, Topic: w.cfg.TopicID, Partition: w.cfg.Partition, Generation: g, FirstMinute: c.FirstMinute, TickMS: c.TickMS}
	w.all = len(taken) == 0 // the first tick of a generation that began with another one's checkpoint
	taken = c.checkpoints(taken)
	if len(taken) == 0 {
		w.Shard, w.last, w.from, w.all = New(id, chain, c.Start, payload), c.Start, c.Start, false
		return nil
	}
	var err error
	if w.Shard, w.line, err = w.read(taken, chain, payload); err != nil {
		return err
	}
	w.last, w.from = w.Shard.Offset, w.line.offset
	if w.Shard.ID = id; w.all {
		w.Shard.tick = math.MinInt64 // it counts in the other generation's ticks
		w.from, w.line = w.Shard.Offset, lineage{}
	}
	return nil
}

// read makes a shard from the newest checkpoint of which all is there.
func (w *Worker) read(taken []string, chain *tenant.Chain, payload PayloadAt) (s *Shard, l lineage, err error) {
	err = newestComplete(taken, func(name string) (err error) {
		s, l, err = restore(name, w.blobs.Get, chain, payload)
		return err
	})
	return s, l, err
}

// Handle takes the partition's next records.
func (w *Worker) Handle(ctx context.Context, recs []broker.Record) error {
	for i := range recs {
		if i%peekAhead == 0 { // dispatch's keys are session ids
			w.Shard.Expect(len(recs)-i, func(k int) []byte { return recs[i+k].Key })
		}
		r := &recs[i]
		if r.Offset < w.Shard.Offset {
			continue // read again after a restart
		}
		rec := Record{Offset: r.Offset, Ingest: r.Time, Payload: r.Value}
		if _, ok := r.Header(wire.HeaderProgress); ok {
			p, err := w.progress.Read(r.Value)
			if err != nil {
				return fmt.Errorf("%s/%d, record %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			rec.Progress = &p
		} else if b, ok := r.Header(wire.HeaderOrigin); ok {
			o, err := wire.ReadOrigin(b)
			if err != nil {
				return fmt.Errorf("%s/%d, record %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			rec.Origin = o
		} else {
			rec.Stray = true // a topic is open to other writers, and one of them must not stop it
		}
		tick, err := w.Shard.Take(&rec)
		if err != nil {
			return err
		}
		if tick {
			if err := w.tick(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	// maxWait is how many times CheckpointTicks a checkpoint waits at most.
	maxWait = 6
	// maxBehind records are read without a checkpoint at most because others wait to be read: seconds of work.
	maxBehind = 1 << 20
)

// due says whether a checkpoint is due. While catching up it waits until as many records were read since the last one as are
// left: ticks follow each other in no time then, and whoever begins again has to read what is left anyway. A whole one writes
// every session, so it waits until as many records were read as there are sessions: then it costs little beside them, and
// reading that many again is a matter of seconds.
func (w *Worker) due() bool {
	n, at := w.cfg.CheckpointTicks, w.Shard.Offset
	switch {
	case n == 0 || w.ticks < n:
		return false
	case w.ticks >= maxWait*n:
		return true
	case at-w.last < min(w.End-at, maxBehind):
		return false
	}
	return !w.whole() || at-w.from >= int64(w.Shard.table.n)
}

// whole says whether the next checkpoint has every session, or else what changed since the last one.
func (w *Worker) whole() bool { return w.line.ended() || !w.Shard.since.known }

// writeBytes bounds the messages of a tick that wait for their acks.
const writeBytes = 8 << 20

func (w *Worker) tick(ctx context.Context) error {
	s := w.Shard
	began := w.now()
	if err := s.EndTick(); err != nil {
		return err
	}
	folded := w.now()
	if w.all {
		s.TouchAll()
		w.all = false
	}
	st := TickStats{Offset: s.Offset, Watermark: s.Watermark}
	err := w.pub.messages(s, func(m Message) error {
		w.recs = append(w.recs, broker.Record{Topic: w.cfg.MetricsTopic, Partition: m.Partition, Value: m.Value})
		st.Rows++
		st.Bytes += int64(len(m.Value))
		if w.bytes += len(m.Value); w.bytes >= writeBytes {
			return w.flush(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	h := s.head()
	marker := wire.AppendMarker(&h, s.Watermark, max(s.until, h.FirstMinute))
	for p := range w.cfg.MetricsPartitions {
		w.recs = append(w.recs, broker.Record{Topic: w.cfg.MetricsTopic, Partition: int32(p), Value: marker})
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	s.Close()
	w.ticks++
	published := w.now()
	st.Fold, st.Publish = folded.Sub(began), published.Sub(folded)
	if w.due() {
		st.Checkpoint = w.checkpoint()
		st.Checkpoint.Took = w.now().Sub(published)
		if st.Checkpoint.Taken {
			w.ticks, w.last = 0, s.Offset
			next := w.claimName(s.ID.Generation + 1)
			if _, err := w.blobs.Get(next); err == nil { // else there is none, or the next checkpoint will tell
				return fmt.Errorf("%s: %w", next, ErrSuperseded)
			}
		}
	}
	if w.Ticked != nil {
		w.Ticked(st)
	}
	return nil
}

func (w *Worker) flush(ctx context.Context) error {
	err := w.out.Write(ctx, w.recs)
	w.recs, w.bytes = w.recs[:0], 0
	return err
}

// now is the clock, asked only when somebody watches; it decides nothing.
func (w *Worker) now() time.Time {
	if w.Ticked == nil {
		return time.Time{}
	}
	return time.Now()
}

// checkpoint takes a checkpoint, and deletes old ones once it is safe.
func (w *Worker) checkpoint() CheckpointStats {
	s, whole, parent := w.Shard, w.whole(), ""
	if !whole {
		parent = w.line.newest()
	}
	st, name := CheckpointStats{Taken: true, Whole: whole}, w.checkpointName(s.ID.Generation, s.Offset)
	err := blob.CreateInPieces(w.blobs, name, checkpointHead, s.checkpointSize(parent), func(out io.Writer) (head []byte, err error) {
		head, st.Bytes, err = s.WriteCheckpoint(out, parent)
		return head, err
	})
	switch {
	case err == nil:
		w.line.add(name, whole, s.Offset, st.Bytes)
	case errors.Is(err, blob.ErrExists): // another owner's, of the same state; what it goes on from is not known
		w.line = w.line.lost()
	default:
		return CheckpointStats{Err: fmt.Errorf("checkpoint %s: %w", name, err)}
	}
	if whole {
		w.from = s.Offset
	}
	s.followChanges(len(w.line.names) > 0)
	if st.Err = w.deleteOld(name); errors.Is(st.Err, errOrphan) {
		// A whole one at the next tick: nobody can go on from this.
		w.line, w.from = w.line.lost(), s.Offset-int64(s.table.n)
		s.followChanges(false)
		return CheckpointStats{Err: st.Err}
	}
	return st
}

// deleteOld deletes checkpoints of the generation that are not wanted. It fails without harm: they are deleted after a later one.
// It is errOrphan if another owner has deleted what the newest one goes on from.
func (w *Worker) deleteOld(newest string) error {
	names, err := w.blobs.List(w.folder() + "/")
	if err != nil {
		return fmt.Errorf("list checkpoints: %w", err)
	}
	var taken []string
	for _, n := range names {
		switch {
		case strings.HasSuffix(n, "/claim.json") && n > w.claimName(w.Shard.ID.Generation):
			return nil // a later generation begins with one of these
		case strings.HasPrefix(n, path.Dir(newest)+"/") && strings.HasSuffix(n, ".checkpoint") && n <= newest:
			taken = append(taken, n)
		}
	}
	for _, n := range w.line.names[:max(len(w.line.names)-1, 0)] { // the newest may not be listed yet
		if !slices.Contains(taken, n) {
			return fmt.Errorf("checkpoint %s: %w: %s", newest, errOrphan, n)
		}
	}
	kept := w.line.kept()
	for ; len(taken) > 0 && taken[0] < kept; taken = taken[1:] {
		if err := w.blobs.Delete(taken[0]); err != nil {
			return fmt.Errorf("delete checkpoint %s: %w", taken[0], err)
		}
	}
	return nil
}
