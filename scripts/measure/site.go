package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tandem/core/beacon"
	"tandem/jobs/embedded"
	"tandem/schemas/blob"
	"tandem/schemas/records"
	"tandem/schemas/wire"
	sarchive "tandem/stream/archive"
	"tandem/stream/broker"
)

const siteText = `dc: dc1
kafka: {brokers: [127.0.0.1:1]}
raw: [{topic: beacons.raw, kind: live, partitions: 1}]
tenants: [{config: config.yaml, partitions: 1}]
blobs: blobs
store: {pebble: store}
`

// makeSite archives the records of a file, without holding them, in files of so many rows at most, in a folder that becomes a
// site: the real batch runs on it, and its memory is that of a process of its own (tandem batch --site FOLDER/site.yaml).
func makeSite(folder, file, config string, rows int) (beacons int64, err error) {
	data, chain, err := loadConfig(config)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	for name, text := range map[string][]byte{"site.yaml": []byte(siteText), "config.yaml": data} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return 0, err
		}
	}
	blobs, err := blob.OpenDir(filepath.Join(folder, "blobs"))
	if err != nil {
		return 0, err
	}
	topic := "beacons." + chain.Tenant + ".0"
	a, err := sarchive.Open(sarchive.Config{Topic: topic, TopicID: topic, Partitions: 1, MaxRows: rows, MaxBytes: sarchive.DefaultBytes}, chain, blobs)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sources := wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "c", Topic: "beacons.raw", TopicID: "raw", Kind: wire.KindLive}}}
	offset, told, last := int64(0), int64(0), int64(0)
	send := func(r broker.Record) error {
		r.Topic, r.Offset = topic, offset
		offset++
		return a.Handle([]broker.Record{r})
	}
	progress := func(ms int64) error {
		p := wire.Progress{Sources: sources, At: []wire.SourceAt{{Source: 0, MS: ms, Offset: offset}}}
		return send(broker.Record{Time: ms, Value: wire.AppendProgress(nil, &p), Headers: []broker.Header{{Key: wire.HeaderProgress}}})
	}
	var parser beacon.Parser
	var x beacon.Beacon
	r := records.NewReader(bufio.NewReaderSize(f, 1<<20))
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		if last = rec.Ingest; last/10_000 > told {
			told = last / 10_000
			if err := progress(last); err != nil {
				return 0, err
			}
		}
		if parser.Parse(rec.Payload, &x) != beacon.None {
			continue // dispatch lets none through
		}
		origin := wire.AppendOrigin(nil, wire.Origin{Offset: math.MaxInt32})
		if err := send(broker.Record{Time: rec.Ingest, Key: x.Session, Value: rec.Payload, Headers: []broker.Header{{Key: wire.HeaderOrigin, Value: origin}}}); err != nil {
			return 0, err
		}
	}
	if err := progress(last + embedded.Closing(chain)); err != nil {
		return 0, err
	}
	fmt.Printf("%s: %d records archived, %d files\n", folder, a.Counts.Beacons, a.Counts.Files)
	return a.Counts.Beacons, nil
}

// runOn runs a program's batch on the site, and says what that took: a process of its own, as cron starts it.
func runOn(folder, program string, beacons int64) error {
	c := exec.Command(program, "batch", "--site", filepath.Join(folder, "site.yaml"))
	c.Stderr = os.Stderr
	began := time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	ended, peak := make(chan struct{}), make(chan int64, 1)
	go func() { peak <- highWater(c.Process.Pid, ended) }()
	err := c.Wait()
	close(ended)
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	cpu := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	fmt.Printf("batch: %d beacons in %.1f s, %.1f CPU-seconds: %.0f a CPU-second; at most %d MiB resident\n", beacons, time.Since(began).Seconds(), cpu.Seconds(),
		float64(beacons)/cpu.Seconds(), <-peak>>10)
	return nil
}

// highWater is the most memory, in KiB, that a process had resident until it ended, but for its last moments; 0 where the system does
// not tell. What rusage says of a child begins with its parent's.
func highWater(pid int, ended <-chan struct{}) (most int64) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil {
			if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
				fmt.Sscan(rest, &most)
			}
		}
		select {
		case <-ended:
			return most
		case <-time.After(20 * time.Millisecond):
		}
	}
}
