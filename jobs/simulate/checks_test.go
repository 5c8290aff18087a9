package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tandem/batch"
	"tandem/core/oracle"
	"tandem/core/oracle/worlds"
	"tandem/core/view"
	"tandem/jobs/embedded"
	"tandem/schemas/archive"
	"tandem/schemas/store"
	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// checks is what the checkers remember of a run. None of them asks the code under test what should be.
type checks struct {
	messages map[messageKey]string
	covers   map[coverKey]map[string]int64 // what stood in a window when its coverage was written, by line
	colds    map[shardKey][]coldStart
	seen     []sight // closed minutes that readers saw in a stream's layer
}

type messageKey struct {
	centre, topic               string
	shard                       int32
	generation, version, minute int64
	experiment, metric          string
	part                        int
}

type coverKey struct {
	tenant             string
	window, generation int64
}

// sight is a minute of one answer of a reader.
type sight struct {
	reader string
	at     int64
	tenant string
	layer  string
	minute int64
	rows   map[string]int64
}

func newChecks() *checks {
	return &checks{messages: map[messageKey]string{}, covers: map[coverKey]map[string]int64{}, colds: map[shardKey][]coldStart{}}
}

// recreated is told of objects that are created again under their name with other bytes. Checkpoints, results of maps and
// runs are functions of what their names say.
func (k *checks) recreated(s *sim, c *centre, name string, _, _ []byte) {
	if strings.Contains(name, "/out/") {
		s.found("versions: %s: %s is made again with other bytes", c.name, name)
	}
}

// snapshot keeps what the store holds of a window when its coverage is written.
func (p *plant) snapshot(c store.Coverage) {
	p.checks.covers[coverKey{c.Tenant, c.Window, c.Generation}] = p.linesOf(c.Tenant, batchLayer(c.Generation), c.Window, c.Window+30)
}

// linesOf are the rows of a tenant in a layer that are not zero, as lines of a rows file without the value.
func (p *plant) linesOf(tenant, layer string, from, to int64) map[string]int64 {
	lines := map[string]int64{}
	err := embedded.Values(context.Background(), oneLayer{p.metrics, layer}, tenant, from, to, func(string, int64) bool { return true }, func(v *embedded.Value) error {
		if v.Value != 0 {
			lines[v.Name(tenant)+"\t"+v.Tags+"\t"+strconv.FormatInt(v.Minute, 10)] = v.Value
		}
		return nil
	})
	if err != nil {
		p.found("store: %v", err)
	}
	return lines
}

// raw are all records of the raw topics of all data centres as their brokers took them: the truth.
func (p *plant) raw() (records []oracle.Record) {
	for _, c := range p.centres {
		for n := range p.opt.Raw {
			for _, r := range c.kafka.logs[broker.Partition{Topic: rawTopic, Partition: n}] {
				if len(r.Headers) == 0 {
					records = append(records, oracle.Record{Ingest: r.Time, Payload: r.Value})
				}
			}
		}
	}
	return records
}

// expect gives the oracle's rows, by line.
func (p *plant) expect(x *shop, stream bool) map[string]int64 {
	lines := map[string]int64{}
	configs := x.configs
	if !stream && x.spliced != nil {
		configs = worlds.Flat(x.objects)
	}
	for row, v := range oracle.Run(configs, p.raw(), stream).Rows {
		if v != 0 {
			lines[row.Name+"\t"+row.Tags+"\t"+strconv.FormatInt(row.Minute, 10)] = v
		}
	}
	return lines
}

// compare finds the first difference.
func (p *plant) compare(what string, want, got map[string]int64, in func(minute int64) bool) {
	for _, line := range slices.Sorted(maps.Keys(want)) {
		if in(minuteOf(line)) && got[line] != want[line] {
			p.found("%s: %s is %d, want %d", what, shown(line), got[line], want[line])
			return
		}
	}
	for _, line := range slices.Sorted(maps.Keys(got)) {
		if in(minuteOf(line)) && want[line] != got[line] {
			p.found("%s: %s is %d, want %d", what, shown(line), got[line], want[line])
			return
		}
	}
}

func minuteOf(line string) int64 {
	m, err := strconv.ParseInt(line[strings.LastIndexByte(line, '\t')+1:], 10, 64)
	if err != nil {
		panic(err)
	}
	return m
}

func shown(line string) string {
	at := strings.LastIndexByte(line, '\t')
	return fmt.Sprintf("%s of minute %s", strings.ReplaceAll(line[:at], "\t", " "), minuteText(minuteOf(line)))
}

func every(int64) bool { return true }

// checkAll holds the outcome against the oracle once nothing is open any more.
func (p *plant) checkAll() {
	for _, x := range p.shops {
		if p.bad == nil {
			p.checkTenant(x)
		}
	}
	for _, c := range p.centres {
		p.chainsOf(c)
		for name, n := range c.counts {
			if n > 0 && len(p.centres) == 1 && !p.opt.loose() { // mirrors copy records again, with times that are passed
				p.found("stream: %s is %d", name, n)
			}
		}
	}
}

