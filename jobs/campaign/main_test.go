// Package campaign is the test campaign of the stream on a real Kafka and a real Cassandra: the binary's own processes
// are killed, stopped, cut off and doubled while a poller watches every row, and in the end every row must be, to the
// byte, what the embedded replay of the same records gives. It is tests only.
//
//	TANDEM_SERVERS=1 go test ./jobs/campaign                         the short form: some 5 minutes on 2 busy cores
//	TANDEM_SERVERS=1 go test ./jobs/campaign -long -timeout 3h       all of it
//	... -run TestFaults -seed 17                                     the same faults, at the same moments, again
//
// It needs a JDK and Maven for the servers (scripts/devstack); without them its tests are skipped, or fail where
// TANDEM_NEED_SERVERS is 1. What a failed test leaves (the logs of all processes, the site file) is copied to a folder
// that the test prints.
package campaign

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tandem/scripts/devstack"
)

var (
	long = flag.Bool("long", false, "run the long tests too")
	seed = flag.Uint64("seed", 0, "seed of the faults' moments; 0: a new one, which is logged")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "2"); err != nil { // each has servers of its own: see alongside
		panic(err)
	}
	code := m.Run()
	if dir := work(); dir != "" {
		_ = os.RemoveAll(dir) // a leftover in the temporary folder harms nobody
	}
	os.Exit(code)
}

// work is the folder of this run: the binary and the traffic. Deleted at the end.
var work = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "tandem-campaign-")
	if err != nil {
		return ""
	}
	return dir
})

// needWork is work, or the test's end.
func needWork(t testing.TB) string {
	t.Helper()
	if work() == "" {
		t.Fatal("no temporary folder can be made")
	}
	return work()
}

// root is the repository's folder.
var root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod in or above %s", dir)
		}
	}
})

func repository(t testing.TB) string {
	t.Helper()
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// build compiles a command once, in its module's folder.
type build struct {
	once sync.Once
	path string
	err  error
}

var tandemBinary, benchBinary build

func (b *build) of(t testing.TB, name, folder, pkg string) string {
	t.Helper()
	b.once.Do(func() {
		b.path = filepath.Join(needWork(t), name)
		cmd := exec.Command("go", "build", "-o", b.path, pkg)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// tandem is the path of the binary.
func tandem(t testing.TB) string { return tandemBinary.of(t, "tandem", repository(t), "./jobs") }

// random is the source of a test's random moments.
func random(t testing.TB) *rand.Rand {
	n := *seed
	if n == 0 {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("faults: -seed %d", n)
	return rand.New(rand.NewPCG(n, 1))
}

// needLong skips what only the long campaign does.
func needLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("only with -long")
	}
}

// alongside starts a test that both forms have: it needs servers, and in the short form two of them run at once, each on servers
// of its own: one computes while the other waits. It is not for what looks at the clock, as in the long form all may.
func alongside(t *testing.T) {
	t.Helper()
	devstack.Need(t)
	if !*long {
		t.Parallel()
	}
}

// await waits until ok, asking every 50 ms to 1 s, and ends the test with what ok says is missing after the limit.
func await(t testing.TB, limit time.Duration, what string, ok func() (done bool, state string)) {
	t.Helper()
	end := time.Now().Add(limit)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		done, state := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s; %s", what, limit, state)
		}
		time.Sleep(pause)
	}
}
