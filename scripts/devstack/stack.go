// Package devstack gives tests a real Kafka and a real Cassandra, started by the scripts beside it.
package devstack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Options say what to start; nothing of what is zero.
type Options struct {
	Brokers int // of Kafka, 1 to 9
	Nodes   int // of Cassandra, 1 to 9
	// Others are the brokers of a second cluster of Kafka, and MirrorMaker 2 is fetched: see Mirror.
	Others int
	// DCs are the data centres of the nodes; all are in dc1 if it is empty.
	DCs []string
	// Auth asks clients who they are: Kafka for user tandem, password secret, Cassandra for cassandra, cassandra.
	Auth bool
	// TLS has clients speak TLS and trust Stack.CA.
	TLS bool
	// Env are further variables of the scripts, as NAME=VALUE: see README.md.
	Env []string
}

// Stack is servers of one test, in a folder and on addresses of their own: tests of other packages may have theirs.
type Stack struct {
	Kafka     []string // HOST:PORT of each broker
	Other     *Cluster // the second cluster of Kafka, with Options.Others
	Cassandra []string // HOST:PORT of each node
	CA        string   // file of the certificate to trust, with Options.TLS

	scripts, home string
	env           []string
	lock          *os.File
}

// Cluster is another cluster of Kafka beside that of the stack.
type Cluster struct {
	Kafka []string // HOST:PORT of each broker
	stack *Stack
}

// maxStacks is how many stacks can run at once; a test that finds all taken fails.
const maxStacks = 9

// Need skips the test unless servers are asked for, as scripts/test does with TANDEM_SERVERS=1: they take minutes. It also
// skips, saying what is missing, where they cannot run: they need Linux, Java, and Maven to fetch the jars once. With
// TANDEM_NEED_SERVERS=1, as in CI, the test fails instead.
func Need(t testing.TB) {
	t.Helper()
	need := os.Getenv("TANDEM_NEED_SERVERS") == "1"
	if !need && os.Getenv("TANDEM_SERVERS") != "1" {
		t.Skip("real servers are not asked for: set TANDEM_SERVERS=1, or run scripts/test")
	}
	if missing := missing(); missing != "" {
		if need {
			t.Fatalf("real servers are needed (TANDEM_NEED_SERVERS=1), but %s", missing)
		}
		t.Skipf("no real servers: %s", missing)
	}
}

func missing() string {
	if runtime.GOOS != "linux" {
		return "this is " + runtime.GOOS + ", not Linux"
	}
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	if _, err := exec.LookPath(java); err != nil {
		return "Java is missing: " + err.Error()
	}
	lib := os.Getenv("DEVSTACK_LIB")
	if lib == "" {
		cache, err := cacheFolder()
		if err != nil {
			return err.Error()
		}
		lib = filepath.Join(cache, "lib")
	}
	if _, err := os.Stat(lib); err == nil {
		return "" // fetched already, at least in part
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return "Maven is missing: " + err.Error()
	}
	return ""
}

func cacheFolder() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "tandem-devstack"), err
}