func (p *plant) checkTenant(x *shop) {
	stream, all := p.expect(x, true), p.expect(x, false)
	last := int64(0)
	for _, want := range []map[string]int64{stream, all} {
		for line := range want {
			last = max(last, minuteOf(line))
		}
	}
	for _, c := range p.centres {
		if c.standby {
			continue // it wrote some of it, or none
		}
		if at := p.metrics.complete(x.name, c.layer); at <= last {
			p.found("stuck: %s of %s is complete before %s, and the last row is of %s", c.layer, x.name, minuteText(at), minuteText(last))
			return
		}
		if p.opt.loose() {
			continue
		}
		want, known := p.streamOf(c, x, stream)
		p.countCold(c, x, want, known)
		p.compare("stream: layer "+c.layer, want, p.linesOf(x.name, c.layer, 0, store.MaxMinute), known)
	}
	for line := range all {
		minute := minuteOf(line)
		if _, ok := p.metrics.coverage[windowKey{x.name, minute - minute%30}]; !ok {
			p.found("stuck: window of minute %s of %s is not covered", minuteText(minute), x.name)
			return
		}
	}
	got := map[string]int64{}
	for k, c := range p.metrics.coverage {
		if k.tenant == x.name {
			maps.Copy(got, p.linesOf(x.name, batchLayer(c.Generation), k.window, k.window+30))
		}
	}
	p.compare("batch", all, got, every)
	for _, c := range p.centres {
		want, known := p.streamOf(c, x, stream)
		for _, y := range p.checks.seen {
			if y.tenant == x.name && y.layer == c.layer && known(y.minute) && p.bad == nil && !p.opt.loose() {
				p.compare(fmt.Sprintf("reader: %s, at %s in layer %s", y.reader, clock(y.at), y.layer), want, y.rows, func(m int64) bool { return m == y.minute })
			}
		}
	}
	if p.bad == nil {
		p.merged(x, all)
	}
	if p.bad == nil && x.audit != nil {
		p.checkAudit(x, stream, all)
	}
}

// merged is what a reader sees in the end.
func (p *plant) merged(x *shop, all map[string]int64) {
	v, err := batch.View(context.Background(), p.metrics, x.name)
	if err != nil {
		p.found("reader: %v", err)
		return
	}
	got := map[string]int64{}
	for layer, from := range layersOf(v, all) {
		for line, v := range p.linesOf(x.name, layer, 0, store.MaxMinute) {
			if from[minuteOf(line)] {
				got[line] = v
			}
		}
	}
	p.compare("reader: merged view", all, got, every)
}

func layersOf(v *view.View, all map[string]int64) map[string]map[int64]bool {
	layers := map[string]map[int64]bool{}
	for line := range all {
		m := minuteOf(line)
		l, _ := v.Layer(m)
		if layers[l] == nil {
			layers[l] = map[int64]bool{}
		}
		layers[l][m] = true
	}
	return layers
}

// manifest is what the checker reads of a manifest.
type manifest struct {
	Version   int                `json:"version"`
	Topic     string             `json:"topic"`
	TopicID   string             `json:"topic_id"`
	Partition int32              `json:"partition"`
	First     int64              `json:"first"`
	Next      int64              `json:"next"`
	Files     []archive.FileInfo `json:"files"`
	Progress  map[string]int64   `json:"progress"`
	Aside     []string           `json:"aside"`
	Lost      bool               `json:"lost"`
	Windows   []archive.Window   `json:"windows"`
}

// chainsOf checks the manifests of a data centre.
func (p *plant) chainsOf(c *centre) {
	for _, x := range p.shops {
		for n := range p.opt.Shards {
			p.chainOf(c, broker.Partition{Topic: x.topic, Partition: n})
		}
	}
}

// chainOf checks the manifests of a partition: no gap, no overlap, and every beacon of the topic in them, once, but for
// those that a dispatcher sent again.
func (p *plant) chainOf(c *centre, part broker.Partition) {
	next := int64(0)
	held := map[int64]bool{}
	for _, m := range p.manifests(c, part) {
		if m.First != next {
			p.found("archive: %s: a manifest begins at %d, the one before ended at %d", c.kafka.place(part, 0), m.First, next)
		}
		next = m.Next
		for _, f := range m.Files {
			if _, err := c.blobs.find(f.Name); err != nil && p.opt.Compact { // replaced
				for offset := m.First; offset < m.Next; offset++ {
					held[offset] = true
				}
				continue
			}
			p.fileRows(c, f, m.First, m.Next, held)
		}
	}
	told := map[int]int64{}
	for _, r := range c.kafka.logs[part] {
		if r.Offset >= next {
			break
		}
		if _, ok := r.Header(wire.HeaderProgress); ok {
			progress, _ := c.kafka.progress(r.Value)
			for _, a := range progress.At {
				told[a.Source] = max(told[a.Source], a.Offset)
			}
			continue
		}
		o, _ := r.Header(wire.HeaderOrigin)
		origin, _ := wire.ReadOrigin(o)
		if !held[r.Offset] && origin.Offset >= told[origin.Source] {
			p.found("archive: %s is in no file", c.kafka.place(part, r.Offset))
		}
	}
}

func (p *plant) fileRows(c *centre, f archive.FileInfo, first, next int64, held map[int64]bool) {
	r, err := quietBlobs{c.blobs}.Open(f.Name)
	if err == nil {
		var file *archive.File
		if file, err = archive.OpenFile(r, f); err == nil {
			err = file.Scan(0, 1<<64-1, archive.Columns{}, func(row *archive.Row) error {
				if row.Offset < first || row.Offset >= next || held[row.Offset] {
					p.found("archive: %s holds offset %d, twice or outside of %d to %d", f.Name, row.Offset, first, next)
				}
				held[row.Offset] = true
				return nil
			})
		}
	}
	if err != nil {
		p.found("archive: %s: %v", f.Name, err)
	}
}
