package campaign

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"tandem/schemas/store"
)

// database reads the store's tables with queries of the campaign's own, so that what it sees does not come through the
// code that is tested.
type database struct {
	session *gocql.Session
}

// newDatabase speaks to the nodes of one data centre and no others: LOCAL_QUORUM is that of the node that is asked.
func newDatabase(t testing.TB, host, dc string) *database {
	t.Helper()
	cluster := gocql.NewCluster(host)
	cluster.HostFilter = gocql.DataCentreHostFilter(dc)
	cluster.Keyspace = keyspace
	cluster.Consistency = gocql.LocalQuorum
	cluster.Timeout = 10 * time.Second
	cluster.ConnectTimeout = 10 * time.Second
	cluster.ReconnectInterval = time.Second
	cluster.ReconnectionPolicy = &gocql.ConstantReconnectionPolicy{MaxRetries: 1 << 20, Interval: 500 * time.Millisecond}
	cluster.Logger = quiet{}
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	return &database{session}
}

// quiet keeps the driver's words about lost connections to itself: the campaign cuts them on purpose.
type quiet struct{}

func (quiet) Print(...any)          {}
func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// scan calls fn with every row of the table. The value is valid until fn returns. torn counts rows of several parts that
// were written between two pages, so that no version of them was seen whole.
func (d *database) scan(ctx context.Context, fn func(k rowKey, version int64, value []byte)) (torn int, err error) {
	iter := d.session.Query("SELECT tenant, experiment, metric, layer, day, minute, part, v, WRITETIME(v) FROM rows").
		WithContext(ctx).PageSize(5000).Consistency(gocql.LocalQuorum).Iter()
	var (
		k       rowKey
		day     time.Time
		minute  int
		part    int16
		v       []byte
		written int64
		join    rowParts
	)
	for iter.Scan(&k.Tenant, &k.Experiment, &k.Metric, &k.Layer, &day, &minute, &part, &v, &written) {
		k.minute = day.Unix()/60 + int64(minute)
		torn += join.take(k, int(part), v, written, fn)
	}
	if join.have < join.parts {
		torn++
	}
	return torn, iter.Close()
}

// rowParts puts the parts of a row together as they come, by minute and part. A value is 0 and the value, or 1 and, in
// each part, the number of parts (2 bytes), the digest of the whole (8 bytes) and the part. Those count that have part 0's
// time and digest.
type rowParts struct {
	key         rowKey
	written     int64 // us
	digest      string
	parts, have int
	value       []byte
}

const partHead = 1 + 2 + 8

// take takes a part, and returns 1 if the row before it was never whole.
func (j *rowParts) take(k rowKey, part int, v []byte, written int64, fn func(k rowKey, version int64, value []byte)) (torn int) {
	digest, parts := "", 1
	switch {
	case len(v) > 0 && v[0] == 0:
		v = v[1:]
	case len(v) >= partHead && v[0] == 1:
		digest, parts, v = string(v[3:partHead]), int(v[1])<<8|int(v[2]), v[partHead:]
	}
	if part == 0 {
		if j.have < j.parts {
			torn = 1
		}
		*j = rowParts{key: k, written: written, digest: digest, parts: parts, value: j.value[:0]}
	} else if k != j.key || written != j.written || digest != j.digest || part != j.have {
		return 0 // of another version
	}
	j.value = append(j.value, v...)
	if j.have++; j.have == j.parts {
		fn(k, written-k.minute*60_000_000, j.value)
	}
	return torn
}

// progress reads the whole progress table.
func (d *database) progress() ([]store.Progress, error) {
	iter := d.session.Query("SELECT layer, tenant, partition, closed_before, version FROM progress").Consistency(gocql.LocalQuorum).Iter()
	var all []store.Progress
	var p store.Progress
	for iter.Scan(&p.Layer, &p.Tenant, &p.Partition, &p.ClosedBefore, &p.Version) {
		all = append(all, p)
	}
	return all, iter.Close()
}

// poller reads every row each second (each other one in the short form), or as often as it can, and holds it against the laws (watch).
type poller struct {
	watch  *watch
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{}
	failed int // scans that an absent server ended
	took   time.Duration
	after  []func(*watch) // asked after each whole scan
}

// startPoller starts one that watches a layer, or all if it is empty.
func startPoller(t testing.TB, d *database, metricsPartitions int, only string) *poller {
	ctx, cancel := context.WithCancel(context.Background())
	p := &poller{watch: newWatch(metricsPartitions), cancel: cancel, done: make(chan struct{})}
	p.watch.only = only
	every := time.Second
	if !*long {
		every = 2 * time.Second // two tests run at once, and a look at all rows is a second of Cassandra's
	}
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			began := time.Now()
			p.scan(ctx, d)
			p.took = max(p.took, time.Since(began))
			select {
			case <-ctx.Done():
			case <-time.After(every - time.Since(began)):
			}
		}
	}()
	t.Cleanup(p.stop)
	return p
}

func (p *poller) scan(ctx context.Context, d *database) {
	progress, err := d.progress()
	if err != nil {
		p.failed++
		return
	}
	p.watch.begin(progress)
	torn, err := d.scan(ctx, p.watch.row)
	p.watch.end(err == nil && torn == 0)
	if err != nil {
		p.failed++
	}
}

// stop ends it; what it has seen may be read then.
func (p *poller) stop() {
	p.once.Do(func() {
		p.cancel()
		<-p.done
	})
}

// report tells what it has found.
func (p *poller) report(t testing.TB) {
	t.Helper()
	if n := len(p.watch.faults); n > 0 {
		t.Errorf("the poller has found %d faults or more:\n%s", n, strings.Join(p.watch.faults, "\n"))
	}
	t.Logf("poller: %s; %d scans ended by an absent server, the longest took %.1f s", p.watch.summary(), p.failed, p.took.Seconds())
}