// Start starts servers and stops them, data and all, when the test ends. It begins with Need.
func Start(t testing.TB, o Options) *Stack {
	t.Helper()
	Need(t)
	s, err := start(o)
	if s != nil {
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(s.Logs())
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start gives a Stack to be closed also with an error, if something may have been started.
func start(o Options) (*Stack, error) {
	scripts, err := scriptsFolder()
	if err != nil {
		return nil, err
	}
	cache, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	s := &Stack{scripts: scripts}
	net, err := s.take(cache)
	if err != nil {
		return nil, err
	}
	if home := os.Getenv("DEVSTACK_HOME"); home != "" {
		cache = home
	}
	if err := s.claim(filepath.Join(cache, "net-"+strconv.Itoa(net))); err != nil {
		return nil, err
	}
	s.env = append(os.Environ(), "DEVSTACK_HOME="+s.home, "DEVSTACK_NET="+strconv.Itoa(net), "DCS="+strings.Join(o.DCs, " "),
		"AUTH="+flag(o.Auth), "TLS="+flag(o.TLS))
	s.env = append(s.env, o.Env...)
	running.add(s)
	var fetch []string
	if o.Others > 0 {
		s.Other, fetch = &Cluster{stack: s}, []string{"MM2=1"}
	}
	if _, err := s.runWith(fetch, "fetch.sh"); err != nil {
		return s, err
	}
	kafka := make(chan error, 2)
	go func() {
		var err error
		if s.Kafka, err = s.launch(nil, "kafka.sh", o.Brokers); err != nil {
			err = fmt.Errorf("start Kafka: %w", err)
		}
		kafka <- err
	}()
	go func() {
		var err error
		if s.Other != nil {
			if s.Other.Kafka, err = s.launch(otherCluster, "kafka.sh", o.Others); err != nil {
				err = fmt.Errorf("start the other Kafka: %w", err)
			}
		}
		kafka <- err
	}()
	s.Cassandra, err = s.launch(nil, "cassandra.sh", o.Nodes)
	if err != nil {
		err = fmt.Errorf("start Cassandra: %w", err)
	}
	err = errors.Join(<-kafka, <-kafka, err)
	if o.TLS {
		s.CA = filepath.Join(s.home, "run", "ca.pem")
	}
	return s, err
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return ""
}

// scriptsFolder is this package's, wherever in the repository the test runs.
func scriptsFolder() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return filepath.Join(dir, "scripts", "devstack"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			err = errors.New("devstack: no go.mod above the working directory")
		}
		dir = up
	}
	return "", err
}

// take takes the first free number of a stack. The lock ends with this process, whatever becomes of the servers.
func (s *Stack) take(cache string) (int, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return 0, err
	}
	for net := 1; net <= maxStacks; net++ {
		f, err := os.OpenFile(filepath.Join(cache, fmt.Sprintf("net-%d.lock", net)), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return 0, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			s.lock = f
			return net, nil
		}
		f.Close()
	}
	return 0, fmt.Errorf("devstack: %d stacks run already", maxStacks)
}

// claim writes the stack's folder into the lock, and wipes the one of the test that held it last: it may have been killed
// and have left its servers behind.
func (s *Stack) claim(home string) error {
	before, err := io.ReadAll(s.lock)
	if err != nil {
		return err
	}
	if len(before) > 0 {
		last := Stack{scripts: s.scripts, home: string(before), env: append(os.Environ(), "DEVSTACK_HOME="+string(before))}
		if err := last.wipe(); err != nil {
			return err
		}
	}
	s.home = home
	if err := s.lock.Truncate(0); err != nil {
		return err
	}
	_, err = s.lock.WriteAt([]byte(home), 0)
	return err
}

// otherCluster has kafka.sh speak of the second cluster.
var otherCluster = []string{"KAFKA_CLUSTER=dc2"}

func (s *Stack) run(script string, args ...string) (string, error) {
	return s.runWith(nil, script, args...)
}

func (s *Stack) runWith(env []string, script string, args ...string) (string, error) {
	cmd := exec.Command("bash", append([]string{filepath.Join(s.scripts, script)}, args...)...)
	cmd.Env = slices.Concat(s.env, env)
	var out, log strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", script, strings.Join(args, " "), err, out.String(), log.String())
	}
	return out.String(), nil
}

func (s *Stack) launch(env []string, script string, n int) ([]string, error) {
	if n == 0 {
		return nil, nil
	}
	if _, err := s.runWith(env, script, "start", strconv.Itoa(n)); err != nil {
		return nil, err
	}
	out, err := s.runWith(env, script, "addresses")
	return strings.Split(strings.TrimSpace(out), ","), err
}

// The methods below act on broker or node i, counted from 1. A restart returns when the server takes part again.

// KillKafka kills a broker with -9.
func (s *Stack) KillKafka(i int) error { return s.server("kafka.sh", "kill", i) }

// StopKafka stops a broker in order.
func (s *Stack) StopKafka(i int) error { return s.server("kafka.sh", "stop", i) }

// RestartKafka starts a broker that was killed or stopped, or stops it first.
func (s *Stack) RestartKafka(i int) error { return s.server("kafka.sh", "restart", i) }

// PauseKafka stops a broker's process where it is, ContinueKafka has it go on.
func (s *Stack) PauseKafka(i int) error    { return s.server("kafka.sh", "pause", i) }
func (s *Stack) ContinueKafka(i int) error { return s.server("kafka.sh", "continue", i) }

