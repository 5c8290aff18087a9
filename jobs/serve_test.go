package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/netutil"

	"tandem/jobs/serve"
	"tandem/jobs/serve/read"
	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
	"tandem/scripts/devstack"
	"tandem/stream/failover"
)

// hostileServer serves a tenant to two connections at once, each request for a short time, and one request of the tenant at a time;
// GET /shop/endless is longer than any buffer.
func hostileServer(t *testing.T) (address string) {
	return hostileServerOn(t, func(l net.Listener) net.Listener { return l })
}

func hostileServerOn(t *testing.T, wrap func(net.Listener) net.Listener) (address string) {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return serverOver(t, st, wrap)
}

func serverOver(t *testing.T, st store.Store, wrap func(net.Listener) net.Listener) (address string) {
	t.Helper()
	chain, err := shopChain()
	if err != nil {
		t.Fatal(err)
	}
	h := serve.NewHandler(serve.Config{Log: slog.New(slog.DiscardHandler), Now: time.Now, Reader: read.New(st, read.Options{Limits: read.DefaultLimits(), Now: time.Now}),
		Limits:  serve.Limits{Concurrent: 1, Working: 1, PerSecond: 1e6, Burst: 1e6, Body: 1 << 20},
		Tenant:  func(string) *serve.Tenant { return &serve.Tenant{Chain: chain, Formulas: serve.AnyFormulas(chain)} },
		Tenants: func() []string { return []string{"shop"} },
		Pages: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 1 << 10 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveHTTP(ctx, wrap(netutil.LimitListener(l, 2)), h, patience{header: 300 * time.Millisecond, body: 600 * time.Millisecond, answer: 900 * time.Millisecond, work: 500 * time.Millisecond})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// silentStore answers nothing before the caller gives up, as a Cassandra that is away does.
type silentStore struct{ store.Store }

func (silentStore) Active(ctx context.Context, _ string) (store.Active, bool, error) {
	<-ctx.Done()
	return store.Active{}, false, fmt.Errorf("active layer: %w", ctx.Err())
}

// A request to a store that is away is answered, and soon.
func TestAStoreThatIsAway(t *testing.T) {
	address := serverOver(t, silentStore{}, func(l net.Listener) net.Listener { return l })
	began := time.Now()
	r, err := http.Post("http://"+address+"/shop", "application/json", strings.NewReader(`{"formulas":[{"id":"visits"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") != "10" || !strings.Contains(string(body), "the store does not answer in time") {
		t.Errorf("%s, %s, %v", r.Status, body, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// turnPast is a time after which a slow client of a hostileServer holds nothing any more.
const turnPast = 2 * time.Second

// untilSeen attempts what shows a slow client in the way of others, again where it was not: it may have been refused itself, since one
// of the others was just being answered, or have been cut off before any of them came.
func untilSeen(t *testing.T, attempt func() (missed bool)) {
	t.Helper()
	for range 5 {
		if !attempt() {
			return
		}
	}
	t.Error("a slow client was never seen in the way of others")
}

// askVisits asks a hostile server for the visits of a shop, and returns with what status it is answered: 0 if the connection was cut off,
// as that of a client is that the machine holds up for longer than the server's patience.
func askVisits(t *testing.T, client *http.Client, server string) (status int, header http.Header) {
	t.Helper()
	res, err := client.Post(server+"/shop", "application/json", strings.NewReader(`{"formulas":[{"id":"visits"}]}`))
	switch {
	case err == nil:
		res.Body.Close()
		return res.StatusCode, res.Header
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.HasSuffix(err.Error(), "server closed idle connection"):
		return 0, nil
	}
	t.Fatal(err)
	return 0, nil
}

// A client that trickles its header, or its body, or never reads what it is answered, is cut off: its connection is closed, and what it
// was in the way of, a connection and the tenant's turn, is there for others again.
func TestSlowClients(t *testing.T) {
	const header = "POST /shop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
	for _, c := range []struct {
		name, first string
		trickle     string
		read        bool // what is answered
		held        bool // the tenant's only turn is taken meanwhile
	}{
		{"header", header, "X-A: b\r\n", true, false},
		{"body", header + "\r\n{", " ", true, true},
		{"answer", "GET /shop/endless HTTP/1.1\r\nHost: x\r\n\r\n", "", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address := hostileServer(t)
			untilSeen(t, func() (missed bool) {
				slow, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer slow.Close()
				at := time.Now()
				if c.name == "header" { // and a second one: no connection is left for anybody
					other, err := net.Dial("tcp", address)
					if err != nil {
						t.Fatal(err)
					}
					defer other.Close()
				}
				if _, err := io.WriteString(slow, c.first); err != nil {
					t.Fatal(err)
				}
				ended := make(chan string, 1)
				if c.read {
					go func() {
						data, _ := io.ReadAll(bufio.NewReader(slow)) // until the server closes it
						ended <- string(data)
					}()
				}
				refused, answered := false, false
				for time.Since(at) < 10*time.Second && !answered {
					if c.held && !refused && time.Since(at) > turnPast {
						return true
					}
					if c.trickle != "" {
						io.WriteString(slow, c.trickle) // an error is that it is cut off
					}
					switch status, header := askVisits(t, http.DefaultClient, "http://"+address); status {
					case http.StatusTooManyRequests:
						refused = true
						if header.Get("Retry-After") != "1" {
							t.Errorf("Retry-After %q", header.Get("Retry-After"))
						}
					case http.StatusOK:
						answered = !c.held || refused
					case 0:
					default:
						t.Fatal(status)
					}
					time.Sleep(20 * time.Millisecond)
				}
				if !answered || refused != c.held {
					t.Errorf("refused %v, then answered %v", refused, answered)
				}
				if !c.read {
					return false
				}
				select {
				case said := <-ended:
					if c.name == "body" && !strings.HasPrefix(said, "HTTP/1.1 408 ") {
						t.Errorf("it was told %q", said)
					}
				case <-time.After(5 * time.Second):
					t.Error("its connection is not closed")
				}
				return false
			})
		})
	}
}

// An HTTP/2 client that opens no window for what it is answered is cut off too.
func TestSlowHTTP2(t *testing.T) {
	devstack.AtLength(t)
	t.Parallel()
	made := httptest.NewUnstartedServer(nil) // for its certificate
	made.StartTLS()
	defer made.Close()
	address := hostileServerOn(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: made.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}})
	})
	trust := &tls.Config{RootCAs: made.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", NextProtos: []string{"h2"}}
	plain := trust.Clone()
	plain.NextProtos = nil
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: plain}}
	defer client.CloseIdleConnections()
	untilSeen(t, func() (missed bool) {
		slow, err := tls.Dial("tcp", address, trust)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		var header bytes.Buffer
		fields := hpack.NewEncoder(&header)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/shop/endless"}} {
			if err := fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				t.Fatal(err)
			}
		}
		f := http2.NewFramer(slow, slow)
		if _, err := io.WriteString(slow, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header.Bytes(), EndHeaders: true, EndStream: true})); err != nil {
			t.Fatal(err)
		}
		refused := false
		for at := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			if !refused && time.Since(at) > turnPast {
				return true
			}
			if time.Since(at) > 10*time.Second {
				t.Fatalf("refused %v, and nothing is answered after it", refused)
			}
			switch status, _ := askVisits(t, client, "https://"+address); status {
			case http.StatusTooManyRequests:
				refused = true
			case http.StatusOK:
				if refused {
					return false
				}
			case 0:
			default:
				t.Fatal(status)
			}
		}
	})
}

// runningServer runs serve over a site in a folder, whose files are read again every 20 ms.
type runningServer struct {
	dir, url string
	log      syncBuffer
	tokens   map[string]string
}

func (s *runningServer) write(t *testing.T, name, text string) {
	t.Helper()
	// As editors do: a file is there whole or not at all.
	next := filepath.Join(s.dir, "next")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(s.dir, name)); err != nil {
		t.Fatal(err)
	}
}

const servedSiteText = `dc: dc1
kafka: {brokers: ["127.0.0.1:1"], replication: 1}
raw: [{topic: raw, kind: live, partitions: 1}]
tenants: [%s]
metrics: {topic: metrics, partitions: 1}
blobs: blobs
store: {pebble: store}
`

const servedShop = "{config: shop.yaml, partitions: 1, formulas: shop.formulas.yaml}"

const servedConfig = `# Nobody but the operator writes this.
tenant: shop
points:
    order: {}   # with a comment
experiments:
  x: {variations: [control, red]}
`

const servedFormulas = "version: 1\ntenant: shop\nformulas:\n  orders: {title: Orders, expr: order}\n"

// startServer writes the files and starts; before, if not nil, is given the store that is served.
func startServer(t *testing.T, before func(store.Store)) *runningServer {
	t.Helper()
	s := &runningServer{dir: t.TempDir(), tokens: map[string]string{}}
	s.write(t, "site.yaml", fmt.Sprintf(servedSiteText, servedShop))
	s.write(t, "shop.yaml", servedConfig)
	s.write(t, "shop.formulas.yaml", servedFormulas)
	file := "tokens:\n"
	for name, role := range map[string]string{"reader": serve.RoleRead, "admin": serve.RoleAdmin} {
		token, entry, err := serve.NewToken(name, []string{"*"}, role, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[name], file = token, file+entry
	}
	s.write(t, "tokens.yaml", file)
	if before != nil {
		st, err := pebblestore.Open(filepath.Join(s.dir, "store"), pebblestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		before(st)
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(s.dir, name) }
	o := &serveOptions{site: at("site.yaml"), listen: "127.0.0.1:0", tokens: at("tokens.yaml"), audit: at("audit.log"), look: 20 * time.Millisecond}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.run(ctx, slog.New(slog.NewTextHandler(&s.log, nil))) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	s.await(t, "it serves", func() bool {
		_, rest, ok := strings.Cut(s.log.String(), "url=")
		s.url, _, _ = strings.Cut(rest, " ")
		return ok
	})
	return s
}

func (s *runningServer) await(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !fn(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not within 20 s: %s\n%s", what, s.log.String())
		}
	}
}

// ask sends a request with a token, GET where there is no body.
func (s *runningServer) ask(t *testing.T, token, path, body string) (status int, answer string) {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.tokens[token])
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// A new formula answers and is a chart once its file is there; a broken file changes nothing but is told; a config is shown as it was
// written; a tenant that the site file names from now on is served.
func TestServeFollowsFiles(t *testing.T) {
	s := startServer(t, nil)
	has := func(path, body, what string) func() bool {
		return func() bool {
			_, answer := s.ask(t, "reader", path, body)
			return strings.Contains(answer, what)
		}
	}
	const page = "page/experiment/x"
	asks := `{"formulas":[{"id":"%s"}],"step":"all"}`
	if !has("shop", fmt.Sprintf(asks, "twice"), `no formula`)() || !has("shop", fmt.Sprintf(asks, "orders"), `"title":"Orders"`)() {
		t.Error("it does not begin with what the files say")
	}
	quoted, err := json.Marshal(servedConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, answer := s.ask(t, "reader", "shop/"+page, ""); !strings.Contains(answer, string(quoted)) {
		t.Errorf("the page does not show the config as it was written: %s", answer)
	}
	s.write(t, "shop.formulas.yaml", servedFormulas+"  twice: {title: Twice, expr: orders * 2, unit: currency, description: For a test.}\n")
	s.await(t, "the new formula answers", has("shop", fmt.Sprintf(asks, "twice"), `"title":"Twice"`))
	for path, what := range map[string]string{"shop/" + page: `"twice":[{`} {
		if !has(path, "", what)() {
			_, answer := s.ask(t, "reader", path, "")
			t.Errorf("%s has no %s: %s", path, what, answer)
		}
	}
	if !has("metrics", "", `tandem_serve_formulas_stale{tenant="shop"} 0`)() {
		t.Error("the metric of stale formulas")
	}
	s.write(t, "shop.formulas.yaml", "version: 1\ntenant: shop\nformulas:\n  broken: {title: Broken, expr: (}\n")
	s.await(t, "the trouble is in the log", func() bool {
		return strings.Contains(s.log.String(), "formulas cannot be read") && strings.Contains(s.log.String(), "shop.formulas.yaml:4")
	})
	if !has("shop", fmt.Sprintf(asks, "twice"), `"title":"Twice"`)() || !has("shop/page/experiments", "", "shop.formulas.yaml:4")() ||
		!has("metrics", "", `tandem_serve_formulas_stale{tenant="shop"} 1`)() || !has("readyz", "", "ready")() {
		t.Error("a broken file is not told, or what was there before does not answer any more")
	}
	s.write(t, "shop.formulas.yaml", servedFormulas)
	s.await(t, "it can be read again", has("metrics", "", `tandem_serve_formulas_stale{tenant="shop"} 0`))
	if n := strings.Count(s.log.String(), "formulas cannot be read"); n != 1 {
		t.Errorf("the trouble was told %d times", n)
	}

	s.write(t, "shop.yaml", servedConfig+"  y: {variations: [control, blue]} # new\n")
	s.await(t, "the config's new text is shown", has("shop/page/experiment/y", "", `[control, blue]} # new`))
	s.write(t, "site.yaml", "dc: [")
	s.await(t, "the site's trouble is in the log", func() bool { return strings.Contains(s.log.String(), "site.yaml:1") })
	s.write(t, "outlet.yaml", "tenant: outlet\n")
	s.write(t, "site.yaml", fmt.Sprintf(servedSiteText, servedShop+", {config: outlet.yaml, partitions: 1}"))
	s.await(t, "the new tenant is served", func() bool {
		status, _ := s.ask(t, "reader", "outlet/page/experiments", "")
		return status == http.StatusOK
	})
	if !has("outlet/page/operations", "", `"coverage"`)() {
		t.Error("the new tenant has no operations")
	}
}

// Promoting a layer from the page: who may, does it, and the audit log has it before it is done.
func TestServePromotes(t *testing.T) {
	devstack.AtLength(t)
	s := startServer(t, func(st store.Store) {
		ctx, minute := t.Context(), time.Now().Unix()/60
		for _, layer := range []string{"stream.dc1", "stream.dc2"} {
			if err := st.PutProgress(ctx, store.Progress{Layer: layer, Tenant: "shop", ClosedBefore: minute}); err != nil {
				t.Fatal(err)
			}
		}
		// Stage 2 of dc1 has answered a later question already, that of dc3 is far behind.
		for _, p := range []store.Progress{{Layer: failover.Written("stream.dc1"), Version: time.Now().Add(time.Hour).UnixMilli()}, {Layer: "stream.dc3", ClosedBefore: minute - 60}} {
			p.Tenant = "shop"
			if err := st.PutProgress(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.PutActive(ctx, store.Active{Tenant: "shop", Layer: "stream.dc2", Seq: 1}); err != nil {
			t.Fatal(err)
		}
	})
	audit := func() string {
		data, err := os.ReadFile(filepath.Join(s.dir, "audit.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	active := func() string {
		_, answer := s.ask(t, "reader", "shop/page/operations", "")
		var o struct {
			Layers []struct {
				Name   string
				Active bool
			}
		}
		if err := json.Unmarshal([]byte(answer), &o); err != nil {
			t.Fatal(err)
		}
		for _, l := range o.Layers {
			if l.Active {
				return l.Name
			}
		}
		return ""
	}
	const body = `{"layer":"stream.dc1"}`
	if status, _ := s.ask(t, "reader", "shop/page/promote", body); status != http.StatusForbidden || audit() != "" {
		t.Errorf("with a token to read: %d, log %q", status, audit())
	}
	if status, _ := s.ask(t, "admin", "nobody/page/promote", body); status != http.StatusNotFound || audit() != "" {
		t.Errorf("of a tenant that is none: %d, log %q", status, audit())
	}
	if status, answer := s.ask(t, "admin", "shop/page/promote", `{"layer":"batch.1"}`); status != http.StatusBadRequest {
		t.Errorf("of what is no stream: %d %s", status, answer)
	}
	if status, answer := s.ask(t, "admin", "shop/page/promote", `{"layer":"stream.dc3"}`); status != http.StatusBadRequest || !strings.Contains(answer, "minutes more") ||
		strings.Count(audit(), `"stream.dc3"`) != 2 || !strings.Contains(audit(), "minutes more") || active() != "stream.dc2" {
		t.Errorf("of a layer that is behind: %d %s, log %s", status, answer, audit())
	}
	before := audit()
	if status, answer := s.ask(t, "admin", "shop/page/promote", body); status != http.StatusOK {
		t.Errorf("%d %s", status, answer)
	}
	s.await(t, "readers see it", func() bool { return active() == "stream.dc1" })
	line, _ := strings.CutPrefix(audit(), before)
	var act serve.Act
	if err := json.Unmarshal([]byte(line), &act); err != nil || act.Who != "admin" || act.Act != "promote" || act.Detail != "stream.dc1" || act.Tenant != "shop" ||
		!strings.HasPrefix(act.From, "127.0.0.1:") {
		t.Errorf("the log's line %q, %v", line, err)
	}
}
