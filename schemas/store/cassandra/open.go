package cassandra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
	"golang.org/x/sync/semaphore"

	"tandem/schemas/store"
)

// Config says where the store is.
type Config struct {
	// Hosts are contact points, as HOST or HOST:PORT; the others are found through them.
	Hosts    []string
	Keyspace string
	// DC is the data centre whose nodes are used, and no others: a LOCAL_QUORUM must be that of home. Empty uses all.
	DC string
	// Consistency of reads and writes: local_quorum if empty, else quorum, one, local_one, two, three, all or each_quorum.
	Consistency string
	// Replication is the number of replicas in each data centre. Only Apply needs it, to make the keyspace.
	Replication map[string]int
	// TLS speaks TLS and checks the servers' certificates as it says; nil speaks plainly.
	TLS            *tls.Config
	User, Password string
	// MaxInFlight is the number of batches under way at once, 1 to 1024; 0 is 8: more keep the
	// servers no busier, and each takes a share of their cores from who reads meanwhile.
	MaxInFlight int
	// Now is the clock that lives are measured from; nil is time.Now.
	Now func() time.Time
	// Log gets what is being tried again, at most every 10 s; nil drops it.
	Log *slog.Logger
}

const (
	defaultInFlight = 8
	requestTimeout  = 10 * time.Second // longer than the servers' own, which say more
	connectTimeout  = 5 * time.Second
	reconnect       = time.Second // how often nodes that are down are tried
)

// Store is the store on Cassandra. It implements store.Store.
type Store struct {
	retrier
	config  Config
	session *gocql.Session
	now     func() time.Time
	max     int64
	slots   *semaphore.Weighted // of MaxInFlight: batches under way
	rows    atomic.Int64
	bytes   atomic.Int64
	clock   atomic.Int64 // the last time given to an entry of the catalog, in us

	mu     sync.Mutex
	idle   *sync.Cond      // calls has become 0
	calls  int             // running
	closed bool            // no more may begin
	known  map[entry]int64 // in the catalog -> until which day; at most maxKnown
}

var _ store.Store = (*Store)(nil)

// Stats are counts since Open.
type Stats struct {
	Rows    int64 // rows and rollups acknowledged
	Bytes   int64 // of their values
	Retries int64 // attempts that failed and were followed, or are to be followed, by another
}

// Stats gives the counts of now.
func (s *Store) Stats() Stats {
	return Stats{Rows: s.rows.Load(), Bytes: s.bytes.Load(), Retries: s.retries.Load()}
}

// Open connects to the store, whose tables Apply has made. It tries until ctx ends; missing tables it reports at once.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = defaultInFlight
	}
	s := &Store{
		config: c, retrier: retrier{log: c.Log}, now: c.Now, known: map[entry]int64{},
		max: int64(c.MaxInFlight), slots: semaphore.NewWeighted(int64(c.MaxInFlight)),
	}
	s.idle = sync.NewCond(&s.mu)
	if s.now == nil {
		s.now = time.Now
	}
	session, err := connect(ctx, &s.retrier, c, c.Keyspace)
	if err != nil {
		return nil, err
	}
	s.session = session
	if err := s.checkVersion(ctx, c.Keyspace); err != nil {
		session.Close()
		return nil, err
	}
	return s, nil
}

func (c *Config) check() error {
	if len(c.Hosts) == 0 {
		return errors.New("cassandra: no hosts")
	}
	if !keyspaceName.MatchString(c.Keyspace) {
		return fmt.Errorf("cassandra: keyspace %q is not a letter and up to 47 letters, digits and _, all small", c.Keyspace)
	}
	if c.MaxInFlight < 0 || c.MaxInFlight > 1024 {
		return fmt.Errorf("cassandra: %d batches in flight is not in 1 to 1024", c.MaxInFlight)
	}
	_, err := c.consistency()
	return err
}