// Kill kills a broker of the cluster with -9, Restart starts it again.
func (c *Cluster) Kill(i int) error    { return c.broker("kill", i) }
func (c *Cluster) Restart(i int) error { return c.broker("restart", i) }

func (c *Cluster) broker(what string, i int) error {
	_, err := c.stack.runWith(otherCluster, "kafka.sh", what, strconv.Itoa(i))
	return err
}

// Mirror starts MirrorMaker 2 with the text of a properties file, under a name. It does not wait: it mirrors some ten
// seconds later, more on a busy machine. KillMirror kills it with -9.
func (s *Stack) Mirror(name, properties string) error {
	file := filepath.Join(s.home, "run", "mirror-"+name+".properties")
	if err := os.WriteFile(file, []byte(properties), 0o644); err != nil {
		return err
	}
	_, err := s.run("kafka.sh", "mirror", "start", name, file)
	return err
}

func (s *Stack) KillMirror(name string) error {
	_, err := s.run("kafka.sh", "mirror", "kill", name)
	return err
}

// KillCassandra kills a node with -9.
func (s *Stack) KillCassandra(i int) error { return s.server("cassandra.sh", "kill", i) }

// StopCassandra stops a node in order.
func (s *Stack) StopCassandra(i int) error { return s.server("cassandra.sh", "stop", i) }

// RestartCassandra starts a node that was killed or stopped, or stops it first.
func (s *Stack) RestartCassandra(i int) error { return s.server("cassandra.sh", "restart", i) }

// PauseCassandra stops a node's process where it is, ContinueCassandra has it go on.
func (s *Stack) PauseCassandra(i int) error    { return s.server("cassandra.sh", "pause", i) }
func (s *Stack) ContinueCassandra(i int) error { return s.server("cassandra.sh", "continue", i) }

// Nodetool runs nodetool on a node and gives its output.
func (s *Stack) Nodetool(i int, args ...string) (string, error) {
	return s.run("cassandra.sh", append([]string{"nodetool", strconv.Itoa(i)}, args...)...)
}

func (s *Stack) server(script, what string, i int) error {
	_, err := s.run(script, what, strconv.Itoa(i))
	return err
}

// Logs is the last lines of each server's output.
func (s *Stack) Logs() string {
	const lines = 30
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.home, "run", "*", "out.log"))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		last := strings.Split(strings.TrimSpace(string(data)), "\n")
		last = last[max(0, len(last)-lines):]
		fmt.Fprintf(&all, "%s, the last %d lines:\n%s\n", name, len(last), strings.Join(last, "\n"))
	}
	return all.String()
}

func (s *Stack) wipe() error {
	_, kafka := s.run("kafka.sh", "wipe")
	_, other := s.runWith(otherCluster, "kafka.sh", "wipe") // nothing, if there is none
	_, cassandra := s.run("cassandra.sh", "wipe")
	if err := errors.Join(kafka, other, cassandra); err != nil {
		return err
	}
	return os.RemoveAll(s.home)
}

// running are the stacks of this process.
var running stacks

type stacks struct {
	sync.Mutex
	all    []*Stack
	listen sync.Once
}

// add adds a stack. When the process is told to end, as scripts/test does with all that runs once a step has failed, the servers of
// all of them stop; what is left of them, the next stack of the number stops.
func (r *stacks) add(s *Stack) {
	r.Lock()
	defer r.Unlock()
	r.all = append(r.all, s)
	r.listen.Do(func() {
		told := make(chan os.Signal, 1)
		signal.Notify(told, os.Interrupt, syscall.SIGTERM)
		go func() {
			<-told
			r.Lock() // to the end: none begins or ends any more
			for _, s := range r.all {
				_ = s.wipe()
			}
			os.Exit(1)
		}()
	})
}

func (r *stacks) remove(s *Stack) {
	r.Lock()
	defer r.Unlock()
	r.all = slices.DeleteFunc(r.all, func(x *Stack) bool { return x == s })
}

func (s *Stack) close() error {
	running.remove(s)
	return errors.Join(s.wipe(), s.lock.Close())
}
