package campaign

import (
	"fmt"
	"testing"
	"time"
)

// limit is how long a scenario may take to be complete after its last record, on a busy machine of two cores. With each tick
// dispatchers wait for Kafka to acknowledge progress, however little happened in it.
func limit(x *traffic) time.Duration {
	return 2*time.Minute + time.Duration(x.records)*500*time.Microsecond + time.Duration((x.last-x.first)/60_000)*40*time.Millisecond
}

// TestEqual: records through Kafka, dispatch, stream and Cassandra give, to the byte, the rows of their embedded replay,
// with two dispatchers and however many stream processes.
func TestEqual(t *testing.T) {
	alongside(t)
	type run struct {
		traffic string
		streams int
	}
	runs := []run{{"rees46", 2}}
	if *long {
		runs = nil
		for _, name := range []string{"rees46", "wikipedia", "zozo", "apache", "bench"} {
			for _, n := range []int{1, 2, 5} {
				runs = append(runs, run{name, n})
			}
		}
	}
	for _, r := range runs {
		t.Run(fmt.Sprintf("%s/%d streams", r.traffic, r.streams), func(t *testing.T) {
			x := benchOrReal(t, r.traffic)
			sh := usual()
			if x.last-x.first > (48 * time.Hour).Milliseconds() {
				sh.tick = "10m" // each waits for Kafka's acknowledgement, however little has happened in it
				sh.ahead = "1h" // and the dispatchers for each other that often
			}
			if r.streams == 5 {
				sh.beacons, sh.metrics = 8, 4 // for every process something to do
			}
			s := newScenario(t, x, sh)
			want := s.oracle()
			s.services(2, r.streams)
			began := time.Now()
			s.produce()
			s.closed(limit(x), want)
			t.Logf("%d records in %.1f s", x.records, time.Since(began).Seconds())
			s.equal(want)
			s.nothingLost()
			s.done()
			s.sameBytes()
		})
	}
}

func benchOrReal(t *testing.T, name string) *traffic {
	if name == "bench" {
		return bench(t, 1_000_000, 2*time.Hour)
	}
	return real(t, name)
}

// nothingLost: no beacon was left out for the watermark's sake.
func (s *scenario) nothingLost() {
	s.t.Helper()
	if n := s.counter("tandem_stream_beacons_total", `outcome="late.clock"`); n != 0 {
		s.t.Errorf("%v beacons are late.clock", n)
	}
}
