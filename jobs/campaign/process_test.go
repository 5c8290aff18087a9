package campaign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tandem/scripts/devstack"
)

// process is a service that is kept running: like an init system, it starts the service again when it has ended, unless
// it was told to leave. An end that nobody asked for is a fault of the test.
type process struct {
	t    testing.TB
	name string
	bin  string
	args []string
	addr string // of its health endpoint
	log  string

	mu     sync.Mutex // cmd, wanted, killed
	cmd    *exec.Cmd
	wanted bool // it is to run
	killed bool // its end was ours
	starts int
	ended  sync.WaitGroup
}

// startProcess starts a service under its name, which is its static member id as well.
func startProcess(t testing.TB, bin, logs, name string, args ...string) *process {
	t.Helper()
	return startListener(t, bin, logs, name, append(args, "--id", name)...)
}

// startListener starts what listens at an address, which is no member of a group.
func startListener(t testing.TB, bin, logs, name string, args ...string) *process {
	t.Helper()
	addr := devstack.Address(t)
	p := &process{t: t, name: name, bin: bin, addr: addr, log: filepath.Join(logs, name+".log"), args: append(args, "--listen", addr)}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts it; it must not be running.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.startLocked()
}

func (p *process) startLocked() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	p.starts++
	fmt.Fprintf(out, "---- start %d at %s: %s\n", p.starts, time.Now().UTC().Format(time.RFC3339Nano), strings.Join(p.args, " "))
	cmd := exec.Command(p.bin, p.args...)
	// It ends with the test, however that ends: its servers' addresses and its id will be another's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.cmd, p.wanted, p.killed = cmd, true, false
	p.ended.Add(1)
	go p.watch(cmd)
	return nil
}

// watch waits for the end of one run.
func (p *process) watch(cmd *exec.Cmd) {
	defer p.ended.Done()
	err := cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed || !p.wanted {
		return
	}
	p.t.Errorf("%s ended by itself (%v); the end of its log:\n%s", p.name, err, tail(p.log, 2000))
	time.Sleep(time.Second)
	if err := p.startLocked(); err != nil {
		p.t.Error(err)
	}
}

// signal sends a signal to the run that there is; under the lock.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("%s: signal %s: %v", p.name, s, err)
	}
}

// kill ends it with -9 and returns when it is gone; start begins another run.
func (p *process) kill() {
	p.mu.Lock()
	p.killed = true
	p.signal(syscall.SIGKILL)
	p.mu.Unlock()
	p.ended.Wait()
}

// freeze stops it where it is, thaw lets it go on.
func (p *process) freeze() { p.send(syscall.SIGSTOP) }
func (p *process) thaw()   { p.send(syscall.SIGCONT) }

func (p *process) send(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signal(s)
}

// leave asks it to end. A clean stop is over within the limit, with exit code 0. It waits some
// seconds for an answer: a signal that comes before a program listens for it ends the program, with nothing done yet.
func (p *process) leave(limit time.Duration) {
	p.t.Helper()
	for range 100 {
		if _, _, err := p.get("/healthz"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.mu.Lock()
	p.wanted = false
	cmd := p.cmd
	p.signal(syscall.SIGTERM)
	p.mu.Unlock()
	timer := time.AfterFunc(limit, func() {
		p.t.Errorf("%s: not ended %s after SIGTERM", p.name, limit)
		_ = cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to its log
		time.Sleep(time.Second)
		_ = cmd.Process.Kill()
	})
	p.ended.Wait()
	timer.Stop()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("%s: exit code %d after SIGTERM; the end of its log:\n%s", p.name, code, tail(p.log, 2000))
	}
}

// exit waits for an end by itself and returns its code.
func (p *process) exit(limit time.Duration) int {
	p.t.Helper()
	p.mu.Lock()
	p.wanted = false
	cmd := p.cmd
	p.mu.Unlock()
	timer := time.AfterFunc(limit, func() {
		p.t.Errorf("%s: still running after %s", p.name, limit)
		_ = cmd.Process.Kill()
	})
	defer timer.Stop()
	p.ended.Wait()
	return cmd.ProcessState.ExitCode()
}

// discard ends it at the end of a test, whatever it does.
func (p *process) discard() {
	p.mu.Lock()
	p.killed = true
	_ = p.cmd.Process.Kill() // it may have ended
	p.mu.Unlock()
	p.ended.Wait()
}

// dump ends it with its goroutines in its log.
func (p *process) dump(limit time.Duration) {
	p.mu.Lock()
	p.killed = true
	cmd := p.cmd
	_ = cmd.Process.Signal(syscall.SIGQUIT) // it may have ended
	p.mu.Unlock()
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	p.ended.Wait()
	timer.Stop()
}

// running says whether it is meant to run.
func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted && !p.killed
}

// get fetches a path of the health endpoint.
func (p *process) get(path string) (status int, body string, err error) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://" + p.addr + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, string(data), err
}

// ready waits until it is ready.
func (p *process) ready(limit time.Duration) {
	p.t.Helper()
	await(p.t, limit, p.name+" ready", func() (bool, string) {
		status, body, err := p.get("/readyz")
		return err == nil && status == http.StatusOK, fmt.Sprintf("%d %s %v", status, body, err)
	})
}

// kilobytes reads a field of /proc/PID/status, in bytes.
func kilobytes(status, field string) int64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}

// metric is a metric's sum over all its label sets that have the given text in them, and how many these are. A process
// that does not answer is an error.
func (p *process) metric(name, labels string) (sum float64, n int, err error) {
	status, body, err := p.get("/metrics")
	if err != nil || status != http.StatusOK {
		return 0, 0, fmt.Errorf("%s: /metrics: status %d, %v", p.name, status, err)
	}
	sum, n = sumMetric(body, name, labels)
	return sum, n, nil
}

// sumMetric adds up a metric of Prometheus' text format; n is the number of its lines.
func sumMetric(body, name, labels string) (sum float64, n int) {
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' || !strings.Contains(rest, labels) {
			continue
		}
		at := strings.LastIndexByte(rest, ' ')
		v, err := strconv.ParseFloat(rest[at+1:], 64)
		if err != nil {
			continue
		}
		sum += v
		n++
	}
	return sum, n
}

// tail returns the end of a file.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > n {
		data = data[len(data)-n:]
		data = data[bytes.IndexByte(data, '\n')+1:]
	}
	return string(data)
}

func TestSumMetric(t *testing.T) {
	body := "# TYPE a_total counter\na_total{outcome=\"late.clock\",p=\"0\"} 2\na_total{outcome=\"late.clock\",p=\"1\"} 3\na_total{outcome=\"late\"} 7\n" +
		"a_total_more 100\nb 1e3\n"
	for _, c := range []struct {
		name, labels string
		sum          float64
		n            int
	}{{"a_total", `outcome="late.clock"`, 5, 2}, {"a_total", `outcome="late"`, 7, 1}, {"b", "", 1000, 1}, {"c", "", 0, 0}} {
		if sum, n := sumMetric(body, c.name, c.labels); sum != c.sum || n != c.n {
			t.Errorf("%s %s: %v of %d lines, want %v of %d", c.name, c.labels, sum, n, c.sum, c.n)
		}
	}
}

func TestAProcessThatEndsByItselfIsAFault(t *testing.T) {
	quiet := &recorder{TB: t}
	p := startProcess(quiet, "/bin/sh", t.TempDir(), "p", "-c", "exit 3")
	await(t, 10*time.Second, "the fault is told", func() (bool, string) { return quiet.failed() > 0, "" })
	p.discard()
}

// recorder counts errors in place of failing.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) failed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.errors)
}
