// Package traffic makes the beacons of a web shop that does not exist: seeded, so that a run can be repeated to the byte, and with
// experiments whose effects are known, so that what the pipeline finds can be checked against what is there.
package traffic

import (
	"bytes"
	"container/heap"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"time"

	"tandem/schemas/records"
)

//go:embed demo.yaml
var config []byte

// Config is the tenant config (SPEC 10) that the traffic is made for, of tenant `shop`.
func Config() []byte { return bytes.Clone(config) }

//go:embed formulas.yaml
var formulas []byte

// Formulas is the formula repository (core/formula) of tenant `shop`.
func Formulas() []byte { return bytes.Clone(formulas) }

// What the experiments do. Each visitor is in each of the three, on one side or the other with equal chance, for good.
const (
	// OrderChance is how likely a checkout becomes an order; in variation green of checkout_button it is higher by ButtonLift.
	OrderChance = 0.50
	ButtonLift  = 0.15 // relative

	// What variation instant of new_search does: a share of its pages throws an error, a share of its sessions that would
	// go on leaves after the first page, and a share dies before it has sent anything, which its sample ratio shows.
	BrokenErrors = 0.30
	BrokenLeaves = 0.50
	BrokenSilent = 0.10
)

// MaxSessionsPerMinute is the highest rate: what is held in memory grows with it.
const MaxSessionsPerMinute = 1e6

// Options say what to generate. The shares are chances, 0 to 1.
type Options struct {
	Seed              uint64
	Start             time.Time     // of the first minute; from 2000 on, and until 2199 at the end: what replay takes
	Span              time.Duration // above 0; no ts lies at or behind Start + Span
	SessionsPerMinute float64       // on average; above 0

	LateShare      float64 // of the beacons: taken in 10 to 60 min after their ts, later than the default `lateness`
	DuplicateShare float64 // of the beacons: sent twice
	MalformedShare float64 // additional records that are rejected, for each beacon; all reasons of SPEC 1 but too_large
	UnusedShare    float64 // additional beacons on a point that the config does not list, for each page
}

// Defaults are an hour of 60 sessions a minute, with a little of everything that goes wrong.
func Defaults() Options {
	return Options{
		Seed: 1, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Span: time.Hour, SessionsPerMinute: 60,
		LateShare: 0.002, DuplicateShare: 0.005, MalformedShare: 0.0005, UnusedShare: 0.05,
	}
}

// Check says which option is out of range.
func (o Options) Check() error {
	if o.Span <= 0 {
		return fmt.Errorf("span %v: it must be above 0", o.Span)
	}
	if o.Start.UTC().Year() < 2000 || o.Start.Add(o.Span).UTC().Year() > 2199 {
		return fmt.Errorf("start %s and span %v: the years 2000 to 2199 are possible", o.Start.Format(time.RFC3339), o.Span)
	}
	if !(o.SessionsPerMinute > 0 && o.SessionsPerMinute <= MaxSessionsPerMinute) {
		return fmt.Errorf("rate %v: it must be above 0 and at most %v sessions a minute", o.SessionsPerMinute, MaxSessionsPerMinute)
	}
	for _, c := range []struct {
		name  string
		share float64
	}{{"late", o.LateShare}, {"duplicate", o.DuplicateShare}, {"malformed", o.MalformedShare}, {"unused", o.UnusedShare}} {
		if !(c.share >= 0 && c.share <= 1) {
			return fmt.Errorf("%s share %v: it must be 0 to 1", c.name, c.share)
		}
	}
	return nil
}

// Generate gives fn the records, in order of (ingest time, payload), until the span is over or fn returns an error, which
// is returned. fn may keep the payloads. The same options give the same records, from the same build on any machine of its
// kind. A session is made whole when it begins, so what is held is about an hour's late beacons and a few minutes' others:
// about 15 KB for each session a minute, however long the span. Out of range options are an error.
func Generate(o Options, fn func(records.Record) error) error {
	if err := o.Check(); err != nil {
		return err
	}
	g := generator{Options: o, end: o.Start.Add(o.Span).UnixMilli()}
	arrivals := random(o.Seed, forArrivals, 0)
	at := float64(o.Start.UnixMilli())
	for n := uint64(0); ; n++ {
		at += arrivals.ExpFloat64() * 60_000 / o.SessionsPerMinute
		begin := int64(at)
		// Whatever a later session sends is taken in after its beginning.
		for len(g.held) > 0 && (begin >= g.end || g.held[0].Ingest < begin) {
			if err := fn(heap.Pop(&g.held).(records.Record)); err != nil {
				return err
			}
		}
		if begin >= g.end {
			return nil
		}
		g.session(n, begin)
	}
}

// generator holds what is not yet given out.
type generator struct {
	Options
	end  int64 // ms; no ts at or behind it
	held queue
}

// What a random sequence is for: each has its own, so that more draws in one place change nothing in another.
const (
	forArrivals uint64 = iota
	forSession
	forVisitor
	forVisitorID
	forSessionID
	forAssignment // and one up for each experiment
)

// mix spreads three numbers over 64 bits (the finalizer of SplitMix64, after each).
func mix(seed, what, n uint64) uint64 {
	h := seed
	for _, v := range [...]uint64{what, n} {
		h += v + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

func random(seed, what, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(mix(seed, what, n), mix(^seed, what, n)))
}

// queue is a heap by (ingest time, payload).
type queue []records.Record

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].Ingest != q[j].Ingest {
		return q[i].Ingest < q[j].Ingest
	}
	return bytes.Compare(q[i].Payload, q[j].Payload) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(records.Record)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = records.Record{}
	*q = old[:len(old)-1]
	return last
}