func (c *Config) consistency() (gocql.Consistency, error) {
	if c.Consistency == "" {
		return gocql.LocalQuorum, nil
	}
	level, err := gocql.ParseConsistencyWrapper(c.Consistency)
	if err != nil || level == gocql.Any {
		return 0, fmt.Errorf("cassandra: consistency %q is none of local_quorum, quorum, one, local_one, two, three, all and each_quorum", c.Consistency)
	}
	return level, nil
}

// connect makes a session, with a keyspace if one is named.
func connect(ctx context.Context, r *retrier, c Config, keyspace string) (*gocql.Session, error) {
	var session *gocql.Session
	err := r.retry(ctx, fmt.Sprintf("connect to Cassandra at %v, data centre %q", c.Hosts, c.DC), func() error {
		cluster, err := c.cluster(keyspace)
		if err != nil {
			return permanent{err}
		}
		if session, err = cluster.CreateSession(); errors.Is(err, gocql.ErrNoConnectionsStarted) && keyspace != "" {
			return c.whyNot(ctx, r, err) // it connects, but not to this keyspace
		}
		return err
	})
	return session, err
}

// cluster is a new one for each session: its host policy cannot be shared.
func (c *Config) cluster(keyspace string) (*gocql.ClusterConfig, error) {
	level, err := c.consistency()
	if err != nil {
		return nil, err
	}
	cluster := gocql.NewCluster(c.Hosts...)
	cluster.ProtoVersion = 4 // what the driver's release speaks best; saves the dial that finds it
	cluster.Keyspace = keyspace
	cluster.Consistency = level
	cluster.DefaultTimestamp = false // every statement names its own
	cluster.Timeout, cluster.WriteTimeout, cluster.ConnectTimeout = requestTimeout, requestTimeout, connectTimeout
	cluster.ReconnectInterval = reconnect
	cluster.WriteCoalesceWaitTime = 0 // batches are large enough to go out at once
	cluster.PageSize = pageRows
	cluster.Logger = driverLog{c.Log}
	nodes := gocql.RoundRobinHostPolicy()
	if c.DC != "" {
		nodes = gocql.DCAwareRoundRobinPolicy(c.DC)
		cluster.HostFilter = gocql.DataCentreHostFilter(c.DC)
	}
	cluster.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(nodes, gocql.ShuffleReplicas())
	if c.User != "" {
		cluster.Authenticator = gocql.PasswordAuthenticator{Username: c.User, Password: c.Password}
	}
	if c.TLS != nil {
		cluster.SslOpts = &gocql.SslOptions{Config: c.TLS, EnableHostVerification: !c.TLS.InsecureSkipVerify}
	}
	return cluster, nil
}

// whyNot tells whether it is the keyspace that is missing.
func (c *Config) whyNot(ctx context.Context, r *retrier, cause error) error {
	session, err := connect(ctx, r, *c, "")
	if err != nil {
		return err
	}
	defer session.Close()
	if _, ok, err := replicationOf(ctx, session, c.Keyspace); err == nil && !ok {
		return permanent{fmt.Errorf("keyspace %q does not exist: run tandem schema apply", c.Keyspace)}
	}
	return cause
}

// begin counts a call in.
func (s *Store) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.calls++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls--; s.calls == 0 {
		s.idle.Broadcast()
	}
}

// Close implements store.Store. Calls that wait for servers end with their contexts only.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for s.calls > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
	s.session.Close()
	return nil
}

// driverLog shows what the driver tells for its own debugging.
type driverLog struct{ log *slog.Logger }

func (l driverLog) Print(v ...any)                 { l.debug(fmt.Sprint(v...)) }
func (l driverLog) Printf(format string, v ...any) { l.debug(fmt.Sprintf(format, v...)) }
func (l driverLog) Println(v ...any)               { l.debug(fmt.Sprint(v...)) }

func (l driverLog) debug(text string) {
	if l.log != nil {
		l.log.Debug("cassandra driver", "text", text)
	}
}
