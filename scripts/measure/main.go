// measure runs the stages of Tandem on the benchmark's traffic and prints beacons per CPU-second of the whole process.
//
//	go run ./scripts/measure -records records.tsv -config config.yaml -site FOLDER [-run TANDEM] [-rows N]
//	go run ./scripts/measure -records records.tsv -config config.yaml [-stages parse,fold,shard] [-profile FOLDER]
//	go run ./scripts/measure -growth all
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/records"
	sarchive "tandem/stream/archive"
)

// bench is what every stage gets.
type bench struct {
	chain *tenant.Chain
	recs  []records.Record // in order of ingest time, all with one
	dir   string           // scratch
	bytes int              // of all payloads
	kafka string           // addresses of a real one; "" if there is none
	keep  string           // folder for what is made once; "" if there is none

	readers time.Duration // for how long many read at once
	totals  map[string]int64
}

// stage measures one thing: it calls run with what is to be measured, once.
type stage struct {
	name string
	what string
	fn   func(ctx context.Context, b *bench, m *meter) error
}

var stages = []stage{
	{"memory", "bytes of all payloads read, eight at a time: what memory gives one core", readMemory},
	{"fetch-real", "records read from the Kafka of -kafka and dropped: what the client and decompression take", fetchReal},
	{"parse", "JSON to beacon, strict", parse},
	{"fold", "parsed beacons of sorted sessions to sums", fold},
	{"shard", "records in memory: parse, fold, publish (no broker), checkpoints to disk", shardMemory},
	{"aggregate", "what the shard published, to rows that nobody keeps", aggregateMemory},
	{"stream", "records in memory: shard and aggregates, rows in the embedded store", streamMemory},
	{"stream-real", "the same from the Kafka of -kafka, and through it between the two", streamReal},
	{"shard-kafka", "shard from and to an in-process Kafka over TCP, broker included", shardKafka},
	{"shard-real", "the same from and to the Kafka of -kafka, which is other processes", shardReal},
	{"dispatch", "raw records in memory, 43 % of them unused: parse, decide, route (no broker)", dispatchMemory},
	{"dispatch-real", "the same from and to the Kafka of -kafka", dispatchReal},
	{"archive-write", "rows sorted and written as Parquet", archiveWrite},
	{"archive-read", "and read back, all columns", archiveRead},
	{"archive", "records in memory to files and manifests: parse, sort, write", archiveAll},
	{"batch", "archive to written rows, parsed columns: plan, map, reduce", batchParsed},
	{"batch-reparse", "the same from raw payloads", batchReparse},
	{"replay-stream", "whole replay, stream only", replayStream},
	{"replay-batch", "whole replay, archive and batch only", replayBatch},
	{"backfill", "readers and the stream beside a throttled backfill, and without", beside},
	{"tick", "what is left when the first minute ends, in 16 shards", tickAtOnce},
	{"restart", "sessions from a checkpoint", restart},
	{"serve", "a month of 150 experiments over HTTP; the figures before are of requests", serveMonth},
	{"idle", "2 million idle sessions: bytes and garbage collection", idle},
}

