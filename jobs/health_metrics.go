package main

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"tandem/core/beacon"
	"tandem/schemas/store/cassandra"
	"tandem/stream/broker"
	"tandem/stream/service"
)

// definition of a metric that is read when it is asked for. Labels are bounded: by the site's topics and tenants, or by
// lists in this code. No session, visitor or experiment is ever one.
type definition struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
}

var (
	ofPartition = []string{"stage", "topic", "partition"}
	ofShard     = []string{"topic", "partition"}
)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

var definitions = []definition{
	{"tandem_ready", "1 while /readyz says yes.", gauge, nil},
	{"tandem_alive", "1 while /healthz says yes.", gauge, nil},
	{"tandem_build_info", "What this binary was built from; always 1.", gauge, []string{"version", "revision", "goversion"}},
	{"tandem_dependency_reachable", "1 while what a stage needs (kafka, store, checkpoints, blobs, sources) answers.", gauge, []string{"stage", "dependency"}},

	{"tandem_partition_running", "1 while the owner of an assigned partition is at work, 0 while it is opened or waits for a new attempt.", gauge, ofPartition},
	{"tandem_partition_failures_total", "Times that the owner of a partition failed and began again from what is safely done.", counter, ofPartition},
	{"tandem_partition_restore_duration_seconds", "How long the owner took to open, its state restored.", gauge, ofPartition},
	{"tandem_partition_paused", "1 while nothing is fetched of a partition because its share of the queue is full.", gauge, ofPartition},
	{"tandem_queue_records", "Records that wait for the owner of a partition.", gauge, ofPartition},
	{"tandem_queue_bytes", "Bytes that wait for the owner of a partition.", gauge, ofPartition},
	{"tandem_consumer_next_offset", "Offset of the next record to handle.", gauge, ofPartition},
	{"tandem_consumer_lag_records", "Records of the log that are not handled yet.", gauge, ofPartition},
	{"tandem_consumer_lag_seconds", "While records are left: seconds since the time of the last one that was handled, or since none was left, whichever is less; else 0.", gauge, ofPartition},

	{"tandem_dispatch_records_total", "Raw records by outcome (routed, unused, rejected, heartbeat), of unused and rejected ones by reason. What was handled again after a failure counts again.", counter, []string{"outcome", "tenant", "reason"}},
	{"tandem_dispatch_progress_records_total", "Progress records written, in all partitions together.", counter, nil},
	{"tandem_dispatch_heartbeats_total", "Heartbeats written into live raw partitions.", counter, nil},
	{"tandem_dispatch_pacing_waits_total", "Waits of 0.1 s for slower sources.", counter, nil},
	{"tandem_dispatch_source_timestamp_seconds", "Record time that a source is read up to, by any dispatcher. Absent: not heard of.", gauge, ofShard},
	{"tandem_dispatch_source_lag_seconds", "Record time that a source is behind the furthest.", gauge, ofShard},
	{"tandem_dispatch_source_aside", "1 while a source is set aside because it lags too far: the stream does not wait for it.", gauge, ofShard},

	{"tandem_stream_beacons_total", "Beacons of a shard's log by outcome, at its last tick: counted, late, late.clock, redelivered, duplicate, overflow, unused, rejected. Part of the shard's state: after a restart it begins again at that of the checkpoint, so use delta() and not rate() over one.", counter, []string{"topic", "partition", "outcome"}},
	{"tandem_stream_open_sessions", "Sessions that a shard keeps.", gauge, ofShard},
	{"tandem_stream_state_bytes", "Bytes of a shard's sessions and their tables.", gauge, ofShard},
	{"tandem_stream_watermark_timestamp_seconds", "Minutes before this time are final. Stage 1: of a shard, tenant is empty. Stage 2: complete in the store, or held by a standby. Absent: not known yet.", gauge, []string{"stage", "topic", "partition", "tenant"}},
	{"tandem_stream_watermark_source_timestamp_seconds", "The raw partition that holds a shard's watermark back, and how far it is; 0: it was not heard of yet.", gauge, []string{"topic", "partition", "source_topic", "source_partition"}},
	{"tandem_stream_last_tick_timestamp_seconds", "When the last tick of a partition ended; when it was opened, before the first. Stage 2 ticks when it writes.", gauge, ofPartition},
	{"tandem_stream_checkpoint_timestamp_seconds", "When the last checkpoint of a shard was taken; when it was opened, before the first.", gauge, ofShard},
	{"tandem_stream_checkpoint_bytes", "Size of the last checkpoint, which has all sessions or those that changed since the one before. Absent: none yet.", gauge, ofShard},
	{"tandem_stream_checkpoint_duration_seconds", "How long the last checkpoint took. Absent: none yet.", gauge, ofShard},
	{"tandem_stream_checkpoint_failures_total", "Checkpoints that could not be taken since the shard was opened.", counter, ofShard},
	{"tandem_stream_held_minutes", "Minutes of which a standby holds rows back. Absent: rows are written.", gauge, []string{"topic", "partition", "tenant"}},
	{"tandem_stream_held_rows", "Rows that a standby holds back. Absent: rows are written.", gauge, []string{"topic", "partition", "tenant"}},
	{"tandem_stream_held_bytes", "Bytes of memory that these rows count for; a process holds 512 MiB at most. Absent: rows are written.", gauge, []string{"topic", "partition", "tenant"}},
	{"tandem_store_rows_total", "Rows and rollups that the store has acknowledged.", counter, nil},
	{"tandem_store_bytes_total", "Bytes of their values.", counter, nil},
	{"tandem_store_retries_total", "What the store had to be asked again.", counter, nil},

	{"tandem_archive_beacons_total", "Beacons by outcome (archived, rejected, redelivered). What was handled again after a failure counts again.", counter, []string{"outcome"}},
	{"tandem_archive_files_total", "Parquet files written.", counter, nil},
	{"tandem_archive_manifests_total", "Manifests written.", counter, nil},
	{"tandem_archive_committed_offset", "Offset up to which manifests have everything.", gauge, ofShard},
	{"tandem_archive_uncommitted_records", "Records taken since the last manifest.", gauge, ofShard},
	{"tandem_archive_manifest_timestamp_seconds", "When the last manifest of a partition was written; when it was opened, before the first.", gauge, ofShard},
}

// tickBuckets reach from ticks of a few sessions to one that takes longer than it lasts.
var tickBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300}

// metrics is the collector of what a health says in numbers, and the counters that ticks feed.
type metrics struct {
	health *health
	descs  map[string]*prometheus.Desc

	duration    *prometheus.HistogramVec
	rows, bytes *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry, h *health) *metrics {
	m := &metrics{health: h, descs: map[string]*prometheus.Desc{}}
	for _, d := range definitions {
		m.descs[d.name] = prometheus.NewDesc(d.name, d.help, d.labels, nil)
	}
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tandem_stream_tick_duration_seconds",
		Help: "Time of ticks by phase: fold, publish, checkpoint (only of ticks that took one), total.", Buckets: tickBuckets}, []string{"stage", "phase"})
	m.rows = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tandem_stream_rows_total",
		Help: "Stage 1: messages of rows published. Stage 2: rows that the store has acknowledged, or a standby holds."}, []string{"stage"})
	m.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tandem_stream_bytes_total", Help: "Bytes of their values."}, []string{"stage"})
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m, m.duration, m.rows, m.bytes)
	return m
}

// ticked is called by any owner.
func (m *metrics) ticked(t service.Tick) {
	m.rows.WithLabelValues(t.Stage).Add(float64(t.Rows))
	m.bytes.WithLabelValues(t.Stage).Add(float64(t.Bytes))
	for _, p := range phases(&t) {
		m.duration.WithLabelValues(t.Stage, p.name).Observe(p.took.Seconds())
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	e := &emitter{now: time.Now(), values: map[string][]labelled{}}
	e.put("tandem_ready", flag01(len(m.health.notReady(e.now)) == 0))
	e.put("tandem_alive", flag01(len(m.health.hung(e.now)) == 0))
	e.build()
	for _, s := range m.health.all() {
		e.stage(s)
		s.read(e)
	}
	for _, d := range definitions {
		for _, v := range e.values[d.name] {
			ch <- prometheus.MustNewConstMetric(m.descs[d.name], d.kind, v.value, v.labels...)
		}
	}
}

// emitter gathers the values of a scrape, by metric.
type emitter struct {
	now    time.Time
	values map[string][]labelled
}

type labelled struct {
	value  float64
	labels []string
}

func (e *emitter) put(name string, value float64, labels ...string) {
	e.values[name] = append(e.values[name], labelled{value, labels})
}

func flag01(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func seconds(ms int64) float64 { return float64(ms) / 1000 }

func unixSeconds(t time.Time) float64 { return seconds(t.UnixMilli()) }

func number(p broker.Partition) string { return strconv.Itoa(int(p.Partition)) }

func (e *emitter) build() {
	version, revision := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	e.put("tandem_build_info", 1, version, revision, runtime.Version())
}

func (e *emitter) stage(s *stage) {
	reachable := func(what string, r service.Reach) {
		e.put("tandem_dependency_reachable", flag01(len(unreached(nil, what, r, e.now)) == 0), s.name, what)
	}
	reachable("kafka", s.host.Status().Kafka)
	for _, n := range s.needs {
		reachable(n.name, n.status())
	}
	for _, seat := range s.host.Seats() {
		p, st := seat.Partition, seat.Status()
		put := func(name string, value float64) { e.put(name, value, s.name, p.Topic, number(p)) }
		put("tandem_partition_running", flag01(st.State == service.Running))
		put("tandem_partition_failures_total", float64(st.Retries))
		put("tandem_partition_paused", flag01(st.Paused))
		put("tandem_queue_records", float64(st.Queued))
		put("tandem_queue_bytes", float64(st.QueueBytes))
		if st.Next >= 0 {
			put("tandem_partition_restore_duration_seconds", seconds(st.OpenMS))
			put("tandem_consumer_next_offset", float64(st.Next))
		}
		if records, behind, known := st.Lag(e.now); known {
			put("tandem_consumer_lag_records", float64(records))
			put("tandem_consumer_lag_seconds", behind.Seconds())
		}
	}
}

func (e *emitter) dispatch(d *service.Dispatch) {
	st := d.Status()
	records := func(n int64, outcome, tenant, reason string) {
		e.put("tandem_dispatch_records_total", float64(n), outcome, tenant, reason)
	}
	for tenant, r := range d.Routes {
		records(r.Counts.Routed.Load(), "routed", tenant, "")
		records(r.Counts.NoPoint.Load(), "unused", tenant, "no_point")
		records(r.Counts.OtherPoint.Load(), "unused", tenant, "other_point")
	}
	for _, r := range beacon.Reasons() {
		records(st.Counts.Rejected[r], "rejected", "", r.String())
	}
	records(st.Counts.Heartbeats, "heartbeat", "", "")
	e.put("tandem_dispatch_progress_records_total", float64(st.Told))
	e.put("tandem_dispatch_heartbeats_total", float64(st.Beats))
	e.put("tandem_dispatch_pacing_waits_total", float64(st.Paced))
	furthest := int64(0)
	for _, s := range st.Sources {
		furthest = max(furthest, s.MS)
	}
	for _, s := range st.Sources {
		p := strconv.Itoa(int(s.Partition))
		e.put("tandem_dispatch_source_aside", flag01(s.Aside), s.Topic, p)
		if s.Known {
			e.put("tandem_dispatch_source_timestamp_seconds", seconds(s.MS), s.Topic, p)
			e.put("tandem_dispatch_source_lag_seconds", seconds(furthest-s.MS), s.Topic, p)
		}
	}
}

func (e *emitter) sessionize(s *service.Sessionize) {
	for _, st := range s.Shards() {
		topic, p := st.Partition.Topic, number(st.Partition)
		c := &st.Counts
		for _, o := range []struct {
			outcome string
			n       int64
		}{{"counted", c.Counted}, {"late", c.Late}, {"late.clock", c.LateClock}, {"redelivered", c.Redelivered}, {"duplicate", c.Duplicate},
			{"overflow", c.Overflow}, {"unused", c.Unused}, {"rejected", c.Rejected}} {
			e.put("tandem_stream_beacons_total", float64(o.n), topic, p, o.outcome)
		}
		e.put("tandem_stream_open_sessions", float64(st.Sessions), topic, p)
		e.put("tandem_stream_state_bytes", float64(st.Bytes), topic, p)
		if st.Watermark > 0 {
			e.put("tandem_stream_watermark_timestamp_seconds", seconds(st.Watermark), service.StageSessions, topic, p, "")
		}
		if src := &st.Holder.Source; src.Topic != "" {
			e.put("tandem_stream_watermark_source_timestamp_seconds", seconds(st.Holder.MS), topic, p, src.Topic, strconv.Itoa(int(src.Partition)))
		}
		e.put("tandem_stream_last_tick_timestamp_seconds", unixSeconds(st.Ticked), service.StageSessions, topic, p)
		e.put("tandem_stream_checkpoint_timestamp_seconds", unixSeconds(st.Checkpointed), topic, p)
		e.put("tandem_stream_checkpoint_failures_total", float64(st.CheckpointFails), topic, p)
		if st.CheckpointBytes > 0 {
			e.put("tandem_stream_checkpoint_bytes", float64(st.CheckpointBytes), topic, p)
			e.put("tandem_stream_checkpoint_duration_seconds", st.CheckpointTook.Seconds(), topic, p)
		}
	}
}

func (e *emitter) aggregate(a *service.Aggregate) {
	for _, st := range a.Aggregates() {
		topic, p := st.Partition.Topic, number(st.Partition)
		for tenant, minute := range st.Complete {
			e.put("tandem_stream_watermark_timestamp_seconds", float64(minute*60), service.StageAggregate, topic, p, tenant)
		}
		e.put("tandem_stream_last_tick_timestamp_seconds", unixSeconds(st.Ticked), service.StageAggregate, topic, p)
		for tenant, h := range st.Held {
			e.held(h, topic, p, tenant)
		}
	}
	if s, ok := a.Store.(retrying); ok {
		e.store(s.Stats())
	}
}

func (e *emitter) held(h service.Held, labels ...string) {
	e.put("tandem_stream_held_minutes", float64(h.Minutes), labels...)
	e.put("tandem_stream_held_rows", float64(h.Rows), labels...)
	e.put("tandem_stream_held_bytes", float64(h.Bytes), labels...)
}

func (e *emitter) store(s cassandra.Stats) {
	e.put("tandem_store_rows_total", float64(s.Rows))
	e.put("tandem_store_bytes_total", float64(s.Bytes))
	e.put("tandem_store_retries_total", float64(s.Retries))
}

func (e *emitter) archive(a *service.Archive) {
	st := a.Status()
	e.put("tandem_archive_beacons_total", float64(st.Counts.Beacons), "archived")
	e.put("tandem_archive_beacons_total", float64(st.Counts.Rejected), "rejected")
	e.put("tandem_archive_beacons_total", float64(st.Counts.Redelivered), "redelivered")
	e.put("tandem_archive_files_total", float64(st.Counts.Files))
	e.put("tandem_archive_manifests_total", float64(st.Counts.Manifests))
	for _, x := range st.Partitions {
		topic, p := x.Partition.Topic, number(x.Partition)
		e.put("tandem_archive_committed_offset", float64(x.Committed), topic, p)
		e.put("tandem_archive_uncommitted_records", float64(x.Offset-x.Committed), topic, p)
		e.put("tandem_archive_manifest_timestamp_seconds", unixSeconds(x.Rolled), topic, p)
	}
}