func main() {
	file := flag.String("records", "", "records file (SPEC 11), with ingest times in order")
	config := flag.String("config", "", "config of its tenant")
	only := flag.String("stages", "", "comma-separated; all by default")
	n := flag.Int("n", 1<<30, "at most so many records")
	kafka := flag.String("kafka", "", "`HOST:PORT,...` of a Kafka for the stages that end in -real; without it they are left out")
	site := flag.String("site", "", "archive the records in this `folder`, which becomes a site for tandem batch, and measure nothing")
	program := flag.String("run", "", "with -site: a tandem `program`, whose batch then runs on the site, a process of its own: its CPU time and memory")
	rows := flag.Int("rows", sarchive.DefaultRows, "with -site: rows of an event file, at most")
	profile := flag.String("profile", "", "folder for CPU profiles")
	keep := flag.String("keep", "", "`folder` for the store of the stage serve, made once; without it that is left out")
	readers := flag.Duration("readers", 0, "for how long 200 readers ask at once in the stage serve")
	lines := flag.Bool("lines", false, "print the lines of go test -bench, for benchstat")
	grow := flag.String("growth", "", "the cost of a beacon against what grows: `all`, or how a curve's name begins")
	flag.Parse()
	if *grow != "" {
		if err := growth(context.Background(), strings.TrimPrefix(*grow, "all")); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *file == "" || *config == "" {
		flag.Usage()
		os.Exit(2)
	}
	if *site != "" {
		beacons, err := makeSite(*site, *file, *config, *rows)
		if err == nil && *program != "" {
			err = runOn(*site, *program, beacons)
		}
		if err != nil {
			log.Fatal(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "tandem-measure-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, kafka: *kafka, keep: *keep, readers: *readers}
	if err := b.load(*file, *config, *n); err != nil {
		log.Fatal(err)
	}
	if !*lines {
		fmt.Printf("%s, %d CPUs, %s, %d records\n", runtime.Version(), runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"), len(b.recs))
		fmt.Printf("%-14s %12s %8s %10s %8s %7s %8s %8s  %s\n", "stage", "beacons/CPUs", "MB/CPUs", "beacons/s", "CPU s", "GC", "allocs", "peak MB", "what")
	}
	for _, s := range stages {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		if strings.HasSuffix(s.name, "-real") && *kafka == "" || s.name == "serve" && *keep == "" || s.name == "tick" && *only == "" {
			continue
		}
		m := &meter{n: len(b.recs)}
		if *profile != "" {
			m.profile = filepath.Join(*profile, s.name+".prof")
		}
		if err := s.fn(context.Background(), b, m); err != nil {
			log.Fatalf("%s: %v", s.name, err)
		}
		if *lines {
			fmt.Printf("Benchmark/%s %d %.0f cpu-ns/beacon\n", s.name, m.n, float64(m.cpu)/float64(m.n))
		} else {
			m.print(s, b.bytes)
		}
		runtime.GC()
	}
}

// loadConfig reads a tenant's config, its text too.
func loadConfig(file string) (text []byte, chain *tenant.Chain, err error) {
	if text, err = os.ReadFile(file); err != nil {
		return nil, nil, err
	}
	cfg, err := tenant.Load(file, text)
	if err != nil {
		return nil, nil, err
	}
	chain, err = tenant.Compile([]*tenant.Config{cfg})
	return text, chain, err
}

func (b *bench) load(file, config string, n int) error {
	var err error
	if _, b.chain, err = loadConfig(config); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// Payloads lie in a few large pieces outside of the heap: a collector that goes by gigabytes which only this program holds lets a
	// service that is measured take fresh memory where it would have used its own again.
	var slab []byte
	r := records.NewReader(bufio.NewReaderSize(f, 1<<20))
	for len(b.recs) < n {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if cap(slab)-len(slab) < len(rec.Payload) {
			piece, err := syscall.Mmap(-1, 0, 64<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
			if err != nil {
				return err
			}
			slab = piece[:0]
		}
		at := len(slab)
		slab = append(slab, rec.Payload...)
		rec.Payload = slab[at:len(slab):len(slab)]
		b.recs = append(b.recs, rec)
		b.bytes += len(rec.Payload)
	}
	return nil
}

// meter measures what run does: CPU time of the whole process, its other goroutines and the collector included.
type meter struct {
	n         int
	profile   string
	cpu, wall time.Duration
	gc        float64
	peak      int64   // resident bytes of the process, the records included
	allocs    float64 // a beacon
	notes     []string
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (m *meter) run(fn func() error) error {
	runtime.GC()
	var f *os.File
	if m.profile != "" {
		var err error
		if f, err = os.Create(m.profile); err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	gc0 := gcCPU()
	cpu, start := cpuTime(), time.Now()
	err := fn()
	m.cpu, m.wall = cpuTime()-cpu, time.Since(start)
	m.gc = (gcCPU() - gc0) / m.cpu.Seconds()
	runtime.ReadMemStats(&after)
	m.allocs = float64(after.Mallocs-before.Mallocs) / float64(max(m.n, 1))
	if f != nil {
		pprof.StopCPUProfile()
		f.Close()
	}
	if err == nil {
		m.peak, err = peakBytes()
	}
	return err
}

// peakBytes is the most memory that the process had resident.
func peakBytes() (int64, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Maxrss << 10, err
}

func (m *meter) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

func (m *meter) print(s stage, bytes int) {
	fmt.Printf("%-14s %12.0f %8.0f %10.0f %8.2f %6.0f%% %8.2f %8d  %s\n", s.name, float64(m.n)/m.cpu.Seconds(), float64(bytes)/1e6/m.cpu.Seconds(),
		float64(m.n)/m.wall.Seconds(), m.cpu.Seconds(), 100*m.gc, m.allocs, m.peak>>20, s.what)
	for _, n := range m.notes {
		fmt.Printf("%-14s %s\n", "", n)
	}
}
